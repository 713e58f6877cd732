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
            "experiment": line.experiment,
            "line": one_line(line.condition, longest=60),
            "run": change.number + 1,
            "UTC": f"{change.point.recorded_at:%Y-%m-%d %H:%M}",
            "level": f"{value_words(change.before)} → {value_words(change.after)} {line.unit}",
            "times": f"{max(change.factor, 1 / change.factor):.2f} {change.pace}"
            if math.isfinite(change.factor)
            else change.pace,
            "what else changed": one_line("; ".join(change.facts) or "nothing known", longest=200),
        }
        for line in lines
        for change in line.changes
    ]
    columns = ["experiment", "line", "run", "UTC", "level", "times", "what else changed"]
    return pd.DataFrame(found, columns=columns).set_index(["experiment", "line", "run"])


def directions(lines: Sequence[Line]) -> pd.DataFrame:
    """Return a row for each line: its runs, its first and last value, its jumps, and where it goes beside them."""
    import pandas as pd

    found = [
        {
            "experiment": line.experiment,
            "line": one_line(line.condition, longest=60),
            "runs": len(line.points),
            "first": f"{value_words(line.points[0].value)} {line.unit}",
            "last": f"{value_words(line.points[-1].value)} {line.unit}",
            "jumps": len(line.changes),
            "beside them": direction_words(line),
        }
        for line in lines
    ]
    columns = ["experiment", "line", "runs", "first", "last", "jumps", "beside them"]
    return pd.DataFrame(found, columns=columns).set_index(["experiment", "line"])
