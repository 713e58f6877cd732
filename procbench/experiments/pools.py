"""What does a pooled buffer cost against fresh memory, and how large should the buffers for children's output be?"""

from __future__ import annotations

import math
import mmap
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from procbench.errors import InvalidInputError
from procbench.experiments.pools_outcome import POOL, UNZEROED, PoolsResult, condition_name
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress, Trials
from procbench.lab.trials import Condition, measure, wall_time
from procbench.memory.buffers import DEFAULT_SIZE_BYTES, BufferPool
from procbench.memory.pools import MemoryPoolManager
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

SIZES: Final = (4 << 10, 64 << 10, 1 << 20, 16 << 20)
READ_SIZES: Final = (4 << 10, 16 << 10, DEFAULT_SIZE_BYTES, 256 << 10, 1 << 20)
_FULL_TIMES: Final = 6
_ACQUIRES: Final = 200  # in a trial, each timed by itself
_OUTPUT_BYTES: Final = 32 << 20  # what the child of a reading trial writes
_PAGE: Final = mmap.PAGESIZE
_REQUESTS: Final = 2000
_BORROWERS: Final = 4
_MAX_IDLE_S: Final = 0.5
_WATCHED_S: Final = 1.2
_STEP_S: Final = 0.02


def run(
    *,
    sizes: Sequence[int] = SIZES,
    threads: Sequence[int] = (1, 8),
    budget_s: float = 20,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> PoolsResult:
    """Measure what a buffer costs by way, size and threads, and what the size does to the reading of output.

    Args:
        sizes: Sizes of buffers in bytes.
        threads: Numbers of threads that get buffers at a time; 1 always belongs to them.
        budget_s: Seconds for measuring, about.
        full: Six times the budget, and narrower intervals.
        data_dir: Where to record the run; empty or None not to. Where that fails the notes say so.
        seed: Seeds the order of trials and the bootstrap.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each of the two measurements.

    Raises:
        InvalidInputError: A number makes no sense; nothing has run then.
    """
    if not (math.isfinite(budget_s) and budget_s > 0) or not sizes or min(*sizes, *threads, 1) < 1:
        raise InvalidInputError(f"sizes, threads and budget_s are above 0, and not {sizes}, {threads}, {budget_s}")
    total_s = budget_s * (_FULL_TIMES if full else 1)
    width = 0.02 if full else 0.05
    counts = sorted({1, *threads})
    host = read_host()
    latencies: dict[str, list[int]] = {}
    pools = {size: BufferPool(size, max(counts)) for size in sizes}
    conditions = [
        Condition(
            condition_name(way, size, count),
            _latency_trial(latencies.setdefault(condition_name(way, size, count), []), make, size, count),
            {"way": way, "size_bytes": size, "threads": count},
        )
        for size in sizes
        for count in counts
        for way, make in _ways(pools[size]).items()
    ]
    shared: dict[str, Any] = {
        "seed": seed,
        "min_blocks": 6,
        "max_blocks": 200 if full else 40,
        "target_half_width": width,
    }
    shared["on_progress"] = on_progress
    baseline = condition_name("bytearray", max(sizes), 1)
    acquiring = measure(conditions, baseline=baseline, larger_is_better=False, budget_s=0.5 * total_s, **shared)
    reads = [Condition(f"{size} B", _reading_trial(size), {"buffer_size_bytes": size}) for size in READ_SIZES]
    reading = measure(
        reads,
        baseline=f"{DEFAULT_SIZE_BYTES} B",
        larger_is_better=False,
        budget_s=0.4 * total_s,
        **shared,
    )
    if not (acquiring.blocks and reading.blocks):  # struck by Ctrl-C before there was anything to keep
        raise KeyboardInterrupt
    result = PoolsResult(
        frame=_frame(acquiring, "acquire (ns)", reading, "read (s)"),
        acquiring=acquiring,
        reading=reading,
        latencies_ns=latencies,
        faults=_page_faults(pools),
        hits=_hit_rates(),
        backings=_backings(max(sizes)),
        idle=_idle_clean_up(),
        balance=tuple(pool.statistics() for pool in pools.values()),
        host=host,
        warnings=noise_warnings(host),
        parameters={"sizes": list(sizes), "threads": counts, "budget_s": total_s, "full": full, "seed": seed},
    )
    for pool in pools.values():
        pool.close()
    return result.kept_in(data_dir)


def _ways(pool: BufferPool) -> dict[str, Callable[[], tuple[Any, Callable[[], object]]]]:
    """Return for every way a function that gets memory and returns it with what gives it back."""
    import numpy as np

    size = pool.buffer_size_bytes

    def pooled() -> tuple[Any, Callable[[], object]]:
        buffer = pool.acquire()
        return buffer, buffer.release

    def mapped() -> tuple[Any, Callable[[], object]]:
        fresh = mmap.mmap(-1, size)
        return fresh, fresh.close

    return {
        POOL: pooled,
        "bytearray": lambda: (bytearray(size), _nothing),
        UNZEROED: lambda: (np.empty(size, np.uint8), _nothing),
        "fresh mmap": mapped,
    }


def _nothing() -> None:
    """Give back what goes by itself."""


def _latency_trial(
    kept: list[int], make: Callable[[], tuple[Any, Callable[[], object]]], size: int, threads: int
) -> Callable[[], float]:
    """Return a trial: memory is got and given back many times in every thread; its value is the median time to get it."""
    each = max(8, min(_ACQUIRES, (64 << 20) // size) // threads)

    def work(times: list[int]) -> None:
        clock = time.perf_counter_ns
        for _ in range(each):
            begun = clock()
            memory, give_back = make()
            times.append(clock() - begun)
            give_back()
            del memory, give_back

    def trial() -> float:
        times: list[list[int]] = [[] for _ in range(threads)]
        if threads == 1:
            work(times[0])
        else:
            workers = [threading.Thread(target=work, args=(own,)) for own in times]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        all_of_them = [value for own in times for value in own]
        kept.extend(all_of_them)
        return float(statistics.median(all_of_them))

    return trial


def _reading_trial(size: int) -> Callable[[], float]:
    """Return a trial: one command writes, one worker reads it with a buffer of this size; its value is seconds."""
    settings = RunSettings(workers=1, capture=True, buffer_size_bytes=size)

    def read() -> None:
        with WorkStealingScheduler(settings) as scheduler:
            result = scheduler.submit(["head", "-c", str(_OUTPUT_BYTES), "/dev/zero"]).result()
        result.check_returncode()

    return wall_time(read)


def _frame(acquiring: Trials, acquire_unit: str, reading: Trials, read_unit: str) -> pd.DataFrame:
    import pandas as pd

    parts = [acquiring.frame().assign(quantity=acquire_unit), reading.frame().assign(quantity=read_unit)]
    return pd.concat(parts, ignore_index=True)


def _page_faults(pools: dict[int, BufferPool]) -> pd.DataFrame:
    """Return what one use costs, of which every page is written: page faults and time, medians of some uses."""
    import pandas as pd

    rows = []
    for size, pool in pools.items():
        ones = b"\1" * len(range(0, size, _PAGE))
        for way, make in _ways(pool).items():
            uses = []
            for _ in range(9):
                before, begun = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt, time.perf_counter_ns()
                memory, give_back = make()
                with memoryview(memory.view if way == POOL else memory) as view, view[::_PAGE] as pages:
                    pages[:] = ones
                give_back()
                del memory, give_back
                now = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
                uses.append((now - before, time.perf_counter_ns() - begun))
            faults, times = zip(*uses, strict=True)
            row = {"faults": statistics.median(faults), "use_us": statistics.median(times) / 1000}
            rows.append({"way": way, "size_bytes": size, **row})
    return pd.DataFrame(rows)


def _hit_rates() -> pd.DataFrame:
    """Return how often a buffer was to be had at once, by capacity, while threads fill theirs by read(2)."""
    import pandas as pd

    rows = []
    for capacity in range(1, _BORROWERS + 1):
        manager = MemoryPoolManager()
        manager.create("read", 1 << 20, capacity, prefault=True)

        start = threading.Barrier(_BORROWERS)

        def work(manager: MemoryPoolManager = manager, start: threading.Barrier = start) -> None:
            zeros = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
            start.wait()
            for _ in range(_REQUESTS // _BORROWERS):
                buffer = manager.acquire("read")
                os.readv(zeros, [buffer.view])
                manager.release("read", buffer)
            os.close(zeros)

        workers = [threading.Thread(target=work) for _ in range(_BORROWERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        stats, total = manager.pool_stats("read"), manager.statistics()
        rate = stats.hits / (stats.hits + stats.misses)
        wait = {"mean_acquire_us": total.mean_acquire_ns / 1000, "p99_acquire_us": total.p99_acquire_ns / 1000}
        rows.append({"capacity": capacity, "borrowers": _BORROWERS, "hit_rate": rate, **wait})
        manager.cleanup_idle(0)
    return pd.DataFrame(rows)


def _backings(size: int) -> pd.DataFrame:
    """Return what the first use of a new pool's buffer costs, by what was asked of the kernel, and what it gave."""
    import pandas as pd

    rows = []
    ones = b"\1" * len(range(0, size, _PAGE))
    for word, prefault, huge in (("ordinary", False, False), ("pre-faulted", True, False), ("huge pages", False, True)):
        begun = time.perf_counter_ns()
        pool = BufferPool(size, 1, prefault=prefault, huge_pages=huge)
        made, before = time.perf_counter_ns(), resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        with pool.lend() as view, view[::_PAGE] as pages:
            pages[:] = ones
        used, faults = time.perf_counter_ns(), resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
        now = pool.statistics()
        times = {"make_ms": (made - begun) / 1e6, "first_use_ms": (used - made) / 1e6, "first_use_faults": faults}
        given = {"huge_share": min(1.0, now.huge_bytes / size), "fallbacks": "; ".join(now.fallbacks)}
        rows.append({"backing": word, **times, **given})
        pool.close()
    return pd.DataFrame(rows)


def _idle_clean_up() -> pd.DataFrame:
    """Watch a manager that cleans up: one pool is used all the time, one has a buffer out, two lie idle."""
    import pandas as pd

    manager, rows = MemoryPoolManager(), []
    for name in ("used", "out", "idle 1", "idle 2"):
        manager.create(name, 1 << 20, 4)
        manager.release(name, manager.acquire(name))
    out, begun = manager.acquire("out"), time.monotonic()
    while (elapsed_s := time.monotonic() - begun) < _WATCHED_S:
        manager.release("used", manager.acquire("used"))
        manager.cleanup_idle(_MAX_IDLE_S)
        there = manager.pool_ids()
        kept = {f"{name}_is_there": name in there for name in ("out", "used")}
        rows.append({"elapsed_s": elapsed_s, "pools": len(there), **kept})
        time.sleep(_STEP_S)  # between two looks
    manager.release("out", out)
    manager.cleanup_idle(0)
    return pd.DataFrame(rows).assign(max_idle_s=_MAX_IDLE_S)
