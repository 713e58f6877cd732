"""A person's batch, run with and without a change again and again, and what each run cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from procbench.analysis.observed import most_memory_bytes
from procbench.analysis.suggestions import HostChange
from procbench.errors import WorkloadError
from procbench.lab.batches import TaskBatch, outcome_hash
from procbench.lab.host_change import changed_host
from procbench.lab.results import Trials
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import TaskResult

if TYPE_CHECKING:
    import pandas as pd

COSTS: Final = ("cpu_s", "memory_bytes", "latency_s")
"""What is kept of a run besides its time: CPU time of its commands, most memory at a time, its slowest commands' time."""

_KEPT_BYTES: Final = 64 * 1024  # of each command's output, to tell whether it does the same again


class ChangedBatchError(WorkloadError):
    """Commands fail with the change only."""


@dataclass(slots=True)
class ProofRuns:
    """Runs a batch in both ways, and keeps what each run cost.

    Attributes:
        costs: Time, CPU time, memory and slowest commands' time of each measured run, by condition, one per block.
        block_s: Seconds that a block of both and A/A takes, going by the first runs.
    """

    batch: TaskBatch
    before: RunSettings
    after: RunSettings
    host: HostChange | None
    costs: dict[str, list[dict[str, float]]] = field(default_factory=dict)
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
            if changed and (said := not_succeeded(results)):
                return f"with the change {said}"
            check_succeeded(results)
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

    def trial(self, condition: str, *, changed: bool) -> Callable[[], float]:
        """Return a trial, which keeps under the condition's name what it cost."""

        def run() -> float:
            results, seconds = self._run(changed)
            statuses = [one.returncode for one in results]
            if statuses != self.statuses[changed]:
                place = next(i for i, status in enumerate(statuses) if status != self.statuses[changed][i])
                said = f"command {place} of {len(statuses)}, {_ending(results[place])}, had {self.statuses[changed][place]}"
                raise (ChangedBatchError if changed else WorkloadError)(f"{said} before")
            walls = sorted(one.wall_s for one in results)
            self.costs.setdefault(condition, []).append(
                {
                    "wall_s": seconds,
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

    def values(self, condition: str, cost: str, blocks: int) -> list[float]:
        """Return what a condition's runs cost, one per finished block."""
        return [costs[cost] for costs in self.costs[condition][:blocks]]

    def frame(self, trials: Trials) -> pd.DataFrame:
        """Return the trials with what each run cost."""
        costs = [self.costs[one.condition][one.block] for one in trials.trials]
        return trials.frame().assign(**{name: [one[name] for one in costs] for name in COSTS})


def check_succeeded(results: Sequence[TaskResult]) -> None:
    """Raise unless all commands of a batch succeeded.

    Raises:
        WorkloadError: They did not; it says how many, and how the first of them ended.
    """
    if said := not_succeeded(results):
        raise WorkloadError(f"{said}; make them succeed before they are measured")


def not_succeeded(results: Sequence[TaskResult]) -> str:
    """Return how many commands did not succeed and how the first of them ended; nothing where all did."""
    failed = [one for one in results if one.outcome != "succeeded"]
    if not failed:
        return ""
    return f"{len(failed)} of {len(results)} commands do not succeed, the first of them {_ending(failed[0])}"


def _ending(one: TaskResult) -> str:
    if one.error is not None:
        return str(one.error)
    how = f"status {one.returncode}" if one.outcome == "failed" else one.outcome
    return f"{one.task.command!r} ({how})"
