"""What the search in a person's commands found: where the time goes, what is proved, and the settings to keep."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from procbench.analysis.statistics import Effect
from procbench.analysis.suggestions import OptimizationSuggestion, SettingsChange
from procbench.errors import InvalidInputError
from procbench.experiments.columns import rows
from procbench.experiments.outcome import Outcome
from procbench.experiments.words import details_text
from procbench.lab.advice import TOGETHER, WatchedRun
from procbench.scheduling.settings import RunSettings

if TYPE_CHECKING:
    import pandas as pd

_MOST_PROGRAMS = 8
_OTHERS = "others"


@dataclass(frozen=True)
class YourCommandsResult(Outcome):
    """Where the time of a batch goes, what is proved to help, and the settings to keep.

    Attributes:
        workload: What the commands are, in a few words.
        before: How they were run.
        after: The settings to keep: ``before`` with every change that was proved.
        first: The run as it was.
        suggestions: What was suggested, in the order of trying, with status and effect; what nobody tried is
            ``unmeasured``. One whose rule is ``all together`` compares ``after`` with ``before``.
        refused: Why nothing can be proved with these commands; empty if it can.
    """

    experiment = "your_commands"

    workload: str
    before: RunSettings
    after: RunSettings
    first: WatchedRun
    suggestions: tuple[OptimizationSuggestion, ...]
    refused: str = ""

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row for each command of the first run.

        Returns:
            The columns of :func:`procbench.analysis.results.frame`; ``program``, which is also the ``condition``; and
            ``value`` with its ``unit``: its wall time, seconds.
        """
        from procbench.analysis.results import frame

        tidy = frame(self.first.results)
        programs = [Path(str(one.task.command)).name for one in self.first.results]
        return tidy.assign(program=programs, condition=programs, value=tidy["wall_s"], unit="s")

    @property
    def proved(self) -> list[OptimizationSuggestion]:
        """The suggestions that were proved one by one."""
        return [one for one in self.suggestions if one.status == "proved" and one.rule != TOGETHER]

    def programs(self) -> pd.DataFrame:
        """Return where commands' time goes, the program with the most of it first.

        Returns:
            ``program`` (the least of many are ``others``), ``commands``, ``total_s`` and ``share`` of all commands' wall time;
            of that ``user_s``, ``system_s`` and ``waiting_s``, which have no CPU; ``median_s`` and ``slowest_s`` of a
            command.
        """
        import pandas as pd

        frame = self.frame
        totals = frame.groupby("program")["wall_s"].sum().sort_values(ascending=False)
        kept = list(totals.index[: _MOST_PROGRAMS if len(totals) > _MOST_PROGRAMS + 1 else None])
        groups = frame.groupby(frame["program"].where(frame["program"].isin(kept), _OTHERS))
        found = []
        for name in [*kept, *([_OTHERS] if len(kept) < len(totals) else [])]:
            part = groups.get_group(name)
            user_s, system_s = float(part["user_s"].sum()), float(part["system_s"].sum())
            found.append(
                {
                    "program": name,
                    "commands": len(part),
                    "total_s": float(part["wall_s"].sum()),
                    "share": float(part["wall_s"].sum() / max(frame["wall_s"].sum(), 1e-12)),
                    "user_s": user_s,
                    "system_s": system_s,
                    "waiting_s": max(0.0, float(part["wall_s"].sum()) - user_s - system_s),
                    "median_s": float(part["wall_s"].median()),
                    "slowest_s": float(part["wall_s"].max()),
                }
            )
        return pd.DataFrame(found)

    def kept(self) -> pd.DataFrame:
        """Return the settings to keep that differ from those before: ``setting``, ``before``, ``keep``."""
        import pandas as pd

        old, new = self.before.to_dict(), self.after.to_dict()
        found = [{"setting": name, "before": old[name], "keep": new[name]} for name in new if new[name] != old[name]]
        return pd.DataFrame(found, columns=["setting", "before", "keep"])

    def effects(self) -> pd.DataFrame:
        """Return what was measured: ``change``, ``ratio``, ``low``, ``high``, ``status``; no row where nothing was."""
        import pandas as pd

        found = [
            {"change": f"{one.change}", "ratio": one.effect.ratio, **_ends(one.effect), "status": one.status}
            for one in self.suggestions
            if one.effect is not None
        ]
        return pd.DataFrame(found, columns=["change", "ratio", "low", "high", "status"])

    def how_to_keep(self) -> str:
        """Return the settings to keep as a person writes them, for Python and for the command line."""
        words = {row["setting"]: row["keep"] for row in rows(self.kept())}
        if not words:
            return "Keep the settings as they are."
        python = ", ".join(f"{name}={value!r}" for name, value in words.items())
        line = " ".join(f"--set {shlex.quote(f'{name}={_word(value)}')}" for name, value in words.items())
        return f"procbench.RunSettings({python})\nprocbench run {line} --commands FILE"

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what ran and what is claimed, never how fast."""
        ids = [one.task.id for one in self.first.results]
        programs = self.programs()
        return {
            "every command ran once": len(ids) == len(set(ids)) == self.first.observed.tasks,
            "the programs' times add up": math.isclose(programs["share"].sum(), 1.0),
            "what counts as proved has an interval beyond 1": all(
                one.effect is not None and one.effect.low > 1 for one in self.proved
            ),
            "the settings to keep hold what was proved and nothing else": self._replayed() == self.after,
            "taken back, they are as they were": self._taken_back() == self.before,
            "what changes the machine was not done": not any(
                one.effect for one in self.suggestions if not isinstance(one.change, SettingsChange)
            ),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        best = self._whole_effect()
        return {
            "title": "Your commands",
            "sentence": f"{len(self.first.results)} commands took {self.first.seconds:.3g} s{self._how()}. {self._found()}",
            "effect": best.to_dict() if best else None,
            "picture_alt": self.programs_alt(),
        }

    def details(self) -> str:
        """Return what was run, how, what was suggested and why, and what made it noisy, as text of 88 columns."""
        lines = [
            f"{len(self.first.results)} commands ({self.workload}), {self.first.observed.workers} workers "
            f"on {self.first.observed.cpus} CPUs: {self.first.seconds:.3g} s",
            *(
                f"{one.change}, {one.status}: {'; '.join(filter(None, (one.description, one.note)))}"
                for one in self.suggestions
            ),
            *self.notes,
        ]
        return details_text(lines, self.warnings)

    def programs_alt(self) -> str:
        """Return the picture of where the time goes in words."""
        parts = [
            f"{row['program']} {row['share']:.0%}, of that {_part(row['user_s'] + row['system_s'], row['total_s'])} on a CPU"
            for row in rows(self.programs())
        ]
        return f"Commands' time by program: {'; '.join(parts)}."

    def effects_alt(self) -> str:
        """Return the picture of what was measured in words."""
        parts = [f"{row['change']}: {row['ratio']:.2f} times, {row['status']}" for row in rows(self.effects())]
        return f"What each change does, with intervals: {'; '.join(parts) or 'nothing was measured'}."

    def timeline_alt(self) -> str:
        """Return the timeline in words."""
        shares = ", ".join(
            f"worker {worker} ran {count}" for worker, count in self.frame.groupby("worker").size().items()
        )
        return f"Which worker ran which command when, as it was: {shares}."

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values."""
        return [one.effect for one in self.suggestions if one.effect is not None]

    def _whole_effect(self) -> Effect | None:
        """Return the effect of all changes together; of one where there is one, and of the first tried where none helps."""
        measured = [one for one in self.suggestions if one.effect is not None]
        whole = [one for one in measured if one.rule == TOGETHER]
        return next((one.effect for one in [*whole, *self.proved, *measured]), None)

    def _how(self) -> str:
        """Return with which settings the first run was, where they are not the usual ones: every gain is against those."""
        given, usual = self.before.to_dict(), RunSettings().to_dict()
        words = [f"{name}={_word(given[name])}" for name in given if given[name] != usual[name]]
        return f" with {' '.join(words)}" if words else ""

    def _found(self) -> str:
        if not self.proved:
            return self._nothing_proved()
        effect = self._whole_effect()
        together = " together" if len(self.proved) > 1 else ""
        by = "" if effect is None else f",{together} {effect.ratio:.2g} times as good"
        changes = "; ".join(f"{one.change}" for one in self.proved)
        return f"Proved to help here: {changes}{by}."

    def _nothing_proved(self) -> str:
        """Return what that means: that nothing helps, that nobody knows yet, or that nothing could be measured."""
        if self.refused:
            return f"Nothing was measured: {self.refused}."
        tried = [one for one in self.suggestions if isinstance(one.change, SettingsChange)]
        if not tried:
            return "Nothing was seen that a change of settings could help: keep them."
        open_ones = [one for one in tried if one.status in ("inconclusive", "unmeasured")]
        if not open_ones:
            return f"No change of {len(tried)} that were suggested helps: keep the settings."
        first = open_ones[0]
        state = "is not decided" if first.effect is not None else "was not measured"
        why = f" ({first.note})" if first.note else ""
        return f"Nothing is proved yet: {first.change} {state}{why}. Raise budget_s."

    def _replayed(self) -> RunSettings | None:
        return _through(self.proved, self.before, undo=False)

    def _taken_back(self) -> RunSettings | None:
        return _through(self.proved[::-1], self.after, undo=True)


def _through(changes: Sequence[OptimizationSuggestion], settings: RunSettings, *, undo: bool) -> RunSettings | None:
    """Return settings after all changes in order; None where one does not fit."""
    try:
        for one in changes:
            settings = one.undo(settings) if undo else one.apply(settings)
    except InvalidInputError:
        return None
    return settings


def _ends(effect: Effect) -> dict[str, float]:
    return (
        {"low": effect.low, "high": effect.high}
        if math.isfinite(effect.half_width)
        else {"low": math.nan, "high": math.nan}
    )


def _part(some: float, whole: float) -> str:
    return f"{min(1.0, some / whole):.0%}" if whole > 0 else "nothing"


def _word(value: object) -> str:
    """Return a setting's value as ``--set`` reads it."""
    return value if isinstance(value, str) else json.dumps(value)
