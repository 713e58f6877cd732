"""One of the kernel's files, kept open: it is read anew from its beginning each time, for one system call instead of three."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from procbench.io.budget import DescriptorBudget, shared_budget

_PIECE_BYTES: Final = 1 << 16  # the kernel gives a page or so at a time, whatever is asked for


class KernelFile:
    """A file below ``/proc`` or ``/sys`` whose text changes. Not thread-safe.

    Its descriptor is opened at the first reading, with a lasting permit of the shared budget, and kept until it is closed or
    a reading fails; the next reading opens it again.

    Args:
        path: The file.
    """

    __slots__ = ("_budget", "_fd", "_pid", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = self._pid = -1
        self._budget: DescriptorBudget | None = None

    def read(self) -> bytes:
        """Return all that it says now.

        Raises:
            OSError: There is none, it may not be read, or what it told of is gone.
        """
        if self._fd < 0:
            self._open()
        try:
            first = os.pread(self._fd, _PIECE_BYTES, 0)
            pieces, size = [first], len(first)
            # It may come record by record: only an empty answer is the end.
            while piece := os.pread(self._fd, _PIECE_BYTES, size):
                pieces.append(piece)
                size += len(piece)
        except OSError:
            self.close()  # a cgroup that was removed and made again has another file
            raise
        return b"".join(pieces) if len(pieces) > 1 else first

    def close(self) -> None:
        """Close its descriptor. Harmless when called twice."""
        fd, self._fd = self._fd, -1
        budget, self._budget = self._budget, None
        if fd >= 0:
            os.close(fd)
        if budget is not None and self._pid == os.getpid():  # a fork's copy of the budget may be locked for ever
            budget.let_go()

    def __del__(self) -> None:
        self.close()

    def _open(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._budget, self._pid = shared_budget(), os.getpid()
        self._budget.hold()
        self._fd = fd
