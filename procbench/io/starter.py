"""Everything that a child is begun with: descriptors within the budget, pipes, the spawn, what holds and limits it."""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from typing import Final

from procbench import linux
from procbench.errors import DescriptorsSpentError, MappingError, SpawnError, SpawnLimitError
from procbench.io import clone
from procbench.io.budget import DescriptorBudget
from procbench.io.clone import Cloner
from procbench.io.command import Argument, program_name
from procbench.io.contained import Contained, ContainmentLevel
from procbench.io.containment import GROUPS, Containment
from procbench.io.course import NO_PIPES, Course, Reaper
from procbench.io.limits import ChildLimiter
from procbench.io.order import Order
from procbench.io.pipes import Pipes
from procbench.io.spawn import LIMITS, Child, Spare, end_at_once, spawn

_PIDFD: Final = 1
_PIPE: Final = 2


def descriptors_for(order: Order) -> int:
    """Return how many descriptors a child takes at most, here, while it is looked after."""
    return _PIDFD + _PIPE * order.pipes


def take_permits(budget: DescriptorBudget, count: int, argv: Sequence[Argument], *, wait: bool) -> None:
    """Take what a child's descriptors need of the budget.

    Raises:
        SpawnError: The budget has not so many now, and this is not to wait.
        SpawnLimitError: It never will, unless its limit is raised.
    """
    try:
        if wait:
            budget.acquire(count, warn=False)
        else:
            budget.acquire_nowait(count, warn=False)
    except DescriptorsSpentError as error:
        raise spent(error, argv, SpawnLimitError if wait else SpawnError) from error


def spent(error: DescriptorsSpentError, argv: Sequence[Argument], kind: type[SpawnError]) -> SpawnError:
    """Return the error of a child that got no descriptors."""
    return kind(error.errno or errno.EMFILE, "limits", program_name(argv), error.strerror or str(error))


class Starter:
    """Begins children one after the other. Not thread-safe.

    Args:
        many: Whether it will begin many; costs what a ``Cloner`` keeps.
        in_loop: Whether it belongs to an event loop, whose own handler of SIGINT refers to its tasks.
        limiter: Keeps each child to its share of CPUs and memory; ``None`` for children that may use any.
        level: How what each child starts is held together.
        budget: Whose permits a child's descriptors count against; ``None`` for none.
    """

    def __init__(
        self,
        level: ContainmentLevel = "group",
        *,
        many: bool = False,
        in_loop: bool = False,
        limiter: ChildLimiter | None = None,
        budget: DescriptorBudget | None = None,
    ) -> None:
        self.limiter = limiter
        self.budget = budget
        self.reaper = Reaper()
        self.containment = GROUPS if level == "group" else Containment(level)
        self._spare = Spare()
        self._cloner = Cloner(keeps_handlers=not in_loop) if many and clone.usable() else None

    def close(self) -> None:
        """Give the descriptors back. Harmless when called twice."""
        self.containment.close()
        self._spare.close()
        if self._cloner is not None:
            self._cloner.close()

    def start(self, order: Order, permits: int) -> Course:
        """Begin a child; whoever gets its course closes that in the end.

        Args:
            order: What to begin.
            permits: What ``descriptors_for`` says that it takes; given back to the budget when the course is closed.

        Raises:
            SpawnError: It could not be started; nothing was left behind.
            MappingLentError: A view of the mapping is alive, and it is not sealed: it could change on its way.
        """
        started_ns = time.monotonic_ns()
        pipes, to_child = NO_PIPES, (order.stdin, order.stdout, order.stderr)
        try:
            if permits > _PIDFD:
                pipes = Pipes()
                to_child = self._opened(pipes, order)
            child, contained = self._spawned(order, to_child)
            try:
                if self.limiter is not None:
                    self.limiter.began(child.pid, program_name(order.argv))
                if pipes is not NO_PIPES:
                    pipes.child_has_started()
                return Course(self, child, contained, pipes, order, started_ns, permits)
            except BaseException:
                try:
                    if self.limiter is not None:
                        self.limiter.ends(child.pid)
                finally:
                    _end(child)
                    contained.release()
                raise
        except BaseException:
            pipes.close()
            if self.budget is not None:
                self.budget.release(permits)
            raise

    @staticmethod
    def _opened(pipes: Pipes, order: Order) -> tuple[int | None, int | None, int | None]:
        try:
            return pipes.open(order)
        except MappingError:
            raise
        except OSError as error:
            raise _refused(error, order, "no pipe for it") from error

    def _spawned(self, order: Order, to_child: tuple[int | None, int | None, int | None]) -> tuple[Child, Contained]:
        try:
            prepared = self.containment.prepare(order.env)
        except OSError as error:
            raise _refused(error, order, f"no cgroup for it: {error}") from error
        try:
            child = spawn(
                order.argv,
                order.cwd,
                order.env,
                *to_child,
                spare=self._spare,
                cloner=self._cloner,
                mark=prepared.mark,
            )
        except BaseException:
            prepared.cancel()
            raise
        try:
            return child, prepared.contain(child.pid)
        except BaseException as error:
            _end(child)
            if isinstance(error, OSError):
                raise _refused(error, order, f"it was ended again, its cgroup does not take it: {error}") from error
            raise


def _end(child: Child) -> None:
    end_at_once(child.pid)
    linux.close_now(child.pidfd)


def _refused(error: OSError, order: Order, why: str) -> SpawnError:
    kind = SpawnLimitError if error.errno in LIMITS else SpawnError
    return kind(error.errno or errno.EIO, "limits", program_name(order.argv), why)
