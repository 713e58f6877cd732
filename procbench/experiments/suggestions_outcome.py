"""What the suggestions experiment found: what was suggested, what of it was proved, and the batch before and after."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from procbench.analysis.observed import Observed
from procbench.analysis.statistics import Effect
from procbench.analysis.suggestions import OptimizationSuggestion
from procbench.experiments.columns import estimated, known
from procbench.experiments.outcome import Outcome
from procbench.experiments.words import details_text, with_interval
from procbench.lab.proof import WITH, WITHOUT, Proof
from procbench.lab.results import AGAIN
from procbench.lab.store import run_name
from procbench.scheduling.settings import RunSettings

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SuggestionsResult(Outcome):
    """A batch, what was suggested for it, and what that did.

    Attributes:
        proofs: A suggestion each, the most promising first; those that were not measured have no trials.
        together: All proved changes at once; the one proof where one change was proved, None where none was.
        settings: How the batch was run before.
        observed: What its run showed.
        files: Files that the batch hashes.
    """

    experiment = "suggestions"

    proofs: tuple[Proof, ...]
    together: Proof | None
    settings: RunSettings
    observed: Observed
    files: int

    @property
    def suggestions(self) -> list[OptimizationSuggestion]:
        """All suggestions with what is known of them, and last all proved changes at once."""
        return [one.suggestion for one in self._all()]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per run: the columns of :meth:`Trials.frame`, ``value`` in seconds, ``rule``, ``change`` and ``run``."""
        import pandas as pd

        frames = [
            one.trials.frame().assign(
                rule=one.suggestion.rule, change=str(one.suggestion.change), run=run_name(one.suggestion.evidence or "")
            )
            for one in self._all()
            if one.trials is not None
        ]
        return (
            pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["value", "rule", "change", "run"])
        )

    def effects(self) -> pd.DataFrame:
        """Return one row per measured suggestion: ``rule``, ``change``, ``status``, ``ratio``, ``low``, ``high``, ``blocks``."""
        import pandas as pd

        rows = [
            {
                "rule": one.rule,
                "change": str(one.change),
                "status": one.status,
                "ratio": one.effect.ratio,
                "low": known(one.effect.low) if one.effect.low > 0 else math.nan,
                "high": known(one.effect.high),
                "blocks": one.effect.blocks,
            }
            for one in self.suggestions
            if one.effect is not None
        ]
        return pd.DataFrame(rows, columns=["rule", "change", "status", "ratio", "low", "high", "blocks"])

    def before_and_after(self) -> pd.DataFrame:
        """Return how long the batch takes as it was and with all that was proved, from the same blocks.

        Returns:
            Two rows, or none where nothing was proved: ``settings``, ``median_s``, ``low_s``, ``high_s`` and ``files_per_s``.
        """
        import pandas as pd

        found: list[dict[str, Any]] = []
        if self.together is not None and self.together.trials is not None:
            trials = self.together.trials
            values = {
                self._said(self.settings): [
                    (first + second) / 2  # one value a block: both share what the block went through
                    for first, second in zip(trials.values(WITHOUT), trials.values(WITHOUT + AGAIN), strict=True)
                ],
                self._said(self.together.suggestion.apply(self.settings)): trials.values(WITH),
            }
            for name, seconds in values.items():
                middle = estimated(seconds, "_s")
                found.append({"settings": name, **middle, "files_per_s": self.files / middle["median_s"]})
        return pd.DataFrame(found, columns=["settings", "median_s", "low_s", "high_s", "files_per_s"])

    def times(self) -> dict[str, list[float]]:
        """Return every time, seconds, of the batch as it was and with all that was proved."""
        if self.together is None or self.together.trials is None:
            return {}
        trials = self.together.trials
        return {
            "before": [*trials.values(WITHOUT), *trials.values(WITHOUT + AGAIN)],
            "after": trials.values(WITH),
        }

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what was said, never about how fast."""
        every = self.suggestions
        measured = [one for one in every if one.effect is not None]
        return {
            "something is suggested for a batch that is badly set": bool(self.proofs),
            "what was measured has an effect, and what was not has none": all(
                (one.status in ("proved", "no gain")) <= (one.effect is not None) for one in every
            ),
            "what is proved excludes no gain": all(
                one.effect is not None and one.effect.low > 1 for one in every if one.status == "proved"
            ),
            "every known interval holds its estimate": all(
                one.effect.low <= one.effect.ratio <= one.effect.high for one in measured if one.effect is not None
            ),
            "each change can be applied and undone": all(
                one.undo(one.apply(self.settings)) == self.settings for one in every
            ),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        proved = [one.suggestion for one in self.proofs if one.suggestion.status == "proved"]
        effect = None if self.together is None else self.together.suggestion.effect
        words = "; ".join(f"{one.change} ({_times(one.effect)})" for one in proved)
        sentence = f"A badly set batch: {len(self.proofs)} changes were suggested, {len(proved)} of them proved"
        sentence += f": {words}." if words else "; a longer budget may prove more."
        if effect is not None and len(proved) > 1:
            sentence += f" All proved changes together: {_times(effect)}."
        return {
            "title": "Suggestions",
            "sentence": sentence,
            "effect": None if effect is None else effect.to_dict(),
            "picture_alt": self.effects_alt(),
        }

    def effects_alt(self) -> str:
        """Return the figure of effects in words."""
        parts = [f"{one.change}: {_times(one.effect)}, {one.status}" for one in self.suggestions if one.effect]
        return f"How many times better the batch is with each change. {'; '.join(parts) or 'Nothing was measured'}."

    def times_alt(self) -> str:
        """Return the figure of before and after in words."""
        parts = [
            f"{row['settings']}: {with_interval(1e3 * row['median_s'], 1e3 * row['low_s'], 1e3 * row['high_s'], 0)} ms"
            for _, row in self.before_and_after().iterrows()
        ]
        return f"Time of the batch before and after. {'; '.join(parts) or 'Nothing was proved'}."

    def details(self) -> str:
        """Return what was run and what made it noisy, as text of 88 columns."""
        lines = [
            f"{self.files} files of the standard library, hashed by sha256sum; before: {self._said(self.settings)}",
            *(
                f"{one.suggestion.change}: {one.trials.blocks} blocks, {one.trials.elapsed_s:.1f} s; ended because of: "
                f"{one.trials.stopped_because}"
                for one in self._all()
                if one.trials is not None
            ),
            *self.notes,
        ]
        return details_text(lines, self.warnings)

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values."""
        return [one.effect for one in self.suggestions if one.effect is not None]

    def _all(self) -> list[Proof]:
        if self.together is None or any(self.together is one for one in self.proofs):
            return list(self.proofs)
        return [*self.proofs, self.together]

    def _said(self, settings: RunSettings) -> str:
        """Return settings in the fields that any suggestion changes."""
        names = sorted({name for one in self.proofs for name in getattr(one.suggestion.change, "changes", {})})
        return ", ".join(f"{name} {getattr(settings, name)}" for name in names) or "as it is"


def _times(effect: Effect | None) -> str:
    return (
        "not measured" if effect is None else f"{with_interval(effect.ratio, effect.low, effect.high, 2)} times as good"
    )
