"""What a monitor saw of the machine while a batch ran, in the numbers that the rules look at."""

from __future__ import annotations

import math
import statistics as st
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from procbench.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

    Series = Mapping[tuple[str, str], Sequence[float]]

OF_MONITOR: Final = (
    *("throttled_share", "cpu_pressure", "memory_pressure", "io_pressure", "storage_bytes_per_s"),
    *("swap_bytes", "network_bytes_per_s", "processes", "zombie_share", "zombies_added", "pool_misses_share"),
)
"""Fields of :class:`procbench.analysis.observed.Observed` that come from a monitor."""


def seen_by_monitor(watched: pd.DataFrame | Series | None) -> dict[str, float]:
    """Return what a monitor saw: means where it is a rate, extremes where it is a state, NaN where it saw nothing.

    Args:
        watched: What :meth:`procbench.monitoring.monitor.PerformanceMonitor.frame` returns, or ``series``; None where nobody
            watched, for an empty result.

    Raises:
        InvalidInputError: The frame lacks a column.
    """
    if watched is None:
        return {}
    series = watched if isinstance(watched, Mapping) else _series_of(watched)

    def values(collector: str, metric: str) -> list[float]:
        return [value for value in series.get((collector, metric), ()) if math.isfinite(value)]

    def mean(collector: str, metric: str) -> float:
        found = values(collector, metric)
        return st.fmean(found) if found else math.nan

    swap = values("memory", "swap_used")
    periods, throttled = mean("throttling", "periods"), mean("throttling", "throttled")
    processes = max(values("processes", "count"), default=math.nan)
    zombies = values("processes", "zombie")
    hits, misses = _requests(series)
    return {
        "throttled_share": min(1.0, throttled / periods) if periods > 0 else math.nan,
        "cpu_pressure": mean("pressure", "cpu_some"),
        "memory_pressure": mean("pressure", "memory_some"),
        "io_pressure": mean("pressure", "io_some"),
        "storage_bytes_per_s": mean("tree", "read") + mean("tree", "written"),
        "swap_bytes": max(0.0, swap[-1] - swap[0]) if swap else math.nan,
        "network_bytes_per_s": mean("network", "received") + mean("network", "sent"),
        "processes": processes,
        "zombie_share": max(zombies, default=math.nan) / processes,
        "zombies_added": zombies[-1] - zombies[0] if zombies else math.nan,
        "pool_misses_share": misses / (hits + misses) if hits + misses > 0 else math.nan,
    }


def _series_of(frame: pd.DataFrame) -> Series:
    """Return a frame's values by collector and metric, the oldest first."""
    missing = [name for name in ("collector", "metric", "value", "time_s") if name not in frame.columns]
    if missing:
        raise InvalidInputError(
            f"a monitor's frame has the columns collector, metric, value and time_s; it lacks {missing}"
        )
    groups = frame.sort_values("time_s", kind="stable").groupby(["collector", "metric"])["value"]
    return {(str(collector), str(metric)): [float(one) for one in part] for (collector, metric), part in groups}


def _requests(series: Series) -> tuple[float, float]:
    """Return how many requests a second found a pooled buffer, and how many none, of all pools together."""
    means: dict[str, float] = {}
    for (_, metric), values in series.items():
        known = [value for value in values if math.isfinite(value)]
        word = metric.partition("[")[0]
        means[word] = means.get(word, 0.0) + (st.fmean(known) if known else 0.0)
    return means.get("hits", 0.0) + means.get("allocations", 0.0), means.get("misses", 0.0) + means.get("failures", 0.0)
