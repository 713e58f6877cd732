"""Look after one child at a time, from spawn to reap, in one poll(2): its pidfd, its pipes and a wake-up from other threads.

No SIGCHLD, no helper thread, no limit of 1,024 descriptors.
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
from collections.abc import Callable
from typing import Any, Literal

from procbench import linux
from procbench.errors import PoolExhaustedError
from procbench.io.budget import DescriptorBudget
from procbench.io.contained import ContainmentLevel
from procbench.io.course import ABANDON_AFTER_S, NO_PIPES, Course
from procbench.io.ending import Ending
from procbench.io.limits import ChildLimiter
from procbench.io.order import Order
from procbench.io.pipes import EXIT, WAKE
from procbench.io.starter import Starter, descriptors_for, take_permits
from procbench.memory.buffers import DEFAULT_SIZE_BYTES, BufferPool
from procbench.memory.lease import PooledBuffer

_LONGEST_POLL_MS = 2**31 - 1  # poll(2) takes an int; ctypes would cut a longer one down to whatever its low bits say
_WITHOUT_PIPES = 2
_START_PATIENCE_S = 10.0  # for a runner's own permits; in an event loop's thread, which then stands still, not for ever
_SHARED_BUFFERS = 16  # children with pipes at a time, each in a thread of its own, before one needs memory of its own


@functools.cache
def _shared_buffers() -> BufferPool:
    """Return the pool for single children; memory that nobody has read into yet costs nothing."""
    return BufferPool(DEFAULT_SIZE_BYTES, _SHARED_BUFFERS, name="read buffers of single children")


class ChildRunner:
    """Runs children one after the other, each from spawn to reap; a worker thread owns one and reuses its memory.

    Not thread-safe, except for ``stop`` and ``stop_one``.

    Args:
        stoppable: Whether ``stop`` will be called from other threads; costs one eventfd while the runner is open.
        many: Whether it will run many children; costs what a ``Cloner`` keeps.
        buffers: Where the buffer comes from that pipes are read into, until ``close``; ``None`` for a pool that all such
            runners of this process share.
        limiter: Keeps each child to its share of CPUs and memory; ``None`` for children that may use any.
        containment: How what each child starts is held together, to be ended with it.
        budget: Whose permits the children's descriptors count against; ``None`` for none.
        fail_when_spent: Whether a child for which the budget has no permit now is refused; otherwise it waits.

    Raises:
        DescriptorsSpentError: The budget has too few permits for what the runner itself keeps.
        OSError: The system gives no descriptor.

    Attributes:
        stop_asked: How the child that runs, or is about to, is to be ended; ``None`` if it is not.
        stop_all_asked: How that one and all later ones are.
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
        containment: ContainmentLevel = "group",
        budget: DescriptorBudget | None = None,
        fail_when_spent: bool = False,
    ) -> None:
        self._polled = (linux.PollFd * 5)()
        self._address = ctypes.addressof(self._polled)
        for slot, events in enumerate((linux.POLLIN, linux.POLLIN, linux.POLLIN, linux.POLLIN, linux.POLLOUT)):
            self._polled[slot].fd = -1
            self._polled[slot].events = events
        self.limiter = limiter
        self._budget = budget
        self._own_permits = stoppable + many  # the wake-up; /dev/null, or what is held in reserve for a pidfd
        if budget is not None and self._own_permits:
            # Other runners' children end, but other runners may stay for ever.
            at_most_s = 0.0 if fail_when_spent else _START_PATIENCE_S
            budget.acquire(self._own_permits, at_most_s, lasting=True, patient=False, warn=False)
        self._starter = Starter(containment, many=many, limiter=limiter, budget=budget)
        self._fail_when_spent = fail_when_spent
        self._buffers = buffers
        self._buffer: PooledBuffer | None = None
        self._wake_lock = threading.Lock()
        self._wake_fd = -1
        if stoppable:
            try:
                self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            except OSError:
                self.close()
                raise
        self._polled[WAKE].fd = self._wake_fd
        self.stop_asked: Literal["terminate", "kill"] | None = None
        self.stop_all_asked: Literal["terminate", "kill"] | None = None
        self._token: object = None
        self.slice_s: float | None = None
        self.more_urgent: Callable[[], Callable[[], None] | None] | None = None

    def close(self) -> None:
        """Give the descriptors and the buffer back. Harmless when called twice."""
        self._starter.close()
        if self._buffer is not None:
            self._buffer.release()
            self._buffer = None
        with self._wake_lock:
            if self._wake_fd >= 0:
                linux.close_now(self._wake_fd)
                self._wake_fd = -1
            if self._budget is not None and self._own_permits:
                self._budget.let_go(self._own_permits)
                self._own_permits = 0

    def stop(self, *, kill: bool = False) -> None:
        """End the child that runs now, and every later one as soon as it starts; from any thread, at any time.

        Args:
            kill: At once by SIGKILL, instead of by SIGTERM with a grace.
        """
        with self._wake_lock:
            self.stop_all_asked = "kill" if kill else (self.stop_all_asked or "terminate")
            self._ask(kill)

    def begin(self, token: object) -> None:
        """Say whose the children are that run from now on, until the next such call."""
        with self._wake_lock:
            self._token = token
            self.stop_asked = self.stop_all_asked

    def stop_one(self, token: object, *, kill: bool = False) -> bool:
        """End the child that runs now, or is about to start, if it is ``token``'s; from any thread. Return whether it is."""
        with self._wake_lock:
            if self._token is not token:
                return False
            self._ask(kill)
            return True

    def _ask(self, kill: bool) -> None:
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

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until ``stop`` is called."""
        if self.stop_asked is None:
            linux.poll(self._address + ctypes.sizeof(linux.PollFd) * WAKE, 1, math.ceil(seconds * 1000))

    def run(self, order: Order) -> tuple[Any, ...]:
        """Run a command to its end.

        SIGPIPE must be blocked or ignored in this thread where the order has ``data``.

        Returns:
            The fields of a ``RunResult``, in their order; the caller makes its kind of result of them, once.

        Raises:
            SpawnError: It could not be started; nothing was left behind.
            MappingLentError: A view of the mapping is alive, and it is not sealed: it could change on its way.
        """
        starter, permits = self._starter, descriptors_for(order)
        if starter.budget is not None:
            take_permits(starter.budget, permits, order.argv, wait=not self._fail_when_spent)
        course = starter.start(order, permits)
        try:
            _Watch(self, course).until_end()
            return course.fields(course.cost())
        finally:
            course.close()
            self._polled[EXIT].fd = -1


class _Watch:
    """Waits for what happens to one running child, and to its pipes, until it is reaped."""

    _slice_at_s = math.inf

    def __init__(self, runner: ChildRunner, course: Course) -> None:
        self._runner = runner
        self._polled = runner._polled
        self._course = course
        self._polled[EXIT].fd = course.child.pidfd
        self._count = _WITHOUT_PIPES if course.pipes is NO_PIPES else len(self._polled)
        if runner.slice_s is not None and runner.more_urgent is not None:
            self._slice_at_s = time.monotonic() + runner.slice_s

    def until_end(self) -> None:
        """Return when the child is reaped and its pipes are drained."""
        try:
            self._loop()
        except BaseException:
            # Most likely Ctrl-C. The child sits in a group of its own, so the terminal has not told it; a second Ctrl-C
            # while it is being asked nicely ends it at once.
            try:
                self._course.obey("terminate")
                self._loop()
            except BaseException:
                self._kill_at_once()
                raise
            finally:
                self._reap()
            raise
        self._reap()

    def _loop(self) -> None:
        runner, course = self._runner, self._course
        while not course.ended_ns or course.pipes.reading:
            if runner.stop_asked is not None:
                course.obey(runner.stop_asked)
            wait_ms = -1
            until_s = self._slice_at_s if self._slice_at_s < course.deadline_s else course.deadline_s
            if until_s != math.inf:
                wait_ms = min(max(0, math.ceil((until_s - time.monotonic()) * 1000)), _LONGEST_POLL_MS)
            if self._count > _WITHOUT_PIPES:
                course.pipes.show_to(self._polled)
            if linux.poll(runner._address, self._count, wait_ms) > 0:
                self._serve()
            if wait_ms >= 0 and time.monotonic() >= self._slice_at_s:
                self._give_way()
            if wait_ms >= 0 and time.monotonic() >= course.deadline_s and course.advance():
                return

    def _serve(self) -> None:
        polled, course = self._polled, self._course
        with_pipes = self._count > _WITHOUT_PIPES
        if with_pipes:
            course.pipes.move(polled, self._runner.buffer)
            if course.pipes.must_end:
                course.output_went_over()
        if polled[WAKE].revents:
            os.eventfd_read(polled[WAKE].fd)
        if polled[EXIT].revents:
            course.has_ended(self._runner.buffer if with_pipes else None)
            polled[EXIT].fd = -1
            polled[EXIT].revents = 0

    def _give_way(self) -> None:
        """Let something more urgent have this thread, if there is anything; the child stands still, and so does its time."""
        runner, course = self._runner, self._course
        self._slice_at_s = math.inf
        if course.ended_ns or course.phase is not None or runner.stop_asked is not None:
            return  # it is on its way out, and nothing must keep it from that
        if runner.slice_s is None or runner.more_urgent is None:
            return
        work = runner.more_urgent()
        if work is not None:
            stopped_s = time.monotonic()
            pid, limiter = course.child.pid, runner.limiter
            try:
                if limiter is not None:
                    limiter.rests(pid)
                with contextlib.suppress(PermissionError):  # somebody else's set-user-id program: it goes on running
                    course.contained.signal(signal.SIGSTOP)
                work()
            finally:
                with contextlib.suppress(PermissionError):
                    course.contained.signal(signal.SIGCONT)
                if limiter is not None:
                    limiter.goes_on(pid)
                course.deadline_s += time.monotonic() - stopped_s
        self._slice_at_s = time.monotonic() + runner.slice_s

    def _kill_at_once(self) -> None:
        course = self._course
        if not course.ended_ns:
            course.obey("kill")
            self._polled[EXIT].fd = course.child.pidfd
            linux.poll(self._runner._address, 1, int(ABANDON_AFTER_S * 1000))
            course.ended_ns = time.monotonic_ns()

    def _reap(self) -> None:
        ending = self._course.ending()
        if ending is None:
            self._course.reap()
            return
        try:
            self._see_through(ending)
        except BaseException:  # an impatient Ctrl-C: the child is gone, and what it left behind has no more time
            ending.kill_at_once()
            self._see_through(ending)
            raise
        finally:
            self._course.reap(ending)

    def _see_through(self, ending: Ending) -> None:
        runner = self._runner
        wake = runner._address + ctypes.sizeof(linux.PollFd) * WAKE
        while (wait_s := ending.step(time.monotonic())) is not None:
            if runner.stop_asked == "kill":
                self._course.obey("kill")
            if linux.poll(wake, 1, math.ceil(wait_s * 1000)) > 0:
                os.eventfd_read(self._polled[WAKE].fd)
