"""Rules on made-up observations: each finds what it is for, and says nothing where its change cannot help."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from typing import Any

import pandas as pd
import pytest

from procbench.analysis.observed import Observed, most_memory_bytes
from procbench.analysis.observed_machine import OF_MONITOR
from procbench.analysis.rules import RULES, analyze
from procbench.analysis.statistics import Effect
from procbench.analysis.suggestions import (
    CATEGORIES,
    AnalysisConfig,
    HostChange,
    OptimizationSuggestion,
    SettingsChange,
)
from procbench.cpu.topology import CpuCache, allowed_cpus, read_topology
from procbench.errors import InvalidInputError, PoolExhaustedError, ProgramNotFoundError
from procbench.memory.pools import MemoryPoolManager
from procbench.monitoring.monitor import PerformanceMonitor
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import ProcessTask, TaskResult
from tests.waiting import wait_until

SECOND_NS = 1_000_000_000


def good(**numbers: Any) -> Observed:
    """Return what a batch of CPU-bound commands on as many workers as CPUs shows, with some numbers changed."""
    usual: dict[str, Any] = {
        "tasks": 100,
        "workers": 4,
        "cpus": 4,
        "cpus_allowed": 4,
        "makespan_s": 5.0,
        "busy_share": 0.95,
        "cpu_share": 0.97,
        "cpu_share_best": 0.99,
        "wall_median_s": 0.2,
        "wall_p99_s": 0.25,
        "longest_share": 0.05,
        "longest_begun": 0.3,
        "spawn_share": 0.02,
        "idle_share": 0.01,
        "tail_share": 0.02,
        "imbalance": 0.01,
        "pipe_bytes_per_s": 0.0,
        "pipe_bytes_per_task": 0.0,
        "pipe_bytes": 65536.0,
        "peak_memory_bytes": 4e7,
        "memory_share": 0.01,
        "involuntary_per_cpu_s": 10.0,
        "voluntary_per_cpu_s": 5.0,
        "failed_share": 0.0,
        "spent_share": 0.0,
        "survivors_share": 0.0,
        "fd_share": 0.01,
        "unknown": {},
    }
    return Observed(**{**usual, **numbers})


WAITING = {"busy_share": 0.05, "cpu_share": 0.05, "cpu_share_best": 0.06, "voluntary_per_cpu_s": 90.0}

BAD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "too_many_workers": (
        {"workers": 32, "cpu_share": 0.12, "memory_share": 0.3, "peak_memory_bytes": 5e9},
        {"workers": 32},
    ),
    "too_few_workers": ({"workers": 1}, {"workers": 1}),
    "more_workers_while_they_wait": (WAITING, {}),
    "pinned_to_few_cpus": ({"cpus_allowed": 1, "busy_share": 0.25, "cpu_share": 0.25}, {"pin": ("0",)}),
    "held_back_by_priority": ({"cpu_share": 0.1, "busy_share": 0.1}, {"nice": 19}),
    "moved_about": ({"involuntary_per_cpu_s": 400.0}, {}),
    "throttled": ({"workers": 16, "throttled_share": 0.6}, {"workers": 16}),
    "batch_tiny_commands": ({"tasks": 5000, "arguments": 5000, "wall_median_s": 0.001, "spawn_share": 0.9}, {}),
    "too_coarse": ({"tasks": 5, "arguments": 500, "tail_share": 0.3}, {"args_per_task": 100}),
    "longest_first": ({"tail_share": 0.4, "longest_share": 0.5, "longest_begun": 0.48}, {}),
    "starved_by_a_small_queue": ({"idle_share": 0.4}, {"queue_size": 2}),
    "memory_runs_short": ({"memory_share": 0.95, "memory_pressure": 0.3}, {}),
    "small_pipes": (
        {"pipe_bytes_per_task": 1e8, "pipe_bytes_per_s": 5e8, "pipe_bytes": 4096.0},
        {"pipe_size_bytes": 4096},
    ),
    "small_reads": (
        {"pipe_bytes_per_task": 1e8, "pipe_bytes_per_s": 5e8, "pipe_bytes": float(1 << 20)},
        {"capture": True, "buffer_size_bytes": 512, "pipe_size_bytes": 1 << 20},
    ),
    "capture_nobody_needs": ({"pipe_bytes_per_task": 1e8, "pipe_bytes": float(1 << 20)}, {"capture": True}),
    "disks_are_waited_for": ({"io_pressure": 0.5, "cpu_share": 0.3}, {}),
    "left_behind": ({"survivors_share": 0.5}, {}),
    "costly_containment": ({"spawn_share": 0.9, "wall_median_s": 0.001}, {"containment": "cgroup"}),
    "process_numbers_run_out": ({"processes": 32_000.0, "zombie_share": 0.9}, {}),
    "descriptors_run_out": ({"fd_share": 2.0}, {}),
    "zombies_pile_up": ({"processes": 400.0, "zombie_share": 0.5, "zombies_added": 100.0}, {}),
    "pools_run_dry": ({"pool_misses_share": 0.4}, {}),
    "caches_go_cold": ({"caches": 4, "cache_bytes": 32e6, "command_memory_bytes": 8e6}, {}),
    "limited_by_itself": ({"cpu_share": 0.24}, {"cpu_limit": 0.25}),
    "waits_until_there_is_room": ({"idle_share": 0.5}, {"start_below_load": 2.0}),
    "uneven_pins": (
        {"workers": 3, "cpus": 2, "cpus_allowed": 2, "imbalance": 0.4, "tail_share": 0.2},
        {"workers": 3, "pin": ("0", "1")},
    ),
}


@pytest.mark.parametrize("name", [rule.__name__ for rule in RULES])
def test_each_rule_finds_what_it_is_for_and_says_so_with_numbers(name: str, monkeypatch: pytest.MonkeyPatch):
    """The suggestion is there, is unmeasured, and its change can be applied and undone exactly."""
    monkeypatch.setattr("procbench.analysis.rules_resources.most_processes", lambda: 32_768)
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 4096))
    numbers, changes = BAD[name]
    settings = RunSettings(**{"workers": 4, **changes})
    found = {one.rule: one for one in analyze(good(**numbers), settings)}
    assert name in found
    one = found[name]
    assert one.status == "unmeasured"
    assert one.effect is None
    assert any(letter.isdigit() for letter in one.description)
    assert one.category in CATEGORIES
    changed = one.apply(settings)
    assert one.undo(changed) == settings
    assert (changed != settings) is isinstance(one.change, SettingsChange)
    assert OptimizationSuggestion.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_a_good_batch_gets_no_suggestion():
    assert analyze(good(), RunSettings(workers=4)) == []


def test_nothing_is_said_of_a_batch_of_which_nothing_is_known():
    """No command ran: every number is NaN and says why, and no rule takes NaN for a finding."""
    observed = Observed.of([], RunSettings())
    assert math.isnan(observed.busy_share)
    assert "no command ran" in observed.unknown["busy_share"]
    assert analyze(observed, RunSettings()) == []
    assert analyze(dataclasses.replace(observed, tasks=9), RunSettings()) == []


@pytest.mark.parametrize(
    ("numbers", "changes", "rule"),
    [
        ({**WAITING, "memory_share": 0.5}, {}, "more_workers_while_they_wait"),  # more would not fit into memory
        ({**WAITING, "tasks": 4}, {}, "more_workers_while_they_wait"),  # there is nothing for more of them to do
        (
            {**WAITING, "involuntary_per_cpu_s": 400.0},
            {},
            "more_workers_while_they_wait",
        ),  # it is CPUs that they wait for
        ({**WAITING, "workers": 1}, {"workers": 1}, "too_few_workers"),
        ({**WAITING, "cpus_allowed": 1}, {"pin": ("0",)}, "pinned_to_few_cpus"),
        ({"tasks": 5000, "wall_median_s": 0.001, "spawn_share": 0.9}, {}, "batch_tiny_commands"),  # whole commands
        ({"cpu_share": 0.97}, {"nice": 19}, "held_back_by_priority"),  # nobody else wants the CPUs
        ({"workers": 32, "memory_share": 0.3, **WAITING}, {"workers": 32}, "too_many_workers"),
        ({"tail_share": 0.4, "longest_share": 0.5, "longest_begun": 0.48}, {"order": "longest_first"}, "longest_first"),
        (
            {"processes": 400.0, "zombie_share": 0.5, "zombies_added": 100.0},
            {"containment": "subreaper"},
            "zombies_pile_up",
        ),
        (
            {"processes": 400.0, "zombie_share": 0.5, "zombies_added": 2.0},
            {},
            "zombies_pile_up",
        ),  # too few to be this batch's
        ({"workers": 1, "pool_misses_share": 0.4}, {"workers": 1}, "pools_run_dry"),
        ({"pool_misses_share": 0.01}, {}, "pools_run_dry"),
        ({"caches": 1, "cache_bytes": 32e6, "command_memory_bytes": 8e6}, {}, "caches_go_cold"),  # nowhere to move to
        (
            {"caches": 4, "cache_bytes": 32e6, "command_memory_bytes": 8e8},
            {},
            "caches_go_cold",
        ),  # it does not fit anyway
        ({"caches": 4, "cache_bytes": 32e6, "command_memory_bytes": 8e6}, {"pin": "core"}, "caches_go_cold"),
        ({"caches": 4, "cache_bytes": 32e6}, {}, "caches_go_cold"),  # nobody knows how large commands are
        ({"cpu_share": 0.1}, {"cpu_limit": 0.25}, "limited_by_itself"),  # it does not use what it may
        ({"cpu_share": 0.97}, {"cpu_limit": 2.0}, "limited_by_itself"),  # more than one CPU for one that uses one
        ({"idle_share": 0.5}, {}, "waits_until_there_is_room"),
        ({"idle_share": 0.01}, {"start_below_load": 2.0}, "waits_until_there_is_room"),
        ({"idle_share": 0.5, "memory_share": 0.9}, {"start_above_free_bytes": 1 << 30}, "waits_until_there_is_room"),
        ({"imbalance": 0.4, "tail_share": 0.2}, {"pin": ("0", "1")}, "uneven_pins"),  # two workers for each set
        (
            {"workers": 3, "cpus": 2, "cpus_allowed": 2},
            {"workers": 3, "pin": ("0", "1")},
            "uneven_pins",
        ),  # nobody waits
        ({"workers": 3, "cpus_allowed": 2, "tail_share": 0.2}, {"workers": 3, "pin": ("0", "1")}, "uneven_pins"),
    ],
)
def test_what_cannot_help_is_not_suggested(numbers: dict[str, Any], changes: dict[str, Any], rule: str):
    settings = RunSettings(**{"workers": 4, **changes})
    assert rule not in [one.rule for one in analyze(good(**numbers), settings)]


def test_suggestions_come_by_priority_and_then_by_what_they_could_gain():
    found = analyze(
        good(workers=1, tail_share=0.2, pipe_bytes_per_task=1e8, pipe_bytes=4096.0),
        RunSettings(workers=1, capture=True),
    )
    ranks = [(["critical", "high", "medium", "low"].index(one.priority), -one.at_most) for one in found]
    assert ranks == sorted(ranks)
    assert found[0].rule == "too_few_workers"


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        ({"CPU": {}}, "there is no category 'CPU'"),
        ({"cpu": {"boundd": 0.5}}, "no threshold 'boundd'"),
        ({"cpu": {"bound": 50}}, "from 0 to 1"),
        ({"cpu": {"bound": math.nan}}, "cpu.bound is nan"),
        ({"cpu": {"bound": "0.5"}}, "cpu.bound is '0.5'"),
    ],
)
def test_a_threshold_that_makes_no_sense_is_one_clear_error(thresholds: dict[str, Any], said: str):
    with pytest.raises(InvalidInputError, match=said):
        AnalysisConfig(thresholds)


def test_all_wrong_thresholds_are_named_at_once_and_right_ones_are_obeyed():
    with pytest.raises(InvalidInputError, match=r"disc.*cpu\.bound"):
        AnalysisConfig({"disc": {}, "cpu": {"bound": -1}})
    tail = good(tail_share=0.4, longest_share=0.5, longest_begun=0.48)
    assert analyze(tail, RunSettings(workers=4))
    assert not analyze(tail, RunSettings(workers=4), AnalysisConfig({"concurrency": {"tail": 0.5}}))


def test_a_change_for_other_settings_is_refused_both_ways():
    change = SettingsChange({"workers": 2}, {"workers": 16})
    one = OptimizationSuggestion(category="cpu", priority="low", description="", why="", change=change)
    with pytest.raises(InvalidInputError, match="workers is 8, not 16"):
        one.apply(RunSettings(workers=8))
    with pytest.raises(InvalidInputError, match="undone"):
        one.undo(RunSettings(workers=8))
    with pytest.raises(InvalidInputError, match="there is no setting"):
        SettingsChange({"worker": 2}, {"worker": 1})
    with pytest.raises(InvalidInputError, match="the same settings"):
        SettingsChange({"workers": 2}, {})
    with pytest.raises(InvalidInputError, match="undoes"):
        HostChange(("true",), (), ("true",), "")


def test_a_measured_suggestion_comes_back_from_json_and_pickle():
    effect = Effect(1.5, 1.4, 1.6, 0.95, 9, noise_floor=0.02)
    change = SettingsChange({"pin": ("0", "1")}, {"pin": "none"})
    one = OptimizationSuggestion(
        category="cpu", priority="high", description="d", why="w", change=change, status="proved", effect=effect,
        evidence="data/x.parquet", side_effects={"memory": effect}, rule="r",
    )  # fmt: skip
    assert OptimizationSuggestion.from_dict(json.loads(json.dumps(one.to_dict()))).effect == effect
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(InvalidInputError, match="not a recorded suggestion"):
        OptimizationSuggestion.from_dict({"rule": "r"})


# --- what a batch showed --------------------------------------------------------------------------------------------


def result(begin_s: float, end_s: float, **numbers: Any) -> TaskResult:
    """Return the result of a command that succeeded, with some numbers changed."""
    task = ProcessTask(["true"])
    blank = TaskResult.not_started(task, ProgramNotFoundError(2, "resolve", "true"), 0)
    usual = {"returncode": 0, "error": None, "worker": 0, "user_s": end_s - begin_s, "system_s": 0.0}
    times = {"started_ns": int(begin_s * SECOND_NS), "ended_ns": int(end_s * SECOND_NS)}
    return dataclasses.replace(blank, **{**usual, **times, "peak_memory_is_bound": False, **numbers})


def test_shares_of_time_are_those_of_the_workers_and_cpus():
    """Worker 0 works for 4 s, worker 1 for 2 s and then has nothing left: a quarter of their time is tail."""
    ran = [result(0, 4), result(0, 1, worker=1), result(1, 2, worker=1)]
    seen = Observed.of(ran, RunSettings(workers=2), cpus=3)
    assert seen.makespan_s == pytest.approx(4)
    assert seen.tail_share == pytest.approx(0.25)
    assert seen.busy_share == pytest.approx(6 / 12)
    assert seen.cpu_share == pytest.approx(1)
    assert seen.imbalance == pytest.approx(4 / 3 - 1)
    assert (seen.longest_share, seen.longest_begun) == (pytest.approx(1), 0)


def test_memory_at_a_time_is_the_largest_sum_of_what_overlaps():
    ran = [result(0, 2, peak_memory_bytes=100), result(1, 3, peak_memory_bytes=50), result(2, 4, peak_memory_bytes=70)]
    assert most_memory_bytes(ran) == 150  # the first makes room for the third
    small = [result(0, 2, peak_memory_bytes=100, peak_memory_is_bound=True)]
    assert math.isnan(most_memory_bytes(small))
    seen = Observed.of(small, RunSettings(), memory_bytes=1000)
    assert math.isnan(seen.memory_share)
    assert "this process was larger" in seen.unknown["memory_share"]


def test_a_monitors_frame_gives_pressure_throttling_and_network():
    rows = [
        ("throttling", "periods", 10.0), ("throttling", "throttled", 4.0), ("pressure", "io_some", 0.3),
        ("network", "received", 1e6), ("network", "sent", 1e5), ("memory", "swap_used", math.nan),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["collector", "metric", "value"]).assign(time_s=0.0)
    seen = Observed.of([result(0, 1)], RunSettings(), monitor_frame=frame)
    assert seen.throttled_share == pytest.approx(0.4)
    assert seen.io_pressure == pytest.approx(0.3)
    assert seen.network_bytes_per_s == pytest.approx(1.1e6)
    assert "no such metric" in seen.unknown["swap_bytes"]
    with pytest.raises(InvalidInputError, match="lacks"):
        Observed.of([result(0, 1)], RunSettings(), monitor_frame=frame.drop(columns="time_s"))


def test_a_disk_that_others_keep_busy_is_no_fault_of_the_batch():
    """The same pressure suggests fewer workers where the batch moves bytes, and nothing where it does not."""
    words = {
        "tasks": 100,
        "workers": 4,
        "cpus": 4,
        "cpus_allowed": 4,
        "io_pressure": 0.5,
        "cpu_share": 0.3,
        "unknown": {},
    }
    found = {
        size: [one.rule for one in analyze(Observed(**words, storage_bytes_per_s=size), RunSettings(workers=4))]
        for size in (1e3, 1e8, math.nan)
    }
    assert {size: "disks_are_waited_for" in rules for size, rules in found.items()} == {
        1e3: False,
        1e8: True,
        math.nan: True,
    }


def test_a_real_monitors_frame_has_the_names_that_are_looked_for():
    """What this machine tells is found under the collectors' own names, that of the pools among them."""
    pools = MemoryPoolManager()
    pools.create("few", 4096, 1)
    with PerformanceMonitor(0.02, parts={"pools": pools}) as monitor:
        wait_until(lambda: len(monitor.latest().values) == 9)  # a total before, so that there is a rate
        with pools.acquire("few"):
            for _ in range(3):
                with pytest.raises(PoolExhaustedError):
                    pools.acquire_nowait("few")
        taken = len(monitor.watched[-1].history)
        wait_until(lambda: len(monitor.watched[-1].history) > taken + 1)
    pools.remove("few")
    seen = Observed.of([result(0, 1)], RunSettings(), monitor_frame=monitor.frame())
    plain = Observed.of([result(0, 1)], RunSettings(), monitor_frame=monitor.series())
    assert {name: plain.to_dict()[name] for name in OF_MONITOR} == {name: seen.to_dict()[name] for name in OF_MONITOR}
    assert seen.processes >= 2
    assert 0 <= seen.zombie_share < 1
    assert math.isfinite(seen.network_bytes_per_s)
    assert 0.5 < seen.pool_misses_share < 1


def test_pool_misses_are_a_share_of_all_requests():
    """Rates of one pool are put together with those of the others; a pool that nobody asked says nothing."""
    rows = [("a", "allocations", 6.0), ("a", "failures", 2.0), ("b", "hits[x]", 1.0), ("b", "misses[x]", 1.0)]
    frame = pd.DataFrame(rows, columns=["collector", "metric", "value"]).assign(time_s=0.0)
    seen = Observed.of([result(0, 1)], RunSettings(), monitor_frame=frame)
    assert seen.pool_misses_share == pytest.approx(0.3)
    idle = Observed.of([result(0, 1)], RunSettings(), monitor_frame=frame.assign(value=0.0))
    assert math.isnan(idle.pool_misses_share)
    assert "no such metric" in idle.unknown["pool_misses_share"]


def test_caches_of_the_last_level_are_counted():
    """Those of lower levels do not count, nor those of CPUs that this process may not use."""
    own = min(allowed_cpus())
    here = CpuCache(3, "Unified", 32 << 20, frozenset({own}))
    away = CpuCache(3, "Unified", 32 << 20, frozenset({10_000}))
    below = CpuCache(2, "Unified", 1 << 20, frozenset({own}))
    topology = dataclasses.replace(read_topology(), last_level_cache_bytes=32 << 20, caches=(here, away, below))
    seen = Observed.of([result(0, 1)], RunSettings(), topology=topology)
    assert (seen.caches, seen.cache_bytes) == (1, 32 << 20)
    unknown = dataclasses.replace(topology, last_level_cache_bytes=None, caches=None)
    seen = Observed.of([result(0, 1)], RunSettings(), topology=unknown)
    assert seen.caches == 1
    assert "cache_bytes" in seen.unknown


def test_what_is_no_result_is_refused_and_failures_are_counted():
    with pytest.raises(InvalidInputError, match="takes task results"):
        Observed.of(["x"], RunSettings())  # type: ignore[list-item]
    with pytest.raises(InvalidInputError, match="at least 1"):
        Observed.of([], RunSettings(), cpus=0)
    refused = TaskResult.not_started(ProcessTask(["x"]), ProgramNotFoundError(2, "resolve", "x"), 0)
    seen = Observed.of([result(0, 1), refused, result(0, 1, returncode=1)], RunSettings())
    assert (seen.tasks, seen.failed_share) == (2, pytest.approx(2 / 3))
    assert json.dumps(seen.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"category": "CPU"}, "there is no category 'CPU'; there are: cpu, memory"),
        ({"priority": "urgent"}, "there is no priority 'urgent'"),
        ({"cost": "free"}, "there is no cost 'free'"),
        ({"gain": "money"}, "there is no gain 'money'"),
        ({"status": "sure"}, "there is no status 'sure'"),
        ({"at_most": float("nan")}, "at_most"),
    ],
)
def test_words_that_a_suggestion_does_not_know_are_refused_also_from_a_record(wrong: dict[str, Any], said: str):
    change = SettingsChange({"workers": 2}, {"workers": 1})
    usual: dict[str, Any] = {"category": "cpu", "priority": "low", "description": "d", "why": "w", "change": change}
    with pytest.raises(InvalidInputError, match=said):
        OptimizationSuggestion(**usual | wrong)
    with pytest.raises(InvalidInputError, match=said):
        OptimizationSuggestion.from_dict(OptimizationSuggestion(**usual).to_dict() | wrong)
