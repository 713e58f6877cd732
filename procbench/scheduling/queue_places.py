"""The places of a bounded queue and what goes through them, each step atomic; nothing here waits for room or for items."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, repeat, starmap
from operator import length_hint
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from procbench.errors import QueueEmptyError, QueueFullError, QueueShutDownError
from procbench.memory import checks
from procbench.scheduling.queue_counts import TIMED_EACH, Tally, Timed, WaitTimes
from procbench.scheduling.waiters import Waiters, wake

T = TypeVar("T")

PERMITS_AT_ONCE: Final = 4096
"""How many are made, or entries taken, in one step."""


class Line(Protocol):
    """Where the items stand: a deque, or several that together behave like one. Each call is atomic."""

    def append(self, entry: Any, /) -> None:
        """Let an entry in."""

    def extend(self, entries: Iterable[Any], /) -> None:
        """Let several in, in their order."""

    def popleft(self) -> Any:
        """Take the next one out; raise IndexError if there is none."""

    def __len__(self) -> int: ...


class QueuePlaces(Generic[T]):
    """Permits, entries and counts of a :class:`~procbench.scheduling.queues.TaskQueue`, which says what they are for.

    Args:
        maxsize: Most items that wait; at least 1.

    Raises:
        InvalidInputError: ``maxsize`` is no whole number of at least 1.

    Attributes:
        maxsize: Most items that wait.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize = checks.whole("maxsize", maxsize, 1)
        # A permit is True until it is first used. The used ones are on top, so that as many are used as places ever were.
        self._permits: deque[bool] = deque()
        self._unmade_permits = repeat(True, maxsize)
        self._items: Line = self._new_line()
        self._append: Callable[[Any], None] = self._items.append
        self._popleft: Callable[[], Any] = self._items.popleft
        self._getters: Waiters = deque()
        self._putters: Waiters = deque()
        self._joiners: Waiters = deque()
        self._is_shut_down = False
        self._gate = threading.RLock()  # for the end only; re-entrant, as a signal handler may come in between
        self._entered, self._taken_back, self._done = Tally(), Tally(), Tally()
        self._peak, self._failed_puts, self._failed_gets = Tally(), Tally(), Tally()
        self._waits = WaitTimes()
        _queues.add(self)

    def _new_line(self) -> Line:
        return deque()

    def qsize(self) -> int:
        """Return how many items wait at the moment."""
        return len(self._items)

    def empty(self) -> bool:
        """Return whether no item waits at the moment."""
        return not self._items

    def full(self) -> bool:
        """Return whether a put would have to wait at the moment."""
        # In this order: permits that are made in between are seen as made.
        return not length_hint(self._unmade_permits) and not self._permits

    # --- places, and what goes through them -----------------------------------------------------------------------

    def _permit_now(self) -> bool | None:
        """Take a permit if there is one; ``None`` if there is not."""
        permits = self._permits_now(1)
        return permits[0] if permits else None

    def _permits_now(self, most: int) -> list[bool]:
        """Take up to ``most`` permits, as many as there are."""
        if self._is_shut_down:
            raise self._refusal()
        permits: list[bool] = []
        while len(permits) < most:
            with contextlib.suppress(IndexError):
                permits.extend(starmap(self._permits.pop, repeat((), most - len(permits))))
            if len(permits) == most or not length_hint(self._unmade_permits):
                break
            # Below the used ones, which may have come back meanwhile and are to go first.
            self._permits.extendleft(islice(self._unmade_permits, PERMITS_AT_ONCE))
        return permits

    def _entry_now(self) -> list[Any]:
        """Take an entry if there is one.

        Raises:
            QueueShutDownError: There is none, and there will be none.
        """
        entries = self._entries_now(1)
        if not entries and self._is_shut_down:
            with self._gate:  # all that was put before the end is in now, and no late put holds it in its hands
                entries = self._entries_now(1)
            if not entries:
                next(self._failed_gets.ticks)
                raise QueueShutDownError("the queue was shut down and is empty")
        return entries

    def _entries_now(self, most: int) -> list[Any]:
        """Take up to ``most`` entries, as many as there are."""
        entries: list[Any] = []
        with contextlib.suppress(IndexError):
            entries.extend(starmap(self._popleft, repeat((), most)))
        return entries

    def _let_in(self, items: Sequence[T], permits: list[bool]) -> int:
        """Put items in, one for each permit; return how many stayed in, from the first on: all, unless it was shut down."""
        if fresh := len(permits) - permits.count(False):
            self._peak.add(fresh)
        entries: list[Any] = list(items)
        first = self._entered.add(len(entries))
        now_ns = time.monotonic_ns()
        for index in range(-first % TIMED_EACH, len(entries), TIMED_EACH):
            entries[index] = Timed(entries[index], now_ns)
        self._items.extend(entries)
        wake(self._getters, len(entries))
        return len(entries) - (self._take_back(entries) if self._is_shut_down else 0)

    def _let_out(self, entries: list[Any]) -> list[T]:
        """Give the permits of taken entries back and return the items."""
        self._permits.extend(repeat(False, len(entries)))
        wake(self._putters, len(entries))
        kinds = list(map(type, entries))
        if timed := kinds.count(Timed):
            now_ns, index, waits_ns = time.monotonic_ns(), -1, []
            for _ in range(timed):
                index = kinds.index(Timed, index + 1)
                waits_ns.append(now_ns - entries[index].since_ns)
                entries[index] = entries[index].item
            self._waits.note(*waits_ns)
        return entries

    def _take_back(self, entries: list[Any]) -> int:
        """Take entries out again that were put in about when it was shut down; return how many nobody else did.

        Whoever got one meanwhile has it, and its put counts. The others may have come when the last consumer was gone.
        """
        with self._gate:
            count = sum(self._remove(entry) for entry in reversed(entries))
            if count:
                self._taken_back.add(count)
        self._permits.extend(repeat(False, count))
        self._wake_joiners()
        return count

    def _remove(self, entry: Any) -> bool:
        return remove_last(cast("deque[Any]", self._items), entry)

    # --- what is said, and counted --------------------------------------------------------------------------------

    def _refusal(self) -> QueueShutDownError:
        next(self._failed_puts.ticks)
        return QueueShutDownError("the queue was shut down; it takes nothing more")

    def _full(self) -> QueueFullError:
        next(self._failed_puts.ticks)
        return QueueFullError(f"the queue holds its {self.maxsize} items")

    def _empty(self) -> QueueEmptyError:
        next(self._failed_gets.ticks)
        return QueueEmptyError("the queue is empty")

    def _accepted(self) -> int:
        return self._entered.count - self._taken_back.count

    def _unfinished(self) -> int:
        # What is gone first: a task that comes and goes in between must not seem to be one that was there before.
        gone = self._done.count + self._taken_back.count
        return self._entered.count - gone

    def _wake_joiners(self) -> None:
        if self._joiners and self._unfinished() <= 0:
            wake(self._joiners, len(self._joiners))

    def _go_on_in_fork(self) -> None:
        """Forget, in the child of a fork, all that other threads were at: they wait, hold permits and locks in the parent."""
        self._gate = threading.RLock()
        self._waits.forget_lock()
        for waiters in (self._getters, self._putters, self._joiners):
            waiters.clear()
        there = len(self._items) + len(self._permits) + length_hint(self._unmade_permits)
        self._permits.extend(repeat(False, self.maxsize - there))


def remove_last(line: deque[Any], entry: object) -> bool:
    """Take the last ``entry`` out of a line, told by what it is and not by what it equals; return whether it was there."""
    passed: list[Any] = []
    found = False
    with contextlib.suppress(IndexError):
        while not found:
            last = line.pop()
            found = last is entry
            if not found:
                passed.append(last)
    line.extend(reversed(passed))
    return found


_queues: weakref.WeakSet[QueuePlaces[Any]] = weakref.WeakSet()


def _go_on_in_fork() -> None:
    for queue in list(_queues):
        queue._go_on_in_fork()


os.register_at_fork(after_in_child=_go_on_in_fork)
