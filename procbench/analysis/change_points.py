"""Where the level of a series jumps.

``ruptures`` finds the cuts that make the squared distances from each stretch's mean smallest, with a penalty for each
cut. What this module adds makes its answer one to rely on:

- **The penalty is in units of the noise**, its long-run variance, so that noise which wanders is not taken for jumps. The
  noise has two opinions: by the differences of neighbours, which know nothing of levels, and by what is left beside the jumps
  that were found, which has the last word. So at most 5 % of series without a jump show one, and a jump of eight standard
  deviations is found in 95 % of series, within three samples: white noise, AR(1) with 0.3 and 0.6, and long tails
  (Student's t with 3 degrees of freedom), from 12 samples to 5,000 (`python -m benchmarks trends`).
- **Single wild values are cut off** at two standard deviations from their neighbours' median, or each would be two jumps;
  and as among hundreds of samples some wild ones stand together by chance, a sixtieth of a series is the least that has a
  level of its own.
- **A slope is no staircase**: the series is also cut beside a straight line, and what explains it with less is taken.
- **Long series are cut by blocks first**, and each jump is then found among the samples, so that the cost is linear.

Source:
    C. Truong, L. Oudre, N. Vayatis, "Selective review of offline change point detection methods", Signal Processing 167,
    2020. R. Killick, P. Fearnhead, I. A. Eckley, "Optimal detection of changepoints with a linear computational cost",
    JASA 107, 2012.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from procbench.analysis.series import Series, blocks_of, cut, noise_beside, noise_of, series_of, spread_of

if TYPE_CHECKING:
    from procbench.analysis.series import Floats, Values

PENALTY = 14.0
"""What a further jump must explain, in long-run variances of the noise."""

LINE_PENALTY = 9.0
"""What a straight line must explain, likewise."""

SHORTEST = 3
"""Samples between two jumps, or a sixtieth of a series where that is more; fewer could be a hiccup."""

_SHORTEST_PART = 60
_ROUNDS = 4
_NEIGHBOURS = 5
_CUT_OFF = 2.0
_FINEST = 1e-6  # of the range: noise below it is none, and would only make rounding errors into jumps


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """A jump of the level.

    Attributes:
        index: Number of the first sample after it, in what was given, from 0.
        time_s: That sample's time; None if there were no times.
        before: The level just before it, in the unit of the values.
        after: The level just after it.
    """

    index: int
    time_s: float | None
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """How many times as high the level is after it; NaN where one of them is not above 0."""
        return self.after / self.before if self.before > 0 and self.after > 0 else math.nan


def change_points(
    values: Values, times_s: Values | None = None, *, period: float | None = None, penalty: float = PENALTY
) -> tuple[ChangePoint, ...]:
    """Find where the level of a series jumps, earliest first.

    NaN and infinite values are left out; fewer than six samples, and constant ones, have no jump. A jump in the first or
    last two samples, or the first or last sixtieth of a long series, cannot be told from a hiccup.

    Cost: linear in the samples; 20 ms up to 600 of them, 1 s for ten million; the first call imports ruptures and scipy.

    Args:
        values: Any unit.
        times_s: When each was taken, seconds of any clock.
        period: How long a season lasts, in seconds, or in samples where there are no times.
        penalty: Higher sees fewer jumps; see :data:`PENALTY`.

    Raises:
        InvalidInputError: Something is no number, lengths differ, or the season is seen too seldom.
    """
    series = series_of(values, times_s, period=period)
    if len(series) < 2 * SHORTEST:
        return ()
    [(at, middles, starts)] = blocks_of(series, cut(len(series)))
    cuts, slope, unit = _sure_cuts(_without_spikes(middles), at, penalty)
    begins = [int(starts[place]) for place in cuts]
    if begins and len(middles) < len(series):
        begins = _among_samples(series, begins, slope, len(series) // len(middles))
        begins = _worth_it(series, begins, slope, unit, penalty)
    return _told(series, begins, slope, times_s)


def _without_spikes(values: Floats) -> Floats:
    """Cut single values off where they are far from what is around them."""
    import numpy as np
    from scipy.ndimage import median_filter

    around = median_filter(values, _NEIGHBOURS, mode="nearest")
    reach = _CUT_OFF * spread_of(np.diff(values)) / math.sqrt(2)
    return np.asarray(np.clip(values, around - reach, around + reach), dtype=np.float64)


def _sure_cuts(values: Floats, at: Floats, penalty: float) -> tuple[list[int], float, float]:
    """Return cuts that are worth their penalty in two opinions of the noise, the slope beside them, and the noise.

    How large the noise is must be known before there are cuts, by neighbours' differences; a jump in few samples spoils
    that, so the second try knows it by what is left beside the one best cut. Either way what is left beside the cuts that
    were found has the last word.
    """
    import numpy as np

    finest = _FINEST * float(np.ptp(values))
    unit = finest
    for first in (noise_of([values]), noise_beside(_parts(values, _cuts(values, count=1)), slopes=0)):
        unit = max(first.long_run_deviation, finest)
        if unit == 0:
            break
        cuts, slope = _best_cuts((values - np.median(values)) / unit, at, penalty)
        slope *= unit
        cuts, unit = _still_worth_it(values - slope * at, cuts, slope != 0, finest, penalty)
        if cuts:
            return cuts, slope, unit
    return [], 0.0, unit


def _still_worth_it(
    values: Floats, cuts: list[int], sloped: bool, finest: float, penalty: float
) -> tuple[list[int], float]:
    """Leave out, one by one, cuts that explain less than the penalty of the noise that is left beside them all."""
    kept = list(cuts)
    while True:
        parts = _parts(values, kept)
        unit = max(noise_beside(parts, slopes=int(sloped)).long_run_deviation, finest)
        gains = _gains(parts, unit)
        if not gains or min(gains) >= penalty:
            return kept, unit
        kept.pop(gains.index(min(gains)))


def _parts(values: Floats, cuts: Sequence[int]) -> list[Floats]:
    return [values[begin:end] for begin, end in cut(len(values), cuts)]


def _gains(parts: Sequence[Floats], unit: float) -> list[float]:
    """Return what each cut explains, in squares of the unit."""
    return [
        len(one) * len(two) / (len(one) + len(two)) * (float(one.mean() - two.mean()) / unit) ** 2
        for one, two in pairwise(parts)
    ]


def _best_cuts(values: Floats, at: Floats, penalty: float) -> tuple[list[int], float]:
    """Return the cuts and the slope that explain the values with least; a slope of 0 costs nothing.

    The line and the cuts need each other, so they are found in turns, beginning without a line and with all of it.
    """
    import numpy as np

    best = (math.inf, list[int](), 0.0)
    for start in (0.0, _common_slope(values, at, [])):
        slope = start
        for _ in range(_ROUNDS):
            rest = values - slope * at
            cuts = _cuts(rest, penalty)
            squares = sum(float(((part - part.mean()) ** 2).sum()) for part in _parts(rest, cuts))
            best = min(best, (squares + penalty * len(cuts) + LINE_PENALTY * (slope != 0), cuts, slope))
            again = _common_slope(values, at, cuts)
            if again == slope:
                break
            slope = again
    return best[1], best[2] if np.isfinite(best[2]) else 0.0


def _cuts(values: Floats, penalty: float | None = None, count: int | None = None) -> list[int]:
    from ruptures import KernelCPD

    shortest = max(SHORTEST, len(values) // _SHORTEST_PART)
    found = KernelCPD(kernel="linear", min_size=shortest).fit(values.reshape(-1, 1)).predict(n_bkps=count, pen=penalty)
    return [int(place) for place in found[:-1]]


def _common_slope(values: Floats, at: Floats, cuts: list[int]) -> float:
    """Return the slope that all stretches share, by least squares."""
    above = below = 0.0
    for begin, end in cut(len(values), cuts):
        run = at[begin:end] - at[begin:end].mean()
        above += float((run * values[begin:end]).sum())
        below += float((run**2).sum())
    return above / below if below else 0.0


def _among_samples(series: Series, begins: list[int], slope: float, size: int) -> list[int]:
    """Find each jump among the samples of the blocks around it, where the two levels part them best."""
    import numpy as np

    rest = series.values - slope * series.at
    found: list[int] = []
    ends = [*begins[1:], len(rest)]
    for begin, end in zip(begins, ends, strict=True):
        low, high = max(begin - 2 * size, found[-1] + 1 if found else 1), min(begin + 2 * size, end - 1)
        before = np.median(rest[found[-1] if found else 0 : low]) if low > 1 else rest[0]
        after = np.median(rest[high:end])
        nearer = (rest[low:high] - (before + after) / 2) * np.sign(after - before)
        # The sum of what speaks for "already after", from each sample to the end of the window; clipped against spikes.
        reach = 2 * abs(after - before)
        gains = np.cumsum(np.clip(nearer, -reach, reach)[::-1])[::-1]
        found.append(low + int(np.argmax(gains)) if len(gains) else begin)
    return sorted(set(found))


def _worth_it(series: Series, begins: list[int], slope: float, unit: float, penalty: float) -> list[int]:
    """Leave out cuts that explain nothing now that no block lies across a jump: such a block looked like a level of its own."""
    kept = list(begins)
    while kept:
        blocks = [middles - slope * at for at, middles, _ in blocks_of(series, cut(len(series), kept))]
        gains = _gains(blocks, unit)
        if min(gains) >= penalty:
            break
        kept.pop(gains.index(min(gains)))
    return kept


def _told(series: Series, begins: list[int], slope: float, times_s: Values | None) -> tuple[ChangePoint, ...]:
    import numpy as np

    rest = series.values - slope * series.at
    parts = cut(len(rest), begins)
    levels = [float(np.median(rest[begin:end])) for begin, end in parts]
    found = []
    for (begin, _), before, after in zip(parts[1:], levels, levels[1:], strict=False):
        place, line = int(series.places[begin]), slope * float(series.at[begin])
        found.append(
            ChangePoint(
                index=place,
                time_s=None if times_s is None else float(times_s[place]),
                before=(before + line) * series.unit,
                after=(after + line) * series.unit,
            )
        )
    return tuple(found)
