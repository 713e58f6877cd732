"""Who hands out the commands of a batch: the scheduler, in two orders, and what one would write without it.

All of them run the same commands by procbench's own runner, so that they differ in who gets which command when, and in
nothing else. Threads and runners stand ready before the clock starts.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from procbench.errors import SpawnError
from procbench.io.order import NULL, Order
from procbench.io.results import RunResult
from procbench.io.runner import ChildRunner
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask


@dataclass(frozen=True, slots=True)
class TimedBatch:
    """How a batch ended, each tuple in the order in which its tasks were given.

    Attributes:
        seconds: From handing in to the last command's end.
        statuses: Each command's status; ``None`` if it could not be started.
        walls_s: How long each took, seconds; 0 if it could not be started.
    """

    seconds: float
    statuses: tuple[int | None, ...]
    walls_s: tuple[float, ...]


RunTasks = Callable[[Sequence[ProcessTask]], TimedBatch]
Ended = tuple[int | None, float]  # status and seconds


@contextmanager
def _scheduler(workers: int, order: str) -> Iterator[RunTasks]:
    with WorkStealingScheduler(RunSettings(workers=workers, discard=True, order=order)) as scheduler:

        def run(tasks: Sequence[ProcessTask]) -> TimedBatch:
            started = time.perf_counter()
            results = tuple(scheduler.map(tasks))
            seconds = time.perf_counter() - started
            return TimedBatch(seconds, tuple(one.returncode for one in results), tuple(one.wall_s for one in results))

        yield run


@contextmanager
def _threads(workers: int, hand_out: Callable[[Sequence[ProcessTask], int], list[Iterable[int]]]) -> Iterator[RunTasks]:
    """Run a batch by as many threads; ``hand_out`` returns, for each of them, where it gets its tasks' places from."""
    with ExitStack() as opened:
        pool = opened.enter_context(ThreadPoolExecutor(workers))
        runners = [opened.enter_context(closing(ChildRunner(many=True))) for _ in range(workers)]

        def serve(tasks: Sequence[ProcessTask], ended: list[Ended], runner: ChildRunner, places: Iterable[int]) -> None:
            for place in places:
                ended[place] = _ran(runner, tasks[place])

        def run(tasks: Sequence[ProcessTask]) -> TimedBatch:
            ended: list[Ended] = [(None, 0.0)] * len(tasks)
            started = time.perf_counter()
            for _ in pool.map(partial(serve, tasks, ended), runners, hand_out(tasks, workers)):
                pass
            seconds = time.perf_counter() - started
            return TimedBatch(seconds, tuple(status for status, _ in ended), tuple(wall_s for _, wall_s in ended))

        yield run


def _ran(runner: ChildRunner, task: ProcessTask) -> Ended:
    try:
        result = RunResult(*runner.run(Order(task.argv, stdout=NULL, stderr=NULL)))
    except SpawnError:
        return None, 0.0
    return result.returncode, result.wall_s


def _dealt(tasks: Sequence[ProcessTask], workers: int) -> list[Iterable[int]]:
    """Deal the tasks out like cards."""
    return [range(first, len(tasks), workers) for first in range(workers)]


def _shared(tasks: Sequence[ProcessTask], workers: int) -> list[Iterable[int]]:
    """Put all tasks into one queue, and an end for each worker."""
    line: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in (*range(len(tasks)), *[-1] * workers):
        line.put(place)
    return [iter(line.get, -1)] * workers


STEALING: Final = "work stealing"
LONGEST_FIRST: Final = "longest first"
STATIC: Final = "static split"
SHARED: Final = "shared queue"

WAYS: Final[Mapping[str, Callable[[int], AbstractContextManager[RunTasks]]]] = {
    STEALING: partial(_scheduler, order="fifo"),
    LONGEST_FIRST: partial(_scheduler, order="longest_first"),
    STATIC: partial(_threads, hand_out=_dealt),
    SHARED: partial(_threads, hand_out=_shared),
}
"""All ways by name, in the order in which tables show them; each makes everything ready for a number of workers."""
