"""The measuring loop, run by a clock that the tests turn themselves: no trial waits for anything."""

from __future__ import annotations

import math
import pickle
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from procbench.errors import InvalidInputError, TrialError
from procbench.lab.results import AGAIN, TRIAL_COLUMNS, Progress, Trials
from procbench.lab.trials import Condition, measure, wall_time


class Clock:
    """Seconds that pass only when somebody lets them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> float:
        """Let time pass and return it, as a condition that measures itself does."""
        self.now += seconds
        return seconds


class Machine:
    """Conditions on a machine with drift, noise and a known truth."""

    def __init__(self, seed: int = 1, noise: float = 0.01) -> None:
        self.clock, self.random, self.noise = Clock(), random.Random(seed), noise

    def condition(self, name: str, seconds: float, **factors: Any) -> Condition:
        """Make a condition that takes about ``seconds``, more and more so as the machine heats up."""

        def run() -> float:
            heat = 1 + self.clock.now / 10_000
            return self.clock.spend(seconds * heat * math.exp(self.random.gauss(0, self.noise)))

        return Condition(name, run, factors)

    def measure(self, *conditions: Condition, **settings: Any) -> Trials:
        """Measure times on this machine's clock."""
        return measure(conditions, **{"baseline": "one", "larger_is_better": False, "clock": self.clock, **settings})


def test_a_known_speed_up_comes_out_within_its_interval():
    """A condition that takes 1 s instead of 1.5 s is 1.5 times better, drift or not."""
    machine = Machine()
    trials = machine.measure(machine.condition("one", 1.5), machine.condition("two", 1.0), budget_s=1e6)
    (effect,) = trials.effects()
    assert trials.stopped_because == "interval"
    assert effect.low <= 1.5 <= effect.high
    assert effect.half_width <= 0.03
    assert effect.verdict == "better"
    assert effect.noise_floor == trials.noise_floor
    assert (effect.condition, effect.baseline, effect.blocks) == ("two", "one", trials.blocks)


def test_every_block_holds_every_condition_once_in_a_new_order():
    """Blocks are complete, and each condition comes first about equally often."""
    machine = Machine()
    conditions = [machine.condition(name, 1.0) for name in ("one", "two", "three")]
    trials = machine.measure(*conditions, max_blocks=60, target_half_width=1e-9, budget_s=1e6)
    names = {"one", "two", "three", "one" + AGAIN}
    blocks = trials.frame().groupby("block")
    assert all(set(rows["condition"]) == names and len(rows) == 4 for _, rows in blocks)
    assert all(rows["position"].tolist() == [0, 1, 2, 3] for _, rows in blocks)
    first = Counter(trial.condition for trial in trials.trials if trial.position == 0)
    assert set(first) == names
    assert min(first.values()) >= 5


def test_the_order_follows_from_the_seed():
    """The same seed draws the same order, another one another."""

    def order(seed: int) -> list[str]:
        machine = Machine()
        conditions = [machine.condition(name, 1.0) for name in ("one", "two", "three")]
        return [trial.condition for trial in machine.measure(*conditions, max_blocks=9, seed=seed).trials]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_warm_up_blocks_are_kept_and_flagged_and_count_for_nothing():
    """Two slow first blocks stay in the frame, and neither values nor outliers know them."""
    machine = Machine(noise=0.001)
    slow = iter([50.0] * 4)
    cold = [Condition(name, lambda: machine.clock.spend(next(slow, 1.0))) for name in ("one", "two")]
    trials = machine.measure(*cold, aa=False, warmup_blocks=2, budget_s=1e6)
    frame = trials.frame()
    assert frame.loc[frame["warm_up"], "value"].tolist() == [50.0] * 4
    assert sorted(set(frame.loc[frame["warm_up"], "block"])) == [0, 1]
    assert trials.values("one") == [1.0] * trials.blocks
    assert not frame["outlier"].any()
    assert trials.effects()[0].ratio == 1


def test_a_slow_trial_is_flagged_and_kept():
    """One spike is an outlier of its condition and stays among the values."""
    machine = Machine(noise=0.001)
    times = iter([1.0, 1.01, 1.0, 0.99, 9.0, 1.0, 1.02, 1.0, 1.0, 1.0, 1.0, 1.0])
    spiky = Condition("two", lambda: machine.clock.spend(next(times)))
    trials = machine.measure(machine.condition("one", 1.0), spiky, warmup_blocks=0, min_blocks=12, max_blocks=12)
    frame = trials.frame()
    flagged = frame[frame["outlier"]]
    assert flagged[["block", "condition", "value"]].values.tolist() == [[4, "two", 9.0]]
    assert 9.0 in trials.values("two")


def test_the_frame_has_its_documented_columns_and_the_factors():
    """Columns and types are what frame() promises; a factor that a condition lacks is missing there."""
    machine = Machine()
    one, two = machine.condition("one", 1.0, workers=1), machine.condition("two", 1.0, workers=2, pinned=True)
    frame = machine.measure(one, two, max_blocks=6).frame()
    assert list(frame) == [*TRIAL_COLUMNS, "workers", "pinned"]
    kinds = {"block": "i", "position": "i", "value": "f", "warm_up": "b", "outlier": "b", "started_s": "f"}
    assert {column: frame[column].dtype.kind for column in kinds} == kinds
    assert frame["started_s"].is_monotonic_increasing
    assert frame["started_s"].iloc[0] == 0
    assert set(frame.loc[frame["condition"] == "one" + AGAIN, "workers"]) == {1}
    assert frame.loc[frame["condition"] == "one", "pinned"].isna().all()


def test_the_budget_ends_it_before_it_is_overrun():
    """With blocks of 3 s, a budget of 20 s is over after the sixth (18 s): a seventh would not fit."""
    machine = Machine(noise=0)
    steady = [Condition(name, lambda: machine.clock.spend(1.0)) for name in ("one", "two")]
    trials = machine.measure(*steady, budget_s=20, min_blocks=10, warmup_blocks=1)
    assert (trials.stopped_because, trials.blocks, trials.elapsed_s) == ("budget", 5, 18.0)


def test_one_block_is_measured_however_small_the_budget():
    """A result without any value would tell nothing."""
    machine = Machine()
    trials = machine.measure(machine.condition("one", 9.0), machine.condition("two", 9.0), budget_s=0.1)
    assert (trials.stopped_because, trials.blocks) == ("budget", 1)
    assert trials.effects()[0].verdict == "no difference shown"
    assert trials.noise_floor == math.inf


def test_the_most_blocks_end_it():
    """Noise too loud for the target ends after max_blocks."""
    machine = Machine(noise=0.5)
    trials = machine.measure(machine.condition("one", 1.0), machine.condition("two", 1.0), max_blocks=7, budget_s=1e6)
    assert (trials.stopped_because, trials.blocks) == ("blocks", 7)


def test_narrow_intervals_end_it_only_after_the_fewest_blocks():
    """Constant values have a point for an interval, and still min_blocks are run."""
    machine = Machine()
    steady = [Condition(name, lambda: machine.clock.spend(1.0)) for name in ("one", "two")]
    trials = machine.measure(*steady, min_blocks=8, budget_s=1e6)
    assert (trials.stopped_because, trials.blocks) == ("interval", 8)


@pytest.mark.parametrize("struck", [0, 1, 13, 14])
def test_an_interrupt_keeps_the_finished_blocks(struck: int):
    """Ctrl-C in a trial ends the measurement; whole blocks stay, the struck one is left out."""
    machine = Machine()
    count = iter(range(1000))

    def run() -> float:
        if next(count) == struck:
            raise KeyboardInterrupt
        return machine.clock.spend(1.0)

    trials = machine.measure(Condition("one", run), Condition("two", run), aa=False, min_blocks=20)
    assert trials.stopped_because == "interrupted"
    assert len(trials.trials) == struck // 2 * 2
    assert trials.blocks == max(0, struck // 2 - 1)
    assert len(trials.effects()) == (1 if trials.blocks else 0)
    assert len(trials.frame()) == len(trials.trials)


def test_whoever_watches_may_stop_it():
    """A Stop button raises KeyboardInterrupt from on_progress; the finished blocks stay, the last one included."""
    machine = Machine()

    def stop(progress: Progress) -> None:
        if progress.blocks == 3:
            raise KeyboardInterrupt

    trials = machine.measure(machine.condition("one", 1.0), machine.condition("two", 1.0), on_progress=stop)
    assert (trials.stopped_because, trials.blocks) == ("interrupted", 3)


def test_a_condition_that_raises_ends_it_with_its_name_and_block():
    """The error says which condition and block, chains the cause and pickles."""
    machine = Machine()

    def broken() -> float:
        raise FileNotFoundError("no such program: grpe")

    with pytest.raises(TrialError, match=r"condition 'two' failed in block 0: FileNotFoundError.*grpe") as caught:
        machine.measure(machine.condition("one", 1.0), Condition("two", broken))
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.condition, again.block, str(again)) == ("two", 0, str(caught.value))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, None, "fast"])
def test_a_value_that_is_no_positive_number_ends_it(value: Any):
    """Nothing that has no logarithm gets into the results."""
    with pytest.raises(TrialError, match="condition 'two'"):
        Machine().measure(Condition("one", lambda: 1.0), Condition("two", lambda: value))


def test_progress_is_told_after_each_block_when_looking_is_quick():
    """Warm-up first, without effects; then one more block each time, with the effects so far."""
    machine, told = Machine(), list[Progress]()
    machine.measure(machine.condition("one", 1.0), machine.condition("two", 1.0), max_blocks=6, on_progress=told.append)
    assert [progress.blocks for progress in told] == [0, 1, 2, 3, 4, 5, 6]
    assert [len(progress.effects) for progress in told] == [0, 1, 1, 1, 1, 1, 1]
    assert told[-1].elapsed_s == pytest.approx(21, rel=0.1)


def test_looking_takes_a_small_share_of_the_time():
    """When a look takes a second and a block three, twenty seconds of blocks lie between two looks."""
    machine, told = Machine(noise=0), list[Progress]()
    steady = [Condition(name, lambda: machine.clock.spend(1.0)) for name in ("one", "two")]

    def slow_to_draw(progress: Progress) -> None:
        told.append(progress)
        machine.clock.spend(1.0)

    machine.measure(*steady, max_blocks=16, min_blocks=16, warmup_blocks=0, on_progress=slow_to_draw)
    assert [progress.blocks for progress in told] == [1, 8, 15, 16]


def test_a_larger_rate_is_better():
    """The same loop measures rates."""
    trials = measure(
        [Condition("one", lambda: 100.0), Condition("two", lambda: 150.0)], baseline="one", larger_is_better=True
    )
    assert trials.effects()[0].ratio == pytest.approx(1.5)


def test_without_a_second_baseline_there_is_no_noise_floor():
    """aa=False saves its trials and says that the floor is unknown."""
    machine = Machine()
    trials = machine.measure(machine.condition("one", 1.0), machine.condition("two", 0.5), aa=False, max_blocks=6)
    assert (trials.noise_floor, trials.aa_effect(), trials.effects()[0].noise_floor) == (None, None, None)


def test_a_condition_alone_can_be_measured_against_itself():
    """A/A of one condition measures the noise floor and has no effects."""
    machine = Machine()
    trials = machine.measure(machine.condition("one", 1.0), budget_s=1e6)
    again = trials.aa_effect()
    assert again is not None
    assert (trials.effects(), again.verdict) == ([], "no difference shown")
    assert 0 < (trials.noise_floor or 0) < 0.1


def test_trials_pickle():
    """Results travel between processes; the conditions' functions stay behind."""
    machine = Machine()
    trials = machine.measure(machine.condition("one", 1.0), machine.condition("two", 0.5), max_blocks=6)
    assert pickle.loads(pickle.dumps(trials)) == trials


def one(name: str = "one", **factors: Any) -> Condition:
    """Make a condition for measurements that are refused."""
    return Condition(name, lambda: 1.0, factors)


@pytest.mark.parametrize(
    ("conditions", "settings"),
    [
        ([], {}),
        ([one()], {"aa": False}),
        ([one("two"), one("three")], {}),
        ([one(), one()], {}),
        ([one(), one("one" + AGAIN)], {}),
        ([one(), one("two", block=1)], {}),
        ([one(), one("two")], {"min_blocks": 0}),
        ([one(), one("two")], {"min_blocks": 9, "max_blocks": 8}),
        ([one(), one("two")], {"warmup_blocks": -1}),
        ([one(), one("two")], {"target_half_width": 0}),
        ([one(), one("two")], {"budget_s": math.nan}),
        ([one(), one("two")], {"confidence": 95}),
    ],
)
def test_a_measurement_that_makes_no_sense_is_refused_before_anything_runs(
    conditions: list[Condition], settings: dict[str, Any]
):
    """Nothing to compare, an unknown baseline, double names, a taken column, numbers out of range."""
    with pytest.raises(InvalidInputError):
        measure(conditions, baseline="one", larger_is_better=False, **settings)


@pytest.mark.parametrize("function", [lambda: None, lambda: 7])
def test_wall_time_returns_the_seconds_that_a_function_took(function: Callable[[], object]):
    """Whatever the function returns, its wrapper returns the clock's difference."""
    clock = Clock()

    def run() -> object:
        clock.spend(2.5)
        return function()

    assert wall_time(run, clock)() == 2.5
