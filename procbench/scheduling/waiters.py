"""Who waits at a queue, in a thread: a line of locks that are opened one by one, without a wake-up lost or wasted."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from procbench.memory import checks


class Waiter(Protocol):
    """Somebody who waits: a thread's locked lock, or a coroutine's :class:`~procbench.scheduling.queue_async.LoopWaiter`."""

    def release(self) -> None:
        """Wake it, once.

        Raises:
            RuntimeError: It cannot be woken any more, because its event loop is closed.
        """


Waiters = deque[Waiter]


def sleep_until_woken(waiters: Waiters, lacking: Callable[[], object], deadline: float | None) -> bool:
    """Sleep in the line until woken; return whether to try again (False: the time was up, and trying again was no use).

    Whoever must wait stands in the line first and looks once more only then: what came in between is seen by that look,
    and who brings something later finds the lock and opens it.

    Args:
        waiters: The line.
        lacking: Whether what is waited for is still not there.
        deadline: Until when to sleep, on ``time.monotonic()``'s clock; ``None`` for as long as it takes.
    """
    if deadline is not None and time.monotonic() >= deadline:
        return False
    lock = threading.Lock()
    lock.acquire()
    woken = False
    try:
        waiters.append(lock)
        if lacking():
            woken = lock.acquire(timeout=-1 if deadline is None else seconds_left(deadline))
    finally:
        # Whoever was woken tries again, and must not wake the next: that one would wake another in turn.
        if not woken:
            withdraw(lock, waiters)
    return True


def withdraw(waiter: Waiter, waiters: Waiters) -> None:
    """Leave the line. Who was woken but does not need it any more passes the wake-up on, so that none is lost."""
    try:
        waiters.remove(waiter)
    except ValueError:
        wake_one(waiters)


def wake_one(waiters: Waiters) -> bool:
    """Wake who has waited longest; return whether anybody waited."""
    while True:
        try:
            waiter = waiters.popleft()
        except IndexError:
            return False
        try:
            waiter.release()
        except RuntimeError:  # its event loop is closed: nobody waits there any more
            continue
        return True


def wake(waiters: Waiters, most: int) -> None:
    """Wake up to ``most``, who has waited longest first."""
    for _ in range(most):
        if not waiters or not wake_one(waiters):
            return


def deadline_after(block: bool, timeout: float | None) -> float | None:
    """Return until when to wait, on ``time.monotonic()``'s clock; 0 for not at all, ``None`` for as long as it takes.

    Raises:
        InvalidInputError: ``timeout`` is no finite number of at least 0.
    """
    checks.timeout(timeout)
    if not block:
        return 0.0
    return None if timeout is None else time.monotonic() + timeout


def seconds_left(deadline: float) -> float:
    """Return how long it is until ``deadline``, in seconds that a lock can wait for."""
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
