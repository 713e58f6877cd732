"""Who gets how much of a CPU: a pair of spinning children of unlike weight, and one child alone under a CPU limit.

What is counted is CPU time, by the kernel's own clock of each process, over windows that follow one another without a gap.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from procbench.cpu.cpu_limit import CpuLimiter
from procbench.cpu.priority import ProcessPriorityManager
from procbench.experiments.priority_children import Child, Children

WINDOWS: Final = 6
"""Windows for each condition, as few as have an interval."""

NICES: Final = (0, 5, 10, 15, 19)

LIMITS: Final = (0.25, 0.5)

IDLE: Final = "policy idle"

IDLE_WEIGHT: Final = 3

# From nice -20 to 19; each step is about a tenth of the CPU, 1.25 times the weight.
# Source: sched_prio_to_weight and WEIGHT_IDLEPRIO in the kernel's kernel/sched/core.c and kernel/sched/sched.h.
_WEIGHTS: Final = (
    *(88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916),
    *(9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991, 1586, 1277),
    *(1024, 820, 655, 526, 423, 335, 272, 215, 172, 137),
    *(110, 87, 70, 56, 45, 36, 29, 23, 18, 15),
)

# A child of weight 15 beside one of 1024 gets a slice of some 3 ms about every 200 ms, so that its share needs a longer look.
_RELATIVE_WINDOWS: Final = {0: 0.25, 5: 0.33, 10: 0.42, 15: 0.7, 19: 1.0}
_IDLE_WINDOW: Final = 1.0
_SETTLE_S: Final = 0.05
_SHORTEST_S: Final = 0.1


def weight(nice: int) -> int:
    """Return the weight that the kernel gives a process of this nice value."""
    return _WEIGHTS[nice + 20]


def nice_name(nice: int) -> str:
    """Return what the pair with a child of this nice value is called."""
    return f"nice {nice}"


@dataclass(frozen=True, slots=True)
class PairShares:
    """What the second of two spinning children on one CPU got.

    Attributes:
        name: Such as ``nice 10`` or ``idle``.
        nice: Its nice value; None for the policy ``idle``.
        expected: Its share by the kernel's weights, 0 to 1.
        window_s: Seconds of one window.
        cpus: CPUs that it had, by window.
        first_cpus: CPUs that the first child had, by window.
    """

    name: str
    nice: int | None
    expected: float
    window_s: float
    cpus: tuple[float, ...]
    first_cpus: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LimitedShares:
    """What a spinning child got under a CPU limit.

    Attributes:
        mechanism: What kept it to the limit.
        limit: CPUs that it was allowed.
        window_s: Seconds of one window.
        cpus: CPUs that it had, by window.
    """

    mechanism: str
    limit: float
    window_s: float
    cpus: tuple[float, ...]

    @property
    def name(self) -> str:
        """What the condition is called."""
        return f"{self.mechanism}, {self.limit:g}"


def measure_pairs(cpus: Sequence[int], budget_s: float) -> Iterator[tuple[PairShares, ...]]:
    """Measure what a child gets beside one of this process's nice value, by its own: a pair for each CPU at a time.

    Args:
        cpus: Logical CPUs to use.
        budget_s: Seconds for all of it, about.
    """
    own = os.getpriority(os.PRIO_PROCESS, 0)
    kinds: list[tuple[str, int | None, float]] = [(IDLE, None, _IDLE_WINDOW)]
    # Where this process is niced already, so are its children, and an ordinary user cannot make them less nice.
    levels = [nice for nice in reversed(NICES) if nice > own]
    kinds += [(nice_name(nice), nice, _RELATIVE_WINDOWS[nice]) for nice in levels]
    kinds.append((nice_name(own), own, _RELATIVE_WINDOWS[0]))
    rounds = [kinds[start : start + len(cpus)] for start in range(0, len(kinds), len(cpus))]
    unit_s = budget_s / sum(max(length for _, _, length in kinds_now) for kinds_now in rounds) / WINDOWS
    for kinds_now in rounds:
        window_s = max(_SHORTEST_S, unit_s * max(length for _, _, length in kinds_now))
        with ProcessPriorityManager() as manager, Children() as children:
            pairs = []
            for (_, nice, _), cpu in zip(kinds_now, cpus, strict=False):
                second = children.spinning(cpu)  # first, because alone it needs no patience
                if nice is None:
                    manager.set(second.pid, policy="idle")
                elif nice != own:
                    manager.set(second.pid, nice=nice)
                pairs.append((children.spinning(cpu), second))
            used = _windows([child for pair in pairs for child in pair], window_s)
        found = []
        for (name, nice, _), first, second_cpus in zip(kinds_now, used[::2], used[1::2], strict=True):
            its_weight = IDLE_WEIGHT if nice is None else weight(nice)
            expected = its_weight / (its_weight + weight(own))
            found.append(PairShares(name, nice, expected, window_s, second_cpus, first))
        yield tuple(found)


def measure_limits(cpus: Sequence[int], budget_s: float) -> Iterator[tuple[LimitedShares, ...]]:
    """Measure what a child really gets under each limit, by each mechanism: one for each CPU at a time."""
    kinds = list(itertools.product(_mechanisms(), LIMITS))
    rounds = [kinds[start : start + len(cpus)] for start in range(0, len(kinds), len(cpus))]
    # Whole periods of a quota (0.1 s): what a part of one holds says nothing.
    window_s = max(_SHORTEST_S, round(budget_s / len(rounds) / WINDOWS, 1))
    for kinds_now in rounds:
        with ExitStack() as opened:
            children = opened.enter_context(Children())
            limited, by = [], []
            for (by_cgroup, limit), cpu in zip(kinds_now, cpus, strict=False):
                limiter = CpuLimiter(limit, by_cgroup=by_cgroup)
                opened.callback(limiter.close)
                limited.append(children.spinning(cpu))
                by.append(limiter.add(limited[-1].pid))
            used = _windows(limited, window_s)
        yield tuple(
            LimitedShares(mechanism, limit, window_s, windows)
            for mechanism, (_, limit), windows in zip(by, kinds_now, used, strict=True)
        )


def _mechanisms() -> tuple[bool, ...]:
    """Return whether to use cgroups, for each mechanism that this machine has."""
    with Children() as children:
        child = children.spinning(min(os.sched_getaffinity(0)))
        limiter = CpuLimiter(0.5)
        try:
            return (False,) if limiter.add(child.pid) == "duty cycle" else (True, False)
        finally:
            limiter.close()


def _windows(children: Sequence[Child], window_s: float) -> list[tuple[float, ...]]:
    """Return for each child the CPUs that it had in each window: its CPU time by the time that went by."""
    time.sleep(_SETTLE_S)  # what was just started, or given another weight, has its first slice in a turn of its own
    readings = [_reading(children)]
    for _ in range(WINDOWS):
        time.sleep(window_s)
        readings.append(_reading(children))
    return [
        tuple(
            (after[place][0] - before[place][0]) / (after[place][1] - before[place][1])
            for before, after in itertools.pairwise(readings)
        )
        for place in range(len(children))
    ]


def _reading(children: Sequence[Child]) -> list[tuple[int, int]]:
    return [(child.cpu_time_ns(), time.monotonic_ns()) for child in children]
