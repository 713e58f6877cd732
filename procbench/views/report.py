"""Run notebooks and turn them into a report: a folder of pages that stand alone.

The folder is built out of sight and appears as a whole, so that ``latest`` always leads to a complete report. A
notebook that fails, hangs or loses its kernel is shown as such, and the others still run.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from procbench.errors import InvalidInputError, NotebookError, RecordError
from procbench.lab.names import safe_name
from procbench.views.children import render_in_child
from procbench.views.compared import differences
from procbench.views.folders import building_folder, publish, write_text
from procbench.views.fragments import read_headline, split_title, to_fragment
from procbench.views.front import Spark, recorded_suggestions, sparks
from procbench.views.history import load_history
from procbench.views.notebooks import (
    Plain,
    check_parameters,
    declared_parameters,
    has_tag,
    notebook_text,
    notebook_word,
    read_notebook,
)
from procbench.views.pages import NoiseWarning, ReportRow, index_page, notebook_page
from procbench.views.parameters import INJECTED_TAG, check_paths, hide_secrets, without_secrets
from procbench.views.progress import ProgressEvent, time_left
from procbench.views.render import RenderJob, RenderOutcome, scratch_folder
from procbench.views.report_data import previous_report, read_report, report_json
from procbench.views.terminal import without_colours

if TYPE_CHECKING:
    from nbformat import NotebookNode

_LONGEST_ERROR = 4_000


@dataclass(frozen=True)
class Report:
    """A finished report.

    Attributes:
        path: Its folder.
        index: Its first page.
        when: When it was begun, UTC.
        rows: The notebooks, in the order in which they ran.
        seconds: Wall time.
        is_latest: Whether ``latest`` leads to it; not where it has nothing to show and the previous one has.
    """

    path: Path
    index: Path
    when: datetime
    rows: tuple[ReportRow, ...]
    seconds: float
    is_latest: bool = True

    @property
    def exit_status(self) -> int:
        """0 when every notebook ran to its end, else 1."""
        return 0 if all(row.status == "ok" for row in self.rows) else 1


def build_report(
    notebooks: Sequence[Path],
    *,
    out_root: Path,
    parameters: Mapping[str, Mapping[str, object]] | None = None,
    host_card: Mapping[str, str] | None = None,
    warnings: Sequence[NoiseWarning] = (),
    notebook_timeout_s: float = 1800.0,
    on_progress: Callable[[ProgressEvent], None] | None = None,
    host: str | None = None,
    host_id: str = "",
    data_folder: Path | None = None,
    cwd: Path | None = None,
) -> Report:
    """Run the notebooks one after the other and write their report to ``out_root/<UTC time>-<host>/``.

    Waits for all of them; meanwhile this process only wakes once a second. When it returns or raises, Ctrl-C included,
    no process of a notebook is left. A report that is not finished leaves the previous one in place; one in which no
    notebook came to its end leaves ``latest`` where it was, if that leads to a better one.

    Args:
        notebooks: Notebook files; `find_notebooks` finds procbench's own.
        out_root: The folder of all reports; made if missing.
        parameters: Values for a notebook's parameters by notebook word and name, checked before anything runs.
        host_card: What the machine is, label by label.
        warnings: What makes its numbers noisy.
        notebook_timeout_s: Wall-clock limit for each notebook and each of its cells, in seconds.
        on_progress: Called when a notebook starts and finishes, and about every second between. What it raises ends
            the report.
        host: The machine's name in titles and in the folder's name; the system's node name by default.
        host_id: Which machine this is; with it the report is compared with the one before it on this machine.
        data_folder: Recorded runs; with it and ``host_id`` the first page shows their course, and what was proved.
        cwd: Working folder of the notebooks; a private one that is removed afterwards by default.

    Returns:
        The report. Ask ``exit_status`` whether every notebook ran to its end.

    Raises:
        NotebookError: A notebook is missing or no notebook, or two have the same word.
        InvalidInputError: A parameter is not declared or of another type, is meant for a notebook that is not there, or
            the limit is not above 0; a file of commands or a folder of runs, see `check_paths`, is of no use.
        OSError: The report cannot be written.
    """
    if not (math.isfinite(notebook_timeout_s) and notebook_timeout_s > 0):
        raise InvalidInputError(f"the limit of a notebook must be some seconds above 0, not {notebook_timeout_s!r}")
    work = _checked_work(notebooks, parameters or {})
    host = os.uname().nodename if host is None else host
    out_root = out_root.resolve()
    when, start = datetime.now(UTC), time.monotonic()
    rows: list[ReportRow] = []
    shown = {word: without_secrets(values) for word, (_, values) in work.items()}
    with building_folder(out_root) as folder:
        tell = _Teller(on_progress, list(work), _earlier_durations(out_root), start)
        for k, (word, (path, values)) in enumerate(work.items()):
            tell("started", k)
            waiting = functools.partial(tell, "waiting", k)
            row, fragment = _run_notebook(path, folder, values, timeout_s=notebook_timeout_s, cwd=cwd, on_wait=waiting)
            write_text(folder / row.page, notebook_page(row, fragment, shown[word], when=when, host=host))
            rows.append(row)
            tell.durations[row.notebook] = row.seconds
            tell("finished", k, status=row.status)
        seconds = time.monotonic() - start
        data = report_json(rows, host=host, host_id=host_id, when=when, parameters=shown)
        write_text(folder / "report.json", data)
        before = previous_report(out_root, host_id)
        index = index_page(
            rows,
            host_card or {},
            warnings,
            when=when,
            host=host,
            seconds=seconds,
            suggestions=_suggestions(data_folder, host_id),
            before=before,
            differences=differences(before, read_report(folder)) if before else (),
            sparks=_sparks(data_folder, host_id),
        )
        write_text(folder / "index.html", index)
        durations = {row.notebook: row.seconds for row in rows if row.status == "ok"}
        write_text(folder / "durations.json", json.dumps(durations, indent=1))
        is_latest = bool(durations or not rows or not _earlier_durations(out_root))
        final = publish(folder, out_root, when, host, latest=is_latest)
    return Report(final, final / "index.html", when, tuple(rows), seconds, is_latest)


class _Teller:
    """Tell the caller how far the report is and what the rest will take."""

    def __init__(
        self,
        on_progress: Callable[[ProgressEvent], None] | None,
        words: list[str],
        earlier: Mapping[str, float],
        start: float,
    ) -> None:
        self.on_progress = on_progress
        self.words = words
        self.earlier = earlier
        self.start = start
        self.durations: dict[str, float] = {}

    def __call__(
        self,
        kind: Literal["started", "waiting", "finished"],
        k: int,
        in_current_s: float = 0.0,
        status: str | None = None,
    ) -> None:
        if self.on_progress is not None:
            unfinished = self.words[k + (kind == "finished") :]
            left = time_left(unfinished, in_current_s, self.earlier, self.durations)
            elapsed = time.monotonic() - self.start
            self.on_progress(ProgressEvent(kind, self.words[k], k + 1, len(self.words), elapsed, left, status))


def _checked_work(
    notebooks: Sequence[Path], parameters: Mapping[str, Mapping[str, object]]
) -> dict[str, tuple[Path, dict[str, Plain]]]:
    """Return path and checked values by word; all that can be refused is refused before an hour of measuring."""
    work: dict[str, tuple[Path, dict[str, Plain]]] = {}
    for notebook in notebooks:
        path = notebook.resolve()
        word = notebook_word(path)
        if word in work:
            raise NotebookError(f"two notebooks are called {word!r}: {work[word][0]} and {path}")
        declared = declared_parameters(read_notebook(path), str(path))
        try:
            work[word] = path, check_parameters(declared, parameters.get(word, {}))
            check_paths(work[word][1])
        except InvalidInputError as error:
            raise InvalidInputError(f"{word}: {error}") from error
    if unknown := [str(word)[:80] for word in parameters if word not in work]:
        raise InvalidInputError(
            f"there are parameters for {unknown}, but the notebooks are: {', '.join(work) or 'none'}"
        )
    return work


def _run_notebook(
    path: Path,
    folder: Path,
    values: Mapping[str, Plain],
    *,
    timeout_s: float,
    cwd: Path | None,
    on_wait: Callable[[float], None],
) -> tuple[ReportRow, str]:
    """Run one notebook into the report's folder; return its row and its page's inner part."""
    with scratch_folder(folder) as scratch:
        work = scratch / "work"
        work.mkdir()
        output = folder / f"{_page_stem(path)}.ipynb"
        job = RenderJob(path, output, values, timeout_s, cwd.resolve() if cwd else work, scratch)
        outcome, seconds = render_in_child(job, timeout_s, on_wait)
        return _row(job, outcome, seconds)


def _page_stem(path: Path) -> str:
    """Return a notebook's part of file names; the report's first page keeps its own."""
    name = safe_name(notebook_word(path))
    return f"{name}-notebook" if name == "index" else name


def _row(job: RenderJob, outcome: RenderOutcome, seconds: float) -> tuple[ReportRow, str]:
    """Return a notebook's row and its page's inner part, as far as the notebook came."""
    word = notebook_word(job.notebook)
    headline, picture, title, fragment, executed = None, None, None, "", ""
    cell = outcome.cell
    try:
        notebook = read_notebook(job.output)
    except NotebookError:
        job.output.unlink(missing_ok=True)  # torn, by a child that was killed while it wrote
    else:
        executed = job.output.name
        if hide_secrets(notebook, job.parameters):
            write_text(job.output, notebook_text(notebook))
        if outcome.status != "ok" and cell is None:
            cell = _running_cell(notebook)
        headline, picture = read_headline(notebook)
        notebook, title = split_title(notebook)
        fragment = to_fragment(notebook)
    row = ReportRow(
        notebook=word,
        title=title or word,
        status=outcome.status,
        error=without_colours(outcome.error)[:_LONGEST_ERROR],
        cell=cell,
        seconds=seconds,
        page=f"{_page_stem(job.notebook)}.html",
        executed=executed,
        headline=headline,
        picture=picture,
    )
    return row, fragment


def _running_cell(notebook: NotebookNode) -> int | None:
    """Return the position, from 1, of the cell that ran when the rendering process was ended; papermill marked it."""
    own = [cell for cell in notebook.cells if not has_tag(cell, INJECTED_TAG)]
    marks = (cell.metadata.get("papermill", {}).get("status") for cell in own)
    return next((position for position, status in enumerate(marks, 1) if status == "running"), None)


def _suggestions(data_folder: Path | None, host_id: str) -> str:
    """Return the table of what was proved on this machine; where it cannot be read the report goes without it."""
    if data_folder is None or not host_id or not data_folder.is_dir():
        return ""
    try:
        return recorded_suggestions(data_folder, host_id)
    except (RecordError, InvalidInputError):
        return ""


def _sparks(data_folder: Path | None, host_id: str) -> tuple[Spark, ...]:
    """Return this machine's recorded lines; where they cannot be read the report goes without them."""
    if data_folder is None or not host_id or not data_folder.is_dir():
        return ()
    try:
        return sparks(load_history(data_folder)[0], host_id)
    except (RecordError, InvalidInputError):
        return ()


def _earlier_durations(out_root: Path) -> dict[str, float]:
    """Return the seconds by word of the previous report; empty where there is none that can be read."""
    try:
        data = json.loads((out_root / "latest" / "durations.json").read_text(encoding="utf-8"))
        return {str(word): float(seconds) for word, seconds in data.items() if math.isfinite(float(seconds))}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
