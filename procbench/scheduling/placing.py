"""What a worker gives itself once, so that every command it starts inherits it: CPUs, nice value, policy, I/O class.

Linux keeps all four for each thread, and a new process begins with those of the thread that started it. So placing costs a
command nothing, there is no moment in which it runs somewhere else, and nobody else's process is touched.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from procbench.cpu.pinning import pin_current_thread
from procbench.cpu.placement import place
from procbench.cpu.priority import apply_to_current_thread, read
from procbench.cpu.topology import allowed_cpus, read_topology
from procbench.scheduling.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Placing:
    """What is in force in a worker, as the kernel says.

    Attributes:
        cpus: Logical CPUs that it and its commands may run on.
        nice: Nice value.
        policy: Scheduling policy.
        io_class: I/O class; ``None`` where I/O priorities are not known on this machine.
    """

    cpus: frozenset[int]
    nice: int
    policy: str
    io_class: str | None


def cpus_for_workers(settings: RunSettings) -> tuple[frozenset[int], ...] | None:
    """Return the CPU set of each worker; ``None`` where nothing is pinned.

    Raises:
        InvalidInputError: A set names a CPU that this process may not use.
    """
    if settings.pin == "none":
        return None
    return place(settings.pin, settings.worker_count, read_topology(), allowed_cpus())


def is_wanted(settings: RunSettings) -> bool:
    """Return whether a worker has anything to give itself."""
    return settings.pin != "none" or (settings.nice, settings.policy, settings.io_class) != (None, None, None)


def settle(settings: RunSettings, cpus: frozenset[int] | None) -> Placing:
    """Place the calling thread for good, and return what is in force then, read back from the kernel.

    Raises:
        PermissionDeniedError: The kernel does not let this user; the message names the capability or limit that would.
        InvalidInputError: A CPU is not allowed (any more).
        UnsupportedError: I/O priorities are not known on this machine, and an I/O class is asked for.
    """
    if cpus is not None:
        pin_current_thread(cpus)
    wish = settings.nice, settings.policy, settings.io_class
    found = read(threading.get_native_id()) if wish == (None, None, None) else apply_to_current_thread(*wish).in_force
    return Placing(allowed_cpus(), found.nice, found.policy, found.io_class)
