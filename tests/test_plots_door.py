"""The one door to pictures: what it draws is what the frame holds, in any theme, and several fit into one figure."""

import doctest
import math

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer

from procbench.errors import InvalidInputError
from procbench.views import plots
from procbench.views.figures import VERMILION, new_axes, theme
from procbench.views.headline import show_figure

WAYS = pd.DataFrame(
    {"way": ["a", "b", "c"], "s": [3.0, 1.0, 2.0], "low": [2.5, 0.9, math.nan], "high": [3.5, 1.2, math.nan]}
)


def drawn_at(axes):
    """Return where points with their intervals stand."""
    return [
        (float(one[0].get_xdata()[0]), float(one[0].get_ydata()[0]))
        for one in axes.containers
        if isinstance(one, ErrorbarContainer)
    ]


def dashed(axes):
    return [
        line for line in axes.lines if line.get_linestyle() == "--" and to_hex(line.get_color()) == VERMILION.lower()
    ]


def shown(axes):
    """Every picture must come out as one, with a label on each axis that has ticks."""
    assert show_figure(axes.figure.figure, "words").png.startswith(b"\x89PNG")


def test_a_comparison_has_a_row_for_each_name_and_an_interval_only_where_it_is_known():
    axes = plots.comparison(
        WAYS,
        name="way",
        value="s",
        ends=("low", "high"),
        label="time (s)",
        limit=0.8,
        limit_label="bound",
        highlight="b",
    )
    assert drawn_at(axes) == [(3.0, 0.0), (1.0, 1.0), (2.0, 2.0)]
    assert [one.has_xerr for one in axes.containers] == [True, True, False]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["normal", "bold", "normal"]
    assert [line.get_xdata()[0] for line in dashed(axes)] == [0.8]
    assert {text.get_text() for text in axes.texts} == {"3", "1", "2"}
    shown(axes)


def test_a_distribution_shows_every_value():
    """No value is left out or moved, and a group of a few has no box."""
    frame = pd.DataFrame({"program": ["gzip"] * 9 + ["cat"] * 3, "s": [float(n) for n in range(12)]})
    axes = plots.distribution(frame, value="s", by="program", label="time (s)")
    dots = [sorted(float(x) for x, _ in part.get_offsets()) for part in axes.collections]
    assert dots == [[float(n) for n in range(9)], [9.0, 10.0, 11.0]]
    medians = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert 4.0 in medians
    assert 10.0 not in medians
    shown(axes)


def test_scaling_draws_a_line_for_each_group_and_one_limit():
    frame = pd.DataFrame(
        {
            "workers": [2, 1, 1, 2],
            "way": ["x", "x", "y", "y"],
            "rate": [4.0, 2.0, 1.0, 3.0],
            "most": [5.0, 2.5, 2.5, 5.0],
        }
    )
    axes = plots.scaling(
        frame, x="workers", value="rate", by="way", limit="most", x_label="workers", label="commands per second"
    )
    lines = {line.get_label(): list(line.get_xydata().tolist()) for line in axes.lines}
    assert lines == {
        "x": [[1.0, 2.0], [2.0, 4.0]],
        "y": [[1.0, 1.0], [2.0, 3.0]],
        "limit": [[1.0, 2.5], [2.0, 5.0]],
    }
    shown(axes)


def test_a_timeline_has_a_bar_from_begin_to_end_in_its_lane():
    frame = pd.DataFrame(
        {"worker": [1, 0, 1], "from": [5.0, 6.0, 7.0], "to": [6.0, 9.0, 8.0], "what": ["a", "b", "a"], "hot": [0, 1, 0]}
    )
    axes = plots.timeline(
        frame,
        lane="worker",
        start="from",
        end="to",
        kind="what",
        hatched="hot",
        lane_label="worker {}",
        hatch_label="hot",
    )
    bars = {
        (bar.get_x(), bar.get_width(), round(bar.get_y() + bar.get_height() / 2, 6), bar.get_hatch())
        for group in axes.containers
        if isinstance(group, BarContainer)
        for bar in group
        if bar.get_width()
    }
    assert bars == {(0.0, 1.0, 1.0, None), (2.0, 1.0, 1.0, None), (1.0, 3.0, 0.0, "////")}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["worker 0", "worker 1"]
    shown(axes)


def test_a_trend_has_a_level_for_each_stretch_between_changes():
    frame = pd.DataFrame({"run": [1, 2, 3, 4, 5], "s": [1.0, 1.0, 1.2, 3.0, 3.2]})
    axes = plots.trend(frame, x="run", value="s", changes=[3.5], x_label="run", label="time (s)")
    levels = [line.get_ydata()[0] for line in axes.lines if len(line.get_ydata()) == 2 and line not in dashed(axes)]
    assert levels == [1.0, 3.1]
    assert [line.get_xdata()[0] for line in dashed(axes)] == [3.5]
    shown(axes)


def test_a_heat_map_writes_the_median_of_a_cell_and_leaves_an_empty_one_empty():
    frame = pd.DataFrame({"a": [1, 1, 1, 2], "b": ["x", "x", "x", "y"], "v": [1.0, 2.0, 9.0, 5.0]})
    axes = plots.heat_map(frame, x="a", y="b", value="v", x_label="a", y_label="b", label="v")
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {((0, 0), "2"), ((1, 1), "5")}
    shown(axes)


def test_several_fit_into_one_figure():
    left, right = plots.panels(2)
    plots.comparison(WAYS, name="way", value="s", label="time (s)", axes=left)
    plots.distribution(WAYS, value="s", by="way", label="time (s)", axes=right)
    assert left.figure is right.figure
    shown(left)


@pytest.mark.parametrize("name", ["dark", "light", "print"])
def test_words_stand_out_from_the_paper_in_every_theme(name):
    """Contrast of at least 4.5, as WCAG asks of text."""

    def brightness(colour: str) -> float:
        parts = [int(to_hex(colour)[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    with theme(name):
        axes = plots.comparison(WAYS, name="way", value="s", label="time (s)", limit=1)
    paper = brightness(axes.figure.get_facecolor())
    words = [axes.xaxis.label, *axes.texts, *axes.get_yticklabels(), *axes.get_legend().get_texts()]
    for word in words:
        one, other = sorted((brightness(word.get_color()), paper))
        assert (other + 0.05) / (one + 0.05) >= 4.5, word
    assert to_hex(new_axes(1).figure.get_facecolor()) == "#ffffff"


@pytest.mark.parametrize(
    ("frame", "says"),
    [(WAYS.iloc[:0], "no row"), (WAYS.drop(columns="s"), "there is no column 's'; there are: way, low, high")],
)
def test_a_frame_with_nothing_to_draw_is_refused(frame, says):
    with pytest.raises(InvalidInputError, match=says):
        plots.comparison(frame, name="way", value="s", label="time (s)")


def test_a_theme_or_a_number_of_panels_that_is_none_is_refused():
    with pytest.raises(InvalidInputError, match="there are: light, dark, print"), theme("sepia"):
        pass
    with pytest.raises(InvalidInputError, match="at least 1 panel"):
        plots.panels(0)


def test_the_example_is_true():
    assert doctest.testmod(plots).failed == 0
