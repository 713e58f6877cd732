"""The tables of the queues experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from procbench.experiments.columns import rows
from procbench.experiments.words import with_interval

if TYPE_CHECKING:
    import pandas as pd


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many items pass in a second as texts, a row for each condition (``QueuesResult.rates``)."""
    import pandas as pd

    found = [
        {
            "varied": "way" if row["knob"] == "way" else f"{row['knob']} {row['setting']}",
            "way": row["way"],
            "thousand/s": with_interval(row["median"] / 1000, row["low"] / 1000, row["high"] / 1000, 0),
            "times as many": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
            "verdict": row["verdict"],
        }
        for row in rows(table)
    ]
    return pd.DataFrame(found).set_index(["varied", "way"])


def served(table: pd.DataFrame) -> pd.DataFrame:
    """Return waits and how evenly consumers were served as texts, a row for each way (``QueuesResult.served``)."""
    import pandas as pd

    found = {
        row["way"]: {
            "mean wait (ms)": _ms(row["mean_wait_s"]),
            "p99 wait (ms)": _ms(row["p99_wait_s"]),
            "Jain": f"{row['evenness']:.3f}",
            "least (%)": with_interval(
                100 * row["least_share"], 100 * row["least_share_low"], 100 * row["least_share_high"], 0
            ),
            "in order (%)": f"{100 * row['in_order']:.0f}",
        }
        for row in rows(table)
    }
    return pd.DataFrame.from_dict(found, orient="index")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}" if math.isfinite(seconds) else "not counted"
