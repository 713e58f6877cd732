"""What a worker does with a task that it has found: run it, give way to a more urgent one, bring its future to its end."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final

from procbench.cpu.priorities import Priority
from procbench.errors import DependencyError
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.halting import HaltPolicy
from procbench.scheduling.ready import PriorityScheduler
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import Outcome, TaskResult
from procbench.scheduling.worker import Worker

_MOST_DOUBLINGS: Final = 10  # a thousand times the first delay is long enough
_log = logging.getLogger(__name__)


class Serving:
    """Brings the tasks of a scheduler to their end. Thread-safe; a worker's tasks are served in its own thread.

    Args:
        injector: Where more urgent tasks wait.
        settings: Whether a command that runs gives way to a more urgent one, is run again when it failed, and when to halt.
        hold: Takes a task that is to be tried again, and in how many seconds.
        halt: Called once, when the settings' policy says so; ``now`` says whether what runs is to be ended too.

    Attributes:
        cancelling: Whether what is served from now on is cancelled instead.
    """

    def __init__(
        self,
        injector: PriorityScheduler[TaskFuture],
        settings: RunSettings,
        hold: Callable[[TaskFuture, float], None],
        halt: Callable[[bool], None],
    ) -> None:
        self._injector = injector
        self._gives_way = settings.time_slice_s is not None
        self._retries = settings.retries
        self._retry_delay_s = settings.retry_delay_s
        self._hold = hold
        self._policy = HaltPolicy.parse(settings.halt)
        self._halt = halt
        self._ended: dict[Outcome, int] = {"failed": 0, "timed_out": 0, "succeeded": 0}
        self._count_lock = threading.RLock()
        self._without_worker: dict[Outcome, int] = {"succeeded": 0, "failed": 0, "timed_out": 0, "cancelled": 0}
        self.cancelling = False

    def serve(self, worker: Worker, future: TaskFuture) -> None:
        """Run a task on ``worker`` and tell its future how it ended, unless it is to be tried again. Never raises."""
        worker.runner.begin(future)
        if future.last is not None and (self.cancelling or future.unwanted):
            self.end(future, future.last)
            return
        if self.cancelling:
            _settle(future, future.cancel)
        if future.last is None and not future.set_running_or_notify_cancel():
            worker.outcomes["cancelled"] += 1
            return
        worker.running = True
        if self._gives_way:
            worker.runner.more_urgent = functools.partial(self._claim, worker, future.task.priority)
        try:
            result = _attempt(worker, future)
            while self._is_tried_again(worker, future, result):
                delay_s = self._delay_s(future)
                future.last = result
                worker.retried += 1
                if delay_s and self._holds(future, delay_s):
                    worker.running = False
                    return
                worker.runner.pause(delay_s)
                result = _attempt(worker, future)
        except BaseException as error:
            worker.running = False
            worker.outcomes["failed"] += 1
            self._note("failed")
            _settle(future, future.set_exception, error)
            return
        worker.running = False
        worker.outcomes[result.outcome] += 1
        self._note(result.outcome)
        _settle(future, future.set_result, result)

    def cancel(self, future: TaskFuture) -> None:
        """Cancel a task that was taken out of a queue and that no worker will see; one that was tried ends as it did last."""
        if future.last is not None:
            self.end(future, future.last)
            return
        _settle(future, future.cancel)
        if not future.set_running_or_notify_cancel():
            self._count("cancelled")

    def refuse(self, future: TaskFuture, because: Future[Any]) -> None:
        """End a task that came after one that did not succeed."""
        if not future.set_running_or_notify_cancel():
            self._count("cancelled")
            return
        other = repr(because.id) if isinstance(because, TaskFuture) else "another one"
        how = "was cancelled" if because.cancelled() else "did not succeed"
        error = DependencyError(f"task {future.id!r} was not begun: it comes after {other}, which {how}")
        self.end(future, TaskResult.not_started(future.task, error, future.submitted_ns))

    def end(self, future: TaskFuture, result: TaskResult) -> None:
        """Bring a task to its end that no worker has."""
        self._count(result.outcome)
        _settle(future, future.set_result, result)

    def outcomes_without_worker(self) -> Mapping[Outcome, int]:
        """Return how tasks ended that no worker had then."""
        with self._count_lock:
            return dict(self._without_worker)

    def _count(self, outcome: Outcome) -> None:
        with self._count_lock:
            self._without_worker[outcome] += 1

    # --- another attempt ----------------------------------------------------------------------------------------

    def _is_tried_again(self, worker: Worker, future: TaskFuture, result: TaskResult) -> bool:
        retries = self._retries if future.task.retries is None else future.task.retries
        if not retries or result.outcome in ("succeeded", "cancelled"):
            return False
        unwanted = self.cancelling or future.unwanted or worker.runner.stop_asked
        return future.attempts <= retries and not unwanted

    def _delay_s(self, future: TaskFuture) -> float:
        """Return how long to wait after the attempt that just failed."""
        doublings = min(future.attempts - 1, _MOST_DOUBLINGS)
        return self._retry_delay_s * float(1 << doublings)

    def _holds(self, future: TaskFuture, delay_s: float) -> bool:
        try:
            self._hold(future, delay_s)
        except RuntimeError:  # no thread for it: then this worker waits
            return False
        return True

    # --- halting ------------------------------------------------------------------------------------------------

    def _note(self, outcome: Outcome) -> None:
        """Count for the policy, before anybody is told: who has seen the task that was one too many sees the halt too."""
        policy = self._policy
        if policy is None or outcome == "cancelled":
            return
        with self._count_lock:
            self._ended[outcome] += 1
            failed = self._ended["failed"] + self._ended["timed_out"]
            if self._policy is None or not policy.is_reached(failed, self._ended["succeeded"]):
                return
            self._policy = None
        self._halt(policy.when == "now")

    # --- giving way ---------------------------------------------------------------------------------------------

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


def _attempt(worker: Worker, future: TaskFuture) -> TaskResult:
    """Run a task's command once more; nobody gets the files of the attempt before."""
    result = worker.execute(future)
    if future.last is not None:
        future.last.close_files()
    return result


def _settle(future: TaskFuture, end: Callable[..., object], *how: object) -> None:
    """Bring a future to its end, which calls its callbacks."""
    try:
        end(*how)
    except BaseException:  # Future logs an Exception of a callback; SystemExit must not end the worker either
        _log.exception("a callback of task %s raised", future.task.id)
