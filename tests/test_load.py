"""How busy each CPU was between two readings, from recorded counters and from this machine."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from procbench.cpu.load import CpuLoadMeter, LoadReading, load_between, read_load
from tests.waiting import wait_until

HEAD = "intr 1 2\nctxt 9\n"


def record(root: Path, cpus: dict[int, str], threads: dict[tuple[int, int], tuple[int, int]]) -> Path:
    """Lay /proc under ``root``: ticks of each CPU, and for each (pid, tid) its ticks of user time and its CPU."""
    proc = root / "proc"
    proc.mkdir(exist_ok=True)
    lines = ["cpu  0 0 0 0 0 0 0 0 0 0", *(f"cpu{cpu} {ticks}" for cpu, ticks in cpus.items())]
    (proc / "stat").write_text("\n".join(lines) + "\n" + HEAD)
    (proc / "uptime").write_text("1 1\n")
    for (pid, tid), (ticks, cpu) in threads.items():
        place = proc / str(pid) / "task" / str(tid)
        place.mkdir(parents=True, exist_ok=True)
        place.joinpath("stat").write_text(
            f"{tid} (a) R 1 () S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 77 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 {cpu} 0 0\n"
        )
    return root


def clock(*times: float):
    """Return a clock that tells these times, one after the other."""
    left = iter(times)
    return lambda: next(left)


def test_shares_and_processes_come_from_the_differences(tmp_path: Path):
    """Busy is all but idle and iowait; a process counts once on each CPU that a thread of it ran on last, new ones too."""
    tell = clock(10.0, 12.5)
    record(
        tmp_path,
        {0: "100 0 50 800 40 0 0 0 0 0", 1: "0 0 0 1000 0 0 0 0 0 0"},
        {(5, 5): (10, 0), (5, 6): (10, 1), (7, 7): (1, 0), (8, 8): (1, 1), (8, 9): (1, 0)},
    )
    meter = CpuLoadMeter(tmp_path, tell)
    record(
        tmp_path,
        {0: "110 5 60 860 50 2 1 2 10 5", 1: "0 0 0 1100 0 0 0 0 0 0"},
        {(5, 5): (13, 0), (5, 6): (11, 0), (11, 11): (4, 0), (8, 8): (2, 1), (8, 9): (2, 0)},
    )
    load = meter.measure()
    assert load.interval_s == 2.5
    assert load.per_cpu == {0: pytest.approx(30 / 100), 1: 0.0}
    assert load.processes == {0: 3, 1: 1}  # 5 with both its threads, 8 and 11; 8 again; 7 did not run
    assert load.steal_share == pytest.approx(2 / 200)
    assert load.skipped == 0
    assert pickle.loads(pickle.dumps(load)) == load


def test_counters_that_go_backwards_give_nothing_negative(tmp_path: Path):
    """M05: iowait and a CPU that came back may count less than before; so may the ticks of a pid that was given out again."""
    record(tmp_path, {0: "100 0 50 800 40 0 0 9 0 0", 1: "9 9 9 9 9 9 9 9 9 9"}, {(5, 5): (10, 0)})
    before = read_load(tmp_path)
    record(tmp_path, {0: "110 0 50 810 30 0 0 3 0 0", 1: "0 0 0 0 0 0 0 0 0 0"}, {(5, 5): (3, 0)})
    load = load_between(before, read_load(tmp_path))
    assert load.per_cpu == {0: 0.5}
    assert load.steal_share == 0.0
    assert load.processes == {0: 0, 1: 0}


def test_a_cpu_that_goes_offline_in_between_is_left_out(tmp_path: Path):
    """C07: only CPUs that both readings know have a share."""
    record(tmp_path, {0: "0 0 0 0 0 0 0 0", 1: "0 0 0 0 0 0 0 0"}, {})
    before = read_load(tmp_path)
    record(tmp_path, {0: "5 0 0 5 0 0 0 0", 2: "5 0 0 5 0 0 0 0"}, {})
    assert load_between(before, read_load(tmp_path)).per_cpu == {0: 0.5}


def test_what_ends_between_listing_and_reading_is_skipped_and_counted(tmp_path: Path):
    """M02: a process without its task folder and a thread without its stat are dropped, the rest is read."""
    record(tmp_path, {0: "0 0 0 0 0 0 0 0"}, {(5, 5): (10, 0)})
    (tmp_path / "proc/8").mkdir()
    (tmp_path / "proc/5/task/6").mkdir()
    reading = read_load(tmp_path)
    assert [thread.pid for thread in reading.threads] == [5]
    assert reading.skipped == 2


def test_a_busy_child_shows_on_the_cpu_it_is_pinned_to():
    """While a child spins on one CPU, more than half of that CPU's time is used, and a process is counted there."""
    cpu = max(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nprint('ready', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            before = read_load()

            def is_busy() -> bool:
                load = load_between(before, read_load())
                return load.interval_s > 0.1 and load.per_cpu.get(cpu, 0) > 0.5 and load.processes[cpu] >= 1

            wait_until(is_busy, "a share above one half")
            after = read_load()
            (thread,) = [thread for thread in after.threads if thread.pid == child.pid]
            assert (after.threads[thread].pid, after.threads[thread].cpu) == (child.pid, cpu)
            assert after.threads[thread].cpu_ticks > (
                before.threads[thread].cpu_ticks if thread in before.threads else 0
            )
        finally:
            child.kill()


# SHA-256 of much at once lets go of the GIL, so that the threads run in turn on their one CPU.
MANY_THREADS = """
import hashlib, os, sys, threading
os.sched_setaffinity(0, {int(sys.argv[1])})
block = bytes(2**20)
def spin():
    while True: hashlib.sha256(block)
for _ in range(3): threading.Thread(target=spin, daemon=True).start()
print("ready", flush=True)
spin()
"""


def test_a_process_with_many_busy_threads_is_one():
    """Of two children with four busy threads each on one CPU, two processes are counted there, and not eight."""
    cpu = max(os.sched_getaffinity(0))
    argv = [sys.executable, "-c", MANY_THREADS, str(cpu)]
    with contextlib.ExitStack() as stack:
        pids = set()
        for _ in range(2):
            child = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
            stack.callback(child.kill)
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            pids.add(child.pid)
        before = read_load()

        def of_children() -> tuple[LoadReading, LoadReading]:
            """Return both readings with nothing but the children in them, as the machine has other processes too."""
            both = before, read_load()
            first, second = (
                replace(one, threads={who: had for who, had in one.threads.items() if had.pid in pids}) for one in both
            )
            return first, second

        def all_ran() -> bool:
            first, second = of_children()
            assert len(second.threads) == 8
            return all(had.cpu_ticks > first.threads[who].cpu_ticks for who, had in second.threads.items())

        wait_until(all_ran, "CPU time for every thread")
        load = load_between(*of_children())
        assert load.processes[cpu] == 2
        assert sum(load.processes.values()) == 2
