"""The Universal Scalability Law, fitted to throughputs whose law is known."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procbench.analysis.scaling import fit_scaling
from procbench.errors import InvalidInputError

COUNTS = (1, 2, 4, 8, 16)


def law(workers, rate, contention, coherence):
    return rate * workers / (1 + contention * (workers - 1) + coherence * workers * (workers - 1))


def measured(rate, contention, coherence, *, counts=COUNTS, blocks=8, noise=0.02, seed=0):
    random = np.random.default_rng(seed)
    return {
        count: [
            law(count, rate, contention, coherence) * math.exp(noise * random.standard_normal()) for _ in range(blocks)
        ]
        for count in counts
    }


@settings(deadline=None, max_examples=40)
@given(
    rate=st.floats(0.01, 1e6),
    contention=st.floats(0, 1),
    coherence=st.floats(0, 1),
    counts=st.sets(st.integers(1, 64), min_size=3, max_size=8),
)
def test_the_parameters_of_exact_values_are_found(rate, contention, coherence, counts):
    fit = fit_scaling({count: [law(count, rate, contention, coherence)] for count in counts})
    assert fit.rate.value == pytest.approx(rate, rel=1e-4)
    assert fit.contention.value == pytest.approx(contention, abs=1e-4)
    assert fit.coherence.value == pytest.approx(coherence, abs=1e-4)
    assert fit.predict(100).value == pytest.approx(law(100, rate, contention, coherence), rel=1e-3)


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.integers(1, 1000), st.lists(st.floats(1e-6, 1e9), min_size=6, max_size=6), min_size=3, max_size=6
    )
)
def test_whatever_was_measured_the_parameters_lie_in_their_bounds_and_their_intervals(rates):
    fit = fit_scaling(rates, resamples=40)
    assert 0 <= fit.contention.value <= 1
    assert fit.coherence.value >= 0
    assert fit.peak.value >= 1
    for one in (fit.rate, fit.contention, fit.coherence, fit.peak, fit.predict(1), fit.predict(2 * fit.most)):
        assert one.low <= one.value <= one.high
    assert math.isfinite(fit.predict(2 * fit.most).value)


@pytest.mark.parametrize(("rate", "contention", "coherence"), [(50, 0.05, 0.01), (50, 0.2, 0.0), (3e-3, 0.0, 0.002)])
def test_intervals_hold_the_truth_within_what_was_measured_and_beyond(rate, contention, coherence):
    held = []
    for seed in range(20):
        fit = fit_scaling(measured(rate, contention, coherence, seed=seed), seed=seed, resamples=400)
        truth = [rate, contention, coherence, *(law(count, rate, contention, coherence) for count in (3, 32))]
        found = [fit.rate, fit.contention, fit.coherence, fit.predict(3), fit.predict(32)]
        held.append([one.low <= true <= one.high for true, one in zip(truth, found, strict=True)])
    assert (np.mean(held, axis=0) >= 0.8).all()  # 0.95 nominal, and 20 draws


def test_the_further_beyond_what_was_measured_the_wider_the_interval():
    fit = fit_scaling(measured(50, 0.05, 0.005))
    widths = [one.high / one.low for one in map(fit.predict, (16, 32, 64, 256))]
    assert widths == sorted(widths)
    assert widths[-1] > widths[0]


def test_the_peak_is_found_with_its_interval():
    fit = fit_scaling(measured(50, 0.05, 0.01))
    truth = math.sqrt(0.95 / 0.01)
    assert fit.peak.low <= truth <= fit.peak.high
    assert fit.peak_is_measured
    assert law(1, 50, 0.05, 0.01) < fit.predict(fit.peak.value).value > fit.predict(2 * fit.peak.value).value


def test_a_peak_beyond_what_was_measured_is_said_to_be_there():
    assert not fit_scaling(measured(50, 0.05, 0.0001)).peak_is_measured
    grows = fit_scaling({count: [10.0 * count] * 7 for count in COUNTS})
    assert grows.peak.value == grows.peak.low == math.inf
    assert not grows.peak_is_measured


def test_constant_throughput_is_all_contention_and_has_its_peak_at_one_worker():
    fit = fit_scaling({count: [10.0] * 7 for count in COUNTS})
    assert fit.contention.value == pytest.approx(1)
    assert fit.coherence.value == 0
    assert fit.peak.value == 1
    assert fit.predict(100).value == pytest.approx(10)


def test_throughput_that_only_falls_has_its_peak_at_one_worker():
    assert fit_scaling({count: [10.0 / count] * 7 for count in COUNTS}).peak.value == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "rates", [{1: [1.0] * 6, 2: [1.0] * 3 + [21.0] * 3, 5: [1.0] * 6}, {2: [3.0], 3: [2.0], 5: [1.2]}]
)
def test_where_only_coherence_is_left_one_worker_still_takes_some_time(rates):
    fit = fit_scaling(rates)
    assert math.isfinite(fit.rate.value)
    assert math.isfinite(fit.predict(1).value)
    assert fit.peak.value == 1


def test_more_than_proportional_growth_is_fitted_by_proportional_growth():
    fit = fit_scaling({count: [10.0 * count**1.2] * 7 for count in COUNTS})
    assert fit.contention.value == fit.coherence.value == 0
    assert fit.misfit > 0.1


def test_what_the_law_misses_makes_predictions_less_sure():
    """Four CPUs: throughput has a corner that no smooth law follows."""
    corner = {count: [10.0 * min(count, 4) * (1 + 0.001 * block) for block in range(8)] for count in COUNTS}
    fit, smooth = fit_scaling(corner), fit_scaling(measured(10, 0.05, 0.01, noise=0.002))
    assert fit.misfit > 0.03 > smooth.misfit
    unsure, sure = (one.predict(32).high / one.predict(32).low for one in (fit, smooth))
    assert unsure > 1.1 * sure
    assert fit.rate.high / fit.rate.low > 1.1 > smooth.rate.high / smooth.rate.low


def test_too_few_blocks_have_no_interval():
    fit = fit_scaling(measured(50, 0.05, 0.01, blocks=5))
    assert not fit.has_intervals
    for one in (fit.rate, fit.peak, fit.predict(32)):
        assert (one.low, one.high) == (0, math.inf)


def test_the_same_values_and_seed_give_the_same_fit_and_it_pickles():
    rates = measured(50, 0.05, 0.01)
    fit, again = fit_scaling(rates, seed=3), fit_scaling(dict(reversed(rates.items())), seed=3)
    assert fit == again == pickle.loads(pickle.dumps(fit))
    assert fit.predict(32) == again.predict(32) == pickle.loads(pickle.dumps(fit)).predict(32)
    assert fit.counts == COUNTS


@pytest.mark.parametrize("counts", [(), (1,), (2, 4)])
def test_fewer_than_three_numbers_of_workers_are_refused(counts):
    with pytest.raises(InvalidInputError, match=f"and not {len(counts)}: measure more"):
        fit_scaling(measured(50, 0.05, 0.01, counts=counts))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_throughput_that_makes_no_sense_is_refused(value):
    with pytest.raises(InvalidInputError, match="finite number above 0"):
        fit_scaling({1: [1.0], 2: [value], 3: [2.0]})


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({0: [1.0], 1: [1.0], 2: [1.0]}, "whole numbers"),
        ({1.5: [1.0], 2: [1.0], 3: [1.0]}, "whole numbers"),
        ({True: [1.0], 2: [1.0], 3: [1.0]}, "whole numbers"),
        ({1: [1.0], 2: [1.0, 2.0], 3: [1.0]}, "one throughput per block"),
        ({1: [], 2: [], 3: []}, "one throughput per block"),
        ({1: ["fast"], 2: [1.0], 3: [1.0]}, "no number"),
    ],
)
def test_what_is_no_curve_is_refused(rates, words):
    with pytest.raises(InvalidInputError, match=words):
        fit_scaling(rates)


@pytest.mark.parametrize("workers", [0, 0.5, -1, math.nan, math.inf])
def test_a_prediction_for_no_number_of_workers_is_refused(workers):
    with pytest.raises(InvalidInputError, match="at least 1"):
        fit_scaling(measured(50, 0.05, 0.01, blocks=1)).predict(workers)
