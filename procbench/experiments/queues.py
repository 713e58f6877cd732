"""How many items pass through a queue in a second, what changes that, how long items wait, and is everybody served?

Four measurements: by way, with as many producers as consumers; by their number; by the bound; and by the number of shards.
Every item is a number, so that each one's passage is known.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from procbench.experiments.measuring import MIN_BLOCKS, Measuring
from procbench.experiments.queues_apart import QueueProcesses
from procbench.experiments.queues_outcome import BOUND, SHARDS, THREADS, WAY, Part, QueuesResult, condition_name
from procbench.experiments.queues_ways import OURS, PROCESSES, SHARDED, STANDARD, WAYS, Load, Passage, pass_through
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress
from procbench.lab.trials import Condition
from procbench.memory import checks

_WAYS_SHARE: Final = 0.5  # of the budget; the other three measurements get the rest
_FEWER: Final = 10  # so many times fewer items where each costs much: between processes, and in the other measurements
_THREADS: Final = (1, 2, 4, 8)
_BOUNDS: Final = (1, 16, 256, 4096)
_SHARDS: Final = (1, 2, 4, 8)
_BOTH: Final = (OURS, STANDARD)


def run(
    *,
    budget_s: float = 12,
    items: int = 20_000,
    threads: int = 2,
    maxsize: int = 4096,
    shards: int = 4,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> QueuesResult:
    """Measure how items pass through queues.

    Starts threads, and for ``multiprocessing.Queue`` an interpreter with processes of its own; all are gone at the end,
    however it comes. A run that Ctrl-C strikes keeps nothing.

    Args:
        budget_s: Seconds for measuring; at least one block of everything is measured, whatever it takes.
        items: Items of a trial, at least 100; a tenth of them where each costs much.
        threads: Producers, and as many consumers, unless their number is what is varied.
        maxsize: Most items that wait, unless that is what is varied; at least ``shards`` and 8.
        shards: Shards, unless their number is what is varied.
        full: Six times the budget, and narrower intervals.
        data_dir: Where to record the run; empty or None not to. Where that fails the notes say so.
        seed: Draws the order.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each measurement.

    Raises:
        InvalidInputError: A number makes no sense; nothing has run then.
        TrialError: The interpreter of the processes ended.
    """
    measuring = Measuring(larger_is_better=True, full=full, seed=seed, on_progress=on_progress)
    total_s = measuring.planned_s(budget_s)
    checks.whole("items", items, 100)
    checks.whole("threads", threads, 1)
    checks.whole("shards", shards, 1)
    checks.whole("maxsize", maxsize, max(shards, *_SHARDS))
    begun_s, host = time.monotonic(), read_host()
    usual = Load(OURS, threads, threads, maxsize, shards)
    few = max(100, items // _FEWER)

    def left_s() -> float:
        return total_s - (time.monotonic() - begun_s)

    parts = (
        _part(WAY, _by_way(usual), STANDARD, items, few, _WAYS_SHARE * total_s, measuring),
        _part(THREADS, _by_threads(usual), condition_name(THREADS, OURS, threads), few, few, left_s() / 3, measuring),
        _part(BOUND, _by_bound(usual), condition_name(BOUND, OURS, maxsize), few, few, left_s() / 2, measuring),
        _part(SHARDS, _by_shards(usual), condition_name(SHARDS, SHARDED, 1), few, few, left_s(), measuring),
    )
    short = sum(one.trials.blocks < MIN_BLOCKS for one in parts)
    notes = [
        f"a trial is {items:,} items by way, and {few:,} of {PROCESSES} and in the other measurements; {threads} producers and "
        f"{threads} consumers, maxsize {maxsize:,}, {shards} shards, unless that is varied",
        "waits are what the queue's own statistics say: one item in 31 is timed",
    ]
    if short:
        notes.append(f"too few blocks for an interval in {short} of {len(parts)} measurements: raise budget_s")
    return QueuesResult(
        parts=parts,
        host=host,
        warnings=noise_warnings(host),
        notes=tuple(notes),
        parameters={
            "budget_s": total_s,
            "items": items,
            "threads": threads,
            "maxsize": maxsize,
            "shards": shards,
            "full": full,
            "seed": seed,
        },
    ).kept_in(data_dir)


_Loads = dict[object, list[Load]]


def _part(knob: str, loads: _Loads, baseline: str, items: int, few: int, budget_s: float, measuring: Measuring) -> Part:
    """Measure what one knob changes: every value with its loads, ``few`` items where they go between processes."""
    passages: list[Passage] = []
    with contextlib.ExitStack() as stack:
        conditions = []
        for value, load in ((value, load) for value, ones in loads.items() for load in ones):
            run = partial(pass_through, load, items)
            if load.way == PROCESSES:
                run = partial(stack.enter_context(QueueProcesses(load)).pass_through, few)
            factors = {"way": load.way, "knob": knob, "setting": str(value)}
            conditions.append(Condition(condition_name(knob, load.way, value), partial(_rate, run, passages), factors))
        trials = measuring.measured(conditions, baseline, budget_s)
    return Part(knob, trials, tuple(passages))


def _by_way(usual: Load) -> _Loads:
    return {way: [usual._replace(way=way)] for way in (*WAYS, PROCESSES)}


def _by_threads(usual: Load) -> _Loads:
    counts = sorted({*_THREADS, usual.producers})
    return {count: [usual._replace(way=way, producers=count, consumers=count) for way in _BOTH] for count in counts}


def _by_bound(usual: Load) -> _Loads:
    bounds = sorted({*_BOUNDS, usual.maxsize})
    return {bound: [usual._replace(way=way, maxsize=bound) for way in _BOTH] for bound in bounds}


def _by_shards(usual: Load) -> _Loads:
    return {count: [usual._replace(way=SHARDED, shards=count)] for count in sorted({*_SHARDS, usual.shards})}


def _rate(run: Callable[[], Passage], passages: list[Passage]) -> float:
    passages.append(run())
    return passages[-1].rate
