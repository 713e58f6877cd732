"""Which process is meant: a pid and the time it started, because the kernel gives the same pid out again.

Source: proc_pid_stat(5).
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final, NamedTuple

from procbench.errors import InvalidInputError, ProcessGoneError

PROC: Final = Path("/proc")

_STATE, _CPU, _START = 0, 36, 19  # places behind the command's name, from 0
_USER, _SYSTEM = 11, 12


class ProcessId(NamedTuple):
    """One process, or one thread, and no later one that gets its number.

    Attributes:
        pid: Its number.
        started_ticks: When it started, clock ticks since boot.
    """

    pid: int
    started_ticks: int


class ProcessStat(NamedTuple):
    """What ``/proc/<pid>/stat`` says of a process or a thread at one moment.

    Attributes:
        id: Which one.
        state: One letter, ``R`` runs, ``S`` sleeps, ``T`` is stopped, ``Z`` has ended and was not reaped.
        cpu: The logical CPU that it last ran on.
        cpu_ticks: CPU time so far, user and system, clock ticks.
    """

    id: ProcessId
    state: str
    cpu: int
    cpu_ticks: int


def read_stat(pid: int, tid: int | None = None, proc: Path = PROC) -> ProcessStat:
    """Read how a process, or one thread of it, stands.

    Raises:
        InvalidInputError: The number can be no process's.
        ProcessGoneError: There is none with that number.
    """
    if isinstance(pid, bool) or not isinstance(pid, int) or pid < 1:
        raise InvalidInputError(f"a pid is a whole number above 0, and not {pid!r}")
    place = proc / str(pid) if tid is None else proc / str(pid) / "task" / str(tid)
    try:
        text = (place / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError(errno.ESRCH, f"there is no process {pid}") from None
    fields = text[text.rindex(b")") + 2 :].split()  # the name may hold anything, also ") R 1 1 ("
    ticks = int(fields[_USER]) + int(fields[_SYSTEM])
    which = ProcessId(tid or pid, int(fields[_START]))
    return ProcessStat(which, fields[_STATE].decode(), int(fields[_CPU]), ticks)


def identify(pid: int) -> ProcessId:
    """Return which process has this number now.

    Raises:
        InvalidInputError: The number can be no process's.
        ProcessGoneError: There is none, or it has ended and only waits to be reaped.
    """
    found = read_stat(pid)
    if found.state in "ZX":
        raise ProcessGoneError(errno.ESRCH, f"process {pid} has ended")
    return found.id


def is_there(process: ProcessId) -> bool:
    """Return whether that very process still runs."""
    try:
        return identify(process.pid) == process
    except ProcessGoneError:
        return False


def thread_ids(pid: int) -> frozenset[int]:
    """Return the ids of its threads at this moment; empty when it is gone."""
    try:
        return frozenset(int(entry.name) for entry in (PROC / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return frozenset()
