"""``open_process``: start a command and speak to it in an event loop, with the meaning of asyncio's ``Process``.

The event loop is whichever runs, a notebook's own too. A child's exit is seen through its pidfd and its pipes through
epoll(7): no SIGCHLD, no helper thread for each child, no child watcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from signal import SIGKILL, SIGTERM
from types import TracebackType
from typing import Any, Self

from procbench import linux
from procbench.errors import (
    ClosedError,
    DescriptorsSpentError,
    InvalidInputError,
    SpawnLimitError,
    StreamBrokenError,
)
from procbench.io.arguments import Stream, order_for
from procbench.io.budget import shared_budget
from procbench.io.command import Argument
from procbench.io.contained import ContainmentLevel
from procbench.io.course import Course
from procbench.io.intake import Intake
from procbench.io.io_pools import IO_POOLS, BufferSizes, IoPool, default_io_pool
from procbench.io.keep import Overflow, Tee, keeper
from procbench.io.order import DRAIN_GRACE_S, INHERIT, KILL_GRACE_S, NULL, Data, Order
from procbench.io.reactor import Reactor
from procbench.io.results import RunResult
from procbench.io.starter import descriptors_for, spent
from procbench.io.streams import ReadStream
from procbench.io.watch import Milestones, Watch
from procbench.io.write_stream import WriteStream
from procbench.memory import transports
from procbench.memory.transports import Transport


class Process:
    """A child of the running event loop; made by :func:`open_process`. What asyncio's has means what it means there.

    Used in the event loop's thread only. Every wait may be cancelled: nothing is lost, and it can be waited again.

    Attributes:
        args: The command.
        stdin: What to write to, with ``stdin=PIPE``; otherwise ``None``.
        stdout: What to read from, with ``stdout=PIPE``; otherwise ``None``.
        stderr: What to read from, with ``stderr=PIPE``; otherwise ``None``.
    """

    def __init__(
        self,
        reactor: Reactor,
        course: Course,
        order: Order,
        sizes: BufferSizes,
        io_pool: Callable[[], IoPool],
    ) -> None:
        pipes, tees = course.pipes, order.tees
        self.args = order.argv
        self._order = order
        self._sizes = sizes
        self._milestones = Milestones(reactor.loop)
        self._watch = watch = Watch(reactor, course, self._milestones)
        self._waiting = 0
        self._kept: list[tuple[ReadStream, Intake, Tee | None]] = []
        hold = _Hold(watch, reactor.loop)
        self._hold = hold
        self.stdin: WriteStream | None = None
        self.stdout: ReadStream | None = None
        self.stderr: ReadStream | None = None
        if pipes.stdin_fd >= 0:
            self.stdin = WriteStream(pipes, reactor, sizes.file, lambda: io_pool().write, hold)
            watch.add_stdin(self.stdin)
        read = lambda: io_pool().read  # noqa: E731 - only who reads batches makes the pool
        if pipes.out is not None and pipes.out.keep is None:
            self.stdout = ReadStream(pipes.out, reactor, sizes.stdout, read, hold, watch)
            self._kept.append((self.stdout, pipes.out, tees[0]))
        if pipes.err is not None and pipes.err.keep is None:
            self.stderr = ReadStream(pipes.err, reactor, sizes.stderr, read, hold, watch)
            self._kept.append((self.stderr, pipes.err, tees[1]))

    def __repr__(self) -> str:
        return f"<Process {self.pid} {os.fsdecode(self.args[0])!r}, returncode {self.returncode}>"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._watch.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status; negative is the signal that ended it; ``None`` while it runs.

        Also ``None`` if the status could not be learnt, because somebody else in this process reaped the child.
        """
        return self._watch.returncode

    async def wait(self) -> int | None:
        """Wait until the child has exited, whoever holds its pipes then, and return ``returncode``.

        What nobody reads meanwhile is read into memory, up to ``max_output_bytes``, so that a full pipe does not keep the child
        from its end; the streams give it later.
        """
        streams = [stream for stream in (self.stdout, self.stderr) if stream is not None]
        self._waiting += 1
        try:
            for stream in streams:
                stream.read_ahead(self._order.limits.max_output_bytes)
            await self._milestones.exited.wait()
        finally:
            self._waiting -= 1
            if not self._waiting:
                for stream in streams:
                    stream.read_no_further()
        return self.returncode

    async def communicate(self, input: Data | None = None) -> tuple[bytes | None, bytes | None]:
        """Give the child ``input``, read what it writes to the end, both streams together, and wait for its end.

        Args:
            input: Bytes, or a mapping; needs ``stdin=PIPE``. A child that does not take all of it is no error; the result
                says what went. ``None`` closes its standard input.

        Returns:
            What was kept of its standard output and error; ``None`` for each that is neither ``PIPE`` nor ``KEEP``.

        Raises:
            InvalidInputError: ``input`` is not bytes, or ``stdin`` is no pipe.
            StreamBusyError: Another coroutine reads from a stream.
        """
        if input is not None:
            self._check_input(input)
        while self._kept:
            stream, intake, tee = self._kept[-1]
            self._watch.keep(
                stream, intake, keeper(self._order.limits.max_output_bytes, self._order.limits.overflow, tee)
            )
            self._kept.pop()
        if input is not None and self.stdin is not None:
            with contextlib.suppress(StreamBrokenError):
                await self.stdin.flush()  # what was written before goes first
                self._give(self.stdin.detach(), input)
        elif self.stdin is not None:
            self.stdin.close()
        await self._milestones.finished.wait()
        return self._watch.kept()

    async def result(self) -> RunResult:
        """Wait for the child's end and return how it ended and what it cost, with what was kept of its output.

        Each call returns the same; a file that holds what went over the cap is one, and closed once.
        """
        await self._milestones.finished.wait()
        return RunResult(*self._watch.fields())

    def send_signal(self, signal: int) -> None:
        """Send a signal to the child alone.

        Raises:
            ProcessGoneError: It has exited (also a ``ProcessLookupError``).
        """
        self._watch.send_signal(signal, to_end=False)

    def terminate(self) -> None:
        """Send SIGTERM to the child; what it started and leaves behind is ended too. Otherwise as ``send_signal``."""
        self._watch.send_signal(SIGTERM, to_end=True)

    def kill(self) -> None:
        """Send SIGKILL to the child; what it started and leaves behind is killed too. Otherwise as ``send_signal``."""
        self._watch.send_signal(SIGKILL, to_end=True)

    async def end(self) -> None:
        """End the child and all that it started: SIGTERM, ``kill_grace_s`` later SIGKILL. Returns when they are gone.

        What a child that has exited by itself left behind is left alone.

        If this is cancelled, they are killed at once, and it still returns only when they are gone.
        """
        self._watch.stop()
        try:
            await self._milestones.finished.wait()
        except BaseException:
            self._watch.stop(kill=True)
            while not self._milestones.finished.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self._milestones.finished.wait()
            raise

    async def aclose(self) -> None:
        """Close its streams, wait for its end and give everything back. Harmless when called twice."""
        try:
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    stream.close()
            try:
                await self._milestones.finished.wait()
            except BaseException:
                await self.end()
                raise
        finally:
            self._watch.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.aclose()
            return
        try:
            await self.end()
        finally:
            self._watch.close()

    def _check_input(self, input: Data) -> None:
        if not isinstance(input, Data):
            raise InvalidInputError(f"input is {type(input).__name__}; it must be bytes, such as text.encode()")
        if self.stdin is None:
            raise InvalidInputError("input needs a pipe to go through; start the process with stdin=PIPE")
        if self.stdin.is_closing() and not self.stdin.is_broken():
            raise ClosedError("standard input was closed; the child can be given no input any more")

    def _give(self, fd: int, input: Data) -> None:
        try:
            way = transports.prefer(input, self._order.transport)
            if way in transports.HANDED_OVER:  # it is too late for that
                way = transports.choose(input, "auto", can_hand_over=False)
            feed = transports.feed(fd, input, way, self._sizes.pipe)
        except BaseException:
            linux.close_now(fd)
            raise
        self._watch.feed(feed)


class _Hold:
    """Refers to a watch for whoever may still use the child; once nobody does, the child is forgotten."""

    __slots__ = ("__weakref__",)

    def __init__(self, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        weakref.finalize(self, _forgotten, watch, loop, threading.get_ident(), os.getpid())


def _forgotten(watch: Watch, loop: asyncio.AbstractEventLoop, thread: int, owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of this process has no children of ours
    if threading.get_ident() == thread or not loop.is_running():
        watch.forgotten()
    else:  # the garbage collector runs in any thread
        with contextlib.suppress(RuntimeError):  # closed this very moment
            loop.call_soon_threadsafe(watch.forgotten)


class OpenProcess:
    """A command that is about to be started: enter it, or await it, once."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, Process]]) -> None:
        self._start: Callable[[], Coroutine[Any, Any, Process]] | None = start
        self._process: Process | None = None

    def __await__(self) -> Generator[Any, None, Process]:
        return self._begin().__await__()

    async def __aenter__(self) -> Process:
        self._process = await self._begin()
        return self._process

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            await self._process.__aexit__(kind, error, trace)

    def _begin(self) -> Coroutine[Any, Any, Process]:
        start, self._start = self._start, None
        if start is None:
            raise ClosedError("the process was started already; call open_process again for another")
        return start()


def open_process(
    argv: Sequence[Argument],
    *,
    input: Data | None = None,
    stdin: Stream = NULL,
    stdout: Stream = INHERIT,
    stderr: Stream = INHERIT,
    timeout: float | None = None,
    cwd: Argument | None = None,
    env: Mapping[str, str] | None = None,
    max_output_bytes: int | None = None,
    overflow: Overflow = "drop",
    tee_stdout: Tee | None = None,
    tee_stderr: Tee | None = None,
    kill_grace_s: float = KILL_GRACE_S,
    drain_grace_s: float = DRAIN_GRACE_S,
    containment: ContainmentLevel = "group",
    transport: Transport = "auto",
    sizes: BufferSizes | None = None,
    io_pool: IoPool | str | None = None,
) -> OpenProcess:
    """Start a command in the running event loop, when what this returns is entered by ``async with``, or awaited.

    At the end of the block what the child reads from and writes to here is closed, and the child is waited for. Where the
    block is left by an exception or a cancellation, the child and what it started are ended. A process that was awaited
    instead, and is forgotten while it runs, is killed.

    Args:
        argv: Program and arguments, as a list; never given to a shell.
        input: Bytes, or a mapping, for its standard input; as for ``run``.
        stdin: ``subprocess.PIPE`` for a ``stdin`` to write to, ``DEVNULL``, a descriptor, an open file, or ``None`` for this
            process's own.
        stdout: ``subprocess.PIPE`` for a ``stdout`` to read from or for ``communicate``, :data:`KEEP` to have it read in the
            background and kept for the result, ``DEVNULL``, a descriptor, an open file, or ``None``.
        stderr: The same, or ``subprocess.STDOUT``.
        timeout: Seconds until it is ended; the result says ``timed_out``.
        cwd: Its working directory.
        env: Its whole environment; ``None`` for this process's.
        max_output_bytes: Most bytes kept of each stream that is kept.
        overflow: What becomes of more than that; as for ``run``.
        tee_stdout: Where a copy of its kept standard output goes as it comes; as for ``run``.
        tee_stderr: The same for its standard error.
        kill_grace_s: Seconds between SIGTERM and SIGKILL when it has to be ended.
        drain_grace_s: Seconds that a descendant may hold a pipe after the child's end; then an empty pipe counts as the end.
        containment: How what it starts is held together, to be ended with it; as for ``run``.
        transport: How ``input``, and ``communicate``'s, goes to it.
        sizes: What passes through its streams at a time; ``None`` for those of the I/O pool.
        io_pool: Whose buffers ``batch_read`` and ``stdin.acquire_nowait`` lend: a pool, the name of one in
            ``procbench.IO_POOLS``, or ``None`` for one that all share.

    Returns:
        What starts it, once, when it is entered or awaited; that raises:

        ``SpawnError``, if it cannot be started. While the budget has no descriptor left for it, it waits.

    Raises:
        InvalidInputError: The arguments contradict each other.
    """
    pool = IO_POOLS.find(io_pool) if isinstance(io_pool, str) else io_pool
    sizes = sizes or (pool.sizes if pool is not None else BufferSizes())
    order = order_for(
        argv,
        input=input,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        timeout=timeout,
        cwd=cwd,
        env=env,
        max_output_bytes=max_output_bytes,
        overflow=overflow,
        tees=(tee_stdout, tee_stderr),
        kill_grace_s=kill_grace_s,
        drain_grace_s=drain_grace_s,
        containment=containment,
        transport=transport,
        pipe_size_bytes=sizes.pipe,
        streamed=True,
    )

    async def start() -> Process:
        reactor = Reactor.of_running_loop()
        starter, permits = reactor.starter(containment), descriptors_for(order)
        try:
            await shared_budget().acquire_async(permits, warn=False)
        except DescriptorsSpentError as error:
            raise spent(error, argv, SpawnLimitError) from error
        with contextlib.nullcontext() if input is None else linux.sigpipe_blocked():
            course = starter.start(order, permits)
        find = default_io_pool if pool is None else lambda: pool
        return Process(reactor, course, order, sizes, find)

    return OpenProcess(start)
