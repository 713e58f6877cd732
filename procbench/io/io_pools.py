"""Sizes of what passes through children's streams, and named pools of buffers of these sizes."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, fields
from typing import Final

from procbench.errors import BufferInUseError, InvalidInputError
from procbench.memory.buffers import DEFAULT_SIZE_BYTES, BufferPool, BufferPoolStatistics

_DEFAULT_BUFFERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferSizes:
    """How much passes through each stream at a time. Which sizes are best is a matter of measuring.

    Attributes:
        stdin: Bytes of each buffer that is lent for writing.
        stdout: Most bytes that one read of standard output takes.
        stderr: Most bytes that one read of standard error takes.
        file: Bytes of a file that are copied at a time where the kernel cannot move them by itself.
        pipe: Size to ask for, of each pipe; ``None`` leaves the kernel's 64 KiB. What was had stands in the result.

    Raises:
        InvalidInputError: A size is no whole number of at least 1.
    """

    stdin: int = DEFAULT_SIZE_BYTES
    stdout: int = DEFAULT_SIZE_BYTES
    stderr: int = DEFAULT_SIZE_BYTES
    file: int = DEFAULT_SIZE_BYTES
    pipe: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            size = getattr(self, field.name)
            if (type(size) is not int or size < 1) and not (field.name == "pipe" and size is None):
                raise InvalidInputError(f"{field.name} is {size!r}; it must be a whole number of bytes, at least 1")


class IoPool:
    """A pool of buffers to read into and one of buffers to write from. Thread-safe.

    The memory is taken from the kernel as it is used, and given back by ``close``.

    Args:
        name: What messages call it.
        sizes: Of the buffers; those to read into are as large as the larger of ``stdout`` and ``stderr``.
        buffers: How many there are of each kind.
        prefault: Take the memory from the kernel now, not at first use.

    Attributes:
        name: As given.
        sizes: As given.
        read: What ``batch_read`` reads into.
        write: What ``acquire_nowait`` of a child's standard input lends.

    Raises:
        InvalidInputError: ``buffers`` makes no sense.
        MappingError: The kernel gives no such memory.
    """

    def __init__(
        self, name: str, sizes: BufferSizes | None = None, *, buffers: int = _DEFAULT_BUFFERS, prefault: bool = False
    ) -> None:
        self.name = name
        self.sizes = sizes or BufferSizes()
        size = max(self.sizes.stdout, self.sizes.stderr)
        self.read = BufferPool(size, buffers, prefault=prefault, name=f"read buffers of {name}")
        self.write = BufferPool(self.sizes.stdin, buffers, prefault=prefault, name=f"write buffers of {name}")

    def statistics(self) -> tuple[BufferPoolStatistics, BufferPoolStatistics]:
        """Return how the buffers to read into stand, and those to write from."""
        return self.read.statistics(), self.write.statistics()

    def close(self) -> None:
        """Give the memory back. Harmless when called twice.

        Raises:
            BufferInUseError: Buffers are out; nothing is given back, unless they were lent this very moment.
        """
        for pool in (self.read, self.write):
            if out := pool.statistics().in_use:
                raise BufferInUseError(f"{out} buffers of {pool.name} are out; release them, and close the pool again")
        self.read.close()
        self.write.close()


class IoPools:
    """I/O pools by name. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[str, IoPool] = {}

    def create(
        self, name: str, sizes: BufferSizes | None = None, *, buffers: int = _DEFAULT_BUFFERS, prefault: bool = False
    ) -> IoPool:
        """Make a pool; arguments as those of :class:`IoPool`.

        Raises:
            InvalidInputError: The name is empty or no str, or there is one of that name.
        """
        if not isinstance(name, str) or not name:
            raise InvalidInputError(f"name is {name!r}; an I/O pool is named by a str")
        with self._lock:
            if name in self._pools:
                raise InvalidInputError(f"there is an I/O pool {name!r} already; remove it, or choose another name")
            pool = self._pools[name] = IoPool(name, sizes, buffers=buffers, prefault=prefault)
        return pool

    def find(self, name: str) -> IoPool:
        """Return the pool of that name.

        Raises:
            InvalidInputError: There is none.
        """
        with self._lock:
            pool = self._pools.get(name)
            if pool is None:
                there = ", ".join(self._pools) or "none yet"
                raise InvalidInputError(f"there is no I/O pool {name!r}; there are: {there}")
        return pool

    def names(self) -> list[str]:
        """Return the names, in the order in which the pools were made."""
        with self._lock:
            return list(self._pools)

    def remove(self, name: str) -> None:
        """Let go of a pool, and give its memory back.

        Raises:
            InvalidInputError: There is none of that name.
            BufferInUseError: Buffers are out; the pool stays.
        """
        pool = self.find(name)
        with self._lock:  # so that nobody finds it, or makes another of its name, while it is being closed
            pool.close()
            if self._pools.get(name) is pool:
                del self._pools[name]


IO_POOLS: Final = IoPools()
"""The pools that ``open_process`` finds by name."""


@functools.cache
def default_io_pool() -> IoPool:
    """Return the pool of who names none; memory that nobody uses costs nothing."""
    return IoPool("children")
