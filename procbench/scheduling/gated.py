"""A bounded queue whose puts and whose end exclude each other, for an order that must be chosen under a lock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import repeat
from typing import Generic, TypeVar

from procbench.errors import QueueEmptyError, QueueFullError, QueueShutDownError
from procbench.memory import checks
from procbench.scheduling.waiters import Waiters, deadline_after, sleep_until_woken, wake_one

T = TypeVar("T")


class GatedQueue(Generic[T]):
    """Bounded first-in-first-out queue for many producers and consumers: what the order by priority is built on.

    A put first takes one of ``maxsize`` permits from a deque, a get gives it back, so there are never more items than
    permits. Putting and shutting down exclude each other by a gate, under which an order of several lines is chosen too:
    who saw that it was shut down and empty knows that nothing comes after. :class:`~procbench.scheduling.queues.TaskQueue`
    is the one without a gate.

    Args:
        maxsize: Most items that wait; at least 1.

    Attributes:
        accepted: Items that were put in so far.
    """

    mixed = False
    """Whether items may wait that are in another line than the usual one; here there is no other."""

    def __init__(self, maxsize: int) -> None:
        self.maxsize = checks.whole("maxsize", maxsize, 1)
        self.accepted = 0
        self._items: deque[T] = deque()
        self._permits: deque[None] = deque(repeat(None, maxsize))
        self._getters: Waiters = deque()
        self._putters: Waiters = deque()
        self._is_shut_down = False
        self._gate = threading.RLock()  # re-entrant: a signal handler may put in the middle of a put

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

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item, waiting for one.

        Args:
            block: Whether to wait.
            timeout: Most seconds to wait; ``None`` for as long as it takes.

        Raises:
            QueueEmptyError: There was none in time.
            QueueShutDownError: There is none, and there will be none.
            InvalidInputError: ``timeout`` is no finite number of at least 0.
        """
        deadline = deadline_after(block, timeout)
        while True:
            try:
                return self.get_nowait()
            except QueueEmptyError:
                if not self._wait(self._getters, self.empty, deadline):
                    raise

    def empty(self) -> bool:
        """Return whether no item waits at the moment, in any line."""
        raise NotImplementedError

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

    def _wait(self, waiters: Waiters, lacking: Callable[[], bool], deadline: float | None) -> bool:
        """Sleep until woken; return whether to try again (False: the time was up, and trying again was no use)."""
        return sleep_until_woken(waiters, lambda: lacking() and not self._is_shut_down, deadline)
