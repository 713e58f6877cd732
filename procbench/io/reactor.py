"""What all children of one event loop share: an epoll(7) of our own inside the loop's, what starts and reaps them, a buffer.

asyncio's ``add_reader`` and ``remove_reader`` cost several microseconds of Python for each wait, and what is registered
there stays awake: a pipe that nobody reads from just now would wake the loop again and again. Here a descriptor is armed for
one event at a time (``EPOLLONESHOT``), by one system call, when somebody waits. That is what makes back-pressure free.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import weakref
from collections.abc import Callable
from typing import Final

from procbench.io.budget import shared_budget
from procbench.io.contained import ContainmentLevel
from procbench.io.starter import Starter
from procbench.memory.buffers import BufferPool
from procbench.memory.lease import PooledBuffer

READ: Final = select.EPOLLIN
"""There is something to read, or the end; a pidfd's process has ended."""

WRITE: Final = select.EPOLLOUT
"""There is room, or nobody reads any more."""

_EVENTS_AT_ONCE: Final = 256
_READ_BYTES: Final = 256 * 1024  # larger than a pipe of the usual size, smaller than a core's cache

TURNS_AT_ONCE: Final = 16
"""What goes on without waiting before the loop's other work gets its turn."""

_of: weakref.WeakValueDictionary[int, Reactor] = weakref.WeakValueDictionary()


class Reactor:
    """One event loop's children and descriptors. Used in the loop's thread only.

    The loop refers to it, and it refers to the handlers of what is armed: so it lives as long as the loop is open, and what is
    forgotten in a loop that was closed early goes with it.

    Args:
        loop: A loop that has ``add_reader``.

    Attributes:
        loop: As given.
        buffer: What output that is kept is read into, by one stream at a time.
        awaited: What some coroutine may wait for: only the loop keeps those that wait alive.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._handlers: dict[int, Callable[[], object]] = {}
        self.awaited: set[object] = set()
        self._starters: dict[ContainmentLevel, Starter] = {}
        self._pool = BufferPool(_READ_BYTES, 1, name="read buffer of an event loop")
        self._epoll = select.epoll()
        self.buffer: PooledBuffer = self._pool.acquire_nowait()
        weakref.finalize(self, _close, self._epoll, self._starters, self.buffer)
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    @classmethod
    def of_running_loop(cls) -> Reactor:
        """Return that of the loop that runs now.

        Raises:
            RuntimeError: No loop runs.
            OSError: No descriptor is left for one (EMFILE, ENFILE).
        """
        loop = asyncio.get_running_loop()
        found = _of.get(id(loop))
        if found is None or found.loop is not loop:
            found = _of[id(loop)] = cls(loop)
        return found

    def starter(self, level: ContainmentLevel) -> Starter:
        """Return what starts children that are contained like this."""
        found = self._starters.get(level)
        if found is None:
            found = self._starters[level] = Starter(level, many=True, in_loop=True, budget=shared_budget())
        return found

    def arm(self, fd: int, event: int, handler: Callable[[], object]) -> None:
        """Call ``handler`` in the loop, once, when the event is there."""
        known = fd in self._handlers
        self._handlers[fd] = handler
        (self._epoll.modify if known else self._epoll.register)(fd, event | select.EPOLLONESHOT)

    def forget(self, fd: int) -> None:
        """Call nobody for a descriptor any more; to be said before or right after it is closed. Harmless if never armed."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError, ValueError):  # closed already, which took it out
                self._epoll.unregister(fd)

    def _dispatch(self) -> None:
        ready = [fd for fd, _ in self._epoll.poll(0, _EVENTS_AT_ONCE)]
        self._call(ready)

    def _call(self, ready: list[int]) -> None:
        for place, fd in enumerate(ready):
            handler = self._handlers.get(fd)
            if handler is None:  # an earlier one of this round closed it
                continue
            try:
                handler()
            except Exception as error:
                self.loop.call_exception_handler({"message": "a child's handler raised", "exception": error})
            except BaseException:
                # An interrupt. What is ready was told once and is armed no more: it gets its turn if the loop goes on.
                self.loop.call_soon(self._call, ready[place + 1 :])
                raise


def _close(epoll: select.epoll, starters: dict[ContainmentLevel, Starter], buffer: PooledBuffer) -> None:
    epoll.close()
    for starter in starters.values():
        starter.close()
    pool = buffer.pool
    buffer.release()
    pool.close()


class Turnstile:
    """One descriptor's operation at a time: a step that is tried whenever it may get on, and the coroutine that waits for it.

    The step is called in the event's own handler, as often as it takes, so the coroutine goes on once. What a step does must
    be undone, or kept, by the coroutine if it is cancelled.

    Args:
        reactor: Whose descriptor it is.
        event: ``READ`` or ``WRITE``.
        fd: Returns the descriptor, or -1 once it is closed.
    """

    __slots__ = ("_event", "_fd", "_step", "_turns", "_waiter", "reactor")

    def __init__(self, reactor: Reactor, event: int, fd: Callable[[], int]) -> None:
        self.reactor = reactor
        self._event = event
        self._fd = fd
        self._step: Callable[[], bool] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._turns = TURNS_AT_ONCE

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return self._step is not None

    async def until(self, step: Callable[[], bool]) -> None:
        """Return once ``step`` has returned true; it is called now, and again whenever there may be something to do.

        Args:
            step: Never waits. On a descriptor that is closed it returns true.

        One coroutine at a time: not while it is ``busy``.
        """
        self._step = step
        try:
            self._turns -= 1
            if self._turns <= 0:
                self._turns = TURNS_AT_ONCE
                await asyncio.sleep(0)
            if self._attempt(step):
                return
            self._turns = TURNS_AT_ONCE
            self._waiter = self.reactor.loop.create_future()
            self.arm(self.nudge)
            await self._waiter
        finally:
            self._step = self._waiter = None

    def nudge(self) -> None:
        """Try the step now: something has changed."""
        step, waiter = self._step, self._waiter
        if step is None or waiter is None or waiter.done() or self.reactor.loop.is_closed():
            return
        try:
            done = self._attempt(step)
        except Exception as error:
            waiter.set_exception(error)
            return
        if waiter.done():  # the step closed the descriptor, which came back here
            return
        if done:
            waiter.set_result(None)
        else:
            self.arm(self.nudge)

    def _attempt(self, step: Callable[[], bool]) -> bool:
        return step() or (self._fd() < 0 and step())  # on what it has just closed there is nothing to wait for

    def arm(self, handler: Callable[[], object]) -> None:
        """Call ``handler`` once when there may be something to do; nobody, if the descriptor is closed."""
        fd = self._fd()
        if fd >= 0:
            self.reactor.arm(fd, self._event, handler)
