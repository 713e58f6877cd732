"""Everything that a child is begun with: descriptors within the budget, pipes, the spawn, what holds and limits it."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping, Sequence
from typing import Final

from procbench import linux
from procbench.errors import DescriptorsSpentError, MappingError, SpawnError, SpawnLimitError
from procbench.io import clone
from procbench.io.budget import DescriptorBudget
from procbench.io.clone import Cloner
from procbench.io.command import Argument, program_name
from procbench.io.containment import GROUPS, Containment, ContainmentLevel, Prepared
from procbench.io.course import NO_PIPES, Course, Limits, Reaper
from procbench.io.keep import Tee
from procbench.io.limits import ChildLimiter
from procbench.io.pipes import CAPTURE, PIPED, Data, Pipes
from procbench.io.spawn import INHERIT, LIMITS, NULL, Spare, end_at_once, spawn
from procbench.memory.transports import Transport

_PIDFD: Final = 1
_PIPE: Final = 2


def descriptors_for(data: Data | None, stdin: int | None, stdout: int | None, stderr: int | None) -> int:
    """Return how many descriptors a child with these streams takes at most, here, while it is looked after."""
    pipes = (data is not None or stdin == CAPTURE) + (stdout in PIPED) + (stderr in PIPED)
    return _PIDFD + _PIPE * pipes


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
        limiter: Keeps each child to its share of CPUs and memory; ``None`` for children that may use any.
        level: How what each child starts is held together.
        budget: Whose permits a child's descriptors count against; ``None`` for none.
    """

    def __init__(
        self,
        level: ContainmentLevel = "group",
        *,
        many: bool = False,
        limiter: ChildLimiter | None = None,
        budget: DescriptorBudget | None = None,
    ) -> None:
        self.limiter = limiter
        self.budget = budget
        self.reaper = Reaper()
        self.containment = GROUPS if level == "group" else Containment(level)
        self._spare = Spare()
        self._cloner = Cloner() if many and clone.usable() else None

    def close(self) -> None:
        """Give the descriptors back. Harmless when called twice."""
        self.containment.close()
        self._spare.close()
        if self._cloner is not None:
            self._cloner.close()

    def start(
        self,
        argv: Sequence[Argument],
        limits: Limits,
        permits: int,
        data: Data | None = None,
        stdin: int | None = NULL,
        stdout: int | None = INHERIT,
        stderr: int | None = INHERIT,
        cwd: Argument | None = None,
        env: Mapping[str, str] | None = None,
        transport: Transport = "auto",
        pipe_size_bytes: int | None = None,
        tees: tuple[Tee | None, Tee | None] = (None, None),
        streamed: bool = False,
    ) -> Course:
        """Begin a child; whoever gets its course closes that in the end.

        Args:
            argv: The command.
            limits: What it may take.
            permits: How many descriptors of the budget are taken for it; given back when the course is closed.
            data: Bytes or a mapping for its standard input; wins over ``stdin``.
            stdin: A descriptor, ``NULL``, ``INHERIT`` or ``CAPTURE``.
            stdout: A descriptor, ``NULL``, ``INHERIT``, ``CAPTURE`` or ``KEEP``.
            stderr: The same, or ``TO_STDOUT``.
            cwd: Its working directory.
            env: Its whole environment; ``None`` for this process's.
            transport: How ``data`` goes there, if its kind allows that; see :mod:`procbench.memory.transports`.
            pipe_size_bytes: Size to ask for, of each pipe; ``None`` for 1 MiB where more than 64 KiB are sent.
            tees: Where copies of what is kept of its two output streams go.
            streamed: Whether what comes through a ``CAPTURE`` is somebody else's to read.

        Raises:
            SpawnError: It could not be started; nothing was left behind.
            MappingLentError: A view of the mapping is alive, and it is not sealed: it could change on its way.
        """
        started_ns = time.monotonic_ns()
        to_child = (stdin, stdout, stderr)
        pipes = NO_PIPES
        try:
            if data is not None or stdin == CAPTURE or stdout in PIPED or stderr in PIPED:
                pipes = Pipes()
                try:
                    to_child = pipes.open(
                        data,
                        stdin,
                        stdout,
                        stderr,
                        limits.max_output_bytes,
                        transport,
                        pipe_size_bytes,
                        overflow=limits.overflow,
                        tees=tees,
                        streamed=streamed,
                    )
                except MappingError:
                    raise
                except OSError as error:
                    refused = SpawnLimitError if error.errno in LIMITS else SpawnError
                    raise refused(error.errno or errno.EIO, "limits", program_name(argv), "no pipe for it") from error
            prepared = self._prepared(argv, env)
            try:
                child = spawn(argv, cwd, env, *to_child, spare=self._spare, cloner=self._cloner, mark=prepared.mark)
            except BaseException:
                prepared.cancel()
                raise
            contained = None
            try:
                contained = prepared.contain(child.pid)
                if self.limiter is not None:
                    self.limiter.began(child.pid, program_name(argv))
                if pipes is not NO_PIPES:
                    pipes.child_has_started()
                return Course(self, child, contained, pipes, limits, started_ns, permits)
            except BaseException:
                try:
                    if self.limiter is not None:
                        self.limiter.ends(child.pid)
                finally:
                    end_at_once(child.pid)
                    linux.close_now(child.pidfd)
                    if contained is not None:
                        contained.release()
                raise
        except BaseException:
            pipes.close()
            if self.budget is not None:
                self.budget.release(permits)
            raise

    def _prepared(self, argv: Sequence[Argument], env: Mapping[str, str] | None) -> Prepared:
        try:
            return self.containment.prepare(env)
        except OSError as error:
            refused = SpawnLimitError if error.errno in LIMITS else SpawnError
            raise refused(
                error.errno or errno.EIO, "limits", program_name(argv), f"no cgroup for it: {error}"
            ) from error
