"""The processes that an affinity manager looks after: which ones they are, what they had before, and how they get it back.

It knows nothing of the manager, so that what a manager changed can be put back when there is no manager any more.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from procbench.cpu.pinning import ThreadCpus, pin_threads, process_cpus, put_back
from procbench.cpu.priorities import Priority
from procbench.cpu.processes import ProcessGuard, ProcessMark, read_stat
from procbench.errors import InvalidInputError, ProcessGoneError


@dataclass(slots=True)
class ManagedProcess:
    """One process that is looked after.

    Attributes:
        mark: Which one.
        priority: Its class, by which it is moved; None to leave it where it is.
        pinned: The CPUs that it was pinned to last; None when it was not.
        before: What each of its threads had before the first pin, by thread id.
        cpu_ticks: CPU time that it had used at the last look, clock ticks.
        looked_s: When that was, on ``time.monotonic()``'s clock.
    """

    mark: ProcessMark
    priority: Priority | None = None
    pinned: frozenset[int] | None = None
    before: dict[int, ThreadCpus] = field(default_factory=dict)
    cpu_ticks: int = 0
    looked_s: float = 0.0

    def own_load(self) -> float:
        """Return how much of one CPU it had since the last look, 0 to 1.

        Raises:
            ProcessGoneError: It has ended.
        """
        ticks, now_s = read_stat(self.mark.process.pid).cpu_ticks, time.monotonic()
        used_s = (ticks - self.cpu_ticks) / os.sysconf("SC_CLK_TCK")
        passed_s = now_s - self.looked_s
        self.cpu_ticks, self.looked_s = ticks, now_s
        return min(1.0, used_s / passed_s) if passed_s > 0 else 0.0


class ManagedProcesses:
    """All of them. Not for several threads at once: the manager's lock is around each call.

    Attributes:
        by_pid: Each by its number; some may have ended.
        gone: How many had ended before they were let go.
        restored: How many got back what they had.
        errors: How many did not, because the kernel refused.
    """

    def __init__(self) -> None:
        self.by_pid: dict[int, ManagedProcess] = {}
        self.gone = self.restored = self.errors = 0

    def hold(self, pid: int) -> ProcessGuard:
        """Hold on to whoever has the number now, and forget a managed one that had it before.

        Raises:
            InvalidInputError: The number can be no process's, or it is a thread's.
            ProcessGoneError: There is no such process.
        """
        try:
            guard = ProcessGuard(pid)
        except (ProcessGoneError, InvalidInputError):  # nobody's number by now, or a thread's
            if pid in self.by_pid:
                self.drop(self.by_pid[pid])
            raise
        entry = self.by_pid.get(pid)
        if entry is not None and not guard.mark.is_same(entry.mark):
            self.drop(entry)
        return guard

    def entry(self, guard: ProcessGuard) -> ManagedProcess:
        """Return what is known of a process, which is looked after from now on.

        Raises:
            ProcessGoneError: It has ended.
        """
        if guard.pid not in self.by_pid:
            ticks = read_stat(guard.pid).cpu_ticks
            self.by_pid[guard.pid] = ManagedProcess(guard.mark, cpu_ticks=ticks, looked_s=time.monotonic())
        return self.by_pid[guard.pid]

    def pin(self, guard: ProcessGuard, cpus: frozenset[int]) -> tuple[frozenset[int], int]:
        """Pin a process, and return what its main thread had until now and how many threads it has; as ``pin_threads``."""
        entry = self.by_pid.get(guard.pid)
        before, threads = pin_threads(guard, cpus)
        entry = entry or self.entry(guard)
        for tid, had in before.items():
            known = entry.before.get(tid)
            if known is not None and known.started_ticks == had.started_ticks:
                continue  # what it had before the first pin counts
            if had.cpus != entry.pinned:  # else it was born since, and inherited
                entry.before[tid] = had
        entry.pinned = cpus
        return before[guard.pid].cpus, threads

    def restore(
        self, entry: ManagedProcess, otherwise: Callable[[], frozenset[int]]
    ) -> tuple[bool, list[InvalidInputError | OSError]]:
        """Look after a process no longer, and give its threads the CPUs that they had before the first pin.

        Args:
            entry: The process.
            otherwise: Returns the CPUs for a thread whose former ones are all off.

        Returns:
            Whether it was there to get them back, and what the kernel refused.
        """
        pid = entry.mark.process.pid
        try:
            with ProcessGuard(pid, entry.mark) as guard:
                refused = []
                if entry.pinned is not None:
                    refused = put_back(guard, entry.before, entry.pinned, otherwise())
                    self.restored += not refused
                    self.errors += bool(refused)
                self.by_pid.pop(pid, None)
                return True, refused
        except ProcessGoneError:
            self.drop(entry)
            return False, []

    def drop(self, entry: ManagedProcess) -> None:
        """Forget one that has ended."""
        if self.by_pid.pop(entry.mark.process.pid, None) is not None:
            self.gone += 1

    def drop_gone(self) -> None:
        """Forget all that have ended. Costs a look at each."""
        for entry in list(self.by_pid.values()):
            try:
                ProcessGuard(entry.mark.process.pid, entry.mark).close()
            except ProcessGoneError:
                self.drop(entry)

    def own_cpus(self) -> frozenset[int]:
        """Return the CPUs that this process has, or had before it was pinned here."""
        mine = self.by_pid.get(os.getpid())
        pinned = mine is not None and mine.pinned is not None and os.getpid() in mine.before
        return mine.before[os.getpid()].cpus if mine is not None and pinned else process_cpus()


def put_back_forgotten(processes: ManagedProcesses, owner: int) -> None:
    """Do for a manager that nobody has any more what its ``close`` would have done, and say so with a ResourceWarning.

    No lock is taken: nobody can be in the midst of a call, as that call would have the manager.

    Args:
        processes: Those that it looked after.
        owner: The process that had the manager; one that was forked from it puts nothing back.
    """
    if os.getpid() != owner:
        return
    restored = processes.restored
    refused: list[Exception] = []
    for entry in list(processes.by_pid.values()):
        try:
            refused += processes.restore(entry, processes.own_cpus)[1]
        except Exception as error:  # also where no descriptor is left to look by: the others may have more luck
            refused.append(error)
    if processes.restored > restored or refused:
        done = processes.restored - restored
        also = "".join(f"; {error}" for error in refused)
        message = (
            f"an affinity manager was forgotten, and {done} of its processes got back the CPUs that they had{also}"
        )
        warnings.warn(f"{message}; close it, or use it in a with block", ResourceWarning, stacklevel=3)
