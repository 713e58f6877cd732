"""Look after one child at a time, from spawn to reap: its pipes, its time, its end.

Everything waits in one poll(2): the child's pidfd, its pipes and a wake-up from other threads. No SIGCHLD, no helper
thread, no limit of 1,024 descriptors. The child stays unreaped until the last signal has been sent, so its process id and
its group's id cannot have passed to somebody else.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from procbench import linux
from procbench.errors import MappingError, PoolExhaustedError, SpawnError, SpawnLimitError
from procbench.io import clone
from procbench.io.clone import Cloner
from procbench.io.command import Argument, program_name
from procbench.io.groups import end_group, signal_group
from procbench.io.limits import ChildLimiter, limit_hit
from procbench.io.results import StopPhase
from procbench.io.spawn import INHERIT, LIMITS, NULL, Child, Spare, end_at_once, spawn
from procbench.io.streams import CAPTURE, EXIT, WAKE, Data, Pipes
from procbench.memory.buffers import DEFAULT_SIZE_BYTES, BufferPool
from procbench.memory.lease import PooledBuffer
from procbench.memory.transports import Transport

KILL_GRACE_S: Final = 5.0
"""Time between SIGTERM and SIGKILL; long enough to flush and to remove temporary files."""

DRAIN_GRACE_S: Final = 0.25
"""How long after the child's end a descendant may go on holding its pipe."""

# After SIGKILL a process is gone within milliseconds, unless the kernel itself keeps it waiting (a dead network disk).
_ABANDON_AFTER_S = 5.0
_DYING_S = 1.0
# Resident sizes are summed up from per-CPU counters that lag a little; between "may be ours" and "is the child's" doubt wins.
_PEAK_SLACK_SHARE = 16
_PEAK_SLACK_BYTES = 1 << 20
_SECOND_NS = 1_000_000_000
_LONGEST_POLL_MS = 2**31 - 1  # poll(2) takes an int; ctypes would cut a longer one down to whatever its low bits say


class Limits(NamedTuple):
    """What a child may take, and how it is ended.

    Attributes:
        timeout: Seconds until it is ended; ``None`` is for ever.
        max_output_bytes: Most bytes kept of each captured stream; ``None`` keeps all.
        kill_grace_s: Seconds between SIGTERM and SIGKILL.
        drain_grace_s: Seconds that a descendant may hold the pipe after the child's end.
    """

    timeout: float | None = None
    max_output_bytes: int | None = None
    kill_grace_s: float = KILL_GRACE_S
    drain_grace_s: float = DRAIN_GRACE_S


_WITHOUT_PIPES = 2
_NO_PIPES = Pipes()  # what most children have, so it is not made anew for each
_SHARED_BUFFERS = 16  # children with pipes at a time, each in a thread of its own, before one needs memory of its own


@functools.cache
def _shared_buffers() -> BufferPool:
    """Return the pool for single children; memory that nobody has read into yet costs nothing."""
    return BufferPool(DEFAULT_SIZE_BYTES, _SHARED_BUFFERS, name="read buffers of single children")


class ChildRunner:
    """Runs children one after the other, each from spawn to reap; a worker thread owns one and reuses its memory.

    Not thread-safe, except for ``stop``.

    Args:
        stoppable: Whether ``stop`` will be called from other threads; costs one eventfd while the runner is open.
        many: Whether it will run many children; costs what a ``Cloner`` keeps.
        buffers: Where the buffer comes from that pipes are read into, until ``close``; ``None`` for a pool that all such
            runners of this process share.
        limiter: Keeps each child to its share of CPUs and memory; ``None`` for children that may use any.

    Attributes:
        slice_s: Seconds after which, and after each further so many, a child that runs may have to stand still; ``None``
            for never.
        more_urgent: Asked at the end of each slice for what is to be done while the child's group is stopped; it must not
            use this runner.
    """

    def __init__(
        self,
        *,
        stoppable: bool = False,
        many: bool = False,
        buffers: BufferPool | None = None,
        limiter: ChildLimiter | None = None,
    ) -> None:
        self._polled = (linux.PollFd * 5)()
        self._address = ctypes.addressof(self._polled)
        for slot, events in enumerate((linux.POLLIN, linux.POLLIN, linux.POLLIN, linux.POLLIN, linux.POLLOUT)):
            self._polled[slot].fd = -1
            self._polled[slot].events = events
        self.status = ctypes.c_int()
        self.status_address = ctypes.addressof(self.status)
        self.usage = linux.Usage()
        self.usage_address = ctypes.addressof(self.usage)
        self.limiter = limiter
        self._buffers = buffers
        self._buffer: PooledBuffer | None = None
        self._own_peak_bytes = 0
        self._spare = Spare()
        self._cloner = Cloner() if many and clone.usable() else None
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if stoppable else -1
        self._polled[WAKE].fd = self._wake_fd
        self._wake_lock = threading.Lock()
        self.stop_asked: Literal["terminate", "kill"] | None = None
        self.slice_s: float | None = None
        self.more_urgent: Callable[[], Callable[[], None] | None] | None = None

    def close(self) -> None:
        """Give the descriptors and the buffer back. Harmless when called twice."""
        self._spare.close()
        if self._cloner is not None:
            self._cloner.close()
        if self._buffer is not None:
            self._buffer.release()
            self._buffer = None
        with self._wake_lock:
            if self._wake_fd >= 0:
                linux.close_now(self._wake_fd)
                self._wake_fd = -1

    def stop(self, *, kill: bool = False) -> None:
        """End the child that runs now, and every later one as soon as it starts; from any thread, at any time.

        Args:
            kill: At once by SIGKILL, instead of by SIGTERM with a grace.
        """
        with self._wake_lock:
            self.stop_asked = "kill" if kill else (self.stop_asked or "terminate")
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    @property
    def buffer(self) -> PooledBuffer:
        """What pipes are read into; acquired when the first pipe needs it, and kept until ``close``."""
        if self._buffer is None:
            try:
                self._buffer = (self._buffers or _shared_buffers()).acquire_nowait()
            except PoolExhaustedError:
                # More children at a time than it was made for; waiting for one to end might be for ever.
                self._buffer = BufferPool(DEFAULT_SIZE_BYTES, 1).acquire_nowait()
        return self._buffer

    def inherited(self, peak_bytes: int) -> bool:
        """Return whether a child's peak memory may be this process's own, which the kernel counts in until the exec."""
        bound = self._own_peak_bytes
        if peak_bytes > bound:  # our own peak only grows: ask for it again only when the old one does not settle it
            own = linux.own_peak_memory_bytes()
            self._own_peak_bytes = bound = own + own // _PEAK_SLACK_SHARE + _PEAK_SLACK_BYTES
        return peak_bytes <= bound

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until ``stop`` is called."""
        if self.stop_asked is None:
            linux.poll(self._address + ctypes.sizeof(linux.PollFd) * WAKE, 1, math.ceil(seconds * 1000))

    def run(
        self,
        argv: Sequence[Argument],
        *,
        limits: Limits,
        data: Data | None = None,
        stdin: int | None = NULL,
        stdout: int | None = INHERIT,
        stderr: int | None = INHERIT,
        cwd: Argument | None = None,
        env: Mapping[str, str] | None = None,
        transport: Transport = "auto",
        pipe_size_bytes: int | None = None,
    ) -> tuple[Any, ...]:
        """Run a command to its end.

        Args:
            argv: The command.
            limits: What it may take.
            data: Bytes or a mapping for its standard input; wins over ``stdin``. SIGPIPE must be blocked or ignored in this
                thread.
            stdin: A descriptor, ``NULL`` or ``INHERIT``.
            stdout: A descriptor, ``NULL``, ``INHERIT`` or ``CAPTURE``.
            stderr: A descriptor, ``NULL``, ``INHERIT``, ``CAPTURE`` or ``TO_STDOUT``.
            cwd: Its working directory.
            env: Its whole environment; ``None`` for this process's.
            transport: How ``data`` goes there, if its kind allows that; see :mod:`procbench.memory.transports`.
            pipe_size_bytes: Size to ask for, of each pipe; ``None`` for 1 MiB where more than 64 KiB are sent.

        Returns:
            The fields of a ``RunResult``, in their order; the caller makes its kind of result of them, once.

        Raises:
            SpawnError: It could not be started; nothing was left behind.
            MappingLentError: A view of the mapping is alive, and it is not sealed: it could change on its way.
        """
        started_ns = time.monotonic_ns()
        to_child = (stdin, stdout, stderr)
        pipes = _NO_PIPES if data is None and CAPTURE not in to_child else Pipes()
        try:
            if pipes is not _NO_PIPES:
                try:
                    to_child = pipes.open(
                        data, stdin, stdout, stderr, limits.max_output_bytes, transport, pipe_size_bytes
                    )
                except MappingError:
                    raise
                except OSError as error:
                    refused = SpawnLimitError if error.errno in LIMITS else SpawnError
                    raise refused(error.errno or 0, "limits", program_name(argv), "no pipe for it") from error
            child = spawn(argv, cwd, env, *to_child, spare=self._spare, cloner=self._cloner)
            watch = None
            try:
                if self.limiter is not None:
                    self.limiter.began(child.pid, program_name(argv))
                if pipes is not _NO_PIPES:
                    pipes.child_has_started()
                watch = _Watch(self, child, pipes, limits, started_ns)
                watch.until_end()
            except BaseException:
                if watch is None or not watch.reaped:
                    try:
                        if self.limiter is not None:
                            self.limiter.ends(child.pid)
                    finally:
                        end_at_once(child.pid)
                raise
            finally:
                linux.close_now(child.pidfd)
                self._polled[EXIT].fd = -1
        finally:
            if pipes is not _NO_PIPES:
                pipes.close()
        return watch.fields(argv)


class _Watch:
    """Looks after one running child: moves its bytes, ends it when its time is up, reaps it."""

    # How it stands with a child that nothing has happened to yet; what most children never need is never stored.
    reaped = False
    _ended_ns = 0
    _returncode: int | None = None
    _timed_out = _cancelled = _held = False
    _phase: StopPhase | None = None
    _deadline_s = _slice_at_s = math.inf
    _kill_at_s = 0.0
    _limit_hit: str | None = None

    def __init__(self, runner: ChildRunner, child: Child, pipes: Pipes, limits: Limits, started_ns: int) -> None:
        self._runner = runner
        self._polled = runner._polled
        self._child = child
        self._pipes = pipes
        self._limits = limits
        self._started_ns = started_ns
        self._polled[EXIT].fd = child.pidfd
        self._count = _WITHOUT_PIPES if pipes is _NO_PIPES else len(self._polled)
        if limits.timeout is not None:
            self._deadline_s = started_ns / _SECOND_NS + limits.timeout
        if runner.slice_s is not None and runner.more_urgent is not None:
            self._slice_at_s = started_ns / _SECOND_NS + runner.slice_s

    def until_end(self) -> None:
        """Return when the child is reaped and its pipes are drained."""
        try:
            self._loop()
        except BaseException:
            # Most likely Ctrl-C. The child sits in a group of its own, so the terminal has not told it; a second Ctrl-C
            # while it is being asked nicely ends it at once.
            try:
                self._cancelled = True
                if not self._ended_ns and self._phase is None:
                    self._advance()
                self._loop()
            except BaseException:
                self._kill_at_once()
                raise
            finally:
                self._reap()
            raise
        self._reap()

    def _loop(self) -> None:
        runner = self._runner
        while not self._ended_ns or self._pipes.reading:
            if runner.stop_asked is not None and not self._ended_ns:
                self._obey(runner.stop_asked)
            wait_ms = -1
            until_s = self._slice_at_s if self._slice_at_s < self._deadline_s else self._deadline_s
            if until_s != math.inf:
                wait_ms = min(max(0, math.ceil((until_s - time.monotonic()) * 1000)), _LONGEST_POLL_MS)
            if self._count > _WITHOUT_PIPES:
                self._pipes.show_to(self._polled)
            if linux.poll(runner._address, self._count, wait_ms) > 0:
                self._serve()
            if wait_ms >= 0 and time.monotonic() >= self._slice_at_s:
                self._give_way()
            if wait_ms >= 0 and time.monotonic() >= self._deadline_s and self._advance():
                return

    def _serve(self) -> None:
        polled, pipes = self._polled, self._pipes
        if self._count > _WITHOUT_PIPES:
            pipes.move(polled, self._runner.buffer)
        if polled[WAKE].revents:
            os.eventfd_read(polled[WAKE].fd)
        if polled[EXIT].revents:
            # It counts as ended only when all of this is done: an interrupt in between finds it all to do again.
            ended_ns = time.monotonic_ns()
            if self._count > _WITHOUT_PIPES:
                pipes.child_has_ended(self._runner.buffer)
            self._deadline_s = ended_ns / _SECOND_NS + self._limits.drain_grace_s
            self._ended_ns = ended_ns
            polled[EXIT].fd = -1
            polled[EXIT].revents = 0

    def _give_way(self) -> None:
        """Let something more urgent have this thread, if there is anything; the child stands still, and so does its time."""
        runner = self._runner
        self._slice_at_s = math.inf
        if self._ended_ns or self._phase is not None or runner.stop_asked is not None:
            return  # it is on its way out, and nothing must keep it from that
        if runner.slice_s is None or runner.more_urgent is None:
            return
        work = runner.more_urgent()
        if work is not None:
            stopped_s = time.monotonic()
            pid, limiter = self._child.pid, runner.limiter
            try:
                if limiter is not None:
                    limiter.rests(pid)
                with contextlib.suppress(PermissionError):  # somebody else's set-user-id program: it goes on running
                    signal_group(pid, signal.SIGSTOP)
                work()
            finally:
                with contextlib.suppress(PermissionError):
                    signal_group(pid, signal.SIGCONT)
                if limiter is not None:
                    limiter.goes_on(pid)
                self._deadline_s += time.monotonic() - stopped_s
        self._slice_at_s = time.monotonic() + runner.slice_s

    def _obey(self, wish: Literal["terminate", "kill"]) -> None:
        self._cancelled = self._cancelled or self._phase is None
        if self._phase is None and wish == "terminate":
            self._advance_to("terminate")
        elif self._phase in (None, "terminate") and wish == "kill":
            self._advance_to("kill")

    def _advance(self) -> bool:
        """Do what is due now that the deadline has passed; return whether to stop looking after the child."""
        if self._ended_ns:
            self._held = True
            return True
        if self._phase is None:
            self._timed_out = not self._cancelled
            self._advance_to("terminate")
        elif self._phase == "terminate":
            self._advance_to("kill")
        else:
            self._phase = "abandoned"
            return True
        return False

    def _advance_to(self, phase: Literal["terminate", "kill"]) -> None:
        self._phase = phase
        # The child is not reaped yet, so its id, and with it its group's, belongs to nobody else.
        if phase == "terminate":
            signal_group(self._child.pid, signal.SIGTERM)
            signal_group(self._child.pid, signal.SIGCONT)  # a stopped process gets SIGTERM only once it goes on
            self._deadline_s = self._kill_at_s = time.monotonic() + self._limits.kill_grace_s
        else:
            signal_group(self._child.pid, signal.SIGKILL)
            self._deadline_s = time.monotonic() + _ABANDON_AFTER_S

    def _kill_at_once(self) -> None:
        if not self._ended_ns:
            self._advance_to("kill")
            self._polled[EXIT].fd = self._child.pidfd
            linux.poll(self._runner._address, 1, int(_ABANDON_AFTER_S * 1000))
            self._ended_ns = time.monotonic_ns()

    def _reap(self) -> None:
        runner = self._runner
        pid = self._child.pid
        # First the rest of its group, then the child itself: while it is a zombie, nobody else's group has this number.
        if self._phase is not None:
            kill_at_s = self._kill_at_s if self._phase == "terminate" else 0.0
            if end_group(pid, kill_at_s=kill_at_s, give_up_after_s=_DYING_S) and self._phase == "terminate":
                self._phase = "kill"
        oom_kills = 0 if runner.limiter is None else runner.limiter.ends(pid)
        self.reaped = True
        if linux.wait4_now(pid, runner.status_address, os.WNOHANG, runner.usage_address) == pid:
            self._returncode = os.waitstatus_to_exitcode(runner.status.value)
            if self._returncode < 0 and self._phase is None:  # otherwise the signal may be ours
                self._limit_hit = limit_hit(self._returncode, runner.usage, oom_kills)
        else:
            ctypes.memset(runner.usage_address, 0, ctypes.sizeof(runner.usage))

    def fields(self, argv: Sequence[Argument]) -> tuple[Any, ...]:
        usage, out, err, feed = self._runner.usage, self._pipes.out, self._pipes.err, self._pipes.feed
        peak_bytes = usage.max_rss_kib * 1024
        cut = (out is not None and out.cut) or (err is not None and err.cut)
        unfinished = self._held or self._returncode is None or self._returncode < 0
        return (
            argv,
            self._returncode,
            out.value() if out is not None else None,
            err.value() if err is not None else None,
            out.total_bytes if out is not None else 0,
            err.total_bytes if err is not None else 0,
            cut or (unfinished and not (out is None and err is None)),
            feed.sent_bytes if feed is not None else 0,
            feed.error if feed is not None else None,
            feed.transport if feed is not None else self._pipes.transport,
            feed.fallback if feed is not None else None,
            self._pipes.smallest_pipe_bytes(),
            usage.user_s + usage.user_us / 1e6,
            usage.system_s + usage.system_us / 1e6,
            peak_bytes,
            self._runner.inherited(peak_bytes),
            usage.minor_faults,
            usage.major_faults,
            usage.voluntary_switches,
            usage.involuntary_switches,
            self._child.pid,
            self._started_ns,
            self._ended_ns or time.monotonic_ns(),
            self._timed_out,
            self._cancelled,
            self._phase,
            self._held,
            self._limit_hit,
        )
