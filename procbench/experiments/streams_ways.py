"""The ways on which the streams experiment reads children's output: procbench's own, and the same system calls in C.

A way reads all output of a job's children, sees every child end, and says what that took. Loops stand ready before the
clock starts; it runs from before the first child's start until the last one's end. CPU time is that of the process that
reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from procbench.io.blocking import run as run_command
from procbench.io.io_pools import BufferSizes, IoPool
from procbench.io.order import CAPTURE
from procbench.io.process import Process, open_process
from procbench.io.streams import ReadStream
from procbench.memory.buffers import DEFAULT_SIZE_BYTES
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler

KERNELS_PIPE: Final = 64 << 10
"""What a pipe holds unless it was made larger or smaller, bytes."""

BATCH: Final = 16
"""Buffers that ``batch_read`` is asked for where nothing else is said."""

_LARGEST_BLOCK: Final = 1 << 20

Argv = list[str]


class Job(NamedTuple):
    """What is read.

    Attributes:
        argv: The command that each child runs.
        children: How many run at once.
        each_bytes: What each of them writes.
    """

    argv: Argv
    children: int
    each_bytes: int


class Got(NamedTuple):
    """What came from one child.

    Attributes:
        size_bytes: How much.
        ended: Whether it was seen to end, with status 0.
    """

    size_bytes: int
    ended: bool


class Reading(NamedTuple):
    """What it took to read a job's output.

    Attributes:
        wall_s: Seconds from before the first child's start until the last one's end.
        cpu_s: CPU seconds of the process that read.
        size_bytes: How much came.
        ended: How many children were seen to end, with status 0.
    """

    wall_s: float
    cpu_s: float
    size_bytes: int
    ended: int


Reader = Callable[[Argv], Awaitable[Got]]
Way = Callable[[Job], Reading]


class Clock:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._busy_s, self._started_s = _cpu_s(), time.perf_counter()

    def reading(self, got: list[Got]) -> Reading:
        """Stop, and return what it took."""
        wall_s = time.perf_counter() - self._started_s
        busy_s = _cpu_s() - self._busy_s
        return Reading(wall_s, busy_s, sum(one.size_bytes for one in got), sum(one.ended for one in got))


class Loops:
    """A thread for event loops, since a notebook's main thread runs one already; a context manager.

    asyncio's loop stands ready in it. A reading that has begun is seen through to its end, whatever strikes who waits for it:
    the block's end waits for it.
    """

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="procbench-loops")
        self._runner = self._thread.submit(asyncio.Runner).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.submit(self._runner.close)
        self._thread.shutdown()

    def way(self, reader: Reader) -> Way:
        """Return the way that reads from each child by a coroutine, all in asyncio's loop."""

        async def main(job: Job) -> Reading:
            clock = Clock()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_one(reader, job.argv)) for _ in range(job.children)]
            return clock.reading([task.result() for task in tasks])

        return lambda job: self._thread.submit(self._runner.run, main(job)).result()

    def foreign(self, run: Way) -> Way:
        """Return the way that runs a loop of another kind in the thread."""
        return lambda job: self._thread.submit(run, job).result()


async def _one(reader: Reader, argv: Argv) -> Got:
    return await reader(argv)


# --- procbench's readers ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _started(argv: Argv, **options: Any) -> AsyncIterator[tuple[Process, ReadStream]]:
    async with open_process(argv, stdout=subprocess.PIPE, **options) as process:
        yield process, process.stdout  # type: ignore[misc]  # it was asked for


async def read(argv: Argv, sizes: BufferSizes | None = None) -> Got:
    """Read bytes object after bytes object, and drop them."""
    total, sizes = 0, sizes or BufferSizes()
    async with _started(argv, sizes=sizes) as (process, stdout):
        while data := await stdout.read(sizes.stdout):
            total += len(data)
        return Got(total, await process.wait() == 0)


async def read_into(argv: Argv) -> Got:
    """Read into one buffer of the child's own."""
    total, buffer = 0, bytearray(DEFAULT_SIZE_BYTES)
    async with _started(argv) as (process, stdout):
        while count := await stdout.read_into(buffer):
            total += count
        return Got(total, await process.wait() == 0)


async def batch_read(argv: Argv, pool: IoPool, count: int = BATCH) -> Got:
    """Read into several buffers of a pool at a time, and give them back."""
    total = 0
    async with _started(argv, io_pool=pool) as (process, stdout):
        while buffers := await stdout.batch_read(count):
            for buffer in buffers:
                total += buffer.size_bytes
                buffer.release()
        return Got(total, await process.wait() == 0)


async def communicate(argv: Argv) -> Got:
    """Take everything at the end."""
    async with _started(argv) as (process, _):
        output, _ = await process.communicate()
        return Got(len(output or b""), await process.wait() == 0)


async def lines(argv: Argv) -> Got:
    """Read line after line, and drop them."""
    total = 0
    async with _started(argv) as (process, stdout):
        async for line in stdout.lines():
            total += len(line)
        return Got(total, await process.wait() == 0)


def captured(settings: RunSettings) -> Way:
    """Return the way of a scheduler with one worker: the output is kept in the result, as far as it is to be kept."""

    def way(job: Job) -> Reading:
        clock = Clock()
        with WorkStealingScheduler(settings.changed(workers=1, capture=True)) as scheduler:
            results = list(scheduler.map([job.argv] * job.children))
        return clock.reading([Got(result.stdout_bytes, result.returncode == 0) for result in results])

    return way


# --- the limit, and the children ----------------------------------------------------------------------------------------


def limit_program(folder: Path) -> str | None:
    """Build the C program that makes the same system calls; ``None`` where no compiler builds it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    program, source = folder / "streams", Path(__file__).with_name("streams.c")
    built = subprocess.run([compiler, "-O2", "-o", program, source], check=False, capture_output=True)
    return str(program) if built.returncode == 0 else None


def in_c(program: str, buffer: int = DEFAULT_SIZE_BYTES, pipe: int = 0, *, by_line: bool = False) -> Way:
    """Return the way of the C program: one buffer for all children; ``pipe`` of 0 leaves the kernel's size."""

    def way(job: Job) -> Reading:
        argv = [program, str(buffer), str(pipe), str(job.children), str(int(by_line)), *job.argv]
        said = run_command(argv, stdout=CAPTURE, check=True).stdout or b""
        size_bytes, ended, wall_s, cpu_s, _ = said.split()
        return Reading(float(wall_s), float(cpu_s), int(size_bytes), int(ended))

    return way


def writing(total_bytes: int, children: int = 1) -> Job:
    """Return children that write zeros as fast as they can, so many bytes together: dd, at most 1 MiB at a time."""
    block = min(total_bytes // children, _LARGEST_BLOCK)
    count = total_bytes // children // block
    argv = [shutil.which("dd") or "dd", "if=/dev/zero", f"bs={block}", f"count={count}", "status=none"]
    return Job(argv, children, block * count)


def printing(folder: Path, count: int, line_bytes: int) -> Job:
    """Return a child that prints lines of so many bytes, their ends included: cat, with a file of them."""
    path = folder / f"{line_bytes}.txt"
    path.write_bytes((b"p" * (line_bytes - 1) + b"\n") * count)
    return Job([shutil.which("cat") or "cat", str(path)], 1, count * line_bytes)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
