"""A cancellation at any wait leaves nothing behind and loses nothing: it is injected at the first, the second, ... the last."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest

from procbench import KEEP, open_process
from procbench.errors import DescriptorUsageWarning
from procbench.io.budget import shared_budget
from procbench.io.io_pools import BufferSizes, IoPool
from tests.conftest import left_behind, possessions
from tests.loops import MOUTH, PYTHON, in_loop, lent, until
from tests.waiting import long_sleep, processes_with

PIPE, NULL = subprocess.PIPE, subprocess.DEVNULL
_MOST_WAITS = 200


class Cancelled:
    """Awaits a coroutine, and cancels the task when that waits for the ``at``-th time.

    Args:
        work: The coroutine.
        at: At which of its waits, from 1.
        late: Cancel when what it waits for has come, before it goes on: as when both happen in one turn of the loop.

    Attributes:
        happened: Whether it waited so often.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], at: int, *, late: bool) -> None:
        self._work = work
        self._at = at
        self._late = late
        self.happened = False

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        waits = 0
        go_on: Callable[[], Any] = functools.partial(self._work.send, None)
        while True:
            try:
                waited_for = go_on()
            except StopIteration as stop:
                return stop.value
            waits += 1
            if waits == self._at:
                self.happened = True
                if self._late and waited_for is not None:
                    waited_for.add_done_callback(lambda _: task.cancel())
                else:
                    task.cancel()
            try:
                yield waited_for
            except BaseException as error:
                go_on = functools.partial(self._work.throw, error)
            else:
                go_on = functools.partial(self._work.send, None)


async def cancelled(work: Coroutine[Any, Any, Any], at: int, *, late: bool) -> tuple[bool, Any]:
    """Return whether ``work`` was cancelled at that wait, and what it returned if it did nevertheless."""
    driver = Cancelled(work, at, late=late)

    async def drive() -> Any:
        return await driver

    task = asyncio.ensure_future(drive())
    await asyncio.wait([task])
    if task.cancelled():
        return driver.happened, None
    return driver.happened, task.result()


def at_every_wait(scenario: Callable[[], Coroutine[Any, Any, Any]], marker: str = "") -> int:
    """Run ``scenario`` in loops of their own, cancelled at each of its waits in turn; return how many there are.

    After each, nothing is left: no descriptor, child, zombie, member of its group, permit or buffer.
    """
    most = 0
    for late in (False, True):
        for at in range(1, _MOST_WAITS):
            before = possessions()
            happened, _ = in_loop(lambda at=at, late=late: cancelled(scenario(), at, late=late), deadline_s=30)
            end = time.monotonic() + 5
            while left := left_behind(before):
                assert time.monotonic() < end, f"cancelled {'late ' * late}at wait {at}: {left}"
                gc.collect()
            assert lent() == (0, 0, 0), f"cancelled {'late ' * late}at wait {at}"
            assert not marker or not processes_with(marker)
            if not happened:
                most = max(most, at - 1)
                break
        else:
            pytest.fail("it waits for ever")
    return most


# --- nothing is left -------------------------------------------------------------------------------------------------


async def _entered() -> None:
    async with open_process(["true"], stdin=PIPE, stdout=PIPE, stderr=PIPE):
        pass


async def _waited() -> None:
    async with open_process(["sh", "-c", "echo x; exec true"], stdout=PIPE) as process:
        await process.wait()


async def _read_in_many_ways() -> None:
    pool = IoPool("mine", BufferSizes(stdout=1000, stderr=1000), buffers=3)
    try:
        async with open_process(["seq", "3000"], stdout=PIPE, stderr=KEEP, io_pool=pool) as process:
            stream = process.stdout
            assert stream is not None
            await stream.read(10)
            await stream.readline()
            await stream.readexactly(100)
            await stream.readuntil(b"7")
            await stream.read_into(bytearray(100))
            for buffer in await stream.batch_read(2):
                buffer.release()
            async for _ in stream:
                break
            await stream.read()
            await process.result()
    finally:
        pool.close()


async def _batches_that_wait_for_the_pool() -> None:
    pool = IoPool("one", BufferSizes(stdout=100, stderr=100), buffers=1)
    held = pool.read.acquire_nowait()
    try:
        async with open_process(["seq", "300"], stdout=PIPE, io_pool=pool) as process:
            assert process.stdout is not None
            asyncio.get_running_loop().call_soon(held.release)
            while batch := await process.stdout.batch_read(1):
                batch[0].release()
    finally:
        for _ in range(2):
            await asyncio.sleep(0)  # the release of ``held`` may still be on its way
        pool.close()


async def _written_in_many_ways() -> None:
    async with open_process(["cat"], stdin=PIPE, stdout=NULL) as process:
        stdin = process.stdin
        assert stdin is not None
        stdin.write(bytes(300_000))
        await stdin.drain()
        await stdin.batch_write([bytes(200_000), bytes(100_000)])
        with Path(__file__).open("rb") as file:
            await stdin.send_file(file.fileno())
        stdin.write(bytes(300_000))
        await stdin.flush()
        stdin.close()
        await stdin.wait_closed()


async def _communicated() -> None:
    async with open_process(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        await process.communicate(bytes(500_000))


async def _given_input() -> None:
    async with open_process(["cat"], input=bytes(2_000_000), stdout=PIPE) as process:
        assert process.stdout is not None
        await process.stdout.read()


async def _awaited_and_closed() -> None:
    process = await open_process(["cat"], stdin=PIPE, stdout=PIPE)
    try:
        await asyncio.sleep(0)
    finally:
        await process.aclose()


SCENARIOS = {
    "enter": _entered,
    "wait": _waited,
    "read": _read_in_many_ways,
    "wait for a buffer": _batches_that_wait_for_the_pool,
    "write": _written_in_many_ways,
    "communicate": _communicated,
    "input": _given_input,
    "aclose": _awaited_and_closed,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_cancellation_at_any_wait_leaves_nothing(name: str) -> None:
    """L26: cancelled at its first, second, ... last wait, before or just after what it waited for: nothing is left."""
    assert at_every_wait(SCENARIOS[name]) >= 1


STUBBORN = "trap '' TERM; sleep {0} & sleep {0}"
"""Ignores SIGTERM, and has a child in its group that does too."""


def test_a_cancelled_end_ends_everything() -> None:
    """L26: end() that is cancelled while it waits for a child that ignores SIGTERM kills it and its group."""
    marker = long_sleep()

    async def scenario() -> None:
        argv = ["sh", "-c", "trap '' TERM; echo; " + STUBBORN.format(marker)]
        async with open_process(argv, stdout=PIPE, kill_grace_s=0.2) as process:
            assert process.stdout is not None
            await process.stdout.readline()
            await process.end()

    assert at_every_wait(scenario, marker) >= 1  # the line may be there before it is waited for


def test_a_block_that_is_left_by_an_exception_may_be_cancelled_too() -> None:
    """L26: cancelled while the block's end waits for the child to be gone: it is gone, with its group."""
    marker = long_sleep()

    async def scenario() -> None:
        argv = ["sh", "-c", "trap '' TERM; read line; echo; " + STUBBORN.format(marker)]
        try:
            async with open_process(argv, stdin=PIPE, stdout=PIPE, kill_grace_s=0.2) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                # Asked only once the loop goes on, so that the answer is always waited for.
                asyncio.get_running_loop().call_soon(process.stdin.write, b"\n")
                await process.stdout.readline()
                raise KeyError
        except KeyError:
            pass

    assert at_every_wait(scenario, marker) >= 2


def test_a_cancelled_aclose_ends_the_child() -> None:
    """L26: a block's end that waits for a child that never ends ends it when it is cancelled, once and twice."""
    marker = long_sleep()

    async def scenario(times: int) -> None:
        argv = ["sh", "-c", "trap '' TERM; echo; " + STUBBORN.format(marker)]
        process = await open_process(argv, stdout=PIPE, kill_grace_s=0.1 if times == 1 else 1000)
        assert process.stdout is not None
        await process.stdout.readline()
        in_the_end = asyncio.get_running_loop().call_later(20, os.killpg, process.pid, signal.SIGKILL)
        task = asyncio.ensure_future(process.aclose())
        await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        in_the_end.cancel()
        assert task.cancelled()
        assert process.returncode == -signal.SIGKILL
        assert (await process.result()).stop_phase == "kill"

    for times in (1, 2, 3):
        in_loop(functools.partial(scenario, times), deadline_s=30)
        assert not processes_with(marker)
        assert lent() == (0, 0, 0)


def test_a_start_that_waits_for_descriptors_may_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """L26: a cancelled wait for the budget passes on what it got."""
    budget = shared_budget()

    async def scenario() -> None:
        taken = budget.capacity - budget.in_use
        with pytest.warns(DescriptorUsageWarning):
            budget.acquire_nowait(taken)
        try:
            task = asyncio.ensure_future(_entered())
            other = asyncio.ensure_future(_entered())
            await until(lambda: budget.waiting == 2)
            task.cancel()
            await asyncio.wait([task])
            assert budget.waiting == 1
        finally:
            budget.release(taken)
        await other

    in_loop(scenario)


# --- nothing is lost -------------------------------------------------------------------------------------------------


async def _pieces(batch: Any) -> bytes:
    data = b"".join(bytes(buffer.view) for buffer in batch)
    for buffer in batch:
        buffer.release()
    return data


async def _lines(stream: Any) -> bytes:
    async for line in stream:
        return bytes(line)
    return b""


async def _into(stream: Any) -> bytes:
    room = bytearray(5000)
    return bytes(room[: await stream.read_into(room)])


async def _batch(stream: Any) -> bytes:
    return await _pieces(await stream.batch_read(2))


async def _held_batch(stream: Any) -> bytes:
    """A batch that has to wait for the pool before it waits for the child."""
    pool = stream._pool()
    held = [pool.acquire_nowait() for _ in range(pool.statistics().available)]
    loop = asyncio.get_running_loop()
    for buffer in held:
        loop.call_soon(buffer.release)
    return await _pieces(await stream.batch_read(2))


READS: dict[str, Callable[[Any], Coroutine[Any, Any, bytes]]] = {
    "read": lambda stream: stream.read(5000),
    "readexactly": lambda stream: stream.readexactly(9000),
    "readuntil": lambda stream: stream.readuntil(b"\n"),
    "readline": lambda stream: stream.readline(),
    "limited readline": lambda stream: stream.readline(limit_bytes=50_000),
    "lines": _lines,
    "read_into": _into,
    "batch_read": _batch,
    "batch_read that waits for the pool": _held_batch,
}
WHOLE = random.Random(26).randbytes(9000).replace(b"\n", b"n") + b"\n" + b"the rest\n"


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("late", [False, True], ids=["before", "just after"])
def test_a_cancelled_read_loses_nothing(name: str, late: bool) -> None:
    """L26: cancelled at any of its waits, a read leaves what had come to the next one."""

    async def scenario(at: int) -> bool:
        pool = IoPool("mine", BufferSizes(stdout=4096, stderr=4096), buffers=2)
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE, io_pool=pool) as process:
            stream, stdin = process.stdout, process.stdin
            assert stream is not None
            assert stdin is not None
            stdin.write(repr(WHOLE).encode() + b"\n")
            happened, got = await cancelled(READS[name](stream), at, late=late)
            stdin.close()
            assert (got or b"") + await stream.read() == WHOLE
        pool.close()
        return happened

    at = 1
    while in_loop(functools.partial(scenario, at), deadline_s=20):
        at += 1
    assert at > 1


@pytest.mark.parametrize("name", [*READS, "read all"])
def test_a_read_that_is_cancelled_half_way_loses_nothing(name: str) -> None:
    """L26: what had come to a read that wanted more is there for the next one, in its order."""
    reads = READS | {"read all": lambda stream: stream.read(), "read": lambda stream: stream.read(5000)}
    part = WHOLE[:5000]

    async def scenario() -> None:
        pool = IoPool("mine", BufferSizes(stdout=4096, stderr=4096), buffers=3)
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE, io_pool=pool) as process:
            stream, stdin = process.stdout, process.stdin
            assert stream is not None
            assert stdin is not None
            task = asyncio.ensure_future(reads[name](stream))
            await asyncio.sleep(0)
            stdin.write(repr(part).encode() + b"\n")
            await until(lambda: stream.total_bytes == len(part) or task.done())
            task.cancel()
            await asyncio.wait([task])
            got = b"" if task.cancelled() else task.result()
            stdin.write(repr(WHOLE[len(part) :]).encode() + b"\n")
            stdin.close()
            got += await stream.readexactly(100)
            assert got + await stream.read() == WHOLE
        pool.close()

    in_loop(scenario, deadline_s=20)


@pytest.mark.parametrize("late", [False, True], ids=["before", "just after"])
@pytest.mark.parametrize("way", ["drain", "flush", "batch_write", "send_file"])
def test_a_cancelled_write_is_all_or_a_beginning(way: str, late: bool, tmp_path: Path) -> None:
    """L26: what write() took arrives whole; of a batch or a file a beginning does, and what is written later follows it."""
    data = random.Random(27).randbytes(300_000)
    (tmp_path / "file").write_bytes(data)

    async def scenario(at: int) -> bool:
        async with open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
            stream, stdin = process.stdout, process.stdin
            assert stream is not None
            assert stdin is not None
            mine = bytearray(data)
            views = [memoryview(mine)[:100_000], memoryview(b""), memoryview(mine)[100_000:]]

            async def write() -> None:
                if way in ("drain", "flush"):
                    stdin.write(data)
                    await (stdin.drain() if way == "drain" else stdin.flush())
                elif way == "batch_write":
                    await stdin.batch_write(views)
                else:
                    with (tmp_path / "file").open("rb") as file:
                        await stdin.send_file(file.fileno())

            reading = asyncio.ensure_future(stream.read())
            happened, _ = await cancelled(write(), at, late=late)
            for view in views:
                view.release()
            mine.clear()  # BufferError, if another view were left
            sent = stdin.sent_bytes
            stdin.write(b"END")
            stdin.close()
            got = await reading
            if way in ("drain", "flush") or not happened:
                assert got == data + b"END"
            else:
                assert got == data[:sent] + b"END"
            return happened

    at = 1
    while in_loop(functools.partial(scenario, at), deadline_s=20):
        at += 1
    assert at > 1


@pytest.mark.parametrize("late", [False, True], ids=["before", "just after"])
def test_a_cancelled_communicate_may_be_called_again(late: bool) -> None:
    """L26: communicate goes on in the background; called again without input it returns everything."""
    data = random.Random(28).randbytes(300_000)

    async def scenario(at: int) -> bool:
        async with open_process(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            happened, got = await cancelled(process.communicate(data), at, late=late)
            assert (got or await process.communicate()) == (data, b"")
            return happened

    at = 1
    while in_loop(functools.partial(scenario, at), deadline_s=20):
        at += 1
    assert at > 1


@pytest.mark.parametrize("late", [False, True], ids=["before", "just after"])
@pytest.mark.parametrize("method", ["wait", "result", "end", "aclose"])
def test_a_cancelled_wait_may_be_waited_again(method: str, late: bool) -> None:
    """L26: the child's end is learnt by the next one that asks, with its true status."""

    async def scenario(at: int) -> bool:
        process = await open_process(["sh", "-c", "exec sleep 0.05"], stdout=PIPE)
        happened, _ = await cancelled(getattr(process, method)(), at, late=late)
        if method in ("wait", "result"):
            assert await process.wait() == 0
            assert process.stdout is not None
            assert await process.stdout.read() == b""
        else:
            assert await process.wait() in (0, -signal.SIGTERM, -signal.SIGKILL)
        assert (await process.result()).returncode == process.returncode
        await process.aclose()
        return happened

    at = 1
    while in_loop(functools.partial(scenario, at), deadline_s=20):
        at += 1
    assert at > 1


def test_many_timeouts_in_a_row_lose_nothing() -> None:
    """Reads under asyncio.timeout(0), again and again while the child writes, give every byte once."""

    async def scenario() -> None:
        code = "import os, time\nfor i in range(300): os.write(1, b'%d\\n' % i)"
        async with open_process([*PYTHON, code], stdout=PIPE) as process:
            stream = process.stdout
            assert stream is not None
            lines: list[bytes] = []
            while True:
                try:
                    async with asyncio.timeout(0):
                        line = await stream.readline()
                except TimeoutError:
                    await asyncio.sleep(0)
                    continue
                if not line:
                    break
                lines.append(line)
            assert lines == [b"%d\n" % i for i in range(300)]

    in_loop(scenario)


def test_the_driver_finds_every_wait() -> None:
    """The injection itself: each of three waits is cancelled once, in both ways, and then none is left."""
    seen: list[tuple[int, bool]] = []

    async def three() -> int:
        for number in range(3):
            try:
                await asyncio.sleep(0.001 * (number % 2))
            except asyncio.CancelledError:
                seen.append((number, False))
                raise
        return 3

    assert at_every_wait(three) == 3
    assert [number for number, _ in seen] == [0, 1, 2, 0, 1, 2]
