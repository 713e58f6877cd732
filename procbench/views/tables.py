"""Tables for people: the numbers of a result, rounded here and nowhere else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def ways(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison of ways as texts, one row each, narrow enough for a page.

    Args:
        summary: What ``StealingResult.summary`` returns.
    """
    import pandas as pd

    rows = {
        row["way"]: {
            "time (s)": _with_interval(row["median_s"], row["low_s"], row["high_s"], 3),
            "times as fast": _with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
            "verdict": row["verdict"],
            "per s": f"{row['tasks_per_s']:.0f}",
            "of limit": f"{100 * row['limit_share']:.0f} %",
        }
        for row in summary.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _with_interval(value: float, low: float, high: float, decimals: int) -> str:
    """Return ``0.41 [0.39, 0.44]``; the interval only where it is known, and nothing where nothing is."""
    if math.isnan(value):
        return ""
    known = math.isfinite(low) and math.isfinite(high)
    return f"{value:.{decimals}f}" + (f" [{low:.{decimals}f}, {high:.{decimals}f}]" if known else "")
