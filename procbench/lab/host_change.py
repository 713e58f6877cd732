"""A change of the host that does not outlive its use, whatever happens meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

from procbench.analysis.suggestions import HostChange
from procbench.errors import CommandTimeoutError, HostChangeError, SpawnError
from procbench.io.blocking import run
from procbench.io.signals import ENDING, EndedBySignal

_PATIENCE_S: Final = 30.0


@contextmanager
def changed_host(change: HostChange) -> Iterator[None]:
    """Make a change of the host for the length of a ``with`` block, and put back exactly what was there.

    Ctrl-C, SIGTERM, SIGHUP and SIGQUIT end the block by an exception, KeyboardInterrupt or
    :class:`procbench.io.signals.EndedBySignal`, and the state is restored first; further ones wait until that is done. Only in
    the main thread can signals be made to wait; Python tells no other thread of them. SIGKILL leaves the change behind.

    Raises:
        HostChangeError: It could not be made, and nothing was changed; or not undone, and the message says what to run.
    """
    before = _said_by(change.check_argv)
    with _Signals() as signals:
        try:
            try:
                signals.wait_no_longer()
                _said_by(change.apply_argv)
                yield
            finally:
                signals.wait()  # a signal that comes until here makes all later ones wait by itself
        finally:
            _undo(change, before)


class HeldChange:
    """A change of the host that stays until it is undone; signals wait while it is made and while it is undone, and only then.

    Raises:
        HostChangeError: It could not be made, and nothing was changed; or not undone, and the message says what to run.
    """

    def __init__(self, change: HostChange) -> None:
        self._change = change
        self._before = _said_by(change.check_argv)
        try:
            with _Signals():
                _said_by(change.apply_argv)
        except BaseException:  # a signal that had to wait, too: nobody has what would undo it later
            self.undo()
            raise

    def undo(self) -> None:
        """Put back exactly what was there.

        Raises:
            HostChangeError: That failed; the message says what to run.
        """
        with _Signals():
            _undo(self._change, self._before)


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
        done = run(argv, capture_output=True, timeout=_PATIENCE_S)  # which leaves no child, wherever a signal comes
    except (SpawnError, CommandTimeoutError) as error:
        raise HostChangeError(f"{' '.join(argv)} could not be run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or b"").decode(errors="replace").strip()[:200]
        raise HostChangeError(f"{' '.join(argv)} failed with status {done.returncode}: {said}")
    return done.stdout or b""


class _Signals:
    """Signals that end a process, made to wait or to raise; elsewhere than in the main thread nothing is done about them.

    Only the first one raises, and from then on all wait: what is put back is not disturbed by impatience.
    """

    def __init__(self) -> None:
        self._waiting = True
        self._came: list[int] = []
        self._had: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGINT, *ENDING):
                    had = signal.getsignal(number)
                    if had not in (None, signal.SIG_IGN):  # ignored ones stay so; None is not Python's to put back
                        self._had[number] = had
                        signal.signal(number, self._note)
        except BaseException:  # a signal that has no handler of ours yet
            self._put_back()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._waiting = True
        self._put_back()
        if self._came and not (
            kind is not None and issubclass(kind, HostChangeError)
        ):  # what to run by hand is said first
            self._answer(self._came[0], None)

    def wait(self) -> None:
        """Let signals wait until the end."""
        self._waiting = True

    def wait_no_longer(self) -> None:
        """Answer a signal that came, and let the next one be answered at once."""
        if self._came:
            self._answer(self._came.pop(), None)
        self._waiting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            self._came.append(number)
            return
        self._waiting = True
        self._answer(number, frame)
        self._waiting = False

    def _answer(self, number: int, frame: FrameType | None) -> None:
        """Do what the handler before would have done; where that is to end at once, end by an exception."""
        had = self._had[number]
        if callable(had):
            had(number, frame)
        else:
            raise EndedBySignal(number)

    def _put_back(self) -> None:
        for number, had in self._had.items():
            signal.signal(number, had)
