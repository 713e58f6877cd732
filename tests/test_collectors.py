"""Collectors: what the kernel's files say, recorded and real, and what they say when something is missing, hostile or gone."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procbench import BufferPool, WorkStealingScheduler
from procbench.cpu.processes import read_stat
from procbench.errors import InvalidInputError
from procbench.io.budget import DescriptorBudget, shared_budget
from procbench.monitoring.collect_parts import PartCollector
from procbench.monitoring.collect_processes import ProcessesCollector, ProcessTable, TreeCollector, parse_row
from procbench.monitoring.collect_stalls import PressureCollector, ThrottlingCollector
from procbench.monitoring.collect_system import CpuCollector, DiskCollector, MemoryCollector, NetworkCollector
from procbench.monitoring.collectors import Metric, MetricCollector, check_collector, plugged_in
from procbench.monitoring.defaults import default_collectors
from procbench.monitoring.kernel_file import KernelFile
from tests.waiting import run_python, wait_until

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


def lay(root: Path, files: dict[str, str]) -> Path:
    """Write recorded files below ``root``."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def stat_line(
    pid: int,
    *,
    name: str = "a",
    state: str = "S",
    parent: int = 1,
    ticks: int = 0,
    ended: int = 0,
    start: int = 7,
    pages: int = 1,
) -> str:
    return f"{pid} ({name}) {state} {parent} 1 1 0 -1 0 0 0 0 0 {ticks} 0 {ended} 0 20 0 1 0 {start} 999 {pages} 0 0 0 0 0\n"


def lay_processes(root: Path, *lines: str) -> Path:
    return lay(root, {f"proc/{line.split(' ', 1)[0]}/stat": line for line in lines})


@contextlib.contextmanager
def closing(collector: Any) -> Iterator[Any]:
    try:
        yield collector
    finally:
        collector.close()


# --- the kernel's files -------------------------------------------------------------------------------------------------


def test_cpu_shares_come_from_two_readings(tmp_path: Path):
    """The first sample has none; then busy, steal and iowait are shares of all ticks, and each CPU has its own."""
    lay(tmp_path, {"proc/stat": "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\nintr 1\n"})
    with closing(CpuCollector(tmp_path)) as cpu:
        first = cpu.collect()
        assert set(first) == {"busy", "steal", "iowait", "each_busy[0]"}
        assert all(map(math.isnan, first.values()))
        lay(
            tmp_path,
            {
                "proc/stat": "cpu  30 0 10 40 10 0 0 10 0 0\ncpu0 75 0 0 25 0 0 0 0 0 0\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 1\n"
            },
        )
        found = cpu.collect()
        assert (found["busy"], found["steal"], found["iowait"], found["each_busy[0]"]) == (0.4, 0.1, 0.1, 0.75)
        assert math.isnan(found["each_busy[1]"])  # it came online meanwhile
        assert cpu.reasons() == {}


def test_cpu_counters_that_go_backwards_give_no_share(tmp_path: Path):
    """M05: iowait may shrink; the share of that interval is NaN, and the next one is right again."""
    lay(tmp_path, {"proc/stat": "cpu  10 0 0 10 9 0 0 0\n"})
    with closing(CpuCollector(tmp_path)) as cpu:
        cpu.collect()
        lay(tmp_path, {"proc/stat": "cpu  20 0 0 20 8 0 0 0\n"})
        assert math.isnan(cpu.collect()["busy"])
        lay(tmp_path, {"proc/stat": "cpu  25 0 0 25 8 0 0 0\n"})
        assert cpu.collect()["busy"] == 0.5


def test_memory_is_in_bytes(tmp_path: Path):
    """Kibibytes become bytes, and used swap is what is not free."""
    text = (
        "MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:   60 kB\nSwapCached: 1 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n"
    )
    with closing(MemoryCollector(lay(tmp_path, {"proc/meminfo": text}))) as memory:
        assert memory.collect() == {"total": 102_400, "available": 61_440, "swap_total": 10_240, "swap_used": 6_144}


def test_an_old_kernel_has_no_available_memory(tmp_path: Path):
    """M07: what is missing is NaN with a reason, and the rest is there."""
    text = "MemTotal:  100 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
    with closing(MemoryCollector(lay(tmp_path, {"proc/meminfo": text}))) as memory:
        found = memory.collect()
        assert math.isnan(found["available"])
        assert found["total"] == 102_400
        assert list(memory.reasons()) == ["available"]


def test_disks_are_counted_once(tmp_path: Path):
    """Partitions, loops and mapped disks have no device behind them; a disk's do not add up with theirs."""
    rows = ["8 0 sda 5 0 16 9 7 0 8 9 0 2500 9", "8 1 sda1 5 0 16 9 7 0 8 9 0 10 9", "7 0 loop0 9 9 9 9 9 9 9 9 9 9 9"]
    lay(tmp_path, {"proc/diskstats": "\n".join(rows) + "\n"})
    (tmp_path / "sys/block/sda/device").mkdir(parents=True)
    (tmp_path / "sys/block/loop0").mkdir(parents=True)
    with closing(DiskCollector(tmp_path)) as disk:
        assert disk.collect() == {"read": 8192, "written": 4096, "reads": 5, "writes": 7, "busy[sda]": 2.5}
        assert all(disk.metrics[name].counter for name in ("read", "written", "reads", "writes", "busy"))
        lay(tmp_path, {"proc/diskstats": "\n".join([*rows, "8 16 sdb 1 0 2 9 1 0 2 9 0 0 9"]) + "\n"})
        (tmp_path / "sys/block/sdb/device").mkdir(parents=True)
        assert disk.collect()["reads"] == 6  # plugged in meanwhile


def test_network_counts_devices_and_connections(tmp_path: Path):
    """Loopback and bridges carry what devices carry, and count only where there is no device, as in a container."""
    head = "Inter-| Receive | Transmit\n face |bytes | bytes\n"
    lay(
        tmp_path,
        {
            "proc/net/dev": f"{head}    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0:100 2 0 0 0 0 0 0 50 1 0 0\n"
            "  br:0: 1 1 0 0 0 0 0 0 1 1 0\n",
            "proc/net/snmp": "Ip: A B\nIp: 1 2\nTcp: RtoMin CurrEstab InSegs\nTcp: 200 3 9\nUdp: X\nUdp: 1\n",
        },
    )
    with closing(NetworkCollector(tmp_path)) as network:
        found = network.collect()
        assert (found["received"], found["sent"], found["connections"]) == (101, 51, 3)
    (tmp_path / "sys/class/net/eth0/device").mkdir(parents=True)
    with closing(NetworkCollector(tmp_path)) as network:
        found = network.collect()
        assert (found["received"], found["packets_received"], found["sent"], found["packets_sent"]) == (100, 2, 50, 1)


def test_pressure_is_seconds_and_old_kernels_have_less(tmp_path: Path):
    """M07: no memory pressure and no line for all tasks of the CPUs are NaN, each with its reason."""
    some, full = (
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\n",
        "full avg10=0 avg60=0 avg300=0 total=500000\n",
    )
    lay(tmp_path, {"proc/pressure/cpu": some, "proc/pressure/io": some + full})
    with closing(PressureCollector(tmp_path)) as pressure:
        found = pressure.collect()
        assert (found["cpu_some"], found["io_some"], found["io_full"]) == (2.5, 2.5, 0.5)
        assert all(math.isnan(found[name]) for name in ("cpu_full", "memory_some", "memory_full"))
        assert set(pressure.reasons()) == {"cpu_full", "memory_some", "memory_full"}
        assert "CONFIG_PSI" in pressure.reasons()["memory_some"]
        assert pressure.metrics["cpu_some"].shown_unit == "share"


def lay_group(root: Path, stat: str, controllers: str = "cpu") -> Path:
    lay(
        root,
        {
            "proc/self/cgroup": "0::/batch\n",
            "proc/self/mountinfo": "9 1 0:9 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
            "sys/fs/cgroup/batch/cgroup.controllers": f"{controllers}\n",
            "sys/fs/cgroup/batch/cpu.stat": stat,
        },
    )
    return root


def test_throttling_is_read_in_both_versions(tmp_path: Path):
    """Version 2 counts microseconds and version 1 nanoseconds; both become seconds."""
    root = lay_group(tmp_path / "two", "usage_usec 9\nnr_periods 10\nnr_throttled 4\nthrottled_usec 1500000\n")
    with closing(ThrottlingCollector(root)) as throttling:
        assert throttling.collect() == {"periods": 10, "throttled": 4, "withheld": 1.5}
    one = lay(
        tmp_path / "one",
        {
            "proc/self/cgroup": "2:cpu,cpuacct:/\n",
            "proc/self/mountinfo": "9 1 0:9 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
            "sys/fs/cgroup/cpu/cpu.stat": "nr_periods 10\nnr_throttled 4\nthrottled_time 1500000000\n",
        },
    )
    with closing(ThrottlingCollector(one)) as throttling:
        assert throttling.collect() == {"periods": 10, "throttled": 4, "withheld": 1.5}


def test_a_cgroup_that_is_gone_or_can_have_no_quota_is_a_reason(tmp_path: Path):
    """M07: NaN and why, until there is one again."""
    root = lay_group(tmp_path, "usage_usec 9\n")
    with closing(ThrottlingCollector(root)) as throttling:
        assert all(map(math.isnan, throttling.collect().values()))
        assert "no quota" in throttling.reasons()["periods"]
        lay_group(tmp_path, "", controllers="memory")
    with closing(ThrottlingCollector(root)) as throttling:
        assert all(map(math.isnan, throttling.collect().values()))
        assert "CPU controller" in throttling.reasons()["withheld"]
        lay_group(tmp_path, "nr_periods 1\nnr_throttled 0\nthrottled_usec 0\n")
        assert throttling.collect()["periods"] == 1


@pytest.mark.parametrize("maker", [CpuCollector, MemoryCollector, DiskCollector, NetworkCollector, PressureCollector])
def test_a_machine_that_shows_nothing_gives_reasons(tmp_path: Path, maker: Any):
    """M07: no file at all is NaN throughout and one reason for each metric; nothing is raised."""
    with closing(maker(tmp_path)) as collector:
        values = collector.collect()
        assert values
        assert all(map(math.isnan, values.values()))
        assert set(collector.reasons()) == set(values)
        assert all("No such file" in reason for reason in collector.reasons().values())


def test_this_machine_answers():
    """Every default collector gives numbers for the metrics that it lists, or a reason why not."""
    for collector in default_collectors():
        assert isinstance(collector, MetricCollector)
        values: dict[str, float] = {}
        for _ in range(2):
            values = dict(collector.collect())
        assert values
        assert {name.partition("[")[0] for name in values} <= set(collector.metrics)
        reasons = collector.reasons()  # type: ignore[attr-defined]
        shares = {"busy", "steal", "iowait", "each_busy", "mean_cpu"}  # NaN where no tick passed between two looks
        for name, value in values.items():
            assert not math.isnan(value) or name in reasons or name.partition("[")[0] in shares
        getattr(collector, "close", lambda: None)()


def test_a_file_is_kept_open_within_the_budget(tmp_path: Path):
    """Its permit is lasting and comes back; a file that was replaced is opened again once the old one fails."""
    file = KernelFile(lay(tmp_path, {"a": "x" * 200_000}) / "a")
    before = shared_budget().lasting
    assert len(file.read()) == 200_000
    assert shared_budget().lasting == before + 1
    (tmp_path / "a").write_text("y")
    assert file.read() == b"y"
    file.close()
    file.close()
    assert shared_budget().lasting == before


def test_a_file_of_many_records_is_read_whole():
    """The kernel gives such a file a page at a time, whatever is asked for."""
    file = KernelFile(Path("/proc/self/maps"))
    text = file.read()
    file.close()
    assert len(text) > PAGE
    assert text.endswith(b"\n")


def test_a_permit_is_not_given_back_in_a_fork(monkeypatch: pytest.MonkeyPatch):
    """A fork's copy of the budget may be locked by a thread that is not there."""
    file = KernelFile(Path("/proc/stat"))
    file.read()
    budget: DescriptorBudget = file._budget  # type: ignore[assignment]
    held = budget.lasting
    own = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: own + 1)
        file.close()
    assert budget.lasting == held
    budget.let_go()


# --- processes ----------------------------------------------------------------------------------------------------------


@given(name=st.binary(max_size=64), tail=st.integers(0, 2**40))
def test_any_name_is_read_past(name: bytes, tail: int):
    """M01: a name may hold parentheses, spaces, line ends and a whole line of its own."""
    text = (
        b"5 (" + name + b") S 42 1 1 0 -1 0 0 0 0 0 3 4 5 6 20 0 1 0 " + str(tail).encode() + b" 9 12 0 0)"[:-1] + b"\n"
    )
    row = parse_row(text)
    assert row == (b"S", 42, 7, 11, tail, 12)


@given(st.binary(max_size=200))
def test_what_the_kernel_never_wrote_is_refused(text: bytes):
    """Any bytes give a row or a ValueError, nothing else."""
    with contextlib.suppress(ValueError):
        parse_row(text)


HOSTILE = "x) R 1 1 (y\n"


def test_a_process_with_a_hostile_name_is_counted_right():
    """M01: a real process that calls itself ``x) R 1 1 (y`` sleeps, and is this one's child."""
    name_it = f"import ctypes, sys; ctypes.CDLL(None).prctl(15, {HOSTILE.encode()!r}, 0, 0, 0)"
    name_it += "; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", name_it], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert HOSTILE.encode() in Path(f"/proc/{child.pid}/stat").read_bytes()
        wait_until(lambda: read_stat(child.pid).state == "S")
        row = ProcessTable().look().rows[child.pid]
        assert (row.state, row.parent) == (b"S", os.getpid())
        child.stdin.close()  # type: ignore[union-attr]


def test_means_and_counts_of_recorded_processes(tmp_path: Path):
    """CPU time since the last look, memory on average, and how many run or are zombies."""
    now = [10.0]
    lay_processes(tmp_path, stat_line(5, ticks=100, pages=10), stat_line(6, state="R", ticks=50, pages=30))
    lay(tmp_path, {"proc/uptime": "1 1\n", "proc/self/x": ""})
    collector = ProcessesCollector(ProcessTable(tmp_path, lambda: now[0]))
    first = collector.collect()
    assert (first["count"], first["running"], first["zombie"], first["mean_memory"]) == (2, 1, 0, 20 * PAGE)
    assert math.isnan(first["mean_cpu"])
    now[0] = 12.0
    lay_processes(
        tmp_path, stat_line(5, ticks=100 + TICKS), stat_line(6, state="Z", ticks=50), stat_line(7, ticks=TICKS)
    )
    found = collector.collect()
    assert (found["count"], found["zombie"]) == (3, 1)
    assert found["mean_cpu"] == pytest.approx(2 / 2 / 3)


def test_a_pid_that_was_given_out_again_is_a_new_process(tmp_path: Path):
    """M05: the later process has less CPU time than the one before, and nothing negative comes of it."""
    now = [0.0]
    lay_processes(tmp_path, stat_line(5, ticks=1000, start=7), stat_line(6, ticks=100))
    collector = ProcessesCollector(ProcessTable(tmp_path, lambda: now[0]))
    collector.collect()
    now[0] = 1.0
    lay_processes(tmp_path, stat_line(5, ticks=TICKS, start=99), stat_line(6, ticks=90))
    assert collector.collect()["mean_cpu"] == pytest.approx(1 / 2)


def test_what_vanishes_between_listing_and_reading_is_dropped_and_counted(tmp_path: Path):
    """M02: a folder without its stat, an empty one and a torn one are not in the table; the rest is."""
    lay_processes(tmp_path, stat_line(5))
    (tmp_path / "proc/6").mkdir()
    lay(tmp_path, {"proc/7/stat": "", "proc/8/stat": "8 (a) S 1\n"})
    found = ProcessesCollector(ProcessTable(tmp_path)).collect()
    assert (found["count"], found["vanished"]) == (1, 3)


def test_a_process_that_was_reaped_while_its_file_was_open_is_dropped(monkeypatch: pytest.MonkeyPatch):
    """M02: reading says ESRCH then, and the look goes on."""
    child = subprocess.Popen(["sleep", "60"])
    read, stat = os.read, Path(f"/proc/{child.pid}/stat")

    def reap_first(fd: int, size: int) -> bytes:
        if child.returncode is None and Path(f"/proc/self/fd/{fd}").readlink() == stat:
            child.kill()
            child.wait()
        return read(fd, size)

    monkeypatch.setattr(os, "read", reap_first)
    look = ProcessTable().look()
    assert child.returncode is not None
    assert child.pid not in look.rows
    assert look.vanished >= 1
    assert os.getpid() in look.rows


def test_processes_that_may_not_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """M07: they are counted as hidden, and every figure says that it is not all."""
    lay_processes(tmp_path, stat_line(5), stat_line(6))
    opened = os.open

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if path == "6/stat":
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    collector = ProcessesCollector(ProcessTable(tmp_path))
    assert collector.collect()["count"] == 1
    assert "1 processes may not be read" in collector.reasons()["count"]


def test_hidepid_is_told(tmp_path: Path):
    """M07: others' processes are not even listed, and the mount's options say so."""
    lay_processes(tmp_path, stat_line(5))
    lay(tmp_path, {"proc/self/mountinfo": "2 1 0:5 / /proc rw,nosuid - proc proc rw,gid=5,hidepid=invisible\n"})
    collector = ProcessesCollector(ProcessTable(tmp_path))
    assert collector.collect()["count"] == 1
    assert "hidepid=invisible" in collector.reasons()["mean_cpu"]


def test_two_collectors_share_one_look(tmp_path: Path):
    """Within a moment nothing is read again; after it, it is, also when the clock went back."""
    now = [10.0]
    table = ProcessTable(lay_processes(tmp_path, stat_line(5)), lambda: now[0])
    first = table.look()
    assert table.look() is first
    now[0] = 10.2
    second = table.look()
    assert second is not first
    now[0] = 3.0
    assert table.look() is not second


# --- a tree -------------------------------------------------------------------------------------------------------------


def test_a_tree_is_all_descendants(tmp_path: Path):
    """Children and theirs count together, with those that ended; the process above them and others do not."""
    lay_processes(
        tmp_path,
        stat_line(10, ticks=9999, ended=3 * TICKS),
        stat_line(11, parent=10, ticks=TICKS, pages=2),
        stat_line(12, parent=11, ticks=TICKS, ended=TICKS, pages=3),
        stat_line(13, parent=11, state="Z", ticks=TICKS, pages=0),
        stat_line(20, parent=1, ticks=9999),
    )
    for pid, (read, written) in {10: (1, 0), 11: (10, 100), 12: (20, 200)}.items():
        lay(tmp_path, {f"proc/{pid}/io": f"rchar: 9\nread_bytes: {read}\nwrite_bytes: {written}\n"})
    tree = TreeCollector(10, ProcessTable(tmp_path))
    found = tree.collect()
    assert found == {"processes": 2, "cpu": pytest.approx(7.0), "memory": 5 * PAGE, "read": 31, "written": 300}
    assert "lower bound" in tree.reasons()["cpu"]


def test_an_orphan_that_was_seen_is_followed(tmp_path: Path):
    """M03: after its parent's end it is init's child, and still of the tree, with what it starts then."""
    now = [0.0]
    table = ProcessTable(tmp_path, lambda: now[0])
    lay_processes(tmp_path, stat_line(10), stat_line(11, parent=10), stat_line(12, parent=11, ticks=TICKS))
    tree = TreeCollector(10, table)
    assert tree.collect()["processes"] == 2
    (tmp_path / "proc/11/stat").unlink()
    lay_processes(tmp_path, stat_line(12, parent=1, ticks=2 * TICKS), stat_line(15, parent=12, start=50))
    now[0] = 1.0
    found = tree.collect()
    assert (found["processes"], found["cpu"]) == (2, pytest.approx(2.0))
    lay_processes(tmp_path, stat_line(12, parent=1, start=1234))  # the pid is another's now
    (tmp_path / "proc/15/stat").unlink()
    now[0] = 2.0
    assert tree.collect()["processes"] == 0


def test_cpu_time_that_nobody_waited_for_is_lost_but_not_taken_back(tmp_path: Path):
    """M03, M05: the total never falls, goes on growing, and says that it is a lower bound."""
    now = [0.0]
    table = ProcessTable(tmp_path, lambda: now[0])
    lay_processes(tmp_path, stat_line(10), stat_line(11, parent=10, ticks=5 * TICKS), stat_line(12, parent=10))
    tree = TreeCollector(10, table)
    seen = [tree.collect()["cpu"]]
    (tmp_path / "proc/11/stat").unlink()
    for spent in (0, 0, 1, 2):
        now[0] += 1.0
        lay_processes(tmp_path, stat_line(12, parent=10, ticks=spent * TICKS))
        seen.append(tree.collect()["cpu"])
    assert seen == pytest.approx([5, 5, 5, 6, 7])
    assert "nobody waited" in tree.reasons()["cpu"]


def test_a_hundredth_that_two_looks_missed_is_no_loss_to_speak_of(tmp_path: Path):
    """M05: of two that ended, one was missed by each look; what is said of the rest is not that it is lost."""
    now = [0.0]
    table = ProcessTable(tmp_path, lambda: now[0])
    tree = TreeCollector(10, table)
    seen = []
    for ended in (1000, 999, 999, 1001):
        lay_processes(tmp_path, stat_line(10, ended=ended))
        seen.append(round(tree.collect()["cpu"] * TICKS))
        now[0] += 1.0
    assert seen == [1000, 1000, 1000, 1002]
    assert "nobody waited" not in tree.reasons()["cpu"]


def test_one_that_is_waited_for_between_two_reads_is_not_lost(tmp_path: Path):
    """M05: its time is in no figure for one look and in its parent's at the next: the total stands still, then goes on."""
    now = [0.0]
    table = ProcessTable(tmp_path, lambda: now[0])
    lay_processes(tmp_path, stat_line(10), stat_line(11, parent=10, ticks=5 * TICKS))
    tree = TreeCollector(10, table)
    seen = [tree.collect()["cpu"]]
    (tmp_path / "proc/11/stat").unlink()
    for ended in (0, 6):
        now[0] += 1.0
        lay_processes(tmp_path, stat_line(10, ended=ended * TICKS))
        seen.append(tree.collect()["cpu"])
    assert seen == pytest.approx([5, 5, 6])
    assert "nobody waited" not in tree.reasons()["cpu"]


def test_a_tree_whose_process_is_gone_is_a_reason(tmp_path: Path):
    """M07: NaN, also when another process has the number now."""
    now = [0.0]
    lay_processes(tmp_path, stat_line(10))
    tree = TreeCollector(10, ProcessTable(tmp_path, lambda: now[0]))
    assert tree.collect()["processes"] == 0
    now[0] = 1.0
    lay_processes(tmp_path, stat_line(10, start=8))
    assert all(map(math.isnan, tree.collect().values()))
    assert "no process 10" in tree.reasons()["cpu"]


@pytest.mark.parametrize("pid", [0, -1, True, 1.0, "1"])
def test_what_can_be_no_pid_is_refused(pid: Any):
    with pytest.raises(InvalidInputError, match="a pid is"):
        TreeCollector(pid)


BUSY_GRANDCHILD = """
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        while time.process_time() < 0.3: pass
        open(sys.argv[1], "w").close()
        time.sleep(60)
    os._exit(0)
os.wait()
"""


def test_a_busy_grandchild_that_nobody_waits_for_is_seen(tmp_path: Path):
    """M03: it forks twice, its parent ends, and no wait ever tells its CPU time; the tree of a subreaper has it, and says so."""
    code = """
        import os, signal, subprocess, sys, time
        from procbench.io.orphans import adopt, adopt_no_longer
        from procbench.monitoring.collect_processes import TreeCollector
        import resource
        adopt()
        tree = TreeCollector()
        subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2]], check=True)
        while not os.path.exists(sys.argv[2]): time.sleep(0.01)
        found = tree.collect()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(found["processes"], found["cpu"] - usage.ru_utime - usage.ru_stime >= 0.25, tree.reasons())
        for pid in open(f"/proc/self/task/{os.getpid()}/children").read().split():
            os.kill(int(pid), signal.SIGKILL); os.waitpid(int(pid), 0)
        time.sleep(0.06)
        print(tree.collect()["cpu"] >= found["cpu"])
        adopt_no_longer()
        print(sorted(tree.reasons()))
    """
    said = run_python(textwrap.dedent(code), BUSY_GRANDCHILD, tmp_path / "ready").splitlines()
    assert said == [
        "1.0 True {}" if "1.0" in said[0] else "1 True {}",
        "True",
        "['cpu', 'memory', 'processes', 'read', 'written']",
    ]


# --- parts --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    count: int
    p50_s: float


@dataclass(frozen=True)
class Outer:
    submitted: int
    queued: int
    label: str
    usage: float | None
    running: bool
    waits: Inner
    ready: dict[str, Inner]
    workers: tuple[Inner, ...]


class Something:
    def __init__(self, found: object) -> None:
        self.found = found

    def statistics(self) -> object:
        return self.found


def test_statistics_become_metrics():
    """Fields within fields are joined, keys stand in brackets, totals are counters, units come from the names."""
    part = Something(Outer(7, 2, "x", None, True, Inner(3, 0.5), {"high": Inner(1, 0.1)}, (Inner(2, 0.2),)))
    collector = PartCollector("queue", part)
    values = collector.collect()
    assert math.isnan(values.pop("usage"))
    assert values == {
        "submitted": 7,
        "queued": 2,
        "running": 1,
        "waits_count": 3,
        "waits_p50": 0.5,
        "ready_count[high]": 1,
        "ready_p50[high]": 0.1,
        "workers_count[0]": 2,
        "workers_p50[0]": 0.2,
    }
    assert collector.metrics["submitted"].counter
    assert collector.metrics["workers_count"].counter
    assert not collector.metrics["queued"].counter
    assert collector.metrics["waits_p50"].unit == "s"
    assert list(collector.reasons()) == ["usage"]


def test_a_mean_of_nothing_has_a_reason():
    """M07: a part that has no number yet says so, and says it no more once it has one."""
    waits = [math.nan]

    class Part:
        def statistics(self) -> Any:
            return {"a": dataclasses.make_dataclass("S", [("mean_s", float)])(waits[0])}

    collector = PartCollector("queue", Part())
    assert math.isnan(collector.collect()["mean[a]"])
    assert collector.reasons() == {"mean[a]": "queue has none so far"}
    waits[0] = 0.5
    assert collector.collect() == {"mean[a]": 0.5}
    assert collector.reasons() == {}


def test_procbench_own_parts_are_understood():
    """A scheduler, a pool and a budget give numbers, of which what only grows is a counter."""
    with WorkStealingScheduler() as scheduler:
        scheduler.submit(["true"]).result()
        values = PartCollector("scheduler", scheduler)
        found = values.collect()
        assert (found["submitted"], found["queued"]) == (1, 0)
        assert values.metrics["succeeded"].counter
        assert "ready_queued[high]" in found
        assert "workers_placing[0]" not in found
    with closing(BufferPool(4096, 2)) as pool:
        collector = PartCollector("pool", pool)
        assert collector.collect()["capacity"] == 2
        assert (collector.metrics["buffer_size"].unit, collector.metrics["available"].counter) == ("bytes", False)
    budget = PartCollector("budget", DescriptorBudget(9))
    assert budget.collect()["capacity"] == 9
    assert budget.metrics["refused"].counter


# --- plug-ins -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package that has one good collector and several bad ones, as pip would lay it down."""
    lay(
        tmp_path,
        {
            "heat/__init__.py": textwrap.dedent("""
                from procbench.monitoring.collectors import Metric
                class Thermometer:
                    name = "heat"
                    metrics = {"core": Metric("degrees")}
                    def collect(self):
                        return {"core": 36.6}
                class NoName:
                    def collect(self):
                        return {}
                class Taken(Thermometer):
                    name = "cpu"
                def broken():
                    raise RuntimeError("no sensor")
            """),
            "heat-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: heat\nVersion: 1.0\n",
            "heat-1.0.dist-info/entry_points.txt": "[procbench.collectors]\ngood = heat:Thermometer\nnoname = heat:NoName\n"
            "taken = heat:Taken\nbroken = heat:broken\nabsent = heat.nowhere:X\n",
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("heat", None)


def test_collectors_of_installed_packages_are_found(installed: Path):
    """What can be made is there, and what cannot is named with the reason."""
    found = plugged_in()
    assert sorted(collector.name for collector in found.collectors) == ["cpu", "heat"]
    assert set(found.failures) == {"noname", "broken", "absent"}
    assert "no sensor" in found.failures["broken"]
    assert "no collector" in found.failures["noname"]


class Good:
    name = "good"
    metrics: ClassVar = {"x": Metric("things")}

    def collect(self) -> dict[str, float]:
        return {"x": 1.0}


@pytest.mark.parametrize(
    "bad", [None, Good, 5, type("A", (Good,), {"name": ""})(), type("B", (Good,), {"metrics": 5})()]
)
def test_what_is_no_collector_is_refused(bad: Any):
    """A class instead of what it makes, a missing name and metrics that are no mapping each say what is wrong."""
    check_collector(Good())
    with pytest.raises(TypeError):
        check_collector(bad)


def test_looks_of_many_threads_are_one_at_a_time(tmp_path: Path):
    """Two lanes may ask the table at once; both get a whole look."""
    table = ProcessTable(lay_processes(tmp_path, *(stat_line(pid) for pid in range(2, 60))))
    looks: list[int] = []
    threads = [
        threading.Thread(target=lambda: looks.extend(len(table.look().rows) for _ in range(50))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looks == [58] * 200
