"""A share of the CPU without a cgroup: process groups are stopped for part of each period, by the CPU time they really had.

One thread serves all limited groups. What a group may use is a bucket of CPU time that fills at its share and holds little
more than a period's worth, so that a group that slept does not run unlimited afterwards. At the start of each period the
group's CPU time is read and taken out of the bucket; it then runs for as long as what is left lasts at the rate it ran at
before, and is stopped by SIGSTOP for the rest. So the share *had* comes out right, whatever the threads, the neighbours
and the delays of this thread are.

Without a descriptor to read ``/proc`` with, nothing can be told apart from a later process with its number. Then nothing is
stopped, what is stopped goes on, and the time used meanwhile comes out of the bucket once it can be read again.

When the owner is killed, a :mod:`~procbench.cpu.guardian` lets the stopped groups go. Where none could be started, only the
kernel is left, which sends SIGHUP and SIGCONT to a group that is orphaned while one of its members is stopped, setpgid(2):
where the process that adopts its leader is of another session. Elsewhere it stays stopped.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import os
import signal
import threading
import time
import weakref
from typing import Final, NamedTuple

from procbench.cpu.guardian import Guardian
from procbench.cpu.processes import PROC, ProcessId, is_there, stat_fields
from procbench.errors import ClosedError, InvalidInputError, ProcessGoneError

PERIOD_S: Final = 0.08
"""How long a period is: some eight ticks of the kernel's CPU clock, and short enough for a person at a prompt."""

_STRAYS_EVERY_S: Final = 1.0  # members whose parent has ended are found by a look at all processes, which costs more
_SHORTEST_RUN_S: Final = 0.004
_BUCKET_PERIODS: Final = 2.0
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PARENT, _GROUP, _START = 1, 2, 19  # places behind the command's name, proc_pid_stat(5)
_NOT_THERE: Final = (FileNotFoundError, ProcessLookupError, PermissionError)  # the last one where /proc hides it
_TIMES: Final = slice(11, 15)  # utime, stime, cutime, cstime: what reaped children used is with their parent


def descendants(pid: int) -> frozenset[int]:
    """Return a process, and what it and its children in turn started, as far as their parents still live.

    Raises:
        OSError: ``/proc`` cannot be read: no descriptor or memory is left.

    Source: ``/proc/<pid>/task/<tid>/children``, proc_tid_children(5), CONFIG_PROC_CHILDREN.
    """
    found = {pid}
    waiting = [pid]
    while waiting:
        with contextlib.suppress(*_NOT_THERE):
            for thread in (PROC / str(waiting.pop()) / "task").iterdir():
                with contextlib.suppress(*_NOT_THERE):
                    new = set(map(int, (thread / "children").read_bytes().split())) - found
                    found |= new
                    waiting.extend(new)
    return frozenset(found)


def _stat_of(pid: int) -> list[bytes]:
    """Return the fields behind the command's name; none when the process is gone; raise OSError when it cannot be told."""
    try:
        return stat_fields(PROC / str(pid))
    except _NOT_THERE:
        return []


def cpu_time_s(pids: frozenset[int]) -> float:
    """Return the CPU time of processes and of the children they reaped, in seconds; one that is gone counts nothing.

    Raises:
        OSError: ``/proc`` cannot be read: no descriptor or memory is left.
    """
    return sum(sum(map(int, _stat_of(pid)[_TIMES])) for pid in pids) * _TICK_S


class _Member(NamedTuple):
    parent: int
    started_ticks: int
    ticks: int  # CPU time that it had used, with what it had reaped


class LimitedGroup:
    """One process group, or a process that leads none with its descendants, and the CPU time that it may still use.

    Args:
        process: The group's leader, or that process.
        share: CPUs that it may use on average.
        now_s: Now, on ``time.monotonic()``'s clock.
        guardian: Who is told what is stopped.

    Raises:
        ProcessGoneError: It is not there any more.
        InvalidInputError: This process is itself among those that would be stopped.
        OSError: ``/proc`` cannot be read: no descriptor or memory is left.
    """

    def __init__(self, process: ProcessId, share: float, now_s: float, guardian: Guardian | None = None) -> None:
        self.process, self.share = process, share
        self._guardian = guardian or Guardian()
        self._notes: list[int] = []
        self._stopped_ticks: int | None = None  # when the group as a whole was stopped, on the clock of start times
        self._stopped: set[ProcessId] = set()  # where no group is led: who was stopped
        try:
            self._leads = os.getpgid(process.pid) == process.pid
        except ProcessLookupError:
            raise ProcessGoneError(errno.ESRCH, f"there is no process {process.pid}") from None
        self._group = str(process.pid).encode()
        self._members: dict[int, _Member] = {}
        self._lost_ticks = 0
        self._strays_due_s = now_s + _STRAYS_EVERY_S
        self._first_ticks = 0
        # A process that was only just started has no descendants to look for.
        fresh = sum(map(int, _stat_of(process.pid)[_TIMES])) <= 1
        self._first_ticks = 0 if fresh else self._count(now_s)
        if os.getpid() in {process.pid, *self._members} or (self._leads and os.getpgrp() == process.pid):
            raise InvalidInputError(
                f"stopping process {process.pid} would stop this one too; limit its children instead"
            )
        self._began_s = self._planned_s = now_s
        self._used_s = 0.0
        self._bucket_s = share * PERIOD_S
        self._rate = 1.0  # CPUs that it uses while it runs
        self._run_s = min(self._bucket_s, PERIOD_S)
        self.due_s = now_s + self._run_s
        self._period_ends_s = now_s + PERIOD_S

    def share_had(self, now_s: float) -> float:
        """Return the CPUs that it used on average since it was limited."""
        used_s = (self._count(now_s) - self._first_ticks) * _TICK_S
        return max(used_s, 0.0) / max(now_s - self._began_s, _TICK_S)

    def act(self, now_s: float) -> bool:
        """Stop it or let it go on, whichever is due, and set ``due_s``; return False when its leader has ended."""
        try:
            return self._act(now_s)
        except OSError:  # what cannot be looked at may be somebody else by now, and is not stopped
            self.let_go()
            self.due_s = self._period_ends_s = now_s + PERIOD_S
            return True

    def _act(self, now_s: float) -> bool:
        if not is_there(self.process):
            self.let_go()
            return False
        if now_s < self._period_ends_s:
            self._stop()
            self.due_s = self._period_ends_s
            return True
        self._period_ends_s = now_s + PERIOD_S
        run_s = self._plan(now_s)
        self.due_s = now_s + run_s if _SHORTEST_RUN_S <= run_s < PERIOD_S else self._period_ends_s
        if run_s >= _SHORTEST_RUN_S:
            self.let_go()
        else:
            self._stop()  # stopped or not: somebody may have sent it SIGCONT
        return True

    def _plan(self, now_s: float) -> float:
        """Return for how many seconds of the period that begins it may run."""
        used_s = (self._count(now_s) - self._first_ticks) * _TICK_S
        spent_s, self._used_s = used_s - self._used_s, used_s
        if self._run_s >= _SHORTEST_RUN_S and spent_s > 0:
            # Smoothed, because the kernel counts in ticks that are not much shorter than a run.
            self._rate += 0.25 * (spent_s / self._run_s - self._rate)
        filled_s = self._bucket_s + self.share * (now_s - self._planned_s) - spent_s
        self._bucket_s = min(filled_s, _BUCKET_PERIODS * self.share * PERIOD_S)
        self._planned_s = now_s
        run_s = min(self._bucket_s / max(self._rate, 0.05), PERIOD_S)
        self._run_s = run_s if run_s >= _SHORTEST_RUN_S else 0.0
        return self._run_s

    def _stop(self) -> None:
        """Stop the whole group, or the process and its descendants, each of which is looked at first."""
        if self._leads:
            if not self._notes:
                self._notes.append(self._guardian.note(-self.process.pid, self.process.started_ticks))
            self._stopped_ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) / _TICK_S)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGSTOP)
            return
        known = {self.process, *(ProcessId(pid, one.started_ticks) for pid, one in self._members.items())}
        seen: set[int] = set()
        while new := ({one.pid for one in known} | descendants(self.process.pid)) - seen:
            seen |= new  # one that has not been stopped yet may go on to start others
            for pid in new:
                fields = _stat_of(pid)
                one = ProcessId(pid, int(fields[_START])) if fields else None
                if one is not None and (one in known or pid not in {other.pid for other in known}):
                    if one not in self._stopped:
                        self._notes.append(self._guardian.note(*one))
                        self._stopped.add(one)
                    _send(pid, signal.SIGSTOP)

    def let_go(self) -> None:
        """Let run what was stopped here, and nothing else. Raises nothing."""
        if self._stopped_ticks is not None:
            self._let_group_go(self._stopped_ticks)
            self._stopped_ticks = None
        for one in self._stopped:
            try:
                mine = is_there(one)
            except OSError:
                mine = True  # SIGCONT harms nobody who was not stopped; what is left stopped stays so for good
            if mine:
                _send(one.pid, signal.SIGCONT)
        self._stopped.clear()
        while self._notes:
            self._guardian.strike_out(self._notes.pop())

    def _let_group_go(self, stopped_ticks: int) -> None:
        """Send SIGCONT to the group, whose number is nobody else's while its leader has it or a member is in it."""
        group = self.process.pid
        try:
            fields = _stat_of(group)
            if not fields:
                # The leader was reaped by somebody else. A group that took its number later has no older member.
                for pid in (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()):
                    one = _stat_of(pid)
                    if one and one[_GROUP] == self._group and int(one[_START]) <= stopped_ticks:
                        _send(pid, signal.SIGCONT)
                return
            mine = int(fields[_START]) == self.process.started_ticks
        except OSError:
            mine = True
        if mine:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGCONT)

    def _count(self, now_s: float) -> int:
        """Return the clock ticks that its members, and what has ended among them, used so far."""
        before = self._members
        pids = set(descendants(self.process.pid))
        if self._leads:
            for pid, one in before.items():
                if one.parent not in before:
                    pids |= descendants(pid)
            if now_s >= self._strays_due_s:
                self._strays_due_s = now_s + _STRAYS_EVERY_S
                pids |= {int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()}
        members: dict[int, _Member] = {}
        for pid in pids:
            fields = _stat_of(pid)
            if fields and (not self._leads or fields[_GROUP] == self._group):
                members[pid] = _Member(int(fields[_PARENT]), int(fields[_START]), sum(map(int, fields[_TIMES])))
        self._members = members  # only now: where /proc could not be read, what was known stays
        for pid in before.keys() - members.keys():
            if before[pid].parent not in before and pid != self.process.pid:
                self._lost_ticks += before[pid].ticks  # reaped by somebody outside the group, whose count it went into
        return self._lost_ticks + sum(one.ticks for one in members.values())


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


class _State:
    """What the thread and its owner share; the thread keeps only this, so that a forgotten owner can go."""

    def __init__(self) -> None:
        self.changed = (
            threading.Condition()
        )  # its lock is reentrant: a garbage collection may close in the midst of a call
        self.groups: dict[int, LimitedGroup] = {}
        self.due: list[tuple[float, int, LimitedGroup]] = []
        self.numbers = itertools.count()
        self.closed = False
        self.thread: threading.Thread | None = None
        self.guardian = Guardian()
        self.owner = os.getpid()

    def push(self, group: LimitedGroup) -> None:
        heapq.heappush(self.due, (group.due_s, next(self.numbers), group))

    def close(self) -> None:
        """Let every group go and end the thread; a process that was forked from the owner leaves the groups alone."""
        if os.getpid() != self.owner:
            return
        with self.changed:
            self.closed = True
            if self.thread is threading.current_thread():
                return  # a garbage collection, perhaps just before a SIGSTOP: the thread lets go of all as it ends
            for group in self.groups.values():
                group.let_go()
            self.groups.clear()
            self.due.clear()
            self.changed.notify_all()
        if self.thread is not None:
            self.thread.join()


def _serve(state: _State) -> None:
    """Stop and continue what is due, until closed; nothing stays stopped, however it ends."""
    state.guardian.open()
    with contextlib.closing(state.guardian), state.changed:
        try:
            while not state.closed:
                if not state.due:
                    state.changed.wait()
                    continue
                left_s = state.due[0][0] - time.monotonic()
                if left_s > 0:
                    state.changed.wait(left_s)
                    continue
                group = heapq.heappop(state.due)[2]
                if state.groups.get(group.process.pid) is not group:
                    continue  # it was removed meanwhile
                if group.act(time.monotonic()):
                    state.push(group)
                else:
                    del state.groups[group.process.pid]
        finally:
            for group in state.groups.values():
                group.let_go()
            state.groups.clear()


class DutyCycler:
    """Keeps process groups to their shares of the CPU by SIGSTOP and SIGCONT, all of them by one thread.

    The thread and its guardian, a small shell, start with the first group. Whatever happens, nothing stays stopped: every
    group is let go when this object is closed or forgotten, when the interpreter ends, and when it is killed. Any thread may
    call it.
    """

    def __init__(self) -> None:
        self._state = _State()
        self._finalizer = weakref.finalize(self, self._state.close)

    def add(self, process: ProcessId, share: float) -> None:
        """Limit the group that a process leads, or, where it leads none, the process and its descendants.

        Descendants that left the group are not stopped. Costs some 50 µs.

        Raises:
            ProcessGoneError: There is no such process any more.
            InvalidInputError: This process is itself among those that would be stopped.
            ClosedError: This was closed.
            OSError: ``/proc`` cannot be read: no descriptor or memory is left.
        """
        state = self._state
        group = LimitedGroup(process, share, time.monotonic(), state.guardian)
        with state.changed:
            if state.closed:
                raise ClosedError("this limiter was closed; make a new one")
            if (before := state.groups.get(process.pid)) is not None:
                before.let_go()
            state.groups[process.pid] = group
            state.push(group)
            if state.thread is None:
                state.thread = threading.Thread(target=_serve, args=(state,), name="procbench-duty", daemon=True)
                state.thread.start()
            elif state.due[0][2] is group:
                state.changed.notify()

    def remove(self, pid: int) -> None:
        """Let a group run as it will; one that is not limited is left as it is."""
        with self._state.changed:
            group = self._state.groups.pop(pid, None)
            if group is not None:
                group.let_go()

    def share_had(self, pid: int) -> float | None:
        """Return the CPUs that a limited group used on average so far; ``None`` for one that is not limited."""
        with self._state.changed:
            group = self._state.groups.get(pid)
            return None if group is None else group.share_had(time.monotonic())

    def close(self) -> None:
        """Let every group go and end the thread. Closing again does nothing."""
        self._finalizer()
