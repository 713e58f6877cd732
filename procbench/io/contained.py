"""One child and all that it started, as its process group, its orphans or its cgroup hold it: told, counted and let go of.

The child itself is reaped by its owner, after the last signal: until then neither its process id nor its group's can have
passed to somebody else.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Final, Literal

from procbench import linux
from procbench.cpu.subgroups import Subgroups, members
from procbench.io.groups import ProcessState, lives, living_members, signal_group, signal_process, strayed_from
from procbench.io.orphans import Family

ContainmentLevel = Literal["group", "subreaper", "cgroup"]

LEVELS: Final[tuple[ContainmentLevel, ...]] = ("group", "subreaper", "cgroup")
"""From what costs least to what holds most."""


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


class Adopted(Contained):
    """The same, with what left the group and is a descendant, or carries the child's mark."""

    __slots__ = ("_family",)

    level: ContainmentLevel = "subreaper"

    def __init__(self, pid: int, mark: bytes) -> None:
        super().__init__(pid)
        self._family = Family(pid, mark)

    def signal(self, number: int) -> None:
        """As :meth:`Contained.signal`."""
        outside = [one for one in self._family.members() if one.group != self.pid and not one.ended]
        signal_group(self.pid, number)
        for one in outside:
            signal_process(one, number)

    def living(self) -> list[int]:
        """As :meth:`Contained.living`."""
        return [one.pid for one in self._family.members() if not one.ended]

    def release(self) -> tuple[int, ...]:
        """As :meth:`Contained.release`."""
        return tuple(sorted({*super().release(), *self._family.release()}))


class Grouped(Contained):
    """The child's own cgroup, with all that was forked inside."""

    __slots__ = ("_folder", "_groups")

    level: ContainmentLevel = "cgroup"

    def __init__(self, pid: int, groups: Subgroups, folder: Path) -> None:
        super().__init__(pid)
        self._groups = groups
        self._folder = folder

    def signal(self, number: int) -> None:
        """As :meth:`Contained.signal`."""
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
        """As :meth:`Contained.living`."""
        return sorted(members(self._folder))

    def release(self) -> tuple[int, ...]:
        """As :meth:`Contained.release`."""
        left = tuple(self.living())
        self._groups.release(self._folder)
        return left
