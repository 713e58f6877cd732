"""Run a batch in front of a person: progress while it runs, Ctrl-C in two steps, and nothing left when it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

from procbench.cpu.priorities import PRIORITIES, Priority
from procbench.errors import ClosedError, PermissionDeniedError, ProcbenchError, UnsupportedError
from procbench.io.orphans import adopting_orphans, reap_orphans
from procbench.io.signals import ENDING
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask, TaskResult
from procbench.views.outputs import Outputs, Said

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from procbench.lab.host import HostFacts

MOST_FAILURES: Final = 100
"""Highest exit status that is a count; one more says "more than that", as with xargs and GNU parallel."""

_AHEAD = 1_000
_AHEAD_CAPTURED = 128  # each may end with its output in memory before it is shown
_TICK_S = 0.25
_REAP_EVERY_S = 2.0
_USUAL_COLUMNS, _USUAL_ROWS = 80, 24  # a serial line or a bare pty says 0 and 0, which tqdm takes for no room at all


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How a batch ended.

    Attributes:
        results: Of every task that was begun, in the order of the commands.
        total: How many commands there were to run; those without a result were cancelled before they began.
        wall_s: Seconds that it took.
        settings: How the commands were run.
        ended_by: The signal that ended it early; ``None`` when it came to its own end.
        halted: Whether ``settings.halt`` ended it early.
        skipped: How many commands more there are that were not to run, because they had done so before.
    """

    results: tuple[TaskResult, ...]
    total: int
    wall_s: float
    settings: RunSettings
    ended_by: signal.Signals | None
    halted: bool = False
    skipped: int = 0

    def counts(self) -> dict[str, int]:
        """Return how many ended in each way, those that never began among the cancelled."""
        found = Counter(result.outcome for result in self.results)
        found["cancelled"] += self.total - len(self.results)
        return {word: found[word] for word in ("succeeded", "failed", "timed_out", "cancelled")}

    @property
    def exit_status(self) -> int:
        """0, the number that failed or timed out up to 100, 101 for more, or 128 and the signal that ended it."""
        if self.ended_by is not None:
            return 128 + self.ended_by
        counts = self.counts()
        return min(counts["failed"] + counts["timed_out"], MOST_FAILURES + 1)

    def frame(self) -> pd.DataFrame:
        """Return one row for each result, as :func:`procbench.analysis.results.frame`, without secrets in commands."""
        from procbench.analysis.results import frame
        from procbench.scheduling.shown import without_secrets

        return frame(
            dataclasses.replace(result, args=without_secrets(map(os.fsdecode, result.args))) for result in self.results
        )


class Show(Protocol):
    """What a batch tells while it runs, always in the main thread."""

    def finished(self, result: TaskResult | None) -> None:
        """Note that a task has ended; ``None`` for one that was cancelled before it began."""

    def waiting(self) -> None:
        """Note that time has passed."""

    def ending(self, number: signal.Signals, *, kill: bool) -> None:
        """Note that a signal ends the batch early, and whether what runs was killed for it."""


def run_batch(
    commands: Sequence[Sequence[str]],
    settings: RunSettings,
    show: Show,
    priorities: Sequence[Priority] | None = None,
    *,
    numbers: Sequence[int] | None = None,
    log: Callable[[TaskResult], object] | None = None,
) -> BatchResult:
    """Run the commands, and return when nothing of them is left, not even what has left its process group.

    While it runs, signals mean: Ctrl-C, finish what runs and cancel the rest; a second one, kill what runs. SIGTERM,
    SIGHUP and SIGQUIT end what runs, by SIGTERM first. A signal that was ignored before stays ignored. To be called in
    the main thread of a process that has no other children.

    Args:
        commands: The commands; a task's id is its command's number, from 0.
        settings: How to run them; no more workers are started than there are commands.
        show: What is told of it. What it raises ends the batch and its children, and is raised.
        priorities: One for each command: the more urgent begin first, in the commands' order within a priority; ``None``
            for all alike.
        numbers: Which of them to run, in the order in which those of one priority begin; ``None`` for all, in theirs.
        log: Told of each result before ``show`` is; what it raises ends the batch too.

    Raises:
        PermissionDeniedError: This user may not have one of the settings; the message says what would help.
        UnsupportedError: This machine lacks one of the settings.
        ProcbenchError: There are not enough descriptors or threads for that many workers; the cause is chained.
    """
    to_run = range(len(commands)) if numbers is None else numbers
    settings = settings.changed(workers=max(1, min(settings.worker_count, len(to_run))))
    events: queue.SimpleQueue[Future[TaskResult] | signal.Signals] = queue.SimpleQueue()
    started_s = time.monotonic()
    with _signals_to(events.put), adopting_orphans(), _scheduler(settings) as scheduler:
        batch = _Batch(_in_order(commands, to_run, priorities), scheduler, events, show, log)
        batch.until_end()
    results = sorted(batch.results, key=lambda result: result.task.id)
    wall_s, skipped = time.monotonic() - started_s, len(commands) - len(to_run)
    return BatchResult(tuple(results), len(to_run), wall_s, settings, batch.ended_by, scheduler.halted, skipped)


def _in_order(
    commands: Sequence[Sequence[str]], numbers: Sequence[int], priorities: Sequence[Priority] | None
) -> Iterator[ProcessTask]:
    """Make the tasks, the most urgent first: only some are handed in ahead, and the last line may be the most urgent."""
    if priorities is None:
        for number in numbers:
            yield ProcessTask(commands[number], id=number)
        return
    ranks = [PRIORITIES.index(priority) for priority in priorities]
    for number in sorted(numbers, key=ranks.__getitem__):  # stable: in the numbers' order within a priority
        yield ProcessTask(commands[number], priority=priorities[number], id=number)


def _scheduler(settings: RunSettings) -> WorkStealingScheduler:
    try:
        return WorkStealingScheduler(settings)
    except (PermissionDeniedError, UnsupportedError):  # they are OSErrors too, and fewer workers would not help
        raise
    except (OSError, RuntimeError) as error:  # no descriptor, no thread
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise ProcbenchError(
            f"the system does not give enough for {settings.worker_count:,} workers: {reason}; ask for fewer"
        ) from error


class _Batch:
    """One batch: hands tasks in a little ahead of the workers, and looks after what comes back."""

    def __init__(
        self,
        tasks: Iterator[ProcessTask],
        scheduler: WorkStealingScheduler,
        events: queue.SimpleQueue[Future[TaskResult] | signal.Signals],
        show: Show,
        log: Callable[[TaskResult], object] | None,
    ) -> None:
        self.results: list[TaskResult] = []
        self.ended_by: signal.Signals | None = None
        self._left = tasks
        self._scheduler = scheduler
        self._events = events
        self._show = show
        self._log = log
        self._under_way = 0
        ahead = _AHEAD_CAPTURED if scheduler.settings.capture else _AHEAD
        self._ahead = max(ahead, 4 * scheduler.settings.worker_count)
        self._reap_at_s = time.monotonic() + _REAP_EVERY_S

    def until_end(self) -> None:
        self._hand_in()
        while self._under_way:
            try:
                event = self._events.get(timeout=_TICK_S)
            except queue.Empty:
                self._show.waiting()
            else:
                self._obey(event) if isinstance(event, signal.Signals) else self._take(event)
            self._hand_in()
            if time.monotonic() >= self._reap_at_s:
                reap_orphans()
                self._reap_at_s = time.monotonic() + _REAP_EVERY_S

    def _hand_in(self) -> None:
        while self.ended_by is None and self._under_way < self._ahead:
            task = next(self._left, None)
            if task is None:
                return
            try:
                future = self._scheduler.submit(task)
            except ClosedError:
                if not self._scheduler.halted:
                    raise
                self._left = iter(())
                return
            self._under_way += 1
            future.add_done_callback(self._events.put)

    def _take(self, future: Future[TaskResult]) -> None:
        self._under_way -= 1
        if future.cancelled():
            self._show.finished(None)
            return
        result = future.result()
        if self._log is not None:
            self._log(result)
        self._show.finished(result)
        if result.stdout is not None or result.stderr is not None:
            # Shown by now, or kept by who shows it later; a batch may say more than fits in memory.
            result = dataclasses.replace(result, stdout=None, stderr=None, stdout_over=None, stderr_over=None)
        self.results.append(result)

    def _obey(self, number: signal.Signals) -> None:
        if self.ended_by is None and number == signal.SIGINT:
            kill = False
            self._scheduler.shutdown(wait=False, cancel_futures=True)
        else:
            kill = number == signal.SIGINT or self.ended_by in ENDING
            self._scheduler.cancel_running(kill=kill)
        self._show.ending(number, kill=kill)
        if self.ended_by is None or number in ENDING:
            self.ended_by = number


@contextlib.contextmanager
def _signals_to(put: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Hand signals on instead of dying of them. ``put`` must be re-entrant, as ``SimpleQueue.put`` is."""

    def handler(number: int, _frame: FrameType | None) -> None:
        put(signal.Signals(number))

    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, *ENDING):
            # Ignored by nohup, or in a background job of a shell without job control; None is not Python's to put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, disposition in before.items():
            signal.signal(number, disposition)


class QuietShow:
    """Shows only what captured tasks had to say, each task's output whole.

    Args:
        outputs: Says whose turn it is, and how a line looks; ``None`` for as they end, and as it is.
    """

    def __init__(self, outputs: Outputs | None = None) -> None:
        self._outputs = Outputs() if outputs is None else outputs

    def finished(self, result: TaskResult | None) -> None:
        """Write what the task wrote, or those whose turn it is now: first standard output, then standard error."""
        if result is not None:
            self._show(self._outputs.take(result))

    def rest(self) -> None:
        """Write what still waits for its turn, because what it waits for was cancelled."""
        self._show(self._outputs.rest())

    def _show(self, turns: Iterable[Said]) -> None:
        for said in turns:
            if any(output.size_bytes for output in said):
                self._write(said)

    def _write(self, said: Said) -> None:
        for stream, output in zip((sys.stdout, sys.stderr), said, strict=True):
            if output.size_bytes:
                stream.flush()
                for piece in output.pieces():
                    stream.buffer.write(piece)
                stream.buffer.flush()

    def waiting(self) -> None:
        """Show nothing."""

    def ending(self, number: signal.Signals, *, kill: bool) -> None:
        """Say what happens to the commands that run."""
        asked = "finishing what runs; Ctrl-C again kills it" if number == signal.SIGINT else "ending what runs"
        sys.stderr.write(f"procbench: {number.name}: {'killing what runs' if kill else asked}\n")
        sys.stderr.flush()


class BarShow(QuietShow):
    """A bar on standard error with rate, failures and time left; also what captured tasks had to say."""

    def __init__(self, total: int, outputs: Outputs | None = None) -> None:
        super().__init__(outputs)
        from tqdm.std import tqdm  # tqdm.auto would turn into a widget inside a notebook

        tqdm.monitor_interval = 0  # no thread of its own: the batch ticks anyway
        has_size = all(os.get_terminal_size(sys.stderr.fileno()))
        shape = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}, {rate_fmt}{postfix}, {remaining} left"
        self._bar = tqdm(
            total=total,
            file=sys.stderr,
            leave=False,
            unit=" tasks",
            bar_format=shape,
            dynamic_ncols=has_size,
            ncols=None if has_size else _USUAL_COLUMNS,
            nrows=None if has_size else _USUAL_ROWS,
        )
        self._failed = 0
        self._bar.set_postfix_str("0 failed")

    def finished(self, result: TaskResult | None) -> None:
        """Count the task, and show it within a tenth of a second."""
        if result is not None and result.outcome in ("failed", "timed_out"):
            self._failed += 1
            self._bar.set_postfix_str(f"{self._failed} failed", refresh=False)
        super().finished(result)
        self._bar.update()

    def _write(self, said: Said) -> None:
        self._bar.clear()
        super()._write(said)
        self._bar.refresh()

    def waiting(self) -> None:
        """Show the time left anew."""
        self._bar.refresh()

    def ending(self, number: signal.Signals, *, kill: bool) -> None:
        """Say above the bar what happens to the commands that run."""
        self._bar.clear()
        super().ending(number, kill=kill)
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar off the screen."""
        self._bar.close()


@contextlib.contextmanager
def showing(total: int, *, quiet: bool, outputs: Outputs | None = None) -> Iterator[Show]:
    """Give a bar on a terminal, else nothing but what captured tasks had to say; all of that is shown at the end.

    Args:
        total: How many tasks there are.
        quiet: No bar, terminal or not.
        outputs: Whose turn it is to be shown; ``None`` for as they end.
    """
    with contextlib.closing(Outputs() if outputs is None else outputs) as kept:
        if quiet or not sys.stderr.isatty():
            show = QuietShow(kept)
            yield show
            show.rest()
            return
        with contextlib.closing(BarShow(total, kept)) as bar:
            yield bar
            bar.rest()


def record_batch(batch: BatchResult, host: HostFacts, folder: Path) -> Path | None:
    """Keep the batch as a run called ``batch``; ``None`` if not even one command was begun.

    Raises:
        RecordError: It could not be written; older runs are as they were.
    """
    from procbench.lab.store import Store

    if not batch.results:
        return None
    parameters = {
        **batch.settings.to_dict(),
        "tasks": batch.total,
        **batch.counts(),
        "wall_s": batch.wall_s,
        "ended_by": batch.ended_by.name if batch.ended_by else None,
        "halted": batch.halted,
        "skipped": batch.skipped,
    }
    return Store(folder).record(batch.frame(), experiment="batch", host=host, parameters=parameters)
