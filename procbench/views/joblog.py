"""The job log of a batch: a line for each command that has ended, in GNU parallel's columns, from which to go on later.

A line is one write(2) at the end of the file, so that after a SIGKILL at any moment at most the last line is torn. A line
without its end is cut off and its command run again: it cannot be told how much of it is missing.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from procbench.errors import InvalidInputError, ProgramNotFoundError, RecordError
from procbench.scheduling.shown import shell_line
from procbench.scheduling.task import TaskResult

HEADER: Final = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
"""The first line; a file without it is no job log."""

THIS_HOST: Final = b":"
"""What stands for the machine itself."""

NOT_FOUND, NOT_RUNNABLE, NO_STATUS = 127, 126, -1
"""What stands as status where there is none: as in a shell, and -1 for a command that ran out of time."""

_LINE: Final = re.compile(
    rb"([0-9]{1,18})\t([^\t]+)\t *([0-9]{1,18}\.[0-9]{1,9})\t *([0-9]{1,18}\.[0-9]{1,9})"
    rb"\t([0-9]{1,18})\t([0-9]{1,18})\t(-?[0-9]{1,9})\t([0-9]{1,9})\t(.*)",
    re.DOTALL,
)
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Job:
    """A command that has ended, as a job log tells of it.

    Attributes:
        seq: Its place in the list of commands, from 1.
        host: Where it ran; ``:`` for this machine.
        start_s: When it began, seconds since 1970, to the millisecond.
        runtime_s: Seconds that it took, to the millisecond.
        sent_bytes: What it was given on standard input.
        received_bytes: What was captured of its output.
        exitval: Its status; 0 where a signal ended it.
        signal: The signal that ended it, or 0.
        command: The command, as a shell would need it.
    """

    seq: int
    host: bytes
    start_s: float
    runtime_s: float
    sent_bytes: int
    received_bytes: int
    exitval: int
    signal: int
    command: bytes

    @property
    def has_failed(self) -> bool:
        """Whether it ended otherwise than with status 0."""
        return bool(self.exitval or self.signal)

    def line(self) -> bytes:
        """Return it as a line of the log, with its end. Line ends in the command stand as NULs there."""
        numbers = f"{self.start_s:.3f}\t{self.runtime_s:10.3f}\t{self.sent_bytes}\t{self.received_bytes}"
        ended = f"{self.exitval}\t{self.signal}"
        fields = [str(self.seq).encode(), self.host, numbers.encode(), ended.encode()]
        return b"\t".join([*fields, self.command.replace(b"\n", b"\0")]) + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Self | None:
        """Return what a line tells, which is given without its end; ``None`` if it is no such line."""
        found = _LINE.fullmatch(line)
        if found is None or int(found[1]) < 1:
            return None
        numbers = int(found[5]), int(found[6]), int(found[7]), int(found[8])
        return cls(int(found[1]), found[2], float(found[3]), float(found[4]), *numbers, found[9].replace(b"\0", b"\n"))


def job_of(result: TaskResult, seq: int, boot_s: float) -> Job:
    """Return what is logged of a result.

    Args:
        result: The result.
        seq: Its command's place in the list, from 1.
        boot_s: When the clock of ``time.monotonic`` stood at 0, seconds since 1970.
    """
    exitval, number = result.returncode, 0
    if result.error is not None:
        exitval = NOT_FOUND if isinstance(result.error, ProgramNotFoundError) else NOT_RUNNABLE
    elif exitval is not None and exitval < 0:
        exitval, number = 0, -exitval
    if exitval is None or result.timed_out:
        exitval = NO_STATUS
    return Job(
        seq=seq,
        host=THIS_HOST,
        start_s=max(0.0, boot_s + result.started_ns / _SECOND_NS),
        runtime_s=max(0, result.ended_ns - result.started_ns) / _SECOND_NS,
        sent_bytes=result.stdin_bytes,
        received_bytes=result.stdout_bytes + result.stderr_bytes,
        exitval=exitval,
        signal=number or (signal.SIGTERM if result.timed_out else 0),
        command=shell_line(result.args),
    )


@dataclass(frozen=True, slots=True)
class Logged:
    """What a job log holds.

    Attributes:
        jobs: Of every command that has ended, the last time that it did, by its place in the list, from 1.
        whole_bytes: Size of the file without a torn last line.
    """

    jobs: dict[int, Job]
    whole_bytes: int

    def done(self, *, again_if_failed: bool) -> set[int]:
        """Return the places, from 1, of the commands that need not run again."""
        return {seq for seq, job in self.jobs.items() if not (again_if_failed and job.has_failed)}


def read_log(content: bytes, name: str, commands: Sequence[Sequence[str]]) -> Logged:
    """Return what a log says of the commands.

    Args:
        content: The file's bytes; what stands behind the last line end is torn, and passed over.
        name: The file, for messages.
        commands: The commands, in their order.

    Raises:
        InvalidInputError: It is no job log, a line makes no sense, or it tells of other commands.
    """
    if len(content) < len(HEADER) and HEADER.startswith(content):
        return Logged({}, 0)
    if not content.startswith(HEADER):
        raise InvalidInputError(
            f"{name}, line 1: it is no job log: it does not begin with Seq, Host, Starttime and so on; "
            "nothing was changed: name another file"
        )
    whole_bytes = content.rfind(b"\n") + 1
    jobs: dict[int, Job] = {}
    for number, line in enumerate(content[len(HEADER) : whole_bytes].split(b"\n")[:-1], 2):
        job = Job.parse(line)
        if job is None:
            raise InvalidInputError(
                f"{name}, line {number}: {os.fsdecode(line[:80])!r} is no line of a job log, which has nine columns with "
                "tabs between; take it out, and its command runs again"
            )
        if job.seq > len(commands):
            raise InvalidInputError(
                f"{name}, line {number}: it tells of command {job.seq:,}, and there are {len(commands):,} now; "
                "the commands must be those of the first run, in the same order"
            )
        now = shell_line(commands[job.seq - 1])
        if job.command != now:
            raise InvalidInputError(
                f"{name}, line {number}: command {job.seq:,} was {os.fsdecode(job.command[:80])!r} and is "
                f"{os.fsdecode(now[:80])!r} now; the commands must be those of the first run, in the same order"
            )
        jobs[job.seq] = job
    return Logged(jobs, whole_bytes)


class JobLog:
    """A job log that is open for writing; nobody else's batch can have it meanwhile.

    Args:
        path: The file; it is made, readable by its owner alone, because commands may hold secrets.
        commands: The commands, in their order.
        resume: Whether to go on where it ends; otherwise it begins anew.

    Attributes:
        logged: What it held before, without a torn last line; nothing without ``resume``.

    Raises:
        InvalidInputError: It is no job log, it tells of other commands, or another batch writes it; nothing was changed.
        OSError: It cannot be opened or read.
    """

    def __init__(self, path: Path, commands: Sequence[Sequence[str]], *, resume: bool) -> None:
        self.path = path
        self._boot_s = time.time() - time.monotonic()
        # Not O_TRUNC: whether it is a log at all, and nobody's, is looked at first.
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            self.logged = self._prepare(commands, resume)
        except BaseException:
            os.close(self._fd)
            raise

    def _prepare(self, commands: Sequence[Sequence[str]], resume: bool) -> Logged:
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise InvalidInputError(f"--joblog needs a regular file, and {self.path} is none")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInputError(
                f"another batch writes the job log {self.path} now; give each one its own"
            ) from None
        except OSError:  # a file system without locks, some network drives; then nobody is kept out
            pass
        content = self.path.read_bytes()
        if not resume:
            read_log(content[: len(HEADER)], str(self.path), commands)  # what is no log is not thrown away
            content = b""
        logged = read_log(content, str(self.path), commands)
        os.ftruncate(self._fd, logged.whole_bytes)
        if not logged.whole_bytes:
            self._append(HEADER)
        return logged

    def add(self, result: TaskResult, seq: int) -> None:
        """Tell of a command that has ended; of one that was cancelled nothing, so that it runs again.

        Raises:
            RecordError: The line could not be written; the lines before it are as they were.
        """
        if result.outcome != "cancelled":
            self._append(job_of(result, seq, self._boot_s).line())

    def _append(self, line: bytes) -> None:
        before = os.fstat(self._fd).st_size
        try:
            written = os.write(self._fd, line)
            reason = "No space left on device" if written < len(line) else None
        except OSError as error:
            reason = error.strerror or str(error)
        if reason is not None:
            os.ftruncate(self._fd, before)  # another line behind half of one would make neither readable
            raise RecordError(f"cannot write the job log {self.path}: {reason}; the lines before are as they were")

    def close(self) -> None:
        """Give the file free. Harmless when called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def left_to_run(count: int, done: Iterable[int]) -> list[int]:
    """Return the numbers, from 0, of the commands that are not among the done places, which count from 1."""
    known = set(done)
    return [number for number in range(count) if number + 1 not in known]
