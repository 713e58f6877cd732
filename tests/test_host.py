"""Host facts and the closed list of noise warnings."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from procbench.errors import InvalidInputError
from procbench.lab.host import HostFacts, read_host
from procbench.lab.noise import NoiseCode, noise_warnings

MACHINE_ID = "0123456789abcdef0123456789abcdef"

QUIET = HostFacts(
    host_id="0" * 12,
    recorded_at="2026-01-01T00:00:00+00:00",
    hostname="bench",
    cpu_model="Example CPU 9000",
    architecture="x86_64",
    logical_cpus=8,
    physical_cores=4,
    sockets=1,
    numa_nodes=1,
    last_level_cache_bytes=32 << 20,
    allowed_cpus=tuple(range(8)),
    cpu_quota=None,
    usable_workers=8,
    memory_bytes=16 << 30,
    memory_available_bytes=12 << 30,
    kernel="6.18.0",
    libc="glibc 2.36",
    python_version="3.13.1",
    python_implementation="CPython",
    python_debug=False,
    python_tracing=False,
    governors=("performance",),
    turbo=False,
    hypervisor=None,
    container=None,
    nice_value=0,
    load_one_minute=0.2,
    load_five_minutes=0.2,
    load_fifteen_minutes=0.2,
    busy_share=0.01,
    steal_share=0.0,
    cpu_pressure_percent=0.0,
    memory_pressure_percent=0.0,
    io_pressure_percent=0.5,
)

NOISY: dict[NoiseCode, dict[str, Any]] = {
    NoiseCode.BUSY_MACHINE: {"busy_share": 0.4},
    NoiseCode.CPU_PRESSURE: {"cpu_pressure_percent": 12.5},
    NoiseCode.MEMORY_PRESSURE: {"memory_pressure_percent": 2.5},
    NoiseCode.IO_PRESSURE: {"io_pressure_percent": 30.5},
    NoiseCode.STEAL_TIME: {"steal_share": 0.05},
    NoiseCode.GOVERNOR_NOT_PERFORMANCE: {"governors": ("performance", "powersave")},
    NoiseCode.TURBO_ON: {"turbo": True},
    NoiseCode.CPU_QUOTA: {"cpu_quota": 2.5},
    NoiseCode.RESTRICTED_AFFINITY: {"allowed_cpus": (0, 1, 2)},
    NoiseCode.VIRTUAL_MACHINE: {"hypervisor": "KVM"},
    NoiseCode.FEW_CPUS: {"usable_workers": 2},
    NoiseCode.LOW_MEMORY_AVAILABLE: {"memory_available_bytes": 1 << 30},
    NoiseCode.PYTHON_DEBUG_BUILD: {"python_debug": True},
    NoiseCode.PYTHON_TRACING: {"python_tracing": True},
    NoiseCode.NICED: {"nice_value": 10},
}


def recorded_tree(root: Path, **changed: str) -> Path:
    """Lay the files of a recorded two-CPU guest under ``root``; a double underscore stands for a folder."""
    files = {
        "proc__cpuinfo": "model name\t: Example CPU 9000\nflags\t\t: fpu hypervisor lahf_lm\n",
        "proc__meminfo": "MemTotal:       16384000 kB\nMemAvailable:    8192000 kB\nHugePages_Total:       0\n",
        "sys__devices__system__cpu__online": "0-1\n",
        "sys__devices__system__cpu__cpu0__cpufreq__scaling_governor": "schedutil\n",
        "sys__devices__system__cpu__cpu1__cpufreq__scaling_governor": "schedutil\n",
        "sys__devices__system__cpu__cpufreq__boost": "1\n",
        "sys__class__dmi__id__product_name": "Example Cloud VM\n",
        "run__systemd__container": "lxc\n",
        "etc__machine-id": MACHINE_ID + "\n",
    }
    for name, text in {**files, **changed}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def no_wait(_seconds: float) -> None:
    """Let no time pass."""


def test_a_recorded_guest_is_read(tmp_path: Path):
    """What the files say is what the facts hold, in bytes and names."""
    facts = read_host(recorded_tree(tmp_path), wait=no_wait)
    assert (facts.cpu_model, facts.logical_cpus) == ("Example CPU 9000", 2)
    assert (facts.memory_bytes, facts.memory_available_bytes) == (16384000 * 1024, 8192000 * 1024)
    assert (facts.governors, facts.turbo) == (("schedutil",), True)
    assert (facts.hypervisor, facts.container) == ("Example Cloud VM", "lxc")


@pytest.mark.parametrize(
    ("file", "text", "turbo"), [("cpufreq/boost", "0", False), ("intel_pstate/no_turbo", "0", True)]
)
def test_both_kinds_of_turbo_switch_are_read(tmp_path: Path, file: str, text: str, turbo: bool):
    """One file says 1 for on, the other 1 for off."""
    switch = tmp_path / "sys/devices/system/cpu" / file
    switch.parent.mkdir(parents=True)
    switch.write_text(text)
    assert read_host(tmp_path, wait=no_wait).turbo is turbo


def test_an_empty_tree_gives_facts_and_no_error(tmp_path: Path):
    """What is missing is None; nothing is raised, and nothing is warned of that was not seen."""
    facts = read_host(tmp_path, wait=no_wait)
    unknown = ("cpu_model", "logical_cpus", "memory_bytes", "turbo", "hypervisor", "busy_share", "io_pressure_percent")
    assert [getattr(facts, name) for name in unknown] == [None] * len(unknown)
    assert {warning.code for warning in noise_warnings(facts)} <= {
        NoiseCode.FEW_CPUS,
        NoiseCode.NICED,
        NoiseCode.PYTHON_TRACING,
        NoiseCode.PYTHON_DEBUG_BUILD,
    }


def test_the_cpus_are_watched_while_this_process_waits(tmp_path: Path):
    """Busy and stolen time are the difference of two readings, with the wait between them."""
    root = recorded_tree(tmp_path, proc__stat="cpu 100 0 0 1000 0 0 0 0 0 0\n")

    def others_work(seconds: float) -> None:
        assert seconds == 0.2
        (root / "proc/stat").write_text("cpu 130 0 0 1060 0 0 0 10 0 0\n")

    facts = read_host(root, wait=others_work)
    assert (facts.busy_share, facts.steal_share) == pytest.approx((0.3, 0.1))
    assert read_host(root, sample_s=0, wait=others_work).busy_share is None


def test_the_host_id_is_stable_and_tells_hosts_apart(tmp_path: Path):
    """Load, memory to be had and a kernel that reserves a little more change nothing; model and machine do."""
    ids = {}
    trees: dict[str, dict[str, str]] = {
        "same": {},
        "busier": {"proc__loadavg": "9 9 9 9/99 1\n", "proc__meminfo": "MemTotal: 16383000 kB\nMemAvailable: 1 kB\n"},
        "other_model": {"proc__cpuinfo": "model name\t: Example CPU 9001\n"},
        "other_machine": {"etc__machine-id": "f" * 32},
        "more_memory": {"proc__meminfo": "MemTotal: 32768000 kB\n"},
    }
    for name, changed in trees.items():
        ids[name] = read_host(recorded_tree(tmp_path / name, **changed), wait=no_wait).host_id
    assert ids["same"] == ids["busier"]
    assert len(set(ids.values())) == 4


def test_the_machine_id_is_never_stored(tmp_path: Path):
    """machine-id(5) calls it confidential; neither it nor a part of it stands in the facts."""
    recorded = json.dumps(read_host(recorded_tree(tmp_path), wait=no_wait).to_dict())
    assert MACHINE_ID[:8] not in recorded


def test_facts_travel_as_json():
    """What is written is what is read; a newer field is left out and a missing one named."""
    plain = json.loads(json.dumps(QUIET.to_dict(), allow_nan=False))
    assert HostFacts.from_dict({**plain, "from_the_future": 1}) == QUIET
    del plain["kernel"]
    with pytest.raises(InvalidInputError, match="kernel"):
        HostFacts.from_dict(plain)


def test_this_host_shows_its_own_facts():
    """Affinity, nice value and interpreter are those of this process."""
    facts = read_host(wait=no_wait)
    assert facts.allowed_cpus == tuple(sorted(os.sched_getaffinity(0)))
    assert facts.nice_value == os.getpriority(os.PRIO_PROCESS, 0)
    assert facts.python_version == sys.version.split()[0]
    assert facts.memory_bytes


def test_a_quiet_host_raises_no_warning():
    """Silence means that every check passed."""
    assert noise_warnings(QUIET) == []


@pytest.mark.parametrize("code", NoiseCode)
def test_each_kind_of_noise_raises_exactly_its_own_warning(code: NoiseCode):
    """Every code can fire, alone, and says what was seen, why it matters and what to do."""
    (warning,) = noise_warnings(replace(QUIET, **NOISY[code]))
    assert warning.code == code
    assert warning.why.endswith(".")
    assert warning.what_to_do.endswith(".")
    number = next((value for value in NOISY[code].values() if isinstance(value, float) and value > 1), None)
    assert number is None or f"{number:g}" in warning.seen


def test_a_high_load_average_alone_is_a_busy_machine():
    """What ran a moment ago may come back."""
    (warning,) = noise_warnings(replace(QUIET, load_one_minute=5.5))
    assert (warning.code, "5.50 on 8" in warning.seen) == (NoiseCode.BUSY_MACHINE, True)


def test_facts_that_are_not_shown_raise_no_warning():
    """None is no evidence."""
    unknown = {name: None for name, value in asdict(QUIET).items() if isinstance(value, float) or value is None}
    assert noise_warnings(replace(QUIET, **unknown, logical_cpus=None, memory_bytes=None, governors=())) == []
