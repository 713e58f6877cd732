"""Which CPUs there are, which this process may use, and how many workers that makes.

Everything is read from the kernel's own files. Each reader takes ``root``, so that a tree recorded on another machine
can be read in its place; what the kernel does not show there is None, never a guess.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from procbench.cpu.cgroups import SYSTEM_ROOT, cgroup_cpu_quota, text_in

__all__ = [
    "SYSTEM_ROOT",
    "CoreKind",
    "CpuCache",
    "CpuTopology",
    "allowed_cpus",
    "cgroup_cpu_quota",
    "parse_cpu_list",
    "read_topology",
    "usable_workers",
]

_MOST_CPUS: Final = 1 << 20  # far above the kernel's own bound; a list that names more is a slip, not a machine

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class CpuCache:
    """One cache of level 2 or above.

    Attributes:
        level: 2, 3, ...
        kind: ``Unified``, ``Data`` or ``Instruction``; None where the kernel does not say.
        size_bytes: Its size; None where the kernel does not say.
        cpus: The online logical CPUs that share it.
    """

    level: int
    kind: str | None
    size_bytes: int | None
    cpus: frozenset[int]


@dataclass(frozen=True, slots=True)
class CoreKind:
    """The logical CPUs of one kind of core, on a machine that has several.

    Attributes:
        name: ``performance`` for the fastest, ``efficiency`` for the slowest, ``middle`` for what lies between.
        cpus: Its online logical CPUs.
        capacity: The kernel's figure, of which the fastest has 1024; None where it names the kinds only.
    """

    name: str
    cpus: frozenset[int]
    capacity: int | None


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
        caches: Caches above level 1; highest level first, then lowest CPU first.
        socket_cpus: For each socket, its online logical CPUs; lowest first.
        isolated: CPUs that the kernel balances no load onto (``isolcpus=``), online or not.
        nohz_full: CPUs on which the kernel stops its clock while one task runs.
        offline: CPUs that are there and switched off.
        core_kinds: The kinds of cores, fastest first; None where all are alike or the kernel does not say.
    """

    model: str | None
    online: frozenset[int] | None
    physical_cores: int | None
    sockets: int | None
    smt_siblings: tuple[frozenset[int], ...] | None
    numa_nodes: tuple[frozenset[int], ...] | None
    last_level_cache_bytes: int | None
    caches: tuple[CpuCache, ...] | None = None
    socket_cpus: tuple[frozenset[int], ...] | None = None
    isolated: frozenset[int] | None = None
    nohz_full: frozenset[int] | None = None
    offline: frozenset[int] | None = None
    core_kinds: tuple[CoreKind, ...] | None = None


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
    sockets = _sockets(places)
    return CpuTopology(
        model=_model_name(root),
        online=online,
        physical_cores=len(cores) if cores else None,
        sockets=len(sockets) if sockets else None,
        smt_siblings=tuple(sorted(cores, key=min)) if cores else None,
        numa_nodes=_numa_nodes(root),
        last_level_cache_bytes=_last_level_cache(places[min(places)]) if places else None,
        caches=_caches(places),
        socket_cpus=sockets,
        isolated=_cpu_list_in(cpus / "isolated"),
        nohz_full=_cpu_list_in(cpus / "nohz_full"),
        offline=_cpu_list_in(cpus / "offline"),
        core_kinds=_named_kinds(root, online) or _kinds_by_capacity(places),
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
            match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part, re.ASCII)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
            if not first <= last < _MOST_CPUS:
                raise ValueError(f"{part!r} is no CPU and no range of CPUs in {text!r}: write a list such as 0-2,8")
            chosen.update(range(first, last + 1))
    return frozenset(chosen)


def _numa_nodes(root: Path) -> tuple[frozenset[int], ...] | None:
    """Return the CPUs of each NUMA node that has some; None where the kernel shows no nodes."""
    nodes = root / "sys/devices/system/node"
    online = _cpu_list_in(nodes / "online")
    if online is None:
        return None
    return tuple(cpus for node in sorted(online) if (cpus := _cpu_list_in(nodes / f"node{node}/cpulist")))


def _sockets(places: dict[int, Path]) -> tuple[frozenset[int], ...] | None:
    """Return the CPUs of each package; None where one CPU does not say which is its."""
    found: dict[str, set[int]] = {}
    for cpu, place in places.items():
        package = text_in(place / "topology/physical_package_id")
        if package is None:
            return None
        found.setdefault(package, set()).add(cpu)
    return tuple(frozenset(cpus) for cpus in sorted(found.values(), key=min)) or None


def _caches(places: dict[int, Path]) -> tuple[CpuCache, ...] | None:
    """Return the caches above level 1; None where the kernel shows none, or not who shares them."""
    found: set[CpuCache] = set()
    for cpu, place in places.items():
        for index in place.glob("cache/index*"):
            level, shared = text_in(index / "level") or "", _cpu_list_in(index / "shared_cpu_list")
            if level.isdigit() and int(level) > 1 and shared and cpu in shared:
                size = _size_in(index / "size")
                found.add(CpuCache(int(level), text_in(index / "type"), size, shared.intersection(places)))
    return tuple(sorted(found, key=lambda cache: (-cache.level, min(cache.cpus), cache.kind or ""))) or None


def _named_kinds(root: Path, online: frozenset[int] | None) -> tuple[CoreKind, ...] | None:
    """Return the kinds of an Intel hybrid, which the kernel shows as two units that count events."""
    devices = root / "sys/devices"
    kinds = [("performance", "cpu_core"), ("efficiency", "cpu_atom")]
    found = [
        (name, (_cpu_list_in(devices / unit / "cpus") or frozenset()) & (online or frozenset())) for name, unit in kinds
    ]
    return tuple(CoreKind(name, cpus, None) for name, cpus in found) if all(cpus for _, cpus in found) else None


def _kinds_by_capacity(places: dict[int, Path]) -> tuple[CoreKind, ...] | None:
    """Return the kinds that differ in ``cpu_capacity``, which ARM and RISC-V kernels show."""
    found: dict[int, set[int]] = {}
    for cpu, place in places.items():
        capacity = text_in(place / "cpu_capacity") or ""
        if not capacity.isdigit():
            return None
        found.setdefault(int(capacity), set()).add(cpu)
    if len(found) < 2:
        return None
    names = ["performance", *["middle"] * (len(found) - 2), "efficiency"]
    by_speed = sorted(found.items(), reverse=True)
    return tuple(
        CoreKind(name, frozenset(cpus), capacity) for name, (capacity, cpus) in zip(names, by_speed, strict=True)
    )


def _last_level_cache(cpu: Path) -> int | None:
    """Return the size in bytes of the highest level of cache that one CPU reaches."""
    found: list[tuple[int, int]] = []
    for index in cpu.glob("cache/index*"):
        level, size = text_in(index / "level") or "", _size_in(index / "size")
        if level.isdigit() and size is not None:
            found.append((int(level), size))
    return max(found)[1] if found else None


def _size_in(path: Path) -> int | None:
    match = re.fullmatch(r"(\d+)([KMG]?)", text_in(path) or "")
    return int(match[1]) * _UNITS.get(match[2], 1) if match else None


def _model_name(root: Path) -> str | None:
    """Return the CPU's model; ARM kernels print none in cpuinfo, but a device tree may hold the machine's."""
    for line in (text_in(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return (text_in(root / "proc/device-tree/model") or "").strip("\0") or None


def _cpu_list_in(path: Path) -> frozenset[int] | None:
    text = text_in(path)
    try:
        return None if text is None else parse_cpu_list(text)
    except ValueError:
        return None
