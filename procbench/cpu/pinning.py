"""Pin a process with all its threads, or the calling thread, and see that the kernel did what was asked.

The kernel keeps a CPU set for each thread, not for each process: what ``sched_setaffinity`` does to a pid, it does to its
main thread. It drops CPUs that do not exist, are off, or are outside the cpuset without a word, and refuses only when none
is left. So CPUs are checked before, every thread is set, and each set is read back.

Source: sched_setaffinity(2), cpuset(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final, NamedTuple

from procbench.cpu.placement import CpuSetLike, check_cpus, format_cpu_list
from procbench.cpu.processes import ProcessGuard, read_stat, thread_ids
from procbench.errors import InvalidInputError, PermissionDeniedError, ProcessGoneError, UnsupportedError

_MOST_PASSES: Final = 100
"""Threads that are born meanwhile need a second pass, seldom a third; more is somebody who sets them back."""


class ThreadCpus(NamedTuple):
    """What one thread had before it was pinned.

    Attributes:
        started_ticks: When it started, clock ticks since boot: its id may be another's later.
        cpus: Its CPU set.
    """

    started_ticks: int
    cpus: frozenset[int]


def process_cpus() -> frozenset[int]:
    """Return the logical CPUs of this process: those of its main thread, as others may have pinned themselves."""
    return frozenset(os.sched_getaffinity(os.getpid()))


def cpus_of(tid: int) -> frozenset[int] | None:
    """Return a thread's CPU set, None when it is gone."""
    try:
        return frozenset(os.sched_getaffinity(tid))
    except ProcessLookupError:
        return None


def pin_current_thread(cpus: CpuSetLike, allowed: frozenset[int] | None = None) -> frozenset[int]:
    """Pin the calling thread, and every child it spawns from now on, and return the set it had before.

    Two system calls and a look at the main thread; none for each child, which inherits the set. To go back, pass what
    was returned as both arguments.

    Args:
        cpus: Logical CPUs, by number or in the kernel's list format.
        allowed: CPUs to choose from; None for those of the main thread and those that the calling thread has.

    Raises:
        InvalidInputError: The set is empty, or names a CPU that is not allowed or that the kernel drops; the thread has its
            previous set.
        PermissionDeniedError: The call is forbidden, as by a seccomp(2) filter.

    Source: sched_setaffinity(2): a child of fork(2) inherits the set, and execve(2) keeps it.
    """
    previous = frozenset(os.sched_getaffinity(0))
    chosen = check_cpus(cpus, process_cpus() | previous if allowed is None else allowed)
    try:
        os.sched_setaffinity(0, chosen)
    except OSError as error:
        raise _refusal(error, "this thread", chosen) from error
    in_force = frozenset(os.sched_getaffinity(0))
    if in_force != chosen:
        os.sched_setaffinity(0, previous)
        raise _dropped("this thread", chosen, in_force)
    return previous


def pin_threads(guard: ProcessGuard, cpus: frozenset[int]) -> tuple[dict[int, ThreadCpus], int]:
    """Pin every thread of a process, and return what each had before and how many there are now.

    Threads are gone through until one whole pass finds all of them with the set: one that is born of a thread which was
    not pinned yet is found by the next pass, one that is born of a pinned thread inherits the set. Those of the second
    kind are not among what is returned.

    Raises:
        ProcessGoneError: It ended.
        PermissionDeniedError: It is another user's.
        InvalidInputError: The kernel drops some of the CPUs for it.
        UnsupportedError: Somebody else keeps on changing its CPUs.

    After an error, every thread that still lives has its previous set.
    """
    before: dict[int, ThreadCpus] = {}
    try:
        for number in range(_MOST_PASSES):
            tids = sorted(thread_ids(guard.pid))
            changed = [_pin_thread(guard, tid, cpus, before, first=number == 0) for tid in tids]
            guard.check()
            if not any(changed):
                return before, len(tids)
        raise UnsupportedError(
            errno.EBUSY, f"something else keeps on changing the CPUs of process {guard.pid}; end that"
        )
    except BaseException:
        _undo(guard, before, cpus)
        raise


def put_back(
    guard: ProcessGuard, before: dict[int, ThreadCpus], pinned: frozenset[int], otherwise: frozenset[int]
) -> list[InvalidInputError | OSError]:
    """Give each thread the set that it had before, and return what the kernel refused.

    A thread that is not among ``before`` gets the main thread's, if it still has what it inherited; a set that it was given
    by somebody else since is left alone. CPUs that went off meanwhile are left out.

    Args:
        guard: The process.
        before: What its threads had.
        pinned: What they were pinned to.
        otherwise: The set for a thread whose former CPUs are all gone.

    Raises:
        ProcessGoneError: It ended.
    """
    refused: list[InvalidInputError | OSError] = []
    done: set[int] = set()
    while fresh := sorted(thread_ids(guard.pid) - done):
        done.update(fresh)
        for tid in fresh:
            now = cpus_of(tid)
            wanted = _former(guard.pid, tid, now, before, pinned)
            if wanted is None or wanted == now:
                continue
            try:
                try:
                    _set(guard, tid, wanted)
                except InvalidInputError:  # all of them went off
                    _set(guard, tid, otherwise)
            except ProcessGoneError:
                raise
            except (InvalidInputError, OSError) as error:
                refused.append(error)
    guard.check()
    return refused


def _undo(guard: ProcessGuard, before: dict[int, ThreadCpus], cpus: frozenset[int]) -> None:
    """Put back what a failed call changed, as far as it can be; the error on its way is the one that matters."""
    with contextlib.suppress(ProcessGoneError):
        put_back(guard, before, cpus, cpus)


def _pin_thread(
    guard: ProcessGuard, tid: int, cpus: frozenset[int], before: dict[int, ThreadCpus], *, first: bool
) -> bool:
    """Return whether the thread had to be set. One that is found only later and has the set has inherited it."""
    now = cpus_of(tid)
    if now is None or (now == cpus and not first):
        return False
    if tid not in before:
        try:
            before[tid] = ThreadCpus(read_stat(guard.pid, tid).id.started_ticks, now)
        except ProcessGoneError:  # just this thread, or all; the caller looks
            return False
    if not _set(guard, tid, cpus):  # also when it has them: whether this user may must not depend on that
        return False
    in_force = cpus_of(tid)
    if in_force is not None and in_force < cpus:
        raise _dropped(f"process {guard.pid}", cpus, in_force)
    return True


def _former(
    pid: int, tid: int, now: frozenset[int] | None, before: dict[int, ThreadCpus], pinned: frozenset[int]
) -> frozenset[int] | None:
    """Return the set that a thread is to have again; None to leave it alone."""
    if now is None:
        return None
    if tid in before:
        try:
            if read_stat(pid, tid).id.started_ticks == before[tid].started_ticks:
                return before[tid].cpus
        except ProcessGoneError:
            return None
    return before[pid].cpus if pid in before and now <= pinned else None


def _set(guard: ProcessGuard, tid: int, cpus: frozenset[int]) -> bool:
    """Set one thread's CPUs and return whether it was still there."""
    if not guard.has_thread(tid):
        return False
    try:
        os.sched_setaffinity(tid, cpus)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise _refusal(error, f"process {guard.pid}", cpus) from error
    return True


def _refusal(error: OSError, who: str, cpus: frozenset[int]) -> Exception:
    """Say what the kernel's answer means; what is not known stays as it is."""
    if isinstance(error, PermissionError):
        message = f"{who} may not be given other CPUs by this user: that takes the capability CAP_SYS_NICE"
        return PermissionDeniedError(errno.EPERM, message)
    return _dropped(who, cpus, frozenset()) if error.errno == errno.EINVAL else error


def _dropped(who: str, asked: frozenset[int], in_force: frozenset[int]) -> InvalidInputError:
    return InvalidInputError(
        f"{who} cannot run on CPU {format_cpu_list(asked - in_force)}: off, or outside its cpuset, or a kernel thread is "
        f"bound to its own; nothing was changed"
    )
