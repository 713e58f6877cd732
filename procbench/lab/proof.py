"""Does a suggestion help? The person's own tasks say so, run with and without the change in interleaved blocks.

In each block the batch runs twice as it is and once with the change, in random order. What that proves is said by
:mod:`procbench.lab.verdicts`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from procbench.analysis.samples import RESAMPLES, fewest_blocks
from procbench.analysis.statistics import Effect
from procbench.analysis.suggestions import HostChange, OptimizationSuggestion, Status
from procbench.errors import InvalidInputError, TrialError
from procbench.io.command import Argument
from procbench.lab.batches import TaskBatch
from procbench.lab.proof_records import recorded
from procbench.lab.proof_runs import ChangedBatchError, ProofRuns
from procbench.lab.results import AGAIN, Progress, Trials
from procbench.lab.trials import Condition, measure
from procbench.lab.verdicts import MEASURED, SURE, WORTH, gain_of, is_shifted, loss_of, status_of
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import ProcessTask

WITHOUT: Final = "as it is"
WITH: Final = "with the change"

_MOST_BLOCKS: Final = 400
_LOOKS_APART: Final = 1.5  # each look is one more chance to take noise for a gain: eleven in 400 blocks, and not 393
_LOOK_RESAMPLES: Final = 1_999  # a look is repeated soon; what is reported has all of them


def prove(
    suggestion: OptimizationSuggestion,
    workload: TaskBatch | Iterable[ProcessTask | Sequence[Argument]],
    settings: RunSettings,
    *,
    budget_s: float,
    data_dir: str | Path | None = None,
    seed: int = 0,
    allow_host_changes: bool = False,
    repeats: str = "",
    on_progress: Callable[[Progress], object] | None = None,
) -> OptimizationSuggestion:
    """Measure a suggestion with a person's own tasks, and return it with status, effect, side effects and evidence.

    The batch first runs three times to see whether its commands succeed and do the same again: two times as it is, once with
    the change. What they took becomes the ``expected_s`` of tasks that have none. Then it is run in blocks until the interval
    decides or the budget ends. Output that is not captured goes to ``/dev/null``. Runs in the calling thread; Ctrl-C ends it
    with what there is, and without a finished block is raised.

    Args:
        suggestion: What to measure.
        workload: The tasks, which must bear being run dozens of times.
        settings: What they are run with now.
        budget_s: Seconds for all of it. The three first runs are made whatever they take.
        data_dir: Folder of recorded runs to keep the evidence in; empty or None keeps none. Where that fails the note says so.
        seed: Draws the order of runs.
        allow_host_changes: Whether a change of the host may be made; it is undone after each run.
        repeats: Name of the recorded proof that this one repeats, to be recorded with it.
        on_progress: As in :func:`procbench.lab.trials.measure`.

    Raises:
        InvalidInputError: The suggestion is for other settings, changes the host and may not, or a number makes no sense.
        WorkloadError: As it is, commands fail or do something else when they run again.
        HostChangeError: The host could not be changed, or not be restored.
    """
    return proof_of(
        suggestion,
        TaskBatch.of(workload),
        settings,
        budget_s=budget_s,
        data_dir=data_dir,
        seed=seed,
        allow_host_changes=allow_host_changes,
        repeats=repeats,
        on_progress=on_progress,
    ).suggestion


class Proof(NamedTuple):
    """A suggestion that was measured.

    Attributes:
        suggestion: With its status.
        trials: The times of its runs, seconds; None if it came to none.
    """

    suggestion: OptimizationSuggestion
    trials: Trials | None = None

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it before it was decided."""
        return self.trials is not None and self.trials.stopped_because == "interrupted"


def proof_of(
    suggestion: OptimizationSuggestion,
    batch: TaskBatch,
    settings: RunSettings,
    *,
    budget_s: float,
    data_dir: str | Path | None = None,
    seed: int = 0,
    allow_host_changes: bool = False,
    repeats: str = "",
    on_progress: Callable[[Progress], object] | None = None,
) -> Proof:
    """Do as :func:`prove`, and also return the times, and whether Ctrl-C ended it."""
    if not (math.isfinite(budget_s) and budget_s > 0):
        raise InvalidInputError(f"budget_s is a number of seconds above 0, and not {budget_s!r}")
    # What an earlier measurement said is not this one's, also where this one comes to nothing.
    suggestion = replace(suggestion, status="unmeasured", effect=None, side_effects={}, evidence=None)
    host = suggestion.change if isinstance(suggestion.change, HostChange) else None
    if host is not None and not allow_host_changes:
        raise InvalidInputError(
            f"the suggestion changes the host ({suggestion.change}); if you want that, say allow_host_changes=True"
        )
    begun = time.monotonic()
    runs = ProofRuns(batch, settings, suggestion.apply(settings), host)
    refused = runs.check()
    if refused:
        return Proof(_said(suggestion, "harmful", refused))
    spent_s = time.monotonic() - begun
    needed_s = spent_s + 1.3 * (fewest_blocks(SURE) + 1) * runs.block_s
    if spent_s + fewest_blocks() * runs.block_s > budget_s:
        note = f"{budget_s:.3g} s are too few for {fewest_blocks()} blocks; about {math.ceil(needed_s)} s would do"
        return Proof(_said(suggestion, "inconclusive", note))
    try:
        trials = _measured(runs, suggestion, budget_s - spent_s, seed, on_progress)
    except ChangedBatchError as error:
        return Proof(_said(suggestion, "harmful", str(error)))
    judged = _told(suggestion, runs, trials)
    if data_dir:
        judged = recorded(judged, suggestion, runs, trials, budget_s=budget_s, data_dir=data_dir, repeats=repeats)
    return Proof(judged, trials)


def _said(suggestion: OptimizationSuggestion, status: Status, note: str) -> OptimizationSuggestion:
    """Return a suggestion with a status; what its note said before stays there."""
    return replace(suggestion.noted(note), status=status)


def _measured(
    runs: ProofRuns,
    suggestion: OptimizationSuggestion,
    budget_s: float,
    seed: int,
    on_progress: Callable[[Progress], object] | None,
) -> Trials:
    """Run blocks until they decide. What a batch does that fails meanwhile is the batch's error."""
    next_look = fewest_blocks(SURE)

    def enough(so_far: Trials) -> bool:
        nonlocal next_look
        if so_far.blocks < next_look:
            return False
        next_look = math.ceil(_LOOKS_APART * so_far.blocks)
        return _status(suggestion, runs, so_far.blocks, seed, resamples=_LOOK_RESAMPLES) != "inconclusive"

    conditions = [Condition(name, runs.trial(name, changed=name == WITH)) for name in (WITHOUT, WITHOUT + AGAIN, WITH)]
    try:
        trials = measure(
            conditions,
            baseline=WITHOUT,
            larger_is_better=False,
            warmup_blocks=0,  # the first runs were that
            min_blocks=fewest_blocks(SURE),
            max_blocks=_MOST_BLOCKS,
            budget_s=budget_s,
            seed=seed,
            aa=False,  # the second baseline stands among the conditions, so that its costs are kept by name
            enough=enough,
            on_progress=on_progress,
        )
    except TrialError as error:
        raise error.__cause__ or error from error
    if not trials.blocks:
        raise KeyboardInterrupt
    return trials


def _values(runs: ProofRuns, what: str, blocks: int) -> tuple[list[float], list[float], list[float]]:
    """Return what finished blocks cost: the batch as it is, again, and with the change."""
    first, second, changed = (runs.values(name, MEASURED[what], blocks) for name in (WITHOUT, WITHOUT + AGAIN, WITH))
    return first, second, changed


def _status(
    suggestion: OptimizationSuggestion, runs: ProofRuns, blocks: int, seed: int, resamples: int = RESAMPLES
) -> Status:
    """Return what the finished blocks say."""
    values = _values(runs, suggestion.gain, blocks)
    gained = gain_of(*values, seed=seed, resamples=resamples)
    if gained is None:
        return "inconclusive"
    time_lost = loss_of(*_values(runs, "time", blocks), seed=seed) if suggestion.gain == "memory" else None
    return status_of(gained, time_lost, shifted=is_shifted(*values[:2], seed=seed, resamples=resamples))


def _told(suggestion: OptimizationSuggestion, runs: ProofRuns, trials: Trials) -> OptimizationSuggestion:
    """Return the suggestion with what was measured, and with what a reader of its status should know."""
    names: dict[str, Any] = {"condition_name": WITH, "baseline_name": WITHOUT, "seed": trials.seed}
    found = {what: gain_of(*_values(runs, what, trials.blocks), **names) for what in MEASURED}
    gained = found.pop(suggestion.gain)
    sides = {what: effect for what, effect in found.items() if effect is not None}
    status, note = _status(suggestion, runs, trials.blocks, trials.seed), ""
    if gained is None:
        note = "its commands are smaller than this process, so that the kernel does not tell their memory"
    elif status == "inconclusive":
        note = f"{trials.blocks} blocks do not decide; about {_enough_s(gained, trials):,.0f} s may"
    return replace(_said(suggestion, status, note), effect=gained, side_effects=sides)


def _enough_s(effect: Effect, trials: Trials) -> float:
    """Return about how many seconds would decide: an interval narrows with the root of the number of blocks."""
    if not math.isfinite(effect.half_width):
        return 3 * trials.elapsed_s
    wanted = max(WORTH / 2, abs(math.log(effect.ratio)) / 2)
    return trials.elapsed_s * max(1.5, (effect.half_width / wanted) ** 2)
