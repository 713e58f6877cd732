"""The writing that never waits: what waits to go into a child's pipe, in its order, by as few system calls as it takes."""

from __future__ import annotations

import errno
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Final

from procbench import linux
from procbench.io.pipes import Pipes

# Buffers that one writev(2) is given; far below IOV_MAX.
_PIECES_AT_ONCE: Final = 32
# What one event writes before the loop's other work gets its turn.
_WRITES_AT_ONCE: Final = 16
_FILE_BYTES_AT_ONCE: Final = 0x7FFF_F000
_NOT_THIS_WAY: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class SentFile:
    """An open file that is being sent.

    Attributes:
        fd: Its descriptor.
        left: How many more bytes to send at most; ``None`` for all.
        sent: How many it was so far.
        by_kernel: Whether the kernel moves them by itself.
        error: Why it could not be read on.
    """

    __slots__ = ("by_kernel", "error", "fd", "left", "sent")

    def __init__(self, fd: int, left: int | None) -> None:
        self.fd = fd
        self.left = left
        self.sent = 0
        self.by_kernel = True
        self.error: OSError | None = None

    def next_bytes(self) -> int:
        """Return how many bytes to move now."""
        return _FILE_BYTES_AT_ONCE if self.left is None else min(self.left, _FILE_BYTES_AT_ONCE)

    def moved(self, count: int) -> None:
        """Note that so many bytes went; 0 is the file's end."""
        self.sent += count
        if not count:
            self.left = 0
        elif self.left is not None:
            self.left -= count


class Sink:
    """A pipe that a child reads from, and what is still to go there: a batch, then a file, then the queue. Not thread-safe.

    Args:
        pipes: Whose ``stdin_fd`` it is.
        file_bytes: How much of a file is copied at a time where the kernel cannot move it by itself.

    Attributes:
        batch: The caller's memory.
        file: A file that is being sent.
        queued_bytes: How many bytes stand in the queue, which are copies.
        sent_bytes: What the pipe has taken so far.
        broken: Whether nobody reads any more; the pipe is to be closed then.
    """

    __slots__ = ("_file_bytes", "_pipes", "_queue", "batch", "broken", "file", "queued_bytes", "sent_bytes")

    def __init__(self, pipes: Pipes, file_bytes: int) -> None:
        self.batch: deque[memoryview] = deque()
        self.file: SentFile | None = None
        self.queued_bytes = self.sent_bytes = 0
        self.broken = False
        self._queue: deque[memoryview] = deque()
        self._pipes = pipes
        self._file_bytes = file_bytes

    @property
    def fd(self) -> int:
        """The descriptor, or -1 once it is closed."""
        return self._pipes.stdin_fd

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not (self.batch or self.file or self._queue)

    def add(self, data: memoryview) -> None:
        """Write what the pipe takes now, if nothing waits, and queue a copy of the rest."""
        if data.nbytes and self.idle:
            data = data[self._writev([data]) or 0 :]
        if data.nbytes and not self.broken:
            self._queue.append(memoryview(bytes(data)))
            self.queued_bytes += data.nbytes

    def drop(self) -> None:
        """Forget what waits."""
        self.drop_sent()
        self._queue.clear()
        self.queued_bytes = 0

    def drop_sent(self) -> None:
        """Forget the batch and the file."""
        self.batch.clear()
        self.file = None

    def move(self) -> None:
        """Write what the pipe takes now."""
        for _ in range(_WRITES_AT_ONCE):
            if self.broken or not self._move_next():
                return

    def _move_next(self) -> bool:
        """Write some of what is to go next; return whether something went."""
        if self.batch:
            return self._move_pieces(self.batch)
        if self.file is not None:
            return self._move_file(self.file)
        return self._move_pieces(self._queue)

    def _move_pieces(self, source: deque[memoryview]) -> bool:
        if not source:
            return False
        taken = self._writev([source[place] for place in range(min(len(source), _PIECES_AT_ONCE))])
        if taken is None:
            return False
        if source is self._queue:
            self.queued_bytes -= taken
        while taken:
            if taken < source[0].nbytes:
                source[0] = source[0][taken:]
                break
            taken -= source.popleft().nbytes
        return True

    def _move_file(self, file: SentFile) -> bool:
        try:
            count = file.next_bytes()
            if not count:
                self.file = None
                return True
            if file.by_kernel:
                moved = self._moved(lambda: os.sendfile(self.fd, file.fd, None, count))
                if moved is None:
                    return False
            else:
                data = os.read(file.fd, min(count, self._file_bytes))
                moved = len(data)
                if data:
                    self.batch.append(memoryview(data))  # goes at the next turn, before more of the file
            file.moved(moved)
        except OSError as error:
            if file.by_kernel and error.errno in _NOT_THIS_WAY:
                file.by_kernel = False
            else:
                file.error, self.file = error, None
        return True

    def _writev(self, pieces: list[memoryview]) -> int | None:
        return self._moved(lambda: os.writev(self.fd, pieces))

    def _moved(self, call: Callable[[], int]) -> int | None:
        """Return how many bytes the pipe took; ``None`` where it has no room, or is broken."""
        try:
            if signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL:  # Python ignores it at start, but a program may not
                with linux.sigpipe_blocked():
                    moved = call()
            else:
                moved = call()
        except BlockingIOError:
            return None
        except BrokenPipeError:
            self.broken = True
            self.drop()
            return None
        self.sent_bytes += moved
        return moved
