"""The tables of the descriptors experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from procbench.experiments.columns import rows
from procbench.experiments.words import with_interval

if TYPE_CHECKING:
    import pandas as pd


def costs(table: pd.DataFrame) -> pd.DataFrame:
    """Return what descriptors cost as texts, a row for each kind and way (``DescriptorsResult.costs``)."""
    import pandas as pd

    found = [
        {
            "kind": row["kind"],
            "way": row["way"],
            "µs": with_interval(row["median_us"], row["low_us"], row["high_us"], 2),
            "times as quick": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
            "verdict": row["verdict"],
            "lent again": "" if math.isnan(row["reused_share"]) else f"{100 * row['reused_share']:.0f} %",
        }
        for row in rows(table)
    ]
    return pd.DataFrame(found).set_index(["kind", "way"])


def limits(table: pd.DataFrame) -> pd.DataFrame:
    """Return what the limit did as texts, a row for each setting (``DescriptorsResult.limits``)."""
    import pandas as pd

    found = {
        row["way"]: {
            "done": f"{row['done']:,} of {row['tasks']:,}",
            "EMFILE": f"{row['refused']:,}",
            "peak of limit": f"{row['peak']:.0f} of {row['limit']:g}"
            if row["peak"]
            else f"unknown of {row['limit']:g}",
            "waits": f"{row['waits']:,}",
            "batch (s)": with_interval(row["median_s"], row["low_s"], row["high_s"], 3),
            "times as fast": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
            "verdict": row["verdict"],
        }
        for row in rows(table)
    }
    return pd.DataFrame.from_dict(found, orient="index")


def leaks(table: pd.DataFrame) -> pd.DataFrame:
    """Return the handles that are out as texts, the oldest first (``DescriptorsResult.forgotten``)."""
    import pandas as pd

    found = [
        {
            "kind": row["kind"],
            "fd": row["fd"],
            "age (ms)": f"{1000 * row['age_s']:.2f}",
            "where": where,
            "called at": (callers or [""])[0],
        }
        for row in rows(table)
        for where, *callers in [row["where"].split(" < ")]
    ]
    return pd.DataFrame(found, columns=["kind", "fd", "age (ms)", "where", "called at"]).set_index("kind")
