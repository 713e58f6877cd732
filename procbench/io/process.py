"""``run``: a command from start to end, with the meaning of ``subprocess.run`` and what the command cost besides."""

from __future__ import annotations

import contextlib
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import IO, TypeVar

from procbench import linux
from procbench.errors import CommandTimeoutError, InvalidInputError
from procbench.io.command import Argument
from procbench.io.results import RunResult
from procbench.io.runner import DRAIN_GRACE_S, KILL_GRACE_S, ChildRunner, Limits
from procbench.io.spawn import INHERIT, NULL, TO_STDOUT
from procbench.io.streams import CAPTURE, Data
from procbench.memory.transports import TRANSPORTS, Transport

_Number = TypeVar("_Number", int, float)
Stream = int | IO[bytes] | IO[str] | None


def run(
    argv: Sequence[Argument],
    *,
    input: Data | None = None,
    stdin: Stream = NULL,
    stdout: Stream = INHERIT,
    stderr: Stream = INHERIT,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    cwd: Argument | None = None,
    env: Mapping[str, str] | None = None,
    max_output_bytes: int | None = None,
    kill_grace_s: float = KILL_GRACE_S,
    drain_grace_s: float = DRAIN_GRACE_S,
    transport: Transport = "auto",
    pipe_size_bytes: int | None = None,
) -> RunResult:
    """Run a command and wait for its end; arguments mean what they mean for ``subprocess.run``.

    Four things differ, each for a reason. Standard input is ``/dev/null`` unless asked otherwise, so that a child in its
    own process group cannot stop on the terminal or change the mode of this process's input. A time-out ends the whole
    process group, first by SIGTERM. Output is bytes. And a background process that keeps the pipe open does not keep this
    call waiting: after the child's end it is given ``drain_grace_s``.

    Args:
        argv: Program and arguments, as a list; never given to a shell.
        input: Bytes, or a mapping, for its standard input. A sealed memory file, or a file, *becomes* its standard input.
        stdin: ``subprocess.DEVNULL``, a descriptor, an open file, or ``None`` for this process's own.
        stdout: ``subprocess.PIPE``, ``DEVNULL``, a descriptor, an open file, or ``None`` for this process's own.
        stderr: The same, or ``subprocess.STDOUT``.
        capture_output: Short for ``stdout=PIPE, stderr=PIPE``.
        timeout: Seconds until it is ended.
        check: Raise if its status is not 0.
        cwd: Its working directory.
        env: Its whole environment; ``None`` for this process's.
        max_output_bytes: Most bytes kept of each captured stream; the rest is read, counted and dropped.
        kill_grace_s: Seconds between SIGTERM and SIGKILL when it has to be ended.
        drain_grace_s: Seconds that a descendant may hold the pipe after the child's end.
        transport: How ``input`` goes to it, if its kind allows that way; see :mod:`procbench.memory.transports`.
        pipe_size_bytes: Size to ask for, of each of its pipes; ``None`` for 1 MiB where more than 64 KiB are sent.

    Returns:
        How it ended and what it cost.

    Raises:
        SpawnError: It could not be started; ``stage`` says where.
        CommandTimeoutError: Its time was up (also a ``subprocess.TimeoutExpired``); it is gone, what it wrote is attached.
        CommandFailedError: ``check`` and it failed (also a ``subprocess.CalledProcessError``).
        InvalidInputError: The arguments contradict each other.
        MappingLentError: ``input`` is a mapping, not sealed, and a view of it is alive.
    """
    if capture_output:
        if stdout is not INHERIT or stderr is not INHERIT:
            raise InvalidInputError("capture_output stands for stdout=PIPE and stderr=PIPE; leave those two out")
        stdout = stderr = CAPTURE
    if input is not None and not isinstance(input, Data):
        raise InvalidInputError(
            f"input is {type(input).__name__}; it must be bytes, such as text.encode(), or a MemoryMapping"
        )
    if transport not in TRANSPORTS:
        raise InvalidInputError(f"there is no transport {transport!r}; there are: {', '.join(TRANSPORTS)}")
    if pipe_size_bytes is not None and (type(pipe_size_bytes) is not int or pipe_size_bytes < 1):
        raise InvalidInputError(f"pipe_size_bytes is {pipe_size_bytes!r}; it must be a whole number of at least 1")
    if input is not None and stdin != NULL:
        raise InvalidInputError("input and stdin both say what the child reads; give one of them")
    if TO_STDOUT in (stdin, stdout):
        raise InvalidInputError("STDOUT is for stderr alone: it follows stdout")
    if stdin == CAPTURE:
        raise InvalidInputError("stdin=PIPE would leave nobody to write into the pipe; give the bytes as input=")
    limits = Limits(
        _not_negative("timeout", timeout),
        _not_negative("max_output_bytes", max_output_bytes),
        _not_negative("kill_grace_s", kill_grace_s) or 0.0,
        _not_negative("drain_grace_s", drain_grace_s) or 0.0,
    )
    with contextlib.closing(ChildRunner()) as runner, contextlib.ExitStack() as stack:
        if input is not None:
            stack.enter_context(linux.sigpipe_blocked())
        fields = runner.run(
            argv,
            limits=limits,
            data=input,
            stdin=_descriptor(stdin),
            stdout=_descriptor(stdout),
            stderr=_descriptor(stderr),
            cwd=cwd,
            env=env,
            transport=transport,
            pipe_size_bytes=pipe_size_bytes,
        )
    result = RunResult(*fields)
    if result.timed_out and timeout is not None:
        raise CommandTimeoutError([os.fsdecode(a) for a in argv], timeout, result.stdout, result.stderr)
    if check:
        result.check_returncode()
    return result


def _descriptor(stream: Stream) -> int | None:
    if stream is None or isinstance(stream, int):
        if stream is not None and stream < TO_STDOUT - 1:
            raise InvalidInputError(f"{stream} is no descriptor")
        return stream
    return stream.fileno()


def _not_negative(name: str, value: _Number | None) -> _Number | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise InvalidInputError(f"{name} is {value!r}; it must be a number")
    if value is not None and not value >= 0:
        raise InvalidInputError(f"{name} is {value}; it must not be negative")
    return value
