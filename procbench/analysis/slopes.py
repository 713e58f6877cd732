"""Whether a series rises or falls, by how much an hour, and how sure that is.

The slope is the median of the slopes between all pairs of samples (Theil, Sen), which a quarter of wild values does not
move. Its interval holds those of the ordered pair slopes that Kendall's statistic S allows, so that it leaves out zero
exactly where the Mann-Kendall test sees a trend: one calculation says both.

Neighbouring samples are alike, and S then varies more than the test believes: with a coefficient of 0.6 it would see
trends in a third of all series that have none. So the variance is raised as Hamed and Rao do, by the correlation of the
ranks of what is left beside the slope; but the correlation at each distance is that of an AR(1) process, and its
coefficient is freed of the bias that it has in short series (see :func:`procbench.analysis.series.noise_beside`).
Pre-whitening was not taken: it takes a part of the trend away with the noise.

So at most 5 % of series without a trend are said to have one, and a rise by eight standard deviations is seen in 95 % at
least, whether the noise is white, AR(1) with 0.3 or 0.6, or has long tails (Student's t with 3 degrees of freedom), from 12
samples to 5,000 (`python -m benchmarks trends`). Few samples that wander more than that look like a trend to anybody.

Long series are reduced to at most 600 block medians, so that the cost is linear and no pair is chosen by chance.

Source:
    P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63, 1968.
    K. H. Hamed, A. R. Rao, "A modified Mann-Kendall trend test for autocorrelated data", J. Hydrology 204, 1998.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from procbench.analysis.samples import fewest_blocks
from procbench.analysis.series import Noise, Series, blocks_of, cut, noise_beside, series_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from procbench.analysis.series import Floats, Values

Direction = Literal["increasing", "decreasing", "stable"]

_STEEPEST = 1e300  # where two times all but meet; keeps the middle of two of them a number


@dataclass(frozen=True, slots=True)
class Trend:
    """Where a series goes.

    Attributes:
        direction: ``stable`` means that no trend is shown: the interval holds 0.
        slope: The unit of the values per hour, or per sample if there were no times; NaN with fewer than two samples.
        low: Lower end of the slope's interval; minus infinity where there are too few samples for one.
        high: Upper end of the slope's interval; infinity where there are too few samples for one.
        per: ``hour`` or ``sample``.
        confidence: Nominal coverage of the interval, 0 to 1.
        count: Samples behind it.
        dropped: Samples that were left out, because they or their times are NaN or infinite.
        correlation: How alike neighbours are taken to be, 0 to 0.9; of blocks where there are many samples.
    """

    direction: Direction
    slope: float
    low: float
    high: float
    per: Literal["hour", "sample"]
    confidence: float
    count: int
    dropped: int
    correlation: float

    def __str__(self) -> str:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return f"{self.direction} ({self.count} samples: too few to tell)"
        return f"{self.direction}, {self.slope:+.3g} [{self.low:+.3g}, {self.high:+.3g}] per {self.per}"


def trend(
    values: Values,
    times_s: Values | None = None,
    *,
    confidence: float = 0.95,
    period: float | None = None,
    breaks: Sequence[int] = (),
) -> Trend:
    """Say whether a series rises, falls or is stable.

    Every input has a defined result: NaN and infinite values are left out and counted; no samples, or one, or all at one
    time, are stable with a slope of NaN; up to five have a slope and an unknown interval; a constant series has 0 [0, 0].

    Cost: linear in the samples; 30 ms up to 600 of them, 1 s for ten million.

    Args:
        values: Any unit.
        times_s: When each was taken, seconds of any clock; None counts the slope by samples.
        confidence: Nominal coverage of the interval; the test's false alarms are what is left of 1.
        period: How long a season lasts, in seconds, or in samples where there are no times. A season that is not named
            widens the interval; where less than three of its periods were seen it looks like a trend, and is one so far.
        breaks: Numbers of the samples at which the level jumps, as ``change_points`` finds them. Pairs across a break are
            not looked at, so that the slope is what goes on beside the jumps.

    Raises:
        InvalidInputError: Something is no number, lengths differ, ``confidence`` is no share, or the season is seen too
            seldom.
    """
    import numpy as np

    series = series_of(values, times_s, period=period)
    fewest = fewest_blocks(confidence)
    positions = np.searchsorted(series.places, np.sort(np.asarray(list(breaks), dtype=np.int64)))
    stretches = blocks_of(series, cut(len(series), positions.tolist() if series.places.size else ()))
    slopes = _pair_slopes([(at, middles) for at, middles, _ in stretches])
    slope, low, high = math.nan, -math.inf, math.inf
    if len(slopes):
        slope = float(slopes[(len(slopes) - 1) // 2] + slopes[len(slopes) // 2]) / 2
    noise = noise_beside([middles - (slope * at if len(slopes) else 0.0) for at, middles, _ in stretches], slopes=1)
    if len(slopes) and len(series) >= fewest:
        low, high = _interval(slopes, [middles for _, middles, _ in stretches], noise, confidence)
    return _told(series, slope, low, high, confidence, noise)


def _told(series: Series, slope: float, low: float, high: float, confidence: float, noise: Noise) -> Trend:
    direction: Direction = "increasing" if low > 0 else "decreasing" if high < 0 else "stable"
    return Trend(
        direction=direction,
        slope=series.slope_in_units(slope),
        low=series.slope_in_units(low),
        high=series.slope_in_units(high),
        per=series.per,
        confidence=confidence,
        count=len(series),
        dropped=series.dropped,
        correlation=noise.correlation,
    )


def _pair_slopes(stretches: Sequence[tuple[Floats, Floats]]) -> NDArray[np.float64]:
    """Return the slopes between all pairs of each stretch, in order; of two at one time there is none."""
    import numpy as np

    found = [np.empty(0)]
    for at, values in stretches:
        first, second = np.triu_indices(len(values), 1)
        run = at[second] - at[first]
        apart = run > 0
        with np.errstate(over="ignore"):
            slopes = (values[second] - values[first])[apart] / run[apart]
        found.append(np.clip(slopes, -_STEEPEST, _STEEPEST))
    return np.sort(np.concatenate(found))


def _interval(
    slopes: NDArray[np.float64], stretches: Sequence[Floats], noise: Noise, confidence: float
) -> tuple[float, float]:
    """Return the pair slopes between which the true one lies, by the variance of S."""
    from scipy.special import ndtri

    variance = sum(_variance(values) * _inflation(len(values), noise.correlation) for values in stretches)
    if variance == 0:
        return float(slopes[0]), float(slopes[-1])
    margin = float(ndtri((1 + confidence) / 2)) * math.sqrt(variance) + 1  # S moves in steps of two
    lower = math.ceil((len(slopes) - margin) / 2) - 1
    upper = len(slopes) - 1 - lower
    return (
        float(slopes[lower]) if lower >= 0 else -math.inf,
        float(slopes[upper]) if upper < len(slopes) else math.inf,
    )


def _variance(values: Floats) -> float:
    """Return the variance of Kendall's S of independent values, less where some are equal."""
    import numpy as np

    _, equal = np.unique(values, return_counts=True)
    sizes = np.concatenate([[len(values)], equal]).astype(np.float64)
    terms = sizes * (sizes - 1) * (2 * sizes + 5) / 18
    return max(float(terms[0] - terms[1:].sum()), 0.0)


def _inflation(count: int, correlation: float) -> float:
    """Return how many times as much S varies because neighbours are alike."""
    import numpy as np

    if count < 3:
        return 1.0
    lag = np.arange(1, count)
    weights = (count - lag) * (count - lag - 1.0) * (count - lag - 2.0)
    ranks = 6 / math.pi * np.arcsin(correlation**lag / 2)
    return 1 + 2 * float((weights * ranks).sum()) / (count * (count - 1.0) * (count - 2.0))
