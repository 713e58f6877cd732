"""Send memory to a child and take in what it writes, without copying what need not be copied."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from procbench import linux
from procbench.errors import InvalidInputError
from procbench.memory import checks
from procbench.memory.drain import FileDrain, MappingDrain
from procbench.memory.ends import LARGEST_FD, Ends, HasFileno, Starter
from procbench.memory.feed import Feed
from procbench.memory.mapping import MemoryMapping
from procbench.memory.transports import HANDED_OVER, PIPE_BYTES, Source, Transport, choose, feed

_POLLED_AT_ONCE_S: Final = 86_400.0  # poll(2) counts milliseconds in an int


@dataclass(frozen=True, slots=True)
class Sent:
    """How a transfer to a child went.

    Attributes:
        transport: The way taken.
        fallback: Name of the errno for which the way asked for was left, or ``None``.
        sent_bytes: What the pipe took; all of it where the source itself was handed over.
        error: ``EPIPE`` if the child closed its standard input before it had everything, ``ENODATA`` if the source file
            became shorter, otherwise ``None``.
        pipe_size_bytes: What the pipe held; ``None`` where there was none, or none of a certain size was asked for.
        child: What starting the child returned; ``None`` if it ran already.
    """

    transport: Transport
    fallback: str | None
    sent_bytes: int
    error: str | None
    pipe_size_bytes: int | None
    child: Any


@dataclass(frozen=True, slots=True)
class Received:
    """How a transfer from a child went.

    Attributes:
        transport: ``readv`` into a mapping; ``splice`` into a file, or ``read`` where that could not be.
        mapping: What was kept, if it went into memory.
        kept_bytes: How much was kept.
        total_bytes: How much the child wrote.
        pipe_size_bytes: What the pipe held.
        child: What starting the child returned; ``None`` if it ran already.
    """

    transport: str
    mapping: MemoryMapping | None
    kept_bytes: int
    total_bytes: int
    pipe_size_bytes: int | None
    child: Any

    @property
    def cut(self) -> bool:
        """Whether the child wrote more than was kept."""
        return self.total_bytes > self.kept_bytes


# --- to a child -------------------------------------------------------------------------------------------------------


def send(
    source: Source,
    child: Starter | HasFileno | int,
    *,
    transport: Transport = "auto",
    pipe_size_bytes: int | None = None,
    timeout: float | None = None,
) -> Sent:
    """Send all of ``source`` to a child's standard input, close that, and return once the pipe took the last byte.

    The child may go on reading: pages that stand in the pipe stay lent, and the mapping refuses to be written, until nobody
    has the pipe open any more. Thread-safe as long as every child is sent to by one thread. Gives the GIL away.

    Args:
        source: A mapping, or bytes.
        child: How to reach it: a function that starts it with the descriptor it is given as standard input (it must not
            close that descriptor, ``subprocess.Popen(argv, stdin=fd)`` does not); or the write end of its pipe, as an open
            file (``Popen.stdin``) or a descriptor, which is closed afterwards in any case.
        transport: The way to go; see the table in :mod:`procbench.memory.transports`.
        pipe_size_bytes: Size to ask for, 1 or more; ``None`` for 1 MiB where the source is larger than the kernel's 64 KiB.
        timeout: Most seconds to wait, finite and at least 0; ``None`` for as long as it takes.

    Raises:
        InvalidInputError: There is no such transport, or the source or the child does not allow it, is none, or a number
            makes no sense. No child was started.
        MappingLentError: A view of the mapping is still alive, and the mapping is not sealed.
        TimeoutError: The child did not take everything in time; its standard input was closed.
        OSError: No descriptor is left.
    """
    with _sending(source, child, transport, pipe_size_bytes, timeout) as (sender, started, way):
        if sender is None:
            return Sent(way, None, len(source), None, None, started)
        with linux.sigpipe_blocked():
            if timeout is None:
                sender.block()
            wait = _waiter(sender.fd, select.POLLOUT, timeout)
            while sender.fd >= 0:
                wait()
                sender.push()
        return _sent(sender, started)


async def asend(
    source: Source,
    child: Starter | HasFileno | int,
    *,
    transport: Transport = "auto",
    pipe_size_bytes: int | None = None,
) -> Sent:
    """Do what ``send`` does while the event loop goes on; cancelling it closes the child's standard input.

    Raises:
        InvalidInputError: As for ``send``.
        MappingLentError: As for ``send``.
        OSError: As for ``send``.
    """
    with _sending(source, child, transport, pipe_size_bytes) as (sender, started, way):
        if sender is None:
            return Sent(way, None, len(source), None, None, started)
        loop = asyncio.get_running_loop()
        while sender.fd >= 0:
            await _ready(loop.add_writer, loop.remove_writer, sender.fd)
            with linux.sigpipe_blocked():
                sender.push()
        return _sent(sender, started)


def _sent(sender: Feed, started: Any) -> Sent:
    return Sent(sender.transport, sender.fallback, sender.sent_bytes, sender.error, sender.pipe_size_bytes, started)


@contextlib.contextmanager
def _sending(
    source: Source,
    child: Starter | HasFileno | int,
    transport: Transport,
    pipe_size_bytes: int | None,
    timeout: float | None = None,
) -> Iterator[tuple[Feed | None, Any, Transport]]:
    """Open what is needed and close it again; give the feed (``None`` if handed over), what was started, and the way."""
    with contextlib.ExitStack() as stack, Ends(child) as ends:
        # What cannot be sent is refused before a child runs.
        checks.timeout(timeout)
        _check_pipe_size(pipe_size_bytes)
        way = choose(source, transport, can_hand_over=callable(child))
        if way in HANDED_OVER and isinstance(source, MemoryMapping) and callable(child):
            yield None, _hand_over(source, child), way
            return
        sender = feed(ends.write_end(), source, way, pipe_size_bytes)
        ends.let_go()
        stack.callback(sender.close)
        yield sender, ends.start(), way


def _hand_over(source: MemoryMapping, child: Starter) -> Any:
    descriptor = source.read_fd()
    try:
        return child(descriptor)
    finally:
        linux.close_now(descriptor)


# --- from a child -----------------------------------------------------------------------------------------------------


def receive(
    child: Starter | HasFileno | int,
    into: MemoryMapping | Path | str | int | None = None,
    *,
    max_bytes: int | None = None,
    pipe_size_bytes: int | None = PIPE_BYTES,
    timeout: float | None = None,
) -> Received:
    """Take in everything that a child writes to its standard output, to the end of it.

    What does not fit is read, counted and dropped. Into memory, the peak is the bytes kept and at most 1 MiB, of pages that
    were asked for ahead: a growing mapping is moved by the kernel, not copied. Into a file no memory is used. Huge pages are
    not asked for: where memory is fragmented the kernel takes several times as long to find one as to fault 512 small ones.
    Thread-safe as long as every child is read by one thread. Gives the GIL away.

    Args:
        child: How to reach it: a function that starts it with the descriptor it is given as standard output (it must not
            close that descriptor); or the read end of its pipe, as an open file (``Popen.stdout``) or a descriptor, which is
            closed afterwards in any case.
        into: A mapping that is filled from its beginning; a file, as a path (made, or emptied) or as a descriptor; or
            ``None`` for a new mapping that grows.
        max_bytes: Most bytes to keep, 0 or more; ``None`` for what fits.
        pipe_size_bytes: Size to ask for, 1 or more; ``None`` leaves the pipe as it is.
        timeout: Most seconds to wait for the end, finite and at least 0; ``None`` for as long as it takes.

    Raises:
        InvalidInputError: A number makes no sense, or the child or ``into`` is none of the above. No child was started, and
            no file made or emptied.
        MappingLentError: The mapping is lent, or somebody writes to it.
        TimeoutError: The end did not come in time; the pipe was closed.
        OSError: No descriptor is left, or the file cannot be written.
    """
    with _receiving(child, into, max_bytes, pipe_size_bytes, timeout) as (drain, started, size):
        if timeout is None:
            os.set_blocking(drain.fd, True)
        wait = _waiter(drain.fd, select.POLLIN, timeout)
        while drain.fd >= 0:
            wait()
            drain.pull()
        return _received(drain, started, size)


async def areceive(
    child: Starter | HasFileno | int,
    into: MemoryMapping | Path | str | int | None = None,
    *,
    max_bytes: int | None = None,
    pipe_size_bytes: int | None = PIPE_BYTES,
) -> Received:
    """Do what ``receive`` does while the event loop goes on; cancelling it closes the pipe.

    Raises:
        InvalidInputError: As for ``receive``.
        MappingLentError: As for ``receive``.
        OSError: As for ``receive``.
    """
    with _receiving(child, into, max_bytes, pipe_size_bytes) as (drain, started, size):
        loop = asyncio.get_running_loop()
        while drain.fd >= 0:
            await _ready(loop.add_reader, loop.remove_reader, drain.fd)
            drain.pull()
        return _received(drain, started, size)


def _received(drain: MappingDrain | FileDrain, started: Any, pipe_size_bytes: int | None) -> Received:
    mapping = drain.mapping() if isinstance(drain, MappingDrain) else None
    return Received(drain.transport, mapping, drain.kept_bytes, drain.total_bytes, pipe_size_bytes, started)


@contextlib.contextmanager
def _receiving(
    child: Starter | HasFileno | int,
    into: MemoryMapping | Path | str | int | None,
    max_bytes: int | None,
    pipe_size_bytes: int | None,
    timeout: float | None = None,
) -> Iterator[tuple[MappingDrain | FileDrain, Any, int | None]]:
    with contextlib.ExitStack() as stack, Ends(child) as ends:
        # What cannot be received, or written to, is refused before a child runs.
        checks.timeout(timeout)
        _check_pipe_size(pipe_size_bytes)
        if max_bytes is not None:
            checks.whole("max_bytes", max_bytes)
        _check_place(into)
        if isinstance(into, Path | str):
            into = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            stack.callback(os.close, into)
        read_end = ends.read_end()
        size = None if pipe_size_bytes is None else linux.resize_pipe(read_end, pipe_size_bytes)
        drain = _drain(read_end, into, max_bytes)
        ends.let_go()
        stack.callback(drain.close)
        yield drain, ends.start(), size


def _check_pipe_size(size_bytes: object) -> None:
    if size_bytes is not None:
        checks.whole("pipe_size_bytes", size_bytes, 1)


def _check_place(into: object) -> None:
    if isinstance(into, int):
        if not linux.is_open(min(checks.whole("into, as a descriptor,", into), LARGEST_FD)):
            raise InvalidInputError(f"into is {into}; no such descriptor is open, so open the file first")
    elif isinstance(into, Path | str):
        if "\0" in str(into):
            raise InvalidInputError(f"into is {into!r}; no path holds a NUL, so give another")
    elif into is not None and not isinstance(into, MemoryMapping):
        raise InvalidInputError(
            f"into is of type {type(into).__name__}; give a MemoryMapping, a path, a descriptor, or None for a new mapping"
        )


def _drain(fd: int, into: MemoryMapping | int | None, max_bytes: int | None) -> MappingDrain | FileDrain:
    return FileDrain(fd, into, max_bytes) if isinstance(into, int) else MappingDrain(fd, into, max_bytes)


# --- waiting ----------------------------------------------------------------------------------------------------------


def _waiter(fd: int, event: int, timeout: float | None) -> Callable[[], object]:
    """Return what returns when the descriptor is ready, or its other end is gone; at once where the calls themselves wait."""
    if timeout is None:
        return lambda: None
    deadline = time.monotonic() + timeout
    question = select.poll()
    question.register(fd, event)

    def wait() -> None:
        while not question.poll(min(max(0.0, deadline - time.monotonic()), _POLLED_AT_ONCE_S) * 1000):
            if time.monotonic() < deadline:
                continue
            raise TimeoutError("the child did not take, or give, everything in time; its pipe was closed")

    return wait


async def _ready(add: Callable[..., Any], remove: Callable[[int], Any], fd: int) -> None:
    """Return when the event loop says that the descriptor is ready, or its other end is gone."""
    ready = asyncio.get_running_loop().create_future()

    def is_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, is_ready)
    try:
        await ready
    finally:
        remove(fd)
