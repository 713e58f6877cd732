"""The memory behind mappings, and what keeps it as it is while a pipe refers to its pages."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

from procbench import linux
from procbench.errors import MappingError, MappingLentError

Kind = Literal["anonymous", "memfd", "wrapped", "file"]


_ASKED_AGAIN: Final = 20
_ASKED_AGAIN_AFTER_S: Final = 0.001
_MFD_NOEXEC_SEAL: Final = 0x8  # Linux 6.3
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Lease:
    """The right to have a mapping's bytes as they are; made by ``MemoryMapping.lend``.

    Attributes:
        address: Where the mapping's first byte is, for the kernel; 0 where it has no address.
    """

    __slots__ = ("_region", "_remain", "address")

    def __init__(self, region: Region, remain: Callable[[], bool], address: int) -> None:
        self._region: Region | None = region
        self._remain: Callable[[], bool] | None = remain
        self.address = address

    def settle(self) -> bool:
        """End it if nobody needs the bytes any more, and return whether it is over. Thread-safe: one at a time asks."""
        region = self._region
        if region is not None:
            with region.lock:
                if self._remain is not None and not self._remain():
                    self.end()
        return self._region is None

    def end(self) -> None:
        """Give the bytes back; harmless when they are back already."""
        region = self._region
        if region is not None:
            with region.lock:
                self._region = self._remain = None  # who remains refers to what was lent: a cycle, if it were kept
                region.leases.discard(self)
                if not region.leases:
                    _lent.discard(region)


class Region:
    """The memory itself. It goes when the last mapping of it is closed, or forgotten, and nobody has it on loan."""

    def __init__(self, kind: Kind, size_bytes: int, fd: int = -1, data: memoryview | None = None) -> None:
        self.kind: Kind = kind
        self.size_bytes = size_bytes
        self.fd = fd
        self.data = data
        self.map: mmap.mmap | None = None
        self.address = 0
        self.sealed = kind == "file" or data is not None
        self.immutable = False
        self.huge_pages = False
        self.populated_bytes = 0
        self.fallback: str | None = None
        self.leases: set[Lease] = set()
        self.handles: weakref.WeakSet[Any] = weakref.WeakSet()
        self.lock = threading.RLock()
        self.close_fd = None if fd < 0 else weakref.finalize(self, linux.close_now, fd)

    def map_anew(self) -> None:
        """Map the memory, readable, and writable unless it is sealed."""
        if not self.size_bytes or self.kind not in ("anonymous", "memfd"):
            return
        try:
            if self.fd < 0:
                self.map = mmap.mmap(-1, self.size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            else:  # before Linux 6.7 what is sealed can be mapped privately only
                access = mmap.ACCESS_COPY if self.sealed else mmap.ACCESS_WRITE
                self.map = mmap.mmap(self.fd, self.size_bytes, access=access)
        except (OSError, OverflowError, ValueError) as error:
            code = getattr(error, "errno", None) or errno.ENOMEM
            raise MappingError(code, f"{self.size_bytes:,} bytes cannot be mapped: {os.strerror(code)}") from error
        self.find_address()

    def find_address(self) -> None:
        """Note where the memory is, for the kernel."""
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map)) if self.map is not None else 0

    def populate(self, end: int) -> None:
        """Have every page before ``end`` now, by one call instead of a fault for each; harmless where that cannot be."""
        begin = self.populated_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        end = min(end, self.size_bytes)
        if self.map is None or end <= self.populated_bytes:
            return
        with contextlib.suppress(OSError):  # before Linux 5.14, or no memory left: then the faults come one by one
            self.map.madvise(linux.MADV_POPULATE_WRITE, begin, end - begin)
            self.populated_bytes = end

    def view(self) -> memoryview:
        """Return all of it; an empty region needs no memory."""
        if self.data is not None:
            return self.data
        return memoryview(b"" if self.map is None and self.sealed else self.map or bytearray())

    def viewed(self) -> bool:
        """Return whether a view of the memory, or a slice of one, is alive: mmap refuses to be resized then."""
        if self.map is None:
            return False
        try:
            self.map.resize(self.size_bytes)
        except BufferError:
            return True
        except TypeError:  # it cannot be resized at all, which is looked at last
            pass
        return False

    def lent(self) -> bool:
        """Return whether somebody still needs the bytes as they are, and end the leases of those who do not."""
        with self.lock:
            return [lease for lease in tuple(self.leases) if not lease.settle()] != []

    def still_lent(self) -> bool:
        """Ask as ``lent``, and again for some milliseconds.

        A child that another thread is just starting has copies of all this process's descriptors until its exec, and counts
        as a reader for so long.
        """
        for _ in range(_ASKED_AGAIN):
            if not self.lent():
                return False
            time.sleep(_ASKED_AGAIN_AFTER_S)
        return self.lent()

    def lend(self, remain: Callable[[], bool], offset: int) -> Lease:
        """Return a lease of the bytes from ``offset`` on; see ``MemoryMapping.lend``."""
        _sweep()
        with self.lock:
            if not self.sealed and self.viewed():
                raise MappingLentError(errno.EBUSY, "the mapping cannot be sent while somebody holds a view of it")
            lease = Lease(self, remain, self.address + offset if self.address else 0)
            self.leases.add(lease)
            _lent.add(self)
            _unsettled.append(lease)
        return lease

    def refuse_if_used(self, what: str) -> None:
        """Raise if a pipe or a view would see what is about to happen."""
        if self.still_lent():
            raise MappingLentError(
                errno.EBUSY, f"the mapping cannot be {what} while its bytes are on their way to a child"
            )
        if self.viewed():
            raise MappingLentError(errno.EBUSY, f"the mapping cannot be {what} while somebody holds a view of it")

    def seal(self) -> None:
        """Let nobody change the bytes or the size any more, by the kernel's word where it is a memfd.

        Raises:
            MappingError: The kernel refused.
        """
        if self.fd >= 0:
            if self.map is not None:
                self.map.close()
                self.map = None
            try:
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            except OSError as error:
                self.map_anew()
                raise MappingError(error.errno, f"it cannot be sealed: {error.strerror}") from error
            self.sealed = True
            self.map_anew()
        self.sealed = self.immutable = True

    def resize(self, size_bytes: int) -> None:
        """Make it longer, with zeros, or shorter; the kernel moves the pages.

        Raises:
            MappingError: The kernel refused.
        """
        try:
            if self.map is not None and size_bytes:
                # The rest of the last page stays mapped, and must be zeros if the mapping grows again.
                end = min(self.size_bytes, -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE)
                if size_bytes < end:
                    self.map[size_bytes:end] = bytes(end - size_bytes)
                self.map.resize(size_bytes)
                self.size_bytes = size_bytes
                self.populated_bytes = min(self.populated_bytes, size_bytes)
                self.find_address()
                return
            if self.map is not None:
                self.map.close()
                self.map = None
            if self.fd >= 0:
                os.ftruncate(self.fd, size_bytes)
        except (OSError, OverflowError, ValueError) as error:
            code = getattr(error, "errno", None) or errno.ENOMEM
            raise MappingError(code, f"it cannot be resized to {size_bytes:,} bytes: {os.strerror(code)}") from error
        before, self.size_bytes, self.populated_bytes = self.size_bytes, size_bytes, 0
        try:
            self.map_anew()
        except MappingError:
            self.size_bytes = before
            if self.fd >= 0:
                os.ftruncate(self.fd, before)
            self.map_anew()
            raise

    def release(self) -> None:
        """Give memory and descriptor back."""
        if self.map is not None:
            self.map.close()
        self.map = self.data = None
        self.address = self.size_bytes = 0
        if self.close_fd is not None:
            self.close_fd()


_lent: set[Region] = set()  # what a pipe still refers to must neither be freed nor used anew, even if nobody names it

_unsettled: deque[Lease] = deque()  # the one that was not asked for longest stands first; some have ended since
_SWEPT_AT_ONCE: Final = 2


def _sweep() -> None:
    """Ask after a few loans, those first that were not asked after for longest.

    Each loan adds one and asks after two, so a loan costs the same however many are out, and what nobody reads any more
    goes after at most as many further loans as were out.
    """
    for _ in range(_SWEPT_AT_ONCE):
        try:
            lease = _unsettled.popleft()
        except IndexError:
            return
        if not lease.settle():
            _unsettled.append(lease)


def settle() -> int:
    """End every loan whose reader is gone, and return how many regions are still lent. Costs some 20 µs for each."""
    return sum(region.lent() for region in tuple(_lent))


def create_memfd(name: str = "procbench") -> int:
    """Return a new memory file that can be sealed and is not passed on by exec.

    Raises:
        OSError: The kernel has no memfd_create(2), or no descriptor is left.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel before 6.3 does not know the last flag
            raise
        return os.memfd_create(name, flags)
