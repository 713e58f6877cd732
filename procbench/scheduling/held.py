"""Tasks that no worker may have yet: those that come after others, and those that wait for their next attempt."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from procbench.scheduling.dependents import Dependents
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.later import Later


class Held:
    """What a scheduler holds back. Thread-safe.

    Args:
        give_back: Takes a task that a worker may have now.
        refuse: Takes a task that is never to begin, and the one because of which.

    Attributes:
        after: Tasks that come after others.
        later: Tasks that wait for a time.
    """

    def __init__(
        self, give_back: Callable[[TaskFuture], None], refuse: Callable[[TaskFuture, Future[Any]], None]
    ) -> None:
        self.after = Dependents(give_back, refuse)
        self.later = Later(give_back)

    def __len__(self) -> int:
        return len(self.after) + len(self.later)

    @property
    def accepted(self) -> int:
        """How many tasks came in here, not through a queue."""
        return self.after.accepted
