"""Take what a child writes, to the end, straight to where it shall be: into a mapping, or into a file without passing by.

A pipe's load at a time goes where it shall be by one system call; nothing is read into a buffer first. What does not fit any
more is read, counted and dropped, so that the child does not stop.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from procbench import linux
from procbench.memory.mapping import MemoryMapping

FIRST_BYTES: Final = 2 << 20
"""Size that a growing mapping begins with; it doubles. Pages never written to cost no memory."""

_CHUNK_BYTES: Final = 1 << 20
_MOST_AT_ONCE = 0x7FFF_F000
_NOT_THIS_WAY: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class _Drain:
    """The read end of a pipe that a child writes to: what came is kept as long as there is room, and counted to the end.

    Attributes:
        fd: The descriptor, or -1 once closed.
        transport: The system call that takes the bytes where they shall be; ``read`` once that was left.
        total_bytes: What came so far.
        kept_bytes: How much of it was kept.
    """

    def __init__(self, fd: int, transport: str) -> None:
        self.fd = fd
        self.transport = transport
        self.total_bytes = self.kept_bytes = 0

    def pull(self) -> None:
        """Take what is there, and close the pipe at its end.

        Raises:
            OSError: A file could not be written (ENOSPC, EDQUOT, EIO); ``kept_bytes`` is what it took.
        """
        room = self._room()
        try:
            count = self._take(room) if room else len(os.read(self.fd, _CHUNK_BYTES))
        except BlockingIOError:
            return
        except OSError as error:
            if self.transport != "read" and error.errno in _NOT_THIS_WAY:
                self.transport = "read"
                return
            raise
        self.total_bytes += count
        if room:
            self.kept_bytes += count
        if count == 0:
            self.close()

    def _room(self) -> int:
        """Return how many bytes may be kept of what comes next; 0 where no more are."""
        raise NotImplementedError

    def _take(self, room: int) -> int:
        """Keep what is there, at most ``room`` bytes, and return how much it was; 0 at the end."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the descriptor; harmless when closed already."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            linux.close_now(fd)


class MappingDrain(_Drain):
    """A pipe from a child, and the mapping that takes it in, by readv(2). Not thread-safe.

    Args:
        fd: A read end that does not block; closed at end of file.
        into: Where the bytes go, from its beginning; ``None`` for an anonymous mapping that grows.
        max_bytes: Most bytes to keep; ``None`` for all that fit.

    Raises:
        MappingLentError: A pipe still has the mapping's bytes.
        MappingSealedError: It cannot be written to.
    """

    def __init__(self, fd: int, into: MemoryMapping | None, max_bytes: int | None = None) -> None:
        super().__init__(fd, "readv")
        self._growing = into is None
        self._mapping = MemoryMapping.anonymous(FIRST_BYTES) if into is None else into
        self._most = self._mapping.size_bytes if into is not None else None
        self._piece_bytes = _CHUNK_BYTES
        with contextlib.suppress(OSError):  # not a pipe
            self._piece_bytes = min(_CHUNK_BYTES, linux.pipe_size(fd))
        with self._mapping.writing():
            pass  # what is lent or sealed is refused now, not when the child has begun
        if max_bytes is not None:
            self._most = max_bytes if self._most is None else min(max_bytes, self._most)

    def _room(self) -> int:
        most = self._most
        if most is not None and self.kept_bytes >= most:
            return 0
        size = self._mapping.size_bytes
        if self._growing and self.kept_bytes == size:
            self._mapping.resize(2 * size)
            size *= 2
        return min((size if most is None else min(size, most)) - self.kept_bytes, self._piece_bytes)

    def _take(self, room: int) -> int:
        end = self.kept_bytes + room
        if self.kept_bytes:
            # A pipe's load of pages at a time, for then their zeros are still in the cache when they are read into. Not for
            # the first load: most outputs are much smaller.
            self._mapping.populate(end)
        with self._mapping.writing() as view, view[self.kept_bytes : end] as place:
            if self.transport == "readv":
                return os.readv(self.fd, [place])
            data = os.read(self.fd, len(place))
            place[: len(data)] = data
            return len(data)

    def mapping(self) -> MemoryMapping:
        """Return the mapping that holds what was kept, and nothing else."""
        return self._mapping[: self.kept_bytes]


class FileDrain(_Drain):
    """A pipe from a child, and the file that takes it in, page by page, by splice(2). Not thread-safe.

    Where the file cannot be spliced to (opened for appending, or a file system that does not offer it) it is read and
    written.

    Args:
        fd: A read end that does not block; closed at end of file.
        into: Descriptor of a file, written to from its current offset; left open.
        max_bytes: Most bytes to keep; ``None`` keeps all.
    """

    def __init__(self, fd: int, into: int, max_bytes: int | None = None) -> None:
        super().__init__(fd, "splice")
        self._into = into
        self._most = max_bytes

    def _room(self) -> int:
        return _MOST_AT_ONCE if self._most is None else min(_MOST_AT_ONCE, self._most - self.kept_bytes)

    def _take(self, room: int) -> int:
        if self.transport == "splice":
            return os.splice(self.fd, self._into, room, flags=os.SPLICE_F_NONBLOCK)
        data = os.read(self.fd, min(_CHUNK_BYTES, room))
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._into, rest) :]
        return len(data)
