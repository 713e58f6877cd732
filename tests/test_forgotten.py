"""Processes that nobody waits for, loops that are closed early, forks: quiet where all was right, one warning where not."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from typing import Any

import pytest

from procbench import open_process
from tests.conftest import left_behind, possessions
from tests.loops import in_loop, lent
from tests.waiting import ROOT, long_sleep, processes_with

PIPE = subprocess.PIPE

_BEGIN = """
import asyncio, gc, os, signal, subprocess, sys, threading, warnings
from procbench import KEEP, open_process
PIPE = subprocess.PIPE
SLEEP = ["sleep", sys.argv[1]]
later = asyncio.ensure_future
def new_loop():
    loop = asyncio.new_event_loop()
    return loop
def left():
    gc.collect()
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        return len(children.read().split())
def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
"""


def python(code: str, *options: str) -> tuple[str, str]:
    """Run ``code`` in an interpreter of its own with all its checks on; return what it printed and what it complained of."""
    marker = long_sleep()
    argv = [sys.executable, "-X", "dev", *options, "-c", _BEGIN + code, marker]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=20, cwd="/")
    assert done.returncode == 0, done.stderr
    assert not processes_with(marker)
    return done.stdout.strip(), done.stderr


STRICT = ("-W", "error")

FINISHED = {
    "in a block": """
async def main():
    async with open_process(["echo", "x"], stdout=PIPE) as process:
        return await process.stdout.read()
print(asyncio.run(main()))
""",
    "awaited and waited for": """
async def main():
    process = await open_process(["true"])
    return await process.wait()
print(asyncio.run(main()))
""",
    "awaited, with streams that were read": """
async def main():
    process = await open_process(["echo", "x"], stdout=PIPE, stderr=KEEP)
    await process.stdout.read()
    print((await process.result()).returncode)
asyncio.run(main())
""",
    "with what was written but not read": """
async def main():
    async with open_process(["seq", "10"], stdout=PIPE, stderr=PIPE) as process:
        await process.wait()
asyncio.run(main())
""",
    "communicated": """
async def main():
    process = await open_process(["cat"], stdin=PIPE, stdout=PIPE)
    print(await process.communicate(b"abc"))
asyncio.run(main())
""",
    "closed twice": """
async def main():
    async with open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        await process.aclose()
        await process.aclose()
    await process.aclose()
    await process.end()
    print(process.returncode)
asyncio.run(main())
""",
    "never begun": """
async def main():
    open_process(["true"])
asyncio.run(main())
open_process(["true"])
""",
    "loop closed with a waiting timer": """
loop = new_loop()
async def main():
    async with open_process(["true"], timeout=1000, drain_grace_s=1000) as process:
        return await process.wait()
print(loop.run_until_complete(main()))
loop.close()
""",
    "kept after its loop": """
async def main():
    async with open_process(["echo", "x"], stdout=PIPE, stdin=PIPE) as process:
        await process.stdout.read()
    return process
process = asyncio.run(main())
print(process.returncode, process)
try:
    process.kill()
except ProcessLookupError:
    del process
""",
}


@pytest.mark.parametrize("case", FINISHED)
def test_what_was_finished_is_quiet(case: str) -> None:
    """L27: a child that was seen to its end leaves no warning, also in development mode with every warning an error."""
    code = FINISHED[case] + "\nprint(left(), 'left', descriptors() - before)"
    printed, complaints = python("before = descriptors()\n" + code, *STRICT)
    assert complaints == ""
    assert printed.splitlines()[-1] == "0 left 0"


FORGOTTEN = {
    "awaited": ("", ""),
    "with a stream": ("stdout=PIPE", ""),
    "with all streams": ("stdin=PIPE, stdout=PIPE, stderr=PIPE", ""),
    "with a kept stream": ("stderr=KEEP", ""),
    "in the middle of a read": (
        "stdout=PIPE",
        "tasks.append(later(process.stdout.read())); await asyncio.sleep(0)",
    ),
    "after a cancelled read": (
        "stdout=PIPE",
        "task = later(process.stdout.read()); await asyncio.sleep(0); task.cancel(); await asyncio.wait([task]); del task",
    ),
    "in the middle of wait": (
        "stdout=PIPE",
        "tasks.append(later(process.wait())); await asyncio.sleep(0)",
    ),
    "after a cancelled wait": (
        "stdout=PIPE",
        "task = later(process.wait()); await asyncio.sleep(0); task.cancel(); await asyncio.wait([task]); del task",
    ),
    "with queued writes": ("stdin=PIPE", "process.stdin.write(bytes(1_000_000))"),
    "in the middle of drain": (
        "stdin=PIPE",
        "process.stdin.write(bytes(1_000_000)); tasks.append(later(process.stdin.drain())); await asyncio.sleep(0)",
    ),
    "in the middle of communicate": (
        "stdin=PIPE, stdout=PIPE",
        "tasks.append(later(process.communicate(bytes(1_000_000)))); await asyncio.sleep(0)",
    ),
    "in the middle of end": (
        "stdout=PIPE",
        "os.kill(process.pid, signal.SIGSTOP); tasks.append(later(process.result())); await asyncio.sleep(0)",
    ),
    "with a timeout": ("timeout=1000", ""),
    "with input": ("input=bytes(1_000_000)", ""),
}


@pytest.mark.parametrize("when", ["loop closed first", "forgotten first", "at exit"])
@pytest.mark.parametrize("case", FORGOTTEN)
def test_what_is_forgotten_while_it_runs_is_killed_with_one_warning(case: str, when: str) -> None:
    """L27: no "Event loop is closed", nothing unraisable: one ResourceWarning for the child, and no child is left."""
    how, then = FORGOTTEN[case]
    if when == "forgotten first" and "tasks" in then:
        pytest.skip("whoever waits for it has not forgotten it")
    code = f"""
loop = new_loop()
tasks = []
async def main():
    process = await open_process(SLEEP, {how})
    {then or "pass"}
    return process
before = descriptors()
process = loop.run_until_complete(main())
"""
    if when == "loop closed first":
        code += "loop._default_executor\nloop.close()\ntasks.clear()\ndel process, loop\ngc.collect()\nprint(left())"
    elif when == "forgotten first":
        code += "del process\ngc.collect()\nprint(left())\nloop.close()\n"
    else:
        code += "loop.close()\nprint(0)"
    printed, complaints = python(code, "-W", "always::ResourceWarning")
    assert printed == "0"
    warned = [line for line in complaints.splitlines() if "ResourceWarning: process" in line]
    assert len(warned) == 1, complaints
    for bad in ("Event loop is closed", "Exception ignored", "Traceback", "never awaited"):
        assert bad not in complaints.replace("Task was destroyed but it is pending", ""), complaints


@pytest.mark.parametrize("how", [{}, {"stdout": PIPE}, {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}], ids=str)
def test_a_forgotten_process_is_killed_while_its_loop_runs(how: dict[str, Any]) -> None:
    """The warning comes when the last reference goes, and everything of the child is back then."""

    async def scenario() -> None:
        process = await open_process(["sleep", long_sleep()], **how)
        before = lent()
        assert before[0] > 0
        said = f"process {process.pid} was forgotten"
        with pytest.warns(ResourceWarning, match=said):  # noqa: PT031 - the collector may have to see to it
            del process
            gc.collect()
        assert lent() == (0, 0, 0)

    in_loop(scenario)


@pytest.mark.parametrize("kept", ["stdin", "stdout", "stderr"])
def test_a_stream_keeps_its_process_alive(kept: str) -> None:
    """Who holds one stream of a process has not forgotten it."""

    async def scenario() -> None:
        process = await open_process(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
        stream = getattr(process, kept)
        del process
        gc.collect()
        if kept == "stdin":
            stream.write(b"x")
            await stream.flush()
            assert stream.sent_bytes == 1
        else:
            task = asyncio.ensure_future(stream.read(1))
            await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            await asyncio.wait([task])
        with pytest.warns(ResourceWarning):  # noqa: PT031 - the same
            stream = task = None
            gc.collect()

    in_loop(scenario)


@pytest.mark.parametrize("how", ["returned", "in a block and returned", "raised"])
def test_a_process_that_a_main_task_returned_goes_with_it(how: str) -> None:
    """What asyncio.run gives back and nobody keeps is collected, the loop's epoll with it."""

    async def scenario() -> Any:
        async with open_process(["true"], stdout=PIPE) as process:
            await process.wait()
        if how == "raised":
            raise KeyError(process)
        return process

    before = possessions()
    if how == "raised":
        with pytest.raises(KeyError) as caught:
            asyncio.run(scenario())
        del caught
    else:
        asyncio.run(scenario())
    gc.collect()
    assert left_behind(before) == []


def test_a_process_that_another_threads_collector_finds_is_ended_in_its_loop() -> None:
    """L27: the garbage collector may run in any thread: the child is killed, in its own loop, and warned of once."""
    code = """
loop = new_loop()
class Knot: pass
async def main():
    knot = Knot()
    knot.self, knot.process = knot, await open_process(SLEEP, stdout=PIPE)
gc.disable()
loop.run_until_complete(main())
thread = threading.Thread(target=gc.collect)
thread.start(); thread.join()
loop.run_until_complete(asyncio.sleep(0))
print(left())
loop.close()
"""
    printed, complaints = python(code, "-W", "always::ResourceWarning")
    assert printed == "0"
    assert complaints.count("was forgotten while it ran") == 1
    assert "Traceback" not in complaints


def test_one_that_another_threads_collector_finds_after_its_loop() -> None:
    """L27: the same when the loop stands still and is then closed: the child is killed all the same."""
    code = """
loop = new_loop()
class Knot: pass
async def main():
    knot = Knot()
    knot.self, knot.process = knot, await open_process(SLEEP, stdout=PIPE)
gc.disable()
loop.run_until_complete(main())
thread = threading.Thread(target=gc.collect)
thread.start(); thread.join()
loop.close()
print(left())
"""
    printed, complaints = python(code, "-W", "always::ResourceWarning")
    assert printed == "0"
    assert "Traceback" not in complaints


@pytest.mark.parametrize(
    "end", ["sys.exit(0)", "os._exit(0)", "process = None; gc.collect(); sys.exit(0)", "loop.close(); sys.exit(0)"]
)
def test_a_fork_that_ends_kills_nobody(end: str) -> None:
    """L24, L27: a fork of a process with open children ends by itself and leaves them, and their streams, as they are."""
    code = f"""
warnings.simplefilter("ignore", DeprecationWarning)
loop = new_loop()
async def main():
    return await open_process(["cat"], stdin=PIPE, stdout=PIPE)
process = loop.run_until_complete(main())
pid = os.fork()
if pid == 0:
    loop.set_debug(False)
    {end}
assert os.waitpid(pid, 0)[1] == 0
async def talk():
    process.stdin.write(b"still there\\n")
    line = await asyncio.wait_for(process.stdout.readline(), 20)
    process.stdin.close()
    return line, await process.stdout.read(), await process.wait()
print(loop.run_until_complete(talk()))
loop.run_until_complete(process.aclose())
loop.close()
"""
    printed, complaints = python(code)
    assert printed == "(b'still there\\n', b'', 0)"
    assert "forgotten" not in complaints


def test_a_fork_may_have_children_of_its_own() -> None:
    """L24: in a fork a new loop starts children, though the parent's loop has open ones."""
    code = """
warnings.simplefilter("ignore", DeprecationWarning)
loop = new_loop()
async def main():
    return await open_process(["cat"], stdin=PIPE, stdout=PIPE)
process = loop.run_until_complete(main())
pid = os.fork()
if pid == 0:
    async def again():
        async with open_process(["echo", "x"], stdout=PIPE) as process:
            return await process.stdout.read()
    ok = new_loop().run_until_complete(again()) == b"x\\n"
    os._exit(0 if ok else 1)
print(os.waitpid(pid, 0)[1])
loop.run_until_complete(process.aclose())
loop.close()
"""
    assert python(code)[0] == "0"


def test_what_was_open_at_a_loops_end_can_still_be_ended_by_hand() -> None:
    """L27: after asyncio.run a process that still runs can be signalled, and is gone when it is forgotten."""

    async def main() -> Any:
        return await open_process(["sleep", long_sleep()], stdin=PIPE, stdout=PIPE)

    process = asyncio.run(main())
    process.send_signal(18)
    process.kill()
    with pytest.warns(ResourceWarning):  # noqa: PT031 - the same
        del process
        gc.collect()
    assert lent() == (0, 0, 0)
