"""``open_process`` means what asyncio's ``create_subprocess_exec`` means, and waits for nobody but the child."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import importlib
import math
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from procbench import KEEP, open_process
from procbench.errors import (
    ClosedError,
    InvalidInputError,
    ProcessGoneError,
    ProgramNotFoundError,
    StreamBusyError,
)
from procbench.io.io_pools import BufferSizes
from procbench.io.reactor import READ, Reactor
from procbench.io.streams import ReadStream
from tests.loops import MOUTH, PYTHON, end_processes_with, in_loop, lent, until
from tests.waiting import ROOT, long_sleep, processes_with

PIPE, NULL, STDOUT = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT

uvloop: Any = None
with contextlib.suppress(ImportError):
    uvloop = importlib.import_module("uvloop")
    uvloop.new_event_loop().close()  # its first loop opens a pipe for signals that stays for good


@pytest.fixture(autouse=True)
def everything_comes_back() -> Iterator[None]:
    """After each test no permit and no buffer is out."""
    yield
    assert lent() == (0, 0, 0)


# --- the same as asyncio ---------------------------------------------------------------------------------------------


async def _caught(awaitable: Awaitable[Any]) -> Any:
    """Return what it returns, or what can be compared of what it raises."""
    try:
        return await awaitable
    except asyncio.IncompleteReadError as error:
        return "incomplete", error.partial
    except BrokenPipeError:
        return "broken"
    except ConnectionResetError:  # asyncio's word for it, once its transport is closed
        return "broken"


async def _reads(process: Any) -> Any:
    out = process.stdout
    return [
        await out.readexactly(2),
        await out.readline(),
        await out.readuntil(b"|"),
        await out.read(0),
        await out.readline(),
        await _caught(out.readexactly(100)),
        out.at_eof(),
        await out.read(5),
        await out.read(),
        await out.readline(),
        await _caught(out.readexactly(1)),
        await _caught(out.readuntil(b"x")),
    ]


async def _readline_at_the_end(process: Any) -> Any:
    return [await process.stdout.readline() for _ in range(4)] + [process.stdout.at_eof()]


async def _iterated(process: Any) -> Any:
    return [line async for line in process.stdout]


async def _until_without_separator(process: Any) -> Any:
    return [await _caught(process.stdout.readuntil(b"nowhere")), process.stdout.at_eof()]


async def _bad_arguments(process: Any) -> Any:
    said = []
    for bad in (lambda: process.stdout.readexactly(-1), lambda: process.stdout.readuntil(b"")):
        try:
            await bad()
        except ValueError:
            said.append("ValueError")
    return [*said, await process.stdout.read()]


async def _read_to_the_end(process: Any) -> Any:
    return [await process.stdout.read(), process.stdout.at_eof(), await process.wait(), process.returncode]


async def _line_then_all(process: Any) -> Any:
    return [await process.stdout.readline(), await process.stdout.read()]


async def _line_then_communicate(process: Any) -> Any:
    return [await process.stdout.readline(), *await process.communicate()]


async def _communicated(process: Any) -> Any:
    return [*await process.communicate(), process.returncode]


def _given(data: bytes) -> Any:
    async def given(process: Any) -> Any:
        return [*await process.communicate(data), process.returncode]

    return given


async def _written_then_communicated(process: Any) -> Any:
    process.stdin.write(b"first " * 50_000)
    return [*await process.communicate(b"second")]


async def _written(process: Any) -> Any:
    process.stdin.write(b"one ")
    process.stdin.writelines([b"two ", b"", b"three"])
    await process.stdin.drain()
    before = process.stdin.is_closing()
    process.stdin.close()
    await process.stdin.wait_closed()
    return [before, process.stdin.is_closing(), await process.stdout.read(), await process.wait()]


async def _waited(process: Any) -> Any:
    return [process.returncode, await process.wait(), process.returncode, await process.wait()]


def _signalled(number: int) -> Any:
    async def signalled(process: Any) -> Any:
        process.send_signal(number)
        return [await process.wait(), process.returncode]

    return signalled


def _called(name: str) -> Any:
    async def called(process: Any) -> Any:
        getattr(process, name)()
        return [await process.wait(), process.returncode]

    return called


async def _signalled_too_late(process: Any) -> Any:
    await process.wait()
    said = []
    for late in (process.terminate, process.kill, lambda: process.send_signal(signal.SIGUSR1)):
        try:
            late()
        except ProcessLookupError:
            said.append("ProcessLookupError")
    return said


async def _is_running(process: Any) -> Any:
    state = [process.returncode, process.stdin is None, process.stdout is None, process.stderr is None, process.pid > 0]
    process.kill()
    return [*state, await process.wait()]


TEXT = ["printf", "ab1\\ncd|ef\\n\\nghi"]
SAME: dict[str, tuple[list[str], dict[str, Any], Callable[[Any], Any]]] = {
    "reads of every kind": (TEXT, {"stdout": PIPE}, _reads),
    "readline at the end": (["printf", "a\\n\\nlast"], {"stdout": PIPE}, _readline_at_the_end),
    "readline of nothing": (["true"], {"stdout": PIPE}, _readline_at_the_end),
    "iteration": (["printf", "a\\n\\nb\\nlast"], {"stdout": PIPE}, _iterated),
    "no separator": (["printf", "abc"], {"stdout": PIPE}, _until_without_separator),
    "bad arguments": (["printf", "abc"], {"stdout": PIPE}, _bad_arguments),
    "read to the end": (["head", "-c", "500000", "/dev/zero"], {"stdout": PIPE}, _read_to_the_end),
    "a line, then all": (TEXT, {"stdout": PIPE}, _line_then_all),
    "a line, then communicate": (TEXT, {"stdout": PIPE, "stderr": PIPE}, _line_then_communicate),
    "communicate": (["sh", "-c", "echo out; echo err >&2; exit 3"], {"stdout": PIPE, "stderr": PIPE}, _communicated),
    "communicate, stderr follows": (
        ["sh", "-c", "echo o; echo e >&2"],
        {"stdout": PIPE, "stderr": STDOUT},
        _communicated,
    ),
    "communicate, only stderr": (["sh", "-c", "echo o; echo e >&2"], {"stdout": NULL, "stderr": PIPE}, _communicated),
    "communicate, nothing is a pipe": (["true"], {}, _communicated),
    "communicate with input": (["cat"], {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}, _given(b"abc" * 100_000)),
    "communicate with no bytes": (["cat"], {"stdin": PIPE, "stdout": PIPE}, _given(b"")),
    "input that the child does not read": (["true"], {"stdin": PIPE, "stdout": PIPE}, _given(bytes(1 << 20))),
    "input that it reads a part of": (
        ["head", "-c", "9"],
        {"stdin": PIPE, "stdout": PIPE},
        _given(b"123456789" * 99_999),
    ),
    "write, then communicate": (["cat"], {"stdin": PIPE, "stdout": PIPE}, _written_then_communicated),
    "writing and closing": (["cat"], {"stdin": PIPE, "stdout": PIPE}, _written),
    "wait": (["sh", "-c", "read x; exit 7"], {"stdin": NULL}, _waited),
    "terminate": (["sleep", "90"], {}, _called("terminate")),
    "kill": (["sleep", "90"], {}, _called("kill")),
    "SIGINT": (["sleep", "90"], {}, _signalled(signal.SIGINT)),
    "a real-time signal": (["sleep", "90"], {}, _signalled(signal.SIGRTMIN + 3)),
    "a caught signal": ([*PYTHON, "import os; os.kill(os.getpid(), 10)"], {}, _waited),
    "signals after the end": (["true"], {}, _signalled_too_late),
    "attributes": (["sleep", "90"], {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}, _is_running),
    "attributes without pipes": (["sleep", "90"], {"stdin": NULL, "stdout": NULL, "stderr": NULL}, _is_running),
    "folder": (["pwd"], {"cwd": "/usr/bin", "stdout": PIPE}, _communicated),
    "environment": (["/usr/bin/env"], {"env": {"A": "b"}, "stdout": PIPE}, _communicated),
}
if sys.version_info >= (3, 12):  # before, it left the child's standard input open, and waited for ever
    SAME["communicate closes stdin"] = (["cat"], {"stdin": PIPE, "stdout": PIPE}, _communicated)


@pytest.mark.parametrize("case", SAME)
def test_a_process_means_what_it_means_to_asyncio(case: str) -> None:
    """Every method that asyncio's Process, StreamReader and StreamWriter have returns and raises what it does there."""
    argv, how, scenario = SAME[case]

    async def theirs() -> Any:
        process = await asyncio.create_subprocess_exec(*argv, **how)
        said = await scenario(process)
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        return said

    async def ours() -> Any:
        async with open_process(argv, **how) as process:
            return await scenario(process)

    assert in_loop(ours) == in_loop(theirs)


# --- wait ------------------------------------------------------------------------------------------------------------


def test_wait_is_quick_though_a_grandchild_holds_the_pipe() -> None:
    """L15: wait() returns within 100 ms of the child's exit, as its pidfd tells, while a grandchild keeps its stdout."""
    marker = long_sleep()

    async def scenario() -> float:
        argv = ["sh", "-c", f"sleep {marker} & read x; exit 3"]
        process = await open_process(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        exit_s: list[float] = []
        pidfd = os.pidfd_open(process.pid)

        def watch() -> None:
            seen = select.poll()
            seen.register(pidfd, select.POLLIN)
            seen.poll()
            exit_s.append(time.monotonic())

        thread = threading.Thread(target=watch)
        thread.start()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        assert await process.wait() == 3
        waited_s = time.monotonic()
        thread.join()
        os.close(pidfd)
        await process.aclose()
        return waited_s - exit_s[0]

    try:
        late_s = math.inf
        for _ in range(5):  # the machine may be busy just then; a wait for the grandchild takes 90 s each time
            late_s = min(late_s, in_loop(scenario, deadline_s=20))
            if late_s < 0.1:
                break
        assert late_s < 0.1
    finally:
        end_processes_with(marker)


def test_wait_with_unread_megabytes_comes_to_an_end() -> None:
    """A child that writes far more than its pipes hold ends while wait() waits, and what it wrote can be read afterwards."""

    async def scenario() -> None:
        code = "import os\nfor i in range(200): os.write(1, b'o' * 10_000); os.write(2, b'e' * 10_000)"
        async with open_process([*PYTHON, code], stdout=PIPE, stderr=PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert await process.wait() == 0
            assert await process.stdout.read() == b"o" * 2_000_000
            assert await process.stderr.read() == b"e" * 2_000_000

    in_loop(scenario)


def test_wait_goes_on_reading_after_a_read() -> None:
    """wait() comes to its end also when another coroutine reads a part meanwhile."""

    async def scenario() -> None:
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE) as process:
            stdin, stdout = process.stdin, process.stdout
            assert stdin is not None
            assert stdout is not None
            waiting = asyncio.ensure_future(process.wait())
            await asyncio.sleep(0)
            reading = asyncio.ensure_future(stdout.readexactly(10))
            await asyncio.sleep(0)
            stdin.write(b"b'x' * 1_000_000\n")
            stdin.close()
            assert await reading == b"x" * 10
            assert await waiting == 0
            assert await stdout.read() == b"x" * 999_990

    in_loop(scenario, deadline_s=20)


def test_wait_goes_on_reading_after_a_batch() -> None:
    """wait() comes to its end also when it came while another coroutine waited for a batch, and that is all it reads."""

    async def scenario() -> None:
        async with open_process(MOUTH, stdin=PIPE, stdout=PIPE) as process:
            stdin, stdout = process.stdin, process.stdout
            assert stdin is not None
            assert stdout is not None
            reading = asyncio.ensure_future(stdout.batch_read(1))
            await asyncio.sleep(0)
            waiting = asyncio.ensure_future(process.wait())
            await asyncio.sleep(0)
            stdin.write(b"b'x' * 1_000_000\n")
            stdin.close()
            [buffer] = await reading
            size = buffer.view.nbytes
            buffer.release()
            assert await waiting == 0
            assert await stdout.read() == b"x" * (1_000_000 - size)

    in_loop(scenario, deadline_s=20)


def test_a_child_that_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """L19: where epoll takes no more, the caller gets the error; no child, no descriptor and no permit is left."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "max_user_watches")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Reactor, "arm", full)
            with pytest.raises(OSError, match="max_user_watches"):
                await open_process(["sleep", long_sleep()], stdin=PIPE, stdout=PIPE)
        assert lent() == (0, 0, 0)
        async with open_process(["echo", "x"], stdout=PIPE) as process:  # with the same descriptors
            assert await process.stdout.read() == b"x\n"  # type: ignore[union-attr]

    in_loop(scenario)


def test_an_interrupt_in_a_handler_loses_no_other_event() -> None:
    """L10: where Ctrl-C tears one handler, the others that were ready in the same moment are called when the loop goes on."""
    called: list[int] = []

    def interrupted(number: int) -> None:
        called.append(number)
        if len(called) == 1:
            raise KeyboardInterrupt

    async def arm() -> None:
        reactor = Reactor.of_running_loop()
        for number, fd in enumerate(ready):
            reactor.arm(fd, READ, functools.partial(interrupted, number))
        await never

    async def look() -> None:
        await until(lambda: len(called) == 3, deadline_s=10)
        for fd in ready:
            Reactor.of_running_loop().forget(fd)

    ready = [os.eventfd(1) for _ in range(3)]
    loop = asyncio.new_event_loop()
    never = loop.create_future()
    try:
        armed = loop.create_task(arm())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(armed)
        assert len(called) == 1
        loop.run_until_complete(look())
        assert sorted(called) == [0, 1, 2]
        never.cancel()
        loop.run_until_complete(asyncio.wait([armed]))
    finally:
        loop.close()
        for fd in ready:
            os.close(fd)


def test_wait_reads_no_more_than_the_cap() -> None:
    """What wait() reads ahead is bounded by max_output_bytes, and the rest stays with the child."""

    async def scenario() -> None:
        async with open_process(
            ["yes"], stdout=PIPE, max_output_bytes=100_000, sizes=BufferSizes(stdout=4096)
        ) as process:
            stdout = process.stdout
            assert stdout is not None
            waiting = asyncio.ensure_future(process.wait())
            await until(lambda: stdout.total_bytes >= 100_000)
            for _ in range(20):
                await asyncio.sleep(0.002)
            assert stdout.total_bytes < 100_000 + 16 * 4096
            process.kill()
            assert await waiting == -9

    in_loop(scenario)


@pytest.mark.parametrize("way", ["read", "readexactly", "readuntil", "readline", "lines", "read_into"])
def test_wait_goes_on_once_there_is_room_under_the_cap(way: str) -> None:
    """Whatever is taken from what wait() read ahead, and served from memory alone, makes room for more."""
    cap, line = 256 * 1024, b"x" * 1023 + b"\n"
    code = f"import sys; sys.stdout.buffer.write({line!r} * 512)"  # twice the cap

    async def take(stdout: ReadStream) -> int:
        taken = 0
        if way == "read_into":
            return await stdout.read_into(bytearray(cap))
        if way == "lines":
            async for one in stdout:
                taken += len(one)
                if taken >= cap:
                    break
        while taken < cap:
            call = {
                "read": lambda: stdout.read(cap),
                "readexactly": lambda: stdout.readexactly(cap),
                "readuntil": lambda: stdout.readuntil(b"\n"),
                "readline": stdout.readline,
            }[way]
            taken += len(await call())
        return taken

    async def scenario() -> None:
        async with open_process([*PYTHON, code], stdout=PIPE, max_output_bytes=cap) as process:
            stdout = process.stdout
            assert stdout is not None
            waiting = asyncio.ensure_future(process.wait())
            await until(lambda: stdout.total_bytes >= cap)
            await stdout.readline()  # from here on lines are cut, and wait for who takes them
            taken = await take(stdout)
            assert taken >= cap - len(line)
            assert await waiting == 0
            assert len(await stdout.read(-1)) == 512 * len(line) - len(line) - taken

    in_loop(scenario)


def test_after_a_cancelled_wait_nothing_is_read_ahead() -> None:
    """Once nobody waits any more, the child stands still again at its full pipe."""

    async def scenario() -> None:
        async with open_process(["yes"], stdout=PIPE) as process:
            stdout = process.stdout
            assert stdout is not None
            waiting = asyncio.ensure_future(process.wait())
            await until(lambda: stdout.total_bytes > 1_000_000)
            waiting.cancel()
            await asyncio.wait([waiting])
            await asyncio.sleep(0.02)
            read = stdout.total_bytes
            for _ in range(20):
                await asyncio.sleep(0.002)
            assert stdout.total_bytes == read
            process.kill()

    in_loop(scenario)


def test_every_result_has_the_file_of_what_went_over_the_cap() -> None:
    """Two who ask are given one file, whole; it is not lost with the result that somebody threw away."""

    async def scenario() -> None:
        async with open_process(
            ["sh", "-c", "printf 0123456789"], stdout=KEEP, max_output_bytes=4, overflow="spool"
        ) as process:
            await process.result()
            over = (await process.result()).stdout_over
            assert over is not None
            assert over.file is not None
            with over.file as file:
                assert file.read() == b"0123456789"

    in_loop(scenario)


def test_many_may_wait() -> None:
    """Several coroutines wait for one child, and each learns its status."""

    async def scenario() -> Any:
        async with open_process(["sh", "-c", "read x; exit 4"], stdin=PIPE) as process:
            waits = [asyncio.ensure_future(process.wait()) for _ in range(5)]
            results = [asyncio.ensure_future(process.result()) for _ in range(5)]
            await asyncio.sleep(0)
            assert process.stdin is not None
            process.stdin.close()
            assert await asyncio.gather(*waits) == [4] * 5
            return {result.returncode for result in await asyncio.gather(*results)}

    assert in_loop(scenario) == {4}


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_timeout_ends_it_and_the_result_says_how(stubborn: bool) -> None:
    """L06: after ``timeout`` SIGTERM, after the grace SIGKILL, for the group; timed_out and stop_phase say so."""
    marker = long_sleep()

    async def scenario() -> Any:
        trap = "trap '' TERM; " if stubborn else ""
        argv = ["sh", "-c", f"{trap}echo x; sleep {marker} & sleep {marker}; sleep {marker}"]
        async with open_process(argv, stdout=PIPE, timeout=0.3, kill_grace_s=0.2 if stubborn else 30) as process:
            assert process.stdout is not None
            assert await process.stdout.read() == b"x\n"
            return await process.result()

    result = in_loop(scenario, deadline_s=20)
    assert (result.timed_out, result.cancelled) == (True, False)
    assert (result.returncode, result.stop_phase) == ((-9, "kill") if stubborn else (-15, "terminate"))
    assert not processes_with(marker)


def test_a_child_in_time_is_not_called_late() -> None:
    """A child that ends by itself before its timeout is neither timed out nor stopped."""

    async def scenario() -> Any:
        async with open_process(["true"], timeout=600) as process:
            return await process.result()

    result = in_loop(scenario)
    assert (result.timed_out, result.cancelled, result.stop_phase, result.returncode) == (False, False, None, 0)


@pytest.mark.parametrize(("method", "phase"), [("terminate", "terminate"), ("kill", "kill")])
def test_what_a_killed_child_leaves_behind_is_ended_too(method: str, phase: str) -> None:
    """terminate() and kill() reach the child alone; its group is ended after it, before it is reaped."""
    marker = long_sleep()

    async def scenario() -> Any:
        argv = ["sh", "-c", f"sleep {marker} & echo; exec sleep {marker}"]
        async with open_process(argv, stdout=PIPE, kill_grace_s=0.2) as process:
            assert process.stdout is not None
            await process.stdout.readline()
            getattr(process, method)()
            result = await process.result()
            assert not processes_with(marker)
            return result

    result = in_loop(scenario, deadline_s=20)
    assert result.cancelled
    assert result.returncode == (-15 if method == "terminate" else -9)
    assert result.stop_phase in (phase, "kill")


def test_leaving_the_block_by_an_exception_ends_the_child() -> None:
    """The exception goes on, and the child and its group are gone."""
    marker = long_sleep()

    async def scenario() -> int | None:
        argv = ["sh", "-c", f"sleep {marker} & echo; sleep {marker}"]
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with open_process(argv, stdout=PIPE) as process:
                assert process.stdout is not None
                await process.stdout.readline()
                raise ZeroDivisionError
        assert not processes_with(marker)
        return process.returncode

    assert in_loop(scenario, deadline_s=20) == -15


def test_a_reader_is_let_go_when_the_block_is_left() -> None:
    """A coroutine that reads in a task of its own does not wait for a grandchild that escaped with the pipe."""
    marker = long_sleep()

    async def scenario() -> None:
        reading: asyncio.Future[bytes] | None = None
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the same
            argv = ["sh", "-c", f"setsid sleep {marker} & echo x; exec sleep {marker}"]
            async with open_process(argv, stdout=PIPE, drain_grace_s=0.05) as process:
                assert process.stdout is not None
                await until(lambda: len(processes_with(marker)) >= 2)
                reading = asyncio.ensure_future(process.stdout.read())
                await asyncio.sleep(0)
                raise ZeroDivisionError
        assert reading is not None
        await asyncio.wait([reading])
        assert reading.exception() is None or isinstance(reading.exception(), ClosedError)

    try:
        in_loop(scenario, deadline_s=20)
    finally:
        end_processes_with(marker)


def test_it_is_started_once() -> None:
    """Entered or awaited a second time it is an error, and a program that is not there is one at the first."""

    async def scenario() -> None:
        opening = open_process(["true"])
        async with opening:
            pass
        with pytest.raises(ClosedError):
            await opening
        with pytest.raises(ProgramNotFoundError):
            await open_process(["procbench-no-such-program"], stdin=PIPE, stdout=PIPE)
        with pytest.raises(FileNotFoundError):
            async with open_process(["procbench-no-such-program"], input=bytes(1 << 20)):
                pass

    in_loop(scenario)


@pytest.mark.parametrize(
    "how",
    [
        {"input": b"x", "stdin": PIPE},
        {"input": "text"},
        {"stdin": STDOUT},
        {"stdout": STDOUT},
        {"stdin": KEEP},
        {"stdout": -9},
        {"timeout": -1},
        {"timeout": math.nan},
        {"transport": "pigeon"},
        {"io_pool": "nobody made it"},
        {"containment": "rope"},
        {"overflow": "explode"},
        {"tee_stdout": print},
    ],
    ids=str,
)
def test_contradictory_arguments_are_refused(how: dict[str, Any]) -> None:
    """What makes no sense is refused by the call itself, outside any loop."""
    with pytest.raises(InvalidInputError):
        open_process(["true"], **how)


def test_communicate_needs_a_stream_that_nobody_reads() -> None:
    """communicate() while another coroutine reads is refused, and nothing was given to the child or taken from it."""

    async def scenario() -> None:
        async with open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert process.stdout is not None
            reading = asyncio.ensure_future(process.stdout.readline())
            await asyncio.sleep(0)
            with pytest.raises(StreamBusyError):
                await process.communicate(b"never")
            assert process.stdin is not None
            process.stdin.write(b"line\n")
            assert await reading == b"line\n"
            assert await process.communicate(b"now") == (b"now", None)

    in_loop(scenario)


@pytest.mark.parametrize("transport", ["auto", "write", "vmsplice", "splice", "sendfile", "memfd_stdin", "file_stdin"])
def test_a_transport_that_does_not_fit_is_no_error(transport: Any) -> None:
    """As with ``input``, communicate's bytes go another way where they cannot go by the one that was asked for."""

    async def scenario() -> None:
        async with open_process(["cat"], input=b"abc" * 99_999, stdout=PIPE, transport=transport) as process:
            assert process.stdout is not None
            assert await process.stdout.read() == b"abc" * 99_999
        async with open_process(["cat"], stdin=PIPE, stdout=PIPE, transport=transport) as process:
            assert await process.communicate(b"abc" * 99_999) == (b"abc" * 99_999, None)

    in_loop(scenario)


def test_a_signal_to_a_child_that_is_gone_carries_our_error() -> None:
    """Signalling after the end raises ProcessGoneError, which is a ProcessLookupError."""

    async def scenario() -> None:
        async with open_process(["true"]) as process:
            await process.wait()
            for late in (process.terminate, process.kill, lambda: process.send_signal(0)):
                with pytest.raises(ProcessGoneError):
                    late()

    in_loop(scenario)


# --- many ------------------------------------------------------------------------------------------------------------


def test_three_hundred_children_at_once() -> None:
    """Hundreds of children with pipes, all alive at a time, each gets its own bytes and status."""

    async def one(number: int, alive: list[int], go: asyncio.Event) -> tuple[int | None, bytes | None]:
        async with open_process(
            ["sh", "-c", f"read x; echo $x; exit {number % 7}"], stdin=PIPE, stdout=PIPE
        ) as process:
            alive.append(number)
            await go.wait()
            out, _ = await process.communicate(b"%d\n" % number)
            return process.returncode, out

    async def scenario() -> None:
        alive: list[int] = []
        go = asyncio.Event()
        tasks = [asyncio.ensure_future(one(number, alive, go)) for number in range(300)]
        await until(lambda: len(alive) == 300, deadline_s=60)
        go.set()
        assert await asyncio.gather(*tasks) == [(number % 7, b"%d\n" % number) for number in range(300)]

    in_loop(scenario, deadline_s=120)


def test_descriptors_above_1024_are_like_any_other() -> None:
    """L21: with more than 1,024 descriptors open, streams, waits and communicate work."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1400:
        pytest.skip("the limit of descriptors cannot be raised so far")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1400), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))

        async def scenario() -> None:
            async with open_process(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                assert max(map(int, os.listdir("/proc/self/fd"))) > 1024  # noqa: PTH208 - names are all it wants
                process.stdin.write(b"line\n")
                assert await process.stdout.readline() == b"line\n"
                assert await process.communicate(bytes(200_000)) == (bytes(200_000), b"")

        in_loop(scenario)


def test_two_loops_in_two_threads() -> None:
    """Loops of two threads have children at the same time, with the interpreter switching as often as it can."""
    failures: list[BaseException] = []

    async def scenario() -> None:
        async def one(number: int) -> None:
            data = b"%d " % number * 20_000
            async with open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(data)
                process.stdin.close()
                assert await process.stdout.read() == data
                assert await process.wait() == 0

        for _ in range(3):
            await asyncio.gather(*(one(number) for number in range(10)))

    def run_loop() -> None:
        try:
            in_loop(scenario)
        except BaseException as error:
            failures.append(error)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run_loop) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert not failures, failures


def test_loops_one_after_the_other() -> None:
    """Each asyncio.run has its own; none disturbs the next, though ids of loops are used again."""

    async def scenario() -> bytes:
        async with open_process(["echo", "x"], stdout=PIPE) as process:
            assert process.stdout is not None
            return await process.stdout.read()

    assert [in_loop(scenario) for _ in range(30)] == [b"x\n"] * 30


def test_a_loop_of_uvloop_does_as_well() -> None:
    """Streams, back-pressure and ends work in uvloop's loop too."""
    if uvloop is None:
        pytest.skip("uvloop is not installed")

    async def scenario() -> None:
        async with open_process(["cat"], stdin=PIPE, stdout=PIPE, stderr=KEEP) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(bytes(1_000_000))
            reading = asyncio.ensure_future(process.stdout.readexactly(1_000_000))
            await process.stdin.drain()
            assert await reading == bytes(1_000_000)
            process.stdin.close()
            assert await process.wait() == 0
            assert (await process.result()).stderr == b""
        async with open_process(["sleep", long_sleep()], timeout=0.1) as process:
            assert (await process.result()).timed_out

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(scenario(), 30))
    finally:
        loop.close()


def test_awaiting_in_a_notebook_cell(tmp_path: Path) -> None:
    """In a kernel, ``await`` in a cell uses the notebook's own loop, from one cell to the next."""
    nbformat: Any = importlib.import_module("nbformat")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "import subprocess\nfrom procbench import open_process\n"
                "process = await open_process(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
                "process.stdin.write(b'hello\\n')\nawait process.stdout.readline()"
            ),
            nbformat.v4.new_code_cell(
                "process.stdin.close()\nstatus = await process.wait()\nawait process.aclose()\n"
                "async with open_process(['seq', '3'], stdout=subprocess.PIPE) as other:\n"
                "    lines = [line async for line in other.stdout]\nstatus, lines"
            ),
        ]
    )
    nbformat.write(notebook, tmp_path / "two.ipynb")
    code = (
        "import nbclient, nbformat, sys\nn = nbformat.read(sys.argv[1], 4)\n"
        "nbclient.NotebookClient(n, timeout=60, kernel_name='python3').execute()\n"
        "print([cell.outputs[-1].data['text/plain'] for cell in n.cells])"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    argv = [sys.executable, "-c", code, str(tmp_path / "two.ipynb")]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(["b'hello\\n'", "(0, [b'1\\n', b'2\\n', b'3\\n'])"])
