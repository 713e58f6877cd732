"""The tables of the streams experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procbench.experiments.words import size_text, with_interval

if TYPE_CHECKING:
    import pandas as pd


def ways(table: pd.DataFrame) -> pd.DataFrame:
    """Return the ways of reading as texts, a row for each number of children and way (``StreamsResult.rates``)."""
    return _table(table, ("children", "way"), {"GB/s": 1.0})


def sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the sizes of buffer and pipe as texts, a row for each way and pair (``StreamsResult.rates``)."""
    texts = {name: table[f"{name}_size_bytes"].map(size_text) for name in ("buffer", "pipe")}
    return _table(table.assign(**texts), ("way", "buffer", "pipe"), {"GB/s": 1.0})


def lines(table: pd.DataFrame) -> pd.DataFrame:
    """Return the ways of reading lines as texts, a row for each length and way (``StreamsResult.rates``)."""
    return _table(table.rename(columns={"line_bytes": "bytes"}), ("bytes", "way"), {"M lines/s": 1e6})


def _table(table: pd.DataFrame, index: tuple[str, ...], unit: dict[str, float]) -> pd.DataFrame:
    import pandas as pd

    [(name, factor)] = unit.items()
    return pd.DataFrame([_row(row, index, name, factor) for row in table.to_dict("records")]).set_index([*index])


def _row(row: dict[Any, Any], index: tuple[str, ...], name: str, factor: float) -> dict[str, Any]:
    return {
        **{column: row[column] for column in index},
        name: with_interval(row["median"] / factor, row["low"] / factor, row["high"] / factor, 2),
        "CPU s/GiB": with_interval(row["cpu"], row["cpu_low"], row["cpu_high"], 2),
        "times as fast": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
        "verdict": row["verdict"],
    }
