"""How urgent work is, and how a process's share of the CPU is set."""

from __future__ import annotations

from typing import Final, Literal

from procbench.cpu.scheduling_class import Applied, SchedulingClass, apply_to_current_thread, read

__all__ = ["PRIORITIES", "Applied", "Priority", "SchedulingClass", "apply_to_current_thread", "read"]

Priority = Literal["critical", "high", "normal", "low"]

PRIORITIES: Final[tuple[Priority, ...]] = ("critical", "high", "normal", "low")
"""From the most urgent to the least."""
