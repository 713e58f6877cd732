"""The ways of running a batch of commands that an engineer has, made comparable.

All of them send output to ``/dev/null`` and read nothing. Pools, threads and loops stand ready before the clock starts;
what a program like xargs needs to start itself is part of its time, since it has to start for every batch.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from procbench.experiments import stealing_pool
from procbench.experiments.workload import Command
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask, TaskResult

_NULL = subprocess.DEVNULL


@dataclass(frozen=True, slots=True)
class Batch:
    """How a batch ended.

    Attributes:
        failed: Commands whose status was not 0; None where the way does not tell.
        results: What is known of each command, in the order given; only procbench tells.
    """

    failed: int | None
    results: tuple[TaskResult, ...] = ()


RunBatch = Callable[[Sequence[Command]], Batch]


@dataclass(frozen=True, slots=True)
class Way:
    """A way of running a batch.

    Attributes:
        opened: Makes everything ready for that many workers, and for commands in that folder (None is this process's);
            what it yields runs a batch and waits for it.
        note: What a reader of its numbers should know.
        program: What must be installed; empty for nothing.
    """

    opened: Callable[[int, Path | None], AbstractContextManager[RunBatch]]
    note: str
    program: str = ""

    def missing(self) -> str | None:
        """Return why it cannot run here, None if it can."""
        if not self.program or ((found := shutil.which(self.program)) and _is_gnu(self.program, found)):
            return None
        return f"{self.program} is not installed"


@contextmanager
def _procbench(workers: int, folder: Path | None) -> Iterator[RunBatch]:
    settings = RunSettings(workers=workers, discard=True)
    with WorkStealingScheduler(settings) as scheduler:

        def run(commands: Sequence[Command]) -> Batch:
            tasks = (ProcessTask(command, cwd=folder, id=number) for number, command in enumerate(commands))
            results = tuple(scheduler.map(tasks))
            return Batch(sum(result.returncode != 0 for result in results), results)

        yield run


@contextmanager
def _thread_pool(workers: int, folder: Path | None) -> Iterator[RunBatch]:
    exit_status = functools.partial(stealing_pool.exit_status, folder=folder)
    with ThreadPoolExecutor(workers) as executor:
        yield lambda commands: Batch(sum(status != 0 for status in executor.map(exit_status, commands)))


@contextmanager
def _asyncio(workers: int, folder: Path | None) -> Iterator[RunBatch]:
    """Run the loop in a thread of its own, since a notebook's main thread runs one already."""

    async def exit_status(command: Command, room: asyncio.Semaphore) -> int:
        async with room:
            try:
                streams: dict[str, Any] = {"stdin": _NULL, "stdout": _NULL, "stderr": _NULL}
                child = await asyncio.create_subprocess_exec(*command, **streams, cwd=folder)
            except OSError:
                return 127
            return await child.wait()

    async def run_all(commands: Sequence[Command]) -> Batch:
        room = asyncio.Semaphore(workers)
        statuses = await asyncio.gather(*(exit_status(command, room) for command in commands))
        return Batch(sum(status != 0 for status in statuses))

    with ThreadPoolExecutor(1) as thread:
        runner = thread.submit(asyncio.Runner).result()
        try:
            yield lambda commands: thread.submit(runner.run, run_all(commands)).result()
        finally:
            thread.submit(runner.close).result()


@contextmanager
def _process_pool(workers: int, folder: Path | None) -> Iterator[RunBatch]:
    argv = [sys.executable, "-I", stealing_pool.__file__, str(workers), str(folder or "")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        requests, answers = child.stdin, child.stdout
        assert requests is not None and answers is not None  # noqa: S101, PT018 - Popen was asked for both

        def run(commands: Sequence[Command]) -> Batch:
            requests.write(json.dumps(commands) + "\n")
            requests.flush()
            return Batch(int(answers.readline()))

        try:
            yield run
        finally:
            requests.close()


@contextmanager
def _xargs(workers: int, folder: Path | None) -> Iterator[RunBatch]:
    yield lambda commands: _piped(["xargs", "-0", "-n", "1", "-P", str(workers), "sh", "-c"], commands, folder)


@contextmanager
def _parallel(workers: int, folder: Path | None) -> Iterator[RunBatch]:
    with tempfile.TemporaryDirectory(prefix="procbench-") as home:  # parallel keeps notes; they do not belong in $HOME
        env = os.environ | {"PARALLEL_HOME": home, "PARALLEL_SHELL": "/bin/sh"}
        argv = ["parallel", "--will-cite", "--ungroup", "-0", "-j", str(workers)]
        yield lambda commands: _piped(argv, commands, folder, env)


def _piped(
    argv: list[str], commands: Sequence[Command], folder: Path | None, env: Mapping[str, str] | None = None
) -> Batch:
    """Hand commands to a program that gives each to a shell; ``exec`` saves a fork there."""
    lines = "\0".join(f"exec {shlex.join(command)}" for command in commands)
    done = subprocess.run(argv, input=os.fsencode(lines), stdout=_NULL, stderr=_NULL, cwd=folder, env=env, check=False)
    return Batch(0 if done.returncode == 0 else None)


def _is_gnu(program: str, path: str) -> bool:
    """Return whether a ``parallel`` is GNU's; moreutils has another one of that name."""
    if program != "parallel":
        return True
    said = subprocess.run([path, "--version"], capture_output=True, text=True, stdin=_NULL, check=False).stdout
    return said.startswith("GNU parallel")


PROCBENCH: Final = "procbench"
USUAL: Final = "thread pool + subprocess.run"
"""The way that most programs take, and the one that all are compared with."""

WAYS: Final[Mapping[str, Way]] = {
    PROCBENCH: Way(_procbench, "threads that spawn and wait without the GIL, and steal from each other"),
    USUAL: Way(_thread_pool, "concurrent.futures.ThreadPoolExecutor, subprocess.run in each thread"),
    "asyncio": Way(_asyncio, "create_subprocess_exec behind a semaphore, in one loop"),
    "multiprocessing.Pool": Way(_process_pool, "subprocess.run in each process, one command at a time (chunksize=1)"),
    "xargs -P": Way(_xargs, "needs a shell (sh) for each command, since the commands are of many programs", "xargs"),
    "GNU parallel": Way(_parallel, "needs a shell (sh) for each command; output ungrouped, its fastest", "parallel"),
}
"""All ways by name, in the order in which tables show them."""
