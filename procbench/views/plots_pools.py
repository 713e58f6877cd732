"""Figures of the pools experiment: a tidy frame goes in, Axes come out, in the house's style."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procbench.views.figures import COLOURS, MARKERS, VERMILION, interval_words, legend_above, new_axes, size_ticks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def acquire_times(table: pd.DataFrame, threads: int = 1) -> Axes:
    """Draw the time to get memory against its size, a line for each way with intervals.

    Args:
        table: ``way``, ``size_bytes``, ``threads``, ``median_ns``, ``low_ns``, ``high_ns``, ``p99_ns``, as
            ``PoolsResult.summary`` returns them; the 99th percentile is a dotted line.
        threads: Which rows.
    """
    axes = new_axes(height_inches=4.0)
    chosen = table[table["threads"] == threads]
    for (way, part), colour, marker in zip(chosen.groupby("way", sort=False), COLOURS, MARKERS, strict=False):
        sizes, medians = part["size_bytes"], part["median_ns"]
        error = [(medians - part["low_ns"]).clip(0), (part["high_ns"] - medians).clip(0)]
        axes.errorbar(sizes, medians, yerr=error, color=colour, marker=marker, capsize=4, linewidth=2, label=str(way))
        axes.plot(sizes, part["p99_ns"], color=colour, linestyle=":", linewidth=1.5)
    axes.plot([], [], color="#333333", label=f"median{interval_words(chosen.low_ns)}")
    axes.plot([], [], color="#333333", linestyle=":", label="99th percentile")
    axes.set_yscale("log")
    size_ticks(axes, sorted(chosen["size_bytes"].unique()))
    axes.set_xlabel("size of the buffer")
    axes.set_ylabel("time to get it (ns)")
    legend_above(axes)
    return axes


def read_times(table: pd.DataFrame, default_bytes: int) -> Axes:
    """Draw the time to read a command's output against the buffer's size, with intervals and the default as a line.

    Args:
        table: ``buffer_size_bytes``, ``median_s``, ``low_s``, ``high_s``, as ``PoolsResult.reads`` returns them.
        default_bytes: The size that is used unless somebody sets another.
    """
    axes = new_axes(height_inches=3.2)
    medians = table["median_s"] * 1000
    error = [(medians - table["low_s"] * 1000).clip(0), (table["high_s"] * 1000 - medians).clip(0)]
    label = f"median{interval_words(table.low_s)}"
    axes.errorbar(
        table["buffer_size_bytes"],
        medians,
        yerr=error,
        color=COLOURS[0],
        marker="o",
        capsize=4,
        linewidth=2,
        label=label,
    )
    axes.axvline(default_bytes, color=VERMILION, linestyle="--", linewidth=1.5, label="the default")
    size_ticks(axes, sorted(table["buffer_size_bytes"]))
    axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
    axes.set_xlabel("buffer_size_bytes")
    axes.set_ylabel("time for 32 MiB of output (ms)")
    legend_above(axes)
    return axes


def pools_over_time(table: pd.DataFrame) -> Axes:
    """Draw how many pools there are over time, and from when on an idle one may go.

    Args:
        table: ``elapsed_s``, ``pools``, ``max_idle_s``, as ``PoolsResult.idle`` has them.
    """
    axes = new_axes(height_inches=2.6)
    axes.step(table["elapsed_s"], table["pools"], where="post", color=COLOURS[0], linewidth=2, label="pools")
    axes.axvline(
        table["max_idle_s"].iloc[0], color=VERMILION, linestyle="--", linewidth=1.5, label="idle for max_idle_s"
    )
    axes.set_ylim(0, table["pools"].max() + 0.5)
    axes.set_yticks(range(int(table["pools"].max()) + 1))
    axes.set_xlabel("time since the last use of the idle ones (s)")
    axes.set_ylabel("pools")
    legend_above(axes)
    return axes
