"""Trends are seen where there are some, and hardly ever where there are none; every input has a defined end."""

import contextlib
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procbench.analysis.anomalies import anomalies, baseline_of
from procbench.analysis.slopes import trend
from procbench.analysis.trends import PerformanceTrends, metric_trend
from procbench.errors import InvalidInputError

DRAWS = 200
ANY = st.floats(allow_nan=True, allow_infinity=True, width=64)


def wandering(count: int, correlation: float, seed: int, draws: int = DRAWS) -> np.ndarray:
    """Return draws of an AR(1) process with a standard deviation of 1."""
    noise = np.random.default_rng(seed).standard_normal((draws, count + 50))
    for number in range(1, count + 50):
        noise[:, number] = correlation * noise[:, number - 1] + math.sqrt(1 - correlation**2) * noise[:, number]
    return noise[:, 50:]


NOISES = {
    "white": lambda count: wandering(count, 0.0, seed=count),
    "AR(1) 0.3": lambda count: wandering(count, 0.3, seed=count),
    "AR(1) 0.6": lambda count: wandering(count, 0.6, seed=count),
    "long tails": lambda count: np.random.default_rng(count).standard_t(3, (DRAWS, count)) / math.sqrt(3),
}
"""With a standard deviation of 1 each."""


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("count", [12, 30, 120])
def test_noise_has_no_trend(count: int, noise: str):
    """Of series without a trend at most 1 in 20 is said to have one; here within two errors of that."""
    found = [trend(one).direction for one in NOISES[noise](count)]
    assert sum(word != "stable" for word in found) <= DRAWS * 0.05 + 2 * math.sqrt(DRAWS * 0.05 * 0.95)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("count", [12, 30])
def test_few_samples_show_a_clear_rise(count: int, noise: str):
    """Eight standard deviations from first to last are seen in 95 of 100, or within two errors of that."""
    rise = 8 * np.linspace(0, 1, count)
    found = [trend(rise + one).direction for one in NOISES[noise](count)]
    assert found.count("increasing") >= DRAWS * 0.95 - 2 * math.sqrt(DRAWS * 0.05 * 0.95)
    assert found.count("decreasing") == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_a_trend_is_seen_with_its_direction_and_its_slope(sign: int):
    """Noise, a long tail and a slope: right in at least 95 of 100, and the interval holds the slope as often."""
    count, times = 120, np.arange(120) * 60.0
    line = sign * 5.0 * times / 3600  # 5 an hour, over two hours
    draws = wandering(count, 0.3, seed=3) + np.where(np.random.default_rng(4).random((DRAWS, count)) < 0.05, 8.0, 0.0)
    found = [trend(line + one, times) for one in draws]
    right = "increasing" if sign > 0 else "decreasing"
    assert sum(one.direction == right for one in found) >= 0.95 * DRAWS
    assert sum(one.low <= sign * 5.0 <= one.high for one in found) >= 0.93 * DRAWS
    assert found[0].per == "hour"


def test_a_named_season_is_no_trend_and_hides_none():
    """A day of 24 samples, ten of them, three times as high as the noise: it is stable, and a rise of 6 is seen."""
    count = np.arange(240)
    season = 3 * np.sin(2 * np.pi * count / 24)
    level = [trend(season + one, period=24).direction for one in wandering(240, 0.0, seed=5, draws=100)]
    rising = [
        trend(season + 6 * count / 240 + one, period=24).direction for one in wandering(240, 0.0, seed=6, draws=100)
    ]
    assert level.count("stable") >= 90
    assert rising.count("increasing") >= 95


def test_an_unnamed_season_is_no_trend_once_it_came_often():
    """Ten days of it: what goes up and comes down again is stable."""
    season = 3 * np.sin(2 * np.pi * np.arange(240) / 24)
    found = [trend(season + one).direction for one in wandering(240, 0.0, seed=7, draws=100)]
    assert found.count("stable") >= 95


def test_a_jump_is_no_trend_beside_itself():
    """Level, jump, level: stable with one jump. Rise and jump: increasing, with the slope of the rise."""
    jump = np.where(np.arange(120) < 50, 0.0, 8.0)
    level = [metric_trend("m", jump + one) for one in wandering(120, 0.0, seed=8, draws=100)]
    assert sum(one.direction == "stable" and len(one.changes) == 1 for one in level) >= 90
    rising = [
        metric_trend("m", 0.1 * np.arange(120) - 3 * jump + one) for one in wandering(120, 0.0, seed=9, draws=100)
    ]
    assert sum(one.direction == "increasing" for one in rising) >= 95
    assert 0.08 < np.median([one.trend.slope for one in rising]) < 0.12


def test_few_samples_have_a_defined_trend():
    """M08: none, one, two, all at one time, constant, and a line without any noise."""
    assert math.isnan(trend([]).slope)
    assert (trend([]).direction, trend([]).count, trend([]).low) == ("stable", 0, -math.inf)
    assert math.isnan(trend([7.0]).slope)
    two = trend([1.0, 3.0], [0.0, 1800.0])
    assert (two.slope, two.direction, two.low, two.high) == (4.0, "stable", -math.inf, math.inf)
    assert math.isnan(trend([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]).slope)
    constant = trend([2.0] * 50)
    assert (constant.slope, constant.low, constant.high, constant.direction) == (0.0, 0.0, 0.0, "stable")
    line = trend(np.arange(8.0))
    assert (line.slope, line.direction) == (1.0, "increasing")
    assert "too few" in str(two)
    assert str(line) == "increasing, +1 [+1, +1] per sample"


def test_what_is_no_number_is_left_out_and_counted():
    """M08: NaN and infinity, as values and as times, change nothing but the count."""
    values, times = np.arange(40.0), np.arange(40.0) * 3600
    values[[3, 17]], times[5] = (math.nan, math.inf), math.nan
    found = trend(values, times)
    assert (found.slope, found.count, found.dropped, found.direction) == (pytest.approx(1.0), 37, 3, "increasing")
    nothing = trend([math.nan] * 9)
    assert (nothing.direction, nothing.count, nothing.dropped) == ("stable", 0, 9)


def test_samples_out_of_order_are_put_in_order():
    """M04: times are only subtracted, and a clock that was set back turns no slope round."""
    order = np.random.default_rng(1).permutation(60)
    found = trend(np.arange(60.0)[order], np.arange(60.0)[order] - 1e6)
    assert (found.slope, found.direction) == (pytest.approx(3600.0), "increasing")


def test_numbers_at_the_ends_of_what_a_float_holds_do_not_overflow():
    """M08: the largest and the smallest numbers have a trend like any other."""
    for size in (1.7e308, 1e-300):
        assert trend(size * np.linspace(-1, 1, 20)).direction == "increasing"
    assert trend([-5e-324] * 10 + [5e-324] * 10).slope >= 0


@pytest.mark.parametrize(
    ("values", "times", "more"),
    [
        (["a"], None, {}),
        ([[1.0]], None, {}),
        ([1.0], [1.0, 2.0], {}),
        ([1.0, 2.0], None, {"confidence": 1.0}),
        ([1.0, 2.0], None, {"period": 0.0}),
        (range(20), None, {"period": 10.0}),
        (range(20), None, {"period": 1.0}),
    ],
)
def test_what_makes_no_sense_is_refused(values: list[float], times: list[float] | None, more: dict[str, float]):
    """M08: text, nested lists, unequal lengths, no share, and a season that nobody could tell from a trend."""
    with pytest.raises(InvalidInputError):
        trend(values, times, **more)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ANY, ANY), max_size=40), st.booleans(), st.lists(st.integers(-5, 50), max_size=4))
def test_no_input_crashes(samples: list[tuple[float, float]], timed: bool, breaks: list[int]):
    """M08: whatever comes has a direction, a slope within its interval, and a count that adds up."""
    values, times = [one for one, _ in samples], [one for _, one in samples]
    found = trend(values, times if timed else None, breaks=breaks)
    assert found.count + found.dropped == len(samples)
    assert math.isnan(found.slope) or found.low <= found.slope <= found.high
    assert found.direction == ("increasing" if found.low > 0 else "decreasing" if found.high < 0 else "stable")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=12, max_size=60), st.floats(-2, 70))
def test_a_season_of_any_length_has_a_result_or_is_refused(values: list[float], period: float):
    """M08: what is seen too seldom is an error that says so."""
    with contextlib.suppress(InvalidInputError):
        assert trend(values, period=period).count == len(values)


def test_a_long_series_is_reduced_and_says_the_same():
    """Blocks stand for 200,000 samples: the slope is theirs, and the same twice."""
    values = np.random.default_rng(2).standard_normal(200_000) + np.arange(200_000) * 1e-5
    found = trend(values)
    assert found == trend(values)
    assert found.low <= 1e-5 <= found.high
    assert found.direction == "increasing"


def test_every_metric_of_a_frame_has_its_trend():
    """A monitor's tidy frame goes in; metrics keep their names and their order, and the table has one row each."""
    count = 60
    samples = pd.DataFrame(
        {
            "time_s": np.tile(np.arange(count) * 60.0, 2),
            "metric": ["memory"] * count + ["cpu"] * count,
            "value": [*(np.arange(count) * 2.0), *([50.0] * 30 + [80.0] * 30)],
            "unit": "x",
        }
    )
    found = PerformanceTrends.of(samples)
    assert list(found) == ["memory", "cpu"]
    assert (found["memory"].direction, found["memory"].trend.slope) == ("increasing", pytest.approx(120.0))
    [jump] = found["cpu"].changes
    assert (jump.index, jump.time_s, jump.before, jump.after) == (30, 1800.0, 50.0, 80.0)
    assert found["cpu"].direction == "stable"
    assert "jumps from 50 to 80 at sample 30" in str(found["cpu"])
    table = found.frame()
    assert table["metric"].tolist() == ["memory", "cpu"]
    assert table["last_change_s"].tolist()[1] == 1800.0
    assert len(PerformanceTrends.of(samples.iloc[:0])) == 0
    with pytest.raises(InvalidInputError, match="time_s"):
        PerformanceTrends.of(samples.drop(columns="time_s"))


@pytest.mark.parametrize("count", [10, 50, 1000])
def test_usual_samples_are_hardly_ever_anomalies(count: int):
    """Of samples like those of the baseline at most about one in a hundred is flagged, where that was asked for."""
    source = np.random.default_rng(count)
    shares = [
        anomalies(
            source.standard_normal(500), baseline_of(source.standard_normal(count)), false_alarms=0.01
        ).flags.mean()
        for _ in range(200)
    ]
    assert 0.002 < np.mean(shares) < 0.015


def test_far_samples_are_anomalies_also_after_a_dirty_baseline():
    """A fifth of wild values in the baseline hides nothing."""
    usual = np.random.default_rng(1).normal(100, 2, 200)
    usual[::5] = 1_000
    found = anomalies([100.0, 150.0, 60.0, math.nan, math.inf], baseline_of(usual))
    assert found.flags.tolist() == [False, True, True, False, True]
    assert found.scores[1] > found.threshold


def test_a_baseline_of_equal_values_needs_a_least_scale():
    """M08: any other value is far from a constant, unless somebody says what does not matter."""
    assert anomalies([5.0, 5.1], baseline_of([5.0] * 20)).flags.tolist() == [False, True]
    assert anomalies([5.0, 5.1], baseline_of([5.0] * 20, min_scale=1.0)).flags.tolist() == [False, False]


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY, max_size=30), st.lists(ANY, max_size=30), st.floats(0, 1e300))
def test_no_baseline_and_no_sample_crashes(before: list[float], after: list[float], scale: float):
    """M08: too short a baseline flags nothing; NaN is never flagged."""
    usual = baseline_of(before, min_scale=scale)
    found = anomalies(after, usual)
    assert len(found.flags) == len(after)
    assert not found.flags[np.isnan(after)].any()
    if usual.count < 5:
        assert not found.flags.any()


@pytest.mark.parametrize("share", [0.0, 1.0, math.nan])
def test_false_alarms_are_a_share(share: float):
    with pytest.raises(InvalidInputError, match="share"):
        anomalies([1.0], baseline_of([1.0] * 9), false_alarms=share)
    with pytest.raises(InvalidInputError, match="min_scale"):
        baseline_of([1.0], min_scale=-1.0)
