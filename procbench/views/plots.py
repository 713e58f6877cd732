"""One door to every kind of picture: a tidy frame goes in, Axes come out, and ``axes=`` puts several into one figure.

A column is named by its keyword, and a label says what an axis shows with its unit, in words that a person uses. Intervals are
drawn where both of their ends are finite; limits are dashed. Each function draws one idea; :func:`panels` lays out several.

Example:
    >>> import pandas as pd
    >>> table = pd.DataFrame({"way": ["old", "new"], "s": [2.0, 1.0], "low": [1.9, 0.9], "high": [2.1, 1.1]})
    >>> axes = comparison(table, name="way", value="s", ends=("low", "high"), label="time (s)")
    >>> axes.get_xlabel()
    'time (s)'
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from procbench.errors import InvalidInputError
from procbench.experiments.columns import rows
from procbench.views.figures import (
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    VERMILION,
    WIDTH_INCHES,
    current_style,
    legend_above,
    new_axes,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Ends = tuple[str, str]
"""The columns that hold an interval's lower and upper ends."""

_ROW_INCHES: Final = 0.38
_MOST_NAMES: Final = 5  # that get a colour each; the rest share grey
_DARK: Final = 0.45  # of a heat map's scale, below which its numbers are white
_FEWEST_OF_A_BOX: Final = 5


def panels(count: int, *, height_inches: float = 3.2, share_y: bool = False) -> list[Axes]:
    """Return the axes of one new figure, side by side, for functions that take ``axes=``."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if count < 1:
        raise InvalidInputError(f"a figure has at least 1 panel, and not {count!r}")
    with rc_context(current_style()):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=100, layout="constrained")
        return list(figure.subplots(1, count, sharey=share_y, squeeze=False)[0])


def distribution(frame: pd.DataFrame, *, value: str, by: str, label: str, axes: Axes | None = None) -> Axes:
    """Draw every value as a dot, a row for each group; a box holds the middle half, its line is the median.

    Args:
        frame: One row for each value.
        value: Column of the values.
        by: Column whose values are the groups, drawn in the order of their first appearance.
        label: What a value is, with its unit.
        axes: Where to draw; a new figure by default.
    """
    _need(frame, value, by)
    names = list(dict.fromkeys(frame[by]))
    axes = axes or new_axes(height_inches=1.1 + 0.5 * len(names))
    for place, name in enumerate(names):
        values = frame.loc[frame[by] == name, value].dropna()
        # Spread by golden ratio, which puts neighbours apart, is the same every time, and needs no chance.
        spread = [place - 0.22 + 0.44 * (0.618 * number % 1) for number in range(len(values))]
        axes.scatter(values, spread, s=12, color=COLOURS[place % len(COLOURS)], alpha=0.55, linewidths=0)
        if len(values) >= _FEWEST_OF_A_BOX:
            ink: dict[str, Any] = {"color": axes.xaxis.label.get_color(), "linewidth": 1.2}
            how: dict[str, Any] = {f"{part}props": ink for part in ("box", "median", "whisker", "cap")}
            how |= {"orientation": "horizontal", "showfliers": False, "whis": (5, 95), "manage_ticks": False}
            axes.boxplot([values], positions=[place], widths=0.62, **how)
    _name_rows(axes, names)
    axes.set_xlabel(label)
    return axes


def comparison(
    frame: pd.DataFrame,
    *,
    name: str,
    value: str,
    ends: Ends | None = None,
    label: str,
    limit: float | None = None,
    limit_label: str = "limit",
    highlight: str | None = None,
    number: str = "{:.3g}",
    axes: Axes | None = None,
) -> Axes:
    """Draw one point with its interval in a row for each name, from the top in the frame's order.

    Args:
        frame: One row for each name.
        name: Column of the names.
        value: Column of the values.
        ends: Columns of the intervals' ends.
        label: What a value is, with its unit, and which is better.
        limit: Drawn as a dashed line: what nothing gets beyond, or 1 where ratios are compared.
        limit_label: What that is.
        highlight: The name that is drawn in another colour, marker and weight.
        number: How a value is written beside its point.
        axes: Where to draw; a new figure by default.
    """
    _need(frame, name, value, *(ends or ()))
    names = list(frame[name])
    axes = axes or new_axes(height_inches=1.3 + _ROW_INCHES * len(names))
    for place, row in enumerate(rows(frame)):
        own = highlight is None or row[name] == highlight
        interval(axes, row[value], place, *((row[end] for end in ends) if ends else ()), along="x", own=own)
        if math.isfinite(row[value]):
            text = axes.annotate(
                number.format(row[value]), (row[value], place), (0, 7), textcoords="offset points", ha="center"
            )
            text.set_fontsize(9)
    _name_rows(axes, names, highlight)
    if limit is not None:
        axes.axvline(limit, color=VERMILION, linestyle="--", linewidth=1.5, label=limit_label)
        legend_above(axes)
    axes.set_xlabel(label)
    return axes


def scaling(
    frame: pd.DataFrame,
    *,
    x: str,
    value: str,
    ends: Ends | None = None,
    by: str | None = None,
    limit: str | None = None,
    x_label: str,
    label: str,
    axes: Axes | None = None,
) -> Axes:
    """Draw values against a quantity that grows, a line for each group, and the limit dashed.

    Args:
        frame: One row for each point.
        x: Column of the quantity.
        value: Column of the values.
        ends: Columns of the intervals' ends.
        by: Column of the groups; one line by default.
        limit: Column of the limit, the same for all groups.
        x_label: What the quantity is, with its unit.
        label: What a value is, with its unit.
        axes: Where to draw; a new figure by default.
    """
    _need(frame, x, value, *(ends or ()), *filter(None, (by, limit)))
    axes = axes or new_axes(height_inches=3.4)
    groups: list[tuple[Any, pd.DataFrame]] = [(None, frame)] if by is None else list(frame.groupby(by, sort=False))
    for place, (name, group) in enumerate(groups):
        part = group.sort_values(x)
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        axes.plot(
            part[x], part[value], color=colour, marker=marker, markersize=5, label=None if name is None else f"{name}"
        )
        for row in rows(part):
            if ends:
                interval(axes, row[x], row[value], row[ends[0]], row[ends[1]], along="y", colour=colour, marker=marker)
    if limit is not None:
        line = frame.sort_values(x).drop_duplicates(x)
        axes.plot(line[x], line[limit], color=VERMILION, linestyle="--", linewidth=1.5, label="limit")
    if by is not None or limit is not None:
        legend_above(axes)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(label)
    return axes


def timeline(
    frame: pd.DataFrame,
    *,
    lane: str,
    start: str,
    end: str,
    kind: str,
    hatched: str | None = None,
    lane_label: str = "{}",
    hatch_label: str = "",
    label: str = "time since the first (s)",
    origin: float | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw who did what when: a row for each lane, a bar from start to end, a colour for each of the frequent kinds.

    Args:
        frame: One row for each bar.
        lane: Column of the rows' names.
        start: Column of begins.
        end: Column of ends.
        kind: Column of kinds; beyond the most frequent they share one colour.
        hatched: Column of truth values: those bars are hatched.
        lane_label: How a lane is written.
        hatch_label: What hatching means.
        label: What the time is, with its unit.
        origin: The time that is drawn as 0; the first begin by default.
        axes: Where to draw; a new figure by default.
    """
    _need(frame, lane, start, end, kind, *filter(None, (hatched,)))
    lanes = sorted(frame[lane].unique())
    axes = axes or new_axes(height_inches=1.5 + min(0.45 * len(lanes), 6))
    named = dict(zip(frame[kind].value_counts().index[:_MOST_NAMES], COLOURS, strict=False))
    colours = frame[kind].map(named).fillna(GREY)
    marked = frame[hatched].astype(bool) if hatched else frame[lane].isna()
    for hatch, part in frame.groupby(marked):
        axes.barh(
            [lanes.index(one) for one in part[lane]],
            part[end] - part[start],
            left=part[start] - (frame[start].min() if origin is None else origin),
            height=0.7,
            color=colours[part.index],
            edgecolor="black" if hatch else "white",
            linewidth=0.8 if hatch else 0.4,
            hatch="////" if hatch else None,
            zorder=3 if hatch else 2,
        ).set_label("_")
    for name, colour in [*named.items(), *([("other", GREY)] if (colours == GREY).any() else [])]:
        axes.barh([0], [0], color=colour, label=f"{name}")
    if hatched:
        axes.barh([0], [0], facecolor="white", edgecolor="black", hatch="////", label=hatch_label)
    axes.set_yticks(range(len(lanes)), [lane_label.format(one) for one in lanes])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    legend_above(axes)
    return axes


def trend(
    frame: pd.DataFrame,
    *,
    x: str,
    value: str,
    ends: Ends | None = None,
    changes: Sequence[float] = (),
    x_label: str,
    label: str,
    axes: Axes | None = None,
) -> Axes:
    """Draw a course: values in order, the median of each stretch between change points, change points dashed.

    Args:
        frame: One row for each value.
        x: Column of the places: times, or numbers of runs.
        value: Column of the values.
        ends: Columns of the intervals' ends.
        changes: Places from which on the course is at another level, in ``x``'s unit.
        x_label: What a place is.
        label: What a value is, with its unit.
        axes: Where to draw; a new figure by default.
    """
    _need(frame, x, value, *(ends or ()))
    axes = axes or new_axes(height_inches=2.8)
    course = frame.sort_values(x)
    for row in rows(course):
        interval(axes, row[x], row[value], *((row[end] for end in ends) if ends else ()), along="y")
    bounds = [-math.inf, *sorted(changes), math.inf]
    for number, (begin, end) in enumerate(pairwise(bounds)):
        part = course[(course[x] >= begin) & (course[x] < end)]
        if len(part):
            level, name = part[value].median(), "level" if number == 0 else None
            axes.plot([part[x].min(), part[x].max()], [level, level], color=COLOURS[1], linewidth=2, label=name)
    for number, change in enumerate(sorted(changes)):
        name = "change" if number == 0 else None
        axes.axvline(change, color=VERMILION, linestyle="--", linewidth=1.5, label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(label)
    legend_above(axes)
    return axes


def heat_map(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    value: str,
    x_label: str,
    y_label: str,
    label: str,
    number: str = "{:.3g}",
    axes: Axes | None = None,
) -> Axes:
    """Draw a value over two factors, each cell with its number; of several values in a cell the median. Empty stays empty.

    Args:
        frame: One row for each value.
        x: Column of the factor along the page.
        y: Column of the factor down the page.
        value: Column of the values.
        x_label: What ``x`` is, with its unit.
        y_label: What ``y`` is, with its unit.
        label: What a value is, with its unit.
        number: How a value is written.
        axes: Where to draw; a new figure by default.
    """
    _need(frame, x, y, value)
    cells = frame.pivot_table(index=y, columns=x, values=value, aggfunc="median")
    axes = axes or new_axes(height_inches=1.6 + 0.45 * len(cells))
    numbers = cells.to_numpy(dtype=float)
    shown = axes.imshow(numbers, cmap="cividis", aspect="auto")
    low, high = shown.get_clim()
    for row, values in enumerate(numbers):
        for column, one in enumerate(values):
            if math.isfinite(one):
                ink = "white" if one < low + _DARK * (high - low) else "black"
                axes.text(column, row, number.format(one), ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(len(cells.columns)), [f"{name}" for name in cells.columns])
    axes.set_yticks(range(len(cells.index)), [f"{name}" for name in cells.index])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.figure.colorbar(shown, ax=axes, label=label)
    return axes


def interval(
    axes: Axes,
    x: float,
    y: float,
    low: float = math.nan,
    high: float = math.nan,
    *,
    along: str,
    own: bool = True,
    colour: str = "",
    marker: str = "",
) -> None:
    """Draw a point with its interval along ``x`` or ``y``; an unknown interval is left out."""
    at = x if along == "x" else y
    known = math.isfinite(low) and math.isfinite(high)
    error: dict[str, Any] = {f"{along}err": [[max(at - low, 0)], [max(high - at, 0)]]} if known else {}
    colour, marker = colour or (BLUE if own else GREY), marker or ("o" if own else "s")
    axes.errorbar(x, y, **error, fmt=marker, color=colour, markersize=6, capsize=4, linewidth=2)


def _name_rows(axes: Axes, names: Sequence[object], highlight: str | None = None) -> None:
    """Name the rows from the top; the one that counts is bold."""
    axes.set_yticks(range(len(names)), [f"{name}" for name in names])
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == highlight else "normal")
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.grid(axis="y", visible=False)


def _need(frame: pd.DataFrame, *columns: str) -> None:
    """Refuse a frame that has nothing to draw.

    Raises:
        InvalidInputError: It has no row, or not these columns.
    """
    if missing := [column for column in columns if column not in frame.columns]:
        raise InvalidInputError(
            f"there is no column {', '.join(map(repr, missing))}; there are: {', '.join(map(str, frame.columns))}"
        )
    if not len(frame):
        raise InvalidInputError("there is nothing to draw: the frame has no row")
