"""What a scheduler has done so far: its workers' counts and its queue's, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from procbench.cpu.priorities import Priority
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.ready import ClassStatistics, PriorityScheduler
from procbench.scheduling.worker import Worker, WorkerStatistics


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """What a scheduler has done so far; read without stopping it, so the numbers are of nearly the same moment.

    Attributes:
        submitted: Tasks handed in.
        succeeded: Tasks whose command ended with status 0.
        failed: Tasks whose command ended otherwise, or could not be started.
        timed_out: Tasks ended because their time was up.
        cancelled: Tasks cancelled while they waited or ran.
        queued: Tasks that wait now.
        running: Commands that run now.
        stopped: Commands that stand still now, because a more urgent one has their worker.
        workers: What each worker did, by number.
        limited_by: What ``cpu`` and ``memory`` limits rest on, such as ``cgroup v1``, ``duty cycle`` or ``RLIMIT_AS``; empty
            before the first command, and where nothing is limited.
        ready: What became of the tasks in the global order, by class; those that a worker's own thread hands in as
            ``normal`` go past it.
    """

    submitted: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    queued: int
    running: int
    stopped: int
    workers: tuple[WorkerStatistics, ...]
    limited_by: Mapping[str, str]
    ready: Mapping[Priority, ClassStatistics]


def total(
    crew: Sequence[Worker],
    injector: PriorityScheduler[TaskFuture],
    cancelled_waiting: int,
    limited_by: Mapping[str, str],
) -> SchedulerStatistics:
    """Return the sum of what ``crew`` and ``injector`` counted.

    Args:
        crew: The scheduler's workers.
        injector: Its global order.
        cancelled_waiting: Tasks that were cancelled before any worker had them.
        limited_by: What limits rest on.
    """
    workers = tuple(worker.statistics() for worker in crew)
    outcomes = [dict(worker.outcomes) for worker in crew]
    return SchedulerStatistics(
        submitted=injector.accepted + sum(worker.submitted for worker in crew),
        succeeded=sum(o["succeeded"] for o in outcomes),
        failed=sum(o["failed"] for o in outcomes),
        timed_out=sum(o["timed_out"] for o in outcomes),
        cancelled=sum(o["cancelled"] for o in outcomes) + cancelled_waiting,
        queued=injector.qsize() + sum(w.queued for w in workers),
        running=sum(w.running for w in workers),
        stopped=sum(w.stopped for w in workers),
        workers=workers,
        limited_by=dict(limited_by),
        ready=injector.statistics(),
    )
