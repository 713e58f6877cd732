"""How much memory a process may have, and who goes first when the machine has none left.

By a cgroup where this user may make one, which counts what all processes in it use; otherwise by each process's address
space (RLIMIT_AS), of which it may never touch a part.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
import weakref
from pathlib import Path
from typing import Final, Literal, NamedTuple

from procbench.cpu.processes import PROC, ProcessId, identify, is_there
from procbench.cpu.subgroups import Subgroups
from procbench.errors import ClosedError, InvalidInputError, PermissionDeniedError, ProcessGoneError

MemoryMechanism = Literal["cgroup v1", "cgroup v2", "RLIMIT_AS"]

LEAST_MEMORY_BYTES: Final = resource.getpagesize()

_OOM_STEP: Final = 100  # a tenth of the machine's memory, so that a child is chosen before its parent
_OOM_HIGHEST: Final = 1000


def check_bytes(name: str, value: object, lowest: int = 1) -> int:
    """Return a limit in bytes.

    Raises:
        InvalidInputError: It is no whole number, or below the lowest that makes sense.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value < 2**63:
        raise InvalidInputError(f"{name} is {value!r}; it must be a whole number of bytes, {lowest} or more")
    return value


def set_soft_limit(pid: int, which: int, name: str, value: int) -> tuple[int, int]:
    """Set a process's soft limit, and return the (soft, hard) that it had.

    The hard limit stays, so that the soft one can be put back; nobody but CAP_SYS_RESOURCE can raise a hard limit again.

    Args:
        pid: The process.
        which: One of ``resource``'s numbers.
        name: What to call it in an error.
        value: The limit, in its own unit.

    Raises:
        PermissionDeniedError: It is above the hard limit, or the process is another user's.
        ProcessGoneError: There is no such process.
    """
    try:
        before = resource.prlimit(pid, which)
        if before[1] != resource.RLIM_INFINITY and (value > before[1] or value == resource.RLIM_INFINITY):
            message = f"{name} of {value} for process {pid} needs CAP_SYS_RESOURCE: its hard limit is {before[1]}"
            raise PermissionDeniedError(errno.EPERM, message)
        resource.prlimit(pid, which, (value, before[1]))
    except ProcessLookupError:
        raise ProcessGoneError(errno.ESRCH, f"there is no process {pid}") from None
    except PermissionDeniedError:
        raise
    except PermissionError as error:
        message = f"{name} of process {pid} is refused; another user's process needs CAP_SYS_RESOURCE"
        raise PermissionDeniedError(error.errno, message) from error
    return before


def protect_parent_from_oom(pid: int) -> int | None:
    """Have the kernel choose a child before this process when memory runs out, and return what the child had.

    Its ``oom_score_adj`` is raised above this process's own; what it starts later inherits that. ``None`` where it could
    not be raised, or was higher already. Source: proc_pid_oom_score_adj(5).
    """
    path = PROC / str(pid) / "oom_score_adj"
    with contextlib.suppress(OSError, ValueError):
        own = int((PROC / "self/oom_score_adj").read_text())
        before = int(path.read_text())
        if before <= own < _OOM_HIGHEST:
            path.write_text(str(min(own + _OOM_STEP, _OOM_HIGHEST)))
            return before
    return None


class _Bounded(NamedTuple):
    process: ProcessId
    folder: Path | None  # of its cgroup
    limits: tuple[int, int] | None  # its RLIMIT_AS as it was
    oom_score_adj: int | None  # as it was


class MemoryLimiter:
    """Bounds the memory of each process that it is given.

    In a memory cgroup where this user may make one: then all that the process starts counts too, and the kernel kills the
    one that asks for too much. Otherwise by RLIMIT_AS, which bounds the address space of each process by itself and
    refuses what is above. What a process had before it was moved stays counted where it was. Any thread may call it.

    Args:
        by_cgroup: Whether to use cgroups where they can be had.
    """

    def __init__(self, *, by_cgroup: bool = True) -> None:
        self._groups = Subgroups("memory") if by_cgroup else None
        self._bounded: dict[int, _Bounded] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._finalizer = weakref.finalize(self, _release_all, self._bounded, self._groups, os.getpid())

    def add(self, pid: int, limit_bytes: int) -> MemoryMechanism:
        """Bound a process's memory, and return by what. Its ``oom_score_adj`` is raised above this process's.

        Raises:
            InvalidInputError: The number can be no process's, or the limit is less than a page.
            ProcessGoneError: It has ended.
            PermissionDeniedError: The hard RLIMIT_AS is lower, or the process is another user's.
            ClosedError: The limiter was closed.
        """
        check_bytes("memory limit", limit_bytes, LEAST_MEMORY_BYTES)
        if self._closed:
            raise ClosedError("this limiter was closed; make a new one")
        self.remove(pid)
        process = identify(pid)
        folder = self._grouped(pid, limit_bytes)
        limits = set_soft_limit(pid, resource.RLIMIT_AS, "RLIMIT_AS", limit_bytes) if folder is None else None
        bounded = _Bounded(process, folder, limits, protect_parent_from_oom(pid))
        with self._lock:
            closed = self._closed
            if not closed:
                self._bounded[pid] = bounded
        if closed:
            with contextlib.suppress(OSError):
                _release(bounded, self._groups)
            raise ClosedError("this limiter was closed; make a new one")
        if folder is None or self._groups is None:
            return "RLIMIT_AS"
        return "cgroup v2" if self._groups.mechanism == "cgroup v2" else "cgroup v1"

    def _grouped(self, pid: int, limit_bytes: int) -> Path | None:
        if self._groups is None or self._groups.mechanism is None:
            return None
        if self._groups.mechanism == "cgroup v1":
            # -1 first: the limit with swap may never be below the one without.
            swap, values = "memory.memsw.limit_in_bytes", {"memory.limit_in_bytes": str(limit_bytes)}
            first = {swap: "-1"}
        else:
            swap, values = "memory.swap.max", {"memory.max": str(limit_bytes)}
            first = {}
        bounded_swap = {swap: str(limit_bytes) if first else "0"}
        try:
            return self._groups.place(pid, values, optional=(first, bounded_swap))
        except ProcessGoneError:
            raise
        except OSError:
            return None

    def limit_bytes(self, pid: int) -> int | None:
        """Return the limit in force, as the kernel says; a cgroup rounds to pages. ``None`` for a process without one."""
        with self._lock:
            bounded = self._bounded.get(pid)
        if bounded is None:
            return None
        if bounded.folder is None:
            return resource.prlimit(pid, resource.RLIMIT_AS)[0]
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                return int((bounded.folder / name).read_text())
        return None

    def oom_kills(self, pid: int) -> int:
        """Return how many processes of its group the kernel killed for want of memory; 0 without a cgroup."""
        with self._lock:
            bounded = self._bounded.get(pid)
        # The group was made for this process, so that every kill in it counts, also one that came before ``add`` returned.
        return 0 if bounded is None or bounded.folder is None else _oom_kills_in(bounded.folder)

    def remove(self, pid: int) -> None:
        """Give a process the memory limit that it had before; one that is not bounded is left as it is.

        Where no descriptor is left for that, it is given back by ``close``.
        """
        with self._lock:
            bounded = self._bounded.pop(pid, None)
        if bounded is None:
            return
        try:
            _release(bounded, self._groups)
        except OSError:  # whether it is still that process cannot be seen; the group sees to itself
            with self._lock:
                self._bounded.setdefault(pid, bounded._replace(folder=None))

    def close(self) -> None:
        """Lift every limit and remove the cgroups. Closing again does nothing."""
        with self._lock:
            self._closed = True
        self._finalizer()


def _release(bounded: _Bounded, groups: Subgroups | None) -> None:
    if bounded.folder is not None and groups is not None:
        groups.release(bounded.folder)
    if is_there(bounded.process):
        with contextlib.suppress(OSError, ValueError):
            if bounded.limits is not None:
                resource.prlimit(bounded.process.pid, resource.RLIMIT_AS, bounded.limits)
        with contextlib.suppress(OSError):
            if bounded.oom_score_adj is not None:
                (PROC / str(bounded.process.pid) / "oom_score_adj").write_text(str(bounded.oom_score_adj))


def _release_all(bounded: dict[int, _Bounded], groups: Subgroups | None, owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the owner: the limits are not its own
    for one in list(bounded.values()):
        with contextlib.suppress(OSError):
            _release(one, groups)
    bounded.clear()
    if groups is not None:
        groups.close()


def _oom_kills_in(folder: Path) -> int:
    """Return the kernel's count; ``memory.events`` is version 2's, ``memory.oom_control`` version 1's (Linux 4.13)."""
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            for line in (folder / name).read_text().splitlines():
                word, _, count = line.partition(" ")
                if word == "oom_kill":
                    return int(count)
    return 0
