"""A pool of threads that run commands and steal from each other.

Every worker has a local queue. It takes from its own end; who has nothing left takes half of what another has from the
far end. What comes from outside enters through one bounded queue, the injector, from which workers take small batches.
The injector is the global order, by priority: while it holds anything but normal tasks, nothing is taken ahead of its turn,
and what is more urgent there goes before a worker's own queue.
Blumofe and Leiserson, "Scheduling Multithreaded Computations by Work Stealing", J. ACM 46 (1999), give the bound
T1/P + O(T∞) for such a scheduler; the two ends and the batches of half are crossbeam-deque's.

A ``deque``'s append, pop and popleft are one atomic call each, which makes it worker queue and stealer at once.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from procbench.cpu.priorities import Priority
from procbench.errors import (
    ClosedError,
    QueueEmptyError,
    QueueShutDownError,
)
from procbench.io.command import Argument
from procbench.io.limits import ChildLimiter
from procbench.memory.buffers import BufferPool
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.placing import cpus_for_workers
from procbench.scheduling.ready import ClassStatistics, PriorityScheduler
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import ProcessTask, TaskResult
from procbench.scheduling.worker import Worker, WorkerStatistics

_log = logging.getLogger(__name__)

# A worker that takes more than this at once would let the order of the tasks depend on who is fast.
_LARGEST_BATCH: Final = 32


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


class WorkStealingScheduler:
    """Runs commands on worker threads, as ``settings`` say; an executor with ``concurrent.futures``' manners.

    Thread-safe. A worker is a thread that spawns and waits without the GIL. Leaving the ``with`` block waits for all tasks;
    leaving it by an exception (Ctrl-C, say) cancels what waits and ends what runs.

    Args:
        settings: How commands are run.

    Raises:
        RuntimeError: The system gives no more threads; those already started are gone again.
        InvalidInputError: ``pin`` names a CPU that this process may not use.
        PermissionDeniedError: The kernel does not let this user have the nice value, policy or I/O class.
    """

    def __init__(self, settings: RunSettings | None = None) -> None:
        self.settings = settings or RunSettings()
        self._injector: PriorityScheduler[TaskFuture] = PriorityScheduler(
            self.settings.queue_size, self.settings.ageing_s
        )
        self._idle: deque[Worker] = deque()
        self._own = threading.local()
        self._owner = os.getpid()
        self._closed = False
        self._cancelling = False
        self._cancelled_waiting = 0
        self._count_lock = threading.Lock()
        self._workers: list[Worker] = []
        workers = self.settings.worker_count
        cpus = cpus_for_workers(self.settings)
        self._buffers = BufferPool(self.settings.buffer_size_bytes, workers) if self.settings.capture else None
        limits = self.settings.cpu_limit, self.settings.memory_limit_bytes
        self._limiter = None if limits == (None, None) else ChildLimiter(*limits)
        try:
            for number in range(workers):
                own = None if cpus is None else cpus[number]
                self._workers.append(Worker(number, self.settings, self._buffers, own, self._limiter))
            for worker in self._workers:
                name = f"procbench-worker-{worker.number}"
                # Daemons, because a forgotten scheduler must not keep the interpreter from ending; atexit ends it properly.
                worker.thread = threading.Thread(target=self._work, args=(worker,), name=name, daemon=True)
                worker.thread.start()
            for worker in self._workers:
                worker.wait_settled()
        except BaseException:
            self.shutdown(cancel_futures=True)
            raise
        _open_schedulers.add(self)

    # --- handing in ---------------------------------------------------------------------------------------------

    def submit(
        self, task: ProcessTask | Sequence[Argument], *, block: bool = True, timeout: float | None = None
    ) -> TaskFuture:
        """Hand in a task and return its future.

        A task handed in from a worker's own thread (a done-callback) never waits: a normal one goes to that worker's own
        queue, any other to the global order, beyond ``queue_size`` if need be.

        Args:
            task: A task, or just its argv.
            block: Whether to wait for room when ``queue_size`` tasks wait already.
            timeout: Most seconds to wait.

        Raises:
            ClosedError: The scheduler was shut down.
            QueueFullError: There was no room (in time).
        """
        future = TaskFuture(task if isinstance(task, ProcessTask) else ProcessTask(task), time.monotonic_ns())
        worker: Worker | None = getattr(self._own, "worker", None)
        if worker is not None and self._closed:
            raise ClosedError("the scheduler was shut down; make a new one")
        priority = future.task.priority
        try:
            if worker is None:
                self._injector.put(future, block, timeout, priority)
            elif priority == "normal":
                worker.local.append(future)
                worker.submitted += 1
            else:
                self._injector.put_over(future, priority)
        except QueueShutDownError:
            raise ClosedError("the scheduler was shut down; make a new one") from None
        if self._idle:
            self._unpark_one()
        return future

    def map(self, tasks: Iterable[ProcessTask | Sequence[Argument]]) -> Iterator[TaskResult]:
        """Hand in every task now and return an iterator over the results, in the tasks' order.

        The results of tasks that were cancelled while they waited raise ``concurrent.futures.CancelledError``.
        """
        futures = deque(self.submit(task) for task in tasks)

        def results() -> Iterator[TaskResult]:
            try:
                while futures:
                    yield futures.popleft().result()
            finally:
                for future in futures:
                    future.cancel()

        return results()

    def reprioritise(self, id: int | str, priority: Priority) -> bool:
        """Move a task that waits in the global order into another class, where it keeps its age.

        A normal task may have been moved to a worker's own queue; from there it is taken next anyhow, and cannot be moved.

        Returns:
            Whether it was moved.

        Raises:
            InvalidInputError: There is no such priority.
        """
        moved = self._injector.reprioritise(id, priority)
        if moved:
            self._unpark_one()  # who lay down meanwhile may have looked while it was in neither class
        return moved

    def remove(self, id: int | str) -> bool:
        """Cancel a task that waits in the global order, and make room for another; as ``cancel`` of its future, by id.

        Returns:
            Whether it waited there.
        """
        future = self._injector.remove(id)
        if future is not None:
            self._cancel(future)
        return future is not None

    # --- ending -------------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; the workers end when nothing is left to do. Harmless when called twice.

        Args:
            wait: Whether to wait for that.
            cancel_futures: Cancel what waits; what runs goes on to its end.
        """
        if self._owner != os.getpid():
            return  # a fork has none of the workers, and what runs is its parent's
        self._closed = True
        self._injector.shutdown()
        if cancel_futures:
            self._cancel_waiting()
        self._unpark_one()  # and that one, when it ends, the next
        if wait:
            for worker in self._workers:
                if worker.thread is not None and worker.thread.ident is not None:
                    worker.ended.wait()
                    worker.thread.join()
                else:
                    worker.close()  # its thread never began
            if self._buffers is not None:
                self._buffers.close()
            if self._limiter is not None:
                self._limiter.close()
            _open_schedulers.discard(self)

    def cancel_running(self, *, kill: bool = False) -> None:
        """End the commands that run, each with its process group, and cancel what waits; no new task is taken.

        Args:
            kill: At once by SIGKILL, instead of by SIGTERM with the settings' grace.
        """
        if self._owner != os.getpid():
            return
        self._closed = self._cancelling = True
        for worker in self._workers:  # first what runs: cancelling a long queue takes its time
            worker.stop(kill=kill)
        self.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                self.cancel_running()
            self.shutdown()
        except KeyboardInterrupt:
            self.cancel_running(kill=True)
            self.shutdown()
            raise

    def statistics(self) -> SchedulerStatistics:
        """Return what has been done so far."""
        workers = tuple(worker.statistics() for worker in self._workers)
        outcomes = [dict(worker.outcomes) for worker in self._workers]
        return SchedulerStatistics(
            submitted=self._injector.accepted + sum(worker.submitted for worker in self._workers),
            succeeded=sum(o["succeeded"] for o in outcomes),
            failed=sum(o["failed"] for o in outcomes),
            timed_out=sum(o["timed_out"] for o in outcomes),
            cancelled=sum(o["cancelled"] for o in outcomes) + self._cancelled_waiting,
            queued=self._injector.qsize() + sum(w.queued for w in workers),
            running=sum(w.running for w in workers),
            stopped=sum(w.stopped for w in workers),
            workers=workers,
            limited_by={} if self._limiter is None else dict(self._limiter.by),
            ready=self._injector.statistics(),
        )

    # --- what a worker does -------------------------------------------------------------------------------------

    def _work(self, worker: Worker) -> None:
        self._own.worker = worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})  # a child that stops reading must not end us
        try:
            if worker.settle():
                while (future := self._next(worker)) is not None:
                    self._serve(worker, future)
        finally:
            worker.close()
            # Whoever parked while this worker still had something in its hands has not seen that all is done. One wakes
            # the next: all at once would look through each other's queues, find each other looking, and lie down again.
            self._unpark_one()
            worker.ended.set()

    def _next(self, worker: Worker) -> TaskFuture | None:
        """Return the next task, asleep until there is one; ``None`` when there will be none."""
        while True:
            future = self._find(worker)
            if future is not None:
                return future
            if self._drained():
                return None
            # First lie down where a submitter looks for sleepers, then look once more: no task is missed either way.
            self._idle.append(worker)
            future = self._find(worker)
            if future is None and not self._drained():
                worker.parks += 1
                worker.asleep.acquire()
                continue
            try:
                self._idle.remove(worker)
            except ValueError:
                worker.asleep.acquire()  # somebody is waking this worker right now: take the token, or it counts later
            if future is not None:
                return future

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
            self._unpark_one()  # what was just moved here was nowhere to be seen for a moment
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
        most = min(_LARGEST_BATCH, injector.qsize() // (2 * len(self._workers)))
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
                    self._unpark_one()  # there is more, and this thief may have nothing left to show
                oldest = taken.pop()
                worker.local.extend(reversed(taken))
                return oldest
        worker.failed_steals += 1
        return None

    def _serve(self, worker: Worker, future: TaskFuture) -> None:
        if self._cancelling:
            _settle(future, future.cancel)
        if not future.set_running_or_notify_cancel():
            worker.outcomes["cancelled"] += 1
            return
        worker.running = True
        if self.settings.time_slice_s is not None:
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
                self._serve(worker, urgent)

        return run

    # --- who sleeps, who is done --------------------------------------------------------------------------------

    def _drained(self) -> bool:
        return self._injector.finished() and not any(worker.moving or worker.local for worker in self._workers)

    def _unpark_one(self) -> None:
        try:
            worker = self._idle.pop()
        except IndexError:
            return
        worker.asleep.release()

    def _cancel_waiting(self) -> None:
        self._cancelling = True  # for what is in a worker's hands between two queues
        while True:
            try:
                self._cancel(self._injector.get_nowait())
            except (QueueEmptyError, QueueShutDownError):
                break
        for worker in self._workers:
            while worker.local:
                try:
                    self._cancel(worker.local.pop())
                except IndexError:
                    break

    def _cancel(self, future: TaskFuture) -> None:
        future.cancel()
        if not future.set_running_or_notify_cancel():
            with self._count_lock:
                self._cancelled_waiting += 1


def _settle(future: TaskFuture, end: Callable[..., object], *how: object) -> None:
    """Bring a future to its end, which calls its callbacks."""
    try:
        end(*how)
    except BaseException:  # Future logs an Exception of a callback; SystemExit must not end the worker either
        _log.exception("a callback of task %s raised", future.task.id)


def _submitted_ns(future: TaskFuture) -> int:
    return future.submitted_ns


_open_schedulers: weakref.WeakSet[WorkStealingScheduler] = weakref.WeakSet()


@atexit.register
def _end_forgotten_schedulers() -> None:
    for scheduler in list(_open_schedulers):
        scheduler.cancel_running()
        scheduler.shutdown()


def _forget_schedulers() -> None:
    """Have a fork refuse tasks, because it has none of the workers that would run them."""
    for scheduler in list(_open_schedulers):
        scheduler._closed = True
        scheduler._injector.shut_in_fork()


os.register_at_fork(after_in_child=_forget_schedulers)
