"""What does a descriptor cost that is kept instead of opened anew, what happens at the limit, and who forgot one?

Three questions: having a descriptor for a moment, by kind and way; a batch of real commands in an interpreter that may have
few descriptors, by what its settings say of that; and a program that forgets some, whose manager is asked who it was.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from procbench.errors import InvalidInputError
from procbench.experiments.descriptors_leaks import hunt
from procbench.experiments.descriptors_limit import SETTINGS, WAIT, Batch, LimitedInterpreter, least_limit
from procbench.experiments.descriptors_outcome import DescriptorsResult, Opening
from procbench.experiments.descriptors_ways import ANEW, Account, Openers
from procbench.experiments.measuring import MIN_BLOCKS, Measuring
from procbench.io.fd_held import KINDS, Kind
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress, Trials
from procbench.lab.trials import Condition
from procbench.memory import checks

_OPENINGS: Final = 300  # in a trial, some milliseconds
_OPENING_SHARE: Final = 0.2  # of the budget, for all kinds; batches get the rest


def run(
    *,
    budget_s: float = 12,
    tasks: int = 200,
    workers: int = 16,
    limit: int = 64,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> DescriptorsResult:
    """Measure what descriptors cost and what their limit does, and find some that were forgotten.

    Runs in the calling thread. This process's own limit is never changed: batches run in an interpreter of their own, which is
    gone however it ends. A run that Ctrl-C strikes keeps nothing.

    Args:
        budget_s: Seconds for measuring; at least one block of everything is measured, whatever it takes.
        tasks: Commands (``true``) in a batch.
        workers: How many of them run at a time.
        limit: Descriptors that the batches' interpreter may have, at least two for each worker and 16.
        full: Six times the budget, and narrower intervals.
        data_dir: Where to record the run; empty or None not to. Where that fails the notes say so.
        seed: Draws the order.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each measurement.

    Raises:
        InvalidInputError: A number makes no sense, or the kernel allows fewer descriptors than ``limit``; nothing has run then.
        TrialError: A batch's interpreter ended, or a descriptor could not be had.
    """
    measuring = Measuring(larger_is_better=False, full=full, seed=seed, on_progress=on_progress)
    total_s = measuring.planned_s(budget_s)
    checks.whole("tasks", tasks, 1)
    checks.whole("workers", workers, 1)
    checks.whole("limit", limit, least_limit(workers))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and limit > hard:
        raise InvalidInputError(f"limit is {limit}, and the kernel allows {hard} descriptors at most; name fewer")
    begun_s, host, measured = time.monotonic(), read_host(), measuring.measured
    with tempfile.NamedTemporaryFile(prefix="procbench-") as file:
        found = [_opening(kind, Path(file.name), _OPENING_SHARE * total_s / len(KINDS), measured) for kind in KINDS]
        leaks = hunt(Path(file.name))
    limited, batches = _limited(limit, workers, tasks, total_s - (time.monotonic() - begun_s), measured)
    result = DescriptorsResult(
        openings=tuple(opening for opening, _ in found),
        accounts=tuple(account for _, accounts in found for account in accounts),
        limited=limited,
        batches=tuple(batches),
        leaks=leaks,
        host=host,
        warnings=noise_warnings(host),
        notes=_notes([*(opening.trials for opening, _ in found), limited], batches, workers),
        parameters={
            "budget_s": total_s,
            "tasks": tasks,
            "workers": workers,
            "limit": limit,
            "full": full,
            "seed": seed,
        },
    )
    return result.kept_in(data_dir)


_Measure = Callable[[list[Condition], str, float], Trials]


def _opening(kind: Kind, file: Path, budget_s: float, measured: _Measure) -> tuple[Opening, list[Account]]:
    """Measure having one kind for a moment, by way; a value is the mean of a trial's, in ns."""
    with Openers(kind, file) as openers:
        conditions = [
            Condition(way, partial(_mean_ns, once), {"kind": kind, "way": way}) for way, once in openers.ways.items()
        ]
        trials = measured(conditions, ANEW, budget_s)
    return Opening(kind, trials), openers.accounts()


def _mean_ns(once: Callable[[], None]) -> float:
    begun = time.perf_counter_ns()
    for _ in range(_OPENINGS):
        once()
    return (time.perf_counter_ns() - begun) / _OPENINGS


def _limited(limit: int, workers: int, tasks: int, budget_s: float, measured: _Measure) -> tuple[Trials, list[Batch]]:
    """Measure batches at the limit, by setting; return the trials, in s, and how the batch of each of them went."""
    batches: list[Batch] = []
    with LimitedInterpreter(limit, workers, tasks) as interpreter:

        def trial(way: str) -> float:
            batches.append(interpreter.run(way))
            return batches[-1].wall_s

        conditions = [Condition(way, partial(trial, way), {"way": way}) for way in SETTINGS]
        trials = measured(conditions, WAIT, budget_s)
    return trials, batches


def _notes(measurements: list[Trials], batches: list[Batch], workers: int) -> tuple[str, ...]:
    first = batches[0]
    notes = [
        f"a trial has {_OPENINGS} descriptors, or pipes, one after the other; a batch is {first.tasks} times true, captured, by "
        f"{workers} workers with {first.limit} descriptors",
        "peaks are those seen from outside, every millisecond or so: a shorter one is missed",
    ]
    if not any(batch.refused for batch in batches):
        notes.append("no command was refused, with the budget or without: lower limit, or take more workers or tasks")
    if any(batch.peak is None for batch in batches):
        notes.append("what a batch had open is unknown: /proc does not say, or it was over before it was looked at")
    short = sum(trials.blocks < MIN_BLOCKS for trials in measurements)
    if short:
        notes.append(f"too few blocks for an interval in {short} of {len(measurements)} measurements: raise budget_s")
    return tuple(notes)
