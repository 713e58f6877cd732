"""Descendants that left their process group or outlived their parent: they fall to this process, which ends them.

A program that calls setsid(2) and forks twice cannot be found through its group. A subreaper becomes its parent instead
of init, so it can be told apart, killed and reaped. Source: prctl(2), PR_SET_CHILD_SUBREAPER, Linux 3.4.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from procbench import linux
from procbench.cpu.processes import PROC, stat_fields
from procbench.io.groups import ProcessState, all_processes, state_of

MARK_NAME: Final = "PROCBENCH_CHILD"
"""The environment variable by which a child's descendants are known: what each procbench above them called theirs."""

_WAIT_S = 0.005
_EXEC_WAIT_S = 0.001
_EXEC_TRIES = 200  # on a busy machine it may stand there for as long as others have their turn
_VSIZE, _ENV_END = 20, 48  # places behind the command's name, proc_pid_stat(5)

_CHILDREN_BY_THREAD: Final = Path(f"/proc/self/task/{os.getpid()}/children").exists()  # CONFIG_PROC_CHILDREN

_numbers = itertools.count(1)
_run = secrets.token_hex(4)  # a pid comes again, and what an earlier process left behind must not pass for ours
_strays: dict[int, int] = {}  # adopted and let go of alive, by when they started: zombies one day
_adopting = 0  # how many want this process to be the subreaper
_was_subreaper = False  # before the first of them
_lock = threading.RLock()  # a garbage collection may close in the midst of a call


def adopt() -> None:
    """Be the subreaper of all descendants until ``adopt_no_longer`` is called as often as this.

    Raises:
        UnsupportedError: The kernel has no such thing.
    """
    global _adopting, _was_subreaper  # noqa: PLW0603 - they belong to the process, as the attribute does
    with _lock:
        _adopting += 1  # first: what a garbage collection closes meanwhile must not be the last one
        try:
            if _adopting == 1:
                _was_subreaper = linux.is_child_subreaper()
                linux.set_child_subreaper(True)
        except BaseException:
            _adopting -= 1
            raise


def adopt_no_longer() -> None:
    """Leave later orphans to init again, unless somebody else still wants them. Those adopted before stay children."""
    global _adopting  # noqa: PLW0603 - as above
    with _lock:
        _adopting -= 1
        if not _adopting and not _was_subreaper:
            linux.set_child_subreaper(False)


def _forget_in_fork() -> None:
    """Have a fork begin anew: the attribute is not handed down, and the orphans are its parent's."""
    global _adopting, _lock  # noqa: PLW0603 - as above
    _adopting = 0
    _lock = threading.RLock()
    _strays.clear()


os.register_at_fork(after_in_child=_forget_in_fork)


def new_mark(env: Mapping[str, str] | None) -> bytes:
    """Return a variable that marks one more child, behind the marks of those that this process descends from.

    Args:
        env: The environment that the child gets; ``None`` for this process's. One without a mark does not hide the child from
            those above.
    """
    outer = (env or {}).get(MARK_NAME) or os.environ.get(MARK_NAME)
    own = f"{os.getpid()}.{_run}.{next(_numbers)}"
    return os.fsencode(f"{MARK_NAME}={outer}/{own}" if outer else f"{MARK_NAME}={own}")


class Family:
    """What one child started: its group, its descendants, and orphans that carry its mark. Not thread-safe.

    An orphan that left the group and threw away its environment cannot be told from others, nor can one that left it and had
    ended before anybody looked: it stays a zombie while this process lives, because it may be somebody else's child. One
    that lives on is reaped after its end when a later child is released.

    Args:
        pid: The child, which leads its group.
        mark: Its variable.
    """

    __slots__ = ("_own", "_pid", "_seen")

    def __init__(self, pid: int, mark: bytes) -> None:
        self._pid = pid
        self._own = mark.partition(b"=")[2].rpartition(b"/")[2]
        self._seen: dict[int, int] = {}  # when each member started: a zombie's mark cannot be read any more

    def members(self, *, anywhere: bool = False) -> list[ProcessState]:
        """Return all of them, the child itself and zombies too. Costs a look at ``/proc``, some 10 µs for each process.

        Args:
            anywhere: Look for the mark not only among what this process has adopted.
        """
        this = os.getpid()
        children: dict[int, list[ProcessState]] = {}
        waiting: list[ProcessState] = []
        processes = list(all_processes())
        # One whose parent ended while they were looked at is an orphan, only it was not yet said whose.
        parents = {process.pid for process in processes} - {this}
        for process in processes:
            children.setdefault(process.parent, []).append(process)
            if process.pid == self._pid or self._is_mine(process, adopted=anywhere or process.parent not in parents):
                waiting.append(process)
        found: dict[int, ProcessState] = {}
        while waiting:
            member = waiting.pop()
            if member.pid not in found:
                found[member.pid] = member
                self._seen[member.pid] = member.started_ticks
                waiting.extend(children.get(member.pid, ()))
        return list(found.values())

    def release(self) -> list[int]:
        """Reap those that have ended, after the child was reaped, and return the pids of those that live on."""
        alive: list[ProcessState] = []
        reaped = True
        while reaped:  # one that ends hands its own children on, perhaps after the look
            alive, reaped = [], False
            for orphan in _adopted():
                if _strays.get(orphan.pid) == orphan.started_ticks:
                    if orphan.ended:
                        _reap(orphan.pid)
                        _strays.pop(orphan.pid, None)
                elif orphan.pid != self._pid and self._is_mine(orphan, adopted=True):
                    if orphan.ended:
                        reaped = _reap(orphan.pid) or reaped
                    else:
                        alive.append(orphan)
        left = self.members() if alive else []
        _strays.update((one.pid, one.started_ticks) for one in (*alive, *left))  # also what has ended since
        return [one.pid for one in left if not one.ended]

    def _is_mine(self, process: ProcessState, *, adopted: bool) -> bool:
        return (
            process.group == self._pid
            or self._seen.get(process.pid) == process.started_ticks
            or (adopted and self._carries_mark(process.pid))
        )

    def _carries_mark(self, pid: int) -> bool:
        try:
            environment = _environment(pid)
        except OSError:  # it has ended, or is somebody else's
            return False
        name = MARK_NAME.encode() + b"="
        marks = [entry.removeprefix(name) for entry in environment.split(b"\0") if entry.startswith(name)]
        return any(self._own in mark.split(b"/") for mark in marks)


def _environment(pid: int) -> bytes:
    """Return a process's environment; in the midst of an exec, when there is none, wait for the new one."""
    path = PROC / str(pid) / "environ"
    for _ in range(_EXEC_TRIES):
        if environment := path.read_bytes():
            return environment
        if not _in_exec(pid):
            break
        time.sleep(_EXEC_WAIT_S)
    return path.read_bytes()  # again: the exec may have come to its end between the two looks


def _in_exec(pid: int) -> bool:
    """Return whether a process has its new memory, and no environment in it yet; a kernel thread and a zombie have neither."""
    fields = stat_fields(PROC / str(pid))
    return fields[_VSIZE] != b"0" and fields[_ENV_END] == b"0"


def _adopted() -> list[ProcessState]:
    """Return the children of this process's first thread, which orphans fall to, and perhaps others."""
    this = os.getpid()
    try:
        pids = (PROC / str(this) / "task" / str(this) / "children").read_bytes().split()
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return _children()
    return [state for pid in pids if (state := state_of(int(pid))) is not None]


@contextlib.contextmanager
def adopting_orphans(give_up_after_s: float = 5.0) -> Iterator[None]:
    """Be the subreaper of all descendants meanwhile; at the end, kill and reap every child that is left.

    To be left when no other thread of this process has children of its own: at the end they would be killed too.

    Args:
        give_up_after_s: How long to go on when something does not even die of SIGKILL.
    """
    adopt()
    try:
        yield
    finally:
        try:
            _end_children(time.monotonic() + give_up_after_s)
        finally:
            adopt_no_longer()


def reap_orphans() -> None:
    """Reap adopted descendants that have ended, so that a long batch does not collect zombies. Costs a look at ``/proc``.

    Called by the main thread, which orphans fall to and which must have no children of its own: a worker's are not looked at.
    """
    for child in _adopted():
        # Where the kernel does not say whose a child is, one that leads a group may be a worker's.
        if child.ended and (child.group != child.pid or _CHILDREN_BY_THREAD):
            _reap(child.pid)


def _end_children(give_up_at_s: float) -> None:
    while children := _children():
        for child in children:
            if child.ended:
                _reap(child.pid)
            else:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # set-user-ID programs are not ours
                    os.kill(child.pid, signal.SIGKILL)  # it is our child and not reaped: the pid is nobody else's
        if time.monotonic() > give_up_at_s:
            return
        if not all(child.ended for child in children):
            time.sleep(_WAIT_S)


def _children() -> list[ProcessState]:
    own = os.getpid()
    return [process for process in all_processes() if process.parent == own]


def _reap(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False
