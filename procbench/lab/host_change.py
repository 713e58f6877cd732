"""A change of the host that does not outlive its use, whatever happens meanwhile."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

from procbench.analysis.suggestions import HostChange
from procbench.errors import HostChangeError

_PATIENCE_S: Final = 30.0


@contextmanager
def changed_host(change: HostChange) -> Iterator[None]:
    """Make a change of the host for the length of a ``with`` block, and put back exactly what was there.

    Ctrl-C ends the block, and the state is restored first; one that comes while it is restored waits until that is done. Only
    in the main thread can it be made to wait.

    Raises:
        HostChangeError: It could not be made, and nothing was changed; or not undone, and the message says what to run.
    """
    before = _said_by(change.check_argv)
    try:
        _said_by(change.apply_argv)
        yield
    finally:
        with interrupts_wait():
            _undo(change, before)


def _undo(change: HostChange, before: bytes) -> None:
    by_hand = f"run it by hand: {' '.join(change.undo_argv)}"
    try:
        _said_by(change.undo_argv)
        now = _said_by(change.check_argv)
    except HostChangeError as error:
        raise HostChangeError(f"{change.description} could not be undone; {by_hand} ({error})") from error
    if now != before:
        raise HostChangeError(
            f"{change.description} was undone, but {' '.join(change.check_argv)} says {now[:80]!r} and not {before[:80]!r}; "
            f"{by_hand}"
        )


def _said_by(argv: Sequence[str]) -> bytes:
    """Run a command, out of reach of the terminal's Ctrl-C, and return what it printed."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostChangeError(f"{' '.join(argv)} could not be run: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[:200]
        raise HostChangeError(f"{' '.join(argv)} failed with status {done.returncode}: {said}")
    return done.stdout


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended; elsewhere than in the main thread, where it never comes, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    had = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, had)
        if came:
            signal.raise_signal(signal.SIGINT)
