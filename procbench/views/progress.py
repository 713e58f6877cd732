"""Say which notebook runs and how long the rest will take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TextIO


@dataclass(frozen=True)
class ProgressEvent:
    """Something happened while a report is built.

    Attributes:
        kind: ``started``, ``waiting`` (about every second) or ``finished``.
        notebook: The notebook's word.
        position: Its place, from 1.
        total: How many notebooks there are.
        elapsed_s: Seconds since the report was begun.
        left_s: Seconds that the rest will take by what is known, ``None`` while nothing is.
        status: How the notebook ended; ``None`` before.
    """

    kind: Literal["started", "waiting", "finished"]
    notebook: str
    position: int
    total: int
    elapsed_s: float
    left_s: float | None
    status: str | None = None


def time_left(
    unfinished: Sequence[str], in_current_s: float, earlier: Mapping[str, float], now: Mapping[str, float]
) -> float | None:
    """Estimate the seconds that the unfinished notebooks will take.

    A notebook takes what it took in the previous report; an unknown one takes the mean of those that are known.

    Args:
        unfinished: Words of the notebooks to come, the running one first.
        in_current_s: Seconds that the running one has used.
        earlier: Seconds by word in the previous report.
        now: Seconds by word in this one.

    Returns:
        Seconds, or ``None`` when no duration is known.
    """
    known = list(now.values()) or list(earlier.values())
    if not unfinished:
        return 0.0
    if not known:
        return None
    mean = sum(known) / len(known)
    current, *later = unfinished
    return max(0.0, earlier.get(current, mean) - in_current_s) + sum(earlier.get(word, mean) for word in later)


def for_people(seconds: float | None) -> str:
    """Return seconds as people say them.

    Example:
        >>> [for_people(seconds) for seconds in (8, 125, 4200, None)]
        ['8 s', '2 min 05 s', '1 h 10 min', 'unknown']
    """
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def progress_bar(stream: TextIO | None = None) -> Iterator[Callable[[ProgressEvent], None]]:
    """Show progress on a stream: a bar on a terminal, else one plain line for each finished notebook.

    Args:
        stream: ``sys.stderr`` by default.

    Yields:
        What `build_report` takes as ``on_progress``.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield lambda event: _plain_line(event, stream)
        return
    from tqdm.std import tqdm  # tqdm.auto would turn into a widget inside a notebook

    bar = tqdm(total=1, file=stream, leave=False, bar_format="{desc} |{bar}| {n_fmt}/{total_fmt}{postfix}")

    def show(event: ProgressEvent) -> None:
        bar.total = event.total
        bar.n = event.position - (event.kind != "finished")
        bar.set_description_str(event.notebook, refresh=False)
        bar.set_postfix_str(f"time left: {for_people(event.left_s)}", refresh=False)
        bar.refresh()

    try:
        yield show
    finally:
        bar.close()


def _plain_line(event: ProgressEvent, stream: TextIO) -> None:
    """Write one line when a notebook has finished."""
    if event.kind == "finished":
        left = f", time left: {for_people(event.left_s)}" if event.position < event.total else ""
        stream.write(f"[{event.position}/{event.total}] {event.notebook}: {event.status}{left}\n")
        stream.flush()
