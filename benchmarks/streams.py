"""How fast children's output is read in an event loop: procbench, its peers, and the same system calls in C.

Every round runs every way once, in a new random order. The clock runs from before the first child starts until the last has
ended, and the loop is made and closed within it; what was kept is given back after it. The children are the same C program
for all, every way's bytes are counted, and CPU time is that of the reading process alone.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, NamedTuple

from benchmarks import stream_peers as peers
from benchmarks.stream_peers import READ_BYTES, Argv, Got, Loop, in_asyncio
from procbench import BufferSizes, open_process
from procbench.io.io_pools import IoPool
from procbench.io.process import OpenProcess

LINE_BYTES = 80
WRITE_BYTES = 64 << 10
BIG_BYTES = 1 << 20  # the pipe, the buffer and each write where there is one child
BATCH = 16  # buffers
HELLO = "hello"


@dataclass(frozen=True)
class Sizes:
    """How much is read; the tests read less.

    Attributes:
        children: How many write at once.
        each_bytes: What each of them writes.
        one_bytes: What one child alone writes.
        lines: Lines of 80 bytes that one child writes.
        short: Children that say one word.
    """

    children: int = 64
    each_bytes: int = 16 << 20
    one_bytes: int = 1 << 30
    lines: int = 1_000_000
    short: int = 2_000


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float


class Unit(NamedTuple):
    """In what a table tells speed and CPU time: how many of each unit all the children's work is."""

    done: float
    speed: str
    charged: float
    cost: str


Way = Callable[[], Cost]


# --- procbench's part ---------------------------------------------------------------------------------------------------


def _opened(argv: Argv, **options: Any) -> OpenProcess:
    return open_process(argv, stdin=DEVNULL, stdout=PIPE, **options)


def _pool(children: int, each: int) -> IoPool:
    """Return room for all output, and for the batch that each child has out when its end is found."""
    count = children * (-(-each // READ_BYTES) + BATCH)
    return IoPool("all output", BufferSizes(stdout=READ_BYTES, stdin=1), buffers=count, prefault=True)


async def communicate(argv: Argv) -> Got:
    async with _opened(argv) as process:
        output, _ = await process.communicate()
        assert await process.wait() == 0
    return len(output), output


async def pooled(argv: Argv, pool: IoPool) -> Got:
    kept = []
    async with _opened(argv, io_pool=pool) as process:
        while buffers := await process.stdout.batch_read(BATCH):
            kept += buffers
        assert await process.wait() == 0
    return sum(buffer.size_bytes for buffer in kept), kept


async def read(argv: Argv) -> Got:
    total = 0
    async with _opened(argv) as process:
        while data := await process.stdout.read(READ_BYTES):
            total += len(data)
        assert await process.wait() == 0
    return total, None


async def read_into(argv: Argv, buffer: bytearray) -> Got:
    total = 0
    async with _opened(argv, sizes=BufferSizes(pipe=BIG_BYTES)) as process:
        while count := await process.stdout.read_into(buffer):
            total += count
        assert await process.wait() == 0
    return total, None


async def lines(argv: Argv) -> Got:
    total = 0
    async with _opened(argv) as process:
        async for line in process.stdout.lines():
            total += len(line)
        assert await process.wait() == 0
    return total, None


def _give_back(kept: object) -> None:
    """Release a reader's pooled buffers; what else it kept goes when it is forgotten."""
    if isinstance(kept, list):
        for buffer in kept:
            buffer.release()


# --- the four tables ----------------------------------------------------------------------------------------------------


def report(rounds: int, sizes: Sizes | None = None) -> None:
    """Print every ratio, with the range of the middle half of the rounds, and whether it is what was wanted."""
    sizes = sizes or Sizes()
    with tempfile.TemporaryDirectory(prefix="procbench-streams-") as folder:
        program = _program(Path(folder))
        if program is None:
            print("\nstreams: skipped, there is no C compiler here for the program that writes")
            return
        _many(program, rounds, sizes.children, sizes.each_bytes)
        _one(program, rounds, sizes.one_bytes)
        _lines(program, rounds, sizes.lines)
    processors = len(os.sched_getaffinity(0))
    for at_once in (processors, 2 * processors):
        _short(rounds, sizes.short, at_once)


def _many(program: str, rounds: int, children: int, each: int) -> None:
    total = children * each
    argv = [program, "give", str(each), str(WRITE_BYTES)]
    print(f"\n{children} children at once, {each / 2**20:g} MiB from each")
    pool = _pool(children, each)
    loops: dict[str, Loop | None] = {
        "pooled": in_asyncio(partial(pooled, pool=pool)),
        "communicate": in_asyncio(communicate),
        "read": in_asyncio(read),
        "asyncio communicate": in_asyncio(peers.asyncio_communicate),
        "asyncio read": in_asyncio(peers.asyncio_read),
        "anyio receive": peers.anyio_receive(),
        "trio receive_some": peers.trio_receive(),
    }
    ways = {name: _timed(loop, argv, children, children, total) for name, loop in loops.items() if loop}
    costs = _alternate(ways, rounds, _volume(total))
    pool.close()
    print("  kept:")
    _show(costs, "pooled", "asyncio communicate", 3.0)
    _show(costs, "communicate", "asyncio communicate", 1.2)
    print("  dropped:")
    _show(costs, "read", "asyncio read", 2.0)
    _show(costs, "read", "anyio receive", 1.5)
    _show(costs, "read", "trio receive_some", 1.5)


def _one(program: str, rounds: int, total: int) -> None:
    argv = [program, "give", str(total), str(BIG_BYTES)]
    print(f"\n1 child, {total / 2**20:g} MiB into one buffer of 1 MiB through a pipe of 1 MiB")
    loops: dict[str, Loop | None] = {
        "read_into": in_asyncio(partial(read_into, buffer=bytearray(BIG_BYTES))),
        "asyncio read": in_asyncio(partial(peers.asyncio_read, size=BIG_BYTES, pipesize=BIG_BYTES)),
    }
    ways = {name: _timed(loop, argv, 1, 1, total) for name, loop in loops.items() if loop}
    ways["C, read and poll"] = partial(_in_c, program, argv, total)
    costs = _alternate(ways, rounds, _volume(total))
    _show(costs, "read_into", "C, read and poll", 0.9)
    _show(costs, "read_into", "asyncio read", None)


def _lines(program: str, rounds: int, count: int) -> None:
    total = count * LINE_BYTES
    argv = [program, "lines", str(count), str(LINE_BYTES)]
    print(f"\n1 child, {count:,} lines of {LINE_BYTES} bytes")
    loops: dict[str, Loop | None] = {
        "lines": in_asyncio(lines),
        "asyncio readline": in_asyncio(peers.asyncio_readline),
        "for line in Popen.stdout": peers.blocking_lines,
    }
    ways = {name: _timed(loop, argv, 1, 1, total) for name, loop in loops.items() if loop}
    costs = _alternate(ways, rounds, Unit(count / 1e6, "M lines/s", total / 2**30, "CPU s/GiB"))
    _show(costs, "lines", "asyncio readline", 3.0)
    _show(costs, "lines", "for line in Popen.stdout", None)


def _short(rounds: int, count: int, at_once: int) -> None:
    total = count * len(HELLO + "\n")
    argv = [shutil.which("echo") or "/bin/echo", HELLO]
    print(f"\n{count:,} x echo, captured, {at_once} at a time")
    loops: dict[str, Loop | None] = {
        "communicate": in_asyncio(communicate),
        "asyncio communicate": in_asyncio(peers.asyncio_communicate),
        "thread pool + subprocess.run": peers.in_threads,
    }
    ways = {name: _timed(loop, argv, count, at_once, total) for name, loop in loops.items() if loop}
    costs = _alternate(ways, rounds, Unit(count, "commands/s", count / 1e3, "CPU ms each"))
    _show(costs, "communicate", "asyncio communicate", 1.7)
    _show(costs, "communicate", "thread pool + subprocess.run", None)


def _volume(total: int) -> Unit:
    return Unit(total / 1e9, "GB/s", total / 2**30, "CPU s/GiB")


# --- measuring ----------------------------------------------------------------------------------------------------------


def _timed(loop: Loop, argv: Argv, count: int, at_once: int, total: int) -> Way:
    def way() -> Cost:
        busy, started = _cpu_s(), time.perf_counter()
        got = loop(argv, count, at_once)
        cost = Cost(time.perf_counter() - started, _cpu_s() - busy)
        came = sum(size for size, _ in got)
        for _, kept in got:
            _give_back(kept)
        assert (len(got), came) == (count, total), f"{came} bytes of {len(got)} children came, not {total} of {count}"
        return cost

    return way


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _in_c(program: str, writer: Argv, total: int) -> Cost:
    argv = [program, "read", str(BIG_BYTES), str(BIG_BYTES), *writer]
    came, wall_s, cpu_s = subprocess.run(argv, capture_output=True, check=True).stdout.split()
    assert int(came) == total
    return Cost(float(wall_s), float(cpu_s))


def _program(folder: Path) -> str | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    program, source = folder / "streams", Path(__file__).with_name("streams.c")
    built = subprocess.run([compiler, "-O2", "-o", program, source], check=False)
    return str(program) if built.returncode == 0 else None


def _alternate(ways: dict[str, Way], rounds: int, unit: Unit) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    order = list(ways)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            costs[name].append(ways[name]())
    for name, values in costs.items():
        wall_s = statistics.median(value.wall_s for value in values)
        cpu_s = statistics.median(value.cpu_s for value in values)
        print(f"  {unit.done / wall_s:8,.2f} {unit.speed}  {cpu_s / unit.charged:6.2f} {unit.cost}  {name}")
    return costs


def _show(costs: dict[str, list[Cost]], ours: str, theirs: str, wanted: float | None) -> None:
    if ours not in costs or theirs not in costs:
        print(f"  {'-':>6}  {ours} of {theirs}: skipped, it is not on this machine")
        return
    pairs = zip(costs[ours], costs[theirs], strict=True)
    ratios = sorted(other.wall_s / own.wall_s for own, other in pairs)
    ratio, low, high = statistics.median(ratios), ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    verdict = "" if wanted is None else f"; wanted {wanted}: {'met' if ratio >= wanted else 'MISSED'}"
    print(f"  {ratio:6.2f} [{low:.2f}, {high:.2f}]  {ours} of {theirs}{verdict}")
