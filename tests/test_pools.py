"""Pools are found by id, count what they did, and are let go of only when nobody uses them."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procbench.errors import (
    BufferInUseError,
    BufferSizeError,
    ClosedError,
    DoubleReleaseError,
    ForeignBufferError,
    InvalidInputError,
    PoolExhaustedError,
)
from procbench.memory.pools import MemoryPoolManager, _Times
from tests.waiting import wait_until


@pytest.fixture
def manager() -> Iterator[MemoryPoolManager]:
    made = MemoryPoolManager()
    made.create("small", 4096, 2)
    yield made
    assert made.cleanup_idle(0)
    assert made.pool_ids() == []


def test_a_pool_is_found_by_its_id(manager: MemoryPoolManager) -> None:
    """Create, look up, acquire and release by id; an id that is taken or unknown is named."""
    manager.create("large", 1 << 20, 1, prefault=True)
    assert manager.pool_ids() == ["small", "large"]
    buffer = manager.acquire("large", size_bytes=5)
    assert buffer.size_bytes == 5
    assert manager.pool_stats("large").utilisation == 1
    manager.release("large", buffer)
    with pytest.raises(InvalidInputError, match="small"):
        manager.create("small", 1, 1)
    for call in (manager.acquire, manager.pool_stats, manager.remove, lambda name: manager.release(name, buffer)):
        with pytest.raises(InvalidInputError, match=r"'none'.*small, large"):
            call("none")


def test_a_full_pool_takes_every_release_and_goes_on(manager: MemoryPoolManager) -> None:
    """Sketch: a full pool dropped the release, so that it counted as in use for ever; ours lends all of it again."""
    for _ in range(5):
        held = [manager.acquire("small"), manager.acquire_nowait("small")]
        assert manager.pool_stats("small").in_use == manager.statistics().current == 2
        for buffer in held:
            manager.release("small", buffer)
    now = manager.statistics()
    assert (now.allocations, now.releases, now.current, now.peak, now.failures) == (10, 10, 0, 2, 0)


def test_times_are_kept_in_nanoseconds(manager: MemoryPoolManager) -> None:
    """Sketch: the mean was rounded to whole milliseconds, and so always 0."""
    assert (manager.statistics().mean_acquire_ns, manager.statistics().p99_acquire_ns) == (0, 0)
    manager.release("small", manager.acquire("small"))
    assert 0 < manager.statistics().mean_acquire_ns <= manager.statistics().p99_acquire_ns


def test_misses_are_timed_and_counted_too(manager: MemoryPoolManager) -> None:
    """Sketch: only hits were averaged; the time of one that waited in vain is in mean and p99."""
    held = [manager.acquire("small"), manager.acquire("small")]
    with pytest.raises(PoolExhaustedError):
        manager.acquire("small", timeout=0.02)
    now, stats = manager.statistics(), manager.pool_stats("small")
    assert (stats.hits, stats.misses, now.failures) == (2, 1, 1)
    assert now.mean_acquire_ns * 3 >= 20_000_000
    assert now.p99_acquire_ns >= 20_000_000
    thread = threading.Thread(target=lambda: manager.release("small", manager.acquire("small")))
    thread.start()
    wait_until(lambda: manager._pools["small"].pool.statistics().waiting == 1)
    for buffer in held:
        manager.release("small", buffer)
    thread.join()
    stats = manager.pool_stats("small")
    assert (stats.hits, stats.misses, stats.available) == (2, 2, 2)


def test_a_request_over_the_size_is_refused(manager: MemoryPoolManager) -> None:
    """Sketch: more than the pool's buffer size was lent in silence."""
    with pytest.raises(BufferSizeError):
        manager.acquire("small", size_bytes=4097)
    assert (manager.statistics().failures, manager.statistics().allocations) == (1, 0)


def test_clean_up_never_touches_a_pool_with_buffers_out(manager: MemoryPoolManager) -> None:
    """Sketch: idle clean-up destroyed pools whose buffers were in use; ours keeps them and their memory."""
    manager.create("other", 64, 1)
    buffer = manager.acquire("small")
    view = buffer.view
    assert manager.cleanup_idle(0) == ["other"]
    view[:] = b"x" * 4096
    with pytest.raises(BufferInUseError):
        manager.remove("small")
    manager.release("small", buffer)
    assert manager.cleanup_idle(3600) == []
    with pytest.raises(InvalidInputError):
        manager.cleanup_idle(math.nan)


def test_clean_up_never_closes_a_pool_under_who_waits(manager: MemoryPoolManager) -> None:
    """A pool with a request under way is in use, though all its buffers may be back for a moment."""
    manager._pools["small"].entered += 1
    assert manager.cleanup_idle(0) == []
    manager._pools["small"].entered -= 1


def test_a_removed_pool_is_gone_and_its_counts_stay(manager: MemoryPoolManager) -> None:
    """What a pool did stays in the manager's counts; who kept the pool itself finds it closed."""
    pool = manager.create("brief", 64, 1)
    manager.release("brief", manager.acquire("brief"))
    manager.remove("brief")
    assert manager.statistics().allocations == 1
    with pytest.raises(ClosedError):
        pool.acquire()


def test_what_a_pool_refuses_counts_for_nothing(manager: MemoryPoolManager) -> None:
    """B04: neither a double nor a foreign release changes a count."""
    manager.create("other", 64, 1)
    buffer = manager.acquire("small")
    with pytest.raises(ForeignBufferError):
        manager.release("other", buffer)
    manager.release("small", buffer)
    with pytest.raises(DoubleReleaseError):
        manager.release("small", buffer)
    assert (manager.statistics().allocations, manager.statistics().releases) == (1, 1)


def test_a_forgotten_buffer_is_not_counted_as_out(manager: MemoryPoolManager) -> None:
    """B07: what a borrower lost is back, in the manager's counts too."""
    with pytest.warns(ResourceWarning, match="small"):
        manager.acquire("small")
    assert manager.statistics().current == manager.pool_stats("small").in_use == 0


def test_when_it_was_made_and_used(manager: MemoryPoolManager) -> None:
    """created and last used are of one clock; lending moves last used."""
    before = manager.pool_stats("small")
    assert before.created_s == before.last_used_s <= time.monotonic()
    manager.release("small", manager.acquire("small"))
    after = manager.pool_stats("small")
    assert after.created_s == before.created_s < after.last_used_s


def test_counts_are_exact_with_eight_threads(manager: MemoryPoolManager) -> None:
    """B06: threads that change places each microsecond lose no count; hits and misses make the requests."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work() -> None:
        for _ in range(500):
            manager.release("small", manager.acquire("small"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    now, stats = manager.statistics(), manager.pool_stats("small")
    assert (now.allocations, now.releases, now.current, now.failures) == (4000, 4000, 0, 0)
    assert stats.hits + stats.misses == 4000
    assert now.peak <= 2


@given(st.lists(st.integers(0, 1 << 50), min_size=1), st.sampled_from([0.5, 0.99, 1.0]))
def test_a_quantile_is_at_most_a_sixteenth_too_large(times: list[int], share: float) -> None:
    """The p99 comes from bins: never below the true one, never more than a sixteenth above."""
    kept = _Times()
    for ns in times:
        kept.add(ns)
    true = sorted(times)[math.ceil(len(times) * share) - 1]
    assert true <= kept.quantile(share) <= true + true // 16


def test_what_makes_no_sense_is_refused_and_changes_nothing(manager: MemoryPoolManager) -> None:
    """A time, size or id of the wrong kind is an InvalidInputError; no pool goes and no buffer is lent."""
    before = manager.pool_ids()
    manager.create("a", 64, 1)
    bad: Any
    for bad in ("a", None, -1, float("nan"), float("inf"), True, [1]):
        with pytest.raises(InvalidInputError, match=r"; "):
            manager.cleanup_idle(bad)
        if bad is not None:
            with pytest.raises(InvalidInputError, match=r"; "):
                manager.acquire("a", bad)
    for bad in ("1", -1, 1.5, True):
        with pytest.raises(InvalidInputError, match=r"; "):
            manager.acquire("a", size_bytes=bad)
    for bad in (None, 1, ["a"], "absent"):
        for call in (manager.acquire, manager.remove, manager.pool_stats, manager.acquire_nowait):
            with pytest.raises(InvalidInputError, match=r"; "):
                call(bad)
    for bad in (None, 1, ["a"], "a"):
        with pytest.raises(InvalidInputError, match=r"; "):
            manager.create(bad, 64, 1)
    assert manager.pool_ids() == [*before, "a"]
    assert manager.pool_stats("a").in_use == 0
