"""Let signals that would end this process at once end it like Ctrl-C does: by an exception that cleans up on its way."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that ask a process to end, besides Ctrl-C."""


class EndedBySignal(SystemExit):
    """A signal asked this process to end; the status is 128 and the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def ending_by_exception() -> Iterator[None]:
    """Raise :class:`EndedBySignal` where SIGTERM, SIGHUP or SIGQUIT arrives. Main thread only."""

    def handler(number: int, _frame: FrameType | None) -> NoReturn:
        raise EndedBySignal(number)

    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number, disposition in before.items():
            if disposition != signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, disposition in before.items():
            signal.signal(number, disposition)
