"""One change of what a running process has: checked first, made in all its threads, read back; as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from procbench.cpu.cpu_limit import CpuLimiter, CpuMechanism, check_share
from procbench.cpu.memory_limit import LEAST_MEMORY_BYTES, MemoryLimiter, MemoryMechanism, check_bytes, set_soft_limit
from procbench.cpu.processes import PROC, ProcessGuard, read_stat, thread_ids
from procbench.cpu.scheduling_class import REAL_TIME, SchedulingClass, check_way_back, read, steps, wanted
from procbench.cpu.topology import parse_cpu_list
from procbench.cpu.undo import Failures, Managed, gone_only_if_main, restore
from procbench.errors import InvalidInputError, PermissionDeniedError, ProcessGoneError

RT_TIME_LIMIT_US: Final = 500_000
"""RLIMIT_RTTIME of a real-time process: CPU time without once waiting, after which the kernel sends it SIGXCPU.

Source: getrlimit(2), "RLIMIT_RTTIME"."""

_SCHEDULING: Final = ("nice", "policy", "rt_priority", "io_class", "io_level")
_ROUNDS: Final = 100  # looks for threads that were started meanwhile


@dataclass(frozen=True, slots=True)
class InForce:
    """What a process has, as the kernel says.

    Attributes:
        scheduling: Its main thread's nice value, policy and I/O class; the other threads were set and compared too.
        cpu_limit: CPUs that it and what it starts may use on average; ``None`` where procbench set no limit.
        cpu_mechanism: What keeps it to that.
        memory_limit_bytes: Most memory; ``None`` where procbench set no limit.
        memory_mechanism: What keeps it to that.
        cpu_time_limit_s: Soft RLIMIT_CPU, in seconds; ``None`` is none.
        file_size_limit_bytes: Soft RLIMIT_FSIZE; ``None`` is none.
    """

    scheduling: SchedulingClass
    cpu_limit: float | None = None
    cpu_mechanism: CpuMechanism | None = None
    memory_limit_bytes: int | None = None
    memory_mechanism: MemoryMechanism | None = None
    cpu_time_limit_s: int | None = None
    file_size_limit_bytes: int | None = None


class Change:
    """Makes one change, or takes back what it had made of it. Its manager's lock is held around it.

    Args:
        guard: Holds on to the process, which is looked at before each step: its number may be another one's after it.
        values: What to set, by name, as ``ProcessPriorityManager.set`` names it.
        now: The limits in force from earlier changes.
        cpu: What limits its CPU time.
        memory: What limits its memory.
    """

    def __init__(
        self, guard: ProcessGuard, values: dict[str, Any], now: Managed, cpu: CpuLimiter, memory: MemoryLimiter
    ) -> None:
        self.before = Managed(guard.mark, cpu=now.cpu, memory=now.memory)
        self.after = Managed(guard.mark, cpu=now.cpu, memory=now.memory)
        self._guard, self._pid, self._values = guard, guard.pid, values
        self._scheduling = {name: values[name] for name in _SCHEDULING if name in values}
        self._cpu, self._memory = cpu, memory

    def make(self) -> InForce:
        """Make it, and return what is in force then.

        The steps that may fail come first, and those that an ordinary user cannot take back (a higher nice value, the policy
        ``idle``) last.

        Raises:
            InvalidInputError: A value is outside its range, or a real-time process could hold every CPU.
            ProcessGoneError: It ended.
            PermissionDeniedError: This user may not.
            UnsupportedError: What a thread has now could not be given back to it.
        """
        self._check()
        try:
            self._limit()
            last: list[Callable[[], None]] = []
            self._schedule(last)
            if "cpu_limit" in self._values:  # after the policy: in a cgroup without real-time budget fifo is refused
                share = self._values["cpu_limit"]
                self._guard.check()
                self.after.cpu = None
                self.after.cpu = (share, self._cpu.add(self._pid, share))
            for step in last:
                step()
            self._schedule(last := [])  # threads that were started by one that had not been changed yet
            for step in last:
                step()
            return self._read_back()
        except BaseException as error:
            self._take_back(error)
            raise

    def _check(self) -> None:
        values, pid = self._values, self._pid
        if not values:
            raise InvalidInputError(f"nothing to set for process {pid}; name a value")
        wanted(read(pid), **self._scheduling)
        for tid in thread_ids(pid) if self._scheduling else ():
            with gone_only_if_main(self._guard, tid):
                has = read(tid)
                check_way_back(tid, has, wanted(has, **self._scheduling))
        if "cpu_limit" in values:
            check_share(values["cpu_limit"])
        if "memory_limit_bytes" in values:
            check_bytes("memory limit", values["memory_limit_bytes"], LEAST_MEMORY_BYTES)
        if "file_size_limit_bytes" in values:
            check_bytes("file size limit", values["file_size_limit_bytes"])
        seconds = values.get("cpu_time_limit_s", 1)
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds < 2**31:
            raise InvalidInputError(f"CPU time limit is {seconds!r}; it must be a whole number of seconds, 1 or more")
        owner = _owner_of(pid)
        if os.geteuid() not in {0, owner}:
            message = (
                f"process {pid} belongs to user {owner}, and changing it needs CAP_SYS_NICE; ask that user, or root"
            )
            raise PermissionDeniedError(errno.EPERM, message)
        if values.get("policy") in REAL_TIME:
            _leave_a_cpu(pid)

    def _limit(self) -> None:
        """Set the limits that are the process's own."""
        values = self._values
        if "cpu_time_limit_s" in values:
            self._rlimit(resource.RLIMIT_CPU, "RLIMIT_CPU", values["cpu_time_limit_s"])
        if "file_size_limit_bytes" in values:
            self._rlimit(resource.RLIMIT_FSIZE, "RLIMIT_FSIZE", values["file_size_limit_bytes"])
        if values.get("policy") in REAL_TIME:
            hard = resource.prlimit(self._pid, resource.RLIMIT_RTTIME)[1]
            lowest = RT_TIME_LIMIT_US if hard == resource.RLIM_INFINITY else min(hard, RT_TIME_LIMIT_US)
            self._rlimit(resource.RLIMIT_RTTIME, "RLIMIT_RTTIME", lowest)
        if "memory_limit_bytes" in values:
            limit_bytes = values["memory_limit_bytes"]
            self._guard.check()
            self.after.memory = None
            self.after.memory = (limit_bytes, self._memory.add(self._pid, limit_bytes))

    def _rlimit(self, which: int, name: str, value: int) -> None:
        self._guard.check()
        self.before.rlimits[which] = set_soft_limit(self._pid, which, name, value)

    def _schedule(self, last: list[Callable[[], None]]) -> None:
        """Take the steps that may fail in every thread, and collect the others."""
        if not self._scheduling:
            return
        done: set[int] = set()
        remember = not self.before.threads
        for _ in range(_ROUNDS):
            new = thread_ids(self._pid) - done
            if not new:
                return
            for tid in new:
                with gone_only_if_main(self._guard, tid):
                    thread = read_stat(self._pid, tid).id
                    has = read(tid)
                    self._guard.check_thread(tid)  # so both were its own
                    if remember:
                        self.before.threads[thread] = has
                    first, irreversible = steps(tid, has, wanted(has, **self._scheduling))
                    for step in first:
                        self._guard.check_thread(tid)
                        step()
                    last.extend(_for_thread(self._guard, tid, step) for step in irreversible)
            done |= new
            remember = (
                False  # who was started since inherited what may be new already; it gets back what the main thread had
            )

    def _read_back(self) -> InForce:
        """Return what the kernel says.

        Raises:
            PermissionDeniedError: That is not what was set.
        """
        pid = self._pid
        for tid in thread_ids(pid):
            with gone_only_if_main(self._guard, tid):
                has = read(tid)
                self._guard.check_thread(tid)
                if wanted(has, **self._scheduling) != has:
                    raise PermissionDeniedError(errno.EPERM, f"thread {tid} of process {pid} keeps {has}; try again")
        try:
            seconds, size = (resource.prlimit(pid, one)[0] for one in (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE))
        except ProcessLookupError:
            raise ProcessGoneError(errno.ESRCH, f"process {pid} has ended") from None
        for name, limit in (("cpu_time_limit_s", seconds), ("file_size_limit_bytes", size)):
            if self._values.get(name, limit) != limit:
                raise PermissionDeniedError(
                    errno.EPERM, f"{name} of process {pid} is {limit} after it was set; try again"
                )
        cpu, memory = self.after.cpu, self.after.memory
        scheduling = read(pid)
        self._guard.check()  # so all that was its own
        return InForce(
            scheduling=scheduling,
            cpu_limit=self._cpu.share_in_force(pid) if cpu else None,
            cpu_mechanism=cpu[1] if cpu else None,
            memory_limit_bytes=self._memory.limit_bytes(pid) if memory else None,
            memory_mechanism=memory[1] if memory else None,
            cpu_time_limit_s=None if seconds == resource.RLIM_INFINITY else seconds,
            file_size_limit_bytes=None if size == resource.RLIM_INFINITY else size,
        )

    def _take_back(self, error: BaseException) -> None:
        """Put back what was changed so far; what cannot be is added to the error as a note."""
        failures = Failures()
        try:
            if self.after.cpu != self.before.cpu:
                with failures.collected():
                    self._cpu.remove(self._pid)
                    if self.before.cpu:
                        self._guard.check()
                        self._cpu.add(self._pid, self.before.cpu[0])
            if self.after.memory != self.before.memory:
                with failures.collected():
                    self._memory.remove(self._pid)
                    if self.before.memory:
                        self._guard.check()
                        self._memory.add(self._pid, self.before.memory[0])
            restore(self._guard, self.before, failures)
        except ProcessGoneError:
            pass  # nothing of it is left to be put back
        failures.note_on(error)


def _for_thread(guard: ProcessGuard, tid: int, step: Callable[[], None]) -> Callable[[], None]:
    def take() -> None:
        with gone_only_if_main(guard, tid):
            guard.check_thread(tid)
            step()

    return take


def _owner_of(pid: int) -> int:
    try:
        return (PROC / str(pid)).stat().st_uid
    except FileNotFoundError:
        raise ProcessGoneError(errno.ESRCH, f"there is no process {pid}") from None


def _leave_a_cpu(pid: int) -> None:
    """Refuse a real-time policy where nothing would be left for anybody else.

    Raises:
        InvalidInputError: A thread of the process may run on every CPU that is online.
    """
    online = parse_cpu_list(Path("/sys/devices/system/cpu/online").read_text())
    if len(online) == 1:
        raise InvalidInputError(
            "this machine has one CPU online, and a real-time process could keep it from all others"
        )
    for tid in thread_ids(pid):
        with contextlib.suppress(ProcessLookupError):
            if os.sched_getaffinity(tid) >= online:
                message = f"process {pid} may run on every CPU, and at a real-time policy it could keep all of them"
                raise InvalidInputError(f"{message}; pin it to fewer first")
