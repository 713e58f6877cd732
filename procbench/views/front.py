"""What stands on a report's first page beside the notebooks: the answer in short, the systems in their order, the history."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from procbench.errors import InvalidInputError
from procbench.views.pages import NoiseWarning, ReportRow
from procbench.views.terminal import one_line

if TYPE_CHECKING:
    from procbench.analysis.history import Line

SYSTEMS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "Memory": (("transfer", "zero-copy transfer"), ("pools", "memory pools")),
    "CPU": (("affinity", "CPU affinity"), ("priority", "priority and limits")),
    "Input and output": (("streams", "asynchronous streams"), ("descriptors", "file descriptors")),
    "Concurrency": (("queues", "queues"), ("stealing", "the work-stealing scheduler")),
    "Monitoring": (("monitoring", "the performance monitor"), ("suggestions", "the analyzer and its suggestions")),
}
"""The ten systems by area: each notebook's word, and what it is about."""

_FIRST: Final = "Your commands"
_MOST_SPARKS: Final = 16
_MOST_OF_ONE: Final = 2
_MOST_SUGGESTIONS: Final = 10
_SPARK = (160.0, 32.0, 4.0)  # width, height, margin


@dataclass(frozen=True, slots=True)
class Group:
    """Notebooks that belong together.

    Attributes:
        title: What they are about.
        places: Their places among the report's rows.
        missing: Systems of this area that the report did not measure, in words.
    """

    title: str
    places: tuple[int, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A sentence of the answer in short.

    Attributes:
        text: The sentence.
        page: The page that says more; empty for none.
    """

    text: str
    page: str = ""


@dataclass(frozen=True, slots=True)
class Spark:
    """One line of the history, small.

    Attributes:
        name: Experiment and condition.
        path: The points of an SVG ``polyline``.
        last: Where the newest value stands.
        changes: Places along the line from which on it was at another level.
        value: The newest value with its unit.
        words: Where the line goes.
        runs: How many there are.
    """

    name: str
    path: str
    last: tuple[float, float]
    changes: tuple[float, ...]
    value: str
    words: str
    runs: int


def groups(rows: Sequence[ReportRow]) -> tuple[Group, ...]:
    """Return the notebooks by area: what is about a person's own commands first, then the systems; empty areas are left out."""
    areas = {word: area for area, systems in SYSTEMS.items() for word, _ in systems}
    places: dict[str, list[int]] = {_FIRST: [], **{area: [] for area in SYSTEMS}}
    for place, row in enumerate(rows):
        places[areas.get(row.notebook, _FIRST)].append(place)
    run = {row.notebook for row in rows}
    return tuple(
        Group(area, tuple(found), tuple(name for word, name in SYSTEMS.get(area, ()) if word not in run))
        for area, found in places.items()
        if found
    )


def in_short(rows: Sequence[ReportRow], warnings: Sequence[NoiseWarning]) -> tuple[Point, ...]:
    """Return what the report found in a few sentences: what helps, by how much, how sure, and how far to trust it."""
    done = [row for row in rows if row.status == "ok" and row.headline is not None]
    points = [
        Point(row.headline.sentence, row.page) for row in done if row.notebook == "your_commands" and row.headline
    ]
    compared = [(row, row.headline.effect) for row in done if row.headline and row.headline.effect]
    better = [(row, effect) for row, effect in compared if effect.get("verdict") == "better" and "low" in effect]
    others = [found for found in better if found[0].notebook != "your_commands"]  # those have had their say
    if others:
        row, effect = max(others, key=lambda found: float(found[1]["ratio"] or 0))
        sure = f"{100 * float(effect.get('confidence') or 0.95):.3g} % interval {effect['low']:.3g} to {effect['high']:.3g}"
        title = row.headline.title if row.headline else row.title
        what = f"{effect.get('condition', 'the change')} against {effect.get('baseline', 'the usual way')}"
        points.append(
            Point(
                f"The largest difference shown, {title}: {what} is {effect['ratio']:.3g} times as good, {sure}.",
                row.page,
            )
        )
    if compared:
        worse = sum(effect.get("verdict") == "worse" for _, effect in compared)
        open_ = len(compared) - len(better) - worse
        points.append(
            Point(
                f"Of the notebooks' {len(compared)} comparisons {len(better)} show a gain, {worse} a loss, and {open_} "
                "no difference beyond what noise alone shows."
            )
        )
    if warnings:
        count = "one thing" if len(warnings) == 1 else f"{len(warnings)} things"
        points.append(Point(f"How far to trust it: {count} made this machine's numbers less sure.", "#noise"))
    return tuple(points)


def recorded_suggestions(data_folder: Path, host_id: str) -> str:
    """Return the table of what was proved on this machine as safe HTML, the newest proof of each change; "" for none.

    Raises:
        RecordError: The folder cannot be read.
    """
    from procbench.analysis.suggestions import OptimizationSuggestion
    from procbench.lab.proof_records import EXPERIMENT
    from procbench.lab.store import Store, run_name
    from procbench.views.fragments import sanitise
    from procbench.views.suggestion_table import SuggestionTable

    newest: dict[tuple[str, str, str], OptimizationSuggestion] = {}
    commands: dict[str, str] = {}
    for run in Store(data_folder).load(EXPERIMENT, host_id, move_damaged=False).runs:  # oldest first
        try:
            one = OptimizationSuggestion.from_dict(run.parameters["suggestion"])
        except (InvalidInputError, KeyError):
            continue  # of another version; procbench history names what cannot be read at all
        batch = run.parameters.get("workload", {})
        # A person's batch grows and shrinks from one day to the next, and is still the same one.
        which = str(sorted({str(argv[0]) for argv in batch.get("first", []) if argv}))
        newest[one.rule, str(one.change), which] = replace(one, evidence=str(run.path))
        commands[run_name(run.path)] = _commands_words(batch)
    ordered = sorted(
        newest.values(), key=lambda one: (one.status != "proved", -(one.effect.ratio if one.effect else 0))
    )
    table = SuggestionTable(ordered[:_MOST_SUGGESTIONS], commands=commands)
    return sanitise(table._repr_html_()) if ordered else ""


def _commands_words(batch: Mapping[str, Any]) -> str:
    """Return what a recorded batch is, by its number of commands and the first of them."""
    count, first = batch.get("tasks") or batch.get("arguments") or 0, batch.get("first") or [[]]
    shown = one_line(shlex.join(map(str, first[0])), longest=60)
    return f"{count:,} command{'s' * (count != 1)}, the first: {shown}" if shown else ""


def sparks(lines: Sequence[Line], host_id: str) -> tuple[Spark, ...]:
    """Return this machine's recorded lines of at least two runs: a few of each experiment, those with changes first."""
    own = [line for line in lines if line.host_id == host_id and len(line.points) > 1]
    chosen: list[Line] = []
    for line in sorted(own, key=lambda line: not line.changes):
        if sum(one.experiment == line.experiment for one in chosen) < _MOST_OF_ONE:
            chosen.append(line)
    chosen = sorted(chosen[:_MOST_SPARKS], key=lambda line: line.experiment)
    return tuple(_spark(line) for line in chosen)


def _spark(line: Line) -> Spark:
    from procbench.views.history import direction_words

    width, height, margin = _SPARK
    values = [point.value for point in line.points]
    low, high = min(values), max(values)
    step = (width - 2 * margin) / (len(values) - 1)

    def at(place: float, value: float) -> tuple[float, float]:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(margin + step * place, 1), round(height - margin - share * (height - 2 * margin), 1)

    marks = [at(place, value) for place, value in enumerate(values)]
    return Spark(
        name=f"{line.experiment}: {line.condition}",
        path=" ".join(f"{x},{y}" for x, y in marks),
        last=marks[-1],
        changes=tuple(at(change.number - 0.5, low)[0] for change in line.changes),
        value=f"{values[-1]:.3g} {line.unit}".strip(),
        words=direction_words(line),
        runs=len(values),
    )
