"""The machine as a whole: CPUs, memory, disks, network. Each of the kernel's files is read once for a sample.

What the kernel does not offer is NaN, with the reason. ``root`` is where ``proc`` and ``sys`` are found, so that a recorded tree
can be read in their place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Final

from procbench.cpu.cgroups import SYSTEM_ROOT
from procbench.memory.meminfo import MEMINFO, meminfo_bytes
from procbench.monitoring.collectors import Metric
from procbench.monitoring.kernel_file import KernelFile
from procbench.monitoring.pressure import CpuTimes, parse_cpu_times, share_between

_SECTOR_BYTES: Final = 512  # in /proc/diskstats, whatever the disk's own are


class FileCollector:
    """Above the collectors that read the kernel's files; what they all do when one cannot be read."""

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]

    def __init__(self) -> None:
        self._files: list[KernelFile] = []
        self._missing: dict[str, str] = {}

    def reasons(self) -> Mapping[str, str]:
        """Return why metrics are NaN, or less than the truth."""
        return dict(self._missing)

    def close(self) -> None:
        """Close the files; a later reading opens them again."""
        for file in self._files:
            file.close()

    def _file(self, path: Path) -> KernelFile:
        file = KernelFile(path)
        self._files.append(file)
        return file

    def _text(self, file: KernelFile, names: Iterable[str], hint: str = "") -> bytes | None:
        """Return what the file says; None where it cannot be read, which is then why those metrics are NaN."""
        try:
            text = file.read()
        except OSError as error:
            self._missing.update(dict.fromkeys(names, f"{file.path}: {error.strerror}{hint}"))
            return None
        for name in names:
            self._missing.pop(name, None)
        return text


class CpuCollector(FileCollector):
    """What the CPUs spent the time since the last sample on; shares of 0 to 1, NaN at the first."""

    name = "cpu"
    metrics: ClassVar = {
        "busy": Metric("share", help="Share of all CPUs' time in which something ran here"),
        "steal": Metric("share", help="Share of all CPUs' time in which the hypervisor ran somebody else"),
        "iowait": Metric("share", help="Share of all CPUs' time that was idle with a disk operation under way"),
        "each_busy": Metric("share", help="Share of a logical CPU's time in which something ran here", label="cpu"),
    }

    def __init__(self, root: Path = SYSTEM_ROOT) -> None:
        super().__init__()
        self._stat = self._file(root / "proc/stat")
        self._before: dict[str, CpuTimes] = {}

    def collect(self) -> Mapping[str, float]:
        """Return the shares."""
        text = self._text(self._stat, ("busy", "steal", "iowait"))
        now = parse_cpu_times(text) if text is not None else {}
        before, self._before = self._before, now
        values = {"busy": math.nan, "steal": math.nan, "iowait": math.nan}
        for word, times in now.items():
            # A counter that went backwards, or stood still, gives no share.
            shares = share_between(before[word], times) if word in before else None
            if word == "cpu":
                if shares is not None:
                    values.update(busy=shares.busy, steal=shares.steal, iowait=shares.iowait)
            else:
                values[f"each_busy[{word[3:]}]"] = math.nan if shares is None else shares.busy
        return values


class MemoryCollector(FileCollector):
    """How much memory and swap there is, and is left."""

    name = "memory"
    metrics: ClassVar = {
        "total": Metric("bytes", help="Memory that the kernel manages"),
        "available": Metric("bytes", help="Memory that programs can have without swapping"),
        "swap_total": Metric("bytes", help="Swap space"),
        "swap_used": Metric("bytes", help="Swap space in use"),
    }

    def __init__(self, root: Path = SYSTEM_ROOT) -> None:
        super().__init__()
        self._meminfo = self._file(root / MEMINFO)

    def collect(self) -> Mapping[str, float]:
        """Return the sizes."""
        text = self._text(self._meminfo, self.metrics)
        if text is None:
            return dict.fromkeys(self.metrics, math.nan)
        available = _in_bytes(text, "MemAvailable")
        if math.isnan(available):
            self._missing["available"] = f"{self._meminfo.path}: no MemAvailable, which Linux 3.14 brought"
        swap = _in_bytes(text, "SwapTotal")
        return {
            "total": _in_bytes(text, "MemTotal"),
            "available": available,
            "swap_total": swap,
            "swap_used": swap - _in_bytes(text, "SwapFree"),
        }


class DiskCollector(FileCollector):
    """What went to and from disks. Partitions, and disks made of others (device mapper, RAID, loop), would count twice."""

    name = "disk"
    metrics: ClassVar = {
        "read": Metric("bytes", counter=True, help="Read from disks"),
        "written": Metric("bytes", counter=True, help="Written to disks"),
        "reads": Metric("operations", counter=True, help="Reads that disks completed"),
        "writes": Metric("operations", counter=True, help="Writes that disks completed"),
        "busy": Metric("s", counter=True, help="Time in which a disk had something to do", label="disk"),
    }

    def __init__(self, root: Path = SYSTEM_ROOT) -> None:
        super().__init__()
        self._diskstats = self._file(root / "proc/diskstats")
        self._devices = RealDevices(root / "sys/block")

    def collect(self) -> Mapping[str, float]:
        """Return the totals since the machine started, and each disk's busy time."""
        totals = ("read", "written", "reads", "writes")
        text = self._text(self._diskstats, totals)
        if text is None:
            return dict.fromkeys(totals, math.nan)
        rows = {row[2].decode(): row for line in text.splitlines() if len(row := line.split()) >= 14}
        real = self._devices.among(rows)
        if not real:
            self._missing.update(dict.fromkeys(totals, f"{self._diskstats.path}: no disk with a device behind it"))
            return dict.fromkeys(totals, math.nan)
        reads = writes = read_sectors = written_sectors = 0
        values: dict[str, float] = {}
        for name in real:
            row = rows[name]
            reads += int(row[3])
            read_sectors += int(row[5])
            writes += int(row[7])
            written_sectors += int(row[9])
            values[f"busy[{name}]"] = int(row[12]) / 1000
        values.update(read=read_sectors * _SECTOR_BYTES, written=written_sectors * _SECTOR_BYTES)
        values.update(reads=reads, writes=writes)
        return values


class NetworkCollector(FileCollector):
    """What went over network devices, and how many TCP connections there are, in this process's network namespace."""

    name = "network"
    metrics: ClassVar = {
        "received": Metric("bytes", counter=True, help="Received, loopback left out"),
        "sent": Metric("bytes", counter=True, help="Sent, loopback left out"),
        "packets_received": Metric("packets", counter=True, help="Packets received, loopback left out"),
        "packets_sent": Metric("packets", counter=True, help="Packets sent, loopback left out"),
        "connections": Metric("connections", help="TCP connections, IPv4 and IPv6, loopback included"),
    }

    def __init__(self, root: Path = SYSTEM_ROOT) -> None:
        super().__init__()
        self._dev = self._file(root / "proc/net/dev")
        self._snmp = self._file(root / "proc/net/snmp")
        self._devices = RealDevices(root / "sys/class/net")

    def collect(self) -> Mapping[str, float]:
        """Return the totals since the machine started, and the connections of now."""
        totals = ("received", "packets_received", "sent", "packets_sent")
        values = dict.fromkeys(self.metrics, math.nan)
        text = self._text(self._dev, totals)
        if text is not None:
            rows = {}
            for line in text.splitlines()[2:]:
                name, _, numbers = line.rpartition(b":")
                rows[name.strip().decode(errors="replace")] = numbers.split()
            # In a container no device stands behind its interfaces, and then all of them count.
            counted = self._devices.among(rows) or [name for name in rows if name != "lo"]
            for metric, place in zip(totals, (0, 1, 8, 9), strict=True):
                values[metric] = float(sum(int(rows[name][place]) for name in counted))
        text = self._text(self._snmp, ("connections",))
        if text is not None:
            heads, now = (line.split() for line in text.splitlines() if line.startswith(b"Tcp:"))
            values["connections"] = float(now[heads.index(b"CurrEstab")])
        return values


class RealDevices:
    """Which names are devices with hardware, or a hypervisor, behind them; looked at again when other names come.

    Args:
        folder: ``/sys/block`` or ``/sys/class/net``; behind a device it shows a link of that name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: frozenset[str] = frozenset()
        self._real: list[str] = []

    def among(self, names: Iterable[str]) -> list[str]:
        """Return those that are."""
        asked = frozenset(names)
        if asked != self._names:
            self._real = sorted(name for name in asked if (self._folder / name / "device").exists())
            self._names = asked
        return self._real


def _in_bytes(text: bytes, name: str) -> float:
    size = meminfo_bytes(text, name)
    return math.nan if size is None else size
