"""Does it help commands to be pinned to CPUs, and what do they do otherwise?

For a command that is sensitive to its caches and one that is not, on a machine that is idle and on one where a child spins
for each CPU, all ways of pinning run interleaved: how many commands a second, how long single ones take, how often they
are moved and interrupted. And each kind of command is moved by force, to see what a move costs it here.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from procbench.cpu.placement import place
from procbench.cpu.topology import CpuTopology, allowed_cpus, parse_cpu_list, read_topology, usable_workers
from procbench.errors import InvalidInputError, RecordError
from procbench.experiments.affinity_children import Spinners, count_moves, move_by_force, run_on, spinning
from procbench.experiments.affinity_groups import (
    ALONE,
    CHECKSUM,
    CONTENDED,
    KINDS,
    NONE,
    SORT,
    STATES,
    Batch,
    Group,
    Policy,
    Sensitivity,
)
from procbench.experiments.affinity_outcome import AffinityResult
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress, Trials
from procbench.lab.trials import Condition, measure
from procbench.scheduling.settings import PINS, RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask

_MIN_BLOCKS: Final = 6
_MOST_BLOCKS: Final = 60
_WANTED_BLOCKS: Final = 12  # one of them to warm up
_FULL_TIMES: Final = 8
_PLANNED: Final = 0.9  # of the budget; the rest is for getting ready
_MOVING: Final = 0.04  # of it, for each kind of command that is moved by force
_COUNTING: Final = 0.2  # of a group's time
_MOST_COUNTED: Final = 24
_FEWEST_PER_WORKER: Final = 4
_MOST_PER_WORKER: Final = 100
_TIMES_AS_LONG: Final = {"idle": 1, CONTENDED: 2}  # half of the CPUs' time is the spinning children's

# GNU sort keeps about four times its text in memory, and begins to use threads with 128 Ki lines.
_LINE_BYTES: Final = 16
_LARGEST_TEXT: Final = {False: 256 << 10, True: 1536 << 10}
_SMALLEST_TEXT: Final = 64 << 10
_IN_MEMORY: Final = 4
_SMALL_FILE: Final = 16 << 10
_FIRST_TIMES: Final = 50
_MOST_TIMES: Final = 1500

_ENV: Final = {
    "LC_ALL": "C",
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
}  # one thread, as GNU's and uutils' sort read it


def run(
    *,
    budget_s: float = 25,
    workers: int = 0,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> AffinityResult:
    """Measure what pinning does to commands. Runs in the calling thread; Ctrl-C keeps the finished measurements.

    While it measures the contended machine, one child spins for each CPU that can be used. They are ended however it ends.

    Args:
        budget_s: Seconds for all of it.
        workers: Commands at a time; 0 is one for each CPU that can be used. With fewer, more ways of pinning differ.
        full: A larger text to sort, narrower intervals, and eight times the budget.
        data_dir: Where to record the run; empty or None not to. Where that fails the notes say so.
        seed: Draws the order.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each measurement.

    Raises:
        InvalidInputError: A number makes no sense, or sort, sha256sum or cat is not there; nothing has run then.
    """
    if not (math.isfinite(budget_s) and budget_s > 0 and isinstance(workers, int) and workers >= 0):
        raise InvalidInputError(f"budget_s is above 0, workers at least 0, and not {budget_s!r}, {workers!r}")
    if missing := [program for program in (*KINDS, "cat") if shutil.which(program) is None]:
        raise InvalidInputError(
            f"{' and '.join(missing)} is not on the PATH; it is among the commands that are measured"
        )
    deadline = time.monotonic() + _PLANNED * budget_s * (_FULL_TIMES if full else 1)
    host, topology, allowed = read_host(), read_topology(), allowed_cpus()
    workers = workers or usable_workers()
    policies = distinct_policies(workers, topology, allowed)
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="procbench-") as folder, ExitStack() as opened:
        bench = _Bench(Path(folder), policies, opened, full=full, seed=seed, on_progress=on_progress)
        bench.prepare(text_bytes(topology, full=full), deadline - time.monotonic())
        groups: list[Group] = []
        plans = [(kind, state) for kind in KINDS for state in STATES]
        for number, (kind, state) in enumerate(plans):
            left_s = (deadline - time.monotonic()) * (1 - _MOVING * len(KINDS))
            shares = sum(_TIMES_AS_LONG[other] for _, other in plans[number:])
            group, interrupted = bench.group(kind, state, max(0.2, left_s * _TIMES_AS_LONG[state] / shares))
            groups += [group] * bool(group.trials.blocks)
            if interrupted:
                break
        if not groups:  # struck by Ctrl-C before there was anything to keep
            raise KeyboardInterrupt
        in_force = {policy.name: commands_have(policy, workers) for policy in policies}
        sensitivity = [] if interrupted else bench.sensitivity(sorted(allowed), deadline)
        notes = bench.notes(groups, sensitivity)
    result = AffinityResult(
        groups=tuple(groups),
        sensitivity=tuple(sensitivity),
        policies=policies,
        in_force=in_force,
        workers=workers,
        host=host,
        warnings=noise_warnings(host),
        notes=notes,
        parameters={"budget_s": budget_s, "workers": workers, "full": full, "seed": seed},
    )
    if data_dir:
        try:
            result.record(data_dir)
        except RecordError as error:  # what was measured is worth more than its copy
            return replace(result, unrecorded=str(error))
    return result


def distinct_policies(workers: int, topology: CpuTopology, allowed: frozenset[int]) -> tuple[Policy, ...]:
    """Return the ways of pinning that give workers different CPU sets here, no pinning first.

    Workers are alike, so it does not matter which of them has which set.
    """
    found: dict[tuple[tuple[int, ...], ...], Policy] = {}
    for pin in (NONE, *(pin for pin in PINS if pin != NONE)):
        sets = (allowed,) * workers if pin == NONE else tuple(place(pin, workers, topology, allowed))
        key = tuple(sorted(tuple(sorted(cpus)) for cpus in sets))
        before = found.get(key)
        found[key] = Policy(pin, (), sets) if before is None else before._replace(same=(*before.same, pin))
    return tuple(found.values())


def text_bytes(topology: CpuTopology, *, full: bool) -> int:
    """Return how much text to sort: with what sort makes of it, one CPU's share of the last level cache, if not too much."""
    share = (topology.last_level_cache_bytes or math.inf) / len(topology.online or (0,))
    wanted = min(share / _IN_MEMORY, _LARGEST_TEXT[full])
    return max(_SMALLEST_TEXT, int(wanted) // _LINE_BYTES * _LINE_BYTES)


def commands_have(policy: Policy, workers: int) -> bool:
    """Return whether commands that a scheduler runs have exactly the CPUs of their worker, as they read it themselves."""
    with WorkStealingScheduler(RunSettings(workers=workers, pin=policy.name, capture=True)) as scheduler:
        results = list(scheduler.map([["cat", "/proc/self/status"]] * (4 * workers)))
    said = [
        (one.worker, line.split()[1]) for one in results for line in (one.stdout or b"").splitlines() if _CPUS in line
    ]
    return len(said) == len(results) and all(parse_cpu_list(text.decode()) == policy.sets[who] for who, text in said)


_CPUS: Final = b"Cpus_allowed_list:"


class _Bench:
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
        self.per_worker = _FEWEST_PER_WORKER
        self._order = random.Random(seed)  # noqa: S311 - an order that anyone may repeat
        self._folder, self._full, self._seed, self._on_progress = folder, full, seed, on_progress

    def prepare(self, size_bytes: int, left_s: float) -> None:
        """Write the files, make both kinds of command take about as long, and see how many fit into a trial."""
        draw = random.Random(1)  # noqa: S311 - any lines that are in no order
        text, small = self._folder / "lines", self._folder / "small"
        text.write_text("".join(f"{draw.getrandbits(60):015x}\n" for _ in range(size_bytes // _LINE_BYTES)))
        small.write_bytes(draw.randbytes(_SMALL_FILE))
        self.argv = {SORT: ["sort", str(text)], CHECKSUM: ["sha256sum", *[str(small)] * _FIRST_TIMES]}
        round_s = {kind: self._round_s(kind) for kind in KINDS}
        times = max(1, min(_MOST_TIMES, round(_FIRST_TIMES * round_s[SORT] / round_s[CHECKSUM])))
        self.argv[CHECKSUM] = ["sha256sum", *[str(small)] * times]
        # The baseline runs twice in a block; what the spinning children take is counted as time of its own.
        trials = _WANTED_BLOCKS * (len(self.policies) + 1) * len(KINDS) * sum(_TIMES_AS_LONG.values())
        trial_s = (1 - _COUNTING) * left_s / trials
        self.per_worker = max(_FEWEST_PER_WORKER, min(_MOST_PER_WORKER, int(trial_s / round_s[SORT])))

    def _round_s(self, kind: str) -> float:
        """Return the seconds in which every worker runs one command; the first batch brings files into the page cache."""
        count, times = _FEWEST_PER_WORKER * self.workers, []
        for _ in range(3):
            started = time.perf_counter()
            self._batch(kind, NONE, count)
            times.append((time.perf_counter() - started) / _FEWEST_PER_WORKER)
        return min(times)

    def _batch(self, kind: str, pin: str, count: int) -> Batch:
        tasks = (ProcessTask(self.argv[kind], env=self.env) for _ in range(count))
        results = list(self.schedulers[pin].map(tasks))
        return Batch(
            walls_s=tuple(one.wall_s for one in results),
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
                    kept = self._count(kind, migrations) and kept
                    if time.monotonic() > ends:
                        break
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

    def sensitivity(self, cpus: Sequence[int], deadline: float) -> list[Sensitivity]:
        """Move each kind of command to and fro between two CPUs, and compare its CPU time; nothing where that cannot be."""
        found: list[Sensitivity] = []
        ends = (cpus[0], cpus[-1])
        shown = run_on(cpus[:1], self.argv[SORT], self.env)
        if len(cpus) < 2 or not (math.isfinite(shown.cpu_s) and math.isfinite(shown.migrations)):
            return found
        for number, kind in enumerate(KINDS):
            share_s = max(0.2, (deadline - time.monotonic()) / (len(KINDS) - number))
            measured = partial(self._measure, baseline=ALONE, budget_s=share_s, larger_is_better=False)
            one = move_by_force(kind, self.argv[kind], self.env, ends, measured)
            found += [one] * bool(one.trials.blocks)
            if one.trials.stopped_because == "interrupted":
                break
        return found

    def notes(self, groups: Sequence[Group], sensitivity: Sequence[Sensitivity]) -> tuple[str, ...]:
        """Return what a reader should know."""
        text = Path(self.argv[SORT][1]).stat().st_size
        notes = [f"{kind}: {words}" for kind, words in KINDS.items()]
        notes.append(
            f"sort has {text >> 10} KiB of lines, sha256sum {_SMALL_FILE >> 10} KiB, {len(self.argv[CHECKSUM]) - 1} times; "
            f"{self.per_worker * self.workers} commands to a trial"
        )
        notes += [
            f"{policy.label}: the same CPU sets with {self.workers} workers here, so measured once"
            for policy in self.policies
            if policy.same
        ]
        notes += [
            f"{group.kind}, contended: {group.spinners} spinning children had {group.spinners_had:.2f} CPUs on average"
            for group in groups
            if group.state == CONTENDED
        ]
        if any(math.isnan(count) for group in groups for counts in group.migrations.values() for count in counts):
            notes.append("migrations: unknown, as this kernel shows no nr_migrations in /proc/<pid>/sched")
        if not sensitivity:
            notes.append(
                "the cost of a move: not measured, for want of a second CPU or of the kernel's figures, or of time"
            )
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
