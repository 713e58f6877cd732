"""A bounded queue without a lock of its own, for threads and coroutines alike."""

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

from procbench.errors import QueueEmptyError, QueueFullError, QueueShutDownError, TaskDoneError
from procbench.memory import checks
from procbench.scheduling.queue_async import await_turn
from procbench.scheduling.queue_counts import TIMED_EACH, QueueStatistics, Tally, Timed, WaitTimes
from procbench.scheduling.waiters import Waiters, deadline_after, sleep_until_woken, wake, wake_one

T = TypeVar("T")

_PERMITS_AT_ONCE: Final = 4096


class Line(Protocol):
    """Where the items stand: a deque, or several that together behave like one. Each call is atomic."""

    def append(self, entry: Any, /) -> None:
        """Let an entry in."""

    def extend(self, entries: Iterable[Any], /) -> None:
        """Let several in, in their order."""

    def popleft(self) -> Any:
        """Take the next one out; raise IndexError if there is none."""

    def __len__(self) -> int: ...


class TaskQueue(Generic[T]):
    """Bounded first-in-first-out queue for many producers and consumers: ``queue.Queue``'s calls, for threads and coroutines.

    ``deque.append`` and ``popleft`` are one atomic call each, several times faster than a lock around them. The bound is
    exact all the same: a put first takes one of ``maxsize`` permits from a second deque and a get gives it back, so there
    are never more items than permits. Who must wait stands in a third deque, threads and coroutines in one line, and looks
    once more before sleeping, so that no wake-up is lost.

    **Thread safety.** Every call may be made by any thread, in a signal handler in the midst of another call, and in a
    finalizer; it rests on the GIL. The items of one producer come out in the order in which it put them in. Whoever is woken
    tries again, and a put or get that just comes along may be faster.

    **Cost.** A put or get takes the same, small time however many items wait, statistics included: 0.1 to 0.2 µs. An item
    takes 8 bytes and its permit 8, which is made when that many first wait; an immediate shutdown, and a put that meets a
    shutdown, look at every item.

    **Exactly once.** Every item whose put returned is got once, or is in the list that an immediate shutdown returns; every
    item whose put raised is neither. An exception that a signal handler raises in the midst of a put or get may cost its
    place, and the item that was on its way.

    **Fork.** The child has the same items in a queue of its own and goes on with it; those who wait, and tasks that other
    threads have in hand, stay with the parent.

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

    # --- one by one -----------------------------------------------------------------------------------------------

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put ``item`` in, waiting for room.

        Args:
            item: Anything.
            block: Whether to wait.
            timeout: Most seconds to wait, finite and at least 0; ``None`` for as long as it takes.

        Raises:
            QueueFullError: There was no room in time.
            QueueShutDownError: It was shut down, before or meanwhile.
            InvalidInputError: ``timeout`` is no finite number of at least 0.
        """
        if timeout is not None:
            checks.timeout(timeout)
        if self._is_shut_down:
            raise self._refusal()
        try:
            is_fresh = self._permits.pop()
        except IndexError:
            is_fresh = self._sleep_for_room(deadline_after(block, timeout))
        if is_fresh:
            next(self._peak.ticks)
        entry: Any = item
        if not next(self._entered.ticks) % TIMED_EACH:
            entry = Timed(item, time.monotonic_ns())
        self._append(entry)
        if self._getters:
            wake_one(self._getters)
        if self._is_shut_down and self._take_back(
            [entry]
        ):  # before or after the append? Then perhaps nobody looks again
            raise self._refusal()

    def put_nowait(self, item: T) -> None:
        """Put ``item`` in if there is room now; as :meth:`put`."""
        self.put(item, False)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item, waiting for one.

        Args:
            block: Whether to wait.
            timeout: Most seconds to wait, finite and at least 0; ``None`` for as long as it takes.

        Raises:
            QueueEmptyError: There was none in time.
            QueueShutDownError: There is none, and there will be none.
            InvalidInputError: ``timeout`` is no finite number of at least 0.
        """
        if timeout is not None:
            checks.timeout(timeout)
        try:
            entry = self._popleft()
        except IndexError:
            entry = self._sleep_for_entry(deadline_after(block, timeout))
        self._permits.append(False)
        if self._putters:
            wake_one(self._putters)
        if type(entry) is Timed:
            self._waits.note(time.monotonic_ns() - entry.since_ns)
            return entry.item  # type: ignore[no-any-return]
        return entry  # type: ignore[no-any-return]

    def get_nowait(self) -> T:
        """Take the oldest item if there is one now; as :meth:`get`."""
        return self.get(False)

    # --- in batches -----------------------------------------------------------------------------------------------

    def put_many(self, items: Sequence[T], block: bool = True, timeout: float | None = None) -> int:
        """Put items in, in their order, waiting for room for all of them.

        What there is room for goes in at once and together; the rest follows as room comes, and other producers' items may
        stand in between.

        Args:
            items: The items; a sequence, so that what did not go in is ``items[n:]``.
            block: Whether to wait.
            timeout: Most seconds to wait for all of them, finite and at least 0; ``None`` for as long as it takes.

        Returns:
            How many went in, from the first on: fewer than all where the time was up, or it was shut down meanwhile.

        Raises:
            QueueFullError: Not even one went in in time.
            QueueShutDownError: Not even one went in, as it was shut down.
            InvalidInputError: ``timeout`` is no finite number of at least 0.
        """
        deadline = deadline_after(block, timeout)
        went_in = 0
        while went_in < len(items):
            try:
                permits = self._permits_now(len(items) - went_in) or [self._sleep_for_room(deadline)]
            except (QueueFullError, QueueShutDownError):
                if went_in:
                    break
                raise
            count = self._let_in(items[went_in : went_in + len(permits)], permits)
            went_in += count
            if count < len(permits):
                refusal = self._refusal()
                if went_in:
                    break
                raise refusal
        return went_in

    def get_many(self, max_items: int, block: bool = True, timeout: float | None = None) -> list[T]:
        """Take the oldest items, as many as there are up to ``max_items``, waiting for the first.

        Args:
            max_items: Most items to take; at least 1.
            block: Whether to wait.
            timeout: Most seconds to wait, finite and at least 0; ``None`` for as long as it takes.

        Returns:
            The items, at least one.

        Raises:
            QueueEmptyError: There was none in time.
            QueueShutDownError: There is none, and there will be none.
            InvalidInputError: ``max_items`` or ``timeout`` makes no sense.
        """
        checks.whole("max_items", max_items, 1)
        deadline = deadline_after(block, timeout)
        entries = self._entries_now(max_items)
        if not entries:
            entries = [self._sleep_for_entry(deadline)]
            if max_items > 1:
                entries += self._entries_now(max_items - 1)
        return self._let_out(entries)

    # --- in an event loop -----------------------------------------------------------------------------------------

    async def aput(self, item: T, timeout: float | None = None) -> None:
        """Put ``item`` in, letting the event loop go on while it waits for room; otherwise as :meth:`put`.

        When it is cancelled, the item is not in.
        """
        deadline = deadline_after(True, timeout)
        while (is_fresh := self._permit_now()) is None:
            if not await await_turn(self._putters, self._lacks_room, deadline):
                raise self._full()
        if not self._let_in([item], [is_fresh]):
            raise self._refusal()

    async def aget(self, timeout: float | None = None) -> T:
        """Take the oldest item, letting the event loop go on while it waits for one; otherwise as :meth:`get`.

        When it is cancelled, no item was taken.
        """
        deadline = deadline_after(True, timeout)
        while not (entries := self._entry_now()):
            if not await await_turn(self._getters, self._lacks_items, deadline):
                raise self._empty()
        return self._let_out(entries)[0]

    # --- how it stands --------------------------------------------------------------------------------------------

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

    def finished(self) -> bool:
        """Return whether it was shut down and nothing is left in it."""
        if not self._is_shut_down:
            return False
        with self._gate:  # a late put may hold what is left in its hands
            return self.empty()

    def statistics(self) -> QueueStatistics:
        """Return what became of the items so far. Costs a look at a few hundred numbers, and keeps nobody waiting."""
        enqueued, current = self._accepted(), self.qsize()
        waits = self._waits.times()
        return QueueStatistics(
            enqueued=enqueued,
            dequeued=max(0, enqueued - current),
            failed_puts=self._failed_puts.count,
            failed_gets=self._failed_gets.count,
            current=current,
            peak=self._peak.count,
            timed=waits.count,
            mean_wait_s=waits.mean_s,
            p99_wait_s=waits.p99_s,
        )

    # --- the end --------------------------------------------------------------------------------------------------

    def task_done(self) -> None:
        """Say that an item that was taken has been dealt with; once for each.

        Raises:
            TaskDoneError: It was called more often than items were put.
        """
        with self._gate:
            if self._unfinished() <= 0:
                raise TaskDoneError("task_done() was called too many times; call it once for each item that was got")
            next(self._done.ticks)
        self._wake_joiners()

    def join(self) -> None:
        """Wait until ``task_done`` was called for every item that was put; at once if there was none."""
        while self._unfinished() > 0:
            sleep_until_woken(self._joiners, lambda: self._unfinished() > 0, None)

    def shutdown(self, immediate: bool = False) -> list[T]:
        """Take nothing more; everybody who waits is woken, and told so. May be called again.

        A put that is under way either is in by then, and returns, or raises.

        Args:
            immediate: Take what is in out, too, and count it as done; otherwise it can still be got.

        Returns:
            What was taken out: nothing, unless ``immediate``.
        """
        taken: list[T] = []
        with self._gate:
            self._is_shut_down = True
            if immediate:
                while entries := self._entries_now(_PERMITS_AT_ONCE):
                    self._permits.extend(repeat(False, len(entries)))
                    taken += [entry.item if type(entry) is Timed else entry for entry in entries]
                if (done := min(len(taken), self._unfinished())) > 0:
                    self._done.add(done)
        for waiters in (self._getters, self._putters):
            while wake_one(waiters):
                pass
        self._wake_joiners()
        return taken

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
            self._permits.extendleft(islice(self._unmade_permits, _PERMITS_AT_ONCE))
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

    def _sleep_for_room(self, deadline: float | None) -> bool:
        while (is_fresh := self._permit_now()) is None:
            if not sleep_until_woken(self._putters, self._lacks_room, deadline):
                raise self._full() from None
        return is_fresh

    def _sleep_for_entry(self, deadline: float | None) -> Any:
        while not (entries := self._entry_now()):
            if not sleep_until_woken(self._getters, self._lacks_items, deadline):
                raise self._empty() from None
        return entries[0]

    def _lacks_room(self) -> bool:
        return self.full() and not self._is_shut_down

    def _lacks_items(self) -> bool:
        return self.empty() and not self._is_shut_down

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


_queues: weakref.WeakSet[TaskQueue[Any]] = weakref.WeakSet()


def _go_on_in_fork() -> None:
    for queue in list(_queues):
        queue._go_on_in_fork()


os.register_at_fork(after_in_child=_go_on_in_fork)
