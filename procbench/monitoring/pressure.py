"""How hard the machine is pressed: stalled tasks, run queues, and what its CPUs spent their time on.

Each reader takes ``root``, so that files recorded on another machine can be read in their place. What a kernel does not
offer is None, with the reason beside it where a person would ask for one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

SYSTEM_ROOT = Path("/")

RESOURCES = ("cpu", "memory", "io")
"""What the kernel measures pressure for."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Time in which tasks stood still for want of a resource.

    Attributes:
        avg10_percent: Share of the last 10 s, 0 to 100.
        avg60_percent: Share of the last 60 s, 0 to 100.
        avg300_percent: Share of the last 300 s, 0 to 100.
        total_us: Microseconds since the machine started.
    """

    avg10_percent: float
    avg60_percent: float
    avg300_percent: float
    total_us: int


@dataclass(frozen=True, slots=True)
class ResourcePressure:
    """Pressure on one resource.

    Attributes:
        some: Time in which at least one task stood still.
        full: Time in which all tasks that had work stood still; None for CPUs before Linux 5.13.
    """

    some: Stall
    full: Stall | None


@dataclass(frozen=True, slots=True)
class Pressure:
    """Pressure stall information of the whole machine.

    Attributes:
        cpu: Tasks that could run and had no CPU; None where the kernel tells nothing.
        memory: Tasks that waited for memory to be reclaimed or read back; None likewise.
        io: Tasks that waited for a disk; None likewise.
        missing: One reason per resource that is None.
    """

    cpu: ResourcePressure | None
    memory: ResourcePressure | None
    io: ResourcePressure | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadAverage:
    """Tasks that run or wait for a CPU or a disk, averaged.

    Attributes:
        one_minute: Decaying mean over a minute.
        five_minutes: Decaying mean over five minutes.
        fifteen_minutes: Decaying mean over a quarter of an hour.
        runnable: Threads that could run at the moment, the reader included.
    """

    one_minute: float
    five_minutes: float
    fifteen_minutes: float
    runnable: int


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """What all CPUs together spent their time on since the machine started, in clock ticks (usually 10 ms).

    Time of guests stands in ``user_ticks`` and ``nice_ticks`` already, so the fields add up to all time.
    """

    user_ticks: int
    nice_ticks: int
    system_ticks: int
    idle_ticks: int
    iowait_ticks: int
    irq_ticks: int
    softirq_ticks: int
    steal_ticks: int


_TIMES = len(fields(CpuTimes))
_all_ticks = attrgetter(*(field.name for field in fields(CpuTimes)))


@dataclass(frozen=True, slots=True)
class CpuShares:
    """What all CPUs together spent their time on between two readings; shares of 0 to 1.

    Attributes:
        busy: Running something here.
        steal: Wanting to run while the hypervisor ran somebody else.
        iowait: Idle with a disk operation under way.
    """

    busy: float
    steal: float
    iowait: float


def read_pressure(root: Path = SYSTEM_ROOT) -> Pressure:
    """Read pressure stall information; never raises.

    Args:
        root: Where ``proc`` is found.

    Source: Documentation/accounting/psi.rst, Linux 4.20 and newer.
    """
    found: dict[str, ResourcePressure | None] = dict.fromkeys(RESOURCES)
    missing: list[str] = []
    for resource in RESOURCES:
        path = root / "proc/pressure" / resource
        try:
            found[resource] = parse_pressure(path.read_text())
        except OSError as error:
            missing.append(
                f"{resource}: {path}: {error.strerror} (needs CONFIG_PSI, and psi=1 where it is off at boot)"
            )
        except (ValueError, KeyError) as error:
            missing.append(f"{resource}: {path}: not in the form that psi.rst describes ({error!r})")
    return Pressure(**found, missing=tuple(missing))


def read_load_average(root: Path = SYSTEM_ROOT) -> LoadAverage | None:
    """Read the load averages; None where they cannot be read.

    Args:
        root: Where ``proc`` is found.

    Source: proc_loadavg(5).
    """
    try:
        one, five, fifteen, tasks, *_ = (root / "proc/loadavg").read_text().split()
        return LoadAverage(float(one), float(five), float(fifteen), int(tasks.partition("/")[0]))
    except (OSError, ValueError):
        return None


def read_cpu_times(root: Path = SYSTEM_ROOT) -> CpuTimes | None:
    """Read what all CPUs together spent their time on; None where it cannot be read.

    Args:
        root: Where ``proc`` is found.

    Source: proc_stat(5).
    """
    try:
        return parse_cpu_times((root / "proc/stat").read_bytes()).get("cpu")
    except OSError:
        return None


def parse_cpu_times(text: bytes) -> dict[str, CpuTimes]:
    """Return what ``/proc/stat`` says of all CPUs, as ``cpu``, and of each that is online, as ``cpu0``, ``cpu1`` and so on.

    A line in another form is left out.
    """
    found = {}
    for line in text.partition(b"\nintr")[0].split(b"\n"):
        name, *ticks = line.split(None, _TIMES + 1)[: _TIMES + 1] or [b""]
        if name.startswith(b"cpu") and len(ticks) == _TIMES:
            try:
                found[name.decode("ascii")] = CpuTimes(*map(int, ticks))
            except ValueError:
                continue
    return found


def share_between(first: CpuTimes, second: CpuTimes) -> CpuShares | None:
    """Return what the CPUs spent the time between two readings on.

    Args:
        first: The earlier reading.
        second: The later reading.

    Returns:
        The shares; None if no tick passed, or if a counter went backwards, which the kernel allows for ``iowait`` and
        which a CPU going offline or a restored virtual machine can bring about for all of them.
    """
    ticks = [after - before for before, after in zip(_all_ticks(first), _all_ticks(second), strict=True)]
    total = sum(ticks)
    if min(ticks) < 0 or total == 0:
        return None
    _user, _nice, _system, idle, iowait, _irq, _softirq, steal = ticks
    return CpuShares((total - idle - iowait - steal) / total, steal / total, iowait / total)


def parse_pressure(text: str) -> ResourcePressure:
    """Read lines such as ``some avg10=0.12 avg60=0.05 avg300=0.01 total=12345``.

    Raises:
        ValueError: They are none such.
        KeyError: One of the four is missing, or the first line.
    """
    stalls: dict[str, Stall] = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        ten, minute, five_minutes = (float(values[name]) for name in ("avg10", "avg60", "avg300"))
        stalls[kind] = Stall(ten, minute, five_minutes, int(values["total"]))
    return ResourcePressure(stalls["some"], stalls.get("full"))
