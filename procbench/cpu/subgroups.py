"""Cgroups of procbench's own, below the one that this process is in: made when needed, removed at the end.

A CPU group is used again, which saves making one for each child. A memory group never is: pages that its process left in a
tmpfs or a memory file stay charged to it, and the next one would pay for them.

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
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

from procbench.cpu.cgroups import group_version, own_group, paths_in, text_in
from procbench.cpu.duty import descendants
from procbench.cpu.processes import PROC
from procbench.errors import ProcessGoneError

_PROBE_FILES: Final = {("cpu", 1): "cpu.cfs_quota_us", ("cpu", 2): "cpu.max"} | {
    ("memory", 1): "memory.limit_in_bytes",
    ("memory", 2): "memory.max",
}
_ALWAYS_THERE: Final = "cgroup.procs"
_TRIES: Final = 5
_WAITS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.0)

_numbers = itertools.count(1)


def _words_in(path: Path) -> list[str]:
    return (text_in(path) or "").split()


class Subgroups:
    """Groups for one controller, each for one process and what it starts. Any thread may call it.

    Args:
        controller: ``cpu`` or ``memory``, for limits. To hold processes together, any of version 1, or empty for version 2, whose
            groups need none.
    """

    def __init__(self, controller: str) -> None:
        self.controller = controller
        self._own: Path | None = None
        self._version = 1
        self._path: str | None = None  # inside the hierarchy, as the kernel says it
        self._probed = self._closed = False
        self._free: list[Path] = []
        self._made: set[Path] = set()
        self._held: deque[Path] = deque()  # released, and could not be emptied
        self._lock = threading.RLock()  # a garbage collection may close in the midst of a call

    @property
    def mechanism(self) -> str | None:
        """``cgroup v1`` or ``cgroup v2``; ``None`` where no group can be made. Asking for the first time tries to make one."""
        with self._lock:
            if not self._probed:
                self._probed = True
                try:
                    self._probe()
                except OSError:
                    self._own = None
            return None if self._own is None or self._closed else f"cgroup v{self._version}"

    @property
    def version(self) -> int:
        """Version of the hierarchy, 1 or 2."""
        return self._version

    @property
    def own(self) -> Path:
        """Folder of the group that this process is in.

        Raises:
            OSError: No group can be made there.
        """
        if self.mechanism is None or self._own is None:
            raise OSError(errno.EOPNOTSUPP, f"no {self.controller} cgroup can be made here")
        return self._own

    def take(self) -> Path:
        """Return an empty group's folder, to be filled by the caller and released as all others.

        Raises:
            OSError: There is no group to be had.
        """
        self.own  # noqa: B018 - raises where there is none
        self._release_held()
        with self._lock:
            if self._closed:
                raise OSError(errno.EOPNOTSUPP, f"the {self.controller} cgroups were removed")
            return self._free.pop() if self._free else self._make()

    def _probe(self) -> None:
        self._own = own_group(self.controller)
        if self._own is None:
            return
        self._version = group_version(self._own)
        if (
            self._version == 2
            and self.controller
            and self.controller not in _words_in(self._own / "cgroup.subtree_control")
        ):
            self._own = None
            return
        self._path = self._path_of("self")
        self._sweep(self._own)
        self._free.append(self._make())

    def _path_of(self, pid: int | str) -> str | None:
        paths = paths_in((PROC / str(pid) / "cgroup").read_text())
        return paths.get(self.controller if self._version == 1 else "")

    def _sweep(self, own: Path) -> None:
        """Remove the empty groups of runs that were killed; one that still holds a process cannot be removed."""
        for folder in own.glob(f"procbench-*-{self.controller or 'all'}-*"):
            owner = folder.name.split("-")[1]
            if owner.isdigit() and not (PROC / owner).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _make(self) -> Path:
        if self._own is None:
            raise OSError(errno.EOPNOTSUPP, f"no {self.controller} cgroup is to be seen here")
        for number in _numbers:
            folder = self._own / f"procbench-{os.getpid()}-{self.controller or 'all'}-{number}"
            with contextlib.suppress(FileExistsError):  # of a run that was killed and had this pid
                folder.mkdir()
                break
        if not os.access(folder / _PROBE_FILES.get((self.controller, self._version), _ALWAYS_THERE), os.W_OK):
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
        self.own  # noqa: B018 - raises where there is none
        try:
            path = self._path_of(pid)
        except (FileNotFoundError, ProcessLookupError):
            raise ProcessGoneError(errno.ESRCH, f"there is no process {pid}") from None
        if path is None or path != self._path:
            raise OSError(errno.EXDEV, f"process {pid} is in another cgroup than this one; it is left there")
        folder = self.take()
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
        """Move what still lives in a group back to where it came from, also after ``close``; the group is free then, or gone.

        Where the kernel, or want of a descriptor, does not let it, the next ``place`` and ``close`` try again, and what is
        in it stays limited until then. Raises nothing.
        """
        try:
            self._put_back(folder)
        except FileNotFoundError:
            pass  # it has been removed already
        except OSError:
            self._held.append(folder)

    def _release_held(self) -> None:
        for _ in range(len(self._held)):
            with contextlib.suppress(IndexError):  # another thread was quicker
                self.release(self._held.popleft())

    def _put_back(self, folder: Path) -> None:
        if self._own is None:
            return
        for _ in range(_TRIES):  # a process may fork while it is moved
            pids = (folder / "cgroup.procs").read_text().split()
            if not pids:
                break
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    (self._own / "cgroup.procs").write_text(pid)
        else:
            raise OSError(errno.EBUSY, f"{folder} is filled faster than it can be emptied")  # a fork bomb
        with self._lock:
            if self._closed or self.controller == "memory":
                self._remove(folder)
            elif folder in self._made:
                self._free.append(folder)

    def _remove(self, folder: Path) -> None:
        with contextlib.suppress(OSError):  # it still holds a process; close tries again
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
            self._made.discard(folder)

    def close(self) -> None:
        """Remove the groups; one that still holds a process is left, because the kernel does not remove it.

        Waits a little for processes that are just ending: the kernel neither moves them nor forgets them yet.
        """
        with self._lock:
            self._closed = self._probed = True
            self._free.clear()
        for wait_s in _WAITS_S:
            self._release_held()
            with self._lock:
                for folder in tuple(self._made):
                    self._remove(folder)
                if not self._made:
                    return
            time.sleep(wait_s)


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
