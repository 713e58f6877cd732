"""Every exception of procbench, sorted by whose doing it was.

``ProcbenchError`` stands above all of them. Where the standard library already has a word for the case, the class inherits
from that too, so ``except FileNotFoundError`` or ``except queue.Full`` keeps working. All of them pickle.
"""

from __future__ import annotations

import errno as _errno
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

if sys.version_info >= (3, 13):
    from queue import ShutDown as _StandardShutDown
else:

    class _StandardShutDown(Exception):
        """What ``queue.ShutDown`` is from Python 3.13 on."""


Stage = Literal["resolve", "cwd", "exec", "limits", "input"]


class ProcbenchError(Exception):
    """Above every exception that procbench raises by itself."""


class InvalidInputError(ProcbenchError, ValueError):
    """A value that procbench was given makes no sense; the message says what, why and what to do."""


class ClosedError(ProcbenchError, RuntimeError):
    """You closed it: the scheduler, queue or pool takes no more work."""


class UnsupportedError(ProcbenchError, OSError):
    """The kernel or libc lacks a feature; the message names it and the version that brought it."""


class QueueFullError(ProcbenchError, queue.Full):
    """The queue is at its bound and the caller would not, or no longer, wait."""


class QueueEmptyError(ProcbenchError, queue.Empty):
    """The queue has nothing and the caller would not, or no longer, wait."""


class QueueShutDownError(ClosedError, _StandardShutDown):
    """The queue was shut down: nothing can be put, or nothing is left to get. From Python 3.13 on a ``queue.ShutDown``."""


class TaskDoneError(ProcbenchError, ValueError):
    """``task_done`` was called more often than items were put; nothing was counted."""


class BufferPoolError(ProcbenchError):
    """Above what a buffer pool refuses."""


class PoolExhaustedError(BufferPoolError, BlockingIOError):
    """Every buffer of the pool is out and the caller would not, or no longer, wait."""


class BufferSizeError(BufferPoolError, ValueError):
    """More bytes were asked for than the pool's buffers have."""


class ForeignBufferError(BufferPoolError, ValueError):
    """The buffer belongs to another pool."""


class DoubleReleaseError(BufferPoolError, RuntimeError):
    """The buffer was released already; releasing it again would have given it to two borrowers at once."""


class BufferReleasedError(BufferPoolError, ValueError):
    """The buffer was released; its memory may belong to somebody else by now."""


class BufferInUseError(BufferPoolError, BufferError):
    """A view of the buffer, or a slice of one, is still alive; drop it before the memory can go to somebody else."""


class MappingError(ProcbenchError, OSError):
    """The kernel refused a memory mapping; ``errno`` says why."""


class MappingTruncatedError(MappingError):
    """A mapped file became shorter than the mapping, so that part of it is no longer there (no SIGBUS: it was seen in time)."""


class MappingLentError(MappingError, BufferError):
    """The mapping's pages stand in a pipe, or somebody holds a view of them; what was asked would change them there."""


class MappingSealedError(MappingError, PermissionError):
    """The mapping is sealed or read-only; nothing can be written to it."""


class DescriptorError(ProcbenchError):
    """Above what a descriptor budget or manager refuses."""


class DescriptorsSpentError(DescriptorError, OSError):
    """No descriptor is left for it (EMFILE, ENFILE), and the caller would not, or no longer, wait; nothing was opened."""


class PermitReleaseError(DescriptorError, RuntimeError):
    """More permits were given back than are out, so that somebody counts wrongly; nothing was changed."""


class StaleDescriptorError(DescriptorError, ValueError):
    """The handle was closed; its number may be somebody else's by now, so the kernel was told nothing."""


class DescriptorsInUseError(DescriptorError, RuntimeError):
    """Handles of the manager are out; close them before it."""


class DescriptorUsageWarning(UserWarning):
    """Most of the descriptors that this process may have are in use; soon its children wait for one another's."""


class ProcessGoneError(ProcbenchError, ProcessLookupError):
    """The process has ended, or there never was one with that number; nothing was done to whoever has it now (ESRCH)."""


class PermissionDeniedError(ProcbenchError, PermissionError):
    """The kernel does not let this user do that; the message names the capability or the limit that would."""


class StreamBusyError(ProcbenchError, RuntimeError):
    """Another coroutine waits on that stream; one at a time may."""


class StreamBrokenError(ProcbenchError, BrokenPipeError):
    """The child closed its standard input, or ended, before it had everything (EPIPE).

    Attributes:
        sent_bytes: How much the pipe had taken of everything that was written to the stream.
    """

    def __init__(self, errno: int, message: str, sent_bytes: int = 0) -> None:
        super().__init__(errno, message)
        self.sent_bytes = sent_bytes

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self), (self.errno, self.strerror, self.sent_bytes)


class LineTooLongError(ProcbenchError, ValueError):
    """A line has no end within the limit that the reader set. Nothing is lost: it stays unread.

    Attributes:
        limit_bytes: The limit.
        partial: The line's first ``limit_bytes``.
    """

    def __init__(self, limit_bytes: int, partial: bytes) -> None:
        super().__init__(
            f"no end of the line in the first {limit_bytes} bytes; it stays unread: raise limit_bytes, or read(n)"
        )
        self.limit_bytes = limit_bytes
        self.partial = partial

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self), (self.limit_bytes, self.partial)


class SpawnError(ProcbenchError, OSError):
    """A child could not be started. Nothing was left behind: no process, no descriptor.

    Attributes:
        errno: What the kernel said.
        stage: Where it failed: ``resolve`` (finding the program, reading the argv), ``cwd`` (entering the working
            directory), ``exec`` (the kernel refused the program), ``limits`` (no descriptor, process or memory left,
            or the arguments are too long) or ``input`` (a task's mapping is closed, lent or viewed).
        program: The program that was to run.
    """

    def __init__(self, errno: int, stage: Stage, program: str, hint: str = "") -> None:
        message = os.strerror(errno) + (f"; {hint}" if hint else "")
        super().__init__(errno, message, program)
        self.stage: Stage = stage
        self.program = program
        self.hint = hint

    def __str__(self) -> str:
        return f"cannot start {self.program!r}: {self.strerror} (stage {self.stage}, {_errno.errorcode.get(self.errno or 0)})"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self), (self.errno, self.stage, self.program, self.hint)


class ProgramNotFoundError(SpawnError, FileNotFoundError):
    """The program, its interpreter, or the working directory does not exist (ENOENT)."""


class ProgramPermissionError(SpawnError, PermissionError):
    """The program or the working directory may not be entered (EACCES, EPERM)."""


class CommandArgumentError(SpawnError, ValueError):
    """The argv or environment cannot be passed to any program: it is empty or holds a NUL (EINVAL)."""


class SpawnLimitError(SpawnError, BlockingIOError):
    """The system has no process or descriptor left at the moment (EAGAIN, EMFILE, ENFILE, ENOMEM); later may work."""


class LimitRefusedError(SpawnError):
    """A child had begun and could not be kept to its limits, so it was ended again; it may have done something already.

    Most often a set-user-id program, or one with capabilities of its own, which an ordinary user may not limit.
    """

    def __str__(self) -> str:
        return f"cannot limit {self.program!r}: {self.strerror} (stage {self.stage}, {_errno.errorcode.get(self.errno or 0)})"


class CommandFailedError(ProcbenchError, subprocess.CalledProcessError):
    """A command ended with another status than 0 and the caller asked to check."""

    def __init__(
        self, returncode: int, cmd: Sequence[str], output: bytes | None = None, stderr: bytes | None = None
    ) -> None:
        super().__init__(returncode, cmd, output, stderr)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self), (self.returncode, self.cmd, self.output, self.stderr)


class CommandTimeoutError(ProcbenchError, subprocess.TimeoutExpired):
    """A command was still running when its time was up, and has been ended with its process group."""

    def __init__(
        self, cmd: Sequence[str], timeout: float, output: bytes | None = None, stderr: bytes | None = None
    ) -> None:
        super().__init__(cmd, timeout, output, stderr)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self), (self.cmd, self.timeout, self.output, self.stderr)


class DependencyError(ProcbenchError):
    """A task was not begun, because one that it came after did not succeed."""


class TrialError(ProcbenchError, RuntimeError):
    """A condition raised, or returned what is no value, so that its measurement ended.

    Attributes:
        condition: Its name.
        block: The block it happened in, from 0, warm-up included.
        reason: What went wrong.
    """

    def __init__(self, condition: str, block: int, reason: str) -> None:
        super().__init__(f"condition {condition!r} failed in block {block}: {reason}")
        self.condition = condition
        self.block = block
        self.reason = reason

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self), (self.condition, self.block, self.reason)


class WorkloadError(ProcbenchError, RuntimeError):
    """A batch cannot be measured: its commands fail, or do not do the same when they run again."""


class HostChangeError(ProcbenchError, RuntimeError):
    """A change of the host could not be made, or not be undone; the message names the command that would."""


class RecordError(ProcbenchError):
    """A recorded run cannot be written or read; the message names the file."""


class DamagedRunError(RecordError):
    """A file in the data folder is torn, flipped or not a run at all."""


class NewerSchemaError(RecordError):
    """A recorded run was written by a newer procbench; update to read it."""


class NotebookError(ProcbenchError):
    """A notebook is missing, is no notebook, or does not declare what was asked of it."""
