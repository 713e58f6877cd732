"""How long things took: their number, their mean and their percentiles, from a histogram that stays small."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

_SUB_BITS: Final = 3
_STEPS: Final = 1 << _SUB_BITS  # buckets in each doubling, so that one is at most an eighth wide
_LONGEST_NS: Final = (1 << 63) - 1
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Times:
    """How long things of one kind took.

    Attributes:
        count: How many there were.
        mean_s: Seconds on average; NaN if there were none, as the others.
        p50_s: Seconds that half of them took at most; up to an eighth too many, as the next.
        p99_s: Seconds that all but one in a hundred took at most.
    """

    count: int
    mean_s: float
    p50_s: float
    p99_s: float


class Histogram:
    """Times in buckets that widen with the time, about 4 KiB however many there are. One thread adds; any may read."""

    __slots__ = ("_buckets", "_count", "_sum_ns")

    def __init__(self) -> None:
        self._buckets = [0] * (bucket_of(_LONGEST_NS) + 1)
        self._count = self._sum_ns = 0

    def add(self, duration_ns: int) -> None:
        """Enter one time, in nanoseconds; a negative one counts as none at all."""
        if not 0 <= duration_ns <= _LONGEST_NS:
            duration_ns = min(max(0, duration_ns), _LONGEST_NS)
        self._buckets[bucket_of(duration_ns)] += 1
        self._sum_ns += duration_ns
        self._count += 1

    @classmethod
    def sum_of(cls, parts: Iterable[Self]) -> Self:
        """Return all times of several histograms in one."""
        whole = cls()
        for part in parts:
            whole._buckets = [a + b for a, b in zip(whole._buckets, part._buckets, strict=True)]
            whole._count += part._count
            whole._sum_ns += part._sum_ns
        return whole

    def times(self) -> Times:
        """Return what was entered so far, in a few numbers."""
        buckets, count, sum_ns = list(self._buckets), self._count, self._sum_ns
        if not count:
            return Times(0, math.nan, math.nan, math.nan)
        return Times(count, sum_ns / count / _SECOND_NS, _quantile_s(buckets, 0.5), _quantile_s(buckets, 0.99))


def _quantile_s(buckets: list[int], share: float) -> float:
    """Return the seconds that so large a share took at most; ``buckets`` holds something."""
    bucket = bisect.bisect_left(list(itertools.accumulate(buckets)), math.ceil(sum(buckets) * share))
    return top_of(bucket) / _SECOND_NS


def bucket_of(duration_ns: int) -> int:
    """Return the number of the bucket that holds ``duration_ns``, which is not negative."""
    shift = duration_ns.bit_length() - _SUB_BITS - 1
    return duration_ns if shift <= 0 else shift * _STEPS + (duration_ns >> shift)


def top_of(bucket: int) -> int:
    """Return the most nanoseconds that a bucket holds."""
    shift = max(0, bucket // _STEPS - 1)
    return ((bucket - shift * _STEPS + 1) << shift) - 1
