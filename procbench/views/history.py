"""The history on a terminal: one line for each experiment, condition and host, and what changed where it jumped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from procbench.analysis.history import Change, Line, pace_of
from procbench.errors import InvalidInputError
from procbench.lab.runs import LoadedRuns
from procbench.views.terminal import one_line

BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 40
"""Runs that a sparkline shows: the newest ones, after an ellipsis."""

MOST_FACTS = 6


def sparkline(values: Sequence[float]) -> str:
    """Return one block a value, the lowest for the smallest; all equal ones stand in the middle.

    Example:
        >>> sparkline([1, 2, 4, 8])
        '▁▂▄█'

    Args:
        values: Finite ones.
    """
    shown = list(values)[-MOST_BARS:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = high / 2 - low / 2  # halves, so that it does not overflow
    steps = [3 if span <= 0 else round((value / 2 - low / 2) / span * (len(BARS) - 1)) for value in shown]
    return "…" * (len(values) > len(shown)) + "".join(BARS[step] for step in steps)


def show_history(lines: Sequence[Line], loaded: LoadedRuns, stream: TextIO) -> None:
    """Write the history. Nothing in the records reaches the terminal raw."""
    if not lines:
        stream.write("no run with values has been recorded here\n")
    hosts = {line.host_id for line in lines}
    for (experiment, host_id), group in groupby(lines, key=lambda line: (line.experiment, line.host_id)):
        own = list(group)
        runs = len({point.run_id for line in own for point in line.points})
        where = f" on {own[0].hostname} (id {host_id})" if len(hosts) > 1 else ""
        stream.write(one_line(f"{experiment}{where}: {runs} run{'s' * (runs > 1)}") + "\n")
        for line in own:
            stream.write(f"  {_told(line)}\n")
            for change in line.changes:
                stream.write(f"      {change_words(change, line.unit)}\n")
    if len(hosts) > 1:
        stream.write(
            f"The runs come from {len(hosts)} hosts, whose values do not compare; each has lines of its own.\n"
        )
    for path, reason in loaded.quarantined:
        stream.write(one_line(f"passed over {path.name}: {reason}", longest=600) + "\n")


def change_words(change: Change, unit: str) -> str:
    """Say a change in one line: which way, by how much, from which run on, and what else changed there."""
    times = change.factor
    larger = max(times, 1 / times) if times > 0 else math.nan
    by = f"{larger:.2f} times" if math.isfinite(larger) else "from another level"
    facts = [one_line(fact, longest=120) for fact in change.facts[:MOST_FACTS]]
    more = f"; and {len(change.facts) - MOST_FACTS} more" if len(change.facts) > MOST_FACTS else ""
    because = "; ".join(facts) + more if facts else "nothing else is known to have changed"
    return one_line(
        f"{by} {change.pace} from run {change.number + 1} of {change.point.recorded_at:%Y-%m-%d %H:%M} on "
        f"({value_words(change.before)} -> {value_words(change.after)} {unit}): {because}",
        longest=1_000,
    )


def direction_words(line: Line) -> str:
    """Say in a few words where a line goes beside its jumps."""
    direction, slope = line.trend.direction, line.trend.slope
    if line.trend.low == -math.inf or line.trend.high == math.inf:
        return "too few runs to tell"
    if direction == "stable":
        return "stable"
    middle = sorted(point.value for point in line.points)[len(line.points) // 2]
    by = f"{abs(slope / middle):.1%}" if middle else f"{value_words(abs(slope))} {line.unit}"
    return f"{direction}: {pace_of(0, slope, line.unit)} by {by} a run"


def history_json(lines: Sequence[Line], loaded: LoadedRuns) -> dict[str, Any]:
    """Return all that is known as plain JSON values."""
    return {
        "lines": [line.to_dict() for line in lines],
        "passed_over": [{"file": str(path), "reason": reason} for path, reason in loaded.quarantined],
    }


def load_history(folder: Path, experiment: str | None = None) -> tuple[list[Line], LoadedRuns]:
    """Read the recorded runs of a folder; what cannot be read is named in the second and never stops the rest.

    A damaged file is moved aside, but not out of the history that procbench ships, which is nobody's to change.

    Raises:
        RecordError: The folder cannot be read.
        InvalidInputError: There is no such experiment among others.
    """
    from procbench.analysis.history import history
    from procbench.lab.shipped import is_shipped
    from procbench.lab.store import Store

    store, move = Store(folder), not is_shipped(folder)
    loaded = store.load(experiment, move_damaged=move)
    if experiment is not None and not loaded.runs:
        known = sorted({run.experiment for run in store.load(move_damaged=move).runs})
        if known:
            raise InvalidInputError(f"there is no experiment {experiment!r} in {folder}; there are: {', '.join(known)}")
    return history(loaded.runs), loaded


def _told(line: Line) -> str:
    last = line.points[-1].value
    unit = f" {line.unit}" if line.unit else ""
    bars = sparkline([point.value for point in line.points])
    return (
        f"{one_line(line.condition, longest=60)}  {bars}  {value_words(last)}{one_line(unit)}  {direction_words(line)}"
    )


def value_words(value: float) -> str:
    """Say a value in three digits, or in all before its point."""
    return f"{value:,.0f}" if 1_000 <= abs(value) < 1e9 else f"{value:.3g}"
