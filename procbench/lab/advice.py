"""From a batch to answers: watch it run, ask the rules what might help, and prove the most promising of it.

This is the whole way that ``procbench prove``, the notebook and a program of one's own go.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from procbench.analysis.observed import Observed
from procbench.analysis.rules import analyze
from procbench.analysis.suggestions import AnalysisConfig, HostChange, OptimizationSuggestion, SettingsChange
from procbench.errors import HostChangeError, InvalidInputError, WorkloadError
from procbench.lab.batches import TaskBatch
from procbench.lab.proof import Proof, proof_of
from procbench.lab.proof_runs import check_succeeded
from procbench.lab.results import Progress
from procbench.monitoring.defaults import default_collectors
from procbench.monitoring.monitor import PerformanceMonitor
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import TaskResult

LOOKED_AT: Final = 2
"""Runs of a batch before it is judged: the first brings its programs and files into the page cache."""

TOGETHER: Final = "all together"
"""The rule of the suggestion that stands for all proved changes at once."""


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """One run of a batch.

    Attributes:
        results: One for each command.
        seconds: From handing in the first to the end of the last.
        observed: What the rules look at.
    """

    results: tuple[TaskResult, ...]
    seconds: float
    observed: Observed


@dataclass(frozen=True, slots=True)
class Advice:
    """What a batch showed, and what might make it better.

    Attributes:
        observed: The batch in numbers.
        suggestions: The most promising first.
        took_s: Seconds of the run that was looked at.
    """

    observed: Observed
    suggestions: tuple[OptimizationSuggestion, ...]
    took_s: float


def watched_run(batch: TaskBatch, settings: RunSettings) -> WatchedRun:
    """Run a batch once and put it into numbers. Output that is not captured goes to ``/dev/null``.

    The machine is looked at before and after, which tells all rates and holds nothing up.
    """
    quiet = settings if settings.capture else settings.changed(discard=True)
    monitor = PerformanceMonitor(collectors=default_collectors())
    monitor.sample()
    with WorkStealingScheduler(quiet) as scheduler:
        begun = time.perf_counter()
        results = tuple(scheduler.map(batch.tasks_for(quiet.args_per_task)))
        seconds = time.perf_counter() - begun
        monitor.sample()
        statistics = scheduler.statistics()
    monitor.stop()
    observed = Observed.of(
        results, settings, statistics=statistics, monitor_frame=monitor.series(), arguments=batch.arguments
    )
    return WatchedRun(results, seconds, observed)


def advise(batch: TaskBatch, settings: RunSettings, config: AnalysisConfig | None = None) -> Advice:
    """Run a batch twice as :func:`watched_run` does, and return what its second run suggests.

    Raises:
        WorkloadError: Commands do not succeed.
    """
    for _ in range(LOOKED_AT):
        run = watched_run(batch, settings)
        check_succeeded(run.results)
    return Advice(run.observed, tuple(analyze(run.observed, settings, config)), run.seconds)


def prove_first(
    suggestions: Sequence[OptimizationSuggestion],
    batch: TaskBatch,
    settings: RunSettings,
    *,
    budget_s: float,
    most: int = 3,
    only: str = "",
    data_dir: str | Path | None = None,
    seed: int = 0,
    allow_host_changes: bool = False,
    on_progress: Callable[[OptimizationSuggestion, Progress], object] | None = None,
) -> list[Proof]:
    """Prove the first suggestions, or the one that is named, and return all of them; the others stay ``unmeasured``.

    Each has an even share of what is left of the budget, so that one that is decided early leaves its time to the next. Ctrl-C
    ends it with what there is; before the first block has ended it is raised.

    Args:
        suggestions: The most promising first.
        batch: The tasks.
        settings: What they are run with now.
        budget_s: Seconds for all proofs.
        most: How many are proved.
        only: The rule of the one to prove; empty for the first ones.
        data_dir: As for :func:`procbench.lab.proof.prove`.
        seed: Draws the order of runs.
        allow_host_changes: Without it a change of the host is passed over, and its note says so.
        on_progress: Told which suggestion is being proved and how far that has come.

    Raises:
        InvalidInputError: A number makes no sense, or nothing was suggested under that name.
        WorkloadError: As it is, commands fail or do something else when they run again. What comes after a first proof is that
            suggestion's note instead, and the rest is left.
        HostChangeError: Likewise, the host could not be changed, or not be restored.
    """
    if not (math.isfinite(budget_s) and budget_s > 0 and most >= 1):
        raise InvalidInputError(f"budget_s is above 0 and most at least 1, and not {budget_s!r} and {most!r}")
    names = [one.rule for one in suggestions]
    if only and only not in names:
        raise InvalidInputError(
            f"nothing was suggested by the rule {only!r}; what was: {', '.join(names) or 'nothing'}"
        )
    found = [Proof(one) for one in suggestions]
    refused = "it changes the host, which was not allowed"
    wanted: list[int] = []
    for place, one in enumerate(suggestions):
        if (only and one.rule != only) or (not only and len(wanted) == most):
            continue
        if isinstance(one.change, HostChange) and not allow_host_changes:
            found[place] = Proof(one.noted(refused))
        else:
            wanted.append(place)
    ends_s = time.monotonic() + budget_s
    for done, place in enumerate(wanted):
        one = suggestions[place]
        try:
            found[place] = proof_of(
                one,
                batch,
                settings,
                budget_s=max(0.001, (ends_s - time.monotonic()) / (len(wanted) - done)),
                data_dir=data_dir,
                seed=seed,
                allow_host_changes=allow_host_changes,
                on_progress=None if on_progress is None else _told(on_progress, one),
            )
        except (WorkloadError, HostChangeError) as error:
            if not done:
                raise
            found[place] = Proof(one.noted(f"not measured: {error}"))
            break  # what was proved before is not lost for it
        except KeyboardInterrupt:
            if not done:
                raise
            break
        if found[place].interrupted:
            break
    return found


def _told(
    tell: Callable[[OptimizationSuggestion, Progress], object], one: OptimizationSuggestion
) -> Callable[[Progress], object]:
    return lambda progress: tell(one, progress)


def all_together(
    proved: Sequence[OptimizationSuggestion], settings: RunSettings
) -> tuple[OptimizationSuggestion | None, tuple[str, ...]]:
    """Return one suggestion of all proved changes at once, and why some of them are not in it.

    Args:
        proved: What was proved, in the order in which it is applied.
        settings: What the commands are run with now.

    Returns:
        The suggestion, whose rule is :data:`TOGETHER`, or None where nothing would change; and a note for each change that
        could not be applied beside those before it.
    """
    whole, notes = settings, list[str]()
    for one in proved:
        try:
            whole = one.apply(whole)
        except InvalidInputError as error:
            notes.append(f"{one.change}: not applied beside the others: {error}")
    old, new = settings.to_dict(), whole.to_dict()
    differ = [name for name in new if new[name] != old[name]]
    if not differ:
        return None, tuple(notes)
    suggestion = OptimizationSuggestion(
        rule=TOGETHER,
        category=proved[0].category,
        priority=proved[0].priority,
        description="each of these changes was proved by itself",
        why="Whether their gains add up is another question.",
        change=SettingsChange({name: new[name] for name in differ}, {name: old[name] for name in differ}),
    )
    return suggestion, tuple(notes)
