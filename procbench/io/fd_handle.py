"""A descriptor while it is lent: the borrower's handle.

A descriptor is a number, and the kernel gives the lowest that is free. Who closes one twice closes whatever has the number by
then. So a handle knows its generation: once closed it never reaches the kernel again, whoever has its number.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Final

from procbench.errors import StaleDescriptorError
from procbench.io.fd_held import NOT_OPEN, Held, Kind

if TYPE_CHECKING:
    from procbench.io.fd_pool import FdPools

NAMES: Final[dict[Kind, tuple[str, ...]]] = {
    "pipe": ("pipe's read end", "pipe's write end"),
    "memfd": ("memory file",),
    "null": ("/dev/null",),
    "file": ("file",),
}


Calls = tuple[tuple[CodeType, int], ...]
"""Who called whom, the innermost first, each with its line; what is said of it is made when somebody asks."""

Loan = tuple[Kind, int, float, Calls | None]
"""What is known of a handle that is out: its kind, its number, when it was taken, and by whom. A bare tuple, to cost little."""


class FdHandle:
    """A descriptor that is lent; close it, or use it in a ``with`` block, which does. Thread-safe.

    One that is forgotten is closed when it is collected, with a ResourceWarning.

    Attributes:
        kind: What it is of.
        generation: A number that no other handle of its manager has or had.
    """

    __slots__ = ("__weakref__", "_end", "_held", "_pools", "generation", "kind")

    def __init__(self, pools: FdPools, held: Held, end: int, where: Calls | None) -> None:
        self._pools = pools
        self._end = end
        self.kind: Kind = held.kind
        self.generation = next(pools.generations)
        pools.out[self.generation] = (held.kind, held.fds[end], time.monotonic(), where)
        self._held = held

    def fileno(self) -> int:
        """Return the number, for system calls and children. Close the handle, not the number.

        Raises:
            StaleDescriptorError: The handle was closed.
        """
        try:
            fd = self._held.fds[self._end]
        except AttributeError:
            raise self._stale() from None
        if fd == NOT_OPEN:  # shared, and somebody closed its number
            raise self._stale()
        return fd

    def close(self) -> None:
        """Give the descriptor back. Of a pipe this end is really closed, so that the other sees the end of it.

        Raises:
            StaleDescriptorError: The handle was closed already, or its number by somebody else; the kernel was told nothing.
            OSError: What close(2) says of a file that was written to.
        """
        try:
            held = self._held
            del self._held  # one atomic step: of two threads that close at the same time one gets no further
        except AttributeError:
            raise self._stale() from None
        self._pools.take_back(held, self._end, self.generation)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return not hasattr(self, "_held")

    def _stale(self) -> StaleDescriptorError:
        name = NAMES[self.kind][self._end]
        return StaleDescriptorError(f"the {name} of generation {self.generation} was closed; open another")

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd {self._held.fds[self._end]}"
        return f"<{NAMES[self.kind][self._end]}, generation {self.generation}, {state}>"

    def __enter__(self) -> FdHandle:
        self.fileno()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_held"):
            self._pools.take_back_forgotten(self._held, self._end, self.generation)


def said(calls: Calls) -> str:
    """Return who took a descriptor, for people."""
    return " < ".join(f"{Path(code.co_filename).name}:{line} in {code.co_name}" for code, line in calls)
