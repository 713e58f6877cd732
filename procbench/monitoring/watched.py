"""One collector in a monitor's hands: it is asked, its totals become rates, and what goes wrong is written down."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from procbench.monitoring.collectors import Metric, MetricCollector
from procbench.monitoring.history import History

TroubleKind = Literal["raised", "bad value", "busy", "callback", "plug-in", "left behind"]

_UNKNOWN: Final = Metric("")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong, however often; sampling went on.

    Attributes:
        kind: ``raised`` and ``bad value`` (by a collector), ``busy`` (a collector or callback took longer than an interval),
            ``callback`` (it raised), ``plug-in`` (it could not be made), ``left behind`` (it did not end with the monitor).
        who: The collector's, callback's or entry point's name.
        said: What happened the last time.
        count: How often it happened.
        time_s: When it last did, seconds since the start.
    """

    kind: TroubleKind
    who: str
    said: str
    count: int
    time_s: float


class Troubles:
    """What went wrong, put together by kind and by whose matter it is, so that it stays little. Thread-safe."""

    def __init__(self, since_start_s: Callable[[], float]) -> None:
        self._since_start_s = since_start_s
        self._lock = threading.Lock()
        self._found: dict[tuple[TroubleKind, str], Trouble] = {}

    def note(self, kind: TroubleKind, who: str, said: str) -> None:
        """Write down that something went wrong."""
        with self._lock:
            before = self._found.get((kind, who))
            count = 1 if before is None else before.count + 1
            self._found[kind, who] = Trouble(kind, who, said, count, self._since_start_s())

    def all(self) -> tuple[Trouble, ...]:
        """Return them in the order in which each first happened."""
        with self._lock:
            return tuple(self._found.values())

    def forget_in_fork(self) -> None:
        """As :meth:`History.forget_in_fork`."""
        self._lock = threading.Lock()


class Taken(NamedTuple):
    """What a collector gave last.

    Attributes:
        time_s: When it was asked, seconds since the start.
        values: What it said, rates in place of totals; by metric.
        totals: The totals behind the rates.
    """

    time_s: float
    values: Mapping[str, float]
    totals: Mapping[str, float]


class Watched:
    """A collector and its history. A lane's job: called by one thread at a time; any may read.

    Args:
        collector: Who is asked.
        limit: Most samples that are kept.
        since_start_s: Tells the seconds since the monitor's start.
        troubles: Where it is written down that something went wrong.

    Attributes:
        name: The collector's.
        history: Its samples.
        latest: The last of them; None before the first.
        skipped: Ticks at which it was not asked.
        over: Whether what it says now comes too late, as its monitor has stopped.
    """

    def __init__(
        self, collector: MetricCollector, limit: int, since_start_s: Callable[[], float], troubles: Troubles
    ) -> None:
        self.name = collector.name
        self.history = History(limit)
        self.latest: Taken | None = None
        self.skipped = 0
        self.over = False
        self._collector = collector
        self._since_start_s = since_start_s
        self._troubles = troubles

    def __call__(self) -> None:
        """Ask it once, and keep what it says."""
        time_s, at_s = self._since_start_s(), time.time()
        try:
            found = self._collector.collect()
            said = [(str(name), value) for name, value in found.items()]
        except BaseException as error:  # SystemExit too would end all others' sampling
            self._troubles.note("raised", self.name, f"{type(error).__name__}: {error}")
            return
        if self.over:
            return
        before = self.latest
        values: dict[str, float] = {}
        totals: dict[str, float] = {}
        for name, value in said:
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                self._troubles.note("bad value", self.name, f"{name} is {value!r}, which is no number")
                number = math.nan
            if self.metric(name).counter:
                totals[name] = number
                number = _rate(before, name, time_s, number)
            values[name] = number
        self.latest = Taken(time_s, values, totals)
        self.history.add(time_s, at_s, values)

    def close(self) -> None:
        """Have the collector close what it holds, if it can."""
        close = getattr(self._collector, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:  # as above
                self._troubles.note("raised", self.name, f"close: {type(error).__name__}: {error}")

    def metric(self, name: str) -> Metric:
        """Return what a metric is; what the collector does not list has no unit."""
        return self._collector.metrics.get(name.partition("[")[0], _UNKNOWN)

    def reasons(self) -> Mapping[str, str]:
        """Return what the collector says of metrics that are NaN or less than the truth."""
        reasons = getattr(self._collector, "reasons", None)
        if reasons is None:
            return {}
        try:
            return dict(reasons())
        except Exception as error:  # others' code
            self._troubles.note("raised", self.name, f"reasons: {type(error).__name__}: {error}")
            return {}


def _rate(before: Taken | None, name: str, time_s: float, total: float) -> float:
    """Return the growth of a total in a second; NaN at the first, and where it went backwards or no time passed."""
    if before is None or name not in before.totals:
        return math.nan
    grown, took_s = total - before.totals[name], time_s - before.time_s
    return grown / took_s if grown >= 0 and took_s > 0 else math.nan
