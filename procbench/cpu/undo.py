"""What a changed process had before, and how it gets that back: as much of it as can be, and what cannot is said."""

from __future__ import annotations

import contextlib
import errno
import functools
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field

from procbench.cpu.cpu_limit import CpuMechanism
from procbench.cpu.memory_limit import MemoryMechanism
from procbench.cpu.processes import ProcessGuard, ProcessId, ProcessMark, read_stat, thread_ids
from procbench.cpu.scheduling_class import SchedulingClass, put_back
from procbench.errors import PermissionDeniedError, ProcessGoneError


@dataclass
class Managed:
    """A changed process, and what it had before.

    Attributes:
        mark: Which one.
        threads: What each of its threads had.
        rlimits: The (soft, hard) limits that it had.
        cpu: The CPU limit in force, and by what; ``None`` for none.
        memory: The memory limit in force, and by what; ``None`` for none.
    """

    mark: ProcessMark
    threads: dict[ProcessId, SchedulingClass] = field(default_factory=dict)
    rlimits: dict[int, tuple[int, int]] = field(default_factory=dict)
    cpu: tuple[float, CpuMechanism] | None = None
    memory: tuple[int, MemoryMechanism] | None = None


class Failures:
    """Lets each of several steps be taken whatever became of the others, and says at the end what did not work."""

    def __init__(self) -> None:
        self.found: list[Exception] = []

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Keep the error of one step. That the process has ended is kept from no caller."""
        try:
            yield
        except ProcessGoneError:
            raise
        except Exception as error:
            self.found.append(error)

    def note_on(self, error: BaseException) -> None:
        """Add what did not work to the error that is on its way."""
        for failure in self.found:
            error.add_note(str(failure))

    def raise_any(self) -> None:
        """Raise what did not work, if anything.

        Raises:
            PermissionDeniedError: Nothing but rights were missing; the message names all.
            Exception: The first of another kind, with the others as notes.
        """
        refused = [one for one in self.found if isinstance(one, PermissionDeniedError)]
        others = [one for one in self.found if not isinstance(one, PermissionDeniedError)]
        if others:
            for one in (*refused, *others[1:]):
                others[0].add_note(str(one))
            raise others[0]
        if refused:
            raise PermissionDeniedError(errno.EPERM, "; ".join(str(one.strerror) for one in refused))


def restore(guard: ProcessGuard, before: Managed, failures: Failures) -> None:
    """Give each thread of a process, and the process, what they had; the rest is done even when a part is refused.

    A thread that was started since gets what the main thread had.

    Args:
        guard: Holds on to the process.
        before: What it had.
        failures: Takes what is refused.

    Raises:
        ProcessGoneError: It has ended.
    """
    pid = guard.pid
    main = before.threads.get(guard.mark.process)
    for tid in thread_ids(pid) if before.threads else ():
        with failures.collected(), gone_only_if_main(guard, tid):
            had = before.threads.get(read_stat(pid, tid).id, main)
            if had is not None:
                put_back(tid, had, still_there=functools.partial(guard.check_thread, tid))
    for which, limits in before.rlimits.items():
        with failures.collected():
            guard.check()
            try:
                resource.prlimit(pid, which, limits)
            except ProcessLookupError:
                raise ProcessGoneError(errno.ESRCH, f"process {pid} has ended") from None
            except PermissionError as failure:
                said = f"limit {which} of process {pid} could not be put back: {failure.strerror}"
                raise PermissionDeniedError(errno.EPERM, said) from failure
    guard.check()


@contextlib.contextmanager
def gone_only_if_main(guard: ProcessGuard, tid: int) -> Iterator[None]:
    """Pass over a thread that has ended, as long as its process has not.

    Raises:
        ProcessGoneError: The process has ended.
    """
    try:
        yield
    except ProcessGoneError:
        if tid == guard.pid:
            raise
        guard.check()
