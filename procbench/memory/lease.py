"""One buffer while it is lent: the borrower's handle, and the place in the slab that it stands for."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import weakref
from collections.abc import Callable
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

from procbench.errors import BufferReleasedError, BufferSizeError, DoubleReleaseError

if TYPE_CHECKING:
    from procbench.memory.buffers import BufferPool

references = sys.getrefcount
"""How many references there are to a part of the slab; each view made from it, and each slice of one, shares in one."""

# A memoryview that exports memory must not meet the garbage collector: CPython 3.11 and 3.12 crash when it clears one in a
# cycle before what holds its export. A reference that the collector cannot account for keeps it away from them.
hold = ctypes.pythonapi.Py_IncRef
_let_go = ctypes.pythonapi.Py_DecRef
hold.argtypes = _let_go.argtypes = [ctypes.py_object]
hold.restype = _let_go.restype = None


def dismantle(parts: list[tuple[PickleBuffer, memoryview]]) -> None:
    """Release what a pool lent from; a part of which somebody keeps a view is never given back, because of the above."""
    for exporter, base in parts:
        exporter.release()
        with contextlib.suppress(BufferError):
            base.release()
            _let_go(base)


class Slot:
    """One buffer's place in the slab; made once, lent many times."""

    __slots__ = ("address", "base", "exporter", "forgotten", "pool", "reference", "unlent")

    def __init__(self, pool: BufferPool, base: memoryview, address: int) -> None:
        self.pool = pool
        self.base = base
        self.exporter = PickleBuffer(base)
        self.address = address
        self.unlent = 0
        self.reference: weakref.ref[memoryview] | None = None
        self.forgotten: Callable[[Any], None] = self._forgotten

    def _forgotten(self, _: object) -> None:
        self.pool._take_back_forgotten(self)


class PooledBuffer:
    """A buffer that is lent; release it, or use it in a ``with`` block, which does.

    Attributes:
        view: The memory, writable.
        size_bytes: As many bytes as were asked for.
        address: Where it lies, for system calls.
    """

    __slots__ = ("_slot", "_view")

    def __init__(self, slot: Slot, size_bytes: int | None) -> None:
        view = memoryview(slot.exporter)
        if size_bytes is not None:
            view = view[:size_bytes]
        self._view = view
        self._slot = slot
        slot.reference = weakref.ref(view, slot.forgotten)

    @property
    def view(self) -> memoryview:
        """The memory, writable.

        Raises:
            BufferReleasedError: The buffer was released. A view that was kept since before says so itself (ValueError).
        """
        try:
            self._slot  # noqa: B018 - the look itself is what raises
        except AttributeError:
            raise BufferReleasedError("the buffer was released; acquire another") from None
        return self._view

    @property
    def size_bytes(self) -> int:
        """As many bytes as were asked for."""
        return self.view.nbytes

    @property
    def address(self) -> int:
        """Where the memory lies, for system calls; valid until the release."""
        try:
            return self._slot.address
        except AttributeError:
            raise BufferReleasedError("the buffer was released; acquire another") from None

    def narrow(self, size_bytes: int) -> None:
        """Make the view as long as what was put into the buffer, counted from its beginning.

        Raises:
            BufferReleasedError: The buffer was released.
            BufferSizeError: The view is shorter than that.
        """
        wide = self.view
        if not 0 <= size_bytes <= wide.nbytes:
            raise BufferSizeError(f"the view has {wide.nbytes} bytes; it cannot be narrowed to {size_bytes}")
        narrow = wide[:size_bytes]
        self._slot.reference = weakref.ref(narrow, self._slot.forgotten)
        self._view = narrow
        wide.release()

    @property
    def pool(self) -> BufferPool:
        """The pool that lends it."""
        try:
            return self._slot.pool
        except AttributeError:
            raise BufferReleasedError("the buffer was released; acquire another") from None

    def release(self) -> None:
        """Give the buffer back to its pool; as :meth:`BufferPool.release`."""
        try:
            pool = self._slot.pool
        except AttributeError:
            raise DoubleReleaseError("the buffer was released already") from None
        pool.release(self)

    def __enter__(self) -> memoryview:
        return self.view

    def __exit__(self, *_: object) -> None:
        self.release()
