"""What the tests of coroutines share: a loop of their own with a deadline, children that obey, and what must be back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from procbench.io.budget import shared_budget
from procbench.io.io_pools import default_io_pool
from tests.waiting import processes_with

T = TypeVar("T")

PYTHON = [sys.executable, "-I", "-S", "-c"]
"""A child that runs the code that follows; it starts quickly."""

# Writes each line of its standard input, which is Python for some bytes, and says nothing else.
MOUTH = [*PYTHON, "import os, sys\nfor line in sys.stdin: os.write(1, eval(line))"]

# Reads nothing until it gets SIGUSR1, then all, and says how much and its SHA-256.
LATE_READER = [
    *PYTHON,
    "import hashlib, os, signal, sys\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
    "os.write(1, b'.')\n"
    "signal.sigwait([signal.SIGUSR1])\n"
    "data = sys.stdin.buffer.read()\n"
    "print(len(data), hashlib.sha256(data).hexdigest())",
]


def in_loop(scenario: Callable[[], Coroutine[Any, Any, T]], deadline_s: float = 60.0) -> T:
    """Run ``scenario()`` in a new event loop; one that takes longer than the deadline fails instead of hanging."""

    async def bounded() -> T:
        async with asyncio.timeout(deadline_s):
            return await scenario()

    return asyncio.run(bounded())


async def until(condition: Callable[[], object], what: str = "the condition", deadline_s: float = 20.0) -> None:
    """Return once ``condition()`` holds, with the loop going on meanwhile; fail when it does not within the deadline."""
    end = asyncio.get_running_loop().time() + deadline_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"{what} did not come true within {deadline_s} s"
        await asyncio.sleep(0.002)


def lent() -> tuple[int, int, int]:
    """Return how many children's descriptor permits, buffers to read into and buffers to write from are out."""
    read, write = default_io_pool().statistics()
    budget = shared_budget()
    return budget.in_use - budget.lasting, read.in_use, write.in_use


def end_processes_with(marker: str) -> None:
    """Kill the processes whose argv holds ``marker``."""
    for pid in processes_with(marker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
