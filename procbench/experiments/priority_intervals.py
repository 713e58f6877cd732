"""Intervals of what the priority experiment counts: a share, a mean over windows, a 99th percentile.

Effects have theirs in :mod:`procbench.analysis.statistics`, medians in :mod:`procbench.analysis.samples`; a share of few slices
has no useful median.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

_TAIL: Final = 0.99
_CONFIDENCE: Final = 0.95


def share_interval(own: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Return a child's share of its own and another's CPU time, by equally long windows, with its 95 % interval.

    It is the ratio of the sums over all windows, with the usual interval of a ratio estimate. A window holds only a few
    slices of a child of low weight, so that its own share takes a few values, and a median would jump from one to the next.

    Source:
        W. G. Cochran, "Sampling Techniques", 3rd edition, 1977, section 6.4.
    """
    both = [ours + theirs for ours, theirs in zip(other, own, strict=True)]
    if not sum(both):
        return 0.0, math.nan, math.nan
    share = sum(own) / sum(both)
    # What the windows differ by from the share has the mean 0, and the mean's interval is, divided by that of both, the share's.
    _, low, high = mean_interval([theirs - share * total for theirs, total in zip(own, both, strict=True)])
    each = statistics.fmean(both)
    return share, max(0.0, share + low / each), min(1.0, share + high / each)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of equally long windows with its 95 % interval by Student's t, which is missing for one window."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    reach = float(t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - reach, mean + reach


def tail_interval(values: Sequence[int]) -> tuple[float, float, float]:
    """Return the 99th percentile with its 95 % interval; an end is missing where no value is extreme enough for it.

    The interval's ends are values themselves: how many lie below the true percentile is binomially distributed.
    """
    from scipy.stats import binom

    ordered, count = sorted(values), len(values)
    below = [int(binom.ppf(level, count, _TAIL)) for level in ((1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2)]
    low = float(ordered[below[0] - 1]) if below[0] > 0 else math.nan
    high = float(ordered[below[1]]) if below[1] < count else math.nan
    return float(ordered[math.ceil(_TAIL * count) - 1]), low, high
