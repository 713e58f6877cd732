"""The tables of the monitoring experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from procbench.experiments.columns import rows
from procbench.experiments.words import size_text, with_interval

if TYPE_CHECKING:
    import pandas as pd

_LONGEST_REASON: Final = 28  # a page has room for no more; the details say it in full


def overhead(table: pd.DataFrame) -> pd.DataFrame:
    """Return what watching costs as texts, a row for each interval (``MonitoringResult.overhead``)."""
    import pandas as pd

    found = {
        row["way"]: {
            "batch (s)": with_interval(row["median_s"], row["low_s"], row["high_s"], 3),
            "of its speed": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 3),
            "verdict": row["verdict"],
            "samples a batch": _number(row["samples"] / row["batches"])
            if row["interval_s"] == row["interval_s"]
            else "",
            "% of one CPU": _number(row["cpu_percent"]),
            "reckoned": _number(row["reckoned_percent"]),
        }
        for row in rows(table)
    }
    return pd.DataFrame.from_dict(found, orient="index")


def costs(table: pd.DataFrame) -> pd.DataFrame:
    """Return what one look costs as texts, a row for each way (``MonitoringResult.costs``)."""
    import pandas as pd

    found = {
        row["way"]: {
            "µs of CPU time": with_interval(row["median_us"], row["low_us"], row["high_us"], 0),
            "times as cheap": with_interval(row["ratio"], row["ratio_low"], row["ratio_high"], 1),
            "verdict": row["verdict"],
        }
        for row in rows(table)
    }
    return pd.DataFrame.from_dict(found, orient="index")


def seen(table: pd.DataFrame) -> pd.DataFrame:
    """Return what a batch's metrics were like as texts, a row for each that was not always 0 (``MonitoringResult.seen``)."""
    import pandas as pd

    found = [
        {
            "collector": row["collector"],
            "metric": row["metric"],
            "least": _value(row["least"], row["unit"]),
            "mean": _value(row["mean"], row["unit"]),
            "most": _value(row["most"], row["unit"]),
            "remark": _short(row["reason"]),
        }
        for row in rows(table)
        if not row["least"] == row["most"] == 0
    ]
    return pd.DataFrame(found).set_index(["collector", "metric"])


def _value(value: float, unit: str) -> str:
    """Return a value with its unit as people write it."""
    if math.isnan(value):
        return "unknown"
    if unit == "share":
        return f"{100 * value:.3g} %"
    if unit in {"bytes", "bytes/s"}:
        return size_text(value) + ("/s" if unit.endswith("/s") else "")
    return f"{_number(value)} {unit}".strip()


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _short(reason: str) -> str:
    if reason.startswith("lower bound"):
        return "at least"
    return reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"
