"""Run one notebook in a child process within a wall-clock limit, and leave nothing of it behind."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from procbench.views.families import MARKER_VARIABLE, end_family, end_marked
from procbench.views.render import RenderJob, RenderOutcome, child_environment, outcome_from_json

_TICK_S = 1.0  # how often a waiting caller hears of the time that passed; rare enough not to disturb a measurement
_LONGEST_ANSWER = 100_000
_SHOWN_STDERR = 4_000


@dataclass(frozen=True)
class ChildEnd:
    """How a child ended.

    Attributes:
        returncode: Its exit status; negative is a signal.
        output: What it wrote to stdout, the first 100 kB.
        errors: The end of what it wrote to stderr.
        timed_out: Whether it ran into the limit and was ended with its descendants.
        seconds: Wall time.
    """

    returncode: int
    output: str
    errors: str
    timed_out: bool
    seconds: float


def run_child(
    argv: Sequence[str],
    *,
    job: str,
    env: Mapping[str, str],
    folder: Path,
    timeout_s: float,
    on_wait: Callable[[float], None] | None = None,
) -> ChildEnd:
    """Run a child that is the subreaper of what it starts; end its whole family at the limit.

    Its streams are files, not pipes: a forgotten grandchild that holds a pipe open would make the reader wait for it.
    No process of the family survives this call, however it ends, Ctrl-C included.

    Args:
        argv: The command.
        job: What it reads on stdin.
        env: Its environment; a marker is added.
        folder: A private folder for its streams; also its working folder.
        timeout_s: Wall-clock limit in seconds.
        on_wait: Called about every second with the seconds that have passed.
    """
    marker = uuid.uuid4().hex
    (folder / "stdin").write_text(job, encoding="utf-8")
    start = time.monotonic()
    timed_out = False
    with (
        (folder / "stdin").open("rb") as stdin,
        (folder / "stdout").open("wb") as out,
        (folder / "stderr").open("wb") as err,
    ):
        child = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=out,
            stderr=err,
            cwd=folder,
            env={**env, MARKER_VARIABLE: marker},
            start_new_session=True,
        )
        try:
            timed_out = not _ended_within(child.pid, start, timeout_s, on_wait)
        finally:
            end_family(child.pid)
            child.wait()
            end_marked(marker)  # the orphans of a child that somebody else killed
    return ChildEnd(
        child.returncode,
        _text(folder / "stdout", 0, _LONGEST_ANSWER),
        _text(folder / "stderr", -_SHOWN_STDERR, _SHOWN_STDERR),
        timed_out,
        time.monotonic() - start,
    )


def render_in_child(
    job: RenderJob, timeout_s: float, on_wait: Callable[[float], None] | None = None
) -> tuple[RenderOutcome, float]:
    """Execute a notebook in a child process, see `procbench.views.render`.

    Where the child was ended, what it had finished stands under ``job.output`` if it can be read.

    Returns:
        How it ended, and the seconds it took.
    """
    end = run_child(
        [sys.executable, "-P", "-m", "procbench.views.render"],
        job=job.to_json(),
        env=child_environment(job.scratch, os.environ),
        folder=job.scratch,
        timeout_s=timeout_s,
        on_wait=on_wait,
    )
    outcome = outcome_from_json(end.output)
    if end.timed_out:
        outcome = RenderOutcome("timed_out", f"the notebook ran past its limit of {timeout_s:g} s and was ended")
    elif outcome is None:
        how = f"by signal {-end.returncode}" if end.returncode < 0 else f"with status {end.returncode}"
        outcome = RenderOutcome("failed", f"the rendering process ended {how}\n{end.errors}".strip())
    if job.partial_output.exists() and not job.output.exists():
        job.partial_output.replace(job.output)
    return outcome, end.seconds


def _ended_within(pid: int, start: float, timeout_s: float, on_wait: Callable[[float], None] | None) -> bool:
    """Wait for a child's end until the limit; return whether it came."""
    handle = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        while (left := timeout_s - (time.monotonic() - start)) > 0:
            if poller.poll(min(left, _TICK_S) * 1000):
                return True
            if on_wait is not None:
                on_wait(time.monotonic() - start)
        return bool(poller.poll(0))
    finally:
        os.close(handle)


def _text(path: Path, position: int, size: int) -> str:
    """Return a part of a file as text; a negative position counts from its end."""
    with path.open("rb") as file:
        file.seek(max(0, position + file.seek(0, os.SEEK_END)) if position < 0 else position)
        return file.read(size).decode("utf-8", "replace")
