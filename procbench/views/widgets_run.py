"""A batch of a person's own commands with a start button: settings as controls, progress, a timeline, and what failed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from procbench.errors import InvalidInputError
from procbench.io.command import Argument
from procbench.lab.batches import TaskBatch
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import ProcessTask, TaskResult
from procbench.views.summary import how_it_failed, seconds_for_people
from procbench.views.terminal import one_line, without_colours
from procbench.views.widgets_batch import BackgroundBatch, BatchState
from procbench.views.widgets_chart import bars, new_chart
from procbench.views.widgets_feed import INTERVAL_S, Feed
from procbench.views.widgets_settings import SettingsForm
from procbench.views.widgets_shown import Shown, heading, picture_html, row

if TYPE_CHECKING:
    import pandas as pd

_WINDOW_S: Final = 60.0
_MOST_SPANS: Final = 2000
_MOST_FAILURES: Final = 30
_STDERR_CHARACTERS: Final = 2000
_SECOND_NS: Final = 1e9


class RunPanel(Shown):
    """Runs a batch in the background, as its controls say.

    Standard error is kept where the settings capture it, and shown with what failed. Closing it ends what runs.

    Args:
        tasks: Tasks, their argvs, or a :class:`~procbench.lab.batches.TaskBatch`.
        settings: What the controls show first; by default output is captured.

    Attributes:
        batch: The batch that runs or ran last; None before the first start.
    """

    name = "run"

    def __init__(
        self,
        tasks: TaskBatch | Iterable[ProcessTask | Sequence[Argument]],
        settings: RunSettings | None = None,
    ) -> None:
        super().__init__()
        import ipywidgets

        self.batch: BackgroundBatch | None = None
        self._work = TaskBatch.of(tasks)
        self._form = SettingsForm(settings or RunSettings(capture=True))
        self._start = self._button("Start", self.start, hint="run the batch with these settings", style="primary")
        self._cancel = self._button("Cancel", self.cancel, hint="end what runs, with all that it started")
        self._cancel.disabled = True
        self._progress = ipywidgets.HTML()
        self._timeline = new_chart("Timeline: which worker ran a command when, which were stolen, which failed")
        self._failures = ipywidgets.HTML()
        self._spans: list[tuple[float, float, int, int]] = []
        self._taken = self._listed = 0
        self._feed: Feed[BackgroundBatch] = Feed(self._paint, INTERVAL_S, "run", self.not_painted)
        self._progress.value = _progress_html(self._state())
        self._arrange(
            self._form.root,
            row(self._start, self._cancel, self._progress),
            heading("Who ran what, seconds since the start"),
            self._timeline,
            self._failures,
        )

    @property
    def settings(self) -> RunSettings:
        """The settings that the controls show.

        Raises:
            InvalidInputError: One makes no sense.
        """
        return self._form.read()

    def use(self, settings: RunSettings) -> None:
        """Have the controls show other settings."""
        self._form.show(settings)

    def start(self) -> None:
        """Begin the batch; returns at once.

        Raises:
            InvalidInputError: A setting makes no sense, or a batch runs.
        """
        with self._feed.lock:
            if self.batch is not None and self.batch.state().phase != "over":
                raise InvalidInputError("the batch runs; cancel it, or wait for its end")
            settings = self.settings
            batch = BackgroundBatch(self._work.tasks_for(settings.args_per_task), settings, self._changed)
            self._spans.clear()
            self._taken, self._listed = 0, -1
            self.batch = batch
            self._enable(running=True)
            batch.start()
        self._changed()

    def cancel(self) -> None:
        """End what runs and cancel what waits; returns at once."""
        if self.batch is not None:
            self.batch.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the batch has ended and is shown so; return whether it has. What comes after needs it in a report."""
        if self.batch is None or not self.batch.wait(timeout):
            return False
        self._changed()
        return self._feed.settle()

    @property
    def results(self) -> tuple[TaskResult, ...]:
        """The results so far, in the order of tasks' ends."""
        return () if self.batch is None else self.batch.results

    def frame(self) -> pd.DataFrame:
        """Return the results as :func:`procbench.analysis.results.frame` does."""
        from procbench.analysis.results import frame

        return frame(self.results)

    def close(self) -> None:
        """Cancel what runs, wait for its end, and take the panel off the page."""
        self.cancel()
        if self.batch is not None:
            self.batch.wait()
        self._feed.close()
        super().close()

    # --- painting, in the feed's thread ------------------------------------------------------------------------------------

    def _changed(self) -> None:
        if self.batch is not None:
            self._feed.offer(self.batch)

    def _paint(self, batch: BackgroundBatch) -> None:
        if batch is not self.batch:
            return
        state = batch.state()
        new = batch.since(self._taken)
        self._taken += len(new)
        self._spans += [_span(result, batch.started_ns) for result in new]
        del self._spans[:-_MOST_SPANS]
        end = max(state.elapsed_s, 0.5)
        names = [f"worker {number}" for number in range(batch.workers)]
        self._timeline.frame = bars(names, self._spans, (max(0.0, end - _WINDOW_S), end))
        self._progress.value = _progress_html(state)
        failures = batch.failures
        if len(failures) != self._listed:
            self._listed = len(failures)
            self._failures.value = _failures_html(failures)
        if state.phase == "over":
            self._enable(running=False)
            self.say(
                state.error or ("Cancelled." if state.cancelled else "The batch has ended."),
                error=state.error is not None,
            )
            self._settled()

    def _enable(self, *, running: bool) -> None:
        self._start.disabled = running
        self._cancel.disabled = not running
        self._form.enable(not running)

    def _state(self) -> BatchState:
        if self.batch is not None:
            return self.batch.state()
        return BatchState("ready", len(self._work.tasks_for()), 0, 0, 0.0)

    # --- its twin ----------------------------------------------------------------------------------------------------------

    def twin_html(self) -> str:
        """Return what became of the batch, its timeline as a picture, and what failed."""
        state = self._state()
        said = f"<p>{escape(_said(state))}</p>"
        results = self.results
        if not results:
            return said
        from procbench.views.plots_stealing import timeline

        shown = self.frame()
        shown = shown[shown["worker"] >= 0].tail(_MOST_SPANS)
        shown["program"] = [command.split(" ")[0].rpartition("/")[2] for command in shown["command"]]
        picture = ""
        if len(shown):
            alt = f"Timeline of {len(shown)} commands on {shown['worker'].nunique()} workers"
            picture = picture_html(timeline(shown).figure, alt)
        assert self.batch is not None  # noqa: S101 - there are results
        return said + picture + _failures_html(self.batch.failures)

    def twin_text(self) -> str:
        """Return a line."""
        return f"RunPanel: {_said(self._state())}"


def _span(result: TaskResult, origin_ns: int) -> tuple[float, float, int, int]:
    kind = (result.stolen_from is not None) + 2 * (result.outcome != "succeeded")
    start, end = (result.started_ns - origin_ns) / _SECOND_NS, (result.ended_ns - origin_ns) / _SECOND_NS
    return start, end, max(result.worker, 0), kind


def _said(state: BatchState) -> str:
    """Return in words how a batch stands."""
    if state.phase == "ready":
        return f"{state.total:,} commands, not begun"
    words = f"{state.done:,} of {state.total:,} commands ended in {seconds_for_people(state.elapsed_s)}"
    words += f" ({state.per_s:.3g} a second); {state.failed:,} failed" if state.elapsed_s else ""
    if state.phase == "over" and state.cancelled:
        words += "; cancelled"
    return words


def _progress_html(state: BatchState) -> str:
    left = "" if state.left_s is None else f"; about {seconds_for_people(state.left_s)} left"
    phase = {"ready": "", "running": "", "cancelling": " · is being cancelled", "over": " · over"}[state.phase]
    bar = (
        f'<progress aria-label="commands that have ended" max="{max(state.total, 1)}" value="{state.done}"></progress>'
    )
    return f"{bar} <span>{escape(_said(state) + left + phase)}</span>"


def _failures_html(failures: Sequence[TaskResult]) -> str:
    """Return the last failures with the end of what each wrote to standard error."""
    if not failures:
        return ""
    rows = []
    for result in failures[-_MOST_FAILURES:]:
        command = one_line(shlex.join(os.fsdecode(word) for word in result.args), longest=200)
        text = without_colours((result.stderr or b"").decode(errors="backslashreplace"))[-_STDERR_CHARACTERS:]
        said = f"<pre>{escape(text)}</pre>" if text.strip() else "<i>nothing</i>"
        cells = f"<td>{escape(one_line(how_it_failed(result)))}</td><td>{said}</td>"
        rows.append(f'<tr><th scope="row">{escape(command)}</th>{cells}</tr>')
    more = f"; the last {_MOST_FAILURES} of them" if len(failures) > _MOST_FAILURES else ""
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("command", "how", "what it wrote to standard error"))
    caption = f"<caption>{len(failures):,} failed{more}</caption>"
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<table class="procbench-table">{caption}{body}</table>'
