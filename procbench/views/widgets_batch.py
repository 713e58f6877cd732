"""A batch that runs beside the notebook: begun and cancelled by a button, looked at while it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from procbench.errors import InvalidInputError
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask, TaskResult

_FAILED: Final = ("failed", "timed_out")


@dataclass(frozen=True, slots=True)
class BatchState:
    """How a batch stands.

    Attributes:
        phase: ``ready``, ``running``, ``cancelling`` or ``over``.
        total: Tasks.
        done: Tasks that ended.
        failed: Of these, those that failed or timed out.
        elapsed_s: Seconds since the start; 0 before.
        error: Why it could not go on; None if nothing.
        cancelled: Whether somebody asked for its end.
    """

    phase: str
    total: int
    done: int
    failed: int
    elapsed_s: float
    error: str | None = None
    cancelled: bool = False

    @property
    def per_s(self) -> float:
        """Tasks that ended in a second."""
        return self.done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at that rate; None where that cannot be said."""
        return (self.total - self.done) / self.per_s if self.per_s and self.phase == "running" else None


class BackgroundBatch:
    """Runs tasks in a thread of its own. Thread-safe.

    Args:
        tasks: What is run.
        settings: How.
        on_change: Called after each task's end, and when the phase changes, from the batch's thread.
    """

    def __init__(self, tasks: Sequence[ProcessTask], settings: RunSettings, on_change: Callable[[], object]) -> None:
        self._tasks = tasks
        # What is not captured would go where the kernel's own output goes, which is no notebook.
        self._settings = settings if settings.capture else settings.changed(discard=True)
        self._on_change = on_change
        self._lock = threading.Lock()
        self._results: list[TaskResult] = []
        self._failed: list[TaskResult] = []
        self._phase = "ready"
        self._error: str | None = None
        self._asked_to_end = False
        self._start_s = self._end_s = 0.0
        self._scheduler: WorkStealingScheduler | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; returns at once.

        Raises:
            InvalidInputError: It was begun before.
        """
        with self._lock:
            if self._phase != "ready":
                raise InvalidInputError("this batch was begun before")
            self._phase = "running"
            self._start_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="procbench-batch", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """End what runs, with its group, and cancel what waits; returns at once. Harmless when nothing runs."""
        with self._lock:
            if self._phase not in ("running", "cancelling"):
                return
            self._phase = "cancelling"
            self._asked_to_end = True
            scheduler = self._scheduler
        if scheduler is not None:
            scheduler.cancel_running()
        self._on_change()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; return whether it has come."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return self._phase == "over"

    @property
    def results(self) -> tuple[TaskResult, ...]:
        """The results so far, in the order of tasks' ends."""
        with self._lock:
            return tuple(self._results)

    def since(self, place: int) -> list[TaskResult]:
        """Return the results from a place on."""
        with self._lock:
            return self._results[place:]

    @property
    def failures(self) -> tuple[TaskResult, ...]:
        """The results of those that failed or timed out."""
        with self._lock:
            return tuple(self._failed)

    @property
    def started_ns(self) -> int:
        """When it was begun, nanoseconds of ``time.monotonic_ns()``."""
        return int(self._start_s * 1e9)

    @property
    def workers(self) -> int:
        """How many workers it has."""
        return self._settings.worker_count

    def state(self) -> BatchState:
        """Return how it stands."""
        with self._lock:
            now = self._end_s if self._phase == "over" else time.monotonic()
            elapsed = now - self._start_s if self._phase != "ready" else 0.0
            counts = len(self._tasks), len(self._results), len(self._failed)
            return BatchState(self._phase, *counts, elapsed, self._error, self._asked_to_end)

    def _run(self) -> None:
        try:
            with WorkStealingScheduler(self._settings) as scheduler:
                with self._lock:
                    self._scheduler = scheduler
                    end_at_once = self._asked_to_end
                if end_at_once:
                    scheduler.cancel_running()
                else:
                    self._take(scheduler)
        except Exception as error:  # such as a nice value that this user may not have: the panel says it
            if not self._asked_to_end:  # a scheduler that was cancelled takes no more tasks
                self._error = str(error)
        finally:
            with self._lock:
                self._end_s = time.monotonic()
                self._phase = "over"
                self._scheduler = None
            self._on_change()

    def _take(self, scheduler: WorkStealingScheduler) -> None:
        for result in scheduler.as_completed(self._tasks):
            with self._lock:
                self._results.append(result)
                if result.outcome in _FAILED:
                    self._failed.append(result)
            self._on_change()
