"""Rules about what commands share besides CPUs: memory, pipes, disks, process numbers, descriptors."""

from __future__ import annotations

import math
import os
import resource
from typing import Final

from procbench.analysis.observed import Observed, most_processes
from procbench.analysis.suggested import host_change, mostly_waits, settings_change, without
from procbench.analysis.suggestions import AnalysisConfig, HostChange, OptimizationSuggestion
from procbench.scheduling.settings import RunSettings

_PIPE_BYTES: Final = 1 << 20  # more than this only root may have
_BUFFER_BYTES: Final = 64 * 1024
_FILL_S: Final = 3e-5  # a full pipe stops its writer and wakes its reader: measured with pipes of 4 KiB on two CPUs
_FEWEST_ZOMBIES: Final = 10
_MOST_PIDS: Final = 4_194_304  # PID_MAX_LIMIT on 64-bit Linux


def too_many_workers(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """More commands at a time than CPUs, each with its memory: fewer are as quick."""
    if o.workers <= o.cpus or mostly_waits(o, s, c) or not o.memory_share >= c.of("memory", "worth_saving"):
        return None
    if o.memory_share >= c.of("memory", "short"):
        return None  # then fewer workers save time, too
    at_a_time = min(o.workers, o.tasks)
    return settings_change(
        s,
        {"workers": o.cpus},
        category="memory",
        description=(
            f"{at_a_time} commands at a time on {o.cpus} CPUs had up to {o.peak_memory_bytes / 1e6:,.0f} MB, "
            f"{o.memory_share:.0%} of the memory"
        ),
        why="Commands that take turns on a CPU keep all their memory while they wait; as many as CPUs are as quick.",
        at_most=at_a_time / o.cpus,
        gain="memory",
    )


def memory_runs_short(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """So many commands at a time that the machine's memory runs short, or it swaps."""
    short = o.memory_share >= c.of("memory", "short")
    pressed = o.memory_pressure >= c.of("memory", "pressure") or o.swap_bytes > 0.01 * o.peak_memory_bytes
    if o.workers < 2 or not (short or pressed):
        return None
    fits = int(o.workers * 0.5 / o.memory_share) if short else o.workers // 2
    lost = o.memory_pressure if o.memory_pressure > 0 else 0.5
    return settings_change(
        s,
        {"workers": max(1, min(fits, o.workers - 1))},
        category="memory",
        description=f"commands had {_percent(o.memory_share)} of the memory at a time, and somebody waited for memory "
        f"{_percent(o.memory_pressure)} of the time",
        why="Pages that do not fit are written out and read back, which is slower than any wait for a worker.",
        at_most=max(without(lost), 1.5),
    )


def small_pipes(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Many bytes through pipes that hold little."""
    heavy = o.pipe_bytes_per_task >= c.of("disk_io", "heavy_bytes")
    if not heavy or (s.pipe_size_bytes or 0) >= _PIPE_BYTES or o.pipe_bytes >= _PIPE_BYTES:
        return None
    fills_per_s = o.pipe_bytes_per_s / o.pipe_bytes
    return settings_change(
        s,
        {"pipe_size_bytes": _PIPE_BYTES},
        category="disk_io",
        description=(
            f"{o.pipe_bytes_per_task / 1e6:,.0f} MB a command went through pipes of {o.pipe_bytes / 1024:.0f} KiB, "
            f"which were full {fills_per_s:,.0f} times a second"
        ),
        why="A full pipe stops its writer and wakes its reader; a large one does so seldom.",
        at_most=without(fills_per_s * _FILL_S),
        side="each pipe may hold up to 1 MiB of kernel memory",
    )


def small_reads(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Many bytes of captured output, read in small pieces."""
    heavy = s.capture and o.pipe_bytes_per_task >= c.of("disk_io", "heavy_bytes")
    wanted = int(min(_BUFFER_BYTES, o.pipe_bytes)) if heavy else 0
    if not heavy or s.buffer_size_bytes >= wanted:
        return None
    reads_per_s = o.pipe_bytes_per_s / s.buffer_size_bytes
    return settings_change(
        s,
        {"buffer_size_bytes": _BUFFER_BYTES},
        category="disk_io",
        description=f"output was read {s.buffer_size_bytes:,} bytes at a time, {reads_per_s:,.0f} times a second",
        why="Each read is a system call, and a pipe's page that is read in parts is locked again for each.",
        at_most=without(reads_per_s * _FILL_S / 4),
    )


def capture_nobody_needs(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Much output that is kept, and perhaps not wanted."""
    if not s.capture or not o.pipe_bytes_per_task >= c.of("disk_io", "heavy_bytes"):
        return None
    return settings_change(
        s,
        {"capture": False, "discard": True},
        category="disk_io",
        description=f"{o.pipe_bytes_per_task / 1e6:,.0f} MB of output a command were captured",
        why="What nobody reads need not go through a pipe; only you know whether somebody does.",
        at_most=1.5,
        priority="low",
        side="there is no output any more",
    )


def disks_are_waited_for(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Commands that wait for a disk on which they get in each other's way."""
    if not o.io_pressure >= c.of("disk_io", "pressure") or not o.cpu_share < c.of("cpu", "bound"):
        return None
    if o.storage_bytes_per_s < c.of("disk_io", "storage"):
        return None  # it is others who use the disk
    if s.io_class == "idle":
        return settings_change(
            s,
            {"io_class": None},
            category="disk_io",
            description=f"somebody waited for a disk {o.io_pressure:.0%} of the time, and commands have I/O class idle",
            why="With class idle a command's reads and writes come after everybody else's.",
            at_most=without(o.io_pressure),
            side="other processes' reads and writes wait longer",
        )
    if o.workers < 2:
        return None
    moved = "" if math.isnan(o.storage_bytes_per_s) else f" that moved {o.storage_bytes_per_s / 1e6:,.0f} MB/s"
    return settings_change(
        s,
        {"workers": max(1, o.workers // 2)},
        category="disk_io",
        description=f"somebody waited for a disk {o.io_pressure:.0%} of the time, with {o.workers} commands at a time{moved}",
        why="Many readers and writers make a disk seek, and what it holds back stops them all.",
        at_most=without(o.io_pressure / 2),
    )


def left_behind(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Commands that leave processes behind, which go on using the machine."""
    if not o.survivors_share >= c.of("process_management", "survivors") or s.containment != "group":
        return None
    return settings_change(
        s,
        {"containment": "subreaper"},
        category="process_management",
        description=f"{o.survivors_share:.0%} of commands left processes behind",
        why="What is left behind keeps its CPU time, memory and process number; a subreaper finds and ends it.",
        at_most=1.1 + o.survivors_share,
        side="what commands start in the background ends with them",
    )


def costly_containment(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Tiny commands, each in a cgroup of its own."""
    if s.containment == "group" or o.survivors_share > 0 or s.cpu_limit or s.memory_limit_bytes:
        return None
    if not o.spawn_share >= c.of("process_management", "spawn"):
        return None
    return settings_change(
        s,
        {"containment": "group"},
        category="process_management",
        description=f"commands of {o.wall_median_s * 1e3:.1f} ms ran in a {s.containment} each, and left nothing behind",
        why="Making and removing it for each command costs a third of a millisecond, and here it caught nothing.",
        at_most=without(0.0003 / max(o.wall_median_s, 0.0006)),
    )


def zombies_pile_up(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Processes that have ended and that nobody waits for, as in a container whose first process does not."""
    if s.containment != "group" or not o.zombie_share >= c.of("process_management", "zombies"):
        return None
    if not o.zombies_added >= max(_FEWEST_ZOMBIES, o.tasks / 4):
        return None  # they were there before, or are of others who began meanwhile
    return settings_change(
        s,
        {"containment": "subreaper"},
        category="process_management",
        description=f"{o.zombie_share:.0%} of {o.processes:,.0f} processes were zombies, {o.zombies_added:,.0f} of them new",
        why=(
            "What commands leave behind goes to process 1 when they end; where that waits for nobody each keeps its number "
            "for ever, and every look at the processes takes longer. A subreaper waits for them."
        ),
        at_most=1.1,
        priority="medium",
        side="what commands start in the background ends with them",
    )


def pools_run_dry(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """More commands at a time than the pools that serve them have buffers for."""
    misses = o.pool_misses_share
    if not misses >= c.of("memory", "misses") or o.workers < 2:
        return None
    return settings_change(
        s,
        {"workers": max(1, min(o.workers - 1, round(o.workers * (1 - misses))))},
        category="memory",
        description=f"{misses:.0%} of the requests for a pooled buffer found none, with {o.workers} commands at a time",
        why="Who finds none waits for one, or takes fresh memory, which the kernel has to clear first.",
        at_most=without(misses / 2),
        side="a larger pool is the better way where memory allows it",
    )


def process_numbers_run_out(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Nearly as many processes, zombies included, as the kernel has numbers for."""
    most = most_processes()
    if most is None or most >= _MOST_PIDS or not o.processes >= c.of("process_management", "numbers") * most:
        return None
    name = "kernel.pid_max"
    change = HostChange(
        ("sysctl", "-w", f"{name}={_MOST_PIDS}"),
        ("sysctl", "-w", f"{name}={most}"),
        ("sysctl", "-n", name),
        f"{name}: {most} → {_MOST_PIDS}",
    )
    return host_change(
        change,
        category="process_management",
        description=f"there were {o.processes:,.0f} processes, {_percent(o.zombie_share)} of them zombies; the most is {most:,}",
        why="Without a number no process can start; zombies keep theirs until somebody waits for them.",
        at_most=without(o.spent_share + 0.1),
        cost="high",
    )


def descriptors_run_out(o: Observed, s: RunSettings, c: AnalysisConfig) -> OptimizationSuggestion | None:
    """Workers that need more descriptors than this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not o.fd_share >= c.of("process_management", "numbers") or soft in (hard, resource.RLIM_INFINITY):
        return None
    target = ("prlimit", "--pid", str(os.getpid()))
    wanted = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    change = HostChange(
        (*target, f"--nofile={wanted}:"),
        (*target, f"--nofile={soft}:"),
        (*target, "--nofile", "--raw", "--noheadings"),
        f"this process's RLIMIT_NOFILE: {soft} → {wanted}",
    )
    return host_change(
        change,
        category="process_management",
        description=f"{o.workers} workers need {o.fd_share:.0%} of the {soft:,} descriptors that this process may have",
        why="A command for which no descriptor is left waits until another one has ended.",
        at_most=without(1 - 1 / max(o.fd_share, 1.1)),
        cost="medium",
    )


def _percent(share: float) -> str:
    return "an unknown share" if math.isnan(share) else f"{share:.0%}"


RULES: Final = (
    too_many_workers,
    memory_runs_short,
    small_pipes,
    small_reads,
    capture_nobody_needs,
    disks_are_waited_for,
    left_behind,
    costly_containment,
    zombies_pile_up,
    pools_run_dry,
    process_numbers_run_out,
    descriptors_run_out,
)
