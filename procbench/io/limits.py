"""Keep every child of a batch to its share of the CPUs and of memory, from its spawn to its reap."""

from __future__ import annotations

import contextlib
import errno

from procbench.cpu.cpu_limit import ChildLimits, CpuLimiter, cause_of_end
from procbench.cpu.memory_limit import MemoryLimiter
from procbench.errors import ProcessGoneError, SpawnError, SpawnLimitError
from procbench.io.spawn import LIMITS


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
        """Limit a child that was just spawned.

        Raises:
            SpawnLimitError: No descriptor or memory is left to limit it with.
            SpawnError: The kernel does not let this user limit it (a program with rights of its own, say).
        """
        try:
            with contextlib.suppress(ProcessGoneError):  # it has ended already
                if self._memory is not None and self._memory_bytes is not None:
                    self.by["memory"] = self._memory.add(pid, self._memory_bytes)
                if self._cpu is not None:
                    self.by["cpu"] = self._cpu.add(pid)
        except OSError as error:
            refused = SpawnLimitError if error.errno in LIMITS else SpawnError
            raise refused(error.errno or errno.EPERM, "limits", program, str(error)) from error

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


def limit_hit(returncode: int | None, oom_kills: int) -> str | None:
    """Return ``memory`` where the kernel ended the child for having asked for more than it may have; ``None`` otherwise."""
    return "memory" if cause_of_end(returncode, 0.0, ChildLimits(oom_kills=oom_kills)) == "limit:memory" else None
