"""Permits for descriptors: whoever opens some for a child asks here first, so that many children wait instead of failing.

The kernel's own answer to one descriptor too many is EMFILE, in the middle of a spawn, with half of the pipes open. A budget
gives out permits instead, all that are needed in one step, so nobody holds some and waits for more, and in the order of
asking, so nobody who needs many is overtaken for ever by those who need few. Who asks while nobody else has any to give back
gets what it asks for, however little is left: waiting would be for ever, and the kernel may still have them.
:mod:`procbench.io.fd_line` counts and keeps the line; here are the kernel's limit, the warning and who is woken how.

Source: getrlimit(2), ``RLIMIT_NOFILE``.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import warnings
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from procbench.errors import DescriptorsSpentError, DescriptorUsageWarning
from procbench.io.fd_limit import count_open, count_without_proc, soft_limit
from procbench.io.fd_line import PermitLine, Waiter
from procbench.memory import checks

if TYPE_CHECKING:
    import asyncio

RESERVE: Final = 16
"""Descriptors left for what asks nobody: imports, logging, /proc."""

_WARN_SHARE, _CALM_SHARE = 0.8, 0.6
_LOOK_EVERY_S: Final = 0.01  # asking the kernel for its limit costs more than a permit does


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    """How a budget stands.

    Attributes:
        limit: Descriptors that this process may have, or that the budget was made for.
        capacity: Permits in all.
        in_use: Permits that are out.
        lasting: Of which for what is kept for as long as somebody likes; nobody waits for these to start a child.
        available: Permits that could be had now; 0 too while more are out than a lowered limit allows.
        waiting: Callers that wait.
        peak: Most permits that were out at a time.
        waits: Times that a caller had to wait.
        refused: Times that a caller went away without.
        open_now: Descriptors that this process really has, whoever opened them; ``None`` where /proc does not say.
    """

    limit: int
    capacity: int
    in_use: int
    lasting: int
    available: int
    waiting: int
    peak: int
    waits: int
    refused: int
    open_now: int | None


class Keeper(Protocol):
    """Somebody who keeps idle descriptors, and the permits for them."""

    def clean_up(self, idle_s: float) -> int:
        """Close what has been idle for so long."""


class DescriptorBudget:
    """Permits for descriptors. Thread-safe; who waits is served in order, threads and coroutines in one line.

    Acquiring and releasing cost some 0.7 µs together. The budget counts permits and not descriptors: it helps as far as those
    who open many ask it. A limit that is changed by setrlimit(2) is noticed within 10 ms of the next asking, and always
    before anybody is made to wait or refused.

    Args:
        limit: Permits in all; ``None`` for the soft ``RLIMIT_NOFILE`` less what is open now and the reserve.
        reserve: Descriptors left for others where ``limit`` is ``None``, but at most a quarter of what is left.

    Raises:
        InvalidInputError: A number makes no sense.
    """

    def __init__(self, limit: int | None = None, *, reserve: int = RESERVE) -> None:
        self._reserve = checks.whole("reserve", reserve)
        self._follows = limit is None
        self._others = 0
        self._next_look_s = 0.0
        self._keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._refused = 0
        self._line = PermitLine(0, beyond=self._follows)
        _budgets.add(self)
        if limit is None:
            limit = soft_limit()
            self._others = count_without_proc(limit) if (count := count_open()) is None else count
        else:
            checks.whole("limit", limit, 1)
        self._fit(limit)

    def acquire(
        self,
        count: int = 1,
        timeout: float | None = None,
        *,
        lasting: bool = False,
        patient: bool = True,
        warn: bool = True,
    ) -> None:
        """Take ``count`` permits in one step, and wait while there are too few.

        Args:
            count: Descriptors that will be opened, 1 or more.
            timeout: Most seconds to wait, finite and at least 0; ``None`` for ever.
            lasting: Whether they are for what is kept for as long as somebody likes, as a user's handle is, and come back by
                :meth:`let_go`. Who wants lasting ones waits for those of others; who wants them for a child does not.
            patient: Whether to wait for lasting ones of others, which may never come back.
            warn: Whether to warn where four fifths of the budget are out. Not for children, which wait for one another by design.

        Raises:
            DescriptorsSpentError: They did not come back in time, or only from who may keep them for ever, or a budget that was
                made for ``limit`` permits has fewer in all, or fewer beside the lasting ones, which a child does not wait for;
                errno is EMFILE.
            DescriptorUsageWarning: Only where warnings are errors; no permit is kept then.
            InvalidInputError: ``count`` is no number of at least 1 or ``timeout`` none of at least 0.
        """
        if timeout is not None:
            checks.timeout(timeout)
        if self.try_acquire(count, lasting=lasting, warn=warn):
            return
        asleep = threading.Lock()
        asleep.acquire()
        waiter = Waiter(count, asleep.release, lasting=lasting, patient=patient)
        try:
            self._enter_line(waiter)
            self._ask_keepers()  # again: what came back before it stood in line may be kept
            asleep.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        except BaseException:
            self._line.give_up(waiter)
            raise
        self._leave_line(waiter, "and none came back in time", warn=warn)

    async def acquire_async(
        self, count: int = 1, timeout: float | None = None, *, lasting: bool = False, warn: bool = True
    ) -> None:
        """Take permits as :meth:`acquire`, from a coroutine of any loop; a wait that is cancelled passes on what it got."""
        import asyncio

        checks.timeout(timeout)
        if self.try_acquire(count, lasting=lasting, warn=warn):
            return
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        waiter = Waiter(count, lambda: loop.call_soon_threadsafe(_settle, woken), lasting=lasting)
        try:
            self._enter_line(waiter)
            self._ask_keepers()
            await asyncio.wait([woken], timeout=timeout)
        except BaseException:
            self._line.give_up(waiter)
            raise
        self._leave_line(waiter, "and none came back in time", warn=warn)

    def acquire_nowait(self, count: int = 1, *, lasting: bool = False, warn: bool = True) -> None:
        """Take ``count`` permits that can be had now; otherwise as :meth:`acquire`."""
        if not self.try_acquire(count, lasting=lasting, warn=warn):
            waiter = Waiter(count, None, lasting=lasting)
            self._enter_line(waiter)
            self._leave_line(waiter, "and the caller would not wait", warn=warn)

    def try_acquire(self, count: int = 1, *, lasting: bool = False, warn: bool = True) -> bool:
        """Take ``count`` permits that are free now and return True; otherwise change nothing and return False.

        Raises:
            DescriptorUsageWarning: Only where warnings are errors; no permit is kept then.
            InvalidInputError: ``count`` is no number of at least 1.
        """
        if type(count) is not int or count < 1:
            checks.whole("count", count, 1)
        if self._follows and time.monotonic() >= self._next_look_s:
            self._follow()
        line = self._line
        if not line.take(count, lasting=lasting):
            return False
        if warn and line.in_use > self._warn_above and self._line.calm:
            self._warn(count, lasting=lasting)
        return True

    def release(self, count: int = 1) -> None:
        """Give ``count`` permits back, to whoever has waited longest. Never waits; may be called from a finalizer.

        Raises:
            PermitReleaseError: Fewer are out; nothing has changed.
            InvalidInputError: ``count`` is no number of at least 1.
        """
        if type(count) is not int or count < 1:
            checks.whole("count", count, 1)
        self._line.give_back(count, lasting=False)

    def hold(self, count: int = 1) -> None:
        """Take lasting permits for what is opened in any case; never waits and is never refused.

        Raises:
            InvalidInputError: ``count`` is no number of at least 1.
        """
        self._line.take_anyway(checks.whole("count", count, 1))

    def let_go(self, count: int = 1) -> None:
        """Give lasting permits back, as :meth:`release` does others."""
        if type(count) is not int or count < 1:
            checks.whole("count", count, 1)
        self._line.give_back(count, lasting=True)

    @property
    def capacity(self) -> int:
        """Permits in all."""
        return self._line.capacity

    @property
    def in_use(self) -> int:
        """How many permits are out."""
        return self._line.in_use

    @property
    def lasting(self) -> int:
        """How many permits are out for as long as their owners like."""
        return self._line.lasting

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return self._line.waiting

    def statistics(self) -> BudgetStatistics:
        """Return how the budget stands. Counting what is open costs some 0.2 µs for each descriptor."""
        open_now = count_open()
        self._follow()
        line = self._line
        in_use = line.in_use
        return BudgetStatistics(
            limit=self._limit,
            capacity=line.capacity,
            in_use=in_use,
            lasting=min(line.lasting, in_use),
            available=max(0, line.capacity - in_use),
            waiting=line.waiting,
            peak=line.peak,
            waits=line.waits,
            refused=self._refused,
            open_now=open_now,
        )

    def add_keeper(self, keeper: Keeper) -> None:
        """Have ``keeper.clean_up(0)`` called before anybody has to wait or is refused; it is referred to weakly.

        Who keeps idle descriptors looks at :attr:`waiting` after each one that it puts aside, and closes it if it is not 0.
        """
        with self._lock:
            self._keepers.add(keeper)

    def _enter_line(self, waiter: Waiter) -> None:
        """Stand in line, after those who keep idle ones were asked for them: nobody goes beyond the capacity for their sake."""
        self._follow()
        count, lasting = waiter.count, waiter.lasting
        if count > self._line.capacity and not self._line.beyond:
            raise self._spent(count, "and never can be had")
        self._ask_keepers()
        if not (lasting or self._line.beyond) and count + self._line.lasting > self._line.capacity:
            raise self._spent(count, f"and handles keep {self._line.lasting}, which may be for ever")
        self._line.enter(waiter)

    def _leave_line(self, waiter: Waiter, why_not: str, *, warn: bool) -> None:
        if not self._line.leave(waiter):
            self._follow()
            raise self._spent(waiter.count, why_not)
        if warn and self._line.in_use > self._warn_above and self._line.calm:
            self._warn(waiter.count, lasting=waiter.lasting)

    def _ask_keepers(self) -> None:
        """Have idle descriptors closed; without the lock, because keepers have locks of their own."""
        with self._lock:
            keepers = list(self._keepers)
        for keeper in keepers:
            keeper.clean_up(0)

    def _go_on_in_fork(self) -> None:
        """Be of use in a forked child: whoever held a lock or waited is not there. What was out still is, for it is open too."""
        self._lock = threading.RLock()
        self._line.go_on_in_fork()

    # --- the limit ----------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """See whether somebody has changed the kernel's limit."""
        if not self._follows:
            return
        limit = soft_limit()
        self._next_look_s = time.monotonic() + _LOOK_EVERY_S
        if limit != self._limit:
            self._fit(limit)

    def _fit(self, limit: int) -> None:
        left = max(0, limit - self._others)
        capacity = left - min(self._reserve, left // 4) if self._follows else limit
        self._limit = limit
        self._warn_above, self._line.calm_below = _WARN_SHARE * capacity, _CALM_SHARE * capacity
        self._line.fit(capacity)

    def _spent(self, count: int, why: str) -> DescriptorsSpentError:
        with self._lock:
            self._refused += 1
        message = (
            f"{count} descriptors are needed {why}: {self._line.in_use} of {self._line.capacity} permits are in use, "
            f"the limit is {self._limit}; raise it (ulimit -n), or use fewer workers or pipes"
        )
        return DescriptorsSpentError(errno.EMFILE, message)

    def _warn(self, count: int, *, lasting: bool) -> None:
        with self._lock:
            warned, self._line.calm = not self._line.calm, False
        if warned:
            return
        message = (
            f"more than {_WARN_SHARE:.0%} of the {self._line.capacity} descriptors that this process can give its children are "
            "in use; soon some wait for others to end. Raise the limit (ulimit -n), or use fewer workers"
        )
        try:
            warnings.warn(message, DescriptorUsageWarning, stacklevel=4)
        except BaseException:  # warnings are errors: the caller gets this instead of its permits
            self._line.give_back(count, lasting=lasting)
            raise


_shared: dict[str, DescriptorBudget] = {}
_budgets: weakref.WeakSet[DescriptorBudget] = weakref.WeakSet()


def _go_on_in_fork() -> None:
    _shared.clear()
    for budget in list(_budgets):
        budget._go_on_in_fork()


os.register_at_fork(after_in_child=_go_on_in_fork)


def shared_budget() -> DescriptorBudget:
    """Return the budget of this process, made when it is first asked for; a forked child has one of its own."""
    return _shared.get("budget") or _shared.setdefault("budget", DescriptorBudget())  # of two made at a time one stays


def _settle(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
