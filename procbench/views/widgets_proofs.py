"""Proofs that run beside the notebook, one after the other: two at a time would measure each other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final

from procbench.errors import ClosedError, ProcbenchError
from procbench.lab.results import Progress

Job = Callable[[Callable[[Progress], object]], object]
"""What is run: it is given what to tell its progress to, which raises KeyboardInterrupt once it is to end."""

_JOIN_S: Final = 120.0


class Proofs:
    """Runs jobs in one thread. Thread-safe.

    Args:
        on_progress: Told a job's name and how it stands.
        on_end: Told a job's name and why it has no result; None where it has.
    """

    def __init__(
        self, on_progress: Callable[[int, Progress], object], on_end: Callable[[int, str | None], object]
    ) -> None:
        self._on_progress = on_progress
        self._on_end = on_end
        self._jobs: queue.SimpleQueue[tuple[int, Job] | None] = queue.SimpleQueue()
        self._unwanted: set[int] = set()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, number: int, job: Job) -> None:
        """Have a job run when those before it have ended.

        Raises:
            ClosedError: No more are begun.
        """
        if self._closed:
            raise ClosedError("no more proofs are begun: the board was closed")
        self._unwanted.discard(number)
        self._jobs.put((number, job))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="procbench-proofs", daemon=True)
            self._thread.start()

    def cancel(self, number: int) -> None:
        """Have a job end with what it has, after the trial that is under way, or not begin."""
        self._unwanted.add(number)

    def close(self) -> None:
        """Begin no more, and wait for the end of what is under way."""
        self._closed = True
        self._jobs.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            number, does = job
            why: str | None = None
            try:
                self._stop_if_unwanted(number)
                does(lambda progress, number=number: self._tell(number, progress))  # type: ignore[misc]
            except KeyboardInterrupt:
                why = "cancelled before there was anything to judge by"
            except ProcbenchError as error:
                why = str(error)
            except Exception as error:  # whatever it is, the next may work
                why = f"{type(error).__name__}: {error}"
            self._on_end(number, why)

    def _tell(self, number: int, progress: Progress) -> None:
        self._on_progress(number, progress)
        self._stop_if_unwanted(number)

    def _stop_if_unwanted(self, number: int) -> None:
        if self._closed or number in self._unwanted:
            raise KeyboardInterrupt
