"""What a pooled buffer costs against fresh memory: made, its pages where the peer has them, and gone again."""

from __future__ import annotations

import mmap
import random
import statistics
import threading
import time
from collections.abc import Callable

import numpy as np

from procbench.memory.buffers import BufferPool

SIZES = {"4 KiB": 4 << 10, "64 KiB": 64 << 10, "1 MiB": 1 << 20, "16 MiB": 16 << 20}
WANTED = {"64 KiB": 1.0, "1 MiB": 10.0, "16 MiB": 200.0}  # times a bytearray of the size costs, 1 thread
SAME = 0.9  # a cost is the same at every size where the quickest is at least so much of the slowest

Body = Callable[[int], None]


def pooled(pool: BufferPool) -> Body:
    def body(count: int) -> None:
        acquire, release = pool.acquire, pool.release
        for _ in range(count):
            release(acquire())

    return body


def fresh(make: Callable[[], object]) -> Body:
    def body(count: int) -> None:
        for _ in range(count):
            make()

    return body


def fresh_map(size: int) -> Body:
    def body(count: int) -> None:
        for _ in range(count):
            mmap.mmap(-1, size).close()

    return body


def seconds_each(body: Body, count: int, threads: int) -> float:
    """Return the wall seconds for each of ``count`` calls in all threads together."""
    start = threading.Barrier(threads + 1)

    def work() -> None:
        start.wait()
        body(count // threads)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    begun = time.perf_counter()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - begun) / (count // threads * threads)


def report(rounds: int) -> None:
    """Measure every way once in each round, in random order, and print the ratios."""
    pools = {word: BufferPool(size, 8) for word, size in SIZES.items()}
    ways: dict[tuple[str, str], tuple[Body, int]] = {}
    for word, size in SIZES.items():
        count = max(24, min(20_000, (1 << 30) // size))
        ways["pool", word] = (pooled(pools[word]), 100_000)
        ways["bytearray", word] = (fresh(lambda size=size: bytearray(size)), count)
        ways["numpy.empty", word] = (fresh(lambda size=size: np.empty(size, np.uint8)), 20_000)
        ways["fresh mmap, untouched", word] = (fresh_map(size), 4_000)
    for threads in (1, 8):
        seconds: dict[tuple[str, str], list[float]] = {name: [] for name in ways}
        order = list(ways)
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                body, count = ways[name]
                seconds[name].append(seconds_each(body, count, threads))
        _table(seconds, threads)
    for pool in pools.values():
        pool.close()


def _table(seconds: dict[tuple[str, str], list[float]], threads: int) -> None:
    ours = {word: statistics.median(seconds["pool", word]) for word in SIZES}
    shown = ", ".join(f"{word} {1e9 * value:.0f} ns" for word, value in ours.items())
    print(f"\npools, {threads} thread{'s' * (threads > 1)}: acquire and release, {shown}")
    alike = min(ours.values()) / max(ours.values())
    print(f"  {alike:7.2f}  the quickest size of the slowest; {_verdict(alike, SAME, threads)}")
    for peer in ("bytearray", "numpy.empty", "fresh mmap, untouched"):
        for word in SIZES:
            pairs = zip(seconds[peer, word], seconds["pool", word], strict=True)
            ratios = sorted(theirs / own for theirs, own in pairs)
            low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            wanted = WANTED.get(word) if peer == "bytearray" else None
            ratio = statistics.median(ratios)
            print(
                f"  {ratio:7.2f} [{low:.2f}, {high:.2f}]  times the cost: {peer} {word}; {_verdict(ratio, wanted, threads)}"
            )


def _verdict(ratio: float, wanted: float | None, threads: int) -> str:
    if wanted is None or threads > 1:
        return "for comparison"
    return f"wanted {wanted:g}: {'met' if ratio >= wanted else 'MISSED'}"
