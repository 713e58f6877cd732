"""Many buffer pools under one roof: found by their id, counted, and let go of when nobody has used them for long."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from procbench.errors import (
    BufferInUseError,
    InvalidInputError,
    PoolExhaustedError,
)
from procbench.memory import checks
from procbench.memory.buffers import BufferPool
from procbench.memory.lease import PooledBuffer

# A time's bin is its octave and the next four bits: no wider than a sixteenth of the time, and some thousand bins at most.
_BIN_BITS: Final = 4


@dataclass(frozen=True, slots=True)
class PoolStats:
    """How one pool stands.

    Attributes:
        pool_id: Its id.
        buffer_size_bytes: Size of each buffer.
        capacity: Buffers in all.
        available: Buffers that could be had now.
        in_use: Buffers that are out.
        utilisation: The share of the buffers that is out, 0 to 1.
        created_s: When it was made, seconds of ``time.monotonic``.
        last_used_s: When a buffer last went out or came back; for a pool never used, when it was made.
        hits: Buffers that were had at once.
        misses: Times that all were out, so that the caller had to wait or went away without.
    """

    pool_id: str
    buffer_size_bytes: int
    capacity: int
    available: int
    in_use: int
    utilisation: float
    created_s: float
    last_used_s: float
    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class AllocationStats:
    """What all pools of a manager did, those included that are gone.

    Attributes:
        allocations: Buffers that went out.
        releases: Buffers that came back.
        current: Buffers that are out.
        peak: Most that were out at a time.
        failures: Requests that got none: over the size, or all out.
        mean_acquire_ns: Mean time of a request, that of waits and failures included; 0 before the first.
        p99_acquire_ns: The time that 99 of 100 requests kept to; up to a sixteenth too large, never too small.
    """

    allocations: int
    releases: int
    current: int
    peak: int
    failures: int
    mean_acquire_ns: float
    p99_acquire_ns: int


class _Times:
    """Times in bins that widen with the time: bounded memory, and one addition for each time."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = self.total_ns = 0

    def add(self, ns: int) -> None:
        shift = max(0, ns.bit_length() - _BIN_BITS - 1)
        self._bins[(shift << (_BIN_BITS + 1)) | (ns >> shift)] += 1
        self.count += 1
        self.total_ns += ns

    def quantile(self, share: float) -> int:
        """Return the upper end of the bin that holds the quantile; 0 without times."""
        left = math.ceil(self.count * share)
        for number in sorted(self._bins):
            left -= self._bins[number]
            if left <= 0:
                shift = number >> (_BIN_BITS + 1)
                return (((number & ((2 << _BIN_BITS) - 1)) + 1) << shift) - 1
        return 0


class _Managed:
    """A pool and what the manager knows of it."""

    def __init__(self, pool: BufferPool) -> None:
        self.pool = pool
        self.created_s = self.last_used_s = time.monotonic()
        self.hits = self.misses = 0
        self.entered = 0  # requests under way: clean-up must not close the pool under them


class MemoryPoolManager:
    """Makes pools, finds them by id, lends from them and counts. Thread-safe.

    Counting costs a lock and two looks at the clock per buffer, some 2 µs; who needs neither uses :class:`BufferPool`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a forgotten buffer may come back inside any statement of ours
        self._pools: dict[str, _Managed] = {}
        self._times = _Times()
        self._allocations = self._releases = self._peak = self._failures = 0

    def create(
        self,
        pool_id: str,
        buffer_size_bytes: int,
        capacity: int,
        *,
        huge_pages: bool = False,
        prefault: bool = False,
    ) -> BufferPool:
        """Make a pool; arguments as those of :class:`BufferPool`.

        Raises:
            InvalidInputError: The id is no str, there is a pool of this id already, or a number makes no sense.
            MappingError: The kernel gives no such memory.
        """
        _check_id(pool_id)
        with self._lock:
            if pool_id in self._pools:
                raise InvalidInputError(f"there is a pool {pool_id!r} already; remove it, or choose another id")
            pool = BufferPool(buffer_size_bytes, capacity, huge_pages=huge_pages, prefault=prefault, name=pool_id)
            self._pools[pool_id] = _Managed(pool)
        return pool

    def pool_ids(self) -> list[str]:
        """Return the ids of the pools that there are, in the order they were made."""
        with self._lock:
            return list(self._pools)

    def acquire(self, pool_id: str, timeout: float | None = None, *, size_bytes: int | None = None) -> PooledBuffer:
        """Return a buffer of a pool, and wait while all are out; as :meth:`BufferPool.acquire`.

        Raises:
            InvalidInputError: There is no such pool, or a number makes no sense.
        """
        checks.timeout(timeout)
        with self._lock:
            managed = self._find(pool_id)
            managed.entered += 1
        begun_ns = time.perf_counter_ns()
        buffer, missed = None, False
        try:
            try:
                buffer = managed.pool.acquire_nowait(size_bytes=size_bytes)
            except PoolExhaustedError:
                missed = True
                buffer = managed.pool.acquire(timeout, size_bytes=size_bytes)
            return buffer
        finally:
            self._count(managed, time.perf_counter_ns() - begun_ns, got=buffer is not None, missed=missed)

    def acquire_nowait(self, pool_id: str, *, size_bytes: int | None = None) -> PooledBuffer:
        """Return a buffer of a pool that is free now; as :meth:`BufferPool.acquire_nowait`."""
        return self.acquire(pool_id, timeout=0, size_bytes=size_bytes)

    def release(self, pool_id: str, buffer: PooledBuffer) -> None:
        """Take a buffer back; as :meth:`BufferPool.release`. What it refuses counts for nothing.

        Raises:
            InvalidInputError: There is no such pool.
        """
        with self._lock:
            managed = self._find(pool_id)
            managed.pool.release(buffer)
            self._releases += 1
            managed.last_used_s = time.monotonic()

    def pool_stats(self, pool_id: str) -> PoolStats:
        """Return how a pool stands.

        Raises:
            InvalidInputError: There is no such pool.
        """
        with self._lock:
            managed = self._find(pool_id)
            now = managed.pool.statistics()
            return PoolStats(
                pool_id=pool_id,
                buffer_size_bytes=now.buffer_size_bytes,
                capacity=now.capacity,
                available=now.available,
                in_use=now.in_use,
                utilisation=now.in_use / now.capacity,
                created_s=managed.created_s,
                last_used_s=managed.last_used_s,
                hits=managed.hits,
                misses=managed.misses,
            )

    def statistics(self) -> AllocationStats:
        """Return what all pools did."""
        with self._lock:
            return AllocationStats(
                allocations=self._allocations,
                releases=self._releases,
                current=self._current(),
                peak=self._peak,
                failures=self._failures,
                mean_acquire_ns=self._times.total_ns / self._times.count if self._times.count else 0.0,
                p99_acquire_ns=self._times.quantile(0.99),
            )

    def remove(self, pool_id: str) -> None:
        """Let go of a pool and give its memory back.

        Raises:
            BufferInUseError: Buffers are out, or somebody is about to get one; nothing has changed.
            InvalidInputError: There is no such pool.
        """
        with self._lock:
            managed = self._find(pool_id)
            if managed.entered:
                raise BufferInUseError(f"somebody is about to get a buffer of {pool_id}")
            managed.pool.close()
            del self._pools[pool_id]

    def cleanup_idle(self, max_idle_s: float) -> list[str]:
        """Let go of the pools that nobody has used for so long; one that has buffers out is never touched.

        Returns:
            The ids of the pools that are gone.

        Raises:
            InvalidInputError: ``max_idle_s`` is no finite number of at least 0; no pool was let go of.
        """
        checks.seconds("max_idle_s", max_idle_s)
        gone = []
        with self._lock:
            for pool_id, managed in list(self._pools.items()):
                if time.monotonic() - managed.last_used_s >= max_idle_s:
                    try:
                        self.remove(pool_id)
                    except BufferInUseError:
                        continue
                    gone.append(pool_id)
        return gone

    def _find(self, pool_id: str) -> _Managed:
        _check_id(pool_id)
        try:
            return self._pools[pool_id]
        except KeyError:
            raise InvalidInputError(f"there is no pool {pool_id!r}; there are: {', '.join(self._pools)}") from None

    def _current(self) -> int:
        return sum(managed.pool.in_use for managed in self._pools.values())

    def _count(self, managed: _Managed, ns: int, *, got: bool, missed: bool) -> None:
        with self._lock:
            managed.entered -= 1
            managed.last_used_s = time.monotonic()
            managed.misses += missed
            managed.hits += got and not missed
            self._allocations += got
            self._failures += not got
            self._peak = max(self._peak, self._current())
            self._times.add(ns)


def _check_id(pool_id: object) -> None:
    if not isinstance(pool_id, str):
        raise InvalidInputError(f"pool_id is {pool_id!r}; a pool is named by a str")
