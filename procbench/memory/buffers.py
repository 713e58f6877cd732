"""Reused memory for reading what children write."""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

from procbench.linux import read_now

DEFAULT_SIZE_BYTES: Final = 64 * 1024
"""One read of a pipe of the kernel's default size, pipe(7)."""


class ReadBuffer:
    """One reused region that pipe after pipe is read into.

    Reading into fresh memory pays a page fault for every 4 KiB; these pages are faulted in once. Not thread-safe: each
    worker owns one.

    Args:
        size_bytes: Largest number of bytes that one read can take.
    """

    __slots__ = ("_address", "_map", "_view", "size_bytes")

    def __init__(self, size_bytes: int = DEFAULT_SIZE_BYTES) -> None:
        self._map = mmap.mmap(-1, size_bytes)
        self._view = memoryview(self._map)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.size_bytes = size_bytes

    def read(self, fd: int) -> int:
        """Read once from the non-blocking descriptor ``fd``.

        Returns:
            Bytes read, now at the start of the region; 0 at end of file; -1 where read(2) failed (EAGAIN: nothing there).
        """
        return int(read_now(fd, self._address, self.size_bytes))

    def view(self, count: int) -> memoryview:
        """Return the first ``count`` bytes of the last read; the next read overwrites them."""
        return self._view[:count]
