"""Figures of the streams experiment: speed and CPU time of reading children's output, in the house's style."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from procbench.experiments.streams_outcome import READ, C
from procbench.experiments.words import size_text
from procbench.views import plots
from procbench.views.figures import (
    BLUE,
    COLOURS,
    MARKERS,
    VERMILION,
    WIDTH_INCHES,
    current_style,
    interval_words,
    legend_above,
    new_axes,
    size_ticks,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_OURS: Final = (READ, "read_into", "batch_read", "communicate", "lines")
_GREY: Final = "#555555"


def ways(table: pd.DataFrame) -> Axes:
    """Compare ways of reading: speed on the left, CPU time on the right, a row each with intervals, the fastest on top.

    Args:
        table: ``way``, ``median``, ``low``, ``high``, ``cpu``, ``cpu_low``, ``cpu_high``, as ``StreamsResult.ways`` returns
            them. procbench's rows are blue and bold; the limit in C is a dashed line.

    Returns:
        The left axes; the right ones are the figure's other.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ordered = table[table["way"] != C].sort_values("median", ignore_index=True)
    limit = table[table["way"] == C]
    with rc_context(current_style()):
        figure = Figure(figsize=(WIDTH_INCHES, 1.5 + 0.3 * len(ordered)), dpi=100, layout="constrained")
        both: tuple[Axes, Axes] = tuple(figure.subplots(1, 2, sharey=True))
    speed, cpu = both
    for axes, column, low, high in ((speed, "median", "low", "high"), (cpu, "cpu", "cpu_low", "cpu_high")):
        for place, row in enumerate(_rows(ordered)):
            own = row["way"] in _OURS
            plots.interval(axes, row[column], place, row[low], row[high], along="x", own=own)
        for value in limit[column]:
            axes.axvline(value, color=VERMILION, linestyle="--", linewidth=1.5, label=C)
        axes.set_xlim(0, 1.08 * max(axes.dataLim.xmax, *limit[column], 0))
        axes.grid(axis="y", visible=False)
    speed.plot([], [], color=BLUE, marker="o", label=f"procbench, median{interval_words(ordered['low'])}")
    speed.plot([], [], color=_GREY, marker="s", label="others")
    speed.set_yticks(range(len(ordered)), list(ordered["way"]))
    for label in speed.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in _OURS else "normal")
    speed.set_xlabel("GB/s, more is better")
    cpu.set_xlabel("CPU s per GiB, less is better")
    with rc_context(current_style()):
        figure.legend(*speed.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return speed


def rates_by_size(table: pd.DataFrame, default_bytes: int) -> Axes:
    """Draw GB/s against the size of the buffer, a line for each size of the pipe, with intervals; C is dashed.

    Args:
        table: ``way``, ``buffer_size_bytes``, ``pipe_size_bytes``, ``median``, ``low``, ``high``.
        default_bytes: The size of the buffer unless somebody sets another, drawn as a line.
    """
    axes = new_axes(height_inches=3.8)
    _by_pipe(axes, table, "buffer_size_bytes")
    axes.axvline(default_bytes, color=_GREY, linestyle=":", linewidth=1.5, label="default buffer")
    size_ticks(axes, sorted(table["buffer_size_bytes"].unique()))
    axes.set_xlabel("size of the buffer")
    return _finished(axes, "GB/s, more is better")


def rates_by_batch(table: pd.DataFrame) -> Axes:
    """Draw GB/s against the number of buffers that ``batch_read`` is asked for, a line for each size of the pipe.

    Args:
        table: ``way``, ``batch``, ``pipe_size_bytes``, ``median``, ``low``, ``high``; C has one row, a dashed line.
    """
    axes = new_axes(height_inches=3.4)
    own = table[table["way"] != C]
    _by_pipe(axes, own, "batch")
    for row in _rows(table[table["way"] == C]):
        label = f"{C}, pipe {size_text(row['pipe_size_bytes'])}"
        axes.axhline(row["median"], color=VERMILION, linestyle="--", linewidth=1.5, label=label)
    _count_ticks(axes, sorted(own["batch"].unique()))
    axes.set_xlabel("buffers of 64 KiB in a batch")
    return _finished(axes, "GB/s, more is better")


def rates_by_children(table: pd.DataFrame) -> Axes:
    """Draw GB/s against the number of children at once, a line for each way that was measured with every number.

    Args:
        table: ``way``, ``children``, ``median``, ``low``, ``high``.
    """
    counts = sorted(table["children"].unique())
    often = table.groupby("way")["children"].transform("nunique")
    axes = new_axes(height_inches=3.6)
    _by_way(axes, table[often == len(counts)], "children", 1)
    _count_ticks(axes, counts)
    axes.set_xlabel("children at once, the same bytes in all")
    return _finished(axes, "GB/s, more is better", is_log=True)


def rates_by_line(table: pd.DataFrame) -> Axes:
    """Draw million lines a second against the length of the line, a line for each way, with intervals.

    Args:
        table: ``way``, ``line_bytes``, ``median``, ``low``, ``high``, the values in lines/s.
    """
    axes = new_axes(height_inches=3.6)
    _by_way(axes, table, "line_bytes", 1e6)
    _count_ticks(axes, sorted(table["line_bytes"].unique()))
    axes.set_xlabel("bytes of each line")
    return _finished(axes, "million lines/s, more is better", is_log=True)


def _by_pipe(axes: Axes, table: pd.DataFrame, column: str) -> None:
    own = table[table["way"] != C]
    for (pipe, part), colour, marker in zip(own.groupby("pipe_size_bytes"), COLOURS, MARKERS, strict=False):
        _line(axes, part, column, f"pipe {size_text(float(str(pipe)))}", 1, color=colour, marker=marker)
    for pipe, part in table[table["way"] == C].groupby("pipe_size_bytes"):
        label = f"{C}, pipe {size_text(float(str(pipe)))}"
        _line(axes, part, column, label, 1, color=VERMILION, linestyle="--")


def _by_way(axes: Axes, table: pd.DataFrame, column: str, unit: float) -> None:
    own = table[table["way"] != C]
    for (way, part), colour, marker in zip(own.groupby("way", sort=False), COLOURS, MARKERS, strict=False):
        _line(axes, part, column, str(way), unit, color=colour, marker=marker)
    limit = table[table["way"] == C]
    if len(limit):
        _line(axes, limit, column, C, unit, color=VERMILION, linestyle="--")


def _line(axes: Axes, part: pd.DataFrame, column: str, label: str, unit: float, **style: Any) -> None:
    points = _rows(part.sort_values(column))
    lows = [_reach(row["median"], row["low"]) / unit for row in points]
    highs = [_reach(row["high"], row["median"]) / unit for row in points]
    at, medians = [row[column] for row in points], [row["median"] / unit for row in points]
    axes.errorbar(at, medians, yerr=[lows, highs], capsize=3, linewidth=1.5, markersize=5, label=label, **style)


def _count_ticks(axes: Axes, counts: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.minorticks_off()


def _finished(axes: Axes, what: str, *, is_log: bool = False) -> Axes:
    from matplotlib.ticker import LogLocator

    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.set_ylabel(what)
    legend_above(axes)
    return axes


def _reach(above: float, below: float) -> float:
    """Return how far an interval reaches; an unknown one, which is missing, reaches nowhere."""
    return max(above - below, 0.0) if math.isfinite(above - below) else 0.0


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")
