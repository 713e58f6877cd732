"""Permits and the line of those who wait for them: counted in one place, given in one step, in the order of asking.

Permits are of two sorts. A *transient* one comes back by itself, when a child ends. A *lasting* one comes back when its owner
sees fit, which may be never. So who wants transient ones must not wait for lasting ones: while no transient one is out, the
first in line gets its own beyond the capacity, and the kernel decides whether there is a descriptor.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from procbench.errors import PermitReleaseError


class Waiter:
    """Somebody who wants permits that were not there at once.

    Args:
        count: How many.
        wake: Called, from any thread, when they are there; ``None`` for who leaves the line at once.
        lasting: Of which sort.
        patient: Whether to wait for lasting ones of others; who does not is woken unserved where nothing else would help.

    Attributes:
        served: Whether it has them.
    """

    __slots__ = ("count", "lasting", "patient", "served", "wake")

    def __init__(self, count: int, wake: Callable[[], object] | None, *, lasting: bool, patient: bool = True) -> None:
        self.patient: Final = patient
        self.count: Final = count
        self.wake: Final = wake
        self.lasting: Final = lasting
        self.served = False


class PermitLine:
    """Counts permits, and serves who waits for them. Thread-safe.

    Args:
        capacity: Permits in all.
        beyond: Whether somebody whom nobody's return of permits could help is served beyond the capacity.

    Attributes:
        capacity: Permits in all.
        beyond: As given.
        in_use: That are out, of both sorts.
        lasting: That are out for as long as their owners like.
        peak: Most that were out at a time.
        waits: Times that somebody had to wait.
        calm_below: How few must be out for ``calm`` to become true.
        calm: Whether that was so since somebody made it false.
    """

    def __init__(self, capacity: int, *, beyond: bool) -> None:
        self.capacity = capacity
        self.beyond = beyond
        self.in_use = self.lasting = self.peak = self.waits = 0
        self.calm_below = 0.0
        self.calm = True
        # Reentrant, because a descriptor that is forgotten gives its permit back from a garbage collection, which may come
        # at any call. So no call stands between a look at the counters and the step that rests on it.
        self._lock = threading.RLock()
        self._waiters: deque[Waiter] = deque()
        self._matching = False

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._waiters)

    def take(self, count: int, *, lasting: bool) -> bool:
        """Take permits that are free now, and that nobody waits for; otherwise change nothing and return False."""
        with self._lock:
            taken = self.in_use + count
            if self._waiters or taken > self.capacity:
                return False
            self.in_use = taken
            if lasting:
                self.lasting += count
            if taken > self.peak:  # noqa: PLR1730 - max is a call
                self.peak = taken
        return True

    def take_anyway(self, count: int) -> None:
        """Take lasting permits for what is open already, past everybody and however few are left."""
        with self._lock:
            self.in_use += count
            self.lasting += count
            self.peak = max(self.peak, self.in_use)
            if self._waiters:
                self._match()

    def give_back(self, count: int, *, lasting: bool) -> None:
        """Give permits back, to whoever has waited longest. Never waits; may be called from a finalizer.

        Raises:
            PermitReleaseError: Fewer of that sort are out; nothing has changed.
        """
        with self._lock:
            out = self.lasting if lasting else self.in_use - self.lasting
            if count > out:
                raise PermitReleaseError(f"{count} permits were given back and {out} are out; release each once")
            if lasting:
                self.lasting -= count
            self.in_use -= count
            if self.in_use < self.calm_below:
                self.calm = True
            if self._waiters:
                self._match()

    def fit(self, capacity: int) -> None:
        """Have another capacity, and serve those for whom there is room now."""
        with self._lock:
            self.capacity = capacity
            self._match()

    def enter(self, waiter: Waiter) -> None:
        """Let ``waiter`` stand in line; perhaps it is served at once."""
        with self._lock:
            self._waiters.append(waiter)
            self._match()
            if waiter.wake is not None and not waiter.served:
                self.waits += 1

    def leave(self, waiter: Waiter) -> bool:
        """Return whether the waiter was served; if not, it waits no more."""
        with self._lock:
            if not waiter.served:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
                self._match()  # who stood behind it may want less
            return waiter.served

    def give_up(self, waiter: Waiter) -> None:
        """Leave the line, and pass on what was given meanwhile."""
        if self.leave(waiter):
            self.give_back(waiter.count, lasting=waiter.lasting)

    def go_on_in_fork(self) -> None:
        """Forget who waited, and the lock that another thread may have held: a forked child has neither."""
        self._lock = threading.RLock()
        self._waiters.clear()
        self._matching = False

    def _match(self) -> None:
        """Serve those who wait, under the lock."""
        if self._matching:
            return  # a garbage collection inside the loop below brought permits back; the loop sees them
        self._matching = True
        try:
            self._send_away()
            while (waiter := self._next()) is not None:
                if not waiter.served:  # otherwise an interrupt came between its being served and its leaving
                    self.in_use += waiter.count
                    if waiter.lasting:
                        self.lasting += waiter.count
                    waiter.served = True
                    self.peak = max(self.peak, self.in_use)
                _wake(waiter)
                self._waiters.remove(waiter)
        finally:
            self._matching = False

    def _send_away(self) -> None:
        """Wake those unserved who wait for nothing but what others keep, and do not want to."""
        for waiter in [one for one in self._waiters if not (one.patient or one.served)]:
            if self.lasting + waiter.count > self.capacity:
                self._waiters.remove(waiter)
                _wake(waiter)

    def _next(self) -> Waiter | None:
        """Return who is to be served now: the first, unless all that is out is lasting, and so is what the first wants."""
        if not self._waiters:
            return None
        first = self._waiters[0]
        if first.served or self.in_use + first.count <= self.capacity:
            return first
        if not self.beyond or self.in_use > self.lasting:
            return None
        if not self.in_use:
            return first
        return next((waiter for waiter in self._waiters if not (waiter.lasting or waiter.served)), None)


def _wake(waiter: Waiter) -> None:
    if waiter.wake is not None:
        with contextlib.suppress(RuntimeError):  # woken before, or its loop is closed and nobody waits there
            waiter.wake()
