"""Which CPUs there are and may be used, read from recorded trees and from this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from procbench.cpu import topology

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
