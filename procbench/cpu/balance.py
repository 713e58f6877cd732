"""Decide which of some processes would do better on other CPUs; pure, so that it knows no process and changes none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from procbench.cpu.placement import format_cpu_list
from procbench.cpu.priorities import Priority
from procbench.cpu.topology import CpuTopology

Choose = Callable[[Priority, CpuTopology, frozenset[int], Mapping[int, float]], frozenset[int]]
"""How a priority class, the machine, the allowed CPUs and the load of each become a CPU set."""

_WORTH_MOVING: Final = 0.1
"""A CPU is left only for one that has this much less load, in CPUs: a move costs a warm cache, and loads waver."""


@dataclass(frozen=True, slots=True)
class Move:
    """A process that would do better, or must run, on other CPUs.

    Attributes:
        pid: The process.
        current: The CPUs of its main thread.
        best: The CPUs that suit it best now.
        why: The reason, in words.
        applied: Whether the move was made.
        refused: Why it could not be made; empty when it was made, or only proposed.
    """

    pid: int
    current: frozenset[int]
    best: frozenset[int]
    why: str
    applied: bool = False
    refused: str = ""


class Round:
    """One look at processes, one after the other; a CPU that one is sent to counts as loaded for the next.

    Args:
        choose: Which CPUs suit a class.
        topology: The machine.
        allowed: CPUs to choose from.
        loads: The load of each CPU, 0 idle to 1 busy; one that is missing was not measured. With none, all count as idle.
    """

    def __init__(
        self, choose: Choose, topology: CpuTopology, allowed: frozenset[int], loads: Mapping[int, float]
    ) -> None:
        self._choose = choose
        self._topology = topology
        self._allowed = allowed
        measured = {cpu: loads[cpu] for cpu in allowed if cpu in loads}
        self._loads = measured or dict.fromkeys(allowed, 0.0)

    def move(self, pid: int, priority: Priority, current: frozenset[int], own_load: float) -> Move | None:
        """Return the move that a process should make, None when it is well where it is.

        Args:
            pid: The process.
            priority: Its class.
            current: The CPUs that it may run on now.
            own_load: How much of one CPU it uses, 0 to 1. That is no reason for it to leave its own CPU.
        """
        if not self._allowed:
            return None
        others = dict(self._loads)
        if len(current) == 1:  # otherwise nobody knows on which of them it ran
            for home in current & others.keys():
                others[home] = max(0.0, others[home] - own_load)
        best = self._choose(priority, self._topology, self._allowed, others) & self._allowed
        if not best or (priority == "normal" and self._good_enough(current, best, others)):
            best = current
        if len(best) == 1 and best <= self._allowed:
            for home in best:
                others[home] = others.get(home, 0.0) + own_load
            self._loads = others
        return None if best == current else Move(pid, current, best, self._why(priority, current, best, others))

    def _good_enough(self, current: frozenset[int], best: frozenset[int], loads: Mapping[int, float]) -> bool:
        """Return whether a process that has one CPU gains too little by leaving it."""
        if len(current) != 1 or not current <= loads.keys():
            return False
        here, there = (max(loads.get(cpu, math.inf) for cpu in cpus) for cpus in (current, best))
        return here - there < _WORTH_MOVING

    def _why(
        self, priority: Priority, current: frozenset[int], best: frozenset[int], loads: Mapping[int, float]
    ) -> str:
        if lost := current - self._allowed:
            return f"CPU {format_cpu_list(lost)} is not allowed any more"
        if priority == "normal":
            shares = ", ".join(f"CPU {cpu} {loads[cpu]:.0%}" for cpu in sorted((current | best) & loads.keys()))
            return f"normal runs on the CPU with the least load of others: {shares}"
        return f"{priority} runs on CPU {format_cpu_list(best)}"
