"""Figures of the descriptors experiment: a tidy frame goes in, Axes come out, in the house's style."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from procbench.experiments.columns import rows
from procbench.experiments.descriptors_ways import ANEW, BARE, KEPT
from procbench.views.figures import BLUE, VERMILION, WIDTH_INCHES, current_style, interval_words, legend_above, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_GREY: Final = "#555555"
_LABELS: Final = {"pipe": "pipe (both ends)", "memfd": "memory file", "null": "/dev/null", "file": "file"}
_DRAWN: Final[dict[str, dict[str, Any]]] = {
    ANEW: {"color": _GREY, "marker": "s", "place": -0.17},
    KEPT: {"color": BLUE, "marker": "o", "place": 0.17},
}
_CLEAR: Final[dict[str, Any]] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # no line runs through a figure


def costs(table: pd.DataFrame) -> Axes:
    """Draw the time to open and close each kind: a row each, kept and opened anew with intervals, bare calls dashed.

    Args:
        table: ``kind``, ``way``, ``median_us``, ``low_us``, ``high_us``, as ``DescriptorsResult.costs`` returns them.
    """
    kinds = list(dict.fromkeys(table["kind"]))
    axes = new_axes(height_inches=1.3 + 0.62 * len(kinds))
    lows = table.loc[table["way"] != BARE, "low_us"]
    for way, drawn in _DRAWN.items():
        style = {name: value for name, value in drawn.items() if name != "place"}
        for row in rows(table[table["way"] == way]):
            place = kinds.index(row["kind"]) + drawn["place"]
            reach = [[_reach(row["median_us"], row["low_us"])], [_reach(row["high_us"], row["median_us"])]]
            axes.errorbar(row["median_us"], place, xerr=reach, capsize=4, linewidth=2, markersize=6, **style)
            beside = (row["median_us"] + reach[1][0], place)
            text = f"{row['median_us']:.3g}"
            axes.annotate(text, beside, (7, -3), textcoords="offset points", fontsize=9, bbox=_CLEAR)
        axes.plot([], [], label=way, **style)
    for row in rows(table[table["way"] == BARE]):
        place = kinds.index(row["kind"])
        axes.vlines(row["median_us"], place - 0.4, place + 0.4, color=VERMILION, linestyle="--", linewidth=1.5)
    axes.plot([], [], color=VERMILION, linestyle="--", linewidth=1.5, label=BARE)
    axes.set_yticks(range(len(kinds)), [_LABELS.get(kind, kind) for kind in kinds])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * axes.dataLim.xmax)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"time to open and close one (µs), less is better; median{interval_words(lows)}")
    legend_above(axes)
    return axes


def limits(table: pd.DataFrame) -> Axes:
    """Draw what batches had open at most against their limit on the left, and what became of their commands on the right.

    Args:
        table: ``way``, ``peak``, ``limit``, ``tasks``, ``done``, ``refused``, as ``DescriptorsResult.limits`` returns them.

    Returns:
        The left axes; the right ones are the figure's other.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(current_style()):
        figure = Figure(figsize=(WIDTH_INCHES, 1.5 + 0.42 * len(table)), dpi=100, layout="constrained")
        both: tuple[Axes, Axes] = tuple(figure.subplots(1, 2, sharey=True))
    peaks, commands = both
    limit = table["limit"].iloc[0]
    for place, row in enumerate(rows(table)):
        is_known = row["peak"] is not None and math.isfinite(row["peak"])
        peak = row["peak"] if is_known else 0
        peaks.barh(place, peak, height=0.55, color=BLUE)
        text = f"{peak:g}" if is_known else "unknown"
        peaks.annotate(
            text,
            (peak, place),
            (-4 if peak else 4, -3),
            textcoords="offset points",
            fontsize=9,
            ha="right" if peak else "left",
            color="white" if peak else "black",
        )
        done = 100 * row["done"] / row["tasks"]
        refused = 100 * row["refused"] / row["tasks"]
        commands.barh(place, done, height=0.55, color=BLUE)
        if refused:
            hatched: dict[str, Any] = {"facecolor": "white", "edgecolor": VERMILION, "hatch": "////"}
            commands.barh(place, refused, left=done, height=0.55, **hatched)
        what = f"{row['done']:,} of {row['tasks']:,} done"
        commands.annotate(
            what, (50, place), (0, -3), textcoords="offset points", fontsize=9, ha="center", bbox={**_CLEAR, "pad": 1.5}
        )
    peaks.axvline(limit, color=VERMILION, linestyle="--", linewidth=1.5, label=f"limit {limit:g}")
    commands.fill_between([], [], color=BLUE, label="done")
    commands.fill_between([], [], facecolor="white", edgecolor=VERMILION, hatch="////", label="refused (EMFILE)")
    peaks.set_yticks(range(len(table)), list(table["way"]))
    peaks.invert_yaxis()
    peaks.set_xlim(0, 1.08 * limit)
    commands.set_xlim(0, 100)
    peaks.set_xlabel("descriptors open at most")
    commands.set_xlabel("share of the commands (%)")
    for axes in both:
        axes.grid(axis="y", visible=False)
        legend_above(axes)
    return peaks


def _reach(above: float, below: float) -> float:
    """Return how far an interval reaches; an unknown one, which is missing, reaches nowhere."""
    return max(above - below, 0.0) if math.isfinite(above - below) else 0.0
