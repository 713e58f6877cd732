"""What does watching a batch cost, and what is there to be seen?

Three questions: how much longer a batch of short commands takes when a monitor samples beside it, by how often it does; what one
look at everything costs, collector by collector and against a loop over psutil for the same facts; and what a monitor tells of a
batch of real commands while it runs.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from procbench.errors import InvalidInputError
from procbench.experiments.measuring import MIN_BLOCKS, Measuring
from procbench.experiments.monitoring_outcome import ALONE, MonitoringResult, every
from procbench.experiments.monitoring_watched import LiveBatch, ShortBatch, short_batch, watch_batch
from procbench.experiments.monitoring_ways import PSUTIL, Looks, mean_cpu_s
from procbench.experiments.workload import read_workload, standard_library_workload
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress, Trials
from procbench.lab.trials import Condition
from procbench.memory import checks

_LOOKS: Final = 2  # in a trial
_LOOKS_SHARE: Final = 0.25  # of the budget; batches get the rest
_SHORTEST_S, _LONGEST_S = 0.001, 60.0

_Measure = Callable[[list[Condition], str, float], Trials]


def run(
    *,
    budget_s: float = 10,
    tasks: int = 300,
    intervals_s: Sequence[float] = (0.1, 0.03, 0.01),
    workload: str | Path = "",
    watched_tasks: int = 60,
    watched_interval_s: float = 0.05,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> MonitoringResult:
    """Measure what watching costs, and watch a batch of real commands.

    Runs in the calling thread; no thread and no child is left. A run that Ctrl-C strikes keeps nothing.

    Args:
        budget_s: Seconds for measuring; at least one block of everything is measured, whatever it takes, and the batch that is
            watched comes on top.
        tasks: Commands (``true``) in a batch whose time is measured.
        intervals_s: Seconds between samples, from 0.001 to 60; all differ.
        workload: A file of commands, one a line, to be watched; empty for files of the standard library, compressed,
            checksummed and byte-compiled.
        watched_tasks: Commands in the batch that is watched, where ``workload`` names none.
        watched_interval_s: Seconds between the samples of that batch.
        full: Six times the budget, and narrower intervals.
        data_dir: Where to record the run; empty or None not to. Where that fails the notes say so.
        seed: Draws the order, and the files.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each measurement.

    Raises:
        InvalidInputError: A number makes no sense, or ``workload`` cannot be read; nothing has run then.
        TrialError: A batch or a look could not be had.
    """
    measuring = Measuring(larger_is_better=False, full=full, seed=seed, on_progress=on_progress)
    total_s = measuring.planned_s(budget_s)
    checks.whole("tasks", tasks, 1)
    checks.whole("watched_tasks", watched_tasks, 1)
    intervals = _intervals(intervals_s)
    _interval("watched_interval_s", watched_interval_s)
    begun_s, host = time.monotonic(), read_host()
    with tempfile.TemporaryDirectory(prefix="procbench-") as scratch:
        own = read_workload(Path(workload)) if workload else None
        live = watch_batch(
            own or standard_library_workload(watched_tasks, Path(scratch), seed=seed), watched_interval_s
        )
    watched_s = time.monotonic() - begun_s
    looks = _looked(_LOOKS_SHARE * total_s, measuring.measured)
    left_s = total_s - (time.monotonic() - begun_s - watched_s)
    slowed, batches = _slowed(tasks, intervals, left_s, measuring.measured)
    result = MonitoringResult(
        slowed=slowed,
        batches=tuple(batches),
        looks=looks,
        live=live,
        host=host,
        warnings=noise_warnings(host),
        notes=_notes(slowed, looks, batches, live),
        parameters={
            "budget_s": total_s,
            "tasks": tasks,
            "intervals_s": list(intervals),
            "workload": str(workload),
            "watched_tasks": watched_tasks,
            "watched_interval_s": watched_interval_s,
            "full": full,
            "seed": seed,
        },
    )
    return result.kept_in(data_dir)


def _interval(name: str, value: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not _SHORTEST_S <= value <= _LONGEST_S:
        raise InvalidInputError(f"{name} is seconds from {_SHORTEST_S:g} to {_LONGEST_S:g}, and not {value!r}")
    return float(value)


def _intervals(given: Sequence[float]) -> tuple[float, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise InvalidInputError(f"intervals_s is a list of seconds, at least one, and not {given!r}")
    found = tuple(_interval("each of intervals_s", value) for value in given)
    if len({every(value) for value in found}) < len(found):
        raise InvalidInputError(f"intervals_s must differ, and are {list(given)!r}")
    return found


def _looked(budget_s: float, measured: _Measure) -> Trials:
    """Measure one look, by way; a value is the mean of a trial's, in s of CPU time."""
    with Looks() as looks:
        conditions = [
            Condition(way, partial(mean_cpu_s, look, _LOOKS), {"way": way}) for way, look in looks.ways.items()
        ]
        return measured(conditions, PSUTIL, budget_s)


def _slowed(
    tasks: int, intervals: Sequence[float], budget_s: float, measured: _Measure
) -> tuple[Trials, list[ShortBatch]]:
    """Measure batches, watched and not; return the trials, in s, and how the batch of each of them went."""
    batches: list[ShortBatch] = []

    def trial(way: str, interval_s: float | None) -> float:
        batches.append(short_batch(way, interval_s, tasks))
        return batches[-1].wall_s

    ways = {ALONE: None, **{every(interval_s): interval_s for interval_s in intervals}}
    conditions = [
        Condition(way, partial(trial, way, interval_s), {"way": way, "interval_s": interval_s})
        for way, interval_s in ways.items()
    ]
    return measured(conditions, ALONE, budget_s), batches


def _notes(slowed: Trials, looks: Trials, batches: Sequence[ShortBatch], live: LiveBatch) -> tuple[str, ...]:
    notes = [
        f"a batch is {batches[0].tasks} times true; a trial of looks is {_LOOKS} of them, beside "
        f"{live.series('processes', 'count')['value'].max():g} processes at most",
        "a share of a CPU is the CPU time of the monitor's own threads; what it makes others wait for is in the batch's time",
    ]
    unseen = [batch.way for batch in batches if batch.interval_s is not None and not batch.samples]
    if unseen:
        watched = sum(batch.interval_s is not None for batch in batches)
        seldom = f"{len(unseen)} of {watched} watched batches were over before their next sample"
        notes.append(f"{seldom}: take more tasks or shorter intervals")
    if live.done < live.tasks:
        notes.append(f"{live.tasks - live.done} of {live.tasks} watched commands did not succeed")
    if late := sum(live.skipped.values()):
        notes.append(f"in the watched batch collectors were not asked at {late} ticks, because they were still busy")
    short = sum(trials.blocks < MIN_BLOCKS for trials in (slowed, looks))
    if short:
        notes.append(f"too few blocks for an interval in {short} of 2 measurements: raise budget_s")
    return tuple(notes)
