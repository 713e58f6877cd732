"""How a widget gets what it shows: from any thread, painted at most so often, and the latest value wins.

A cell that runs keeps the kernel's loop busy, so what is painted there would stand still until the cell has ended. So each open
widget has a thread of its own that paints; it sleeps until it is given something, and messages to the page are thread-safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")

INTERVAL_S: Final = 0.25
"""Least seconds between two paintings: four a second look alive, and a page has time for everything else."""

_JOIN_S: Final = 10.0


class Feed(Generic[Value]):
    """Paints what it was given last, in a thread of its own. Thread-safe.

    Args:
        paint: Shows a value; called by one thread at a time, with :attr:`lock` held.
        interval_s: Least seconds between the beginnings of two paintings.
        name: The thread's.
        on_error: Told what ``paint`` raised, in the same thread.

    Attributes:
        lock: Held while something is painted. A button's handler that changes what is painted takes it, too.
        error: What ``paint`` raised last; None if nothing.
        painted: How often it painted.
    """

    def __init__(
        self,
        paint: Callable[[Value], object],
        interval_s: float = INTERVAL_S,
        name: str = "widget",
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self.error: Exception | None = None
        self.painted = 0
        self._paint = paint
        self._on_error = on_error
        self._interval_s = interval_s
        self._name = f"procbench-{name}"
        self._changed = threading.Condition()
        self._waiting: list[Value] = []  # none or one
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def offer(self, value: Value) -> None:
        """Have a value painted soon, in place of one that waits. Returns at once; nothing happens once it is closed."""
        with self._changed:
            if self._closed:
                return
            self._waiting[:] = [value]
            if self._thread is None:
                # A daemon, because a forgotten widget must not keep the kernel from ending.
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def settle(self, timeout: float = _JOIN_S) -> bool:
        """Wait until everything that was offered is painted, or something later; return whether it is."""
        if threading.current_thread() is self._thread:
            return False
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or not (self._waiting or self._busy), timeout)

    def close(self) -> None:
        """Paint what waits, and end. Harmless when called twice, and from what is painted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)

    def _run(self) -> None:
        next_s = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                # Later values may come meanwhile, and take the place of the one that waits.
                self._changed.wait_for(lambda: self._closed, max(0.0, next_s - time.monotonic()))
                if not self._waiting:
                    return
                value = self._waiting.pop()
                self._busy = True
            next_s = time.monotonic() + self._interval_s
            try:
                with self.lock:
                    self._paint(value)
            except Exception as error:  # what is painted next may work
                self.error = error
                if self._on_error is not None:
                    self._on_error(error)
            finally:
                with self._changed:
                    self.painted += 1
                    self._busy = False
                    self._changed.notify_all()
