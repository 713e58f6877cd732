"""Which CPUs there are and may be used, read from recorded trees and from this machine."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from procbench.cpu import cgroups, topology

HERE = Path(__file__).parents[1]
MOUNT_V2 = "30 23 0:26 {root} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
MOUNT_V1 = "33 31 0:30 {root} {point} rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"


def write(root: Path, files: dict[str, str]) -> Path:
    """Lay a recorded tree under ``root``."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def machine(root: Path, *, cpus: int, threads_per_core: int = 2, cores_per_socket: int = 2) -> Path:
    """Record a machine in which the siblings of core c are CPU c and CPU c + cores, as Intel numbers them."""
    cores = cpus // threads_per_core
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Example CPU 9000 @ 2.00GHz\n",
        "sys/devices/system/cpu/online": f"0-{cpus - 1}\n",
        "sys/devices/system/node/online": "0-1\n",
        "sys/devices/system/node/node0/cpulist": f"0-{cpus // 2 - 1}\n",
        "sys/devices/system/node/node1/cpulist": f"{cpus // 2}-{cpus - 1}\n",
    }
    for cpu in range(cpus):
        here = f"sys/devices/system/cpu/cpu{cpu}"
        siblings = ",".join(str(cpu % cores + cores * thread) for thread in range(threads_per_core))
        files[f"{here}/topology/thread_siblings_list"] = siblings + "\n"
        files[f"{here}/topology/physical_package_id"] = f"{cpu % cores // cores_per_socket}\n"
        for index, (level, size) in enumerate([(1, "32K"), (1, "32K"), (2, "1M"), (3, "32768K")]):
            files[f"{here}/cache/index{index}/level"] = f"{level}\n"
            files[f"{here}/cache/index{index}/size"] = f"{size}\n"
            files[f"{here}/cache/index{index}/type"] = ("Data", "Instruction", "Unified", "Unified")[index] + "\n"
            first = cpu % cores // cores_per_socket * cores_per_socket
            mates = range(first, min(first + cores_per_socket, cores)) if level == 3 else [cpu % cores]
            shared = ",".join(str(mate + cores * thread) for thread in range(threads_per_core) for mate in mates)
            files[f"{here}/cache/index{index}/shared_cpu_list"] = shared + "\n"
    return write(root, files)


def test_a_recorded_machine_is_read_whole(tmp_path: Path):
    """Eight logical CPUs on four cores in two sockets come out as such."""
    found = topology.read_topology(machine(tmp_path, cpus=8))
    assert found.model == "Example CPU 9000 @ 2.00GHz"
    assert found.online == frozenset(range(8))
    assert (found.physical_cores, found.sockets) == (4, 2)
    assert found.smt_siblings == tuple(frozenset({core, core + 4}) for core in range(4))
    assert found.numa_nodes == (frozenset(range(4)), frozenset(range(4, 8)))
    assert found.last_level_cache_bytes == 32 << 20


def test_an_offline_sibling_is_no_cpu(tmp_path: Path):
    """With CPU 7 switched off, core 3 has one sibling and is still a core."""
    root = machine(tmp_path, cpus=8)
    write(root, {"sys/devices/system/cpu/online": "0-6\n"})
    found = topology.read_topology(root)
    assert found.physical_cores == 4
    assert found.smt_siblings is not None
    assert frozenset({3}) in found.smt_siblings


def test_more_than_64_cpus_are_no_special_case(tmp_path: Path):
    """Sets have no 64-bit edge."""
    found = topology.read_topology(machine(tmp_path, cpus=256, cores_per_socket=64))
    assert found.online == frozenset(range(256))
    assert (found.physical_cores, found.sockets) == (128, 2)


def test_an_empty_tree_gives_none_and_no_error(tmp_path: Path):
    """What the kernel does not show is None."""
    found = topology.read_topology(tmp_path)
    assert found == topology.CpuTopology(None, None, None, None, None, None, None)
    assert topology.cgroup_cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", {0}), ("0-2,8\n", {0, 1, 2, 8}), ("", set()), ("63-65", {63, 64, 65}), ("0-1,0-1", {0, 1})]
)
def test_the_kernels_list_format_is_read(text: str, cpus: set[int]):
    """Ranges, single CPUs and the empty list."""
    assert topology.parse_cpu_list(text) == cpus


def test_nonsense_instead_of_a_list_is_none_in_a_tree_and_an_error_by_hand(tmp_path: Path):
    """A reader of trees never raises; the parser says what it cannot read."""
    assert topology.read_topology(write(tmp_path, {"sys/devices/system/cpu/online": "many"})).online is None
    with pytest.raises(ValueError, match="many"):
        topology.parse_cpu_list("many")


@pytest.mark.parametrize(("text", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("50000 100000", 0.5)])
def test_a_version_2_quota_is_read(tmp_path: Path, text: str, quota: float | None):
    """cpu.max holds quota and period in microseconds, or the word max."""
    files = {"proc/self/cgroup": "0::/app\n", "proc/self/mountinfo": MOUNT_V2.format(root="/", point="/sys/fs/cgroup")}
    root = write(tmp_path, {**files, "sys/fs/cgroup/app/cpu.max": text + "\n"})
    assert topology.cgroup_cpu_quota(root) == quota


def test_the_tightest_parent_counts(tmp_path: Path):
    """A parent's quota of 1 holds for a child that was granted 4."""
    files = {"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": MOUNT_V2.format(root="/", point="/sys/fs/cgroup")}
    quotas = {"sys/fs/cgroup/a/cpu.max": "100000 100000", "sys/fs/cgroup/a/b/cpu.max": "400000 100000"}
    assert topology.cgroup_cpu_quota(write(tmp_path, {**files, **quotas})) == 1


@pytest.mark.parametrize(("text", "expected"), [("25000", 0.25), ("-1", None)])
def test_a_version_1_quota_is_read_beside_an_empty_version_2(tmp_path: Path, text: str, expected: float | None):
    """Both versions may be mounted at once; here only version 1 has the cpu controller, and a space in its path."""
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc/inner\n0::/docker/abc/inner\n",
        "proc/self/mountinfo": MOUNT_V1.format(root="/docker/abc", point=r"/sys/my\040cpu")
        + MOUNT_V2.format(root="/", point="/sys/unified"),
        "sys/my cpu/inner/cpu.cfs_quota_us": text,
        "sys/my cpu/inner/cpu.cfs_period_us": "100000",
        "sys/unified/docker/abc/inner/cgroup.procs": "",
    }
    assert topology.cgroup_cpu_quota(write(tmp_path, files)) == expected


def test_workers_are_bounded_by_quota_and_never_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of four allowed CPUs a quota of 1.5 leaves two workers and one of 0.1 leaves one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": MOUNT_V2.format(root="/", point="/sys/fs/cgroup")}
    for text, workers in {"150000 100000": 2, "10000 100000": 1, "900000 100000": 4, "max 100000": 4}.items():
        root = write(tmp_path, {**files, "sys/fs/cgroup/cpu.max": text})
        assert topology.usable_workers(root) == workers


def test_one_allowed_cpu_makes_one_worker():
    """C02: under `taskset -c` with one CPU there is one worker, however many CPUs are online."""
    cpu = str(min(os.sched_getaffinity(0)))
    code = "from procbench.cpu import topology as t; print(sorted(t.allowed_cpus()), t.usable_workers())"
    done = subprocess.run(
        ["taskset", "-c", cpu, sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"[{cpu}] 1"


def test_this_machine_has_as_many_cpus_as_the_standard_library_says():
    """The set of online CPUs agrees with os.cpu_count, and holds the allowed ones."""
    found = topology.read_topology()
    assert found.online is not None
    assert len(found.online) == os.cpu_count()
    assert topology.allowed_cpus() <= found.online
    assert 1 <= topology.usable_workers() <= len(topology.allowed_cpus())


def hybrid(root: Path) -> Path:
    """Record an Intel hybrid: two performance cores with SMT (CPUs 0 to 3), a module of four efficiency cores (4 to 7)."""
    files = {
        "sys/devices/system/cpu/online": "0-7\n",
        "sys/devices/cpu_core/cpus": "0-3\n",
        "sys/devices/cpu_atom/cpus": "4-7\n",
    }
    cores = [{0, 1}, {2, 3}, {4}, {5}, {6}, {7}]
    for cpu in range(8):
        here = f"sys/devices/system/cpu/cpu{cpu}"
        core = next(core for core in cores if cpu in core)
        files[f"{here}/topology/thread_siblings_list"] = ",".join(map(str, sorted(core)))
        files[f"{here}/topology/physical_package_id"] = "0\n"
        for index, (level, size, shared) in enumerate(
            [("2", "2048K", "4-7" if cpu > 3 else ("0-1", "2-3")[cpu // 2]), ("3", "12288K", "0-7")]
        ):
            place = f"{here}/cache/index{index}"
            files |= {f"{place}/level": level, f"{place}/size": size, f"{place}/type": "Unified"}
            files[f"{place}/shared_cpu_list"] = shared
    return write(root, files)


def test_one_socket_shares_one_last_level_cache(tmp_path: Path):
    """Four cores without SMT share one level 3 cache and have a level 2 of their own."""
    found = topology.read_topology(machine(tmp_path, cpus=4, threads_per_core=1, cores_per_socket=4))
    assert (found.sockets, found.physical_cores) == (1, 4)
    assert found.socket_cpus == (frozenset(range(4)),)
    assert found.caches is not None
    assert found.caches[0] == topology.CpuCache(3, "Unified", 32 << 20, frozenset(range(4)))
    assert [cache.cpus for cache in found.caches[1:]] == [frozenset({cpu}) for cpu in range(4)]


def test_two_sockets_have_a_last_level_cache_each(tmp_path: Path):
    """With SMT the siblings share the level 2 cache, and each socket its level 3."""
    found = topology.read_topology(machine(tmp_path, cpus=8))
    assert found.socket_cpus == (frozenset({0, 1, 4, 5}), frozenset({2, 3, 6, 7}))
    assert found.caches is not None
    assert [cache.cpus for cache in found.caches if cache.level == 3] == list(found.socket_cpus)
    assert [cache.cpus for cache in found.caches if cache.level == 2] == list(found.smt_siblings or ())


def test_a_machine_of_128_cpus_is_read_whole(tmp_path: Path):
    """64 cores with two siblings each, in two sockets."""
    found = topology.read_topology(machine(tmp_path, cpus=128, cores_per_socket=32))
    assert found.online == frozenset(range(128))
    assert [len(cpus) for cpus in found.socket_cpus or ()] == [64, 64]
    assert found.smt_siblings is not None
    assert found.smt_siblings[63] == {63, 127}


def test_the_kinds_of_an_intel_hybrid_are_told_apart(tmp_path: Path):
    """The units cpu_core and cpu_atom say which CPUs are which; the efficiency cores share a level 2 cache."""
    found = topology.read_topology(hybrid(tmp_path))
    assert [(kind.name, sorted(kind.cpus), kind.capacity) for kind in found.core_kinds or ()] == [
        ("performance", [0, 1, 2, 3], None),
        ("efficiency", [4, 5, 6, 7], None),
    ]
    assert found.physical_cores == 6
    assert [sorted(cache.cpus) for cache in found.caches or () if cache.level == 2] == [[0, 1], [2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("capacities", "expected"),
    [
        ([446, 446, 446, 446, 1024, 1024], [("performance", [4, 5], 1024), ("efficiency", [0, 1, 2, 3], 446)]),
        ([160, 498, 1024], [("performance", [2], 1024), ("middle", [1], 498), ("efficiency", [0], 160)]),
        ([1024, 1024], []),
    ],
)
def test_the_kinds_of_an_arm_machine_are_told_by_capacity(
    tmp_path: Path, capacities: list[int], expected: list[object]
):
    """big.LITTLE numbers its little cores first; equal capacities make no kinds."""
    files = {
        f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": f"{capacity}\n" for cpu, capacity in enumerate(capacities)
    }
    files["sys/devices/system/cpu/online"] = f"0-{len(capacities) - 1}\n"
    found = topology.read_topology(write(tmp_path, files))
    assert [(kind.name, sorted(kind.cpus), kind.capacity) for kind in found.core_kinds or ()] == expected


def test_a_cpu_that_goes_offline_leaves_cores_caches_and_sockets(tmp_path: Path):
    """C07: after CPU 7 went offline it is told as such, and nothing else names it."""
    root = machine(tmp_path, cpus=8)
    lists = {"online": "0-6\n", "offline": "7\n", "isolated": "3,6\n", "nohz_full": "(null)\n"}
    found = topology.read_topology(
        write(root, {f"sys/devices/system/cpu/{name}": text for name, text in lists.items()})
    )
    assert (found.offline, found.isolated, found.nohz_full) == ({7}, {3, 6}, None)
    named = [*(found.smt_siblings or ()), *(found.socket_cpus or ()), *(cache.cpus for cache in found.caches or ())]
    assert frozenset().union(*named) == frozenset(range(7))


@pytest.mark.parametrize("text", ["3-1", "-1", "1,x", "1-", "0-99999999999", "1_0"])
def test_a_list_that_is_none_is_refused(text: str):
    """Ranges that run backwards, signs, words and numbers beyond any machine are errors, never an empty set."""
    with pytest.raises(ValueError, match="write a list"):
        topology.parse_cpu_list(text)


def test_each_controller_has_its_own_group_where_both_versions_are_mounted(tmp_path: Path):
    """Version 1 has cpu, version 2 has memory; a controller that neither has gives None."""
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/jobs/one\n0::/user\n",
        "proc/self/mountinfo": MOUNT_V2.format(root="/", point="/sys/unified")
        + MOUNT_V1.format(root="/", point="/sys/v1"),
        "sys/v1/jobs/one/cpu.cfs_quota_us": "-1",
        "sys/unified/user/cgroup.controllers": "memory pids\n",
    }
    root = write(tmp_path, files)
    cpu, memory = (cgroups.own_group(name, root) for name in ("cpu", "memory"))
    assert (cpu, memory) == (root / "sys/v1/jobs/one", root / "sys/unified/user")
    assert cgroups.own_group("io", root) is None
    assert [cgroups.group_version(group) for group in (cpu, memory) if group] == [1, 2]


def test_a_group_outside_what_the_mount_shows_is_none(tmp_path: Path):
    """In a container the process's group may lie above the mount; its limits at the top of the mount still count."""
    files = {
        "proc/self/cgroup": "0::/../other\n",
        "proc/self/mountinfo": MOUNT_V2.format(root="/", point="/sys/fs/cgroup"),
        "sys/fs/cgroup/cgroup.controllers": "cpu\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    root = write(tmp_path, files)
    assert cgroups.own_group("cpu", root) is None
    assert list(cgroups.groups_upward("cpu", root)) == [root / "sys/fs/cgroup"]
    assert topology.cgroup_cpu_quota(root) == 1.5


@pytest.mark.skipif(shutil.which("lscpu") is None, reason="needs lscpu")
def test_cores_sockets_and_nodes_agree_with_lscpu():
    """What lscpu says of each online CPU is what is read here."""
    argv = ["lscpu", "-p=CPU,CORE,SOCKET,NODE"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split(",") for line in lines if line and not line.startswith("#")]
    found = topology.read_topology()
    assert found.online == {int(row[0]) for row in rows}
    for column, groups in enumerate((found.smt_siblings, found.socket_cpus, found.numa_nodes), start=1):
        if groups is None or not all(row[column] for row in rows):
            continue  # neither tool guesses
        theirs = {
            label: frozenset(int(row[0]) for row in rows if row[column] == label) for label in {r[column] for r in rows}
        }
        assert set(groups) == set(theirs.values())


@pytest.mark.skipif(not (shutil.which("nproc") and shutil.which("taskset")), reason="needs nproc and taskset")
def test_the_allowed_cpus_agree_with_nproc_under_random_masks():
    """C02: under any mask there are as many allowed CPUs as nproc counts, and they are those of the mask."""
    allowed, draw = sorted(os.sched_getaffinity(0)), random.Random(7)
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}  # nproc obeys those
    masks = {frozenset(draw.sample(allowed, draw.randint(1, len(allowed)))) for _ in range(6)}
    code = "from procbench.cpu import topology as t; print(*sorted(t.allowed_cpus()))"
    for mask in masks:
        under = ["taskset", "-c", ",".join(map(str, mask))]
        counted = subprocess.run([*under, "nproc"], capture_output=True, text=True, check=True, env=env).stdout
        ours = subprocess.run(
            [*under, sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True
        )
        assert [int(cpu) for cpu in ours.stdout.split()] == sorted(mask)
        assert int(counted) == len(mask)
