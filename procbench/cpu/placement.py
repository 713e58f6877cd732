"""Which logical CPUs each worker's commands may run on: pure functions from a topology and the allowed CPUs to sets.

============ =======================================================================================================
policy       each worker gets
============ =======================================================================================================
``none``     all allowed CPUs
``core``     one CPU: a physical core of its own while there are any, fast cores first, SMT siblings only after that
``spread``   one CPU, as far from the others as there is: other NUMA node, other cache, other core, sibling at last
``compact``  one CPU, as near to the others as there is: sibling, same cache, same node
``cache``    the CPUs behind one last-level cache, by turns
``node``     the CPUs of one NUMA node, by turns
============ =======================================================================================================

Where the kernel does not show caches or nodes, all allowed CPUs count as one. More workers than places go round again.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from procbench.cpu.priority import Priority
from procbench.cpu.topology import CpuTopology, parse_cpu_list
from procbench.errors import InvalidInputError

PINS: Final = ("none", "core", "spread", "compact", "cache", "node")
"""The policies."""

CpuSets = tuple[frozenset[int], ...]


def place(pin: str | Sequence[str], workers: int, topology: CpuTopology, allowed: frozenset[int]) -> CpuSets:
    """Return one CPU set for each worker.

    Args:
        pin: One of ``PINS``, or explicit sets, as :func:`cpu_sets` takes them.
        workers: How many workers, at least 1.
        topology: The machine.
        allowed: The CPUs that may be used, at least one.

    Raises:
        InvalidInputError: There is no such policy, or an explicit set is empty or names a CPU that is not allowed.
    """
    if not isinstance(pin, str):
        sets = cpu_sets(pin)
        for cpus in sets:
            check_allowed(cpus, allowed)
    elif pin == "none":
        sets = (allowed,)
    elif pin in ("cache", "node"):
        sets = _groups(_last_level(topology) if pin == "cache" else topology.numa_nodes, allowed)
    elif pin in PINS:
        order = {"core": cores_first, "spread": _spread, "compact": _compact}[pin]
        sets = tuple(frozenset({cpu}) for cpu in order(topology, allowed))
    else:
        raise InvalidInputError(f"pin is {pin!r}; it must be one of {', '.join(PINS)}, or a CPU set for each worker")
    return tuple(sets[number % len(sets)] for number in range(workers))


def cpu_sets(sets: Iterable[Any]) -> CpuSets:
    """Return explicit CPU sets, each given as CPU numbers or in the kernel's list format.

    Raises:
        InvalidInputError: There is none, one is empty, or something is no CPU number.
    """
    try:
        found = tuple(parse_cpu_list(one) if isinstance(one, str) else frozenset(map(operator.index, one)) for one in sets)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(found) or min(map(min, found)) < 0:
        raise InvalidInputError(f"{sets!r} are no CPU sets; give CPU numbers or lists such as '0-3,8', none empty")
    return found


def check_allowed(cpus: frozenset[int], allowed: frozenset[int]) -> None:
    """Refuse CPUs that may not be used, of which the kernel would drop some without a word.

    Raises:
        InvalidInputError: There is such a CPU, or none at all; the message names it.
    """
    if bad := cpus - allowed:
        raise InvalidInputError(
            f"CPU {format_cpu_list(bad)} is not among those that this process may use: {format_cpu_list(allowed)}"
        )
    if not cpus:
        raise InvalidInputError("the CPU set is empty; a process must be allowed at least one CPU")


def optimal_cpus(
    priority: Priority, topology: CpuTopology, allowed: frozenset[int], loads: Mapping[int, float]
) -> frozenset[int]:
    """Return the CPUs for work of a priority: never none, all in ``allowed``.

    ``critical`` may use all; ``high`` the first half, ``low`` the second, in the order of :func:`cores_first`, of which the
    middle one of an odd number belongs to both; ``normal`` the least loaded CPU.

    Args:
        priority: The class.
        topology: The machine.
        allowed: The CPUs that may be used, at least one.
        loads: Busy share of each CPU, 0 to 1; one that is missing counts as idle.
    """
    order = cores_first(topology, allowed)
    if priority == "critical":
        return allowed
    if priority == "normal":
        return frozenset({min(order, key=lambda cpu: loads.get(cpu, 0.0))})
    half = (len(order) + 1) // 2
    return frozenset(order[:half] if priority == "high" else order[-half:])


def cores_first(topology: CpuTopology, allowed: frozenset[int]) -> list[int]:
    """Return the allowed CPUs in the order to use them: one of each physical core, fast cores first, then their siblings."""
    cores = sorted(_cores(topology, allowed), key=lambda core: (_slowness(topology, core[0]), core[0]))
    return _by_turns(cores)


def _cores(topology: CpuTopology, allowed: frozenset[int]) -> list[list[int]]:
    """Return the allowed CPUs of each physical core; a CPU that no core is known for is one by itself."""
    cores = [sorted(core & allowed) for core in topology.smt_siblings or () if core & allowed]
    return cores + [[cpu] for cpu in sorted(allowed.difference(*cores))]


def _slowness(topology: CpuTopology, cpu: int) -> int:
    kinds = topology.core_kinds or ()
    return next((rank for rank, kind in enumerate(kinds) if cpu in kind.cpus), len(kinds))


def _last_level(topology: CpuTopology) -> CpuSets | None:
    highest = max((cache.level for cache in topology.caches or ()), default=0)
    return tuple(cache.cpus for cache in topology.caches or () if cache.level == highest) or None


def _groups(groups: CpuSets | None, allowed: frozenset[int]) -> CpuSets:
    """Return the groups' allowed CPUs, none empty; what belongs to none is a group too."""
    found = [group & allowed for group in groups or () if group & allowed]
    rest = allowed.difference(*found)
    return tuple(found + [rest] * bool(rest))


def _spread(topology: CpuTopology, allowed: frozenset[int]) -> list[int]:
    order: list[int] = []
    cores = cores_first(topology, allowed)
    firsts = {core[0] for core in _cores(topology, allowed)}
    for layer in ([cpu for cpu in cores if cpu in firsts], [cpu for cpu in cores if cpu not in firsts]):
        nodes = [
            _by_turns([[cpu for cpu in layer if cpu in cache] for cache in _groups(_last_level(topology), node)])
            for node in _groups(topology.numa_nodes, allowed)
        ]
        order += _by_turns(nodes)
    return order


def _compact(topology: CpuTopology, allowed: frozenset[int]) -> list[int]:
    return [
        cpu
        for node in _groups(topology.numa_nodes, allowed)
        for cache in _groups(_last_level(topology), node)
        for core in sorted(_cores(topology, cache), key=lambda core: (_slowness(topology, core[0]), core[0]))
        for cpu in core
    ]


def _by_turns(rows: Sequence[Sequence[int]]) -> list[int]:
    """Take the first of every row, then the second of every row that has one, and so on."""
    longest = max(map(len, rows), default=0)
    return [row[place] for place in range(longest) for row in rows if place < len(row)]


def format_cpu_list(cpus: Iterable[int]) -> str:
    """Turn a set into the kernel's list format: {0, 1, 2, 8} is ``0-2,8``."""
    parts: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def cpu_mask(cpus: Iterable[int]) -> str:
    """Return a set as taskset(1) prints it, hexadecimal, the bit of CPU 0 last."""
    return f"{sum(1 << cpu for cpu in set(cpus)):x}"
