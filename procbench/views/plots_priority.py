"""Figures of the priority experiment: a tidy frame goes in, Axes come out, in the house's style."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from procbench.experiments.columns import rows
from procbench.views.figures import BLUE, COLOURS, VERMILION, interval_words, legend_above, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_GREEN: Final = COLOURS[1]
_LEAST_PERCENT: Final = 0.05
_CLEAR: Final[dict[str, Any]] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # no line runs through a figure


def shares(table: pd.DataFrame) -> Axes:
    """Draw the share of a CPU that a child gets beside one that is not nice, with intervals, and what the kernel's weights say.

    Args:
        table: ``pair``, ``share``, ``low``, ``high``, ``expected``, as ``PriorityResult.shares`` returns them.
    """
    axes = new_axes(height_inches=3.6)
    places, expected = range(len(table)), 100 * table["expected"]
    axes.plot(
        places, expected, color=VERMILION, linestyle="--", marker="_", markersize=22, label="the kernel's weights"
    )
    known = table["low"].notna().all()
    # The axis is logarithmic: who had no turn at all lies on its edge, and so does the end of an interval that reaches 0.
    drawn, low, high = ((100 * table[name]).clip(lower=_LEAST_PERCENT) for name in ("share", "low", "high"))
    error = [_reach(drawn - low), _reach(high - drawn)]
    label = f"measured{' and 95 % interval' if known else '; too few windows for an interval'}"
    style: dict[str, Any] = {"fmt": "o", "color": BLUE, "markersize": 6, "capsize": 4, "linewidth": 2}
    axes.errorbar(places, drawn, yerr=error, label=label, **style)
    for place, share, height in zip(places, 100 * table["share"], drawn, strict=True):
        text, at = f"{share:.2g} %", (place, height)
        axes.annotate(text, at, (9, 7), textcoords="offset points", fontsize=9, bbox=_CLEAR)
    axes.set_yscale("log")
    axes.set_ylim(_LEAST_PERCENT, 100)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xticks(places, list(table["pair"]))
    axes.set_xlim(-0.4, len(table) - 0.4)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("the child that is measured; beside it a busy child of the least nice value")
    axes.set_ylabel("share of both children's CPU time (%)")
    legend_above(axes)
    return axes


def wake_ups(table: pd.DataFrame) -> Axes:
    """Draw by how much sleepers woke late: a row for each policy with median and 99th percentile, with intervals.

    Args:
        table: ``policy``, ``beside``, ``p50_us`` and ``p99_us`` with ``_low`` and ``_high``, as ``PriorityResult.wake_ups``
            returns them.
    """
    ordered = table.iloc[::-1].reset_index(drop=True)
    axes = new_axes(height_inches=1.3 + 0.42 * len(ordered))
    for column, colour, marker, shift in (("p50_us", BLUE, "o", 0.12), ("p99_us", _GREEN, "D", -0.12)):
        lower, upper = ordered[f"{column}_low"], ordered[f"{column}_high"]
        error = [_reach(ordered[column] - lower), _reach(upper - ordered[column])]
        words = "median" if column == "p50_us" else "99th percentile"
        # The upper end of the percentile's interval takes some 370 wake-ups; without it the bar has one arm.
        label = f"{words}{interval_words(lower)}"
        places = [place + shift for place in range(len(ordered))]
        style: dict[str, Any] = {"fmt": marker, "color": colour, "markersize": 6, "capsize": 4, "linewidth": 2}
        axes.errorbar(ordered[column], places, xerr=error, label=label, **style)
    names = [f"{row['policy']}{', busy CPU' if row['beside'] else ', free CPU'}" for row in rows(ordered)]
    axes.set_yticks(range(len(ordered)), names)
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: _time(value))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("woken late by, less is better")
    legend_above(axes)
    return axes


def limited(table: pd.DataFrame) -> Axes:
    """Draw the CPUs that a child had under a limit, with intervals and the limit as a line, a row for each mechanism and limit.

    Args:
        table: ``mechanism``, ``limit``, ``cpus``, ``low``, ``high``, as ``PriorityResult.limited`` returns them.
    """
    ordered = table.iloc[::-1].reset_index(drop=True)
    axes = new_axes(height_inches=1.3 + 0.42 * len(ordered))
    places = list(range(len(ordered)))
    error = [_reach(ordered["cpus"] - ordered["low"]), _reach(ordered["high"] - ordered["cpus"])]
    label = f"had, mean{interval_words(ordered['low']).replace('blocks', 'windows')}"
    style: dict[str, Any] = {"fmt": "o", "color": BLUE, "markersize": 6, "capsize": 4, "linewidth": 2}
    axes.errorbar(ordered["cpus"], places, xerr=error, label=label, **style)
    bottoms, tops = [place - 0.35 for place in places], [place + 0.35 for place in places]
    axes.vlines(ordered["limit"], bottoms, tops, color=VERMILION, linestyle="--", linewidth=1.5, label="the limit")
    axes.set_yticks(places, [f"{row['mechanism']}, {row['limit']:g}" for row in rows(ordered)])
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set_xlim(0, 1.15 * max(axes.dataLim.xmax, ordered["limit"].max()))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("CPUs used on average")
    legend_above(axes)
    return axes


def waits(table: pd.DataFrame) -> Axes:
    """Draw every low task's wait behind a stream of high ones, a row for each setting; the bound and the stream's end are lines.

    Args:
        table: ``ageing``, ``wait_s``, ``stream_s``, ``bound_s``, as ``PriorityResult.waits`` returns them.
    """
    groups = list(table.groupby("ageing", sort=False))[::-1]
    axes = new_axes(height_inches=1.4 + 0.5 * len(groups))
    for place, (_, part) in enumerate(groups):
        count = len(part)
        heights = [place + 0.3 * (number / max(count - 1, 1) - 0.5) for number in range(count)]
        label = "a low task" if place == 0 else None
        axes.plot(part["wait_s"], heights, "o", color=BLUE, markersize=4, alpha=0.8, label=label)
    bound_s = table["bound_s"].max()
    axes.axvline(bound_s, color=VERMILION, linestyle="--", linewidth=1.5, label=f"bound with ageing, {bound_s:g} s")
    end_s = table["stream_s"].median()
    axes.axvline(end_s, color="#555555", linestyle=":", linewidth=1.5, label="end of the stream")
    axes.set_yticks(range(len(groups)), [str(name) for name, _ in groups])
    axes.set_ylim(-0.5, len(groups) - 0.5)
    axes.set_xlim(0, 1.1 * max(axes.dataLim.xmax, bound_s))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("wait (s)")
    legend_above(axes)
    return axes


def _time(microseconds: float) -> str:
    return f"{microseconds / 1000:g} ms" if microseconds >= 1000 else f"{microseconds:g} µs"


def _reach(spans: pd.Series) -> list[float]:
    """Return how far an interval reaches; an unknown one reaches nowhere."""
    return [max(span, 0.0) if math.isfinite(span) else 0.0 for span in spans.tolist()]
