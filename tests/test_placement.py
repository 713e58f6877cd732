"""Which CPUs each worker gets: by policy, by hand, and by priority."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procbench.cpu.placement import (
    PLACEMENT_POLICIES,
    check_cpus,
    cores_first,
    format_cpu_list,
    optimal_cpus,
    place,
)
from procbench.cpu.priorities import PRIORITIES
from procbench.cpu.topology import CoreKind, CpuCache, CpuTopology, parse_cpu_list
from procbench.errors import InvalidInputError

UNKNOWN = CpuTopology(None, None, None, None, None, None, None)


def topology(cores: int, threads: int = 1, cores_per_cache: int = 4, caches_per_socket: int = 2) -> CpuTopology:
    """Make a machine in which the siblings of core c are CPU c, c + cores, ..., and a socket is a NUMA node."""

    def groups(size: int) -> tuple[frozenset[int], ...]:
        starts = range(0, cores, size)
        spans = [range(start, min(start + size, cores)) for start in starts]
        return tuple(frozenset(core + cores * t for core in span for t in range(threads)) for span in spans)

    sockets, siblings = groups(cores_per_cache * caches_per_socket), groups(1)
    caches = tuple(CpuCache(3, "Unified", 1 << 25, cpus) for cpus in groups(cores_per_cache))
    online = frozenset(range(cores * threads))
    return CpuTopology(None, online, cores, len(sockets), siblings, sockets, 1 << 25, caches, sockets)


def singles(sets: Iterable[frozenset[int]]) -> list[int]:
    """Turn sets of one CPU each into their numbers."""
    numbers = []
    for cpus in sets:
        (cpu,) = cpus
        numbers.append(cpu)
    return numbers


TWO_SOCKETS = topology(cores=8, threads=2, cores_per_cache=2)  # sockets 0-3 and 4-7, siblings 8 further on


def test_no_policy_gives_every_worker_all_allowed_cpus():
    """`none` is the allowed set, once for each worker."""
    assert place("none", 3, TWO_SOCKETS, {1, 2}) == (frozenset({1, 2}),) * 3


def test_core_takes_every_core_before_a_sibling_and_starts_again():
    """Workers beyond the CPUs get the first ones once more."""
    assert singles(place("core", 18, TWO_SOCKETS, range(16))) == [*range(16), 0, 1]


def test_spread_goes_from_socket_to_socket_and_cache_to_cache():
    """Neighbours lie in different sockets; inside one, the other cache comes before the same one."""
    assert singles(place("spread", 8, TWO_SOCKETS, range(16))) == [0, 4, 2, 6, 1, 5, 3, 7]


def test_compact_fills_siblings_then_the_cache_then_the_node():
    """A core's siblings, the other core of its cache, the other cache of its node."""
    assert singles(place("compact", 9, TWO_SOCKETS, range(16))) == [0, 8, 1, 9, 2, 10, 3, 11, 4]


def test_cache_and_node_give_whole_groups_in_turn():
    """Each worker has all allowed CPUs of one last-level cache, or one node."""
    caches = place("cache", 5, TWO_SOCKETS, range(16))
    assert [sorted(cpus) for cpus in caches] == [
        [0, 1, 8, 9],
        [2, 3, 10, 11],
        [4, 5, 12, 13],
        [6, 7, 14, 15],
        [0, 1, 8, 9],
    ]
    assert place("node", 2, TWO_SOCKETS, {0, 5, 9}) == (frozenset({0, 9}), frozenset({5}))


@pytest.mark.parametrize("policy", ["cache", "node"])
def test_what_the_kernel_does_not_show_is_one_group(policy):
    """Without caches or nodes, every worker gets all allowed CPUs."""
    assert place(policy, 2, UNKNOWN, {3, 5}) == (frozenset({3, 5}),) * 2


def test_a_core_without_a_level_3_cache_has_its_level_2_as_the_last():
    """The low-power cores of some hybrids lie outside the level 3 cache."""
    caches = (
        CpuCache(3, "Unified", None, frozenset({0, 1})),
        *(CpuCache(2, "Unified", None, frozenset(c)) for c in [{0}, {1}, {2, 3}]),
    )
    machine = CpuTopology(None, None, None, None, None, None, None, caches)
    assert place("cache", 2, machine, range(4)) == (frozenset({0, 1}), frozenset({2, 3}))


def test_fast_cores_come_first_among_equals():
    """On big.LITTLE the little cores have the low numbers and are taken last."""
    kinds = (CoreKind("performance", frozenset({2, 3}), 1024), CoreKind("efficiency", frozenset({0, 1}), 446))
    machine = CpuTopology(None, frozenset(range(4)), None, None, None, None, None, core_kinds=kinds)
    for policy in ("core", "spread", "compact"):
        assert singles(place(policy, 4, machine, range(4))) == [2, 3, 0, 1]
    assert optimal_cpus("high", machine, range(4)) == {2, 3}


def test_isolated_cpus_are_used_only_when_allowed():
    """The allowed set alone decides."""
    machine = CpuTopology(None, frozenset({0, 1}), None, None, None, None, None, isolated=frozenset({1}))
    assert singles(place("core", 2, machine, {0})) == [0, 0]
    assert singles(place("core", 2, machine, {0, 1})) == [0, 1]


def test_sets_by_hand_are_taken_in_every_notation():
    """Sets, lists and the kernel's notation, starting again when workers outnumber them."""
    assert place([{0}, [1, 2], "0-2,8"], 4, TWO_SOCKETS, range(16)) == ({0}, {1, 2}, {0, 1, 2, 8}, {0})


def test_a_cpu_that_is_not_allowed_is_named_with_the_allowed_ones():
    """C01: {0, 5} on two CPUs would silently become {0}; it is refused, and so are the empty set and {-1}."""
    with pytest.raises(InvalidInputError, match=r"CPU 5 may not .* allowed ones are 0-1"):
        check_cpus({0, 5}, {0, 1})
    with pytest.raises(InvalidInputError, match=r"CPU 5-7,9 may not"):
        place([{0}, "5-7,9"], 1, TWO_SOCKETS, {0, 1})  # though the only worker gets {0}
    with pytest.raises(InvalidInputError, match=r"at least one CPU; the allowed ones are 0-1"):
        check_cpus(set(), {0, 1})
    with pytest.raises(InvalidInputError, match="-1"):
        check_cpus({-1}, {0, 1})


def test_a_cpu_set_that_shrinks_changes_placement_or_is_told():
    """C07: with a CPU gone from the allowed set, a policy does without it and a set by hand says so."""
    assert singles(place("core", 2, TWO_SOCKETS, {0, 1})) == [0, 1]
    assert singles(place("core", 2, TWO_SOCKETS, {0})) == [0, 0]
    with pytest.raises(InvalidInputError, match="CPU 1 may not"):
        place(["1"], 1, TWO_SOCKETS, {0})


@pytest.mark.parametrize(
    ("policy", "workers", "allowed", "words"),
    [
        ("0-1", 1, {0}, r"no placement policy '0-1'.*a list of CPU sets"),
        ([], 1, {0}, "one CPU set for each worker"),
        ([["0"]], 1, {0}, "whole number from 0, and not '0'"),
        ([{True}], 1, {0, 1}, "not True"),
        ([{0.5}], 1, {0}, "not 0.5"),
        ([0], 1, {0}, "set of numbers or a text"),
        (["many"], 1, {0}, "'many' is no CPU"),
        (None, 1, {0}, "one CPU set for each worker"),
        ("core", 0, {0}, "workers is a whole number"),
        ("core", True, {0}, "workers is a whole number"),
        ("core", 1, set(), "no CPU is allowed"),
    ],
)
def test_nonsense_is_refused_with_a_reason(policy, workers, allowed, words):
    """Each message says what was wrong and what to give."""
    with pytest.raises(InvalidInputError, match=words):
        place(policy, workers, TWO_SOCKETS, allowed)


def test_each_priority_gets_its_cpus():
    """All, the first half, the least loaded, the second half: cores before siblings."""
    assert optimal_cpus("critical", TWO_SOCKETS, range(16)) == set(range(16))
    assert optimal_cpus("high", TWO_SOCKETS, {0, 8, 1, 9}) == {0, 1}
    assert optimal_cpus("low", TWO_SOCKETS, {0, 8, 1, 9}) == {8, 9}
    assert optimal_cpus("normal", TWO_SOCKETS, {0, 1, 2}, {0: 0.9, 1: 0.2, 2: 0.4, 5: 0.0}) == {1}
    assert optimal_cpus("normal", TWO_SOCKETS, {0, 1, 2}, {0: 0.9, 1: math.nan}) == {0}
    assert optimal_cpus("normal", TWO_SOCKETS, {3, 2}) == {2}
    assert optimal_cpus("high", TWO_SOCKETS, {0, 1, 2}) == {0, 1}
    assert optimal_cpus("low", TWO_SOCKETS, {0, 1, 2}) == {2}
    with pytest.raises(InvalidInputError, match="no priority 'urgent'"):
        optimal_cpus("urgent", TWO_SOCKETS, {0})


@pytest.mark.parametrize("priority", PRIORITIES)
def test_one_cpu_serves_every_priority(priority):
    """No class is left without a CPU."""
    assert optimal_cpus(priority, UNKNOWN, {7}) == {7}


@st.composite
def machines(draw: st.DrawFn) -> tuple[CpuTopology, frozenset[int]]:
    """Draw a machine of 1 to 256 CPUs, whole or with files missing, and the CPUs that may be used."""
    threads = draw(st.integers(1, 4))
    cores = draw(st.integers(1, 256 // threads))
    machine = topology(cores, threads, draw(st.integers(1, 16)), draw(st.integers(1, 4)))
    assert machine.online is not None
    allowed = draw(
        st.one_of(st.just(machine.online), st.frozensets(st.sampled_from(sorted(machine.online)), min_size=1))
    )
    return (UNKNOWN if draw(st.integers(0, 9)) == 0 else machine), allowed


@settings(deadline=None, max_examples=60)
@given(machines(), st.sampled_from(PLACEMENT_POLICIES), st.integers(1, 300))
def test_every_worker_gets_a_set_that_may_be_used(drawn, policy, workers):
    """As many sets as workers, none empty, all allowed, the same each time; single CPUs are used equally often."""
    machine, allowed = drawn
    sets = place(policy, workers, machine, allowed)
    assert len(sets) == workers
    assert all(cpus and cpus <= allowed for cpus in sets)
    assert sets == place(policy, workers, machine, sorted(allowed, reverse=True))
    if policy in ("core", "spread", "compact"):
        used = singles(sets)[: len(allowed)]
        assert len(set(used)) == len(used)


@settings(deadline=None, max_examples=60)
@given(machines(), st.sampled_from(["core", "spread"]))
def test_no_sibling_is_used_before_every_core_is(drawn, policy):
    """In the order of use, a core's second CPU comes after the first CPU of every core, and so on."""
    machine, allowed = drawn
    order = singles(place(policy, len(allowed), machine, allowed))
    assert sorted(order) == sorted(allowed)
    taken: dict[object, int] = {}
    ranks = []
    for cpu in order:
        core = next((core for core in machine.smt_siblings or () if cpu in core), cpu)
        taken[core] = taken.get(core, 0) + 1
        ranks.append(taken[core])
    assert ranks == sorted(ranks)


@settings(deadline=None, max_examples=60)
@given(machines())
def test_the_halves_cover_the_allowed_cpus(drawn):
    """High and low share nothing from two CPUs on, and together they are all."""
    machine, allowed = drawn
    high, low = (optimal_cpus(priority, machine, allowed) for priority in ("high", "low"))
    assert high | low == allowed
    assert len(allowed) == 1 or not high & low
    assert high == set(cores_first(machine, allowed)[: (len(allowed) + 1) // 2])


@given(st.frozensets(st.integers(0, 300)))
def test_lists_are_read_back(cpus):
    """Writing and reading gives the same CPUs, beyond 64 too."""
    assert parse_cpu_list(format_cpu_list(cpus)) == cpus


def test_lists_look_as_the_kernel_writes_them():
    """Ranges by a dash."""
    assert format_cpu_list({8, 0, 1, 2}) == "0-2,8"
    assert (format_cpu_list([]), format_cpu_list([0, 1])) == ("", "0-1")


def test_the_list_is_what_the_kernel_prints():
    """``Cpus_allowed_list`` says the same of a thread that was given its CPUs one by one."""
    said = {}

    def look():
        own = os.sched_getaffinity(0)
        for cpus in (own, {min(own)}, {max(own)}):
            os.sched_setaffinity(0, cpus)
            status = Path("/proc/thread-self/status").read_text()
            said[format_cpu_list(cpus)] = status.partition("Cpus_allowed_list:")[2].split()[0]

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert said
    assert all(ours == kernels for ours, kernels in said.items())
