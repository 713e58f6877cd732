"""What a scheduler has done so far: its workers' counts and its queue's, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from procbench.cpu.priorities import Priority
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.held import Held
from procbench.scheduling.ready import PriorityScheduler
from procbench.scheduling.ready_counts import ClassStatistics
from procbench.scheduling.serving import Serving
from procbench.scheduling.times import Histogram, Times
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
        retried: Attempts that failed and were followed by another.
        queued: Tasks that wait for a worker now.
        held: Tasks that wait now for others, or for the time of their next attempt.
        running: Commands that run now.
        stopped: Commands that stand still now, because a more urgent one has their worker.
        workers: What each worker did, by number.
        waits: How long tasks waited, from being handed in to the beginning of their first attempt's spawn.
        runs: How long commands ran, each attempt by itself.
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
    retried: int
    queued: int
    held: int
    running: int
    stopped: int
    workers: tuple[WorkerStatistics, ...]
    waits: Times
    runs: Times
    limited_by: Mapping[str, str]
    ready: Mapping[Priority, ClassStatistics]


def total(
    crew: Sequence[Worker],
    injector: PriorityScheduler[TaskFuture],
    serving: Serving,
    held: Held,
    limited_by: Mapping[str, str],
) -> SchedulerStatistics:
    """Return the sum of what ``crew`` and ``injector`` counted.

    Args:
        crew: The scheduler's workers.
        injector: Its global order.
        serving: What brings its tasks to their end.
        held: What holds tasks back.
        limited_by: What limits rest on.
    """
    workers = tuple(worker.statistics() for worker in crew)
    outcomes = [serving.outcomes_without_worker(), *(dict(worker.outcomes) for worker in crew)]
    return SchedulerStatistics(
        submitted=injector.accepted - injector.came_back + held.accepted + sum(worker.submitted for worker in crew),
        succeeded=sum(o["succeeded"] for o in outcomes),
        failed=sum(o["failed"] for o in outcomes),
        timed_out=sum(o["timed_out"] for o in outcomes),
        cancelled=sum(o["cancelled"] for o in outcomes),
        retried=sum(worker.retried for worker in crew),
        queued=injector.qsize() + sum(w.queued for w in workers),
        held=len(held),
        running=sum(w.running for w in workers),
        stopped=sum(w.stopped for w in workers),
        workers=workers,
        waits=Histogram.sum_of(worker.waits for worker in crew).times(),
        runs=Histogram.sum_of(worker.runs for worker in crew).times(),
        limited_by=dict(limited_by),
        ready=injector.statistics(),
    )
