"""Permits for descriptors: whoever opens some for a child asks here first, so that many children wait instead of failing.

The kernel's own answer to one descriptor too many is EMFILE, in the middle of a spawn, with half of the pipes open. A budget
gives out permits instead, all that are needed in one step, so nobody holds some and waits for more, and in the order of
asking, so nobody who needs many is overtaken for ever by those who need few. Who asks while nobody else has any to give back
gets what it asks for, however little is left: waiting would be for ever, and the kernel may still have them.

Source: getrlimit(2), ``RLIMIT_NOFILE``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from procbench.errors import DescriptorsSpentError, DescriptorUsageWarning, PermitReleaseError
from procbench.io.fd_limit import count_open, count_without_proc, soft_limit
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


class _Waiter:
    """Somebody who waits for permits, and how to tell them that they need not any more."""

    __slots__ = ("count", "refused", "served", "wake")

    def __init__(self, count: int, wake: Callable[[], object]) -> None:
        self.count = count
        self.wake = wake
        self.served = self.refused = False


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
        # Reentrant, because a descriptor that is forgotten gives its permit back from a garbage collection, which may come
        # at any call. So no call stands between a look at the counters and the step that rests on it.
        self._lock = threading.RLock()
        self._waiters: deque[_Waiter] = deque()
        self._matching = False
        self._keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()
        self._in_use = self._lasting = self._peak = self._waits = self._refused = 0
        self._calm = True
        if limit is None:
            limit = soft_limit()
            self._others = count_without_proc(limit) if (count := count_open()) is None else count
        else:
            checks.whole("limit", limit, 1)
        self._fit(limit)

    def acquire(self, count: int = 1, timeout: float | None = None, *, warn: bool = True) -> None:
        """Take ``count`` permits in one step, and wait while there are too few.

        Args:
            count: Descriptors that will be opened, 1 or more.
            timeout: Most seconds to wait, finite and at least 0; ``None`` for ever.
            warn: Whether to warn where four fifths of the budget are out. Not for children, which wait for one another by design.

        Raises:
            DescriptorsSpentError: They did not come back in time, or a budget that was made for ``limit`` permits has fewer in
                all; errno is EMFILE.
            DescriptorUsageWarning: Only where warnings are errors; no permit is kept then.
            InvalidInputError: ``count`` is no number of at least 1 or ``timeout`` none of at least 0.
        """
        if timeout is not None:
            checks.timeout(timeout)
        if self.try_acquire(count, warn=warn):
            return
        asleep = threading.Lock()
        asleep.acquire()
        waiter = self._enter_line(count, asleep.release)
        try:
            self._ask_keepers()
            asleep.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        except BaseException:
            self._give_up(waiter)
            raise
        self._leave_served(waiter, warn=warn)

    async def acquire_async(self, count: int = 1, timeout: float | None = None, *, warn: bool = True) -> None:
        """Take permits as :meth:`acquire`, from a coroutine of any loop; a wait that is cancelled passes on what it got."""
        import asyncio

        checks.timeout(timeout)
        if self.try_acquire(count, warn=warn):
            return
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        waiter = self._enter_line(count, lambda: loop.call_soon_threadsafe(_settle, woken))
        try:
            self._ask_keepers()
            await asyncio.wait([woken], timeout=timeout)
        except BaseException:
            self._give_up(waiter)
            raise
        self._leave_served(waiter, warn=warn)

    def acquire_nowait(self, count: int = 1, *, warn: bool = True) -> None:
        """Take ``count`` permits that are free now; otherwise as :meth:`acquire`."""
        if self.try_acquire(count, warn=warn):
            return
        self._follow()
        self._check_whole(count)
        self._ask_keepers()
        if not self.try_acquire(count, warn=warn):
            raise self._spent(count, "and the caller would not wait")

    def try_acquire(self, count: int = 1, *, warn: bool = True) -> bool:
        """Take ``count`` permits that are free now and return True; otherwise change nothing and return False.

        Raises:
            DescriptorUsageWarning: Only where warnings are errors; no permit is kept then.
            InvalidInputError: ``count`` is no number of at least 1.
        """
        if type(count) is not int or count < 1:
            checks.whole("count", count, 1)
        if self._follows and time.monotonic() >= self._next_look_s:
            self._follow()
        with self._lock:
            taken = self._in_use + count
            if self._waiters or (taken > self._capacity and (self._in_use > self._lasting or not self._follows)):
                return False
            self._in_use = taken
            if taken > self._peak:  # noqa: PLR1730 - max is a call
                self._peak = taken
        if warn and taken > self._warn_above and self._calm:
            self._warn(count)
        return True

    def release(self, count: int = 1) -> None:
        """Give ``count`` permits back, to whoever has waited longest. Never waits; may be called from a finalizer.

        Raises:
            PermitReleaseError: Fewer are out; nothing has changed.
            InvalidInputError: ``count`` is no number of at least 1.
        """
        if type(count) is not int or count < 1:
            checks.whole("count", count, 1)
        with self._lock:
            left = self._in_use - count
            if left < 0:
                raise PermitReleaseError(
                    f"{count} permits were given back and {left + count} are out; release each once"
                )
            self._in_use = left
            if left < self._calm_below:
                self._calm = True
            if self._waiters:
                self._match()

    def hold(self, count: int) -> None:
        """Take permits for what is open anyway and stays so; never waits. ``let_go`` gives them back."""
        with self._lock:
            self._lasting += count
            self._in_use += count
            self._peak = max(self._peak, self._in_use)

    def let_go(self, count: int) -> None:
        """Give back what was taken by ``hold``."""
        with self._lock:
            self._lasting -= count
        self.release(count)

    @property
    def capacity(self) -> int:
        """Permits in all."""
        return self._capacity

    @property
    def in_use(self) -> int:
        """How many permits are out."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._waiters)

    def statistics(self) -> BudgetStatistics:
        """Return how the budget stands. Counting what is open costs some 0.2 µs for each descriptor."""
        open_now = count_open()
        self._follow()
        with self._lock:
            return BudgetStatistics(
                limit=self._limit,
                capacity=self._capacity,
                in_use=self._in_use,
                available=max(0, self._capacity - self._in_use),
                waiting=len(self._waiters),
                peak=self._peak,
                waits=self._waits,
                refused=self._refused,
                open_now=open_now,
            )

    def add_keeper(self, keeper: Keeper) -> None:
        """Have ``keeper.clean_up(0)`` called before anybody has to wait or is refused; it is referred to weakly.

        Who keeps idle descriptors looks at :attr:`waiting` after each one that it puts aside, and closes it if it is not 0.
        """
        with self._lock:
            self._keepers.add(keeper)

    # --- the line -----------------------------------------------------------------------------------------------------

    def _enter_line(self, count: int, wake: Callable[[], object]) -> _Waiter:
        """Queue for permits; ``wake`` is called, from any thread, when the waiter is served or never can be."""
        self._follow()
        self._check_whole(count)
        waiter = _Waiter(count, wake)
        with self._lock:
            self._waiters.append(waiter)
            self._match()
            self._waits += not waiter.served
        return waiter

    def _leave_line(self, waiter: _Waiter) -> bool:
        """Return whether the waiter was served; if not, it waits no more."""
        with self._lock:
            if not waiter.served:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
                self._match()  # who stood behind it may want less
            return waiter.served

    def _give_up(self, waiter: _Waiter) -> None:
        """Leave the line, and pass on what was given meanwhile."""
        if self._leave_line(waiter):
            self.release(waiter.count)

    def _leave_served(self, waiter: _Waiter, *, warn: bool) -> None:
        if not self._leave_line(waiter):
            self._follow()
            self._check_whole(waiter.count)
            raise self._spent(waiter.count, "and none came back in time")
        if warn and self._in_use > self._warn_above and self._calm:
            self._warn(waiter.count)

    def _match(self) -> None:
        """Serve those who wait, the first first, under the lock."""
        if self._matching:
            return  # a garbage collection inside the loop below brought permits back; the loop sees them
        self._matching = True
        try:
            while self._waiters:
                waiter = self._waiters[0]
                taken = self._in_use + waiter.count
                if waiter.served or waiter.refused:
                    pass  # an interrupt came between its being served and its leaving
                elif waiter.count > self._capacity and not self._follows:
                    waiter.refused = True
                elif taken > self._capacity and (self._in_use > self._lasting or not self._follows):
                    break
                else:
                    self._in_use = taken
                    waiter.served = True
                    self._peak = max(self._peak, taken)
                with contextlib.suppress(RuntimeError):  # woken before, or its loop is closed and nobody waits there
                    waiter.wake()
                self._waiters.popleft()
        finally:
            self._matching = False

    def _ask_keepers(self) -> None:
        """Have idle descriptors closed; without the lock, because keepers have locks of their own."""
        with self._lock:
            keepers = list(self._keepers)
        for keeper in keepers:
            keeper.clean_up(0)

    # --- the limit ----------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """See whether somebody has changed the kernel's limit."""
        if not self._follows:
            return
        limit = soft_limit()
        self._next_look_s = time.monotonic() + _LOOK_EVERY_S
        if limit != self._limit:
            with self._lock:
                self._fit(limit)
                self._match()

    def _fit(self, limit: int) -> None:
        left = max(0, limit - self._others)
        self._limit = limit
        self._capacity = left - min(self._reserve, left // 4) if self._follows else limit
        self._warn_above, self._calm_below = _WARN_SHARE * self._capacity, _CALM_SHARE * self._capacity

    def _check_whole(self, count: int) -> None:
        if count > self._capacity and not self._follows:
            raise self._spent(count, "and never can be had")

    def _spent(self, count: int, why: str) -> DescriptorsSpentError:
        with self._lock:
            self._refused += 1
        message = (
            f"{count} descriptors are needed {why}: {self._in_use} of {self._capacity} permits are in use, "
            f"the limit is {self._limit}; raise it (ulimit -n), or use fewer workers or pipes"
        )
        return DescriptorsSpentError(errno.EMFILE, message)

    def _warn(self, count: int) -> None:
        with self._lock:
            warned, self._calm = not self._calm, False
        if warned:
            return
        message = (
            f"more than {_WARN_SHARE:.0%} of the {self._capacity} descriptors that this process can give its children are in "
            "use; soon some wait for others to end. Raise the limit (ulimit -n), or use fewer workers"
        )
        try:
            warnings.warn(message, DescriptorUsageWarning, stacklevel=4)
        except BaseException:  # warnings are errors: the caller gets this instead of its permits
            self.release(count)
            raise


_shared: dict[str, DescriptorBudget] = {}
os.register_at_fork(after_in_child=_shared.clear)


def shared_budget() -> DescriptorBudget:
    """Return the budget of this process, made when it is first asked for; a forked child has one of its own."""
    return _shared.get("budget") or _shared.setdefault("budget", DescriptorBudget())  # of two made at a time one stays


def _settle(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
