"""How all that a child started comes to its end: asked first, killed later, looked for until nothing is left."""

from __future__ import annotations

import signal
import time
from typing import Final

from procbench.io.contained import Contained

_FIRST_WAIT_S: Final = 0.001
_LONGEST_WAIT_S: Final = 0.02
_LONGEST_WAIT_BUSY_S: Final = 0.2
# A look at a machine with many processes takes long; this keeps it from being all that is done.
_WAIT_PER_LOOK: Final = 4


class Ending:
    """Sees to it that a child's whole containment is empty, step by step; nothing here waits.

    Args:
        contained: What was told to end.
        kill_at_s: When to send SIGKILL, on ``time.monotonic()``'s clock; a time in the past means at once.
        give_up_after_s: How long after the kill to go on looking.

    Attributes:
        killed: Whether it needed the kill.
    """

    def __init__(self, contained: Contained, *, kill_at_s: float, give_up_after_s: float) -> None:
        self.killed = False
        self._contained = contained
        self._kill_at_s = kill_at_s
        self._give_up_after_s = give_up_after_s
        self._give_up_at_s = 0.0
        self._wait_s = _FIRST_WAIT_S

    def kill_at_once(self) -> None:
        """Send SIGKILL in the next step, whenever it would have been due."""
        self._kill_at_s = 0.0

    def step(self, now_s: float) -> float | None:
        """Do what is due, and return how many seconds to wait until the next step; ``None`` when it is over."""
        began_s = time.monotonic()
        # What a process forks while others are looked at may be missed, and that process be gone when its turn comes.
        if not self._contained.living() and not self._contained.living():
            return None
        look_s = time.monotonic() - began_s
        if self.killed and now_s >= self._give_up_at_s:
            return None
        if now_s >= self._kill_at_s:
            if not self.killed:
                self.killed = True
                self._give_up_at_s = now_s + self._give_up_after_s
                self._wait_s = _FIRST_WAIT_S
            # Each time: what is forked while the signals go out is not among those that get one.
            self._contained.signal(signal.SIGKILL)
        wait_s = self._wait_s
        self._wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        return max(wait_s, min(_WAIT_PER_LOOK * look_s, _LONGEST_WAIT_BUSY_S))
