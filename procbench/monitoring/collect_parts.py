"""Whatever has ``statistics()``: a scheduler, a queue, a pool, a budget. The fields become metrics, those within them too."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterator, Mapping
from numbers import Real
from typing import Any, Final, Protocol

from procbench.monitoring.collectors import Metric

_TOTALS = """
aged allocations cancelled changes closed count dequeued enqueued errors failed failed_steals failures forgotten gone hits leaked
misses moves_applied moves_proposed opened parks processed refused releases removed restored retried reused stolen_tasks steals
submitted succeeded timed timed_out undone waits
"""
TOTALS: Final = frozenset(_TOTALS.split())
"""Fields of procbench's own statistics that only grow."""

_UNITS: Final = {
    "_bytes": "bytes",
    "_s": "s",
    "_ms": "ms",
    "_us": "µs",
    "_ns": "ns",
    "_percent": "%",
    "_share": "share",
}
_MAY_BE_NUMBER: Final = re.compile(r"\b(int|float)\b")
_Words = tuple[str, ...]


class Part(Protocol):
    """What can be watched."""

    def statistics(self) -> Any:
        """Return a dataclass, or a mapping or sequence of such."""


class PartCollector:
    """The statistics of one part. Numbers become metrics, and what stands behind a field's last ``_`` its unit.

    A field within a field is ``waits_p50``; what stands in a mapping or a sequence has its key in brackets, ``queued[high]``.
    ``None`` is NaN, with that for a reason; so is a NaN, such as the mean of nothing. Text is left out.

    Args:
        name: What it is called, and the collector too.
        part: Who has the statistics. They are asked for in a monitor's thread.
        totals: Fields that only grow, so that a monitor makes rates of them.
    """

    def __init__(self, name: str, part: Part, totals: Collection[str] = TOTALS) -> None:
        self.name = name
        self.metrics: dict[str, Metric] = {}
        self._part = part
        self._totals = frozenset(totals)
        self._missing: dict[str, str] = {}

    def collect(self) -> Mapping[str, float]:
        """Return all numbers of the statistics."""
        values: dict[str, float] = {}
        self._missing = {}
        for path, keys, value in _leaves(self._part.statistics(), (), ()):
            field = "_".join(path)
            word, unit = _unit_of(field)
            if word not in self.metrics:
                self.metrics[word] = Metric(unit, path[-1] in self._totals, f"{field} of {self.name}", "of")
            name = f"{word}[{','.join(keys)}]" if keys else word
            values[name] = math.nan if value is None else float(value)
            if math.isnan(values[name]):
                self._missing[name] = f"{self.name} does not tell" if value is None else f"{self.name} has none so far"
        return values

    def reasons(self) -> Mapping[str, str]:
        """Return which metrics the part says nothing of."""
        return dict(self._missing)


def _leaves(value: Any, path: _Words, keys: _Words) -> Iterator[tuple[_Words, _Words, float | None]]:
    """Yield each number with the fields and the keys on the way to it; None only where a number could be."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            inside = getattr(value, field.name)
            if inside is not None or _MAY_BE_NUMBER.search(str(field.type)):
                yield from _leaves(inside, (*path, field.name), keys)
    elif isinstance(value, Mapping):
        for key, inside in value.items():
            yield from _leaves(inside, path, (*keys, str(key)))
    elif isinstance(value, (tuple, list)):
        for place, inside in enumerate(value):
            yield from _leaves(inside, path, (*keys, str(place)))
    elif path and (value is None or isinstance(value, Real)):
        yield path, keys, None if value is None else float(value)


def _unit_of(field: str) -> tuple[str, str]:
    for suffix, unit in _UNITS.items():
        if field.endswith(suffix):
            return field.removesuffix(suffix), unit
    return field, ""
