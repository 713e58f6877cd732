"""The ways through a queue: so many threads put numbers in, so many get them, and what became of each number is known."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from procbench.errors import QueueShutDownError
from procbench.scheduling.queues import TaskQueue
from procbench.scheduling.sharded import ShardedTaskQueue

OURS: Final = "TaskQueue"
BATCHES: Final = "TaskQueue, in batches"
SHARDED: Final = "ShardedTaskQueue"
STANDARD: Final = "queue.Queue"
SIMPLE: Final = "queue.SimpleQueue"
PROCESSES: Final = "multiprocessing.Queue"

BATCH: Final = 256
"""Most items in a batch."""

_Put = Callable[[Any, Sequence[int]], None]
_Get = Callable[[Any, list[int]], None]


class Load(NamedTuple):
    """How a queue is used.

    Attributes:
        way: Which queue, and how.
        producers: Threads, or processes, that put.
        consumers: Threads, or processes, that get.
        maxsize: Most items that wait; a SimpleQueue has no bound.
        shards: Lines of a ShardedTaskQueue; the others have one.
    """

    way: str
    producers: int
    consumers: int
    maxsize: int
    shards: int


@dataclass(frozen=True, slots=True)
class Passage:
    """How the items of a trial went through a queue.

    Attributes:
        load: How the queue was used.
        items: Items that were put.
        seconds: From the common start to the last get.
        served: Items that each consumer got.
        is_exact: Whether each item was got once and nothing else was.
        is_in_order: Whether every consumer got each producer's items in the order in which they were put.
        enqueued: What the queue says came in; None where it does not say.
        dequeued: What it says was taken out.
        peak: The most places that it says were taken at a time.
        mean_wait_s: How long it says that items waited on average, in seconds.
        p99_wait_s: How long all but one in a hundred of them waited at most, in seconds.
    """

    load: Load
    items: int
    seconds: float
    served: tuple[int, ...]
    is_exact: bool
    is_in_order: bool
    enqueued: int | None = None
    dequeued: int | None = None
    peak: int | None = None
    mean_wait_s: float | None = None
    p99_wait_s: float | None = None

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.items / self.seconds

    @property
    def evenness(self) -> float:
        """Jain's index of what the consumers got: 1 where all got the same, one over their number where one got all."""
        squares = sum(count * count for count in self.served)
        return sum(self.served) ** 2 / (len(self.served) * squares)

    @property
    def least_share(self) -> float:
        """What the least-served consumer got, as a share of what an even division would have given it."""
        return min(self.served) * len(self.served) / self.items


class Way(NamedTuple):
    """A queue of threads.

    Attributes:
        make: Makes it.
        put: Puts numbers in.
        get: Gets numbers until there will be no more.
        end: Says that there will be no more, once all are in; told how many consumers there are.
    """

    make: Callable[[Load], Any]
    put: _Put
    get: _Get
    end: Callable[[Any, int], object]


def _put_each(line: Any, numbers: Sequence[int]) -> None:
    put = line.put
    for number in numbers:
        put(number)


def _put_batches(line: Any, numbers: Sequence[int]) -> None:
    for first in range(0, len(numbers), BATCH):
        line.put_many(numbers[first : first + BATCH])


def _get_each(line: Any, got: list[int]) -> None:
    get, keep = line.get, got.append
    with contextlib.suppress(QueueShutDownError):
        while (number := get()) is not None:
            keep(number)


def _get_batches(line: Any, got: list[int]) -> None:
    with contextlib.suppress(QueueShutDownError):
        while True:
            got += line.get_many(BATCH)


def _shut_down(line: Any, _: int) -> None:
    line.shutdown()


def _put_ends(line: Any, consumers: int) -> None:
    for _ in range(consumers):
        line.put(None)


WAYS: Final[dict[str, Way]] = {
    OURS: Way(lambda load: TaskQueue(load.maxsize), _put_each, _get_each, _shut_down),
    BATCHES: Way(lambda load: TaskQueue(load.maxsize), _put_batches, _get_batches, _shut_down),
    SHARDED: Way(lambda load: ShardedTaskQueue(load.maxsize, load.shards), _put_each, _get_each, _shut_down),
    STANDARD: Way(lambda load: queue.Queue(load.maxsize), _put_each, _get_each, _put_ends),
    SIMPLE: Way(lambda load: queue.SimpleQueue(), _put_each, _get_each, _put_ends),
}
"""The queues of threads by name, in the order in which tables show them."""


def numbers_of(producer: int, producers: int, items: int) -> range:
    """Return the numbers that a producer puts, in their order; together the producers put ``range(items)``."""
    return range(items * producer // producers, items * (producer + 1) // producers)


def pass_through(load: Load, items: int) -> Passage:
    """Put ``items`` numbers through a new queue with new threads, and return how it went; they are gone by then.

    An interrupt comes out once the threads have ended, which they do by themselves.
    """
    way = WAYS[load.way]
    line, got = way.make(load), [list[int]() for _ in range(load.consumers)]
    started: list[float] = []
    start = threading.Barrier(load.producers + load.consumers, lambda: started.append(time.perf_counter()))
    ended: list[float] = []
    putting = iter(range(load.producers - 1, -1, -1))  # next() is atomic; 0 is the last producer's

    def produce(numbers: Sequence[int]) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            start.wait()
            way.put(line, numbers)
            if next(putting) == 0:
                way.end(line, load.consumers)

    def consume(mine: list[int]) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            start.wait()
            way.get(line, mine)
            ended.append(time.perf_counter())

    threads = [
        *(
            threading.Thread(target=produce, args=(numbers_of(number, load.producers, items),))
            for number in range(load.producers)
        ),
        *(threading.Thread(target=consume, args=(mine,)) for mine in got),
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        start.abort()  # who has not begun does not begin
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        raise
    said: dict[str, Any] = {}
    if isinstance(line, TaskQueue):
        counted = line.statistics()
        names = ("enqueued", "dequeued", "peak", "mean_wait_s", "p99_wait_s")
        said = {name: getattr(counted, name) for name in names}
    return passage(load, items, max(ended) - started[0], got, **said)


def passage(load: Load, items: int, seconds: float, got: Sequence[Sequence[int]], **said: Any) -> Passage:
    """Return how the items went, from what each consumer got, in its order."""
    return Passage(
        load=load,
        items=items,
        seconds=seconds,
        served=tuple(map(len, got)),
        is_exact=sorted(number for mine in got for number in mine) == list(range(items)),
        is_in_order=all(_keeps_order(mine, load.producers, items) for mine in got),
        **said,
    )


def _keeps_order(got: Sequence[int], producers: int, items: int) -> bool:
    for producer in range(producers):
        theirs = numbers_of(producer, producers, items)
        own = [number for number in got if number in theirs]
        if own != sorted(own):
            return False
    return True
