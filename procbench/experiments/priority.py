"""What do nice values, policies, CPU limits and priorities really do to commands on this machine?

Five questions, each answered by real children: which share of a CPU a nice value gets, how late a policy lets a sleeper wake,
what the idle class gets beside a busy child, how exactly a CPU limit is kept, and how long a low task waits behind high ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from procbench.cpu.topology import allowed_cpus, usable_workers
from procbench.errors import InvalidInputError
from procbench.experiments.priority_outcome import PriorityResult
from procbench.experiments.priority_shares import (
    WINDOWS,
    LimitedShares,
    PairShares,
    measure_limits,
    measure_pairs,
)
from procbench.experiments.priority_waits import STREAM_S, measure_lateness, measure_starvation
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress

_FULL_TIMES: Final = 6

# What each part gets of the budget; the rest goes into starting children.
_PAIRS: Final = 0.38
_LATENESS: Final = 0.17
_LIMITS: Final = 0.3
_STARVATION: Final = 0.11
_PARTS: Final = 4

_AUTOGROUP: Final = Path("/proc/sys/kernel/sched_autogroup_enabled")


def run(
    *,
    budget_s: float = 25,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> PriorityResult:
    """Measure who gets how much of a CPU and who waits how long. Runs in the calling thread.

    Children are pinned to the CPUs that this process may use, a pair or one to each at a time, and keep them busy. They begin
    with this process's nice value, and only they are changed. However it ends, by Ctrl-C too, they are gone then; an
    interrupted run keeps nothing.

    Args:
        budget_s: Seconds for measuring, about.
        full: Six times the budget: longer windows, more repetitions.
        data_dir: Where to record the run; empty or None not to. Where that fails the notes say so.
        seed: Draws the order in which policies are measured.
        on_progress: Told after each part, with the parts as blocks.

    Raises:
        InvalidInputError: ``budget_s`` is not above 0; nothing has run then.
    """
    if isinstance(budget_s, bool) or not (math.isfinite(budget_s) and budget_s > 0):
        raise InvalidInputError(f"budget_s is above 0, and not {budget_s!r}")
    total_s, begun_s = budget_s * (_FULL_TIMES if full else 1), time.monotonic()
    host, cpus = read_host(), sorted(allowed_cpus())[: usable_workers()]

    def done(parts: int) -> None:
        if on_progress is not None:
            on_progress(Progress(parts, _PARTS, time.monotonic() - begun_s, total_s, ()))

    pairs: tuple[PairShares, ...] = tuple(one for some in measure_pairs(cpus, _PAIRS * total_s) for one in some)
    done(1)
    lateness, left_out = measure_lateness(cpus[-1], _LATENESS * total_s, seed)
    done(2)
    limits: tuple[LimitedShares, ...] = tuple(one for some in measure_limits(cpus, _LIMITS * total_s) for one in some)
    done(3)
    starvation = measure_starvation(max(1, round(_STARVATION * total_s / (2 * STREAM_S))))
    done(4)
    result = PriorityResult(
        pairs=tuple(sorted(pairs, key=lambda pair: -pair.expected)),
        lateness=lateness,
        left_out=left_out,
        limits=limits,
        starvation=starvation,
        host=host,
        warnings=noise_warnings(host),
        notes=_notes(pairs, limits),
        parameters={"budget_s": total_s, "full": full, "seed": seed},
    )
    return result.kept_in(data_dir)


def _notes(pairs: tuple[PairShares, ...], limits: tuple[LimitedShares, ...]) -> tuple[str, ...]:
    windows = ", ".join(f"{pair.name} {pair.window_s:.2g} s" for pair in reversed(pairs))
    notes = [
        f"{WINDOWS} windows each, one after the other, of: {windows}; under a CPU limit {limits[0].window_s:.2g} s",
        "sleepers ask for a timer slack of 1 ns; the usual 50 µs would come on top of their lateness, except as fifo",
    ]
    try:
        grouped = _AUTOGROUP.read_text().strip() == "1"
    except OSError:
        grouped = False
    if grouped:
        notes.append(
            "sched_autogroup_enabled is 1: nice values weigh within a session, and all children are in this one's"
        )
    if all(one.mechanism == "duty cycle" for one in limits):
        notes.append("cgroup: left out, this user may make none with a CPU quota below this process's own")
    return tuple(notes)
