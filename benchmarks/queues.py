"""What an item costs on its way through a queue, put by two threads and got by two: ours, and the standard library's."""

from __future__ import annotations

import multiprocessing
import queue
import random
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from procbench.scheduling.queues import TaskQueue
from procbench.scheduling.sharded import ShardedTaskQueue

MAXSIZE = 4096
BATCH = 256
OURS, BATCHES, SHARDED = "TaskQueue", "TaskQueue, batches of 256", "ShardedTaskQueue, 4 shards"
STANDARD, SIMPLE, PROCESSES = "queue.Queue", "queue.SimpleQueue (unbounded, C)", "multiprocessing.Queue"

Way = tuple[Callable[[], Any], Callable[[Any, int], None], Callable[[Any, int], None], int]


def put_each(q: Any, count: int) -> None:
    put = q.put
    for number in range(count):
        put(number)


def get_each(q: Any, count: int) -> None:
    get = q.get
    for _ in range(count):
        get()


def put_batches(q: TaskQueue[int], count: int) -> None:
    for first in range(0, count, BATCH):
        q.put_many(range(first, min(first + BATCH, count)))


def get_batches(q: TaskQueue[int], count: int) -> None:
    while count:
        count -= len(q.get_many(min(BATCH, count)))


WAYS: dict[str, Way] = {
    OURS: (lambda: TaskQueue(MAXSIZE), put_each, get_each, 200_000),
    BATCHES: (lambda: TaskQueue(MAXSIZE), put_batches, get_batches, 200_000),
    SHARDED: (lambda: ShardedTaskQueue(MAXSIZE, 4), put_each, get_each, 100_000),
    STANDARD: (lambda: queue.Queue(MAXSIZE), put_each, get_each, 100_000),
    SIMPLE: (queue.SimpleQueue, put_each, get_each, 200_000),
    PROCESSES: (lambda: multiprocessing.Queue(MAXSIZE), put_each, get_each, 10_000),
}

# Times as fast as the peer, at least; 2 producers, 2 consumers.
WANTED: list[tuple[str, str, float | None]] = [
    (OURS, STANDARD, 3.0),
    (OURS, SIMPLE, 0.2),
    (OURS, PROCESSES, None),
    (BATCHES, OURS, 2.0),
    (SHARDED, STANDARD, None),
]


def seconds_each(way: Way, threads: int, share: float = 1.0) -> float:
    """Return the wall seconds for each item, with so many threads on either side."""
    make, put, get, count = way
    each = max(1, int(count * share) // threads)
    q = make()
    start = threading.Barrier(2 * threads + 1)

    def work(body: Callable[[Any, int], None]) -> None:
        start.wait()
        body(q, each)

    workers = [threading.Thread(target=work, args=(body,)) for body in (put, get) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    begun = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - begun
    assert q.empty(), "items were lost or doubled"
    if hasattr(q, "join_thread"):
        q.close()
        q.join_thread()
    return seconds / (each * threads)


def report(rounds: int, share: float = 1.0) -> None:
    """Measure every way once in each round, in random order, and print the ratios."""
    for threads in (1, 2):
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        order = list(WAYS)
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                seconds[name].append(seconds_each(WAYS[name], threads, share))
        print(f"\nqueues, {threads} producer{'s' * (threads > 1)} and as many consumers, maxsize {MAXSIZE}")
        for name in WAYS:
            print(f"  {1e9 * statistics.median(seconds[name]):7.0f}  ns an item: {name}")
        for way, peer, wanted in WANTED:
            ratios = sorted(theirs / own for theirs, own in zip(seconds[peer], seconds[way], strict=True))
            low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            ratio = statistics.median(ratios)
            verdict = "for comparison"
            if wanted is not None and threads == 2:
                verdict = f"wanted {wanted:g}: {'met' if ratio >= wanted else 'MISSED'}"
            print(f"  {ratio:7.2f} [{low:.2f}, {high:.2f}]  times as fast: {way} of {peer}; {verdict}")
