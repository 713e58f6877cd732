"""What a running process gets: nice value, policy, I/O class and limits, set as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from procbench.cpu.change import Change, InForce
from procbench.cpu.cpu_limit import CpuLimiter
from procbench.cpu.memory_limit import MemoryLimiter
from procbench.cpu.processes import ProcessGuard, ProcessId, is_there
from procbench.cpu.scheduling_class import Applied, SchedulingClass, apply_to_current_thread, read
from procbench.cpu.undo import Failures, Managed, restore
from procbench.errors import ClosedError, InvalidInputError, ProcessGoneError

__all__ = [
    "Applied",
    "InForce",
    "PriorityStatistics",
    "ProcessPriority",
    "ProcessPriorityManager",
    "SchedulingClass",
    "apply_to_current_thread",
    "read",
]


@dataclass(frozen=True, slots=True)
class ProcessPriority:
    """What was asked for a process, and what is in force since.

    Attributes:
        process: Which process.
        asked: The values that were named, by name.
        in_force: What the kernel says afterwards.
    """

    process: ProcessId
    asked: dict[str, Any]
    in_force: InForce


@dataclass(frozen=True, slots=True)
class PriorityStatistics:
    """What a manager did so far.

    Attributes:
        processes: How many it has changed that still run and were not put back.
        changes: How often it set something.
        refused: How often it was asked and nothing was set, because the values, the user's rights or the process were not right.
        undone: How many processes it put back.
        gone: How many ended before they were put back.
    """

    processes: int
    changes: int
    refused: int
    undone: int
    gone: int


class ProcessPriorityManager:
    """Sets what running processes get, and gives each of them back what it had.

    Each change is made as a whole, for all threads of the process, or not at all; every value is read back. A process is
    known by its pid and its start, so that nothing is done to a later one with the same pid. What the process starts afterwards
    inherits what it has then, and is not put back with it. Any thread may call it.

    Close it, or use it in a ``with`` block. What a forgotten one changed is put back too, with a ResourceWarning: when it is
    collected, or at the interpreter's end where it lives that long, as with ``tempfile.TemporaryDirectory``. So nothing lasts
    longer than its manager; what shall is for renice(1) and its kin. A process that is killed, or ends by ``os._exit``, puts
    nothing back, nor does one that was forked from the manager's.

    Source: setpriority(2), sched_setscheduler(2), ioprio_set(2), prlimit(2).
    """

    def __init__(self) -> None:
        self._managed: dict[int, Managed] = {}
        self._lock = threading.RLock()
        self._cpu, self._memory = CpuLimiter(1.0), MemoryLimiter()
        self._closed = False
        self._changes = self._refused = self._undone = self._gone = 0
        # Made after the limiters, whose own come later at the interpreter's end, so that they still work in this one.
        weakref.finalize(self, _put_back_forgotten, self._managed, self._cpu, self._memory, os.getpid())

    def set(
        self,
        pid: int,
        *,
        nice: int | None = None,
        policy: str | None = None,
        rt_priority: int | None = None,
        io_class: str | None = None,
        io_level: int | None = None,
        cpu_limit: float | None = None,
        memory_limit_bytes: int | None = None,
        cpu_time_limit_s: int | None = None,
        file_size_limit_bytes: int | None = None,
    ) -> ProcessPriority:
        """Set what is named for a process with all its threads, and return what is in force then; the rest stays.

        Limits of CPU time and file size are soft ones (getrlimit(2)), so that they can be put back.

        Args:
            pid: The process.
            nice: Nice value, -20 to 19.
            policy: ``other``, ``batch``, ``idle``, ``fifo`` or ``rr``. The last two are always reset on fork, and RLIMIT_RTTIME
                is set to half a second with them.
            rt_priority: 1 to 99 for ``fifo`` and ``rr``; 1 where it is not named.
            io_class: ``none``, ``realtime``, ``best-effort`` or ``idle``.
            io_level: 0 to 7 for ``realtime`` and ``best-effort``; 4 where it is not named.
            cpu_limit: CPUs that it and what it starts may use on average, such as 0.5; at least 0.01.
            memory_limit_bytes: Most memory; at least a page.
            cpu_time_limit_s: Most CPU time of each process, in whole seconds, 1 or more; SIGXCPU comes then.
            file_size_limit_bytes: Largest file that it may write, 1 or more; SIGXFSZ comes then.

        Raises:
            InvalidInputError: A value is outside its range, nothing is named, a real-time process could hold every CPU, or the
                number is that of a thread within a process.
            ProcessGoneError: There is no such process, or it ended meanwhile.
            PermissionDeniedError: This user may not; the message names what would help. What was changed was put back; a
                note on the error says what could not be.
            UnsupportedError: A thread has a policy or I/O class that could not be given back to it, or I/O priorities are not
                known on this machine.
            ClosedError: The manager was closed.
        """
        values = {name: value for name, value in locals().items() if name not in {"self", "pid"} and value is not None}
        with self._lock:
            if self._closed:
                raise ClosedError("this manager was closed; make a new one")
            self._forget_gone()
            try:
                done = self._set(pid, values)
            except BaseException:
                self._refused += 1
                raise
            self._changes += 1
            return done

    def _set(self, pid: int, values: dict[str, Any]) -> ProcessPriority:
        with ProcessGuard(pid) as guard:
            managed = self._managed.get(pid)
            if managed is None or not managed.mark.is_same(guard.mark):
                managed = Managed(guard.mark)
            change = Change(guard, values, managed, self._cpu, self._memory)
            in_force = change.make()
        managed.cpu, managed.memory = change.after.cpu, change.after.memory
        managed.threads = managed.threads or change.before.threads  # what it had before the first change counts
        managed.rlimits = change.before.rlimits | managed.rlimits
        self._managed[pid] = managed
        return ProcessPriority(guard.mark.process, values, in_force)

    def share_had(self, pid: int) -> float | None:
        """Return the CPUs that a process with a CPU limit used on average so far; ``None`` for one without."""
        return self._cpu.share_had(pid)

    def oom_kills(self, pid: int) -> int:
        """Return how many processes the kernel killed under a process's memory limit; 0 where no cgroup keeps it."""
        return self._memory.oom_kills(pid)

    def undo(self, pid: int) -> None:
        """Give a process back what it had before this manager first changed it.

        Raises:
            InvalidInputError: This manager did not change it.
            ProcessGoneError: It has ended; nothing is done to a later process with its pid.
            PermissionDeniedError: This user may not go back; everything else was put back, and the message says what was not.
        """
        with self._lock:
            managed = self._managed.pop(pid, None)
            if managed is None:
                raise InvalidInputError(f"nothing was set here for process {pid}")
            self._put_back(managed)

    def _put_back(self, managed: Managed) -> None:
        failures = Failures()
        try:
            _give_back(managed, self._cpu, self._memory, failures)
        except ProcessGoneError:
            self._gone += 1
            raise
        self._undone += 1
        failures.raise_any()

    def _forget_gone(self) -> None:
        for pid, managed in list(self._managed.items()):
            if not is_there(managed.mark.process):
                del self._managed[pid]
                self._cpu.remove(pid)
                self._memory.remove(pid)
                self._gone += 1

    def statistics(self) -> PriorityStatistics:
        """Return what was done so far; processes that have ended drop out."""
        with self._lock:
            self._forget_gone()
            return PriorityStatistics(len(self._managed), self._changes, self._refused, self._undone, self._gone)

    def close(self) -> None:
        """Give every process back what it had. Closing again does nothing.

        Raises:
            PermissionDeniedError: This user may not go back somewhere; all else was put back, and the message says what was not.
            Exception: Something else went wrong with one of them; all else was put back here too.
        """
        with self._lock:
            self._closed = True
            failures = Failures()
            try:
                for pid in list(self._managed):
                    with contextlib.suppress(ProcessGoneError), failures.collected():
                        self.undo(pid)
            finally:
                for limiter in (self._cpu, self._memory):
                    with failures.collected():
                        limiter.close()
            failures.raise_any()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(str(failure))


def _give_back(managed: Managed, cpu: CpuLimiter, memory: MemoryLimiter, failures: Failures) -> None:
    """Take a process's limits away and give it back what it had.

    Raises:
        ProcessGoneError: It has ended.
    """
    pid = managed.mark.process.pid
    for limiter in (cpu, memory):
        with failures.collected():
            limiter.remove(pid)
    with ProcessGuard(pid, managed.mark) as guard:
        restore(guard, managed, failures)


def _put_back_forgotten(changed: dict[int, Managed], cpu: CpuLimiter, memory: MemoryLimiter, owner: int) -> None:
    """Do for a manager that nobody has any more what its ``close`` would have done, and say so.

    No lock is taken: nobody can be in the midst of a call, as that call would have the manager.
    """
    if os.getpid() != owner:
        return  # a fork of the owner: the changes are not its own
    failures = Failures()
    done = 0
    while changed:
        _, managed = changed.popitem()
        refused = len(failures.found)
        with contextlib.suppress(ProcessGoneError), failures.collected():
            _give_back(managed, cpu, memory, failures)
            done += len(failures.found) == refused
    if done or failures.found:
        also = "".join(f"; {failure}" for failure in failures.found)
        message = f"a priority manager was forgotten, and {done} of its processes got back what they had{also}"
        warnings.warn(f"{message}; close it, or use it in a with block", ResourceWarning, stacklevel=3)
