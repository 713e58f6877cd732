"""Figures of a person's commands: where their time goes, who ran what when, and what changes do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procbench.experiments.columns import rows
from procbench.views import plots
from procbench.views.figures import BLUE, COLOURS, GREY, legend_above, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PARTS = (
    ("user_s", "on a CPU, own code", BLUE, ""),
    ("system_s", "on a CPU, kernel", COLOURS[1], "//"),
    ("waiting_s", "waiting", GREY, ".."),
)


def programs(table: pd.DataFrame) -> Axes:
    """Draw the time of all commands by program, a bar each, in parts: own code, kernel, waiting.

    Args:
        table: ``program``, ``share``, ``user_s``, ``system_s``, ``waiting_s``, as ``YourCommandsResult.programs`` returns them.
    """
    axes = new_axes(height_inches=1.4 + 0.42 * len(table))
    left = [0.0] * len(table)
    for column, label, colour, hatch in _PARTS:
        widths = list(table[column])
        axes.barh(range(len(table)), widths, left=left, color=colour, hatch=hatch, edgecolor="white", label=label)
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    for place, row in enumerate(rows(table)):
        axes.annotate(f"{row['share']:.0%}", (left[place], place), (4, -3), textcoords="offset points", fontsize=9)
    axes.set_yticks(range(len(table)), list(table["program"]))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * max(left))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("time of all commands (s)")
    legend_above(axes)
    return axes


def timeline(frame: pd.DataFrame) -> Axes:
    """Draw which worker ran which command when (``YourCommandsResult.frame``)."""
    began = frame[frame["worker"].notna()]
    return plots.timeline(
        began,
        lane="worker",
        start="start_s",
        end="end_s",
        kind="program",
        lane_label="worker {}",
        label="time since the first command (s)",
    )
