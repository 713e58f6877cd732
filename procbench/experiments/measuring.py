"""Measurements of small things that share one budget: each takes as many blocks as fit into its part, and counts as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from procbench.errors import InvalidInputError
from procbench.lab.results import Progress, Trials
from procbench.lab.trials import Condition, measure

MIN_BLOCKS: Final = 6
"""The fewest that have a 95 % interval."""

_MOST_BLOCKS: Final = 60
_MOST_BLOCKS_OF_LONG: Final = 40
_FULL_TIMES: Final = 6
_LEAST_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Measuring:
    """How the measurements of one run are made.

    Attributes:
        larger_is_better: False for times, True for rates.
        full: Six times the budget and the blocks, and narrower intervals.
        seed: Draws the order.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each measurement.
    """

    larger_is_better: bool
    full: bool
    seed: int
    on_progress: Callable[[Progress], object] | None

    def planned_s(self, budget_s: float) -> float:
        """Return the seconds for all measurements of the run, where a person said ``budget_s``.

        Raises:
            InvalidInputError: That is no number above 0.
        """
        if isinstance(budget_s, bool) or not (math.isfinite(budget_s) and budget_s > 0):
            raise InvalidInputError(f"budget_s is above 0, and not {budget_s!r}")
        return budget_s * (_FULL_TIMES if self.full else 1)

    def measured(self, conditions: list[Condition], baseline: str, budget_s: float) -> Trials:
        """Make one of them, in at most so many seconds, but at least one block.

        Raises:
            KeyboardInterrupt: Ctrl-C struck it; what it has so far is dropped.
            TrialError: A condition raised.
        """
        trials = measure(
            conditions,
            baseline=baseline,
            larger_is_better=self.larger_is_better,
            min_blocks=MIN_BLOCKS,
            max_blocks=_MOST_BLOCKS * (_FULL_TIMES if self.full else 1),
            target_half_width=0.01 if self.full else 0.03,
            budget_s=max(_LEAST_S, budget_s),
            seed=self.seed,
            on_progress=self.on_progress,
        )
        if trials.stopped_because == "interrupted":
            raise KeyboardInterrupt
        return trials


def measured_rates(
    conditions: list[Condition],
    baseline: str,
    budget_s: float,
    *,
    full: bool,
    seed: int,
    on_progress: Callable[[Progress], object] | None,
) -> Trials:
    """Measure things of which more is better and each of which takes long: fewer blocks, and a wider interval will do.

    Raises:
        TrialError: A condition raised.
    """
    return measure(
        conditions,
        baseline=baseline,
        larger_is_better=True,
        min_blocks=MIN_BLOCKS,
        max_blocks=_MOST_BLOCKS_OF_LONG,
        target_half_width=0.02 if full else 0.05,
        budget_s=budget_s,
        seed=seed,
        on_progress=on_progress,
    )
