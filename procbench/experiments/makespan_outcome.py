"""What came of batches of different shapes: how long each way took, as a ratio to the least that it could."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from procbench.analysis.samples import fewest_blocks
from procbench.analysis.statistics import Effect, paired_effect
from procbench.experiments.columns import estimated, ratio, rows
from procbench.experiments.makespan_ways import LONGEST_FIRST, STEALING, WAYS
from procbench.lab.results import Trials

if TYPE_CHECKING:
    import pandas as pd

UNIFORM: Final = "uniform"
SKEWED: Final = "skewed"
LONGEST_LAST: Final = "longest last"
SHAPES: Final = (UNIFORM, SKEWED, LONGEST_LAST)
"""Shapes of batches, in the order in which tables show them."""

_BATCHES: Final = {SKEWED: "a skewed batch", LONGEST_LAST: "one whose longest was handed in last"}

ALL: Final = "all"
ALONE: Final = "one at a time"


def condition(shape: str, way: str) -> str:
    """Return the name of the condition in which a batch of this shape is run that way."""
    return f"{shape}, {way}"


@dataclass(frozen=True, slots=True)
class Ran:
    """What is known of one trial.

    Attributes:
        statuses: Of its commands; None for one that could not be started.
        walls_s: Where they ran one at a time: by shape, how long each command takes alone, seconds.
    """

    statuses: tuple[int | None, ...]
    walls_s: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Makespan:
    """How long batches took, by shape and way. The bound is ``max(T1 / P, T∞)``.

    T1 is the sum and T∞ the longest of the commands' own times, one at a time, in the same block; P is the workers. No way
    of handing them out ends earlier, as far as commands are no faster in company than alone.

    Attributes:
        trials: The measurement; values in seconds, factors ``shape``, ``way`` and ``workers``.
        ran: What is known of each of its trials, in order.
        workers: Commands at a time.
        tasks: Commands in a batch.
    """

    trials: Trials
    ran: tuple[Ran, ...]
    workers: int
    tasks: int

    @cached_property
    def bounds_s(self) -> dict[str, list[float]]:
        """By shape, the bound in each block, seconds."""
        walls = [
            one.walls_s
            for trial, one in zip(self.trials.trials, self.ran, strict=True)
            if one.walls_s and not trial.warm_up
        ]
        return {shape: [max(sum(each[shape]) / self.workers, *each[shape]) for each in walls] for shape in SHAPES}

    def summary(self) -> pd.DataFrame:
        """Return one row for each shape and way.

        Returns:
            ``shape``, ``way``; ``median_s`` with its interval ``low_s`` to ``high_s``, and ``bound_s``, a median, seconds;
            ``of_bound``, the ratio to the bound in the same block (1 is as soon as can be), with ``of_bound_low`` and
            ``of_bound_high``; ``ratio``, how many times as fast as work stealing in the order given, with ``ratio_low``,
            ``ratio_high``, ``noise_floor`` and ``verdict``. Ends are missing where there were too few blocks.
        """
        import pandas as pd

        found = []
        for shape in SHAPES:
            for way in WAYS:
                values, bounds = self.trials.values(condition(shape, way)), self.bounds_s[shape]
                of_bound = estimated([value / bound for value, bound in zip(values, bounds, strict=True)])
                found.append(
                    {
                        "shape": shape,
                        "way": way,
                        **estimated(values, "_s"),
                        "bound_s": statistics.median(bounds),
                        "of_bound": of_bound["median"],
                        "of_bound_low": of_bound["low"],
                        "of_bound_high": of_bound["high"],
                        **ratio(None if way == STEALING else self.effect(shape, way)),
                    }
                )
        return pd.DataFrame(found)

    def effect(self, shape: str, way: str, against: str = STEALING) -> Effect:
        """Return how many times as fast one way is as another with batches of this shape."""
        before, after = condition(shape, against), condition(shape, way)
        return paired_effect(
            self.trials.values(before),
            self.trials.values(after),
            larger_is_better=False,
            noise_floor=self.trials.noise_floor,
            condition_name=after,
            baseline_name=before,
            seed=self.trials.seed,
        )

    def effects(self) -> list[Effect]:
        """Return every way against work stealing in the order given, shape by shape."""
        return [self.effect(shape, way) for shape in SHAPES for way in WAYS if way != STEALING]

    def frame(self) -> pd.DataFrame:
        """Return every trial: the columns of :meth:`Trials.frame` with the factors, and ``failed``, commands (Int64)."""
        import pandas as pd

        failed = [sum(status != 0 for status in one.statuses) for one in self.ran]
        return self.trials.frame().assign(failed=pd.array(failed, dtype="Int64"))

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy."""
        frame = self.frame()
        whole = [
            len(one.statuses) == self.tasks
            for trial, one in zip(self.trials.trials, self.ran, strict=True)
            if trial.condition != condition(ALL, ALONE)
        ]
        per_block = frame.groupby("block")["condition"].nunique()
        return {
            "every batch of known shape ended whole, each command with status 0": (
                all(whole) and not frame["failed"].any()
            ),
            "every shape was run every way in every block": bool((per_block == len(self.trials.factors)).all()),
        }

    def gains(self) -> str:
        """Return in a sentence what beginning with the longest gains."""
        words = []
        for shape, batch in _BATCHES.items():
            effect = self.effect(shape, LONGEST_FIRST)
            shown = (
                f"is done {effect.ratio:.2f} times as fast"
                if effect.verdict != "no difference shown"
                else "shows no difference"
            )
            words.append(f"{batch} {shown}")
        return f"With the longest commands first {' and '.join(words)}."

    def details(self) -> list[str]:
        """Return what was run, in lines."""
        lines = [
            f"batches of known shape: {self.tasks} commands (dd) on {self.workers} workers, {self.trials.blocks} blocks "
            f"after one to warm up, {self.trials.elapsed_s:.0f} s; ended because of: {self.trials.stopped_because}"
        ]
        if self.trials.blocks < fewest_blocks(self.trials.confidence):
            needed = fewest_blocks(self.trials.confidence)
            lines.append(
                f"only {self.trials.blocks} blocks of them fitted in; an interval needs {needed}: raise budget_s"
            )
        return lines

    def alt(self) -> str:
        """Return the figure in words."""
        table, by_shape = rows(self.summary()), []
        for shape in SHAPES:
            ways = ", ".join(f"{row['way']} {row['of_bound']:.2f}" for row in table if row["shape"] == shape)
            by_shape.append(f"{shape}: {ways}")
        return f"Time for a batch in times of the bound, by shape and by who hands out its commands. {'; '.join(by_shape)}."
