"""The live chart: numbers go to the page, which draws them on a canvas (``widgets_chart.js``), through anywidget.

Chosen by measuring four charts of three lines and 240 points at 4 Hz in JupyterLab on a busy machine of two cores: this kept the
page's main thread busy for 4.5 % of the time, bqplot for 17 %, and plotly's FigureWidget for 74 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

HEIGHT: Final = 170
"""Pixels of a chart."""

_JS: Final = Path(__file__).with_suffix(".js")


@cache
def _chart_class() -> type[Any]:
    import anywidget
    import traitlets

    class LiveChart(anywidget.AnyWidget):
        _esm = _JS.read_text(encoding="utf-8")
        frame = traitlets.Dict().tag(sync=True)
        label = traitlets.Unicode().tag(sync=True)

    return LiveChart


def new_chart(label: str) -> Any:
    """Return an empty chart, an ipywidget.

    Args:
        label: What screen readers say that it is.
    """
    chart = _chart_class()(label=label)
    chart.add_class("procbench-chart")
    return chart


def _bytes(numbers: Iterable[Iterable[float]]) -> bytes:
    import numpy as np

    return b"".join(np.asarray(some, dtype=np.float32).tobytes() for some in numbers)


def lines(
    times_s: Sequence[float],
    series: Mapping[str, Sequence[float]],
    unit: str,
    window: tuple[float, float],
    *,
    top: float | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> dict[str, Any]:
    """Return what shows lines over time.

    Args:
        times_s: When, seconds; ascending.
        series: By name, a value for each time, in ``unit``; NaN is a gap. Six at most can be told apart.
        unit: As a monitor's metric has it: ``share``, ``bytes``, ``bytes/s`` or what is counted.
        window: From and to, seconds; the end is what the axis counts back from.
        top: Upper end of the axis; None for what fits.
        marks: Times and words of upright lines.
    """
    origin = window[1]  # float32 holds a millisecond only near 0
    numbers = [[at - origin for at in times_s], *series.values()]
    return {
        "kind": "lines",
        "height": HEIGHT,
        "x": [window[0] - origin, 0.0],
        "x_unit": "s",
        "count": len(times_s),
        "names": list(series),
        "unit": unit,
        "top": top,
        "marks": [[at - origin, said] for at, said in marks],
        "data": _bytes(numbers),
    }


def heat(
    times_s: Sequence[float],
    rows: Mapping[str, Sequence[float]],
    window: tuple[float, float],
    *,
    marks: Sequence[tuple[float, str]] = (),
    note: str = "",
) -> dict[str, Any]:
    """Return what shows a share, 0 to 1, for each row over time: the darker, the more. Otherwise as :func:`lines`."""
    frame = lines(times_s, rows, "share", window, marks=marks)
    names = frame.pop("names")
    height = 52 + min(18 * len(rows), 260)
    return {**frame, "kind": "heat", "rows": names, "note": note, "height": height}


def bars(
    rows: Sequence[str], spans: Sequence[tuple[float, float, int, int]], window: tuple[float, float]
) -> dict[str, Any]:
    """Return what shows spans of time, such as a timeline of workers.

    Args:
        rows: Names of the rows.
        spans: Start and end, seconds; number of the row; kind: 1 is stolen, 2 failed, 3 both, 0 neither.
        window: From and to, seconds.
    """
    return {
        "kind": "bars",
        "height": 52 + min(max(26 * len(rows), 40), 320),
        "x": list(window),
        "x_unit": "s",
        "rows": list(rows),
        "data": _bytes(spans),
    }


def dots(
    rows: Sequence[str],
    ends: Sequence[tuple[float, float, float]],
    unit: str,
    *,
    limit: float | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Return what compares rows by a point with its interval each.

    Args:
        rows: Names of the rows.
        ends: Low, middle and high end of each, in ``unit``; NaN or infinite ends are left out.
        unit: Of the axis.
        limit: Where a dashed line stands.
        note: Stands above.
    """
    import math

    known = [value for row in ends for value in row if math.isfinite(value)]
    low, high = (
        min([*known, *([] if limit is None else [limit])], default=0.0),
        max([*known, limit or 0.0], default=1.0),
    )
    room = 0.06 * (high - low) or 1.0
    return {
        "kind": "dots",
        "height": 52 + 26 * max(len(rows), 1),
        "x": [low - room, high + room],
        "x_unit": unit,
        "rows": list(rows),
        "limit": limit,
        "note": note,
        "data": _bytes(ends),
    }
