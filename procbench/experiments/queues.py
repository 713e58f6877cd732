"""How many items pass through a queue in a second, what changes that, how long items wait, and is everybody served?

Four measurements: by way, with as many producers as consumers; by their number; by the bound; and by the number of shards.
Every item is a number, so that each one's passage is known.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from procbench.errors import InvalidInputError
from procbench.experiments.queues_apart import QueueProcesses
from procbench.experiments.queues_outcome import BOUND, SHARDS, THREADS, WAY, Part, QueuesResult, condition_name
from procbench.experiments.queues_ways import OURS, PROCESSES, SHARDED, STANDARD, WAYS, Load, Passage, pass_through
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.results import Progress
from procbench.lab.trials import Condition, measure
from procbench.memory import checks

_WAYS_SHARE: Final = 0.5  # of the budget; the other three measurements get the rest
_FEWER: Final = 10  # so many times fewer items where each costs much: between processes, and in the other measurements
_LEAST_S: Final = 0.05
_MIN_BLOCKS: Final = 6  # the fewest that have a 95 % interval
_MOST_BLOCKS: Final = 60
_FULL_TIMES: Final = 6
_THREADS: Final = (1, 2, 4, 8)
_BOUNDS: Final = (1, 16, 256, 4096)
_SHARDS: Final = (1, 2, 4, 8)


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
    if isinstance(budget_s, bool) or not (math.isfinite(budget_s) and budget_s > 0):
        raise InvalidInputError(f"budget_s is above 0, and not {budget_s!r}")
    checks.whole("items", items, 100)
    checks.whole("threads", threads, 1)
    checks.whole("shards", shards, 1)
    checks.whole("maxsize", maxsize, max(shards, *_SHARDS))
    total_s, begun_s, host = budget_s * (_FULL_TIMES if full else 1), time.monotonic(), read_host()
    usual = Load(OURS, threads, threads, maxsize, shards)
    few = max(100, items // _FEWER)

    def part(knob: str, loads: dict[object, list[Load]], baseline: str, left: int) -> Part:
        left_s = (total_s - (time.monotonic() - begun_s)) / left if left else _WAYS_SHARE * total_s
        count = items if knob == WAY else few
        passages: list[Passage] = []
        with contextlib.ExitStack() as stack:
            conditions = []
            for value, ones in loads.items():
                for load in ones:
                    run = partial(pass_through, load, count)
                    if load.way == PROCESSES:
                        run = partial(stack.enter_context(QueueProcesses(load)).pass_through, few)
                    factors = {"way": load.way, "knob": knob, "setting": str(value)}
                    conditions.append(
                        Condition(condition_name(knob, load.way, value), partial(_rate, run, passages), factors)
                    )
            trials = measure(
                conditions,
                baseline=baseline,
                larger_is_better=True,
                min_blocks=_MIN_BLOCKS,
                max_blocks=_MOST_BLOCKS * (_FULL_TIMES if full else 1),
                target_half_width=0.01 if full else 0.03,
                budget_s=max(_LEAST_S, left_s),
                seed=seed,
                on_progress=on_progress,
            )
        if trials.stopped_because == "interrupted":
            raise KeyboardInterrupt
        return Part(knob, trials, tuple(passages))

    both = (OURS, STANDARD)
    loads_by_way: dict[object, list[Load]] = {way: [usual._replace(way=way)] for way in (*WAYS, PROCESSES)}
    by_threads: dict[object, list[Load]] = {
        count: [usual._replace(way=way, producers=count, consumers=count) for way in both]
        for count in sorted({*_THREADS, threads})
    }
    by_bound: dict[object, list[Load]] = {
        bound: [usual._replace(way=way, maxsize=bound) for way in both] for bound in sorted({*_BOUNDS, maxsize})
    }
    by_shards: dict[object, list[Load]] = {
        count: [usual._replace(way=SHARDED, shards=count)] for count in sorted({*_SHARDS, shards})
    }
    parts = (
        part(WAY, loads_by_way, STANDARD, 0),
        part(THREADS, by_threads, condition_name(THREADS, OURS, threads), 3),
        part(BOUND, by_bound, condition_name(BOUND, OURS, maxsize), 2),
        part(SHARDS, by_shards, condition_name(SHARDS, SHARDED, 1), 1),
    )
    short = sum(one.trials.blocks < _MIN_BLOCKS for one in parts)
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


def _rate(run: Callable[[], Passage], passages: list[Passage]) -> float:
    passages.append(run())
    return passages[-1].rate
