"""Jumps are found where they are; noise, slopes, seasons and single wild values are none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procbench.analysis.change_points import SHORTEST, change_points
from procbench.errors import InvalidInputError
from tests.test_trends import ANY, NOISES, wandering

DRAWS = 200
ALLOWED = DRAWS * 0.05 + 2 * math.sqrt(DRAWS * 0.05 * 0.95)
"""One in twenty, and two standard errors of that many draws."""


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("count", [12, 30, 120])
def test_noise_has_no_jumps(count: int, noise: str):
    """Of series without a jump, white, wandering or with long tails, at most 1 in 20 shows one."""
    assert sum(bool(change_points(one)) for one in NOISES[noise](count)) <= ALLOWED


def test_wild_values_that_stand_together_by_chance_are_no_jumps():
    """Among 600 values with long tails, three wild ones in a row are no rarity."""
    draws = np.random.default_rng(600).standard_t(3, (100, 600))
    assert sum(bool(change_points(one)) for one in draws) <= 5 + 2 * math.sqrt(100 * 0.05 * 0.95)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("count", [12, 30])
def test_few_samples_show_a_clear_jump(count: int, noise: str):
    """Eight standard deviations, at any place in the middle half: within three samples in nine of ten, and no second one."""
    source, found = np.random.default_rng(count), []
    for one in NOISES[noise](count):
        place = int(source.integers(count // 4 + 1, count - count // 4))
        jumps = change_points(one + np.where(np.arange(count) < place, 0.0, 8.0))
        found.append([abs(jump.index - place) <= 3 for jump in jumps])
    assert sum(any(each) for each in found) >= 0.9 * DRAWS
    assert sum(len(each) > 1 for each in found) <= ALLOWED


def test_a_slope_is_no_staircase():
    """A line through noise that rises by ten of its standard deviations is not cut into steps."""
    line = 10 * np.linspace(0, 1, 100)
    assert sum(bool(change_points(line + one)) for one in wandering(100, 0.3, seed=2)) <= ALLOWED


@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_jumps_are_found_within_three_samples(correlation: float):
    """Two jumps of five standard deviations: at least nine in ten are found, and nothing else."""
    source, hits, extra = np.random.default_rng(3), 0, 0
    for noise in wandering(200, correlation, seed=4, draws=100):
        first, second = (int(place) for place in (source.integers(40, 80), source.integers(120, 160)))
        level = np.where(np.arange(200) < first, 0.0, 5.0) - np.where(np.arange(200) < second, 0.0, 8.0)
        found = [one.index for one in change_points(noise + level)]
        hits += sum(any(abs(place - true) <= 3 for place in found) for true in (first, second))
        extra += max(0, len(found) - 2)
    assert hits >= 180
    assert extra <= 10


def test_a_few_runs_show_a_clear_jump():
    """Fourteen values that waver by 1 % and then take a quarter longer."""
    hits = 0
    for number, noise in enumerate(wandering(14, 0.0, seed=5, draws=100)):
        place = 4 + number % 7
        found = change_points(100 + noise + np.where(np.arange(14) < place, 0.0, 25.0))
        hits += [one.index for one in found] == [place]
    assert hits >= 90


def test_a_jump_beside_a_named_season_is_found():
    season = 3 * np.sin(2 * np.pi * np.arange(240) / 24)
    jump = np.where(np.arange(240) < 100, 0.0, 6.0)
    draws = wandering(240, 0.0, seed=6, draws=50)
    found = [change_points(season + jump + one, period=24) for one in draws]
    assert sum(any(abs(one.index - 100) <= 3 for one in each) for each in found) >= 45
    assert sum(bool(change_points(season + one, period=24)) for one in draws) <= 5


def test_a_single_wild_value_is_no_jump():
    draws = wandering(60, 0.0, seed=7, draws=50)
    draws[:, 30] += 50
    assert sum(bool(change_points(one)) for one in draws) <= 4


def test_the_levels_stand_beside_the_jump():
    """Levels in the unit of the values, the place in what was given, also where samples were left out, and the time."""
    values = [10.0, 10.1, math.nan, 9.9, 10.0, 10.1, 20.0, 20.1, 19.9, math.inf, 20.0, 20.1]
    [found] = change_points(values, np.arange(12) * 10.0)
    assert (found.index, found.time_s) == (6, 60.0)
    assert (found.before, found.after) == (10.0, 20.0)
    assert found.ratio == 2.0
    [down] = change_points([1.0] * 6 + [-1.0] * 6)
    assert math.isnan(down.ratio)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 40])
def test_constant_and_short_series_have_no_jump(count: int):
    """M08: nothing, one value, and many equal ones."""
    assert change_points([3.0] * count) == ()
    assert change_points(range(min(count, 2 * SHORTEST - 1))) == ()


def test_noise_without_any_has_its_jump_still():
    """Whole numbers that never waver."""
    assert [one.index for one in change_points([3] * 10 + [4] * 10)] == [10]


def test_a_jump_among_very_many_samples_is_found_to_the_sample():
    """Blocks find it, samples place it; the block that lies across it is no level of its own."""
    source = np.random.default_rng(8)
    for place in (66_666, 50_001):
        values = source.standard_normal(100_000)
        values[place:] += 6
        values[40] = 1e6
        [found] = change_points(values)
        assert abs(found.index - place) <= 3
        assert found.before == pytest.approx(0, abs=0.05)
        assert found.after == pytest.approx(6, abs=0.05)


def test_many_samples_of_nothing_have_no_jump():
    assert change_points(np.random.default_rng(9).standard_normal(5_000)) == ()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ANY, ANY), max_size=40), st.booleans())
def test_no_input_crashes(samples: list[tuple[float, float]], timed: bool):
    """M08: jumps are samples that were given, in the order of their times, and no two at one place."""
    values, times = [one for one, _ in samples], [one for _, one in samples]
    found = change_points(values, times if timed else None)
    assert len({one.index for one in found}) == len(found)
    assert all(math.isfinite(values[one.index]) for one in found)
    if timed:
        assert [one.time_s for one in found] == sorted(times[one.index] for one in found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 5.0]), min_size=6, max_size=60))
def test_few_different_values_have_a_result(values: list[float]):
    """M08: most differences are 0, so that their median says nothing."""
    assert all(0 < one.index < len(values) for one in change_points(values))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InvalidInputError, match="no number"):
        change_points(["a"])
    with pytest.raises(InvalidInputError, match="2 times"):
        change_points([1.0], [1.0, 2.0])
