"""What a queue counts and times, cheaply enough to do it always: by one atomic call for an item, and a clock for one in 31."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from operator import length_hint
from typing import Final, Generic, TypeVar

from procbench.scheduling.times import Histogram, Times

T = TypeVar("T")

TIMED_EACH: Final = 31
"""One item in so many is timed: a prime, so that no round size of batch or burst has always its first item timed."""

_FOLD_AT: Final = 64


class Tally:
    """A count that only rises; any thread, and a signal handler in the middle of it, may raise it.

    ``next(tally.ticks)`` raises it by one. That is one call into C, which nothing interrupts, whereas ``count += 1`` reads
    and writes. Several at once are counted by another iterator, which makes no number of each.

    Attributes:
        ticks: The iterator that counts one by one; ``next`` returns how many it has counted so before.
    """

    __slots__ = ("_steps", "ticks")

    def __init__(self) -> None:
        self.ticks: Iterator[int] = iter(range(sys.maxsize))
        self._steps: Iterator[None] = repeat(None, sys.maxsize)

    def add(self, count: int) -> int:
        """Raise it by ``count``, at least 1; return how much ``add`` had raised it before, or while others add, about so much."""
        before = sys.maxsize - length_hint(self._steps)
        next(islice(self._steps, count - 1, None))
        return before

    @property
    def count(self) -> int:
        """How often it was raised."""
        return 2 * sys.maxsize - length_hint(self.ticks) - length_hint(self._steps)


class Timed(Generic[T]):
    """An item that is timed, in the place of the item itself.

    Args:
        item: The item.
        since_ns: When it was put in, on ``time.monotonic_ns()``'s clock.
    """

    __slots__ = ("item", "since_ns")

    def __init__(self, item: T, since_ns: int) -> None:
        self.item = item
        self.since_ns = since_ns


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """What became of a queue's items so far. Exact whenever no put or get is under way.

    Attributes:
        enqueued: Items that came in.
        dequeued: Items that were taken out, by a get or by an immediate shutdown: ``enqueued - current``.
        failed_puts: Calls that did not put in all they had, because there was no room in time or the queue was shut down.
        failed_gets: Calls that got nothing, because nothing came in time or the queue was shut down.
        current: Items that wait now.
        peak: Most places that were taken at one time, never above ``maxsize``. An item has its place from the beginning of
            its put to the end of its get, so it may be more, by the calls under way, than items ever waited.
        timed: Items whose wait was measured: one in 31, by count.
        mean_wait_s: Seconds that those waited on average; NaN if there were none.
        p99_wait_s: Seconds that all but one in a hundred of those waited at most, up to an eighth too many; NaN if there
            were none.
    """

    enqueued: int
    dequeued: int
    failed_puts: int
    failed_gets: int
    current: int
    peak: int
    timed: int
    mean_wait_s: float
    p99_wait_s: float

    @property
    def failed(self) -> int:
        """Calls that failed, of both kinds."""
        return self.failed_puts + self.failed_gets


class WaitTimes:
    """How long items waited: their number and sum, and a histogram whose buckets widen with the time.

    Thread-safe, and nobody ever waits: a time is left in a line by one atomic call, and whoever finds the histogram free
    enters what has gathered. About 4 KiB, however many times there are.
    """

    def __init__(self) -> None:
        self._fresh: deque[int] = deque()
        self._entering = threading.Lock()
        self._histogram = Histogram()

    def note(self, *waits_ns: int) -> None:
        """Enter times, in nanoseconds."""
        self._fresh.extend(waits_ns)
        if len(self._fresh) >= _FOLD_AT:
            self._enter()

    def forget_lock(self) -> None:
        """Go on in the child of a fork, where nobody would ever open the lock that another thread held."""
        self._entering = threading.Lock()

    def times(self) -> Times:
        """Return what was entered so far, in a few numbers."""
        self._enter()
        return self._histogram.times()

    def _enter(self) -> None:
        if not self._entering.acquire(blocking=False):
            return  # somebody is at it, perhaps this very thread below a signal handler
        try:
            while self._fresh:
                self._histogram.add(self._fresh.popleft())
        finally:
            self._entering.release()
