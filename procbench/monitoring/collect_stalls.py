"""Who stands still for want of something: pressure stall information, and CPU time that the cgroup's quota withheld."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from procbench.cpu.cgroups import SYSTEM_ROOT, own_group
from procbench.monitoring.collect_system import FileCollector
from procbench.monitoring.collectors import Metric
from procbench.monitoring.kernel_file import KernelFile
from procbench.monitoring.pressure import RESOURCES, parse_pressure

_SOME = "Time in which at least one task stood still for want of "
_FULL = "Time in which all tasks that had work stood still for want of "


class PressureCollector(FileCollector):
    """How much of the time tasks stood still for want of CPU, memory or disk, on the whole machine.

    Source: Documentation/accounting/psi.rst, Linux 4.20 and newer.
    """

    name = "pressure"
    metrics: ClassVar = {
        f"{resource}_{kind}": Metric("s", counter=True, help=words + resource)
        for resource in RESOURCES
        for kind, words in (("some", _SOME), ("full", _FULL))
    }

    def __init__(self, root: Path = SYSTEM_ROOT) -> None:
        super().__init__()
        self._by_resource = {resource: self._file(root / "proc/pressure" / resource) for resource in RESOURCES}

    def collect(self) -> Mapping[str, float]:
        """Return the seconds since the machine started."""
        values = dict.fromkeys(self.metrics, math.nan)
        for resource, file in self._by_resource.items():
            some, full = names = (f"{resource}_some", f"{resource}_full")
            text = self._text(file, names, " (needs CONFIG_PSI, and psi=1 where it is off at boot)")
            if text is None:
                continue
            pressure = parse_pressure(text.decode())
            values[some] = pressure.some.total_us / 1e6
            if pressure.full is not None:
                values[full] = pressure.full.total_us / 1e6
            else:
                self._missing[full] = f"{file.path}: no line for all tasks, which Linux 5.13 brought for CPUs"
        return values


class ThrottlingCollector(FileCollector):
    """How often, and for how long, the quota of this process's own cgroup withheld CPU time; its parents' are not looked at.

    Source: Documentation/admin-guide/cgroup-v2.rst, "cpu.stat"; Documentation/scheduler/sched-bwc.rst for version 1.
    """

    name = "throttling"
    metrics: ClassVar = {
        "periods": Metric("periods", counter=True, help="Periods of the quota in which the cgroup had something to do"),
        "throttled": Metric("periods", counter=True, help="Periods in which the cgroup used up its quota"),
        "withheld": Metric("s", counter=True, help="Time in which the cgroup's CPUs had to stand still"),
    }

    def __init__(self, root: Path = SYSTEM_ROOT) -> None:
        super().__init__()
        self._root = root
        self._stat: KernelFile | None = None

    def collect(self) -> Mapping[str, float]:
        """Return the totals since the cgroup was made."""
        values = dict.fromkeys(self.metrics, math.nan)
        if self._stat is None:
            group = own_group("cpu", self._root)
            if group is None:
                self._missing.update(dict.fromkeys(values, "no cgroup of this process has the CPU controller"))
                return values
            self._stat = self._file(group / "cpu.stat")
        text = self._text(self._stat, values)
        if text is None:
            self._files.remove(self._stat)
            self._stat = None  # removed, or this process was moved: looked for again at the next tick
            return values
        words = text.split()
        found = {key.decode(): int(value) for key, value in zip(words[::2], words[1::2], strict=True)}
        if "nr_periods" not in found:  # the root of version 2, which can have no quota
            self._missing.update(dict.fromkeys(values, f"{self._stat.path}: the cgroup can have no quota"))
            return values
        withheld_s = found["throttled_usec"] / 1e6 if "throttled_usec" in found else found["throttled_time"] / 1e9
        return {"periods": found["nr_periods"], "throttled": found["nr_throttled"], "withheld": withheld_s}
