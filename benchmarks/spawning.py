"""How fast tiny commands are started and reaped: procbench, its peers, and the limit."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from procbench import RunSettings, WorkStealingScheduler

TRUE = shutil.which("true") or "/bin/true"
C_SPAWN, C_CLONE = "C, posix_spawn", "C, clone on a kept stack"
Way = Callable[[int, int], float]


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


def limits(folder: Path) -> dict[str, Way]:
    """Build the C program in ``folder`` and return its two ways; none where there is no compiler, or an older libc."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {}
    program = folder / "limit"
    source = Path(__file__).with_name("limit.c")
    built = subprocess.run([compiler, "-O2", "-pthread", "-o", program, source], check=False)
    if built.returncode != 0:
        return {}

    def way(how: str, count: int, workers: int) -> float:
        argv = [program, how, str(count), str(workers), TRUE]
        return float(subprocess.run(argv, capture_output=True, check=True).stdout)

    return {C_SPAWN: partial(way, "spawn"), C_CLONE: partial(way, "clone")}
