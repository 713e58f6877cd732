"""Figures of the suggestions experiment: a tidy frame goes in, Axes come out, in the house's style."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from procbench.experiments.columns import rows
from procbench.views.figures import BLUE, COLOURS, VERMILION, legend_above, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_STYLES: Final[Mapping[str, tuple[str, str]]] = {
    "proved": (BLUE, "o"),
    "harmful": (VERMILION, "X"),
    "no gain": (COLOURS[1], "s"),
    "inconclusive": ("#777777", "D"),
}
_LOG_FROM: Final = 5.0  # times from the least to the most; below that a logarithmic axis has hardly a number on it
_LINE: Final[dict[str, Any]] = {"markersize": 7, "capsize": 4, "linewidth": 2, "linestyle": "none"}


def effects(table: pd.DataFrame) -> Axes:
    """Draw how many times better the batch is with each change, with intervals; the dashed line is no change.

    Args:
        table: ``change``, ``status``, ``ratio``, ``low``, ``high``, as the results' ``effects`` return them; without rows the
            figure says so.
    """
    found = rows(table)[::-1]
    if not found:
        axes = new_axes(height_inches=1.0)
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing was measured: see the notes", ha="center")
        return axes
    axes = new_axes(height_inches=1.4 + 0.55 * len(found))
    labelled: set[str] = set()
    for place, row in enumerate(found):
        colour, marker = _STYLES[row["status"]]
        reach = [[_reach(row["ratio"] - row["low"])], [_reach(row["high"] - row["ratio"])]]
        label = None if row["status"] in labelled else row["status"]
        labelled.add(row["status"])
        axes.errorbar([row["ratio"]], [place], xerr=reach, color=colour, marker=marker, label=label, **_LINE)
        at = (row["high"] if math.isfinite(row["high"]) else row["ratio"], place)
        axes.annotate(f"{row['ratio']:.2f}", at, (8, -4), textcoords="offset points", fontsize=9)
    axes.axvline(1, color="#555555", linestyle="--", linewidth=1.5, label="no change")
    if axes.dataLim.xmax > _LOG_FROM * max(axes.dataLim.xmin, 1e-9):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.margins(x=0.15)
    axes.set_yticks(range(len(found)), [textwrap.fill(row["change"], 30) for row in found])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("times as good as before, with interval; more is better")
    legend_above(axes)
    return axes


def before_and_after(times: Mapping[str, Sequence[float]], table: pd.DataFrame) -> Axes:
    """Draw every run of the batch as it was and with all that was proved, with medians and their intervals.

    Args:
        times: Seconds of each run, as ``SuggestionsResult.times`` returns them.
        table: ``settings``, ``median_s``, ``low_s``, ``high_s``, as ``SuggestionsResult.before_and_after`` returns them.
    """
    axes = new_axes(height_inches=2.6)
    for place, (seconds, row) in enumerate(zip(list(times.values())[::-1], rows(table)[::-1], strict=True)):
        heights = [place + 0.22 * (number / max(1, len(seconds) - 1) - 0.5) for number in range(len(seconds))]
        one_of = place == 0
        dots: dict[str, Any] = {
            "color": COLOURS[4],
            "markersize": 4,
            "alpha": 0.8,
            "label": "a run" if one_of else None,
        }
        axes.plot([1e3 * one for one in seconds], heights, "o", **dots)
        middle = 1e3 * statistics.median(seconds)
        reach = [[_reach(middle - 1e3 * row["low_s"])], [_reach(1e3 * row["high_s"] - middle)]]
        words = "median and 95 % interval" if one_of else None
        axes.errorbar([middle], [place], xerr=reach, color=BLUE, marker="|", label=words, **{**_LINE, "markersize": 20})
    names = [f"{name}\n{textwrap.fill(row['settings'], 28)}" for name, row in zip(times, rows(table), strict=True)]
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set_ylim(-0.5, max(1, len(names)) - 0.5)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("time of the whole batch (ms), less is better")
    if times:
        legend_above(axes)
    else:
        axes.text(0.5, 0.5, "nothing was proved", transform=axes.transAxes, ha="center", va="center")
    return axes


def _reach(span: float) -> float:
    """Return how far an interval reaches; an unknown one reaches nowhere."""
    return max(span, 0.0) if math.isfinite(span) else 0.0
