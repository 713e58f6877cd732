"""How throughput grows with the number of workers: the Universal Scalability Law, fitted, with intervals.

With N workers the law expects ``X(N) = λN / (1 + σ(N - 1) + κN(N - 1))``: λ is what one worker does, σ the share of the work
that only one can do at a time (contention), κ what it costs that each has to agree with each (coherence). Where κ is above 0
the curve has a peak, ``N* = sqrt((1 - σ) / κ)``, behind which more workers do less.

The law is linear in the time that a worker spends on a task, ``N / X = (1 + σ(N - 1) + κN(N - 1)) / λ``, so the fit of least
relative squares under the bounds 0 <= σ <= 1 and 0 <= κ has one solution and needs no guess to begin with. Intervals come
from a percentile bootstrap of whole blocks at the expanded level of :mod:`procbench.analysis.samples`. What the law misses
the measured medians by, beyond their noise, is drawn for each resample too: no law of three numbers holds exactly, and a
prediction that trusts it blindly is too sure of itself. That was measured (80 draws each, 8 blocks, noise 3 %, nominal 0.95,
predictions for twice the most workers): they cover 0.94 to 1 where the law holds, and 0.86 where the truth strays from it by
5 % at each of five numbers of workers, of which two are more than the law has parameters.

Source:
    N. J. Gunther, "Guerrilla Capacity Planning", Springer, 2007, chapters 4 to 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from procbench.analysis.samples import expanded_level, fewest_blocks
from procbench.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEWEST_COUNTS: Final = 3
"""Numbers of workers that a law of three parameters needs."""

RESAMPLES: Final = 1_999
"""Bootstrap resamples; each is a fit of its own, 20 µs."""

_NOTHING: Final = 1e-9  # a term that makes up less of every value is rounding
_SOME_TIME: Final = 1e-3  # of the shortest that was measured


@dataclass(frozen=True, slots=True)
class Fitted:
    """A number that a fit found, with its interval.

    Attributes:
        value: The estimate.
        low: Lower end of the interval; 0 where there are too few blocks for one.
        high: Upper end of the interval; infinite where there are too few blocks for one.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ScalingFit:
    """A fitted law. Immutable, picklable.

    Attributes:
        rate: λ, throughput of one worker, in the unit of the values.
        contention: σ, 0 to 1: 0 is that workers never wait for each other, 1 that two do no more than one.
        coherence: κ, 0 or more.
        peak: N*, the number of workers with the highest throughput, at least 1; infinite where it grows for ever.
        counts: The numbers of workers that were measured, ascending.
        blocks: Blocks behind the fit.
        confidence: Nominal coverage of the intervals.
        misfit: What the law misses the measured medians by, beyond their noise: a standard deviation, as a share.
    """

    rate: Fitted
    contention: Fitted
    coherence: Fitted
    peak: Fitted
    counts: tuple[int, ...]
    blocks: int
    confidence: float
    misfit: float
    _terms: tuple[float, float, float] = field(repr=False)
    _drawn: tuple[tuple[float, float, float, float], ...] = field(repr=False, compare=False)

    @property
    def most(self) -> int:
        """The largest number of workers that was measured."""
        return self.counts[-1]

    @property
    def has_intervals(self) -> bool:
        """Whether there were blocks enough for intervals."""
        return bool(self._drawn)

    @property
    def peak_is_measured(self) -> bool:
        """Whether the estimated peak lies among the measured numbers of workers, and not beyond them."""
        return self.peak.value <= self.most

    def predict(self, workers: float) -> Fitted:
        """Return the throughput that the law expects, with the interval for a median that would be measured.

        Args:
            workers: How many, at least 1; beyond what was measured too, where the interval is the wider the further.

        Raises:
            InvalidInputError: ``workers`` is no finite number of at least 1.
        """
        import numpy as np

        if not (math.isfinite(workers) and workers >= 1):
            raise InvalidInputError(f"workers is {workers!r}; it must be a finite number of at least 1")
        columns = _columns(np.array([float(workers)]))[0]
        drawn = np.array(((*self._terms, 1.0), *self._drawn))
        rates = workers / (drawn[:, :3] @ columns) * drawn[:, 3]
        value = float(rates[0])
        if not self.has_intervals:
            return Fitted(value, 0.0, math.inf)
        low, high = _ends(rates[1:], self.blocks, self.confidence)
        return Fitted(value, min(low, value), max(high, value))


def fit_scaling(
    rates: Mapping[int, Sequence[float]], *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> ScalingFit:
    """Fit the Universal Scalability Law to throughputs.

    Cost: 0.1 s; the first call imports scipy (1 s).

    Args:
        rates: By number of workers, the throughput in each block, in the same order of blocks; any unit per time.
        confidence: Nominal coverage of the intervals.
        seed: Seeds the bootstrap.
        resamples: Bootstrap resamples.

    Returns:
        The fit to the medians. With fewer than :func:`procbench.analysis.samples.fewest_blocks` blocks its intervals are
        0 to infinity: unknown.

    Raises:
        InvalidInputError: There are fewer than three numbers of workers, one is no whole number of at least 1, they differ
            in their number of blocks, or a throughput is no finite number above 0.
    """
    import numpy as np

    counts, values = _checked(rates)
    blocks, random = values.shape[1], np.random.default_rng(seed)
    columns, medians = _columns(counts), np.median(values, axis=1)
    terms = _solved(columns, counts / medians)
    drawn: NDArray[np.float64] = np.empty((0, 4))
    misfit = 0.0
    if blocks >= fewest_blocks(confidence):
        chosen = random.integers(blocks, size=(resamples, blocks))
        noise = np.log(np.median(values[:, chosen], axis=2)) - np.log(medians)[:, None]
        fitted = counts / (columns @ terms)
        misfit = _misfit(np.log(medians / fitted), noise, int(np.count_nonzero(terms)))
        # As the law and the noise would have it, so that a miss does not count both as a shift and as spread.
        again = fitted[:, None] * np.exp(noise + misfit * random.standard_normal(noise.shape))
        anew = [_solved(columns, counts / one) for one in again.T]
        drawn = np.column_stack([np.array(anew), np.exp(misfit * random.standard_normal(resamples))])
    found = _parameters(terms[None, :])[:, 0]
    ends = [(0.0, math.inf)] * len(found)
    if len(drawn):
        ends = [_ends(one, blocks, confidence) for one in _parameters(drawn[:, :3])]
    rate, contention, coherence, peak = (
        Fitted(float(value), min(low, float(value)), max(high, float(value)))
        for value, (low, high) in zip(found, ends, strict=True)
    )
    return ScalingFit(
        rate=rate,
        contention=contention,
        coherence=coherence,
        peak=peak,
        counts=tuple(int(count) for count in counts),
        blocks=blocks,
        confidence=confidence,
        misfit=misfit,
        _terms=(float(terms[0]), float(terms[1]), float(terms[2])),
        _drawn=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in drawn),
    )


def _columns(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each term of the time per task is multiplied with, a row for each number of workers.

    The terms are (1 - σ)/λ, σ/λ and κ/λ, so that none of them below 0 means the bounds of all three parameters.
    """
    import numpy as np

    return np.column_stack([np.ones_like(counts), counts, counts * (counts - 1)])


def _solved(columns: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the terms of the least relative squares."""
    import numpy as np
    from scipy.optimize import nnls

    relative = columns / times[:, None]
    size = np.linalg.norm(relative, axis=0)
    scaled, _ = nnls(relative / size, np.ones(len(times)))
    terms = np.asarray(scaled / size, dtype=np.float64)
    terms = np.where((relative * terms).max(axis=0) < _NOTHING, 0.0, terms)
    if terms[0] + terms[1] == 0:  # only coherence is left; but one worker takes some time, too
        terms[0] = _SOME_TIME * float(times.min())
    return terms


def _parameters(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return λ, σ, κ and N*, a row each, of terms that stand in rows."""
    import numpy as np

    alone, shared, agreeing = terms.T
    rate = 1 / (alone + shared)
    with np.errstate(divide="ignore", invalid="ignore"):
        peak = np.where(agreeing > 0, np.sqrt(alone / agreeing), np.where(alone > 0, math.inf, 1.0))
    contention, coherence = shared * rate, agreeing * rate
    return np.array([rate, contention, coherence, np.maximum(1.0, peak)])


def _misfit(missed: NDArray[np.float64], noise: NDArray[np.float64], used: int) -> float:
    """Return the standard deviation of what the law misses beyond noise; 0 where nothing is left over to see it by."""
    import numpy as np

    if len(missed) <= used:
        return 0.0
    spread = float(np.sum(missed**2)) / (len(missed) - used)
    return math.sqrt(max(0.0, spread - float(np.mean(np.var(noise, axis=1)))))


def _ends(values: NDArray[np.float64], blocks: int, confidence: float) -> tuple[float, float]:
    """Return the interval's ends; order statistics, because a peak may be infinite."""
    import numpy as np

    tail = (1 - expanded_level(blocks, confidence)) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def _checked(rates: Mapping[int, Sequence[float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the numbers of workers, ascending, and their values in rows; or say what makes no sense."""
    import numpy as np

    whole = all(isinstance(count, int) and not isinstance(count, bool) and count >= 1 for count in rates)
    if not whole:
        raise InvalidInputError(f"workers are whole numbers of at least 1, and not {list(rates)!r}")
    if len(rates) < FEWEST_COUNTS:
        raise InvalidInputError(
            f"the law has three parameters and needs as many numbers of workers, and not {len(rates)}: measure more of them"
        )
    lengths = {len(rates[count]) for count in rates}
    if len(lengths) != 1 or lengths == {0}:
        raise InvalidInputError(
            f"each number of workers has one throughput per block, and not {sorted(lengths)} of them"
        )
    counts = sorted(rates)
    try:
        values: NDArray[Any] = np.array([list(rates[count]) for count in counts], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"a throughput is no number: {error}") from error
    if not (np.isfinite(values) & (values > 0)).all():
        raise InvalidInputError("a throughput is NaN, infinite, zero or negative; each must be a finite number above 0")
    return np.array(counts, dtype=np.float64), values
