"""A region of memory that a kernel can move as it is, shared by any number of mappings, and lent while a pipe holds its pages.

============= ================================ ======================== =================================================
kind          what it is                       can be written           what others can do to it
============= ================================ ======================== =================================================
``anonymous`` fresh memory                     until it is sealed       nothing
``memfd``     a file that exists in memory     until it is sealed       nothing, until it is handed over, then only read
``wrapped``   somebody else's object           never through a mapping  its owner may write to it, unless it is ``bytes``
``file``      a file                           never through a mapping  anything: ``snapshot`` first if that matters
============= ================================ ======================== =================================================

A ``file`` is never mapped into this process: reading a page of a file that another process made shorter would end this one
by SIGBUS. It is read by pread(2), which says how much is still there, or spliced, which never touches its pages from here.
What splicing puts into a pipe is the file's own page cache, so that a reader sees what is written to the file meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
from collections.abc import Callable
from typing import Any, Self

from procbench.errors import (
    InvalidInputError,
    MappingError,
    MappingLentError,
    MappingSealedError,
)
from procbench.memory import checks
from procbench.memory.region import Lease, Region, create_memfd
from procbench.memory.stretch import Stretch

_ids = itertools.count(1)


class MemoryMapping(Stretch):
    """A stretch of a region: made by ``anonymous``, ``memfd``, ``wrap`` or ``file``, and by slicing, which never copies.

    Thread-safe, except that two threads that write to the same bytes get what they wrote, in any order. A mapping that is
    forgotten is given back as one that is closed; leaving a ``with`` block closes it.

    While it is lent, writing, resizing, sealing and closing raise ``MappingLentError``: to the whole region, whatever slice
    was lent.

    Attributes:
        id: Of the region; slices have the same.
        offset: Where it begins in the region, bytes.
        size_bytes: How long it is; ``len()`` says the same.
    """

    __slots__ = ()

    @classmethod
    def _whole(cls, region: Region) -> Self:
        return cls(region, 0, region.size_bytes, next(_ids))

    @classmethod
    def anonymous(cls, size_bytes: int, *, huge_pages: bool = False, populate: bool = False) -> Self:
        """Return fresh memory, all zeros.

        Args:
            size_bytes: How much; 0 is allowed. Pages never touched cost nothing.
            huge_pages: Ask for pages of 2 MiB; ``huge_pages`` says whether the kernel agreed to try.
            populate: Fault every page in now, instead of one by one when they are first touched; ``populated`` says
                whether the kernel could (Linux 5.14).

        Raises:
            InvalidInputError: The size is negative.
            MappingError: The kernel refused (ENOMEM).
        """
        region = Region("anonymous", checks.whole("size_bytes", size_bytes))
        region.map_anew()
        if region.map is not None:
            region.huge_pages = huge_pages and _advised(region.map, mmap.MADV_HUGEPAGE)
            if populate:
                region.populate(size_bytes)
        return cls._whole(region)

    @classmethod
    def memfd(cls, size_bytes: int) -> Self:
        """Return memory that is a file too, all zeros: once sealed, a child can have it as its standard input.

        Where the kernel has no memfd_create(2) it is anonymous memory, and ``kind`` and ``fallback`` say so.

        Raises:
            InvalidInputError: The size is negative.
            MappingError: The kernel refused (ENOMEM, EMFILE, ...).
        """
        checks.whole("size_bytes", size_bytes)
        try:
            descriptor = create_memfd()
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise MappingError(error.errno, f"no memory file: {error.strerror}") from error
            mapping = cls.anonymous(size_bytes)
            mapping._open.fallback = errno.errorcode[error.errno]
            return mapping
        region = Region("memfd", size_bytes, descriptor)
        try:
            os.ftruncate(descriptor, size_bytes)
        except (OSError, OverflowError) as error:
            code = getattr(error, "errno", None) or errno.EFBIG
            raise MappingError(code, f"a memory file cannot have {size_bytes:,} bytes: {os.strerror(code)}") from error
        region.map_anew()
        return cls._whole(region)

    @classmethod
    def wrap(cls, data: Any) -> Self:
        """Return a mapping around an object that holds bytes, without copying them; it can only be read through it.

        The object's owner may still write to it, unless it is ``bytes``. So only ``bytes`` are ever lent to a pipe.

        Raises:
            InvalidInputError: It has no buffer, or one that is not contiguous.
        """
        try:
            view = memoryview(data)
            view = view.toreadonly().cast("B") if view.nbytes else memoryview(b"")
        except (TypeError, ValueError) as error:  # a released view, or a format of several bytes that is not native
            raise InvalidInputError(f"{type(data).__name__} holds no contiguous bytes; it cannot be wrapped") from error
        region = Region("wrapped", view.nbytes, data=view)
        if type(data) is bytes:
            region.immutable = True
            region.address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        return cls._whole(region)

    @classmethod
    def file(cls, file: str | os.PathLike[str] | int) -> Self:
        """Return a file to be read, as long as it is now.

        If it becomes shorter, what reads behind its end raises ``MappingTruncatedError``; there is no SIGBUS.

        Args:
            file: A path, or an open descriptor, which stays the caller's.

        Raises:
            InvalidInputError: It is no regular file, or neither a path nor a descriptor.
            OSError: It cannot be opened.
        """
        try:
            if isinstance(file, int):
                fd = os.dup(checks.whole("file, as a descriptor,", file))
            else:
                fd = os.open(os.fspath(file), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (TypeError, OverflowError) as error:
            raise InvalidInputError(f"{file!r} is neither a path nor a descriptor; give one of them") from error
        except ValueError as error:
            raise InvalidInputError(f"{file!r} cannot be a path: {error}; give another") from error
        region = Region("file", 0, fd)
        found = os.fstat(fd)
        if found.st_mode & 0o170000 != 0o100000:
            raise InvalidInputError(f"{file!r} is no regular file; read from it instead of mapping it")
        region.size_bytes = found.st_size
        return cls._whole(region)

    # --- what can be done to it ---------------------------------------------------------------------------------------

    def __getitem__(self, piece: slice) -> MemoryMapping:
        if not isinstance(piece, slice) or piece.step not in (None, 1):
            raise InvalidInputError("a mapping is sliced by [start:stop]; for one byte read the slice")
        try:
            start, stop, _ = piece.indices(self.size_bytes)
        except TypeError as error:
            raise InvalidInputError(f"a mapping is sliced by whole numbers, and not by {piece}") from error
        return MemoryMapping(self._open, self.offset + start, max(0, stop - start), self.id)

    def populate(self, size_bytes: int) -> None:
        """Have the first ``size_bytes`` bytes in memory now: one call costs less than a page fault for every 4 KiB.

        What was asked for before is not asked for again. Harmless for a mapping that has no pages of its own, and where the
        kernel cannot do it: then each page comes when it is first touched.

        Raises:
            InvalidInputError: The size is no whole number of at least 0.

        Source: madvise(2), ``MADV_POPULATE_WRITE`` (Linux 5.14).
        """
        region = self._open
        checks.whole("size_bytes", size_bytes)
        if not region.sealed:
            region.populate(self.offset + size_bytes)

    def lend(self, remain: Callable[[], bool]) -> Lease:
        """Keep its bytes as they are until ``remain`` says no, and the region from being freed, even if it is forgotten.

        Looks, too, whether two older loans are over, some 20 µs each; so it costs the same however many are out.

        Raises:
            InvalidInputError: ``remain`` is no function.
            MappingLentError: A view is alive, and it is not sealed: nobody can tell a view that only reads from one that writes.
        """
        if not callable(remain):
            raise InvalidInputError(
                f"remain is {remain!r}; it must be a function that says whether the bytes are needed"
            )
        return self._open.lend(remain, self.offset)

    def seal(self) -> Self:
        """Let nobody change its bytes or its size any more, and return it; the kernel enforces it where it is a memfd.

        Anonymous memory is only kept from being written through mappings.

        Raises:
            MappingLentError: It is lent, or a view is alive.
            MappingError: The kernel refused.
        """
        region = self._open
        with region.lock:
            if region.sealed:
                return self
            region.refuse_if_used("sealed")
            region.seal()
        return self

    def snapshot(self) -> MemoryMapping:
        """Return a sealed copy of its bytes as they are now, which nobody can change: a memfd where the kernel has it.

        Raises:
            MappingTruncatedError: The file became shorter.
            MappingError: The kernel refused.
        """
        copy = MemoryMapping.memfd(self.size_bytes)
        with copy.writing() as target:
            if self.kind == "file":
                at = 0
                for piece in self._pieces():
                    target[at : at + len(piece)] = piece
                    at += len(piece)
            else:
                with self.reading() as source:
                    target[:] = source
        return copy.seal()

    def resize(self, size_bytes: int) -> None:
        """Make it longer, with zeros, or shorter. The kernel moves the pages, nothing is copied.

        Raises:
            InvalidInputError: The size is negative, or it is a slice.
            MappingLentError: It is lent, a view is alive, or another mapping shares the region.
            MappingSealedError: It is sealed, a file, or somebody else's object.
            MappingError: The kernel refused (ENOMEM).
        """
        region = self._open
        checks.whole("size_bytes", size_bytes)
        with region.lock:
            if region.sealed:
                raise MappingSealedError(errno.EPERM, f"this mapping ({region.kind}) keeps its size")
            if len(region.handles) > 1:
                raise MappingLentError(errno.EBUSY, "the mapping cannot be resized while slices share it")
            if self.offset or self.size_bytes != region.size_bytes:
                raise InvalidInputError("a slice cannot be resized")
            region.refuse_if_used("resized")
            region.resize(size_bytes)
            self.size_bytes = size_bytes

    def close(self) -> None:
        """Give it back; the memory goes when no slice of it is open. Harmless when closed already.

        Raises:
            MappingLentError: It is the last one, and its bytes are lent or a view of them is alive; it stays open.
        """
        region = self._region
        if region is None:
            return
        with region.lock:
            if len(region.handles) == 1:
                region.refuse_if_used("closed")
                region.release()
            self._leave(region)

    def _leave(self, region: Region) -> None:
        region.handles.discard(self)
        self._region = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        region = self._region
        if region is None:
            return
        try:
            self.close()
        except MappingLentError:
            if region.leases:  # nobody can name it any more; it goes once the pipe's reader has gone
                self._leave(region)
            elif error is None:
                raise


def _advised(region: mmap.mmap, advice: int) -> bool:
    try:
        region.madvise(advice)
    except OSError:
        return False
    return True
