"""Pressure, load and CPU shares, read from recorded files and from this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from procbench.monitoring.pressure import (
    CpuTimes,
    read_cpu_times,
    read_load_average,
    read_pressure,
    share_between,
)

STALLED = "some avg10=12.50 avg60=3.00 avg300=0.75 total=93923012\nfull avg10=1.25 avg60=0.50 avg300=0.10 total=42\n"
START = CpuTimes(1000, 10, 500, 8000, 100, 5, 5, 20)


def proc(root: Path, **files: str) -> Path:
    """Lay recorded files under ``root/proc``; a double underscore stands for a folder."""
    for name, text in files.items():
        path = root / "proc" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_recorded_pressure_is_read_with_its_units(tmp_path: Path):
    """Percent of the last 10, 60 and 300 s, and microseconds in all."""
    found = read_pressure(proc(tmp_path, pressure__cpu=STALLED, pressure__memory=STALLED, pressure__io=STALLED))
    assert found.missing == ()
    assert found.memory is not None
    assert (found.memory.some.avg10_percent, found.memory.some.total_us) == (12.5, 93923012)
    assert found.memory.full is not None
    assert found.memory.full.avg300_percent == 0.1


def test_old_kernels_have_no_full_line_for_cpus(tmp_path: Path):
    """Before Linux 5.13 the second line is absent, and None."""
    found = read_pressure(proc(tmp_path, pressure__cpu=STALLED.splitlines()[0]))
    assert found.cpu is not None
    assert found.cpu.full is None


def test_a_kernel_without_pressure_gives_a_reason_each(tmp_path: Path):
    """Three resources are None and three reasons say what is missing; a garbled file is one of them."""
    found = read_pressure(proc(tmp_path, pressure__io="surprise\n"))
    assert (found.cpu, found.memory, found.io) == (None, None, None)
    assert [reason.partition(":")[0] for reason in found.missing] == ["cpu", "memory", "io"]
    assert "CONFIG_PSI" in found.missing[0]
    assert "psi.rst" in found.missing[2]


def test_load_averages_are_read(tmp_path: Path):
    """Three averages and the threads that could run now."""
    found = read_load_average(proc(tmp_path, loadavg="0.11 0.77 0.57 3/82 25791\n"))
    assert found is not None
    assert (found.one_minute, found.five_minutes, found.fifteen_minutes, found.runnable) == (0.11, 0.77, 0.57, 3)


@pytest.mark.parametrize("text", [None, "", "a lot\n"])
def test_load_averages_that_cannot_be_read_are_none(tmp_path: Path, text: str | None):
    """A missing, empty or garbled file is None."""
    root = tmp_path if text is None else proc(tmp_path, loadavg=text)
    assert read_load_average(root) is None


def test_cpu_times_are_read_without_counting_guests_twice(tmp_path: Path):
    """The ninth and tenth column stand in the first two already."""
    found = read_cpu_times(proc(tmp_path, stat="cpu  1000 10 500 8000 100 5 5 20 900 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n"))
    assert found == START


@pytest.mark.parametrize("text", [None, "", "cpu 1 2 3\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu a b c d e f g h\n"])
def test_cpu_times_that_cannot_be_read_are_none(tmp_path: Path, text: str | None):
    """A missing, short or garbled first line is None."""
    assert read_cpu_times(tmp_path if text is None else proc(tmp_path, stat=text)) is None


def test_shares_add_up_from_the_difference_of_two_readings():
    """Of 100 ticks, 40 were busy, 10 stolen, 20 waited for a disk and 30 were idle."""
    later = replace(START, user_ticks=1030, system_ticks=510, idle_ticks=8030, iowait_ticks=120, steal_ticks=30)
    found = share_between(START, later)
    assert found is not None
    assert (found.busy, found.steal, found.iowait) == pytest.approx((0.4, 0.1, 0.2))


@pytest.mark.parametrize("name", CpuTimes.__slots__)
def test_a_counter_that_goes_backwards_gives_none(name: str):
    """No share is ever negative, whichever counter fell, even if the others rose by more."""
    later = CpuTimes(*(getattr(START, field) + 100 for field in CpuTimes.__slots__))
    assert share_between(START, later) is not None
    assert share_between(START, replace(later, **{name: getattr(START, name) - 1})) is None


def test_no_time_between_two_readings_gives_none():
    """Nothing is divided by zero ticks."""
    assert share_between(START, START) is None


def test_this_machine_answers():
    """The running kernel has load averages and CPU times, and its pressure is given or explained."""
    assert read_load_average() is not None
    assert read_cpu_times() is not None
    found = read_pressure()
    assert [found.cpu, found.memory, found.io].count(None) == len(found.missing)
