"""Figures of the affinity experiment: throughput, tail latency and moves by way of pinning, in the house's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from procbench.views.figures import COLOURS, MARKERS, WIDTH_INCHES, current_style, interval_words

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_APART = 0.34  # between the kinds of commands within a row; a row is 1 high
_GREY = "#333333"


def throughput(table: pd.DataFrame) -> Figure:
    """Draw commands per second with intervals: a panel for each state, a row for each way of pinning, a colour for each kind.

    Args:
        table: ``AffinityResult.throughput``.
    """
    figure, panels = _panels(list(table["state"].unique()), list(table["label"].unique()), same_scale=True)
    for axes, (state, part) in zip(panels, table.groupby("state", sort=False), strict=True):
        for place, row, style in _points(part, part["label"]):
            _with_ends(axes, row["median"], row["low"], row["high"], place, style)
        axes.set_title(str(state), loc="left", fontsize=11)
    panels[0].set_xlim(0, 1.08 * max(axes.dataLim.xmax for axes in panels))
    figure.supxlabel("commands per second, more is better", fontsize=10)
    _legend(figure, table, [("", f"median{_interval_words(table['low'])}")])
    return figure


def tails(table: pd.DataFrame) -> Figure:
    """Draw how long single commands took, from the median over the 95th to the 99th percentile; panels, rows, colours as above.

    Args:
        table: ``AffinityResult.tails``.
    """
    figure, panels = _panels(list(table["state"].unique()), list(table["label"].unique()), same_scale=True)
    for axes, (state, part) in zip(panels, table.groupby("state", sort=False), strict=True):
        for place, row, style in _points(part, part["label"]):
            colour = style["color"]
            axes.plot([row["p50_ms"], row["p99_ms"]], [place, place], color=colour, linewidth=2)
            for column, marker in (("p50_ms", "o"), ("p95_ms", "|"), ("p99_ms", "D")):
                axes.plot(
                    [row[column]], [place], color=colour, marker=marker, markersize=9 if marker == "|" else 6, mew=2
                )
        axes.set_title(str(state), loc="left", fontsize=11)
    panels[0].set_xlim(0, 1.08 * max(axes.dataLim.xmax for axes in panels))
    figure.supxlabel("wall time of a command (ms), less is better", fontsize=10)
    _legend(figure, table, [("o", "median"), ("|", "95th percentile"), ("D", "99th percentile")], marked=False)
    return figure


def moves(table: pd.DataFrame) -> Figure:
    """Draw migrations and involuntary switches per command with intervals: a panel each, a row for each state and way of pinning.

    Args:
        table: ``AffinityResult.moves``.
    """
    labels = table["state"] + ", " + table["pin"]
    figure, panels = _panels(["migrations", "involuntary switches"], list(labels.unique()))
    for axes, column in zip(panels, ("migrations", "involuntary"), strict=True):
        for place, row, style in _points(table, labels):
            if math.isfinite(row[column]):
                _with_ends(axes, row[column], row[f"{column}_low"], row[f"{column}_high"], place, style)
        if table[column].isna().all():
            axes.text(0.5, 0.5, "this kernel shows none", transform=axes.transAxes, ha="center")
        title = {"migrations": "moved to another CPU", "involuntary": "interrupted on its CPU"}[column]
        axes.set_title(title, loc="left", fontsize=11)
        top = max(axes.dataLim.xmax, 0.0) if math.isfinite(axes.dataLim.xmax) else 0.0
        axes.set_xlim(-0.03 * (top or 1), 1.08 * (top or 1))  # nobody was moved at all where the largest is 0
    figure.supxlabel("times per command", fontsize=10)
    _legend(figure, table, [("", f"mean{_interval_words(table['involuntary_low'])}")])
    return figure


def _panels(titles: Sequence[str], labels: Sequence[str], *, same_scale: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a new figure in our style with panels side by side and the same rows in all, from the top down."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(current_style()):
        lines = [max(2, _wrapped(label).count("\n") + 1) for label in labels]
        height_inches = 1.4 + 0.28 * max(lines) * len(labels)
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=100, layout="constrained")
        panels = list(figure.subplots(1, len(titles), sharex=same_scale, sharey=True, squeeze=False)[0])
    panels[0].set_yticks(range(len(labels)), [_wrapped(label) for label in labels])
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    for axes in panels:
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    return figure, panels


def _points(table: pd.DataFrame, labels: pd.Series) -> list[tuple[float, dict[Any, Any], dict[str, Any]]]:
    """Return for each row of the table its height, its values and its kind's style."""
    kinds, places = list(table["kind"].unique()), list(labels.unique())
    found = []
    for row, label in zip(table.to_dict("records"), labels, strict=True):
        kind = kinds.index(row["kind"])
        place = places.index(label) + _APART * (kind - (len(kinds) - 1) / 2)
        found.append((place, row, {"color": COLOURS[kind], "marker": MARKERS[kind]}))
    return found


def _with_ends(axes: Axes, value: float, low: float, high: float, place: float, style: dict[str, Any]) -> None:
    """Draw a point with its interval; an unknown one is left out."""
    known = math.isfinite(low) and math.isfinite(high)
    error: dict[str, Any] = {"xerr": [[max(value - low, 0)], [max(high - value, 0)]]} if known else {}
    axes.errorbar(value, place, **error, markersize=6, capsize=4, linewidth=2, linestyle="", **style)


def _legend(figure: Figure, table: pd.DataFrame, marks: Sequence[tuple[str, str]], *, marked: bool = True) -> None:
    """Put a legend above the panels: the kinds' colours, and what the marks mean."""
    from matplotlib import rc_context
    from matplotlib.lines import Line2D

    handles = []
    for number, kind in enumerate(table["kind"].unique()):
        marker = MARKERS[number] if marked else ""
        handles.append(Line2D([], [], color=COLOURS[number], marker=marker, linewidth=2, label=str(kind)))
    for mark, words in marks:
        handles.append(
            Line2D([], [], color=_GREY, marker="" if marked else mark, linewidth=2 * marked, mew=2, label=words)
        )
    with rc_context(current_style()):
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def _wrapped(label: str) -> str:
    """Return a label whose names that mean the same stand on lines of their own, two on each."""
    name, *rest = label.split(" = ")
    lines = ["= " + " = ".join(rest[start : start + 2]) for start in range(0, len(rest), 2)]
    return "\n".join([name, *lines])


def _interval_words(low: pd.Series) -> str:
    """Return what a legend says after the word median, where some rows may have had too few blocks."""
    some = low.notna().any() and not low.notna().all()
    return " and, where blocks suffice, 95 % interval" if some else interval_words(low)
