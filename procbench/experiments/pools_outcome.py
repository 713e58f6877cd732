"""What the pools experiment found: every value, the effects, and what to set on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from procbench.analysis.statistics import Effect, paired_effect
from procbench.experiments.columns import estimated, known, rows
from procbench.experiments.outcome import Outcome
from procbench.experiments.words import details_text, size_text, with_interval
from procbench.lab.results import AGAIN, Trials
from procbench.memory.buffers import DEFAULT_SIZE_BYTES, BufferPoolStatistics

if TYPE_CHECKING:
    import pandas as pd

POOL = "pool"
UNZEROED = "numpy.empty"


def condition_name(way: str, size_bytes: int, threads: int) -> str:
    """Return what a condition of the acquiring part is called."""
    return f"{way}, {size_text(size_bytes)}, {threads} thread{'s' * (threads > 1)}"


@dataclass(frozen=True)
class PoolsResult(Outcome):
    """What memory costs by the way of getting it, and output by the size of the buffer it is read into.

    Attributes:
        frame: One row per trial: the columns of :meth:`Trials.frame`, the factors, and ``quantity``, what ``value`` is.
        acquiring: The trials of getting memory; a value is the median of a trial's times, in ns.
        reading: The trials of reading a command's output; a value is in s.
        latencies_ns: By condition every single time to get memory, warm-up included.
        faults: ``way``, ``size_bytes``, ``faults`` and ``use_us`` of one use that writes to every page.
        hits: ``capacity``, ``borrowers``, ``hit_rate``, ``mean_acquire_us``, ``p99_acquire_us``.
        backings: ``backing``, ``make_ms``, ``first_use_ms``, ``first_use_faults``, ``huge_share``, ``fallbacks``.
        idle: ``elapsed_s``, ``pools``, ``out_is_there``, ``used_is_there``, ``max_idle_s``.
        balance: How the measured pools stood at the end.
    """

    experiment = "pools"

    frame: pd.DataFrame
    acquiring: Trials
    reading: Trials
    latencies_ns: Mapping[str, list[int]]
    faults: pd.DataFrame
    hits: pd.DataFrame
    backings: pd.DataFrame
    idle: pd.DataFrame
    balance: tuple[BufferPoolStatistics, ...]

    def summary(self) -> pd.DataFrame:
        """Return one row per way, size and number of threads.

        Returns:
            ``way``, ``size_bytes``, ``threads``; ``median_ns`` with ``low_ns`` to ``high_ns``; ``p99_ns`` of the single
            times; ``ratio``, how many times as quick the pool is, with ``ratio_low`` and ``ratio_high``.
        """
        import pandas as pd

        found = []
        for name, factors in self.acquiring.factors.items():
            if name.endswith(AGAIN):
                continue
            ratio, single = self.effect(name), sorted(self.latencies_ns[name])
            times = {**estimated(self.acquiring.values(name), "_ns"), "p99_ns": single[len(single) * 99 // 100]}
            gain = {"ratio": ratio.ratio, "ratio_low": ratio.low, "ratio_high": known(ratio.high)}
            found.append({**factors, **times, **gain})
        return pd.DataFrame(found)

    def effect(self, peer: str) -> Effect:
        """Return how many times as quickly as this condition the pool gives a buffer of the same size."""
        factors = self.acquiring.factors[peer]
        own = condition_name(POOL, factors["size_bytes"], factors["threads"])
        return paired_effect(
            self.acquiring.values(peer),
            self.acquiring.values(own),
            larger_is_better=False,
            noise_floor=self.acquiring.noise_floor,
            condition_name=own,
            baseline_name=peer,
        )

    def reads(self) -> pd.DataFrame:
        """Return one row per buffer size: ``buffer_size_bytes``, ``median_s``, ``low_s``, ``high_s``, ``verdict``."""
        import pandas as pd

        verdicts = {effect.condition: effect.verdict for effect in self.reading.effects()}
        found = []
        for name, factors in self.reading.factors.items():
            if not name.endswith(AGAIN):
                times = estimated(self.reading.values(name), "_s")
                found.append({**factors, **times, "verdict": verdicts.get(name, "the default")})
        return pd.DataFrame(found)

    def suggestion(self) -> dict[str, Any]:
        """Return the change of ``RunSettings`` that the data show to be better; empty where they show none."""
        better = [effect for effect in self.reading.effects() if effect.verdict == "better"]
        if not better:
            return {}
        best = max(better, key=lambda effect: effect.ratio)
        return {"buffer_size_bytes": int(self.reading.factors[best.condition]["buffer_size_bytes"])}

    def suggestion_words(self) -> str:
        """Return what to set on this machine, in words."""
        change = self.suggestion()
        if not change:
            return (
                f"Leave buffer_size_bytes at {DEFAULT_SIZE_BYTES}: no other size was shown to read output faster "
                "than noise alone could explain."
            )
        effect = next(one for one in self.reading.effects() if one.condition == f"{change['buffer_size_bytes']} B")
        return f"Set {change}: output was read {effect} as fast as with {DEFAULT_SIZE_BYTES}."

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what ran, never about how fast."""
        effects = [*self.reading.effects(), *filter(None, [self.acquiring.aa_effect(), self.reading.aa_effect()])]
        pooled = self.faults[self.faults["way"] == POOL]
        return {
            "every buffer came back": all(one.available == one.capacity for one in self.balance),
            "no buffer was forgotten": not any(one.forgotten for one in self.balance),
            "a pooled buffer that was used before costs no page fault": bool((pooled["faults"] == 0).all()),
            "with a buffer for each borrower every request was a hit": bool(self.hits["hit_rate"].iloc[-1] == 1),
            "clean-up took the idle pools alone": bool(
                self.idle["out_is_there"].all()
                and self.idle["used_is_there"].all()
                and self.idle["pools"].iloc[-1] == 2
            ),
            "every interval holds its estimate": all(one.low <= one.ratio <= one.high for one in effects),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        largest = max(self.parameters["sizes"])
        effect = self.effect(condition_name("bytearray", largest, 1))
        medians = {
            way: statistics.median(self.acquiring.values(condition_name(way, largest, 1)))
            for way in (POOL, "bytearray", UNZEROED)
        }
        return {
            "title": "Pooled buffers",
            "sentence": (
                f"A pooled buffer of {size_text(largest)} is there in {_time(medians[POOL])}, a new bytearray in "
                f"{_time(medians['bytearray'])}, {UNZEROED} in {_time(medians[UNZEROED])}, which is not zeroed. "
                f"{self.suggestion_words()}"
            ),
            "effect": effect.to_dict(),
            "picture_alt": self.latency_alt(),
        }

    def unzeroed_words(self) -> str:
        """Return in words at which sizes ``numpy.empty`` is cheaper to get than a pooled buffer, and what it lacks."""
        sizes = sorted(self.parameters["sizes"])
        effects = {size: self.effect(condition_name(UNZEROED, size, 1)) for size in sizes}
        cheaper = [size for size in sizes if effects[size].verdict == "worse"]
        if not cheaper:
            return f"{UNZEROED} was not shown to be cheaper to get than a pooled buffer at any size measured here."
        shown = "; ".join(
            f"{size_text(size)}: the pool is {with_interval(one.ratio, one.low, one.high, 2)} times as quick"
            for size, one in effects.items()
            if size in cheaper
        )
        return (
            f"{UNZEROED} is cheaper to get than a pooled buffer at some sizes ({shown}). It is not zeroed, and the C "
            "library hands out again what was just freed. What the pool adds: its pages are faulted in already, their "
            "number is bounded, and they stay at one address."
        )

    def latency_alt(self) -> str:
        """Return the figure of times by size in words."""
        alone = self.summary().query("threads == 1")
        ways = [
            f"{way}: " + ", ".join(f"{size_text(row['size_bytes'])} {_time(row['median_ns'])}" for row in rows(part))
            for way, part in alone.groupby("way", sort=False)
        ]
        return f"Time to get memory by size, one thread. {'; '.join(ways)}."

    def reads_alt(self) -> str:
        """Return the figure of reading by buffer size in words."""
        return "Time to read a command's output by buffer size: " + ", ".join(
            f"{size_text(row['buffer_size_bytes'])} {1000 * row['median_s']:.3g} ms" for row in rows(self.reads())
        )

    def idle_alt(self) -> str:
        """Return the figure of clean-up in words."""
        first, last = self.idle["pools"].iloc[0], self.idle["pools"].iloc[-1]
        gone = self.idle.loc[self.idle["pools"] == last, "elapsed_s"].iloc[0]
        return f"Pools over time: {first} at first, {last} from {gone:.2f} s on; the one with a buffer out stays."

    def details(self) -> str:
        """Return what was run and what made it noisy, as text of 88 columns."""
        lines = [
            f"{word}: {part.blocks} blocks, {part.elapsed_s:.0f} s; ended because of: {part.stopped_because}"
            for word, part in (("acquiring", self.acquiring), ("reading", self.reading))
        ]
        return details_text([*lines, *self.notes], self.warnings)

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values: those of both parts against their baselines."""
        return [*self.acquiring.effects(), *self.reading.effects()]


def _time(ns: float) -> str:
    for unit, factor in (("ms", 1e6), ("µs", 1e3)):
        if ns >= factor:
            return f"{ns / factor:.3g} {unit}"
    return f"{ns:.3g} ns"
