"""The table of the transfer experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procbench.experiments.words import size_text, with_interval

if TYPE_CHECKING:
    import pandas as pd


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """Return rates as texts, a row for each direction, size and way.

    Args:
        table: What ``TransferResult.rates`` returns for each direction, under an index level ``direction``.
    """
    import pandas as pd

    rows = [
        {
            "direction": row["direction"],
            "size": size_text(int(row["size_bytes"])),
            "way": row["way"],
            "GB/s": with_interval(row["median"], row["low"], row["high"], 3),
            "times as fast": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
            "verdict": row["verdict"],
        }
        for row in table.reset_index("direction").to_dict("records")
    ]
    return pd.DataFrame(rows).set_index(["direction", "size", "way"])
