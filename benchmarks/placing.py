"""What it costs a tiny command to be pinned and niced: by its worker, which does so once, or by taskset and nice before it."""

from __future__ import annotations

import shutil
import statistics
import time

from benchmarks.spawning import TRUE, measure
from procbench import RunSettings, WorkStealingScheduler
from procbench.cpu.topology import allowed_cpus

PLAIN, PLACED, WRAPPED = "no placement", "pin='core', nice=5", "taskset and nice before each"
NICE = 5


def report(rounds: int, count: int, workers: list[int]) -> None:
    """Measure and print what placing costs, for each number of workers."""
    print(f"\n{count} x true, placed")
    ways = {PLAIN: plain, PLACED: placed}
    if shutil.which("taskset") and shutil.which("nice"):
        ways[WRAPPED] = wrapped
    for number in workers:
        seconds = measure(ways, count, number, rounds)
        print(f"\n{number} workers: {1 / statistics.median(seconds[PLACED]):,.0f} commands/s, placed")
        _show(seconds, PLAIN, PLACED, f"placed of {PLAIN}", at_least=0.97)
        if WRAPPED in seconds:
            _show(seconds, PLACED, WRAPPED, f"{WRAPPED} of placed", at_most=0.75)
        else:
            print(f"       -  {WRAPPED}: skipped, it is not on this machine")


def _show(
    seconds: dict[str, list[float]],
    base: str,
    way: str,
    words: str,
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    ratios = sorted(theirs / own for theirs, own in zip(seconds[base], seconds[way], strict=True))
    ratio, low, high = statistics.median(ratios), ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    met = (at_least is None or ratio >= at_least) and (at_most is None or ratio <= at_most)
    wanted = f">= {at_least}" if at_least is not None else f"<= {at_most}"
    print(f"  {ratio:6.2f} [{low:.2f}, {high:.2f}]  {words}; wanted {wanted}: {'met' if met else 'MISSED'}")


def plain(count: int, workers: int) -> float:
    return _timed([[TRUE]], count, RunSettings(workers=workers))


def placed(count: int, workers: int) -> float:
    return _timed([[TRUE]], count, RunSettings(workers=workers, pin="core", nice=NICE))


def wrapped(count: int, workers: int) -> float:
    # One CPU for all would be another experiment: each command gets the next one, as the workers' pins do.
    commands = [["taskset", "-c", str(cpu), "nice", "-n", str(NICE), TRUE] for cpu in sorted(allowed_cpus())]
    return _timed(commands, count, RunSettings(workers=workers))


def _timed(commands: list[list[str]], count: int, settings: RunSettings) -> float:
    started = time.perf_counter()
    with WorkStealingScheduler(settings) as scheduler:
        futures = [scheduler.submit(commands[number % len(commands)]) for number in range(count)]
    assert all(future.result().returncode == 0 for future in futures)
    return time.perf_counter() - started
