"""The table of the stealing experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procbench.experiments.words import with_interval

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
            "time (s)": with_interval(row["median_s"], row["low_s"], row["high_s"], 3),
            "times as fast": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
            "verdict": row["verdict"],
            "per s": f"{row['tasks_per_s']:.0f}",
            "of limit": f"{100 * row['limit_share']:.0f} %",
        }
        for row in summary.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index")
