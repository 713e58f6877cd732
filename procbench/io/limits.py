"""Keep every child of a batch to its share of the CPUs and of memory, from its spawn to its reap."""

from __future__ import annotations

import contextlib
import errno
import resource
import signal
from typing import Final, Literal

from procbench import linux
from procbench.cpu.cpu_limit import CpuLimiter
from procbench.cpu.memory_limit import MemoryLimiter
from procbench.errors import LimitRefusedError, ProcessGoneError, SpawnLimitError
from procbench.io.spawn import LIMITS

# RLIMIT_CPU goes by whose turn it is at each tick, which was up to a tenth off the time used.
_CPU_TIME_SEEN: Final = 0.8


class ChildLimiter:
    """What children may use, each for itself; one limiter serves all workers. Thread-safe.

    A child is limited right after its spawn: what it does in its first tenth of a millisecond goes unlimited.

    Args:
        cpus: CPUs that a child and what it starts may use on average; ``None`` for any.
        memory_bytes: Memory that it may have; ``None`` for any.

    Attributes:
        by: What the limits rest on, such as ``{"cpu": "cgroup v1", "memory": "RLIMIT_AS"}``, as of the last child.
    """

    def __init__(self, cpus: float | None, memory_bytes: int | None) -> None:
        self._cpu = None if cpus is None else CpuLimiter(cpus)
        self._memory = None if memory_bytes is None else MemoryLimiter()
        self._memory_bytes = memory_bytes
        self._resting: set[int] = set()
        self.by: dict[str, str] = {}

    def began(self, pid: int, program: str) -> None:
        """Limit a child that was just spawned; where that fails, the caller ends it.

        Raises:
            SpawnLimitError: No descriptor or memory is left to limit it with.
            LimitRefusedError: The kernel does not let this user limit it (a set-user-id program, say).
        """
        try:
            with contextlib.suppress(ProcessGoneError):  # it has ended already
                if self._memory is not None and self._memory_bytes is not None:
                    self.by["memory"] = self._memory.add(pid, self._memory_bytes)
                if self._cpu is not None:
                    self.by["cpu"] = self._cpu.add(pid)
        except OSError as error:
            if error.errno in LIMITS:
                raise SpawnLimitError(
                    error.errno or errno.EMFILE, "limits", program, f"it was ended again: {error.strerror or error}"
                ) from error
            hint = f"{error.strerror or error}. It had begun and was ended; run it without limits, or as root"
            raise LimitRefusedError(error.errno or errno.EPERM, "limits", program, hint) from error

    def rests(self, pid: int) -> None:
        """Leave alone a child that is stopped for a while, where its limit is kept by stopping, which would let it go on."""
        if self._cpu is not None and self._cpu.stops(pid):
            self._cpu.remove(pid)
            self._resting.add(pid)

    def goes_on(self, pid: int) -> None:
        """Limit it again, if ``rests`` lifted its limit; without a descriptor it goes on unlimited."""
        if self._cpu is not None and pid in self._resting:
            self._resting.discard(pid)
            with contextlib.suppress(OSError):
                self._cpu.add(pid)

    def ends(self, pid: int) -> int:
        """Lift a child's limits before it is reaped, and return how many processes of it were killed for want of memory."""
        kills = 0
        if self._memory is not None:
            kills = self._memory.oom_kills(pid)
            self._memory.remove(pid)
        if self._cpu is not None:
            self._cpu.remove(pid)
        return kills

    def close(self) -> None:
        """Lift every limit. Closing again does nothing."""
        if self._cpu is not None:
            self._cpu.close()
        if self._memory is not None:
            self._memory.close()


def limit_hit(returncode: int, usage: linux.Usage, oom_kills: int = 0) -> Literal["memory", "cpu", "file size"] | None:
    """Return which limit it was that ended a child; ``None`` where none did, or it cannot be told.

    SIGXCPU and SIGXFSZ say it themselves. SIGKILL may come from anybody: it is put down to memory where a process of the child's
    cgroup was killed for want of it, and to the hard RLIMIT_CPU that children have from this process where that much CPU
    time was used. A child that set itself such a limit cannot be told from one that somebody killed. One that catches SIGXCPU
    or ignores SIGXFSZ, as Python does, and one that RLIMIT_AS refused memory, end by themselves.

    Args:
        returncode: As in ``subprocess``: negative is a signal. It must not have been sent by the caller.
        usage: What the child and the descendants that it waited for used.
        oom_kills: How many processes of its cgroup were killed for want of memory.

    Source: getrlimit(2).
    """
    if returncode == -signal.SIGXCPU:
        return "cpu"
    if returncode == -signal.SIGXFSZ:
        return "file size"
    if returncode == -signal.SIGKILL:
        if oom_kills:
            return "memory"
        hard_s = resource.getrlimit(resource.RLIMIT_CPU)[1]
        used_s = usage.user_s + usage.system_s + (usage.user_us + usage.system_us) / 1e6
        if hard_s != resource.RLIM_INFINITY and used_s >= _CPU_TIME_SEEN * hard_s:
            return "cpu"
    return None
