"""One worker thread's share of the scheduler: its queue, its runner, its counts."""

from __future__ import annotations

import random
import threading
from collections import deque
from dataclasses import dataclass

from procbench.io.runner import ChildRunner
from procbench.scheduling.futures import TaskFuture


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What one worker has done so far.

    Attributes:
        processed: Tasks that it brought to an end, whatever end.
        steals: Times it took tasks from another worker's queue.
        stolen_tasks: Tasks that it took that way.
        failed_steals: Times it looked through all the others' queues and found nothing.
        parks: Times it went to sleep for want of work.
        queued: Tasks in its local queue now.
        running: Whether a command of its runs now.
    """

    processed: int
    steals: int
    stolen_tasks: int
    failed_steals: int
    parks: int
    queued: int
    running: bool


class Worker:
    """One thread's share: its queue, its way to be woken, its counts. Only its own thread writes the counts.

    Attributes:
        number: From 0.
        local: Its queue; it takes from the left, thieves from the right.
        runner: What runs its commands.
        asleep: Locked; who takes this worker out of the line of sleepers unlocks it once.
        ended: Set when its thread has nothing more to do. Waited for before ``join``, because before Python 3.13 a
            ``join`` that Ctrl-C interrupts takes a running thread for ended, and the next one does not wait.
        moving: Whether a task may be in its hands, in no queue.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.local: deque[TaskFuture] = deque()
        self.runner = ChildRunner(stoppable=True)
        self.random = random.Random(number)  # noqa: S311 - which victim first is no secret
        self.asleep = threading.Lock()
        self.asleep.acquire()
        self.thread: threading.Thread | None = None
        self.ended = threading.Event()
        self.outcomes = {"succeeded": 0, "failed": 0, "timed_out": 0, "cancelled": 0}
        self.submitted = self.steals = self.stolen_tasks = self.failed_steals = self.parks = 0
        self.running = False
        self.moving = False

    def statistics(self) -> WorkerStatistics:
        """Return what it has done so far."""
        return WorkerStatistics(
            processed=sum(self.outcomes.values()),
            steals=self.steals,
            stolen_tasks=self.stolen_tasks,
            failed_steals=self.failed_steals,
            parks=self.parks,
            queued=len(self.local),
            running=self.running,
        )
