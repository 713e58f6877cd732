"""Which logical CPUs each worker gets: pure functions from a topology and a policy to CPU sets.

Nothing here asks the kernel or changes anything. What the topology does not show counts as one group: without caches all
allowed CPUs share one, without nodes they are one node, and without siblings each logical CPU is a core of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, get_args

from procbench.cpu.priorities import Priority, check_priority
from procbench.cpu.topology import CpuTopology, parse_cpu_list
from procbench.errors import InvalidInputError

PlacementPolicy = Literal["none", "core", "spread", "compact", "cache", "node"]

PLACEMENT_POLICIES: Final[tuple[PlacementPolicy, ...]] = get_args(PlacementPolicy)

CpuSetLike: TypeAlias = Iterable[int] | str
"""Logical CPUs by number, or the kernel's list format, such as ``0-3,8``."""

Groups: TypeAlias = tuple[frozenset[int], ...]


def place(
    policy: PlacementPolicy | Sequence[CpuSetLike], workers: int, topology: CpuTopology, allowed: Iterable[int]
) -> tuple[frozenset[int], ...]:
    """Return one CPU set for each worker; the same arguments give the same sets.

    ``none`` gives every worker all allowed CPUs. ``core``, ``spread`` and ``compact`` give one logical CPU each and start
    again from the first when workers outnumber CPUs: ``core`` takes a CPU of every physical core before any sibling,
    ``spread`` does too and goes from socket to socket, node to node and cache to cache, ``compact`` fills a core's
    siblings, then its cache, then its node. ``cache`` gives each worker the CPUs of one last-level cache, ``node`` those
    of one NUMA node, in turn. Where kinds of cores differ, the fast ones come first among equals.

    Args:
        policy: One of these, or CPU sets by hand: worker i gets set i, and when workers outnumber sets, they start again.
        workers: How many, at least 1.
        topology: The machine's CPUs.
        allowed: Logical CPUs that may be used; isolated ones only if they are among these.

    Raises:
        InvalidInputError: No such policy, no worker, no allowed CPU, or a set that is empty or names a CPU that is not
            allowed, whether a worker would get it or not.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InvalidInputError(f"workers is a whole number of 1 or more, and not {workers!r}")
    usable = _allowed(allowed)
    if not isinstance(policy, str):
        choices = _explicit(policy, usable)
    elif policy in PLACEMENT_POLICIES:
        choices = _choices(policy, topology, usable)
    else:
        known = ", ".join(PLACEMENT_POLICIES)
        raise InvalidInputError(
            f'there is no placement policy {policy!r}; take one of {known}, or a list of CPU sets such as ["0-1", "2"]'
        )
    return tuple(itertools.islice(itertools.cycle(choices), workers))


def optimal_cpus(
    priority: Priority, topology: CpuTopology, allowed: Iterable[int], loads: Mapping[int, float] | None = None
) -> frozenset[int]:
    """Return the CPUs that suit work of this urgency; never none.

    ``critical`` gets all allowed CPUs, ``high`` the first half of them (the larger one of an odd number), ``normal`` the
    one least loaded and ``low`` the second half, in the order of :func:`cores_first`. A single CPU serves every class.

    Args:
        priority: The class.
        topology: The machine's CPUs.
        allowed: Logical CPUs that may be used.
        loads: Measured busy share of each CPU, as :attr:`procbench.cpu.load.CpuLoad.per_cpu`. One that was not measured
            comes after all that were; of equals the first in order is taken.

    Raises:
        InvalidInputError: No such class, or no allowed CPU.
    """
    check_priority(priority)
    order = cores_first(topology, allowed)
    half = (len(order) + 1) // 2
    if priority == "critical":
        return frozenset(order)
    if priority == "high":
        return frozenset(order[:half])
    if priority == "low":
        return frozenset(order[half:] or order)
    measured = {cpu: load for cpu, load in (loads or {}).items() if not math.isnan(load)}
    return frozenset({min(order, key=lambda cpu: measured.get(cpu, math.inf))})


def cores_first(topology: CpuTopology, allowed: Iterable[int]) -> tuple[int, ...]:
    """Return the allowed CPUs in order: one of each physical core, then the second sibling of each, and so on.

    Among these, fast kinds of cores come before slow ones, then low numbers before high ones.

    Raises:
        InvalidInputError: No CPU is allowed.
    """
    return tuple(itertools.chain.from_iterable(_ranks(topology, _allowed(allowed))))


def check_cpus(cpus: CpuSetLike, allowed: Iterable[int]) -> frozenset[int]:
    """Return a CPU set that was given by hand, once it is known to be one that the kernel would keep whole.

    The kernel drops CPUs that are not allowed without a word as long as one is left, so they are refused here.

    Raises:
        InvalidInputError: It is empty, is no list of CPU numbers, or names CPUs that are not allowed; the message names
            those, and the allowed ones.
    """
    usable = _allowed(allowed)
    chosen = cpu_numbers(cpus)
    if not chosen:
        raise InvalidInputError(f"a CPU set needs at least one CPU; the allowed ones are {format_cpu_list(usable)}")
    if bad := chosen - usable:
        raise InvalidInputError(
            f"CPU {format_cpu_list(bad)} may not be used by this process; the allowed ones are {format_cpu_list(usable)}"
        )
    return chosen


def format_cpu_list(cpus: Iterable[int]) -> str:
    """Write CPUs in the kernel's list format: {0, 1, 2, 8} is ``0-2,8`` and the empty set is the empty text.

    Source: cpuset(7), "Formats".
    """
    # in a run of consecutive numbers, number and place rise together
    runs = itertools.groupby(enumerate(sorted(set(cpus))), key=lambda pair: pair[1] - pair[0])
    ends = [(run[0], run[-1]) for run in ([cpu for _, cpu in pairs] for _, pairs in runs)]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def _allowed(allowed: Iterable[int]) -> frozenset[int]:
    usable = cpu_numbers(allowed)
    if not usable:
        raise InvalidInputError("no CPU is allowed; give at least one, such as those of topology.allowed_cpus()")
    return usable


def cpu_numbers(cpus: CpuSetLike) -> frozenset[int]:
    """Return logical CPUs as numbers, whatever way they were said; whether there are such CPUs is not asked.

    Raises:
        InvalidInputError: It is no list of CPU numbers.
    """
    if isinstance(cpus, str):
        try:
            return parse_cpu_list(cpus)
        except ValueError as error:
            raise InvalidInputError(str(error)) from None
    if not isinstance(cpus, Iterable) or isinstance(cpus, (bytes, bytearray)):
        raise InvalidInputError(f'a CPU set is a set of numbers or a text such as "0-3,8", and not {cpus!r}')
    chosen = list(cpus)
    for cpu in chosen:
        if isinstance(cpu, bool) or not isinstance(cpu, int) or cpu < 0:
            raise InvalidInputError(f"a logical CPU is a whole number from 0, and not {cpu!r}")
    return frozenset(chosen)


def _explicit(sets: Sequence[CpuSetLike], usable: frozenset[int]) -> Groups:
    if not isinstance(sets, Sequence) or isinstance(sets, (bytes, bytearray)) or not sets:
        raise InvalidInputError(
            f'give a list with one CPU set for each worker, such as ["0-1", {{2}}], and not {sets!r}'
        )
    return tuple(check_cpus(cpus, usable) for cpus in sets)


def _choices(policy: str, topology: CpuTopology, usable: frozenset[int]) -> Groups:
    """Return the sets that workers get in turn."""
    if policy == "none":
        return (usable,)
    if policy == "node":
        return _split(topology.numa_nodes, usable)
    if policy == "cache":
        return _split(_last_level_caches(topology), usable)
    if policy == "core":
        order = cores_first(topology, usable)
    elif policy == "spread":
        layers = (_alternate(rank, _levels(topology), topology) for rank in _ranks(topology, usable))
        order = tuple(itertools.chain.from_iterable(layers))
    else:
        order = _fill(usable, [*_levels(topology), _cores(topology, usable)], topology)
    return tuple(frozenset({cpu}) for cpu in order)


def _levels(topology: CpuTopology) -> list[Groups | None]:
    """Return how the machine falls into parts, the largest first: sockets, nodes, then each level of cache."""
    caches = topology.caches or ()
    by_level = itertools.groupby(caches, key=lambda cache: cache.level)  # the highest level stands first
    return [topology.socket_cpus, topology.numa_nodes, *(tuple(c.cpus for c in level) for _, level in by_level)]


def _last_level_caches(topology: CpuTopology) -> Groups | None:
    """Return the CPUs of each last-level cache; a core without a level 3 has its level 2 as the last."""
    found: list[frozenset[int]] = []
    covered: set[int] = set()
    for cache in topology.caches or ():
        if own := cache.cpus - covered:
            found.append(own)
            covered |= own
    return tuple(found) or None


def _cores(topology: CpuTopology, usable: frozenset[int]) -> Groups:
    """Return the usable CPUs by physical core; one that the topology does not know is a core of its own."""
    known = topology.smt_siblings or ()
    lonely = usable.difference(*known)
    return tuple(part for core in (*known, *(frozenset({cpu}) for cpu in lonely)) if (part := core & usable))


def _ranks(topology: CpuTopology, usable: frozenset[int]) -> list[tuple[int, ...]]:
    """Return the first usable CPU of each core, then the second of each, and so on."""
    cores = [sorted(core) for core in _cores(topology, usable)]
    ranks = itertools.zip_longest(*cores)
    return [_fastest_first([cpu for cpu in rank if cpu is not None], topology) for rank in ranks]


def _fastest_first(cpus: Iterable[int], topology: CpuTopology) -> tuple[int, ...]:
    kinds = topology.core_kinds or ()
    speed = {cpu: place for place, kind in enumerate(kinds) for cpu in kind.cpus}
    return tuple(sorted(cpus, key=lambda cpu: (speed.get(cpu, len(kinds)), cpu)))


def _split(parts: Iterable[frozenset[int]] | None, usable: frozenset[int]) -> Groups:
    """Return the usable CPUs of each part, lowest CPU first; what no part has is one more."""
    found: list[frozenset[int]] = []
    left = usable
    for part in parts or ():
        if own := part & left:
            found.append(own)
            left -= own
    return tuple(sorted([*found, left] if left else found, key=min))


def _parts(cpus: Iterable[int], level: Groups | None, topology: CpuTopology) -> list[frozenset[int]]:
    """Return the parts of one level, those with the fastest core first."""
    whole = _split(level, frozenset(cpus))
    part_of = {cpu: part for part in whole for cpu in part}
    return list(dict.fromkeys(part_of[cpu] for cpu in _fastest_first(cpus, topology)))


def _alternate(cpus: Iterable[int], levels: Sequence[Groups | None], topology: CpuTopology) -> tuple[int, ...]:
    """Order CPUs so that neighbours lie in different parts of the largest level, and inside these of the next."""
    if not levels:
        return _fastest_first(cpus, topology)
    orders = [_alternate(part, levels[1:], topology) for part in _parts(cpus, levels[0], topology)]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*orders))
    return tuple(cpu for cpu in rounds if cpu is not None)


def _fill(cpus: Iterable[int], levels: Sequence[Groups | None], topology: CpuTopology) -> tuple[int, ...]:
    """Order CPUs so that each part of the largest level is used up before the next is begun, and so on inside."""
    if not levels:
        return _fastest_first(cpus, topology)
    parts = _parts(cpus, levels[0], topology)
    return tuple(itertools.chain.from_iterable(_fill(part, levels[1:], topology) for part in parts))
