"""What became of the items of one class that waited for their turn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ClassStatistics:
    """What became of one class's items so far.

    An item counts where it was put, or where it was moved last. Waits are measured only while items of another class than
    ``normal`` wait; as long as all are ``normal``, nothing is timed.

    Attributes:
        queued: Items that wait now.
        enqueued: Items that came in.
        dequeued: Items that were taken; the rest of those that came in wait or were removed.
        removed: Items that were removed by id.
        aged: Items that were taken while they counted for a higher class than their own.
        timed: Items whose wait was measured when they were taken.
        max_wait_s: Seconds that the longest of them waited; NaN if none was measured.
        mean_wait_s: Seconds that they waited on average; NaN if none was measured.
    """

    queued: int
    enqueued: int
    dequeued: int
    removed: int
    aged: int
    timed: int
    max_wait_s: float
    mean_wait_s: float


class ClassCounts:
    """What became of one class's items; written under the queue's gate only. Normal ones are not counted in the short way.

    Attributes:
        taken: Items that were taken, and whose wait was measured.
        removed: Items that were removed by id.
    """

    def __init__(self) -> None:
        self.taken = self.removed = 0
        self._aged = self._waited_ns = self._longest_ns = 0

    def note(self, waited_ns: int, *, aged: bool) -> None:
        """Count an item that was taken after so many nanoseconds."""
        waited_ns = max(0, waited_ns)
        self.taken += 1
        self._aged += aged
        self._waited_ns += waited_ns
        self._longest_ns = max(self._longest_ns, waited_ns)

    def statistics(self, queued: int, came: int) -> ClassStatistics:
        """Return what became of them, with what the queue knows: how many wait, and how many came in."""
        return ClassStatistics(
            queued=queued,
            enqueued=came,
            dequeued=came - queued - self.removed,
            removed=self.removed,
            aged=self._aged,
            timed=self.taken,
            max_wait_s=self._longest_ns / _SECOND_NS if self.taken else math.nan,
            mean_wait_s=self._waited_ns / self.taken / _SECOND_NS if self.taken else math.nan,
        )
