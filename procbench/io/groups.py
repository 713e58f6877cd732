"""Process groups: signal all of one, and see who in it still lives."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

from procbench.cpu.processes import PROC, stat_fields

_START = 19  # place behind the command's name, proc_pid_stat(5)


def signal_group(group: int, number: int) -> None:
    """Send a signal to every process of the group; passed over is what is gone, or may not be signalled (set-user-id)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


class ProcessState(NamedTuple):
    """What ``/proc`` says of a process.

    Attributes:
        pid: Its id.
        ended: Whether it is a zombie, or on its way out.
        parent: Its parent's id.
        group: Its process group's id.
        started_ticks: When it started, clock ticks since boot: with ``pid`` it is no other process.
    """

    pid: int
    ended: bool
    parent: int
    group: int
    started_ticks: int


def state_of(pid: int) -> ProcessState | None:
    """Return how a process stands; ``None`` if there is none, or it may not be seen."""
    try:
        fields = stat_fields(PROC / str(pid))
    except OSError:
        return None
    return ProcessState(pid, fields[0] in (b"Z", b"X"), int(fields[1]), int(fields[2]), int(fields[_START]))


def all_processes() -> Iterator[ProcessState]:
    """Yield every process that this one may see; one that ends meanwhile is left out. Costs some 10 µs for each.

    Nothing is yielded where ``/proc`` is not there: who ends children must not fail for it.
    """
    try:
        names = os.listdir(PROC)  # noqa: PTH208 - a path object for each of them costs more than the look
    except OSError:
        return
    for name in names:
        if name.isdigit() and (state := state_of(int(name))) is not None:
            yield state


def living_members(group: int) -> list[int]:
    """Return the pids in a process group that are more than a zombie.

    Asked of ``/proc`` instead of by ``kill(-group, 0)``, which counts zombies, and in a container whose first process
    does not reap, a zombie stays for good.
    """
    return [process.pid for process in all_processes() if process.group == group and not process.ended]


def descendants(pid: int) -> Iterator[ProcessState]:
    """Yield the living descendants of a process. Costs a look at every process, and knows none whose parents are gone."""
    children: dict[int, list[ProcessState]] = {}
    for process in all_processes():
        children.setdefault(process.parent, []).append(process)
    waiting = children.pop(pid, [])
    while waiting:
        process = waiting.pop()
        waiting.extend(children.pop(process.pid, ()))
        if not process.ended:
            yield process


def strayed_from(group: int) -> list[ProcessState]:
    """Return the living descendants of a group's leader that have left the group."""
    return [process for process in descendants(group) if process.group != group]


def lives(process: ProcessState) -> bool:
    """Return whether that very process is still there, and more than a zombie."""
    now = state_of(process.pid)
    return now is not None and not now.ended and now.started_ticks == process.started_ticks


def signal_process(process: ProcessState, number: int) -> None:
    """Send a signal to that very process; one that is gone, or that may not be signalled, is passed over."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = state_of(process.pid)
        if now is not None and now.started_ticks == process.started_ticks:  # so the pidfd is that one's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)
