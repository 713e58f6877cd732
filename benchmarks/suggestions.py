"""Eight batches, each made bad in one known way: is what is wrong with it found, and is the gain proved?

``python -m benchmarks.suggestions [word ...]`` runs those whose name holds a word, the good batch and the A/A proofs.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from procbench import linux
from procbench.analysis.suggestions import OptimizationSuggestion, SettingsChange
from procbench.cpu.topology import allowed_cpus, usable_workers
from procbench.lab.advice import advise
from procbench.lab.batches import TaskBatch
from procbench.lab.proof import prove
from procbench.scheduling.settings import RunSettings

_PYTHON = (sys.executable, "-I", "-S", "-c")
BUDGET_S = 60.0


@dataclass(frozen=True)
class Case:
    """A batch that is bad in one way.

    Attributes:
        name: In which.
        batch: The tasks.
        settings: What they are run with.
        rule: The rule that should find it; empty for a batch in which nothing is wrong.
        beside: What else runs meanwhile.
    """

    name: str
    batch: TaskBatch
    settings: RunSettings
    rule: str
    beside: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)

    def analyzed(self) -> list[OptimizationSuggestion]:
        """Run it and look at what it showed."""
        return list(advise(self.batch, self.settings).suggestions)


def cases(scale: float = 1.0) -> list[Case]:
    """Return the eight batches and a good one; ``scale`` makes their work larger."""
    cpus = usable_workers()
    size = int(1.4 * linux.own_peak_memory_bytes()) + (96 << 20)  # larger than this process, or Linux does not tell it
    first = str(min(allowed_cpus()))
    long_last = [*[_work(0.5 * scale)] * (8 * (cpus // 2 or 1)), _work(4 * scale)]
    return [
        Case("hungry", TaskBatch.of([_hungry(size)] * 16), RunSettings(workers=8 * cpus), "too_many_workers"),
        Case("one worker", TaskBatch.of([_work(scale)] * 6), RunSettings(workers=1), "too_few_workers"),
        Case(
            "small pipes",
            TaskBatch.of([["head", "-c", str(int(scale * (24 << 20))), "/dev/zero"]] * (2 * cpus)),
            RunSettings(capture=True, max_output_bytes=1000, pipe_size_bytes=4096),
            "small_pipes",
        ),
        Case(
            "tiny tasks",
            TaskBatch.from_template(["true"], map(str, range(int(400 * scale)))),
            RunSettings(),
            "batch_tiny_commands",
        ),
        Case("longest last", TaskBatch.of(long_last), RunSettings(workers=max(2, cpus)), "longest_first"),
        Case(
            "one CPU", TaskBatch.of([_work(scale)] * 6), RunSettings(workers=cpus, pin=(first,)), "pinned_to_few_cpus"
        ),
        Case("nice", TaskBatch.of([_work(0.5)] * (2 * cpus)), RunSettings(nice=19), "held_back_by_priority", hogs),
        Case("waiting", TaskBatch.of([["sleep", "0.05"]] * 16), RunSettings(), "more_workers_while_they_wait"),
        Case("good", TaskBatch.of([_work(scale)] * (6 * cpus)), RunSettings(workers=cpus, discard=True), ""),
    ]


@contextmanager
def hogs() -> Iterator[None]:
    """Keep every CPU busy; in this session, because Linux shares CPUs out by session first (sched(7), autogroup)."""
    started = [subprocess.Popen([*_PYTHON, "import os; os.nice(10)\nwhile True: pass"]) for _ in allowed_cpus()]
    try:
        yield
    finally:
        for hog in started:
            hog.kill()
            hog.wait()


def nothing(number: int, settings: RunSettings) -> OptimizationSuggestion:
    """Return a suggestion of what changes nothing: room in a queue that is never full."""
    change = SettingsChange({"queue_size": settings.queue_size + number}, {"queue_size": settings.queue_size})
    return OptimizationSuggestion(
        rule="nothing", category="concurrency", priority="low", description="A/A", why="none", change=change
    )


def report(words: list[str], budget_s: float, scale: float, tries: int) -> int:
    """Print what was found and proved; return how much was not as it should be."""
    missed = 0
    for case in cases(scale):
        if words and not any(word in case.name for word in words):
            continue
        with case.beside():
            missed += _tried(case, budget_s, 1 if case.rule else tries)
    if not words or "nothing" in words:
        good = cases(scale)[-1]
        said = [
            prove(nothing(n + 1, good.settings), good.batch, good.settings, budget_s=budget_s, seed=n)
            for n in range(10)
        ]
        wrong = [one for one in said if one.status not in {"no gain", "inconclusive"}]
        missed += len(wrong) > 1
        print(f"A/A: {len(wrong)} of {len(said)} say something: {[one.status for one in said]}")
    return missed


def _tried(case: Case, budget_s: float, tries: int) -> int:
    missed = 0
    for number in range(tries):
        begun = time.monotonic()
        found = case.analyzed()
        names = [one.rule for one in found]
        if case.rule:
            right = [one for one in found[:2] if one.rule == case.rule]
            proved = [prove(one, case.batch, case.settings, budget_s=budget_s, seed=number) for one in right]
            met = any(one.status == "proved" for one in proved)
        else:
            proved = [prove(one, case.batch, case.settings, budget_s=budget_s, seed=number) for one in found]
            met = not any(one.status == "proved" for one in proved)
        missed += not met
        print(f"{'met' if met else 'MISSED':6} {case.name}: {names} {time.monotonic() - begun:.0f} s")
        for one in proved:
            print(f"       {one.rule} ({one.change}): {one.status}, {one.gain} {one.effect} {one.note}")
    return missed


def _work(share: float) -> list[str]:
    return [*_PYTHON, f"sum(range({int(share * 2_000_000)}))"]


def _hungry(size: int) -> list[str]:
    return [*_PYTHON, f"x = b'x' * {size}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suggestions", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--budget", type=float, default=BUDGET_S)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--tries", type=int, default=20)
    options = parser.parse_args()
    sys.exit(math.ceil(report(options.words, options.budget, options.scale, options.tries)))
