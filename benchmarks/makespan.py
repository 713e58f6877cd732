"""How long a skewed batch takes against the least that it can, ``max(T1 / P, T∞)``, by who hands out its commands.

The commands are real CPU work with Pareto-distributed lengths, the longest four fifths of ``T1 / P``. Every round has them in
a new order, the same for all ways; in each round they run one at a time too, which says what T1 and T∞ are.
"""

from __future__ import annotations

import random
import statistics
from contextlib import ExitStack
from dataclasses import replace

from procbench.cpu.topology import usable_workers
from procbench.experiments.makespan import LONGEST_SHARE, skewed
from procbench.experiments.makespan_ways import LONGEST_FIRST, SHARED, STATIC, STEALING, WAYS, RunTasks, TimedBatch
from procbench.experiments.workload import calibrate
from procbench.scheduling.task import ProcessTask

TASKS = 400
MEAN_S = 0.008  # long against the start of a command, so that the short ones are short
ALONE = "one at a time"
MOST = {LONGEST_FIRST: 1.10, STEALING: 1.20}  # times the bound
FASTER = {STATIC: 1.3}  # times as fast as this is longest first
ORDER = (LONGEST_FIRST, STEALING, SHARED, STATIC)


def report(rounds: int, tasks: int = TASKS, mean_s: float = MEAN_S) -> None:
    """Measure every way once in each round, in random order, and print the ratios."""
    workers, work = usable_workers(), calibrate()
    lengths = skewed(tasks, tasks * mean_s, workers)
    batch = [ProcessTask(work.command(seconds), id=place) for place, seconds in enumerate(lengths)]
    with ExitStack() as opened:
        ways = {name: opened.enter_context(way(workers)) for name, way in WAYS.items()}
        ways[ALONE] = opened.enter_context(WAYS[STEALING](1))
        walls_s = whole(ways[ALONE](batch), tasks).walls_s
        batch = [replace(task, expected_s=wall_s) for task, wall_s in zip(batch, walls_s, strict=True)]
        measured = [one_round(ways, batch, workers) for _ in range(rounds)]
    bound_s = statistics.median(bound for bound, _ in measured)
    print(f"\n{tasks} commands, the longest {LONGEST_SHARE:.0%} of T1/P, {workers} workers: bound {bound_s:.3g} s")
    for way in ORDER:
        ratios = [seconds[way] / bound for bound, seconds in measured]
        _show(ratios, f"times the bound: {way}", at_most=MOST.get(way))
    for way in ORDER[1:]:
        ratios = [seconds[way] / seconds[LONGEST_FIRST] for _, seconds in measured]
        _show(ratios, f"times as fast: {LONGEST_FIRST} against {way}", at_least=FASTER.get(way))


def one_round(ways: dict[str, RunTasks], batch: list[ProcessTask], workers: int) -> tuple[float, dict[str, float]]:
    """Run the batch every way, in one new order of its commands; return the bound and each way's seconds."""
    tasks = random.sample(batch, len(batch))
    ended = {name: whole(ways[name](tasks), len(tasks)) for name in random.sample(list(ways), len(ways))}
    walls_s = ended.pop(ALONE).walls_s
    return max(sum(walls_s) / workers, *walls_s), {name: one.seconds for name, one in ended.items()}


def whole(ended: TimedBatch, tasks: int) -> TimedBatch:
    """Return a batch's end as it came; one that lost a command is not measured."""
    assert ended.statuses == (0,) * tasks, f"of {tasks} commands {ended.statuses.count(0)} succeeded"
    return ended


def _show(ratios: list[float], words: str, at_most: float | None = None, at_least: float | None = None) -> None:
    ordered, ratio = sorted(ratios), statistics.median(ratios)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    wanted = "for comparison"
    if at_most is not None:
        wanted = f"wanted <= {at_most:g}: {'met' if ratio <= at_most else 'MISSED'}"
    if at_least is not None:
        wanted = f"wanted >= {at_least:g}: {'met' if ratio >= at_least else 'MISSED'}"
    print(f"  {ratio:6.2f} [{low:.2f}, {high:.2f}]  {words}; {wanted}")
