"""One thread that does a list of jobs whenever it is told to, and can be left alone with the one that does not end."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Job(Protocol):
    """What a lane does; it raises nothing."""

    def __call__(self) -> None:
        """Do it once."""

    def close(self) -> None:
        """Note that it is not done again."""


class Stuck(NamedTuple):
    """What a lane has been doing for long.

    Attributes:
        job: Which job.
        for_s: Seconds that it has been at it.
    """

    job: Job
    for_s: float


class Lane:
    """A daemon thread with jobs, done in turn in each round. A round that is not over keeps the next from beginning.

    Args:
        name: The thread's name.
        jobs: What to do; closed in the thread, when it ends.
        clock: Tells the time in seconds.
        after: Called in the thread after each round.

    Attributes:
        cpu_s: CPU time of the thread up to the end of its last round, seconds.
    """

    def __init__(
        self, name: str, jobs: Sequence[Job], clock: Callable[[], float], after: Callable[[], None] | None = None
    ) -> None:
        self.cpu_s = 0.0
        self._jobs = list(jobs)
        self._clock = clock
        self._after = after
        self._lock = threading.Lock()
        self._todo: deque[Job] = deque()
        self._current: Job | None = None
        self._since_s = 0.0
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """What it does in a round."""
        return tuple(self._jobs)

    def begin_round(self) -> tuple[Job, ...]:
        """Begin a round, and return nothing; or, while the last is not over, return the jobs of it that are still to end."""
        with self._lock:
            if self._current is not None or self._todo:
                return (*(() if self._current is None else (self._current,)), *self._todo)
            self._todo = deque(self._jobs)
        self._orders.put(True)
        return ()

    def stuck_for(self, seconds: float) -> Stuck | None:
        """Return the job that it has been at for so long; None where there is none."""
        with self._lock:
            if self._current is None or (for_s := self._clock() - self._since_s) < seconds:
                return None
            return Stuck(self._current, for_s)

    def leave_alone_with(self, job: Job) -> list[Job]:
        """Take all other jobs from it, if it is still at that one, and return them."""
        with self._lock:
            if self._current is not job:
                return []
            others = [other for other in self._jobs if other is not job]
            self._jobs = [job]
            self._todo.clear()
            return others

    def end(self) -> None:
        """Have the thread end after its round, without waiting for it."""
        self._orders.put(False)

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end, and return whether it came."""
        self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while self._orders.get():
            while (job := self._next()) is not None:
                job()
            if self._after is not None:
                self._after()
            self.cpu_s = time.thread_time()
        for job in self._jobs:
            job.close()

    def _next(self) -> Job | None:
        with self._lock:
            self._current = self._todo.popleft() if self._todo else None
            self._since_s = self._clock()
            return self._current
