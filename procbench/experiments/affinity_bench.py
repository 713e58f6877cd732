"""How the affinity experiment measures: the commands, a scheduler for each way of pinning, the spinning children."""

from __future__ import annotations

import contextlib
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from procbench.cpu.topology import usable_workers
from procbench.experiments.affinity_children import Spinners, count_moves, move_by_force, run_on, spinning
from procbench.experiments.affinity_groups import (
    ALONE,
    CHECKSUM,
    CONTENDED,
    IDLE,
    KINDS,
    NONE,
    SORT,
    Batch,
    Group,
    Policy,
    Sensitivity,
)
from procbench.lab.results import Progress, Trials
from procbench.lab.trials import Condition, measure
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask

TIMES_AS_LONG: Final = {IDLE: 1, CONTENDED: 2}
"""How long a batch takes: half of the CPUs' time is the spinning children's."""

LINE_BYTES: Final = 16
"""Of the text that is sorted."""

_MIN_BLOCKS: Final = 6
_MOST_BLOCKS: Final = 60
_WANTED_BLOCKS: Final = 18  # one of them to warm up; a machine that slows down meanwhile still has six
_COUNTING: Final = 0.2  # of a group's time
_MOST_COUNTED: Final = 24
_FEWEST: Final = 8  # commands in a trial
_FEWEST_PER_WORKER: Final = 2
_MANY_WORKERS: Final = 32
_MOST_PER_WORKER: Final = 100
_SMALL_FILE: Final = 16 << 10
_FIRST_TIMES: Final = 50
_MOST_TIMES: Final = 1500

# One thread, as GNU's and uutils' sort read it; lines compared as bytes.
_ENV: Final = {"LC_ALL": "C", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}


class Bench:
    """The commands, a scheduler for each way of pinning, and how they are measured."""

    def __init__(
        self,
        folder: Path,
        policies: Sequence[Policy],
        opened: ExitStack,
        *,
        full: bool,
        seed: int,
        on_progress: Callable[[Progress], object] | None,
    ) -> None:
        self.policies = policies
        self.workers = len(policies[0].sets)
        self.schedulers = {
            policy.name: opened.enter_context(
                WorkStealingScheduler(RunSettings(workers=self.workers, discard=True, pin=policy.name))
            )
            for policy in policies
        }
        self.env: Mapping[str, str] = os.environ | _ENV
        self.argv: dict[str, list[str]] = {}
        self.per_worker = max(_FEWEST_PER_WORKER, math.ceil(_FEWEST / self.workers))
        self._order = random.Random(seed)  # noqa: S311 - an order that anyone may repeat
        self._folder, self._full, self._seed, self._on_progress = folder, full, seed, on_progress

    def prepare(self, size_bytes: int, left_s: float) -> None:
        """Write the files, make both kinds of command take about as long, and see how many fit into a trial."""
        draw = random.Random(1)  # noqa: S311 - any lines that are in no order
        text, small = self._folder / "lines", self._folder / "small"
        text.write_text("".join(f"{draw.getrandbits(60):015x}\n" for _ in range(size_bytes // LINE_BYTES)))
        small.write_bytes(draw.randbytes(_SMALL_FILE))
        self.argv = {SORT: ["sort", str(text)], CHECKSUM: ["sha256sum", *[str(small)] * _FIRST_TIMES]}
        round_s, sort_cpu_s = self._costs(SORT)
        _, first_cpu_s = self._costs(CHECKSUM)
        times = max(1, min(_MOST_TIMES, round(_FIRST_TIMES * sort_cpu_s / first_cpu_s)))
        self.argv[CHECKSUM] = ["sha256sum", *[str(small)] * times]
        # The baseline runs twice in a block; what the spinning children take is counted as time of its own.
        trials = _WANTED_BLOCKS * (len(self.policies) + 1) * len(KINDS) * sum(TIMES_AS_LONG.values())
        trial_s = (1 - _COUNTING) * left_s / trials
        self.per_worker = max(self.per_worker, min(_MOST_PER_WORKER, int(trial_s / round_s)))

    def _costs(self, kind: str) -> tuple[float, float]:
        """Return the seconds in which every worker runs one command, and the CPU time of a command.

        The first batch brings files into the page cache. CPU time tells how long a command is, whatever else the machine does.
        """
        walls, cpu_s = [], []
        for _ in range(3):
            started = time.perf_counter()
            batch = self._batch(kind, NONE, self.per_worker * self.workers)
            walls.append((time.perf_counter() - started) / self.per_worker)
            cpu_s.append(batch.cpu_s / len(batch.walls_s))
        return statistics.median(walls), statistics.median(cpu_s)

    def _batch(self, kind: str, pin: str, count: int) -> Batch:
        tasks = (ProcessTask(self.argv[kind], env=self.env) for _ in range(count))
        results = list(self.schedulers[pin].map(tasks))
        return Batch(
            walls_s=tuple(one.wall_s for one in results),
            cpu_s=sum(one.user_s + one.system_s for one in results),
            voluntary_switches=sum(one.voluntary_switches for one in results),
            involuntary_switches=sum(one.involuntary_switches for one in results),
            failed=sum(one.returncode != 0 for one in results),
        )

    def group(self, kind: str, state: str, share_s: float) -> tuple[Group, bool]:
        """Measure all ways of pinning and count moves; return it, and whether Ctrl-C struck."""
        batches: list[Batch] = []
        count = self.per_worker * self.workers

        def timed(pin: str) -> Callable[[], float]:
            def trial() -> float:
                started = time.perf_counter()
                batch = self._batch(kind, pin, count)
                rate = count / (time.perf_counter() - started)
                batches.append(batch)
                return rate

            return trial

        ends = time.monotonic() + share_s
        migrations: dict[str, list[float]] = {policy.name: [] for policy in self.policies}
        spinners = spinning(usable_workers()) if state == CONTENDED else contextlib.nullcontext(Spinners())
        kept = True
        with spinners as children:
            conditions = [Condition(one.name, timed(one.name), {"pin": one.name}) for one in self.policies]
            timing_s = (1 - _COUNTING) * share_s
            trials = self._measure(conditions, baseline=NONE, budget_s=timing_s, larger_is_better=True)
            interrupted = trials.stopped_because == "interrupted"
            try:
                while not interrupted and len(migrations[NONE]) < _MOST_COUNTED:
                    if len(migrations[NONE]) >= _MIN_BLOCKS and time.monotonic() > ends:
                        break
                    kept = self._count(kind, migrations) and kept
            except KeyboardInterrupt:
                interrupted = True
        return Group(
            kind=kind,
            state=state,
            trials=trials,
            batches=tuple(batches[: len(trials.trials)]),
            migrations={pin: tuple(values) for pin, values in migrations.items()},
            kept=kept,
            spinners=len(children.children),
            spinners_ran=children.all_ran,
            spinners_had=children.cpus_had,
        ), interrupted

    def _count(self, kind: str, migrations: Mapping[str, list[float]]) -> bool:
        """Run a batch by each way of pinning to count its moves; return whether all commands kept to their CPUs."""
        commands, kept = [self.argv[kind]] * (max(2, self.per_worker // 2) * self.workers), True
        for policy in self._order.sample(self.policies, len(self.policies)):
            pins = [None] * self.workers if policy.name == NONE else policy.sets
            found = count_moves(commands, pins, self.env)
            migrations[policy.name].append(sum(one.migrations for _, one in found) / len(found))
            kept = kept and all(one.last_cpu in policy.sets[who] and one.returncode == 0 for who, one in found)
        return kept

    def sensitivity(self, cpus: Sequence[int], share_s: float) -> tuple[Sensitivity, ...]:
        """Move each kind of command to and fro between two CPUs, and compare its CPU time; nothing where that cannot be.

        Raises:
            KeyboardInterrupt: Ctrl-C struck.
        """
        shown = run_on(cpus[:1], self.argv[SORT], self.env)
        if len(cpus) < 2 or not (math.isfinite(shown.cpu_s) and math.isfinite(shown.migrations)):
            return ()
        found = []
        measured = partial(self._measure, baseline=ALONE, budget_s=max(0.2, share_s), larger_is_better=False)
        for kind in KINDS:
            one = move_by_force(kind, self.argv[kind], self.env, (cpus[0], cpus[-1]), measured)
            if one.trials.stopped_because == "interrupted":
                raise KeyboardInterrupt
            found.append(one)
        return tuple(found)

    def notes(self, groups: Sequence[Group], sensitivity: Sequence[Sensitivity]) -> tuple[str, ...]:
        """Return what a reader should know."""
        text = Path(self.argv[SORT][1]).stat().st_size
        notes = [f"{kind}: {words}" for kind, words in KINDS.items()]
        notes.append(
            f"sort has {text >> 10} KiB of lines, sha256sum {_SMALL_FILE >> 10} KiB, {len(self.argv[CHECKSUM]) - 1} times; "
            f"{self.per_worker * self.workers} commands to a trial"
        )
        notes += [
            f"{policy.label}: the same CPU sets with {self.workers} worker{'s' * (self.workers > 1)} here, so measured once"
            for policy in self.policies
            if policy.same
        ]
        notes += [
            f"{group.kind}, contended: spinning children ({group.spinners}) had {group.spinners_had:.2f} CPUs on average"
            for group in groups
            if group.state == CONTENDED
        ]
        if any(math.isnan(count) for group in groups for counts in group.migrations.values() for count in counts):
            notes.append("migrations: unknown, as this kernel shows no nr_migrations in /proc/<pid>/sched")
        if self.workers >= _MANY_WORKERS:
            notes.append(f"with {self.workers} workers, starting commands may be the limit, whatever their CPUs")
        if not sensitivity:
            notes.append("the cost of a move: not measured, for want of a second CPU or of the kernel's figures")
        short = sum(group.trials.blocks < _MIN_BLOCKS for group in groups)
        if short:
            notes.append(f"too few blocks for an interval in {short} of {len(groups)} measurements: raise budget_s")
        return tuple(notes)

    def _measure(
        self, conditions: Sequence[Condition], *, baseline: str, budget_s: float, larger_is_better: bool
    ) -> Trials:
        return measure(
            conditions,
            baseline=baseline,
            larger_is_better=larger_is_better,
            min_blocks=_MIN_BLOCKS,
            max_blocks=_MOST_BLOCKS,
            target_half_width=0.01 if self._full else 0.02,
            budget_s=budget_s,
            seed=self._seed,
            on_progress=self._on_progress,
        )
