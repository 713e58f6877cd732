"""Take what a child writes, to the end, straight to where it shall be: into a mapping, or into a file without passing by.

One system call fills all the room there is; nothing is read into a buffer first. What does not fit any more is read, counted
and dropped, so that the child does not stop.
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


class MappingDrain:
    """The read end of a pipe that a child writes to, and the mapping that takes it in.

    Not thread-safe.

    Args:
        fd: A read end that does not block; closed at end of file.
        into: Where the bytes go, from its beginning; ``None`` for an anonymous mapping that grows.
        max_bytes: Most bytes to keep; ``None`` for all that fit.

    Attributes:
        fd: The descriptor, or -1 once closed.
        transport: ``readv``, or ``read`` once that was left.
        total_bytes: What came so far.
        kept_bytes: How much of it was kept.

    Raises:
        MappingLentError: A pipe still has the mapping's bytes.
        MappingSealedError: It cannot be written to.
    """

    def __init__(self, fd: int, into: MemoryMapping | None, max_bytes: int | None = None) -> None:
        self.fd = fd
        self.transport = "readv"
        self.total_bytes = self.kept_bytes = 0
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

    def pull(self) -> None:
        """Take what is there, and close the pipe at its end."""
        room = min(self._room(), self._piece_bytes)
        if room and self.kept_bytes:
            # A pipe's load of pages at a time, for then their zeros are still in the cache when they are read into. Not for
            # the first load: most outputs are much smaller.
            self._mapping.populate(self.kept_bytes + room)
        try:
            if room:
                with self._mapping.writing() as view, view[self.kept_bytes : self.kept_bytes + room] as place:
                    count = self._take(place)
            else:
                count = len(os.read(self.fd, _CHUNK_BYTES))
        except BlockingIOError:
            return
        except OSError as error:
            if self.transport == "readv" and error.errno in _NOT_THIS_WAY:
                self.transport = "read"
                return
            raise
        self.total_bytes += count
        if room:
            self.kept_bytes += count
        if count == 0:
            self.close()

    def _take(self, place: memoryview) -> int:
        if self.transport == "readv":
            return os.readv(self.fd, [place])
        data = os.read(self.fd, min(_CHUNK_BYTES, len(place)))
        place[: len(data)] = data
        return len(data)

    def _room(self) -> int:
        most = self._most
        if most is not None and self.kept_bytes >= most:
            return 0
        size = self._mapping.size_bytes
        if self._growing and self.kept_bytes == size:
            self._mapping.resize(2 * size)
            size *= 2
        return (size if most is None else min(size, most)) - self.kept_bytes

    def close(self) -> None:
        """Close the descriptor; harmless when closed already."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            linux.close_now(fd)

    def mapping(self) -> MemoryMapping:
        """Return the mapping that holds what was kept, and nothing else."""
        return self._mapping[: self.kept_bytes]


class FileDrain:
    """The read end of a pipe that a child writes to, and the file that takes it in, page by page, by splice(2).

    Where the file cannot be spliced to (opened for appending, or a file system that does not offer it) it is read and
    written. Not thread-safe.

    Args:
        fd: A read end that does not block; closed at end of file.
        into: Descriptor of a file, written to from its current offset; left open.
        max_bytes: Most bytes to keep; ``None`` keeps all.

    Attributes:
        fd: The descriptor, or -1 once closed.
        transport: ``splice``, or ``read`` once that was left.
        total_bytes: What came so far.
        kept_bytes: How much of it was kept.
    """

    def __init__(self, fd: int, into: int, max_bytes: int | None = None) -> None:
        self.fd = fd
        self.transport = "splice"
        self.total_bytes = self.kept_bytes = 0
        self._into = into
        self._most = max_bytes

    def pull(self) -> None:
        """Take what is there, and close the pipe at its end.

        Raises:
            OSError: The file could not be written (ENOSPC, EDQUOT, EIO); ``kept_bytes`` is what it took.
        """
        room = _MOST_AT_ONCE if self._most is None else min(_MOST_AT_ONCE, self._most - self.kept_bytes)
        try:
            if room and self.transport == "splice":
                count = os.splice(self.fd, self._into, room, flags=os.SPLICE_F_NONBLOCK)
            else:
                count = self._copy(min(_CHUNK_BYTES, room) if room else 0)
        except BlockingIOError:
            return
        except OSError as error:
            if self.transport == "splice" and error.errno in _NOT_THIS_WAY:
                self.transport = "read"
                return
            raise
        self.total_bytes += count
        if room:
            self.kept_bytes += count
        if count == 0:
            self.close()

    def _copy(self, most: int) -> int:
        data = os.read(self.fd, most or _CHUNK_BYTES)
        rest = memoryview(data) if most else memoryview(b"")
        while rest:
            rest = rest[os.write(self._into, rest) :]
        return len(data)

    def close(self) -> None:
        """Close the descriptor; harmless when closed already."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            linux.close_now(fd)
