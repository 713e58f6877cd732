"""What is lent and what is idle, kind by kind, and the way of each thing from one borrower to the next or to its end."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import warnings
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from procbench.errors import ClosedError, DescriptorsInUseError, StaleDescriptorError
from procbench.io.budget import DescriptorBudget
from procbench.io.fd_handle import NAMES, Loan, said
from procbench.io.fd_held import ITS_OWN, KINDS, NOT_OPEN, Held, Kind


@dataclass(frozen=True, slots=True)
class KindStatistics:
    """What became of one kind; a pipe counts once, not once for each end. ``opened - closed == in_use + idle``.

    Attributes:
        opened: Had from the kernel.
        reused: Lent again instead, or shared.
        closed: Really closed.
        in_use: Of which a handle is out.
        idle: Kept for the next.
        leaked: Handles that were forgotten instead of closed.
    """

    opened: int
    reused: int
    closed: int
    in_use: int
    idle: int
    leaked: int


class FdPool:
    """What is idle of one kind, and the kind's counters. Not thread-safe: its manager's lock guards it.

    Args:
        kind: What it keeps.
        max_idle: Most that it keeps.
    """

    def __init__(self, kind: Kind, max_idle: int) -> None:
        self.kind: Kind = kind
        self.max_idle = max_idle
        self.opened = self.reused = self.closed = self.in_use = self.leaked = 0
        self._idle: deque[Held] = deque()  # the one that came back last is at the right

    def keep(self, held: Held) -> bool:
        """Put one aside for the next borrower, and return whether there was room."""
        if len(self._idle) >= self.max_idle:
            return False
        held.idle_since_s = time.monotonic()
        self._idle.append(held)
        return True

    def take(self, key: Hashable) -> Held | None:
        """Return the one that came back last of those with this key, which is idle no more."""
        for held in reversed(self._idle):
            if held.key == key:
                self._idle.remove(held)
                return held
        return None

    def take_idle(self, idle_s: float) -> list[Held]:
        """Return those that have been idle for at least so long, which the pool has no more."""
        now_s = time.monotonic()
        taken = []
        while self._idle and now_s - self._idle[0].idle_since_s >= idle_s:
            taken.append(self._idle.popleft())
        return taken

    def statistics(self) -> KindStatistics:
        """Return the counters."""
        return KindStatistics(self.opened, self.reused, self.closed, self.in_use, len(self._idle), self.leaked)


class FdPools:
    """The pools of a manager, what is out, and the permits for all of it. Thread-safe.

    Args:
        budget: Where the permits go that things were opened with.
        reuse: The kinds that are kept for the next.
        max_idle: Most that are kept of each kind.

    Attributes:
        out: The loans, by generation; handles write themselves down here.
        generations: Where they have theirs from.
    """

    def __init__(self, budget: DescriptorBudget, reuse: frozenset[Kind], max_idle: int) -> None:
        self.budget = budget
        self.reuse = reuse
        self.out: dict[int, Loan] = {}
        self.generations = itertools.count(1)
        # Reentrant, for signal handlers. The budget is called under it, and never calls anybody under its own lock.
        self._lock = threading.RLock()
        self._pools: dict[Kind, FdPool] = {kind: FdPool(kind, max_idle) for kind in KINDS}
        self._forgotten: deque[tuple[Held, int, int]] = deque()
        self._null: Held | None = None  # the one that all who need it share
        self._closed = False
        budget.add_keeper(self)

    def lend_again(self, kind: Kind, key: Hashable) -> Held | None:
        """Return an idle one, for the caller alone, or the shared one; ``None`` where one must be opened.

        Raises:
            ClosedError: They were closed.
        """
        if key is ITS_OWN:
            self._check_open()
            return None
        pool = self._pools[kind]
        while True:
            with self._locked():
                self._check_open()
                shared = self._null if kind == "null" else None
                held = shared or pool.take(key)
                if held is None:
                    return None
                if held.is_whole():
                    pool.reused += 1
                    if held is shared:
                        held.users += 1
                    else:
                        self._lend(held)
                    return held
                self._null = None if held is shared else self._null
            if held is not shared:  # somebody closed its number; who shares it will find out
                self._close(held)

    def lend(self, held: Held) -> None:
        """Count one that was opened for the caller; its permits are ours from now on.

        Raises:
            ClosedError: They were closed; nothing was counted.
        """
        with self._lock:
            self._check_open()
            self._pools[held.kind].opened += 1
            self._lend(held)
        if self._forgotten:
            self._sweep()

    def take_back(self, held: Held, end: int, generation: int) -> None:
        """End a loan, and keep what it was of or close it.

        Raises:
            StaleDescriptorError: The number was closed by somebody else; the kernel was told nothing.
            OSError: What close(2) says of a file that was written to.
        """
        with self._lock:
            last = self._part(held, generation)
            mine = not last and self._leave(held, end)
        if last:
            mine = self._close(held, in_use=1) if held.key is ITS_OWN else self._settle(held, end)
        if self._forgotten:
            self._sweep()
        if not mine:
            name = NAMES[held.kind][end]
            raise StaleDescriptorError(
                f"the number of the {name} was closed by somebody else; close the handle instead"
            )

    def take_back_forgotten(self, held: Held, end: int, generation: int) -> None:
        """Close what a handle stood for that is being collected, now or as soon as the lock is free; never waits."""
        *_, calls = self.out.get(generation, (None,))
        self._forgotten.append((held, end, generation))
        self._sweep()
        taken = f"; it was taken at {said(calls)}" if calls else ""
        message = f"a {held.kind} descriptor ({NAMES[held.kind][end]}) was forgotten; close it{taken}"
        warnings.warn(message, ResourceWarning, stacklevel=3)

    def clean_up(self, idle_s: float) -> int:
        """Close what has been idle for at least so long, and return how many that was."""
        with self._locked():
            idle = [held for pool in self._pools.values() for held in pool.take_idle(idle_s)]
        for held in idle:
            self._close(held)
        return len(idle)

    def statistics(self) -> dict[Kind, KindStatistics]:
        """Return the counters of each kind."""
        with self._locked():
            return {kind: pool.statistics() for kind, pool in self._pools.items()}

    def close(self) -> None:
        """Close what is idle; nothing is lent afterwards.

        Raises:
            DescriptorsInUseError: Handles are out; nothing has changed.
        """
        with self._locked():
            if any(pool.in_use for pool in self._pools.values()):
                out = ", ".join(f"{kind} {fd}" for kind, fd, *_ in list(self.out.values()))
                raise DescriptorsInUseError(f"descriptors are out ({out}); close their handles first")
            self._closed = True
        self.clean_up(0)

    def __del__(self) -> None:
        for pool in self._pools.values():  # the manager and every handle are gone, so nobody else is here
            for held in pool.take_idle(0):
                held.close()
                self.budget.let_go(held.permits)

    def _lend(self, held: Held) -> None:
        held.users = len(held.fds)
        self._pools[held.kind].in_use += 1
        if held.kind == "null" and held.key is not ITS_OWN and self._null is None:
            self._null = held

    def _part(self, held: Held, generation: int) -> bool:
        """End a loan, under the lock; return whether its handle was the last one."""
        self.out.pop(generation, None)
        held.users -= 1
        last = not held.users  # no call stands between; a garbage collection in it may end the loan of the other end
        if last and held is self._null:
            self._null = None
        return last

    def _leave(self, held: Held, end: int) -> bool:
        """Leave what others still use, under the lock; return whether the number is still ours."""
        if held.kind == "pipe":  # closed at once, so that whoever has the other end sees it
            mine = held.close_end(end)
        elif not (mine := held.has(end)):
            held.fds[end] = NOT_OPEN
            if held is self._null:
                self._null = None
        self._pay_back(held)
        return mine

    def _settle(self, held: Held, end: int) -> bool:
        """Keep what nobody uses any more for the next, or close it; return whether the number was still ours."""
        pool = self._pools[held.kind]
        kept, mine = False, held.has(end)
        try:
            if mine and self._renewed(held):
                with self._lock:
                    kept = pool.keep(held)
                    pool.in_use -= kept
        finally:
            if not kept:
                self._close(held, in_use=1)
        if kept and self.budget.waiting:
            self.clean_up(0)
        return mine

    def _renewed(self, held: Held) -> bool:
        if held.kind == "null":
            return True
        if not self.budget.try_acquire(1, lasting=True):  # for a moment there is one more, which nobody shall lack
            return False
        held.permits += 1
        renewed = held.renew()
        with self._lock:
            self._pay_back(held)
        return renewed

    def _close(self, held: Held, *, in_use: int = 0) -> bool:
        """Really close one that nobody else refers to, and return whether it was still ours."""
        try:
            return held.close()
        finally:
            with self._lock:
                self._count_closed(held, in_use)

    def _count_closed(self, held: Held, in_use: int) -> None:
        self._pay_back(held)
        pool = self._pools[held.kind]
        pool.in_use -= in_use
        pool.closed += 1

    def _pay_back(self, held: Held) -> None:
        """Release the permits for what is open no more, under the lock."""
        surplus = held.permits - len(held.fds) + held.fds.count(NOT_OPEN)
        if surplus:
            held.permits -= surplus
            self.budget.let_go(surplus)

    def _sweep(self) -> None:
        while self._forgotten and self._lock.acquire(blocking=False):
            try:
                try:
                    held, end, generation = self._forgotten.popleft()
                except IndexError:  # another thread was quicker
                    continue
                self._pools[held.kind].leaked += 1
                with contextlib.suppress(OSError):
                    if self._part(held, generation):
                        self._close(held, in_use=1)
                    else:
                        self._leave(held, end)
            finally:
                self._lock.release()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Have the lock; a garbage collection may not wait for it, so what it left is seen to afterwards."""
        try:
            with self._lock:
                yield
        finally:
            self._sweep()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the descriptor manager was closed")
