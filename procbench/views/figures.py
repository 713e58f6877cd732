"""What all figures share: one small style, readable at 700 pixels, and the pieces that every one of them draws.

Colours are Okabe and Ito's, which people with any kind of colour vision tell apart, and no meaning hangs on colour
alone: markers, hatches and labels say the same. Intervals are drawn wherever there are any, limits as dashed lines.

Source:
    M. Okabe and K. Ito, "Color Universal Design", 2008, https://jfly.uni-koeln.de/color/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from procbench.experiments.words import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
_OTHERS: Final = ("#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
COLOURS: Final = (BLUE, *_OTHERS)
"""For categories, in this order; vermilion is kept for limits and what needs a look."""

MARKERS: Final = "osD^vP"

WIDTH_INCHES: Final = 7.0
"""At 100 pixels to the inch the width that a page gives a figure."""

STYLE: Final[dict[Any, Any]] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.8,
    "font.size": 10,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
"""matplotlib settings of every figure."""


def new_axes(height_inches: float) -> Axes:
    """Return the axes of a new figure in our style, as wide as a page; the figure belongs to no pyplot window."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        return Figure(figsize=(WIDTH_INCHES, height_inches), dpi=100, layout="constrained").subplots()


def interval_words(low: pd.Series) -> str:
    """Return what a legend says after the word median; ``low`` are the intervals' lower ends, missing where unknown."""
    return " and 95 % interval" if low.notna().all() else "; too few blocks for an interval"


def size_ticks(axes: Axes, sizes: Sequence[float]) -> None:
    """Label a logarithmic x axis with these sizes, bytes, in the unit that fits."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [size_text(size) for size in sizes])
    axes.minorticks_off()


def legend_above(axes: Axes) -> None:
    """Put the legend above the data, where it hides none of them."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0.2)
