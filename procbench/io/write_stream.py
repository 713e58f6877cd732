"""What a child reads, for coroutines: written straight from the caller's memory when the pipe has room."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from procbench import linux
from procbench.errors import ClosedError, InvalidInputError, StreamBrokenError
from procbench.io.pipes import Pipes
from procbench.io.reactor import WRITE, Reactor, Turnstile
from procbench.memory.buffers import BufferPool
from procbench.memory.lease import PooledBuffer

Bytes = bytes | bytearray | memoryview | PooledBuffer

LOW_WATER_BYTES: Final = 64 * 1024
"""``drain`` returns when no more than this waits to be written."""

# Buffers that one writev(2) is given; far below IOV_MAX.
_PIECES_AT_ONCE: Final = 32
_WRITES_AT_ONCE: Final = 16
_FILE_BYTES_AT_ONCE: Final = 0x7FFF_F000
_NOT_THIS_WAY: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class WriteStream:
    """What a child reads, for coroutines of one event loop; ``asyncio.StreamWriter``'s methods mean what they mean there.

    Args:
        pipes: Whose ``stdin_fd`` it writes to, and closes.
        reactor: The event loop's.
        file_bytes: How much of a file is copied at a time where the kernel cannot move it by itself.
        pool: What ``acquire`` lends from.
        hold: What must live as long as somebody may write.

    Attributes:
        sent_bytes: What the pipe has taken so far.
    """

    def __init__(
        self, pipes: Pipes, reactor: Reactor, file_bytes: int, pool: Callable[[], BufferPool], hold: object
    ) -> None:
        self._pipes = pipes
        self._reactor = reactor
        self._turnstile = Turnstile(reactor, WRITE, lambda: pipes.stdin_fd, "standard input")
        self._file_bytes = file_bytes
        self._pool = pool
        self._hold = hold
        self._batch: deque[memoryview] = deque()  # the caller's memory, in the order in which it goes
        self._queue: deque[memoryview] = deque()  # copies, which go after it
        self._queued_bytes = 0
        self._closing = False
        self._broken: str | None = None
        self._closed = asyncio.Event()
        self.sent_bytes = 0

    # --- as asyncio.StreamWriter's -------------------------------------------------------------------------------------

    def write(self, data: Bytes) -> None:
        """Write what the pipe takes now, and copy the rest, to be written when it has room; ``drain`` waits for that.

        Raises:
            ClosedError: The stream was closed.
            StreamBrokenError: The child closed its end.
        """
        self._check_open()
        view = _view(data)
        if not self._queue and not self._batch and view.nbytes:
            taken = self._writev([view])
            view = view[taken or 0 :]
        if view.nbytes and self._broken is None:
            self._queue.append(memoryview(bytes(view)))
            self._queued_bytes += view.nbytes
            self._flush_later()

    def writelines(self, lines: Iterable[Bytes]) -> None:
        """Write one after the other; as :meth:`write`."""
        for line in lines:
            self.write(line)

    async def drain(self) -> None:
        """Wait while more than 64 KiB wait to be written.

        Raises:
            StreamBrokenError: The child closed its end before it had everything.
        """
        await self._until(lambda: self._push() or self._queued_bytes <= LOW_WATER_BYTES)
        self._flush_later()

    def is_closing(self) -> bool:
        """Return whether it was closed, or the child closed its end."""
        return self._closing or self._fd < 0

    def close(self) -> None:
        """Write no more; what was written before still goes, then the child sees the end. Harmless when closed already."""
        self._closing = True
        if not self._queue and not self._batch:
            self._close_now()

    async def wait_closed(self) -> None:
        """Wait until it is closed, with everything written or the child's end closed."""
        await self._closed.wait()

    # --- what it has besides --------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Wait until the pipe has taken everything; otherwise as :meth:`drain`."""
        await self._until(self._push)

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
        """
        self._check_open()
        views = [view for view in map(_view, buffers) if view.nbytes]
        total = sum(view.nbytes for view in views)
        await self._until(self._push)
        self._check_open()
        self._batch.extend(views)
        try:
            await self._until(self._push)
        finally:
            self._batch.clear()
            for view in views:
                view.release()
            if self._closing and not self._queue:
                self._close_now()
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
            OSError: The file cannot be read.
        """
        self._check_open()
        await self._until(self._push)
        total, by_kernel = 0, True

        def step() -> bool:
            nonlocal total, by_kernel
            for _ in range(_WRITES_AT_ONCE):
                if not self._push():
                    return False
                left = _FILE_BYTES_AT_ONCE if count is None else count - total
                if self._fd < 0 or not left:
                    return True
                try:
                    moved = self._send(fd, left) if by_kernel else self._copy(fd, left)
                except OSError as error:
                    if not by_kernel or error.errno not in _NOT_THIS_WAY:
                        raise
                    by_kernel = False
                    continue
                if not moved:
                    return moved == 0
                total += moved
            return False

        await self._until(step)
        return total

    def acquire_nowait(self) -> PooledBuffer:
        """Return a buffer of the I/O pool to fill and to give to ``batch_write``; the caller releases it."""
        return self._pool().acquire_nowait()

    # --- what its process says --------------------------------------------------------------------------------------

    def detach(self) -> int:
        """Give the descriptor away, and take no more.

        Raises:
            ClosedError: The stream was closed.
        """
        self._check_open()
        self._turnstile.check_free()
        fd, self._pipes.stdin_fd = self._fd, -1
        self._reactor.forget(fd)
        self._closing = True
        self._closed.set()
        return fd

    def abort(self) -> None:
        """Close at once, whatever waits to be written."""
        self._closing = True
        self._queue.clear()
        self._queued_bytes = 0
        self._close_now()

    # --- underneath ----------------------------------------------------------------------------------------------------

    @property
    def _fd(self) -> int:
        return self._pipes.stdin_fd

    def _check_open(self) -> None:
        self._check_whole()
        if self._closing:
            raise ClosedError("standard input was closed; nothing can be written to it")

    def _check_whole(self) -> None:
        if self._broken is not None:
            raise StreamBrokenError(errno.EPIPE, self._broken, self.sent_bytes)

    async def _until(self, step: Callable[[], bool]) -> None:
        await self._turnstile.until(step)
        self._check_whole()

    def _push(self) -> bool:
        """Write what the pipe takes; return whether all is written, or the pipe is closed."""
        for _ in range(_WRITES_AT_ONCE):
            source = self._batch or self._queue
            if not source or self._fd < 0:
                break
            pieces = [source[place] for place in range(min(len(source), _PIECES_AT_ONCE))]
            taken = self._writev(pieces)
            if taken is None:
                return False
            if source is self._queue:
                self._queued_bytes -= taken
            while taken:
                if taken < source[0].nbytes:
                    source[0] = source[0][taken:]
                    break
                taken -= source.popleft().nbytes
        return self._fd < 0 or not (self._batch or self._queue)

    def _writev(self, pieces: list[memoryview]) -> int | None:
        """Return how many bytes the pipe took; ``None`` where it has no room, or is broken."""
        return self._moved(lambda: os.writev(self._fd, pieces))

    def _send(self, fd: int, count: int) -> int | None:
        return self._moved(lambda: os.sendfile(self._fd, fd, None, count))

    def _copy(self, fd: int, count: int) -> int | None:
        data = os.read(fd, min(count, self._file_bytes))
        taken = self._writev([memoryview(data)]) or 0
        if taken < len(data):
            self._queue.append(memoryview(data[taken:]))
        return len(data)

    def _moved(self, call: Callable[[], int]) -> int | None:
        try:
            if signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL:  # Python ignores it at start, but a program may not
                with linux.sigpipe_blocked():
                    moved = call()
            else:
                moved = call()
        except BlockingIOError:
            return None
        except BrokenPipeError:
            self._broken = "the child closed its standard input, or ended, before it had everything"
            self.abort()
            return None
        self.sent_bytes += moved
        return moved

    def _flush_later(self) -> None:
        if self._queue and self._fd >= 0:
            self._reactor.arm(self._fd, WRITE, self._flush)

    def _flush(self) -> None:
        self._turnstile.nudge()
        if not self._push():
            self._flush_later()
        elif self._closing:
            self._close_now()

    def _close_now(self) -> None:
        if self._fd >= 0:
            fd, self._pipes.stdin_fd = self._fd, -1
            self._reactor.forget(fd)
            linux.close_now(fd)
        self._closed.set()
        self._turnstile.nudge()


def _view(data: Bytes) -> memoryview:
    if isinstance(data, PooledBuffer):
        return data.view.cast("B")
    try:
        return memoryview(data).cast("B")
    except TypeError as error:
        raise InvalidInputError(f"{type(data).__name__} is not bytes; encode text first") from error
