"""One metric over time, made fit for analysis: finite, in order, without its season; and what its noise is like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from procbench.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Values = Sequence[float] | NDArray[Any]

MOST_BLOCKS = 600
"""Longer series are cut into so many blocks, whose medians stand for them: all their pairs are looked at in 30 ms."""

FEWEST_PERIODS = 3
"""With fewer whole periods nobody can tell a season from a trend."""

MOST_CORRELATED = 0.9
"""Where neighbours are more alike than this, a series is too short to say how much it wanders."""

_MOST_PHASES = 256
_FEWEST_PER_PERIOD = 2
_STANDARD = 1.4826  # makes the median absolute deviation of normal values their standard deviation
_STANDARD_QUARTILE = 0.8693  # likewise its third quartile
_STANDARD_MEAN = 1.2533  # likewise the mean absolute deviation
_FINEST = 1e-9  # of the largest value: what is smaller is rounding
_FAR = 4.0  # standard deviations beyond which a value is wild
_JUMP = 2.5  # standard deviations beyond which a difference may be a jump
_ERRORS = 1.5  # standard errors that are added to a correlation
_LEFT = 0.9113  # variance of normal values after those beyond 2.5 standard deviations were left out


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Finite values in the order of their times.

    Attributes:
        values: The values, divided by ``unit``, so that none of them, and no difference, overflows.
        unit: A power of two.
        at: Where each stands, from 0 to 1; all 0 if it took no time.
        span: How far the last is from the first: seconds if there are times, else samples.
        per: What a slope is counted by.
        places: Where each stood in what was given.
        dropped: How many were left out, because they or their times are NaN or infinite.
    """

    values: Floats
    unit: float
    at: Floats
    span: float
    per: Literal["hour", "sample"]
    places: NDArray[np.intp]
    dropped: int

    def __len__(self) -> int:
        return len(self.values)

    def slope_in_units(self, slope: float) -> float:
        """Turn a slope of the scaled values into one per hour, or per sample."""
        if slope == 0 or not math.isfinite(slope):
            return slope
        return slope * self.unit / self.span * (3600.0 if self.per == "hour" else 1.0)


@dataclass(frozen=True, slots=True)
class Noise:
    """What is left of a series beside trend, steps and spikes.

    Attributes:
        scale: Standard deviation.
        correlation: How alike neighbours are, 0 to 0.9: an upper estimate of the coefficient of an AR(1) process.
    """

    scale: float
    correlation: float

    @property
    def long_run_deviation(self) -> float:
        """Standard deviation of a mean of n values, times the root of n."""
        return self.scale * math.sqrt((1 + self.correlation) / (1 - self.correlation))


def series_of(values: Values, times_s: Values | None = None, *, period: float | None = None) -> Series:
    """Put values in the order of their times, leave out what is no number, and take out the season.

    Cost: linear; sorting, only where times are out of order, is not.

    Args:
        values: Any unit; NaN and infinite ones are left out and counted.
        times_s: When each was taken, seconds of any clock, best a monotonic one; None is one after the other.
        period: How long a season lasts, in seconds, or in samples where there are no times; None is no season.

    Raises:
        InvalidInputError: Something is no number; values and times differ in length; or there are fewer than three
            whole periods, or fewer than two samples in one.
    """
    import numpy as np

    numbers = flat(values, "the values")
    times = np.arange(len(numbers), dtype=np.float64) if times_s is None else flat(times_s, "the times")
    if len(times) != len(numbers):
        raise InvalidInputError(f"each value has its time, but there are {len(numbers)} values and {len(times)} times")
    places = np.flatnonzero(np.isfinite(numbers) & np.isfinite(times))
    kept, times = numbers[places], times[places]
    if (np.diff(times / 2) < 0).any():
        order = np.argsort(times, kind="stable")
        places, kept, times = places[order], kept[order], times[order]
    half_span = float(times[-1] / 2 - times[0] / 2) if len(times) else 0.0
    at = (times / 2 - times[0] / 2) / half_span if half_span > 0 else np.zeros(len(times))
    largest = float(np.abs(kept).max()) if len(kept) else 0.0
    unit = 2.0 ** (math.frexp(largest)[1] - 1) if largest else 1.0
    found = Series(
        values=kept / unit,
        unit=unit,
        at=at,
        span=2 * half_span,
        per="sample" if times_s is None else "hour",
        places=places,
        dropped=len(numbers) - len(places),
    )
    return found if period is None else _without_season(found, period)


def cut(length: int, breaks: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Return where each stretch between breaks begins and ends; breaks outside the series are none."""
    ends = [0, *sorted({place for place in breaks if 0 < place < length}), length]
    return list(pairwise(ends)) if length else []


def blocks_of(series: Series, stretches: Sequence[tuple[int, int]]) -> list[tuple[Floats, Floats, NDArray[np.intp]]]:
    """Cut each stretch into equal blocks, as long as there are too many samples to look at all pairs.

    Returns:
        For each stretch: the middle places of its blocks, their medians, and the number of the first sample of each.
    """
    import numpy as np

    size = math.ceil(len(series) / MOST_BLOCKS)
    found = []
    for begin, end in stretches:
        if size == 1:
            found.append((series.at[begin:end], series.values[begin:end], np.arange(begin, end)))
            continue
        count = max(1, (end - begin) // size)
        edges = begin + np.arange(count + 1) * (end - begin) // count
        pairs = list(pairwise(edges))
        at = np.array([series.at[low:high].mean() for low, high in pairs])
        found.append((at, np.array([np.median(series.values[low:high]) for low, high in pairs]), edges[:-1]))
    return found


def noise_of(stretches: Sequence[Floats]) -> Noise:
    """Tell noise by the differences of neighbours, which know nothing of levels: neither trend nor step is in them.

    Neighbours that are alike differ little from each other and more from the next but one: for an AR(1) process with
    coefficient c the mean squares of these differences are as 1 to 1 + c. One standard error is added to it, since a
    series that wanders more than it seems to is what makes false alarms.

    Args:
        stretches: Values at even distances; no difference is taken across two of them.

    Source:
        S. Chakar, E. Lebarbier, C. Lévy-Leduc, S. Robin, "A robust approach for estimating change-points in the mean of
        an AR(1) process", Bernoulli 23(2), 2017, section 2.
    """
    import numpy as np

    near = np.concatenate([np.diff(part) for part in stretches] or [np.empty(0)])
    far = np.concatenate([part[2:] - part[:-2] for part in stretches] or [np.empty(0)])
    square, square_far = _mean_square(near), _mean_square(far)
    if square == 0 or len(far) < 2:
        return Noise(math.sqrt(square / 2), 0.0 if square == 0 and len(far) > 1 else MOST_CORRELATED)
    correlation = min(max(square_far / square - 1, 0.0), MOST_CORRELATED)
    upper = min(square_far / square - 1 + 1 / math.sqrt(len(near) + 1), MOST_CORRELATED)
    return Noise(math.sqrt(square / 2 / (1 - correlation)), max(upper, 0.0))


def noise_beside(rests: Sequence[Floats], slopes: int) -> Noise:
    """Tell noise by what is left beside the levels of stretches, and beside a slope that they share.

    Levels and slope follow the noise a little, so that what is left looks less alike than it is: the coefficient c of n
    samples comes out smaller by ``(p + (p + 2) c) / n`` where p numbers were fitted. That is put back. One and
    a half standard errors are added, since a series that wanders more than it seems to is what makes false alarms. As a
    short one would then often seem to wander as much as any, at most :data:`MOST_CORRELATED` less one of them is believed.

    Args:
        rests: Stretches without their slope; their levels may still be in them.
        slopes: How many slopes were taken out, 0 or 1.

    Source:
        F. H. C. Marriott, J. A. Pope, "Bias in the estimation of autocorrelations", and M. G. Kendall, "Note on bias in the
        estimation of autocorrelation", Biometrika 41, 1954.
    """
    import numpy as np

    rests = [part - np.median(part) for part in rests if len(part)]
    together = np.concatenate(rests or [np.empty(0)])
    count, fitted = len(together), len(rests) + slopes
    largest = float(np.abs(together).max()) if count else 0.0
    if largest <= _FINEST:
        return Noise(0.0, 0.0)
    reach = _JUMP * spread_of(together / largest)
    parts = [np.clip(part / largest, -reach, reach) for part in rests]
    parts = [part - part.mean() for part in parts]
    squares = sum(float((part**2).sum()) for part in parts)
    pairs = count - len(parts)
    most = min(MOST_CORRELATED, max(0.0, MOST_CORRELATED - 1 / math.sqrt(count)))
    if squares == 0 or pairs < 1 or count <= fitted + 2:
        return Noise(largest * math.sqrt(squares / count), most)
    alike = sum(float((part[1:] * part[:-1]).sum()) for part in parts) / squares * (count - 1) / pairs
    upper = (count * alike + fitted) / (count - fitted - 2) + _ERRORS / math.sqrt(count)
    return Noise(largest * math.sqrt(squares / (count - fitted)), min(max(upper, 0.0), most))


def flat(values: Values, name: str) -> Floats:
    """Return values as a flat float array.

    Raises:
        InvalidInputError: One is no number, or they are nested.
    """
    import numpy as np

    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"{name} hold something that is no number: {error}") from error
    if array.ndim != 1:
        raise InvalidInputError(f"{name} must be a flat list; its shape is {array.shape}")
    return array


def spread_of(values: Floats) -> float:
    """Return the standard deviation as the median absolute deviation tells it.

    Where many values are equal that says too little; then it is half of what the third quartile tells, or if that is 0, too,
    what the mean tells.
    """
    import numpy as np

    if not len(values):
        return 0.0
    distance = np.abs(values - np.median(values))
    middle, far = np.quantile(distance, (0.5, 0.75))
    return float(max(_STANDARD * middle, _STANDARD_QUARTILE * far / 2)) or _STANDARD_MEAN * float(np.mean(distance))


def _mean_square(differences: Floats) -> float:
    """Return the mean square about the median, without what is far from all others."""
    import numpy as np

    if not len(differences):
        return 0.0
    centred = differences - np.median(differences)
    near = centred[np.abs(centred) <= _JUMP * spread_of(differences)]
    return float(np.mean(near**2)) / _LEFT


def _without_season(series: Series, period: float) -> Series:
    """Take out what comes back each period.

    The slope is known from values a whole period apart, in which no season is; what then is left of each period beside
    its own level is averaged by phase.
    """
    import numpy as np

    if not (period > 0 and math.isfinite(period)):
        raise InvalidInputError(f"a period is a number above 0, and not {period!r}")
    # The last sample stands for a while, too: four quarters of a year are a whole one.
    periods = series.span / period * len(series) / max(1, len(series) - 1)
    per_period = len(series) / periods if periods else 0.0
    if periods < FEWEST_PERIODS or per_period < _FEWEST_PER_PERIOD:
        raise InvalidInputError(
            f"a season of {period:g} is seen {periods:.3g} times in {len(series)} samples; it takes at least "
            f"{FEWEST_PERIODS} periods of {_FEWEST_PER_PERIOD} samples to tell it from a trend: give no period, or more samples"
        )
    step = round(per_period)
    width = series.at[step:] - series.at[:-step]
    rises = (series.values[step:] - series.values[:-step])[width > 0] / width[width > 0]
    slope = float(np.median(rises)) if len(rises) else 0.0
    level = series.values - slope * series.at
    turns = series.at * (series.span / period)
    cycle = np.minimum(turns.astype(np.int64), math.ceil(periods) - 1)
    starts = np.searchsorted(cycle, np.arange(cycle[-1] + 2))
    middles = [np.median(level[low:high]) if high > low else 0.0 for low, high in pairwise(starts)]
    rest = level - np.asarray(middles)[cycle]
    limit = _FAR * spread_of(rest)
    phases = min(step, _MOST_PHASES)
    phase = np.minimum(((turns - np.floor(turns)) * phases + 1e-9).astype(np.int64), phases - 1)
    counts = np.bincount(phase, minlength=phases)
    profile = np.bincount(phase, np.clip(rest, -limit, limit), phases) / np.maximum(counts, 1)
    return replace(series, values=series.values - (profile - np.average(profile, weights=counts))[phase])
