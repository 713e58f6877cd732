"""What a batch showed, as rates and shares: the same numbers for ten commands and for ten million."""

from __future__ import annotations

import math
import os
import statistics as st
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from procbench.analysis.observed_machine import OF_MONITOR, seen_by_monitor
from procbench.cpu.placement import cpu_numbers
from procbench.cpu.topology import CpuTopology, allowed_cpus, read_topology, usable_workers
from procbench.errors import InvalidInputError
from procbench.io.fd_limit import soft_limit
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import TaskResult
from procbench.scheduling.totals import SchedulerStatistics

if TYPE_CHECKING:
    import pandas as pd

_SECOND_NS: Final = 1_000_000_000

LONGEST_START_S: Final = 0.005
"""What a start takes at most: a command that ran longer did something else too. Python with its imports is work, not start."""

_FDS_OF_A_WORKER: Final = 2
_FDS_OF_A_CAPTURE: Final = 6  # both ends of two pipes, a pidfd, and one to spare


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a batch of commands showed under some settings. What is not known is NaN, and ``unknown`` says why.

    Attributes:
        tasks: Commands that ran.
        workers: Workers of the settings.
        cpus: CPUs that commands could keep busy.
        cpus_allowed: CPUs that the settings' pinning let them use; at most ``cpus``.
        arguments: Arguments that commands were made from; 0 where they came as whole commands.
        makespan_s: Seconds from handing in the first to the end of the last.
        busy_share: Share of the CPUs' time that commands used.
        cpu_share: Share of a command's time in which it had a CPU; of all commands' time together.
        cpu_share_best: The same of the luckiest: all but a tenth of the commands had less. Other load hardly touches it.
        wall_median_s: Seconds that half of the commands took at most.
        wall_p99_s: Seconds that all but one in a hundred took at most.
        longest_share: Share of the makespan that the longest command took.
        longest_begun: Share of the makespan that was over when the longest command began.
        spawn_share: Share of commands' CPU time that starting them can have taken, going by the one with the least.
        idle_share: Share of workers' time between commands, before the tail.
        tail_share: Share of workers' time in which they had run out of work while others had not.
        imbalance: By how much the busiest worker's time exceeds the mean, as a share of the mean.
        queue_wait_share: Median wait before a command began, as a share of the makespan.
        pipe_bytes_per_s: Bytes through pipes, a second of a command's time.
        pipe_bytes_per_task: Bytes through pipes, a command.
        pipe_bytes: Size of the smallest pipe that those went through, as far as it is known.
        peak_memory_bytes: Most memory at a time: the largest sum of the peaks of commands that overlapped. An upper bound, as
            they may have had their peaks one after another.
        memory_share: The same as a share of the machine's memory.
        command_memory_bytes: Median peak of a command.
        involuntary_per_cpu_s: Times a command lost its CPU, a second of CPU time.
        voluntary_per_cpu_s: Times a command gave its CPU up, a second of CPU time.
        major_faults_per_s: Page faults that needed a disk, a second of a command's time.
        failed_share: Share of all tasks that did not succeed.
        spent_share: Share of all tasks that could not be started for want of processes or descriptors.
        survivors_share: Share of commands that left processes behind.
        fd_share: Share of the descriptors that this process may have that workers and pipes need.
        throttled_share: Share of the cgroup's periods in which its quota was used up.
        cpu_pressure: Share of the time in which somebody waited for a CPU.
        memory_pressure: Share of the time in which somebody waited for memory.
        io_pressure: Share of the time in which somebody waited for a disk.
        storage_bytes_per_s: What commands read from and wrote to storage, a second; the page cache's part is not in it.
        swap_bytes: By how much swap in use grew.
        network_bytes_per_s: Bytes from and to other machines, a second.
        processes: Most processes on the machine, zombies included.
        zombie_share: Most of them that were zombies, as a share.
        zombies_added: By how many zombies were more at the end than at the beginning.
        pool_misses_share: Share of the requests for a pooled buffer that found none, of all pools that were watched.
        caches: Last-level caches that the usable CPUs have; 1 where the machine does not say.
        cache_bytes: Size of one of them.
        unknown: Why a number is NaN, by its name.
    """

    tasks: int
    workers: int
    cpus: int
    cpus_allowed: int
    arguments: int = 0
    makespan_s: float = math.nan
    busy_share: float = math.nan
    cpu_share: float = math.nan
    cpu_share_best: float = math.nan
    wall_median_s: float = math.nan
    wall_p99_s: float = math.nan
    longest_share: float = math.nan
    longest_begun: float = math.nan
    spawn_share: float = math.nan
    idle_share: float = math.nan
    tail_share: float = math.nan
    imbalance: float = math.nan
    queue_wait_share: float = math.nan
    pipe_bytes_per_s: float = math.nan
    pipe_bytes_per_task: float = math.nan
    pipe_bytes: float = math.nan
    peak_memory_bytes: float = math.nan
    memory_share: float = math.nan
    command_memory_bytes: float = math.nan
    involuntary_per_cpu_s: float = math.nan
    voluntary_per_cpu_s: float = math.nan
    major_faults_per_s: float = math.nan
    failed_share: float = math.nan
    spent_share: float = math.nan
    survivors_share: float = math.nan
    fd_share: float = math.nan
    throttled_share: float = math.nan
    cpu_pressure: float = math.nan
    memory_pressure: float = math.nan
    io_pressure: float = math.nan
    storage_bytes_per_s: float = math.nan
    swap_bytes: float = math.nan
    network_bytes_per_s: float = math.nan
    processes: float = math.nan
    zombie_share: float = math.nan
    zombies_added: float = math.nan
    pool_misses_share: float = math.nan
    caches: int = 1
    cache_bytes: float = math.nan
    unknown: Mapping[str, str]

    @classmethod
    def of(
        cls,
        results: Iterable[TaskResult],
        settings: RunSettings,
        *,
        cpus: int | None = None,
        memory_bytes: int | None = None,
        statistics: SchedulerStatistics | None = None,
        monitor_frame: pd.DataFrame | Mapping[tuple[str, str], Sequence[float]] | None = None,
        arguments: Sequence[str] | int | None = None,
        topology: CpuTopology | None = None,
    ) -> Self:
        """Put the results of one batch into numbers. Cost: some 10 µs a result.

        Args:
            results: Of the batch, in any order; tasks cancelled while they waited have none.
            settings: How it was run.
            cpus: CPUs that commands can keep busy; None for those of this process.
            memory_bytes: Memory of the machine; None for this one's.
            statistics: What the scheduler said at the end: it has the numbers of workers that no command came to.
            monitor_frame: A monitor's tidy frame of the same time: ``collector``, ``metric``, ``value``, ``time_s``; or its
                ``series``, for which pandas need not be there.
            arguments: What commands were made from by a template, or how many; None where they came as whole commands.
            topology: The machine's CPUs and caches; None for this one's.

        Raises:
            InvalidInputError: Something else than task results, a number below 1, or a frame without these columns.
        """
        every = list(results)
        for one in every:
            if not isinstance(one, TaskResult):
                raise InvalidInputError(f"Observed.of takes task results, such as map() yields, not {one!r:.80}")
        count = len(arguments) if isinstance(arguments, Sequence) else arguments or 0
        cpus = usable_workers() if cpus is None else cpus
        memory_bytes = machine_memory_bytes() if memory_bytes is None else memory_bytes
        if min(cpus, memory_bytes) < 1 or count < 0:
            raise InvalidInputError(
                f"cpus and memory_bytes are at least 1, and arguments are 0 or more; they are {cpus}, {memory_bytes}, {count}"
            )
        ran = [one for one in every if one.error is None]
        workers = settings.worker_count
        numbers: dict[str, float] = {}
        unknown: dict[str, str] = {}
        if ran:
            crew = workers if statistics is None else len(statistics.workers)
            numbers |= _times(ran, crew, cpus) | _pipes(ran, settings)
            numbers |= _memory(ran, memory_bytes, unknown) | _switches(ran)
        else:
            unknown |= dict.fromkeys(_OF_RESULTS, "no command ran")
        numbers |= _endings(every)
        need = workers * (_FDS_OF_A_WORKER + (_FDS_OF_A_CAPTURE if settings.capture else 0))
        numbers["fd_share"] = need / soft_limit()
        numbers |= seen_by_monitor(monitor_frame)
        topology = read_topology() if topology is None else topology
        numbers["cache_bytes"] = float(topology.last_level_cache_bytes or math.nan)
        for name in OF_MONITOR:
            if math.isnan(numbers.get(name, math.nan)):
                unknown[name] = (
                    "no monitor's frame was given" if monitor_frame is None else "the monitor had no such metric"
                )
        for name, number in numbers.items():
            if math.isnan(number):
                unknown.setdefault(name, "there was nothing to reckon it from")
        return cls(
            tasks=len(ran),
            workers=workers,
            cpus=cpus,
            cpus_allowed=min(cpus, cpus_pinned(settings) or cpus),
            caches=last_level_caches(topology),
            arguments=count,
            unknown=unknown,
            **numbers,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is not known is None."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: dict(value)
            if name == "unknown"
            else None
            if isinstance(value, float) and math.isnan(value)
            else value
            for name, value in plain.items()
        }


def machine_memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cpus_pinned(settings: RunSettings) -> int | None:
    """Return how many logical CPUs explicit CPU sets allow together; None where the settings name none."""
    if isinstance(settings.pin, str):
        return None
    used = settings.pin[: settings.worker_count]
    return len(frozenset[int]().union(*(cpu_numbers(cpus) for cpus in used)))


def last_level_caches(topology: CpuTopology) -> int:
    """Return how many last-level caches the CPUs have that this process may use; 1 where that is not known."""
    allowed = allowed_cpus()
    found = topology.caches or ()
    highest = max((cache.level for cache in found), default=0)
    return max(1, len({cache.cpus for cache in found if cache.level == highest and cache.cpus & allowed}))


def most_memory_bytes(results: Iterable[TaskResult]) -> float:
    """Return the largest sum of peaks of commands that overlapped, in bytes.

    NaN where more than half of it comes from peaks that may be this process's own (``peak_memory_is_bound``): those say how
    large the parent was, not the commands.
    """
    steps: list[tuple[int, int, int]] = []
    for one in results:
        known = 0 if one.peak_memory_is_bound else one.peak_memory_bytes
        steps += [(one.started_ns, one.peak_memory_bytes, known), (one.ended_ns, -one.peak_memory_bytes, -known)]
    steps.sort()  # who ends makes room for who begins at the same moment
    totals = accumulate(size for _, size, _ in steps)
    knowns = accumulate(known for _, _, known in steps)
    most, known = max(zip(totals, knowns, strict=True), default=(0, 0))
    return float(most) if most and 2 * known >= most else math.nan


def _times(ran: list[TaskResult], workers: int, cpus: int) -> dict[str, float]:
    """Return what follows from when commands began and ended."""
    begun = min(one.submitted_ns for one in ran)
    ended = max(one.ended_ns for one in ran)
    makespan_s = max(1, ended - begun) / _SECOND_NS
    walls = sorted(max(one.wall_s, 1e-9) for one in ran)
    longest = max(ran, key=lambda one: one.wall_s)
    costs = [_cpu_s(one) for one in ran]
    shares = sorted(cost / max(one.wall_s, 1e-9) for cost, one in zip(costs, ran, strict=True))
    all_wall_s, cpu_s = sum(walls), sum(costs)
    busy_s: dict[int, float] = {}
    until: dict[int, int] = {}
    for one in ran:
        busy_s[one.worker] = busy_s.get(one.worker, 0.0) + one.wall_s
        until[one.worker] = max(until.get(one.worker, 0), one.ended_ns)
    idle_workers = max(0, min(workers, len(ran)) - len(busy_s))  # they could have had a command, and had none
    tail_s = sum(ended - last for last in until.values()) / _SECOND_NS + idle_workers * makespan_s
    used = len(busy_s) + idle_workers
    mean_s = all_wall_s / used
    waits = [max(0.0, one.queue_wait_s) for one in ran]
    return {
        "makespan_s": makespan_s,
        "busy_share": cpu_s / (makespan_s * cpus),
        "cpu_share": min(1.0, cpu_s / all_wall_s),
        "cpu_share_best": min(1.0, shares[int(0.9 * len(shares))]),
        "wall_median_s": st.median(walls),
        "wall_p99_s": walls[min(len(walls) - 1, math.ceil(0.99 * len(walls)) - 1)],
        "longest_share": min(1.0, longest.wall_s / makespan_s),
        "longest_begun": (longest.started_ns - begun) / _SECOND_NS / makespan_s,
        "spawn_share": len(ran) * min(*costs, LONGEST_START_S) / max(cpu_s, 1e-9),
        "idle_share": max(0.0, 1 - (all_wall_s + tail_s) / (used * makespan_s)),
        "tail_share": tail_s / (used * makespan_s),
        "imbalance": max(busy_s.values()) / mean_s - 1,
        "queue_wait_share": min(1.0, st.median(waits) / makespan_s),
    }


def _pipes(ran: list[TaskResult], settings: RunSettings) -> dict[str, float]:
    size = sum(one.stdin_bytes + one.stdout_bytes + one.stderr_bytes for one in ran)
    had = [one.pipe_size_bytes for one in ran if one.pipe_size_bytes]
    return {
        "pipe_bytes_per_s": size / max(sum(one.wall_s for one in ran), 1e-9),
        "pipe_bytes_per_task": size / len(ran),
        "pipe_bytes": float(min(had, default=settings.pipe_size_bytes or 64 * 1024)),
    }


def _memory(ran: list[TaskResult], memory_bytes: int, unknown: dict[str, str]) -> dict[str, float]:
    most = most_memory_bytes(ran)
    known = [one.peak_memory_bytes for one in ran if not one.peak_memory_is_bound]
    if math.isnan(most):
        why = "this process was larger than its commands, and Linux counts its peak in (getrusage(2), ru_maxrss)"
        unknown |= dict.fromkeys(("peak_memory_bytes", "memory_share"), why)
        unknown |= {} if known else {"command_memory_bytes": why}
    return {
        "peak_memory_bytes": most,
        "memory_share": most / memory_bytes,
        "command_memory_bytes": float(st.median(known)) if known else math.nan,
    }


def _switches(ran: list[TaskResult]) -> dict[str, float]:
    cpu_s = max(sum(_cpu_s(one) for one in ran), 1e-9)
    wall_s = max(sum(one.wall_s for one in ran), 1e-9)
    involuntary = sum(one.involuntary_switches for one in ran)
    return {
        "involuntary_per_cpu_s": involuntary / cpu_s,
        "voluntary_per_cpu_s": sum(one.voluntary_switches for one in ran) / cpu_s,
        "major_faults_per_s": sum(one.major_faults for one in ran) / wall_s,
    }


def _endings(every: list[TaskResult]) -> dict[str, float]:
    if not every:
        return {}
    spent = sum(isinstance(one.error, BlockingIOError) for one in every)
    return {
        "failed_share": sum(one.outcome != "succeeded" for one in every) / len(every),
        "spent_share": spent / len(every),
        "survivors_share": sum(bool(one.survivors) for one in every) / len(every),
    }


def _cpu_s(one: TaskResult) -> float:
    return one.cpu_s if math.isfinite(one.cpu_s) else 0.0


_OF_RESULTS: Final = tuple(
    field.name
    for field in fields(Observed)
    if field.type == "float"
    and field.name not in {*OF_MONITOR, "failed_share", "spent_share", "survivors_share", "fd_share", "cache_bytes"}
)


def most_processes(root: Path = Path("/")) -> int | None:
    """Return how many processes the kernel has numbers for (``kernel.pid_max``); None where it does not say."""
    try:
        return int((root / "proc/sys/kernel/pid_max").read_text())
    except (OSError, ValueError):
        return None
