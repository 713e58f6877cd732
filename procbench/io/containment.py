"""How everything that a command starts is held together, so that all of it can be ended: group, subreaper or cgroup.

``group`` is the command's process group, which costs nothing; who calls setsid(2) leaves it. ``subreaper`` also finds these:
orphans fall to this process instead of init, and are known by a mark in their environment. ``cgroup`` holds whatever is forked
inside, and nothing leaves it but by somebody's right to write to cgroups.

The child itself is reaped by its owner, after the last signal: until then neither its process id nor its group's can have
passed to somebody else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from procbench import linux
from procbench.cpu.subgroups import Subgroups, members
from procbench.errors import UnsupportedError
from procbench.io.groups import ProcessState, lives, living_members, signal_group, signal_process, strayed_from
from procbench.io.orphans import Family, adopt, adopt_no_longer, new_mark

ContainmentLevel = Literal["group", "subreaper", "cgroup"]

LEVELS: Final[tuple[ContainmentLevel, ...]] = ("group", "subreaper", "cgroup")
"""From what costs least to what holds most."""

# Any hierarchy will do; those of version 1 come first, because they take a thread in before it starts the child.
_CONTROLLERS: Final = ("freezer", "pids", "cpuacct", "")

_FIRST_WAIT_S: Final = 0.001
_LONGEST_WAIT_S: Final = 0.02
_LONGEST_WAIT_BUSY_S: Final = 0.2
# A look at a machine with many processes takes long; this keeps it from being all that is done.
_WAIT_PER_LOOK: Final = 4


class Contained:
    """One child and what it starts, held by its process group. Not thread-safe.

    Attributes:
        level: What holds them.
        pid: The child's process id, and its group's.
    """

    __slots__ = ("_strayed", "pid")

    level: ContainmentLevel = "group"

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._strayed: list[ProcessState] | None = None

    def signal(self, number: int) -> None:
        """Send a signal to all of them. The child must not have been reaped."""
        if self._strayed is None and number in _TO_END:
            self._strayed = strayed_from(self.pid)  # once their parents are gone, nobody knows whose they were
        signal_group(self.pid, number)

    def living(self) -> list[int]:
        """Return the pids of those that are more than a zombie. Costs a look at ``/proc``."""
        return living_members(self.pid)

    def release(self) -> tuple[int, ...]:
        """Let go of what is left, after the child was reaped; return the pids of those that live on and can be seen."""
        left = tuple(one.pid for one in self._strayed or () if lives(one))
        if not linux.is_group(self.pid):
            return left  # as nearly always
        return tuple(sorted({*left, *self.living()}))


_TO_END: Final = frozenset({signal.SIGTERM, signal.SIGKILL})


class _Adopted(Contained):
    """The same, with what left the group and is a descendant, or carries the child's mark."""

    __slots__ = ("_family",)

    level: ContainmentLevel = "subreaper"

    def __init__(self, pid: int, mark: bytes) -> None:
        super().__init__(pid)
        self._family = Family(pid, mark)

    def signal(self, number: int) -> None:
        outside = [one for one in self._family.members() if one.group != self.pid and not one.ended]
        signal_group(self.pid, number)
        for one in outside:
            signal_process(one, number)

    def living(self) -> list[int]:
        return [one.pid for one in self._family.members() if not one.ended]

    def release(self) -> tuple[int, ...]:
        return tuple(sorted({*super().release(), *self._family.release()}))


class _Grouped(Contained):
    """The child's own cgroup, with all that was forked inside."""

    __slots__ = ("_folder", "_groups")

    level: ContainmentLevel = "cgroup"

    def __init__(self, pid: int, groups: Subgroups, folder: Path) -> None:
        super().__init__(pid)
        self._groups = groups
        self._folder = folder

    def signal(self, number: int) -> None:
        if number == signal.SIGKILL:
            with contextlib.suppress(OSError):  # cgroup.kill: Linux 5.14, version 2
                if (self._folder / "cgroup.kill").exists():
                    (self._folder / "cgroup.kill").write_text("1")
                    return
        held: list[tuple[int, int]] = []
        try:
            for pid in members(self._folder) - {os.getpid()}:
                with contextlib.suppress(OSError):
                    held.append((pid, os.pidfd_open(pid)))
            still = members(self._folder)  # so that each pidfd is that of a process in the group
            for pid, pidfd in held:
                if pid in still:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        signal.pidfd_send_signal(pidfd, number)
        finally:
            for _, pidfd in held:
                os.close(pidfd)

    def living(self) -> list[int]:
        return sorted(members(self._folder))

    def release(self) -> tuple[int, ...]:
        left = tuple(self.living())
        self._groups.release(self._folder)
        return left


class Containment:
    """Holds together what each of many children starts. Thread-safe.

    Args:
        level: How.

    Raises:
        UnsupportedError: This kernel has no such thing, or this user may make no cgroup; never is less taken than was asked for.
    """

    def __init__(self, level: ContainmentLevel = "group") -> None:
        self.level = level
        self._groups: Subgroups | None = None
        self._give_back: Callable[[], object] = _nothing
        if level == "cgroup":
            self._groups = _writable_groups()
            self._give_back = weakref.finalize(self, _in_process, os.getpid(), self._groups.close)
        elif level == "subreaper":
            adopt()
            self._give_back = weakref.finalize(self, _in_process, os.getpid(), adopt_no_longer)

    def close(self) -> None:
        """Give back what holding took; what lives on is let go of. Harmless when called twice; one forgotten closes itself."""
        self._give_back()

    def prepare(self, env: Mapping[str, str] | None) -> Prepared:
        """Get ready for one child, which this thread starts next.

        Args:
            env: The environment that the child gets; ``None`` for this process's.

        Raises:
            OSError: The child's cgroup cannot be made, or written to.
        """
        if self.level == "group":
            return _NOTHING
        if self._groups is None:
            return _Marked(new_mark(env))
        return (_Entered if self._groups.version == 1 else _Moved)(self._groups, new_mark(env))


def _nothing() -> None:
    pass


def _in_process(owner: int, give_back: Callable[[], None]) -> None:
    if os.getpid() == owner:  # a fork's copy has nothing to give back: the cgroups are its parent's
        give_back()


class Prepared:
    """What holds one child, before that is there.

    Attributes:
        mark: A variable for its environment, as ``NAME=value``; ``None`` for none.
    """

    mark: bytes | None = None

    def contain(self, pid: int) -> Contained:
        """Hold the child that was just started.

        Raises:
            OSError: Its cgroup cannot be written to.
        """
        return Contained(pid)

    def cancel(self) -> None:
        """Give up: the child could not be started."""


_NOTHING: Final = Prepared()


class _Marked(Prepared):
    mark: bytes

    def __init__(self, mark: bytes) -> None:
        self.mark = mark

    def contain(self, pid: int) -> Contained:
        return _Adopted(pid, self.mark)


class _Entered(Prepared):
    """Version 1 takes a single thread in: the child begins where this one stands meanwhile, and nothing can slip out."""

    def __init__(self, groups: Subgroups, _mark: bytes) -> None:
        self._groups = groups
        self._folder = groups.take()
        try:
            self._move(self._folder)
        except BaseException:
            self.cancel()
            raise

    def contain(self, pid: int) -> Contained:
        contained = _Grouped(pid, self._groups, self._folder)
        try:
            self._move(self._groups.own)
        except BaseException:
            contained.signal(signal.SIGKILL)
            self.cancel()
            raise
        return contained

    def cancel(self) -> None:
        # First this thread alone: what is still inside when the group is released is moved out process by process, with all
        # threads, and those of ours stand in the groups of their own children.
        with contextlib.suppress(OSError):
            self._move(self._groups.own)
        self._groups.release(self._folder)

    @staticmethod
    def _move(folder: Path) -> None:
        (folder / "tasks").write_text(str(threading.get_native_id()))


class _Moved(Prepared):
    """Version 2 takes whole processes only: the child is moved after its start, with what it has started by then."""

    mark: bytes

    def __init__(self, groups: Subgroups, mark: bytes) -> None:
        self._groups = groups
        self._folder = groups.take()
        self.mark = mark

    def contain(self, pid: int) -> Contained:
        family, procs = Family(pid, self.mark), self._folder / "cgroup.procs"
        try:
            inside: set[int] = set()
            while new := {one.pid for one in family.members(anywhere=True) if not one.ended} - inside:
                for one in new:  # what it forks after it was moved begins inside
                    with contextlib.suppress(ProcessLookupError):
                        procs.write_text(str(one))
                inside |= new
        except BaseException:
            for member in family.members(anywhere=True):
                signal_process(member, signal.SIGKILL)
            self.cancel()
            raise
        return _Grouped(pid, self._groups, self._folder)

    def cancel(self) -> None:
        self._groups.release(self._folder)


GROUPS: Final = Containment()
"""What holds children by their process groups, which takes nothing and needs no closing."""


def available_levels() -> dict[ContainmentLevel, str | None]:
    """Return every level, with ``None`` where it can be had here and otherwise the reason why not."""
    found: dict[ContainmentLevel, str | None] = {}
    for level in LEVELS:
        try:
            Containment(level).close()
        except UnsupportedError as error:
            found[level] = error.strerror
        else:
            found[level] = None
    return found


def _writable_groups() -> Subgroups:
    for controller in _CONTROLLERS:
        groups = Subgroups(controller)
        if groups.mechanism is not None:
            return groups
        groups.close()
    raise UnsupportedError(
        errno.EOPNOTSUPP,
        "no cgroup can be made here: no hierarchy is mounted in which this user may; "
        "start this program by 'systemd-run --user --scope -p Delegate=yes', or take containment='subreaper'",
    )


class Ending:
    """Sees to it that a child's whole containment is empty, step by step; nothing here waits.

    Args:
        contained: What was told to end.
        kill_at_s: When to send SIGKILL, on ``time.monotonic()``'s clock; a time in the past means at once.
        give_up_after_s: How long after the kill to go on looking.

    Attributes:
        killed: Whether it needed the kill.
    """

    def __init__(self, contained: Contained, *, kill_at_s: float, give_up_after_s: float) -> None:
        self.killed = False
        self._contained = contained
        self._kill_at_s = kill_at_s
        self._give_up_after_s = give_up_after_s
        self._give_up_at_s = 0.0
        self._wait_s = _FIRST_WAIT_S

    def kill_at_once(self) -> None:
        """Send SIGKILL in the next step, whenever it would have been due."""
        self._kill_at_s = 0.0

    def step(self, now_s: float) -> float | None:
        """Do what is due, and return how many seconds to wait until the next step; ``None`` when it is over."""
        began_s = time.monotonic()
        # What a process forks while others are looked at may be missed, and that process be gone when its turn comes.
        if not self._contained.living() and not self._contained.living():
            return None
        look_s = time.monotonic() - began_s
        if self.killed and now_s >= self._give_up_at_s:
            return None
        if now_s >= self._kill_at_s:
            if not self.killed:
                self.killed = True
                self._give_up_at_s = now_s + self._give_up_after_s
                self._wait_s = _FIRST_WAIT_S
            # Each time: what is forked while the signals go out is not among those that get one.
            self._contained.signal(signal.SIGKILL)
        wait_s = self._wait_s
        self._wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        return max(wait_s, min(_WAIT_PER_LOOK * look_s, _LONGEST_WAIT_BUSY_S))
