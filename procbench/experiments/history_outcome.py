"""What recorded runs say together: their lines, jumps, and words for both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from procbench.analysis.history import Change, Line
from procbench.experiments.words import details_text
from procbench.lab.runs import RecordedRun

if TYPE_CHECKING:
    import pandas as pd

_MOST_FACTS: Final = 2  # that a sentence names


@dataclass(frozen=True, kw_only=True)
class HistoryResult:
    """What was read, and what it shows.

    Attributes:
        folder: Where the runs were.
        runs: Those that could be read, oldest first.
        passed_over: Files that could not be read, and why.
        lines: One for each experiment, condition and host.
    """

    folder: Path
    runs: tuple[RecordedRun, ...]
    passed_over: tuple[tuple[Path, str], ...]
    lines: Sequence[Line]

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each condition of each run.

        ``experiment``, ``condition``, ``host_id`` and ``unit``; ``number`` of the run in its line, from 1, ``run_id`` and
        ``recorded_at`` (UTC); ``value`` with ``low`` to ``high``, infinite where there are fewer than six values, and their
        ``count``.
        """
        import pandas as pd

        names = ("run_id", "recorded_at", "value", "low", "high", "count")
        columns = ["experiment", "condition", "host_id", "unit", "number", *names]
        found = [
            (line.experiment, line.condition, line.host_id, line.unit, number, *(getattr(one, name) for name in names))
            for line in self.lines
            for number, one in enumerate(line.points, 1)
        ]
        return pd.DataFrame(found, columns=columns)

    def jumped(self) -> list[Line]:
        """Return the lines that jumped, the one with the largest jump first."""
        return sorted((line for line in self.lines if line.changes), key=_largest, reverse=True)

    def shown(self, most: int) -> list[Line]:
        """Return the lines worth a picture: those that jumped, largest first, and then those with most runs."""
        level = [line for line in self.lines if not line.changes]
        return [*self.jumped(), *sorted(level, key=lambda line: -len(line.points))][:most]

    def invariants(self) -> dict[str, bool]:
        """Return what must hold for every folder of runs, whatever they measured."""
        hosts = {run.run_id: run.host_id for run in self.runs}
        points = [point for line in self.lines for point in line.points]
        return {
            "runs stand in the order of recording": all(
                one.recorded_at <= other.recorded_at for line in self.lines for one, other in pairwise(line.points)
            ),
            "no line mixes hosts": all(
                hosts[point.run_id] == line.host_id for line in self.lines for point in line.points
            ),
            "every value lies in its interval": all(one.low <= one.value <= one.high for one in points),
            "every jump is one between two runs": all(
                0 < one.number < len(line.points) and one.point is line.points[one.number]
                for line in self.lines
                for one in line.changes
            ),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        jumped = self.jumped()
        experiments = {line.experiment for line in self.lines}
        begun = f"{_many(len(self.runs), 'recorded run')} of {_many(len(experiments), 'experiment')}"
        if not self.lines:
            told = f"No run with values is in {_printable(self.folder.name)}."
        elif not jumped:
            told = f"{begun}: none of {_many(len(self.lines), 'line')} is shown to have jumped."
        else:
            first = max(jumped[0].changes, key=_size)
            told = (
                f"{begun}: {len(jumped)} of {_many(len(self.lines), 'line')} jumped. The largest jump is that of "
                f"{_name(jumped[0])}: {_told(first)}."
            )
        return {"title": "History", "sentence": told, "effect": None, "picture_alt": self.alt(3)}

    def alt(self, most: int) -> str:
        """Return the figure of the lines worth a picture in words."""
        parts = [
            f"{_name(line)} ({_printable(line.unit)}): from {line.points[0].value:.3g} to "
            f"{line.points[-1].value:.3g} in {len(line.points)} runs"
            + "".join(f", {_told(change)}" for change in line.changes)
            for line in self.shown(most)
        ]
        return f"Medians run by run. {'; '.join(parts)}." if parts else "Nothing to draw."

    def details(self) -> str:
        """Return what was read, and what could not be, as text of 88 columns."""
        hosts = sorted({line.host_id for line in self.lines})
        read = (
            f"{_many(len(self.runs), 'run')} read from {_printable(self.folder.name)}, of {_many(len(hosts), 'host')}"
        )
        if self.runs:
            read += f", {self.runs[0].recorded_at:%Y-%m-%d %H:%M} to {self.runs[-1].recorded_at:%Y-%m-%d %H:%M} UTC"
        return details_text(
            [read, *(_printable(f"passed over {path.name}: {why}") for path, why in self.passed_over)], []
        )


def _size(change: Change) -> float:
    """Return how far a jump goes, up or down alike; one between levels that have no ratio comes last."""
    return abs(math.log(change.factor)) if change.factor > 0 else 0.0


def _largest(line: Line) -> float:
    return max(_size(change) for change in line.changes)


def _told(change: Change) -> str:
    size = math.exp(_size(change))
    facts = "; ".join(change.facts[:_MOST_FACTS]) or "nothing else is known to have changed"
    return f"{size:.2f} times {change.pace} from run {change.number + 1} on ({_printable(facts)})"


def _name(line: Line) -> str:
    return _printable(f"{line.experiment}, {line.condition}")


def _printable(text: str) -> str:
    """Return a recorded text without what moves a terminal's cursor or turns its direction round."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
