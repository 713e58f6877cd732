"""Figures: what they say, not how they look."""

import io
import math

import pandas as pd
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer

from procbench.views import plots_stealing
from procbench.views.headline import show_figure


@pytest.fixture
def ways():
    return pd.DataFrame(
        {
            "way": ["thread pool + subprocess.run", "procbench", "GNU parallel"],
            "median_s": [0.5, 0.4, 0.9],
            "low_s": [0.45, 0.39, 0.8],
            "high_s": [0.55, 0.42, 1.0],
        }
    )


@pytest.fixture
def curve():
    return pd.DataFrame(
        {
            "workers": [1, 2, 4],
            "per_s": [10.0, 17.0, 18.0],
            "per_s_low": [9.0, 16.0, 17.5],
            "per_s_high": [11.0, 18.0, 19.0],
            "limit_per_s": [11.0, 22.0, 22.0],
        }
    )


@pytest.fixture
def predicted():
    workers = [1.0, 2.0, 4.0, 6.0, 8.0]
    per_s = [10.0, 16.5, 18.5, 17.0, 15.0]
    low, high = [0.9 * value for value in per_s], [1.1 * value for value in per_s[:-1]] + [1e9]
    return pd.DataFrame({"workers": workers, "per_s": per_s, "per_s_low": low, "per_s_high": high})


@pytest.fixture
def shapes():
    found = [
        {
            "shape": shape,
            "way": way,
            "of_bound": 1.0 + place,
            "of_bound_low": 0.95 + place,
            "of_bound_high": 1.1 + place,
        }
        for shape in ("uniform", "skewed")
        for place, way in enumerate(["work stealing", "longest first", "static split"])
    ]
    return pd.DataFrame(found)


@pytest.fixture
def trace():
    return pd.DataFrame(
        {
            "worker": [0, 1, 0, 1],
            "start_s": [1.0, 1.0, 1.2, 1.5],
            "end_s": [1.2, 1.5, 1.4, 1.6],
            "stolen_from": pd.array([None, None, None, 0], dtype="Int64"),
            "program": ["gzip", "sha256sum", "gzip", "gzip"],
        }
    )


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def intervals(axes):
    return sum(isinstance(one, ErrorbarContainer) and one.has_xerr + one.has_yerr for one in axes.containers)


def test_ways_are_rows_with_intervals_the_fastest_on_top_and_the_limit_dashed(ways):
    axes = plots_stealing.ways(ways, 0.35)
    assert [label.get_text() for label in axes.get_yticklabels()][::-1] == [
        "procbench",
        "thread pool + subprocess.run",
        "GNU parallel",
    ]
    assert "(s)" in axes.get_xlabel()
    assert intervals(axes) == 3
    assert legend(axes) == ["limit 0.35 s", "median and 95 % interval"]
    [limit] = [line for line in axes.lines if line.get_label().startswith("limit")]
    assert limit.get_linestyle() == "--"
    assert list(limit.get_xdata()) == [0.35, 0.35]


def test_ways_start_at_zero_and_nothing_is_cut_off(ways):
    low, high = plots_stealing.ways(ways).get_xlim()
    assert low == 0
    assert high > 1.0


def test_an_unknown_interval_is_not_drawn_and_the_legend_says_why(ways):
    axes = plots_stealing.ways(ways.assign(low_s=math.nan, high_s=math.nan))
    assert intervals(axes) == 0
    assert legend(axes) == ["median; too few blocks for an interval"]


def test_the_curve_has_units_intervals_its_law_with_a_band_and_the_limit(curve, predicted):
    axes = plots_stealing.scaling(curve, predicted)
    assert "workers" in axes.get_xlabel()
    assert axes.get_ylabel() == "commands per second"
    assert intervals(axes) == 3
    [box] = axes.figure.legends
    assert [text.get_text() for text in box.get_texts()] == [
        "procbench, median and 95 % interval",
        "law, fitted",
        "law, foreseen",
        "its 95 % interval",
        "limit, max(T1/P, T∞)",
    ]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["law, fitted"].get_xdata()) == [1, 2, 4]
    assert list(lines["law, foreseen"].get_xdata()) == [4, 6, 8]
    assert lines["law, foreseen"].get_linestyle() == "-."
    assert list(lines["limit, max(T1/P, T∞)"].get_xdata()) == [1, 2, 4, 8]
    assert lines["limit, max(T1/P, T∞)"].get_linestyle() == "--"
    assert list(axes.get_xticks()) == list(range(1, 9))
    assert [text.get_text() for text in axes.texts] == ["measured up to here"]


def test_all_points_and_the_limit_are_seen_even_where_the_band_knows_nothing(curve, predicted):
    low, high = plots_stealing.scaling(curve, predicted).get_ylim()
    assert low == 0
    assert 22 < high < 30


def test_a_curve_without_a_law_has_its_points_and_the_limit(curve, predicted):
    axes = plots_stealing.scaling(curve, predicted.iloc[:0])
    assert intervals(axes) == 3
    assert len(axes.figure.legends[0].get_texts()) == 2
    assert axes.get_xlim()[1] < 5


def test_a_law_without_intervals_has_no_band(curve, predicted):
    unknown = {"per_s_low": math.nan, "per_s_high": math.nan}
    axes = plots_stealing.scaling(curve.assign(**unknown), predicted.assign(**unknown))
    assert intervals(axes) == 0
    assert not len(axes.collections)
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert labels[0] == "procbench, median; too few blocks for an interval"
    assert "its 95 % interval" not in labels


def test_shapes_are_panels_with_intervals_and_the_bound_at_one(shapes):
    figure = plots_stealing.shapes(shapes)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["uniform", "skewed"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["work stealing", "longest first", "static split"]
    for axes in figure.axes:
        assert intervals(axes) == 3
        [bound] = [line for line in axes.lines if line.get_label().startswith("bound")]
        assert list(bound.get_xdata()) == [1, 1]
        assert bound.get_linestyle() == "--"
        assert axes.get_xlim()[0] < 0.95
        assert axes.get_xlim()[1] > 3.1
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    assert "times of the bound; less is better" in figure.get_supxlabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "bound, max(T1/P, T∞)",
        "procbench's scheduler, median and 95 % interval",
        "without it",
    ]


def test_shapes_that_were_not_measured_are_said_to_be_missing():
    figure = plots_stealing.shapes(pd.DataFrame())
    assert [text.get_text() for text in figure.axes[0].texts] == ["batches of known shape were not measured"]


def test_the_timeline_has_a_row_for_each_worker_and_marks_what_was_stolen(trace):
    axes = plots_stealing.timeline(trace)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["worker 0", "worker 1"]
    assert "(s)" in axes.get_xlabel()
    assert legend(axes) == ["gzip", "sha256sum", "stolen"]
    bars = [bar for box in axes.containers if isinstance(box, BarContainer) for bar in box if bar.get_width() > 0]
    assert len(bars) == 4
    assert [round(bar.get_x(), 3) for bar in bars if bar.get_hatch()] == [0.5]


def test_programs_that_are_too_many_for_colours_share_one(trace):
    many = pd.concat([trace.assign(program=f"program {number}") for number in range(8)])
    assert legend(plots_stealing.timeline(many))[-2:] == ["other", "stolen"]


def test_a_figure_belongs_to_no_pyplot_window(ways):
    from matplotlib import pyplot

    plots_stealing.ways(ways)
    assert pyplot.get_fignums() == []


def test_every_figure_draws_at_the_width_of_a_page(ways, curve, predicted, trace, shapes):
    axes = plots_stealing.ways(ways, 0.3), plots_stealing.scaling(curve, predicted), plots_stealing.timeline(trace)
    for figure in (*(one.figure for one in axes), plots_stealing.shapes(shapes)):
        figure.savefig(io.BytesIO(), format="png")
        assert 650 <= show_figure(figure, "a picture").width_px <= 720  # white margins are trimmed
