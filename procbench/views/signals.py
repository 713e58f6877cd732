"""Let signals that would end this process at once end it like Ctrl-C does: by an exception that cleans up on its way."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that ask a process to end, besides Ctrl-C."""


@contextlib.contextmanager
def ending_by_exception() -> Iterator[None]:
    """Raise ``SystemExit`` with status 128 and the signal where SIGTERM, SIGHUP or SIGQUIT arrives. Main thread only."""

    def handler(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number, disposition in before.items():
            if disposition != signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, disposition in before.items():
            signal.signal(number, disposition)
