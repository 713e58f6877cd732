"""What the priority experiment found: shares, latenesses and waits, with what the kernel or the settings promise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from procbench.analysis.samples import estimate
from procbench.analysis.statistics import Effect, paired_effect
from procbench.experiments.columns import known, rows
from procbench.experiments.outcome import Outcome
from procbench.experiments.priority_intervals import mean_interval, share_interval, tail_interval
from procbench.experiments.priority_shares import IDLE, LimitedShares, PairShares
from procbench.experiments.priority_waits import CLASSES_UP, Lateness, Starvation
from procbench.experiments.words import details_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PriorityResult(Outcome):
    """Who got how much of a CPU, and who waited how long.

    Attributes:
        pairs: What a child got beside one of this process's own nice value, from the least nice to the idle class.
        lateness: By how much sleepers woke late, by policy.
        left_out: For each policy that this user may not have, the reason.
        limits: What a child got under a CPU limit.
        starvation: How long low tasks waited, without and with ageing.
    """

    experiment = "priority"

    pairs: tuple[PairShares, ...]
    lateness: tuple[Lateness, ...]
    left_out: Mapping[str, str]
    limits: tuple[LimitedShares, ...]
    starvation: tuple[Starvation, Starvation]

    @property
    def frame(self) -> pd.DataFrame:
        """Every value: ``quantity`` with its unit, ``condition``, ``block`` (window or repetition, from 0), ``value``."""
        import pandas as pd

        found: list[tuple[str, str, int, float]] = []
        for pair in self.pairs:
            found += [("CPUs of the child", pair.name, *one) for one in enumerate(pair.cpus)]
            found += [("CPUs of the other child", pair.name, *one) for one in enumerate(pair.first_cpus)]
        for one in self.lateness:
            for block, late in enumerate(one.blocks_ns):
                found += [("lateness (ns)", one.name, block, value) for value in late]
        for limit in self.limits:
            found += [("CPUs under a limit", limit.name, *one) for one in enumerate(limit.cpus)]
        for two in self.starvation:
            for block, waits in enumerate(two.waits_s):
                found += [("wait of a low task (s)", two.name, block, value) for value in waits]
        return pd.DataFrame(found, columns=["quantity", "condition", "block", "value"])

    def shares(self) -> pd.DataFrame:
        """Return one row per pair.

        Returns:
            ``pair``, ``nice`` (missing for the idle class); ``share``, 0 to 1, with ``low`` and ``high``; ``expected`` by the
            kernel's weights, ``of_kernel``, the share by that; ``other_cpus``, what the other child had; ``total_s``.
        """
        import pandas as pd

        found = []
        for pair in self.pairs:
            share, low, high = share_interval(pair.cpus, pair.first_cpus)
            row = {"pair": pair.name, "nice": math.nan if pair.nice is None else pair.nice, "share": share}
            ends = {"low": low, "high": high, "expected": pair.expected, "of_kernel": share / pair.expected}
            rest = {"other_cpus": statistics.fmean(pair.first_cpus), "total_s": len(pair.cpus) * pair.window_s}
            found.append({**row, **ends, **rest})
        return pd.DataFrame(found)

    def wake_ups(self) -> pd.DataFrame:
        """Return one row per policy and state of the CPU.

        Returns:
            ``condition``, ``policy``, ``beside``, ``samples``; ``p50_us`` and ``p99_us``, the lateness in microseconds, with
            ``_low`` and ``_high``, missing where there were too few; ``ratio``, how many times as late as ``other`` beside
            the busy child, with ``ratio_low`` and ``ratio_high``.
        """
        import pandas as pd

        found = []
        effects = {effect.condition: effect for effect in self.lateness_effects()}
        for one in self.lateness:
            p50 = estimate(_block_medians(one))
            middle = {
                "p50_us": p50.median / 1e3,
                "p50_us_low": known(p50.low) / 1e3,
                "p50_us_high": known(p50.high) / 1e3,
            }
            value, low, high = tail_interval([value for block in one.blocks_ns for value in block])
            tail = {"p99_us": value / 1e3, "p99_us_low": low / 1e3, "p99_us_high": high / 1e3}
            effect = effects.get(one.name)
            ratio = {"ratio": math.nan, "ratio_low": math.nan, "ratio_high": math.nan}
            if effect is not None and math.isfinite(effect.half_width):
                # An effect says how many times better it is; here it is said how many times as late.
                ratio = {"ratio": 1 / effect.ratio, "ratio_low": 1 / effect.high, "ratio_high": 1 / effect.low}
            facts = {"condition": one.name, "policy": one.policy, "beside": one.beside}
            found.append({**facts, "samples": sum(map(len, one.blocks_ns)), **middle, **tail, **ratio})
        return pd.DataFrame(found)

    def limited(self) -> pd.DataFrame:
        """Return one row per mechanism and limit.

        Returns:
            ``mechanism``, ``limit``; ``cpus``, what was had on average, with ``low`` and ``high``; ``of_limit``, that by the
            limit; ``total_s``.
        """
        import pandas as pd

        found = []
        for one in self.limits:
            cpus, low, high = mean_interval(one.cpus)
            ends = {
                "low": max(0.0, low),
                "high": high,
                "of_limit": cpus / one.limit,
                "total_s": len(one.cpus) * one.window_s,
            }
            found.append({"mechanism": one.mechanism, "limit": one.limit, "cpus": cpus, **ends})
        return pd.DataFrame(found)

    def waits(self) -> pd.DataFrame:
        """Return one row per low task.

        Returns:
            ``ageing`` in words, ``ageing_s``, ``repetition``, ``wait_s``, ``stream_s``, how long the stream lasted, and
            ``bound_s``, missing without ageing.
        """
        import pandas as pd

        found = []
        for two in self.starvation:
            bound_s = math.nan if two.ageing_s is None else CLASSES_UP * two.ageing_s
            for repetition, waits in enumerate(two.waits_s):
                facts = {"ageing": two.name, "ageing_s": two.ageing_s, "repetition": repetition}
                rest = {"stream_s": two.stream_s[repetition], "bound_s": bound_s}
                found += [{**facts, "wait_s": wait_s, **rest} for wait_s in waits]
        return pd.DataFrame(found)

    def share_effects(self) -> list[Effect]:
        """Compare what the other child of each pair had with what it had beside a child like itself."""
        baseline, *others = self.pairs
        return [
            paired_effect(
                _above_nothing(baseline.first_cpus),
                _above_nothing(pair.first_cpus),
                larger_is_better=True,
                condition_name=f"beside {pair.name}",
                baseline_name=f"beside {baseline.name}",
            )
            for pair in others
        ]

    def lateness_effects(self) -> list[Effect]:
        """Compare each policy's middle lateness with that of ``other`` beside the busy child."""
        baseline = next(one for one in self.lateness if one.policy == "other" and one.beside)
        return [
            paired_effect(
                _block_medians(baseline),
                _block_medians(one),
                larger_is_better=False,
                condition_name=one.name,
                baseline_name=baseline.name,
            )
            for one in self.lateness
            if one is not baseline
        ]

    def suggestion(self) -> dict[str, Any]:
        """Return the change of ``RunSettings`` that is shown to leave the CPU to others; empty where none is."""
        idle = next(effect for effect in self.share_effects() if effect.condition.endswith(IDLE))
        return {"policy": "idle"} if idle.verdict == "better" else {}

    def advice(self) -> str:
        """Return in words what to set on this machine."""
        table = self.shares()
        idle, nicest = table.iloc[-1], table.iloc[-2]
        if not self.suggestion():
            words = "Neither a nice value nor the idle class is shown to leave others more of a CPU here."
        else:
            words = (
                "For commands that may wait long set policy='idle' in RunSettings: beside a busy child it took "
                f"{_percent(idle['share'])} of the CPU; {nicest['pair']} took {_percent(nicest['share'])}."
            )
        ways = ", ".join(dict.fromkeys(one.mechanism for one in self.limits))
        return f"{words} A cpu_limit is kept here by: {ways}."

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what ran and who came first, never about how fast."""
        without, with_ageing = self.starvation
        effects = self.compared()
        return {
            "every pair used its CPU": all(sum(pair.first_cpus) > 0 for pair in self.pairs),
            "a nicer child never got more than the other": all(
                sum(pair.cpus) < sum(pair.first_cpus) for pair in self.pairs[1:]
            ),
            "every policy was measured or left out by name": {one.policy for one in self.lateness} | set(self.left_out)
            == {"fifo", "other", "batch", "idle"},
            "a CPU limit was kept by every mechanism there is": {"duty cycle"}
            <= {one.mechanism for one in self.limits},
            "without ageing low tasks waited for the end of the stream": without.in_order,
            "with ageing nothing overtook a low task once it was old": with_ageing.in_order,
            "every interval holds its estimate": all(one.low <= one.ratio <= one.high for one in effects),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        table = self.shares()
        said = ", ".join(
            f"{row['pair']} {_percent(row['share'])} ({_percent(row['expected'])})" for row in rows(table[1:])
        )
        return {
            "title": "Shares of a CPU",
            "sentence": f"Beside a busy child, and by the kernel's weights: {said}. {self.advice()}",
            "effect": self.share_effects()[-2].to_dict(),
            "picture_alt": self.shares_alt(),
        }

    def shares_alt(self) -> str:
        """Return the figure of shares in words."""
        parts = [
            f"{row['pair']} {_percent(row['share'])} of {_percent(row['expected'])}" for row in rows(self.shares())
        ]
        return f"Share of a CPU beside a busy child, measured and by the kernel's weights: {', '.join(parts)}."

    def wake_ups_alt(self) -> str:
        """Return the figure of latenesses in words."""
        parts = [
            f"{row['condition']} {_microseconds(row['p50_us'])}, {_microseconds(row['p99_us'])}"
            for row in rows(self.wake_ups())
        ]
        return f"By how much a sleeper woke late, median and 99th percentile: {'; '.join(parts)}."

    def limited_alt(self) -> str:
        """Return the figure of CPU limits in words."""
        parts = [f"{row['mechanism']} {row['cpus']:.3f} of {row['limit']:g}" for row in rows(self.limited())]
        return f"CPUs used under a limit: {', '.join(parts)}."

    def waits_alt(self) -> str:
        """Return the figure of waiting low tasks in words."""
        without, with_ageing = (max(max(waits) for waits in two.waits_s) for two in self.starvation)
        bound_s = CLASSES_UP * (self.starvation[1].ageing_s or 0)
        return (
            f"Waits of low tasks behind a stream of high ones: up to {without:.3f} s without ageing, until the stream ended; "
            f"up to {with_ageing:.3f} s with ageing, whose bound is {bound_s:.2f} s."
        )

    def details(self) -> str:
        """Return what to set, what was left out and what made it noisy, as text of 88 columns."""
        high = [sum(two.high_commands) for two in self.starvation]
        lines = [self.advice(), f"high commands in the streams: {high[0]} without ageing, {high[1]} with"]
        lines += [f"{policy}: left out, {reason}" for policy, reason in self.left_out.items()]
        return details_text([*lines, *self.notes], self.warnings)

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values: those of shares and of latenesses."""
        return [*self.share_effects(), *self.lateness_effects()]


def _block_medians(one: Lateness) -> list[float]:
    """Return the middle lateness of each block; at least a nanosecond, the least that is counted."""
    return [max(1.0, statistics.median(block)) for block in one.blocks_ns]


def _above_nothing(cpus: Sequence[float]) -> list[float]:
    """Return the values for comparing; a child that had no turn in a window counts as having had next to nothing."""
    return [max(1e-6, value) for value in cpus]


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _microseconds(value: float) -> str:
    return f"{value / 1e3:.3g} ms" if value >= 1e3 else f"{value:.3g} µs"
