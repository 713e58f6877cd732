"""What is written to a child arrives whole and in order, and a child that does not take it is one clear error."""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import hashlib
import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from procbench import linux, open_process
from procbench.errors import ClosedError, InvalidInputError, StreamBrokenError
from procbench.io.io_pools import BufferSizes
from procbench.io.process import Process
from procbench.io.write_stream import LOW_WATER_BYTES
from procbench.memory.mapping import MemoryMapping
from tests.loops import LATE_READER, PYTHON, end_processes_with, in_loop, lent, until
from tests.waiting import long_sleep, run_python

PIPE, NULL = subprocess.PIPE, subprocess.DEVNULL
MIB = 1 << 20
CALM = settings(deadline=None, suppress_health_check=list(HealthCheck))

# Closes its standard input, says so, and lives on.
DEAF = [*PYTHON, "import os, signal\nos.close(0); os.write(1, b'.')\nsignal.pause()"]


@pytest.fixture(autouse=True)
def everything_comes_back() -> Iterator[None]:
    """After each test no permit and no buffer is out."""
    yield
    assert lent() == (0, 0, 0)


def said(data: bytes) -> bytes:
    """Return what a ``LATE_READER`` says of ``data``."""
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()


async def late_reader(**how: Any) -> Process:
    """Return a child that reads nothing before SIGUSR1."""
    process = await open_process(LATE_READER, stdin=PIPE, stdout=PIPE, **how)
    assert process.stdout is not None
    assert await process.stdout.readexactly(1) == b"."
    return process


async def hears(process: Process) -> bytes:
    """Have a ``LATE_READER`` read, and return what it says."""
    process.send_signal(signal.SIGUSR1)
    assert process.stdout is not None
    return await process.stdout.read()


# --- round trips -----------------------------------------------------------------------------------------------------


async def write_all(process: Process, data: bytes, way: str, cut: random.Random, folder: str) -> None:
    """Write ``data`` in random pieces to the child and close its standard input."""
    stdin = process.stdin
    assert stdin is not None
    at = 0
    pieces = []
    while at < len(data):
        n = cut.choice([0, 1, 100, 4096, 65_536, 65_537, 300_000])
        pieces.append(data[at : at + n])
        at += n
    if way == "write":
        for piece in pieces:
            stdin.write(piece)
            if cut.random() < 0.5:
                await stdin.drain()
    elif way == "writelines":
        stdin.writelines(pieces)
    elif way == "batch_write":
        while pieces:
            some, pieces = pieces[: (n := cut.choice([1, 2, 40]))], pieces[n:]
            assert await stdin.batch_write(some) == sum(map(len, some))
    elif way == "pooled":
        for at in range(0, len(data), 32 * MIB // 4):
            buffers = []
            for start in range(at, min(at + 32 * MIB // 4, len(data)), 4096):
                buffer = stdin.acquire_nowait()
                piece = data[start : start + 4096]
                buffer.view[: len(piece)] = piece
                buffer.narrow(len(piece))
                buffers.append(buffer)
                if len(buffers) == 200:
                    await stdin.batch_write(buffers)
                    while buffers:
                        buffers.pop().release()
            await stdin.batch_write(buffers)
            for buffer in buffers:
                buffer.release()
    elif way == "send_file":
        path = Path(folder) / "data"
        path.write_bytes(data)
        with path.open("rb", buffering=0) as file:
            head = cut.randrange(len(data) + 1)
            assert await stdin.send_file(file.fileno(), head) == head
            assert await stdin.send_file(file.fileno()) == len(data) - head
    else:
        for number, piece in enumerate(pieces):
            if number % 3 == 0:
                stdin.write(piece)
            elif number % 3 == 1:
                await stdin.batch_write([piece])
            else:
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.write(piece)
                    file.seek(0)
                    await stdin.send_file(file.fileno())
    stdin.close()
    await stdin.wait_closed()


WAYS = ["input", "communicate", "write", "writelines", "batch_write", "pooled", "send_file", "mixed"]


@pytest.mark.parametrize("way", WAYS)
def test_what_goes_through_cat_comes_back(way: str) -> None:
    """L14: random bytes come back through cat equal, by each way of writing, with any transport and any sizes."""

    @settings(CALM, max_examples=12)
    @given(
        seed=st.integers(0, 2**32),
        size=st.one_of(st.sampled_from([0, 1, 65_535, 65_536, 65_537]), st.integers(0, 3 * MIB)),
        transport=st.sampled_from(["auto", "write", "vmsplice", "splice", "sendfile", "memfd_stdin"]),
        mapped=st.booleans(),
        stdin=st.sampled_from([4096, 65_536]),
        stdout=st.sampled_from([1000, 4096, 65_536, MIB]),
        file=st.sampled_from([4096, MIB]),
        pipe=st.sampled_from([None, 4096, 8192, 65_536, 131_072, MIB]),
        reading=st.sampled_from(["read", "all", "lines", "batch_read", "read_into"]),
    )
    def goes_round(
        seed: int,
        size: int,
        transport: Any,
        mapped: bool,
        stdin: int,
        stdout: int,
        file: int,
        pipe: int | None,
        reading: str,
    ) -> None:
        cut = random.Random(seed)
        data = cut.randbytes(size)

        async def read_all(stream: Any, digest: Any) -> None:
            room = bytearray(stdout)
            while True:
                if reading == "all":
                    piece = await stream.read()
                elif reading == "read":
                    piece = await stream.read(70_000)
                elif reading == "lines":
                    piece = await stream.readline()
                elif reading == "read_into":
                    piece = bytes(room[: await stream.read_into(room)])
                else:
                    batch = await stream.batch_read(5)
                    piece = b"".join(buffer.view for buffer in batch)
                    for buffer in batch:
                        buffer.release()
                if not piece:
                    return
                digest.update(piece)

        async def scenario(given: Any, folder: str) -> bytes:
            sizes = BufferSizes(stdin=stdin, stdout=stdout, file=file, pipe=pipe)
            digest = hashlib.sha256()
            how: dict[str, Any] = {"input": given, "transport": transport} if way == "input" else {"stdin": PIPE}
            if way == "communicate":
                how["transport"] = transport
            async with open_process(["cat"], stdout=PIPE, sizes=sizes, **how) as process:
                if way == "communicate":
                    out, err = await process.communicate(given)
                    assert err is None
                    digest.update(out or b"")
                elif way == "input":
                    await read_all(process.stdout, digest)
                else:
                    await asyncio.gather(write_all(process, data, way, cut, folder), read_all(process.stdout, digest))
                result = await process.result()
                assert result.stdout_bytes == size
                assert result.returncode == 0
            return digest.digest()

        with tempfile.TemporaryDirectory() as folder:
            if mapped and size and way in ("input", "communicate"):
                with MemoryMapping.wrap(data).snapshot() as mapping:
                    got = in_loop(lambda: scenario(mapping, folder))
            else:
                got = in_loop(lambda: scenario(data, folder))
        assert got == hashlib.sha256(data).digest()

    goes_round()


# --- back-pressure, and what happens in the background ---------------------------------------------------------------


def test_drain_waits_for_a_child_that_does_not_read_and_memory_is_bounded() -> None:
    """write() and drain() in turn hold no more than a piece over the low water, and go on when the child reads."""
    piece = random.Random(1).randbytes(100_000)

    async def scenario() -> bytes:
        process = await late_reader()
        stdin = process.stdin
        assert stdin is not None
        most = written = 0

        async def produce() -> None:
            nonlocal most, written
            for _ in range(30):
                stdin.write(piece)
                written += len(piece)
                most = max(most, written - stdin.sent_bytes)
                await stdin.drain()

        async with process:
            task = asyncio.ensure_future(produce())
            await until(lambda: stdin.sent_bytes)
            for _ in range(20):
                await asyncio.sleep(0.002)
            assert not task.done()
            assert written <= 65_536 + LOW_WATER_BYTES + len(piece)
            process.send_signal(signal.SIGUSR1)
            await task
            assert most <= LOW_WATER_BYTES + len(piece)
            stdin.close()
            assert process.stdout is not None
            return await process.stdout.read()

    assert in_loop(scenario) == said(piece * 30)


WAITS: dict[str, Any] = {
    "drain": lambda stdin, fd: stdin.drain(),
    "flush": lambda stdin, fd: stdin.flush(),
    "batch_write": lambda stdin, fd: stdin.batch_write([b"B" * 200_000]),
    "send_file": lambda stdin, fd: stdin.send_file(fd),
}


@pytest.mark.parametrize("wait", WAITS)
def test_what_was_written_goes_though_nobody_waits_for_it_any_more(wait: str, tmp_path: Path) -> None:
    """A wait that was given up leaves what write() took to go by itself, and close() still closes after it."""
    (tmp_path / "file").write_bytes(b"F" * 200_000)
    data = random.Random(2).randbytes(700_000)

    async def scenario() -> bytes:
        async with await late_reader() as process:
            assert process.stdin is not None
            process.stdin.write(data)
            with (tmp_path / "file").open("rb") as file:
                task = asyncio.ensure_future(WAITS[wait](process.stdin, file.fileno()))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                process.stdin.close()
            return await hears(process)

    assert in_loop(scenario, deadline_s=20) == said(data)


@pytest.mark.parametrize("wait", WAITS)
def test_closing_while_somebody_waits_closes_after_the_last_byte(wait: str, tmp_path: Path) -> None:
    """close() in the middle of a wait: all that was to go still goes, then the child sees the end."""
    more = {"batch_write": b"B" * 200_000, "send_file": b"F" * 200_000}.get(wait, b"")
    (tmp_path / "file").write_bytes(b"F" * 200_000)
    data = random.Random(3).randbytes(700_000)

    async def scenario() -> bytes:
        async with await late_reader() as process:
            assert process.stdin is not None
            if not more:
                process.stdin.write(data)
            else:
                process.stdin.write(data[:65_536])  # a full pipe, so that the rest has to wait
            with (tmp_path / "file").open("rb") as file:
                task = asyncio.ensure_future(WAITS[wait](process.stdin, file.fileno()))
                for _ in range(3):
                    await asyncio.sleep(0)
                process.stdin.close()
                process.send_signal(signal.SIGUSR1)
                await task
            assert process.stdin.is_closing()
            await process.stdin.wait_closed()
            assert process.stdout is not None
            return await process.stdout.read()

    assert in_loop(scenario, deadline_s=20) == said(data[:65_536] + more if more else data)


def test_a_drain_that_writes_the_last_byte_closes_too() -> None:
    """A pipe that takes all that waits at one go leaves nothing for later: a close() before that is obeyed."""

    async def scenario() -> bytes:
        code = (
            "import os, signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); os.write(1, b'.')\n"
            "signal.sigwait([signal.SIGUSR1])\nn = 0\nwhile n < 1 << 20: n += len(os.read(0, 1 << 20))\n"
            "os.write(2, b'.')\nprint(n + len(sys.stdin.buffer.read()))"
        )
        told, tell = os.pipe()
        try:
            if linux.resize_pipe(tell, MIB) < MIB:
                pytest.skip("the kernel gives no pipe of 1 MiB")
            async with open_process(
                [*PYTHON, code], stdin=PIPE, stdout=PIPE, stderr=tell, sizes=BufferSizes(pipe=MIB)
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                await process.stdout.readexactly(1)
                process.stdin.write(bytes(MIB + 900_000))
                task = asyncio.ensure_future(process.stdin.drain())
                await asyncio.sleep(0)
                process.stdin.close()
                process.send_signal(signal.SIGUSR1)
                os.read(told, 1)  # the loop stands still until the pipe is empty
                await task
                return await process.stdout.read()
        finally:
            os.close(told)
            os.close(tell)

    assert in_loop(scenario, deadline_s=20) == f"{MIB + 900_000}\n".encode()


def test_order_is_kept_between_ways_of_writing(tmp_path: Path) -> None:
    """What is written while a batch or a file is on its way goes after it, in the order of the calls."""
    (tmp_path / "file").write_bytes(b"F" * 150_000)

    async def scenario() -> bytes:
        async with await late_reader() as process:
            stdin = process.stdin
            assert stdin is not None
            stdin.write(b"1" * 100_000)
            task = asyncio.ensure_future(stdin.batch_write([b"2" * 70_000, b"", b"3" * 70_000]))
            await until(lambda: stdin.sent_bytes)
            process.send_signal(signal.SIGUSR1)
            assert await task == 140_000
            stdin.write(b"4" * 100_000)
            with (tmp_path / "file").open("rb") as file:
                assert await stdin.send_file(file.fileno()) == 150_000
            stdin.write(b"5")
            stdin.close()
            assert process.stdout is not None
            return await process.stdout.read()

    whole = b"1" * 100_000 + b"2" * 70_000 + b"3" * 70_000 + b"4" * 100_000 + b"F" * 150_000 + b"5"
    assert in_loop(scenario) == said(whole)


def test_what_was_written_before_communicate_goes_first() -> None:
    """communicate(input) sends what write() had taken, then the input, as asyncio does."""

    async def scenario() -> bytes | None:
        async with await late_reader() as process:
            assert process.stdin is not None
            process.stdin.write(b"a" * 700_000)
            process.send_signal(signal.SIGUSR1)
            return (await process.communicate(b"b" * 100_000))[0]

    assert in_loop(scenario) == said(b"a" * 700_000 + b"b" * 100_000)


def test_who_waits_for_the_close_is_told_when_communicate_takes_over() -> None:
    """communicate(input) closes the stream for its writers: wait_closed() does not wait for ever."""

    async def scenario() -> None:
        async with open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert process.stdin is not None
            closed = asyncio.ensure_future(process.stdin.wait_closed())
            await asyncio.sleep(0)
            assert await process.communicate(b"x") == (b"x", None)
            await closed

    in_loop(scenario, deadline_s=20)


def test_a_file_that_the_kernel_cannot_move_is_copied() -> None:
    """A source that sendfile(2) refuses comes by read and write, whole, and drain's account stays right."""

    async def scenario() -> bytes:
        async with await late_reader() as process:
            stdin = process.stdin
            assert stdin is not None
            read_end, write_end = os.pipe()
            try:
                fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, MIB)
                size = os.write(write_end, bytes(fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ) - 4096))
                os.close(write_end)
                process.send_signal(signal.SIGUSR1)
                assert await stdin.send_file(read_end) == size
            finally:
                os.close(read_end)
            await stdin.flush()
            assert stdin.sent_bytes == size
            stdin.close()
            assert process.stdout is not None
            assert await process.stdout.read() == said(bytes(size))
        return b""

    in_loop(scenario)


@pytest.mark.parametrize("count", [0, 1, 4096, 100_000])
def test_a_part_of_a_file_is_sent_from_where_it_stands(count: int, tmp_path: Path) -> None:
    """send_file starts at the file's offset, sends at most count, and leaves the offset behind what went."""
    data = random.Random(4).randbytes(100_000)
    (tmp_path / "file").write_bytes(data)

    async def scenario() -> bytes:
        async with open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert process.stdin is not None
            with (tmp_path / "file").open("rb", buffering=0) as file:
                file.seek(50)
                sent = await process.stdin.send_file(file.fileno(), count)
                assert sent == min(count, len(data) - 50)
                assert file.tell() == 50 + sent
            process.stdin.close()
            assert process.stdout is not None
            return await process.stdout.read()

    assert in_loop(scenario) == data[50 : 50 + count]


def test_writes_are_copied_and_batches_are_not_kept() -> None:
    """What write() was given may change at once; what batch_write was given is free of views when it returns."""

    async def scenario() -> bytes:
        async with await late_reader() as process:
            stdin = process.stdin
            assert stdin is not None
            mine = bytearray(b"a" * 300_000)
            stdin.write(mine)
            mine[:] = b"b" * 300_000
            process.send_signal(signal.SIGUSR1)
            await stdin.batch_write([mine, memoryview(mine)[:10], array.array("i", [1, 2])])
            mine.clear()  # BufferError, if a view were left
            stdin.close()
            assert process.stdout is not None
            return await process.stdout.read()

    whole = b"a" * 300_000 + b"b" * 300_010 + array.array("i", [1, 2]).tobytes()
    assert in_loop(scenario) == said(whole)


# --- a child that does not take it -----------------------------------------------------------------------------------

BREAKS: dict[str, Any] = {
    "write and drain": lambda stdin, fd: (stdin.write(b"x"), stdin.drain())[1],
    "write and flush": lambda stdin, fd: (stdin.write(b"x"), stdin.flush())[1],
    "batch_write": lambda stdin, fd: stdin.batch_write([b"x"]),
    "send_file": lambda stdin, fd: stdin.send_file(fd),
}


@pytest.mark.parametrize("way", BREAKS)
def test_a_child_that_closed_its_input_is_told_of(way: str) -> None:
    """L01: each way of writing to a child that closed its standard input raises EPIPE, at once and afterwards too."""

    async def scenario() -> None:
        async with open_process(DEAF, stdin=PIPE, stdout=PIPE) as process:
            stdin = process.stdin
            assert stdin is not None
            assert process.stdout is not None
            await process.stdout.readexactly(1)
            with tempfile.TemporaryFile() as file:
                file.write(b"x")
                file.seek(0)
                with pytest.raises(StreamBrokenError) as caught:
                    await BREAKS[way](stdin, file.fileno())
                assert (caught.value.errno, caught.value.sent_bytes) == (errno.EPIPE, 0)
                assert stdin.is_closing()
                await stdin.wait_closed()
                for later in BREAKS.values():
                    with pytest.raises(StreamBrokenError):
                        await later(stdin, file.fileno())
            stdin.close()
            process.kill()

    in_loop(scenario, deadline_s=20)


@pytest.mark.parametrize("way", BREAKS)
def test_a_child_that_ends_in_the_middle_is_told_of(way: str, tmp_path: Path) -> None:
    """L01: a child that ends before it has everything: EPIPE, and how much the pipe had taken."""
    (tmp_path / "file").write_bytes(bytes(MIB))
    ways = {
        "write and drain": lambda stdin, fd: (stdin.write(bytes(MIB)), stdin.drain())[1],
        "write and flush": lambda stdin, fd: (stdin.write(bytes(MIB)), stdin.flush())[1],
        "batch_write": lambda stdin, fd: stdin.batch_write([bytes(MIB)]),
        "send_file": lambda stdin, fd: stdin.send_file(fd),
    }

    async def scenario() -> None:
        async with await late_reader() as process:
            stdin = process.stdin
            assert stdin is not None
            with (tmp_path / "file").open("rb") as file:
                task = asyncio.ensure_future(ways[way](stdin, file.fileno()))
                await until(lambda: stdin.sent_bytes)
                process.kill()
                with pytest.raises(StreamBrokenError) as caught:
                    await task
            assert caught.value.sent_bytes == stdin.sent_bytes == 65_536

    in_loop(scenario, deadline_s=20)


@pytest.mark.parametrize("way", BREAKS)
def test_a_writer_does_not_wait_for_a_descendant_after_the_childs_end(way: str, tmp_path: Path) -> None:
    """A waiting write ends when the child has, though a grandchild holds the other end of its standard input."""
    (tmp_path / "file").write_bytes(bytes(MIB))
    marker = long_sleep()
    code = f"import os\nif os.fork() == 0: os.execlp('sleep', 'sleep', '{marker}')\nos.write(1, b'.'); os.close(1); os.read(3, 1)"
    code = code.replace("os.read(3, 1)", "import signal; signal.pause()")
    ways = {
        "write and drain": lambda stdin, fd: (stdin.write(bytes(MIB)), stdin.drain())[1],
        "write and flush": lambda stdin, fd: (stdin.write(bytes(MIB)), stdin.flush())[1],
        "batch_write": lambda stdin, fd: stdin.batch_write([bytes(MIB)]),
        "send_file": lambda stdin, fd: stdin.send_file(fd),
    }

    async def scenario() -> None:
        process = await open_process([*PYTHON, code], stdin=PIPE, stdout=PIPE, drain_grace_s=0.05)
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        await stdout.readexactly(1)
        with (tmp_path / "file").open("rb") as file:
            task = asyncio.ensure_future(ways[way](stdin, file.fileno()))
            await until(lambda: stdin.sent_bytes)
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            stdout.close()
            with pytest.raises(StreamBrokenError):
                await task
        await stdin.wait_closed()
        await process.aclose()

    try:
        in_loop(scenario, deadline_s=20)
    finally:
        end_processes_with(marker)


@pytest.mark.parametrize("transport", ["write", "vmsplice"])
def test_input_that_an_ended_child_did_not_take_is_told_of(transport: Any) -> None:
    """L01: the result says EPIPE whichever is handled first, the child's exit or that its pipe is broken."""

    async def scenario() -> None:
        async with open_process(LATE_READER, input=bytes(4 * MIB), stdout=PIPE, transport=transport) as process:
            assert process.stdout is not None
            await process.stdout.readexactly(1)
            watch = process._watch
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            watch._has_exited()  # as if the kernel had told of that first
            result = await process.result()
            assert (result.stdin_error, result.returncode) == ("EPIPE", -9)
            assert 0 < result.stdin_bytes < 4 * MIB

    in_loop(scenario)


def test_writing_after_the_childs_end_is_epipe() -> None:
    """A child that has ended, and was waited for, is a broken stream, not a bad descriptor."""

    async def scenario() -> None:
        async with open_process(["true"], stdin=PIPE) as process:
            stdin = process.stdin
            assert stdin is not None
            await process.wait()
            with pytest.raises(StreamBrokenError):
                await stdin.batch_write([b"x"])
            with pytest.raises(StreamBrokenError):
                stdin.write(b"x")
            await stdin.wait_closed()
            assert stdin.is_closing()
            stdin.close()

    in_loop(scenario, deadline_s=20)


def test_writing_to_what_was_closed_is_an_error() -> None:
    """After close() every way of writing raises ClosedError, and close() twice is harmless."""

    async def scenario() -> None:
        async with open_process(["cat"], stdin=PIPE, stdout=NULL) as process:
            stdin = process.stdin
            assert stdin is not None
            stdin.close()
            stdin.close()
            await stdin.wait_closed()
            with tempfile.TemporaryFile() as file:
                for way in BREAKS.values():
                    with pytest.raises(ClosedError):
                        await way(stdin, file.fileno())
            with pytest.raises(ClosedError):
                await process.communicate(b"x")
            assert await process.wait() == 0

    in_loop(scenario)


def test_a_block_that_was_left_by_an_exception_takes_no_more() -> None:
    """Outside its block a process's streams are closed, however the block was left."""

    async def scenario() -> None:
        with pytest.raises(KeyError):
            async with open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
                raise KeyError
        assert process.stdin is not None
        assert process.stdout is not None
        with pytest.raises((ClosedError, StreamBrokenError)):
            process.stdin.write(b"x")
        with pytest.raises((ClosedError, StreamBrokenError)):
            await process.stdin.batch_write([b"x"])
        with pytest.raises(ClosedError):
            await process.stdout.read()
        await process.stdin.wait_closed()

    in_loop(scenario, deadline_s=20)


@pytest.mark.parametrize("what", ["text", None, 5])
def test_text_is_refused(what: Any) -> None:
    """What is no bytes is refused, and nothing of a batch goes."""

    async def scenario() -> bytes:
        async with open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert process.stdin is not None
            with pytest.raises(InvalidInputError):
                process.stdin.write(what)
            with pytest.raises(InvalidInputError):
                await process.stdin.batch_write([b"x", what])
            with pytest.raises(InvalidInputError):
                await process.communicate("text")  # type: ignore[arg-type]
            process.stdin.close()
            assert process.stdout is not None
            return await process.stdout.read()

    assert in_loop(scenario) == b""


def test_two_coroutines_may_write_and_drain() -> None:
    """As with asyncio, several coroutines may write and drain one stream; each one's pieces come whole."""

    async def scenario() -> bytes:
        async with open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
            stdin, stdout = process.stdin, process.stdout
            assert stdin is not None
            assert stdout is not None

            async def produce(letter: bytes) -> None:
                for _ in range(10):
                    stdin.write(letter * 99_999 + b"\n")
                    await stdin.drain()

            async def all_of_it() -> None:
                await asyncio.gather(produce(b"a"), produce(b"b"))
                stdin.close()

            return (await asyncio.gather(stdout.read(), all_of_it()))[0]

    lines = in_loop(scenario).splitlines()
    assert sorted(lines) == [b"a" * 99_999] * 10 + [b"b" * 99_999] * 10


def test_a_parent_with_the_default_sigpipe_survives() -> None:
    """L01: with SIGPIPE at its default, which ends a process, no way of writing to a deaf child ends this one."""
    code = """
import asyncio, os, signal, subprocess, tempfile
from procbench import open_process
from procbench.errors import StreamBrokenError
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
DEAF = ["sh", "-c", "exec 0<&-; echo; sleep 90"]
async def one(way):
    async with open_process(DEAF, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        await process.stdout.readline()
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 10); file.seek(0)
            try:
                if way == "write":
                    process.stdin.write(b"x"); await process.stdin.drain()
                elif way == "batch_write":
                    await process.stdin.batch_write([b"x"])
                elif way == "send_file":
                    await process.stdin.send_file(file.fileno())
                else:
                    asyncio.get_running_loop().call_later(0.1, process.kill)
                    await process.communicate(b"x")
                    assert (await process.result()).stdin_error == "EPIPE"
                    print(way, "done"); return
            except StreamBrokenError:
                print(way, "broken")
        process.kill()
for way in ("write", "batch_write", "send_file", "communicate"):
    asyncio.run(asyncio.wait_for(one(way), 30))
for transport in ("write", "vmsplice"):
    async def given():
        async with open_process(["true"], input=bytes(4 << 20), transport=transport) as process:
            return await process.result()
    print(asyncio.run(given()).stdin_error)
"""
    assert run_python(code).splitlines() == [
        "write broken",
        "batch_write broken",
        "send_file broken",
        "communicate done",
        "EPIPE",
        "EPIPE",
    ]
