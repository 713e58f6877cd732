"""What the descriptors experiment found: costs by kind and way, batches at the limit, and who forgot what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procbench.analysis.statistics import Effect
from procbench.experiments.columns import estimated, ratio, rows
from procbench.experiments.descriptors_leaks import LeakHunt
from procbench.experiments.descriptors_limit import OFF, PATIENT, SETTINGS, WAIT, Batch
from procbench.experiments.descriptors_ways import ANEW, BARE, KEPT, Account
from procbench.experiments.outcome import Outcome
from procbench.experiments.words import details_text
from procbench.io.fd_held import KINDS, Kind
from procbench.lab.results import AGAIN, Trials

if TYPE_CHECKING:
    import pandas as pd

NAMES: Final[dict[Kind, str]] = {"pipe": "a pipe", "memfd": "a memory file", "null": "/dev/null", "file": "a file"}
"""What sentences call the kinds."""


class Opening(NamedTuple):
    """What it costs to have one kind of descriptor for a moment.

    Attributes:
        kind: Of what; a pipe is both of its ends.
        trials: The values, ns to open and close one; the baseline is ``ANEW``.
    """

    kind: Kind
    trials: Trials


@dataclass(frozen=True)
class DescriptorsResult(Outcome):
    """What descriptors cost, what their limit did, and which were forgotten.

    Attributes:
        openings: The measurements of having one for a moment, one of each kind.
        accounts: What the managers that were measured say of it.
        limited: The measurement of the batches at the limit; a value is in s.
        batches: How each of them went, in the order of the trials.
        leaks: What a program forgot and what was found of it.
    """

    experiment = "descriptors"

    openings: tuple[Opening, ...]
    accounts: tuple[Account, ...]
    limited: Trials
    batches: tuple[Batch, ...]
    leaks: LeakHunt

    @property
    def frame(self) -> pd.DataFrame:
        """Every trial: the columns of :meth:`Trials.frame`, ``kind``, ``way``, ``quantity`` and what became of a batch."""
        import pandas as pd

        opened = [one.trials.frame().assign(quantity="open and close (ns)") for one in self.openings]
        told = {
            name: pd.array([getattr(batch, name) for batch in self.batches], dtype="Int64")
            for name in ("tasks", "done", "refused", "waits", "peak", "limit", "left")
        }
        return pd.concat([*opened, self.limited.frame().assign(quantity="batch (s)", **told)], ignore_index=True)

    @cached_property
    def effects(self) -> dict[Kind, list[Effect]]:
        """Every way against opening anew, by kind; their names say of what they are."""
        from dataclasses import replace

        return {
            one.kind: [
                replace(effect, condition=f"{one.kind}, {effect.condition}", baseline=f"{one.kind}, {effect.baseline}")
                for effect in one.trials.effects()
            ]
            for one in self.openings
        }

    @cached_property
    def _limited_effects(self) -> list[Effect]:
        return self.limited.effects()

    def reuse_effect(self, kind: Kind) -> Effect:
        """Return how many times as quickly one that is kept is there and back as one that is opened anew."""
        return next(effect for effect in self.effects[kind] if effect.condition.endswith(KEPT))

    def costs(self) -> pd.DataFrame:
        """Return one row per kind and way.

        Returns:
            ``kind``, ``way``; ``median_us`` with ``low_us`` to ``high_us``, to open and close one; ``ratio``, how many times as
            quick it is as opening anew, with ``ratio_low``, ``ratio_high``, ``noise_floor`` and ``verdict``;
            ``reused_share``, those that a manager lent again (0 to 1; missing for bare calls).
        """
        import pandas as pd

        reused = {(one.kind, one.way): _reused_share(one) for one in self.accounts}
        found = []
        for kind, trials in self.openings:
            effects = {effect.condition: effect for effect in self.effects[kind]}
            for way in (ANEW, KEPT, BARE):
                times = estimated([value / 1000 for value in trials.values(way)], "_us")
                told = {"kind": kind, "way": way, **times, **ratio(effects.get(f"{kind}, {way}"))}
                found.append({**told, "reused_share": reused.get((kind, way))})
        return pd.DataFrame(found)

    def limits(self) -> pd.DataFrame:
        """Return one row per setting, with the sums over its batches, warm-up included.

        Returns:
            ``way``; ``batches``, ``tasks``, ``done``, ``refused``, ``waits`` (counts); ``peak``, most descriptors seen open at a
            time (missing where unknown), and ``limit``; ``median_s`` with ``low_s`` to ``high_s`` for a batch, which says nothing
            where commands were refused; ``ratio``, how many times as fast as ``WAIT``, with its ends and ``verdict``,
            missing where not all was done.
        """
        import pandas as pd

        effects = {effect.condition: effect for effect in self._limited_effects}
        found = []
        for way in SETTINGS:
            own = [batch for batch in self.batches if batch.way == way]
            done, tasks = sum(batch.done for batch in own), sum(batch.tasks for batch in own)
            counts = {"batches": len(own), "tasks": tasks, "done": done, "refused": sum(one.refused for one in own)}
            peaks = [batch.peak for batch in own if batch.peak is not None]
            peak = {"peak": max(peaks, default=None), "limit": own[0].limit}
            compared = ratio(effects.get(way))
            if done < tasks:
                compared = {**ratio(None), "verdict": "not all was done"}
            times = estimated(self.limited.values(way), "_s")
            found.append({"way": way, **counts, "waits": sum(one.waits for one in own), **peak, **times, **compared})
        return pd.DataFrame(found)

    def forgotten(self) -> pd.DataFrame:
        """Return one row per handle that the manager said was out: ``kind``, ``fd``, ``age_s``, ``where``, the oldest first."""
        import pandas as pd

        found = [(one.kind, one.fd, one.age_s, one.where or "") for one in self.leaks.found]
        return pd.DataFrame(found, columns=["kind", "fd", "age_s", "where"])

    def suggestion(self) -> dict[str, list[Kind]]:
        """Return what to give to ``FileDescriptorManager``: ``reuse``, the kinds of which keeping is shown to pay here."""
        return {"reuse": [kind for kind in KINDS if self.reuse_effect(kind).verdict == "better"]}

    def advice(self) -> str:
        """Return in words what is worth keeping on this machine, with what it does."""
        by_verdict: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
        for kind in KINDS:
            effect = self.reuse_effect(kind)
            by_verdict[effect.verdict].append(f"{NAMES[kind]} {effect.ratio:.2f}x{_interval(effect)}")
        said = {"better": "quicker", "worse": "slower", "no difference shown": "not shown to differ"}
        parts = [f"{said[verdict]} for {', '.join(kinds)}" for verdict, kinds in by_verdict.items() if kinds]
        reuse = tuple(self.suggestion()["reuse"])
        return f"Keeping one instead of opening it anew is {'; '.join(parts)}. Where speed counts: reuse={reuse!r}."

    def limit_words(self) -> str:
        """Return in words what the limit did, by setting."""
        table = {row["way"]: row for row in rows(self.limits())}
        wait, off, patient = (table[way] for way in (WAIT, OFF, PATIENT))
        tried = next(effect for effect in self._limited_effects if effect.condition == PATIENT)
        shown = f"{tried.ratio:.2f}x{_interval(tried)} as fast as 'wait'"
        speed = shown if tried.verdict != "no difference shown" else "in a time that is not shown to differ"
        speed = f", {speed}" if patient["done"] == patient["tasks"] else ""
        return (
            f"With {wait['limit']} descriptors for {self.parameters['workers']} workers, descriptors='wait' did "
            f"{wait['done']:,} of {wait['tasks']:,} commands; 'off' with a single try lost {off['refused']:,} of "
            f"{off['tasks']:,} to EMFILE, and with second tries {patient['refused']:,}{speed}."
        )

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what ran, never about how fast."""
        hunted, batches = self.leaks, self.batches
        waited = [batch for batch in batches if batch.way == WAIT]
        forgotten = {(one.kind, one.fd): one.job for one in hunted.forgotten}
        effects = self.compared()
        measured = [*(one.trials for one in self.openings), self.limited]
        return {
            "with descriptors='wait' every command was done": all(batch.done == batch.tasks for batch in waited),
            "every command was done, or refused for want of a descriptor": all(
                batch.done + batch.refused == batch.tasks for batch in batches
            ),
            "no batch had more descriptors than the limit": all((batch.peak or 0) <= batch.limit for batch in batches),
            "no batch left a descriptor open": not any(batch.left for batch in batches),
            "each forgotten descriptor was found, and no other": (
                bool(forgotten)
                and Counter((one.kind, one.fd) for one in hunted.found)
                == Counter((one.kind, one.fd) for one in hunted.forgotten)
            ),
            "each leak names who took it": all(
                f" in {forgotten.get((one.kind, one.fd), '?')} " in f"{(one.where or '').split(' < ')[0]} "
                for one in hunted.found
            ),
            "what was let go was counted, warned of and closed": (
                hunted.counted == hunted.warned == len(hunted.forgotten) and hunted.still_out == 0
            ),
            "managers closed all that they had opened": all(account.is_settled for account in self.accounts),
            "every way ran once in every block": all(map(_is_whole, measured)),
            "every interval holds its estimate": all(one.low <= one.ratio <= one.high for one in effects),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes.

        The effect is that of the kind for which keeping does most.
        """
        best = max((self.reuse_effect(kind) for kind in KINDS), key=lambda effect: effect.ratio)
        return {
            "title": "Descriptors",
            "sentence": f"{self.advice()} {self.limit_words()}",
            "effect": best.to_dict(),
            "picture_alt": self.costs_alt(),
        }

    def costs_alt(self) -> str:
        """Return the figure of costs in words."""
        found = rows(self.costs())
        parts = [
            f"{name}: " + ", ".join(f"{row['way']} {row['median_us']:.3g}" for row in found if row["kind"] == kind)
            for kind, name in NAMES.items()
        ]
        return f"Time to open and close, in µs, by kind and way. {'; '.join(parts)}."

    def limits_alt(self) -> str:
        """Return the figure of the limit in words."""
        parts = [
            f"{row['way']}: {_count(row['peak'])} open at most, {100 * row['done'] / row['tasks']:.3g} % of the commands done"
            for row in rows(self.limits())
        ]
        return f"Batches with a limit of {self.batches[0].limit} descriptors, by setting. {'; '.join(parts)}."

    def leaks_words(self) -> str:
        """Return in words what was forgotten and found."""
        hunted = self.leaks
        return (
            f"{hunted.jobs} jobs forgot {len(hunted.forgotten)} descriptors; the manager named {len(hunted.found)} that "
            f"were out. Once the errors that kept them were let go, {hunted.counted} were closed and counted as leaked, with "
            f"{hunted.warned} warnings; {hunted.still_out} were out then."
        )

    def details(self) -> str:
        """Return what to set, what was run and what made it noisy, as text of 88 columns."""
        lines = [
            f"{len(self.openings)} kinds, {sum(one.trials.blocks for one in self.openings)} blocks; batches at the limit, "
            f"{self.limited.blocks} blocks after one to warm up; ended because of: {self.limited.stopped_because}",
            self.advice(),
            self.limit_words(),
            self.leaks_words(),
            *self.notes,
        ]
        return details_text(lines, self.warnings)

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values: of each kind, and of the batches."""
        return [*(effect for effects in self.effects.values() for effect in effects), *self._limited_effects]


def _reused_share(account: Account) -> float:
    lent = account.counted.opened + account.counted.reused
    return account.counted.reused / lent if lent else 0.0


def _interval(effect: Effect) -> str:
    return f" [{effect.low:.2f}, {effect.high:.2f}]" if effect.low > 0 else ""


def _is_whole(trials: Trials) -> bool:
    names = [name for name in trials.factors if not name.endswith(AGAIN)]
    return trials.blocks > 0 and all(len(trials.values(name)) == trials.blocks for name in names)


def _count(peak: float | None) -> str:
    return "an unknown number" if peak is None or peak != peak else f"{peak:g}"  # noqa: PLR0124 - NaN, pandas' None
