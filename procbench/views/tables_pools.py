"""The tables of the pools experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procbench.experiments.words import with_interval

if TYPE_CHECKING:
    import pandas as pd


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
            else with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 1),
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
