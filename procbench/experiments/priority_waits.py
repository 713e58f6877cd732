"""Who waits how long: a sleeper for a CPU that another child keeps busy, and a low task under an endless stream of high ones."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from procbench.cpu.priority import ProcessPriorityManager
from procbench.errors import ClosedError, InvalidInputError, PermissionDeniedError
from procbench.experiments.priority_children import Child, Children
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask, TaskResult

POLICIES: Final = ("fifo", "other", "batch", "idle")

BLOCKS: Final = 6
"""As few as have an interval."""

AGEING_S: Final = 0.04

CLASSES_UP: Final = 3
"""From low to critical, where age alone decides: a low task's bound in times of ``ageing_s``."""

STREAM_S: Final = 0.3

_LOW_TASKS: Final = 3
_HIGH_WAITING: Final = 3  # enough that one always waits
_COMMAND: Final = ("true",)


@dataclass(frozen=True, slots=True)
class Lateness:
    """By how much sleepers woke late.

    Attributes:
        policy: Their scheduling policy.
        beside: Whether another child kept their CPU busy, as policy ``other``.
        blocks_ns: In each block every wake-up's lateness, nanoseconds.
    """

    policy: str
    beside: bool
    blocks_ns: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """What the condition is called."""
        return f"{self.policy}, {'busy' if self.beside else 'free'} CPU"


@dataclass(frozen=True, slots=True)
class Starvation:
    """How long low tasks waited on one worker under an endless stream of high ones.

    Attributes:
        ageing_s: The setting; None for never.
        waits_s: Seconds that each low task waited, by repetition.
        stream_s: Seconds that the stream lasted, by repetition.
        high_commands: High commands that ran, by repetition.
        in_order: Whether no repetition broke the promise: once a low task has waited 3 times ``ageing_s``, nothing that was
            handed in after it goes first, except a command whose turn had come already; without ageing the high ones go first.
    """

    ageing_s: float | None
    waits_s: tuple[tuple[float, ...], ...]
    stream_s: tuple[float, ...]
    high_commands: tuple[int, ...]
    in_order: bool

    @property
    def name(self) -> str:
        """What the condition is called."""
        return "without ageing" if self.ageing_s is None else f"ageing_s={self.ageing_s:g}"


def measure_lateness(cpu: int, budget_s: float, seed: int) -> tuple[tuple[Lateness, ...], dict[str, str]]:
    """Measure wake-ups by policy on one CPU beside a busy child, and as ``other`` on the free CPU, in randomised blocks.

    Returns:
        What was measured, and for each policy that was left out the reason.
    """
    left_out: dict[str, str] = {}
    order = random.Random(seed)  # noqa: S311 - an order that anyone may predict and repeat
    with ProcessPriorityManager() as manager, Children() as children:
        sleepers: dict[tuple[str, bool], Child] = {}
        for policy in POLICIES:
            child = children.sleeping(cpu)
            try:
                manager.set(child.pid, policy=policy)
            except (PermissionDeniedError, InvalidInputError) as error:
                left_out[policy] = str(getattr(error, "strerror", None) or error)
                continue
            sleepers[policy, True] = child
            if policy == "other":
                sleepers[policy, False] = child
        busy = children.spinning(cpu)
        each_s = max(0.02, budget_s / BLOCKS / len(sleepers))
        blocks: dict[tuple[str, bool], list[tuple[int, ...]]] = {kind: [] for kind in sleepers}
        for _ in range(BLOCKS):
            for kind in order.sample(list(sleepers), len(sleepers)):
                if not kind[1]:
                    busy.stop()
                blocks[kind].append(tuple(sleepers[kind].lateness_ns(each_s)))
                busy.go_on()
    return tuple(Lateness(*kind, tuple(found)) for kind, found in blocks.items()), left_out


def measure_starvation(repetitions: int) -> tuple[Starvation, Starvation]:
    """Measure how long low tasks wait without and with ageing, in turns."""
    settings = {None: RunSettings(workers=1, ageing_s=None), AGEING_S: RunSettings(workers=1, ageing_s=AGEING_S)}
    found: dict[float | None, list[_Stream]] = {ageing_s: [] for ageing_s in settings}
    for _ in range(repetitions):
        for ageing_s, these in settings.items():
            found[ageing_s].append(_stream(these))
    without, with_ageing = (
        Starvation(
            ageing_s,
            tuple(tuple(low.queue_wait_s for low in stream.low) for stream in streams),
            tuple(stream.lasted_s for stream in streams),
            tuple(len(stream.high) for stream in streams),
            all(_in_order(stream, ageing_s) for stream in streams),
        )
        for ageing_s, streams in found.items()
    )
    return without, with_ageing


@dataclass(frozen=True, slots=True)
class _Stream:
    high: Sequence[TaskResult]
    low: Sequence[TaskResult]
    lasted_s: float


def _stream(settings: RunSettings) -> _Stream:
    """Run high commands, of which one always waits, for a while, and low ones that were handed in at its beginning."""
    high: list[TaskResult] = []
    last = threading.Event()
    begun_s = time.monotonic()
    with WorkStealingScheduler(settings) as scheduler:

        def another(done: Future[TaskResult]) -> None:
            """Hand in the next one from the worker's own thread, so that the worker never looks before it is there."""
            if done.cancelled():  # by Ctrl-C
                return
            high.append(done.result())
            if time.monotonic() - begun_s < STREAM_S:
                with contextlib.suppress(ClosedError):
                    submit_high()
            else:
                last.set()

        def submit_high() -> None:
            scheduler.submit(ProcessTask(_COMMAND, priority="high")).add_done_callback(another)

        for _ in range(_HIGH_WAITING):
            submit_high()
        low = [scheduler.submit(ProcessTask(_COMMAND, priority="low")) for _ in range(_LOW_TASKS)]
        last.wait()
        lasted_s = time.monotonic() - begun_s
    return _Stream(high, [one.result() for one in low], lasted_s)


def _in_order(stream: _Stream, ageing_s: float | None) -> bool:
    if ageing_s is None:
        return max(one.started_ns for one in stream.high) < min(one.started_ns for one in stream.low)
    return all(_went_before(low, stream.high, ageing_s) <= 1 for low in stream.low)


def _went_before(low: TaskResult, high: Sequence[TaskResult], ageing_s: float) -> int:
    """Count the later high commands that began before a low one although it had waited long enough to be the next."""
    aged_ns = low.submitted_ns + CLASSES_UP * ageing_s * 1e9
    return sum(one.submitted_ns > low.submitted_ns and aged_ns < one.started_ns < low.started_ns for one in high)
