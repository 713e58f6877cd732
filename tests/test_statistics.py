"""Effects, intervals and flags: defined for every input, and calibrated on data whose truth is known."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from procbench.analysis.samples import estimate, fewest_blocks, flag_outliers
from procbench.analysis.statistics import Effect, noise_floor, paired_effect
from procbench.errors import InvalidInputError

HERE = Path(__file__).parents[1]
STEADY = [1.00, 1.02, 0.99, 1.01, 1.00, 0.98, 1.03, 1.00]


def spiky_blocks(rng: np.random.Generator, blocks: int, *, speedup: float) -> tuple[np.ndarray, np.ndarray]:
    """Times of two conditions: shared drift, 2 % noise each, and a spike of a quarter in one trial of eight."""
    drift = np.exp(rng.normal(0, 0.2, blocks))
    noise = [np.exp(rng.normal(0, 0.02, blocks) + 0.25 * (rng.random(blocks) < 0.125)) for _ in range(2)]
    return drift * noise[0], drift * noise[1] / speedup


def test_ninety_five_percent_intervals_cover_the_truth_about_that_often():
    """Of 300 seeded experiments with drift and spikes, about 95 % of the intervals hold the true speed-up."""
    rng = np.random.default_rng(7)
    for blocks in (6, 12):
        covered = 0
        for draw in range(150):
            before, after = spiky_blocks(rng, blocks, speedup=1.18)
            effect = paired_effect(before, after, larger_is_better=False, seed=draw, resamples=400)
            covered += effect.low <= 1.18 <= effect.high
        assert 0.91 <= covered / 150 <= 1.0, blocks


def test_equal_conditions_show_no_difference_in_at_least_95_percent_of_the_draws():
    """A/A: two runs of the same thing are called different in at most 5 % of 200 seeds, floor or no floor."""
    rng = np.random.default_rng(11)
    alarms = 0
    for draw in range(200):
        before, after = spiky_blocks(rng, 10, speedup=1.0)
        alarms += paired_effect(before, after, larger_is_better=False, seed=draw, resamples=400).verdict != (
            "no difference shown"
        )
    assert alarms <= 10


def test_a_real_speed_up_is_found_through_drift_and_spikes():
    """A true 1.18x is called better in at least four of five experiments of 12 blocks (50 were drawn)."""
    rng = np.random.default_rng(3)
    found = sum(
        paired_effect(*spiky_blocks(rng, 12, speedup=1.18), larger_is_better=False, resamples=400).verdict == "better"
        for _ in range(50)
    )
    assert found >= 40


def test_above_one_is_better_for_times_and_for_rates():
    """Half the time and twice the rate are both an effect of 2."""
    half = [value / 2 for value in STEADY]
    assert paired_effect(STEADY, half, larger_is_better=False).ratio == pytest.approx(2)
    assert paired_effect(half, STEADY, larger_is_better=True).ratio == pytest.approx(2)
    slower = paired_effect(half, STEADY, larger_is_better=False)
    assert slower.ratio == pytest.approx(0.5)
    assert slower.verdict == "worse"


def test_swapping_condition_and_baseline_inverts_the_effect():
    """The estimate and both ends are the inverse of the swapped ones."""
    other = [0.91, 0.97, 0.88, 0.95, 0.9, 0.93, 0.92, 0.9]
    there = paired_effect(STEADY, other, larger_is_better=False, seed=4)
    back = paired_effect(other, STEADY, larger_is_better=False, seed=4)
    assert there.ratio == pytest.approx(1 / back.ratio)
    assert there.low == pytest.approx(1 / back.high, rel=0.01)


def test_the_same_seed_gives_the_same_interval():
    """An effect is a function of its values and its seed."""
    other = [value * (0.9 + index / 100) for index, value in enumerate(STEADY)]
    first, second = (paired_effect(STEADY, other, larger_is_better=False, seed=5) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("floor", "verdict"), [(None, "better"), (0.02, "better"), (0.05, "no difference shown")])
def test_an_effect_within_the_noise_floor_is_not_shown(floor: float | None, verdict: str):
    """The interval's lower end must pass the floor, not only 1."""
    assert Effect(1.06, 1.03, 1.09, 0.95, 12, noise_floor=floor).verdict == verdict


def test_an_unknown_noise_floor_lets_nothing_pass():
    """With too few A/A blocks the floor is infinite and every verdict is open."""
    floor = noise_floor([1.0, 1.1], [1.1, 1.0])
    assert floor == math.inf
    assert Effect(9, 8, 10, 0.95, 12, noise_floor=floor).verdict == "no difference shown"
    assert Effect(0.1, 0.09, 0.11, 0.95, 12, noise_floor=floor).verdict == "no difference shown"


def test_the_noise_floor_counts_a_shift_between_equal_conditions():
    """A/A that is off by 5 % in every block has a floor of 5 %; A/A that is identical has none."""
    assert noise_floor(STEADY, [value * 1.05 for value in STEADY]) == pytest.approx(0.05)
    assert noise_floor(STEADY, [value / 1.05 for value in STEADY]) == pytest.approx(0.05)
    assert noise_floor(STEADY, STEADY) == 0


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_too_few_blocks_have_an_estimate_but_no_interval(blocks: int):
    """Below six blocks a 95 % interval of a median does not exist, and the effect says so."""
    effect = paired_effect([2.0, 2.1, 2.2, 2.0, 2.1][:blocks], [1.0] * blocks, larger_is_better=False)
    assert (effect.low, effect.high) == (0, math.inf)
    assert effect.half_width == math.inf
    assert effect.verdict == "no difference shown"
    assert "[unknown]" in str(effect)


@pytest.mark.parametrize(("confidence", "blocks"), [(0.5, 2), (0.75, 3), (0.9, 5), (0.95, 6), (0.99, 8)])
def test_the_fewest_blocks_follow_from_the_confidence(confidence: float, blocks: int):
    """The range of n values covers the median with probability 1 - 2**(1 - n)."""
    assert fewest_blocks(confidence) == blocks
    assert 1 - 2.0 ** (1 - blocks) >= confidence > 1 - 2.0 ** (2 - blocks) - 1e-12


def test_constant_data_have_a_point_for_an_interval():
    """Equal ratios in every block are no division by zero and no warning."""
    effect = paired_effect([2.0] * 6, [1.0] * 6, larger_is_better=False)
    assert (effect.ratio, effect.low, effect.high) == pytest.approx((2, 2, 2))
    assert paired_effect([1.0] * 6, [1.0] * 6, larger_is_better=True).verdict == "no difference shown"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_a_value_that_has_no_log_ratio_is_refused_by_place(bad: float):
    """The error names the sample, the place and the value."""
    with pytest.raises(InvalidInputError, match=r"condition holds .* at place 2"):
        paired_effect(STEADY, [1.0, 1.0, bad, 1.0, 1.0, 1.0, 1.0, 1.0], larger_is_better=False)


@pytest.mark.parametrize(
    ("before", "after"), [([1.0, 2.0], [1.0]), ([], []), ([[1.0]], [[1.0]]), (["fast"], ["slow"]), ([None], [1.0])]
)
def test_samples_that_cannot_be_paired_are_refused(before: list[float], after: list[float]):
    """Unequal, empty, nested and wordy samples are each one clear error."""
    with pytest.raises(InvalidInputError):
        paired_effect(before, after, larger_is_better=False)


@pytest.mark.parametrize("settings", [{"confidence": 0}, {"confidence": 1}, {"confidence": 95}, {"noise_floor": -0.1}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]):
    """A confidence of 95 meant 0.95, and says so instead of computing nonsense."""
    with pytest.raises(InvalidInputError):
        paired_effect(STEADY, STEADY, larger_is_better=False, **settings)


def test_ratios_at_the_end_of_the_floats_stay_defined():
    """1e308 against 1e-308 is infinitely better, not an overflow."""
    effect = paired_effect([1e308] * 6, [1e-308] * 6, larger_is_better=False)
    assert effect.ratio == math.inf


def test_an_effect_reads_pickles_and_travels_as_json():
    """What a person reads, what a process sends and what a file keeps are the same effect."""
    effect = Effect(1.18, 1.12, 1.25, 0.95, 12, "four workers", "one worker", 0.02)
    assert str(effect) == "1.18x [1.12, 1.25] (95 %, 12 blocks)"
    assert pickle.loads(pickle.dumps(effect)) == effect
    unknown = Effect(1.2, 0.0, math.inf, 0.95, 2, noise_floor=math.inf)
    for one in (effect, unknown):
        assert Effect.from_dict(json.loads(json.dumps(one.to_dict(), allow_nan=False))) == one
    assert effect.to_dict()["verdict"] == "better"
    with pytest.raises(InvalidInputError):
        Effect.from_dict({"ratio": 1})


def test_outliers_are_flagged_and_none_is_dropped():
    """The one slow trial is flagged, and there are as many flags as values."""
    flags = flag_outliers([1.0, 1.01, 0.99, 1.02, 3.0, 1.0])
    assert flags.tolist() == [False, False, False, False, True, False]


@pytest.mark.parametrize(
    ("values", "flagged"),
    [([1.0, 9.0], 0), ([5.0] * 9, 0), ([5.0] * 9 + [5.5], 1), ([0.0, -1.0, 1.0, 0.5, -0.5, -90.0], 1)],
)
def test_flags_are_defined_for_few_equal_and_negative_values(values: list[float], flagged: int):
    """Neither two values nor a deviation of zero divides by zero."""
    assert flag_outliers(values).sum() == flagged


def test_an_estimate_holds_the_median_and_an_interval_around_it():
    """The median lies within its interval; five values have none."""
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 100.0])
    assert found.median == 4.5
    assert 1 <= found.low < 4.5 < found.high <= 100
    assert (estimate([1.0] * 5).low, estimate([-2.0] * 6).low) == (-math.inf, -2.0)
    with pytest.raises(InvalidInputError):
        estimate([1.0, math.nan])


def test_importing_the_laboratory_loads_no_heavy_library():
    """numpy, scipy, pandas, pyarrow and psutil wait until something is computed, drawn or recorded."""
    rooms = [
        "analysis.statistics",
        "cpu.topology",
        "monitoring.pressure",
        "lab.host",
        "lab.noise",
        "lab.store",
        "lab.trials",
    ]
    code = f"import sys; [__import__('procbench.' + room) for room in {rooms}]"
    code += "; print({'numpy', 'scipy', 'pandas', 'pyarrow', 'psutil'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
