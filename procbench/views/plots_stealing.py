"""Figures of the stealing experiment: a tidy frame goes in, Axes come out, in the house's style."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from procbench.experiments.columns import rows
from procbench.views.figures import BLUE, COLOURS, VERMILION, interval_words, legend_above, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_MOST_PROGRAMS = 5
_CLEAR: Final[dict[str, Any]] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # no line runs through a figure


def ways(table: pd.DataFrame, limit_s: float | None = None, *, highlight: str = "procbench") -> Axes:
    """Compare ways of doing the same: one row each with its median and interval, the fastest on top.

    Args:
        table: ``way``, ``median_s``, ``low_s``, ``high_s``, as ``StealingResult.summary`` returns them; an interval may be
            missing.
        limit_s: Seconds below which nothing gets, drawn as a dashed line.
        highlight: The way that is drawn in another colour, marker and weight.
    """
    ordered = table.sort_values("median_s", ascending=False, ignore_index=True)
    axes = new_axes(height_inches=1.3 + 0.38 * len(ordered))
    for place, row in enumerate(rows(ordered)):
        own = row["way"] == highlight
        _interval(axes, row["median_s"], place, row["low_s"], row["high_s"], axis="x", own=own)
        text = f"{row['median_s']:.3g} s"
        at = (row["median_s"], place)
        axes.annotate(text, at, (0, 7), textcoords="offset points", ha="center", fontsize=9, bbox=_CLEAR)
    axes.set_yticks(range(len(ordered)), list(ordered["way"]))
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == highlight else "normal")
    axes.set_ylim(-0.6, len(ordered) - 0.3)
    if limit_s is not None:
        axes.axvline(limit_s, color=VERMILION, linestyle="--", linewidth=1.5, label=f"limit {limit_s:.3g} s")
    axes.plot([], [], color="#333333", marker="o", label=f"median{interval_words(ordered['low_s'])}")
    axes.set_xlim(0, 1.08 * max(axes.dataLim.xmax, limit_s or 0))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("time for the batch (s), less is better")
    legend_above(axes)
    return axes


def scaling(table: pd.DataFrame) -> Axes:
    """Draw time against number of workers with intervals, and the limit ``max(T1 / P, T∞)``.

    Args:
        table: ``workers``, ``median_s``, ``low_s``, ``high_s``, ``limit_s``, as ``StealingResult.scaling`` returns them.
    """
    axes = new_axes(height_inches=3.4)
    for row in rows(table):
        _interval(axes, row["workers"], row["median_s"], row["low_s"], row["high_s"], axis="y", own=True)
    counts = table["workers"]
    axes.plot(
        counts, table["median_s"], color=BLUE, marker="o", label=f"procbench, median{interval_words(table['low_s'])}"
    )
    limits, label = table["limit_s"], "limit max(T1/P, T∞)"
    axes.plot(counts, limits, color=VERMILION, linestyle="--", linewidth=1.5, label=label)
    axes.set_xlabel("workers (commands at a time)")
    axes.set_ylabel("time for the batch (s)")
    axes.set_ylim(0, 1.08 * axes.dataLim.ymax)
    if len(table) <= 20:
        axes.set_xticks(list(table["workers"]))
    legend_above(axes)
    return axes


def timeline(trace: pd.DataFrame) -> Axes:
    """Draw which worker ran which command when: a row for each worker, a bar for each command; stolen ones are hatched.

    Args:
        trace: ``worker``, ``start_s``, ``end_s``, ``stolen_from`` and ``program``, as ``StealingResult.trace`` has them.
            The most frequent programs get a colour each, the rest share one.
    """
    numbers = sorted(trace["worker"].unique())
    axes = new_axes(height_inches=1.5 + min(0.45 * len(numbers), 6))
    programs = list(trace["program"].value_counts().index)
    named = dict(zip(programs[:_MOST_PROGRAMS], COLOURS, strict=False))
    origin_s = trace["start_s"].min()
    for program in [*named, None]:
        of_it = trace[~trace["program"].isin(named)] if program is None else trace[trace["program"] == program]
        for stolen, part in of_it.groupby(of_it["stolen_from"].notna()):
            bars = axes.barh(
                [numbers.index(worker) for worker in part["worker"]],
                part["end_s"] - part["start_s"],
                left=part["start_s"] - origin_s,
                height=0.7,
                color="#999999" if program is None else named[program],
                edgecolor="black" if stolen else "white",
                linewidth=0.8 if stolen else 0.4,
                hatch="////" if stolen else None,
                zorder=3 if stolen else 2,
            )
            bars.set_label("_")
        if len(of_it):
            axes.barh([0], [0], color="#999999" if program is None else named[program], label=program or "other")
    axes.barh([0], [0], facecolor="white", edgecolor="black", hatch="////", label="stolen")
    axes.set_yticks(range(len(numbers)), [f"worker {number}" for number in numbers])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("time since the first command (s)")
    legend_above(axes)
    return axes


def _interval(axes: Axes, x: float, y: float, low: float, high: float, *, axis: str, own: bool) -> None:
    """Draw a point with its interval; an unknown interval, which is missing, is left out."""
    at = x if axis == "x" else y
    known = math.isfinite(low) and math.isfinite(high)
    error: dict[str, Any] = {f"{axis}err": [[max(at - low, 0)], [max(high - at, 0)]]} if known else {}
    colour, marker = (BLUE, "o") if own else ("#555555", "s")
    axes.errorbar(x, y, **error, fmt=marker, color=colour, markersize=6, capsize=4, linewidth=2)
