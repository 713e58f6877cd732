"""What counts as proved.

The 99 % interval of what a change should improve excludes no gain, and the estimate is at least 5 %. The interval is that of
both runs as it is against the one with the change, so it knows the noise of these very blocks; to ask that it lies beyond what
A/A differs by as well would count that noise twice, and on a busy machine prove next to nothing.

Looking again and again has its price, so the looks stand ever further apart: after 8 blocks, 12, 18, 27 and so on. In 150
simulated measurements for each of three kinds of noise, a change that does nothing was called proved in at most 1 % with 12
blocks and 2 % with 27, and harmful in at most 1 % and 6 %; with 400 it is more, and whoever proves three changes has three
chances. One that makes a batch 1.5 times as fast was proved in 0.5 to 0.8 of
the cases with 12 blocks and 30 % of noise; with the noise counted twice in 0.1 to 0.2.

Where the batch differs from itself, nothing is decided. For a gain of memory the batch's time must not be longer by more than 5 %
and some of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from procbench.analysis.samples import RESAMPLES, fewest_blocks
from procbench.analysis.statistics import Effect, noise_floor, paired_effect, twice_paired_effect
from procbench.analysis.suggestions import Status

WORTH: Final = 0.05
"""A gain of less is none: where the interval excludes 5 %, the status is ``no gain``."""

SURE: Final = 0.99
"""Confidence of a proof; it takes eight blocks. Six or seven know an interval of 95 %, and have that."""

MEASURED: Final = {"time": "wall_s", "memory": "memory_bytes", "cpu_time": "cpu_s", "latency": "latency_s"}
"""What is compared, and the column of the recorded run that holds it (``value`` is the time)."""

_LESS_SURE: Final = 0.95
_MOST_NOISE: Final = 0.05  # an excuse for a loss of time up to that share, where a change should save memory


def gain_of(first: Sequence[float], second: Sequence[float], changed: Sequence[float], **names: Any) -> Effect | None:
    """Return how much less a batch costs with a change than in its two runs without; None where that is not known of each run.

    Args:
        first: What the batch cost, one value per block.
        second: What its second run cost.
        changed: What it cost with the change.
        names: As for :func:`procbench.analysis.statistics.twice_paired_effect`.
    """
    if not all(math.isfinite(value) and value > 0 for value in (*first, *second, *changed)):
        return None
    sure = SURE if len(first) >= fewest_blocks(SURE) else _LESS_SURE
    return twice_paired_effect(first, second, changed, larger_is_better=False, confidence=sure, **names)


def loss_of(first: Sequence[float], second: Sequence[float], changed: Sequence[float], **names: Any) -> Effect:
    """Return the effect on time at 95 %, with the noise: what says whether a batch takes longer."""
    floor = noise_floor(first, second, seed=names.get("seed", 0))
    return twice_paired_effect(first, second, changed, larger_is_better=False, noise_floor=floor, **names)


def is_shifted(first: Sequence[float], second: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> bool:
    """Return whether a batch differs from itself, so that something else than the change has a part in it."""
    if len(first) < fewest_blocks(SURE) or not all(map(math.isfinite, (*first, *second))):
        return False
    again = paired_effect(first, second, larger_is_better=False, confidence=SURE, seed=seed, resamples=resamples)
    return (again.low > 1 or again.high < 1) and abs(math.log(again.ratio)) > math.log1p(WORTH)


def status_of(gained: Effect, took: Effect | None = None, *, shifted: bool = False) -> Status:
    """Return what an effect says of a suggestion.

    Args:
        gained: The effect on what it should improve, from :func:`gain_of`.
        took: The effect on the batch's time, where that is something else, from :func:`loss_of`.
        shifted: The batch differs from itself.
    """
    if shifted:
        return "inconclusive"
    is_better = gained.low > 1 and gained.ratio >= 1 + WORTH
    if took is not None:
        margin = 1 + WORTH + min(took.noise_floor or 0.0, _MOST_NOISE)
        if took.high < 1 / margin:
            return "harmful"
        if is_better and took.low < 1 / margin:
            return "inconclusive"
    if is_better:
        return "proved"
    if gained.high < 1 and gained.ratio <= 1 / (1 + WORTH):
        return "harmful"
    return "no gain" if gained.high <= 1 + WORTH else "inconclusive"
