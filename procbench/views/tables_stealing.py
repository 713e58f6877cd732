"""The tables of the stealing experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from procbench.experiments.words import with_interval

if TYPE_CHECKING:
    import pandas as pd

_SHAPE_COLUMNS = ("time (ms)", "of the bound", "times as fast", "verdict")
_BEYOND = "beyond what was measured"


def ways(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison of ways as texts, one row each, narrow enough for a page.

    Args:
        summary: What ``StealingResult.summary`` returns.
    """
    import pandas as pd

    rows = {
        row["way"]: {
            "time (s)": with_interval(row["median_s"], row["low_s"], row["high_s"], 3),
            "times as fast": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
            "verdict": row["verdict"],
            "per s": f"{row['tasks_per_s']:.0f}",
            "of limit": f"{100 * row['limit_share']:.0f} %",
        }
        for row in summary.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def shapes(table: pd.DataFrame) -> pd.DataFrame:
    """Return how long batches of known shape took as texts, a row for each shape and way (``StealingResult.shapes``)."""
    import pandas as pd

    rows = [
        {
            "shape": row["shape"],
            "way": row["way"],
            "time (ms)": with_interval(1e3 * row["median_s"], 1e3 * row["low_s"], 1e3 * row["high_s"], 0),
            "of the bound": with_interval(row["of_bound"], row["of_bound_low"], row["of_bound_high"], 2),
            "times as fast": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
            "verdict": row["verdict"],
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows, columns=["shape", "way", *_SHAPE_COLUMNS]).set_index(["shape", "way"])


def law(table: pd.DataFrame) -> pd.DataFrame:
    """Return the fitted law's numbers as texts, a row each (``Curve.law``)."""
    import pandas as pd

    rows = {
        row["name"]: {"estimate": _number(row["value"]), "95 % interval": _reach(row["low"], row["high"])}
        for row in table.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["estimate", "95 % interval"])


def _number(value: float) -> str:
    """Return three digits; what is infinite lies beyond what was measured."""
    return f"{value:.3g}" if math.isfinite(value) else _BEYOND


def _reach(low: float, high: float) -> str:
    if math.isnan(low) or math.isnan(high):
        return ""
    return _BEYOND if math.isinf(low) else f"{_number(low)} to {_number(high)}"
