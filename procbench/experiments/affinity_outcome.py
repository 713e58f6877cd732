"""What the affinity experiment found: throughput, tail latency and moves by way of pinning, and what to set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from procbench.analysis.statistics import Effect
from procbench.experiments import affinity_tables as tables
from procbench.experiments.affinity_groups import CONTENDED, IDLE, KINDS, NONE, SORT, STATES, Group, Policy, Sensitivity
from procbench.experiments.columns import rows
from procbench.experiments.outcome import Outcome
from procbench.experiments.words import details_text, with_interval

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class AffinityResult(Outcome):
    """What pinning did to commands.

    Attributes:
        groups: The measurements, one for each kind of command and state of the machine.
        sensitivity: How sensitive to moves each kind is; empty where that cannot be measured.
        policies: The ways of pinning that differ here.
        in_force: By way, whether commands had exactly their worker's CPUs, as they themselves read it.
        workers: Commands at a time.
    """

    experiment = "affinity"

    groups: tuple[Group, ...]
    sensitivity: tuple[Sensitivity, ...]
    policies: tuple[Policy, ...]
    in_force: Mapping[str, bool]
    workers: int

    @property
    def frame(self) -> pd.DataFrame:
        """Every trial; see :func:`procbench.experiments.affinity_tables.trials`."""
        return tables.trials(self.groups)

    @cached_property
    def throughput(self) -> pd.DataFrame:
        """How many commands ran per second; see :func:`procbench.experiments.affinity_tables.throughput`."""
        return tables.throughput(self.groups, self.policies)

    @cached_property
    def tails(self) -> pd.DataFrame:
        """How long single commands took; see :func:`procbench.experiments.affinity_tables.tails`."""
        return tables.tails(self.groups, self.policies)

    @cached_property
    def moves(self) -> pd.DataFrame:
        """How often commands were moved and interrupted; see :func:`procbench.experiments.affinity_tables.moves`."""
        return tables.moves(self.groups, self.policies)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What a move costs; see :func:`procbench.experiments.affinity_tables.costs`."""
        return tables.costs(self.sensitivity)

    def suggestion(self, kind: str | None = None) -> dict[str, Any]:
        """Return the change of ``RunSettings`` that is shown to help; empty where none is.

        A way of pinning is suggested when it is shown to run more commands per second in one state of the machine at
        least, and fewer in none.

        Args:
            kind: For this kind of command alone; None for all kinds together.
        """
        table = self.throughput
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
            return f"Set {change} in RunSettings: {self._where(change['pin'])}."
        some = {kind: own["pin"] for kind in KINDS if (own := self.suggestion(kind))}
        if some:
            parts = [
                f"for commands like {kind} {{'pin': {pin!r}}}, {self._where(pin, kind)}" for kind, pin in some.items()
            ]
            return f"Set in RunSettings {'; '.join(parts)}. It is not shown to help without harm for other commands."
        if len(self.policies) == 1:
            return "All ways of pinning come to the same here: leave pin as it is."
        if "better" in set(self.throughput["verdict"]):
            return "Each way of pinning that helps in one comparison harms in another: leave pin as it is."
        return "No way of pinning is shown to run more commands per second than none: leave pin as it is."

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what ran, never about how fast."""
        frame = self.frame
        in_block = frame.groupby(["kind", "state", "block"])["condition"].agg(["nunique", "size"])
        effects = self.compared()
        contended = [group for group in self.groups if group.state == CONTENDED]
        return {
            "both kinds ran idle and contended": {(group.kind, group.state) for group in self.groups}
            == set(itertools.product(KINDS, STATES)),
            "every command ended with status 0": not frame["failed"].any(),
            "every way of pinning ran once in every block": bool(
                (in_block == frame["condition"].nunique()).all(axis=None)
            ),
            "commands had exactly the CPUs of their worker": all(self.in_force.values()) and bool(self.in_force),
            "counted commands ended on a CPU of their worker": all(group.kept for group in self.groups),
            "a child spun for each CPU to be had, all the time": all(
                group.spinners_ran and group.spinners == self.host.usable_workers for group in contended
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
            self.throughput, lambda row: f"{row['median']:.3g}"
        )

    def tails_alt(self) -> str:
        """Return the figure of single commands' times in words."""
        return "Wall time of single commands, median and 99th percentile, ms. " + self._said(
            self.tails, lambda row: f"{row['p50_ms']:.3g} and {row['p99_ms']:.3g}"
        )

    def moves_alt(self) -> str:
        """Return the figure of migrations and switches in words."""
        return "Migrations and involuntary switches per command. " + self._said(
            self.moves,
            lambda row: (
                f"{'unknown' if math.isnan(row['migrations']) else format(row['migrations'], '.2g')} and "
                f"{row['involuntary']:.2g}"
            ),
        )

    def details(self) -> str:
        """Return what every comparison showed, what was run, and what made it noisy, as text of 88 columns."""
        blocks = sum(group.trials.blocks for group in self.groups)
        shown = [self.advice(), *self._comparisons(), *self._costs_in_words()]
        shown += [
            f"{self.workers} worker{'s' * (self.workers > 1)}, {len(self.groups)} measurements, {blocks} blocks",
            *self.notes,
        ]
        return details_text(shown, self.warnings)

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values: those of all groups."""
        return [effect for group in self.groups for effect in group.effects.values()]

    def _where(self, pin: str, kind: str | None = None) -> str:
        """Return the comparisons in which a way of pinning did better."""
        chosen = [row for row in rows(self.throughput) if row["pin"] == pin and row["verdict"] == "better"]
        return ", ".join(
            f"{row['ratio']:.2f} times as many per second of {row['kind']} {row['state']}"
            for row in chosen
            if kind in (None, row["kind"])
        )

    def _tally(self) -> str:
        """Return how the comparisons of throughput came out."""
        table = self.throughput
        compared = table[table["pin"] != NONE]
        if compared.empty:
            return "On this machine all ways of pinning give workers the same CPUs as none."
        parts = []
        for label, part in compared.groupby("label", sort=False):
            counts = part["verdict"].value_counts()
            words = [f"{counts[verdict]} {verdict}" for verdict in ("better", "worse") if verdict in counts]
            rest = len(part) - sum(counts.get(verdict, 0) for verdict in ("better", "worse"))
            words += [f"no difference shown in {rest}"] if rest else []
            parts.append(f"{label}: {', '.join(words)}")
        per = len(compared) // compared["pin"].nunique()
        return f"Commands per second against no pinning, {per} comparisons each: {'; '.join(parts)}."

    def _slowed(self) -> str:
        """Return what the spinning children did to the tail without pinning."""
        tails = {(row["kind"], row["state"]): row for row in rows(self.tails) if row["pin"] == NONE}
        idle, contended = tails.get((SORT, IDLE)), tails.get((SORT, CONTENDED))
        if idle is None or contended is None:
            return ""
        return (
            f"A spinning child for each CPU takes the 99th percentile of {SORT}'s wall time from {idle['p99_ms']:.3g} to "
            f"{contended['p99_ms']:.3g} ms without pinning."
        )

    def _comparisons(self) -> list[str]:
        """Return what every comparison showed."""
        lines = []
        for throughput, tail in zip(rows(self.throughput), rows(self.tails), strict=True):
            if throughput["pin"] != NONE:
                rate = f"{_effect_text(throughput)} as many per second ({throughput['verdict']})"
                slow = f"95th percentile {_effect_text(tail)} as short ({tail['verdict']})"
                floor = throughput["noise_floor"]
                noise = f"noise floor {100 * floor:.2g} %" if math.isfinite(floor) else "noise floor unknown"
                lines.append(
                    f"{throughput['kind']}, {throughput['state']}, {throughput['pin']}: {rate}, {noise}; {slow}"
                )
        return lines

    def _costs_in_words(self) -> list[str]:
        lines = []
        for row in rows(self.costs):
            cost = (
                f"{with_interval(row['cost_us'], row['low'], row['high'], 0) or 'an unknown number of'} µs of CPU time"
            )
            unsure = "noise alone could explain it" if math.isfinite(row["low"]) else "too few blocks for an interval"
            shown = "" if row["low"] > 0 else f" ({unsure})"
            lines.append(f"a forced move costs {row['kind']} {cost}{shown}")
        return lines

    def _said(self, table: pd.DataFrame, words: Callable[[dict[Any, Any]], str]) -> str:
        """Return a table in words, a sentence for each kind and state."""
        parts = [
            f"{kind}, {state}: " + ", ".join(f"{row['pin']} {words(row)}" for row in rows(part)) + "."
            for (kind, state), part in table.groupby(["kind", "state"], sort=False)
        ]
        return " ".join(parts)


def _effect_text(row: Mapping[str, Any]) -> str:
    return f"{with_interval(row['ratio'], row['ratio_low'], row['ratio_high'], 2)} times"
