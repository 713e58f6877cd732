"""One child from its spawn to its reap: where it stands, what is due, how it ended. Nothing here waits.

Two kinds of waiting share it: :mod:`procbench.io.runner` waits in poll(2), :mod:`procbench.io.process` in an event loop. The
child stays unreaped until the last signal has been sent, so its process id and its group's id cannot have passed to
somebody else.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final, Literal

from procbench import linux
from procbench.io.contained import Contained
from procbench.io.ending import Ending
from procbench.io.limits import limit_hit
from procbench.io.order import Order
from procbench.io.pipes import Pipes
from procbench.io.results import StopPhase
from procbench.io.spawn import Child, end_at_once
from procbench.memory.lease import PooledBuffer

if TYPE_CHECKING:
    from procbench.io.starter import Starter

# After SIGKILL a process is gone within milliseconds, unless the kernel itself keeps it waiting (a dead network disk).
ABANDON_AFTER_S: Final = 5.0
_DYING_S = 1.0
# Resident sizes are summed up from per-CPU counters that lag a little; between "may be ours" and "is the child's" doubt wins.
_PEAK_SLACK_SHARE = 16
_PEAK_SLACK_BYTES = 1 << 20
_SECOND_NS = 1_000_000_000

NO_PIPES: Final = Pipes()
"""What most children have, so it is not made anew for each."""

_abandoned: Final[set[int]] = set()
"""Children that did not die by SIGKILL in time: zombies of this process some day, which nobody else will reap."""


class Reaper:
    """wait4(2) into memory that is kept, for who reaps many children one after the other. Not thread-safe."""

    __slots__ = ("_own_peak_bytes", "_status", "_status_address", "_usage_address", "usage")

    def __init__(self) -> None:
        self._status = ctypes.c_int()
        self._status_address = ctypes.addressof(self._status)
        self.usage = linux.Usage()
        self._usage_address = ctypes.addressof(self.usage)
        self._own_peak_bytes = 0

    def reap(self, pid: int) -> int | None:
        """Reap a child that has ended and return its returncode; ``usage`` is what it cost.

        Returns ``None``, and zeros, if it has not ended or somebody else reaped it.
        """
        if linux.wait4_now(pid, self._status_address, os.WNOHANG, self._usage_address) == pid:
            return os.waitstatus_to_exitcode(self._status.value)
        ctypes.memset(self._usage_address, 0, ctypes.sizeof(self.usage))
        return None

    def inherited(self, peak_bytes: int) -> bool:
        """Return whether a child's peak memory may be this process's own, which the kernel counts in until the exec."""
        bound = self._own_peak_bytes
        if peak_bytes > bound:  # our own peak only grows: ask for it again only when the old one does not settle it
            own = linux.own_peak_memory_bytes()
            self._own_peak_bytes = bound = own + own // _PEAK_SLACK_SHARE + _PEAK_SLACK_BYTES
        return peak_bytes <= bound


class Course:
    """One running child. Whoever watches its descriptors says what happened, and does what is due at ``deadline_s``.

    Args:
        starter: What it was begun with, which also reaps it.
        child: The child.
        contained: What holds it and its descendants together.
        pipes: Its pipes, open.
        order: What it was begun for.
        started_ns: When its spawn began, on ``time.monotonic_ns()``'s clock.
        permits: Descriptors that it takes of the budget.

    Attributes:
        deadline_s: When :meth:`advance` is due, on ``time.monotonic()``'s clock.
        ended_ns: When it ended; 0 while it runs.
        phase: How far ending it has gone.
        reaped: Whether it is reaped.
        returncode: Once reaped.
        timed_out, cancelled, held, limit_hit, survivors: As in the result.
    """

    # How it stands with a child that nothing has happened to yet; what most children never need is never stored.
    reaped = False
    ended_ns = 0
    returncode: int | None = None
    timed_out = cancelled = held = False
    phase: StopPhase | None = None
    deadline_s = math.inf
    limit_hit: str | None = None
    survivors: tuple[int, ...] = ()
    _kill_at_s = 0.0
    _asked: StopPhase | None = None
    _ending: Ending | None = None

    def __init__(
        self,
        starter: Starter,
        child: Child,
        contained: Contained,
        pipes: Pipes,
        order: Order,
        started_ns: int,
        permits: int,
    ) -> None:
        self.child = child
        self.contained = contained
        self.pipes = pipes
        self.limits = limits = order.limits
        self._argv = order.argv
        self._starter = starter
        self._started_ns = started_ns
        self._permits = permits
        if _abandoned:
            _abandoned.discard(child.pid)  # somebody else has reaped that one, and its number is this one's
        if limits.timeout is not None:
            self.deadline_s = started_ns / _SECOND_NS + limits.timeout

    def has_ended(self, buffer: PooledBuffer | None) -> None:
        """Note that the child has ended, and take what it left in its pipes."""
        # It counts as ended only when all of this is done: an interrupt in between finds it all to do again.
        ended_ns = time.monotonic_ns()
        if buffer is not None:
            self.pipes.child_has_ended(buffer)
        self.deadline_s = ended_ns / _SECOND_NS + self.limits.drain_grace_s
        self.ended_ns = ended_ns

    def output_went_over(self) -> None:
        """End the child, which has written more than ``max_output_bytes``."""
        if self.phase is None and not self.ended_ns:
            self.limit_hit = "output"
            self._advance_to("terminate")

    def asked_to_end(self, *, at_once: bool) -> None:
        """Note that somebody has sent the child a signal to end it: what it leaves behind shall end too."""
        if self.phase is None and not self.ended_ns:
            self.cancelled = True
            self._asked = "kill" if at_once else "terminate"
            self._kill_at_s = time.monotonic() + self.limits.kill_grace_s

    def obey(self, wish: Literal["terminate", "kill"]) -> None:
        """End the child because somebody asks for it, or end it faster, and what it has left behind."""
        if self.ended_ns:
            if wish == "kill" and self.phase == "terminate":
                self._kill_at_s = 0.0
                if self._ending is not None:
                    self._ending.kill_at_once()
            return
        self.cancelled = self.cancelled or self.phase is None
        if self.phase is None and wish == "terminate":
            self._advance_to("terminate")
        elif self.phase in (None, "terminate") and wish == "kill":
            self._advance_to("kill")

    def advance(self) -> bool:
        """Do what is due now that the deadline has passed; return whether to stop looking after the child."""
        if self.ended_ns:
            self.held = True
            return True
        if self.phase is None:
            self.timed_out = not self.cancelled
            self._advance_to("terminate")
        elif self.phase == "terminate":
            self._advance_to("kill")
        else:
            self.phase = "abandoned"
            return True
        return False

    def _advance_to(self, phase: Literal["terminate", "kill"]) -> None:
        self.phase = phase
        # The child is not reaped yet, so its id, and with it its group's, belongs to nobody else.
        if phase == "terminate":
            self.contained.signal(signal.SIGTERM)
            self.contained.signal(signal.SIGCONT)  # a stopped process gets SIGTERM only once it goes on
            self.deadline_s = self._kill_at_s = time.monotonic() + self.limits.kill_grace_s
        else:
            self.contained.signal(signal.SIGKILL)
            self.deadline_s = time.monotonic() + ABANDON_AFTER_S

    def ending(self) -> Ending | None:
        """Return what has to be over before the child may be reaped; ``None`` where nobody wanted it to end.

        First the rest of what it started, then the child itself: while it is a zombie, nobody else's group has its number.
        """
        self.phase = self.phase or self._asked
        if self.phase is None:
            return None
        kill_at_s = self._kill_at_s if self.phase == "terminate" else 0.0
        self._ending = Ending(self.contained, kill_at_s=kill_at_s, give_up_after_s=_DYING_S)
        return self._ending

    def reap(self, ending: Ending | None = None) -> None:
        """Reap the child, after its ``ending`` if there was one."""
        if ending is not None and ending.killed and self.phase == "terminate":
            self.phase = "kill"
        pid, limiter = self.child.pid, self._starter.limiter
        oom_kills = 0 if limiter is None else limiter.ends(pid)
        self.reaped = True
        self.returncode = self._starter.reaper.reap(pid)
        if _abandoned:
            _reap_abandoned()
        if (
            self.returncode is not None and self.returncode < 0 and self.phase is None
        ):  # otherwise the signal may be ours
            self.limit_hit = limit_hit(self.returncode, self._starter.reaper.usage, oom_kills)
        self.survivors = self.contained.release()

    def close(self) -> None:
        """Give back what watching it took; one that still runs is killed first. Harmless when called twice."""
        if not self.reaped:
            self.reaped = True
            self.contained.signal(signal.SIGKILL)
            if self._starter.limiter is not None:
                self._starter.limiter.ends(self.child.pid)
            end_at_once(self.child.pid)
            self.contained.release()
        if self._permits:
            if self.returncode is None:  # abandoned, or an interrupt came before the reaping that was said to be done
                _abandoned.add(self.child.pid)
                _reap_abandoned()
            linux.close_now(self.child.pidfd)
            self.pipes.close()
            if self._starter.budget is not None:
                self._starter.budget.release(self._permits)
            self._permits = 0

    def cost(self) -> tuple[Any, ...]:
        """Return what the result says of its cost. To be called before the starter's next child is reaped."""
        usage = self._starter.reaper.usage
        peak_bytes = usage.max_rss_kib * 1024
        return (
            usage.user_s + usage.user_us / 1e6,
            usage.system_s + usage.system_us / 1e6,
            peak_bytes,
            self._starter.reaper.inherited(peak_bytes),
            usage.minor_faults,
            usage.major_faults,
            usage.voluntary_switches,
            usage.involuntary_switches,
        )

    def fields(self, cost: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the fields of a ``RunResult``, in their order."""
        out, err, feed = self.pipes.out, self.pipes.err, self.pipes.feed
        cut = (out is not None and out.cut) or (err is not None and err.cut)
        unfinished = self.held or self.returncode is None or self.returncode < 0
        return (
            self._argv,
            self.returncode,
            out.value() if out is not None else None,
            err.value() if err is not None else None,
            out.total_bytes if out is not None else 0,
            err.total_bytes if err is not None else 0,
            cut or (unfinished and not (out is None and err is None)),
            out.over_cap() if out is not None else None,
            err.over_cap() if err is not None else None,
            (out and out.tee_error) or (err and err.tee_error) or None,
            feed.sent_bytes if feed is not None else 0,
            feed.error if feed is not None else None,
            feed.transport if feed is not None else self.pipes.transport,
            feed.fallback if feed is not None else None,
            self.pipes.smallest_pipe_bytes(),
            *cost,
            self.child.pid,
            self._started_ns,
            self.ended_ns or time.monotonic_ns(),
            self.timed_out,
            self.cancelled,
            self.phase,
            self.held,
            self.limit_hit,
            self.contained.level,
            self.survivors,
        )


def _reap_abandoned() -> None:
    """Reap those that have died meanwhile. One that somebody else has reaped, or another process begun, is forgotten."""
    for pid in tuple(_abandoned):
        try:
            over = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            over = True
        if over:
            _abandoned.discard(pid)
