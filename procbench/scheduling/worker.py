"""One worker thread's share of the scheduler: its queue, how it runs a command, its counts."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, cast

from procbench.errors import ClosedError, MappingError, SpawnError, SpawnLimitError
from procbench.io.budget import shared_budget
from procbench.io.contained import ContainmentLevel
from procbench.io.keep import Overflow
from procbench.io.limits import ChildLimiter
from procbench.io.order import CAPTURE, INHERIT, NULL, Limits, Order
from procbench.io.runner import ChildRunner
from procbench.memory.buffers import BufferPool
from procbench.memory.transports import Transport
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.placing import Placing, is_wanted, settle
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.starting import Starting
from procbench.scheduling.task import Outcome, TaskResult, task_result
from procbench.scheduling.times import Histogram, Times

# While no process or descriptor is left: soon enough to take what a child of some milliseconds gives back, and seldom enough
# not to get in its way.
_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.2
_NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What one worker has done so far.

    Attributes:
        processed: Tasks that it brought to an end, whatever end.
        steals: Times it took tasks from another worker's queue.
        stolen_tasks: Tasks that it took that way.
        failed_steals: Times it looked through all the others' queues and found nothing.
        parks: Times it went to sleep for want of work.
        queued: Tasks in its local queue now.
        waits: How long its tasks waited, from being handed in to the beginning of their first attempt's spawn.
        runs: How long its commands ran, each attempt by itself.
        running: Whether a command of its runs now.
        placing: Where and how urgently its commands run, as the kernel said when it began; ``None`` where the settings leave
            all that alone.
        stopped: Commands of its that stand still now, for a more urgent one.
    """

    processed: int
    steals: int
    stolen_tasks: int
    failed_steals: int
    parks: int
    queued: int
    waits: Times
    runs: Times
    running: bool
    placing: Placing | None
    stopped: int


class Worker:
    """One thread's share: its queue, its way to be woken, its counts. Only its own thread writes the counts.

    Attributes:
        number: From 0.
        local: Its queue; it takes from the left, thieves from the right.
        runner: What runs its commands; another one while a command stands still.
        asleep: Locked; who takes this worker out of the line of sleepers unlocks it once.
        ended: Set when its thread has nothing more to do. Waited for before ``join``, because before Python 3.13 a
            ``join`` that Ctrl-C interrupts takes a running thread for ended, and the next one does not wait.
        moving: Whether a task may be in its hands, in no queue.
        starts_no_more: Whether a command that waits for memory or load shall not begin any more.
    """

    def __init__(
        self,
        number: int,
        settings: RunSettings,
        buffers: BufferPool | None = None,
        cpus: frozenset[int] | None = None,
        limiter: ChildLimiter | None = None,
    ) -> None:
        self.number = number
        self._settings = settings
        self._cpus = cpus
        self.placing: Placing | None = None
        self._settled: Future[Placing] | None = Future() if is_wanted(settings) else None
        self._limits = Limits(
            settings.timeout,
            settings.max_output_bytes,
            settings.kill_grace_s,
            settings.drain_grace_s,
            cast(Overflow, settings.overflow),
        )
        self._stream = CAPTURE if settings.capture else NULL if settings.discard else INHERIT
        self._transport = cast(Transport, settings.transport)
        self._pipe_size_bytes = settings.pipe_size_bytes
        self._patience_s = settings.spawn_patience_s
        self._starting = Starting(settings)
        self.starts_no_more = False
        self.local: deque[TaskFuture] = deque()
        self._limiter = limiter
        self._containment = cast(ContainmentLevel, settings.containment)
        self._budget = None if settings.descriptors == "off" else shared_budget()
        self._fail_when_spent = settings.descriptors == "fail"
        self.stopped = 0
        self._buffers = buffers
        self._slice_s = settings.time_slice_s
        self._runners: list[ChildRunner] = []  # one, and one more for each command that has ever stood still at a time
        self.runner = self._runner(0)
        self.random = random.Random(number)  # noqa: S311 - which victim first is no secret
        self.asleep = threading.Lock()
        self.asleep.acquire()
        self.thread: threading.Thread | None = None
        self.ended = threading.Event()
        self.outcomes: dict[Outcome, int] = {"succeeded": 0, "failed": 0, "timed_out": 0, "cancelled": 0}
        self.waits, self.runs = Histogram(), Histogram()
        self.retried = self.submitted = self.steals = self.stolen_tasks = self.failed_steals = self.parks = 0
        self.running = False
        self.moving = False

    def _runner(self, depth: int) -> ChildRunner:
        if depth == len(self._runners):
            made = ChildRunner(
                stoppable=True,
                many=True,
                buffers=self._buffers,
                limiter=self._limiter,
                containment=self._containment,
                # One that runs while another stands still must not wait for what that one holds.
                budget=self._budget if depth == 0 else None,
                fail_when_spent=self._fail_when_spent,
            )
            made.slice_s = self._slice_s
            self._runners.append(made)
            wish = self._runners[0].stop_all_asked
            if wish is not None:  # asked before there was this one to be told
                made.stop(kill=wish == "kill")
        return self._runners[depth]

    def prepare_another(self) -> None:
        """Make what ``meanwhile`` needs, if there is none yet; fails with an OSError where the system gives no descriptor."""
        self._runner(self.stopped + 1)

    @contextlib.contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Run another command, or more of them, while the one that runs stands still. Only in the worker's thread."""
        outer, self.running = self.runner, False
        self.stopped += 1
        try:
            self.runner = self._runner(self.stopped)
            yield
        finally:
            self.runner = outer
            self.stopped -= 1
            self.running = True

    def stop(self, *, kill: bool) -> None:
        """End what runs and what stands still, and every later command at its start; from any thread."""
        for runner in list(self._runners):
            runner.stop(kill=kill)

    def stop_one(self, future: TaskFuture, *, kill: bool) -> bool:
        """End a task's command if it is here that it runs; from any thread. Return whether it is."""
        return any(runner.stop_one(future, kill=kill) for runner in list(self._runners))

    def close(self) -> None:
        """Give back what its runners hold. Harmless when called twice."""
        for runner in self._runners:
            runner.close()

    def statistics(self) -> WorkerStatistics:
        """Return what it has done so far."""
        return WorkerStatistics(
            processed=sum(self.outcomes.values()),
            steals=self.steals,
            stolen_tasks=self.stolen_tasks,
            failed_steals=self.failed_steals,
            parks=self.parks,
            queued=len(self.local),
            waits=self.waits.times(),
            runs=self.runs.times(),
            running=self.running,
            placing=self.placing,
            stopped=self.stopped,
        )

    def settle(self) -> bool:
        """Place the worker's own thread, which calls this first; return whether it may go on."""
        if self._settled is None:
            return True
        try:
            self.placing = settle(self._settings, self._cpus)
        except BaseException as error:
            self._settled.set_exception(error)
            return False
        self._settled.set_result(self.placing)
        return True

    def wait_settled(self) -> None:
        """Return when its thread is placed.

        Raises:
            PermissionDeniedError: The kernel does not let this user; the thread has ended.
            InvalidInputError: A CPU is not allowed.
        """
        if self._settled is not None:
            self._settled.result()

    def execute(self, future: TaskFuture) -> TaskResult:
        """Run a task's command to its end; one that cannot be started has a result too. Only in the worker's thread."""
        task, stream = future.task, self._stream
        if self._starting.is_wanted and not self._starting.wait(
            self.runner.pause, lambda: self.starts_no_more or bool(self.runner.stop_asked)
        ):
            return self._cancelled(future)
        limits = self._limits if task.timeout is None else self._limits._replace(timeout=task.timeout)
        order = Order(
            task.argv,
            limits,
            task.stdin,
            NULL,
            stream,
            stream,
            task.cwd,
            task.env,
            self._transport,
            self._pipe_size_bytes,
        )
        give_up_s = pause_s = 0.0
        while True:
            try:
                fields = self.runner.run(order)
            except SpawnLimitError as error:
                # The system has no process or descriptor left for now. The task stays ours; children that end make room.
                now = time.monotonic()
                give_up_s = give_up_s or now + self._patience_s
                spent = self._fail_when_spent and error.errno in _NO_DESCRIPTOR
                if spent or now >= give_up_s or self.runner.stop_asked:
                    return self._not_started(future, error)
                pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
                self.runner.pause(pause_s)
            except SpawnError as error:
                return self._not_started(future, error)
            except (MappingError, ClosedError) as error:  # its input cannot be given away: that task's trouble alone
                code = error.errno if isinstance(error, MappingError) else None
                refused = SpawnError(code or errno.EINVAL, "input", task.command, str(error))
                refused.__cause__ = error
                return self._not_started(future, refused)
            else:
                result = task_result(
                    *fields, task, None, future.submitted_ns, self.number, future.stolen_from, future.attempts
                )
                if future.last is None:
                    self.waits.add(result.started_ns - future.submitted_ns)
                self.runs.add(result.ended_ns - result.started_ns)
                return result

    def _cancelled(self, future: TaskFuture) -> TaskResult:
        if future.last is not None:  # how it ended last stands, as for every further attempt that is not made
            return future.last
        never = SpawnError(errno.ECANCELED, "limits", future.task.command)
        return dataclasses.replace(self._not_started(future, never), error=None, cancelled=True)

    def _not_started(self, future: TaskFuture, error: SpawnError) -> TaskResult:
        return TaskResult.not_started(
            future.task, error, future.submitted_ns, self.number, future.stolen_from, future.attempts
        )
