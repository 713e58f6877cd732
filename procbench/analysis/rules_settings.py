"""Rules about what the settings themselves hold commands back by: limits, pins of a kind, and pins that are missing."""

from __future__ import annotations

from typing import Final

from procbench.analysis.observed import Observed
from procbench.analysis.suggested import settings_change, without
from procbench.analysis.suggestions import AnalysisConfig, OptimizationSuggestion
from procbench.scheduling.settings import RunSettings

_WORTH_A_CACHE_S: Final = 0.05  # filling one takes a millisecond or so
_CACHE_GAIN: Final = 1.1  # about what a cold cache once in a scheduler's slice can cost


def caches_go_cold(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Commands whose data fit into a cache, on CPUs with several, among which nothing keeps them."""
    fits = o.command_memory_bytes <= o.cache_bytes
    if s.pin != "none" or o.caches < 2 or o.workers > o.cpus or not fits or o.wall_median_s < _WORTH_A_CACHE_S:
        return None
    if not o.cpu_share >= c.of("cpu", "bound"):
        return None
    return settings_change(
        s,
        {"pin": "cache"},
        category="cpu",
        description=(
            f"commands of {o.command_memory_bytes / 1e6:.1f} MB fit into a cache of {o.cache_bytes / 1e6:.1f} MB, and may move "
            f"among {o.caches} of these"
        ),
        why="A command that goes on under another cache reads all its data from memory once more.",
        at_most=_CACHE_GAIN,
    )


def limited_by_itself(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Commands that use up the CPU limit that their settings give them."""
    if s.cpu_limit is None or not o.cpu_share >= c.of("cpu", "limited") * s.cpu_limit or s.cpu_limit >= 1:
        return None
    fair = min(1.0, o.cpus_allowed / o.workers)  # of its time, what a command would have without a limit
    return settings_change(
        s,
        {"cpu_limit": None},
        category="cpu",
        description=f"each command may use {s.cpu_limit:g} of a CPU, and had {o.cpu_share:.2g}",
        why="A command at its limit stands still until its next share, also while CPUs are idle.",
        at_most=fair / max(s.cpu_limit, 0.01),
        side="other processes get less",
    )


def waits_until_there_is_room(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Tasks that wait in the queue beside idle workers, because none may start at this load or with so little memory free."""
    held = {"start_below_load": s.start_below_load, "start_above_free_bytes": s.start_above_free_bytes}
    found = {name: value for name, value in held.items() if value is not None}
    if not found or not o.idle_share >= c.of("concurrency", "idle"):
        return None
    if "start_above_free_bytes" in found and not o.memory_share < c.of("memory", "short"):
        del found["start_above_free_bytes"]  # it keeps the machine from swapping, or may
    if not found:
        return None
    return settings_change(
        s,
        dict.fromkeys(found),
        category="concurrency",
        description=(
            f"workers had no command for {o.idle_share:.0%} of their time, with "
            + " and ".join(f"{name}={value:g}" for name, value in found.items())
        ),
        why="A task that waits for the machine to be free holds its worker, and the batch's own load counts too.",
        at_most=without(o.idle_share),
        side="commands start whatever else the machine does",
    )


def uneven_pins(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Workers of which some share a CPU and others do not, so that the lucky ones do most and the others end late."""
    if isinstance(s.pin, str) or o.workers < 2 or o.workers % len(s.pin) == 0:
        return None
    if o.cpus_allowed < min(o.cpus, o.workers, o.tasks):
        return None  # then the sets leave CPUs out, which is worse and another rule's
    uneven = o.imbalance >= c.of("concurrency", "imbalance") or o.tail_share >= c.of("concurrency", "tail")
    if not uneven:
        return None
    return settings_change(
        s,
        {"pin": "none"},
        category="concurrency",
        description=(
            f"{o.workers} workers go round {len(s.pin)} CPU sets; the busiest did {o.imbalance:.0%} more than the mean, and "
            f"workers had none left for {o.tail_share:.0%} of their time"
        ),
        why="Those that share a set are slower, and the batch waits for them while another CPU is idle.",
        at_most=without(max(o.tail_share, min(o.imbalance, 0.5) / 2)),
    )


RULES: Final = (caches_go_cold, limited_by_itself, waits_until_there_is_room, uneven_pins)
