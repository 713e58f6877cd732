"""What the tests of real processes share: wait for a condition, find a process by its argv, run Python on its own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
SYSTEM_PYTHON = Path("/usr/bin/python3")

_numbers = itertools.count(1)


def wait_until(condition: Callable[[], object], what: str = "the condition", deadline_s: float = 20.0) -> None:
    """Return once ``condition()`` holds; fail when it does not within the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {deadline_s} s"
        time.sleep(0.005)


def long_sleep() -> str:
    """Return a duration for sleep(1), a minute and a half, that no other process on this machine has in its argv."""
    return f"90.{os.getpid():07d}{next(_numbers):04d}{time.monotonic_ns() % 10**6:06d}"


def processes_with(marker: str) -> list[int]:
    """Return the pids, this process's excepted, whose argv holds ``marker``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def run_python(code: str, *args: object, before: tuple[str, ...] = (), python: object = sys.executable) -> str:
    """Run ``code`` in an interpreter of its own, ``before`` in front of it, and return what it printed."""
    argv = [*before, str(python), "-W", "error", "-c", code, *map(str, args)]
    # sys.executable may be a virtual environment's; another Python gets only this checkout
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd="/", timeout=120, check=False)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


class Gate:
    """Commands that stay until the gate is opened: each waits for the end of a named pipe."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gate"
        os.mkfifo(self.path)
        # both ends are held, so a child's open never waits and its read does until all writers are gone
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    @property
    def argv(self) -> list[str]:
        return ["cat", str(self.path)]

    def wait_for(self, count: int) -> None:
        """Return when so many commands stand at the gate."""
        wait_until(lambda: sum(map(self._stands_at, processes_with(str(self.path)))) == count)

    def _stands_at(self, pid: int) -> bool:
        """Return whether the process has the pipe open; before that, opening the gate would shut it out."""
        try:
            return any(fd.readlink() == self.path for fd in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            return False

    def open(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
