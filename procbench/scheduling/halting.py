"""When a batch stops because of what became of its tasks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, Self

from procbench.errors import InvalidInputError

NEVER: Final = "never"
"""What a halt policy says that lets all tasks run, whatever becomes of them."""

LEAST_FOR_SHARE: Final = 3
"""Tasks that must have ended before a share of them says anything; as GNU parallel has it."""

_WORDS: Final = re.compile(r"(soon|now),(fail|success)=([0-9]+)(%?)")
_HIGHEST_SHARE: Final = 100


@dataclass(frozen=True, slots=True)
class HaltPolicy:
    """When to stop, and how hard.

    Attributes:
        when: ``soon`` lets what runs come to its end and cancels what waits; ``now`` also ends what runs.
        of: Whether tasks that ``fail``, which those that ran out of time do too, or those that are a ``success`` count.
        count: So many of them; ``None`` where a share counts.
        share: Or such a share of the tasks that have ended, 0 to 1, once there are ``LEAST_FOR_SHARE``.
    """

    when: Literal["soon", "now"]
    of: Literal["fail", "success"]
    count: int | None
    share: float | None

    @classmethod
    def parse(cls, words: str) -> Self | None:
        """Return what a person wrote: ``never``, or GNU parallel's words such as ``soon,fail=3`` or ``now,fail=10%``.

        Returns:
            The policy; ``None`` for ``never``.

        Raises:
            InvalidInputError: It is neither.
        """
        if words == NEVER:
            return None
        match = _WORDS.fullmatch(words) if isinstance(words, str) else None
        number = int(match[3]) if match is not None else 0
        if match is None or number < 1 or (match[4] and number > _HIGHEST_SHARE):
            raise InvalidInputError(
                f"halt is {words!r}; it must be never, or soon or now with a number or a share from 1 to 100 of tasks "
                "that fail or succeed, such as soon,fail=3, now,fail=10% or now,success=1"
            )
        count, share = (None, number / _HIGHEST_SHARE) if match[4] else (number, None)
        return cls("soon" if match[1] == "soon" else "now", "fail" if match[2] == "fail" else "success", count, share)

    def is_reached(self, failed: int, succeeded: int) -> bool:
        """Return whether to stop, after so many tasks have ended in these ways."""
        counted = failed if self.of == "fail" else succeeded
        if self.count is not None:
            return counted >= self.count
        ended = failed + succeeded
        return ended >= LEAST_FOR_SHARE and self.share is not None and counted >= self.share * ended
