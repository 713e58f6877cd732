"""What is kept of one stream of a child's output, however it is read, and where copies of it go as it comes.

All is kept, or so many bytes and then what the policy says. Kept bytes stand in a ``BytesIO``, which hands them out without
another copy: fresh memory costs a page fault for every 4 KiB, and copying a large output once more would double them.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import tempfile
import weakref
from collections.abc import Callable
from typing import BinaryIO, Final, Literal

Overflow = Literal["drop", "ring", "spool", "kill"]
"""What becomes of what goes over the cap.

``drop`` keeps the beginning and counts the rest; ``ring`` keeps the beginning and the end, half of the cap each; ``spool`` goes
on into an unlinked file, which holds all of it; ``kill`` keeps the beginning, and the child is to be ended.
"""

OVERFLOWS: Final[tuple[Overflow, ...]] = ("drop", "ring", "spool", "kill")

Tee = Callable[[memoryview], object] | BinaryIO | int
"""Where a copy goes: a function, which is given each piece for the time of the call, an open file, or a descriptor."""


class Keep:
    """Keeps all that comes. Not thread-safe.

    Args:
        tee: Where a copy of each piece goes; dropped, with ``tee_error``, at its first error.

    Attributes:
        overflow: The policy.
        total_bytes: What came, kept or not.
        error: Name of the errno for which not all could be kept that was to be, such as ``ENOSPC``; or ``None``.
        tee_error: Why no more copies go; or ``None``.
    """

    __slots__ = ("__weakref__", "_kept", "_tee", "error", "tee_error", "total_bytes")

    overflow: Overflow = "drop"

    def __init__(self, tee: Tee | None = None) -> None:
        self._kept = io.BytesIO()
        self._tee = tee
        self.total_bytes = 0
        self.error: str | None = None
        self.tee_error: str | None = None

    def add(self, piece: memoryview) -> None:
        """Take a piece; nothing refers to it afterwards. Costs a copy of what is kept."""
        self.total_bytes += len(piece)
        self._take(piece)
        if self._tee is not None:
            self._copy(piece)

    def _take(self, piece: memoryview) -> None:
        self._kept.write(piece)

    @property
    def overflowed(self) -> bool:
        """Whether more came than the cap."""
        return False

    @property
    def cut(self) -> bool:
        """Whether something came that is kept nowhere."""
        return self.overflowed

    @property
    def gap_at(self) -> int | None:
        """Offset in :meth:`value` at which bytes are missing; ``None`` where none are."""
        return self._kept.tell() if self.overflowed else None

    def value(self) -> bytes:
        """Return what is kept in memory; nothing may be added afterwards without a copy of it."""
        return self._kept.getvalue()

    def take_file(self) -> BinaryIO | None:
        """Return the file that holds everything, the same one each time; the caller closes it. ``None`` if there is none."""
        return None

    def _copy(self, piece: memoryview) -> None:
        try:
            if isinstance(self._tee, int):
                _write_all(self._tee, piece)
            elif callable(self._tee):
                self._tee(piece)
            elif isinstance(self._tee, io.FileIO):
                _write_all(self._tee.fileno(), piece)
            elif self._tee is not None:
                while piece:
                    written: int | None = self._tee.write(piece)  # None from a file that does not count takes all
                    piece = piece[len(piece) if written is None else written :]
                self._tee.flush()
        except Exception as error:  # the child's output goes on being kept, whatever a copy runs into
            self.tee_error = f"{type(error).__name__}: {error}"
            self._tee = None


class _Beginning(Keep):
    """Keeps the beginning, and counts the rest."""

    __slots__ = ("_cap", "_room")

    def __init__(self, cap_bytes: int, tee: Tee | None) -> None:
        super().__init__(tee)
        self._cap = self._room = cap_bytes

    def _take(self, piece: memoryview) -> None:
        if len(piece) > self._room:
            piece = piece[: self._room]
        self._room -= self._kept.write(piece)

    @property
    def overflowed(self) -> bool:
        return self.total_bytes > self._cap


class _BeginningOnly(_Beginning):
    """The same, and wants the child ended."""

    __slots__ = ()

    overflow: Overflow = "kill"


class _Ring(_Beginning):
    """Keeps the beginning, and the end in a ring that is made when there is one."""

    __slots__ = ("_end", "_ring", "_size")

    overflow: Overflow = "ring"

    def __init__(self, cap_bytes: int, tee: Tee | None) -> None:
        super().__init__(cap_bytes, tee)
        self._size = cap_bytes // 2
        self._room -= self._size
        self._ring = bytearray()
        self._end = 0  # bytes that have gone into the ring

    def _take(self, piece: memoryview) -> None:
        room = self._room
        super()._take(piece)
        rest = piece[room:]
        if not (rest and self._size):
            return
        if not self._ring:
            self._ring = bytearray(self._size)
        self._end += len(rest)
        rest = rest[-self._size :]
        start = (self._end - len(rest)) % self._size
        before_wrap = min(len(rest), self._size - start)
        self._ring[start : start + before_wrap] = rest[:before_wrap]
        self._ring[: len(rest) - before_wrap] = rest[before_wrap:]

    def value(self) -> bytes:
        beginning = self._kept.getvalue()
        if self._end < self._size or not self._size:
            return beginning + self._ring[: self._end]
        oldest = self._end % self._size
        return beginning + self._ring[oldest:] + self._ring[:oldest]


class _Spool(_Beginning):
    """Keeps the beginning, and everything in an unlinked file once there is more."""

    __slots__ = ("_close", "_file")

    overflow: Overflow = "spool"

    def __init__(self, cap_bytes: int, tee: Tee | None) -> None:
        super().__init__(cap_bytes, tee)
        self._file: BinaryIO | None = None
        self._close: weakref.finalize[..., _Spool] | None = None

    def _take(self, piece: memoryview) -> None:
        before = self.total_bytes - len(piece)
        super()._take(piece)
        if not self.overflowed or self.error is not None:
            return
        try:
            if self._file is None:
                self._file = file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - goes to whoever takes the result
                self._close = weakref.finalize(self, file.close)
                _write_all(file.fileno(), memoryview(self._kept.getvalue())[: min(before, self._cap)])
            _write_all(self._file.fileno(), piece)
        except OSError as error:
            self.error = errno.errorcode.get(error.errno or 0, str(error.errno))

    @property
    def cut(self) -> bool:
        return self.error is not None

    def take_file(self) -> BinaryIO | None:
        if self._file is not None and self._close is not None and self._close.detach() is not None:
            self._file.seek(0)
        return self._file


_KINDS: Final = {kind.overflow: kind for kind in (_Beginning, _Ring, _Spool, _BeginningOnly)}


def keeper(cap_bytes: int | None, overflow: Overflow = "drop", tee: Tee | None = None) -> Keep:
    """Return what keeps a stream.

    Args:
        cap_bytes: Most bytes to keep in memory; ``None`` for all.
        overflow: What becomes of more.
        tee: Where copies go as it comes.
    """
    return Keep(tee) if cap_bytes is None else _KINDS[overflow](cap_bytes, tee)


def _write_all(fd: int, data: memoryview) -> None:
    """Write everything, and wait where a descriptor that does not block has no room."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            room = select.poll()
            room.register(fd, select.POLLOUT)
            with contextlib.suppress(InterruptedError):
                room.poll()
