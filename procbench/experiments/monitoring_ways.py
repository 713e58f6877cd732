"""One look at the machine: by procbench's collectors, all together and each alone, and as a loop over psutil gets the same."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from procbench.monitoring.collect_processes import ProcessTable
from procbench.monitoring.defaults import default_collectors
from procbench.monitoring.monitor import PerformanceMonitor

ALL: Final = "procbench, all of it"
"""A sample of all default collectors."""
PSUTIL: Final = "psutil, the same facts"
"""The loop that a person writes first."""


class Looks:
    """Ways of one look; a context manager, which closes what they hold.

    Attributes:
        ways: By name: ``ALL``, each collector's, and ``PSUTIL``.
    """

    def __init__(self) -> None:
        self._seconds = itertools.count()
        # A look at the processes is kept for a moment. Each sample is a second later here, and finds none.
        self._now_s = 0.0
        self._monitor = PerformanceMonitor(
            1.0, default_collectors(table=ProcessTable(clock=lambda: self._now_s)), history=1
        )
        alone = default_collectors(table=ProcessTable(clock=lambda: float(next(self._seconds))))
        self._alone = PerformanceMonitor(1.0, alone, history=1)
        self.ways: Mapping[str, Callable[[], object]] = {
            ALL: self._sample,
            **{one.name: one.collect for one in alone},
            PSUTIL: by_psutil,
        }

    def __enter__(self) -> Looks:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._monitor.stop()
        self._alone.stop()

    def _sample(self) -> object:
        self._now_s += 1.0
        return self._monitor.sample()


def mean_cpu_s(look: Callable[[], object], looks: int) -> float:
    """Return the CPU seconds that a look takes this thread, the mean of several."""
    before = time.thread_time()
    for _ in range(looks):
        look()
    return (time.thread_time() - before) / looks


def by_psutil() -> Mapping[str, float]:
    """Return the facts of the default collectors, one after the other; a dictionary of what was found.

    TCP connections are left out, which psutil looks for in every process, and what descendants read and wrote. So are pressure
    and throttling, which it does not know.
    """
    import psutil

    cpu, each = psutil.cpu_times(), psutil.cpu_times(percpu=True)
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
    states: list[str] = []
    parents: dict[int, int] = {}
    busy_s = resident = 0.0
    for process in psutil.process_iter():
        try:
            status, times = process.status(), process.cpu_times()
            resident += process.memory_info().rss
            parents[process.pid] = process.ppid()
        except psutil.Error:  # it has ended, or belongs to somebody else
            continue
        states.append(status)
        busy_s += times.user + times.system
    return {
        "cpu": cpu.user,
        "cpus": len(each),
        "available": memory.available,
        "swap_used": swap.used,
        "read": disk.read_bytes if disk else 0,
        "sent": network.bytes_sent if network else 0,
        "count": len(states),
        "running": states.count(psutil.STATUS_RUNNING),
        "zombie": states.count(psutil.STATUS_ZOMBIE),
        "busy_s": busy_s,
        "memory": resident,
        "tree": sum(_descends(pid, parents) for pid in parents),
    }


def _descends(pid: int, parents: Mapping[int, int]) -> bool:
    above = parents.get(pid, 0)
    while above and above != os.getpid():
        above = parents.get(above, 0)
    return bool(above)
