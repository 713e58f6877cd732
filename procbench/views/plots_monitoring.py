"""Figures of the monitoring experiment: a tidy frame goes in, Axes come out, in the house's style."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from procbench.experiments.columns import rows
from procbench.experiments.monitoring_outcome import ALONE
from procbench.experiments.monitoring_ways import ALL, PSUTIL
from procbench.views import plots
from procbench.views.figures import (
    BLUE,
    COLOURS,
    STYLE,
    VERMILION,
    WIDTH_INCHES,
    interval_words,
    legend_above,
    new_axes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY: Final = "#555555"
_CLEAR: Final[dict[str, Any]] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # no line runs through a figure
_MIB: Final = 1 << 20


def overhead(table: pd.DataFrame) -> Axes:
    """Draw how fast a batch is, watched at each interval, and beside it the monitor's share of a CPU.

    Args:
        table: ``way``, ``ratio``, ``ratio_low``, ``ratio_high``, ``noise_floor``, ``cpu_percent``, ``reckoned_percent``, as
            ``MonitoringResult.overhead`` returns them.

    Returns:
        The left axes; the right ones are the figure's other.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    watched = table[table["way"] != ALONE].reset_index(drop=True)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 1.7 + 0.42 * len(watched)), dpi=100, layout="constrained")
        both: tuple[Axes, Axes] = tuple(figure.subplots(1, 2, sharey=True))
    speed, share = both
    for place, row in enumerate(rows(watched)):
        value, low, high = (100 * row[name] for name in ("ratio", "ratio_low", "ratio_high"))
        reach = [[_reach(value, low)], [_reach(high, value)]]
        speed.errorbar(value, place, xerr=reach, capsize=4, linewidth=2, markersize=6, color=BLUE, marker="o")
        speed.annotate(f"{value:.1f}", (value, place), (0, 7), textcoords="offset points", fontsize=9, ha="center")
        share.barh(place, row["cpu_percent"], height=0.5, color=BLUE)
        share.plot([row["reckoned_percent"]] * 2, [place - 0.35, place + 0.35], color=VERMILION, linestyle="--")
        text = f"{row['cpu_percent']:.2g}"
        share.annotate(text, (row["cpu_percent"], place), (5, -3), textcoords="offset points", fontsize=9, bbox=_CLEAR)
    floor = table["noise_floor"].dropna()
    if len(floor) and math.isfinite(floor.iloc[0]):
        noise = 100 * floor.iloc[0]
        speed.axvspan(100 - noise, 100 + noise, color="#bbbbbb", alpha=0.4, linewidth=0, label="noise (A/A)")
    speed.axvline(100, color=_GREY, linestyle=":", linewidth=1.5, label="not watched")
    share.barh([0], [0], color=BLUE, label="measured")
    share.plot([], [], color=VERMILION, linestyle="--", label="one look's cost, so often")
    speed.margins(x=0.15)
    speed.set_yticks(range(len(watched)), list(watched["way"]))
    speed.set_ylim(len(watched) - 0.4, -0.6)
    share.set_xlim(0, 1.2 * max(share.dataLim.xmax, 0.01))
    words = interval_words(watched["ratio_low"])
    speed.set_xlabel(f"speed (% of not watched), more is better\nmedian{words}")
    share.set_xlabel("the monitor's CPU time\n(% of one CPU), less is better")
    for axes in both:
        axes.grid(axis="y", visible=False)
        legend_above(axes)
    return speed


def costs(table: pd.DataFrame) -> Axes:
    """Draw the CPU time of one look, a row for each way, on a logarithmic scale.

    Args:
        table: ``way``, ``median_us``, ``low_us``, ``high_us``, as ``MonitoringResult.costs`` returns them.
    """
    axes = new_axes(height_inches=1.2 + 0.34 * len(table))
    colours = {ALL: BLUE, PSUTIL: VERMILION}
    for place, row in enumerate(rows(table)):
        reach = [[_reach(row["median_us"], row["low_us"])], [_reach(row["high_us"], row["median_us"])]]
        colour = colours.get(row["way"], "#9dc3de")
        axes.barh(place, row["median_us"], height=0.62, color=colour, xerr=reach, capsize=3, ecolor=_GREY)
        beside = (row["median_us"] + reach[1][0], place)
        text = f"{row['median_us']:,.0f}"
        axes.annotate(text, beside, (6, -3), textcoords="offset points", fontsize=9, bbox=_CLEAR)
    axes.set_xscale("log")
    axes.set_xlim(1, 3 * axes.dataLim.xmax)
    axes.set_yticks(range(len(table)), list(table["way"]))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"CPU time of one look (µs), less is better\nlogarithmic; median{interval_words(table['low_us'])}")
    return axes


def live(samples: pd.DataFrame, commands: pd.DataFrame) -> Figure:
    """Draw a batch over time: CPUs, who waits, the batch's processes and memory, and which worker ran what when.

    Args:
        samples: A monitor's frame: ``time_s``, ``collector``, ``metric``, ``value``.
        commands: ``start_s``, ``end_s``, ``worker``, ``program``, on the same clock.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 7.2), dpi=100, layout="constrained")
        cpus, waits, tree, work = figure.subplots(
            4, 1, sharex=True, gridspec_kw={"height_ratios": [1, 1, 1, 0.4 + 0.2 * commands["worker"].nunique()]}
        )
    _lines(cpus, samples, {"all CPUs": ("cpu", "busy", 100), "the batch": ("tree", "cpu", 100 / _cpus(samples))})
    cpus.set_ylabel("CPUs busy (%)")
    cpus.set_ylim(0, 105)
    pressure = {f"for {word}": ("pressure", f"{word}_some", 100) for word in ("cpu", "memory", "io")}
    _lines(waits, samples, pressure)
    waits.set_ylabel("somebody\nwaited (%)")
    waits.set_ylim(bottom=0)
    _lines(tree, samples, {"memory of the batch": ("tree", "memory", 1 / _MIB)})
    tree.set_ylabel("memory (MiB)")
    tree.set_ylim(bottom=0)
    for axes in (cpus, waits, tree):
        legend_above(axes)
    plots.timeline(
        commands.assign(program=commands["program"].str.rpartition("/")[2]),
        lane="worker",
        start="start_s",
        end="end_s",
        kind="program",
        lane_label="worker {}",
        label="time since the monitor began (s)",
        origin=0,
        axes=work,
    )
    return figure


def _lines(axes: Axes, samples: pd.DataFrame, wanted: Mapping[str, tuple[str, str, float]]) -> None:
    """Draw metrics as lines, by label; one that is never known says so in the legend."""
    for number, (label, (collector, metric, factor)) in enumerate(wanted.items()):
        own = samples[(samples["collector"] == collector) & (samples["metric"] == metric)].dropna(subset=["value"])
        style: dict[str, Any] = {"color": COLOURS[number], "linestyle": ("-", "--", ":")[number % 3], "linewidth": 1.6}
        axes.plot(own["time_s"], own["value"] * factor, label=label if len(own) else f"{label}: unknown", **style)


def _cpus(samples: pd.DataFrame) -> int:
    """Return how many CPUs the machine has, going by what was sampled of each."""
    each = samples[samples["metric"].str.startswith("each_busy[")]["metric"].nunique()
    return max(1, each)


def _reach(above: float, below: float) -> float:
    """Return how far an interval reaches; an unknown one, which is missing, reaches nowhere."""
    return max(above - below, 0.0) if math.isfinite(above - below) else 0.0
