"""What ``run`` and ``open_process`` are given, checked: one clear error for what makes no sense, before anything is opened."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import IO, TypeVar

from procbench.errors import InvalidInputError
from procbench.io.command import Argument
from procbench.io.contained import LEVELS, ContainmentLevel
from procbench.io.keep import OVERFLOWS, Overflow, Tee
from procbench.io.order import INHERIT, KEEP, NULL, PIPED, TO_STDOUT, Data, Limits, Order
from procbench.memory.transports import TRANSPORTS, Transport

_Number = TypeVar("_Number", int, float)
Stream = int | IO[bytes] | IO[str] | None
"""What a child's stream can be: ``subprocess.PIPE``, ``DEVNULL``, a descriptor, an open file, ``None`` for this process's."""


def order_for(
    argv: Sequence[Argument],
    *,
    input: Data | None,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    timeout: float | None,
    cwd: Argument | None,
    env: Mapping[str, str] | None,
    max_output_bytes: int | None,
    overflow: Overflow,
    tees: tuple[Tee | None, Tee | None],
    kill_grace_s: float,
    drain_grace_s: float,
    containment: ContainmentLevel,
    transport: Transport,
    pipe_size_bytes: int | None,
    streamed: bool = False,
) -> Order:
    """Return what a door was asked for.

    Raises:
        InvalidInputError: The arguments contradict each other, or one makes no sense.
    """
    for name, word, words in (
        ("overflow", overflow, OVERFLOWS),
        ("transport", transport, TRANSPORTS),
        ("containment", containment, LEVELS),
    ):
        if word not in words:
            raise InvalidInputError(f"there is no {name} {word!r}; there are: {', '.join(words)}")
    if pipe_size_bytes is not None and (type(pipe_size_bytes) is not int or pipe_size_bytes < 1):
        raise InvalidInputError(f"pipe_size_bytes is {pipe_size_bytes!r}; it must be a whole number of at least 1")
    _check_input(input, stdin)
    if TO_STDOUT in (stdin, stdout):
        raise InvalidInputError("STDOUT is for stderr alone: it follows stdout")
    limits = Limits(
        _not_negative("timeout", timeout),
        _not_negative("max_output_bytes", max_output_bytes),
        _not_negative("kill_grace_s", kill_grace_s) or 0.0,
        _not_negative("drain_grace_s", drain_grace_s) or 0.0,
        overflow,
    )
    streams = _descriptor(stdin), _descriptor(stdout), _descriptor(stderr)
    for name, tee, stream in zip(("stdout", "stderr"), tees, streams[1:], strict=True):
        _check_tee(name, tee, stream)
    return Order(argv, limits, input, *streams, cwd, env, transport, pipe_size_bytes, tees, streamed)


def _check_input(input: Data | None, stdin: Stream) -> None:
    if input is not None and not isinstance(input, Data):
        raise InvalidInputError(
            f"input is {type(input).__name__}; it must be bytes, such as text.encode(), or a MemoryMapping"
        )
    if input is not None and stdin != NULL:
        raise InvalidInputError("input and stdin both say what the child reads; give one of them")
    if stdin == KEEP:
        raise InvalidInputError("KEEP is for what the child writes; for stdin give PIPE, or the bytes as input=")


def _check_tee(name: str, tee: Tee | None, stream: int | None) -> None:
    if tee is None:
        return
    if stream not in PIPED:
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
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real))):
        raise InvalidInputError(f"{name} is {value!r}; it must be a number")
    if value is not None and not value >= 0:
        raise InvalidInputError(f"{name} is {value}; it must not be negative")
    return value
