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
            "median_s": [1.0, 0.6, 0.55],
            "low_s": [0.9, 0.5, 0.5],
            "high_s": [1.1, 0.65, 0.6],
            "limit_s": [0.95, 0.48, 0.48],
        }
    )


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


def test_the_curve_has_units_intervals_and_the_limit(curve):
    axes = plots_stealing.scaling(curve)
    assert "workers" in axes.get_xlabel()
    assert "(s)" in axes.get_ylabel()
    assert intervals(axes) == 3
    assert legend(axes) == ["procbench, median and 95 % interval", "limit max(T1/P, T∞)"]
    assert list(axes.get_xticks()) == [1, 2, 4]
    assert axes.get_ylim()[0] == 0


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


def test_every_figure_draws_at_the_width_of_a_page(ways, curve, trace):
    for axes in (plots_stealing.ways(ways, 0.3), plots_stealing.scaling(curve), plots_stealing.timeline(trace)):
        axes.figure.savefig(io.BytesIO(), format="png")
        assert 650 <= show_figure(axes.figure, "a picture").width_px <= 720  # white margins are trimmed
