"""Does a suggestion help? The person's own tasks say so, run with and without the change in interleaved blocks.

What counts as proved: the whole interval of what the change should improve lies beyond what noise alone shows (A/A runs in the
same blocks), and for a gain of memory the batch's time is not longer by more than 3 % and that noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from procbench.analysis.observed import most_memory_bytes
from procbench.analysis.statistics import Effect, fewest_blocks, noise_floor, paired_effect
from procbench.analysis.suggestions import HostChange, OptimizationSuggestion, Status
from procbench.errors import InvalidInputError, RecordError, TrialError, WorkloadError
from procbench.io.command import Argument
from procbench.lab.batches import TaskBatch, outcome_hash
from procbench.lab.host import read_host
from procbench.lab.host_change import changed_host
from procbench.lab.results import AGAIN, Progress, Trials
from procbench.lab.store import Store
from procbench.lab.trials import Condition, measure
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask, TaskResult

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT: Final = "proof"
WITHOUT: Final = "as it is"
WITH: Final = "with the change"

WORTH: Final = 0.05
"""A gain of less is none: where the interval excludes 5 %, the status is ``no gain``."""

NO_LOSS: Final = 0.03
"""By how much a batch may take longer, beyond noise, where a change should save memory."""

MOST_NOISE: Final = 0.07
"""Noise counts as an excuse for a loss of time up to that share."""

_FEWEST: Final = 8  # blocks before a verdict ends it early: all of eight on one side is no accident
_MOST_BLOCKS: Final = 400
_HALF_WIDTH: Final = 0.02
_KEPT_BYTES: Final = 64 * 1024  # of each command's output, to tell whether it does the same again
_COSTS: Final = ("cpu_s", "memory_bytes", "latency_s")


def prove(
    suggestion: OptimizationSuggestion,
    workload: TaskBatch | Iterable[ProcessTask | Sequence[Argument]],
    settings: RunSettings,
    *,
    budget_s: float,
    data_dir: str | Path | None = None,
    seed: int = 0,
    allow_host_changes: bool = False,
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
        on_progress: As in :func:`procbench.lab.trials.measure`.

    Raises:
        InvalidInputError: The suggestion is for other settings, changes the host and may not, or a number makes no sense.
        WorkloadError: As it is, commands fail or do something else when they run again.
        HostChangeError: The host could not be changed, or not be restored.
    """
    if not (math.isfinite(budget_s) and budget_s > 0):
        raise InvalidInputError(f"budget_s is a number of seconds above 0, and not {budget_s!r}")
    host = suggestion.change if isinstance(suggestion.change, HostChange) else None
    if host is not None and not allow_host_changes:
        raise InvalidInputError(
            f"the suggestion changes the host ({suggestion.change}); if you want that, say allow_host_changes=True"
        )
    begun = time.monotonic()
    runs = _Runs(TaskBatch.of(workload), settings, suggestion.apply(settings), host)
    refused = runs.check()
    if refused:
        return replace(suggestion, status="harmful", note=refused)
    spent_s = time.monotonic() - begun
    needed_s = spent_s + 1.3 * (fewest_blocks() + 1) * runs.block_s
    if spent_s + fewest_blocks() * runs.block_s > budget_s:
        note = f"{budget_s:g} s are too few for {fewest_blocks()} blocks; about {math.ceil(needed_s)} s would do"
        return replace(suggestion, status="inconclusive", note=note)
    try:
        trials = _measured(runs, suggestion, budget_s - spent_s, seed, on_progress)
    except ChangedBatchError as error:
        return replace(suggestion, status="harmful", note=str(error))
    judged = _judged(suggestion, runs, trials)
    return _recorded(judged, runs, trials, budget_s, data_dir) if data_dir else judged


class ChangedBatchError(WorkloadError):
    """Commands fail with the change only."""


@dataclass(slots=True)
class _Runs:
    """Runs a batch in both ways, and keeps what each run cost.

    Attributes:
        costs: CPU time, memory and slowest commands' time of each measured run, in the order in which they ran.
        block_s: Seconds that a block of both and A/A takes, going by the first runs.
    """

    batch: TaskBatch
    before: RunSettings
    after: RunSettings
    host: HostChange | None
    costs: list[dict[str, float]] = field(default_factory=list)
    expected_s: dict[int | str, float] = field(default_factory=dict)
    statuses: dict[bool, list[int | None]] = field(default_factory=dict)
    block_s: float = 0.0

    def check(self) -> str:
        """Run the batch three times; return why the change cannot be measured, or nothing.

        Raises:
            WorkloadError: The batch as it is cannot be.
        """
        seconds: dict[bool, float] = {}
        hashes: dict[bool, str] = {}
        for changed in (False, True, False):
            results, seconds[changed] = self._run(changed, checking=True)
            if failed := [one for one in results if one.outcome != "succeeded"]:
                said = (
                    f"{len(failed)} of {len(results)} commands do not succeed, the first of them {_ending(failed[0])}"
                )
                if changed:
                    return f"with the change {said}"
                raise WorkloadError(f"{said}; make them succeed before they are measured")
            found = outcome_hash(results)
            if not changed and hashes.get(False, found) != found:
                raise WorkloadError(
                    "the commands do something else when they run again: their output differs. Give them their input and a "
                    "seed anew each time, or let them say no times and no paths of their own"
                )
            hashes[changed] = found
            self.statuses[changed] = [one.returncode for one in results]
            if not changed:
                self.expected_s = {one.task.id: one.wall_s for one in results}
        self.block_s = 2 * seconds[False] + seconds[True]
        return ""

    def trial(self, changed: bool) -> Callable[[], float]:
        """Return a trial."""

        def run() -> float:
            results, seconds = self._run(changed)
            statuses = [one.returncode for one in results]
            if statuses != self.statuses[changed]:
                place = next(i for i, status in enumerate(statuses) if status != self.statuses[changed][i])
                said = f"command {place} of {len(statuses)}, {_ending(results[place])}, had {self.statuses[changed][place]}"
                raise (ChangedBatchError if changed else WorkloadError)(f"{said} before")
            walls = sorted(one.wall_s for one in results)
            self.costs.append(
                {
                    "cpu_s": sum(one.cpu_s for one in results),
                    "memory_bytes": most_memory_bytes(results),
                    "latency_s": walls[min(len(walls) - 1, math.ceil(0.99 * len(walls)) - 1)],
                }
            )
            return seconds

        return run

    def _run(self, changed: bool, *, checking: bool = False) -> tuple[list[TaskResult], float]:
        settings = self.after if changed else self.before
        if checking:
            settings = settings.changed(capture=True, max_output_bytes=_KEPT_BYTES, overflow="drop")
        elif not settings.capture:
            settings = settings.changed(discard=True)
        tasks = self.batch.tasks_for(settings.args_per_task, self.expected_s)
        with (
            changed_host(self.host) if changed and self.host is not None else nullcontext(),
            WorkStealingScheduler(settings) as scheduler,
        ):
            started = time.perf_counter()
            results = list(scheduler.map(tasks))
            return results, time.perf_counter() - started

    def values(self, trials: Trials, condition: str, cost: str) -> list[float]:
        """Return what a condition's runs cost, one per block."""
        ran = zip(trials.trials, self.costs, strict=False)  # an unfinished block's costs stand at the end
        return [costs[cost] for trial, costs in ran if trial.condition == condition]

    def effect(self, trials: Trials, cost: str) -> Effect | None:
        """Compare what runs cost; None where that is not known of each run."""
        values, base, again = (self.values(trials, name, cost) for name in (WITH, WITHOUT, WITHOUT + AGAIN))
        if not base or not all(math.isfinite(value) and value > 0 for value in (*values, *base, *again)):
            return None
        floor = noise_floor(base, again, seed=trials.seed)
        names: dict[str, Any] = {"condition_name": WITH, "baseline_name": WITHOUT}
        return paired_effect(base, values, larger_is_better=False, noise_floor=floor, seed=trials.seed, **names)


def _measured(
    runs: _Runs,
    suggestion: OptimizationSuggestion,
    budget_s: float,
    seed: int,
    on_progress: Callable[[Progress], object] | None,
) -> Trials:
    """Run blocks until the interval decides. What a batch does that fails meanwhile is the batch's error."""

    def look(progress: Progress) -> None:
        if on_progress is not None:
            on_progress(progress)
        if progress.blocks >= _FEWEST and progress.effects and _is_decided(suggestion, progress.effects[0]):
            raise KeyboardInterrupt  # measure() ends with the finished blocks

    conditions = [Condition(WITHOUT, runs.trial(False)), Condition(WITH, runs.trial(True))]
    try:
        trials = measure(
            conditions,
            baseline=WITHOUT,
            larger_is_better=False,
            warmup_blocks=0,  # the first runs were that
            min_blocks=fewest_blocks(),
            max_blocks=_MOST_BLOCKS,
            target_half_width=_HALF_WIDTH,
            budget_s=budget_s,
            seed=seed,
            on_progress=look,
        )
    except TrialError as error:
        raise error.__cause__ or error from error
    if not trials.blocks:
        raise KeyboardInterrupt
    return trials


def _is_decided(suggestion: OptimizationSuggestion, took: Effect) -> bool:
    """Return whether a batch's time decides; memory hardly wavers, so that time is what a gain of memory waits for too."""
    if suggestion.gain == "time":
        return took.verdict != "no difference shown"
    return took.low >= 1 / _margin(took) or took.high < 1 / _margin(took)


def _judged(suggestion: OptimizationSuggestion, runs: _Runs, trials: Trials) -> OptimizationSuggestion:
    (took,) = trials.effects()
    effects: dict[str, Effect | None] = {
        "time": took,
        "memory": runs.effect(trials, "memory_bytes"),
        "cpu_time": runs.effect(trials, "cpu_s"),
        "latency": runs.effect(trials, "latency_s"),
    }
    gained = effects.pop(suggestion.gain)
    sides = {name: effect for name, effect in effects.items() if effect is not None}
    if gained is None:
        note = "its commands are smaller than this process, so that the kernel does not tell their memory"
        return replace(suggestion, status="inconclusive", side_effects=sides, note=note)
    status = status_of(gained, took if suggestion.gain == "memory" else None)
    note = ""
    if status == "inconclusive":
        note = f"{trials.blocks} blocks do not decide; about {_enough_s(took, trials):,.0f} s may"
    return replace(suggestion, status=status, effect=gained, side_effects=sides, note=note)


def status_of(gained: Effect, took: Effect | None = None) -> Status:
    """Return what an effect says of a suggestion.

    Args:
        gained: The effect on what it should improve.
        took: The effect on the batch's time, where that is something else.
    """
    if took is not None:
        margin = _margin(took)
        if took.high < 1 / margin:
            return "harmful"
        if gained.verdict == "better" and took.low < 1 / margin:
            return "inconclusive"
    if gained.verdict == "better":
        return "proved"
    if gained.verdict == "worse":
        return "harmful"
    return "no gain" if gained.high <= 1 + WORTH else "inconclusive"


def _margin(took: Effect) -> float:
    """Return how many times longer a batch may take and count as no slower."""
    return 1 + NO_LOSS + min(took.noise_floor or 0.0, MOST_NOISE)


def _enough_s(effect: Effect, trials: Trials) -> float:
    """Return about how many seconds would decide: an interval narrows with the root of the number of blocks."""
    if not math.isfinite(effect.half_width):
        return 3 * trials.elapsed_s
    wanted = max(_HALF_WIDTH, abs(math.log(effect.ratio)) / 2)
    return trials.elapsed_s * max(1.5, (effect.half_width / wanted) ** 2)


def _recorded(
    judged: OptimizationSuggestion, runs: _Runs, trials: Trials, budget_s: float, data_dir: str | Path
) -> OptimizationSuggestion:
    parameters = {
        "suggestion": judged.to_dict(),
        "settings": runs.before.to_dict(),
        "workload": runs.batch.describe(),
        "budget_s": budget_s,
        "seed": trials.seed,
        "stopped_because": trials.stopped_because,
    }
    effects = [effect for effect in (judged.effect, *judged.side_effects.values()) if effect is not None]
    try:
        path = Store(Path(data_dir)).record(
            _frame(runs, trials), experiment=EXPERIMENT, host=read_host(), parameters=parameters, effects=effects
        )
    except RecordError as error:  # what was measured is worth more than its copy
        return replace(judged, note="; ".join(filter(None, (judged.note, f"not recorded: {error}"))))
    return replace(judged, evidence=str(path))


def _frame(runs: _Runs, trials: Trials) -> pd.DataFrame:
    """Return the trials with what each run cost."""
    tidy = trials.frame()
    return tidy.assign(**{name: [costs[name] for costs in runs.costs[: len(tidy)]] for name in _COSTS})


def _ending(one: TaskResult) -> str:
    if one.error is not None:
        return str(one.error)
    how = f"status {one.returncode}" if one.outcome == "failed" else one.outcome
    return f"{one.task.command!r} ({how})"
