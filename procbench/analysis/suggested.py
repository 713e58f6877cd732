"""What all rules have in common: how a suggestion is made, and what several of them ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from procbench.analysis.observed import Observed
from procbench.analysis.suggestions import (
    AnalysisConfig,
    Category,
    Cost,
    Gain,
    HostChange,
    Level,
    OptimizationSuggestion,
    SettingsChange,
)
from procbench.scheduling.settings import RunSettings

_CRITICAL, _HIGH, _MEDIUM = 2.0, 1.5, 1.15
_MOST_SHARE: Final = 0.99


def settings_change(
    settings: RunSettings,
    changes: Mapping[str, Any],
    *,
    category: Category,
    description: str,
    why: str,
    at_most: float,
    gain: Gain = "time",
    cost: Cost = "low",
    priority: Level | None = None,
    side: str = "",
) -> OptimizationSuggestion:
    """Return a suggestion to change settings; ``analyze`` names it like its rule."""
    before = {name: getattr(settings, name) for name in changes}
    return OptimizationSuggestion(
        category=category,
        priority=priority or priority_of(at_most),
        description=description,
        why=why,
        change=SettingsChange(changes, before),
        cost=cost,
        gain=gain,
        at_most=at_most,
        note=side,
    )


def host_change(
    change: HostChange, *, category: Category, description: str, why: str, at_most: float, cost: Cost
) -> OptimizationSuggestion:
    """Return a suggestion to change the machine; ``analyze`` names it like its rule."""
    return OptimizationSuggestion(
        category=category,
        priority=priority_of(at_most),
        description=description,
        why=why,
        change=change,
        cost=cost,
        at_most=at_most,
    )


def priority_of(at_most: float) -> Level:
    """Return the priority of what could become so many times better."""
    if at_most >= _CRITICAL:
        return "critical"
    if at_most >= _HIGH:
        return "high"
    return "medium" if at_most >= _MEDIUM else "low"


def without(share: float) -> float:
    """Return how many times better something is when that share of its time is gone."""
    return 1 / (1 - min(max(share, 0.0), _MOST_SHARE))


def mostly_waits(o: Observed, s: RunSettings, c: AnalysisConfig, *, pinned: bool = False) -> bool:
    """Return whether commands wait for something else than a CPU.

    A command without a CPU may wait for one, too, behind others on the machine. Then the luckiest had one all the same, or
    they hardly ever gave it up and lost it again and again. Where something keeps commands off the CPUs, a nice value or a pin,
    nobody can tell; and who fills a pipe waits for us.
    """
    held = (s.nice or 0) > 0 or s.policy in {"idle", "batch"} or s.cpu_limit is not None
    narrow = not pinned and o.cpus_allowed < min(o.cpus, o.workers)
    if held or narrow or o.pipe_bytes_per_task >= c.of("disk_io", "heavy_bytes"):
        return False
    wants = o.busy_share * o.cpus / o.cpus_allowed
    taken = o.involuntary_per_cpu_s / max(o.involuntary_per_cpu_s + o.voluntary_per_cpu_s, 1e-9)
    enough = c.of("concurrency", "waiting")
    return o.cpu_share_best < enough and wants < enough and taken < c.of("concurrency", "taken")
