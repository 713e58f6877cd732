"""Which cgroup this process is in, for each controller, and what CPU time its cgroups grant.

A machine may mount version 2 only, version 1 only, or both at once, with each controller in one of the two; so the answer
is always asked for by controller. Each reader takes ``root``, so that a recorded tree can be read in its place.

Source: cgroups(7), proc_pid_mountinfo(5), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SYSTEM_ROOT = Path("/")


class CgroupMount(NamedTuple):
    """One place where a cgroup hierarchy is mounted.

    Attributes:
        version: 1 or 2.
        controllers: Those that the mount's options name; empty for version 2, whose groups name theirs themselves.
        shown: Path inside the hierarchy that the mount shows; ``/`` outside containers.
        point: Where it is mounted, below ``root``.
    """

    version: int
    controllers: frozenset[str]
    shown: PurePosixPath
    point: Path


def own_group(controller: str, root: Path = SYSTEM_ROOT) -> Path | None:
    """Return the folder of this process's cgroup for a controller, such as ``cpu``; None where there is none to be seen.

    A version 1 hierarchy that has the controller comes first, since a controller is in one hierarchy at a time. In
    version 2 the group counts only if its ``cgroup.controllers`` names the controller. Whether the caller may write
    there is not looked at.

    Args:
        controller: The kernel's name: ``cpu``, ``memory``, ``cpuset``, ``freezer`` (version 1 only), ...; empty for the group
            of version 2, whatever controllers it has.
        root: Where ``proc`` and ``sys`` are found.
    """
    paths = paths_in(text_in(root / "proc/self/cgroup") or "")
    for mount in sorted(cgroup_mounts(root), key=lambda mount: mount.version):
        own = _own_path(mount, controller, paths)
        inside = None if own is None else _inside(own, mount.shown)
        if inside is None:
            continue
        group = mount.point.joinpath(*inside.parts)
        named = not controller or controller in group_controllers(group)
        if group.is_dir() and (mount.version == 1 or named):
            return group
    return None


def groups_upward(controller: str, root: Path = SYSTEM_ROOT) -> Iterator[Path]:
    """Yield the folders of all cgroups that rule this process, from the innermost up to each mount.

    Both versions are yielded where both are mounted, and folders are not looked into. Where a container's mount shows
    another part of the tree than the process's own, only the top of the mount can be named.

    Args:
        controller: The kernel's name of the controller.
        root: Where ``proc`` and ``sys`` are found.
    """
    paths = paths_in(text_in(root / "proc/self/cgroup") or "")
    for mount in cgroup_mounts(root):
        own = _own_path(mount, controller, paths)
        if own is not None:
            parts = (_inside(own, mount.shown) or PurePosixPath()).parts
            for steps in range(len(parts), -1, -1):
                yield mount.point.joinpath(*parts[:steps])


def group_version(group: Path) -> int:
    """Return 2 for a folder of the unified hierarchy, else 1: only version 2 has ``cgroup.controllers``."""
    return 2 if (group / "cgroup.controllers").exists() else 1


def group_controllers(group: Path) -> frozenset[str]:
    """Return the controllers that a version 2 group may use; empty for version 1."""
    return frozenset((text_in(group / "cgroup.controllers") or "").split())


def cgroup_cpu_quota(root: Path = SYSTEM_ROOT) -> float | None:
    """Return the CPUs that the cgroup's quota grants, such as 1.5; None if it grants all of them.

    The limits of all parents hold too, so the smallest on the way up counts. Versions 1 and 2 are both read, since both
    may be mounted at once.

    Args:
        root: Where ``proc`` and ``sys`` are found.

    Source: Documentation/admin-guide/cgroup-v2.rst (``cpu.max``), Documentation/scheduler/sched-bwc.rst.
    """
    granted = [quota for group in groups_upward("cpu", root) if (quota := group_cpu_quota(group)) is not None]
    return min(granted, default=None)


def group_cpu_quota(group: Path) -> float | None:
    """Return one cgroup's own quota in CPUs, None where it has none."""
    both = (text_in(group / "cpu.max") or "").split()  # version 2: "150000 100000" or "max 100000"
    if len(both) != 2:
        both = [text_in(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]  # version 1, -1 is none
    quota, period = both
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) > 0 else None


def paths_in(text: str) -> dict[str, str]:
    """Return what a ``/proc/<pid>/cgroup`` says: the path in the hierarchy of each controller, and by ``""`` in version 2's."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def cgroup_mounts(root: Path = SYSTEM_ROOT) -> tuple[CgroupMount, ...]:
    """Return where cgroup hierarchies are mounted, in the order of mountinfo."""
    found = []
    for line in (text_in(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        kind, *_, options = after.split() or ("", "")
        fields = before.split()
        if kind not in {"cgroup", "cgroup2"} or len(fields) < 5:
            continue
        shown, point = (_unescape(field) for field in fields[3:5])
        version = 2 if kind == "cgroup2" else 1
        named = frozenset(options.split(",")) if version == 1 else frozenset[str]()
        found.append(CgroupMount(version, named, PurePosixPath(shown), root / point.lstrip("/")))
    return tuple(found)


def _own_path(mount: CgroupMount, controller: str, paths: dict[str, str]) -> str | None:
    """Return the process's path in the mount's hierarchy; None where that has not the controller."""
    if mount.version == 1 and controller not in mount.controllers:
        return None
    return paths.get("" if mount.version == 2 else controller)


def _inside(own: str, shown: PurePosixPath) -> PurePosixPath | None:
    """Return a group's path below what a mount shows, None when it lies outside, as it may in a container."""
    path = PurePosixPath(own)
    # "/../x" is how the kernel names a group above the root of the cgroup namespace.
    return path.relative_to(shown) if ".." not in path.parts and path.is_relative_to(shown) else None


def text_in(path: Path) -> str | None:
    """Return what one of the kernel's small files says, without its line end; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _unescape(field: str) -> str:
    r"""Undo the octal escapes of mountinfo, in which a space is ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
