"""The tables of the history, for people: rounded here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from procbench.analysis.history import Line
from procbench.views.history import direction_words, value_words
from procbench.views.terminal import one_line

if TYPE_CHECKING:
    import pandas as pd


def jumps(lines: Sequence[Line]) -> pd.DataFrame:
    """Return a row for each jump of each line: from which run on, by how much, and what else changed there."""
    import pandas as pd

    found = [
        {
            "line": _name(line),
            "run": change.number + 1,
            "UTC": f"{change.point.recorded_at:%m-%d %H:%M}",
            "times": _times(change.factor, change.pace),
            "to": f"{value_words(change.after)} {line.unit}",
            "what else changed": one_line("; ".join(change.facts) or "nothing known", longest=120),
        }
        for line in lines
        for change in line.changes
    ]
    columns = ["line", "run", "UTC", "times", "to", "what else changed"]
    return pd.DataFrame(found, columns=columns).set_index(["line", "run"])


def directions(lines: Sequence[Line]) -> pd.DataFrame:
    """Return a row for each line: its runs, its first and last value, its jumps, and where it goes beside them."""
    import pandas as pd

    found = [
        {
            "line": _name(line),
            "runs": len(line.points),
            "first": f"{value_words(line.points[0].value)} {line.unit}",
            "last": f"{value_words(line.points[-1].value)} {line.unit}",
            "jumps": len(line.changes),
            "beside them": direction_words(line),
        }
        for line in lines
    ]
    columns = ["line", "runs", "first", "last", "jumps", "beside them"]
    return pd.DataFrame(found, columns=columns).set_index("line")


def _name(line: Line) -> str:
    return one_line(f"{line.experiment}: {line.condition}", longest=60)


def _times(factor: float, pace: str) -> str:
    return f"{max(factor, 1 / factor):.2f} {pace}" if math.isfinite(factor) else pace
