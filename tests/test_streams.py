"""What a child writes comes whole and in order, whatever way and in whatever pieces it is read."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from procbench import KEEP, open_process
from procbench.errors import ClosedError, InvalidInputError, LineTooLongError, StreamBusyError
from procbench.io.io_pools import BufferSizes, IoPool
from procbench.io.process import Process
from tests.loops import MOUTH, PYTHON, end_processes_with, in_loop, lent, until
from tests.waiting import long_sleep

PIPE = subprocess.PIPE
MIB = 1 << 20
CALM = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def everything_comes_back() -> Iterator[None]:
    """After each test no permit and no buffer is out."""
    yield
    assert lent() == (0, 0, 0)


def say(process: Process, *pieces: bytes) -> None:
    """Have a ``MOUTH`` write these pieces, one write each."""
    assert process.stdin is not None
    for piece in pieces:
        process.stdin.write(repr(piece).encode() + b"\n")


# --- lines -----------------------------------------------------------------------------------------------------------

LENGTHS = [0, 1, 0, 4095, 4096, 4097, 65_534, 65_535, 65_536, 70_000, 0, MIB - 1, MIB, 3, 16 * MIB, 2, 0]
WRITER = "import os, sys\nfor path in sys.argv[1:]:\n  with open(path, 'rb') as f: sys.stdout.buffer.write(f.read())"


@pytest.mark.parametrize("end", [b"\n", b""], ids=["ended", "unended"])
@pytest.mark.parametrize("how", ["lines", "async for", "readline", "readuntil", "limited readline"])
def test_lines_of_any_length_come_whole(how: str, end: bytes, tmp_path: Any) -> None:
    """L14: lines of 0 bytes to 16 MiB are equal to what was written, the last one with or without its end."""
    some = random.Random(14).randbytes(max(LENGTHS)).replace(b"\n", b"n")
    whole = b"\n".join(some[:length] for length in LENGTHS) + end
    (tmp_path / "text").write_bytes(whole)

    async def scenario() -> list[bytes]:
        async with open_process([*PYTHON, WRITER, str(tmp_path / "text")], stdout=PIPE) as process:
            stream = process.stdout
            assert stream is not None
            if how == "lines":
                return [line async for line in stream.lines()]
            if how == "async for":
                return [line async for line in stream]
            lines = []
            while True:
                try:
                    if how == "readuntil":
                        line = await stream.readuntil()
                    else:
                        line = await (stream.readline(limit_bytes=17 * MIB) if how[0] == "l" else stream.readline())
                except asyncio.IncompleteReadError as error:
                    line = error.partial
                lines.append(line)
                if not line.endswith(b"\n"):
                    return lines if line else lines[:-1]

    lines = in_loop(scenario)
    assert [len(line) for line in lines] == [len(line) for line in io.BytesIO(whole).readlines()]
    assert hashlib.sha256(b"".join(lines)).digest() == hashlib.sha256(whole).digest()


@settings(CALM, max_examples=40)
@given(
    pieces=st.lists(st.text("ab\n|", max_size=12).map(str.encode), min_size=1, max_size=12),
    chunk=st.sampled_from([1, 2, 3, 5, 16, 17, 65_536]),
    separator=st.sampled_from([b"\n", b"|", b"a|", b"ab", b"aab", b"||", b"a\n|b"]),
)
def test_a_separator_is_found_wherever_the_pieces_break(pieces: list[bytes], chunk: int, separator: bytes) -> None:
    """L14: readuntil gives what bytes.split gives, for any chunk size, pieces of writing and separator."""
    whole = b"".join(pieces)

    async def scenario() -> list[bytes]:
        sizes = BufferSizes(stdout=chunk)
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE, sizes=sizes) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            say(process, *pieces)
            parts = []
            for _ in range(whole.count(separator)):  # it is there, so it must come although the child writes on later
                parts.append(await process.stdout.readuntil(separator))
            process.stdin.close()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await process.stdout.readuntil(separator)
            assert process.stdout.at_eof()
            return [*parts, caught.value.partial]

    *parts, rest = in_loop(scenario)
    assert b"".join(parts) + rest == whole
    assert [*parts, rest] == [part + separator for part in whole.split(separator)[:-1]] + [whole.split(separator)[-1]]


@pytest.mark.parametrize("method", ["readuntil", "readline"])
@pytest.mark.parametrize("chunk", [1, 7, 65_536])
def test_a_line_over_the_limit_stays_unread(method: str, chunk: int) -> None:
    """L14: the limit's error carries the line's beginning, and the next reads give the whole line."""
    line = bytes(range(32, 127)) * 3 + b"\n"

    async def scenario() -> None:
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE, sizes=BufferSizes(stdout=chunk)) as process:
            stream = process.stdout
            assert stream is not None
            say(process, line, b"next\n")
            for limit in (1, 7, 100, len(line) - 1):
                with pytest.raises(LineTooLongError) as caught:
                    await getattr(stream, method)(limit_bytes=limit)
                assert (caught.value.limit_bytes, caught.value.partial) == (limit, line[:limit])
            assert await stream.read(5) == line[:5]
            assert await getattr(stream, method)(limit_bytes=len(line) - 5) == line[5:]
            assert await stream.readline() == b"next\n"

    in_loop(scenario)


@pytest.mark.parametrize("seen", [False, True], ids=["end not seen", "end seen"])
@pytest.mark.parametrize("limit", [3, 4])
def test_the_last_line_may_be_as_long_as_the_limit(limit: int, seen: bool) -> None:
    """A last line without an end, of exactly the limit, is a line, whether the stream's end was seen before or not."""

    async def scenario() -> bytes:
        async with open_process(["printf", "abc"], stdout=PIPE) as process:
            assert process.stdout is not None
            if seen:
                await process.wait()
                await until(lambda: process.stdout is not None and process.stdout.total_bytes == 3)
            return await process.stdout.readline(limit_bytes=limit)

    assert in_loop(scenario) == b"abc"


@pytest.mark.parametrize("size", [15, 16, 17, 31, 32, 33, 48])
def test_a_line_that_is_there_is_not_waited_for(size: int) -> None:
    """However many reads a line takes, it comes when its end has come, though the child writes no more."""
    line = b"x" * (size - 1) + b"\n"

    async def scenario() -> None:
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE, sizes=BufferSizes(stdout=1)) as process:
            stream = process.stdout
            assert stream is not None
            for read in (stream.readuntil, stream.readline, lambda: stream.readline(limit_bytes=99)):
                say(process, line)
                assert await read() == line
            say(process, line)
            assert await stream.readexactly(size) == line

    in_loop(scenario, deadline_s=20)


# --- any way of reading after any other ------------------------------------------------------------------------------

POOL_BUFFER = 512


class Reading(RuleBasedStateMachine):
    """cat gives back what it is fed; the model knows what of that was not read yet.

    How much that is hangs on how fast cat is, so no precondition may ask for it: hypothesis wants to draw the same again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.unread = b""
        self.ended = False

    @initialize(chunk=st.sampled_from([1, 3, 64, 1000, 65_536]))
    def begin(self, chunk: int) -> None:
        self.pool = IoPool("reading", BufferSizes(stdout=POOL_BUFFER, stderr=POOL_BUFFER), buffers=64)
        sizes = BufferSizes(stdout=chunk)

        async def start() -> Process:
            return await open_process(["cat"], stdin=PIPE, stdout=PIPE, sizes=sizes, io_pool=self.pool)

        self.process = self.runner.run(start())
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stream = self.process.stdin, self.process.stdout

    def do(self, operation: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(20):
                return await operation

        return self.runner.run(bounded())

    def took(self, data: bytes) -> None:
        assert self.unread[: len(data)] == data
        self.unread = self.unread[len(data) :]

    @precondition(lambda self: not self.ended)
    @rule(
        data=st.one_of(
            st.text("ab\n", max_size=40).map(str.encode), st.integers(0, 99).map(lambda n: b"%d\n" % n * 1500)
        )
    )
    def feed(self, data: bytes) -> None:
        async def write() -> None:
            self.stdin.write(data)

        self.do(write())
        self.unread += data

    @precondition(lambda self: not self.ended)
    @rule()
    def end(self) -> None:
        async def close() -> None:
            self.stdin.close()

        self.do(close())
        self.ended = True

    @rule(n=st.sampled_from([0, 1, 2, 7, 600, 70_000]))
    def read(self, n: int) -> None:
        if not (self.unread or self.ended):
            return
        data = self.do(self.stream.read(n))
        assert len(data) <= n
        assert bool(data) == bool(n and self.unread)
        self.took(data)

    @precondition(lambda self: self.ended)
    @rule()
    def read_all(self) -> None:
        data = self.do(self.stream.read())
        assert data == self.unread
        self.unread = b""
        assert self.stream.at_eof()

    @rule(share=st.floats(0, 1), over=st.booleans())
    def readexactly(self, share: float, over: bool) -> None:
        if over and self.ended:
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                self.do(self.stream.readexactly(len(self.unread) + 1))
            data = caught.value.partial
            assert data == self.unread
        else:
            n = int(share * len(self.unread))
            data = self.do(self.stream.readexactly(n))
            assert len(data) == n
        self.took(data)

    @rule(separator=st.sampled_from([b"\n", b"ab", b"a\n", b"\n\n"]), limit=st.sampled_from([None, 1, 5, 3000]))
    def readuntil(self, separator: bytes, limit: int | None) -> None:
        at = self.unread.find(separator)
        end = at + len(separator) if at >= 0 else None
        if limit is not None and ((end or 0) > limit or (end is None and len(self.unread) > limit)):
            with pytest.raises(LineTooLongError) as refused:
                self.do(self.stream.readuntil(separator, limit_bytes=limit))
            assert refused.value.partial == self.unread[:limit]
        elif end is not None:
            data = self.do(self.stream.readuntil(separator, limit_bytes=limit))
            assert data == self.unread[:end]
            self.took(data)
        elif self.ended:
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                self.do(self.stream.readuntil(separator, limit_bytes=limit))
            assert caught.value.partial == self.unread
            self.unread = b""

    @rule()
    def readline(self) -> None:
        if not (self.ended or b"\n" in self.unread):
            return
        data = self.do(self.stream.readline())
        assert data == io.BytesIO(self.unread).readline()
        self.took(data)

    @rule(most=st.integers(1, 4))
    def lines(self, most: int) -> None:
        if not (self.ended or b"\n" in self.unread):
            return
        expected = io.BytesIO(self.unread).readlines()
        if not self.ended:
            expected = [line for line in expected if line.endswith(b"\n")]
        expected = expected[:most]

        async def some() -> list[bytes]:
            lines: list[bytes] = []
            if len(lines) == len(expected):
                return lines
            async for line in self.stream:
                lines.append(line)
                if len(lines) == len(expected):
                    break
            return lines

        lines = self.do(some())
        assert lines == expected
        self.took(b"".join(lines))

    @rule(n=st.sampled_from([0, 1, 100, 70_000]))
    def read_into(self, n: int) -> None:
        if not (self.unread or self.ended):
            return
        room = bytearray(n)
        count = self.do(self.stream.read_into(room))
        assert bool(count) == bool(n and self.unread)
        assert room[count:] == bytes(n - count)
        self.took(bytes(room[:count]))

    @rule(most=st.integers(1, 40))
    def batch_read(self, most: int) -> None:
        if not self.ended:
            most = min(most, len(self.unread) // POOL_BUFFER)
        if not most:
            return
        buffers = self.do(self.stream.batch_read(most))
        pieces = [bytes(buffer.view) for buffer in buffers]
        for buffer in buffers:
            buffer.release()
        wanted = self.unread[: most * POOL_BUFFER]
        assert pieces == [wanted[at : at + POOL_BUFFER] for at in range(0, len(wanted), POOL_BUFFER)]
        self.took(wanted)

    @rule(
        how=st.sampled_from(["read", "all", "readexactly", "readuntil", "readline", "read_into", "batch_read"]),
        turns=st.integers(0, 3),
    )
    def cancelled(self, how: str, turns: int) -> None:
        room = bytearray(50)
        operation = {
            "read": lambda: self.stream.read(50),
            "all": self.stream.read,
            "readexactly": lambda: self.stream.readexactly(len(self.unread) + 1),
            "readuntil": lambda: self.stream.readuntil(b"never there"),
            "readline": self.stream.readline,
            "read_into": lambda: self.stream.read_into(room),
            "batch_read": lambda: self.stream.batch_read(64),
        }[how]

        async def begin_and_leave() -> bytes:
            task: asyncio.Task[Any] = asyncio.ensure_future(operation())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                result = await task
            except asyncio.CancelledError:
                return b""
            except asyncio.IncompleteReadError as error:
                return error.partial
            if isinstance(result, list):
                data = b"".join(bytes(buffer.view) for buffer in result)
                for buffer in result:
                    buffer.release()
                return data
            return bytes(room[:result]) if isinstance(result, int) else result

        self.took(self.do(begin_and_leave()))

    def teardown(self) -> None:
        async def finish() -> None:
            assert await self.stream.read() == self.unread
            assert await self.process.wait() == 0
            await self.process.aclose()

        if hasattr(self, "process"):
            if not self.ended:
                self.end()
            try:
                self.do(finish())
            finally:
                self.do(self.process.end())
                self.do(self.process.aclose())
                self.pool.close()
        self.runner.close()


def test_any_way_of_reading_may_follow_any_other() -> None:
    """L14: read, lines, readuntil, batches and cancelled reads in any order give back exactly what was written."""
    run_state_machine_as_test(Reading, settings=settings(CALM, max_examples=60, stateful_step_count=25))


def test_read_to_the_end_after_a_line() -> None:
    """read() gives the rest, the lines that were cut off already too."""

    async def scenario() -> tuple[bytes, bytes, bytes, bool]:
        async with open_process(["printf", "a\\nb\\nc\\nd"], stdout=PIPE) as process:
            stream = process.stdout
            assert stream is not None
            return await stream.readline(), await stream.read(), await stream.read(), stream.at_eof()

    assert in_loop(scenario) == (b"a\n", b"b\nc\nd", b"", True)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffers", [1, 16, 31, 32, 33, 511, 512, 513, 1024])
def test_a_full_batch_is_not_waited_for(buffers: int) -> None:
    """Once the buffers are full they are given, though the child writes no more and lives on."""

    async def scenario() -> bytes:
        pool = IoPool("tiny", BufferSizes(stdout=1, stderr=1), buffers=1024)
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE, io_pool=pool) as process:
            assert process.stdout is not None
            say(process, b"y" * buffers)
            batch = await process.stdout.batch_read(buffers)
            whole = b"".join(buffer.view for buffer in batch)
            for buffer in batch:
                buffer.release()
        pool.close()
        return whole

    assert in_loop(scenario, deadline_s=20) == b"y" * buffers


def test_two_batches_of_one_pool_do_not_wait_for_each_other() -> None:
    """Two streams whose batches share a pool that is too small for both come to their end."""

    async def scenario() -> tuple[bytes, bytes]:
        pool = IoPool("small", BufferSizes(stdout=4096, stderr=4096), buffers=4)
        code = (
            "import os, threading\n"
            "t = threading.Thread(target=lambda: os.write(2, b'2' * 200_000)); t.start(); os.write(1, b'1' * 200_000); t.join()"
        )

        async def all_of(stream: Any) -> bytes:
            got = b""
            while batch := await stream.batch_read(4):
                for buffer in batch:
                    got += buffer.view
                    buffer.release()
            return got

        async with open_process([*PYTHON, code], stdout=PIPE, stderr=PIPE, io_pool=pool) as process:
            got = await asyncio.gather(all_of(process.stdout), all_of(process.stderr))
        pool.close()
        return got[0], got[1]

    assert in_loop(scenario, deadline_s=20) == (b"1" * 200_000, b"2" * 200_000)


@pytest.mark.parametrize("most", [0, -1, 65])
def test_a_batch_that_the_pool_cannot_hold_is_refused(most: int) -> None:
    """max_buffers below 1, or above what the pool has, is refused before anything is read."""

    async def scenario() -> None:
        pool = IoPool("small", buffers=64)
        async with open_process(["echo", "x"], stdout=PIPE, io_pool=pool) as process:
            assert process.stdout is not None
            with pytest.raises(InvalidInputError):
                await process.stdout.batch_read(most)
            assert await process.stdout.read() == b"x\n"
        pool.close()

    in_loop(scenario)


def test_while_a_batch_waits_for_a_buffer_nobody_else_reads() -> None:
    """A batch that waits for the pool keeps its place: another reader is told that the stream is busy."""

    async def scenario() -> bytes:
        pool = IoPool("single", BufferSizes(stdout=4, stderr=4), buffers=2)
        held = pool.read.acquire_nowait()
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE, io_pool=pool) as process:
            stream = process.stdout
            assert stream is not None
            batch = asyncio.ensure_future(stream.batch_read(2))
            other = pool.read.acquire_nowait()
            await asyncio.sleep(0)
            say(process, b"abcdefgh")
            with pytest.raises(StreamBusyError):
                await stream.read(1)
            held.release()
            other.release()
            got = b""
            for buffer in await batch:
                got += buffer.view
                buffer.release()
            assert process.stdin is not None
            process.stdin.close()
            got += await stream.read()
        pool.close()
        return got

    assert in_loop(scenario, deadline_s=20) == b"abcdefgh"


# --- one reader at a time, and the end of reading --------------------------------------------------------------------

READERS: dict[str, Any] = {
    "read": lambda stream: stream.read(1),
    "read all": lambda stream: stream.read(),
    "readexactly": lambda stream: stream.readexactly(9),
    "readuntil": lambda stream: stream.readuntil(b"no"),
    "readline": lambda stream: stream.readline(),
    "limited readline": lambda stream: stream.readline(limit_bytes=9),
    "lines": lambda stream: anext(stream.lines()),
    "read_into": lambda stream: stream.read_into(bytearray(1)),
    "batch_read": lambda stream: stream.batch_read(1),
}


@pytest.mark.parametrize("second", READERS)
@pytest.mark.parametrize("first", READERS)
def test_two_readers_at_a_time_are_refused(first: str, second: str) -> None:
    """Who reads while another coroutine waits to read gets a StreamBusyError, and the first one is not disturbed."""

    async def scenario() -> None:
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE) as process:
            assert process.stdout is not None
            task = asyncio.ensure_future(READERS[first](process.stdout))
            await asyncio.sleep(0)
            with pytest.raises(StreamBusyError):
                await READERS[second](process.stdout)
            assert not task.done()
            task.cancel()
            await asyncio.wait([task])

    in_loop(scenario)


@pytest.mark.parametrize("second", READERS)
def test_lines_that_were_cut_already_are_not_taken_from_a_reader(second: str) -> None:
    """Also with lines in store, a second reader is refused while the first waits for the end."""

    async def scenario() -> bytes:
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE) as process:
            stream = process.stdout
            assert stream is not None
            say(process, b"a\nb\nc\n")
            assert await stream.readline() == b"a\n"
            task = asyncio.ensure_future(stream.read())
            await asyncio.sleep(0)
            with pytest.raises(StreamBusyError):
                await READERS[second](stream)
            assert process.stdin is not None
            process.stdin.close()
            return await task

    assert in_loop(scenario) == b"b\nc\n"


@pytest.mark.parametrize("method", READERS)
@pytest.mark.parametrize("store", [b"", b"a\nb\nc\n"], ids=["nothing read", "lines in store"])
def test_reading_from_a_closed_stream_is_an_error(method: str, store: bytes) -> None:
    """After close() every way of reading raises ClosedError, whatever had come before."""

    async def scenario() -> None:
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE) as process:
            stream = process.stdout
            assert stream is not None
            if store:
                say(process, store)
                await stream.readline()
            stream.close()
            stream.close()
            with pytest.raises(ClosedError):
                await READERS[method](stream)

    in_loop(scenario)


@pytest.mark.parametrize("method", READERS)
def test_a_reader_is_told_that_the_stream_was_closed(method: str) -> None:
    """A coroutine that waits to read gets a ClosedError when another one closes the stream."""

    async def scenario() -> None:
        async with open_process(["sleep", long_sleep()], stdout=PIPE) as process:
            assert process.stdout is not None
            task = asyncio.ensure_future(READERS[method](process.stdout))
            await asyncio.sleep(0)
            process.stdout.close()
            with pytest.raises(ClosedError):
                await task
            process.kill()

    in_loop(scenario)


def test_a_child_whose_output_was_closed_gets_sigpipe() -> None:
    """close() makes a child that goes on writing end by SIGPIPE."""

    async def scenario() -> int | None:
        async with open_process(["yes"], stdout=PIPE) as process:
            assert process.stdout is not None
            await process.stdout.read(1)
            process.stdout.close()
            return await process.wait()

    assert in_loop(scenario) == -13


def test_nobody_reads_what_is_kept_for_the_result() -> None:
    """A stream that is kept is no stream to read from; the other one is, and both are whole."""

    async def scenario() -> None:
        code = "import os\nfor i in range(3000): os.write(2, b'e' * 1000); os.write(1, b'o' * 10)"
        async with open_process([*PYTHON, code], stdout=PIPE, stderr=KEEP) as process:
            assert process.stderr is None
            assert process.stdout is not None
            count = 0
            while data := await process.stdout.read(4096):
                count += len(data)
            result = await process.result()
            assert count == result.stdout_bytes == 30_000
            assert result.stderr == b"e" * 3_000_000
            assert (result.stdout, result.stderr_bytes, result.truncated) == (None, 3_000_000, False)

    in_loop(scenario)


def test_counted_bytes_are_what_was_read() -> None:
    """The result counts what went through streams that were read by hand, by whichever method."""

    async def scenario() -> None:
        pool = IoPool("counted", BufferSizes(stdout=100, stderr=100), buffers=1)
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE, io_pool=pool) as process:
            stream = process.stdout
            assert stream is not None
            say(process, b"12345\n" * 100)
            await stream.readline()
            await stream.read(3)
            await stream.read_into(bytearray(10))
            (buffer,) = await stream.batch_read(1)
            assert len(buffer.view) == 100
            buffer.release()
            await stream.readexactly(600 - 6 - 3 - 10 - 100)
            assert process.stdin is not None
            process.stdin.close()
            assert await stream.read() == b""
            result = await process.result()
            assert (result.stdout_bytes, stream.total_bytes, result.stdout) == (600, 600, None)
            assert not result.truncated
        pool.close()

    in_loop(scenario)


# --- back-pressure ---------------------------------------------------------------------------------------------------


def test_a_child_that_nobody_reads_from_stands_still(tmp_path: Any) -> None:
    """Nothing is read before it is asked for: the child writes what its pipe holds, and one piece more for each that is read."""
    count = tmp_path / "count"
    count.write_bytes(bytes(8))
    code = (
        "import os, sys\nfd = os.open(sys.argv[1], os.O_WRONLY)\nn = 0\n"
        "while True: os.write(1, bytes(4096)); n += 1; os.pwrite(fd, n.to_bytes(8), 0)"
    )

    def written() -> int:
        return int.from_bytes(count.read_bytes())

    async def scenario() -> None:
        async with open_process([*PYTHON, code, str(count)], stdout=PIPE) as process:
            assert process.stdout is not None
            await until(lambda: written() == 16)
            for _ in range(20):
                await asyncio.sleep(0.005)
            assert written() == 16
            for more in range(17, 21):
                assert len(await process.stdout.readexactly(4096)) == 4096
                held = await process.stdout.read(0)
                assert held == b""
                assert written() <= 16 + 16 + more  # what it takes at once is a chunk, no more than a pipe
            process.kill()

    in_loop(scenario)


def test_a_pipe_that_is_not_read_costs_no_wakeups() -> None:
    """While a child's full pipe is left alone the loop sleeps: nothing is armed."""

    async def scenario() -> int:
        calls = 0
        async with open_process(["yes"], stdout=PIPE) as process:
            assert process.stdout is not None
            await process.stdout.read(1)
            reactor = process._watch._reactor
            dispatch = reactor._dispatch

            def counted() -> None:
                nonlocal calls
                calls += 1
                dispatch()

            asyncio.get_running_loop().add_reader(reactor._epoll.fileno(), counted)
            for _ in range(50):
                await asyncio.sleep(0.001)
            asyncio.get_running_loop().add_reader(reactor._epoll.fileno(), dispatch)
            process.kill()
        return calls

    assert in_loop(scenario) <= 1


# --- a descendant that holds the pipe --------------------------------------------------------------------------------

LEAVES_A_HOLDER = "echo hi; sleep {} & exit 3"


@pytest.mark.parametrize("method", ["read", "lines", "readline", "batch_read", "read_into", "readexactly", "readuntil"])
def test_a_held_pipe_ends_with_the_grace(method: str) -> None:
    """L03: a read ends soon after the child, though a grandchild holds the pipe, and the result says so."""
    marker = long_sleep()

    async def scenario() -> None:
        argv = ["sh", "-c", LEAVES_A_HOLDER.format(marker)]
        try:
            process = await open_process(argv, stdout=PIPE, drain_grace_s=0.1)
            stream = process.stdout
            assert stream is not None
            got = b""
            if method == "lines":
                got = b"".join([line async for line in stream])
            elif method == "readline":
                while line := await stream.readline():
                    got += line
            elif method == "batch_read":
                for buffer in await stream.batch_read(3):
                    got += buffer.view
                    buffer.release()
            elif method == "read_into":
                room = bytearray(10)
                while count := await stream.read_into(room):
                    got += room[:count]
            elif method == "read":
                got = await stream.read()
            else:
                with pytest.raises(asyncio.IncompleteReadError) as caught:
                    await (stream.readexactly(9) if method == "readexactly" else stream.readuntil(b"no"))
                got = caught.value.partial
            assert got == b"hi\n"
            assert stream.held
            assert stream.at_eof()
            result = await process.result()
            assert (result.pipe_held_by_descendant, result.returncode, result.truncated) == (True, 3, True)
            await process.aclose()
        finally:
            end_processes_with(marker)

    in_loop(scenario, deadline_s=20)


def test_within_the_grace_a_descendant_still_writes() -> None:
    """L03: what a grandchild writes after the child's end, within the grace, still comes."""

    async def scenario() -> bytes:
        code = (
            "import os\nparent = os.getpid()\nif os.fork() == 0:\n"
            "  while os.getppid() == parent: pass\n"
            "  os.write(1, b'late')\n"
        )
        async with open_process([*PYTHON, code], stdout=PIPE, drain_grace_s=30) as process:
            assert process.stdout is not None
            data = await process.stdout.read()
            assert not (await process.result()).pipe_held_by_descendant
            return data

    assert in_loop(scenario) == b"late"


def test_kept_streams_end_with_the_grace_too() -> None:
    """L03: a kept stream that a grandchild holds does not keep the result waiting, and the result says so."""
    marker = long_sleep()

    async def scenario() -> None:
        argv = ["sh", "-c", f"echo hi >&2; sleep {marker} & exit 3"]
        process = await open_process(argv, stderr=KEEP, drain_grace_s=0.1)
        result = await process.result()
        assert (result.stderr, result.returncode, result.pipe_held_by_descendant) == (b"hi\n", 3, True)
        await process.aclose()

    try:
        in_loop(scenario, deadline_s=20)
    finally:
        end_processes_with(marker)


def test_a_pipe_that_nobody_holds_is_not_called_held() -> None:
    """What is read long after the child's end, and after the grace, is read to its true end."""

    async def scenario() -> None:
        async with open_process(["seq", "1000"], stdout=PIPE, drain_grace_s=0) as process:
            assert process.stdout is not None
            await until(lambda: process.returncode is not None)
            await asyncio.sleep(0.01)
            assert (await process.stdout.read()).count(b"\n") == 1000
            assert not (await process.result()).pipe_held_by_descendant

    in_loop(scenario)


def test_the_end_is_seen_when_the_child_closes_its_output_and_lives() -> None:
    """End of file is the child's closing its end, not its exit."""

    async def scenario() -> None:
        code = "import os; os.write(1, b'x'); os.close(1); os.read(0, 1)"
        async with open_process([*PYTHON, code], stdin=PIPE, stdout=PIPE) as process:
            assert process.stdout is not None
            assert await process.stdout.read() == b"x"
            assert process.returncode is None

    in_loop(scenario, deadline_s=20)


def test_a_memory_view_is_read_into_without_a_copy() -> None:
    """read_into fills the caller's own memory, pooled buffers' views among it, and never more than that."""

    async def scenario() -> None:
        pool = IoPool("own", BufferSizes(stdout=8, stderr=8), buffers=1)
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE) as process:
            assert process.stdout is not None
            say(process, b"0123456789")
            with pool.read.acquire_nowait() as view:
                assert await process.stdout.read_into(view) == 8
                assert bytes(view) == b"01234567"
            assert await process.stdout.read_into(bytearray(0)) == 0
            room = bytearray(b"________")
            assert await process.stdout.read_into(memoryview(room)[2:]) == 2
            assert room == b"__89____"
        pool.close()

    in_loop(scenario)
