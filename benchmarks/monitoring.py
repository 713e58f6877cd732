"""What watching costs: a sample against the same facts by psutil, a monitor's share of a CPU, and what a batch loses to it."""

from __future__ import annotations

import contextlib
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil

from benchmarks.spawning import TRUE, built_limit
from procbench import RunSettings, WorkStealingScheduler
from procbench.cpu.topology import usable_workers
from procbench.experiments.monitoring_ways import by_psutil
from procbench.monitoring.defaults import default_collectors
from procbench.monitoring.monitor import PerformanceMonitor

PROCESSES = 500
SAMPLES = 10  # in a round
INTERVAL_S = 1.0
APART_S = 0.06  # two looks at the processes that are nearer than a twentieth of a second are one
C_LOOK = "C, the processes alone"
WANTED_OF_PSUTIL, WANTED_SHARE, WANTED_SLOWER = 0.2, 0.01, 0.01


def report(rounds: int, count: int, processes: int = PROCESSES) -> None:
    """Measure and print the three tables."""
    with others(processes) as pid:
        _samples(rounds, pid)
        _running(rounds, pid)
    _batch(rounds, count)


@contextlib.contextmanager
def others(processes: int) -> Iterator[int]:
    """Have so many processes on the machine, with those that are there already; yield one that has no descendants.

    They are not what is watched as a tree: what each descendant reads and writes costs one more file.
    """
    missing = max(0, processes - len(psutil.pids()))
    children = [subprocess.Popen(["sleep", "86400"]) for _ in range(missing + 1)]
    try:
        yield children[0].pid
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


def _samples(rounds: int, pid: int) -> None:
    print(f"\none sample beside {len(psutil.pids())} processes, CPU time")
    monitor = PerformanceMonitor(INTERVAL_S, default_collectors(tree_of=pid))
    ways: dict[str, Callable[[], float]] = {
        "procbench": partial(_cpu_s, monitor.sample),
        "psutil": partial(_cpu_s, by_psutil),
    }
    with tempfile.TemporaryDirectory() as folder:
        if program := built_limit(Path(folder)):
            ways[C_LOOK] = partial(_look_in_c, program)
        costs: dict[str, list[float]] = {name: [] for name in ways}
        monitor.sample()  # the first of each opens files
        by_psutil()
        order = list(ways)
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                costs[name].append(ways[name]())
    monitor.stop()
    for name, values in costs.items():
        print(f"  {1e3 * statistics.median(values):8.2f} ms  {name}")
    _show(
        [ours / theirs for ours, theirs in zip(costs["procbench"], costs["psutil"], strict=True)],
        WANTED_OF_PSUTIL,
        "of psutil",
    )


def _look_in_c(program: Path) -> float:
    return float(subprocess.run([program, "look", str(SAMPLES)], capture_output=True, check=True).stdout)


def _cpu_s(way: Callable[[], object]) -> float:
    """Return the CPU seconds of one sample, of several that lie apart."""
    spent = 0.0
    for _ in range(SAMPLES):
        time.sleep(APART_S)
        before = time.thread_time()
        way()
        spent += time.thread_time() - before
    return spent / SAMPLES


def _running(rounds: int, pid: int) -> None:
    print(f"\na monitor at {1 / INTERVAL_S:g} Hz beside {len(psutil.pids())} processes, CPU time of all its threads")
    shares = []
    for _ in range(rounds):
        monitor = PerformanceMonitor(INTERVAL_S, default_collectors(tree_of=pid))
        monitor.start()
        time.sleep(INTERVAL_S / 2)  # the first sample opens the files
        before, began = time.process_time(), time.perf_counter()
        time.sleep(3 * INTERVAL_S)
        shares.append((time.process_time() - before) / (time.perf_counter() - began))
        monitor.stop()
    _show(shares, WANTED_SHARE, "of one CPU")


def _batch(rounds: int, count: int) -> None:
    print(f"\n{count} x true, {usable_workers()} workers, watched at {1 / INTERVAL_S:g} Hz and not")
    ways = {False: [], True: []}
    order = [False, True]
    for _ in range(rounds):
        random.shuffle(order)
        for watched in order:
            ways[watched].append(_seconds(count, watched=watched))
    _show([own / plain - 1 for own, plain in zip(ways[True], ways[False], strict=True)], WANTED_SLOWER, "slower")


def _seconds(count: int, *, watched: bool) -> float:
    with contextlib.ExitStack() as stack:
        if watched:
            monitor = stack.enter_context(PerformanceMonitor(INTERVAL_S, default_collectors()))
            while monitor.latest().values.get("throttling") is None:  # the first sample opens the files
                time.sleep(0.001)
        started = time.perf_counter()
        with WorkStealingScheduler(RunSettings(workers=usable_workers())) as scheduler:
            futures = [scheduler.submit([TRUE]) for _ in range(count)]
        assert all(future.result().returncode == 0 for future in futures)
        return time.perf_counter() - started


def _show(values: list[float], wanted: float, words: str) -> None:
    values = sorted(values)
    middle, low, high = statistics.median(values), values[len(values) // 4], values[-1 - len(values) // 4]
    verdict = "met" if middle <= wanted else "MISSED"
    print(f"  {middle:7.4f} [{low:.4f}, {high:.4f}]  {words}; wanted <= {wanted:g}: {verdict}")
