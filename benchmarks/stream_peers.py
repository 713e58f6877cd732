"""The peers that read children's output: asyncio, anyio, trio, and threads that block.

A reader takes one child's whole output, sees the child end, and returns how many bytes came and what it kept of them. A loop
runs so many of them at a time, and returns what each of them returned.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from subprocess import DEVNULL, PIPE

READ_BYTES = 64 << 10  # what a pipe of the kernel's default size holds, and what anyio and trio ask for of themselves

Argv = list[str]
Got = tuple[int, object]
Reader = Callable[[Argv], Awaitable[Got]]
Loop = Callable[[Argv, int, int], list[Got]]


def in_asyncio(reader: Reader) -> Loop:
    async def main(argv: Argv, count: int, at_once: int) -> list[Got]:
        left, got = iter(range(count)), []

        async def in_turn() -> None:
            for _ in left:
                got.append(await reader(argv))

        await asyncio.gather(*(in_turn() for _ in range(at_once)))
        return got

    return lambda argv, count, at_once: asyncio.run(main(argv, count, at_once))


async def _started(argv: Argv, **options: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*argv, stdin=DEVNULL, stdout=PIPE, **options)


async def asyncio_communicate(argv: Argv) -> Got:
    child = await _started(argv)
    output, _ = await child.communicate()
    assert child.returncode == 0
    return len(output), output


async def asyncio_read(argv: Argv, size: int = READ_BYTES, **options: int) -> Got:
    child, total = await _started(argv, **options), 0
    while data := await child.stdout.read(size):
        total += len(data)
    assert await child.wait() == 0
    return total, None


async def asyncio_readline(argv: Argv) -> Got:
    child, total = await _started(argv), 0
    while line := await child.stdout.readline():
        total += len(line)
    assert await child.wait() == 0
    return total, None


def anyio_receive() -> Loop | None:
    """Return anyio's loop over all the children at once; ``None`` where it is not installed."""
    if find_spec("anyio") is None:
        return None
    import anyio  # noqa: PLC0415 - only the tests' packages bring it

    async def main(argv: Argv, count: int, at_once: int) -> list[Got]:
        got: list[Got] = []

        async def one() -> None:
            total = 0
            async with await anyio.open_process(argv, stdin=DEVNULL, stdout=PIPE, stderr=None) as child:
                try:
                    while True:
                        total += len(await child.stdout.receive(READ_BYTES))
                except anyio.EndOfStream:
                    assert await child.wait() == 0
            got.append((total, None))

        assert count == at_once
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(one)
        return got

    anyio.run(anyio.sleep, 0)  # the first run loads what it runs on; that is no part of reading
    return lambda argv, count, at_once: anyio.run(main, argv, count, at_once)


def trio_receive() -> Loop | None:
    """Return trio's loop over all the children at once; ``None`` where it is not installed."""
    if find_spec("trio") is None:
        return None
    import trio  # noqa: PLC0415 - only the tests' packages bring it

    async def main(argv: Argv, count: int, at_once: int) -> list[Got]:
        got: list[Got] = []

        async def one() -> None:
            child, total = await trio.lowlevel.open_process(argv, stdin=DEVNULL, stdout=PIPE), 0
            async with child.stdout:
                while data := await child.stdout.receive_some(READ_BYTES):
                    total += len(data)
            assert await child.wait() == 0
            got.append((total, None))

        assert count == at_once
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        return got

    return lambda argv, count, at_once: trio.run(main, argv, count, at_once)


def in_threads(argv: Argv, count: int, at_once: int) -> list[Got]:
    """Take every child's output by ``subprocess.run`` in a thread pool."""

    def one(_: int) -> Got:
        output = subprocess.run(argv, stdin=DEVNULL, stdout=PIPE, check=True).stdout
        return len(output), output

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, range(count)))


def blocking_lines(argv: Argv, count: int, at_once: int) -> list[Got]:
    """Iterate over one child's lines, with no event loop."""
    assert count == at_once == 1
    with subprocess.Popen(argv, stdin=DEVNULL, stdout=PIPE) as child:
        total = sum(map(len, child.stdout))
    assert child.returncode == 0
    return [(total, None)]
