"""What the stealing experiment found: every value, the effects, the limits, how it scales and one run in detail."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from procbench.analysis.scaling import FEWEST_COUNTS, ScalingFit, fit_scaling
from procbench.analysis.statistics import Effect, estimate, fewest_blocks, paired_effect
from procbench.experiments.columns import ends, estimated, rows
from procbench.experiments.makespan_outcome import Makespan
from procbench.experiments.outcome import Outcome
from procbench.experiments.ways import PROCBENCH, USUAL
from procbench.experiments.words import details_text
from procbench.lab.results import AGAIN, Trials

if TYPE_CHECKING:
    import pandas as pd

_NAMED = 3  # programs that fail and have room in a sentence
_SHORT_S = 0.1  # below it a time is said in milliseconds
_LONG_S = 100.0
_BEYOND = 2  # times the most workers that were measured is how far the law is asked
_STEPS = 60

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
        batches: One row per batch of the workload: the columns of :meth:`Trials.frame` (``value`` in seconds, less is better), ``way`` and
            ``workers`` (factors), and ``failed``, commands whose status was not 0 (Int64, missing where the way does not
            tell). The baseline's second run in a block has the condition ``... (A/A)`` and the same factors.
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
            frames.append(self.makespan.frame().assign(workers=self.workers))
        return pd.concat(frames, ignore_index=True)

    @cached_property
    def fit(self) -> ScalingFit | None:
        """The law of :mod:`procbench.analysis.scaling`, fitted to commands per second; None for too few numbers of workers."""
        names = self._curve()
        if len(names) < FEWEST_COUNTS:
            return None
        rates = {count: [self.tasks / value for value in self.trials.values(name)] for count, name in names.items()}
        return fit_scaling(rates, seed=self.trials.seed)

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

    def scaling(self) -> pd.DataFrame:
        """Return one row per number of workers, all with procbench.

        Returns:
            ``workers``; ``median_s``, ``low_s``, ``high_s`` and ``limit_s``, seconds; ``limit_share``; ``per_s``, ``per_s_low``,
            ``per_s_high`` and ``limit_per_s``, commands per second; ``speedup``, how many times as fast as with one worker,
            with ``speedup_low`` and ``speedup_high``.
        """
        import pandas as pd

        found = []
        names = self._curve()
        for count, name in names.items():
            speedup = paired_effect(self.trials.values(names[1]), self.trials.values(name), larger_is_better=False)
            times = self._times(name, self.limits_s[count])
            gains = {"speedup": speedup.ratio, **ends("speedup", speedup)}
            of_time = {"per_s": "median_s", "per_s_low": "high_s", "per_s_high": "low_s"}
            rates = {rate: self.tasks / times[seconds] for rate, seconds in of_time.items()}
            limits = {"limit_s": self.limits_s[count], "limit_per_s": self.tasks / self.limits_s[count]}
            found.append({"workers": count, **times, **limits, **rates, **gains})
        return pd.DataFrame(found)

    def predicted(self) -> pd.DataFrame:
        """Return what the fitted law expects, up to twice the workers that were measured; no row where nothing was fitted.

        Returns:
            ``workers``, in steps that draw a smooth line; ``per_s`` with ``per_s_low`` and ``per_s_high``, commands per second,
            whose ends are missing where there were too few blocks.
        """
        import pandas as pd

        columns = ["workers", "per_s", "per_s_low", "per_s_high"]
        if self.fit is None:
            return pd.DataFrame(columns=columns, dtype=float)
        last, found = _BEYOND * self.fit.most, []
        for step in range(_STEPS + 1):
            workers = 1 + (last - 1) * step / _STEPS
            rate = self.fit.predict(workers)
            found.append(
                (workers, rate.value, *((rate.low, rate.high) if math.isfinite(rate.high) else (math.nan,) * 2))
            )
        return pd.DataFrame(found, columns=columns)

    def law(self) -> pd.DataFrame:
        """Return the fitted law's numbers, one row each; no row where nothing was fitted.

        Returns:
            ``name``; ``value`` with ``low`` and ``high``, missing where there were too few blocks. A peak beyond twice what was
            measured is infinite: nothing is known of it but that.
        """
        import pandas as pd

        fit, columns = self.fit, ["name", "value", "low", "high"]
        if fit is None:
            return pd.DataFrame(columns=columns)
        beyond = _BEYOND * fit.most
        named = {
            "λ, commands per second of one worker": fit.rate,
            "σ, contention": fit.contention,
            "κ, coherence": fit.coherence,
            "N*, workers at the peak": fit.peak,
            f"commands per second expected of {beyond} workers": fit.predict(beyond),
        }
        has_interval = fit.blocks >= fewest_blocks(fit.confidence)
        ends_of = {name: (one.low, one.high) if has_interval else (math.nan, math.nan) for name, one in named.items()}
        found = [(name, one.value, *ends_of[name]) for name, one in named.items()]
        return pd.DataFrame(found, columns=columns)

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

    def scaling_alt(self) -> str:
        """Return the scaling curve in words."""
        rates = ", ".join(
            f"{row['workers']}: {row['per_s']:.3g} (limit {row['limit_per_s']:.3g})" for row in rows(self.scaling())
        )
        law = "" if self.fit is None else f" The law fitted to them {self.peak_words()}."
        return f"Commands per second with procbench, by number of workers: {rates}.{law}"

    def peak_words(self) -> str:
        """Return what the fitted law says of its peak; empty where nothing was fitted."""
        if self.fit is None:
            return ""
        if not self.fit.peak_is_measured:
            return f"has its peak beyond what was measured, {self.fit.most} workers"
        peak, low, high = self.fit.peak.value, self.fit.peak.low, self.fit.peak.high
        if not low:
            return f"has its peak at {peak:.2g} workers; too few blocks for an interval"
        reach = f"{low:.2g} to {high:.2g}" if high <= self.fit.most else f"{low:.2g} to beyond what was measured"
        return f"has its peak at {peak:.2g} workers, {100 * self.fit.confidence:g} % interval {reach}"

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

    def _curve(self) -> dict[int, str]:
        """Return the conditions in which procbench ran, by number of workers, ascending."""
        named = {f["workers"]: name for name, f in self.trials.factors.items() if f["way"] == PROCBENCH}
        return dict(sorted(named.items()))

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
