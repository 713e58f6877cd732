"""Watch a machine, a batch and procbench's own parts while something runs: samples at a steady pace, in a bounded history.

One thread keeps time and another asks the collectors, in turn. A collector that takes longer than an interval keeps that thread
for itself, and a new one asks the others; ticks that pass while it is busy are skipped and counted.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from procbench.errors import ClosedError, InvalidInputError
from procbench.monitoring.collect_parts import Part
from procbench.monitoring.collectors import MetricCollector
from procbench.monitoring.defaults import chosen_collectors
from procbench.monitoring.history import Summary
from procbench.monitoring.lanes import Lane
from procbench.monitoring.ticks import Ticks
from procbench.monitoring.watched import Trouble, Troubles, Watched

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Final = ("time_s", "at", "collector", "metric", "unit", "value")
"""The columns of a monitor's frame."""

_SHORTEST_S, _LONGEST_S = 0.001, 86_400.0
_LAST_AFTER_S = 0.02  # nearer to the one before, a last sample would say little: the kernel counts in hundredths
_STOP_S = (0.05, 1.0)  # least and most that a stop waits for what is under way, within an interval


@dataclass(frozen=True, slots=True)
class Sample:
    """What all collectors gave last.

    Attributes:
        time_s: Seconds since the start.
        values: By collector and metric; rates in place of totals.
    """

    time_s: float
    values: Mapping[str, Mapping[str, float]]


class PerformanceMonitor:
    """Samples collectors every interval, from ``start`` or the beginning of a ``with`` block to its end. Thread-safe.

    The clock is CLOCK_MONOTONIC: durations and rates never see the wall clock, which only labels the samples. The first sample is
    taken at once, and the last at the end. A fork of this process has what was sampled before, and samples nothing.

    Args:
        interval_s: Seconds between samples, from 0.001 to a day.
        collectors: Who is asked; None for those of :func:`default_collectors` and of installed packages.
        history: Most samples that are kept of each collector.
        parts: Whatever has ``statistics()``, by the name that its collector gets, besides ``collectors``.
        clock: Tells the time in seconds; it must never go back.

    Raises:
        InvalidInputError: A number makes no sense, what should be a collector is none, or two have one name.
    """

    def __init__(
        self,
        interval_s: float = 1.0,
        collectors: Iterable[MetricCollector] | None = None,
        history: int = 3600,
        *,
        parts: Mapping[str, Part] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if isinstance(interval_s, bool) or not _SHORTEST_S <= interval_s <= _LONGEST_S:
            raise InvalidInputError(
                f"interval_s must be seconds from {_SHORTEST_S} to {_LONGEST_S:g}, not {interval_s!r}"
            )
        if isinstance(history, bool) or not isinstance(history, int) or history < 1:
            raise InvalidInputError(f"history must be a whole number of samples, 1 or more, not {history!r}")
        self.interval_s = float(interval_s)
        self._clock = clock
        self._start_s = clock()
        self._troubles = Troubles(self._since_start_s)
        chosen = chosen_collectors(collectors, parts or {}, partial(self._troubles.note, "plug-in"))
        self._watched = tuple(Watched(one, history, self._since_start_s, self._troubles) for one in chosen)
        self._stopping = threading.Event()
        self._lock = threading.RLock()
        self._state = "new"
        self._missed = 0
        self._last_tick_s = -math.inf
        self._keeper_cpu_s = 0.0
        self._keeper: threading.Thread | None = None
        self._lanes: list[Lane] = []
        self._callbacks: list[Lane] = []
        _all.add(self)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to sample. Harmless while it does.

        Raises:
            ClosedError: It was stopped; make another.
            RuntimeError: The system gives no thread.
        """
        with self._lock:
            if self._state == "stopped":
                raise ClosedError("the monitor was stopped and keeps what it sampled; make another to go on")
            if self._state == "running":
                return
            self._start_s = self._clock()
            self._lanes.append(Lane("procbench-monitor", self._watched, self._clock, self._tell))
            try:
                self._keeper = threading.Thread(target=self._keep_time, name="procbench-monitor-clock", daemon=True)
                self._keeper.start()
            except BaseException:
                self._lanes.pop().end()
                raise
            self._state = "running"

    def stop(self) -> None:
        """Take a last sample and end, within an interval and never more than about a second. Harmless when called twice.

        A collector or a callback that does not come to its end is left behind in its own thread, and that is a trouble.
        """
        with self._lock:
            if self._state != "running":
                if self._state == "new":
                    self._state = "stopped"
                    for watched in self._watched:
                        watched.close()
                    for lane in self._callbacks:
                        lane.end()
                return
            self._state = "stopped"
        give_up_s = time.monotonic() + min(max(self.interval_s, _STOP_S[0]), _STOP_S[1])
        self._stopping.set()
        if self._keeper is not None:
            self._keeper.join(max(0.0, give_up_s - time.monotonic()))
        for lanes in (self._lanes, self._callbacks):  # the last sample is told, too
            for lane in lanes:
                lane.end()
            for lane in lanes:
                if not lane.join(give_up_s - time.monotonic()):
                    for job in lane.jobs:
                        said = "it had not come to its end when the monitor stopped; its thread is left"
                        self._troubles.note("left behind", _name_of(job), said)
        for watched in self._watched:
            watched.over = True

    def sample(self) -> Sample:
        """Take one sample now, in the calling thread: for who has a clock of their own and does not start the monitor.

        Raises:
            ClosedError: The monitor samples by itself, or was stopped.
        """
        with self._lock:
            if self._state != "new":
                raise ClosedError(f"the monitor is {self._state}; sample() is for one that was not started")
            for watched in self._watched:
                watched()
        self._tell()
        return self.latest()

    def subscribe(self, callback: Callable[[Sample], object]) -> Callable[[], None]:
        """Have ``callback`` called with each new sample, in a thread of its own.

        What it raises is a trouble. Samples that come while it is busy it does not get.

        Returns:
            What ends that when called.

        Raises:
            ClosedError: The monitor was stopped.
        """
        with self._lock:
            if self._state == "stopped":
                raise ClosedError("the monitor was stopped, and no sample comes any more")
            told = _Told(callback, self)
            lane = Lane("procbench-monitor-callback", [told], self._clock)
            self._callbacks.append(lane)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._callbacks.remove(lane)
                lane.end()

        return unsubscribe

    # --- what was found ---------------------------------------------------------------------------------------------------

    def latest(self) -> Sample:
        """Return the last sample of each collector that has one."""
        taken = {watched.name: watched.latest for watched in self._watched}
        time_s = max((one.time_s for one in taken.values() if one is not None), default=0.0)
        return Sample(time_s, {name: one.values for name, one in taken.items() if one is not None})

    def frame(self) -> pd.DataFrame:
        """Return everything that is kept, tidy: a row for each value.

        Returns:
            ``time_s``, seconds since the start; ``at``, what the wall clock said (UTC); ``collector``; ``metric``, such as
            ``read`` or ``busy[vda]``; ``unit``; ``value``, NaN where there was none.
        """
        import numpy as np
        import pandas as pd

        pieces = []
        for watched in self._watched:
            kept = watched.history.recorded()
            at = pd.to_datetime(np.asarray(kept.at_s), unit="s", utc=True)
            for name, values in kept.columns.items():
                unit = watched.metric(name).shown_unit
                columns = (np.asarray(kept.times_s), at, watched.name, name, unit, np.asarray(values))
                pieces.append(pd.DataFrame(dict(zip(COLUMNS, columns, strict=True))))
        if not pieces:
            empty = {"time_s": "float64", "at": "datetime64[ns, UTC]", "value": "float64"}
            return pd.DataFrame({column: pd.Series(dtype=empty.get(column, "str")) for column in COLUMNS})
        return pd.concat(pieces, ignore_index=True)

    def series(self) -> dict[tuple[str, str], list[float]]:
        """Return the values that are kept by collector and metric, the oldest first; as :meth:`frame`, without pandas."""
        return {
            (watched.name, name): list(map(float, values))
            for watched in self._watched
            for name, values in watched.history.recorded().columns.items()
        }

    def summary(self) -> pd.DataFrame:
        """Return what each metric was like: ``collector``, ``metric``, ``unit``, and the fields of :class:`Summary`."""
        import pandas as pd

        rows = [(*which, *found) for which, found in self.summaries()]
        return pd.DataFrame(rows, columns=["collector", "metric", "unit", *Summary._fields])

    def summaries(self) -> Iterable[tuple[tuple[str, str, str], Summary]]:
        """Yield collector, metric and unit, and what the metric was like; as :meth:`summary`, without pandas."""
        for watched in self._watched:
            for name, found in watched.history.summaries():
                yield (watched.name, name, watched.metric(name).shown_unit), found

    @property
    def watched(self) -> tuple[Watched, ...]:
        """The collectors with what they gave, for exporters."""
        return self._watched

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What went wrong so far."""
        return self._troubles.all()

    @property
    def skipped(self) -> dict[str, int]:
        """For each collector, at how many ticks it was not asked: it was busy, or the machine slept through them."""
        return {watched.name: watched.skipped + self._missed for watched in self._watched}

    @property
    def cpu_s(self) -> float:
        """CPU time that sampling has cost so far, seconds: of the threads that keep time and ask.

        Callbacks do not count, nor does a round that is not over.
        """
        return self._keeper_cpu_s + sum(lane.cpu_s for lane in tuple(self._lanes))

    def reasons(self) -> dict[str, dict[str, str]]:
        """Return, by collector and metric, why something is NaN, or less than the truth."""
        found = {watched.name: dict(watched.reasons()) for watched in self._watched}
        return {name: reasons for name, reasons in found.items() if reasons}

    # --- the threads ------------------------------------------------------------------------------------------------------

    def _keep_time(self) -> None:
        ticks = Ticks(self.interval_s, self._start_s)
        while True:
            self._tick()
            self._keeper_cpu_s = time.thread_time()
            if self._stopping.wait(ticks.wait_s(self._clock())):
                break
            self._missed = ticks.missed
        if self._clock() - self._last_tick_s >= _LAST_AFTER_S:
            self._tick()

    def _tick(self) -> None:
        """Have every lane begin a round, and take from a lane whatever one slow collector holds up."""
        self._last_tick_s = self._clock()
        for lane in tuple(self._lanes):
            left = lane.begin_round()
            for watched in self._watched:
                watched.skipped += watched in left
            stuck = lane.stuck_for(self.interval_s)
            if stuck is None:
                continue
            said = f"busy for {stuck.for_s:.3g} s, longer than the interval; ticks that it cannot take are skipped"
            self._troubles.note("busy", _name_of(stuck.job), said)
            if others := lane.leave_alone_with(stuck.job):
                self._open_lane([watched for watched in self._watched if watched in others], left)
        for lane in tuple(self._callbacks):
            stuck = lane.stuck_for(self.interval_s)
            if stuck is not None:
                self._troubles.note("busy", _name_of(stuck.job), f"busy for {stuck.for_s:.3g} s; it misses samples")

    def _open_lane(self, watched: list[Watched], left: tuple[object, ...]) -> None:
        """Let another thread ask those that one collector held up, at this tick still."""
        try:
            lane = Lane("procbench-monitor", watched, self._clock, self._tell)
        except RuntimeError as error:  # no thread is left: the next tick tries no more
            self._troubles.note("busy", ", ".join(one.name for one in watched), f"not asked any more: {error}")
            return
        for one in watched:
            one.skipped -= one in left
        self._lanes.append(lane)
        lane.begin_round()

    def _tell(self) -> None:
        """Have every callback told, after a round."""
        for lane in tuple(self._callbacks):
            lane.begin_round()

    def _since_start_s(self) -> float:
        return self._clock() - self._start_s

    def _forget_in_fork(self) -> None:
        """Be stopped in a forked child, where the threads are not, and what they held is held for ever."""
        self._state = "stopped"
        self._lock = threading.RLock()
        self._lanes, self._callbacks, self._keeper = [], [], None
        self._troubles.forget_in_fork()
        for watched in self._watched:
            watched.history.forget_in_fork()


class _Told:
    """A callback as a lane's job."""

    def __init__(self, callback: Callable[[Sample], object], monitor: PerformanceMonitor) -> None:
        self.name = getattr(callback, "__qualname__", None) or type(callback).__name__
        self._callback = callback
        self._monitor = monitor

    def __call__(self) -> None:
        try:
            self._callback(self._monitor.latest())
        except BaseException as error:  # whatever it is, sampling goes on
            self._monitor._troubles.note("callback", self.name, f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Nothing is to be done."""


def _name_of(job: object) -> str:
    return str(getattr(job, "name", job))


_all: weakref.WeakSet[PerformanceMonitor] = weakref.WeakSet()


def _stop_all() -> None:
    for monitor in list(_all):
        monitor.stop()


def _forget_all_in_fork() -> None:
    for monitor in list(_all):
        monitor._forget_in_fork()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_forget_all_in_fork)
