"""Wait before a command is started, while the machine has too little memory or too much to do."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from procbench.memory.meminfo import available_memory_bytes
from procbench.scheduling.settings import RunSettings

_FRESH_FOR_S: Final = 0.1  # reading costs some 30 µs, and all workers of this process share what was read
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0


class _Reading(NamedTuple):
    free_bytes: int | None
    load: float
    at_s: float


_lock = threading.Lock()
_last: _Reading | None = None


class Starting:
    """Tells when the next command may start: enough memory is free, and the load is low enough. Thread-safe.

    What commands will take that were started a moment ago is in neither figure yet, so several workers may start one each on
    the same free memory; the load is the mean of a minute, and follows slowly.

    Args:
        settings: ``start_above_free_bytes`` and ``start_below_load``.

    Attributes:
        is_wanted: Whether there is anything to wait for.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._least_free = settings.start_above_free_bytes
        self._load = settings.start_below_load
        self.is_wanted = self._least_free is not None or self._load is not None

    def wait(self, pause: Callable[[float], object], stopped: Callable[[], bool]) -> bool:
        """Return once a command may start, or as soon as none shall any more.

        Args:
            pause: Waits for so many seconds, or until ``stopped`` is true; the pauses grow up to a second.
            stopped: Whether no command shall be started any more.

        Returns:
            Whether one may start.
        """
        pause_s = _FIRST_PAUSE_S
        while not stopped():
            if self.may_start():
                return True
            pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return False

    def may_start(self) -> bool:
        """Return whether a command may start now; what was read in the last tenth of a second counts as now.

        What this system does not say, such as available memory where ``/proc`` is hidden, holds nothing up.
        """
        if not self.is_wanted:
            return True
        now = _reading()
        if self._least_free is not None and now.free_bytes is not None and now.free_bytes < self._least_free:
            return False
        return self._load is None or now.load < self._load


def _reading() -> _Reading:
    global _last  # noqa: PLW0603 - one for the process: that is the point
    with _lock:
        now_s = time.monotonic()
        if _last is None or not 0 <= now_s - _last.at_s < _FRESH_FOR_S:
            _last = _Reading(available_memory_bytes(), _load_of_a_minute(), now_s)
        return _last


def _load_of_a_minute() -> float:
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0
