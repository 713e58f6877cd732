"""A batch: the order in which its tasks are handed in, and its results as they end, for ``for`` and for ``async for``."""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from procbench.errors import ClosedError, QueueFullError
from procbench.io.command import Argument
from procbench.scheduling.dependents import in_order
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import ProcessTask, TaskResult

Tasks = Iterable[ProcessTask | Sequence[Argument]]


class Submits(Protocol):
    """What tasks are handed in to: a scheduler."""

    settings: RunSettings
    halted: bool

    def submit(
        self, task: ProcessTask, *, after: Sequence[TaskFuture] = (), block: bool = True, timeout: float | None = None
    ) -> TaskFuture:
        """Hand in a task."""


class Batch:
    """Tasks on their way into a scheduler, in the order in which they shall begin, each after those that it names.

    Args:
        scheduler: Where they go.
        tasks: The tasks. An iterator is taken from as they go in, unless its tasks are to be sorted.

    Raises:
        InvalidInputError: A task comes after one that there is not, or some wait for each other.
    """

    def __init__(self, scheduler: Submits, tasks: Tasks) -> None:
        made = (task if isinstance(task, ProcessTask) else ProcessTask(task) for task in tasks)
        self._scheduler = scheduler
        self._left: Iterator[ProcessTask] = made
        self._futures: dict[int | str, TaskFuture] | None = None  # of tasks that others come after, by id
        longest_first = scheduler.settings.order == "longest_first"
        if longest_first or isinstance(tasks, Sequence):
            whole = list(made)
            if longest_first:
                whole.sort(key=_longest_first)
            if any(task.after for task in whole):
                self._futures = {}
                whole = in_order(whole)
            self._left = iter(whole)
        self._next: ProcessTask | None = None

    def hand_in(self, *, block: bool) -> TaskFuture | None:
        """Hand in the next task; return its future, or ``None`` if there are no more.

        Raises:
            QueueFullError: There is no room, and ``block`` is false.
            ClosedError: The scheduler was shut down, otherwise than by its ``halt``.
        """
        task = self._next = self._next or next(self._left, None)
        if task is None:
            return None
        after = [] if self._futures is None else [self._futures[id] for id in task.after]
        try:
            future = self._scheduler.submit(task, after=after, block=block)
        except ClosedError:
            if self._scheduler.halted:
                return None
            raise
        self._next = None
        if self._futures is not None:
            self._futures[task.id] = future
        return future


class Completed:
    """The results of a batch, in the order in which its tasks end. To be looped over once.

    Args:
        scheduler: Where the tasks are handed in, as far ahead as its settings let tasks wait.
        tasks: The tasks.

    Raises:
        InvalidInputError: A task comes after one that there is not, or some wait for each other.
    """

    def __init__(self, scheduler: Submits, tasks: Tasks) -> None:
        self._batch = Batch(scheduler, tasks)
        self._most = scheduler.settings.queue_size + scheduler.settings.worker_count
        self._under_way: set[TaskFuture] = set()
        self._is_over = False

    def __iter__(self) -> Iterator[TaskResult]:
        ended: queue.SimpleQueue[TaskFuture] = queue.SimpleQueue()
        try:
            while True:
                if not self._hand_in(ended.put) and not self._under_way and not self._add(ended.put, block=True):
                    return
                result = self._take(ended.get())
                if result is not None:
                    yield result
        finally:
            self._leave()

    async def __aiter__(self) -> AsyncIterator[TaskResult]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Queue[TaskFuture] = asyncio.Queue()

        def tell(future: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(ended.put_nowait, future)

        try:
            while True:
                idle = not self._hand_in(tell) and not self._under_way
                # Either there are no more, or the queue is full of others' tasks: only a thread can tell, by waiting.
                if idle and not await asyncio.to_thread(self._add, tell, block=True):
                    return
                result = self._take(await ended.get())
                if result is not None:
                    yield result
        finally:
            self._leave()

    def _hand_in(self, tell: Callable[[Any], object]) -> bool:
        """Hand in what there is room for; return whether anything was."""
        added = False
        with contextlib.suppress(QueueFullError):
            while len(self._under_way) < self._most and self._add(tell, block=False):
                added = True
        return added

    def _add(self, tell: Callable[[Any], object], *, block: bool) -> bool:
        future = self._batch.hand_in(block=block)
        if future is None:
            return False
        self._under_way.add(future)
        future.add_done_callback(tell)
        if self._is_over:  # the loop was left while a thread waited for room
            future.cancel()
        return True

    def _take(self, future: TaskFuture) -> TaskResult | None:
        self._under_way.discard(future)
        return None if future.cancelled() else future.result()

    def _leave(self) -> None:
        self._is_over = True
        for future in list(self._under_way):
            future.cancel()


def _longest_first(task: ProcessTask) -> float:
    return -math.inf if task.expected_s is None else -task.expected_s
