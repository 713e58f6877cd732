"""How urgent the kernel takes a thread to be: nice value, policy and I/O class, each read back after it is set.

Linux keeps all three for each thread, and what a thread starts begins with them, sched(7), ioprio_set(2). So each change is
one step for one thread. Not every step has a way back: an ordinary user who raises a nice value, or takes the policy
``idle``, may not undo it. Those steps therefore come last, after every step that may fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from procbench import linux
from procbench.errors import InvalidInputError, PermissionDeniedError, ProcessGoneError, UnsupportedError

POLICIES: Final[dict[str, int]] = {
    "other": os.SCHED_OTHER,
    "batch": os.SCHED_BATCH,
    "idle": os.SCHED_IDLE,
    "fifo": os.SCHED_FIFO,
    "rr": os.SCHED_RR,
}
"""Scheduling policies that can be set, and their numbers; sched(7)."""

REAL_TIME: Final = ("fifo", "rr")
"""Policies that run before all others, at a real-time priority of 1 to 99."""

IO_CLASSES: Final = ("none", "realtime", "best-effort", "idle")
"""I/O classes, in the order of their numbers; ``none`` follows the nice value. Source: ioprio_set(2)."""

DEFAULT_IO_LEVEL: Final = 4
"""The level in the middle of 0, the first, to 7, the last."""

_POLICY_NAMES: Final = {number: name for name, number in POLICIES.items()} | {6: "deadline", 7: "ext"}
_RESET_ON_FORK: Final = 0x40000000  # os.SCHED_RESET_ON_FORK, which musl's Python lacks
_LEVELS: Final = 8


@dataclass(frozen=True, slots=True)
class SchedulingClass:
    """What a thread has, as the kernel says.

    Attributes:
        nice: Nice value, -20 (most) to 19 (least CPU time).
        policy: ``other``, ``batch``, ``idle``, ``fifo`` or ``rr``; ``deadline`` or ``ext`` where somebody else set that.
        rt_priority: Real-time priority, 1 to 99; 0 for policies that have none.
        io_class: ``none``, ``realtime``, ``best-effort`` or ``idle``; ``None`` where I/O priorities are not known on this
            machine.
        io_level: Level inside the I/O class, 0 (first) to 7.
        reset_on_fork: Whether what it starts begins with nice value 0 and policy ``other`` again.
    """

    nice: int
    policy: str
    rt_priority: int
    io_class: str | None
    io_level: int
    reset_on_fork: bool = False


class Applied(NamedTuple):
    """What was asked for, and what is in force since.

    Attributes:
        asked: The values that were named, by name.
        in_force: What the kernel says afterwards.
    """

    asked: dict[str, object]
    in_force: SchedulingClass


def read(pid: int) -> SchedulingClass:
    """Return what a process's main thread, or the thread with that id, has; 0 is the calling thread.

    Raises:
        ProcessGoneError: There is none with that number.
    """
    try:
        flags = os.sched_getscheduler(pid)
        io_class, level = _io_of(pid)
        policy = flags & ~_RESET_ON_FORK
        return SchedulingClass(
            nice=os.getpriority(os.PRIO_PROCESS, pid),
            policy=_POLICY_NAMES.get(policy, str(policy)),
            rt_priority=os.sched_getparam(pid).sched_priority,
            io_class=io_class,
            io_level=level,
            reset_on_fork=bool(flags & _RESET_ON_FORK),
        )
    except ProcessLookupError:
        raise ProcessGoneError(errno.ESRCH, f"there is no process {pid}") from None


def _io_of(tid: int) -> tuple[str | None, int]:
    """Return a thread's I/O class and level; a machine where they are not known can still do all the rest."""
    try:
        number, level = linux.get_io_priority(tid)
    except UnsupportedError:
        return None, 0
    return IO_CLASSES[number] if number < len(IO_CLASSES) else str(number), level


def check_way_back(tid: int, before: SchedulingClass, after: SchedulingClass) -> None:
    """Return if ``before`` could be given back to a thread that is changed to ``after``, the user's rights aside.

    Raises:
        UnsupportedError: Its policy (``deadline``, ``ext``) or its I/O class is one that cannot be set here.
    """
    if before.policy not in POLICIES and before.policy != after.policy:
        had = f"policy {before.policy!r}"
    elif before.io_class not in IO_CLASSES and before.io_class is not None and before.io_class != after.io_class:
        had = f"I/O class {before.io_class!r}"
    else:
        return
    message = f"thread {tid} has {had}, which could not be given back to it later; leave that as it is"
    raise UnsupportedError(errno.EOPNOTSUPP, message)


def wanted(
    before: SchedulingClass,
    nice: int | None = None,
    policy: str | None = None,
    rt_priority: int | None = None,
    io_class: str | None = None,
    io_level: int | None = None,
) -> SchedulingClass:
    """Return what a thread shall have: ``before``, with what is named changed. Real-time is always reset on fork.

    Raises:
        InvalidInputError: A value is outside its range, or makes no sense beside the others.
    """
    after = before
    if nice is not None:
        _check_number("nice value", nice, -20, 19)
        after = replace(after, nice=nice)
    if policy is not None:
        if policy not in POLICIES:
            raise InvalidInputError(f"policy is {policy!r}; it must be one of {', '.join(POLICIES)}")
        after = replace(after, policy=policy, rt_priority=0, reset_on_fork=before.reset_on_fork or policy in REAL_TIME)
    if after.policy in REAL_TIME and (policy is not None or rt_priority is not None):
        priority = 1 if rt_priority is None else rt_priority
        _check_number("real-time priority", priority, 1, 99)
        after = replace(after, rt_priority=priority, reset_on_fork=True)
    elif rt_priority is not None:
        raise InvalidInputError(
            f"policy {after.policy!r} has no real-time priority; name policy 'fifo' or 'rr' with it"
        )
    if io_class is not None and io_class not in IO_CLASSES:
        raise InvalidInputError(f"I/O class is {io_class!r}; it must be one of {', '.join(IO_CLASSES)}")
    if io_class is not None or io_level is not None:
        chosen = after.io_class if io_class is None else io_class
        leveled = chosen in {"realtime", "best-effort"}
        if io_level is not None and not leveled:
            raise InvalidInputError(
                f"I/O class {chosen!r} has no levels; name 'realtime' or 'best-effort' with a level"
            )
        level = (DEFAULT_IO_LEVEL if io_level is None else io_level) if leveled else 0
        _check_number("I/O level", level, 0, _LEVELS - 1)
        after = replace(after, io_class=chosen, io_level=level)
    return after


def _check_number(name: str, value: object, lowest: int, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise InvalidInputError(f"{name} is {value!r}; it must be a whole number from {lowest} to {highest}")


Step = Callable[[], None]


def steps(tid: int, before: SchedulingClass, after: SchedulingClass) -> tuple[list[Step], list[Step]]:
    """Return what turns ``before`` into ``after`` in one thread: the steps that may fail, and those that have no way back.

    Run all of the first kind, in all threads, before any of the second; each does one thing or raises.
    """
    first: list[Step] = []
    last: list[Step] = []
    io_class = after.io_class
    if io_class is not None and (before.io_class, before.io_level) != (io_class, after.io_level):
        first.append(lambda: set_io_class(tid, io_class, after.io_level))
    if (before.policy, before.rt_priority, before.reset_on_fork) != (
        after.policy,
        after.rt_priority,
        after.reset_on_fork,
    ):
        (last if after.policy == "idle" else first).append(lambda: set_policy(tid, after))
    if before.nice != after.nice:
        (last if after.nice > before.nice else first).append(lambda: set_nice(tid, after.nice))
    return first, last


def set_nice(tid: int, nice: int) -> None:
    """Set a thread's nice value.

    Raises:
        PermissionDeniedError: It is lower than this user may go, or the thread is another user's.
        ProcessGoneError: There is no such thread.

    Source: setpriority(2), whose "BUGS" says that Linux keeps it for each thread.
    """
    with _said(tid, f"nice value {nice}", lambda: _nice_right(tid, nice)):
        os.setpriority(os.PRIO_PROCESS, tid, nice)


def set_policy(tid: int, target: SchedulingClass) -> None:
    """Set a thread's policy, its real-time priority and whether both end at a fork.

    Raises:
        PermissionDeniedError: This user may not; leaving ``idle`` needs the right to the thread's nice value.
        ProcessGoneError: There is no such thread.

    Source: sched_setscheduler(2); sched(7), "Privileges and resource limits".
    """
    flags = POLICIES[target.policy] | (_RESET_ON_FORK if target.reset_on_fork else 0)
    right = (
        _rt_right if target.policy in REAL_TIME else lambda tid: _nice_right(tid, os.getpriority(os.PRIO_PROCESS, tid))
    )
    with _said(tid, f"policy {target.policy!r}", lambda: right(tid)):
        os.sched_setscheduler(tid, flags, os.sched_param(target.rt_priority))


def set_io_class(tid: int, io_class: str, level: int) -> None:
    """Set a thread's I/O class and level.

    Raises:
        PermissionDeniedError: The class is ``realtime``, or the thread is another user's.
        ProcessGoneError: There is no such thread.
        UnsupportedError: I/O priorities are not known on this machine.

    Source: ioprio_set(2).
    """
    with _said(tid, f"I/O class {io_class!r}", lambda: "CAP_SYS_NICE or CAP_SYS_ADMIN"):
        linux.set_io_priority(tid, IO_CLASSES.index(io_class), level)


@contextlib.contextmanager
def _said(tid: int, what: str, right: Callable[[], str]) -> Iterator[None]:
    """Turn what the kernel says into procbench's own errors."""
    try:
        yield
    except ProcessLookupError:
        raise ProcessGoneError(errno.ESRCH, f"there is no process {tid}") from None
    except PermissionError as error:
        message = f"{what} for process {tid} was refused: it needs {right()}"
        raise PermissionDeniedError(error.errno, message) from error


def _nice_right(tid: int, nice: int) -> str:
    return f"CAP_SYS_NICE, or RLIMIT_NICE of at least {20 - nice} (it is {_limit_of(tid, resource.RLIMIT_NICE)})"


def _rt_right(tid: int) -> str:
    return (
        f"CAP_SYS_NICE, or RLIMIT_RTPRIO of at least the priority (it is {_limit_of(tid, resource.RLIMIT_RTPRIO)}); "
        "a cgroup without real-time budget (cpu.rt_runtime_us) refuses it too"
    )


def _limit_of(tid: int, which: int) -> str:
    try:
        return str(resource.prlimit(tid, which)[0])
    except (OSError, ValueError):
        return "not to be read"


def apply_to_current_thread(
    nice: int | None = None, policy: str | None = None, io_class: str | None = None, io_level: int | None = None
) -> Applied:
    """Set what the calling thread has; what it starts later inherits it. All of it is set, or nothing.

    Other threads of this process keep theirs, so any thread may call it. Real-time policies are not taken, because they are
    always reset on fork, so that a child would not have them.

    Raises:
        InvalidInputError: A value is outside its range.
        PermissionDeniedError: This user may not; the message names what would help. What was changed is put back.
        UnsupportedError: An I/O class is asked for, and I/O priorities are not known on this machine; or the thread has a
            policy that could not be given back to it.
    """
    if policy in REAL_TIME:
        raise InvalidInputError(
            f"policy {policy!r} ends at a fork, so no command would inherit it; take batch, idle or other"
        )
    tid = threading.get_native_id()
    before = read(tid)
    after = wanted(before, nice, policy, None, io_class, io_level)
    check_way_back(tid, before, after)
    first, last = steps(tid, before, after)
    try:
        for step in (*first, *last):
            step()
        in_force = read(tid)
        if in_force != after:
            raise PermissionDeniedError(errno.EPERM, f"the kernel keeps {in_force} where {after} was set")
    except BaseException as error:
        put_back(tid, before, error)
        raise
    named = {"nice": nice, "policy": policy, "io_class": io_class, "io_level": io_level}
    return Applied({name: value for name, value in named.items() if value is not None}, in_force)


def put_back(
    tid: int,
    before: SchedulingClass,
    error: BaseException | None = None,
    still_there: Callable[[], None] = lambda: None,
) -> None:
    """Give a thread what it had; what cannot be undone is added to ``error`` as a note, or raised where there is none.

    Args:
        tid: The thread; nothing is done when it is gone.
        before: What it had.
        error: The error on its way.
        still_there: Called before each step; raises ProcessGoneError once the thread is gone and its number may be another's.

    Raises:
        PermissionDeniedError: This user may not go back, and ``error`` is ``None``.
    """
    try:
        still_there()
        now = read(tid)
    except ProcessGoneError:
        return
    first, last = steps(tid, now, before)
    failures = []
    for step in (*first, *last):
        try:
            still_there()
            step()
        except ProcessGoneError:
            return
        except PermissionDeniedError as failure:
            failures.append(str(failure))
    if failures:
        said = f"process {tid} could not be given back what it had: {'; '.join(failures)}"
        if error is None:
            raise PermissionDeniedError(errno.EPERM, said)
        error.add_note(said)
