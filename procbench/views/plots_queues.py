"""Figures of the queues experiment: a tidy frame goes in, Axes come out, in the house's style."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from procbench.experiments.columns import rows
from procbench.experiments.queues_outcome import BOUND, SHARDS, THREADS, WAY
from procbench.experiments.queues_ways import OURS, SHARDED, SIMPLE, STANDARD
from procbench.views import plots
from procbench.views.figures import (
    BLUE,
    COLOURS,
    VERMILION,
    WIDTH_INCHES,
    current_style,
    interval_words,
    legend_above,
    new_axes,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_DRAWN: Final[dict[str, dict[str, Any]]] = {
    OURS: {"color": BLUE, "marker": "o"},
    STANDARD: {"color": "#555555", "marker": "s"},
    SHARDED: {"color": COLOURS[1], "marker": "D"},
}
_LABELS: Final = {THREADS: "producers, and consumers", BOUND: "maxsize", SHARDS: "shards"}
_CLEAR: Final[dict[str, Any]] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # no line runs through a figure


def rates(table: pd.DataFrame) -> Axes:
    """Draw how many items pass in a second, a row for each way with intervals; the unbounded queue is the dashed limit.

    Args:
        table: ``knob``, ``way``, ``median``, ``low``, ``high``, as ``QueuesResult.rates`` returns them.
    """
    chosen = table[(table["knob"] == WAY) & (table["way"] != SIMPLE)]
    limit = table.loc[(table["knob"] == WAY) & (table["way"] == SIMPLE), "median"].iloc[0] / 1000
    axes = new_axes(height_inches=1.3 + 0.42 * len(chosen))
    axes.axvline(limit, color=VERMILION, linestyle="--", linewidth=1.5, label=f"{SIMPLE}, no bound: {limit:,.0f}")
    for place, row in enumerate(rows(chosen)):
        middle = row["median"] / 1000
        plots.interval(axes, middle, place, row["low"] / 1000, row["high"] / 1000, along="x")
        text = f"{middle:.3g}" if middle < 1000 else f"{middle:,.0f}"
        axes.annotate(text, (middle, place), (0, 8), textcoords="offset points", fontsize=9, ha="center", bbox=_CLEAR)
    axes.set_xscale("log")
    axes.set_xlim(axes.dataLim.xmin / 2, 2 * max(axes.dataLim.xmax, limit))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_yticks(range(len(chosen)), list(chosen["way"]))
    axes.set_ylim(len(chosen) - 0.5, -0.7)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"thousand items per second, more is better; median{interval_words(chosen.low)}")
    legend_above(axes)
    return axes


def settings(table: pd.DataFrame) -> Axes:
    """Draw how many items pass in a second by number of threads, by bound and by shards, with intervals.

    Args:
        table: ``knob``, ``way``, ``setting``, ``median``, ``low``, ``high``, as ``QueuesResult.rates`` returns them.

    Returns:
        The left axes; the figure has three.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(current_style()):
        figure = Figure(figsize=(WIDTH_INCHES, 3.3), dpi=100, layout="constrained")
        all_axes: tuple[Axes, ...] = tuple(figure.subplots(1, 3, sharey=True))
    for axes, (knob, label) in zip(all_axes, _LABELS.items(), strict=True):
        part = table[table["knob"] == knob]
        values = list(dict.fromkeys(part["setting"]))
        for way, own in part.groupby("way", sort=False):
            reach = [
                [_reach(row["median"], row["low"]) for row in rows(own)],
                [_reach(row["high"], row["median"]) for row in rows(own)],
            ]
            places = [values.index(value) for value in own["setting"]]
            axes.errorbar(places, own["median"] / 1000, yerr=reach, capsize=4, linewidth=2, **_DRAWN[str(way)])
        axes.set_xticks(range(len(values)), values)
        axes.set_xlim(-0.4, len(values) - 0.6)
        axes.set_xlabel(label)
    for way, drawn in _DRAWN.items():
        all_axes[0].plot([], [], label=way, **drawn)
    all_axes[0].set_ylim(0, 1.08 * max(axes.dataLim.ymax for axes in all_axes))
    all_axes[0].set_ylabel("thousand items per second")
    all_axes[0].set_title(f"median{interval_words(table.low)}", fontsize=9)
    figure.legend(
        *all_axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, fontsize=9
    )
    return all_axes[0]


def served(table: pd.DataFrame) -> Axes:
    """Draw how long items waited on the left, and what the least-served consumer got on the right; even is dashed.

    Args:
        table: ``way``, ``mean_wait_s``, ``p99_wait_s``, ``least_share`` with its ends, as ``QueuesResult.served`` returns them.

    Returns:
        The left axes; the right ones are the figure's other.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(current_style()):
        figure = Figure(figsize=(WIDTH_INCHES, 1.5 + 0.36 * len(table)), dpi=100, layout="constrained")
        both: tuple[Axes, Axes] = tuple(figure.subplots(1, 2, sharey=True))
    waits, shares = both
    for place, row in enumerate(rows(table)):
        if math.isfinite(row["mean_wait_s"]):
            waits.plot(1000 * row["mean_wait_s"], place, color=BLUE, marker="o", linestyle="")
            waits.plot(1000 * row["p99_wait_s"], place, color="#555555", marker="D", linestyle="")
        else:
            waits.annotate("not counted", (0, place), (6, -3), textcoords="offset points", fontsize=9)
        ends = (100 * row["least_share_low"], 100 * row["least_share_high"])
        plots.interval(shares, 100 * row["least_share"], place, *ends, along="x")
    waits.plot([], [], color=BLUE, marker="o", linestyle="", label="mean")
    waits.plot([], [], color="#555555", marker="D", linestyle="", label="99th percentile")
    shares.axvline(100, color=VERMILION, linestyle="--", linewidth=1.5, label="all alike")
    waits.set_yticks(range(len(table)), list(table["way"]))
    waits.set_ylim(len(table) - 0.5, -0.5)
    waits.set_xlim(0, 1.1 * max(waits.dataLim.xmax, 1e-3))
    shares.set_xlim(-4, 108)
    waits.set_xlabel("wait of an item (ms)")
    shares.set_xlabel("least-served, % of an even share")
    for axes in both:
        axes.grid(axis="y", visible=False)
        legend_above(axes)
    return waits


def _reach(above: float, below: float) -> float:
    return _gap(above, below) / 1000


def _gap(above: float, below: float) -> float:
    """Return how far an interval reaches; an unknown one, which is missing, reaches nowhere."""
    return max(above - below, 0.0) if math.isfinite(above - below) else 0.0
