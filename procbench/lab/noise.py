"""A closed list of what makes results waver on a host: what was seen, why it matters, and what to do.

Each check looks at one thing in the host's facts. What the host does not show raises no warning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from procbench.lab.host import HostFacts

BUSY_SHARE = 0.10
"""Other work on a tenth of the CPUs costs a trial that uses all of them about as much."""

LOAD_PER_CPU = 0.5
"""A load of half the CPUs over a minute: whatever caused it may well come back."""

CPU_PRESSURE_PERCENT = 5.0
"""Tasks that had to wait for a CPU in a twentieth of the last 10 s."""

MEMORY_PRESSURE_PERCENT = 1.0
"""Waiting for memory comes in long stalls, so that little of it already makes outliers."""

IO_PRESSURE_PERCENT = 10.0
"""Disks are waited for on every quiet machine now and then."""

STEAL_SHARE = 0.03
"""One stray clock tick in a sample of 0.2 s on two CPUs is 2.5 %; more than that is worth a word."""

FEW_CPUS = 2
"""With two CPUs, the measuring process and one child already fill the machine."""

LOW_MEMORY_SHARE = 0.10
"""With less than a tenth of memory to be had, the kernel reclaims pages while trials run."""


class NoiseCode(StrEnum):
    """Every warning there is."""

    BUSY_MACHINE = "busy_machine"
    CPU_PRESSURE = "cpu_pressure"
    MEMORY_PRESSURE = "memory_pressure"
    IO_PRESSURE = "io_pressure"
    STEAL_TIME = "steal_time"
    GOVERNOR_NOT_PERFORMANCE = "governor_not_performance"
    TURBO_ON = "turbo_on"
    CPU_QUOTA = "cpu_quota"
    RESTRICTED_AFFINITY = "restricted_affinity"
    VIRTUAL_MACHINE = "virtual_machine"
    FEW_CPUS = "few_cpus"
    LOW_MEMORY_AVAILABLE = "low_memory_available"
    PYTHON_DEBUG_BUILD = "python_debug_build"
    PYTHON_TRACING = "python_tracing"
    NICED = "niced"


@dataclass(frozen=True, slots=True)
class NoiseWarning:
    """One reason why results on this host may waver.

    Attributes:
        code: Which of the closed list.
        seen: What was seen, with its numbers.
        why: Why it matters to a measurement.
        what_to_do: What a person can do about it.
    """

    code: NoiseCode
    seen: str
    why: str
    what_to_do: str

    def __str__(self) -> str:
        return f"{self.seen}. {self.why} {self.what_to_do}"


def noise_warnings(facts: HostFacts) -> list[NoiseWarning]:
    """Return what on this host makes results waver, in the order of the list; empty on a quiet, settled machine."""
    found = [(code, _SEEN[code](facts)) for code in NoiseCode]
    return [NoiseWarning(code, seen, *_ADVICE[code]) for code, seen in found if seen is not None]


def _busy_machine(facts: HostFacts) -> str | None:
    load, cpus, busy = facts.load_one_minute, facts.logical_cpus, facts.busy_share
    if busy is not None and busy >= BUSY_SHARE:
        return f"Other processes keep {busy:.0%} of all CPU time busy"
    if load is not None and cpus and load >= LOAD_PER_CPU * cpus:
        return f"The load average over the last minute is {load:.2f} on {cpus} logical CPUs"
    return None


def _pressure_on(resource: str, at_least: float) -> Callable[[HostFacts], str | None]:
    def seen(facts: HostFacts) -> str | None:
        percent: float | None = getattr(facts, f"{resource}_pressure_percent")
        word = {"cpu": "a CPU", "memory": "memory", "io": "a disk"}[resource]
        return f"Tasks waited for {word} in {percent:g} % of the last 10 s" if (percent or 0) >= at_least else None

    return seen


def _steal_time(facts: HostFacts) -> str | None:
    share = facts.steal_share or 0
    return f"The hypervisor gave {share:.1%} of CPU time to other guests" if share >= STEAL_SHARE else None


def _governor(facts: HostFacts) -> str | None:
    others = [governor for governor in facts.governors if governor != "performance"]
    return f"The frequency governor is {', '.join(others)}" if others else None


def _turbo_on(facts: HostFacts) -> str | None:
    return "CPUs may run above their nominal frequency (turbo, boost)" if facts.turbo else None


def _cpu_quota(facts: HostFacts) -> str | None:
    quota, allowed = facts.cpu_quota, len(facts.allowed_cpus)
    return f"The cgroup grants {quota:g} of {allowed} allowed CPUs" if quota is not None and quota < allowed else None


def _restricted_affinity(facts: HostFacts) -> str | None:
    allowed, online = len(facts.allowed_cpus), facts.logical_cpus or 0
    return f"This process may use {allowed} of {online} logical CPUs" if allowed < online else None


def _virtual_machine(facts: HostFacts) -> str | None:
    return f"This is a virtual machine (hypervisor: {facts.hypervisor})" if facts.hypervisor else None


def _few_cpus(facts: HostFacts) -> str | None:
    workers = facts.usable_workers
    return f"Only {workers} worker{'s' * (workers > 1)} can be busy at once" if workers <= FEW_CPUS else None


def _low_memory(facts: HostFacts) -> str | None:
    available, total = facts.memory_available_bytes, facts.memory_bytes
    if available is None or not total or available >= LOW_MEMORY_SHARE * total:
        return None
    return f"{available / 2**20:,.0f} MiB of {total / 2**20:,.0f} MiB memory are available"


def _python_debug(facts: HostFacts) -> str | None:
    return f"{facts.python_implementation} {facts.python_version} is a debug build" if facts.python_debug else None


def _python_tracing(facts: HostFacts) -> str | None:
    return "A debugger, profiler or coverage tool watches this interpreter" if facts.python_tracing else None


def _niced(facts: HostFacts) -> str | None:
    return f"This process has nice value {facts.nice_value}" if facts.nice_value != 0 else None


_SEEN: dict[NoiseCode, Callable[[HostFacts], str | None]] = {
    NoiseCode.BUSY_MACHINE: _busy_machine,
    NoiseCode.CPU_PRESSURE: _pressure_on("cpu", CPU_PRESSURE_PERCENT),
    NoiseCode.MEMORY_PRESSURE: _pressure_on("memory", MEMORY_PRESSURE_PERCENT),
    NoiseCode.IO_PRESSURE: _pressure_on("io", IO_PRESSURE_PERCENT),
    NoiseCode.STEAL_TIME: _steal_time,
    NoiseCode.GOVERNOR_NOT_PERFORMANCE: _governor,
    NoiseCode.TURBO_ON: _turbo_on,
    NoiseCode.CPU_QUOTA: _cpu_quota,
    NoiseCode.RESTRICTED_AFFINITY: _restricted_affinity,
    NoiseCode.VIRTUAL_MACHINE: _virtual_machine,
    NoiseCode.FEW_CPUS: _few_cpus,
    NoiseCode.LOW_MEMORY_AVAILABLE: _low_memory,
    NoiseCode.PYTHON_DEBUG_BUILD: _python_debug,
    NoiseCode.PYTHON_TRACING: _python_tracing,
    NoiseCode.NICED: _niced,
}

_ADVICE: dict[NoiseCode, tuple[str, str]] = {  # why it matters, what to do
    NoiseCode.BUSY_MACHINE: (
        "Children share the CPUs with that work, so trials waver and ceilings are too low.",
        "Stop it, or wait until it is done.",
    ),
    NoiseCode.CPU_PRESSURE: (
        "A child that waits for a CPU is timed while it waits.",
        "Run fewer things at once, or measure with fewer workers.",
    ),
    NoiseCode.MEMORY_PRESSURE: (
        "Reclaiming and reading back pages stops children for milliseconds at a time.",
        "Free memory, or measure with less data.",
    ),
    NoiseCode.IO_PRESSURE: (
        "Starting a program may have to read it from a busy disk.",
        "Wait until the disk is quiet, or keep the data in memory (/dev/shm).",
    ),
    NoiseCode.STEAL_TIME: (
        "Time that other guests took is counted as if the children had used it.",
        "Use a dedicated host, or measure at another hour and in more blocks.",
    ),
    NoiseCode.GOVERNOR_NOT_PERFORMANCE: (
        "The frequency follows the load, so short trials run slower than long ones.",
        "As root: cpupower frequency-set --governor performance.",
    ),
    NoiseCode.TURBO_ON: (
        "One busy core runs faster than many, which looks like bad scaling, and heat changes it over time.",
        "For scaling questions write 1 to intel_pstate/no_turbo, or 0 to cpufreq/boost, in /sys/devices/system/cpu.",
    ),
    NoiseCode.CPU_QUOTA: (
        "Who uses up the quota is stopped for the rest of each period, usually 100 ms.",
        "Raise the limit of the container, or keep to as many workers as it grants.",
    ),
    NoiseCode.RESTRICTED_AFFINITY: (
        "Children inherit the restriction, so more workers than that only take turns.",
        "Start without taskset or cpuset if the whole machine is meant.",
    ),
    NoiseCode.VIRTUAL_MACHINE: (
        "System calls, page faults and wake-ups cost more than on bare metal, and other guests share caches.",
        "Compare conditions within this host only, and confirm on the machine that matters.",
    ),
    NoiseCode.FEW_CPUS: (
        "The measuring process competes with the children, and nothing can be said about more workers.",
        "Read ratios, not absolute numbers; use a larger machine for scaling questions.",
    ),
    NoiseCode.LOW_MEMORY_AVAILABLE: (
        "The kernel reclaims pages while trials run, and may end a child that asks for more.",
        "Close what is not needed, or measure with less data.",
    ),
    NoiseCode.PYTHON_DEBUG_BUILD: (
        "A debug build runs Python code several times slower.",
        "Use a release build of Python.",
    ),
    NoiseCode.PYTHON_TRACING: (
        "Every call or line of the measuring process pays for being watched.",
        "Run without debugger, profiler and coverage.",
    ),
    NoiseCode.NICED: (
        "Children inherit the nice value and get more or less CPU time than others.",
        "Start with nice value 0; a raised one cannot be lowered again without CAP_SYS_NICE.",
    ),
}
