"""How urgent work is, in four words that the affinity manager, the placement and the scheduler share."""

from __future__ import annotations

from typing import Final, Literal

from procbench.errors import InvalidInputError

Priority = Literal["critical", "high", "normal", "low"]

PRIORITIES: Final[tuple[Priority, ...]] = ("critical", "high", "normal", "low")
"""From the most urgent to the least."""


def check_priority(priority: object) -> None:
    """Refuse what is none of them.

    Raises:
        InvalidInputError: There is no such priority.
    """
    if priority not in PRIORITIES:
        raise InvalidInputError(f"there is no priority {priority!r}; it must be one of {', '.join(PRIORITIES)}")
