"""Many arguments to one process: ``args_per_task`` against ``xargs -n``, on 20,000 arguments.

As in the other tables the interpreter is there already; what the command line costs from its first instruction on, which
xargs has next to nothing of, stands below for comparison, also with commands that do something.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from procbench import RunSettings, WorkStealingScheduler
from procbench.scheduling.grouping import filled, grouped

ARGUMENTS = 20_000
EACH = 64
FILE_BYTES = 64 * 1024
SCHEDULER, COMMAND_LINE, XARGS = "procbench", "procbench run, from its start", "xargs"
NOTHING, WORK = "true", "sha256sum"
WANTED = {(SCHEDULER, NOTHING): 0.9}

Way = Callable[[str, Sequence[str], int], float]


def report(rounds: int, workers: list[int], count: int = ARGUMENTS) -> None:
    """Measure every way once in each round, in random order, and print the ratios."""
    if shutil.which("xargs") is None:
        print(f"\n{count} arguments, {EACH} to a command: skipped, xargs is not on this machine")
        return
    with tempfile.TemporaryDirectory(prefix="procbench-arguments-") as folder:
        file = Path(folder) / "file"
        file.write_bytes(os.urandom(FILE_BYTES))
        arguments = {NOTHING: [f"{number:08}" for number in range(count)], WORK: [str(file)] * count}
        for number in workers:
            print(f"\n{count} arguments, {EACH} to a command, {number} workers")
            for command, given in arguments.items():
                show(command, measure(command, given, number, rounds))


def measure(command: str, arguments: Sequence[str], workers: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every way and round."""
    ways: dict[str, Way] = {SCHEDULER: scheduler, COMMAND_LINE: command_line, XARGS: xargs}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            seconds[name].append(ways[name](command, arguments, workers))
    return seconds


def show(command: str, seconds: dict[str, list[float]]) -> None:
    """Print the ratios, each with the range of the middle half of the rounds."""
    for way in (SCHEDULER, COMMAND_LINE):
        ratios = sorted(theirs / own for theirs, own in zip(seconds[XARGS], seconds[way], strict=True))
        low, high, ratio = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4], statistics.median(ratios)
        wanted = WANTED.get((way, command))
        verdict = "for comparison" if wanted is None else f"wanted {wanted:g}: {'met' if ratio >= wanted else 'MISSED'}"
        print(f"  {ratio:6.2f} [{low:.2f}, {high:.2f}]  {way} of xargs -P -n {EACH} {command}; {verdict}")


def scheduler(command: str, arguments: Sequence[str], workers: int) -> float:
    """Seconds to group the arguments, to make and end the scheduler, and for each command with its full result."""
    parts = [command, "{}"]
    begun = time.perf_counter()
    with WorkStealingScheduler(RunSettings(workers=workers, discard=True)) as made:
        results = list(made.map([filled(parts, group) for group in grouped(parts, arguments, EACH)]))
    seconds = time.perf_counter() - begun
    assert all(result.returncode == 0 for result in results)
    assert sum(len(result.args) - 1 for result in results) == len(arguments)
    return seconds


def command_line(command: str, arguments: Sequence[str], workers: int) -> float:
    run = [sys.executable, "-m", "procbench", "run", "--quiet", "--args-per-task", str(EACH), "--workers", str(workers)]
    return _seconds([*run, command], arguments)


def xargs(command: str, arguments: Sequence[str], workers: int) -> float:
    return _seconds(["xargs", "-d", "\n", "-P", str(workers), "-n", str(EACH), command], arguments)


def _seconds(argv: Sequence[str], arguments: Sequence[str]) -> float:
    lines = "".join(f"{argument}\n" for argument in arguments).encode()
    begun = time.perf_counter()
    subprocess.run(argv, input=lines, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun
