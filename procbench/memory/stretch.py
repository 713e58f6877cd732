"""A stretch of a region: what it is and how its bytes are read and written; ``MemoryMapping`` makes and changes it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

from procbench import linux
from procbench.errors import (
    ClosedError,
    InvalidInputError,
    MappingLentError,
    MappingSealedError,
    MappingTruncatedError,
)
from procbench.memory.region import Kind, Region

_COPIED_AT_ONCE: Final = 1 << 20


class Stretch:
    """So many bytes of a region from some offset on, and views of them. Thread-safe as ``MemoryMapping`` is.

    Once it is closed its views, and its properties but ``closed``, raise ``ClosedError``.

    Args:
        region: The memory, which it keeps from being freed.
        offset: Where it begins there, bytes.
        size_bytes: How long it is, bytes.
        id: Of the region, the same for all its stretches.
    """

    __slots__ = ("__weakref__", "_region", "id", "offset", "size_bytes")

    def __init__(self, region: Region, offset: int, size_bytes: int, id: int) -> None:
        self._region: Region | None = region
        self.offset = offset
        self.size_bytes = size_bytes
        self.id = id
        region.handles.add(self)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def _open(self) -> Region:
        if self._region is None:
            raise ClosedError("the mapping is closed")
        return self._region

    def __len__(self) -> int:
        return self.size_bytes

    def __repr__(self) -> str:
        what = "closed" if self._region is None else self._region.kind
        return f"<{type(self).__name__} {self.id}: {what}, {self.size_bytes} bytes at {self.offset}>"

    @property
    def kind(self) -> Kind:
        """``anonymous``, ``memfd``, ``wrapped`` or ``file``."""
        return self._open.kind

    @property
    def fd(self) -> int | None:
        """The descriptor of a memfd or file; it belongs to the mapping."""
        descriptor = self._open.fd
        return descriptor if descriptor >= 0 else None

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._region is None

    @property
    def sealed(self) -> bool:
        """Whether nothing can be written through it."""
        return self._open.sealed

    @property
    def immutable(self) -> bool:
        """Whether nobody at all can change its bytes any more."""
        return self._open.immutable

    @property
    def huge_pages(self) -> bool:
        """Whether the kernel agreed to use huge pages where it can."""
        return self._open.huge_pages

    @property
    def populated(self) -> bool:
        """Whether all its pages were asked for ahead."""
        return self._open.populated_bytes >= self.offset + self.size_bytes

    @property
    def fallback(self) -> str | None:
        """Name of the errno for which it is not the kind that was asked for, or ``None``."""
        return self._open.fallback

    @property
    def to_end(self) -> bool:
        """Whether it reaches to the end of its region, so that a reader of the descriptor stops in the right place."""
        return self.offset + self.size_bytes == self._open.size_bytes

    @property
    def lent(self) -> bool:
        """Whether its bytes stand in a pipe, or are on their way there. Looks anew, some 20 µs."""
        return self._open.lent()

    @property
    def viewed(self) -> bool:
        """Whether a view of the region, or a slice of one, is alive somewhere."""
        return self._open.viewed()

    # --- its bytes ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[memoryview]:
        """Give a read-only view for as long as the block takes; of a file a copy, read by pread(2).

        Raises:
            MappingTruncatedError: The file became shorter.
        """
        if self.kind == "file":
            yield memoryview(self.tobytes())
            return
        with self._open.lock:
            view = self._cut(self._open.view().toreadonly())
        try:
            yield view
        finally:
            _let_go(view)

    @contextlib.contextmanager
    def writing(self) -> Iterator[memoryview]:
        """Give a view that can be written to, for as long as the block takes.

        A slice of it that outlives the block is noticed: the mapping cannot be lent, resized or closed until it is gone.

        Raises:
            MappingLentError: A pipe still has the bytes.
            MappingSealedError: It is sealed, a file, or somebody else's object.
        """
        region = self._open
        with region.lock:
            if region.sealed:
                raise MappingSealedError(errno.EPERM, f"this mapping ({region.kind}) is only read")
            if region.still_lent():
                raise MappingLentError(errno.EBUSY, "the mapping cannot be written while a pipe still has its bytes")
            view = self._cut(region.view())
        try:
            yield view
        finally:
            _let_go(view)

    def _cut(self, whole: memoryview) -> memoryview:
        return whole[self.offset : self.offset + self.size_bytes]

    def tobytes(self) -> bytes:
        """Return a copy of its bytes.

        Raises:
            MappingTruncatedError: The file became shorter.
        """
        region = self._open
        if region.kind != "file":
            with self.reading() as view:
                return bytes(view)
        return b"".join(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        """Read a file piece by piece."""
        descriptor, at, end = self._open.fd, self.offset, self.offset + self.size_bytes
        while at < end:
            piece = os.pread(descriptor, min(_COPIED_AT_ONCE, end - at), at)
            if not piece:
                raise MappingTruncatedError(
                    errno.ENODATA, f"the file ends at {at:,} bytes now, and was longer when mapped"
                )
            at += len(piece)
            yield piece

    def read_fd(self) -> int:
        """Return a new descriptor that reads from its beginning on, and shares no offset with any other; the caller closes it.

        Raises:
            InvalidInputError: It has no descriptor.
            OSError: The kernel refused.
        """
        descriptor = self._open.fd
        if descriptor < 0:
            raise InvalidInputError(f"a mapping of kind {self.kind} has no descriptor")
        own = linux.reopen(descriptor, os.O_RDONLY)
        os.lseek(own, self.offset, os.SEEK_SET)
        return own


def _let_go(view: memoryview) -> None:
    with contextlib.suppress(BufferError):  # somebody's array still stands on it; the region sees that
        view.release()
