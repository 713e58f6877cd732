"""Who sleeps for want of work, and how one of them is woken."""

from __future__ import annotations

from collections import deque

from procbench.scheduling.worker import Worker


class Sleepers:
    """The line of workers that found nothing to do. Thread-safe, without a lock: append, pop and remove are atomic.

    A worker lies down first and looks for work once more only then, so that whoever hands in a task either is seen by that
    look or sees the sleeper. Who takes a worker out of the line unlocks it, once.

    Attributes:
        line: The workers; who hands in a task looks here before it calls ``wake_one``.
    """

    def __init__(self) -> None:
        self.line: deque[Worker] = deque()

    def lie_down(self, worker: Worker) -> None:
        """Let ``worker`` be found by who wakes; it must look for work again before it sleeps."""
        self.line.append(worker)

    def sleep(self, worker: Worker) -> None:
        """Return when ``worker``, which lay down, is woken. Only in its thread."""
        worker.parks += 1
        worker.asleep.acquire()

    def get_up(self, worker: Worker) -> None:
        """Take ``worker`` out of the line again, for it has found something. Only in its thread."""
        try:
            self.line.remove(worker)
        except ValueError:
            worker.asleep.acquire()  # somebody is waking this worker right now: take the token, or it counts later

    def wake_one(self) -> None:
        """Wake the one that lay down last, or nobody if none sleeps."""
        try:
            worker = self.line.pop()
        except IndexError:
            return
        worker.asleep.release()
