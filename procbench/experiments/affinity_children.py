"""The affinity experiment's own children: spinners that want every CPU, and commands whose moves are counted or forced.

What the kernel knows of a process's moves it tells until the process is reaped. So a command that has ended is read while it
is a zombie, and only then reaped; the scheduler, which reaps for itself, is left alone.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from procbench import linux
from procbench.cpu.pinning import pin_current_thread
from procbench.cpu.processes import PROC, read_stat
from procbench.experiments.affinity_groups import ALONE, MOVED, Sensitivity
from procbench.io.order import NULL
from procbench.io.spawn import Child, end_at_once, spawn
from procbench.lab.results import Trials
from procbench.lab.trials import Condition

# It looks about every 5 ms whether its parent is still there, so that a killed experiment leaves none behind.
_SPIN: Final = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(200_000):
        pass
"""
_MOVED_EVERY_MS: Final = 1


class Figures(NamedTuple):
    """What the kernel says of a command's main thread at its end; NaN is what it does not show.

    Attributes:
        migrations: Times it went on on another CPU than before, its first placing included.
        cpu_s: CPU time, seconds.
        last_cpu: The logical CPU that it ran on last.
        returncode: Its exit status; negative is the signal that ended it.
    """

    migrations: float
    cpu_s: float
    last_cpu: int
    returncode: int


def read_figures(pid: int, returncode: int = 0, proc: Path = PROC) -> Figures:
    """Read what became of a child that has ended and was not reaped.

    Args:
        pid: The child.
        returncode: What waitid(2) said.
        proc: Where processes are found.

    Raises:
        ProcessGoneError: It was reaped.

    Source: ``/proc/<pid>/sched`` as kernel/sched/debug.c prints it; kernels without CONFIG_SCHED_DEBUG have none.
    """
    found: dict[str, float] = {}
    try:
        lines = (proc / str(pid) / "sched").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        with contextlib.suppress(ValueError):
            found[name.strip()] = float(value)
    cpu_s = found.get("se.sum_exec_runtime", math.nan) / 1000
    return Figures(found.get("se.nr_migrations", math.nan), cpu_s, read_stat(pid, proc=proc).cpu, returncode)


@dataclass
class Spinners:
    """Children that want a CPU each and do nothing with it.

    Attributes:
        children: Them.
        cpus_had: CPUs that they had on average while they ran; NaN until they have ended.
        all_ran: Whether every one of them still ran when they were ended.
    """

    children: list[Child] = field(default_factory=list)
    cpus_had: float = math.nan
    all_ran: bool = True


@contextlib.contextmanager
def spinning(count: int) -> Iterator[Spinners]:
    """Keep that many spinning children, with this process's nice value and CPUs; none is left at the end, however it ends."""
    spinners = Spinners()
    argv = [sys.executable, "-I", "-S", "-c", _SPIN, str(os.getpid())]
    started_s = time.monotonic()
    try:
        for _ in range(count):
            spinners.children.append(spawn(argv, stdout=NULL))
        yield spinners
        ticks = sum(read_stat(child.pid).cpu_ticks for child in spinners.children)
        spinners.cpus_had = ticks / os.sysconf("SC_CLK_TCK") / (time.monotonic() - started_s)
        spinners.all_ran = not any(_has_ended(child, 0) for child in spinners.children)
    finally:
        for child in spinners.children:  # first all of them, then the waiting: a second Ctrl-C finds none that spins
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        for child in spinners.children:
            end_at_once(child.pid)
            linux.close_now(child.pidfd)


def count_moves(
    commands: Sequence[Sequence[str]], pins: Sequence[frozenset[int] | None], env: Mapping[str, str]
) -> list[tuple[int, Figures]]:
    """Run commands as workers do, one thread for each pin, and return each one's worker and figures. Nothing is timed."""
    waiting = deque(commands)

    def work(number: int) -> list[tuple[int, Figures]]:
        cpus = pins[number]
        if cpus is not None:
            pin_current_thread(cpus)
        found: list[tuple[int, Figures]] = []
        while True:
            try:
                argv = waiting.popleft()
            except IndexError:
                return found
            with _child(argv, env) as child:
                found.append((number, _at_its_end(child)))

    with ThreadPoolExecutor(len(pins), "procbench-count") as threads:
        try:
            shares = [threads.submit(work, number) for number in range(len(pins))]
            return [one for share in shares for one in share.result()]
        except BaseException:
            waiting.clear()  # the threads end after the command that each has in hand
            raise


def run_on(cpus: Sequence[int], argv: Sequence[str], env: Mapping[str, str]) -> Figures:
    """Run a command that is put on each of the CPUs in turn, every millisecond; with one CPU it only stays there.

    The command is a child of this thread that nobody else knows, so its pid is its own until it is reaped here.
    """
    with _child(argv, env) as child:
        turn = 0
        while True:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.sched_setaffinity(child.pid, {cpus[turn % len(cpus)]})
            if _has_ended(child, _MOVED_EVERY_MS):
                return _at_its_end(child)
            turn += 1


def move_by_force(
    kind: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    cpus: Sequence[int],
    measured: Callable[[Sequence[Condition]], Trials],
) -> Sensitivity:
    """Compare the CPU time of a command that is left on one CPU with that of one that is moved to and fro.

    Args:
        kind: What the command is called.
        argv: The command.
        env: Its environment.
        cpus: Two or more CPUs.
        measured: Measures two conditions; ``ALONE`` is the baseline.
    """
    migrations: list[float] = []

    def timed(turns: Sequence[int]) -> float:
        figures = run_on(turns, argv, env)
        migrations.append(figures.migrations)
        return figures.cpu_s

    trials = measured([Condition(ALONE, partial(timed, cpus[:1])), Condition(MOVED, partial(timed, cpus))])
    return Sensitivity(kind, trials, tuple(migrations[: len(trials.trials)]))


@contextlib.contextmanager
def _child(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[Child]:
    """Start a command that is reaped at the end, and ended before if it must."""
    children: list[Child] = []
    try:
        children.append(spawn(argv, env=env, stdout=NULL, stderr=NULL))
        yield children[0]
    finally:
        for child in children:
            end_at_once(child.pid)
            linux.close_now(child.pidfd)


def _at_its_end(child: Child) -> Figures:
    """Wait for a child's end and read what is known of it; it stays a zombie."""
    ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    if ended is None:  # cannot be without WNOHANG
        raise ChildProcessError(child.pid)
    returncode = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    return read_figures(child.pid, returncode)


def _has_ended(child: Child, timeout_ms: int) -> bool:
    looking = select.poll()
    looking.register(child.pidfd, select.POLLIN)
    return bool(looking.poll(timeout_ms))
