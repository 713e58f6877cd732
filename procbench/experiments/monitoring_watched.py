"""Batches that a monitor watches: short commands whose time is measured, and real ones whose samples are kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from procbench.cpu.topology import usable_workers
from procbench.experiments.workload import Workload
from procbench.monitoring.defaults import default_collectors
from procbench.monitoring.monitor import PerformanceMonitor
from procbench.monitoring.watched import Trouble, Watched
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask

if TYPE_CHECKING:
    import pandas as pd

_TRUE: Final = ("true",)
_PATIENCE_S: Final = 10.0  # by then a sample is there, or a collector hangs
_FEWEST, _SPAN_S = 4, 0.2  # samples, and how far apart the first and the last, that every rate be known


class ShortBatch(NamedTuple):
    """One batch of ``true``.

    Attributes:
        way: The condition's name.
        interval_s: Seconds between samples; None where nobody watched.
        tasks: Commands.
        done: Those that succeeded.
        wall_s: Seconds that it took.
        samples: Samples that were taken meanwhile, the fewest of any collector.
        monitor_cpu_s: CPU time of the monitor's threads meanwhile.
        broken: What collectors did that they should not: raise, or say what is no number.
    """

    way: str
    interval_s: float | None
    tasks: int
    done: int
    wall_s: float
    samples: int
    monitor_cpu_s: float
    broken: tuple[str, ...]


def short_batch(way: str, interval_s: float | None, tasks: int) -> ShortBatch:
    """Run ``true`` so many times on as many workers as CPUs, watched or not.

    The monitor is there before the time begins, with its files open, and samples on its own clock. Its own clock also decides
    how many samples fall into the batch: one that is shorter than the interval may see none.
    """
    with ExitStack() as stack:
        scheduler = stack.enter_context(WorkStealingScheduler(RunSettings(workers=usable_workers())))
        monitor = None
        if interval_s is not None:
            monitor = stack.enter_context(PerformanceMonitor(interval_s, default_collectors()))
            _wait_for_first(monitor)
        before_cpu_s, before = (monitor.cpu_s, _samples(monitor)) if monitor else (0.0, 0)
        begun = time.perf_counter()
        done = sum(result.returncode == 0 for result in scheduler.map([_TRUE] * tasks))
        wall_s = time.perf_counter() - begun
        cpu_s, samples = (monitor.cpu_s - before_cpu_s, _samples(monitor) - before) if monitor else (0.0, 0)
    broken = _broken(monitor.troubles) if monitor else ()
    return ShortBatch(way, interval_s, tasks, done, wall_s, samples, cpu_s, broken)


@dataclass(frozen=True)
class LiveBatch:
    """A batch of real commands, watched from before its beginning to its end.

    Attributes:
        workload: What ran, in words.
        workers: On how many workers.
        tasks: Commands.
        done: Those that succeeded.
        interval_s: Seconds between samples.
        wall_s: Seconds that it took.
        begun_s: When it began, on the samples' clock.
        ended_s: When it ended; there are samples after that.
        commands: A row for each command: ``start_s`` and ``end_s``, on the samples' clock, ``worker`` and ``program``.
        samples: The monitor's frame: ``time_s``, ``at``, ``collector``, ``metric``, ``unit``, ``value``.
        reasons: By collector and metric, why it is NaN or a lower bound.
        troubles: What went wrong while it watched.
        skipped: For each collector, at how many ticks it was not asked.
        told_cpu_s: CPU time of the commands, as the kernel told when they were waited for.
        monitor_cpu_s: CPU time of the monitor's threads.
    """

    workload: str
    workers: int
    tasks: int
    done: int
    interval_s: float
    wall_s: float
    begun_s: float
    ended_s: float
    commands: pd.DataFrame
    samples: pd.DataFrame
    reasons: dict[str, dict[str, str]]
    troubles: tuple[Trouble, ...]
    skipped: dict[str, int]
    told_cpu_s: float
    monitor_cpu_s: float

    @property
    def broken(self) -> tuple[str, ...]:
        """What collectors did that they should not."""
        return _broken(self.troubles)

    def series(self, collector: str, metric: str) -> pd.DataFrame:
        """Return ``time_s`` and ``value`` of one metric, in the order of time."""
        own = self.samples[(self.samples["collector"] == collector) & (self.samples["metric"] == metric)]
        return own[["time_s", "value"]].reset_index(drop=True)

    def counted(self, collector: str, metric: str) -> float:
        """Return by how much a counter grew while it was watched: its rates times the time between samples."""
        found = self.series(collector, metric)
        return float((found["value"] * found["time_s"].diff()).sum())


def watch_batch(workload: Workload, interval_s: float) -> LiveBatch:
    """Run real commands on as many workers as CPUs, the scheduler among what is watched.

    It is watched a moment longer, until there is a sample from after its end, and every rate is known.
    """
    import pandas as pd

    workers = usable_workers()
    tasks = [ProcessTask(command, cwd=workload.folder) for command in workload.commands]
    with WorkStealingScheduler(RunSettings(workers=workers, discard=True)) as scheduler:
        monitor = PerformanceMonitor(interval_s, default_collectors(), parts={"scheduler": scheduler})
        started_ns = time.monotonic_ns()
        with monitor:
            _wait_for_first(monitor)
            begun_ns = time.monotonic_ns()
            results = list(scheduler.map(tasks))
            ended_ns = time.monotonic_ns()
            last_s = max((ended_ns - started_ns) / 1e9, _SPAN_S)
            _wait_until(monitor, lambda one: _last_s(one) >= last_s and len(one.history) >= _FEWEST)
    rows = [
        ((one.started_ns - started_ns) / 1e9, (one.ended_ns - started_ns) / 1e9, one.worker, command[0])
        for one, command in zip(results, workload.commands, strict=True)
    ]
    return LiveBatch(
        workload=workload.name,
        workers=workers,
        tasks=len(results),
        done=sum(one.returncode == 0 for one in results),
        interval_s=interval_s,
        wall_s=(ended_ns - begun_ns) / 1e9,
        begun_s=(begun_ns - started_ns) / 1e9,
        ended_s=(ended_ns - started_ns) / 1e9,
        commands=pd.DataFrame(rows, columns=["start_s", "end_s", "worker", "program"]),
        samples=monitor.frame(),
        reasons=monitor.reasons(),
        troubles=monitor.troubles,
        skipped=monitor.skipped,
        told_cpu_s=sum(one.cpu_s for one in results if one.error is None),
        monitor_cpu_s=monitor.cpu_s,
    )


def _wait_for_first(monitor: PerformanceMonitor) -> None:
    """Wait until every collector has been asked once: that opens files, and is no part of what watching costs."""
    _wait_until(monitor, lambda watched: watched.latest is not None)


def _wait_until(monitor: PerformanceMonitor, holds: Callable[[Watched], bool]) -> None:
    """Wait until something holds of every collector; not for ever, as one may hang."""
    there = threading.Event()

    def look(_: object = None) -> None:
        if all(map(holds, monitor.watched)):
            there.set()

    unsubscribe = monitor.subscribe(look)
    look()
    there.wait(_PATIENCE_S)
    unsubscribe()


def _last_s(watched: Watched) -> float:
    return -1.0 if watched.latest is None else watched.latest.time_s


def _samples(monitor: PerformanceMonitor) -> int:
    return min(len(watched.history) for watched in monitor.watched)


def _broken(troubles: tuple[Trouble, ...]) -> tuple[str, ...]:
    return tuple(f"{one.who} {one.kind}: {one.said}" for one in troubles if one.kind in ("raised", "bad value"))
