"""The tables of the affinity experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procbench.experiments.words import with_interval

if TYPE_CHECKING:
    import pandas as pd


def policies(throughput: pd.DataFrame, tails: pd.DataFrame) -> pd.DataFrame:
    """Return throughput and tail as texts, a row for each kind of command, state of the machine and way of pinning.

    Args:
        throughput: ``AffinityResult.throughput``.
        tails: ``AffinityResult.tails``.
    """
    import pandas as pd

    rows = [
        {
            "kind": rate["kind"],
            "state": rate["state"],
            "pin": rate["pin"],
            "per s": with_interval(rate["median"], rate["low"], rate["high"], 0),
            "times as many": with_interval(rate["ratio"], rate["ratio_low"], rate["ratio_high"], 2),
            "verdict": rate["verdict"],
            "p50 / 95 / 99 (ms)": f"{tail['p50_ms']:.1f} / {tail['p95_ms']:.1f} / {tail['p99_ms']:.1f}",
            "p95 as short": with_interval(tail["ratio"], tail["ratio_low"], tail["ratio_high"], 2),
        }
        for rate, tail in zip(throughput.to_dict("records"), tails.to_dict("records"), strict=True)
    ]
    return pd.DataFrame(rows).set_index(["kind", "state", "pin"])


def costs(table: pd.DataFrame) -> pd.DataFrame:
    """Return what being moved by force costs as texts, a row for each kind of command.

    Args:
        table: ``AffinityResult.costs``.
    """
    import pandas as pd

    rows = {
        row["kind"]: {
            "left alone (ms)": f"{row['alone_ms']:.2f}",
            "moved (ms)": f"{row['moved_ms']:.2f}",
            "moves": f"{row['migrations']:.1f}",
            "cost of a move (µs)": with_interval(row["cost_us"], row["low"], row["high"], 0),
        }
        for row in table.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index")
