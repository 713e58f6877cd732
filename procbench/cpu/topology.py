"""Which CPUs there are, which this process may use, and how many workers that makes.

Everything is read from the kernel's own files. Each reader takes ``root``, so that a tree recorded on another machine
can be read in its place; what the kernel does not show there is None, never a guess.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SYSTEM_ROOT = Path("/")

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class CpuTopology:
    """The CPUs of a machine.

    Attributes:
        model: Name of the CPU model.
        online: Logical CPUs that are switched on.
        physical_cores: Cores behind the online logical CPUs.
        sockets: Packages behind the online logical CPUs.
        smt_siblings: For each physical core, the logical CPUs that share it; lowest first.
        numa_nodes: For each NUMA node that has CPUs, its logical CPUs; lowest node first.
        last_level_cache_bytes: Size of the last level cache of the lowest online CPU (others may have their own).
    """

    model: str | None
    online: frozenset[int] | None
    physical_cores: int | None
    sockets: int | None
    smt_siblings: tuple[frozenset[int], ...] | None
    numa_nodes: tuple[frozenset[int], ...] | None
    last_level_cache_bytes: int | None


def allowed_cpus() -> frozenset[int]:
    """Return the logical CPUs that the calling thread may run on.

    Source: sched_getaffinity(2). A cpuset limits it too, so a container's CPUs are seen; a CPU *quota* is not, see
    :func:`cgroup_cpu_quota`.
    """
    return frozenset(os.sched_getaffinity(0))


def usable_workers(root: Path = SYSTEM_ROOT) -> int:
    """Return how many busy children the process can keep running at once: at least 1.

    It is the number of allowed logical CPUs, or the cgroup's quota if that is less. A quota with a fraction is rounded
    up, as the JVM and Go 1.25 do: one worker too many is throttled for part of a period, one too few leaves CPU time
    that was paid for unused for good.

    Args:
        root: Where ``proc`` and ``sys`` are found.
    """
    quota = cgroup_cpu_quota(root)
    allowed = len(allowed_cpus())
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def cgroup_cpu_quota(root: Path = SYSTEM_ROOT) -> float | None:
    """Return the CPUs that the cgroup's quota grants, such as 1.5; None if it grants all of them.

    The limits of all parents hold too, so the smallest on the way up counts. Versions 1 and 2 are both read, since both
    may be mounted at once.

    Args:
        root: Where ``proc`` and ``sys`` are found.

    Source: Documentation/admin-guide/cgroup-v2.rst (``cpu.max``), Documentation/scheduler/sched-bwc.rst.
    """
    granted = [quota for group in _cpu_groups(root) if (quota := _quota_of(group)) is not None]
    return min(granted, default=None)


def read_topology(root: Path = SYSTEM_ROOT) -> CpuTopology:
    """Read the CPUs of the machine; what a file is missing for is None.

    Args:
        root: Where ``proc`` and ``sys`` are found.
    """
    cpus = root / "sys/devices/system/cpu"
    online = _cpu_list_in(cpus / "online")
    places = {cpu: cpus / f"cpu{cpu}" for cpu in sorted(online or ())}
    siblings = {_cpu_list_in(place / "topology/thread_siblings_list") for place in places.values()}
    cores = {core & online for core in siblings if core is not None} if online and None not in siblings else None
    sockets = {_text_in(place / "topology/physical_package_id") for place in places.values()}
    return CpuTopology(
        model=_model_name(root),
        online=online,
        physical_cores=len(cores) if cores else None,
        sockets=len(sockets) if sockets and None not in sockets else None,
        smt_siblings=tuple(sorted(cores, key=min)) if cores else None,
        numa_nodes=_numa_nodes(root),
        last_level_cache_bytes=_last_level_cache(places[min(places)]) if places else None,
    )


def parse_cpu_list(text: str) -> frozenset[int]:
    """Turn the kernel's list format into a set: ``0-2,8`` is {0, 1, 2, 8} and an empty text is the empty set.

    Raises:
        ValueError: The text is no such list.

    Source: cpuset(7), "Formats".
    """
    chosen: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            chosen.update(range(int(first), int(last or first) + 1))
    return frozenset(chosen)


def _cpu_groups(root: Path) -> Iterator[Path]:
    """Yield the folder of each cgroup that rules this process's CPU time, from the innermost up to the mount."""
    paths = _own_groups(root)
    for line in (_text_in(root / "proc/self/mountinfo") or "").splitlines():
        fields, _, after = line.partition(" - ")
        kind, *_, options = after.split() or ("", "")
        controller = "" if kind == "cgroup2" else "cpu"
        if kind not in {"cgroup", "cgroup2"} or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        if controller not in paths or len(fields.split()) < 5:
            continue
        mounted_root, mount_point = (_unescape(field) for field in fields.split()[3:5])
        own = PurePosixPath(paths[controller])
        # Inside a container the mount may show only a part of the tree; what lies outside cannot be read.
        inside = own.relative_to(mounted_root) if own.is_relative_to(mounted_root) else PurePosixPath()
        top = root / mount_point.lstrip("/")
        for steps in range(len(inside.parts), -1, -1):
            yield top.joinpath(*inside.parts[:steps])


def _own_groups(root: Path) -> dict[str, str]:
    """Return the cgroup path for each controller; the key of version 2 is the empty text."""
    paths: dict[str, str] = {}
    for line in (_text_in(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _quota_of(group: Path) -> float | None:
    """Return one cgroup's own quota in CPUs, None where it has none."""
    both = (_text_in(group / "cpu.max") or "").split()  # version 2: "150000 100000" or "max 100000"
    if len(both) != 2:
        both = [_text_in(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]  # version 1, -1 is none
    quota, period = both
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) > 0 else None


def _numa_nodes(root: Path) -> tuple[frozenset[int], ...] | None:
    """Return the CPUs of each NUMA node that has some; None where the kernel shows no nodes."""
    nodes = root / "sys/devices/system/node"
    online = _cpu_list_in(nodes / "online")
    if online is None:
        return None
    return tuple(cpus for node in sorted(online) if (cpus := _cpu_list_in(nodes / f"node{node}/cpulist")))


def _last_level_cache(cpu: Path) -> int | None:
    """Return the size in bytes of the highest level of cache that one CPU reaches."""
    found: list[tuple[int, int]] = []
    for index in cpu.glob("cache/index*"):
        level, size = _text_in(index / "level") or "", _text_in(index / "size") or ""
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if level.isdigit() and match:
            found.append((int(level), int(match[1]) * _UNITS.get(match[2], 1)))
    return max(found)[1] if found else None


def _model_name(root: Path) -> str | None:
    """Return the CPU's model; ARM kernels print none in cpuinfo, but a device tree may hold the machine's."""
    for line in (_text_in(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return (_text_in(root / "proc/device-tree/model") or "").strip("\0") or None


def _cpu_list_in(path: Path) -> frozenset[int] | None:
    text = _text_in(path)
    try:
        return None if text is None else parse_cpu_list(text)
    except ValueError:
        return None


def _text_in(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _unescape(field: str) -> str:
    r"""Undo the octal escapes of mountinfo, in which a space is ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
