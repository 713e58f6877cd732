"""What all figures share: one small style, readable at 700 pixels, and the pieces that every one of them draws.

Colours are Okabe and Ito's, which people with any kind of colour vision tell apart, and no meaning hangs on colour
alone: markers, hatches and labels say the same. Intervals are drawn wherever there are any, limits as dashed lines.

Source:
    M. Okabe and K. Ito, "Color Universal Design", 2008, https://jfly.uni-koeln.de/color/.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from procbench.errors import InvalidInputError
from procbench.experiments.words import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREY: Final = "#777777"
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
"""matplotlib settings of every figure on white paper."""

Theme = Literal["light", "dark", "print"]

_DARK_INK: Final = "#e6e9eb"
_THEMES: Final[dict[Theme, dict[Any, Any]]] = {
    "light": {},
    "dark": {
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "#14181b"),
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _DARK_INK),
        "grid.color": "#39434a",
    },
    "print": {"grid.color": "#bbbbbb", "lines.linewidth": 1.2, "savefig.dpi": 200},
}
_theme: ContextVar[Theme] = ContextVar("theme", default="light")


@contextmanager
def theme(name: Theme) -> Iterator[None]:
    """Draw what is drawn inside for light pages, dark ones or paper.

    Raises:
        InvalidInputError: There is no such theme.
    """
    if name not in _THEMES:
        raise InvalidInputError(f"there is no theme {name!r}; there are: {', '.join(get_args(Theme))}")
    from matplotlib import rc_context

    before = _theme.set(name)
    try:
        with rc_context(current_style()):
            yield
    finally:
        _theme.reset(before)


def current_style() -> dict[Any, Any]:
    """Return the matplotlib settings that hold now: :data:`STYLE` and those of the :func:`theme`."""
    return STYLE | _THEMES[_theme.get()]


def new_axes(height_inches: float) -> Axes:
    """Return the axes of a new figure in our style, as wide as a page; the figure belongs to no pyplot window."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(current_style()):
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

    with rc_context(current_style()):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0.2)
