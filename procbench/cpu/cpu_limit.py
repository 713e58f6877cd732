"""How much CPU time a process may have: by a cgroup where this user may make one, by a duty cycle otherwise.

What the limit really rests on is said by name, because the two are not alike: a cgroup counts what is used, by all
processes in it; without one, the CPU is shared out by stopping the process group for part of the time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Final, Literal, NamedTuple

from procbench.cpu.cgroups import group_cpu_quota
from procbench.cpu.duty import DutyCycler, cpu_time_s
from procbench.cpu.processes import identify
from procbench.cpu.subgroups import Subgroups, members
from procbench.errors import ClosedError, InvalidInputError, ProcessGoneError

_MOST_CPUS: Final = 8192  # the most that Linux can be built for (NR_CPUS)
LEAST_SHARE: Final = 0.01
"""The kernel's least quota is 1 ms of a period of 100 ms."""

CpuMechanism = Literal["cgroup v1", "cgroup v2", "duty cycle"]

_PERIOD_US: Final = 100_000  # the kernel's default, so that a quota is the same in hundredths of a CPU


def check_share(share: object, name: str = "CPU limit") -> float:
    """Return the CPUs that a limit allows.

    Raises:
        InvalidInputError: It is no number, less than the kernel can keep to, or more CPUs than it knows.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not LEAST_SHARE <= share <= _MOST_CPUS:
        raise InvalidInputError(f"{name} is {share!r}; it must be a number of CPUs from {LEAST_SHARE} on, such as 0.5")
    return float(share)


class _Placed(NamedTuple):
    share: float
    folder: Path | None  # of its cgroup; None by duty cycle
    first_s: float  # CPU time that it had used when it was limited
    began_s: float


class CpuLimiter:
    """Keeps each process that it is given, with all that it starts, to a share of the CPUs.

    A cgroup's quota does that where this user may make cgroups below this process's own; :mod:`procbench.cpu.duty` does
    it otherwise. Add a child right after it was spawned and remove it before it is reaped. Both together cost some 0.3 ms by
    cgroup, whose kernel waits for every CPU to take notice, and 0.05 ms by duty cycle. Any thread may call it. Nothing
    stays limited or stopped after ``close``, or when the object is forgotten, or at the interpreter's end.

    Args:
        share: CPUs that each may use on average, such as 0.25; above 1 for several.
        by_cgroup: Whether to use cgroups where they can be had.

    Raises:
        InvalidInputError: The share is no number, or less than 0.01.
    """

    def __init__(self, share: float, *, by_cgroup: bool = True) -> None:
        self.share = check_share(share)
        self._groups = Subgroups("cpu") if by_cgroup else None
        self._duty = DutyCycler()
        self._placed: dict[int, _Placed] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._finalizer = weakref.finalize(self, _release_all, self._placed, self._groups, self._duty, os.getpid())

    def add(self, pid: int, share: float | None = None) -> CpuMechanism:
        """Limit a process and all that it starts, and return by what.

        Args:
            pid: The process; its descendants are limited with it.
            share: CPUs for this one; ``None`` for the limiter's own.

        Raises:
            InvalidInputError: The number can be no process's, the share makes no sense, or this process itself would be
                stopped.
            ProcessGoneError: It has ended.
            ClosedError: The limiter was closed.
            OSError: ``/proc`` cannot be read: no descriptor or memory is left.
        """
        if self._closed:
            raise ClosedError("this limiter was closed; make a new one")
        share = self.share if share is None else check_share(share)
        self.remove(pid)
        process = identify(pid)
        folder = self._quota(pid, share)
        placed = _Placed(share, folder, 0.0, time.monotonic())
        try:
            if folder is None:
                self._duty.add(process, share)
            else:
                placed = placed._replace(first_s=_used_s(folder, pid))
            with self._lock:
                if self._closed:
                    raise ClosedError("this limiter was closed; make a new one")
                self._placed[pid] = placed
        except BaseException:
            self._lift(pid, placed)
            raise
        if folder is None or self._groups is None:
            return "duty cycle"
        return "cgroup v2" if self._groups.mechanism == "cgroup v2" else "cgroup v1"

    def _quota(self, pid: int, share: float) -> Path | None:
        if self._groups is None or self._groups.mechanism is None:
            return None
        quota_us = round(share * _PERIOD_US)
        if self._groups.mechanism == "cgroup v1":
            values = {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}
        else:
            values = {"cpu.max": f"{quota_us} {_PERIOD_US}"}
        try:
            return self._groups.place(pid, values)
        except ProcessGoneError:
            raise
        except OSError:
            return None  # a quota above the parent's, a real-time process without budget, another group: by duty cycle

    def remove(self, pid: int) -> None:
        """Let a process run as it will, with what it started; one that is not limited is left as it is.

        Where no descriptor is left for that, it is let go by the next ``add``, or by ``close``.
        """
        with self._lock:
            placed = self._placed.pop(pid, None)
        if placed is not None:
            self._lift(pid, placed)

    def _lift(self, pid: int, placed: _Placed) -> None:
        if placed.folder is None:
            self._duty.remove(pid)
        elif self._groups is not None:
            self._groups.release(placed.folder)

    def stops(self, pid: int) -> bool:
        """Return whether a process is kept to its share by stopping it, so that nobody else can do that meanwhile."""
        with self._lock:
            placed = self._placed.get(pid)
        return placed is not None and placed.folder is None

    def share_in_force(self, pid: int) -> float | None:
        """Return the CPUs that a limited process may use, a cgroup's as the kernel says; ``None`` if not limited."""
        with self._lock:
            placed = self._placed.get(pid)
        if placed is None:
            return None
        return placed.share if placed.folder is None else group_cpu_quota(placed.folder)

    def share_had(self, pid: int) -> float | None:
        """Return the CPUs that a limited process used on average so far, from the kernel's count; ``None`` if not limited.

        Under version 1 and by duty cycle that count has a resolution of a clock tick, 10 ms; under version 1 it lacks what was
        used by processes that ended after their parent had.
        """
        with self._lock:
            placed = self._placed.get(pid)
        if placed is None:
            return None
        if placed.folder is None:
            return self._duty.share_had(pid)
        return (_used_s(placed.folder, pid) - placed.first_s) / max(time.monotonic() - placed.began_s, 1e-3)

    def close(self) -> None:
        """Lift every limit and remove the cgroups. Closing again does nothing."""
        with self._lock:
            self._closed = True
        self._finalizer()


def _release_all(placed: dict[int, _Placed], groups: Subgroups | None, duty: DutyCycler, owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the owner: the limits are not its own
    duty.close()
    if groups is not None:
        for one in list(placed.values()):
            if one.folder is not None:
                groups.release(one.folder)
        groups.close()
    placed.clear()


def _used_s(folder: Path, pid: int) -> float:
    """Return the CPU time that a cgroup's processes used: version 2 counts it, under version 1 the processes are asked."""
    with contextlib.suppress(OSError):
        for line in (folder / "cpu.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "usage_usec":
                return int(value) / 1e6
    return cpu_time_s(members(folder) | {pid})  # a zombie is not among the members, and its time counts
