"""``python -m benchmarks``: print procbench's ratios on this machine.

Every round runs every way once, in a new random order, and a ratio is the median of the rounds' ratios, with the range
of the middle half. An absolute time on a shared machine proves nothing; a ratio from one run says something.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import pools, spawning

TARGETS = {
    "C, same system calls": ("procbench", 0.85),
    "thread pool + subprocess.run": ("procbench", 1.05),
    "xargs -P": ("procbench", 1.5),
    "asyncio": ("procbench", 2.0),
    "GNU parallel": ("procbench", 8.0),
    "multiprocessing.Pool": ("procbench", 1.0),
    "thread pool + run(capture_output)": ("procbench, captured", 1.1),
}
SLOW = {"GNU parallel": 10}  # a tenth of the commands is enough to see that it is slow


def measure(
    count: int, workers: int, rounds: int, limit: spawning.Way | None
) -> tuple[dict[str, list[float]], list[str]]:
    """Return the seconds per command of every way and round, and the ways that this machine does not have."""
    ways: dict[str, spawning.Way | None] = {
        "procbench": spawning.procbench,
        "procbench, captured": spawning.procbench_capture,
        "C, same system calls": limit,
        "thread pool + subprocess.run": spawning.thread_pool,
        "thread pool + run(capture_output)": spawning.thread_pool_capture,
        "multiprocessing.Pool": spawning.process_pool,
        "asyncio": spawning.asyncio_gather,
        "xargs -P": spawning.xargs if shutil.which("xargs") else None,
        "GNU parallel": spawning.gnu_parallel if shutil.which("parallel") else None,
    }
    here = {name: way for name, way in ways.items() if way is not None}
    seconds: dict[str, list[float]] = {name: [] for name in here}
    order = list(here)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            number = count // SLOW.get(name, 1)
            seconds[name].append(here[name](number, workers) / number)
    return seconds, [name for name, way in ways.items() if way is None]


def main() -> None:
    """Measure and print the tables of the sections that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="section", help=f"any of {', '.join(SECTIONS)}; default all")
    parser.add_argument("--count", type=int, default=2000, help="commands in a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are: {', '.join(SECTIONS)}")
    print(f"{options.rounds} rounds, Python {sys.version.split()[0]}")
    for name in options.sections or SECTIONS:
        SECTIONS[name](options)


def report_spawning(options: argparse.Namespace) -> None:
    """Measure and print how fast tiny commands are started and reaped."""
    print(f"\n{options.count} x true")
    with tempfile.TemporaryDirectory(prefix="procbench-limit-") as folder:
        limit = spawning.limit(Path(folder))
        for workers in options.workers:
            report(workers, *measure(options.count, workers, options.rounds, limit))


def report(workers: int, seconds: dict[str, list[float]], missing: list[str]) -> None:
    """Print one number of workers' ratios, each with the range of the middle half of the rounds."""
    ours = statistics.median(seconds["procbench"])
    print(f"\n{workers} workers: procbench {1 / ours:,.0f} commands/s with full results")
    for peer, (way, target) in TARGETS.items():
        if peer in missing:
            print(f"  {'-':>6}  of {peer}: skipped, it is not on this machine")
            continue
        ratios = sorted(theirs / own for theirs, own in zip(seconds[peer], seconds[way], strict=True))
        ratio = statistics.median(ratios)
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        met = "met   " if ratio >= target else "MISSED"
        print(f"  {ratio:6.2f} [{low:.2f}, {high:.2f}]  {way} of {peer}; wanted {target}: {met}")


SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "spawning": report_spawning,
    "pools": lambda options: pools.report(options.rounds),
}


if __name__ == "__main__":
    main()
