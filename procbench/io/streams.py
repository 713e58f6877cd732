"""What passes through a child's pipes: kept up to a cap and counted to the end, or fed until nobody reads."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from procbench import linux
from procbench.memory.lease import PooledBuffer

CAPTURE: Final = -1
"""Read the child's stream through a pipe; the number is ``subprocess.PIPE``."""

Data = bytes | bytearray | memoryview

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
            linux.close_now(self.fd)
            self.fd = -1


class Feed:
    """The write end of a pipe that a child reads from.

    Args:
        fd: A write end that does not block; closed when all is written or nobody reads any more.
        data: What to write, as bytes. It must not change meanwhile.

    Attributes:
        fd: The descriptor, or -1 once closed.
        sent_bytes: What the pipe took so far.
        error: ``EPIPE`` if the child closed its end before it had everything, otherwise ``None``.
    """

    __slots__ = ("_data", "error", "fd", "sent_bytes")

    def __init__(self, fd: int, data: memoryview) -> None:
        self.fd = fd
        self.sent_bytes = 0
        self.error: str | None = None
        self._data = data
        if not self._data:
            self.close()

    def push(self) -> None:
        """Write what the pipe takes now. SIGPIPE must be blocked or ignored in the calling thread."""
        try:
            self.sent_bytes += os.write(self.fd, self._data[self.sent_bytes :])
        except BlockingIOError:
            return
        except OSError as error:
            self.error = errno.errorcode.get(error.errno or 0, str(error.errno))
            self.close()
            return
        if self.sent_bytes == len(self._data):
            self.close()

    def close(self) -> None:
        """Close the descriptor; harmless when closed already."""
        if self.fd >= 0:
            linux.close_now(self.fd)
            self.fd = -1


class Pipes:
    """The parent's and the child's ends of one child's pipes; all of them are closed whatever happens."""

    feed: Feed | None = None
    out: Intake | None = None
    err: Intake | None = None

    def __init__(self) -> None:
        self._child_ends: list[int] = []

    def open(
        self, data: Data | None, stdin: int | None, stdout: int | None, stderr: int | None, cap_bytes: int | None
    ) -> tuple[int | None, int | None, int | None]:
        """Open what a child with these streams needs and return what it gets; a stream that is no pipe is left as it is."""
        if data is None and CAPTURE not in (stdout, stderr):
            return stdin, stdout, stderr
        if data is not None:
            view = memoryview(data).cast("B")  # refuses text before anything is open
            stdin, write_end = linux.pipe_to_child()
            self._child_ends.append(stdin)
            self.feed = Feed(write_end, view)
        if stdout == CAPTURE:
            read_end, stdout = linux.pipe_from_child()
            self._child_ends.append(stdout)
            self.out = Intake(read_end, cap_bytes)
        if stderr == CAPTURE:
            read_end, stderr = linux.pipe_from_child()
            self._child_ends.append(stderr)
            self.err = Intake(read_end, cap_bytes)
        return stdin, stdout, stderr

    @property
    def reading(self) -> bool:
        """Whether a pipe from the child is still open."""
        return (self.out is not None and self.out.fd >= 0) or (self.err is not None and self.err.fd >= 0)

    @property
    def empty(self) -> bool:
        """Whether the child has no pipe at all."""
        return self.out is None and self.err is None and self.feed is None

    def show_to(self, polled: ctypes.Array[linux.PollFd]) -> None:
        """Name the open ends in poll's array; a closed one is -1, which poll passes over."""
        polled[OUT].fd = self.out.fd if self.out is not None else -1
        polled[ERR].fd = self.err.fd if self.err is not None else -1
        polled[IN].fd = self.feed.fd if self.feed is not None else -1

    def move(self, polled: ctypes.Array[linux.PollFd], buffer: PooledBuffer) -> None:
        """Take and give what poll said is possible.

        A child that ends closes both its outputs within a microsecond; where one is at its end, a look at the other costs
        less than going to sleep and being woken for it.
        """
        out, err = self.out, self.err
        if out is not None and polled[OUT].revents:
            out.drain(buffer)
        if err is not None and err.fd >= 0 and (polled[ERR].revents or (out is not None and out.fd < 0)):
            err.drain(buffer)
        if self.feed is not None and polled[IN].revents:
            self.feed.push()

    def close_child_ends(self) -> None:
        """Close the ends that belong to the child, once it has them."""
        while self._child_ends:
            linux.close_now(self._child_ends.pop())

    def close(self) -> None:
        """Close every end; harmless when closed already."""
        self.close_child_ends()
        for end in (self.feed, self.out, self.err):
            if end is not None:
                end.close()
