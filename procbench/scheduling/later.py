"""Tasks that come back at a time of their own: those that failed and wait for their next attempt."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from procbench.scheduling.futures import TaskFuture


class Later:
    """Gives each task back when its time has come. Thread-safe, also against a signal handler.

    A thread of its own sleeps until the next one's time; there is one only while something waits, so nothing needs to be
    closed.

    Args:
        give_back: Takes a task whose time has come; called in that thread, while the task still counts as waiting here, so
            that at every moment it is to be found in one place at least.
    """

    def __init__(self, give_back: Callable[[TaskFuture], None]) -> None:
        self._give_back = give_back
        self._changed = threading.Condition()  # on a re-entrant lock
        self._heap: list[tuple[float, int, TaskFuture]] = []
        self._numbers = itertools.count()  # among equal times the first in comes first, and futures are never compared
        self._thread: threading.Thread | None = None
        self._handing_over = 0

    def __len__(self) -> int:
        return len(self._heap) + self._handing_over

    def put(self, future: TaskFuture, delay_s: float) -> None:
        """Give ``future`` back in so many seconds.

        Raises:
            RuntimeError: The system gives no thread; it does not wait here.
        """
        entry = time.monotonic() + delay_s, next(self._numbers), future
        with self._changed:
            heapq.heappush(self._heap, entry)
            if self._thread is None:
                thread = threading.Thread(target=self._wait, name="procbench-later", daemon=True)
                try:
                    thread.start()
                except BaseException:
                    self._heap.remove(entry)
                    raise
                self._thread = thread
            else:
                self._changed.notify()

    def remove(self, future: TaskFuture) -> bool:
        """Take ``future`` out; return whether it still waited."""
        return bool(self._take(lambda one: one is future))

    def take_all(self) -> list[TaskFuture]:
        """Take out everything that waits."""
        return self._take(lambda _: True)

    def _take(self, wanted: Callable[[TaskFuture], bool]) -> list[TaskFuture]:
        with self._changed:
            taken = [future for _, _, future in self._heap if wanted(future)]
            if taken:
                self._heap = [entry for entry in self._heap if not wanted(entry[2])]
                heapq.heapify(self._heap)
                self._changed.notify()
        return taken

    def _wait(self) -> None:
        while True:
            with self._changed:
                if not self._heap:
                    self._thread = None
                    return
                left_s = self._heap[0][0] - time.monotonic()
                if left_s > 0:
                    self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
                    continue
                self._handing_over = 1
                _, _, future = heapq.heappop(self._heap)
            try:
                self._give_back(future)
            finally:
                self._handing_over = 0
