"""What ``run`` and ``open_process`` are given, checked: one clear error for what makes no sense, before anything is opened."""

from __future__ import annotations

import numbers
from typing import IO, NamedTuple, TypeVar

from procbench.errors import InvalidInputError
from procbench.io.containment import LEVELS, ContainmentLevel
from procbench.io.course import Limits
from procbench.io.keep import OVERFLOWS, Overflow, Tee
from procbench.io.pipes import CAPTURE, KEEP, Data
from procbench.io.spawn import INHERIT, NULL, TO_STDOUT
from procbench.memory.transports import TRANSPORTS, Transport

_Number = TypeVar("_Number", int, float)
Stream = int | IO[bytes] | IO[str] | None
"""What a child's stream can be: ``subprocess.PIPE``, ``DEVNULL``, a descriptor, an open file, ``None`` for this process's."""


class Streams(NamedTuple):
    """What a child's three streams shall be: descriptors, or one of the words of :mod:`procbench.io.spawn` and ``pipes``."""

    stdin: int | None
    stdout: int | None
    stderr: int | None


def check_streams(input: Data | None, stdin: Stream, stdout: Stream, stderr: Stream) -> Streams:
    """Return the streams as numbers.

    Raises:
        InvalidInputError: They contradict each other, or one is none.
    """
    if input is not None and not isinstance(input, Data):
        raise InvalidInputError(
            f"input is {type(input).__name__}; it must be bytes, such as text.encode(), or a MemoryMapping"
        )
    if input is not None and stdin != NULL:
        raise InvalidInputError("input and stdin both say what the child reads; give one of them")
    if TO_STDOUT in (stdin, stdout):
        raise InvalidInputError("STDOUT is for stderr alone: it follows stdout")
    if stdin == KEEP:
        raise InvalidInputError("KEEP is for what the child writes; for stdin give PIPE, or the bytes as input=")
    return Streams(_descriptor(stdin), _descriptor(stdout), _descriptor(stderr))


def check_limits(
    timeout: float | None,
    max_output_bytes: int | None,
    kill_grace_s: float,
    drain_grace_s: float,
    overflow: Overflow,
) -> Limits:
    """Return what a child may take.

    Raises:
        InvalidInputError: A number is negative or none, or there is no such ``overflow``.
    """
    if overflow not in OVERFLOWS:
        raise InvalidInputError(f"there is no overflow {overflow!r}; there are: {', '.join(OVERFLOWS)}")
    return Limits(
        _not_negative("timeout", timeout),
        _not_negative("max_output_bytes", max_output_bytes),
        _not_negative("kill_grace_s", kill_grace_s) or 0.0,
        _not_negative("drain_grace_s", drain_grace_s) or 0.0,
        overflow,
    )


def check_ways(transport: Transport, pipe_size_bytes: int | None, containment: ContainmentLevel) -> None:
    """Check how bytes go and how processes are held.

    Raises:
        InvalidInputError: There is no such way, or the size makes no sense.
    """
    if transport not in TRANSPORTS:
        raise InvalidInputError(f"there is no transport {transport!r}; there are: {', '.join(TRANSPORTS)}")
    if pipe_size_bytes is not None and (type(pipe_size_bytes) is not int or pipe_size_bytes < 1):
        raise InvalidInputError(f"pipe_size_bytes is {pipe_size_bytes!r}; it must be a whole number of at least 1")
    if containment not in LEVELS:
        raise InvalidInputError(f"there is no containment {containment!r}; there are: {', '.join(LEVELS)}")


def check_tees(tee_stdout: Tee | None, tee_stderr: Tee | None, stdout: int | None, stderr: int | None) -> None:
    """Check that there is something to copy.

    Raises:
        InvalidInputError: A stream is to be copied that does not pass by here, or the copy has nowhere to go.
    """
    for name, tee, stream in (("stdout", tee_stdout, stdout), ("stderr", tee_stderr, stderr)):
        if tee is None:
            continue
        if stream not in (CAPTURE, KEEP):
            raise InvalidInputError(f"tee_{name} copies what is captured; give {name}=PIPE, or capture_output=True")
        if not (callable(tee) or isinstance(tee, int) or hasattr(tee, "write")):
            raise InvalidInputError(
                f"tee_{name} is {type(tee).__name__}; give a function, an open binary file or a descriptor"
            )


def _descriptor(stream: Stream) -> int | None:
    if stream is INHERIT or isinstance(stream, int):
        if stream is not None and stream < KEEP:
            raise InvalidInputError(f"{stream} is no descriptor")
        return stream
    return stream.fileno()


def _not_negative(name: str, value: _Number | None) -> _Number | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise InvalidInputError(f"{name} is {value!r}; it must be a number")
    if value is not None and not value >= 0:
        raise InvalidInputError(f"{name} is {value}; it must not be negative")
    return value
