"""A pool of threads that run commands and steal from each other.

Every worker has a local queue; what comes from outside enters through one bounded queue, the injector, which is the global
order. ``finding.py`` says where a worker finds its next task, ``sleeping.py`` who sleeps and is woken, ``serving.py`` what is
done with a task that was found, and ``totals.py`` adds up; here tasks are handed in, and the whole begins and ends.
Blumofe and Leiserson, "Scheduling Multithreaded Computations by Work Stealing", J. ACM 46 (1999), give the bound
T1/P + O(T∞) for such a scheduler; the two ends and the batches of half are crossbeam-deque's.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from procbench.cpu.priorities import Priority
from procbench.errors import ClosedError, InvalidInputError, QueueEmptyError, QueueShutDownError
from procbench.io.command import Argument
from procbench.io.limits import ChildLimiter
from procbench.memory.buffers import BufferPool
from procbench.scheduling.completed import Batch, Completed
from procbench.scheduling.finding import Finder
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.held import Held
from procbench.scheduling.placing import cpus_for_workers
from procbench.scheduling.ready import PriorityScheduler
from procbench.scheduling.serving import Serving
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.sleeping import Sleepers
from procbench.scheduling.task import ProcessTask, TaskResult
from procbench.scheduling.totals import SchedulerStatistics, total
from procbench.scheduling.worker import Worker


class WorkStealingScheduler:
    """Runs commands on worker threads, as ``settings`` say; an executor with ``concurrent.futures``' manners.

    Thread-safe. A worker is a thread that spawns and waits without the GIL. Leaving the ``with`` block waits for all tasks;
    leaving it by an exception (Ctrl-C, say) cancels what waits and ends what runs.

    Args:
        settings: How commands are run.

    Attributes:
        settings: As given.
        halted: Whether it was shut down because of what became of tasks, as ``settings.halt`` says.

    Raises:
        RuntimeError: The system gives no more threads; those already started are gone again.
        DescriptorsSpentError: RLIMIT_NOFILE has no room for the two descriptors that each worker keeps.
        InvalidInputError: ``pin`` names a CPU that this process may not use.
        PermissionDeniedError: The kernel does not let this user have the nice value, policy or I/O class.
    """

    def __init__(self, settings: RunSettings | None = None) -> None:
        self.settings = settings or RunSettings()
        self._injector: PriorityScheduler[TaskFuture] = PriorityScheduler(
            self.settings.queue_size, self.settings.ageing_s
        )
        self._workers: list[Worker] = []
        self._sleepers = Sleepers()
        self._held = Held(self._give_back, self._refuse)
        # Of those that were taken along with a long one each would wait for its end.
        in_order = self.settings.order == "longest_first"
        self._finder = Finder(self._injector, self._workers, self._sleepers, self._held, in_order=in_order)
        self._serving = Serving(self._injector, self.settings, self._held.later.put, self._halt)
        self._fifo = self.settings.order == "fifo"
        self.halted = False
        self._own = threading.local()
        self._owner = os.getpid()
        self._closed = False
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
        self,
        task: ProcessTask | Sequence[Argument],
        *,
        after: Sequence[Future[Any]] = (),
        block: bool = True,
        timeout: float | None = None,
    ) -> TaskFuture:
        """Hand in a task and return its future.

        A task handed in from a worker's own thread (a done-callback) never waits: a normal one goes to that worker's own
        queue, any other to the global order, beyond ``queue_size`` if need be.

        Args:
            task: A task, or just its argv.
            after: Futures, of this scheduler or any other executor, that must succeed before the task begins. If one does
                not, the task ends as cancelled, with a ``DependencyError``. Until then it takes no room in the queue.
            block: Whether to wait for room when ``queue_size`` tasks wait already.
            timeout: Most seconds to wait.

        Raises:
            ClosedError: The scheduler was shut down.
            QueueFullError: There was no room (in time).
            InvalidInputError: The task names others by their ids, which only ``map`` and ``as_completed`` know.
        """
        future = TaskFuture(task if isinstance(task, ProcessTask) else ProcessTask(task), time.monotonic_ns())
        if after or future.task.after:
            return self._submit_after(future, after)
        worker: Worker | None = getattr(self._own, "worker", None)
        if worker is not None and self._closed:
            raise ClosedError("the scheduler was shut down; make a new one")
        priority = "normal" if self._fifo else future.task.priority
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
        if self._sleepers.line:
            self._sleepers.wake_one()
        return future

    def _submit_after(self, future: TaskFuture, after: Sequence[Future[Any]]) -> TaskFuture:
        if len(after) < len(future.task.after):
            raise InvalidInputError(
                f"task {future.id!r} comes after others by their ids; hand all of them to map or as_completed, "
                "or give submit their futures as after"
            )
        if not all(isinstance(one, Future) for one in after):
            raise InvalidInputError("after takes futures, such as submit returns; ids belong to a task's own after")
        self._held.after.hold(future, after)
        return future

    def map(self, tasks: Iterable[ProcessTask | Sequence[Argument]]) -> Iterator[TaskResult]:
        """Hand in every task now and return an iterator over the results, in the tasks' order.

        They begin in the order that the settings say, and after those that their ``after`` names. The results of tasks
        that were cancelled while they waited raise ``concurrent.futures.CancelledError``.

        Raises:
            InvalidInputError: A task comes after one that there is not, or some wait for each other.
        """
        made = [task if isinstance(task, ProcessTask) else ProcessTask(task) for task in tasks]
        batch = Batch(self, made)
        handed_in: dict[int, deque[TaskFuture]] = {id(task): deque() for task in made}
        while (future := batch.hand_in(block=True)) is not None:
            handed_in[id(future.task)].append(future)
        # In the order given; nothing of what was not handed in any more, because the scheduler had halted.
        futures = deque(handed_in[id(task)].popleft() for task in made if handed_in[id(task)])

        def results() -> Iterator[TaskResult]:
            try:
                while futures:
                    yield futures.popleft().result()
            finally:
                for future in futures:
                    future.cancel()

        return results()

    def as_completed(self, tasks: Iterable[ProcessTask | Sequence[Argument]]) -> Completed:
        """Return the results of tasks as they end, for ``for`` and for ``async for``, such as in a notebook's cell.

        Tasks are handed in while the results are taken, at most ``queue_size`` ahead. Who leaves the loop cancels those
        that wait. Tasks that were cancelled before they began have no result.

        Raises:
            InvalidInputError: A task comes after one that there is not, or some wait for each other.
        """
        return Completed(self, tasks)

    def cancel(self, future: TaskFuture, *, kill: bool = False) -> bool:
        """Cancel a task that waits, or end the command of one that runs; its result then says ``cancelled``.

        Args:
            future: What ``submit`` returned; its own ``cancel`` is only for tasks that wait.
            kill: At once by SIGKILL, instead of by SIGTERM with the settings' grace.

        Returns:
            Whether it had not ended before.
        """
        if future.cancel():
            return True
        if future.done():
            return False
        future.unwanted = True
        if self._held.later.remove(future) and future.last is not None:
            self._serving.end(future, future.last)
            self._sleepers.wake_one()  # that may have been what the workers stayed for
            return True
        for worker in self._workers:
            if worker.stop_one(future, kill=kill):
                break
        return True  # one that no worker runs waits for its next attempt, which it shall not have

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
            self._sleepers.wake_one()  # who lay down meanwhile may have looked while it was in neither class
        return moved

    def remove(self, id: int | str) -> bool:
        """Cancel a task that waits in the global order, and make room for another; as ``cancel`` of its future, by id.

        Returns:
            Whether it waited there.
        """
        future = self._injector.remove(id)
        if future is not None:
            self._serving.cancel(future)
        return future is not None

    # --- ending -------------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; the workers end when nothing is left to do. Harmless when called twice.

        Args:
            wait: Whether to wait for that; in a worker's own thread (a done-callback) this never waits, as it would for itself.
            cancel_futures: Cancel what waits; what runs goes on to its end.
        """
        if self._owner != os.getpid():
            return  # a fork has none of the workers, and what runs is its parent's
        self._closed = True
        self._held.after.shutdown()
        self._injector.shutdown()
        if cancel_futures:
            self._cancel_waiting()
        self._sleepers.wake_one()  # and that one, when it ends, the next
        if wait and getattr(self._own, "worker", None) is None:
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
        self._closed = self._serving.cancelling = True
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
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or a signal that ends by exception
            self.cancel_running(kill=True)
            self.shutdown()
            raise

    def statistics(self) -> SchedulerStatistics:
        """Return what has been done so far."""
        limited_by = {} if self._limiter is None else self._limiter.by
        return total(self._workers, self._injector, self._serving, self._held, limited_by)

    # --- what a worker's thread does ----------------------------------------------------------------------------

    def _work(self, worker: Worker) -> None:
        self._own.worker = worker
        find, serve = self._finder.next_for, self._serving.serve
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})  # a child that stops reading must not end us
        try:
            if worker.settle():
                while (future := find(worker)) is not None:
                    serve(worker, future)
        finally:
            worker.close()
            # Whoever parked while this worker still had something in its hands has not seen that all is done. One wakes
            # the next: all at once would look through each other's queues, find each other looking, and lie down again.
            self._sleepers.wake_one()
            worker.ended.set()

    def _give_back(self, future: TaskFuture) -> None:
        """Take a task that was held back, and which a worker may have now."""
        worker: Worker | None = getattr(self._own, "worker", None)
        priority = "normal" if self._fifo else future.task.priority
        if worker is not None and priority == "normal":
            worker.local.append(future)
        else:
            self._injector.put_over(future, priority, again=True)
        self._sleepers.wake_one()

    def _refuse(self, future: TaskFuture, because: Future[Any]) -> None:
        self._serving.refuse(future, because)
        self._sleepers.wake_one()  # that may have been what the workers stayed for

    def _halt(self, now: bool) -> None:
        self.halted = True
        if now:
            self.cancel_running()
        else:
            self.shutdown(wait=False, cancel_futures=True)

    def _cancel_waiting(self) -> None:
        self._serving.cancelling = True  # for what is in a worker's hands between two queues
        for worker in self._workers:
            worker.starts_no_more = True
        for future in (*self._held.after.take_all(), *self._held.later.take_all()):
            self._serving.cancel(future)
        while True:
            try:
                self._serving.cancel(self._injector.get_nowait())
            except (QueueEmptyError, QueueShutDownError):
                break
        for worker in self._workers:
            while worker.local:
                try:
                    self._serving.cancel(worker.local.pop())
                except IndexError:
                    break


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
        scheduler._held.after.shut_in_fork()


os.register_at_fork(after_in_child=_forget_schedulers)
