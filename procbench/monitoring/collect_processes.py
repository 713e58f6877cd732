"""Processes: all of the machine's, and those that descend from one. One listing and one read each serve both for a sample.

Source: proc_pid_stat(5), proc_pid_io(5).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from procbench import linux
from procbench.cpu.cgroups import SYSTEM_ROOT, text_in
from procbench.cpu.processes import stat_words
from procbench.errors import InvalidInputError
from procbench.monitoring.collectors import Metric

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# Python's own allocator serves bytes of up to 512 with their header; a name and 22 words are fewer.
_PIECE_BYTES: Final = 512 - 33
_LEAST_LOST: Final = 50  # of which one part is worth a word
_FRESH_S: Final = 0.05  # two collectors of one sample share a look
_WORDS: Final = 22  # up to the memory; a stat's words behind the name, from 0:
_STATE, _PARENT, _USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM, _START, _MEMORY = 0, 1, 11, 12, 13, 14, 19, 21


class ProcessRow(NamedTuple):
    """One process at one moment.

    Attributes:
        state: One letter, as in :class:`procbench.cpu.processes.ProcessStat`.
        parent: Its parent's pid.
        cpu_ticks: CPU time that it used itself, clock ticks.
        children_ticks: CPU time that its children used that have ended and were waited for, clock ticks.
        started_ticks: When it started, clock ticks since boot: with its pid it is no other process.
        memory_pages: Its pages that are in memory; those that it shares with others count for each.
    """

    state: bytes
    parent: int
    cpu_ticks: int
    children_ticks: int
    started_ticks: int
    memory_pages: int


def parse_row(text: bytes) -> ProcessRow:
    """Read a process's ``stat``.

    Raises:
        ValueError: It is not in the kernel's form.
    """
    words = stat_words(text, _WORDS)
    if len(words) <= _MEMORY:
        raise ValueError(f"{len(words)} words behind the name, which are too few")
    return ProcessRow(
        words[_STATE],
        int(words[_PARENT]),
        int(words[_USER]) + int(words[_SYSTEM]),
        int(words[_CHILDREN_USER]) + int(words[_CHILDREN_SYSTEM]),
        int(words[_START]),
        int(words[_MEMORY]),
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen in one look at all processes.

    Attributes:
        at_s: When it began, seconds of the table's clock.
        rows: The processes, by pid.
        vanished: How many were listed, and had ended when they were to be read.
        hidden: How many were listed, and may not be read.
    """

    at_s: float
    rows: Mapping[int, ProcessRow]
    vanished: int
    hidden: int


class ProcessTable:
    """Looks at all processes, some 10 µs for each, and remembers the look for a moment. Thread-safe.

    Args:
        root: Where ``proc`` is found.
        clock: Tells the time in seconds.
    """

    def __init__(self, root: Path = SYSTEM_ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        self.proc = root / "proc"
        self._clock = clock
        self._lock = threading.Lock()
        self._latest: Look | None = None
        self._texts: dict[str, tuple[bytes, ProcessRow]] = {}

    def look(self) -> Look:
        """Return what there is now, or was a twentieth of a second ago.

        Raises:
            OSError: There is no ``/proc``, or no descriptor or memory is left.
        """
        with self._lock:
            now_s = self._clock()
            latest = self._latest
            if latest is None or not 0 <= now_s - latest.at_s < _FRESH_S:
                latest = self._latest = self._look(now_s)
            return latest

    def _look(self, now_s: float) -> Look:
        rows: dict[int, ProcessRow] = {}
        vanished = hidden = 0
        before, texts = self._texts, dict[str, tuple[bytes, ProcessRow]]()
        folder = os.open(self.proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in os.listdir(folder):  # noqa: PTH208 - a path object for each costs more than the look
                if not name.isdigit():
                    continue
                try:
                    text = read_in(folder, f"{name}/stat")
                    then = before.get(name)
                    # Most processes sleep from one look to the next, and say the same again.
                    texts[name] = read = then if then is not None and then[0] == text else (text, parse_row(text))
                    rows[int(name)] = read[1]
                except (FileNotFoundError, ProcessLookupError, NotADirectoryError, ValueError):
                    vanished += 1
                except PermissionError:
                    hidden += 1
        finally:
            os.close(folder)
        self._texts = texts
        return Look(now_s, rows, vanished, hidden)


def read_in(folder: int, name: str) -> bytes:
    """Return the beginning of a small file in an open folder.

    Raises:
        OSError: It cannot be opened or read.
    """
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(fd, _PIECE_BYTES)
    finally:
        os.close(fd)


class ProcessesCollector:
    """How many processes there are, how they stand, and what they use on average, the kernel's own threads among them.

    Args:
        table: Where they are looked up; one of its own by default.
    """

    name = "processes"
    metrics: ClassVar = {
        "count": Metric("processes", help="Processes, zombies included"),
        "running": Metric("processes", help="Processes whose first thread runs or could run"),
        "zombie": Metric("processes", help="Processes that have ended and were not waited for"),
        "vanished": Metric("processes", help="Processes that ended between being listed and being read"),
        "mean_cpu": Metric("share", help="Share of one CPU that a process used on average since the last sample"),
        "mean_memory": Metric("bytes", help="Memory that a process has on average, shared pages counted for each"),
    }

    def __init__(self, table: ProcessTable | None = None) -> None:
        self._table = table or ProcessTable()
        self._before: Look | None = None
        self._hidden = 0
        self._hides: str | None = None

    def collect(self) -> Mapping[str, float]:
        """Return the counts and means."""
        look = self._table.look()
        if self._before is None:
            self._hides = _hidepid(self._table.proc)
        before, self._before = self._before, look
        self._hidden = look.hidden
        states = [row.state for row in look.rows.values()]
        count = len(states)
        pages = sum(row.memory_pages for row in look.rows.values())
        return {
            "count": count,
            "running": states.count(b"R"),
            "zombie": states.count(b"Z"),
            "vanished": look.vanished,
            "mean_cpu": math.nan if before is None else _mean_cpu(before, look),
            "mean_memory": pages * _PAGE_BYTES / count if count else math.nan,
        }

    def reasons(self) -> Mapping[str, str]:
        """Return what makes the counts smaller than the truth."""
        if self._hides is not None:
            return dict.fromkeys(
                self.metrics, f"/proc is mounted with {self._hides}: others' processes are not counted"
            )
        if self._hidden:
            return dict.fromkeys(self.metrics, f"{self._hidden} processes may not be read by this user")
        return {}


class TreeCollector:
    """What the descendants of a process use together: of this one, the batch that runs.

    CPU time is that of the descendants that live, and of those that ended and were waited for. A descendant that outlives its
    parent goes to init, and is followed if it was seen before; what is never seen escapes, so the figures are a lower bound
    unless ``pid`` is this process and a subreaper (:func:`procbench.io.orphans.adopt`).

    Args:
        pid: The process above them, which is not among them; this one by default.
        table: Where they are looked up; one of its own by default.

    Raises:
        InvalidInputError: That can be no process's number.
    """

    name = "tree"
    metrics: ClassVar = {
        "processes": Metric("processes", help="Descendants that live"),
        "cpu": Metric("s", counter=True, help="CPU time of descendants", rate="CPUs"),
        "memory": Metric("bytes", help="Memory of descendants, shared pages counted for each"),
        "read": Metric("bytes", counter=True, help="Read from storage by descendants, and by the process above them"),
        "written": Metric(
            "bytes", counter=True, help="Written to storage by descendants, and by the process above them"
        ),
    }

    def __init__(self, pid: int | None = None, table: ProcessTable | None = None) -> None:
        if pid is not None and (isinstance(pid, bool) or not isinstance(pid, int) or pid < 1):
            raise InvalidInputError(f"a pid is a whole number above 0, and not {pid!r}")
        self._pid = os.getpid() if pid is None else pid
        self._table = table or ProcessTable()
        self._started: int | None = None
        self._seen: dict[int, int] = {}
        self._cpu, self._read, self._written = _Growing(), _Growing(), _Growing()
        self._unread = 0
        self._gone = False

    def collect(self) -> Mapping[str, float]:
        """Return what they use."""
        look = self._table.look()
        top = look.rows.get(self._pid)
        if self._started is None and top is not None:
            self._started = top.started_ticks
        self._gone = top is None or top.started_ticks != self._started
        members = self._members(look.rows)
        self._seen = {pid: row.started_ticks for pid, row in members.items()}
        if top is None or self._gone:
            return dict.fromkeys(self.metrics, math.nan)
        living = [row for row in members.values() if row.state not in (b"Z", b"X")]
        ticks = top.children_ticks + sum(row.cpu_ticks + row.children_ticks for row in members.values())
        read, written = self._storage([self._pid, *members])
        return {
            "processes": len(living),
            "cpu": self._cpu.at_least(ticks) * _TICK_S,
            "memory": sum(row.memory_pages for row in living) * _PAGE_BYTES,
            "read": self._read.at_least(read),
            "written": self._written.at_least(written),
        }

    def reasons(self) -> Mapping[str, str]:
        """Return why the figures are NaN, or a lower bound."""
        if self._gone:
            return dict.fromkeys(self.metrics, f"there is no process {self._pid} any more")
        found: dict[str, str] = {}
        if self._pid != os.getpid() or not linux.is_child_subreaper():
            why = "lower bound: a descendant that outlives its parent before it is seen escapes (needs a subreaper)"
            found = dict.fromkeys(self.metrics, why)
        if self._cpu.lost_much:
            found["cpu"] = "lower bound: descendants ended that nobody waited for, and some of their CPU time is lost"
        if self._unread:
            why = f"lower bound: what {self._unread} of them read and wrote may not be looked at"
            found.update(read=why, written=why)
        return found

    def _members(self, rows: Mapping[int, ProcessRow]) -> dict[int, ProcessRow]:
        children: dict[int, list[int]] = {}
        for pid, row in rows.items():
            children.setdefault(row.parent, []).append(pid)
        waiting = [] if self._gone else list(children.get(self._pid, ()))
        # One that outlived its parent has another now, and is known by its start.
        waiting += [pid for pid, started in self._seen.items() if pid in rows and rows[pid].started_ticks == started]
        found: dict[int, ProcessRow] = {}
        while waiting:
            pid = waiting.pop()
            if pid not in found and pid != self._pid:
                found[pid] = rows[pid]
                waiting.extend(children.get(pid, ()))
        return found

    def _storage(self, pids: list[int]) -> tuple[int, int]:
        """Return what they read from and wrote to storage, with what their ended children did."""
        self._unread = read = written = 0
        folder = os.open(self._table.proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for pid in pids:
                try:
                    words = read_in(folder, f"{pid}/io").split()
                    values = dict(zip(words[::2], words[1::2], strict=True))
                    read += int(values[b"read_bytes:"])
                    written += int(values[b"write_bytes:"])
                except PermissionError:
                    self._unread += 1
                except (OSError, ValueError, KeyError):  # it has ended meanwhile
                    continue
        finally:
            os.close(folder)
        return read, written


class _Growing:
    """A sum over processes that end meanwhile, made to grow.

    One that ends between two reads is in its parent's figure not yet, or in both for once; the next look puts that right. What is
    less a second time is lost, because nobody waited for whoever had it.

    Attributes:
        lost: What was lost.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._most = 0
        self._was_less = False

    @property
    def lost_much(self) -> bool:
        """Whether it is worth a word: among many short lives two looks in a row may each miss one that the next finds again."""
        return self.lost * _LEAST_LOST > self._most

    def at_least(self, total: int) -> int:
        """Return the sum with what was lost, or what it was before if that is more."""
        total += self.lost
        less = total < self._most
        if less and self._was_less:
            self.lost += self._most - total
            less = False
        self._was_less = less
        self._most = max(self._most, total)
        return self._most


def _mean_cpu(before: Look, look: Look) -> float:
    """Return the share of one CPU that a process used on average; one that is new used all its CPU time meanwhile."""
    interval_s = look.at_s - before.at_s
    if interval_s <= 0 or not look.rows:
        return math.nan
    ticks = 0
    for pid, row in look.rows.items():
        then = before.rows.get(pid)
        if then is row:  # what it says has not changed
            continue
        if then is not None and then.started_ticks == row.started_ticks:
            ticks += max(0, row.cpu_ticks - then.cpu_ticks)
        else:
            ticks += row.cpu_ticks
    return ticks * _TICK_S / interval_s / len(look.rows)


def _hidepid(proc: Path) -> str | None:
    """Return the mount option that hides others' processes; None where nothing does."""
    with contextlib.suppress(IndexError):
        for line in (text_in(proc / "self/mountinfo") or "").splitlines():
            before, _, after = line.partition(" - ")
            if before.split()[4] == "/proc" and after.startswith("proc "):
                for option in after.split()[-1].split(","):
                    if option.startswith("hidepid=") and option not in ("hidepid=0", "hidepid=off"):
                        return option
    return None
