"""The tables of the priority experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procbench.experiments.words import with_interval

if TYPE_CHECKING:
    import pandas as pd


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of a CPU as texts, a row for each pair (``PriorityResult.shares``)."""
    import pandas as pd

    rows = {
        row["pair"]: {
            "share (%)": with_interval(100 * row["share"], 100 * row["low"], 100 * row["high"], 2),
            "by weight (%)": f"{100 * row['expected']:.2f}",
            "of that": f"{row['of_kernel']:.2f}",
            "the other had (CPUs)": f"{row['other_cpus']:.2f}",
            "measured for (s)": f"{row['total_s']:.1f}",
        }
        for row in table.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def wake_ups(table: pd.DataFrame) -> pd.DataFrame:
    """Return the latenesses as texts, a row for each policy and state of the CPU (``PriorityResult.wake_ups``)."""
    import pandas as pd

    rows = {
        row["condition"]: {
            "wake-ups": row["samples"],
            "median (µs)": with_interval(row["p50_us"], row["p50_us_low"], row["p50_us_high"], 0),
            "p99 (µs)": with_interval(row["p99_us"], row["p99_us_low"], row["p99_us_high"], 0),
            "times as late": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
        }
        for row in table.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def limited(table: pd.DataFrame) -> pd.DataFrame:
    """Return the CPU limits and what was had as texts, a row for each mechanism and limit (``PriorityResult.limited``)."""
    import pandas as pd

    rows = [
        {
            "mechanism": row["mechanism"],
            "limit (CPUs)": f"{row['limit']:g}",
            "had (CPUs)": with_interval(row["cpus"], row["low"], row["high"], 3),
            "of the limit": f"{row['of_limit']:.2f}",
            "measured for (s)": f"{row['total_s']:.1f}",
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows).set_index(["mechanism", "limit (CPUs)"])
