"""What passes through a child's pipes: kept up to a cap and counted to the end, or fed until nobody reads."""

from __future__ import annotations

import ctypes
from typing import Final

from procbench import linux
from procbench.memory.feed import Feed
from procbench.memory.lease import PooledBuffer
from procbench.memory.mapping import MemoryMapping
from procbench.memory.transports import HANDED_OVER, Transport, feed, prefer

CAPTURE: Final = -1
"""Read the child's stream through a pipe; the number is ``subprocess.PIPE``."""

Data = bytes | bytearray | memoryview | MemoryMapping
"""What a child's standard input can be made of."""

# Places in the array that poll(2) looks at. A child without pipes needs only the first two.
EXIT, WAKE, OUT, ERR, IN = range(5)

# So many buffers from one stream before the other streams, and the clock, get their turn.
_READS_AT_ONCE = 16


class Intake:
    """The read end of a pipe that a child writes to.

    The first ``cap_bytes`` are kept, the rest is read and dropped, so that a chatty child neither stops nor fills memory.

    Args:
        fd: A read end that does not block; closed at end of file.
        cap_bytes: Most bytes to keep; ``None`` keeps all.

    Attributes:
        fd: The descriptor, or -1 once closed.
        total_bytes: What the child has written so far, kept or not.
    """

    __slots__ = ("_kept", "_room", "fd", "total_bytes")

    def __init__(self, fd: int, cap_bytes: int | None) -> None:
        self.fd = fd
        self.total_bytes = 0
        self._kept = bytearray()
        self._room = cap_bytes

    def drain(self, buffer: PooledBuffer) -> None:
        """Take what is there, a few buffers at most, and close the descriptor at end of file."""
        address, size_bytes = buffer.address, buffer.size_bytes
        for _ in range(_READS_AT_ONCE):
            count = linux.read_now(self.fd, address, size_bytes)
            if count <= 0:
                if count == 0:
                    self.close()
                return  # below zero nothing is there yet (EAGAIN, EINTR): poll will say when
            self.total_bytes += count
            self._keep(buffer, count)
            if count < size_bytes:
                return

    def _keep(self, buffer: PooledBuffer, count: int) -> None:
        if self._room is not None:
            count = min(count, self._room)
            self._room -= count
        if count:  # into one growing array: a child that writes byte by byte must not cost an object for each
            self._kept += buffer.view[:count]

    def value(self) -> bytes:
        """Return what was kept."""
        return bytes(self._kept)

    @property
    def cut(self) -> bool:
        """Whether the child wrote more than was kept."""
        return self.total_bytes > len(self._kept)

    def close(self) -> None:
        """Close the descriptor; harmless when closed already."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            linux.close_now(fd)


class Pipes:
    """The parent's and the child's ends of one child's pipes; all of them are closed whatever happens."""

    feed: Feed | None = None
    out: Intake | None = None
    err: Intake | None = None
    transport: Transport | None = None
    pipe_size_bytes: int | None = None

    def __init__(self) -> None:
        self._read_ends: list[int] = []
        self._write_ends: list[int] = []

    def open(
        self,
        data: Data | None,
        stdin: int | None,
        stdout: int | None,
        stderr: int | None,
        cap_bytes: int | None,
        transport: Transport = "auto",
        pipe_size_bytes: int | None = None,
    ) -> tuple[int | None, int | None, int | None]:
        """Open what a child with these streams needs and return what it gets; a stream that is no pipe is left as it is."""
        if data is not None:
            stdin = self._open_input(data, prefer(data, transport), pipe_size_bytes)
        if stdout == CAPTURE:
            self.out, stdout = self._open_intake(cap_bytes, pipe_size_bytes)
        if stderr == CAPTURE:
            self.err, stderr = self._open_intake(cap_bytes, pipe_size_bytes)
        return stdin, stdout, stderr

    def _open_input(self, data: Data, way: Transport, pipe_size_bytes: int | None) -> int:
        if way in HANDED_OVER and isinstance(data, MemoryMapping):
            try:
                stdin = data.read_fd()
            except PermissionError:  # a file that was opened for this process, which may not open it again
                way = "splice"
            else:
                self.transport = way
                self._read_ends.append(stdin)
                return stdin
        stdin, write_end = linux.pipe_to_child()
        self._read_ends.append(stdin)
        try:
            self.feed = feed(write_end, data, way, pipe_size_bytes)
        except BaseException:
            linux.close_now(write_end)
            raise
        return stdin

    def _open_intake(self, cap_bytes: int | None, pipe_size_bytes: int | None) -> tuple[Intake, int]:
        read_end, write_end = linux.pipe_from_child()
        self._write_ends.append(write_end)
        if pipe_size_bytes is not None:
            size = linux.resize_pipe(read_end, pipe_size_bytes)
            self.pipe_size_bytes = min(size, self.pipe_size_bytes or size)
        return Intake(read_end, cap_bytes), write_end

    def smallest_pipe_bytes(self) -> int | None:
        """Return what the smallest of the pipes holds for which a size was asked; ``None`` if there is none."""
        sizes = (self.pipe_size_bytes, self.feed.pipe_size_bytes if self.feed is not None else None)
        return min((size for size in sizes if size is not None), default=None)

    @property
    def reading(self) -> bool:
        """Whether a pipe from the child is still open."""
        return (self.out is not None and self.out.fd >= 0) or (self.err is not None and self.err.fd >= 0)

    def show_to(self, polled: ctypes.Array[linux.PollFd]) -> None:
        """Name the open ends in poll's array; a closed one is -1, which poll passes over."""
        polled[OUT].fd = self.out.fd if self.out is not None else -1
        polled[ERR].fd = self.err.fd if self.err is not None else -1
        polled[IN].fd = self.feed.fd if self.feed is not None else -1

    def move(self, polled: ctypes.Array[linux.PollFd], buffer: PooledBuffer) -> None:
        """Take and give what poll said is possible."""
        if self.out is not None and polled[OUT].revents:
            self.out.drain(buffer)
        if self.err is not None and polled[ERR].revents:
            self.err.drain(buffer)
        if self.feed is not None and polled[IN].revents:
            self.feed.push()

    def child_has_started(self) -> None:
        """Close the child's end of the pipe to it, so that its closing that end is seen here.

        The ends that it writes to stay open here until it has ended: then one wake-up tells of its end, where the pipes'
        own end, a few microseconds earlier, would cost another.
        """
        _close_all(self._read_ends)

    def child_has_ended(self, buffer: PooledBuffer) -> None:
        """Take what it left behind; a pipe that a descendant holds stays open."""
        _close_all(self._write_ends)
        if self.feed is not None:
            self.feed.close()
        for end in (self.out, self.err):
            if end is not None and end.fd >= 0:
                end.drain(buffer)

    def close(self) -> None:
        """Close every end; harmless when closed already."""
        _close_all(self._read_ends)
        _close_all(self._write_ends)
        for end in (self.feed, self.out, self.err):
            if end is not None:
                end.close()
        if self.feed is not None:
            self.feed.settle()


def _close_all(ends: list[int]) -> None:
    while ends:
        linux.close_now(ends.pop())
