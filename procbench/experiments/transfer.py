"""How fast do bytes get to a child and back, by transport, by size and by the size of the pipe?

Each size is a measurement of its own: all ways to move that much run interleaved, and each is compared with ``write``
through the same pipe, or with reading into fresh memory. The time runs from before the child starts until it has ended,
because that is what a task costs; so for small sizes it is the child's start that is seen.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from procbench import linux
from procbench.errors import InvalidInputError, RecordError
from procbench.experiments.transfer_outcome import FROM_CHILD, TO_CHILD, Group, TransferResult
from procbench.io.process import run as run_command
from procbench.io.spawn import Child, end_at_once, spawn
from procbench.io.streams import CAPTURE
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress, Trials
from procbench.lab.trials import Condition, measure
from procbench.memory.mapping import MemoryMapping
from procbench.memory.transfer import receive
from procbench.memory.transports import PIPE_BYTES, Transport

KIB: Final = 1024
MIB: Final = 1024 * KIB
QUICK_SIZES: Final = (4 * KIB, 64 * KIB, 512 * KIB, 4 * MIB, 32 * MIB)
FULL_SIZES: Final = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB)
PIPE_SIZES: Final = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB)
_AT_SIZE: Final = 16 * MIB  # for comparing pipe sizes: many pipes full, and over soon
_MEMORY_WAYS: Final[tuple[Transport, ...]] = ("write", "vmsplice")
_FILE_WAYS: Final[tuple[Transport, ...]] = ("splice", "sendfile", "memfd_stdin")
_MIN_BLOCKS: Final = 6
_MOST_BLOCKS: Final = 40
_FULL_TIMES: Final = 8
_COPIES: Final = 9
_COPIED_BYTES: Final = 64 * MIB


def limit_program(folder: Path) -> str | None:
    """Build the C program that makes the same system calls; ``None`` where there is no compiler, or a libc without them."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    program, source = folder / "transfer", Path(__file__).with_name("transfer.c")
    built = subprocess.run([compiler, "-O2", "-o", program, source], check=False, capture_output=True)
    return str(program) if built.returncode == 0 else None


def run(
    *,
    budget_s: float = 24,
    largest_bytes: int = 0,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> TransferResult:
    """Measure how fast bytes move. Runs in the calling thread; Ctrl-C keeps the finished sizes.

    The reader is dd(1), which reads 1 MiB at a time and drops it; the writer is dd too, which writes zeros 1 MiB at a time.
    Both are on every machine, and neither does anything else with the bytes.

    Args:
        budget_s: Seconds for measuring, shared out over sizes.
        largest_bytes: Leave out larger sizes; 0 leaves out none. Three times as much memory is taken.
        full: Sizes up to 1 GiB, narrower intervals, and eight times the budget.
        data_dir: Where to record the run; empty or None not to. Where that fails the notes say so.
        seed: Draws the order.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each size.

    Raises:
        InvalidInputError: A number makes no sense, or dd is not there; nothing has run then.
    """
    if not (math.isfinite(budget_s) and budget_s > 0 and isinstance(largest_bytes, int) and largest_bytes >= 0):
        raise InvalidInputError(
            f"budget_s is above 0, largest_bytes at least 0, and not {budget_s!r}, {largest_bytes!r}"
        )
    if shutil.which("dd") is None:
        raise InvalidInputError("dd is not on the PATH; it is the child that reads and writes")
    sizes = [size for size in (FULL_SIZES if full else QUICK_SIZES) if not largest_bytes or size <= largest_bytes]
    if not sizes:
        raise InvalidInputError(f"largest_bytes is {largest_bytes}; the smallest size is {min(QUICK_SIZES)}")
    at_size = min(_AT_SIZE, max(sizes))
    host = read_host()
    with tempfile.TemporaryDirectory(prefix="procbench-") as folder, ExitStack() as opened:
        bench = _Bench(Path(folder), max(sizes), opened)
        plans = [
            *((f"{size} to child", TO_CHILD, "size", size, "write", bench.to_child(size)) for size in sizes),
            *((f"{size} from child", FROM_CHILD, "size", size, "captured", bench.from_child(size)) for size in sizes),
            ("pipes to child", TO_CHILD, "pipe", at_size, "write, 65536", bench.pipes_to_child(at_size)),
            ("pipes from child", FROM_CHILD, "pipe", at_size, "captured, 65536", bench.pipes_from_child(at_size)),
        ]
        measured = functools.partial(_measured, full=full, seed=seed, on_progress=on_progress)
        groups, deadline = [], time.monotonic() + budget_s * (_FULL_TIMES if full else 1)
        for number, (_, direction, varied, size, baseline, conditions) in enumerate(plans):
            share_s = max(0.2, (deadline - time.monotonic()) / (len(plans) - number))
            trials = measured(conditions, baseline, share_s)
            if trials.blocks:
                groups.append(Group(direction, varied, size, trials))
            if trials.stopped_because == "interrupted":
                break
        if not groups:  # struck by Ctrl-C before there was anything to keep
            raise KeyboardInterrupt
        result = TransferResult(
            groups=tuple(groups),
            memcpy_gb_per_s=bench.memcpy_gb_per_s(),
            right=bench.right(min(at_size, MIB)),
            host=host,
            warnings=noise_warnings(host),
            notes=bench.notes(groups),
            parameters={"budget_s": budget_s, "largest_bytes": largest_bytes, "full": full, "seed": seed},
        )
    if data_dir:
        try:
            result.record(data_dir)
        except RecordError as error:  # what was measured is worth more than its copy
            return replace(result, unrecorded=str(error))
    return result


def _measured(
    conditions: list[Condition],
    baseline: str,
    budget_s: float,
    *,
    full: bool,
    seed: int,
    on_progress: Callable[[Progress], object] | None,
) -> Trials:
    return measure(
        conditions,
        baseline=baseline,
        larger_is_better=True,
        min_blocks=_MIN_BLOCKS,
        max_blocks=_MOST_BLOCKS,
        target_half_width=0.02 if full else 0.05,
        budget_s=budget_s,
        seed=seed,
        on_progress=on_progress,
    )


class _Bench:
    """What is moved, and the ways to move it; every way returns GB/s."""

    def __init__(self, folder: Path, largest: int, opened: ExitStack) -> None:
        self.program = limit_program(folder)
        self.file = folder / "received"
        block = random.Random(1).randbytes(min(largest, MIB))  # noqa: S311 - any bytes that are not all the same
        self.memory = opened.enter_context(MemoryMapping.anonymous(largest, huge_pages=True))
        with self.memory.writing() as view:
            for start in range(0, largest, len(block)):
                view[start : start + len(block)] = block[: largest - start]
        self.target = opened.enter_context(MemoryMapping.anonymous(largest, huge_pages=True, populate=True))

    def source(self, transport: Transport, size: int) -> MemoryMapping:
        return self.memory[:size].snapshot() if transport in _FILE_WAYS else self.memory[:size]

    def to_child(self, size: int) -> list[Condition]:
        """Return every transport through a pipe of 1 MiB, where there is one, and the limit in C."""
        conditions = [
            Condition(way, self._sending(way, size, PIPE_BYTES), {"way": way, "pipe_size_bytes": PIPE_BYTES})
            for way in (*_MEMORY_WAYS, *_FILE_WAYS)
        ]
        return conditions + self._limits("send", ("vmsplice", "memfd"), size, _reader())

    def from_child(self, size: int) -> list[Condition]:
        """Return every place that a child's output can be put, and the limit in C."""
        ways: dict[str, Callable[[], MemoryMapping | Path | None]] = {
            "growing mapping": lambda: None,
            "reused mapping": lambda: self.target[:size],
            "file": lambda: self.file,
        }
        factors = {"pipe_size_bytes": PIPE_BYTES}
        conditions = [Condition("captured", self._capturing(size, PIPE_BYTES), {"way": "captured", **factors})]
        conditions += [
            Condition(way, self._receiving(into, size), {"way": way, **factors}) for way, into in ways.items()
        ]
        return conditions + self._limits("receive", ("reused",), size, _writer(size))

    def pipes_to_child(self, size: int) -> list[Condition]:
        return [
            Condition(f"{way}, {pipe}", self._sending(way, size, pipe), {"way": way, "pipe_size_bytes": pipe})
            for way in _MEMORY_WAYS
            for pipe in PIPE_SIZES
        ]

    def pipes_from_child(self, size: int) -> list[Condition]:
        return [
            Condition(f"captured, {pipe}", self._capturing(size, pipe), {"way": "captured", "pipe_size_bytes": pipe})
            for pipe in PIPE_SIZES
        ]

    def memcpy_gb_per_s(self) -> float:
        """Return how fast this machine copies memory into memory: the median of a few copies."""
        size = min(_COPIED_BYTES, len(self.memory))
        rates = []
        with self.memory[:size].reading() as source, self.target[:size].writing() as target:
            for _ in range(_COPIES):
                started = time.perf_counter()
                target[:] = source
                rates.append(_rate(size, started))
        return sorted(rates)[_COPIES // 2]

    def right(self, size: int) -> dict[str, bool]:
        """Return of every transport whether a child got the right bytes, by the checksum that it made of them."""
        want = hashlib.sha256(self.memory[:size].tobytes()).hexdigest().encode()
        code = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
        found: dict[str, bool] = {}
        for way in (*_MEMORY_WAYS, *_FILE_WAYS):
            with self.source(way, size) as source:
                argv = [sys.executable, "-c", code]
                result = run_command(argv, input=source, stdout=CAPTURE, transport=way, pipe_size_bytes=PIPE_BYTES)
            found[way] = result.stdout is not None and result.stdout.strip() == want
        return found

    def notes(self, groups: list[Group]) -> tuple[str, ...]:
        notes = ["readers and writers are dd, 1 MiB at a time; each time holds the child's start and end"]
        if self.program is None:
            notes.append("C: left out, there is no compiler that builds the program")
        short = [group.size_bytes for group in groups if group.trials.blocks < _MIN_BLOCKS]
        if short:
            notes.append(f"too few blocks for an interval in {len(short)} of {len(groups)} comparisons: raise budget_s")
        return tuple(notes)

    def _sending(self, way: Transport, size: int, pipe: int) -> Callable[[], float]:
        source, argv = self.source(way, size), _reader()

        def trial() -> float:
            started = time.perf_counter()
            result = run_command(argv, input=source, transport=way, pipe_size_bytes=pipe, check=True)
            rate = _rate(size, started)
            if result.transport != way:
                raise InvalidInputError(f"{way} is not to be had on this machine: {result.transport_fallback}")
            return rate

        return trial

    def _capturing(self, size: int, pipe: int) -> Callable[[], float]:
        argv = _writer(size)

        def trial() -> float:
            started = time.perf_counter()
            result = run_command(argv, stdout=CAPTURE, pipe_size_bytes=pipe, check=True)
            rate = _rate(size, started)
            return rate if result.stdout_bytes == size else math.nan

        return trial

    def _receiving(self, into: Callable[[], MemoryMapping | Path | None], size: int) -> Callable[[], float]:
        argv = _writer(size)

        def trial() -> float:
            children: list[Child] = []
            started = time.perf_counter()
            try:
                received = receive(lambda fd: children.append(spawn(argv, stdout=fd)), into())
                os.waitid(os.P_PID, children[0].pid, os.WEXITED | os.WNOWAIT)
                rate = _rate(size, started)
            finally:  # reaped only here, so that Ctrl-C at any moment ends this child and nobody else's
                for child in children:
                    end_at_once(child.pid)
                    linux.close_now(child.pidfd)
            return rate if received.kept_bytes == received.total_bytes == size else math.nan

        return trial

    def _limits(self, verb: str, ways: tuple[str, ...], size: int, argv: list[str]) -> list[Condition]:
        program = self.program
        if program is None:
            return []

        def trial(way: str) -> float:
            result = run_command([program, verb, way, str(size), *argv], stdout=CAPTURE, check=True)
            return size / float(result.stdout or b"nan") / 1e9

        factors = {"pipe_size_bytes": PIPE_BYTES}
        return [Condition(f"C, {way}", functools.partial(trial, way), {"way": f"C, {way}", **factors}) for way in ways]


def _rate(size: int, started: float) -> float:
    return size / (time.perf_counter() - started) / 1e9


def _reader() -> list[str]:
    return [shutil.which("dd") or "dd", "of=/dev/null", f"bs={MIB}", "status=none"]


def _writer(size: int) -> list[str]:
    block = min(size, MIB)
    return [shutil.which("dd") or "dd", "if=/dev/zero", f"bs={block}", f"count={size // block}", "status=none"]
