"""How long a skewed batch takes against the least that it can, ``max(T1 / P, T∞)``, by who hands out its commands.

The commands are real CPU work with Pareto-distributed lengths, the longest four fifths of ``T1 / P``. Every round has them in
a new order, the same for all ways; in each round they run one at a time too, which says what T1 and T∞ are. The orders are
random, but the place of the longest command, on which nearly all depends, is drawn once from each part of the batch.

Who keeps the order cannot do better than list scheduling does: the next command goes to whoever is free first. So each round's
order is computed through, with the lengths that the commands had one at a time, and with those that they had among others,
which is more where CPUs share a core. What is left is what handing out costs.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

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
DRAWN_ORDERS = 2000


@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    Attributes:
        bound_s: The least that the batch can take.
        seconds: What each way took.
        in_order_s: What list scheduling in this round's order takes, with the lengths that commands have one at a time.
        among_others_s: The same, in the order that each of two ways keeps, with the lengths that they had when it ran them.
    """

    bound_s: float
    seconds: dict[str, float]
    in_order_s: float
    among_others_s: dict[str, float]


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
        parts = random.sample(range(rounds), rounds)
        measured = [one_round(ways, in_new_order(batch, part, rounds), workers) for part in parts]
    bound_s = statistics.median(one.bound_s for one in measured)
    print(f"\n{tasks} commands, the longest {LONGEST_SHARE:.0%} of T1/P, {workers} workers: bound {bound_s:.3g} s")
    for way in ORDER:
        ratios = [one.seconds[way] / one.bound_s for one in measured]
        _show(ratios, f"times the bound: {way}", at_most=MOST.get(way))
    for way in ORDER[1:]:
        ratios = [one.seconds[way] / one.seconds[LONGEST_FIRST] for one in measured]
        _show(ratios, f"times as fast: {LONGEST_FIRST} against {way}", at_least=FASTER.get(way))
    print("  what the order allows")
    _show([one.in_order_s / one.bound_s for one in measured], "times the bound: list scheduling in each round's order")
    for way in (STEALING, LONGEST_FIRST):
        least_s = [one.among_others_s[way] for one in measured]
        _show(
            [s / one.bound_s for s, one in zip(least_s, measured, strict=True)], f"lengths among others: {way}'s order"
        )
        _show([one.seconds[way] / s for s, one in zip(least_s, measured, strict=True)], f"times that: {way}")
    drawn = sorted(drawn_orders(walls_s, workers))
    most = MOST[STEALING]
    print(
        f"  {statistics.median(drawn):6.2f} [{drawn[len(drawn) // 4]:.2f}, {drawn[-1 - len(drawn) // 4]:.2f}]  times the bound: "
        f"list scheduling in {len(drawn):,} orders; {sum(one <= most for one in drawn) / len(drawn):.0%} of them <= {most:g}"
    )


def list_scheduled_s(walls_s: Sequence[float], workers: int) -> float:
    """Return what commands of these lengths take if, in this order, each goes to the worker that is free first, at no cost."""
    free_at_s = [0.0] * workers
    for wall_s in walls_s:
        heapq.heapreplace(free_at_s, free_at_s[0] + wall_s)
    return max(free_at_s)


def drawn_orders(walls_s: Sequence[float], workers: int, orders: int = DRAWN_ORDERS) -> list[float]:
    """Return how many times the bound list scheduling takes, in so many random orders."""
    bound_s = max(sum(walls_s) / workers, *walls_s)
    return [list_scheduled_s(random.sample(walls_s, len(walls_s)), workers) / bound_s for _ in range(orders)]


def in_new_order(batch: list[ProcessTask], part: int, parts: int) -> list[ProcessTask]:
    """Return the commands in a random order with the longest of them somewhere in the given one of so many parts."""
    *others, longest = sorted(batch, key=_expected_s)
    tasks = random.sample(others, len(others))
    tasks.insert(int((part + random.random()) / parts * len(batch)), longest)
    return tasks


def _expected_s(task: ProcessTask) -> float:
    return task.expected_s or 0.0


def one_round(ways: dict[str, RunTasks], tasks: list[ProcessTask], workers: int) -> Round:
    """Run a batch every way."""
    ended = {name: whole(ways[name](tasks), len(tasks)) for name in random.sample(list(ways), len(ways))}
    walls_s = ended.pop(ALONE).walls_s
    by_length = sorted(range(len(tasks)), key=lambda place: -_expected_s(tasks[place]))
    return Round(
        bound_s=max(sum(walls_s) / workers, *walls_s),
        seconds={name: one.seconds for name, one in ended.items()},
        in_order_s=list_scheduled_s(walls_s, workers),
        among_others_s={
            STEALING: list_scheduled_s(ended[STEALING].walls_s, workers),
            LONGEST_FIRST: list_scheduled_s([ended[LONGEST_FIRST].walls_s[place] for place in by_length], workers),
        },
    )


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
