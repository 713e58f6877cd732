"""Does it help commands to be pinned to CPUs, and what do they do otherwise?

For a command that is sensitive to its caches and one that is not, on a machine that is idle and on one where a child spins
for each CPU, all ways of pinning run interleaved: how many commands a second, how long single ones take, how often they
are moved and interrupted. And each kind of command is moved by force, to see what a move costs it here.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from procbench.cpu.placement import PLACEMENT_POLICIES, place
from procbench.cpu.topology import CpuTopology, allowed_cpus, parse_cpu_list, read_topology, usable_workers
from procbench.errors import InvalidInputError
from procbench.experiments.affinity_bench import LINE_BYTES, TIMES_AS_LONG, Bench
from procbench.experiments.affinity_groups import KINDS, NONE, STATES, Group, Policy
from procbench.experiments.affinity_outcome import AffinityResult
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler

_FULL_TIMES: Final = 8
_PLANNED: Final = 0.85  # of the budget; the rest is for what comes before and after
_MOVING: Final = 0.04  # of it, for each kind of command that is moved by force

# The more workers, the longer commands must be, or starting them is the limit.
_QUICK_TEXT_PER_WORKER: Final = 64 << 10
_LEAST_QUICK_TEXT: Final = 256 << 10
_LARGEST_TEXT: Final = 1536 << 10  # GNU sort begins to use threads with 128 Ki lines, which are 2 MiB here
_SMALLEST_TEXT: Final = 64 << 10
_IN_MEMORY: Final = 4  # times its text is what GNU sort keeps in memory

_CPUS: Final = b"Cpus_allowed_list:"


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
    planned_s = _PLANNED * budget_s * (_FULL_TIMES if full else 1)
    deadline = time.monotonic() + planned_s
    host, topology, allowed = read_host(), read_topology(), allowed_cpus()
    workers = workers or usable_workers()
    policies = distinct_policies(workers, topology, allowed)
    with tempfile.TemporaryDirectory(prefix="procbench-") as folder, ExitStack() as opened:
        bench = Bench(Path(folder), policies, opened, full=full, seed=seed, on_progress=on_progress)
        bench.prepare(text_bytes(topology, workers, full=full), deadline - time.monotonic())
        sensitivity = bench.sensitivity(sorted(allowed), _MOVING * planned_s)
        groups: list[Group] = []
        plans = [(kind, state) for kind in KINDS for state in STATES]
        for number, (kind, state) in enumerate(plans):
            share = TIMES_AS_LONG[state] / sum(TIMES_AS_LONG[other] for _, other in plans[number:])
            group, interrupted = bench.group(kind, state, max(0.2, share * (deadline - time.monotonic())))
            groups += [group] * bool(group.trials.blocks)
            if interrupted:
                break
        if not groups:  # struck by Ctrl-C before there was anything to keep
            raise KeyboardInterrupt
        in_force = {policy.name: commands_have(policy, workers) for policy in policies}
        notes = bench.notes(groups, sensitivity)
    result = AffinityResult(
        groups=tuple(groups),
        sensitivity=sensitivity,
        policies=policies,
        in_force=in_force,
        workers=workers,
        host=host,
        warnings=noise_warnings(host),
        notes=notes,
        parameters={"budget_s": budget_s, "workers": workers, "full": full, "seed": seed},
    )
    return result.kept_in(data_dir)


def distinct_policies(workers: int, topology: CpuTopology, allowed: frozenset[int]) -> tuple[Policy, ...]:
    """Return the ways of pinning that give workers different CPU sets here, no pinning first.

    Workers are alike, so it does not matter which of them has which set.
    """
    found: dict[tuple[tuple[int, ...], ...], Policy] = {}
    for pin in sorted(PLACEMENT_POLICIES, key=lambda policy: policy != NONE):
        sets = place(pin, workers, topology, allowed)
        key = tuple(sorted(tuple(sorted(cpus)) for cpus in sets))
        before = found.get(key)
        found[key] = Policy(pin, (), sets) if before is None else before._replace(same=(*before.same, pin))
    return tuple(found.values())


def text_bytes(topology: CpuTopology, workers: int, *, full: bool) -> int:
    """Return how much text to sort: with what sort makes of it, one CPU's share of the last level cache, if not too much."""
    shares = [cache.size_bytes / len(cache.cpus) for cache in (topology.caches or ())[:1] if cache.size_bytes]
    quick = max(_LEAST_QUICK_TEXT, _QUICK_TEXT_PER_WORKER * workers)
    wanted = min([_LARGEST_TEXT, *([] if full else [quick]), *(share / _IN_MEMORY for share in shares)])
    return max(_SMALLEST_TEXT, int(wanted) // LINE_BYTES * LINE_BYTES)


def commands_have(policy: Policy, workers: int) -> bool:
    """Return whether commands that a scheduler runs have exactly the CPUs of their worker, as they read it themselves."""
    with WorkStealingScheduler(RunSettings(workers=workers, pin=policy.name, capture=True)) as scheduler:
        results = list(scheduler.map([["cat", "/proc/self/status"]] * (4 * workers)))
    said = [
        (one.worker, line.split()[1]) for one in results for line in (one.stdout or b"").splitlines() if _CPUS in line
    ]
    return len(said) == len(results) and all(parse_cpu_list(text.decode()) == policy.sets[who] for who, text in said)
