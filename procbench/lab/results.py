"""What a measurement yields: every value, kept for good, and the effects that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from procbench.analysis.samples import flag_outliers
from procbench.analysis.statistics import Effect, noise_floor, paired_effect

if TYPE_CHECKING:
    import pandas as pd

StopReason = Literal["interval", "budget", "blocks", "interrupted"]

AGAIN = " (A/A)"
"""Follows the baseline's name where it ran a second time."""

TRIAL_COLUMNS = ("block", "position", "condition", "value", "warm_up", "outlier", "started_s")
"""Columns that every frame of trials has, before those of the factors."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One measured value.

    Attributes:
        block: Counts from 0, warm-up blocks included.
        position: Place within the block, from 0.
        condition: Name of the condition.
        value: What its ``run`` returned.
        warm_up: The block was for warming up and counts for nothing.
        started_s: Seconds since the measuring began.
    """

    block: int
    position: int
    condition: str
    value: float
    warm_up: bool
    started_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a measurement has come.

    Attributes:
        blocks: Finished blocks, warm-up not counted.
        max_blocks: Blocks after which it ends in any case.
        elapsed_s: Seconds since the measuring began.
        budget_s: Seconds after which it ends in any case.
        effects: What would be reported if it ended now; empty during warm-up.
    """

    blocks: int
    max_blocks: int
    elapsed_s: float
    budget_s: float
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class Trials:
    """All values of a measurement and what follows from them. Picklable if the conditions' ``run`` is left behind.

    Attributes:
        trials: Every trial of every finished block, in the order in which they ran; none is ever dropped.
        factors: The factors of each condition, by its name, in the order given.
        baseline: The condition that the others are compared with.
        larger_is_better: False for times, True for rates.
        confidence: Nominal coverage of the intervals.
        seed: Seeded the order of trials and the bootstrap.
        stopped_because: ``interval`` (all effects are narrow enough), ``budget`` (time is spent), ``blocks`` (enough of
            them) or ``interrupted`` (by the person).
        elapsed_s: Seconds that it took.
    """

    trials: tuple[Trial, ...]
    factors: Mapping[str, Mapping[str, Any]]
    baseline: str
    larger_is_better: bool
    confidence: float
    seed: int
    stopped_because: StopReason
    elapsed_s: float

    @property
    def blocks(self) -> int:
        """Finished blocks, warm-up not counted."""
        return len(self.values(self.baseline))

    @property
    def noise_floor(self) -> float | None:
        """What A/A differed from 1 by, as a share; None if the baseline ran only once per block or no block ended."""
        again = self.values(self.baseline + AGAIN)
        if not again:
            return None
        return noise_floor(self.values(self.baseline), again, confidence=self.confidence, seed=self.seed)

    def values(self, condition: str) -> list[float]:
        """Return a condition's values, one per block, without those of warm-up blocks."""
        return [trial.value for trial in self.trials if trial.condition == condition and not trial.warm_up]

    def effects(self) -> list[Effect]:
        """Compare every condition with the baseline, in the order given; empty if no block ended.

        The noise floor stands in each effect, and its verdict respects it.
        """
        floor = self.noise_floor
        others = [name for name in self.factors if name not in {self.baseline, self.baseline + AGAIN}]
        return [self._effect(name, floor) for name in others if self.blocks]

    def aa_effect(self) -> Effect | None:
        """Compare the baseline with itself; None if it ran only once per block or no block ended."""
        name = self.baseline + AGAIN
        return self._effect(name, None) if self.values(name) else None

    def frame(self) -> pd.DataFrame:
        """Return one row per trial.

        Returns:
            ``block`` and ``position`` (integers from 0), ``condition`` (text), ``value`` (float, in the unit that the
            conditions return), ``warm_up`` and ``outlier`` (booleans; outliers are flagged within their condition, see
            :func:`procbench.analysis.samples.flag_outliers`), ``started_s`` (seconds since the measuring began), and
            one column per factor, which is missing where a condition lacks it.
        """
        import pandas as pd

        outliers = self._outliers()
        names = dict.fromkeys(name for factors in self.factors.values() for name in factors)
        rows = [
            {
                **{column: getattr(trial, column) for column in TRIAL_COLUMNS if column != "outlier"},
                "outlier": (trial.block, trial.condition) in outliers,
                **{name: self.factors[trial.condition].get(name) for name in names},
            }
            for trial in self.trials
        ]
        return pd.DataFrame(rows, columns=[*TRIAL_COLUMNS, *names])

    def _effect(self, name: str, floor: float | None) -> Effect:
        return paired_effect(
            self.values(self.baseline),
            self.values(name),
            larger_is_better=self.larger_is_better,
            confidence=self.confidence,
            noise_floor=floor,
            condition_name=name,
            baseline_name=self.baseline,
            seed=self.seed,
        )

    def _outliers(self) -> set[tuple[int, str]]:
        """Return block and condition of each flagged trial."""
        found: set[tuple[int, str]] = set()
        for name in self.factors:
            own = [trial for trial in self.trials if trial.condition == name and not trial.warm_up]
            flags = flag_outliers([trial.value for trial in own]) if own else ()
            found.update((trial.block, name) for trial, flag in zip(own, flags, strict=True) if flag)
        return found
