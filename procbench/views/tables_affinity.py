"""The tables of the affinity experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from procbench.experiments.words import with_interval

if TYPE_CHECKING:
    import pandas as pd


def rates(throughput: pd.DataFrame) -> pd.DataFrame:
    """Return throughput as texts, a row for each kind of command, state of the machine and way of pinning.

    Args:
        throughput: ``AffinityResult.throughput``.
    """
    return _table(
        throughput,
        {"commands per s": lambda row: with_interval(row["median"], row["low"], row["high"], 0)},
        "times as many",
    )


def tails(table: pd.DataFrame) -> pd.DataFrame:
    """Return single commands' times as texts, a row for each kind of command, state of the machine and way of pinning.

    Args:
        table: ``AffinityResult.tails``.
    """
    quantiles = "p50 / p95 / p99 (ms)"
    return _table(
        table,
        {quantiles: lambda row: f"{row['p50_ms']:.1f} / {row['p95_ms']:.1f} / {row['p99_ms']:.1f}"},
        "p95 as short",
    )


def _table(table: pd.DataFrame, columns: Mapping[str, Callable[[Mapping[Any, Any]], str]], ratio: str) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            **{key: row[key] for key in ("kind", "state", "pin")},
            **{name: said(row) for name, said in columns.items()},
            ratio: with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
            "verdict": row["verdict"],
        }
        for row in table.to_dict("records")
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
