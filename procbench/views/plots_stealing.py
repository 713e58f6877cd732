"""Figures of the stealing experiment: tidy frames go in, Axes or a Figure come out, in the house's style."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from procbench.experiments.columns import rows
from procbench.experiments.makespan_ways import LONGEST_FIRST, STEALING
from procbench.views import plots
from procbench.views.figures import BLUE, VERMILION, WIDTH_INCHES, current_style, interval_words, legend_above, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_TICKS = 20
_GREY: Final = "#555555"
_BAND: Final = "#56B4E9"
_OURS: Final = (STEALING, LONGEST_FIRST)
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
        plots.interval(axes, row["median_s"], place, row["low_s"], row["high_s"], along="x", own=own)
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


def scaling(table: pd.DataFrame, predicted: pd.DataFrame) -> Axes:
    """Draw commands per second against number of workers with intervals, the law fitted to them, and the limit.

    Args:
        table: ``workers``, ``per_s``, ``per_s_low``, ``per_s_high``, ``limit_per_s``, as ``Curve.table`` returns them.
        predicted: ``workers``, ``per_s``, ``per_s_low``, ``per_s_high``, as ``Curve.predicted`` returns them: a line with a
            band, dashed beyond what was measured; without rows it is left out.
    """
    from matplotlib import rc_context
    from matplotlib.ticker import MaxNLocator

    axes = new_axes(height_inches=3.6)
    most = table["workers"].max()
    label = f"procbench, median{interval_words(table['per_s_low'])}"
    axes.plot([], [], color=BLUE, marker="o", markersize=6, linestyle="", label=label)
    for row in rows(table):
        plots.interval(axes, row["workers"], row["per_s"], row["per_s_low"], row["per_s_high"], along="y", own=True)
    if len(predicted):
        _law(axes, predicted, most)
    last = max([most, *predicted["workers"]])
    counts, limits = [*table["workers"], last], [*table["limit_per_s"], table["limit_per_s"].iloc[-1]]
    axes.plot(counts, limits, color=VERMILION, linestyle="--", linewidth=1.5, label="limit, max(T1/P, T∞)")
    axes.set_xlabel("workers (commands at a time)")
    axes.set_ylabel("commands per second")
    # A band that knows nothing may reach far above everything; it is cut off there, so that the rest can be seen.
    axes.set_ylim(0, 1.15 * max(*limits, *table["per_s_high"].fillna(0), *table["per_s"], *predicted["per_s"]))
    if last <= _MOST_TICKS:
        axes.set_xticks(range(1, int(last) + 1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with rc_context(current_style()):
        axes.figure.figure.legend(loc="outside upper left", ncols=3)
    return axes


def _law(axes: Axes, predicted: pd.DataFrame, most: float) -> None:
    """Draw the law's line and band; a thin line says where measuring ended."""
    inside, beyond = predicted[predicted["workers"] <= most], predicted[predicted["workers"] >= most]
    axes.plot(inside["workers"], inside["per_s"], color=_GREY, linewidth=2, label="law, fitted")
    axes.plot(beyond["workers"], beyond["per_s"], color=_GREY, linewidth=2, linestyle="-.", label="law, foreseen")
    if predicted["per_s_low"].notna().all():
        ends = predicted["per_s_low"], predicted["per_s_high"]
        band: dict[str, Any] = {"color": _BAND, "alpha": 0.35, "linewidth": 0, "zorder": 1}
        axes.fill_between(predicted["workers"], *ends, label="its 95 % interval", **band)
    axes.axvline(most, color=_GREY, linestyle=":", linewidth=1)
    at = (most, 0.02)
    words = axes.annotate(
        "measured up to here", at, (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=9
    )
    words.set_color(_GREY)


def shapes(table: pd.DataFrame) -> Figure:
    """Draw how long batches took in times of the bound, a panel for each shape, a row for each way, with intervals.

    Args:
        table: ``shape``, ``way``, ``of_bound``, ``of_bound_low``, ``of_bound_high``, as ``StealingResult.shapes`` returns them;
            without rows the figure says so.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if not len(table):
        axes = new_axes(height_inches=1.2)
        axes.set_axis_off()
        axes.text(0.5, 0.5, "batches of known shape were not measured", ha="center")
        return axes.figure.figure
    names, ways = list(table["shape"].unique()), list(table["way"].unique())
    with rc_context(current_style()):
        figure = Figure(figsize=(WIDTH_INCHES, 1.5 + 0.34 * len(ways)), dpi=100, layout="constrained")
        panels = list(figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0])
    for axes, shape in zip(panels, names, strict=True):
        for row in rows(table[table["shape"] == shape]):
            ends, place = (row["of_bound_low"], row["of_bound_high"]), ways.index(row["way"])
            plots.interval(axes, row["of_bound"], place, *ends, along="x", own=row["way"] in _OURS)
            at = (row["of_bound"], place)
            text = f"{row['of_bound']:.2f}"
            axes.annotate(text, at, (0, 6), textcoords="offset points", ha="center", fontsize=9, bbox=_CLEAR)
        axes.axvline(1, color=VERMILION, linestyle="--", linewidth=1.5, label="bound, max(T1/P, T∞)")
        axes.set_title(shape, loc="left", fontsize=11)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    widest = table[["of_bound", "of_bound_high"]].max().max()
    panels[0].set_xlim(min(0.9, 0.97 * table[["of_bound", "of_bound_low"]].min().min()), 1.08 * widest)
    panels[0].set_ylim(len(ways) - 0.5, -0.7)
    panels[0].set_yticks(range(len(ways)), ways)
    for label in panels[0].get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in _OURS else "normal")
    figure.supxlabel("time for the batch, in times of the bound; less is better", fontsize=10)
    words = f"median{interval_words(table['of_bound_low'])}"
    panels[0].plot([], [], color=BLUE, marker="o", label=f"procbench's scheduler, {words}")
    panels[0].plot([], [], color=_GREY, marker="s", label="without it")
    with rc_context(current_style()):
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def timeline(trace: pd.DataFrame) -> Axes:
    """Draw which worker ran which command when: a row for each worker, a bar for each command; stolen ones are hatched.

    Args:
        trace: ``worker``, ``start_s``, ``end_s``, ``stolen_from`` and ``program``, as ``StealingResult.trace`` has them.
            The most frequent programs get a colour each, the rest share one.
    """
    return plots.timeline(
        trace.assign(stolen=trace["stolen_from"].notna()),
        lane="worker",
        start="start_s",
        end="end_s",
        kind="program",
        hatched="stolen",
        lane_label="worker {}",
        hatch_label="stolen",
        label="time since the first command (s)",
    )
