"""How busy each logical CPU was between two readings of the kernel's counters, and how many processes ran on it.

Source: proc_stat(5), proc_pid_stat(5).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from procbench.cpu.cgroups import SYSTEM_ROOT
from procbench.cpu.processes import ProcessId, read_stat
from procbench.errors import ProcessGoneError

_BUSY: Final = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; guest time is in user's already
_IDLE: Final = (3, 4)  # idle and iowait: a CPU that waits for a disk could run something else
_STEAL: Final = 7


class ThreadTime(NamedTuple):
    """What one thread used so far.

    Attributes:
        pid: The process that it belongs to.
        cpu_ticks: CPU time, user and system, clock ticks.
        cpu: The logical CPU that it last ran on.
    """

    pid: int
    cpu_ticks: int
    cpu: int


@dataclass(frozen=True, slots=True)
class LoadReading:
    """The counters at one moment.

    Attributes:
        at_s: When, seconds of the clock that it was read with.
        cpus: For each online logical CPU its ticks, in the order of ``/proc/stat``.
        threads: What each thread that could be read used so far; it is named by its own id, not its process's.
        skipped: Processes and threads that were listed and could not be read, as a rule because they had ended.
    """

    at_s: float
    cpus: Mapping[int, tuple[int, ...]]
    threads: Mapping[ProcessId, ThreadTime]
    skipped: int


@dataclass(frozen=True, slots=True)
class CpuLoad:
    """What happened between two readings.

    Attributes:
        interval_s: Seconds between them.
        per_cpu: Busy share of each logical CPU, 0 to 1; a CPU that was offline at one of them, or whose counters stood
            still because they lay too close together, is left out.
        processes: For each logical CPU, how many processes have a thread that used CPU time meanwhile and last ran there,
            which is none for an idle one. A process whose threads ran on several CPUs counts on each of them.
        steal_share: Share of the CPUs' time that the hypervisor gave to others, 0 to 1; it counts as busy.
        skipped: Processes and threads that were listed at the second reading and could not be read.
    """

    interval_s: float
    per_cpu: Mapping[int, float]
    processes: Mapping[int, int]
    steal_share: float
    skipped: int


def read_load(root: Path = SYSTEM_ROOT, clock: Callable[[], float] = time.monotonic) -> LoadReading:
    """Read the counters of all CPUs and of all threads of the machine that can be seen.

    It opens a file for each thread, so its cost grows with them: some tens of microseconds each.

    Args:
        root: Where ``proc`` is found.
        clock: Tells the time in seconds.

    Raises:
        OSError: There is no ``/proc/stat``, or no descriptor or memory is left.
    """
    at_s = clock()
    cpus = {}
    for line in (root / "proc/stat").read_text().splitlines():
        name, *ticks = line.split() or [""]
        if name.startswith("cpu") and name != "cpu":
            cpus[int(name[3:])] = tuple(map(int, ticks))
    threads: dict[ProcessId, ThreadTime] = {}
    skipped = 0
    for found in _threads(root / "proc"):
        if found is None:
            skipped += 1
        else:
            threads[found[0]] = found[1]
    return LoadReading(at_s, cpus, threads, skipped)


def load_between(before: LoadReading, after: LoadReading) -> CpuLoad:
    """Return the load between two readings; a counter that went backwards counts as standing still.

    A thread that is new at the second reading used all its CPU time in between. One that ended before it is not seen,
    though its time is in the CPU's share. Ticks are a hundredth of a second as a rule, so what ran for less may not show.
    """
    shares: dict[int, float] = {}
    all_ticks = stolen = 0
    for cpu in sorted(before.cpus.keys() & after.cpus.keys()):
        # Linux lets iowait shrink, and an offline CPU may come back with less than it had.
        pairs = zip(before.cpus[cpu], after.cpus[cpu], strict=False)
        ticks = [max(0, now - then) for then, now in pairs] + [0] * 8
        busy = sum(ticks[place] for place in _BUSY)
        total = busy + sum(ticks[place] for place in _IDLE)
        if total:
            shares[cpu] = busy / total
            all_ticks += total
            stolen += ticks[_STEAL]
    ran = Counter(cpu for _, cpu in {(had.pid, had.cpu) for had in _that_ran(before.threads, after.threads)})
    return CpuLoad(
        interval_s=max(0.0, after.at_s - before.at_s),
        per_cpu=shares,
        processes={cpu: ran[cpu] for cpu in sorted(after.cpus.keys() | ran.keys())},
        steal_share=stolen / all_ticks if all_ticks else 0.0,
        skipped=after.skipped,
    )


class CpuLoadMeter:
    """Measures the load since it was last asked; made, it takes its first reading. Not for several threads at once."""

    def __init__(self, root: Path = SYSTEM_ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._before = read_load(root, clock)

    def measure(self) -> CpuLoad:
        """Return the load since the last call, or since the meter was made; it does not wait.

        Raises:
            OSError: There is no ``/proc/stat``, or no descriptor or memory is left. The next call measures from the same moment.
        """
        after = read_load(self._root, self._clock)
        load = load_between(self._before, after)
        self._before = after
        return load


def _that_ran(before: Mapping[ProcessId, ThreadTime], after: Mapping[ProcessId, ThreadTime]) -> Iterator[ThreadTime]:
    """Yield what the threads that used CPU time between two readings had at the second."""
    for thread, now in after.items():
        then = before.get(thread)
        if now.cpu_ticks > (then.cpu_ticks if then else 0):
            yield now


def _threads(proc: Path) -> Iterator[tuple[ProcessId, ThreadTime] | None]:
    """Yield what every thread used, and None for each that went away between being listed and being read."""
    for entry in proc.iterdir():
        if not (entry.name.isascii() and entry.name.isdigit()):
            continue
        try:
            tids = [int(task.name) for task in (entry / "task").iterdir()]
        except OSError:  # ended meanwhile, or /proc is mounted so that others' are hidden
            yield None
            continue
        for tid in tids:
            try:
                stat = read_stat(int(entry.name), tid, proc)
                yield stat.id, ThreadTime(int(entry.name), stat.cpu_ticks, stat.cpu)
            except (ProcessGoneError, PermissionError):
                yield None
