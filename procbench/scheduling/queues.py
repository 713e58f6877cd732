"""A bounded queue without a lock of its own, for threads and coroutines alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import repeat
from typing import Any, TypeVar

from procbench.errors import QueueFullError, QueueShutDownError, TaskDoneError
from procbench.memory import checks
from procbench.scheduling.queue_async import await_turn
from procbench.scheduling.queue_counts import TIMED_EACH, QueueStatistics, Timed
from procbench.scheduling.queue_places import PERMITS_AT_ONCE, QueuePlaces
from procbench.scheduling.waiters import deadline_after, sleep_until_woken, wake_one

T = TypeVar("T")


class TaskQueue(QueuePlaces[T]):
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
                while entries := self._entries_now(PERMITS_AT_ONCE):
                    self._permits.extend(repeat(False, len(entries)))
                    taken += [entry.item if type(entry) is Timed else entry for entry in entries]
                if (done := min(len(taken), self._unfinished())) > 0:
                    self._done.add(done)
        for waiters in (self._getters, self._putters):
            while wake_one(waiters):
                pass
        self._wake_joiners()
        return taken

    # --- waiting --------------------------------------------------------------------------------------------------

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
