"""Samples that do not belong to what was usual before.

How far a sample is from the baseline's median is counted in the baseline's spread, by the median absolute deviation, so
that a few wild values in the baseline itself change little. The threshold is not a number of spreads out of the air but the
share of usual samples that may be flagged: Student's t, whose degrees of freedom say how little a short baseline knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from procbench.analysis.series import flat, series_of, spread_of
from procbench.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from procbench.analysis.series import Floats, Values

FALSE_ALARMS = 0.001
"""Share of usual samples that may be flagged: of one a second, one in a quarter of an hour."""

FEWEST_FOR_BASELINE = 5
"""With fewer samples nobody knows what is usual, and nothing is flagged."""

_EFFICIENCY = 0.37  # samples that a standard deviation would need to be as sure as the median absolute deviation
_FINEST = 1e-9  # of the median: a smaller spread is rounding


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is usual.

    Attributes:
        median: The unit of the values; NaN without samples.
        scale: Standard deviation as the median absolute deviation tells it, at least the minimal one.
        count: Samples behind it.
        dropped: Samples that were left out, because they are NaN or infinite.
    """

    median: float
    scale: float
    count: int
    dropped: int

    def threshold(self, false_alarms: float = FALSE_ALARMS) -> float:
        """Return from how many scales on a sample is flagged; infinite if the baseline is too short.

        Args:
            false_alarms: Share of usual samples that may be flagged, 0 to 1. It holds where these are about normal;
                long tails have more.

        Raises:
            InvalidInputError: ``false_alarms`` is not strictly between 0 and 1.
        """
        if not 0 < false_alarms < 1:
            raise InvalidInputError(
                f"false alarms are a share between 0 and 1, such as 0.001, and not {false_alarms!r}"
            )
        if self.count < FEWEST_FOR_BASELINE:
            return math.inf
        from scipy.special import stdtrit

        freedom = max(1.0, _EFFICIENCY * (self.count - 1))
        own_error = math.sqrt(1 + math.pi / 2 / self.count)  # the baseline's median is an estimate, too
        return float(stdtrit(freedom, 1 - false_alarms / 2)) * own_error


@dataclass(frozen=True, slots=True, eq=False)
class Anomalies:
    """Which samples are far from the baseline.

    Attributes:
        flags: One for each sample, in the order given; False for NaN.
        scores: Distance from the baseline's median in its scales, signed; NaN for NaN, infinite for infinite samples.
        threshold: What a score's size must exceed.
        baseline: What they were compared with.
    """

    flags: NDArray[np.bool]
    scores: Floats
    threshold: float
    baseline: Baseline


def baseline_of(values: Values, *, min_scale: float = 0.0) -> Baseline:
    """Learn what is usual from samples.

    Args:
        values: Any unit; NaN and infinite ones are left out and counted.
        min_scale: The least spread that counts, in the unit of the values: what nobody cares about, such as 1 for a CPU
            use in percent. Where all samples are equal and this is 0, any other value is an anomaly.

    Raises:
        InvalidInputError: Something is no number, or ``min_scale`` is negative or not finite.
    """
    import numpy as np

    if not (min_scale >= 0 and math.isfinite(min_scale)):
        raise InvalidInputError(f"min_scale is a finite number of at least 0, and not {min_scale!r}")
    series = series_of(values)
    if not len(series):
        return Baseline(math.nan, min_scale, 0, series.dropped)
    median = float(np.median(series.values))
    scale = max(spread_of(series.values), _FINEST * abs(median), math.ulp(0.0)) * series.unit
    return Baseline(median * series.unit, max(scale, min_scale), len(series), series.dropped)


def anomalies(values: Values, baseline: Baseline, *, false_alarms: float = FALSE_ALARMS) -> Anomalies:
    """Flag the samples that lie further from the baseline than usual ones do.

    Cost: linear.

    Args:
        values: In the unit of the baseline.
        baseline: What is usual, from samples before these.
        false_alarms: Share of usual samples that may be flagged.

    Raises:
        InvalidInputError: Something is no number, or ``false_alarms`` is no share.
    """
    import numpy as np

    array, threshold = flat(values, "the values"), baseline.threshold(false_alarms)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scores = (array / 2 - baseline.median / 2) / baseline.scale * 2
        scores = np.where(array == baseline.median, 0.0, scores)
        flags = np.abs(scores) > threshold
    return Anomalies(np.asarray(flags, dtype=np.bool), np.asarray(scores, dtype=np.float64), threshold, baseline)
