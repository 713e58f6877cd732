"""``multiprocessing.Queue`` in an interpreter of its own, asked from here and ended from here."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import sys
from typing import Final, Self

from procbench.errors import ProcessGoneError
from procbench.experiments import queues_processes
from procbench.experiments.queues_ways import Load, Passage, passage

_PATIENCE_S: Final = 60


class QueueProcesses:
    """Producers and consumers that are processes; they end with the ``with`` block, by whatever way that is left.

    Args:
        load: How many there are, and the queue's bound.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        numbers = map(str, (load.producers, load.consumers, load.maxsize))
        self._process = subprocess.Popen(
            [sys.executable, "-I", queues_processes.__file__, *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for this process, which ends all of them then
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018 - both asked for
        self._requests, self._answers = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        """The interpreter's process id, and its group's."""
        return self._process.pid

    def pass_through(self, items: int) -> Passage:
        """Put ``items`` numbers through the queue and return how it went.

        Raises:
            ProcessGoneError: The interpreter ended, or said nothing for a minute.
        """
        answered = select.poll()
        answered.register(self._answers, select.POLLIN)
        try:
            self._requests.write(f"{items}\n")
            self._requests.flush()
        except BrokenPipeError as error:
            raise self._gone() from error
        said = self._answers.readline() if answered.poll(1000 * _PATIENCE_S) else ""
        if not said:
            raise self._gone()
        told = json.loads(said)
        return passage(self._load, items, told["seconds"], told["got"])

    def _gone(self) -> ProcessGoneError:
        said = "the interpreter that runs multiprocessing.Queue ended, or said nothing for a minute"
        return ProcessGoneError(errno.ESRCH, f"{said}; what it wrote to standard error says why")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # not reaped yet, so the group is still ours
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):  # it did not read what it was asked
            self._requests.close()
        self._process.wait()
        self._answers.close()
