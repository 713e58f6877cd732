"""How the experiments put estimates and effects into the columns of their tables; what is unknown is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from procbench.analysis.samples import estimate
from procbench.analysis.statistics import Effect

if TYPE_CHECKING:
    import pandas as pd


def rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return a table's rows."""
    return table.to_dict("records")


def known(end: float) -> float:
    """Return an interval's end, and NaN where too few blocks know none."""
    return end if math.isfinite(end) else math.nan


def estimated(values: Sequence[float], unit: str = "") -> dict[str, float]:
    """Return ``median``, ``low`` and ``high`` of values, of which there is at least one; ``unit`` follows each name."""
    found = estimate(values)
    return {f"median{unit}": found.median, f"low{unit}": known(found.low), f"high{unit}": known(found.high)}


def ends(name: str, effect: Effect) -> dict[str, float]:
    """Return an effect's interval as ``<name>_low`` and ``<name>_high``; one that is unknown has no ends."""
    is_known = math.isfinite(effect.half_width)
    return {f"{name}_low": effect.low if is_known else math.nan, f"{name}_high": effect.high if is_known else math.nan}


def ratio(effect: Effect | None) -> dict[str, Any]:
    """Return ``ratio`` with its ends, ``noise_floor`` and ``verdict``; the baseline, ``None``, has no ratio."""
    if effect is None:
        unknown = dict.fromkeys(("ratio", "ratio_low", "ratio_high"), math.nan)
        return {**unknown, "noise_floor": None, "verdict": "the baseline"}
    return {
        "ratio": effect.ratio,
        **ends("ratio", effect),
        "noise_floor": effect.noise_floor,
        "verdict": effect.verdict,
    }
