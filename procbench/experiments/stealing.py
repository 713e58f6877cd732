"""How long does a batch of real commands take, by way of running it, by number of workers, and by shape of the batch?

The ways with as many workers as CPUs can be used, and procbench with other numbers of workers too, run interleaved in one
measurement; batches of known shape (:mod:`procbench.experiments.makespan`) in another.
"""

from __future__ import annotations

import math
import shlex
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from procbench.analysis.results import frame as results_frame
from procbench.cpu.topology import usable_workers
from procbench.errors import InvalidInputError, UnsupportedError
from procbench.experiments.makespan import measure_makespan
from procbench.experiments.makespan_outcome import Makespan
from procbench.experiments.stealing_outcome import Failure, StealingResult
from procbench.experiments.ways import PROCBENCH, USUAL, WAYS, Batch, RunBatch
from procbench.experiments.workload import Workload, read_workload, standard_library_workload
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress, Trials
from procbench.lab.trials import Condition, measure
from procbench.scheduling.task import TaskResult

if TYPE_CHECKING:
    import pandas as pd

_MIN_BLOCKS: Final = 6  # the fewest that have a 95 % interval
_FEWEST_PER_WORKER: Final = 12  # with fewer commands to a worker, the last one decides the time of the batch
_MAKESPAN: Final = 0.28  # of the budget is for batches of known shape
_PLANNED: Final = 0.55  # of what is left is for the fewest blocks, the rest for more of them and for noise
_PATIENCE: Final = 1.25  # times the budget, where a machine has slowed down since the trial run
_MOST_BLOCKS: Final = 50
_FULL_TIMES: Final = 8
_TRIAL_TASKS: Final = 120  # about a second of work on one worker, with all kinds and sizes of commands
_MOST_PER_WORKER: Final = 60
_FEWEST_COUNTS: Final = 3  # numbers of workers, for a curve


def run(
    *,
    workload: str | Path | None = None,
    workers: Sequence[int] | None = None,
    ways: Iterable[str] | None = None,
    tasks: int | None = None,
    budget_s: float = 80,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> StealingResult:
    """Measure how long a batch of commands takes. Runs in the calling thread; Ctrl-C keeps the finished blocks.

    Args:
        workload: A file of commands, one a line, quoted as for a shell. They are run dozens of times, several at a time,
            in the folder of their file and without their output being kept: they must bear that. Empty or None is
            :func:`procbench.experiments.workload.standard_library_workload`.
        workers: Numbers of workers for procbench's curve; 1 and the number of usable CPUs always belong to it. With fewer
            than three no law is fitted to them.
        ways: Names from :data:`procbench.experiments.ways.WAYS`; None for all. procbench and the usual way always belong
            to it. One that is not installed is left out, and the notes say so.
        tasks: Most commands in a batch of the default workload; a trial run decides how many of them fit into the budget.
            None or 0 is 60 for each CPU, at least 120. Commands of your own are always run whole.
        budget_s: Seconds planned for measuring; a machine that slows down meanwhile may take a quarter more, because
            fewer blocks would have no interval. At least one block is measured, whatever it takes.
        full: More numbers of workers, narrower intervals, and eight times the budget.
        data_dir: Where to record the run; empty or None not to. Where that fails the notes say so.
        seed: Draws files and order.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each of the two measurements.

    Raises:
        InvalidInputError: A number or a way makes no sense, the file of commands cannot be read, or a program in it is
            not there; nothing has run then.
    """
    if not (isinstance(tasks or 0, int) and (tasks or 0) >= 0 and math.isfinite(budget_s) and budget_s > 0):
        raise InvalidInputError(f"tasks is at least 1 and budget_s above 0, and not {tasks!r} and {budget_s!r}")
    begun, cpus, total_s = time.monotonic(), usable_workers(), budget_s * (_FULL_TIMES if full else 1)
    budget_s = (1 - _MAKESPAN) * total_s
    most = tasks or max(_TRIAL_TASKS, _MOST_PER_WORKER * cpus)
    counts = _worker_counts(cpus, workers, full=full)
    chosen, notes = _chosen_ways(ways)
    host = read_host()
    with tempfile.TemporaryDirectory(prefix="procbench-") as scratch, ExitStack() as opened:
        own = read_workload(workload) if workload else None
        batch = own or standard_library_workload(most, Path(scratch), seed=seed)
        recorder = _Recorder(batch.first(_TRIAL_TASKS) if own is None else batch)
        kinds = [(PROCBENCH, count) for count in counts] + [(way, cpus) for way in chosen if way != PROCBENCH]
        runs = {_name(*kind, cpus): opened.enter_context(WAYS[kind[0]].opened(kind[1], batch.folder)) for kind in kinds}
        alone_s, together_s = recorder.trial_runs(*(runs[_name(PROCBENCH, count, cpus)] for count in (1, cpus)))
        # The baseline runs twice, hence one more; more workers than CPUs are no faster.
        block_s = sum(max(alone_s / count, together_s) for count in [*(count for _, count in kinds), cpus])
        if own is None:
            wanted_s = _PLANNED * budget_s / (_MIN_BLOCKS + 1)
            block_s *= recorder.resize(batch, wanted_s / block_s, fewest=_FEWEST_PER_WORKER * cpus)
        blocks = max(1, min(_MOST_BLOCKS, int((budget_s - (time.monotonic() - begun)) / block_s) - 1))
        conditions = [
            Condition(name, recorder.timed(name, runs[name]), {"way": way, "workers": count})
            for (way, count), name in zip(kinds, runs, strict=True)
        ]
        left_s = max(0.1, _PATIENCE * budget_s - (time.monotonic() - begun))
        width = 0.01 if full else 0.02
        trials = _measured(conditions, _name(USUAL, cpus, cpus), blocks, width, left_s, seed, on_progress)
    if not trials.blocks:  # struck by Ctrl-C before there was anything to keep
        raise KeyboardInterrupt
    makespan, why = None, "interrupted before"
    if trials.stopped_because != "interrupted":
        makespan, why = _makespan(cpus, _MAKESPAN * total_s, width, seed, on_progress)
    result = StealingResult(
        batches=recorder.frame(trials),
        # A curve is no comparison of ways: its conditions have other numbers of workers than the baseline.
        effects=[one for one in trials.effects() if trials.factors[one.condition]["workers"] == cpus],
        trace=recorder.trace(trials, cpus),
        limits_s=recorder.limits_s(trials, counts, cpus),
        workers=cpus,
        tasks=len(recorder.batch.commands),
        workload=batch.name,
        trials=trials,
        makespan=makespan,
        host=host,
        warnings=noise_warnings(host),
        notes=(*batch.notes, *notes, *_too_few(trials), *_not_measured(why)),
        failures=recorder.failures(),
        parameters={"workload": str(workload or ""), "tasks": most, "budget_s": total_s, "full": full, "seed": seed},
    )
    return result.kept_in(data_dir)


def _measured(
    conditions: list[Condition],
    baseline: str,
    blocks: int,
    target_half_width: float,
    budget_s: float,
    seed: int,
    on_progress: Callable[[Progress], object] | None,
) -> Trials:
    return measure(
        conditions,
        baseline=baseline,
        larger_is_better=False,
        min_blocks=min(_MIN_BLOCKS, blocks),
        max_blocks=blocks,
        target_half_width=target_half_width,
        budget_s=budget_s,
        seed=seed,
        on_progress=on_progress,
    )


def _too_few(trials: Trials) -> list[str]:
    """Return a note where the blocks are too few for an interval."""
    if trials.blocks >= _MIN_BLOCKS:
        return []
    return [f"only {trials.blocks} blocks fitted into the budget; an interval needs {_MIN_BLOCKS}: raise budget_s"]


def _makespan(
    workers: int, budget_s: float, width: float, seed: int, on_progress: Callable[[Progress], object] | None
) -> tuple[Makespan | None, str]:
    """Return what batches of known shape took, or why they were not measured."""
    try:
        found = measure_makespan(workers, budget_s, width=width, seed=seed, on_progress=on_progress)
    except KeyboardInterrupt:  # while it got ready; what was measured before is kept
        found = None
    except UnsupportedError as error:
        return None, str(error)
    return found, "" if found else "interrupted"


def _not_measured(why: str) -> list[str]:
    return [f"batches of known shape: left out, {why}"] if why else []


class _Recorder:
    """Runs batches against the clock and keeps what procbench knows of each command."""

    def __init__(self, batch: Workload) -> None:
        self.batch = batch
        self._batches: list[tuple[str, Batch]] = []

    def trial_runs(self, alone: RunBatch, together: RunBatch) -> tuple[float, float]:
        """Return the seconds of a batch with one worker and with one for each CPU; nothing of them is kept."""
        # The first run brings programs and files into the page cache.
        _, alone_s, together_s = (self.timed("", run)() for run in (together, alone, together))
        self._batches.clear()
        return alone_s, together_s

    def resize(self, workload: Workload, times: float, *, fewest: int) -> float:
        """Make the batch that many times as large, as far as the workload goes; return what became of it."""
        before = len(self.batch.commands)
        self.batch = workload.first(max(int(before * times), fewest))
        return len(self.batch.commands) / before

    def timed(self, name: str, run: RunBatch) -> Callable[[], float]:
        """Return a trial."""

        def trial() -> float:
            commands = self.batch.commands
            started = time.perf_counter()
            batch = run(commands)
            seconds = time.perf_counter() - started
            self._batches.append((name, batch))
            return seconds

        return trial

    def frame(self, trials: Trials) -> pd.DataFrame:
        """Return the trials with the number of commands that failed. Trials run in the order of batches."""
        import pandas as pd

        tidy = trials.frame()
        failed = [batch.failed for _, batch in self._batches[: len(tidy)]]
        return tidy.assign(failed=pd.array(failed, dtype="Int64"))

    def _results(self, trials: Trials, name: str) -> list[tuple[float, tuple[TaskResult, ...]]]:
        """Return time and results of a condition's trials, without warm-up."""
        paired = zip(trials.trials, self._batches, strict=False)
        return [(one.value, batch.results) for one, (_, batch) in paired if one.condition == name and not one.warm_up]

    def limits_s(self, trials: Trials, counts: Iterable[int], cpus: int) -> dict[int, float]:
        """Return the limit for each number of workers, from the commands' times one at a time."""
        alone = [results for _, results in self._results(trials, _name(PROCBENCH, 1, cpus))]
        walls = [statistics.median(one.wall_s for one in runs) for runs in zip(*alone, strict=True)]
        return {count: _limit(walls, count, cpus) for count in counts}

    def trace(self, trials: Trials, cpus: int) -> pd.DataFrame:
        """Return the commands of the run whose time was the median, the lower one of two."""
        runs = sorted(self._results(trials, _name(PROCBENCH, cpus, cpus)), key=lambda run: run[0])
        results = runs[(len(runs) - 1) // 2][1] if runs else ()
        return results_frame(results).assign(program=[Path(result.task.command).name for result in results])

    def failures(self) -> tuple[Failure, ...]:
        """Return the commands that did not succeed."""
        failed = [r for _, batch in self._batches for r in batch.results if r.returncode != 0]
        times = Counter(result.task.id for result in failed)
        last = {result.task.id: result for result in failed}
        return tuple(
            Failure(shlex.join(map(str, one.task.argv)), one.returncode, times[number]) for number, one in last.items()
        )


def _limit(walls: Sequence[float], workers: int, cpus: int) -> float:
    return max(sum(walls) / min(workers, cpus), *walls) if walls else math.nan


def _name(way: str, workers: int, cpus: int) -> str:
    """Return a condition's name; the number of workers stands in it where it is not that of the comparison."""
    return way if workers == cpus else f"{way}, {workers} worker{'s' * (workers > 1)}"


def _worker_counts(cpus: int, wanted: Sequence[int] | None, *, full: bool) -> list[int]:
    """Return the numbers of workers for the curve: up to twice the CPUs, since commands wait for disks too."""
    if wanted is None:
        steps = 16 if full else 4
        wanted = [math.ceil(2 * cpus * step / steps) for step in range(1, steps + 1)]
        wanted += range(1, _FEWEST_COUNTS + 1) if cpus == 1 else ()
    if not all(isinstance(count, int) and count >= 1 for count in wanted):
        raise InvalidInputError(f"workers are whole numbers of at least 1, and not {list(wanted)!r}")
    return sorted({1, cpus, *wanted})


def _chosen_ways(wanted: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """Return the ways to measure, and notes about them."""
    names = set(WAYS if wanted is None else wanted)
    if unknown := names - set(WAYS):
        raise InvalidInputError(f"there is no way {', '.join(sorted(unknown))}; there are: {', '.join(WAYS)}")
    present, notes = [], []
    for name, way in WAYS.items():
        if name in names | {PROCBENCH, USUAL}:
            missing = way.missing()
            notes.append(f"{name}: left out, {missing}" if missing else f"{name}: {way.note}")
            present += [] if missing else [name]
    return present, notes
