"""Which commands of a batch begin first."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path


def shuffled(numbers: Sequence[int], seed: int | None) -> list[int]:
    """Return the numbers in another order, each once; with the same seed it is the same."""
    order = list(numbers)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order is no secret
    return order


def longest_first(numbers: Sequence[int], expected_s: Mapping[int, float]) -> list[int]:
    """Return the numbers of what takes longest first; what is not expected to take anything may be the longest."""
    return sorted(numbers, key=lambda number: -expected_s.get(number, math.inf))


def expected_seconds(commands: Sequence[Sequence[str]], folder: Path) -> dict[int, float]:
    """Return how long commands took in the batches that were recorded on this machine.

    Args:
        commands: The commands.
        folder: Of the recorded runs.

    Returns:
        Seconds, the median of all times that the same command came to an end, by its number; none of those that are new.

    Raises:
        RecordError: The folder cannot be read.
    """
    import shlex

    from procbench.lab.host import read_host
    from procbench.lab.store import Store
    from procbench.scheduling.shown import without_secrets

    runs = Store(folder).load("batch", read_host().host_id)
    known = runs.frame()
    if known.empty:
        return {}
    known = known[(known["outcome"] != "cancelled") & known["error"].isna()]
    medians = known.groupby("command")["wall_s"].median().dropna().to_dict()
    found: dict[int, float] = {}
    for number, argv in enumerate(commands):
        # As it is recorded: without secrets, and only what UTF-8 can write.
        text = shlex.join(without_secrets(argv)).encode(errors="backslashreplace").decode()
        if text in medians:
            found[number] = float(medians[text])
    return found
