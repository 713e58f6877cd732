"""Let signals that would end this process at once end it like Ctrl-C does: by an exception that cleans up on its way."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    import asyncio

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that ask a process to end, besides Ctrl-C."""

INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit status after Ctrl-C, as a shell has it."""


class EndedBySignal(SystemExit):
    """A signal asked this process to end; the status is 128 and the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)

    def __reduce__(self) -> tuple[type[EndedBySignal], tuple[int]]:
        return type(self), (int(self.signal),)


@contextlib.contextmanager
def ending_by_exception() -> Iterator[None]:
    """Raise :class:`EndedBySignal` in the block when SIGTERM, SIGHUP or SIGQUIT arrives, so that no child outlives this process.

    Left alone, these signals end Python at once: no ``finally`` runs, and children live on. With this around a program's main
    part, ``run`` ends its command, a scheduler what it runs, and ``asyncio.run`` cancels every task, so that ``open_process``
    ends its command: by SIGTERM, and by SIGKILL when ``kill_grace_s`` is over. A second signal kills at once. Then the process
    ends with status 128 and the signal, 143 for SIGTERM::

        with procbench.ending_by_exception():
            main()

    It stands outside of ``asyncio.run``. A signal that was ignored stays ignored.

    Raises:
        ValueError: This is not the main thread, which alone is told of signals.
    """
    handler = _Handler()
    # None is a handler that is not Python's, and that Python could not put back.
    before = {one: old for one in ENDING if (old := signal.getsignal(one)) not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, disposition in before.items():
            signal.signal(number, disposition)


class _Handler:
    """Raises where a signal arrives; in an event loop, between two callbacks."""

    def __init__(self) -> None:
        self._asked = self._told = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        loop = _running_loop()
        if loop is None:
            raise EndedBySignal(number)
        if not self._asked:
            self._asked = True
            # In the midst of a callback, the loop's own or a child's, an exception could tear what nobody mends.
            loop.call_soon_threadsafe(self._tell, number)
        elif self._told:
            import asyncio

            for task in asyncio.all_tasks(loop):
                loop.call_soon_threadsafe(task.cancel)  # those that are ending their commands kill them
        else:
            raise EndedBySignal(number)  # something keeps the loop from its turn

    def _tell(self, number: int) -> NoReturn:
        self._told = True
        raise EndedBySignal(number)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    loaded = sys.modules.get("asyncio")  # no loop runs in a program that never loaded it
    if loaded is None:
        return None
    try:
        loop: asyncio.AbstractEventLoop = loaded.get_running_loop()
    except RuntimeError:
        return None
    return loop
