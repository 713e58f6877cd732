"""The future of a task: ``concurrent.futures.Future`` without paying for a condition that nobody waits on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any

from procbench.scheduling.task import ProcessTask, TaskResult

# Words that concurrent.futures' own functions compare with.
_PENDING, _RUNNING, _FINISHED = "PENDING", "RUNNING", "FINISHED"
_CANCELLED, _NOTIFIED = "CANCELLED", "CANCELLED_AND_NOTIFIED"

# Decides which comes first: a task's end, or somebody who wants to wait for it. Held for a few bytecodes only; re-entrant,
# because a signal handler may ask a future in the middle of them.
_first = threading.RLock()


def _anew_in_fork() -> None:
    """Have a fork begin anew: a thread that held it then is not there to let go."""
    global _first  # noqa: PLW0603 - it belongs to the process
    _first = threading.RLock()


os.register_at_fork(after_in_child=_anew_in_fork)


class TaskFuture(Future[TaskResult]):
    """What ``submit`` returns; ``result()`` gives the ``TaskResult``, also of a command that failed.

    A plain ``Future`` makes a condition, a lock, a deque and two lists at once: for a batch of small commands more memory
    and more work for the garbage collector than all the rest of a task. Here they are made when somebody first waits,
    cancels or adds a callback; a task that ends before anybody asked never has them.

    Attributes:
        task: The task.
        submitted_ns: When it was handed in, nanoseconds of ``time.monotonic_ns()``.
        stolen_from: Number of the worker whose queue it was last stolen from.
        last: How its last attempt ended, after which there is to be another; ``None`` before that.
        unwanted: Whether there shall be no further attempt.
    """

    last: TaskResult | None = None  # of the class, as the next, so that most tasks need no memory for it
    unwanted = False

    def __init__(self, task: ProcessTask, submitted_ns: int) -> None:
        # Not Future.__init__: see __getattr__.
        self.task = task
        self.submitted_ns = submitted_ns
        self.stolen_from: int | None = None
        self._state = _PENDING
        self._result: TaskResult | None = None
        self._exception: BaseException | None = None
        self._asked = False  # a flag instead of a look into __dict__, because the look would make that dict exist

    def __getattr__(self, name: str) -> Any:
        """Make what ``Future.__init__`` would have made, when it is first asked for."""
        if name not in ("_condition", "_waiters", "_done_callbacks"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with _first:
            if not self._asked:
                self._waiters: list[Any] = []
                self._done_callbacks: list[Any] = []
                self._condition = threading.Condition()
                self._asked = True
        return object.__getattribute__(self, name)

    @property
    def attempts(self) -> int:
        """How many times it was tried, this time included."""
        return 1 if self.last is None else self.last.attempts + 1

    def __await__(self) -> Generator[Any, None, TaskResult]:
        """Wait for the result in a coroutine, such as a notebook's cell: ``await future``."""
        return asyncio.wrap_future(self).__await__()

    @property
    def id(self) -> int | str:
        """The task's id, by which the queue that it waits in finds it."""
        return self.task.id

    def result(self, timeout: float | None = None) -> TaskResult:
        """Return how the task ended, waiting for it; as ``Future.result``."""
        if self._state == _FINISHED and self._result is not None:
            return self._result
        return super().result(timeout)

    def cancel(self) -> bool:
        """Cancel the task if it still waits; as ``Future.cancel``, and as cheap as a task that ends while nobody has asked."""
        with _first:
            if not self._asked and self._state == _PENDING:
                self._state = _CANCELLED
                return True
        return super().cancel()

    def set_running_or_notify_cancel(self) -> bool:
        """Mark it as running, unless it was cancelled; as ``Future.set_running_or_notify_cancel``."""
        with _first:
            if not self._asked and self._state == _PENDING:
                self._state = _RUNNING
                return True
            if not self._asked and self._state == _CANCELLED:
                self._state = _NOTIFIED
                return False
        return super().set_running_or_notify_cancel()

    def set_result(self, result: TaskResult) -> None:
        """Tell whoever waits how it ended; as ``Future.set_result``."""
        with _first:
            if not self._asked:
                self._result = result
                self._state = _FINISHED
                return
        super().set_result(result)
