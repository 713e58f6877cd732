"""How long does a batch take against the least that it can, by the shape of the batch and by who hands out its commands?

Each command is real CPU work of a length that is calibrated first. All batches and ways run interleaved in one measurement,
and in each block every command runs alone too, one at a time, which says what the least is.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from procbench.experiments.makespan_outcome import (
    ALL,
    ALONE,
    LONGEST_LAST,
    SKEWED,
    UNIFORM,
    Makespan,
    Ran,
    condition,
)
from procbench.experiments.makespan_ways import STEALING, WAYS, RunTasks
from procbench.experiments.workload import CalibratedWork, calibrate
from procbench.lab.results import Progress
from procbench.lab.trials import Condition, measure
from procbench.scheduling.task import ProcessTask

TASKS_PER_WORKER: Final = 12
LONGEST_SHARE: Final = 0.8
"""What the longest command of a skewed batch takes, as a share of ``T1/P``: long enough to be waited for, if it comes late."""

_MIN_BLOCKS: Final = 6  # the fewest that have a 95 % interval
_MOST_BLOCKS: Final = 50
_PLANNED: Final = 0.6  # of the budget is for the fewest blocks, the rest for more of them and for noise
_BLOCK: Final = 17.0  # what the batches of a block take, in times of T1/P, and one more for each worker, alone
_LEAST_MEAN_S: Final = 0.002  # shorter commands are hardly more than their own start
_REPEATED: Final = 8  # times that a command runs alone of which a batch has many


def uniform(count: int, total_s: float) -> list[float]:
    """Return the lengths of commands that are all alike, seconds."""
    return [total_s / count] * count


def skewed(count: int, total_s: float, workers: int, longest_share: float = LONGEST_SHARE) -> list[float]:
    """Return Pareto-distributed lengths, seconds, ascending: the quantiles, so that every draw is as skewed as the next.

    The distribution's shape is chosen such that the longest takes ``longest_share`` of ``T1/P``.
    """
    low, high = 0.2, 50.0  # a smaller shape is more skewed; the share of the longest falls with it
    for _ in range(60):
        shape = (low + high) / 2
        lengths = [(1 - (place + 0.5) / count) ** (-1 / shape) for place in range(count)]
        if lengths[-1] * workers > longest_share * sum(lengths):
            low = shape
        else:
            high = shape
    return [total_s * length / sum(lengths) for length in lengths]


def longest_last(count: int, total_s: float, workers: int) -> list[float]:
    """Return lengths, seconds, of short commands and, handed in last, one that takes ``T1/P`` all by itself."""
    longest_s = total_s / max(workers, 2)
    return [(total_s - longest_s) / (count - 1)] * (count - 1) + [longest_s]


def measure_makespan(
    workers: int,
    budget_s: float,
    *,
    width: float = 0.02,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> Makespan | None:
    """Measure all shapes and ways with that many workers; ``None`` if Ctrl-C struck before there was anything to keep.

    Raises:
        UnsupportedError: ``dd``, which does the work, does not work here.
    """
    begun = time.monotonic()
    work = calibrate()
    count = TASKS_PER_WORKER * max(workers, 2)
    least_s = _PLANNED * budget_s / ((_MIN_BLOCKS + 1) * (_BLOCK + workers))
    total_s = max(workers * least_s, count * _LEAST_MEAN_S)
    lengths = {
        UNIFORM: uniform(count, total_s),
        SKEWED: skewed(count, total_s, workers),
        LONGEST_LAST: longest_last(count, total_s, workers),
    }
    with ExitStack() as opened:
        ways = {name: opened.enter_context(way(workers)) for name, way in WAYS.items()}
        bench = _Bench(lengths, work, opened.enter_context(WAYS[STEALING](1)), seed)
        bench.expect()
        conditions = [
            Condition(
                condition(shape, way), bench.trial(shape, way, run), {"shape": shape, "way": way, "workers": workers}
            )
            for shape in lengths
            for way, run in ways.items()
        ]
        conditions.append(Condition(condition(ALL, ALONE), bench.alone, {"shape": ALL, "way": ALONE, "workers": 1}))
        bench.per_block = len(conditions) + 1  # the baseline runs twice
        trials = measure(
            conditions,
            baseline=condition(SKEWED, STEALING),
            larger_is_better=False,
            min_blocks=_MIN_BLOCKS,
            max_blocks=_MOST_BLOCKS,
            target_half_width=width,
            budget_s=max(0.1, budget_s - (time.monotonic() - begun)),
            seed=seed,
            on_progress=on_progress,
        )
    if not trials.blocks:
        return None
    return Makespan(trials=trials, ran=tuple(bench.ran[: len(trials.trials)]), workers=workers, tasks=count)


class _Bench:
    """The batches, and how to run them.

    Attributes:
        per_block: Trials in a block; every one of a block has the batches' commands in the same order.
        ran: What is known of every trial, in order.
    """

    def __init__(
        self, lengths: Mapping[str, Sequence[float]], work: CalibratedWork, one_by_one: RunTasks, seed: int
    ) -> None:
        self._batches = {
            shape: [ProcessTask(work.command(seconds), id=place) for place, seconds in enumerate(each)]
            for shape, each in lengths.items()
        }
        # Those alike run a few times for all of them.
        self._distinct = [
            *((SKEWED, place) for place in range(len(lengths[SKEWED]))),
            *((UNIFORM, place) for place in range(_REPEATED)),
            *((LONGEST_LAST, place) for place in range(_REPEATED)),
            (LONGEST_LAST, len(lengths[LONGEST_LAST]) - 1),
        ]
        self._one_by_one = one_by_one
        self._seed = seed
        self.per_block = 1
        self.ran: list[Ran] = []

    def expect(self) -> None:
        """Run every command alone and expect it to take as long again."""
        self.alone()  # brings the program into the page cache
        self.alone()
        walls = self.ran[-1].walls_s
        for shape, tasks in self._batches.items():
            self._batches[shape] = [
                replace(task, expected_s=seconds) for task, seconds in zip(tasks, walls[shape], strict=True)
            ]
        self.ran.clear()

    def alone(self) -> float:
        """Run the commands one at a time, and return the seconds that they took."""
        batch = self._one_by_one([self._batches[shape][place] for shape, place in self._distinct])
        found = dict(zip(self._distinct, batch.walls_s, strict=True))
        walls = {}
        for shape, tasks in self._batches.items():
            own = [found[shape, place] for place in range(len(tasks)) if (shape, place) in found]
            alike = statistics.median(own[:_REPEATED])
            walls[shape] = [found.get((shape, place), alike) for place in range(len(tasks))]
        self.ran.append(Ran(batch.statuses, walls))
        return batch.seconds

    def trial(self, shape: str, way: str, run: RunTasks) -> Callable[[], float]:
        """Return a trial."""

        def trial() -> float:
            batch = run(self._in_order(shape))
            self.ran.append(Ran(batch.statuses))
            return batch.seconds

        return trial

    def _in_order(self, shape: str) -> list[ProcessTask]:
        """Return a batch's tasks; those of a skewed one in an order that is drawn for each block."""
        tasks = list(self._batches[shape])
        if shape == SKEWED:
            random.Random(f"{self._seed} {len(self.ran) // self.per_block}").shuffle(tasks)  # noqa: S311 - repeatable
        return tasks
