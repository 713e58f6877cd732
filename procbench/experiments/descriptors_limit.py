"""Real batches at a limit of descriptors, in an interpreter of their own that is watched from outside.

What a process has open is counted by another one, because at the limit it has no descriptor left to count with.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from procbench.errors import ProcessGoneError
from procbench.scheduling.settings import RunSettings

WAIT: Final = "wait"
PATIENT: Final = "off, tries again"
OFF: Final = "off, one try"
FAIL: Final = "fail"

SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    WAIT: {"descriptors": "wait"},
    PATIENT: {"descriptors": "off"},
    OFF: {"descriptors": "off", "spawn_patience_s": 0},
    FAIL: {"descriptors": "fail"},
}
"""What a batch is run with, by what figures and tables call it; the first is what the others are compared with."""

_PER_WORKER: Final = 2  # descriptors that it holds while it runs batches: its wake-up, and its spare or /dev/null
_FOR_OTHERS: Final = 16  # the interpreter's own, and one child's with its pipes
_LOOK_EVERY_MS: Final = 1
_PATIENCE_S: Final = 120.0


def least_limit(workers: int) -> int:
    """Return how many descriptors so many workers need at least to run their commands one at a time."""
    return _PER_WORKER * workers + _FOR_OTHERS


class Batch(NamedTuple):
    """How a batch went.

    Attributes:
        way: One of ``SETTINGS``.
        tasks: Commands that were asked for.
        done: Those that ended with status 0.
        refused: Those for which there was no descriptor (EMFILE).
        waits: Times that one waited for permits.
        peak: Most descriptors that were seen open at a time; ``None`` where /proc does not say.
        limit: Most that the kernel allows.
        left: Descriptors that were open afterwards and not before.
        wall_s: Seconds for all commands.
    """

    way: str
    tasks: int
    done: int
    refused: int
    waits: int
    peak: int | None
    limit: int
    left: int
    wall_s: float


class LimitedInterpreter:
    """Runs batches with ``limit`` descriptors; it ends with the ``with`` block, by whatever way that is left.

    Args:
        limit: Descriptors that its kernel allows it; this process's own limit stays as it is.
        workers: Commands at a time.
        tasks: Commands in a batch.
    """

    def __init__(self, limit: int, workers: int, tasks: int) -> None:
        self._limit, self._workers, self._tasks = limit, workers, tasks
        home = str(Path(__file__).resolve().parents[2])
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "procbench.experiments.descriptors_batch", str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            process_group=0,  # Ctrl-C is for this process, which ends it then
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018 - both asked for
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._answered = select.poll()
        self._answered.register(self._answers, select.POLLIN)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def run(self, way: str) -> Batch:
        """Run a batch with the settings of that name and return how it went.

        Raises:
            ProcessGoneError: The interpreter ended, or said nothing for two minutes.
        """
        settings = RunSettings(workers=self._workers, capture=True, **SETTINGS[way])
        request = json.dumps({"settings": settings.to_dict(), "tasks": self._tasks})
        deadline, peak = time.monotonic() + _PATIENCE_S, 0
        try:
            self._requests.write(request + "\n")
            self._requests.flush()
        except BrokenPipeError as error:
            raise self._gone() from error
        while not self._answered.poll(_LOOK_EVERY_MS):
            peak = max(peak, self._count_open())
            if time.monotonic() > deadline:
                raise self._gone()
        said = self._answers.readline()
        if not said:
            raise self._gone()
        told = json.loads(said)
        return Batch(way, self._tasks, limit=self._limit, peak=peak or None, **told)

    def _count_open(self) -> int:
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - names are enough, and asked for often
        except OSError:
            return 0

    def _gone(self) -> ProcessGoneError:
        said = (
            f"the interpreter that runs batches with {self._limit} descriptors ended, or said nothing for two minutes"
        )
        return ProcessGoneError(errno.ESRCH, f"{said}; what it wrote to standard error says why")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # in the middle of a batch; what it runs ends by itself
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):  # it did not read what it was asked
            self._requests.close()
        self._process.wait()
        self._answers.close()
