"""Figures of the history: each line run by run, with intervals, levels and what changed where it jumped."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from procbench.analysis.history import Line, levels
from procbench.views.figures import BLUE, COLOURS, VERMILION, WIDTH_INCHES, current_style
from procbench.views.terminal import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 8
"""Lines that one figure shows, one above the other; more make it unreadable."""

_ROW_INCHES = 2.4
_STEP_POINTS, _STEPS = 36, 3  # so far down, three lines of words, begin those beside the next jump; then above again


def over_runs(lines: Sequence[Line]) -> Figure:
    """Draw each line in a row of its own: medians with 95 % intervals, levels between jumps, jumps dashed with their facts.

    Args:
        lines: At most :data:`MOST_LINES` are drawn, those with changes before those without.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    chosen = sorted(lines, key=lambda line: not line.changes)[:MOST_LINES]
    with rc_context(current_style()):
        height = max(1, len(chosen)) * _ROW_INCHES
        figure = Figure(figsize=(WIDTH_INCHES, height), dpi=100, layout="constrained")
        rows = figure.subplots(max(1, len(chosen)), squeeze=False)[:, 0]
        for axes, line in zip(rows, chosen, strict=False):
            numbers = range(1, len(line.points) + 1)
            values = [point.value for point in line.points]
            below = [max(0.0, p.value - p.low) if math.isfinite(p.low) else 0.0 for p in line.points]
            above = [max(0.0, p.high - p.value) if math.isfinite(p.high) else 0.0 for p in line.points]
            known = any(math.isfinite(point.low) for point in line.points)
            label = "median and 95 % interval" if known else "median; too few values for an interval"
            axes.errorbar(
                numbers, values, yerr=[below, above], color=BLUE, marker="o", markersize=4, capsize=3, linewidth=0,
                elinewidth=1.2, label=label,
            )  # fmt: skip
            for number, (begin, end) in enumerate(levels(line)):
                slope = 0.0 if line.trend.direction == "stable" else line.trend.slope
                level = statistics.median(values[place] - slope * place for place in range(begin, end))
                name = "level, with the trend where one is shown" if number == 0 else None
                ends = [begin - 0.3, end - 0.7]  # a run's place counts from 0, its number from 1
                axes.plot(
                    [end + 1 for end in ends],
                    [level + slope * end for end in ends],
                    color=COLOURS[1],
                    linewidth=2,
                    label=name,
                )
            axes.margins(y=0.3 if line.changes else 0.1)
            axes.yaxis.set_major_formatter("{x:,g}")
            for nth, change in enumerate(line.changes):
                axes.axvline(change.number + 0.5, color=VERMILION, linestyle="--", linewidth=1.5)
                facts = [one_line(fact, longest=60) for fact in change.facts[:2]] or ["nothing known changed"]
                right = change.number < len(values) / 2
                axes.annotate(
                    "\n".join([change.pace, *(part for fact in facts for part in textwrap.wrap(fact, 44))]),
                    (change.number + 0.5, 0.97),
                    xycoords=("data", "axes fraction"),
                    xytext=(4 if right else -4, -_STEP_POINTS * (nth % _STEPS)),
                    textcoords="offset points",
                    ha="left" if right else "right",
                    va="top",
                    fontsize=8,
                    color=VERMILION,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
                )
            title = f"{line.experiment}: {line.condition}, on {line.hostname}"
            axes.set_title(one_line(title, longest=85), fontsize=9.5)
            axes.set_ylabel(f"value ({line.unit})" if line.unit else "value")
            axes.set_xlim(0.4, len(values) + 0.6)
            axes.xaxis.get_major_locator().set_params(integer=True)
        rows[-1].set_xlabel("run, in the order of recording")
        if chosen:
            handles, names = rows[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower left", ncols=3)
    return figure
