"""How urgent work is, and how a process's share of the CPU is set."""

from __future__ import annotations

from typing import Final, Literal

Priority = Literal["critical", "high", "normal", "low"]

PRIORITIES: Final[tuple[Priority, ...]] = ("critical", "high", "normal", "low")
"""From the most urgent to the least."""
