"""The tables of a person's commands, for people: rounded here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from procbench.experiments.columns import rows
from procbench.experiments.words import with_interval

if TYPE_CHECKING:
    import pandas as pd

    from procbench.analysis.suggestions import OptimizationSuggestion

_TRIED = ("times as good", "of what", "status")


def programs(table: pd.DataFrame) -> pd.DataFrame:
    """Return where commands' time goes as texts, a row for each program (``YourCommandsResult.programs``)."""
    import pandas as pd

    found = {
        row["program"]: {
            "commands": row["commands"],
            "time (s)": f"{row['total_s']:.3f}",
            "of all": f"{row['share']:.0%}",
            "own code": _share(row["user_s"], row["total_s"]),
            "kernel": _share(row["system_s"], row["total_s"]),
            "waiting": _share(row["waiting_s"], row["total_s"]),
            "slowest (ms)": f"{1000 * row['slowest_s']:.1f}",
        }
        for row in rows(table)
    }
    return pd.DataFrame.from_dict(found, orient="index")


def tried(suggestions: Sequence[OptimizationSuggestion]) -> pd.DataFrame:
    """Return what was suggested and what became of it as texts, a row for each suggestion."""
    import pandas as pd

    found = {
        f"{one.change}": {
            "times as good": ""
            if one.effect is None
            else with_interval(one.effect.ratio, one.effect.low, one.effect.high, 2),
            "of what": one.gain,
            "status": one.status,
        }
        for one in suggestions
    }
    return pd.DataFrame.from_dict(found or {"nothing was suggested": {}}, orient="index", columns=_TRIED).fillna("")


def kept(table: pd.DataFrame) -> pd.DataFrame:
    """Return the settings to keep as texts, a row for each that differs (``YourCommandsResult.kept``)."""
    import pandas as pd

    shown = table if len(table) else pd.DataFrame([{"setting": "all", "before": "as they are", "keep": "as they are"}])
    return shown.astype(str).set_index("setting").rename_axis(None)


def _share(some: float, whole: float) -> str:
    return f"{some / whole:.0%}" if whole > 0 else ""
