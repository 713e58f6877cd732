"""One child's pipes: both ends of each, opened together and closed whatever happens."""

from __future__ import annotations

import ctypes

from procbench import linux
from procbench.io.intake import Intake
from procbench.io.keep import Keep, keeper
from procbench.io.order import CAPTURE, PIPED, Data, Order
from procbench.memory.feed import Feed
from procbench.memory.lease import PooledBuffer
from procbench.memory.mapping import MemoryMapping
from procbench.memory.transports import HANDED_OVER, Transport, feed, prefer

# Places in the array that poll(2) looks at. A child without pipes needs only the first two.
EXIT, WAKE, OUT, ERR, IN = range(5)


class Pipes:
    """The parent's and the child's ends of one child's pipes; all of them are closed whatever happens."""

    feed: Feed | None = None
    stdin_fd = -1
    out: Intake | None = None
    err: Intake | None = None
    transport: Transport | None = None
    pipe_size_bytes: int | None = None

    def __init__(self) -> None:
        self._read_ends: list[int] = []
        self._write_ends: list[int] = []

    def open(self, order: Order) -> tuple[int | None, int | None, int | None]:
        """Open what a child needs, and return what it gets; a stream that is no pipe is left as it is.

        With ``stdin=CAPTURE`` the write end is ``stdin_fd``.
        """
        stdin, stdout, stderr, size = order.stdin, order.stdout, order.stderr, order.pipe_size_bytes
        if order.data is not None:
            stdin = self._open_input(order.data, prefer(order.data, order.transport), size)
        elif stdin == CAPTURE:
            stdin, self.stdin_fd = linux.pipe_to_child()
            self._read_ends.append(stdin)
            self._resize(self.stdin_fd, size)
        if stdout in PIPED:
            self.out, stdout = self._open_intake(_keep(order, stdout, 0), size)
        if stderr in PIPED:
            self.err, stderr = self._open_intake(_keep(order, stderr, 1), size)
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

    def _open_intake(self, keep: Keep | None, pipe_size_bytes: int | None) -> tuple[Intake, int]:
        read_end, write_end = linux.pipe_from_child()
        self._write_ends.append(write_end)
        self._resize(read_end, pipe_size_bytes)
        return Intake(read_end, keep), write_end

    def _resize(self, fd: int, pipe_size_bytes: int | None) -> None:
        if pipe_size_bytes is not None:
            size = linux.resize_pipe(fd, pipe_size_bytes)
            self.pipe_size_bytes = min(size, self.pipe_size_bytes or size)

    def smallest_pipe_bytes(self) -> int | None:
        """Return what the smallest of the pipes holds for which a size was asked; ``None`` if there is none."""
        if self.pipe_size_bytes is None and self.feed is None:
            return None  # as nearly always
        sizes = (self.pipe_size_bytes, self.feed.pipe_size_bytes if self.feed is not None else None)
        return min((size for size in sizes if size is not None), default=None)

    @property
    def reading(self) -> bool:
        """Whether a pipe from the child that is kept is still open."""
        out, err = self.out, self.err
        return (out is not None and out.fd >= 0 and out.keep is not None) or (
            err is not None and err.fd >= 0 and err.keep is not None
        )

    @property
    def must_end(self) -> bool:
        """Whether a stream went over its cap, and the child is to be ended for that."""
        return (self.out is not None and self.out.must_end) or (self.err is not None and self.err.must_end)

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
        self.let_go()
        if self.feed is not None:
            self.feed.close()
        for end in (self.out, self.err):
            if end is not None and end.fd >= 0:
                end.drain(buffer)

    def let_go(self) -> None:
        """Close the ends that the child writes to, here, so that its own closing is seen."""
        _close_all(self._write_ends)

    def close(self) -> None:
        """Close every end; harmless when closed already."""
        _close_all(self._read_ends)
        _close_all(self._write_ends)
        for end in (self.feed, self.out, self.err):
            if end is not None:
                end.close()
        if self.stdin_fd >= 0:
            fd, self.stdin_fd = self.stdin_fd, -1
            linux.close_now(fd)
        if self.feed is not None:
            self.feed.settle()


def _close_all(ends: list[int]) -> None:
    while ends:
        linux.close_now(ends.pop())


def _keep(order: Order, stream: int | None, which: int) -> Keep | None:
    if order.streamed and stream == CAPTURE:
        return None
    return keeper(order.limits.max_output_bytes, order.limits.overflow, order.tees[which])
