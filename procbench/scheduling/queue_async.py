"""Who waits at a queue, in a coroutine: it stands in the same line as the threads, and only the sleeping differs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from procbench.scheduling.waiters import Waiters, seconds_left, withdraw


class LoopWaiter:
    """A coroutine that waits, whom any thread or signal handler may wake.

    Args:
        loop: Its event loop.
    """

    __slots__ = ("_loop", "woken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.woken: asyncio.Future[bool] = loop.create_future()

    def release(self) -> None:
        """Wake it, once.

        Raises:
            RuntimeError: Its event loop is closed.
        """
        self._loop.call_soon_threadsafe(self.settle, True)

    def settle(self, woken: bool) -> None:
        """End the waiting, in the loop's thread: by a wake-up, or because the time is up."""
        if not self.woken.done():
            self.woken.set_result(woken)


async def await_turn(waiters: Waiters, lacking: Callable[[], object], deadline: float | None) -> bool:
    """Wait in the line until woken; as :func:`~procbench.scheduling.waiters.sleep_until_woken`, for a coroutine.

    A wait that is cancelled, times out, or is collected with its closed loop leaves the line, and passes a wake-up on that
    was meant for it.
    """
    left_s = None if deadline is None else seconds_left(deadline)
    if left_s == 0:
        return False
    loop = asyncio.get_running_loop()
    waiter = LoopWaiter(loop)
    timer = None if left_s is None else loop.call_later(left_s, waiter.settle, False)
    woken = False
    try:
        waiters.append(waiter)
        if lacking():
            woken = await waiter.woken
    finally:
        if timer is not None:
            timer.cancel()
        if not woken:
            withdraw(waiter, waiters)
    return True
