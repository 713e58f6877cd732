"""A task is a command; a task result is how it ended, where it ran and how long it waited."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from procbench.cpu.priorities import Priority, check_priority
from procbench.errors import DependencyError, InvalidInputError, SpawnError
from procbench.io.command import Argument
from procbench.io.results import RunResult, maker
from procbench.memory.mapping import MemoryMapping

Outcome = Literal["succeeded", "failed", "timed_out", "cancelled"]

_ids = itertools.count(1)
_SECOND_NS = 1_000_000_000
_TEXT = (str, bytes)
_BYTES = (bytes, bytearray, memoryview, MemoryMapping)


@dataclass(frozen=True, slots=True)
class ProcessTask:
    """A command to be run.

    Attributes:
        argv: Program and arguments; never given to a shell.
        cwd: Working directory; ``None`` for this process's.
        env: The whole environment; ``None`` for this process's.
        stdin: Bytes or a mapping for standard input; ``None`` for ``/dev/null``. They must not change until the task ended.
        timeout: Seconds until it is ended; ``None`` for what the settings say.
        priority: ``critical``, ``high``, ``normal`` or ``low``: whose turn comes first while tasks wait.
        after: Ids of tasks of the same batch that must succeed before it begins.
        retries: How many times it is run again if it fails; ``None`` for what the settings say.
        expected_s: Seconds that it is expected to take, such as those it took last time; what ``order="longest_first"`` goes by.
        id: What results refer to; counted up where it is not given.
        created_ns: When it was made, nanoseconds of ``time.monotonic_ns()``.

    Raises:
        InvalidInputError: ``argv`` is a string, ``timeout``, ``retries`` or ``expected_s`` is negative, ``after`` is no list of
            ids, or there is no such ``priority``. An argv that cannot be run, an empty one say, is not refused here: its
            result says so, and the other tasks run.
    """

    argv: Sequence[Argument]
    cwd: Argument | None = None
    env: Mapping[str, str] | None = None
    stdin: bytes | MemoryMapping | None = None
    timeout: float | None = None
    priority: Priority = "normal"
    after: Sequence[int | str] = ()
    retries: int | None = None
    expected_s: float | None = None
    id: int | str = field(default_factory=_ids.__next__)
    created_ns: int = field(default_factory=time.monotonic_ns)

    def __post_init__(self) -> None:
        if isinstance(self.argv, _TEXT):
            raise InvalidInputError(f"argv must be a list such as ['gzip', 'file'], not the string {self.argv!r}")
        if self.stdin is not None and not isinstance(self.stdin, _BYTES):
            raise InvalidInputError(
                f"stdin is {type(self.stdin).__name__}; it must be bytes, such as text.encode(), or a MemoryMapping"
            )
        if self.timeout is not None and not self.timeout >= 0:
            raise InvalidInputError(f"timeout is {self.timeout}; it must not be negative")
        if self.after != ():
            _check_after(self.after)
        if self.retries is not None and (type(self.retries) is not int or self.retries < 0):
            raise InvalidInputError(f"retries is {self.retries!r}; it must be a whole number of at least 0")
        if self.expected_s is not None and not self.expected_s >= 0:
            raise InvalidInputError(f"expected_s is {self.expected_s}; it must be a number of seconds of at least 0")
        if self.priority != "normal":  # as most are, and there are many
            check_priority(self.priority)

    @property
    def command(self) -> str:
        """The program."""
        return os.fsdecode(self.argv[0]) if self.argv else ""


def _check_after(after: Sequence[int | str]) -> None:
    if (
        isinstance(after, _TEXT)
        or not isinstance(after, Sequence)
        or not all(isinstance(id, int | str) for id in after)
    ):
        raise InvalidInputError(f"after is {after!r}; it must be a list of tasks' ids, such as ['compile', 'fetch']")


@dataclass(frozen=True, slots=True)
class TaskResult(RunResult):
    """How a task ended: everything that a ``RunResult`` says, and what the scheduler knows.

    Attributes:
        task: The task.
        error: Why it could not be started, or was not because of a task that it came after; ``None`` if it was.
        submitted_ns: When it was handed to the scheduler, nanoseconds of ``time.monotonic_ns()``.
        worker: Number of the worker that ran it, from 0; -1 if none was to.
        stolen_from: Number of the worker whose queue it was stolen from; ``None`` if it was not stolen.
        attempts: How many times it was tried; all but ``submitted_ns`` is of the last one.
    """

    task: ProcessTask
    error: SpawnError | DependencyError | None
    submitted_ns: int
    worker: int
    stolen_from: int | None
    attempts: int = 1

    @classmethod
    def not_started(
        cls,
        task: ProcessTask,
        error: SpawnError | DependencyError,
        submitted_ns: int,
        worker: int = -1,
        stolen_from: int | None = None,
        attempts: int = 1,
    ) -> Self:
        """Return the result of a task whose command was not started; what could not be measured is NaN or 0."""
        now = time.monotonic_ns()
        return cls(
            args=task.argv,
            returncode=None,
            stdout=None,
            stderr=None,
            stdout_bytes=0,
            stderr_bytes=0,
            truncated=False,
            stdout_over=None,
            stderr_over=None,
            tee_error=None,
            stdin_bytes=0,
            stdin_error=None,
            transport=None,
            transport_fallback=None,
            pipe_size_bytes=None,
            user_s=math.nan,
            system_s=math.nan,
            peak_memory_bytes=0,
            peak_memory_is_bound=True,
            minor_faults=0,
            major_faults=0,
            voluntary_switches=0,
            involuntary_switches=0,
            pid=0,
            started_ns=now,
            ended_ns=now,
            timed_out=False,
            cancelled=isinstance(error, DependencyError),
            stop_phase=None,
            pipe_held_by_descendant=False,
            limit_hit=None,
            containment="none",
            survivors=(),
            task=task,
            error=error,
            submitted_ns=submitted_ns,
            worker=worker,
            stolen_from=stolen_from,
            attempts=attempts,
        )

    @property
    def outcome(self) -> Outcome:
        """One word for the end: ``succeeded`` (status 0), ``failed``, ``timed_out`` or ``cancelled``."""
        if self.timed_out:
            return "timed_out"
        if self.cancelled:
            return "cancelled"
        return "succeeded" if self.returncode == 0 else "failed"

    @property
    def queue_wait_s(self) -> float:
        """Seconds between handing it in and the beginning of its spawn."""
        return (self.started_ns - self.submitted_ns) / _SECOND_NS

    def check_returncode(self) -> None:
        """Raise if the command failed.

        Raises:
            SpawnError: It could not be started.
            DependencyError: It was not started, because a task that it came after did not succeed.
            CommandFailedError: Its status is not 0.
        """
        if self.error is not None:
            raise self.error
        RunResult.check_returncode(self)


task_result: Final = maker(TaskResult)
"""Makes a ``TaskResult`` of its fields, in their order, for who makes many."""
