"""How fast tiny commands are started and reaped: procbench, its peers, and the limit."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from procbench import RunSettings, WorkStealingScheduler

TRUE = shutil.which("true") or "/bin/true"
C_SPAWN, C_CLONE = "C, posix_spawn", "C, clone on a kept stack"
Way = Callable[[int, int], float]

PROCBENCH, CAPTURED = "procbench", "procbench, captured"
TARGETS: dict[str, tuple[str, float | None]] = {
    C_SPAWN: (PROCBENCH, 0.85),
    C_CLONE: (PROCBENCH, None),
    "thread pool + subprocess.run": (PROCBENCH, 1.05),
    "xargs -P": (PROCBENCH, 1.5),
    "asyncio": (PROCBENCH, 2.0),
    "GNU parallel": (PROCBENCH, 8.0),
    "multiprocessing.Pool": (PROCBENCH, 1.0),
    "thread pool + run(capture_output)": (CAPTURED, 1.1),
}
SLOW = {"GNU parallel": 10}  # a tenth of the commands is enough to see that it is slow


def report(rounds: int, count: int, workers: list[int]) -> None:
    """Measure and print how fast tiny commands are started and reaped."""
    print(f"\n{count} x true")
    with tempfile.TemporaryDirectory(prefix="procbench-limit-") as folder:
        ways: dict[str, Way | None] = {
            PROCBENCH: procbench,
            CAPTURED: procbench_capture,
            C_SPAWN: None,
            C_CLONE: None,
            **limits(Path(folder)),
            "thread pool + subprocess.run": thread_pool,
            "thread pool + run(capture_output)": thread_pool_capture,
            "multiprocessing.Pool": process_pool,
            "asyncio": asyncio_gather,
            "xargs -P": xargs if shutil.which("xargs") else None,
            "GNU parallel": gnu_parallel if shutil.which("parallel") else None,
        }
        here = {name: way for name, way in ways.items() if way is not None}
        for number in workers:
            show(number, measure(here, count, number, rounds))


def measure(ways: dict[str, Way], count: int, workers: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds per command of every way and round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            number = count // SLOW.get(name, 1)
            seconds[name].append(ways[name](number, workers) / number)
    return seconds


def show(workers: int, seconds: dict[str, list[float]]) -> None:
    """Print one number of workers' ratios, each with the range of the middle half of the rounds."""
    ours = statistics.median(seconds[PROCBENCH])
    print(f"\n{workers} workers: procbench {1 / ours:,.0f} commands/s with full results")
    for peer, (way, target) in TARGETS.items():
        if peer not in seconds:
            print(f"  {'-':>6}  of {peer}: skipped, it is not on this machine")
            continue
        ratios = sorted(theirs / own for theirs, own in zip(seconds[peer], seconds[way], strict=True))
        ratio = statistics.median(ratios)
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        judged = "" if target is None else f"; wanted {target}: {'met' if ratio >= target else 'MISSED'}"
        print(f"  {ratio:6.2f} [{low:.2f}, {high:.2f}]  {way} of {peer}{judged}")


def _timed(body: Callable[[], object]) -> float:
    started = time.perf_counter()
    body()
    return time.perf_counter() - started


def procbench(count: int, workers: int, capture: bool = False) -> float:
    """Seconds for ``count`` commands, each with its full TaskResult, making and ending the scheduler included."""

    def body() -> None:
        with WorkStealingScheduler(RunSettings(workers=workers, capture=capture)) as scheduler:
            futures = [scheduler.submit([TRUE]) for _ in range(count)]
        results = [future.result() for future in futures]
        assert all(result.returncode == 0 for result in results)

    return _timed(body)


def procbench_capture(count: int, workers: int) -> float:
    return procbench(count, workers, capture=True)


def thread_pool(count: int, workers: int, **options: object) -> float:
    def body() -> None:
        with ThreadPoolExecutor(workers) as pool:
            command = {"stdin": subprocess.DEVNULL, **options}
            futures = [pool.submit(subprocess.run, [TRUE], **command) for _ in range(count)]
        assert all(future.result().returncode == 0 for future in futures)

    return _timed(body)


def thread_pool_capture(count: int, workers: int) -> float:
    return thread_pool(count, workers, capture_output=True)


def xargs(count: int, workers: int) -> float:
    argv = ["xargs", "-P", str(workers), "-n", "1", TRUE]
    return _timed(lambda: subprocess.run(argv, input=b"x\n" * count, check=True))


def gnu_parallel(count: int, workers: int) -> float:
    argv = ["parallel", "--will-cite", "-j", str(workers), "-n", "1", TRUE]
    return _timed(lambda: subprocess.run(argv, input=b"x\n" * count, check=True))


def asyncio_gather(count: int, workers: int) -> float:
    async def main() -> None:
        room = asyncio.Semaphore(workers)

        async def one() -> int:
            async with room:
                process = await asyncio.create_subprocess_exec(TRUE, stdin=subprocess.DEVNULL)
                return await process.wait()

        assert not any(await asyncio.gather(*(one() for _ in range(count))))

    return _timed(lambda: asyncio.run(main()))


def process_pool(count: int, workers: int) -> float:
    def body() -> None:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            assert not any(pool.map(_call, range(count)))

    return _timed(body)


def _call(_: int) -> int:
    return subprocess.run([TRUE], check=False, stdin=subprocess.DEVNULL).returncode


def built_limit(folder: Path) -> Path | None:
    """Build the C program in ``folder``; None where there is no compiler, or an older libc."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    program = folder / "limit"
    source = Path(__file__).with_name("limit.c")
    built = subprocess.run([compiler, "-O2", "-pthread", "-o", program, source], check=False)
    return program if built.returncode == 0 else None


def limits(folder: Path) -> dict[str, Way]:
    """Return the C program's two ways; none where it cannot be built."""
    program = built_limit(folder)
    if program is None:
        return {}

    def way(how: str, count: int, workers: int) -> float:
        argv = [program, how, str(count), str(workers), TRUE]
        return float(subprocess.run(argv, capture_output=True, check=True).stdout)

    return {C_SPAWN: partial(way, "spawn"), C_CLONE: partial(way, "clone")}
