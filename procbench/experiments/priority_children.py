"""The children of the priority experiment: some use all the CPU they get, some sleep until a time and say how late they woke.

Each is pinned to one logical CPU as a scheduler's worker does it: the thread that starts it pins itself first, and the child
inherits that. A child ends by itself when this process is gone, so that none is left to spin whatever happens.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Final, NamedTuple, Self

from procbench.cpu.pinning import pin_current_thread
from procbench.errors import ProcessGoneError
from procbench.io.spawn import spawn

SLEEP_S: Final = 0.0023
"""From one wake-up to the next; no multiple of a clock tick of 1, 4 or 10 ms, so that all its phases are met."""

_PATIENCE_S: Final = 60.0

_SPINNING: Final = """
import os, sys
os.write(1, b"r")
while os.getppid() == int(sys.argv[1]):
    for _ in range(100000): pass
"""

# A timer may be late by the thread's timer slack, 50 us unless asked otherwise, so that several share one interrupt.
_SLEEPING: Final = """
import os, sys, time
try: open("/proc/self/timerslack_ns", "w").write("1")
except OSError: pass
pause = float(sys.argv[2])
os.write(1, b"r")
while (asked := os.read(0, 64)):
    late, now = [], time.monotonic()
    end, due = now + float(asked), now
    while now < end:
        due = max(due + pause, now)
        time.sleep(max(0, due - time.monotonic()))
        now = time.monotonic()
        late.append(str(round(1e9 * (now - due))))
    os.write(1, b" ".join(map(str.encode, late)) + b"\\n")
"""


class _Running(NamedTuple):
    pid: int
    pidfd: int
    write_end: int
    read_end: int


class Child:
    """One child that runs, pinned to a logical CPU.

    Attributes:
        pid: Its number; it is not reaped, and the number nobody else's, before its ``Children`` are ended.
        cpu: The logical CPU.
    """

    def __init__(self, running: _Running, cpu: int) -> None:
        self.pid = running.pid
        self.cpu = cpu
        self._running = running

    def cpu_time_ns(self) -> int:
        """Return the CPU time that it has used so far, to the nanosecond and not to the clock tick.

        Source: clock_getcpuclockid(3); the number is the kernel's for the scheduler's count of a whole process.
        """
        return time.clock_gettime_ns((~self.pid << 3) | 2)

    def lateness_ns(self, duration_s: float) -> list[int]:
        """Have a sleeping child sleep again and again for a while, and return by how much it woke late each time.

        Raises:
            ProcessGoneError: It ended, or said nothing for a minute.
        """
        os.write(self._running.write_end, f"{duration_s}\n".encode())
        text = b""
        while not text.endswith(b"\n"):
            text += _read(self._running.read_end, self.pid)
        return [int(word) for word in text.split()]

    def stop(self) -> None:
        """Let it stand still (SIGSTOP)."""
        signal.pidfd_send_signal(self._running.pidfd, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run on (SIGCONT)."""
        signal.pidfd_send_signal(self._running.pidfd, signal.SIGCONT)


class Children:
    """Starts children, and ends all of them when the ``with`` block is left, by whatever way."""

    def __init__(self) -> None:
        self._asked: list[Future[_Running]] = []

    def spinning(self, cpu: int) -> Child:
        """Start a child that uses all the CPU time it gets, and return it once it does.

        Raises:
            SpawnError: It could not be started.
            InvalidInputError: This process may not use that CPU.
            ProcessGoneError: It ended at once.
        """
        return self._start([sys.executable, "-I", "-S", "-c", _SPINNING, str(os.getpid())], cpu)

    def sleeping(self, cpu: int) -> Child:
        """Start a child that waits to be asked for its lateness; errors are those of :meth:`spinning`."""
        return self._start([sys.executable, "-I", "-S", "-c", _SLEEPING, str(os.getpid()), str(SLEEP_S)], cpu)

    def _start(self, argv: Sequence[str], cpu: int) -> Child:
        started: Future[_Running] = Future()
        self._asked.append(started)
        # Not in this thread: it would stay pinned, and Ctrl-C could strike between a child's start and its being noted.
        threading.Thread(target=_start, args=(argv, cpu, started), name="procbench-start", daemon=True).start()
        running = started.result()
        _read(running.read_end, running.pid)
        return Child(running, cpu)

    def end(self) -> None:
        """Kill and reap every child; ending again does nothing."""
        running = [started.result() for started in self._asked if started.exception() is None]
        for child in running:  # first all of them: one of low weight needs its CPU to end
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        for child in running:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
            for fd in (child.pidfd, child.write_end, child.read_end):
                os.close(fd)
        self._asked.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _start(argv: Sequence[str], cpu: int, started: Future[_Running]) -> None:
    """Pin this thread, which ends then, and start a child from it."""
    ends: list[int] = []
    try:
        pin_current_thread({cpu})
        for _ in range(2):
            ends.extend(os.pipe2(os.O_CLOEXEC))
        stdin, write_end, read_end, stdout = ends
        child = spawn(argv, stdin=stdin, stdout=stdout)
    except BaseException as error:
        for fd in ends:
            os.close(fd)
        started.set_exception(error)
        return
    os.close(stdin)
    os.close(stdout)
    started.set_result(_Running(child.pid, child.pidfd, write_end, read_end))


def _read(fd: int, pid: int) -> bytes:
    """Return what a child says next.

    Raises:
        ProcessGoneError: It ended, or said nothing for a minute.
    """
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    said = os.read(fd, 1 << 16) if waiting.poll(1000 * _PATIENCE_S) else b""
    if not said:
        raise ProcessGoneError(errno.ESRCH, f"child {pid} of the experiment ended, or got no CPU for {_PATIENCE_S:g} s")
    return said
