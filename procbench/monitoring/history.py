"""What one collector gave, bounded: a ring of times, and beside it one of values for each metric, 8 bytes a number."""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Summary(NamedTuple):
    """What the values of one metric were like; NaN where there was none.

    Attributes:
        values: How many there were.
        mean: Their mean.
        p50: Half of them are at most that.
        p95: Nineteen of twenty are at most that.
        max: The largest.
        last: The one of the last sample, NaN if that had none.
    """

    values: int
    mean: float
    p50: float
    p95: float
    max: float
    last: float


class Recorded(NamedTuple):
    """A copy of what is kept, in the order of time.

    Attributes:
        times_s: When each sample was taken, seconds since the start.
        at_s: What the wall clock said then, seconds since 1970.
        columns: The values of each metric, as many as there are times; NaN where a sample had none.
    """

    times_s: array[float]
    at_s: array[float]
    columns: dict[str, array[float]]


class History:
    """The last samples of a collector. Thread-safe.

    A metric that none of the samples kept has is forgotten, so that names that come and go do not add up.

    Args:
        limit: Most samples that are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._times_s, self._at_s = array("d"), array("d")
        self._columns: dict[str, array[float]] = {}
        self._last_in: dict[str, int] = {}
        self._added = 0

    def add(self, time_s: float, at_s: float, values: Mapping[str, float]) -> None:
        """Keep one more sample, and forget the oldest when there are too many."""
        with self._lock:
            place, full = self._added % self._limit, self._added >= self._limit
            rows = len(self._times_s)
            self._added += 1
            for name in values:
                self._last_in[name] = self._added
                if name not in self._columns:
                    self._columns[name] = array("d", (math.nan,)) * rows
            for name in [name for name, last in self._last_in.items() if self._added - last >= self._limit]:
                del self._columns[name], self._last_in[name]
            columns = [(column, values.get(name, math.nan)) for name, column in self._columns.items()]
            for column, value in ((self._times_s, time_s), (self._at_s, at_s), *columns):
                if full:
                    column[place] = value
                else:
                    column.append(value)

    def recorded(self) -> Recorded:
        """Return a copy."""
        with self._lock:
            place = self._added % self._limit if self._added > self._limit else 0
            columns = {name: _from(place, column) for name, column in self._columns.items()}
            return Recorded(_from(place, self._times_s), _from(place, self._at_s), columns)

    def summaries(self) -> Iterator[tuple[str, Summary]]:
        """Yield each metric and what its values were like."""
        for name, values in self.recorded().columns.items():
            yield name, summary_of(values)

    def __len__(self) -> int:
        return len(self._times_s)

    def forget_in_fork(self) -> None:
        """Get a lock of its own in a forked child, where the thread that held the other one may not be."""
        self._lock = threading.Lock()


def summary_of(values: array[float]) -> Summary:
    """Return what the values were like, NaN left out; percentiles are values that there were."""
    numbers = sorted(value for value in values if not math.isnan(value))
    if not numbers:
        return Summary(0, *[math.nan] * 5)
    count = len(numbers)
    p50, p95 = (numbers[math.ceil(share * count) - 1] for share in (0.5, 0.95))
    return Summary(count, math.fsum(numbers) / count, p50, p95, numbers[-1], values[-1])


def _from(place: int, ring: array[float]) -> array[float]:
    return ring[place:] + ring[:place]
