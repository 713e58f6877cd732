"""See one child through in an event loop, from its spawn to its reap: the event loop's twin of ``runner``'s poll loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
import warnings
import weakref
from typing import Any

from procbench import linux
from procbench.errors import ProcessGoneError
from procbench.io.course import NO_PIPES, Course
from procbench.io.ending import Ending
from procbench.io.intake import Intake
from procbench.io.keep import Keep
from procbench.io.reactor import READ, WRITE, Reactor
from procbench.io.streams import ReadStream
from procbench.io.write_stream import WriteStream
from procbench.memory.feed import Feed


class Milestone:
    """Something that happens once, and who waits for it: an ``asyncio.Event`` that may also come after its loop was closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []
        self._reached = False

    def is_set(self) -> bool:
        """Return whether it has happened."""
        return self._reached

    def set(self) -> None:
        """Say that it has happened. Harmless when said again."""
        self._reached = True
        for waiter in self._waiters:
            if not (waiter.done() or self._loop.is_closed()):
                waiter.set_result(None)

    async def wait(self) -> None:
        """Return when it has happened."""
        if not self._reached:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)


class Milestones:
    """What a child's process object waits for.

    Attributes:
        exited: The child has exited.
        finished: It is reaped too, and nothing is kept of its output any more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.exited = Milestone(loop)
        self.finished = Milestone(loop)


class Watch:
    """One running child, seen through to its end. Used in the event loop's thread only.

    It must refer to nobody who waits for the child, or for a stream of it, except through what the open loop refers to: it is
    what is left when everybody has forgotten the child, and has to find that out.

    Args:
        reactor: The event loop's.
        course: The child's.
        milestones: Whom to tell.

    Attributes:
        returncode: Once it has exited; ``None`` before, and if it could not be learnt.
    """

    def __init__(self, reactor: Reactor, course: Course, milestones: Milestones) -> None:
        self.returncode: int | None = None
        self._exited = self._finished = False
        self._milestones = weakref.ref(milestones)
        self._reactor_ref = weakref.ref(reactor)
        self._loop = reactor.loop
        reactor.awaited.add(milestones)
        self._course = course
        self._cost: tuple[Any, ...] = ()
        self._ending: Ending | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Weakly: they refer to what tells that the child is forgotten, and this lives as long as the child.
        self._streams: weakref.WeakSet[ReadStream] = weakref.WeakSet()
        self._stdin: weakref.ref[WriteStream] | None = None
        self._closed = False
        try:
            self._begin()
        except BaseException:  # such as ENOSPC of epoll_ctl(2): nobody would see the child end
            self.close()
            raise

    def _begin(self) -> None:
        course = self._course
        self._reactor.arm(course.child.pidfd, READ, self._has_exited)
        for intake in (course.pipes.out, course.pipes.err):
            if intake is not None and intake.keep is not None:
                self._drain(intake)
        if course.pipes.feed is not None:
            self.push(course.pipes.feed)
        self._set_timer()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._course.child.pid

    @property
    def _reactor(self) -> Reactor:
        reactor = self._reactor_ref()
        if reactor is None:
            raise RuntimeError("Event loop is closed")  # as asyncio says; only what it calls comes here
        return reactor

    def _forget(self, fd: int) -> None:
        reactor = self._reactor_ref()
        if reactor is not None:
            reactor.forget(fd)

    def _has_come(self, *, exited: bool = False, finished: bool = False) -> None:
        self._exited = self._exited or exited
        self._finished = self._finished or finished
        milestones = self._milestones()
        if milestones is None:
            return
        if exited:
            milestones.exited.set()
        if finished:
            milestones.finished.set()
            reactor = self._reactor_ref()
            if reactor is not None:
                reactor.awaited.discard(milestones)

    def add(self, stream: ReadStream) -> None:
        """Tell that stream when the drain's grace is over, and when the child is closed."""
        self._streams.add(stream)

    def add_stdin(self, stream: WriteStream) -> None:
        """The same for the stream that the child reads."""
        self._stdin = weakref.ref(stream)

    # --- bytes ------------------------------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Close this process's copies of the ends that the child writes to, so that its own closing is seen."""
        self._course.pipes.let_go()

    def keep(self, stream: ReadStream, intake: Intake, keep: Keep) -> None:
        """Keep from now on what comes through a stream."""
        stream.keep(keep)
        if intake.fd >= 0:
            self._drain(intake)

    def _drain(self, intake: Intake) -> None:
        fd = intake.fd
        intake.drain(self._reactor.buffer)
        if intake.must_end:
            self._course.output_went_over()
            self._set_timer()
        if intake.fd >= 0:
            self._reactor.arm(fd, READ, lambda: self._drain(intake))
        else:
            self._forget(fd)
            self._look_whether_finished()

    def feed(self, feed: Feed) -> None:
        """Give the child what it shall read."""
        self._course.pipes.feed = feed
        self.push(feed)

    def push(self, feed: Feed) -> None:
        """Write what its pipe takes now, and the rest when it has room."""
        fd = feed.fd
        if fd < 0:
            return
        if signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL:
            with linux.sigpipe_blocked():
                feed.push()
        else:
            feed.push()
        if feed.fd >= 0:
            self._reactor.arm(fd, WRITE, lambda: self.push(feed))
        else:
            self._forget(fd)

    # --- time, and the end ------------------------------------------------------------------------------------------------

    def stop(self, *, kill: bool = False) -> None:
        """End the child and what it started: by SIGTERM with a grace, or by SIGKILL at once."""
        self._course.obey("kill" if kill else "terminate")
        self._set_timer()

    def send_signal(self, number: int, *, to_end: bool) -> None:
        """Send a signal to the child alone.

        Args:
            number: The signal.
            to_end: Whether what is left of what it started shall end with it.

        Raises:
            ProcessGoneError: It has exited.
        """
        if self._exited:
            raise ProcessGoneError(f"process {self.pid} has exited; there is nobody to signal")
        if to_end:
            self._course.asked_to_end(at_once=number == signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # a zombie; its exit is just about to be noticed
            signal.pidfd_send_signal(self._course.child.pidfd, number)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._course.deadline_s != math.inf and not self._closed:
            wait_s = max(0.0, self._course.deadline_s - time.monotonic())
            self._timer = self._loop.call_later(wait_s, self._due)

    def _due(self) -> None:
        self._timer = None
        if time.monotonic() < self._course.deadline_s:
            self._set_timer()
        elif self._course.ended_ns:
            self._grace_is_over()
        elif self._course.advance():
            self._abandon()
        else:
            self._set_timer()

    def _has_exited(self) -> None:
        course = self._course
        self._forget(course.child.pidfd)
        feed = course.pipes.feed
        if feed is not None and feed.fd >= 0:
            self.push(feed)  # so that it is told what became of the rest, whichever of the two events came first
        if feed is not None and feed.fd >= 0:
            self._forget(feed.fd)
        kept = [intake.fd for intake in self._kept()]
        course.has_ended(None if course.pipes is NO_PIPES else self._reactor.buffer)
        still = [intake.fd for intake in self._kept()]
        for fd in kept:
            if fd not in still:
                self._forget(fd)
        self._ending = course.ending()
        if self._ending is None:
            self._reap()
        else:
            self.returncode = _peek(course.child.pidfd)
            self._go_on_ending()
        self._has_come(exited=True)
        self._set_timer()
        self._look_whether_finished()

    def _kept(self) -> list[Intake]:
        pipes = self._course.pipes
        return [one for one in (pipes.out, pipes.err) if one is not None and one.fd >= 0 and one.keep is not None]

    def _go_on_ending(self) -> None:
        if self._closed:
            return  # the child is reaped, and its group's number may be somebody else's
        wait_s = self._ending.step(time.monotonic()) if self._ending is not None else None
        if wait_s is not None:
            self._loop.call_later(wait_s, self._go_on_ending)
        else:
            self._reap()
            self._look_whether_finished()

    def _reap(self) -> None:
        if not self._course.reaped:
            self._course.reap(self._ending)
            self._cost = self._course.cost()
            self.returncode = self._course.returncode

    def _grace_is_over(self) -> None:
        self._course.deadline_s = math.inf
        for intake in self._kept():
            self._course.held = True
            self._forget(intake.fd)
            intake.close()
        for stream in list(self._streams):
            stream.drains_no_longer()
        self._close_stdin()
        self._look_whether_finished()

    def _close_stdin(self) -> None:
        stream = self._stdin() if self._stdin is not None else None
        if stream is not None:
            stream.child_has_gone()

    def _abandon(self) -> None:
        self._course.deadline_s = math.inf
        self._course.reap()
        self._cost = self._course.cost()
        self._has_come(exited=True)
        self._grace_is_over()

    def _look_whether_finished(self) -> None:
        pipes = self._course.pipes
        if self._course.reaped and not pipes.reading:
            self._has_come(finished=True)
            if all(end is None or end.fd < 0 for end in (pipes.out, pipes.err)):
                self.close()

    def stream_has_ended(self) -> None:
        """Note that a stream that is read by hand is at its end."""
        self._look_whether_finished()

    # --- afterwards -------------------------------------------------------------------------------------------------------

    def kept(self) -> tuple[bytes | None, bytes | None]:
        """Return what was kept of the child's standard output and error."""
        out, err = self._course.pipes.out, self._course.pipes.err
        return out.value() if out is not None else None, err.value() if err is not None else None

    def fields(self) -> tuple[Any, ...]:
        """Return the fields of the child's ``RunResult``; it is ``finished``."""
        self._course.held = self._course.held or any(stream.held for stream in self._streams)
        return self._course.fields(self._cost)

    def close(self) -> None:
        """Give everything back; a child that still runs is killed. Harmless when called twice."""
        if self._closed:
            return
        self._closed = True
        self._set_timer()
        course, pipes = self._course, self._course.pipes
        self._forget(course.child.pidfd)
        self._forget(pipes.stdin_fd)
        for end in (pipes.out, pipes.err, pipes.feed):
            if end is not None and end.fd >= 0:
                self._forget(end.fd)
        course.held = course.held or any(stream.held for stream in self._streams)
        self._close_stdin()
        for stream in list(self._streams):
            stream.cut_off()
        course.close()
        self._has_come(exited=True, finished=True)

    def forgotten(self) -> None:
        """Close, and say that somebody should have: nobody has the process any more."""
        if not self._closed:
            running = not self._exited
            self.close()
            if running:
                message = (
                    f"process {self.pid} was forgotten while it ran, and killed; use 'async with open_process(...)'"
                )
                warnings.warn(message, ResourceWarning, stacklevel=2)


def _peek(pidfd: int) -> int | None:
    """Return the returncode of a child that has exited and stays unreaped; ``None`` if somebody else reaped it."""
    try:
        status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
