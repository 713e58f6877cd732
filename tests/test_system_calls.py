"""What ``open_process`` asks of the kernel: no more than a child needs, and again what the kernel puts off."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from procbench.io.clone import usable
from tests.waiting import run_python

# The event loop's own waiting, Python's look whether it is a fork, and the budget's look at its limit every 10 ms.
NOT_COUNTED = {"epoll_wait", "getpid", "prlimit64", "getppid", "getrlimit"}

CHILDREN = """
import asyncio, os, sys
from procbench import open_process
async def one(output):
    async with open_process(sys.argv[1:], stdout=-1 if output else -3) as process:
        return await process.stdout.read() if output else await process.wait()
async def main():
    await one(False), await one(True)  # what is kept for later children is made
    for output in (False, True):
        os.getppid()
        for _ in range(5):
            assert await one(output) == (b"x\\n" if output else 0)
    os.getppid()
asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def may_trace() -> None:
    """Skip where there is no strace, or it may not trace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode != 0:
        pytest.skip("strace may not trace here")


def test_a_child_costs_the_calls_that_it_needs(tmp_path: Path) -> None:
    """L28: a child without pipes is cloned, watched, reaped and closed, and nothing else; a pipe adds what it is used for."""
    if not usable():
        pytest.skip("no clone on kept memory with this processor or libc")
    echo = shutil.which("echo")
    run_python(CHILDREN, echo, "x", before=("strace", "-qq", "-o", str(tmp_path / "trace")))
    calls = re.findall(r"^([a-z_0-9]+)\(", (tmp_path / "trace").read_text(), re.MULTILINE)
    marks = [place for place, call in enumerate(calls) if call == "getppid"]
    plain, piped = (
        Counter(call for call in calls[start:end] if call not in NOT_COUNTED)
        for start, end in zip(marks[-3:], marks[-2:], strict=False)
    )
    needed = {"clone": 1, "rt_sigprocmask": 2, "epoll_ctl": 2, "wait4": 1, "kill": 1, "close": 1}
    assert plain == {call: 5 * count for call, count in needed.items()}
    # It is read from once more for what has not come yet, and once for the end; on a busy machine also once in between.
    needed |= {"pipe2": 1, "fcntl": 2, "read": 4, "epoll_ctl": 6, "close": 3}
    assert piped <= Counter({call: 5 * count for call, count in needed.items()})


@pytest.mark.parametrize(
    ("call", "error"),
    [(call, error) for call in ("readv", "writev", "/sendfile.*") for error in ("EAGAIN", "EINTR")]
    + [("/sendfile.*", "EINVAL"), ("/sendfile.*", "ENOSYS")],
)
def test_calls_that_fail_now_and_then_lose_nothing(call: str, error: str, tmp_path: Path) -> None:
    """L28: EAGAIN and EINTR are tried again, sendfile's EINVAL and ENOSYS leave its way: what goes through cat comes back."""
    code = """
import asyncio, hashlib, sys
from procbench import open_process
data = bytes(range(256)) * 8000
async def write(stdin):
    await stdin.batch_write([data[:1000], data[1000:]])
    with open(sys.argv[1], "rb") as file:
        assert await stdin.send_file(file.fileno()) == len(data)
    stdin.close()
async def main():
    seen = hashlib.sha256()
    async with asyncio.timeout(60), open_process(["cat"], stdin=-1, stdout=-1) as process:
        writing = asyncio.ensure_future(write(process.stdin))
        while buffers := await process.stdout.batch_read(3):
            for buffer in buffers:
                seen.update(buffer.view)
                buffer.release()
        await writing
    print(seen.hexdigest())
asyncio.run(main())
"""
    data = bytes(range(256)) * 8000
    (tmp_path / "from").write_bytes(data)
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when=1+3")
    said = run_python(code, tmp_path / "from", before=("strace", "-qq", "-o", "/dev/null", *inject))
    assert said == hashlib.sha256(2 * data).hexdigest()
