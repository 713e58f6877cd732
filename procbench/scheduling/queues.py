"""A bounded queue without a lock of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import repeat
from typing import Generic, TypeVar

from procbench.errors import InvalidInputError, QueueEmptyError, QueueFullError, QueueShutDownError

T = TypeVar("T")


class TaskQueue(Generic[T]):
    """Bounded first-in-first-out queue for many producers and consumers, with ``queue.Queue``'s put, get and their kin.

    There is no ``task_done`` and no ``join``: a future says when its task is done. ``deque.append`` and ``popleft`` are one
    atomic call each, several times faster than a lock around them; only shutting down and putting exclude each other.
    The bound is exact all the same: a put first takes one of ``maxsize`` permits from a second deque, a get gives it
    back, so there are never more items than permits. Who must wait leaves a locked lock in a third deque and looks once
    more before sleeping on it: a put that came in between is seen, one that comes later finds the lock and opens it.

    Args:
        maxsize: Most items that wait; at least 1.

    Attributes:
        accepted: Items that were put in so far.
    """

    mixed = False
    """Whether items may wait that are in another line than the usual one; here there is no other."""

    def __init__(self, maxsize: int) -> None:
        if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 1:
            raise InvalidInputError(
                f"maxsize is {maxsize!r}; a bounded queue holds a whole number of items, at least 1"
            )
        self.maxsize = maxsize
        self.accepted = 0
        self._items: deque[T] = deque()
        self._permits: deque[None] = deque(repeat(None, maxsize))
        self._getters: deque[threading.Lock] = deque()
        self._putters: deque[threading.Lock] = deque()
        self._is_shut_down = False
        self._gate = threading.RLock()  # re-entrant: a signal handler may put in the middle of a put

    def put_nowait(self, item: T) -> None:
        """Put ``item`` in.

        Raises:
            QueueFullError: It is at its bound.
            QueueShutDownError: It was shut down.
        """
        self._put_in(item, self._items)

    def _put_in(self, item: T, line: deque[T]) -> None:
        """Put ``item`` at the end of one of this queue's lines; here there is one."""
        if self._is_shut_down:
            raise QueueShutDownError("the queue was shut down; it takes nothing more")
        try:
            self._permits.pop()
        except IndexError:
            raise QueueFullError(f"the queue holds its {self.maxsize} items") from None
        with self._gate:  # what is in when the queue is shut down will be delivered, and nothing comes after
            accepted = not self._is_shut_down
            if accepted:
                self.accepted += 1
                line.append(item)
        if not accepted:
            self._permits.append(None)
            raise QueueShutDownError("the queue was shut down; it takes nothing more")
        if self._getters:
            wake_one(self._getters)

    def get_nowait(self) -> T:
        """Take the oldest item.

        Raises:
            QueueEmptyError: There is none.
            QueueShutDownError: There is none, and there will be none.
        """
        if self.mixed:
            return self._get_chosen()
        try:
            item = self._items.popleft()
        except IndexError:
            raise self._nothing_left() from None
        self._permits.append(None)
        if self._putters:
            wake_one(self._putters)
        return item

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put ``item`` in, waiting for room.

        Args:
            item: Anything.
            block: Whether to wait.
            timeout: Most seconds to wait; ``None`` for as long as it takes.

        Raises:
            QueueFullError: There was no room in time.
            QueueShutDownError: It was shut down, before or meanwhile.
            ValueError: ``timeout`` is negative.
        """
        deadline = deadline_after(block, timeout)
        while True:
            try:
                return self.put_nowait(item)
            except QueueFullError:
                if not self._wait(self._putters, self.full, deadline):
                    raise

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item, waiting for one.

        Args:
            block: Whether to wait.
            timeout: Most seconds to wait; ``None`` for as long as it takes.

        Raises:
            QueueEmptyError: There was none in time.
            QueueShutDownError: There is none, and there will be none.
            ValueError: ``timeout`` is negative.
        """
        deadline = deadline_after(block, timeout)
        while True:
            try:
                return self.get_nowait()
            except QueueEmptyError:
                if not self._wait(self._getters, self.empty, deadline):
                    raise

    def qsize(self) -> int:
        """Return how many items wait at the moment."""
        return len(self._items)

    def empty(self) -> bool:
        """Return whether no item waits at the moment."""
        return not self._items

    def full(self) -> bool:
        """Return whether a put would have to wait at the moment."""
        return not self._permits

    def finished(self) -> bool:
        """Return whether it was shut down and nothing is left in it."""
        return self._is_shut_down and self.empty()

    def _get_chosen(self) -> T:
        raise NotImplementedError  # for a queue of several lines

    def _nothing_left(self) -> QueueEmptyError | QueueShutDownError:
        if self.finished():
            return QueueShutDownError("the queue was shut down and is empty")
        return QueueEmptyError("the queue is empty")

    def shutdown(self) -> None:
        """Take nothing more; what is in can still be taken out. Everybody who waits is woken."""
        with self._gate:
            self._is_shut_down = True
        for waiters in (self._getters, self._putters):
            while wake_one(waiters):
                pass

    def shut_in_fork(self) -> None:
        """Take nothing more, in the child of a fork: there nobody waits, and who held the gate is gone with it held."""
        self._is_shut_down = True

    def _wait(self, waiters: deque[threading.Lock], lacking: Callable[[], bool], deadline: float | None) -> bool:
        """Sleep until woken; return whether to try again (False: the time was up, and trying again was no use)."""
        if deadline is not None and time.monotonic() >= deadline:
            return False
        lock = threading.Lock()
        lock.acquire()
        woken = False
        try:
            waiters.append(lock)
            if lacking() and not self._is_shut_down:  # nothing came between the failed try and the append
                woken = lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic()))
        finally:
            if (
                not woken
            ):  # whoever was woken tries again, and must not wake the next: that one would wake another in turn
                _withdraw(lock, waiters)
        return True


def _withdraw(lock: threading.Lock, waiters: deque[threading.Lock]) -> None:
    """Leave the line. Who was woken but does not need it any more passes the wake-up on, so that none is lost."""
    try:
        waiters.remove(lock)
    except ValueError:
        wake_one(waiters)


def wake_one(waiters: deque[threading.Lock]) -> bool:
    """Wake who has waited longest; return whether anybody waited."""
    try:
        lock = waiters.popleft()
    except IndexError:
        return False
    lock.release()
    return True


def deadline_after(block: bool, timeout: float | None) -> float | None:
    """Return until when to wait, on ``time.monotonic()``'s clock; 0 for not at all, ``None`` for as long as it takes."""
    if timeout is not None and timeout < 0:
        raise ValueError("timeout must not be negative")
    if not block:
        return 0.0
    return None if timeout is None else time.monotonic() + timeout
