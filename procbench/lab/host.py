"""The facts of the host that results depend on, read from the kernel and the interpreter."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from procbench.cpu.topology import CpuTopology, allowed_cpus, cgroup_cpu_quota, read_topology, usable_workers
from procbench.errors import InvalidInputError
from procbench.memory.meminfo import MEMINFO, meminfo_bytes
from procbench.monitoring.pressure import (
    CpuShares,
    ResourcePressure,
    read_cpu_times,
    read_load_average,
    read_pressure,
    share_between,
)

SYSTEM_ROOT = Path("/")

SAMPLE_S = 0.2
"""How long the CPUs are watched for other people's work: 20 clock ticks per CPU, and hardly felt by a person."""

HOST_ID_LENGTH = 12
"""Hex digits of a host id: short enough to read aloud, long enough for every host that one person will ever see."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host at one moment. Every value is a plain number, text or tuple; None is "the host does not show it".

    Attributes:
        host_id: Stays the same while results may be mixed: a hash of CPU model, counts, memory and machine id.
        recorded_at: When, UTC, ISO 8601.
        hostname: What the host calls itself.
        cpu_model: Name of the CPU model.
        architecture: Such as ``x86_64``.
        logical_cpus: Logical CPUs that are switched on.
        physical_cores: Cores behind them.
        sockets: Packages behind them.
        numa_nodes: NUMA nodes with CPUs.
        last_level_cache_bytes: Size of one last level cache.
        allowed_cpus: Logical CPUs that this process may use.
        cpu_quota: CPUs that the cgroup grants; None is no quota.
        usable_workers: Children that can be busy at once.
        memory_bytes: Memory that the kernel manages.
        memory_available_bytes: Memory to be had without swapping.
        kernel: Release of the kernel.
        libc: Name and version of the C library.
        python_version: Such as ``3.11.2``.
        python_implementation: Such as ``CPython``.
        python_debug: The interpreter is a debug build.
        python_tracing: A debugger, profiler or coverage tool watches every call.
        governors: Frequency governors in use, sorted; empty where none shows.
        turbo: Whether CPUs may run above their nominal frequency.
        hypervisor: Name of the hypervisor, or ``unnamed``; None on bare metal.
        container: Kind of container; None outside one, as far as it shows.
        nice_value: This process's nice value, -20 to 19.
        load_one_minute: Load average over a minute.
        load_five_minutes: Load average over five minutes.
        load_fifteen_minutes: Load average over a quarter of an hour.
        busy_share: Share of all CPU time that was busy while this process waited, 0 to 1.
        steal_share: Share of all CPU time that a hypervisor gave to others in that time, 0 to 1.
        cpu_pressure_percent: Share of the last 10 s in which a task waited for a CPU, 0 to 100.
        memory_pressure_percent: Likewise for memory.
        io_pressure_percent: Likewise for disks.
    """

    host_id: str
    recorded_at: str
    hostname: str
    cpu_model: str | None
    architecture: str
    logical_cpus: int | None
    physical_cores: int | None
    sockets: int | None
    numa_nodes: int | None
    last_level_cache_bytes: int | None
    allowed_cpus: tuple[int, ...]
    cpu_quota: float | None
    usable_workers: int
    memory_bytes: int | None
    memory_available_bytes: int | None
    kernel: str
    libc: str | None
    python_version: str
    python_implementation: str
    python_debug: bool
    python_tracing: bool
    governors: tuple[str, ...]
    turbo: bool | None
    hypervisor: str | None
    container: str | None
    nice_value: int
    load_one_minute: float | None
    load_five_minutes: float | None
    load_fifteen_minutes: float | None
    busy_share: float | None
    steal_share: float | None
    cpu_pressure_percent: float | None
    memory_pressure_percent: float | None
    io_pressure_percent: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON values; tuples become lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> HostFacts:
        """Rebuild what :meth:`to_dict` wrote; facts that only a newer procbench knows are left out.

        Raises:
            InvalidInputError: A fact is missing.
        """
        missing = [field.name for field in fields(cls) if field.name not in plain]
        if missing:
            raise InvalidInputError(f"these host facts are missing: {', '.join(missing)}")
        known: dict[str, Any] = {}
        for field in fields(cls):
            value = plain[field.name]
            known[field.name] = tuple(value) if isinstance(value, list) else value
        return cls(**known)


def read_host(
    root: Path = SYSTEM_ROOT, *, sample_s: float = SAMPLE_S, wait: Callable[[float], object] = time.sleep
) -> HostFacts:
    """Read the facts of this host. Waits ``sample_s``; never raises because a file is missing.

    Args:
        root: Where ``proc``, ``sys`` and ``etc`` are found. What only the running interpreter knows (affinity, nice
            value, kernel, Python) is that of this process nonetheless.
        sample_s: Seconds over which CPU use is watched; 0 leaves busy and steal share unknown.
        wait: Lets that time pass.
    """
    shares = _watch_cpus(root, sample_s, wait)
    topology, memory = read_topology(root), (_text(root / MEMINFO) or "").encode()
    load, pressure = read_load_average(root), read_pressure(root)
    return HostFacts(
        host_id=_host_id(root, topology, meminfo_bytes(memory, "MemTotal")),
        recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        hostname=socket.gethostname(),
        cpu_model=topology.model,
        architecture=platform.machine(),
        logical_cpus=len(topology.online) if topology.online else None,
        physical_cores=topology.physical_cores,
        sockets=topology.sockets,
        numa_nodes=len(topology.numa_nodes) if topology.numa_nodes else None,
        last_level_cache_bytes=topology.last_level_cache_bytes,
        allowed_cpus=tuple(sorted(allowed_cpus())),
        cpu_quota=cgroup_cpu_quota(root),
        usable_workers=usable_workers(root),
        memory_bytes=meminfo_bytes(memory, "MemTotal"),
        memory_available_bytes=meminfo_bytes(memory, "MemAvailable"),
        kernel=platform.release(),
        libc=" ".join(platform.libc_ver()).strip() or None,
        python_version=platform.python_version(),
        python_implementation=platform.python_implementation(),
        python_debug=bool(sysconfig.get_config_var("Py_DEBUG")),
        python_tracing=_is_traced(),
        governors=_governors(root),
        turbo=_turbo(root),
        hypervisor=_hypervisor(root),
        container=_container(root),
        nice_value=os.getpriority(os.PRIO_PROCESS, 0),
        load_one_minute=load.one_minute if load else None,
        load_five_minutes=load.five_minutes if load else None,
        load_fifteen_minutes=load.fifteen_minutes if load else None,
        busy_share=shares.busy if shares else None,
        steal_share=shares.steal if shares else None,
        cpu_pressure_percent=_stalled_percent(pressure.cpu),
        memory_pressure_percent=_stalled_percent(pressure.memory),
        io_pressure_percent=_stalled_percent(pressure.io),
    )


def _watch_cpus(root: Path, sample_s: float, wait: Callable[[float], object]) -> CpuShares | None:
    """Return what the CPUs did while this process waited."""
    if sample_s <= 0:
        return None
    before = read_cpu_times(root)
    wait(sample_s)
    after = read_cpu_times(root)
    return share_between(before, after) if before and after else None


def _host_id(root: Path, topology: CpuTopology, memory_bytes: int | None) -> str:
    """Hash the facts that decide whether results may be mixed.

    The machine id is confidential (machine-id(5)): it only ever enters a hash. Memory counts in whole GiB, since a new
    kernel reserves a little more or less of it.
    """
    machine = _text(root / "etc/machine-id") or _text(root / "var/lib/dbus/machine-id") or ""
    deciding = {
        "machine": hashlib.sha256(b"procbench host id " + machine.encode()).hexdigest(),
        "architecture": platform.machine(),
        "model": topology.model,
        "logical_cpus": len(topology.online) if topology.online else None,
        "physical_cores": topology.physical_cores,
        "sockets": topology.sockets,
        "memory_gib": None if memory_bytes is None else round(memory_bytes / 2**30),
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:HOST_ID_LENGTH]


def _governors(root: Path) -> tuple[str, ...]:
    """Return the distinct frequency governors. Source: Documentation/admin-guide/pm/cpufreq.rst."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return tuple(sorted({governor for file in files if (governor := _text(file))}))


def _turbo(root: Path) -> bool | None:
    """Return whether CPUs may run above their nominal frequency. Source: intel_pstate.rst and cpufreq.rst."""
    cpus = root / "sys/devices/system/cpu"
    no_turbo, boost = _text(cpus / "intel_pstate/no_turbo"), _text(cpus / "cpufreq/boost")
    if no_turbo is not None:
        return no_turbo == "0"
    return None if boost is None else boost == "1"


def _hypervisor(root: Path) -> str | None:
    """Return the hypervisor's name as far as the guest is told; x86 guests have a CPU flag for it, others a file."""
    flags = next((line for line in (_text(root / "proc/cpuinfo") or "").splitlines() if line.startswith("flags")), "")
    kind = _text(root / "sys/hypervisor/type") or _text(root / "proc/device-tree/hypervisor/compatible")
    if not kind and "hypervisor" not in flags.split():
        return None
    return kind or _text(root / "sys/class/dmi/id/product_name") or "unnamed"


def _container(root: Path) -> str | None:
    """Return the kind of container by the marks that each leaves. Source: systemd's container interface."""
    if named := _text(root / "run/systemd/container"):
        return named
    marks = {"docker": ".dockerenv", "podman": "run/.containerenv"}
    return next((kind for kind, mark in marks.items() if (root / mark).exists()), None)


def _is_traced() -> bool:
    """Return whether a tool is told of every call or line of this thread. Source: sys.monitoring, Python 3.12."""
    monitoring = getattr(sys, "monitoring", None)
    tools = range(6) if monitoring else ()
    watched = any(monitoring.get_tool(tool) and monitoring.get_events(tool) for tool in tools)  # type: ignore[union-attr]
    return watched or sys.gettrace() is not None or sys.getprofile() is not None


def _stalled_percent(pressure: ResourcePressure | None) -> float | None:
    return pressure.some.avg10_percent if pressure else None


def _text(path: Path) -> str | None:
    """Return a file's text, None if it is empty or cannot be read."""
    try:
        return path.read_text(errors="replace").strip(" \n\0") or None
    except OSError:
        return None
