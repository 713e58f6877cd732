"""Effects and intervals: how much better a condition is, how sure that is, and what noise alone would show.

Times of child processes have a long right tail and drift with the machine. So the unit here is the block, in which
every condition ran once, close together in time: an effect is the **median of the log ratios within blocks**. Drift
cancels in the ratio, and one block in which the machine hiccuped moves a median hardly at all.

The interval is that of a sample's median, :mod:`procbench.analysis.samples`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from procbench.analysis.samples import RESAMPLES, checked, expanded_level, fewest_blocks, median_interval
from procbench.errors import InvalidInputError

if TYPE_CHECKING:
    from procbench.analysis.samples import Values

Verdict = Literal["better", "worse", "no difference shown"]

_AT_A_TIME = 1 << 20  # values that a bootstrap holds in memory


@dataclass(frozen=True, slots=True)
class Effect:
    """How many times better a condition is than its baseline, with an interval.

    Attributes:
        ratio: Estimate; 1.18 is "1.18 times as good" (faster, or more per second). Above 1 is better.
        low: Lower end of the interval; 0 where there are too few blocks for one.
        high: Upper end of the interval; infinite where there are too few blocks for one.
        confidence: Nominal coverage of the interval, 0 to 1.
        blocks: Paired blocks behind the estimate.
        condition: What was compared.
        baseline: What it was compared with.
        noise_floor: What an A/A comparison differed from 1 by, as a share (0.02 is 2 %); None if none was run.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    blocks: int
    condition: str = "condition"
    baseline: str = "baseline"
    noise_floor: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Say whether the whole interval lies beyond what noise alone would show."""
        margin = 1 + (self.noise_floor or 0.0)
        if self.low > margin:
            return "better"
        if self.high < 1 / margin:
            return "worse"
        return "no difference shown"

    @property
    def half_width(self) -> float:
        """Half the interval's width as a share of the estimate, ``sqrt(high / low) - 1``; infinite if unknown."""
        return math.sqrt(self.high / self.low) - 1 if self.low > 0 else math.inf

    def __str__(self) -> str:
        known = math.isfinite(self.half_width)
        interval = f"{_short(self.low)}, {_short(self.high)}" if known else "unknown"
        return f"{_short(self.ratio)}x [{interval}] ({self.confidence * 100:g} %, {self.blocks} blocks)"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: what is infinite becomes None, and the verdict is spelled out."""
        plain = {name: None if value == math.inf else value for name, value in asdict(self).items()}
        has_unknown_floor = self.noise_floor == math.inf
        return {**plain, "verdict": self.verdict, "noise_floor_unknown": has_unknown_floor}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Effect:
        """Rebuild what :meth:`to_dict` wrote.

        Raises:
            InvalidInputError: A field is missing or no number.
        """
        try:
            floor = math.inf if plain.get("noise_floor_unknown") else plain["noise_floor"]
            ratio, high = (math.inf if plain[name] is None else float(plain[name]) for name in ("ratio", "high"))
            return cls(
                ratio=ratio,
                low=float(plain["low"]),
                high=high,
                confidence=float(plain["confidence"]),
                blocks=int(plain["blocks"]),
                condition=str(plain["condition"]),
                baseline=str(plain["baseline"]),
                noise_floor=None if floor is None else float(floor),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"this is not a recorded effect: {error!r}") from error


def paired_effect(
    baseline: Values,
    condition: Values,
    *,
    larger_is_better: bool,
    confidence: float = 0.95,
    noise_floor: float | None = None,
    condition_name: str = "condition",
    baseline_name: str = "baseline",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Effect:
    """Compare two conditions that were measured in the same blocks.

    Cost: 8 ms with 12 blocks, 23 ms with 50; the first call imports scipy (1 s).

    Args:
        baseline: One value per block, above 0, any unit.
        condition: One value per block, in the same order and unit.
        larger_is_better: False for times, True for rates.
        confidence: Nominal coverage of the interval.
        noise_floor: From :func:`noise_floor`; the verdict respects it.
        condition_name: Stands in the effect.
        baseline_name: Stands in the effect.
        seed: Seeds the bootstrap; the same values and seed give the same interval.
        resamples: Bootstrap resamples.

    Returns:
        The effect. With fewer than :func:`fewest_blocks` the interval is 0 to infinity: unknown, so nothing is shown.
        If every block has the same ratio the interval is that one point.

    Raises:
        InvalidInputError: The two differ in length, are empty, or hold NaN, infinity, zero or a negative value.
    """
    import numpy as np

    before, after = checked(baseline, baseline_name, positive=True), checked(condition, condition_name, positive=True)
    if len(before) != len(after):
        raise InvalidInputError(
            f"values are paired by block, but {baseline_name} has {len(before)} and {condition_name} has {len(after)}"
        )
    if noise_floor is not None and not noise_floor >= 0:
        raise InvalidInputError(f"a noise floor is a share of at least 0, and not {noise_floor!r}")
    gains = np.log(after) - np.log(before) if larger_is_better else np.log(before) - np.log(after)
    low, high = median_interval(gains, confidence, seed, resamples)
    return Effect(
        ratio=_exp(float(np.median(gains))),
        low=_exp(low),
        high=_exp(high),
        confidence=confidence,
        blocks=len(gains),
        condition=condition_name,
        baseline=baseline_name,
        noise_floor=noise_floor,
    )


def twice_paired_effect(
    baseline: Values,
    again: Values,
    condition: Values,
    *,
    larger_is_better: bool,
    confidence: float = 0.95,
    noise_floor: float | None = None,
    condition_name: str = "condition",
    baseline_name: str = "baseline",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Effect:
    """Compare a condition with a baseline that ran twice in each block, by both of its runs.

    The estimate is the median over both differences of all blocks; resampling draws whole blocks. With independent noise that
    is worth a third more blocks than one run of the baseline, and unlike the mean of both runs it is not drawn to the side on
    which noise has its long tail: each difference is symmetric where nothing differs.

    Args:
        baseline: One value per block, above 0, any unit.
        again: The baseline's second run, likewise.
        condition: What is compared with both, likewise.
        larger_is_better: As for :func:`paired_effect`, like all that follow.
        confidence: Likewise.
        noise_floor: Likewise.
        condition_name: Likewise.
        baseline_name: Likewise.
        seed: Likewise.
        resamples: Likewise.

    Raises:
        InvalidInputError: As in :func:`paired_effect`.
    """
    import numpy as np

    given = [checked(one, name, positive=True) for one, name in ((baseline, baseline_name), (again, "again"))]
    given.append(checked(condition, condition_name, positive=True))
    if len({len(one) for one in given}) > 1:
        raise InvalidInputError(f"values are paired by block, but they are {[len(one) for one in given]}")
    if noise_floor is not None and not noise_floor >= 0:
        raise InvalidInputError(f"a noise floor is a share of at least 0, and not {noise_floor!r}")
    logs = np.log(np.array(given))
    gains = ((logs[2] - logs[:2]) if larger_is_better else (logs[:2] - logs[2])).T
    count, low, high = len(gains), -math.inf, math.inf
    if count >= fewest_blocks(confidence):
        draws, tail = np.random.default_rng(seed), (1 - expanded_level(count, confidence)) / 2
        rows = max(1, _AT_A_TIME // gains.size)  # so that a long measurement does not take much memory
        medians = [
            np.median(
                gains[draws.integers(0, count, (min(rows, resamples - done), count))].reshape(-1, gains.size), axis=1
            )
            for done in range(0, resamples, rows)
        ]
        low, high = np.quantile(np.concatenate(medians), [tail, 1 - tail])
    return Effect(
        ratio=_exp(float(np.median(gains))),
        low=_exp(float(low)),
        high=_exp(float(high)),
        confidence=confidence,
        blocks=count,
        condition=condition_name,
        baseline=baseline_name,
        noise_floor=noise_floor,
    )


def noise_floor(
    values: Values, values_again: Values, *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> float:
    """Return by how much two runs of the *same* condition may still differ, as a share (0.02 is 2 %).

    It is the end of the A/A interval that lies further from 1. Where A/A is centred on 1, as it should be, that is the
    interval's half-width; where it is not, the shift is noise that no randomising removed, and counts as well.

    Args:
        values: The condition's values, one per block.
        values_again: The same condition's values when it ran a second time in each block.
        confidence: Nominal coverage of the A/A interval.
        seed: Seeds the bootstrap.
        resamples: Bootstrap resamples.

    Returns:
        The floor, 0 or more; infinite with fewer than :func:`fewest_blocks`, so that nothing passes an unknown floor.

    Raises:
        InvalidInputError: As in :func:`paired_effect`.
    """
    again = paired_effect(
        values,
        values_again,
        larger_is_better=True,
        confidence=confidence,
        condition_name="the second A",
        baseline_name="the first A",
        seed=seed,
        resamples=resamples,
    )
    return max(again.high, 1 / again.low if again.low > 0 else math.inf) - 1


def _exp(value: float) -> float:
    """Return e to the value, and infinity where a float ends."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _short(value: float) -> str:
    """Format a ratio for people: two decimals in the usual range, three digits outside it."""
    return f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.3g}"
