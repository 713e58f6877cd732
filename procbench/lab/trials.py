"""The honest measuring loop: every condition once per block, in random order, until the answer is narrow enough.

A block holds one trial of each condition, close together in time, so that drift of the machine meets all of them alike;
the order within a block is drawn anew each time, so that no condition always runs first. The baseline runs twice per
block (A/A), which measures what noise alone would show.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from procbench.analysis.samples import fewest_blocks
from procbench.analysis.statistics import paired_effect
from procbench.errors import InvalidInputError, TrialError
from procbench.lab.results import AGAIN, TRIAL_COLUMNS, Progress, StopReason, Trial, Trials

LOOK_EVERY = 20
"""Time between two looks at the intervals, in durations of the last look."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One way of doing the thing that is measured.

    Attributes:
        name: Stands in tables and effects.
        run: Runs one trial and returns the measured value: a finite number above 0, in the same unit for all conditions
            of one measurement. Wrap a function that returns nothing in :func:`wall_time`.
        factors: What distinguishes the condition, as columns; plain values.
    """

    name: str
    run: Callable[[], float]
    factors: Mapping[str, Any] = field(default_factory=dict)


def wall_time(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """Turn a function into one that returns how many seconds it took; what it returned itself is dropped."""

    def timed() -> float:
        started = clock()
        run()
        return clock() - started

    return timed


def measure(
    conditions: Sequence[Condition],
    *,
    baseline: str,
    larger_is_better: bool,
    warmup_blocks: int = 1,
    min_blocks: int = 6,
    max_blocks: int = 50,
    target_half_width: float = 0.03,
    budget_s: float = 60.0,
    confidence: float = 0.95,
    seed: int = 0,
    aa: bool = True,
    enough: Callable[[Trials], bool] | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Trials:
    """Measure conditions in randomised, interleaved blocks.

    It ends after a block when every effect's interval, that of A/A included, is narrow enough; or when the next block,
    going by the longest so far, would not fit into the budget; or when there are ``max_blocks``. At least one block is
    measured, whatever it takes. Looking at the interval again and again costs it little of its honesty: in 250
    simulated measurements each that ended early, 95 % intervals covered the truth in 0.92 to 0.96. Ctrl-C ends it too,
    and keeps the finished blocks; the trials of the block that it struck are left out, as they have no partners.

    Runs in the calling thread, one trial at a time. A look takes 10 to 25 ms per effect, and the first trial after any
    pause is slower (``/bin/true`` 0.93 ms instead of 0.62 ms, whether the pause was sleep or work). So short blocks are
    not looked at one by one: looks take at most a twenty-first of the time.

    Args:
        conditions: What to compare; names differ.
        baseline: Name of the condition that the others are compared with.
        larger_is_better: False for times, True for rates.
        warmup_blocks: Blocks that are run first; they are kept, flagged, and count for nothing.
        min_blocks: Fewest blocks before narrow intervals may end it. Six is the fewest that have a 95 % interval.
        max_blocks: Most blocks, warm-up not counted.
        target_half_width: Wanted half-width of every interval, as a share of its estimate (0.03 is 3 %).
        budget_s: Seconds for all of it, warm-up included.
        confidence: Nominal coverage of the intervals.
        seed: Seeds the order of trials and the bootstrap.
        aa: Run the baseline twice per block, to know the noise floor.
        enough: Says after ``min_blocks`` whether the finished blocks decide, instead of the width of the intervals; the
            progress has no effects then, so that a look costs no more than this takes.
        on_progress: Told at each look, and at the last block. It may raise KeyboardInterrupt to end the measurement.
        clock: Monotonic seconds.

    Returns:
        All values, and why it ended.

    Raises:
        InvalidInputError: There is nothing to compare, the baseline is not among the conditions, two names are equal, a
            factor is called like a column, or a number makes no sense.
        TrialError: A condition raised, or returned something else than a finite number above 0; it names condition and
            block, and the cause is chained.
    """
    runs = _with_baseline_again(conditions, baseline) if aa else tuple(conditions)
    _check(
        runs,
        baseline,
        blocks=(warmup_blocks, min_blocks, max_blocks),
        target_half_width=target_half_width,
        budget_s=budget_s,
        confidence=confidence,
    )
    ones = [1.0] * fewest_blocks(confidence)
    paired_effect(ones, ones, larger_is_better=True, resamples=9)  # imports scipy before the budget runs
    loop = _Loop(runs, seed=seed, warmup_blocks=warmup_blocks, clock=clock)

    def results(reason: StopReason) -> Trials:
        return Trials(
            trials=tuple(loop.finished),
            factors={condition.name: dict(condition.factors) for condition in runs},
            baseline=baseline,
            larger_is_better=larger_is_better,
            confidence=confidence,
            seed=seed,
            stopped_because=reason,
            elapsed_s=loop.elapsed_s(),
        )

    def look() -> bool:
        """Tell how far it has come, and return whether that is enough."""
        so_far, is_begun = results("interrupted"), loop.blocks >= fewest
        if enough is not None:
            if on_progress is not None:
                on_progress(Progress(so_far.blocks, max_blocks, so_far.elapsed_s, budget_s, ()))
            return is_begun and enough(so_far)
        effects, again = so_far.effects(), so_far.aa_effect()
        if on_progress is not None:
            on_progress(Progress(so_far.blocks, max_blocks, so_far.elapsed_s, budget_s, tuple(effects)))
        widest = max((effect.half_width for effect in (*effects, again) if effect is not None), default=math.inf)
        return is_begun and widest <= target_half_width

    fewest, most = warmup_blocks + min_blocks, warmup_blocks + max_blocks
    next_look_s = 0.0
    try:
        while True:
            loop.run_block()
            spent = loop.blocks > warmup_blocks and loop.elapsed_s() + loop.longest_block_s > budget_s
            if loop.elapsed_s() < next_look_s and not spent and loop.blocks < most:
                continue
            looked_at_s = loop.elapsed_s()
            is_enough = look()
            next_look_s = loop.elapsed_s() + LOOK_EVERY * (loop.elapsed_s() - looked_at_s)
            if is_enough:
                return results("interval")
            if spent or loop.blocks >= most:
                return results("blocks" if loop.blocks >= most else "budget")
    except KeyboardInterrupt:
        return results("interrupted")


class _Loop:
    """The blocks that ran so far, and how to run the next one."""

    def __init__(
        self, conditions: Sequence[Condition], *, seed: int, warmup_blocks: int, clock: Callable[[], float]
    ) -> None:
        self._conditions = conditions
        self._warmup_blocks = warmup_blocks
        self._clock = clock
        self._order = random.Random(seed)  # noqa: S311 - an order that anyone may predict and repeat
        self._begun = clock()
        self.blocks = 0
        self.finished: list[Trial] = []
        self.longest_block_s = 0.0

    def elapsed_s(self) -> float:
        """Return the seconds since the loop was made."""
        return self._clock() - self._begun

    def run_block(self) -> None:
        """Run each condition once, in a new order; only a whole block is kept."""
        begun_s, block = self.elapsed_s(), self.blocks
        trials: list[Trial] = []
        for position, condition in enumerate(self._order.sample(self._conditions, len(self._conditions))):
            started_s = self.elapsed_s()
            value = _run_trial(condition, block)
            warm_up = block < self._warmup_blocks
            trials.append(Trial(block, position, condition.name, value, warm_up, started_s))
        self.finished.extend(trials)
        self.blocks += 1
        self.longest_block_s = max(self.longest_block_s, self.elapsed_s() - begun_s)


def _run_trial(condition: Condition, block: int) -> float:
    """Run one trial and insist on a value that has a logarithm."""
    try:
        value = condition.run()
        sensible = math.isfinite(value) and value > 0
    except Exception as error:
        raise TrialError(condition.name, block, f"{type(error).__name__}: {error}") from error
    if not sensible:
        raise TrialError(condition.name, block, f"returned {value!r}; a value is a finite number above 0")
    return float(value)


def _with_baseline_again(conditions: Sequence[Condition], baseline: str) -> tuple[Condition, ...]:
    """Add the baseline's second run, right after the first in the order given."""
    again = [Condition(one.name + AGAIN, one.run, one.factors) for one in conditions if one.name == baseline]
    return (*conditions, *again)


def _check(
    conditions: Sequence[Condition],
    baseline: str,
    *,
    blocks: tuple[int, int, int],
    target_half_width: float,
    budget_s: float,
    confidence: float,
) -> None:
    """Refuse a measurement that could not end well, before anything runs."""
    names = [condition.name for condition in conditions]
    taken = sorted({name for one in conditions for name in one.factors if name in TRIAL_COLUMNS})
    fewest_blocks(confidence)  # refuses a confidence that is no share
    problems = {
        f"baseline {baseline!r} is not among the conditions: {names}": baseline not in names,
        "there is nothing to compare: name a second condition, or measure A/A": len(names) < 2,
        f"condition names must differ (and the baseline's second run is called {baseline + AGAIN!r}): {names}": (
            len(set(names)) < len(names)
        ),
        f"factors may not be called like a column of the frame: {taken}": bool(taken),
        f"blocks must be 0 <= warmup_blocks and 1 <= min_blocks <= max_blocks, and are {blocks}": (
            not (blocks[0] >= 0 and 1 <= blocks[1] <= blocks[2])
        ),
        f"target_half_width and budget_s are above 0, and not {target_half_width!r} and {budget_s!r}": (
            not (target_half_width > 0 and budget_s > 0)
        ),
    }
    for problem, applies in problems.items():
        if applies:
            raise InvalidInputError(problem)
