"""A share of the CPU without a cgroup: process groups are stopped for part of each period, by the CPU time they really had.

One thread serves all limited groups. What a group may use is a bucket of CPU time that fills at its share and holds little
more than a period's worth, so that a group that slept does not run unlimited afterwards. At the start of each period the
group's CPU time is read and taken out of the bucket; it then runs for as long as what is left lasts at the rate it ran at
before, and is stopped by SIGSTOP for the rest. So the share *had* comes out right, whatever the threads, the neighbours
and the delays of this thread are.

A group whose owner dies is not left stopped: the kernel sends SIGHUP and SIGCONT to a group that is orphaned while one of
its members is stopped, setpgid(2).
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
from typing import Final

from procbench.cpu.processes import PROC, ProcessId
from procbench.errors import ClosedError, InvalidInputError, ProcessGoneError

PERIOD_S: Final = 0.08
"""How long a period is: some eight ticks of the kernel's CPU clock, and short enough for a person at a prompt."""

_STRAYS_EVERY_S: Final = 1.0  # members whose parent has ended are found by a look at all processes, which costs more
_SHORTEST_RUN_S: Final = 0.004
_BUCKET_PERIODS: Final = 2.0
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_STATE, _PARENT, _GROUP, _START = 0, 1, 2, 19  # places behind the command's name, proc_pid_stat(5)
_TIMES: Final = slice(11, 15)  # utime, stime, cutime, cstime: what reaped children used is with their parent


def descendants(pid: int) -> frozenset[int]:
    """Return a process, and what it and its children in turn started, as far as their parents still live.

    Source: ``/proc/<pid>/task/<tid>/children``, proc_tid_children(5), CONFIG_PROC_CHILDREN.
    """
    found = {pid}
    waiting = [pid]
    while waiting:
        with contextlib.suppress(OSError):
            for thread in (PROC / str(waiting.pop()) / "task").iterdir():
                with contextlib.suppress(OSError):
                    new = set(map(int, (thread / "children").read_bytes().split())) - found
                    found |= new
                    waiting.extend(new)
    return frozenset(found)


def _stat_of(pid: int) -> list[bytes]:
    """Return the fields behind the command's name; none when the process is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return []
    return text[text.rindex(b")") + 2 :].split()


def cpu_time_s(pids: frozenset[int]) -> float:
    """Return the CPU time of processes and of the children they reaped, in seconds; one that is gone counts nothing."""
    return sum(sum(map(int, _stat_of(pid)[_TIMES])) for pid in pids) * _TICK_S


class LimitedGroup:
    """One process group, or a process that leads none with its descendants, and the CPU time that it may still use.

    Args:
        process: The group's leader, or that process.
        share: CPUs that it may use on average.
        now_s: Now, on ``time.monotonic()``'s clock.

    Raises:
        ProcessGoneError: It is not there any more.
        InvalidInputError: This process is itself among those that would be stopped.
    """

    def __init__(self, process: ProcessId, share: float, now_s: float) -> None:
        self.process, self.share = process, share
        self.stopped = False
        try:
            self._leads = os.getpgid(process.pid) == process.pid
        except ProcessLookupError:
            raise ProcessGoneError(errno.ESRCH, f"there is no process {process.pid}") from None
        self._group = str(process.pid).encode()
        self._members: dict[int, tuple[int, int]] = {}  # pid: parent, ticks
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
        if not self._is_there():
            self.let_go()
            return False
        if now_s < self._period_ends_s:
            self._signal(signal.SIGSTOP)
            self.stopped = True
            self.due_s = self._period_ends_s
            return True
        self._period_ends_s = now_s + PERIOD_S
        run_s = self._plan(now_s)
        self.due_s = now_s + run_s if _SHORTEST_RUN_S <= run_s < PERIOD_S else self._period_ends_s
        if run_s >= _SHORTEST_RUN_S:
            self.let_go()
        elif not self.stopped:
            self._signal(signal.SIGSTOP)
            self.stopped = True
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

    def let_go(self) -> None:
        """Let it run, if it was stopped here."""
        if self.stopped:
            self._signal(signal.SIGCONT)
            self.stopped = False

    def _is_there(self) -> bool:
        fields = _stat_of(self.process.pid)
        return bool(fields) and int(fields[_START]) == self.process.started_ticks and fields[_STATE] not in b"ZX"

    def _signal(self, number: int) -> None:
        """Send to the whole group while its leader has its number, or else to each member that is still one."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            fields = _stat_of(self.process.pid)
            if self._leads and fields and int(fields[_START]) == self.process.started_ticks:
                os.killpg(self.process.pid, number)
                return
        pids = set(self._members) if self._leads else {*self._members, *descendants(self.process.pid)}
        for pid in pids:
            fields = _stat_of(pid)
            mine = fields[_GROUP] == self._group if fields and self._leads else bool(fields)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if mine and (pid != self.process.pid or int(fields[_START]) == self.process.started_ticks):
                    os.kill(pid, number)

    def _count(self, now_s: float) -> int:
        """Return the clock ticks that its members, and what has ended among them, used so far."""
        before = self._members
        pids = set(descendants(self.process.pid))
        if self._leads:
            for pid, (parent, _) in before.items():
                if parent not in before:
                    pids |= descendants(pid)
            if now_s >= self._strays_due_s:
                self._strays_due_s = now_s + _STRAYS_EVERY_S
                pids |= {int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()}
        self._members = {}
        for pid in pids:
            fields = _stat_of(pid)
            if fields and (not self._leads or fields[_GROUP] == self._group):
                self._members[pid] = (int(fields[_PARENT]), sum(map(int, fields[_TIMES])))
        for pid in before.keys() - self._members.keys():
            parent, ticks = before[pid]
            if parent not in before and pid != self.process.pid:
                self._lost_ticks += ticks  # reaped by somebody outside the group, whose count it went into
        return self._lost_ticks + sum(ticks for _, ticks in self._members.values())


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
        self.owner = os.getpid()

    def push(self, group: LimitedGroup) -> None:
        heapq.heappush(self.due, (group.due_s, next(self.numbers), group))

    def close(self) -> None:
        """Let every group go and end the thread; a process that was forked from the owner leaves the groups alone."""
        if os.getpid() != self.owner:
            return
        with self.changed:
            self.closed = True
            for group in self.groups.values():
                group.let_go()
            self.groups.clear()
            self.due.clear()
            self.changed.notify_all()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()


def _serve(state: _State) -> None:
    """Stop and continue what is due, until closed."""
    with state.changed:
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


class DutyCycler:
    """Keeps process groups to their shares of the CPU by SIGSTOP and SIGCONT, all of them by one thread.

    The thread starts with the first group. Whatever happens to this object, nothing stays stopped: it lets go of every group
    when it is closed, forgotten, or the interpreter ends. Any thread may call it.
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
        """
        state = self._state
        group = LimitedGroup(process, share, time.monotonic())
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
