"""Which process is meant: a pid and the time it started, because the kernel gives the same pid out again.

Source: proc_pid_stat(5).
"""

from __future__ import annotations

import errno
import os
import signal
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


def stat_fields(place: Path) -> list[bytes]:
    """Return what ``stat`` says behind the command's name, the state first, of a process or a thread.

    The name may hold anything, also ``) R 1 1 (`` and a line's end, so that only the last parenthesis ends it.

    Args:
        place: The folder that belongs to it below ``/proc``.

    Raises:
        FileNotFoundError: There is none with that number.
        ProcessLookupError: It was reaped between being opened and being read.
        OSError: It cannot be read: it is hidden from this user, or no descriptor or memory is left.

    Source: proc_pid_stat(5), prctl(2), "PR_SET_NAME".
    """
    return stat_words((place / "stat").read_bytes())


def stat_words(text: bytes, most: int = -1) -> list[bytes]:
    """Return the words behind the command's name in what a ``stat`` says, as :func:`stat_fields`.

    Args:
        text: All of it.
        most: Words to take apart, the rest staying one; -1 for all of some fifty.

    Raises:
        ValueError: No parenthesis is in it, so that it is nothing that the kernel wrote.
    """
    return text[text.rindex(b")") + 2 :].split(None, most)


def read_stat(pid: int, tid: int | None = None, proc: Path = PROC) -> ProcessStat:
    """Read how a process, or one thread of it, stands.

    Args:
        pid: The process.
        tid: The thread; None for the process, which has its main thread's state and CPU, and the CPU time of all.
        proc: Where the kernel shows processes.

    Raises:
        InvalidInputError: The number can be no process's.
        ProcessGoneError: There is none with that number.
        OSError: It cannot be read: it is hidden from this user, or no descriptor or memory is left.
    """
    if isinstance(pid, bool) or not isinstance(pid, int) or pid < 1:
        raise InvalidInputError(f"a pid is a whole number above 0, and not {pid!r}")
    place = proc / str(pid) if tid is None else proc / str(pid) / "task" / str(tid)
    try:
        fields = stat_fields(place)
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError(errno.ESRCH, f"there is no process {pid}") from None
    ticks = int(fields[_USER]) + int(fields[_SYSTEM])
    which = ProcessId(tid or pid, int(fields[_START]))
    return ProcessStat(which, fields[_STATE].decode(), int(fields[_CPU]), ticks)


def identify(pid: int) -> ProcessId:
    """Return which process has this number now.

    Raises:
        InvalidInputError: The number can be no process's.
        ProcessGoneError: There is none, or it has ended and only waits to be reaped.
        OSError: It cannot be told; as :func:`read_stat`.
    """
    found = read_stat(pid)
    if found.state in "ZX":
        raise ProcessGoneError(errno.ESRCH, f"process {pid} has ended")
    return found.id


def is_there(process: ProcessId) -> bool:
    """Return whether that very process still runs.

    Raises:
        OSError: It cannot be told; as :func:`read_stat`.
    """
    try:
        return identify(process.pid) == process
    except ProcessGoneError:
        return False


def thread_ids(pid: int) -> frozenset[int]:
    """Return the ids of its threads at this moment; empty when it is gone.

    Raises:
        OSError: They cannot be listed: it is hidden from this user, or no descriptor or memory is left.
    """
    try:
        return frozenset(int(entry.name) for entry in (PROC / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return frozenset()


class ProcessMark(NamedTuple):
    """What tells a process from every other, also from one that started within the same clock tick with its number.

    Attributes:
        process: Its number and its start.
        serial: Inode number of its pidfd, which no other process ever gets (Linux 6.9); None where there is no pidfd.
    """

    process: ProcessId
    serial: int | None

    def is_same(self, other: ProcessMark) -> bool:
        """Return whether both are of one process; serials count where both have one, as not every pidfd can be had."""
        return self.process == other.process and (None in (self.serial, other.serial) or self.serial == other.serial)


class ProcessGuard:
    """Hold on to a process while something is done to it by its number; a context manager for one short action.

    It holds a pidfd, which never comes to mean another process; the descriptor is closed with the guard. Where the kernel
    has no pidfd_open (before Linux 5.3), forbids it, or no descriptor is left, the start time is compared instead.

    Args:
        pid: The process.
        expected: Which one it must be; None for whichever has the number now.

    Raises:
        InvalidInputError: The number can be no process's; or none is expected, and it is that of a thread within one.
        ProcessGoneError: There is none, or the number is another one's than expected, be that a process or a thread.
        OSError: It cannot be told; as :func:`read_stat`.

    Source: pidfd_open(2), pidfd_send_signal(2) (Linux 5.1).
    """

    def __init__(self, pid: int, expected: ProcessMark | None = None) -> None:
        self.pid = pid
        identify(pid)  # whether the number makes sense at all
        try:
            self._fd = _open_pidfd(pid)
        except InvalidInputError as error:
            if expected is None:
                raise
            raise _is_anothers(pid) from error
        try:
            self._process = identify(pid)
            # Only now is it known that the start time is that of the process behind the pidfd.
            self.check()
            serial = None if self._fd is None else os.fstat(self._fd).st_ino
            self.mark = ProcessMark(self._process, serial)
            if expected is not None and not self.mark.is_same(expected):
                raise _is_anothers(pid)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ProcessGuard:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pidfd. Harmless when called twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def check(self) -> None:
        """Return while nobody else can have the number.

        Between this and a call that takes the number, the process can still end; the number goes to another only after
        it was reaped and the kernel went once round all of them.

        Raises:
            ProcessGoneError: It has ended and was reaped.
        """
        try:
            if self._fd is None:
                there = identify(self.pid) == self._process
            else:
                signal.pidfd_send_signal(self._fd, 0)
                there = True
        except PermissionError:  # another user's, and there
            there = True
        except ProcessLookupError:
            there = False
        if not there:
            raise ProcessGoneError(errno.ESRCH, f"process {self.pid} has ended")

    def has_thread(self, tid: int) -> bool:
        """Return whether that is a thread of this process now.

        Raises:
            ProcessGoneError: The process has ended.
        """
        there = tid == self.pid or (PROC / str(self.pid) / "task" / str(tid)).exists()
        self.check()  # in this order: then the folder was this process's
        return there

    def check_thread(self, tid: int) -> None:
        """Return while that is a thread of this process.

        Raises:
            ProcessGoneError: The thread, or the whole process, has ended.
        """
        if not self.has_thread(tid):
            raise ProcessGoneError(errno.ESRCH, f"thread {tid} of process {self.pid} has ended")


def _is_anothers(pid: int) -> ProcessGoneError:
    return ProcessGoneError(errno.ESRCH, f"process {pid} has ended, and its number is another one's now")


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise ProcessGoneError(errno.ESRCH, f"there is no process {pid}") from None
    except OSError as error:
        leader = _leader_of(pid)
        if leader != pid:
            raise InvalidInputError(f"{pid} is a thread of process {leader}; name the process") from error
        return None


def _leader_of(pid: int) -> int:
    """Return the process that a thread belongs to; a process belongs to itself."""
    try:
        status = (PROC / str(pid) / "status").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError(errno.ESRCH, f"there is no process {pid}") from None
    return int(status.partition(b"Tgid:")[2].split(None, 1)[0])
