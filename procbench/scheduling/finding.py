"""Where a worker finds its next task: in its own queue, in the injector, or in a victim's queue.

It takes from its own end; when it has nothing left it takes a small batch from the injector, or half of what another has from
the far end. The injector is the global order, by priority: while it holds anything but normal tasks, nothing is taken ahead of
its turn, and what is more urgent there goes before a worker's own queue.

A ``deque``'s append, pop and popleft are one atomic call each, which makes it worker queue and stealer at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence, Sized
from typing import Final

from procbench.errors import QueueEmptyError, QueueShutDownError
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.ready import PriorityScheduler
from procbench.scheduling.sleeping import Sleepers
from procbench.scheduling.worker import Worker

# A worker that takes more than this at once would let the order of the tasks depend on who is fast.
_LARGEST_BATCH: Final = 32


class Finder:
    """Finds tasks for all workers of a scheduler. Thread-safe; a worker asks in its own thread.

    Args:
        injector: What comes from outside, the global order.
        workers: Who asks, and who is stolen from; the list may still be filled until the first of them asks.
        sleepers: Where a worker lies down when there is nothing.
        held: What holds tasks back, which will come into one of these queues.
        in_order: Whether each worker takes one task at a time, so that tasks begin exactly in the global order.
    """

    def __init__(
        self,
        injector: PriorityScheduler[TaskFuture],
        workers: Sequence[Worker],
        sleepers: Sleepers,
        held: Sized = (),
        *,
        in_order: bool = False,
    ) -> None:
        self._largest_batch = 0 if in_order else _LARGEST_BATCH
        self._held = held
        self._injector = injector
        self._workers = workers
        self._sleepers = sleepers

    def next_for(self, worker: Worker) -> TaskFuture | None:
        """Return the next task, asleep until there is one; ``None`` when there will be none."""
        while True:
            future = self._find(worker)
            if future is not None:
                return future
            if self.drained():
                return None
            # First lie down where a submitter looks for sleepers, then look once more: no task is missed either way.
            self._sleepers.lie_down(worker)
            future = self._find(worker)
            if future is None and not self.drained():
                self._sleepers.sleep(worker)
                continue
            self._sleepers.get_up(worker)
            if future is not None:
                return future

    def drained(self) -> bool:
        """Return whether no task waits and none will come."""
        # In the direction in which tasks go: one that is on its way is still to be seen where it came from.
        return (
            not self._held
            and self._injector.finished()
            and not any(worker.moving or worker.local for worker in self._workers)
        )

    def _find(self, worker: Worker) -> TaskFuture | None:
        mixed = self._injector.mixed
        if mixed and (future := self._more_urgent(worker)) is not None:
            return future
        try:
            return worker.local.popleft()
        except IndexError:
            pass
        worker.moving = True
        try:
            future = (mixed and self._steal(worker)) or self._from_injector(worker) or self._steal(worker)
        finally:
            worker.moving = False
        if worker.local:
            self._sleepers.wake_one()  # what was just moved here was nowhere to be seen for a moment
        return future

    def _more_urgent(self, worker: Worker) -> TaskFuture | None:
        """Take from the global order what goes before all that waits in local queues, if there is such a task."""
        heads = []
        for other in (worker,) if worker.local else self._workers:
            with contextlib.suppress(IndexError):  # its owner, or a thief, was faster
                heads.append(other.local[0])
        worker.moving = True
        try:
            return self._injector.get_before_nowait(min(heads, key=_submitted_ns) if heads else None)
        finally:
            worker.moving = False

    def _from_injector(self, worker: Worker) -> TaskFuture | None:
        """Take one task and, while many wait and all are normal, some more for the local queue; less towards the end."""
        injector = self._injector
        try:
            future = injector.get_nowait()
        except (QueueEmptyError, QueueShutDownError):
            return None
        most = min(self._largest_batch, injector.qsize() // (2 * len(self._workers)))
        if most > 0:
            worker.local.extend(injector.get_alike_nowait(most))
        return future

    def _steal(self, worker: Worker) -> TaskFuture | None:
        """Take half of the first queue that has anything, from its far end, trying every other worker once."""
        workers = self._workers
        first = worker.random.randrange(len(workers))
        for offset in range(len(workers)):
            victim = workers[(first + offset) % len(workers)]
            if victim is worker or not victim.local:
                continue
            taken = []
            try:
                for _ in range((len(victim.local) + 1) // 2):
                    taken.append(victim.local.pop())
            except IndexError:
                pass  # its owner, or another thief, was faster
            if taken:
                for future in taken:
                    future.stolen_from = victim.number
                worker.steals += 1
                worker.stolen_tasks += len(taken)
                if victim.local:
                    self._sleepers.wake_one()  # there is more, and this thief may have nothing left to show
                oldest = taken.pop()
                worker.local.extend(reversed(taken))
                return oldest
        worker.failed_steals += 1
        return None


def _submitted_ns(future: TaskFuture) -> int:
    return future.submitted_ns
