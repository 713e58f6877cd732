"""Cgroups of procbench's own, below the one that this process is in: made when needed, used again, removed at the end.

Where the user may not write there, or the kernel gives no such controller, nothing is made and the caller takes another way.
Version 2 allows a child group with limits only where ``cgroup.subtree_control`` names the controller; that file is never
written here, since it changes what holds for processes that are not ours.

Source: cgroups(7), Documentation/admin-guide/cgroup-v1/memory.rst, Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from procbench.cpu.duty import descendants
from procbench.errors import ProcessGoneError

_PROBE_FILES: Final = {("cpu", 1): "cpu.cfs_quota_us", ("cpu", 2): "cpu.max"} | {
    ("memory", 1): "memory.limit_in_bytes",
    ("memory", 2): "memory.max",
}
_TRIES: Final = 5

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class OwnGroup:
    """The cgroup that this process is in, for one controller.

    Attributes:
        folder: Where it is mounted.
        version: 1 or 2.
        line: How ``/proc/<pid>/cgroup`` says it.
    """

    folder: Path
    version: int
    line: str


def own_group(controller: str) -> OwnGroup | None:
    """Return this process's cgroup for ``cpu`` or ``memory``, version 1 before 2; ``None`` where it is not to be seen."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    for version in (1, 2):
        for line in lines:
            _, names, path = line.split(":", 2)
            if (controller in names.split(",")) if version == 1 else not names:
                folder = _mounted(mounts, controller, version, path)
                if folder is not None:
                    return OwnGroup(folder, version, line)
    return None


def _mounted(mounts: list[str], controller: str, version: int, path: str) -> Path | None:
    for mount in mounts:
        fields, _, after = mount.partition(" - ")
        kind, *_, options = after.split() or ("", "")
        if kind != ("cgroup" if version == 1 else "cgroup2"):
            continue
        if version == 1 and controller not in options.split(","):
            continue
        root, point = (_unescape(field) for field in fields.split()[3:5])
        own = PurePosixPath(path)
        folder = Path(point) / (own.relative_to(root) if own.is_relative_to(root) else PurePosixPath())
        usable = version == 1 or controller in _words_in(folder / "cgroup.subtree_control")
        return folder if usable else None
    return None


def _unescape(field: str) -> str:
    r"""Undo the octal escapes of mountinfo, in which a space is ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _words_in(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


class Subgroups:
    """Groups for one controller, each for one process and what it starts; an empty one is used again. Any thread may call it.

    Args:
        controller: ``cpu`` or ``memory``.
    """

    def __init__(self, controller: str) -> None:
        self.controller = controller
        self._own: OwnGroup | None = None
        self._probed = False
        self._free: list[Path] = []
        self._made: set[Path] = set()
        self._lock = threading.RLock()  # a garbage collection may close in the midst of a call

    @property
    def mechanism(self) -> str | None:
        """``cgroup v1`` or ``cgroup v2``; ``None`` where no group can be made. Asking for the first time tries to make one."""
        with self._lock:
            if not self._probed:
                self._probed = True
                self._own = own_group(self.controller)
                try:
                    self._free.append(self._make())
                except OSError:
                    self._own = None
            return None if self._own is None else f"cgroup v{self._own.version}"

    def _make(self) -> Path:
        if self._own is None:
            raise OSError(errno.EOPNOTSUPP, f"no {self.controller} cgroup is to be seen here")
        folder = self._own.folder / f"procbench-{os.getpid()}-{self.controller}-{next(_numbers)}"
        folder.mkdir()
        if not os.access(folder / _PROBE_FILES[self.controller, self._own.version], os.W_OK):
            folder.rmdir()
            raise PermissionError(errno.EACCES, f"{folder} cannot be written")
        self._made.add(folder)
        return folder

    def place(
        self, pid: int, values: dict[str, str], optional: tuple[dict[str, str], dict[str, str]] = ({}, {})
    ) -> Path:
        """Write limits into a group, move a process and its descendants into it, and return its folder.

        Args:
            pid: The process; it must be in this process's own group.
            values: What to write, by file; the group never holds a process without it.
            optional: What to write before and after that where the kernel has such a file.

        Raises:
            ProcessGoneError: It has ended.
            OSError: There is no group to be had, a value was refused, or the process is somewhere else.
        """
        if self.mechanism is None or self._own is None:
            raise OSError(errno.EOPNOTSUPP, f"no {self.controller} cgroup can be made here")
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            raise ProcessGoneError(errno.ESRCH, f"there is no process {pid}") from None
        if self._own.line not in lines:
            raise OSError(errno.EXDEV, f"process {pid} is in another cgroup than this one; it is left there")
        with self._lock:
            folder = self._free.pop() if self._free else self._make()
        try:
            _write(folder, optional[0], needed=False)
            _write(folder, values, needed=True)
            _write(folder, optional[1], needed=False)
            self._move(pid, folder)
        except BaseException:
            self.release(folder)
            raise
        return folder

    def _move(self, pid: int, folder: Path) -> None:
        try:
            (folder / "cgroup.procs").write_text(str(pid))
        except ProcessLookupError:
            raise ProcessGoneError(errno.ESRCH, f"process {pid} has ended") from None
        moved = {pid}
        while new := descendants(pid) - moved:  # what it starts from now on begins in the group
            for child in new:
                with contextlib.suppress(ProcessLookupError):
                    (folder / "cgroup.procs").write_text(str(child))
            moved |= new

    def release(self, folder: Path) -> None:
        """Move what still lives in a group back to where it came from, and keep the group for the next."""
        if self._own is None:
            return
        for _ in range(_TRIES):  # a process may fork while it is moved
            pids = _words_in(folder / "cgroup.procs")
            if not pids:
                break
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    (self._own.folder / "cgroup.procs").write_text(pid)
        else:
            return  # a fork bomb: the group stays until it can be removed
        with self._lock:
            if folder in self._made:
                self._free.append(folder)

    def close(self) -> None:
        """Remove the groups; one that still holds a process is left, because the kernel does not remove it."""
        with self._lock:
            made, self._made, self._free, self._own, self._probed = self._made, set(), [], None, True
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _write(folder: Path, values: dict[str, str], *, needed: bool) -> None:
    for name, value in values.items():
        try:
            with (folder / name).open("r+") as file:  # never made where it is not
                file.write(value)
        except OSError:
            if needed:
                raise


def members(folder: Path) -> frozenset[int]:
    """Return the processes in a group, those without a parent in it too; zombies are not among them."""
    return frozenset(map(int, _words_in(folder / "cgroup.procs")))
