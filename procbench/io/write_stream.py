"""What a child reads, for coroutines: written straight from the caller's memory when the pipe has room."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from procbench import linux
from procbench.errors import ClosedError, InvalidInputError, StreamBrokenError, StreamBusyError
from procbench.io.pipes import Pipes
from procbench.io.reactor import TURNS_AT_ONCE, WRITE, Reactor
from procbench.io.sink import SentFile, Sink
from procbench.memory.buffers import BufferPool
from procbench.memory.lease import PooledBuffer

Bytes = bytes | bytearray | memoryview | PooledBuffer

LOW_WATER_BYTES: Final = 64 * 1024
"""``drain`` returns when no more than this waits to be written."""


class WriteStream:
    """What a child reads, for coroutines of one event loop; ``asyncio.StreamWriter``'s methods mean what they mean there.

    Bytes go in the order in which they were given: what ``batch_write`` and ``send_file`` send goes behind what was written
    before, and what is written meanwhile goes behind that.

    Args:
        pipes: Whose ``stdin_fd`` it writes to, and closes.
        reactor: The event loop's.
        file_bytes: How much of a file is copied at a time where the kernel cannot move it by itself.
        pool: What ``acquire_nowait`` lends from.
        hold: What must live as long as somebody may write.
    """

    def __init__(
        self, pipes: Pipes, reactor: Reactor, file_bytes: int, pool: Callable[[], BufferPool], hold: object
    ) -> None:
        self._pipes = pipes
        self._reactor = reactor
        self._sink = Sink(pipes, file_bytes)
        self._pool = pool
        self._hold = hold
        self._sending = self._closing = False
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._turns = TURNS_AT_ONCE

    # --- as asyncio.StreamWriter's -------------------------------------------------------------------------------------

    def write(self, data: Bytes) -> None:
        """Write what the pipe takes now, and copy the rest, to be written when it has room; ``drain`` waits for that.

        Raises:
            ClosedError: The stream was closed.
            StreamBrokenError: The child closed its end.
        """
        self._check_open()
        self._sink.add(_view(data))
        self._go_on()

    def writelines(self, lines: Iterable[Bytes]) -> None:
        """Write one after the other; as :meth:`write`."""
        for line in lines:
            self.write(line)

    async def drain(self) -> None:
        """Wait while more than 64 KiB wait to be written.

        Raises:
            StreamBrokenError: The child closed its end before it had everything.
        """
        await self._until(lambda: self._sink.queued_bytes <= LOW_WATER_BYTES)

    def is_closing(self) -> bool:
        """Return whether it was closed, or the child closed its end."""
        return self._closing or self._fd < 0

    def close(self) -> None:
        """Write no more; what was given before still goes, then the child sees the end. Harmless when closed already."""
        self._closing = True
        self._go_on()

    def is_broken(self) -> bool:
        """Return whether the child closed its end before it had everything."""
        return self._sink.broken

    async def wait_closed(self) -> None:
        """Wait until it is closed, with everything written or the child's end closed."""
        if self._fd >= 0:
            await self._wait(lambda: False)

    # --- what it has besides --------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Wait until the pipe has taken everything; otherwise as :meth:`drain`."""
        await self._until(lambda: self._sink.idle)

    async def batch_write(self, buffers: Sequence[Bytes]) -> int:
        """Write many buffers by as few system calls as the pipe allows, without a copy, and wait until it has taken all.

        The buffers must not change meanwhile; afterwards, also when this is cancelled, nothing refers to them any more.

        Args:
            buffers: Bytes-like objects or pooled buffers, which stay the caller's.

        Returns:
            How many bytes they were.

        Raises:
            ClosedError: The stream was closed.
            StreamBrokenError: The child closed its end before it had everything; ``sent_bytes`` is what the pipe took.
            StreamBusyError: Another batch, or a file, is being sent.
        """
        views = [view for view in map(_view, buffers) if view.nbytes]
        total = sum(view.nbytes for view in views)
        try:
            async with self._sender():
                self._sink.batch.extend(views)
                self._sink.move()
                await self._until(lambda: not self._sink.batch)
        finally:
            for view in views:
                view.release()
        return total

    async def send_file(self, fd: int, count: int | None = None) -> int:
        """Send an open file from its current offset, by the kernel alone where it can (sendfile(2)).

        Args:
            fd: The file's descriptor.
            count: Most bytes; ``None`` for all until its end.

        Returns:
            How many bytes went.

        Raises:
            ClosedError: The stream was closed.
            StreamBrokenError: The child closed its end before it had everything.
            StreamBusyError: A batch, or another file, is being sent.
            OSError: The file cannot be read.
        """
        async with self._sender():
            file = self._sink.file = SentFile(fd, count)
            self._sink.move()
            await self._until(lambda: self._sink.file is None and not self._sink.batch)
        if file.error is not None:
            raise file.error
        return file.sent

    def acquire_nowait(self) -> PooledBuffer:
        """Return a buffer of the I/O pool to fill and to give to ``batch_write``; the caller releases it.

        Raises:
            PoolExhaustedError: All are out.
        """
        return self._pool().acquire_nowait()

    # --- what its process says --------------------------------------------------------------------------------------

    def detach(self) -> int:
        """Give the descriptor away, and take no more.

        Raises:
            ClosedError: The stream was closed.
            StreamBusyError: Something is still being sent.
        """
        self._check_open()
        if not self._sink.idle:
            raise StreamBusyError("standard input is still being written to; await its flush() first")
        fd, self._pipes.stdin_fd = self._fd, -1
        self._reactor.forget(fd)
        self._closing = True
        self._wake()
        return fd

    def child_has_gone(self) -> None:
        """Take no more, and tell whoever waits: nobody reads any longer."""
        if self._fd >= 0:
            self._sink.broken = True
            self._go_on()

    # --- underneath ----------------------------------------------------------------------------------------------------

    @property
    def sent_bytes(self) -> int:
        """What the pipe has taken so far."""
        return self._sink.sent_bytes

    @property
    def _fd(self) -> int:
        return self._pipes.stdin_fd

    def _check_open(self) -> None:
        self._check_whole()
        if self._closing:
            raise ClosedError("standard input was closed; nothing can be written to it")

    def _check_whole(self) -> None:
        if self._sink.broken:
            reason = "the child closed its standard input, or ended, before it had everything"
            raise StreamBrokenError(errno.EPIPE, reason, self.sent_bytes)

    @contextlib.asynccontextmanager
    async def _sender(self) -> AsyncIterator[None]:
        self._check_open()
        if self._sending:
            raise StreamBusyError("another coroutine sends a batch or a file now; let it finish, or use a lock")
        self._sending = True
        try:
            await self._until(lambda: self._sink.idle)
            self._check_open()
            yield
        finally:
            self._sending = False
            self._sink.drop_sent()
            self._go_on()

    async def _until(self, done: Callable[[], bool]) -> None:
        """Wait until ``done``, or until the pipe is closed."""
        self._turns -= 1
        if self._turns <= 0:  # the loop's other work gets its turn though the pipe always has room
            self._turns = TURNS_AT_ONCE
            await asyncio.sleep(0)
        self._go_on()
        if self._fd >= 0 and not done():
            self._turns = TURNS_AT_ONCE
            await self._wait(done)
        self._check_whole()

    async def _wait(self, done: Callable[[], bool]) -> None:
        waiter = (done, self._reactor.loop.create_future())
        self._waiters.append(waiter)
        self._go_on()
        try:
            await waiter[1]
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        for waiter in list(self._waiters):
            if self._fd < 0 or waiter[0]():
                self._waiters.remove(waiter)
                if not (waiter[1].done() or self._reactor.loop.is_closed()):
                    waiter[1].set_result(None)

    def _go_on(self) -> None:
        """See to it that the rest goes too, and that what was closed is closed when all of it is gone."""
        if self._fd < 0:
            return
        if self._sink.broken:
            self._sink.drop()
            self._close_now()
        elif not self._sink.idle:
            this = weakref.ref(self)  # the reactor must not keep what everybody else has forgotten
            self._reactor.arm(self._fd, WRITE, lambda: _pump(this))
        elif self._closing:
            self._close_now()

    def _close_now(self) -> None:
        if self._fd >= 0:
            fd, self._pipes.stdin_fd = self._fd, -1
            self._reactor.forget(fd)
            linux.close_now(fd)
        self._closing = True
        self._wake()


def _pump(stream: weakref.ref[WriteStream]) -> None:
    this = stream()
    if this is not None:
        this._sink.move()
        this._wake()
        this._go_on()


def _view(data: Bytes) -> memoryview:
    if isinstance(data, PooledBuffer):
        return data.view.cast("B")
    try:
        return memoryview(data).cast("B")
    except TypeError as error:
        raise InvalidInputError(f"{type(data).__name__} is not bytes; encode text first") from error
