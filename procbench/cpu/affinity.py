"""Pin running processes, keep them on the CPUs that suit their priority, and put back what was there before.

What is done to one process is in :mod:`procbench.cpu.pinning`, and to whom it was done in :mod:`procbench.cpu.managed`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from procbench.cpu.balance import Choose, Move, Round
from procbench.cpu.load import CpuLoadMeter
from procbench.cpu.managed import ManagedProcess, ManagedProcesses, put_back_forgotten
from procbench.cpu.pinning import cpus_of
from procbench.cpu.placement import CpuSetLike, check_cpus, optimal_cpus
from procbench.cpu.priorities import Priority, check_priority
from procbench.cpu.processes import ProcessGuard
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

    Close it, or use it in a ``with`` block. What a forgotten one changed is put back too, with a ResourceWarning: when it is
    collected, or at the interpreter's end where it lives that long, as with ``tempfile.TemporaryDirectory``. So no pin lasts
    longer than its manager; what shall is for taskset(1). A process that is killed, or ends by ``os._exit``, puts nothing
    back, nor does one that was forked from the manager's.

    Args:
        allowed: Returns the CPUs to choose from; None for those that this process has.
        topology: The machine; None to read it.
        loads: Returns the load of each CPU, 0 idle to 1 busy, measured since it was called last; None to read the kernel's
            counters, the first time now, at some tens of microseconds for each thread of the machine.
        choose: Which CPUs suit a class.

    Raises:
        OSError: No ``loads`` are given, and the kernel's counters cannot be read.

    Source: sched_setaffinity(2), pidfd_open(2); that inode numbers are unique, Linux 6.9.
    """

    def __init__(
        self,
        *,
        allowed: Callable[[], frozenset[int]] | None = None,
        topology: CpuTopology | None = None,
        loads: Callable[[], Mapping[int, float]] | None = None,
        choose: Choose = optimal_cpus,
    ) -> None:
        self._managed = ManagedProcesses()
        weakref.finalize(self, put_back_forgotten, self._managed, os.getpid())
        self._read_allowed = allowed or self._managed.own_cpus
        self._topology = topology or read_topology()
        self._loads = loads or _MeasuredLoads()
        self._choose = choose
        self._lock = threading.RLock()
        self._closed = False
        self._moves_proposed = self._moves_applied = self._errors = 0

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
            with self._managed.hold(pid) as guard:
                previous, threads = self._managed.pin(guard, chosen)
                return Pinned(pid, chosen, chosen, previous, threads)

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
            with self._managed.hold(pid) as guard:
                self._managed.entry(guard).priority = priority

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
            for entry in list(self._managed.by_pid.values()):
                try:
                    move = self._move_of(entry, looks)
                    if move is not None and apply:
                        move = self._make(entry, move)
                except ProcessGoneError:
                    self._managed.drop(entry)
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
            InvalidInputError: This manager does not look after it; or the kernel drops the CPUs that a thread of it had, and
                those of this process too.
            PermissionDeniedError: It became another user's and keeps its CPUs; the capability CAP_SYS_NICE is missing.
            OSError: It cannot be told who has the number now: no descriptor or memory is left.
        """
        with self._lock:
            entry = self._managed.by_pid.get(pid)
            if entry is None:
                raise InvalidInputError(f"process {pid} is not managed here; pin it or give it a class first")
            there, refused = self._managed.restore(entry, self._read_allowed)
            if refused:
                raise refused[0]
            return there

    def statistics(self) -> AffinityStatistics:
        """Return what the manager has and did. Costs a look at each managed process."""
        with self._lock:
            self._managed.drop_gone()
            return AffinityStatistics(
                managed=len(self._managed.by_pid),
                pinned=sum(entry.pinned is not None for entry in self._managed.by_pid.values()),
                moves_proposed=self._moves_proposed,
                moves_applied=self._moves_applied,
                gone=self._managed.gone,
                restored=self._managed.restored,
                errors=self._errors + self._managed.errors,
            )

    def close(self) -> None:
        """Restore every process that is still the same one; what the kernel refuses is counted. Harmless when called twice."""
        with self._lock:
            self._closed = True
            for entry in list(self._managed.by_pid.values()):
                self._managed.restore(entry, self._read_allowed)

    # --- one process ----------------------------------------------------------------------------------------------

    def _move_of(self, entry: ManagedProcess, looks: Round) -> Move | None:
        pid = entry.mark.process.pid
        with ProcessGuard(pid, entry.mark) as guard:
            if entry.priority is None:
                return None
            current = cpus_of(pid)
            own_load = entry.own_load()
            guard.check()  # so these were its own
        return None if current is None else looks.move(pid, entry.priority, current, own_load)

    def _make(self, entry: ManagedProcess, move: Move) -> Move:
        refused = ""
        try:
            with ProcessGuard(move.pid, entry.mark) as guard:
                self._managed.pin(guard, move.best)
            self._moves_applied += 1
        except ProcessGoneError:
            raise
        except (InvalidInputError, OSError) as error:
            self._errors += 1
            refused = str(error)
        return replace(move, applied=not refused, refused=refused)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the affinity manager was closed; make a new one")
