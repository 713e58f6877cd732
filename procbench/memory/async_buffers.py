"""The buffer pool for coroutines: the same pool and the same line, only the waiting differs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from procbench.errors import InvalidInputError, PoolExhaustedError
from procbench.memory import checks
from procbench.memory.buffers import BufferPool, BufferPoolStatistics, wait_steps
from procbench.memory.lease import PooledBuffer


class AsyncBufferPool:
    """Lends the buffers of a :class:`BufferPool` to coroutines, while threads may use the same pool.

    Coroutines, of any event loop, and threads stand in one line and are served in order. A wait that is cancelled, or
    whose loop ends, passes on what it was given.

    Args:
        pool: The pool.

    Raises:
        InvalidInputError: ``pool`` is no :class:`BufferPool`.
    """

    def __init__(self, pool: BufferPool) -> None:
        if not isinstance(pool, BufferPool):
            raise InvalidInputError(f"{type(pool).__name__} is no BufferPool; make one and give it here")
        self.pool = pool

    async def acquire(self, timeout: float | None = None, *, size_bytes: int | None = None) -> PooledBuffer:
        """Return a buffer, and wait for one while all are out; as :meth:`BufferPool.acquire`."""
        checks.timeout(timeout)
        with contextlib.suppress(PoolExhaustedError):
            return self.pool.acquire_nowait(size_bytes=size_bytes)
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(_settle, woken)

        waiter = self.pool._enter_line(wake)
        try:
            for step_s in wait_steps(timeout):
                if (await asyncio.wait([woken], timeout=step_s))[0]:
                    break
                self.pool._reclaim_sliced()
        except BaseException:
            if not self.pool._leave_line(waiter):
                self.pool._return(waiter)
            raise
        self.pool._leave_line(waiter)
        return PooledBuffer(self.pool._got(waiter), size_bytes)

    def acquire_nowait(self, *, size_bytes: int | None = None) -> PooledBuffer:
        """Return a buffer that is free now; as :meth:`BufferPool.acquire_nowait`."""
        return self.pool.acquire_nowait(size_bytes=size_bytes)

    @contextlib.asynccontextmanager
    async def lend(self, size_bytes: int | None = None, *, timeout: float | None = None) -> AsyncIterator[memoryview]:
        """Lend a buffer's view for an ``async with`` block; slices of it must be gone at the end of the block."""
        with await self.acquire(timeout, size_bytes=size_bytes) as view:
            yield view

    def release(self, buffer: PooledBuffer) -> None:
        """Take a buffer back; as :meth:`BufferPool.release`. Never waits."""
        self.pool.release(buffer)

    def statistics(self) -> BufferPoolStatistics:
        """Return how the pool stands."""
        return self.pool.statistics()


def _settle(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
