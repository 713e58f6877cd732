"""Figures of the transfer experiment: rates by size and by pipe size, in the house's style."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from procbench.views.figures import COLOURS, MARKERS, VERMILION, legend_above, new_axes, size_ticks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def rates_by_size(table: pd.DataFrame, memcpy_gb_per_s: float) -> Axes:
    """Draw GB/s against the number of bytes moved, a line for each way, with intervals; C and memory bandwidth are dashed.

    Args:
        table: ``way``, ``size_bytes``, ``median``, ``low``, ``high``, as ``TransferResult.rates`` returns them.
        memcpy_gb_per_s: How fast memory is copied, drawn as a limit.
    """
    axes = _rates(table, "size_bytes")
    axes.axhline(memcpy_gb_per_s, color="#555555", linestyle=":", linewidth=1.5, label="memory copy")
    axes.set_xlabel("bytes moved, the child's start and end included in the time")
    legend_above(axes)
    return axes


def rates_by_pipe(table: pd.DataFrame) -> Axes:
    """Draw GB/s against the size of the pipe, a line for each way, with intervals.

    Args:
        table: ``way``, ``pipe_size_bytes``, ``median``, ``low``, ``high``.
    """
    axes = _rates(table, "pipe_size_bytes")
    axes.axvline(64 * 1024, color="#555555", linestyle=":", linewidth=1.5, label="the kernel's default")
    axes.set_xlabel("size of the pipe")
    legend_above(axes)
    return axes


def _rates(table: pd.DataFrame, column: str) -> Axes:
    from matplotlib.ticker import LogLocator

    axes = new_axes(height_inches=3.8)
    own = 0
    for way, rows in table.groupby("way", sort=False):
        points = rows.sort_values(column)
        is_limit = str(way).startswith("C,")
        style: dict[str, Any] = {
            "color": VERMILION,
            "linestyle": ("--", "-.")[str(way).endswith("memfd")],
            "marker": "",
        }
        if not is_limit:
            style = {"color": COLOURS[own % len(COLOURS)], "marker": MARKERS[own % len(MARKERS)], "markersize": 5}
            own += 1
        errors = [_reach(points, "low", -1), _reach(points, "high", 1)]
        axes.errorbar(points[column], points["median"], yerr=errors, capsize=3, linewidth=1.5, label=str(way), **style)
    axes.set_yscale("log")
    size_ticks(axes, sorted(table[column].unique()))
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("GB/s, more is better")
    return axes


def _reach(points: pd.DataFrame, end: str, sign: int) -> list[float]:
    """Return how far an interval reaches from its median; an unknown one reaches nowhere."""
    spans = (sign * (points[end] - points["median"])).tolist()
    return [max(span, 0.0) if math.isfinite(span) else 0.0 for span in spans]
