"""What the queues experiment found: rates by way and setting, waits, and how evenly consumers were served."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procbench.analysis.statistics import Effect
from procbench.experiments.columns import estimated, ratio, rows
from procbench.experiments.outcome import Outcome
from procbench.experiments.queues_ways import BATCHES, OURS, PROCESSES, SHARDED, SIMPLE, STANDARD, Passage
from procbench.experiments.words import details_text, with_interval
from procbench.lab.results import AGAIN, Trials

if TYPE_CHECKING:
    import pandas as pd

WAY: Final = "way"
THREADS: Final = "threads"
BOUND: Final = "maxsize"
SHARDS: Final = "shards"

_BOUNDED: Final = (OURS, BATCHES, SHARDED, STANDARD, PROCESSES)


def condition_name(knob: str, way: str, value: object) -> str:
    """Return what a condition is called."""
    return way if knob == WAY else f"{way}, {knob} {value}"


class Part(NamedTuple):
    """One of the measurements.

    Attributes:
        knob: What is varied in it.
        trials: The values, items per second.
        passages: How the items of each trial went, in the order of the trials.
    """

    knob: str
    trials: Trials
    passages: tuple[Passage, ...]

    def of(self, condition: str) -> list[Passage]:
        """Return a condition's passages, without those of warm-up blocks."""
        found = zip(self.trials.trials, self.passages, strict=True)
        return [one for trial, one in found if trial.condition == condition and not trial.warm_up]


@dataclass(frozen=True)
class QueuesResult(Outcome):
    """How items pass through queues.

    Attributes:
        parts: The measurements: by way, by threads, by bound, by shards.
    """

    experiment = "queues"

    parts: tuple[Part, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per trial: the columns of :meth:`Trials.frame`, and of its passage.

        ``way``, ``knob`` and ``setting``; ``items``, ``producers``, ``consumers``, ``maxsize``, ``shards``; ``evenness``,
        ``least_share`` (0 to 1), ``is_exact``, ``is_in_order``; ``peak``, ``mean_wait_s``, ``p99_wait_s``, missing where a
        queue does not say.
        """
        import pandas as pd

        found = []
        for part in self.parts:
            for row, one in zip(rows(part.trials.frame()), part.passages, strict=True):
                load = {name: value for name, value in one.load._asdict().items() if name != "way"}
                names = ("items", "evenness", "least_share", "is_exact", "is_in_order")
                said = ("peak", "mean_wait_s", "p99_wait_s")
                found.append({**row, **load, **{name: getattr(one, name) for name in (*names, *said)}})
        return pd.DataFrame(found)

    @cached_property
    def effects(self) -> dict[str, list[Effect]]:
        """Every condition against its part's baseline, by what is varied."""
        return {part.knob: part.trials.effects() for part in self.parts}

    def effect(self, knob: str, condition: str) -> Effect:
        """Return how many times as many items a second a condition passes as its part's baseline."""
        return next(effect for effect in self.effects[knob] if effect.condition == condition)

    def rates(self) -> pd.DataFrame:
        """Return one row per condition of every part.

        Returns:
            ``knob``, ``way``, ``setting``; ``median`` with ``low`` to ``high``, items per second; ``ratio``, how many times
            as many as the part's baseline, with ``ratio_low``, ``ratio_high``, ``noise_floor`` and ``verdict``.
        """
        import pandas as pd

        found = []
        for part in self.parts:
            effects = {effect.condition: effect for effect in self.effects[part.knob]}
            for name, factors in part.trials.factors.items():
                if not name.endswith(AGAIN):
                    found.append({**factors, **estimated(part.trials.values(name)), **ratio(effects.get(name))})
        return pd.DataFrame(found)

    def served(self) -> pd.DataFrame:
        """Return one row per way: how long its items waited and how evenly its consumers were served.

        Returns:
            ``way``; ``mean_wait_s`` and ``p99_wait_s``, medians over the trials, missing where a queue does not say;
            ``evenness``, Jain's index, and ``least_share`` with ``least_share_low`` and ``least_share_high``, what the
            least-served consumer got of an even share, medians and the interval; ``in_order``, the share of the trials in
            which each producer's order was kept.
        """
        import pandas as pd

        part, found = self.parts[0], []
        for name in part.trials.factors:
            if name.endswith(AGAIN):
                continue
            own = part.of(name)
            least = estimated([one.least_share for one in own])
            found.append(
                {
                    "way": name,
                    "mean_wait_s": _median(one.mean_wait_s for one in own),
                    "p99_wait_s": _median(one.p99_wait_s for one in own),
                    "evenness": _median(one.evenness for one in own),
                    "least_share": least["median"],
                    "least_share_low": least["low"],
                    "least_share_high": least["high"],
                    "in_order": sum(one.is_in_order for one in own) / len(own),
                }
            )
        return pd.DataFrame(found)

    def suggestion(self) -> dict[str, Any]:
        """Return which bounded queue to take, and how many shards; only what is shown to pay here."""
        better = [one for one in self.effects[WAY] if one.condition in _BOUNDED and one.verdict == "better"]
        change: dict[str, Any] = {}
        if better:
            change["queue"] = max(better, key=lambda effect: effect.ratio).condition
        sharded = [one for one in self.effects[SHARDS] if one.verdict == "better"]
        if sharded:
            best = max(sharded, key=lambda effect: effect.ratio).condition
            change["shards"] = int(best.rsplit(" ", 1)[1])
        return change

    def advice(self) -> str:
        """Return in words which queue is worth taking on this machine."""
        change = self.suggestion()
        if "queue" not in change:
            taken = f"No bounded queue is shown to pass more items than {STANDARD}."
        else:
            effect = self.effect(WAY, change["queue"])
            taken = f"Where speed counts, take {change['queue']}: {_times(effect)} the items of {STANDARD}."
        more = "more than one shard is not shown to pay"
        if "shards" in change:
            effect = self.effect(SHARDS, condition_name(SHARDS, SHARDED, change["shards"]))
            more = f"{change['shards']} shards pass {_times(effect)} the items of one"
        return f"{taken} Between these threads {more}."

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what ran, never about how fast."""
        everyone = [one for part in self.parts for one in part.passages]
        counted = [one for one in everyone if one.peak is not None]
        known = [one for one in self.compared() if one.low > 0]
        return {
            "each item was got once": all(one.is_exact for one in everyone),
            "no queue held more items than its bound": all((one.peak or 0) <= one.load.maxsize for one in counted),
            "what the queues counted adds up": bool(counted)
            and all(one.enqueued == one.dequeued == one.items == sum(one.served) for one in counted),
            "each producer's items kept their order": all(
                one.is_in_order for one in everyone if one.load.way != SHARDED or one.load.shards == 1
            ),
            "evenness lies between one consumer's share and 1": all(
                1 / one.load.consumers - 1e-9 <= one.evenness <= 1 + 1e-9 for one in everyone
            ),
            "every way ran once in every block": all(map(_is_whole, self.parts)),
            "every interval holds its estimate": all(one.low <= one.ratio <= one.high for one in known),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        effect = self.effect(WAY, OURS)
        medians = {way: statistics.median(self.parts[0].trials.values(way)) for way in (OURS, STANDARD, SIMPLE)}
        return {
            "title": "Queues",
            "sentence": (
                f"TaskQueue passes {_per_second(medians[OURS])}, {STANDARD} {_per_second(medians[STANDARD])}, and "
                f"{SIMPLE}, which has no bound, {_per_second(medians[SIMPLE])}. {self.advice()}"
            ),
            "effect": effect.to_dict(),
            "picture_alt": self.rates_alt(),
        }

    def rates_alt(self) -> str:
        """Return the figure of rates by way in words."""
        parts = [f"{row['way']} {_thousands(row['median'])}" for row in rows(self.rates()) if row["knob"] == WAY]
        return f"Thousands of items per second, by way. {'; '.join(parts)}."

    def settings_alt(self) -> str:
        """Return the figure of rates by setting in words."""
        table = self.rates()
        lines = []
        for (knob, way), part in table[table["knob"] != WAY].groupby(["knob", "way"], sort=False):
            points = ", ".join(f"{row['setting']}: {_thousands(row['median'])}" for row in rows(part))
            lines.append(f"{way} by {knob}: {points}")
        return f"Thousands of items per second, by setting. {'; '.join(lines)}."

    def served_alt(self) -> str:
        """Return the figure of waits and shares in words."""
        found = rows(self.served())
        waits = [
            f"{row['way']} {1000 * row['mean_wait_s']:.3g} ms, p99 {1000 * row['p99_wait_s']:.3g} ms"
            for row in found
            if row["mean_wait_s"] == row["mean_wait_s"]
        ]
        shares = [f"{row['way']} {100 * row['least_share']:.0f} %" for row in found]
        return f"Mean wait of an item: {'; '.join(waits)}. Least-served consumer's part of an even share: {'; '.join(shares)}."

    def details(self) -> str:
        """Return what was run, what to take and what made it noisy, as text of 88 columns."""
        lines = [
            *(
                f"by {part.knob}: {part.trials.blocks} blocks, {part.trials.elapsed_s:.1f} s; ended because of: "
                f"{part.trials.stopped_because}"
                for part in self.parts
            ),
            self.advice(),
            *self.notes,
        ]
        return details_text(lines, self.warnings)

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values: those of all parts against their baselines."""
        return [effect for effects in self.effects.values() for effect in effects]


def _median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else float("nan")


def _is_whole(part: Part) -> bool:
    trials = part.trials
    return trials.blocks > 0 and all(len(trials.values(name)) == trials.blocks for name in trials.factors)


def _times(effect: Effect) -> str:
    return f"{with_interval(effect.ratio, effect.low, effect.high, 2)} times"


def _thousands(rate: float) -> str:
    return f"{rate / 1000:.3g}" if rate < 1e6 else f"{rate / 1000:,.0f}"


def _per_second(rate: float) -> str:
    return f"{_thousands(rate)} thousand items a second"
