"""What a worker does with a task that it has found: run it, give way to a more urgent one, bring its future to its end."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable

from procbench.cpu.priorities import Priority
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.ready import PriorityScheduler
from procbench.scheduling.worker import Worker

_log = logging.getLogger(__name__)


class Serving:
    """Brings the tasks of a scheduler to their end. Thread-safe; a worker's tasks are served in its own thread.

    Args:
        injector: Where more urgent tasks wait.
        gives_way: Whether a command that runs gives way to a more urgent one.

    Attributes:
        cancelling: Whether what is served from now on is cancelled instead.
        cancelled_waiting: Tasks cancelled by ``cancel``; those that a worker found cancelled are in its own count.
    """

    def __init__(self, injector: PriorityScheduler[TaskFuture], *, gives_way: bool) -> None:
        self._injector = injector
        self._gives_way = gives_way
        self._count_lock = threading.Lock()
        self.cancelling = False
        self.cancelled_waiting = 0

    def serve(self, worker: Worker, future: TaskFuture) -> None:
        """Run a task on ``worker`` and tell its future how it ended. Never raises."""
        if self.cancelling:
            _settle(future, future.cancel)
        if not future.set_running_or_notify_cancel():
            worker.outcomes["cancelled"] += 1
            return
        worker.running = True
        if self._gives_way:
            worker.runner.more_urgent = functools.partial(self._claim, worker, future.task.priority)
        try:
            result = worker.execute(future)
        except BaseException as error:
            worker.running = False
            worker.outcomes["failed"] += 1
            _settle(future, future.set_exception, error)
            return
        worker.running = False
        worker.outcomes[result.outcome] += 1
        _settle(future, future.set_result, result)

    def cancel(self, future: TaskFuture) -> None:
        """Cancel a task that was taken out of a queue and that no worker will see."""
        future.cancel()
        if not future.set_running_or_notify_cancel():
            with self._count_lock:
                self.cancelled_waiting += 1

    def _claim(self, worker: Worker, than: Priority) -> Callable[[], None] | None:
        """Take a task of a higher class than that of the one that runs; return what runs it on this worker."""
        try:
            if not self._injector.holds_above(than):
                return None
            worker.prepare_another()
            future = self._injector.get_above_nowait(than)
        except OSError:  # no descriptor for another runner: what runs goes on, and the urgent one waits for its end
            return None
        if future is None:
            return None
        urgent = future

        def run() -> None:
            with worker.meanwhile():
                self.serve(worker, urgent)

        return run


def _settle(future: TaskFuture, end: Callable[..., object], *how: object) -> None:
    """Bring a future to its end, which calls its callbacks."""
    try:
        end(*how)
    except BaseException:  # Future logs an Exception of a callback; SystemExit must not end the worker either
        _log.exception("a callback of task %s raised", future.task.id)
