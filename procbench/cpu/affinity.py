"""Pin running processes, keep them on the CPUs that suit their priority, and put back what was there before.

What is done to one process is in :mod:`procbench.cpu.pinning`; this remembers to whom it was done.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from procbench.cpu.balance import Choose, Move, Round
from procbench.cpu.load import CpuLoadMeter
from procbench.cpu.pinning import ThreadCpus, cpus_of, pin_threads, process_cpus, put_back
from procbench.cpu.placement import CpuSetLike, check_cpus, optimal_cpus
from procbench.cpu.priorities import Priority, check_priority
from procbench.cpu.processes import ProcessGuard, ProcessMark, read_stat
from procbench.cpu.topology import CpuTopology, read_topology
from procbench.errors import ClosedError, InvalidInputError, ProcessGoneError


@dataclass(frozen=True, slots=True)
class Pinned:
    """A process that was pinned, read back from the kernel.

    Attributes:
        pid: The process.
        asked: The CPUs that were asked for.
        in_force: The CPUs that all its threads have now; the same, as anything else is an error.
        previous: The CPUs that its main thread had until this call.
        threads: How many threads it had at the last look.
    """

    pid: int
    asked: frozenset[int]
    in_force: frozenset[int]
    previous: frozenset[int]
    threads: int


@dataclass(frozen=True, slots=True)
class AffinityStatistics:
    """What a manager has, and what it did since it was made.

    Attributes:
        managed: Processes that it looks after now.
        pinned: Those of them that it has pinned.
        moves_proposed: Moves that ``rebalance`` returned.
        moves_applied: Moves that it made.
        gone: Managed processes that ended before they were released.
        restored: Processes that got back what they had.
        errors: Moves and restorations that the kernel refused.
    """

    managed: int
    pinned: int
    moves_proposed: int
    moves_applied: int
    gone: int
    restored: int
    errors: int


@dataclass(slots=True)
class _Managed:
    """One process that a manager looks after."""

    mark: ProcessMark
    priority: Priority | None = None
    pinned: frozenset[int] | None = None
    before: dict[int, ThreadCpus] = field(default_factory=dict)
    cpu_ticks: int = 0  # its CPU time, and
    looked_s: float = 0.0  # when that was read, for its share until the next look


class _MeasuredLoads:
    """The load of each CPU since it was last asked; of a CPU whose counters stood still, what was measured before."""

    def __init__(self) -> None:
        self._meter = CpuLoadMeter()
        self._latest: dict[int, float] = {}

    def __call__(self) -> Mapping[int, float]:
        self._latest.update(self._meter.measure().per_cpu)
        return self._latest


class CpuAffinityManager:
    """Pin processes, and restore what they had when closed. Thread-safe; one lock, which its owner may take again.

    Between calls it holds no descriptor: each process is known by its pid, its start time and its pidfd's inode number, and
    a pidfd is opened only for as long as one process is acted on. A process that has ended drops out at the next
    ``rebalance``, ``statistics`` or call that names it, and whoever has its number then is left alone. The process that is
    forked from one that has a manager must not use it.

    Args:
        allowed: Returns the CPUs to choose from; None for those that this process has.
        topology: The machine; None to read it.
        loads: Returns the load of each CPU, 0 idle to 1 busy, measured since it was called last; None to read the kernel's
            counters, the first time now, at some 10 µs for each thread of the machine.
        choose: Which CPUs suit a class.
    """

    def __init__(
        self,
        *,
        allowed: Callable[[], frozenset[int]] | None = None,
        topology: CpuTopology | None = None,
        loads: Callable[[], Mapping[int, float]] | None = None,
        choose: Choose = optimal_cpus,
    ) -> None:
        self._read_allowed = allowed or self._own_cpus
        self._topology = topology or read_topology()
        self._loads = loads or _MeasuredLoads()
        self._choose = choose
        self._lock = threading.RLock()
        self._managed: dict[int, _Managed] = {}
        self._closed = False
        self._moves_proposed = self._moves_applied = self._gone = self._restored = self._errors = 0

    def __enter__(self) -> CpuAffinityManager:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def pin(self, pid: int, cpus: CpuSetLike) -> Pinned:
        """Pin a process with all its threads, all or nothing, and read every set back.

        Args:
            pid: The process; children that it has already keep their CPUs, later ones inherit these.
            cpus: Logical CPUs, by number or in the kernel's list format, such as ``0-3,8``.

        Raises:
            InvalidInputError: The set is empty, or names a CPU that does not exist, is not allowed, or that the kernel drops
                for this process; or the pid can be no process's.
            ProcessGoneError: There is no such process, or it ended meanwhile.
            PermissionDeniedError: It is another user's; the capability CAP_SYS_NICE is missing.
            UnsupportedError: Something else keeps on changing its CPUs.
            ClosedError: The manager was closed.
        """
        with self._lock:
            self._check_open()
            chosen = check_cpus(cpus, self._read_allowed())
            with self._guard(pid) as guard:
                return self._pin(guard, chosen)

    def set_priority(self, pid: int, priority: Priority) -> None:
        """Look after a process as one of this class; ``rebalance`` moves it. Its CPUs stay as they are until then.

        Raises:
            InvalidInputError: There is no such class, or the pid can be no process's.
            ProcessGoneError: There is no such process.
            ClosedError: The manager was closed.
        """
        check_priority(priority)
        with self._lock:
            self._check_open()
            with self._guard(pid) as guard:
                self._entry(guard).priority = priority

    def optimal_cpus(self, priority: Priority) -> frozenset[int]:
        """Return the CPUs that suit a class best now, by the load that was measured since the last look; never none.

        Raises:
            InvalidInputError: There is no such class, or no CPU is allowed.
        """
        check_priority(priority)
        with self._lock:
            allowed = self._read_allowed()
            return self._choose(priority, self._topology, allowed, self._loads()) & allowed

    def rebalance(self, *, apply: bool = False) -> tuple[Move, ...]:
        """Compare each process that has a class with the CPUs that suit it best, and return what should move.

        The load that a process causes itself is no reason for it to move, and a CPU that one process is sent to counts as
        loaded for the next.

        Args:
            apply: Make the moves too. What the kernel refuses is counted, and the move says why; a process that ends
                meanwhile is no move.

        Raises:
            ClosedError: The manager was closed.
        """
        with self._lock:
            self._check_open()
            looks = Round(self._choose, self._topology, self._read_allowed(), self._loads())
            moves = []
            for entry in list(self._managed.values()):
                try:
                    move = self._move_of(entry, looks)
                    if move is not None and apply:
                        move = self._make(entry, move)
                except ProcessGoneError:
                    self._drop(entry)
                    continue
                if move is not None:
                    moves.append(move)
            self._moves_proposed += len(moves)
            return tuple(moves)

    def release(self, pid: int) -> bool:
        """Look after a process no longer, and give each of its threads the CPUs that it had before the first pin.

        Threads born since get the main thread's, unless somebody gave them others. CPUs that are off by now are left out.

        Returns:
            Whether it was there to get them back; False when it has ended.

        Raises:
            InvalidInputError: This manager does not look after it.
            PermissionDeniedError: It became another user's and keeps its CPUs; the capability CAP_SYS_NICE is missing.
        """
        with self._lock:
            entry = self._managed.get(pid)
            if entry is None:
                raise InvalidInputError(f"process {pid} is not managed here; pin it or give it a class first")
            there, refused = self._restore(entry)
            if refused:
                raise refused[0]
            return there

    def statistics(self) -> AffinityStatistics:
        """Return what the manager has and did. Costs a look at each managed process."""
        with self._lock:
            self._drop_gone()
            return AffinityStatistics(
                managed=len(self._managed),
                pinned=sum(entry.pinned is not None for entry in self._managed.values()),
                moves_proposed=self._moves_proposed,
                moves_applied=self._moves_applied,
                gone=self._gone,
                restored=self._restored,
                errors=self._errors,
            )

    def close(self) -> None:
        """Restore every process that is still the same one; what the kernel refuses is counted. Harmless when called twice."""
        with self._lock:
            self._closed = True
            for entry in list(self._managed.values()):
                self._restore(entry)

    # --- one process ----------------------------------------------------------------------------------------------

    def _guard(self, pid: int) -> ProcessGuard:
        """Hold on to whoever has the number now, and forget a managed one that had it before."""
        try:
            guard = ProcessGuard(pid)
        except (ProcessGoneError, InvalidInputError):  # nobody's number by now, or a thread's
            if pid in self._managed:
                self._drop(self._managed[pid])
            raise
        entry = self._managed.get(pid)
        if entry is not None and not guard.mark.is_same(entry.mark):
            self._drop(entry)
        return guard

    def _entry(self, guard: ProcessGuard) -> _Managed:
        if guard.pid not in self._managed:
            ticks = read_stat(guard.pid).cpu_ticks
            self._managed[guard.pid] = _Managed(guard.mark, cpu_ticks=ticks, looked_s=time.monotonic())
        return self._managed[guard.pid]

    def _pin(self, guard: ProcessGuard, cpus: frozenset[int]) -> Pinned:
        entry = self._managed.get(guard.pid)
        before, threads = pin_threads(guard, cpus)
        entry = entry or self._entry(guard)
        for tid, had in before.items():
            known = entry.before.get(tid)
            if known is not None and known.started_ticks == had.started_ticks:
                continue  # what it had before the first pin counts
            if had.cpus != entry.pinned:  # else it was born since, and inherited
                entry.before[tid] = had
        entry.pinned = cpus
        return Pinned(guard.pid, cpus, cpus, before[guard.pid].cpus, threads)

    def _restore(self, entry: _Managed) -> tuple[bool, list[InvalidInputError | OSError]]:
        pid = entry.mark.process.pid
        try:
            with ProcessGuard(pid, entry.mark) as guard:
                refused = []
                if entry.pinned is not None:
                    refused = put_back(guard, entry.before, entry.pinned, self._read_allowed())
                    self._restored += not refused
                    self._errors += bool(refused)
                self._managed.pop(pid, None)
                return True, refused
        except ProcessGoneError:
            self._drop(entry)
            return False, []

    def _drop(self, entry: _Managed) -> None:
        if self._managed.pop(entry.mark.process.pid, None) is not None:
            self._gone += 1

    def _drop_gone(self) -> None:
        for entry in list(self._managed.values()):
            try:
                ProcessGuard(entry.mark.process.pid, entry.mark).close()
            except ProcessGoneError:
                self._drop(entry)

    # --- balance --------------------------------------------------------------------------------------------------

    def _move_of(self, entry: _Managed, looks: Round) -> Move | None:
        pid = entry.mark.process.pid
        with ProcessGuard(pid, entry.mark) as guard:
            if entry.priority is None:
                return None
            current = cpus_of(pid)
            own_load = self._own_load(entry)
            guard.check()  # so these were its own
        return None if current is None else looks.move(pid, entry.priority, current, own_load)

    def _own_load(self, entry: _Managed) -> float:
        """Return how much of one CPU a process had since the last look, 0 to 1."""
        ticks, now_s = read_stat(entry.mark.process.pid).cpu_ticks, time.monotonic()
        used_s = (ticks - entry.cpu_ticks) / os.sysconf("SC_CLK_TCK")
        passed_s = now_s - entry.looked_s
        entry.cpu_ticks, entry.looked_s = ticks, now_s
        return min(1.0, used_s / passed_s) if passed_s > 0 else 0.0

    def _make(self, entry: _Managed, move: Move) -> Move:
        refused = ""
        try:
            with ProcessGuard(move.pid, entry.mark) as guard:
                self._pin(guard, move.best)
            self._moves_applied += 1
        except ProcessGoneError:
            raise
        except (InvalidInputError, OSError) as error:
            self._errors += 1
            refused = str(error)
        return replace(move, applied=not refused, refused=refused)

    def _own_cpus(self) -> frozenset[int]:
        """Return the CPUs that this process has, or had before it was pinned through this manager."""
        mine = self._managed.get(os.getpid())
        pinned = mine is not None and mine.pinned is not None and os.getpid() in mine.before
        return mine.before[os.getpid()].cpus if mine is not None and pinned else process_cpus()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the affinity manager was closed; make a new one")
