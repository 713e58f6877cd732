"""What the monitoring experiment found: what watching costs, and a batch as a monitor saw it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from procbench.analysis.samples import estimate
from procbench.analysis.statistics import Effect
from procbench.experiments.columns import estimated, ratio, rows
from procbench.experiments.monitoring_watched import LiveBatch, ShortBatch
from procbench.experiments.monitoring_ways import ALL
from procbench.experiments.outcome import Outcome
from procbench.experiments.words import details_text
from procbench.lab.results import AGAIN, Trials

if TYPE_CHECKING:
    import pandas as pd

ALONE: Final = "not watched"
"""The batch without a monitor."""

_TOLD_S: Final = 0.1  # CPU time of commands that a counter of hundredths cannot miss
_MOST_SHARE: Final = 1.000001  # sums of shares may be a rounding above 1


def every(interval_s: float) -> str:
    """Return the name of the condition that samples so often."""
    return f"every {interval_s:g} s" if interval_s >= 1 else f"every {1000 * interval_s:g} ms"


@dataclass(frozen=True)
class MonitoringResult(Outcome):
    """What watching costs, and what it shows.

    Attributes:
        slowed: The measurement of batches; a value is in s, the baseline is ``ALONE``.
        batches: How each of them went, in the order of the trials.
        looks: The measurement of single looks; a value is in s of CPU time, the baseline is psutil.
        live: The batch that was watched.
    """

    experiment = "monitoring"

    slowed: Trials
    batches: tuple[ShortBatch, ...]
    looks: Trials
    live: LiveBatch

    @property
    def frame(self) -> pd.DataFrame:
        """Every trial: the columns of :meth:`Trials.frame`, ``way``, ``interval_s``, ``quantity`` and how a batch went."""
        import pandas as pd

        batches = self.slowed.frame().assign(
            quantity="batch (s)",
            samples=pd.array([one.samples for one in self.batches], dtype="Int64"),
            monitor_cpu_s=[one.monitor_cpu_s for one in self.batches],
        )
        looked = self.looks.frame().assign(quantity="one look (s of CPU time)")
        return pd.concat([batches, looked], ignore_index=True)

    @property
    def samples(self) -> pd.DataFrame:
        """The samples of the watched batch, tidy: ``time_s``, ``at``, ``collector``, ``metric``, ``unit``, ``value``."""
        return self.live.samples

    @cached_property
    def _slowed(self) -> list[Effect]:
        return self.slowed.effects()

    @cached_property
    def _looks(self) -> list[Effect]:
        return self.looks.effects()

    @property
    def look_s(self) -> float:
        """CPU time of one look at everything, seconds: the median."""
        return estimate(self.looks.values(ALL)).median

    def overhead(self) -> pd.DataFrame:
        """Return one row per interval, ``ALONE`` first.

        Returns:
            ``way``, ``interval_s``; ``median_s`` with ``low_s`` to ``high_s`` for a batch; ``ratio``, how many times as fast it
            is as without a monitor, with its ends, ``noise_floor`` and ``verdict``; ``samples``, those of all its batches, and
            ``batches``; ``cpu_percent``, the monitor's CPU time in % of one CPU, and ``reckoned_percent``, the same from one
            look's cost and the interval; both missing for ``ALONE``.
        """
        import pandas as pd

        effects = {effect.condition: effect for effect in self._slowed}
        found = []
        for way in dict.fromkeys(batch.way for batch in self.batches):
            own = [batch for batch in self.batches if batch.way == way]
            interval_s = own[0].interval_s
            watched = {"cpu_percent": math.nan, "reckoned_percent": math.nan}
            if interval_s is not None:
                spent_s, wall_s = sum(one.monitor_cpu_s for one in own), sum(one.wall_s for one in own)
                watched = {
                    "cpu_percent": 100 * spent_s / wall_s,
                    "reckoned_percent": 100 * self.look_s / max(interval_s, self.look_s),
                }
            counts = {"samples": sum(one.samples for one in own), "batches": len(own)}
            times = estimated(self.slowed.values(way), "_s")
            found.append(
                {"way": way, "interval_s": interval_s, **times, **ratio(effects.get(way)), **counts, **watched}
            )
        table = pd.DataFrame(found)
        return table.sort_values("interval_s", ascending=False, na_position="first", ignore_index=True)

    def costs(self) -> pd.DataFrame:
        """Return one row per way of looking, in the order in which a sample asks.

        Returns:
            ``way``; ``median_us`` with ``low_us`` to ``high_us``, CPU time of one look; ``ratio``, how many times as cheap it is
            as psutil's loop, with its ends, ``noise_floor`` and ``verdict``.
        """
        import pandas as pd

        effects = {effect.condition: effect for effect in self._looks}
        names = [name for name in self.looks.factors if not name.endswith(AGAIN)]
        found = []
        for way in names:
            times = estimated([1e6 * value for value in self.looks.values(way)], "_us")
            found.append({"way": way, **times, **ratio(effects.get(way))})
        return pd.DataFrame(found)

    def seen(self) -> pd.DataFrame:
        """Return what the watched batch's metrics were like, those that have no word in brackets.

        Returns:
            ``collector``, ``metric``, ``unit``; ``samples`` with a value; ``least``, ``mean``, ``most``; ``reason`` where it is
            NaN, or less than the truth.
        """
        import pandas as pd

        plain = self.samples[~self.samples["metric"].str.contains("[", regex=False)]
        found = []
        for (collector, metric, unit), group in plain.groupby(["collector", "metric", "unit"], sort=False):
            values = group["value"].dropna()
            reason = self.live.reasons.get(str(collector), {}).get(str(metric), "")
            told = {"samples": len(values), "least": values.min(), "mean": values.mean(), "most": values.max()}
            found.append({"collector": collector, "metric": metric, "unit": unit, **told, "reason": reason})
        return pd.DataFrame(found)

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what ran and was seen, never about how fast."""
        live, values = self.live, self.samples["value"]
        shares = self.samples[self.samples["collector"].eq("cpu")]["value"].dropna()
        nothing = self.samples.groupby(["collector", "metric"])["value"].count()
        unseen = [(str(who), str(metric)) for who, metric in nothing[nothing == 0].index]
        times = [group["time_s"] for _, group in self.samples.groupby(["collector", "metric"])]
        effects = self.compared()
        return {
            "every short command succeeded, watched or not": all(one.done == one.tasks for one in self.batches),
            "every watched command was run": live.tasks == len(live.commands) > 0,
            "no collector failed": not live.broken and not any(one.broken for one in self.batches),
            "there are samples from before the batch to its end": all(
                one.iloc[0] <= live.begun_s and one.iloc[-1] >= live.ended_s for one in times
            ),
            "samples are in the order of time": all(one.is_monotonic_increasing for one in times),
            "no value is negative, and no CPU was busy for more than all of the time": bool(
                not (values < 0).any() and (shares <= _MOST_SHARE).all()
            ),
            "what was never known has a reason": all(live.reasons.get(who, {}).get(metric) for who, metric in unseen),
            "the commands' CPU time was seen": live.told_cpu_s < _TOLD_S or live.counted("tree", "cpu") > 0,
            "every way ran once in every block": all(map(_is_whole, (self.slowed, self.looks))),
            "every interval holds its estimate": all(one.low <= one.ratio <= one.high for one in effects),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        return {
            "title": "Monitoring",
            "sentence": f"{self.cost_words()} {self.slowed_words()}",
            "effect": self._look_effect.to_dict(),
            "picture_alt": self.overhead_alt(),
        }

    @property
    def _look_effect(self) -> Effect:
        return next(effect for effect in self._looks if effect.condition == ALL)

    def cost_words(self) -> str:
        """Return in words what one look costs."""
        effect = self._look_effect
        return (
            f"One look at everything takes {1000 * self.look_s:.2g} ms of CPU time, {_times(effect)} as cheap as psutil's loop "
            f"over the same facts; once a second that is {100 * self.look_s:.2g} % of one CPU."
        )

    def slowed_words(self) -> str:
        """Return in words what a batch loses, by interval."""
        said = {"better": "faster", "worse": "slower", "no difference shown": "no difference shown"}
        parts = [
            f"{row['way']} {_slower(row)} ({said[row['verdict']]}; the monitor used {row['cpu_percent']:.2g} % of a CPU)"
            for row in rows(self.overhead())
            if row["way"] != ALONE
        ]
        return f"A batch of true that is watched runs, as a share of its speed alone: {'; '.join(parts)}."

    def live_words(self) -> str:
        """Return in words what was seen of the watched batch."""
        live = self.live
        count = len(live.series("memory", "available"))
        return (
            f"{live.tasks} commands took {live.wall_s:.3g} s on {live.workers} workers; {count} samples, one every "
            f"{1000 * live.interval_s:g} ms, cost {1000 * live.monitor_cpu_s:.3g} ms of CPU time. They saw "
            f"{live.counted('tree', 'cpu'):.3g} s of CPU time in commands, and the kernel told {live.told_cpu_s:.3g} s when they "
            "were waited for."
        )

    def overhead_alt(self) -> str:
        """Return the figure of what watching costs in words."""
        parts = [
            f"{row['way']}: batch at {_slower(row)} of its speed alone, monitor {row['cpu_percent']:.2g} % of one CPU"
            for row in rows(self.overhead())
            if row["way"] != ALONE
        ]
        return f"What watching costs, by how often. {'; '.join(parts)}."

    def costs_alt(self) -> str:
        """Return the figure of single looks in words."""
        parts = [f"{row['way']} {row['median_us']:.3g}" for row in rows(self.costs())]
        return f"CPU time of one look, in µs: {', '.join(parts)}."

    def live_alt(self) -> str:
        """Return the figure of the watched batch in words."""
        busy = self.live.series("cpu", "busy")["value"].max()
        many = self.live.series("tree", "processes")["value"].max()
        return (
            f"A batch of {self.live.tasks} commands over {self.live.wall_s:.3g} s: CPUs up to {_percent(busy)} busy, up to "
            f"{0 if math.isnan(many) else many:g} processes at a time."
        )

    def details(self) -> str:
        """Return what was run and what made it noisy, as text of 88 columns."""
        lines = [
            f"batches: {self.slowed.blocks} blocks, ended because of: {self.slowed.stopped_because}; looks: "
            f"{self.looks.blocks} blocks, ended because of: {self.looks.stopped_because}",
            self.cost_words(),
            self.slowed_words(),
            self.live_words(),
            *self._remarks(),
            *self.notes,
        ]
        return details_text(lines, self.warnings)

    def _remarks(self) -> list[str]:
        """Return why metrics of the watched batch are unknown, or less than the truth: a line for each reason."""
        by_reason: dict[str, list[str]] = {}
        for who, reasons in self.live.reasons.items():
            for metric, reason in reasons.items():
                if "[" not in metric:
                    by_reason.setdefault(f"{who}, {reason}", []).append(metric)
        return [f"{reason}: {', '.join(metrics)}" for reason, metrics in by_reason.items()]

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values: of the batches, and of the looks."""
        return [*self._slowed, *self._looks]


def _is_whole(trials: Trials) -> bool:
    names = [name for name in trials.factors if not name.endswith(AGAIN)]
    return trials.blocks > 0 and all(len(trials.values(name)) == trials.blocks for name in names)


def _times(effect: Effect) -> str:
    ends: Sequence[float] = (effect.low, effect.high)
    known = math.isfinite(effect.half_width)
    return f"{effect.ratio:.2f}x" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if known else "")


def _slower(row: dict[Any, Any]) -> str:
    known = math.isfinite(row["ratio_low"]) and math.isfinite(row["ratio_high"])
    return f"{row['ratio']:.3f}x" + (f" [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]" if known else "")


def _percent(share: float) -> str:
    return "an unknown share" if math.isnan(share) else f"{100 * share:.0f} %"
