"""How everything that a command starts is held together, so that all of it can be ended: group, subreaper or cgroup.

``group`` is the command's process group, which costs nothing; who calls setsid(2) leaves it. ``subreaper`` also finds these:
orphans fall to this process instead of init, and are known by a mark in their environment. ``cgroup`` holds whatever is forked
inside, and nothing leaves it but by somebody's right to write to cgroups.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from procbench.cpu.subgroups import Subgroups
from procbench.errors import UnsupportedError
from procbench.io.contained import LEVELS, Adopted, Contained, ContainmentLevel, Grouped
from procbench.io.groups import signal_process
from procbench.io.orphans import Family, adopt, adopt_no_longer, new_mark

# Any hierarchy will do; those of version 1 come first, because they take a thread in before it starts the child.
_CONTROLLERS: Final = ("freezer", "pids", "cpuacct", "")


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
        return Adopted(pid, self.mark)


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
        contained = Grouped(pid, self._groups, self._folder)
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

            def outside() -> set[int]:
                return {one.pid for one in family.members(anywhere=True) if not one.ended} - inside

            # Twice: what is forked while others are looked at may be missed, and its parent be gone when its turn comes.
            while new := outside() or outside():
                for one in new:  # what it forks after it was moved begins inside
                    with contextlib.suppress(ProcessLookupError):
                        procs.write_text(str(one))
                inside |= new
        except BaseException:
            for member in family.members(anywhere=True):
                signal_process(member, signal.SIGKILL)
            self.cancel()
            raise
        return Grouped(pid, self._groups, self._folder)

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
