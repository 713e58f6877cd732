"""What a live dashboard costs: the page's main thread, the kernel, and the memory of both over many samples.

A real JupyterLab and Debian's Chromium; a batch of short commands runs in the kernel meanwhile.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import psutil

from tests.browser import Server, chromium, jupyter_lab, open_notebook, run_all, why_not

MEASURED_S = 15.0
WANTED_BUSY, WANTED_KERNEL = 0.10, 0.10
SAMPLES = 10_000
WARM = 2_000
FAST_HZ = 80
WANTED_GROWTH = 0.10
"""Heaps breathe: a share of what was there after the warm-up."""

_BATCH = """
import threading
from procbench import RunSettings, WorkStealingScheduler
from procbench.monitoring.monitor import PerformanceMonitor
from procbench.views.widgets import MonitorDashboard
over = threading.Event()
def batch():
    with WorkStealingScheduler(RunSettings(workers=2)) as scheduler:
        while not over.is_set():
            scheduler.submit(["sleep", "0.05"]).result()
threading.Thread(target=batch, daemon=True).start()
"""
_WATCHED = """
monitor = PerformanceMonitor({interval_s}, history=1000)
monitor.start()
dashboard = MonitorDashboard(monitor, interval_s={interval_s}, window_s=30.0)
dashboard
"""
_COUNT = """
import ipywidgets
count = ipywidgets.Label("0"); count.add_class("painted")
monitor.subscribe(lambda _: setattr(count, "value", str(dashboard._feed.painted)))
count
"""


class Cost(NamedTuple):
    """What a stretch of time cost: the page's share of one CPU, its heap; the kernel's share, its memory; bytes."""

    busy: float
    heap: float
    kernel: float
    resident: float


def report() -> None:
    """Measure and print."""
    if why := why_not():
        print(f"\nwidgets: not measured: {why}")
        return
    print(f"\na dashboard at 4 Hz over a batch of short commands, {MEASURED_S:g} s each")
    with _opened(_BATCH) as (page, kernel):
        alone = _cost(page, kernel)
    with _opened(_BATCH, _WATCHED.format(interval_s=0.25)) as (page, kernel):
        page.wait_for_timeout(3000)  # what loading leaves behind
        watched = _cost(page, kernel)
    print(
        f"  page's main thread busy: {alone.busy:.1%} without, {watched.busy:.1%} with it; {_met(watched.busy, WANTED_BUSY)}"
    )
    more = watched.kernel - alone.kernel
    print(f"  kernel: {alone.kernel:.1%} of a CPU without, {watched.kernel:.1%} with it; {_met(more, WANTED_KERNEL)}")
    with _opened(_BATCH, _WATCHED.format(interval_s=1 / FAST_HZ), _COUNT) as (page, kernel):
        _until_painted(page, WARM)
        before = _cost(page, kernel, seconds=0)
        _until_painted(page, WARM + SAMPLES)
        after = _cost(page, kernel, seconds=0)
    print(f"  {SAMPLES} samples painted at {FAST_HZ} Hz:")
    for words, then, now in (
        ("page's heap", before.heap, after.heap),
        ("kernel's memory", before.resident, after.resident),
    ):
        print(f"  {words}: {then / 2**20:.1f} MiB, then {now / 2**20:.1f} MiB; {_met(now / then - 1, WANTED_GROWTH)}")


def _met(value: float, wanted: float) -> str:
    return f"{value:.1%}; wanted <= {wanted:.0%}: {'met' if value <= wanted else 'MISSED'}"


@contextmanager
def _opened(*cells: str) -> Iterator[tuple[Any, psutil.Process]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place) / "notebooks"
        folder.mkdir()
        spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        made = [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
        nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=spec), folder / "bench.ipynb")
        with jupyter_lab(folder, Path(place) / "home") as server, chromium(height=1400) as page:
            open_notebook(page, server, "bench.ipynb")
            run_all(page)
            yield page, _kernel(server)


def _kernel(server: Server) -> psutil.Process:
    children = psutil.Process(server.pid).children(recursive=True)
    return next(child for child in children if "ipykernel_launcher" in " ".join(child.cmdline()))


def _cost(page: Any, kernel: psutil.Process, seconds: float = MEASURED_S) -> Cost:
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable")
    cdp.send("HeapProfiler.collectGarbage")

    def look() -> tuple[dict[str, float], float]:
        metrics = {one["name"]: one["value"] for one in cdp.send("Performance.getMetrics")["metrics"]}
        used = kernel.cpu_times()  # its children's are counted apart
        return metrics, used.user + used.system

    (page_before, kernel_before), began = look(), time.perf_counter()
    page.wait_for_timeout(1000 * seconds)
    (page_after, kernel_after), took = look(), time.perf_counter() - began
    busy = (page_after["TaskDuration"] - page_before["TaskDuration"]) / took
    return Cost(busy, page_after["JSHeapUsedSize"], (kernel_after - kernel_before) / took, kernel.memory_info().rss)


def _until_painted(page: Any, count: int) -> None:
    label = page.locator(".painted")
    while int(label.inner_text()) < count:
        page.wait_for_timeout(250)
