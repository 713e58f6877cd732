"""The peers of the streams experiment: asyncio, anyio, trio, and threads that block."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from subprocess import DEVNULL, PIPE
from typing import Final

from procbench.experiments.streams_ways import Argv, Clock, Got, Job, Loops, Reading, Way

READ_BYTES: Final = 64 << 10
"""What every peer asks for at a time: a full pipe of the kernel's size, and what anyio and trio take of themselves."""

ANYIO: Final = "anyio, receive"
TRIO: Final = "trio, receive_some"
FOREIGN: Final = {ANYIO: "anyio", TRIO: "trio"}
"""By way, the library that it needs and procbench does not bring along."""


@contextlib.asynccontextmanager
async def _started(argv: Argv) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    child = await asyncio.create_subprocess_exec(*argv, stdin=DEVNULL, stdout=PIPE)
    try:
        yield child, child.stdout  # type: ignore[misc]  # it was asked for
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.communicate()
        raise


async def asyncio_read(argv: Argv) -> Got:
    """Read bytes object after bytes object, and drop them."""
    total = 0
    async with _started(argv) as (child, stdout):
        while data := await stdout.read(READ_BYTES):
            total += len(data)
        return Got(total, await child.wait() == 0)


async def asyncio_communicate(argv: Argv) -> Got:
    """Take everything at the end."""
    async with _started(argv) as (child, _):
        output, _ = await child.communicate()
        return Got(len(output), child.returncode == 0)


async def asyncio_readline(argv: Argv) -> Got:
    """Read line after line, and drop them."""
    total = 0
    async with _started(argv) as (child, stdout):
        while line := await stdout.readline():
            total += len(line)
        return Got(total, await child.wait() == 0)


async def anyio_receive(argv: Argv) -> Got:
    """Read bytes object after bytes object in asyncio's loop, and drop them."""
    import anyio

    total = 0
    async with await anyio.open_process(argv, stdin=DEVNULL, stdout=PIPE, stderr=None) as child:
        with contextlib.suppress(anyio.EndOfStream):
            while child.stdout is not None:
                total += len(await child.stdout.receive(READ_BYTES))
        return Got(total, await child.wait() == 0)


def trio_receive(job: Job) -> Reading:
    """Read bytes object after bytes object in trio's loop, and drop them."""
    import trio

    got: list[Got] = []

    async def one() -> None:
        total = 0
        child = await trio.lowlevel.open_process(job.argv, stdin=DEVNULL, stdout=PIPE)
        try:
            while child.stdout is not None and (data := await child.stdout.receive_some(READ_BYTES)):
                total += len(data)
            got.append(Got(total, await child.wait() == 0))
        finally:
            if child.returncode is None:
                child.kill()
            if child.stdout is not None:
                with trio.CancelScope(shield=True):
                    await child.stdout.aclose()
                    await child.wait()

    async def main() -> Reading:
        clock = Clock()
        async with trio.open_nursery() as nursery:
            for _ in range(job.children):
                nursery.start_soon(one)
        return clock.reading(got)

    return trio.run(main)


def threads_read(argv: Argv) -> Got:
    """Read bytes object after bytes object from a ``Popen`` without a buffer, and drop them."""
    total = 0
    with subprocess.Popen(argv, stdin=DEVNULL, stdout=PIPE, bufsize=0) as child:
        while child.stdout is not None and (data := child.stdout.read(READ_BYTES)):
            total += len(data)
    return Got(total, child.returncode == 0)


def threads_run(argv: Argv) -> Got:
    """Take everything at the end, by ``subprocess.run``."""
    done = subprocess.run(argv, stdin=DEVNULL, stdout=PIPE, check=False)
    return Got(len(done.stdout), done.returncode == 0)


def threads_lines(argv: Argv) -> Got:
    """Iterate over the lines of a ``Popen``, and drop them."""
    with subprocess.Popen(argv, stdin=DEVNULL, stdout=PIPE) as child:
        total = sum(map(len, child.stdout or ()))
    return Got(total, child.returncode == 0)


def in_threads(reader: Callable[[Argv], Got]) -> Way:
    """Return the way that reads from each child in a thread of its own."""

    def way(job: Job) -> Reading:
        clock = Clock()
        with ThreadPoolExecutor(job.children) as threads:
            got = list(threads.map(reader, [job.argv] * job.children))
        return clock.reading(got)

    return way


def foreign_ways(loops: Loops) -> dict[str, Way]:
    """Return the ways of ``FOREIGN`` whose library is installed."""
    ways = {ANYIO: loops.way(anyio_receive), TRIO: loops.foreign(trio_receive)}
    return {name: way for name, way in ways.items() if find_spec(FOREIGN[name])}
