"""Reused memory for what passes through children's pipes: one slab, lent out in equal buffers without a system call.

Fresh memory costs a page fault for every 4 KiB of it; these pages are faulted in once. What makes lending quick: free slots
stand in a deque, whose ``pop`` and ``append`` are one atomic call each, and a view of a slot is made without copying.

What makes it safe: each slot has an exporter of its own, a ``PickleBuffer`` around its part of the slab, so every view made
from it, and every slice of one, holds a reference to that part. ``memoryview.release`` succeeds while slices live; the count
of those references tells the truth.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from procbench.errors import (
    BufferInUseError,
    BufferSizeError,
    ClosedError,
    DoubleReleaseError,
    ForeignBufferError,
    PoolExhaustedError,
)
from procbench.memory import checks
from procbench.memory.lease import PooledBuffer, Slot, dismantle, hold, references
from procbench.memory.slab import Slab

DEFAULT_SIZE_BYTES: Final = 64 * 1024
"""One read of a pipe of the kernel's default size, pipe(7)."""

_LOOK_EVERY_S: Final = 0.5  # nobody is told when the last slice of a forgotten buffer goes


@dataclass(frozen=True, slots=True)
class BufferPoolStatistics:
    """How a pool stands; read without stopping it, so the numbers are of nearly the same moment.

    Attributes:
        name: The pool's name.
        buffer_size_bytes: Size of each buffer.
        capacity: Buffers in all.
        available: Buffers that could be had now.
        in_use: Buffers that are out; with ``available`` they make ``capacity``.
        waiting: Callers that wait for one.
        forgotten: Buffers that a borrower lost instead of releasing them, so far.
        huge_bytes: How much of the slab the kernel keeps in huge pages now.
        fallbacks: What was asked of the kernel and refused, and what was done instead.
    """

    name: str
    buffer_size_bytes: int
    capacity: int
    available: int
    in_use: int
    waiting: int
    forgotten: int
    huge_bytes: int
    fallbacks: tuple[str, ...]


def wait_steps(timeout: float | None) -> Iterator[float]:
    """Yield seconds to wait at a time, until ``timeout`` is over; between them the caller looks for forgotten buffers."""
    deadline_s = math.inf if timeout is None else time.monotonic() + timeout
    while (left_s := deadline_s - time.monotonic()) > 0:
        yield min(left_s, _LOOK_EVERY_S)


class _Waiter:
    """Somebody who waits for a buffer, and how to tell them that it is theirs."""

    __slots__ = ("slot", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.slot: Slot | None = None


class BufferPool:
    """Buffers of one size in one slab. Thread-safe; who waits is served in order, and nobody overtakes.

    Acquiring and releasing cost the same at every size, some 0.6 µs together, and make no system call. ``close`` gives the
    memory back at once. A pool that is only forgotten is a reference cycle: it goes at a garbage collection, once nobody
    holds it or one of its buffers.

    Args:
        buffer_size_bytes: Size of each buffer, 1 or more.
        capacity: Number of buffers, 1 or more.
        huge_pages: Ask the kernel for huge pages, which takes the memory now; ``statistics`` says what it gave.
        prefault: Take the memory from the kernel now, not at first use.
        name: What messages call it.

    Raises:
        InvalidInputError: A number makes no sense.
        MappingError: The kernel gives no such memory.
    """

    def __init__(
        self,
        buffer_size_bytes: int,
        capacity: int,
        *,
        huge_pages: bool = False,
        prefault: bool = False,
        name: str = "buffers",
    ) -> None:
        for word, number in (("buffer_size_bytes", buffer_size_bytes), ("capacity", capacity)):
            checks.whole(word, number, 1)
        self.buffer_size_bytes = buffer_size_bytes
        self.capacity = capacity
        self.name = name
        self._slab = Slab(buffer_size_bytes, capacity, huge_pages=huge_pages, prefault=prefault)
        # Slots that are out are kept too, or a cycle that holds a buffer would take its slot along when it is collected.
        self._slots = tuple(Slot(self, base, address) for base, address in self._slab.parts())
        self._free = deque(self._slots)
        for slot in self._slots:
            hold(slot.base)
        self._dismantle = weakref.finalize(self, dismantle, [(slot.exporter, slot.base) for slot in self._slots])
        self._dismantle.atexit = False
        for slot in self._slots:  # what it is when nobody else refers to the part; only now no frame does
            slot.unlent = references(slot.base)
        self._waiters: deque[_Waiter] = deque()
        self._matching = threading.Lock()
        self._sliced: deque[Slot] = deque()  # forgotten ones of which a slice lives
        self._forgotten = 0
        self._closed = False

    def acquire(self, timeout: float | None = None, *, size_bytes: int | None = None) -> PooledBuffer:
        """Return a buffer, and wait for one while all are out.

        Args:
            timeout: Most seconds to wait, finite and at least 0; ``None`` for ever.
            size_bytes: Bytes that are needed; the buffer's view is as long. ``None`` for all.

        Raises:
            InvalidInputError: ``timeout`` or ``size_bytes`` is no number of at least 0.
            PoolExhaustedError: None came back in time.
            BufferSizeError: Buffers of this pool are smaller.
            ClosedError: The pool was closed.
        """
        if timeout is not None:
            checks.timeout(timeout)
        if size_bytes is not None:
            self._check_size(size_bytes)
        if self._waiters:
            return PooledBuffer(self._wait(timeout), size_bytes)
        try:
            slot = self._free.pop()
        except IndexError:
            slot = self._wait(timeout)
        return PooledBuffer(slot, size_bytes)

    def acquire_nowait(self, *, size_bytes: int | None = None) -> PooledBuffer:
        """Return a buffer that is free now; otherwise as :meth:`acquire`."""
        if size_bytes is not None:
            self._check_size(size_bytes)
        try:
            if self._waiters:
                raise IndexError
            return PooledBuffer(self._free.pop(), size_bytes)
        except IndexError:
            self._check_open()
        self._reclaim_sliced()
        try:
            if self._waiters:
                raise IndexError
            return PooledBuffer(self._free.pop(), size_bytes)
        except IndexError:
            raise PoolExhaustedError(f"all {self.capacity} buffers of {self.name} are out") from None

    @contextlib.contextmanager
    def lend(self, size_bytes: int | None = None, *, timeout: float | None = None) -> Iterator[memoryview]:
        """Lend a buffer's view for a ``with`` block; slices of it must be gone at the end of the block."""
        with self.acquire(timeout, size_bytes=size_bytes) as view:
            yield view

    def release(self, buffer: PooledBuffer) -> None:
        """Take a buffer back and give it to whoever has waited longest.

        Raises:
            DoubleReleaseError: It was released already.
            ForeignBufferError: It is no buffer of this pool.
            BufferInUseError: A slice of its view is alive. The buffer stays out: drop the slice and release again.
        """
        try:
            slot = buffer._slot
        except AttributeError:
            if isinstance(buffer, PooledBuffer):
                raise DoubleReleaseError(f"the buffer of {self.name} was released already") from None
            raise ForeignBufferError(f"{type(buffer).__name__} is no buffer of a pool") from None
        if slot.pool is not self:
            raise ForeignBufferError(f"the buffer belongs to {slot.pool.name}, not to {self.name}")
        try:
            buffer._view.release()
        except BufferError as error:
            raise BufferInUseError(f"the buffer of {self.name} is in use: {error}") from error
        if references(slot.base) != slot.unlent:
            raise BufferInUseError(f"a slice of the buffer of {self.name} is alive; drop it and release again")
        try:
            del buffer._slot  # one atomic step: of two threads that release at the same time one gets no further
        except AttributeError:
            raise DoubleReleaseError(f"the buffer of {self.name} was released already") from None
        slot.reference = None
        self._free.append(slot)
        if self._waiters:
            self._match()

    @property
    def in_use(self) -> int:
        """How many buffers are out."""
        return 0 if self._closed else self.capacity - len(self._free)

    def statistics(self) -> BufferPoolStatistics:
        """Return how the pool stands. Costs a look into ``/proc/self/smaps`` where huge pages were asked for."""
        self._reclaim_sliced()
        available = len(self._free)
        return BufferPoolStatistics(
            name=self.name,
            buffer_size_bytes=self.buffer_size_bytes,
            capacity=self.capacity,
            available=available,
            in_use=0 if self._closed else self.capacity - available,
            waiting=len(self._waiters),
            forgotten=self._forgotten,
            huge_bytes=self._slab.huge_bytes(),
            fallbacks=self._slab.fallbacks,
        )

    def close(self) -> None:
        """Give the memory back to the kernel. Harmless when called twice.

        Raises:
            BufferInUseError: Buffers are out; nothing has changed.
        """
        self._reclaim_sliced()
        taken: list[Slot] = []
        try:
            while not self._closed and len(taken) < self.capacity:
                taken.append(self._free.pop())
        except IndexError:
            self._free.extend(taken)
            if self._waiters:
                self._match()
            raise BufferInUseError(f"{self.capacity - len(taken)} buffers of {self.name} are out") from None
        if self._closed:
            return
        self._closed = True
        self._dismantle()
        self._slab.close()
        while self._waiters:  # between our taking the last buffer and their queueing for one
            with contextlib.suppress(IndexError):
                self._waiters.popleft().wake()

    # --- waiting --------------------------------------------------------------------------------------------------

    def _wait(self, timeout: float | None) -> Slot:
        asleep = threading.Lock()
        asleep.acquire()
        waiter = self._enter_line(asleep.release)
        try:
            for step_s in wait_steps(timeout):
                if asleep.acquire(timeout=step_s):
                    break
                self._reclaim_sliced()
        except BaseException:
            if not self._leave_line(waiter):
                self._return(waiter)
            raise
        self._leave_line(waiter)
        return self._got(waiter)

    def _enter_line(self, wake: Callable[[], object]) -> _Waiter:
        """Queue for a buffer; ``wake`` is called once, from any thread, when ``_got`` will not have to wait."""
        self._check_open()
        self._reclaim_sliced()
        waiter = _Waiter(wake)
        self._waiters.append(waiter)
        # Only now look (again): whoever releases either sees the waiter, or has put the buffer where this sees it.
        self._match()
        if self._closed and self._leave_line(waiter):
            self._check_open()
        return waiter

    def _leave_line(self, waiter: _Waiter) -> bool:
        """Return whether the waiter left in time; if not, it has been served, or the pool closed."""
        try:
            self._waiters.remove(waiter)
        except ValueError:
            while waiter.slot is None and not self._closed:
                time.sleep(0)  # another thread serves it this very moment, and is between two statements
            return False
        return True

    def _got(self, waiter: _Waiter) -> Slot:
        if waiter.slot is None:
            self._check_open()
            raise PoolExhaustedError(f"none of the {self.capacity} buffers of {self.name} came back in time")
        return waiter.slot

    def _return(self, waiter: _Waiter) -> None:
        """Pass on what a waiter got that no longer wants it."""
        if waiter.slot is not None:
            self._free.append(waiter.slot)
            self._match()

    def _match(self) -> None:
        """Give free buffers to those who wait, the first first.

        One thread at a time; the others need not wait for it, because it looks again after it has let go. So this can
        be called from anywhere, even from a garbage collection in the middle of itself.
        """
        while self._waiters and self._free and self._matching.acquire(blocking=False):
            try:
                try:
                    slot = self._free.pop()
                except IndexError:
                    continue
                try:
                    waiter = self._waiters.popleft()
                except IndexError:  # they went away; first the buffer, so that nobody is out of line for nothing
                    self._free.append(slot)
                    continue
                waiter.slot = slot
                waiter.wake()
            finally:
                self._matching.release()

    # --- what went wrong -------------------------------------------------------------------------------------------

    def _take_back_forgotten(self, slot: Slot) -> None:
        slot.reference = None
        self._forgotten += 1
        if references(slot.base) == slot.unlent:
            self._free.append(slot)
            self._match()
        else:  # nobody tells us when the slices go: whoever finds no buffer free looks
            self._sliced.append(slot)
        warnings.warn(f"a buffer of {self.name} was forgotten; release it", ResourceWarning, stacklevel=2)

    def _reclaim_sliced(self) -> None:
        if not self._sliced:
            return
        for _ in range(len(self._sliced)):
            try:
                slot = self._sliced.popleft()
            except IndexError:
                return
            home = self._free if references(slot.base) == slot.unlent else self._sliced
            home.append(slot)
        self._match()

    def _check_size(self, size_bytes: int) -> None:
        checks.whole("size_bytes", size_bytes)
        if size_bytes > self.buffer_size_bytes:
            raise BufferSizeError(f"{size_bytes} bytes asked for; buffers of {self.name} have {self.buffer_size_bytes}")

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.name} was closed")
