"""What a monitor asks for numbers: the protocol, the collectors that come with procbench, and those of others.

Others' are found by the entry point group ``procbench.collectors``. Each entry point names something that is called without
arguments and returns a collector::

    [project.entry-points."procbench.collectors"]
    thermometer = "my_package.heat:Thermometer"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol, runtime_checkable

GROUP: Final = "procbench.collectors"
"""The group of the entry points."""


class Metric(NamedTuple):
    """What a collector's number is.

    Attributes:
        unit: ``bytes``, ``s``, ``share`` (0 to 1), or what is counted, such as ``packets``.
        counter: Whether the number is a total that only grows, so that a monitor makes a rate of it.
        help: What it is, in a few words.
        label: What the word in brackets is, where there is one number for each of several things: in ``busy[vda]`` a disk.
        rate: The rate's unit; by default ``share`` for a counter of seconds, and else the unit and ``/s``.
    """

    unit: str
    counter: bool = False
    help: str = ""
    label: str = "item"
    rate: str = ""

    @property
    def shown_unit(self) -> str:
        """The unit of what a monitor keeps: of the rate where it is a counter."""
        if not self.counter:
            return self.unit
        return self.rate or ("share" if self.unit == "s" else f"{self.unit}/s")


@runtime_checkable
class MetricCollector(Protocol):
    """Who gives a monitor numbers.

    A monitor calls one collector from one thread at a time, though not always from the same. Two methods more are called where
    they are there: ``reasons()``, which returns for metrics that are NaN, or less than the truth, why they are; and
    ``close()``, when the monitor stops.

    Attributes:
        name: One word, which no other collector of the monitor has.
        metrics: What its numbers are, by name without brackets.
    """

    @property
    def name(self) -> str:
        """One word."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """What its numbers are."""

    def collect(self) -> Mapping[str, float]:
        """Return the numbers of this moment, by name: ``read``, or ``busy[vda]``; NaN for what cannot be told.

        What it raises is reported, and it is asked again at the next tick.
        """


class PlugIns(NamedTuple):
    """What others' packages offer.

    Attributes:
        collectors: Those that could be made.
        failures: For each entry point that gave none, its name and why.
    """

    collectors: tuple[MetricCollector, ...]
    failures: Mapping[str, str]


def plugged_in() -> PlugIns:
    """Make the collectors of all installed packages that have entry points for them; costs a look at every package."""
    from importlib.metadata import entry_points

    made: list[MetricCollector] = []
    failures: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        try:
            collector = point.load()()
            check_collector(collector)
        except Exception as error:  # others' code: whatever it raises is its matter
            failures[point.name] = f"{point.value}: {type(error).__name__}: {error}"
        else:
            made.append(collector)
    return PlugIns(tuple(made), failures)


def check_collector(collector: object) -> None:
    """Return if it has what a collector must have.

    Raises:
        TypeError: It has not.
    """
    if isinstance(collector, type) or not isinstance(collector, MetricCollector):
        raise TypeError(f"{collector!r} is no collector: it needs a name, metrics and collect()")
    if not isinstance(collector.name, str) or not collector.name:
        raise TypeError(f"{collector!r} has {collector.name!r} for a name, which must be a word")
    if not isinstance(collector.metrics, Mapping):
        raise TypeError(f"{collector!r} has {collector.metrics!r} for metrics, which must be a mapping of names")
