"""The catalogue: what a batch showed, why that hurts, and what to change. One small function for each rule.

A rule returns nothing where its change cannot help. How much a change could gain follows from shares of time that were seen,
as Amdahl's law has it; that bound orders the suggestions, and only a measurement says what is really gained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from procbench.analysis import rules_resources, rules_settings
from procbench.analysis.observed import Observed
from procbench.analysis.suggested import mostly_waits, settings_change, without
from procbench.analysis.suggestions import LEVELS, AnalysisConfig, OptimizationSuggestion
from procbench.scheduling.settings import RunSettings

Rule = Callable[[Observed, RunSettings, AnalysisConfig], OptimizationSuggestion | None]

_WORTH_A_START_S: Final = 0.05  # a command of that length makes a start of a millisecond cheap
_COMMANDS_PER_WORKER: Final = 4  # fewer, and the last one decides
_MOST_PER_CPU: Final = 16
_ENOUGH_QUEUE: Final = 65_536


def analyze(
    observed: Observed, settings: RunSettings, config: AnalysisConfig | None = None
) -> list[OptimizationSuggestion]:
    """Return what might make a batch better, the most promising first. Pure and quick.

    Args:
        observed: What the batch showed.
        settings: What it was run with.
        config: From where on something is said; None for the defaults.

    Returns:
        Suggestions by priority, and within one by what they could gain at most. All are unmeasured.
    """
    config = config or AnalysisConfig()
    if not observed.tasks:
        return []
    made = [(rule.__name__, rule(observed, settings, config)) for rule in RULES]
    worth = [replace(one, rule=name) for name, one in made if one is not None and one.at_most >= 1 + config.worth]
    return sorted(worth, key=lambda one: (-LEVELS.index(one.priority), -one.at_most))


def too_few_workers(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Fewer workers than CPUs, and commands that use one."""
    most = min(o.cpus_allowed, o.tasks)
    if o.workers >= most or mostly_waits(o, s, c):
        return None
    bound = o.cpu_share >= c.of("cpu", "bound")
    had = f": commands had a CPU for {o.cpu_share:.0%} of their time" if bound else " at a time, one for each worker"
    return settings_change(
        s,
        {"workers": most},
        category="cpu",
        description=f"{o.workers} of {most} CPUs could be busy{had}",
        why="A CPU without a command stands still while others wait.",
        at_most=most / o.workers,
    )


def more_workers_while_they_wait(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Commands that mostly wait, for a network say, on few workers."""
    if not mostly_waits(o, s, c) or o.failed_share > 0.5:
        return None
    per_cpu = min(_MOST_PER_CPU, 1 / max(o.cpu_share, 1e-3))
    fits = 0.5 / (o.memory_share / o.workers) if o.memory_share > 0 else math.inf
    workers = int(min(math.ceil(o.cpus * per_cpu), o.tasks, fits))
    if workers <= o.workers:
        return None
    network = o.network_bytes_per_s >= c.of("network_io", "traffic")
    traffic = f", with {o.network_bytes_per_s / 1e6:.1f} MB/s over the network" if network else ""
    return settings_change(
        s,
        {"workers": workers},
        category="network_io" if network else "concurrency",
        description=f"commands waited for {1 - o.cpu_share:.0%} of their time{traffic}, on {o.workers} workers",
        why="While a command waits its worker cannot start another, and the CPUs stand still.",
        at_most=workers / o.workers,
    )


def pinned_to_few_cpus(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Workers that share fewer CPUs than there are."""
    could = min(o.cpus, o.workers, o.tasks)
    if isinstance(s.pin, str) or o.cpus_allowed >= could or mostly_waits(o, s, c, pinned=True):
        return None
    return settings_change(
        s,
        {"pin": "none"},
        category="cpu",
        description=f"{o.workers} workers are pinned to {o.cpus_allowed} of {o.cpus} CPUs, and their commands want CPUs",
        why="Commands wait for the CPU that they share, while others are idle.",
        at_most=could / o.cpus_allowed,
    )


def held_back_by_priority(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Commands nicer than others, beside others."""
    nice, idle = s.nice or 0, s.policy in {"idle", "batch"}
    fair = min(1.0, o.cpus_allowed / o.workers)  # of its time, what a command would have if nobody else were here
    if (nice <= 0 and not idle) or not o.cpu_share < c.of("cpu", "held_off") * fair:
        return None
    words = [*([f"nice value {nice}"] if nice > 0 else []), *([f"policy {s.policy}"] if idle else [])]
    changes = {"nice": None} if nice > 0 else {}
    return settings_change(
        s,
        changes | ({"policy": None} if idle else {}),
        category="cpu",
        description=f"with {' and '.join(words)} commands had a CPU for {o.cpu_share:.0%} of their time; {fair:.0%} is fair",
        why="Every other process on the machine goes first; at nice 19 a command has a seventieth of its share.",
        at_most=fair / max(o.cpu_share, 0.01),
        side="other processes get less",
    )


def moved_about(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Commands that lose their CPU often, though there is one for each worker: their caches are cold again and again."""
    if s.pin != "none" or o.workers > o.cpus or o.workers < 2 or o.cpus < 4 or o.wall_median_s < _WORTH_A_START_S:
        return None
    if not o.involuntary_per_cpu_s >= c.of("cpu", "preempted") or not o.cpu_share >= c.of("cpu", "bound"):
        return None
    return settings_change(
        s,
        {"pin": "core"},
        category="cpu",
        description=f"commands lost their CPU {o.involuntary_per_cpu_s:.0f} times a second of CPU time, unpinned",
        why="A command that goes on elsewhere finds none of its data in that CPU's caches.",
        at_most=1.1,
    )


def throttled(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """A cgroup's quota that more workers than it pays for use up."""
    if not o.throttled_share >= c.of("cpu", "throttled") or o.workers <= o.cpus:
        return None
    return settings_change(
        s,
        {"workers": o.cpus},
        category="cpu",
        description=f"the cgroup's quota was used up in {o.throttled_share:.0%} of its periods, with {o.workers} workers",
        why=f"The quota pays for {o.cpus} CPUs; once it is used up all commands stand still until the next period.",
        at_most=without(o.throttled_share / 2),
    )


def batch_tiny_commands(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Many tiny commands of a template, each of which pays for its start."""
    if not o.arguments or not o.spawn_share >= c.of("process_management", "spawn") or mostly_waits(o, s, c):
        return None
    wanted = math.ceil(_WORTH_A_START_S / max(o.wall_median_s / s.args_per_task, 1e-6))
    number = min(wanted, o.arguments // (_COMMANDS_PER_WORKER * o.workers))
    if number < 2 * s.args_per_task:
        return None
    return settings_change(
        s,
        {"args_per_task": number},
        category="process_management",
        description=(
            f"{o.tasks:,} commands took {o.wall_median_s * 1e3:.1f} ms each, up to {o.spawn_share:.0%} of it for their start"
        ),
        why=f"Each start costs the same whatever it does; one start for {number} arguments costs it once.",
        at_most=without(o.spawn_share * (1 - s.args_per_task / number)),
        cost="medium",
        side="the program must take several arguments at once",
    )


def too_coarse(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """So many arguments in a command that workers cannot share them evenly."""
    number = o.arguments // (_COMMANDS_PER_WORKER * o.workers)
    if s.args_per_task < 2 or not 1 <= number < s.args_per_task or not o.tail_share >= c.of("concurrency", "tail"):
        return None
    return settings_change(
        s,
        {"args_per_task": number},
        category="concurrency",
        description=f"{o.tasks} commands for {o.workers} workers: for {o.tail_share:.0%} of their time they had none left",
        why="With few large commands one worker is left with the last of them while the others have nothing to do.",
        at_most=without(o.tail_share),
    )


def longest_first(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """A long command that began when the others were nearly done."""
    late = o.longest_begun + o.longest_share > 1 - o.tail_share / 2 and o.longest_begun > 0.1
    if s.order == "longest_first" or o.workers < 2 or o.tasks <= o.workers or not late:
        return None
    if not o.tail_share >= c.of("concurrency", "tail"):
        return None
    best = max(1 - o.tail_share, o.longest_share)
    return settings_change(
        s,
        {"order": "longest_first"},
        category="concurrency",
        description=(
            f"the longest command began when {o.longest_begun:.0%} of the time was over, and workers had nothing to do "
            f"for {o.tail_share:.0%} of theirs"
        ),
        why="At the end one worker runs the long command alone. Tasks need their expected_s: what they took this time.",
        at_most=1 / best,
    )


def starved_by_a_small_queue(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Workers that wait for tasks although there are more, because few may wait in the queue."""
    if s.queue_size >= 4 * o.workers or not o.idle_share >= c.of("concurrency", "idle") or o.tasks <= o.workers:
        return None
    return settings_change(
        s,
        {"queue_size": _ENOUGH_QUEUE},
        category="concurrency",
        description=f"workers had no command for {o.idle_share:.0%} of their time, and {s.queue_size} tasks may wait",
        why="A worker that is done waits until the next task is handed in.",
        at_most=without(o.idle_share),
    )


RULES: Final[tuple[Rule, ...]] = (
    too_few_workers,
    more_workers_while_they_wait,
    pinned_to_few_cpus,
    held_back_by_priority,
    moved_about,
    throttled,
    batch_tiny_commands,
    too_coarse,
    longest_first,
    starved_by_a_small_queue,
    *rules_resources.RULES,
    *rules_settings.RULES,
)
"""Every rule there is."""
