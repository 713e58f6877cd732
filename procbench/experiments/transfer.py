"""How fast do bytes get to a child and back, by transport, by size and by the size of the pipe?

Each size is a measurement of its own: all ways to move that much run interleaved, and each is compared with ``write``
through the same pipe, or with reading into fresh memory. The time runs from before the child starts until it has ended,
because that is what a task costs; so for small sizes it is the child's start that is seen.
"""

from __future__ import annotations

import functools
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from procbench.errors import InvalidInputError
from procbench.experiments.measuring import MIN_BLOCKS, measured_rates
from procbench.experiments.transfer_outcome import CAPTURED, FROM_CHILD, TO_CHILD, WRITE, Group, TransferResult
from procbench.experiments.transfer_ways import Ways, memcpy_gb_per_s
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress, Trials
from procbench.lab.trials import Condition

KIB: Final = 1024
MIB: Final = 1024 * KIB
QUICK_SIZES: Final = (4 * KIB, 64 * KIB, 512 * KIB, 4 * MIB, 32 * MIB)
FULL_SIZES: Final = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB)
_AT_SIZE: Final = 16 * MIB  # for comparing pipe sizes: many pipes full, and over soon
_FULL_TIMES: Final = 8


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

    Each way is tried once with 4 KiB first; one that does not work here is left out, and ``notes`` say which and why.

    The reader is dd(1), which reads 1 MiB at a time and drops it; the writer is dd too, which writes zeros 1 MiB at a time.
    Both are on every machine, and neither does anything else with the bytes.

    Args:
        budget_s: Seconds for measuring, shared out over sizes.
        largest_bytes: Leave out larger sizes; 0 leaves out none. Three times the largest size is taken in memory, by this
            process and its children together (measured with 256 MiB): when output is captured, a mapping that is used again
            and twice the output; when C sends, what Python sends, its sealed copy and C's own. A file that is received
            takes as much again in the folder for temporary files, which may be memory too.
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
    host = read_host()
    with tempfile.TemporaryDirectory(prefix="procbench-") as folder:
        ways = Ways(Path(folder))
        measured = functools.partial(measured_rates, full=full, seed=seed, on_progress=on_progress)
        groups = _groups(_plans(ways, sizes), budget_s * (_FULL_TIMES if full else 1), measured)
        if not groups:  # struck by Ctrl-C before there was anything to keep
            raise KeyboardInterrupt
        result = TransferResult(
            groups=tuple(groups),
            memcpy_gb_per_s=memcpy_gb_per_s(max(sizes)),
            right=ways.right(min(max(sizes), MIB)),
            host=host,
            warnings=noise_warnings(host),
            notes=_notes(ways, groups),
            parameters={"budget_s": budget_s, "largest_bytes": largest_bytes, "full": full, "seed": seed},
        )
    return result.kept_in(data_dir)


class _Plan(NamedTuple):
    """A group that is still to be measured; ``build`` makes what it moves, and the stack gives that back."""

    direction: str
    varied: str
    size_bytes: int
    baseline: str
    build: Callable[[int, ExitStack], list[Condition]]


def _plans(ways: Ways, sizes: list[int]) -> list[_Plan]:
    at_size = min(_AT_SIZE, max(sizes))
    return [
        *(_Plan(TO_CHILD, "size", size, WRITE, ways.to_child) for size in sizes),
        *(_Plan(FROM_CHILD, "size", size, CAPTURED, ways.from_child) for size in sizes),
        _Plan(TO_CHILD, "pipe", at_size, f"{WRITE}, 65536", ways.pipes_to_child),
        _Plan(FROM_CHILD, "pipe", at_size, f"{CAPTURED}, 65536", ways.pipes_from_child),
    ]


def _groups(
    plans: list[_Plan], budget_s: float, measured: Callable[[list[Condition], str, float], Trials]
) -> list[Group]:
    """Measure one plan after the other, what each moves given back before the next; Ctrl-C keeps the finished ones."""
    groups: list[Group] = []
    deadline = time.monotonic() + budget_s
    for number, plan in enumerate(plans):
        share_s = max(0.2, (deadline - time.monotonic()) / (len(plans) - number))
        try:
            with ExitStack() as held:
                trials = measured(plan.build(plan.size_bytes, held), plan.baseline, share_s)
                if trials.blocks:
                    groups.append(Group(plan.direction, plan.varied, plan.size_bytes, trials))
        except KeyboardInterrupt:  # while memory was filled or given back
            break
        if trials.stopped_because == "interrupted":
            break
    return groups


def _notes(ways: Ways, groups: list[Group]) -> tuple[str, ...]:
    notes = ["readers and writers are dd, 1 MiB at a time; each time holds the child's start and end"]
    notes += [f"{way}: left out, {why}" for way, why in ways.left_out.items()]
    short = [group.size_bytes for group in groups if group.trials.blocks < MIN_BLOCKS]
    if short:
        notes.append(f"too few blocks for an interval in {len(short)} of {len(groups)} comparisons: raise budget_s")
    return tuple(notes)
