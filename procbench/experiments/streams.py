"""How is children's output best read in an event loop, by size of the buffer and pipe, by batch, and by way of reading?

Ways are compared at several numbers of children that write the same bytes in all; sizes with one child, in a loop and in a
scheduler. The best pair of sizes is then measured a second time, against the defaults alone: the best of many is partly
the luckiest, so that only new values can prove it.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from procbench import linux
from procbench.errors import InvalidInputError, ProcbenchError, RecordError
from procbench.experiments import streams_peers as peers
from procbench.experiments import streams_ways as ours
from procbench.experiments.measuring import MIN_BLOCKS, measured_rates
from procbench.experiments.streams_outcome import (
    ASYNCIO,
    BATCHES,
    CHILDREN,
    DEFAULTS,
    LINES,
    LOOP,
    READ,
    SCHEDULER,
    C,
    Group,
    Sizes,
    StreamsResult,
)
from procbench.experiments.streams_ways import Job, Loops, Reading, Way
from procbench.experiments.words import size_text
from procbench.io.io_pools import BufferSizes, IoPool
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress, Trials
from procbench.lab.trials import Condition
from procbench.scheduling.settings import RunSettings

KIB: Final = 1024
MIB: Final = 1024 * KIB
BUFFERS: Final = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB)
PIPES: Final = (64 * KIB, 256 * KIB, MIB)
BATCH_LENGTHS: Final = (1, 4, 16, 64)
CHILDREN_AT_ONCE: Final = (1, 8, 64)
ALL_WAYS_AT: Final = 8
LINE_LENGTHS: Final = (20, 80, 1000)

_FULL_TIMES: Final = 8
_LEAST_S: Final = 0.1
_POOLED: Final = 1024  # buffers, for 64 children with a batch each; memory that is not used costs nothing

# How long a block of each takes, against the others.
_WEIGHTS: Final[Mapping[str, float]] = {LOOP: 3.5, SCHEDULER: 2.0, BATCHES: 1.5, CHILDREN: 3.5, LINES: 1.5}
_PROOF_WEIGHT: Final = 1.0


def run(
    *,
    budget_s: float = 15,
    total_bytes: int = 0,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> StreamsResult:
    """Measure how children's output is read. May be called where an event loop runs; Ctrl-C keeps the finished measurements.

    Loops run in a thread of their own. Each way is tried once with little output first; one that does not work here is left
    out, and ``notes`` say which and why. The children are dd, which writes zeros, and cat, which writes lines.

    Args:
        budget_s: Seconds for measuring, shared out over the measurements.
        total_bytes: What children write in a trial, all together, at least 64 KiB; 0 is 16 MiB, 64 MiB with ``full``. A
            trial of lines has one line for each 512 bytes of it. Ways that keep the output take as much in memory.
        full: More output, narrower intervals, and eight times the budget.
        data_dir: Where to record the run; empty or None not to. Where that fails the notes say so.
        seed: Draws the order.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each measurement.

    Raises:
        InvalidInputError: A number makes no sense, or dd or cat is not there; nothing has run then.
    """
    if not (math.isfinite(budget_s) and budget_s > 0 and isinstance(total_bytes, int)):
        raise InvalidInputError(f"budget_s is above 0, total_bytes whole, and not {budget_s!r}, {total_bytes!r}")
    if total_bytes and total_bytes < 64 * KIB:
        raise InvalidInputError(f"total_bytes is {total_bytes}; it must be 0 or at least {64 * KIB}, for 64 children")
    if missing := [program for program in ("dd", "cat") if shutil.which(program) is None]:
        raise InvalidInputError(f"{' and '.join(missing)} is not on the PATH; it is the child that writes")
    host, total = read_host(), total_bytes or (64 if full else 16) * MIB
    measured = partial(measured_rates, full=full, seed=seed, on_progress=on_progress)
    with tempfile.TemporaryDirectory(prefix="procbench-") as folder, ExitStack() as held:
        bench = _Bench(Path(folder), total, held)
        groups = _groups(bench.plans(), budget_s * (_FULL_TIMES if full else 1), measured)
    if not groups:  # struck by Ctrl-C before there was anything to keep
        raise KeyboardInterrupt
    result = StreamsResult(
        groups=tuple(groups),
        host=host,
        warnings=noise_warnings(host),
        notes=_notes(bench, groups, total),
        parameters={"budget_s": budget_s, "total_bytes": total_bytes, "full": full, "seed": seed},
    )
    if data_dir:
        try:
            result.record(data_dir)
        except RecordError as error:  # what was measured is worth more than its copy
            return replace(result, unrecorded=str(error))
    return result


class _Plan(NamedTuple):
    """A measurement that is still to be made: its ways, with what distinguishes each, by name; the first is the baseline."""

    varied: str
    job: Job
    ways: Mapping[str, tuple[Way, Mapping[str, Any]]]
    line_bytes: int = 0
    proof: Callable[[Sizes], Way] | None = None

    @property
    def weight(self) -> float:
        return _WEIGHTS[self.varied] + (_PROOF_WEIGHT if self.proof else 0)

    def proving(self, sizes: Sizes) -> _Plan:
        """Return the measurement of these sizes against the defaults alone."""
        assert self.proof is not None  # noqa: S101 - asked for only where there is one
        return self._replace(ways=_by_sizes(self.proof, [DEFAULTS, sizes]), proof=None)


class _Bench:
    """The ways that work on this machine, each tried once when this is made, and what there is to measure with them.

    Attributes:
        left_out: By way, why it is left out. procbench's and asyncio's never are.
    """

    def __init__(self, folder: Path, total_bytes: int, held: ExitStack) -> None:
        self._folder = folder
        self._total_bytes = total_bytes
        self._loops = loops = held.enter_context(Loops())
        self._pools = {pipe: IoPool("streams", BufferSizes(pipe=_asked(pipe)), buffers=_POOLED) for pipe in PIPES}
        for pool in self._pools.values():
            held.callback(pool.close)
        self._program = ours.limit_program(folder)
        self.left_out = {} if self._program else {C: "there is no compiler that builds the program"}
        pool = self._pools[PIPES[0]]
        limit = {C: ours.in_c(self._program)} if self._program else {}
        ways: dict[str, Way] = {
            ASYNCIO: loops.way(peers.asyncio_read),
            READ: loops.way(ours.read),
            "read_into": loops.way(ours.read_into),
            "batch_read": loops.way(partial(ours.batch_read, pool=pool)),
            "communicate": loops.way(ours.communicate),
            "asyncio, communicate": loops.way(peers.asyncio_communicate),
            "threads, Popen": peers.in_threads(peers.threads_read),
            "threads, subprocess.run": peers.in_threads(peers.threads_run),
            **peers.foreign_ways(loops),
            **limit,
        }
        self.left_out |= {way: "it is not installed" for way in peers.FOREIGN if way not in ways}
        self._ways = {name: way for name, way in ways.items() if self._works(name, way)}

    def _works(self, name: str, way: Way) -> bool:
        try:
            job = ours.writing(64 * KIB)
            if way(job).size_bytes == job.each_bytes:
                return True
            self.left_out[name] = "it did not read every byte"
        except (ProcbenchError, OSError) as error:
            self.left_out[name] = str(getattr(error, "strerror", None) or error)
        return False

    def plans(self) -> list[_Plan]:
        """Return what is measured, in this order: last what takes longest, which gets the time that others did not need."""
        one = ours.writing(self._total_bytes)
        pairs = [Sizes(buffer, pipe) for buffer in BUFFERS for pipe in PIPES]
        large = [sizes for sizes in pairs if sizes.buffer >= DEFAULTS.buffer]
        limits = self._limits([Sizes(buffer, MIB) for buffer in BUFFERS])
        return [
            self._children(ALL_WAYS_AT),
            _Plan(LOOP, one, _by_sizes(self._in_loop, pairs) | limits, proof=self._in_loop),
            _Plan(SCHEDULER, one, _by_sizes(_in_scheduler, large), proof=_in_scheduler),
            _Plan(BATCHES, one, self._batches() | self._limits([Sizes(DEFAULTS.buffer, MIB)], batch=0)),
            *(self._lines(length) for length in LINE_LENGTHS),
            *(self._children(children) for children in CHILDREN_AT_ONCE if children != ALL_WAYS_AT),
        ]

    def _children(self, children: int) -> _Plan:
        chosen = (ASYNCIO, READ, "batch_read", "threads, Popen", C)
        ways = {
            name: (way, {"way": name}) for name, way in self._ways.items() if children == ALL_WAYS_AT or name in chosen
        }
        return _Plan(CHILDREN, ours.writing(self._total_bytes, children), ways)

    def _in_loop(self, sizes: Sizes) -> Way:
        return self._loops.way(partial(ours.read, sizes=sizes.buffer_sizes()))

    def _batches(self) -> dict[str, tuple[Way, Mapping[str, Any]]]:
        return {
            f"{count} buffers, pipe {size_text(pipe)}": (
                self._loops.way(partial(ours.batch_read, pool=self._pools[pipe], count=count)),
                {"way": "batch_read", "batch": count, "pipe_size_bytes": pipe},
            )
            for pipe in (PIPES[0], PIPES[-1])
            for count in BATCH_LENGTHS
        }

    def _limits(self, pairs: list[Sizes], **factors: Any) -> dict[str, tuple[Way, Mapping[str, Any]]]:
        program = self._program
        if program is None:
            return {}
        return _by_sizes(lambda sizes: ours.in_c(program, sizes.buffer, sizes.pipe), pairs, way=C, **factors)

    def _lines(self, length: int) -> _Plan:
        ways: dict[str, Way] = {
            "asyncio, readline": self._loops.way(peers.asyncio_readline),
            "lines": self._loops.way(ours.lines),
            "thread, for line": peers.in_threads(peers.threads_lines),
        }
        if self._program:
            ways[C] = ours.in_c(self._program, by_line=True)
        job = ours.printing(self._folder, max(1, self._total_bytes // 512), length)
        return _Plan(LINES, job, {name: (way, {"way": name}) for name, way in ways.items()}, length)


def _by_sizes(
    make: Callable[[Sizes], Way], pairs: list[Sizes], **factors: Any
) -> dict[str, tuple[Way, Mapping[str, Any]]]:
    """Return a way with each pair of sizes, by name, the defaults first."""
    ordered = sorted(pairs, key=lambda sizes: sizes != DEFAULTS)
    before = f"{factors['way']}, " if factors else ""
    return {
        f"{before}{sizes}": (
            make(sizes),
            {"way": READ, "buffer_size_bytes": sizes.buffer, "pipe_size_bytes": sizes.pipe, **factors},
        )
        for sizes in ordered
    }


def _in_scheduler(sizes: Sizes) -> Way:
    return ours.captured(RunSettings(**sizes.settings()))


def _asked(pipe: int) -> int | None:
    return None if pipe == ours.KERNELS_PIPE else pipe


def _groups(
    plans: list[_Plan], budget_s: float, measured: Callable[[list[Condition], str, float], Trials]
) -> list[Group]:
    """Make one measurement after the other; Ctrl-C keeps the finished ones."""
    groups: list[Group] = []
    left = sum(plan.weight for plan in plans)
    deadline = time.monotonic() + budget_s
    waiting: list[tuple[_Plan, Sizes | None]] = [(plan, None) for plan in plans]
    while waiting:
        plan, proves = waiting.pop(0)
        weight = _PROOF_WEIGHT if proves else _WEIGHTS[plan.varied]
        share_s = max(_LEAST_S, (deadline - time.monotonic()) * weight / left)
        left -= weight
        group = _measure(plan, share_s, measured, proves)
        if group.trials.blocks:
            groups.append(group)
        if group.trials.stopped_because == "interrupted":
            break
        if plan.proof is not None:
            waiting.insert(0, (plan.proving(group.best()), group.best()))
    return groups


def _measure(
    plan: _Plan,
    budget_s: float,
    measured: Callable[[list[Condition], str, float], Trials],
    proves: Sizes | None,
) -> Group:
    readings: list[Reading] = []
    amount = plan.job.children * plan.job.each_bytes / (plan.line_bytes or 1e9)

    def trial(way: Way) -> float:
        readings.append(way(plan.job))
        return amount / readings[-1].wall_s

    conditions = [Condition(name, partial(trial, way), factors) for name, (way, factors) in plan.ways.items()]
    trials = measured(conditions, conditions[0].name, budget_s)
    # Trials are in the order in which they ran; those of a block that was not finished are not among them.
    return Group(plan.varied, plan.job, trials, tuple(readings[: len(trials.trials)]), plan.line_bytes, proves)


def _notes(bench: _Bench, groups: list[Group], total_bytes: int) -> tuple[str, ...]:
    notes = [f"children write {size_text(total_bytes)} in a trial; each time holds their start and end"]
    notes += [f"{way}: left out, {why}" for way, why in bench.left_out.items()]
    largest = _largest_pipe()
    if largest < max(PIPES):
        notes.append(f"a pipe holds no more than {size_text(largest)} here, whatever is asked for")
    short = sum(group.trials.blocks < MIN_BLOCKS for group in groups)
    if short:
        notes.append(f"too few blocks for an interval in {short} of {len(groups)} comparisons: raise budget_s")
    return tuple(notes)


def _largest_pipe() -> int:
    """Return what a pipe holds for which the largest of the sizes was asked."""
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        return linux.resize_pipe(ends[0], max(PIPES))
    finally:
        for end in ends:
            os.close(end)
