"""One region of memory that buffers are cut from, and what the kernel gave for it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from procbench import linux
from procbench.errors import MappingError

_HUGE_BYTES: Final = 2 << 20
_CACHE_LINE_BYTES: Final = 64


class Slab:
    """Private anonymous memory: after a fork each process has its own.

    Args:
        part_bytes: Size of each part.
        count: Number of parts.
        huge_pages: Ask for huge pages (MADV_HUGEPAGE). A page is huge or not once it is there, so this prefaults too.
        prefault: Have all pages now (MADV_POPULATE_WRITE, Linux 5.14, or by touching each).

    Attributes:
        fallbacks: What the kernel refused, and what was done instead.

    Raises:
        MappingError: The kernel gives no such memory.
    """

    def __init__(self, part_bytes: int, count: int, *, huge_pages: bool, prefault: bool) -> None:
        self.fallbacks: tuple[str, ...] = ()
        self._part_bytes, self._count, self._huge = part_bytes, count, huge_pages
        # Parts begin at cache lines, large ones at pages, so that two borrowers never write into the same one.
        unit = mmap.PAGESIZE if part_bytes >= mmap.PAGESIZE else _CACHE_LINE_BYTES
        self._stride = -(-part_bytes // unit) * unit
        self._length = self._stride * count
        if huge_pages:
            self._length = -(-self._length // _HUGE_BYTES) * _HUGE_BYTES
        try:
            self._map = mmap.mmap(
                -1, self._length + (_HUGE_BYTES if huge_pages else 0), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            )
        except (OSError, OverflowError, ValueError) as error:
            code = getattr(error, "errno", None) or errno.ENOMEM
            reason = f"no memory for {count} buffers of {part_bytes} bytes: {os.strerror(code)}"
            raise MappingError(code, reason) from error
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._first = -begin % _HUGE_BYTES if huge_pages else 0
        self._address = begin + self._first
        self._whole = memoryview(self._map)
        if huge_pages and not self._advise("MADV_HUGEPAGE", getattr(mmap, "MADV_HUGEPAGE", 14)):
            self.fallbacks += ("ordinary pages",)
        if (huge_pages or prefault) and not self._advise("MADV_POPULATE_WRITE", linux.MADV_POPULATE_WRITE):
            self.fallbacks += ("each page touched instead",)
            for offset in range(self._first, self._first + self._length, mmap.PAGESIZE):
                self._map[offset] = 0

    def _advise(self, name: str, advice: int) -> bool:
        try:
            self._map.madvise(advice, self._first, self._length)
        except OSError as error:
            self.fallbacks += (f"{name}: {errno.errorcode.get(error.errno or 0, error.errno)}",)
            return False
        return True

    def parts(self) -> Iterator[tuple[memoryview, int]]:
        """Yield each part's view and address."""
        for number in range(self._count):
            offset = number * self._stride
            first = self._first + offset
            yield self._whole[first : first + self._part_bytes], self._address + offset

    def huge_bytes(self) -> int:
        """Return how many bytes are in huge pages now (AnonHugePages, proc_pid_smaps(5)); 0 where none were asked for."""
        if not self._huge or self._whole.nbytes == 0:
            return 0
        found = inside = 0
        for line in Path("/proc/self/smaps").read_bytes().splitlines():
            word, _, rest = line.partition(b" ")
            if not word.endswith(b":"):
                low, high = (int(end, 16) for end in word.split(b"-"))
                inside = low < self._address + self._length and self._address < high
            elif inside and word == b"AnonHugePages:":
                found += int(rest.split()[0]) * 1024
        return min(found, self._length)

    def close(self) -> None:
        """Give the memory back; its parts must be released before."""
        self._huge = False
        self._whole.release()
        self._map.close()
