"""Show what a monitor finds while it runs: a table that is painted anew on a terminal, a line for each sample elsewhere."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TextIO

from procbench.monitoring.monitor import PerformanceMonitor, Sample
from procbench.views.terminal import one_line

_USUAL_COLUMNS: Final = 80
_CLEAR_BELOW: Final = "\x1b[J"
_BYTES: Final = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_SMALL: Final = ((1.0, "s", 1.0), (1e-3, "ms", 1e3), (1e-6, "µs", 1e6), (0.0, "ns", 1e9))


class Live(Protocol):
    """What shows samples.

    Attributes:
        gone: Set once nobody is there any more to see them.
    """

    gone: threading.Event

    def show(self, sample: Sample) -> None:
        """Show one."""

    def say(self, stream: TextIO, data: bytes) -> None:
        """Let through what a command wrote."""

    def clear(self) -> None:
        """Take away what stands there for the moment only."""


class Lines:
    """A line for each sample: ``time_s=2.0 cpu.busy=0.43 ...``, in the base units, without what there is several of.

    Args:
        stream: Where they go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.gone = threading.Event()

    def show(self, sample: Sample) -> None:
        """Write one line; once nobody reads them, none."""
        if self.gone.is_set():
            return
        words = [f"time_s={sample.time_s:.3f}"]
        for collector, values in sample.values.items():
            words += [
                f"{collector}.{name}={value:.6g}"
                for name, value in values.items()
                if "[" not in name and not math.isnan(value)
            ]
        try:
            self._stream.write(one_line(" ".join(words), longest=10_000) + "\n")
            self._stream.flush()
        except OSError:
            self.gone.set()

    def say(self, stream: TextIO, data: bytes) -> None:
        """Let it through."""
        stream.buffer.write(data)
        stream.flush()

    def clear(self) -> None:
        """Leave the lines where they are."""


class Table:
    """A line for each collector, painted over the last ones; what a command writes goes above it. Thread-safe.

    Args:
        stream: A terminal.
        unit_of: Tells the unit of a collector's metric.
    """

    def __init__(self, stream: TextIO, unit_of: Callable[[str, str], str]) -> None:
        self._stream = stream
        self._unit_of = unit_of
        self.gone = threading.Event()
        self._lock = threading.Lock()
        self._height = 0
        self._lines: list[str] = []
        self._in_line = False  # whether the command's last line is not at its end

    def show(self, sample: Sample) -> None:
        """Paint it."""
        lines = [f"{sample.time_s:.0f} s"]
        lines += [f"{name:<10} {self._row(name, values)}" for name, values in sample.values.items()]
        with self._lock:
            self._lines = lines
            try:
                self._paint()
            except OSError:  # the terminal was closed
                self.gone.set()

    def say(self, stream: TextIO, data: bytes) -> None:
        """Write what a command wrote above the table."""
        with self._lock:
            self._wipe()
            stream.buffer.write(data)
            stream.flush()
            self._in_line = not data.endswith(b"\n")
            if not self._in_line:  # the table waits for the line's end, so that it is not torn
                self._paint()

    def clear(self) -> None:
        """Take the table off the screen."""
        with self._lock:
            self._wipe()
            self._lines = []

    def _row(self, collector: str, values: Mapping[str, float]) -> str:
        shown = []
        for name, value in values.items():
            if "[" not in name and not math.isnan(value):
                shown.append(f"{name.replace('_', ' ')} {for_people(value, self._unit_of(collector, name))}")
        return "  ".join(shown) or "nothing yet"

    def _paint(self) -> None:
        if self._in_line:
            return
        self._wipe()
        columns, rows = _size_of(self._stream)
        # A line that the terminal broke, or that scrolled away, could not be painted over.
        lines = [one_line(line, longest=columns - 1) for line in self._lines[: max(1, rows - 1)]]
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._height = len(lines)

    def _wipe(self) -> None:
        if self._height:
            self._stream.write(f"\x1b[{self._height}F{_CLEAR_BELOW}")
            self._stream.flush()
            self._height = 0


def live_view(monitor: PerformanceMonitor, stream: TextIO) -> Live:
    """Return what fits the stream: a table on a terminal, lines elsewhere."""
    if not stream.isatty():
        return Lines(stream)
    by_name = {watched.name: watched for watched in monitor.watched}
    return Table(stream, lambda collector, name: by_name[collector].metric(name).shown_unit)


def for_people(value: float, unit: str) -> str:
    """Return a value as people say it: ``43 %``, ``3.2 GiB``, ``12/s`` of whatever is counted, ``830 µs``, ``1.5 CPUs``."""
    if math.isnan(value):
        return "-"
    base, slash, per = unit.partition("/")
    if unit in ("share", "%"):
        return f"{value * 100 if unit == 'share' else value:.3g} %"
    if base == "bytes":
        for size, word in _BYTES:
            if abs(value) >= size:
                return f"{value / size:.3g} {word}{slash}{per}"
        return f"{value:.0f} B{slash}{per}"
    if unit == "s" and value:
        for least, word, factor in _SMALL:
            if abs(value) >= least:
                return f"{value * factor:.3g} {word}"
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} CPUs" if unit == "CPUs" else f"{number}{slash}{per}"


def show_summary(monitor: PerformanceMonitor, stream: TextIO) -> None:
    """Write what each metric was like, and what went wrong."""
    width = 24
    head = f"{'':<{width}} {'mean':>15} {'p50':>15} {'p95':>15} {'max':>15} {'last':>15}"
    lines = []
    for (collector, name, unit), found in monitor.summaries():
        if found.values and "[" not in name:
            numbers = (found.mean, found.p50, found.p95, found.max, found.last)
            shown = " ".join(f"{for_people(number, unit):>15}" for number in numbers)
            lines.append(one_line(f"{f'{collector} {name}'.replace('_', ' '):<{width}} {shown}"))
    if lines:
        stream.write("\n".join([head.rstrip(), *lines]) + "\n")
    for trouble in monitor.troubles:
        times = "" if trouble.count == 1 else f" ({trouble.count} times)"
        stream.write(one_line(f"{trouble.who}: {trouble.kind}{times}: {trouble.said}") + "\n")
    for collector, count in monitor.skipped.items():
        if count:
            stream.write(one_line(f"{collector}: {count} ticks skipped") + "\n")
    stream.flush()


def _size_of(stream: TextIO) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return _USUAL_COLUMNS, 24
    return size.columns or _USUAL_COLUMNS, size.lines or 24
