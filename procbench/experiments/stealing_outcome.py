"""What the stealing experiment found: every value, the effects, the limits, how it scales and one run in detail."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from procbench.analysis.samples import estimate
from procbench.analysis.statistics import Effect
from procbench.experiments.columns import ends, estimated, rows
from procbench.experiments.makespan_outcome import Makespan
from procbench.experiments.outcome import Outcome
from procbench.experiments.stealing_curve import Curve
from procbench.experiments.ways import PROCBENCH, USUAL
from procbench.experiments.words import details_text
from procbench.lab.results import AGAIN, Trials

if TYPE_CHECKING:
    import pandas as pd

_NAMED = 3  # programs that fail and have room in a sentence
_SHORT_S = 0.1  # below it a time is said in milliseconds
_LONG_S = 100.0

WORKLOAD = "workload"
"""Stands for a batch's shape where it is whatever its commands make it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A command that ended with another status than 0.

    Attributes:
        command: As a shell would read it.
        returncode: Its last status; None if it could not be started.
        times: In how many of procbench's runs.
    """

    command: str
    returncode: int | None
    times: int

    @property
    def program(self) -> str:
        """The command's program, without its folder."""
        return Path(shlex.split(self.command)[0]).name

    @property
    def how(self) -> str:
        """How it ended, in words."""
        return "could not be started" if self.returncode is None else f"status {self.returncode}"


@dataclass(frozen=True)
class StealingResult(Outcome):
    """How long a batch of commands took, by way of running it, by number of workers and by shape.

    Attributes:
        batches: One row per batch of the workload: the columns of :meth:`Trials.frame` (``value`` in seconds, less is
            better), ``way`` and ``workers`` (factors), and ``failed``, commands whose status was not 0 (Int64, missing where
            the way does not tell). The baseline's second run in a block has the condition ``... (A/A)`` and the same
            factors.
        effects: Every way against the usual one, with the same number of workers; above 1 is faster.
        trace: The commands of the procbench run whose time was the median: the columns of
            :func:`procbench.analysis.results.frame`, and ``program``, the file name of the program.
        limits_s: By number of workers, seconds below which no scheduler gets on this machine:
            ``max(T1 / P, T∞)``, with T1 the sum and T∞ the longest of the commands' own wall times when they run one at
            a time (medians over the blocks), and P the workers, at most as many as there are CPUs to use.
        workers: Workers with which the ways are compared.
        tasks: Commands in a batch.
        workload: What the commands are, in a few words.
        trials: The measurement as it was made.
        makespan: Batches of known shape; None where they were not measured, and the notes say why.
        failures: Commands that did not succeed.
    """

    experiment = "stealing"

    batches: pd.DataFrame
    effects: list[Effect]
    trace: pd.DataFrame
    limits_s: Mapping[int, float]
    workers: int
    tasks: int
    workload: str
    trials: Trials
    makespan: Makespan | None
    failures: tuple[Failure, ...]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Every batch: :attr:`batches`, whose ``shape`` is ``workload``, and :meth:`Makespan.frame`; blocks count anew."""
        import pandas as pd

        frames = [self.batches.assign(shape=WORKLOAD)]
        if self.makespan is not None:
            frames.append(self.makespan.frame())
        return pd.concat(frames, ignore_index=True)

    @cached_property
    def curve(self) -> Curve:
        """How many commands per second procbench runs, by number of workers."""
        return Curve(self.trials, self.limits_s, self.tasks)

    @property
    def limit_s(self) -> float:
        """The limit with the workers with which the ways are compared, seconds."""
        return self.limits_s[self.workers]

    def summary(self) -> pd.DataFrame:
        """Return one row per way, the fastest first, all with :attr:`workers` workers.

        Returns:
            ``way``; ``median_s`` with its interval ``low_s`` to ``high_s``, seconds; ``ratio``, how many times as fast as
            the usual way, with ``ratio_low`` and ``ratio_high``; ``verdict``, in words; ``tasks_per_s``; ``limit_share``, the
            limit as a share of the median (1 is as fast as this machine can). The usual way has no ratio, and where
            there were too few blocks for an interval its ends are missing.
        """
        import pandas as pd

        effects = {effect.condition: effect for effect in self.effects}
        found = [
            {"way": name, **self._times(name, self.limit_s), **_ratio(effects.get(name)), **self._rate(name)}
            for name, factors in self.trials.factors.items()
            if not name.endswith(AGAIN) and factors["workers"] == self.workers
        ]
        columns = ["way", "median_s", "low_s", "high_s", "ratio", "ratio_low", "ratio_high", "verdict", "tasks_per_s"]
        table = pd.DataFrame(found, columns=[*columns, "limit_share"])
        return table.sort_values("median_s", ignore_index=True)

    def shapes(self) -> pd.DataFrame:
        """Return :meth:`Makespan.summary`; no row where batches of known shape were not measured."""
        import pandas as pd

        return pd.DataFrame() if self.makespan is None else self.makespan.summary()

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what ran, never about how fast."""
        trace, frame = self.trace, self.batches
        per_block = frame.groupby("block")["condition"].nunique()
        in_order = trace.sort_values("start_s")
        overlaps = in_order.groupby("worker")["start_s"].shift(-1) < in_order["end_s"]
        effects = [*self.effects, *filter(None, [self.trials.aa_effect()])]
        return {
            "every command ran exactly once": sorted(trace["task_id"]) == list(range(self.tasks)),
            "every command ended with status 0": not self.failures,
            "all ways agree on how many commands failed": frame["failed"].dropna().nunique() <= 1,
            "every way ran once in every block": bool((per_block == len(self.trials.factors)).all()),
            "no worker ran two commands at a time": not bool(overlaps.any()),
            "no worker stole from itself": not bool((trace["stolen_from"] == trace["worker"]).any()),
            "every interval holds its estimate": all(one.low <= one.ratio <= one.high for one in effects),
            **({} if self.makespan is None else self.makespan.invariants()),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        table = self.summary().set_index("way")["median_s"]
        effect = next((one for one in self.effects if one.condition == PROCBENCH), None)
        fastest = table.index[0]
        shown = (
            f"{self._failing()}{self._batch()} took {_seconds(table[PROCBENCH])} with procbench and "
            f"{_seconds(table[USUAL])} with {USUAL}"
        )
        verdict = {
            "better": "procbench is faster here",
            "worse": "procbench is slower here",
            "no difference shown": "no difference between the two is shown",
            None: "the two were not compared",
        }[effect.verdict if effect else None]
        limit = f"The commands themselves allow no less than {_seconds(self.limit_s)}"
        shortest = f"The shortest median is that of {fastest}, {_seconds(table.iloc[0])}"
        gains = "" if self.makespan is None else f" {self.makespan.gains()}"
        return {
            "title": "Running a batch of commands",
            "sentence": f"{shown}: {verdict}. {limit}. {shortest}.{gains}",
            "effect": effect.to_dict() if effect else None,
            "picture_alt": self.ways_alt(),
        }

    def details(self) -> str:
        """Return what was run, what was left out, what failed and what made it noisy, as text of 88 columns."""
        shown = [
            f"{self.tasks} commands ({self.workload}), {self.trials.blocks} blocks after one to warm up, "
            f"{self.trials.elapsed_s:.0f} s; ended because of: {self.trials.stopped_because}",
            *([] if self.makespan is None else self.makespan.details()),
            *self.notes,
            *(f"failed {one.times} times, {one.how}: {one.command}" for one in self.failures),
        ]
        return details_text(shown, self.warnings)

    def ways_alt(self) -> str:
        """Return the comparison of the ways in words, for a reader who does not see its figure."""
        times = ", ".join(f"{row['way']} {_seconds(row['median_s'])}" for row in rows(self.summary()))
        return f"Median time for {self._batch()}, by way: {times}; limit {_seconds(self.limit_s)}."

    def shapes_alt(self) -> str:
        """Return the figure of batches of known shape in words."""
        return "Batches of known shape were not measured." if self.makespan is None else self.makespan.alt()

    def timeline_alt(self) -> str:
        """Return the timeline in words."""
        counts = self.trace.groupby("worker").size()
        shares = ", ".join(f"worker {worker} ran {count}" for worker, count in counts.items())
        stolen = int(self.trace["stolen_from"].notna().sum())
        return f"Which worker ran which command when: {shares}; {stolen} of {self.tasks} were stolen."

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values."""
        return [*self.effects, *(self.makespan.effects() if self.makespan else [])]

    def _failing(self) -> str:
        """Return a sentence about commands that fail, to stand before all numbers; empty where none does."""
        if not self.failures:
            return ""
        programs = list(dict.fromkeys(failure.program for failure in self.failures))
        named = ", ".join(programs[:_NAMED] + ["..."] * (len(programs) > _NAMED))
        verb = "fails" if len(self.failures) == 1 else "fail"
        return f"{len(self.failures)} of {self.tasks} commands {verb} ({named}): these numbers time failures. "

    def _batch(self) -> str:
        return f"{self.tasks} commands on {self.workers} worker{'s' * (self.workers > 1)}"

    def _times(self, condition: str, limit_s: float) -> dict[str, float]:
        times = estimated(self.trials.values(condition), "_s")
        return {**times, "limit_share": limit_s / times["median_s"]}

    def _rate(self, condition: str) -> dict[str, float]:
        return {"tasks_per_s": self.tasks / estimate(self.trials.values(condition), resamples=9).median}


def _ratio(effect: Effect | None) -> dict[str, float | str | None]:
    if effect is None:
        return {"ratio": None, "ratio_low": None, "ratio_high": None, "verdict": "the baseline"}
    return {"ratio": effect.ratio, **ends("ratio", effect), "verdict": _verdict(effect)}


def _verdict(effect: Effect) -> str:
    """Return a verdict; where an interval leaves 1 out and only noise stands against a difference, say so."""
    floor = effect.noise_floor or 0.0
    if effect.verdict == "no difference shown" and not effect.low <= 1 <= effect.high and math.isfinite(floor):
        return f"within noise (floor {100 * floor:.2g} %)"
    return effect.verdict


def _seconds(value: float) -> str:
    """Return a time with three significant digits, for people."""
    if value < _SHORT_S:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < _LONG_S else f"{value:.0f} s"
