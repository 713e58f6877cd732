"""The future of a task: ``concurrent.futures.Future`` without paying for a condition that nobody waits on."""

from __future__ import annotations

from concurrent.futures import Future

from procbench.scheduling.task import ProcessTask, TaskResult


class TaskFuture(Future[TaskResult]):
    """What ``submit`` returns; ``result()`` gives the ``TaskResult``, also of a command that failed.

    Attributes:
        task: The task.
        submitted_ns: When it was handed in, nanoseconds of ``time.monotonic_ns()``.
        stolen_from: Number of the worker whose queue it was last stolen from.
    """

    def __init__(self, task: ProcessTask, submitted_ns: int) -> None:
        super().__init__()
        self.task = task
        self.submitted_ns = submitted_ns
        self.stolen_from: int | None = None
