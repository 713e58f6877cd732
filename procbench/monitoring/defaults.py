"""The collectors that a monitor has: its defaults, those of installed packages, and those of procbench's own parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from procbench.cpu.cgroups import SYSTEM_ROOT
from procbench.errors import InvalidInputError
from procbench.monitoring.collect_parts import Part, PartCollector
from procbench.monitoring.collect_processes import ProcessesCollector, ProcessTable, TreeCollector
from procbench.monitoring.collect_stalls import PressureCollector, ThrottlingCollector
from procbench.monitoring.collect_system import CpuCollector, DiskCollector, MemoryCollector, NetworkCollector
from procbench.monitoring.collectors import MetricCollector, check_collector, plugged_in


def default_collectors(
    root: Path = SYSTEM_ROOT, tree_of: int | None = None, table: ProcessTable | None = None
) -> tuple[MetricCollector, ...]:
    """Return new collectors of CPU, memory, disk, network, processes, pressure, throttling, and of a process's descendants.

    Args:
        root: Where ``proc`` and ``sys`` are found.
        tree_of: The process whose descendants are looked at together; this one by default.
        table: Where processes are looked up, once for all who ask in one sample; a new one by default.

    Raises:
        InvalidInputError: ``tree_of`` can be no process's number.
    """
    table = table or ProcessTable(root)
    return (
        CpuCollector(root),
        MemoryCollector(root),
        DiskCollector(root),
        NetworkCollector(root),
        ProcessesCollector(table),
        TreeCollector(tree_of, table),
        PressureCollector(root),
        ThrottlingCollector(root),
    )


def chosen_collectors(
    collectors: Iterable[MetricCollector] | None, parts: Mapping[str, Part], refuse: Callable[[str, str], None]
) -> tuple[MetricCollector, ...]:
    """Return the collectors that somebody asked for, and one for each part.

    Args:
        collectors: Those that were named; None for the default ones and those of installed packages.
        parts: Whatever has ``statistics()``, by name.
        refuse: Told the name of each installed one that cannot be had, and why.

    Raises:
        InvalidInputError: What was named is no collector, or two have one name.
    """
    chosen = [*(default_collectors() if collectors is None else collectors)]
    chosen += [PartCollector(name, part) for name, part in parts.items()]
    names = set()
    for collector in chosen:
        try:
            check_collector(collector)
        except TypeError as error:
            raise InvalidInputError(str(error)) from error
        if collector.name in names:
            raise InvalidInputError(f"two collectors are called {collector.name!r}; give one another name")
        names.add(collector.name)
    if collectors is None:
        found = plugged_in()
        for name, why in found.failures.items():
            refuse(name, why)
        for collector in found.collectors:
            if collector.name in names:
                refuse(collector.name, "another collector has that name")
            else:
                names.add(collector.name)
                chosen.append(collector)
    return tuple(chosen)
