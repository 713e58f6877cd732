"""Give a child its standard input through a pipe, by the cheapest system call that its source allows.

``write`` copies. ``vmsplice`` puts the source's own pages into the pipe, so they are lent until the reader has taken them.
``splice`` and ``sendfile`` do that with the page cache of a file. Which of them a kernel or a source does not know is found
out once and answered by falling back to ``write``.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable
from typing import Final, Literal

from procbench import linux
from procbench.errors import MappingTruncatedError
from procbench.memory.mapping import MemoryMapping
from procbench.memory.region import Lease

PipeTransport = Literal["write", "vmsplice", "splice", "sendfile"]

# What a call says that does not work for this source or on this kernel at all, as opposed to not now.
_NOT_THIS_WAY: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})
_AGAIN: Final = frozenset({errno.EAGAIN, errno.EINTR})

# Largest count that one call moves (MAX_RW_COUNT, read(2)); asking for more is allowed, but not everywhere.
_MOST_AT_ONCE = 0x7FFF_F000
_REOPEN_TRIES, _REOPEN_WAIT_S = 50, 0.002
# Copied at a time where the source has no address: what a large pipe takes.
_CHUNK_BYTES = 1 << 20


class Feed:
    """The write end of a pipe that a child reads from, and what is still to be written to it.

    Not thread-safe. SIGPIPE must be blocked or ignored in the thread that calls ``push``.

    Args:
        fd: A write end that does not block; closed when all is written or nobody reads any more.
        source: What to write. It must not change meanwhile; a mapping is told so by being lent.
        transport: By which system call.
        pipe_size_bytes: Size to ask for; ``None`` leaves the pipe as it is.

    Attributes:
        fd: The descriptor, or -1 once closed.
        transport: The way taken, which may have become ``write``.
        fallback: Name of the errno for which the way that was asked for was left, or ``None``.
        sent_bytes: What the pipe took so far.
        error: ``EPIPE`` if the child closed its end before it had everything, ``ENODATA`` if the source file became shorter,
            otherwise another errno's name or ``None``.
        pipe_size_bytes: What the pipe really holds, if a size was asked for.

    Raises:
        MappingLentError: Lending was asked for, of memory that others may change.
    """

    __slots__ = (
        "_address",
        "_flags",
        "_lease",
        "_move",
        "_readers",
        "_size_bytes",
        "_source",
        "error",
        "fallback",
        "fd",
        "pipe_size_bytes",
        "sent_bytes",
        "transport",
    )

    def __init__(
        self,
        fd: int,
        source: memoryview | MemoryMapping,
        transport: PipeTransport = "write",
        pipe_size_bytes: int | None = None,
    ) -> None:
        self.fd = fd
        self.transport: PipeTransport = transport
        self.fallback: str | None = None
        self.sent_bytes = 0
        self.error: str | None = None
        self.pipe_size_bytes = linux.resize_pipe(fd, pipe_size_bytes) if pipe_size_bytes is not None else None
        if transport == "vmsplice" and not isinstance(source, MemoryMapping):
            source = MemoryMapping.wrap(source.obj)  # keeps the bytes from being freed while they stand in the pipe
        self._source = source
        self._size_bytes = len(source)
        self._move = _MOVES[transport]
        self._address = 0
        self._flags = os.SPLICE_F_NONBLOCK
        self._lease: Lease | None = None
        self._readers: _Readers | None = None
        if isinstance(source, MemoryMapping):
            self._lease = source.lend(self._remain)
            self._address = self._lease.address
            if transport != "write" and not (source.fd is not None and source.sealed):
                self._readers = _Readers(fd)
        if not self._size_bytes:
            self.close()

    def block(self) -> None:
        """Let ``push`` wait for room, for who has nothing else to wait for: it saves a poll(2) for each piece."""
        if self.fd >= 0:
            os.set_blocking(self.fd, True)
            self._flags = 0

    def push(self) -> None:
        """Move what the pipe takes now, and close it when all is moved or nobody reads any more."""
        try:
            self.sent_bytes += self._move(self)
        except OSError as error:
            if error.errno in _AGAIN:
                return
            name = errno.errorcode.get(error.errno or 0, str(error.errno))
            if error.errno in _NOT_THIS_WAY and self.transport != "write":
                self._fall_back(name)
                return
            self.error = "ENODATA" if isinstance(error, MappingTruncatedError) else name
            self.close()
            return
        if self.sent_bytes == self._size_bytes:
            self.close()

    def close(self) -> None:
        """Close the descriptor; harmless when closed already. Pages that stand in the pipe stay lent while it has a reader."""
        if self.fd < 0:
            return
        if self._readers is not None and self.sent_bytes:
            self._readers.stop_writing()
        else:
            self._readers = None
        fd, self.fd = self.fd, -1
        linux.close_now(fd)
        self.settle()

    def settle(self) -> None:
        """End the lending if nobody reads any more, as when the child and its descendants have ended."""
        if self._lease is not None:
            self._lease.settle()

    def _remain(self) -> bool:
        return self.fd >= 0 or (self._readers is not None and self._readers.remain())

    def _fall_back(self, reason: str) -> None:
        self.transport, self._move, self.fallback = "write", _MOVES["write"], reason

    def _write(self) -> int:
        source, start = self._source, self.sent_bytes
        if self._address:
            return linux.write(self.fd, self._address + start, min(self._size_bytes - start, _MOST_AT_ONCE))
        if isinstance(source, memoryview):
            return os.write(self.fd, source[start:])
        if source.fd is None:
            with source.reading() as view:
                return os.write(self.fd, view[start:])
        descriptor, offset, count = self._place()
        data = os.pread(descriptor, min(count, _CHUNK_BYTES), offset)
        self._more(len(data))
        return os.write(self.fd, data)

    def _vmsplice(self) -> int:
        start = self.sent_bytes
        return linux.vmsplice(self.fd, self._address + start, min(self._size_bytes - start, _MOST_AT_ONCE), self._flags)

    def _splice(self) -> int:
        descriptor, offset, count = self._place()
        return self._more(os.splice(descriptor, self.fd, count, offset_src=offset, flags=self._flags))

    def _sendfile(self) -> int:
        descriptor, offset, count = self._place()
        return self._more(os.sendfile(self.fd, descriptor, offset, count))

    def _place(self) -> tuple[int, int, int]:
        source = self._source
        if not isinstance(source, MemoryMapping) or source.fd is None:
            raise OSError(errno.EINVAL, "the source has no descriptor")
        start = self.sent_bytes
        return source.fd, source.offset + start, min(self._size_bytes - start, _MOST_AT_ONCE)

    @staticmethod
    def _more(count: int) -> int:
        if count == 0:
            raise MappingTruncatedError(errno.ENODATA, "the file became shorter than its mapping")
        return count


_MOVES: Final[dict[PipeTransport, Callable[[Feed], int]]] = {
    "write": Feed._write,
    "vmsplice": Feed._vmsplice,
    "splice": Feed._splice,
    "sendfile": Feed._sendfile,
}


class _Readers:
    """Tells whether anybody can still read from a pipe that was written to, without keeping its readers from their end.

    While the write end is open its pages are in use. Afterwards a read end of our own keeps the pipe in reach; to see
    whether it has other readers we become its writer for a moment, let go of that read end and ask poll(2) whether a
    reader is left. Where no descriptor is to be had for that, for a while, nobody can tell any more: the pages stay lent.
    Asked by one thread at a time.
    """

    __slots__ = ("_gone", "_read_end", "_write_end")

    def __init__(self, write_end: int) -> None:
        self._write_end = write_end
        self._read_end = -1
        self._gone = False

    def stop_writing(self) -> None:
        """Note that the write end is about to be closed."""
        self._read_end = _reopen(self._write_end, os.O_RDONLY)
        self._write_end = -1

    def remain(self) -> bool:
        """Return whether a reader is left, for whom the pages must stay as they are."""
        if self._gone or self._write_end >= 0 or self._read_end < 0:
            return not self._gone
        try:
            writer = linux.reopen(self._read_end, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return True
        read_end, self._read_end = self._read_end, -1
        linux.close_now(read_end)
        question = select.poll()
        question.register(writer, 0)  # POLLERR, that nobody reads, is told without being asked for
        self._gone = bool(question.poll(0))
        if not self._gone:
            self._read_end = _reopen(writer, os.O_RDONLY)
        linux.close_now(writer)
        return not self._gone


def _reopen(fd: int, flags: int) -> int:
    """Return another end of the pipe, or -1; children that end make room where no descriptor is left at the moment."""
    for _ in range(_REOPEN_TRIES):
        try:
            return linux.reopen(fd, flags | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                break
        time.sleep(_REOPEN_WAIT_S)
    return -1
