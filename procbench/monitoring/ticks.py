"""When samples are due: at whole intervals after the start, so that what one takes delays none of those after it."""

from __future__ import annotations

import math


class Ticks:
    """Counts intervals; what was slept through is not made up for. Not thread-safe.

    Args:
        interval_s: Seconds from one tick to the next.
        start_s: When the first one is, which is due at once.

    Attributes:
        missed: Ticks that passed while nobody asked.
    """

    def __init__(self, interval_s: float, start_s: float) -> None:
        self.missed = 0
        self._interval_s = interval_s
        self._start_s = start_s
        self._next = 1

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until the next tick, at least 0, and take it as the last."""
        passed = math.floor((now_s - self._start_s) / self._interval_s)
        if passed > self._next:
            self.missed += passed - self._next
            self._next = passed
        due_s = self._start_s + self._next * self._interval_s
        self._next += 1
        return max(0.0, due_s - now_s)
