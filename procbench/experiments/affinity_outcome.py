"""What the affinity experiment found: throughput, tail latency and moves by way of pinning, and what to set."""

from __future__ import annotations

import itertools
import math
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from procbench.analysis.statistics import Effect, estimate, fewest_blocks, noise_floor, paired_effect
from procbench.experiments.affinity_groups import (
    ALONE,
    CONTENDED,
    IDLE,
    KINDS,
    MOVED,
    NONE,
    SORT,
    STATES,
    Group,
    Policy,
    Sensitivity,
)
from procbench.experiments.words import known
from procbench.lab.host import HostFacts
from procbench.lab.noise import NoiseWarning
from procbench.lab.results import AGAIN

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "affinity"

_QUANTILES: Final = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


@dataclass(frozen=True)
class AffinityResult:
    """What pinning did to commands.

    Attributes:
        groups: The measurements, one for each kind of command and state of the machine.
        sensitivity: How sensitive to moves each kind is; empty where that cannot be measured.
        policies: The ways of pinning that differ here.
        in_force: By way, whether commands had exactly their worker's CPUs, as they themselves read it.
        workers: Commands at a time.
        host: Where.
        warnings: What made it noisy.
        notes: What a reader should know.
        parameters: What it was run with.
        unrecorded: Why it could not be recorded; empty if it was, or was not to be.
    """

    groups: tuple[Group, ...]
    sensitivity: tuple[Sensitivity, ...]
    policies: tuple[Policy, ...]
    in_force: Mapping[str, bool]
    workers: int
    host: HostFacts
    warnings: list[NoiseWarning]
    notes: tuple[str, ...]
    parameters: Mapping[str, Any]
    unrecorded: str = ""

    @property
    def frame(self) -> pd.DataFrame:
        """Every trial.

        The columns of :meth:`Trials.frame` (``value`` in commands/s), ``pin``, ``kind``, ``state``, and of the trial's
        commands ``p50_ms``, ``p95_ms``, ``p99_ms``, ``voluntary_switches``, ``involuntary_switches`` and ``failed``.
        """
        import pandas as pd

        frames = []
        for group in self.groups:
            own = pd.DataFrame(
                {
                    **{name: _quantile(batch.walls_s, share) * 1000 for name, share in _QUANTILES.items()},
                    "voluntary_switches": batch.voluntary_switches,
                    "involuntary_switches": batch.involuntary_switches,
                    "failed": batch.failed,
                }
                for batch in group.batches
            )
            frames.append(pd.concat([group.trials.frame().assign(kind=group.kind, state=group.state), own], axis=1))
        return pd.concat(frames, ignore_index=True)

    def throughput(self) -> pd.DataFrame:
        """Return one row for each kind, state and way of pinning.

        Returns:
            ``kind``, ``state``, ``pin``; ``median``, ``low``, ``high``, commands/s with the interval, whose ends are missing
            where there were too few blocks; ``ratio`` to none, with ``ratio_low``, ``ratio_high``, ``noise_floor`` and
            ``verdict``; none itself has no ratio.
        """
        return self._throughput.copy()

    @cached_property
    def _throughput(self) -> pd.DataFrame:
        return self._table(
            lambda group, name: _estimated(group.trials.values(name)),
            lambda group, name: group.effects[name],
        )

    def tails(self) -> pd.DataFrame:
        """Return how long single commands took.

        Returns:
            ``kind``, ``state``, ``pin``; ``commands``, how many there are; ``p50_ms``, ``p95_ms``, ``p99_ms`` of all their wall
            times together; and how many times as short the 95th percentile of a block is as with none: ``ratio`` and what
            belongs to it, as in :meth:`throughput`.
        """
        return self._tails.copy()

    @cached_property
    def _tails(self) -> pd.DataFrame:
        def quantiles(group: Group, name: str) -> dict[str, float]:
            walls = [wall for batch in group.of(name) for wall in batch.walls_s]
            return {
                "commands": len(walls),
                **{column: _quantile(walls, share) * 1000 for column, share in _QUANTILES.items()},
            }

        return self._table(quantiles, self._tail_effect)

    def moves(self) -> pd.DataFrame:
        """Return how often a command was moved and interrupted, per command.

        Returns:
            ``kind``, ``state``, ``pin``; ``migrations``, with ``migrations_low`` and ``migrations_high``, from batches that were
            counted apart from the timing, missing where the kernel does not show them; ``involuntary`` and ``voluntary``
            switches with their ends, from the timed blocks. Means, as most commands are not moved at all, with Student's
            interval over the batches.
        """

        def counted(group: Group, name: str) -> dict[str, float]:
            batches = group.of(name)
            return {
                **_mean(group.migrations.get(name, ()), "migrations"),
                **_mean([one.involuntary_switches / len(one.walls_s) for one in batches], "involuntary"),
                **_mean([one.voluntary_switches / len(one.walls_s) for one in batches], "voluntary"),
            }

        return self._table(counted)

    def costs(self) -> pd.DataFrame:
        """Return what a move to another CPU costs, one row for each kind of command.

        Returns:
            ``kind``; ``alone_ms`` and ``moved_ms``, CPU time of a command; ``migrations`` of a moved one; ``cost_us``, CPU time
            that one more move cost, with ``low`` and ``high``. Empty where it was not measured.
        """
        import pandas as pd

        rows = []
        for one in self.sensitivity:
            alone, moved = (estimate(one.trials.values(name), resamples=9).median for name in (ALONE, MOVED))
            moves = [
                count
                for trial, count in zip(one.trials.trials, one.migrations, strict=True)
                if trial.condition == MOVED and not trial.warm_up
            ]
            cost = _estimated([1e6 * value for value in one.cost_s()])
            row = {"alone_ms": 1000 * alone, "moved_ms": 1000 * moved, "migrations": statistics.fmean(moves)}
            rows.append({"kind": one.kind, **row, "cost_us": cost["median"], "low": cost["low"], "high": cost["high"]})
        return pd.DataFrame(rows, columns=["kind", "alone_ms", "moved_ms", "migrations", "cost_us", "low", "high"])

    def suggestion(self, kind: str | None = None) -> dict[str, Any]:
        """Return the change of ``RunSettings`` that is shown to help; empty where none is.

        A way of pinning is suggested when it is shown to run more commands per second in one state of the machine at
        least, and fewer in none.

        Args:
            kind: For this kind of command alone; None for all kinds together.
        """
        table = self._throughput
        chosen = table if kind is None else table[table["kind"] == kind]
        gains: dict[str, float] = {}
        for name, part in chosen[chosen["pin"] != NONE].groupby("pin", sort=False):
            if "better" in set(part["verdict"]) and "worse" not in set(part["verdict"]):
                gains[str(name)] = math.prod(part["ratio"])
        return {"pin": max(gains, key=lambda name: gains[name])} if gains else {}

    def advice(self) -> str:
        """Return in words what to set on this machine, as a change of ``RunSettings``."""
        change = self.suggestion()
        if change:
            return f"Set {change} in RunSettings: {self._where(change['pin'], 'better')}."
        some = {kind: own["pin"] for kind in self._kinds() if (own := self.suggestion(kind))}
        if some:
            return " ".join(
                f"For commands like {kind} set {{'pin': {pin!r}}}: {self._where(pin, 'better', kind)}; others are not helped."
                for kind, pin in some.items()
            )
        if len(self.policies) == 1:
            return "All ways of pinning come to the same here: leave pin as it is."
        return "No way of pinning is shown to run more commands than none without running fewer elsewhere: leave pin as it is."

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what ran, never about how fast."""
        frame = self.frame
        in_block = frame.groupby(["kind", "state", "block"])["condition"].nunique()
        effects = [effect for group in self.groups for effect in group.effects.values()]
        contended = [group for group in self.groups if group.state == CONTENDED]
        return {
            "both kinds ran idle and contended": {(group.kind, group.state) for group in self.groups}
            == set(itertools.product(KINDS, STATES)),
            "every command ended with status 0": not frame["failed"].any(),
            "every way of pinning ran once in every block": bool((in_block == frame["condition"].nunique()).all()),
            "commands had exactly the CPUs of their worker": all(self.in_force.values()) and bool(self.in_force),
            "counted commands ended on a CPU of their worker": all(group.kept for group in self.groups),
            "as many children spun as CPUs were to be had, all the time": all(
                group.spinners_ran and group.spinners == len(self.policies[0].sets[0]) for group in contended
            ),
            "every interval holds its estimate": all(one.low <= one.ratio <= one.high for one in effects),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        effect = None
        for group in self.groups:  # the last one with effects: contended rather than idle
            if group.kind == SORT and group.effects:
                effect = next(iter(group.effects.values()))
        sentence = " ".join(filter(None, [self._tally(), self._slowed(), self.advice()]))
        return {
            "title": "Pinning commands to CPUs",
            "sentence": sentence,
            "effect": effect.to_dict() if effect else None,
            "picture_alt": self.throughput_alt(),
        }

    def throughput_alt(self) -> str:
        """Return the figure of throughput in words."""
        return "Commands per second by way of pinning. " + self._said(
            self._throughput, lambda row: f"{row['median']:.3g}"
        )

    def tails_alt(self) -> str:
        """Return the figure of single commands' times in words."""
        return "Wall time of single commands, median and 99th percentile, ms. " + self._said(
            self._tails, lambda row: f"{row['p50_ms']:.3g} and {row['p99_ms']:.3g}"
        )

    def moves_alt(self) -> str:
        """Return the figure of migrations and switches in words."""
        return "Migrations and involuntary switches per command. " + self._said(
            self.moves(),
            lambda row: (
                f"{'unknown' if math.isnan(row['migrations']) else format(row['migrations'], '.2g')} and "
                f"{row['involuntary']:.2g}"
            ),
        )

    def details(self) -> str:
        """Return what every comparison showed, what was run, and what made it noisy, as text of 88 columns."""
        blocks = sum(group.trials.blocks for group in self.groups)
        shown = [self.advice(), *self._comparisons(), *self._costs_in_words()]
        shown += [f"{self.workers} workers, {len(self.groups)} measurements, {blocks} blocks", *self.notes]
        shown += [f"not recorded: {self.unrecorded}"] * bool(self.unrecorded)
        shown += [f"noise: {warning}" for warning in self.warnings]
        return "\n".join(textwrap.fill(line, 88, subsequent_indent="    ") for line in shown)

    def record(self, data_dir: str | Path) -> Path:
        """Keep the values and the effects in a folder of recorded runs, and return the file.

        Raises:
            RecordError: It cannot be written.
        """
        from procbench.lab.store import Store

        effects = [effect for group in self.groups for effect in group.effects.values()]
        return Store(Path(data_dir)).record(
            self.frame, experiment=EXPERIMENT, host=self.host, parameters=self.parameters, effects=effects
        )

    def _table(self, values: _Values, effect: Callable[[Group, str], Effect] | None = None) -> pd.DataFrame:
        """Return one row for each kind, state and way of pinning, with its values and its effect."""
        import pandas as pd

        rows = []
        for group in self.groups:
            for name in group.conditions():
                gain = {} if effect is None else _ratio(None if name == NONE else effect(group, name))
                rows.append({"kind": group.kind, "state": group.state, "pin": name, **values(group, name), **gain})
        return pd.DataFrame(rows)

    def _kinds(self) -> list[str]:
        return [kind for kind in KINDS if any(group.kind == kind for group in self.groups)]

    def _where(self, pin: str, verdict: str, kind: str | None = None) -> str:
        """Return the comparisons in which a way of pinning did better or worse."""
        rows = [row for row in _rows(self._throughput) if row["pin"] == pin and row["verdict"] == verdict]
        return ", ".join(
            f"{row['ratio']:.2f} times as many {row['kind']} per second {row['state']}"
            for row in rows
            if kind in (None, row["kind"])
        )

    def _tally(self) -> str:
        """Return how the comparisons of throughput came out."""
        table = self._throughput
        compared = table[table["pin"] != NONE]
        if compared.empty:
            return "On this machine all ways of pinning give workers the same CPUs as none."
        parts = []
        for pin, part in compared.groupby("pin", sort=False):
            counts = part["verdict"].value_counts()
            words = [f"{counts[verdict]} {verdict}" for verdict in ("better", "worse") if verdict in counts]
            rest = len(part) - sum(counts.get(verdict, 0) for verdict in ("better", "worse"))
            words += [f"no difference shown in {rest}"] if rest else []
            parts.append(f"{pin}: {', '.join(words)}")
        per = len(compared) // compared["pin"].nunique()
        return f"Commands per second against no pinning, {per} comparisons each: {'; '.join(parts)}."

    def _slowed(self) -> str:
        """Return what the spinning children did to the tail without pinning."""
        tails = {(row["kind"], row["state"]): row for row in _rows(self._tails) if row["pin"] == NONE}
        idle, contended = tails.get((SORT, IDLE)), tails.get((SORT, CONTENDED))
        if idle is None or contended is None:
            return ""
        return (
            f"A spinning child for each CPU takes the 99th percentile of {SORT} from {idle['p99_ms']:.3g} to "
            f"{contended['p99_ms']:.3g} ms without pinning."
        )

    def _comparisons(self) -> list[str]:
        """Return what every comparison showed."""
        lines = []
        for throughput, tail in zip(_rows(self._throughput), _rows(self._tails), strict=True):
            if throughput["pin"] != NONE:
                rate = f"{_effect_text(throughput)} as many per second ({throughput['verdict']})"
                slow = f"95th percentile {_effect_text(tail)} as short ({tail['verdict']})"
                lines.append(f"{throughput['kind']}, {throughput['state']}, {throughput['pin']}: {rate}; {slow}")
        return lines

    def _costs_in_words(self) -> list[str]:
        lines = []
        for row in _rows(self.costs()):
            interval = f" [{row['low']:.3g}, {row['high']:.3g}]" if math.isfinite(row["low"]) else ""
            shown = "" if row["low"] > 0 else ", which noise alone could explain"
            lines.append(f"a forced move costs {row['kind']} {row['cost_us']:.3g}{interval} µs of CPU time{shown}")
        return lines

    def _tail_effect(self, group: Group, name: str) -> Effect:
        values = {
            condition: [_quantile(batch.walls_s, _QUANTILES["p95_ms"]) for batch in group.of(condition)]
            for condition in (NONE, NONE + AGAIN, name)
        }
        return paired_effect(
            values[NONE],
            values[name],
            larger_is_better=False,
            noise_floor=noise_floor(values[NONE], values[NONE + AGAIN]),
            condition_name=name,
            baseline_name=NONE,
        )

    def _said(self, table: pd.DataFrame, words: Callable[[dict[Any, Any]], str]) -> str:
        """Return a table in words, a sentence for each kind and state."""
        parts = [
            f"{kind}, {state}: " + ", ".join(f"{row['pin']} {words(row)}" for row in _rows(part)) + "."
            for (kind, state), part in table.groupby(["kind", "state"], sort=False)
        ]
        return " ".join(parts)


_Values = Callable[[Group, str], Mapping[str, float]]


def _estimated(values: Sequence[float]) -> dict[str, float]:
    """Return median and interval, as columns; unknown is missing."""
    if not values:
        return dict.fromkeys(("median", "low", "high"), math.nan)
    found = estimate(values)
    return {"median": found.median, "low": known(found.low), "high": known(found.high)}


def _mean(counts: Sequence[float], name: str) -> dict[str, float]:
    """Return mean and 95 % interval of counts, as columns; unknown is missing."""
    columns = (name, f"{name}_low", f"{name}_high")
    if not counts or not all(map(math.isfinite, counts)):
        return dict.fromkeys(columns, math.nan)
    mean, number, reach = statistics.fmean(counts), len(counts), math.nan
    if number >= fewest_blocks():
        from scipy.special import stdtrit

        reach = float(stdtrit(number - 1, 0.975)) * statistics.stdev(counts) / math.sqrt(number)
    return dict(zip(columns, (mean, max(0.0, mean - reach) if reach >= 0 else reach, mean + reach), strict=True))


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _ratio(effect: Effect | None) -> dict[str, Any]:
    if effect is None:
        unknown = dict.fromkeys(("ratio", "ratio_low", "ratio_high"), math.nan)
        return {**unknown, "noise_floor": None, "verdict": "the baseline"}
    ends = (effect.low, effect.high) if math.isfinite(effect.half_width) else (math.nan, math.nan)
    return {
        "ratio": effect.ratio,
        "ratio_low": ends[0],
        "ratio_high": ends[1],
        "noise_floor": effect.noise_floor,
        "verdict": effect.verdict,
    }


def _effect_text(row: Mapping[str, Any]) -> str:
    interval = f" [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]" if math.isfinite(row["ratio_low"]) else ""
    return f"{row['ratio']:.2f}{interval} times"


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")
