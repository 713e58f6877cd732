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


def pool_times(summary: pd.DataFrame, faults: pd.DataFrame) -> pd.DataFrame:
    """Return what memory costs as texts, a row for each way, size and number of threads.

    Args:
        summary: What ``PoolsResult.summary`` returns.
        faults: ``PoolsResult.faults``.
    """
    import pandas as pd

    pages = faults.set_index(["way", "size_bytes"])["faults"]
    rows = [
        {
            "size (KiB)": f"{row['size_bytes'] / 1024:g}",
            "threads": row["threads"],
            "way": row["way"],
            "median (µs)": f"{row['median_ns'] / 1e3:.2f}",
            "p99 (µs)": f"{row['p99_ns'] / 1e3:.2f}",
            "pool is": ""
            if row["way"] == "pool"
            else _with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 1),
            "faults": f"{pages[row['way'], row['size_bytes']]:g}",
        }
        for row in summary.to_dict("records")
    ]
    return pd.DataFrame(rows).set_index(["size (KiB)", "threads", "way"])


def hit_rates(hits: pd.DataFrame) -> pd.DataFrame:
    """Return how often a buffer was there at once as texts, a row for each share of buffers to threads (``PoolsResult.hits``)."""
    import pandas as pd

    rows = {
        f"{row['capacity']} of {row['borrowers']}": {
            "there at once": f"{100 * row['hit_rate']:.1f} %",
            "mean wait (µs)": f"{row['mean_acquire_us']:.1f}",
            "p99 wait (µs)": f"{row['p99_acquire_us']:.1f}",
        }
        for row in hits.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def backings(table: pd.DataFrame) -> pd.DataFrame:
    """Return what the first use of a pool costs as texts, a row for each wish (``PoolsResult.backings``)."""
    import pandas as pd

    rows = {
        row["backing"]: {
            "made in (ms)": f"{row['make_ms']:.2f}",
            "first use (ms)": f"{row['first_use_ms']:.2f}",
            "its page faults": f"{row['first_use_faults']:g}",
            "in huge pages": f"{100 * row['huge_share']:.0f} %",
            "refused": row["fallbacks"] or "nothing",
        }
        for row in table.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _with_interval(value: float, low: float, high: float, decimals: int) -> str:
    """Return ``0.41 [0.39, 0.44]``; the interval only where it is known, and nothing where nothing is."""
    if math.isnan(value):
        return ""
    known = math.isfinite(low) and math.isfinite(high)
    return f"{value:.{decimals}f}" + (f" [{low:.{decimals}f}, {high:.{decimals}f}]" if known else "")
