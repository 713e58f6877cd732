"""The monitor: its clock, its history, its rates, and collectors and callbacks that raise, hang or dawdle."""

from __future__ import annotations

import gc
import math
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from procbench.errors import ClosedError, InvalidInputError
from procbench.monitoring.collectors import Metric
from procbench.monitoring.export import MetricsServer
from procbench.monitoring.history import History, summary_of
from procbench.monitoring.monitor import COLUMNS, PerformanceMonitor, Sample
from procbench.monitoring.ticks import Ticks
from tests.waiting import run_python, wait_until

PATIENCE_S = 20.0


class Told:
    """A collector that says what it is told to say."""

    def __init__(self, name: str = "told", say: Callable[[], Mapping[str, Any]] = dict, **metrics: Metric) -> None:
        self.name = name
        self.metrics = metrics
        self.closed = self.asked = 0
        self._say = say

    def collect(self) -> Mapping[str, float]:
        self.asked += 1
        return self._say()

    def close(self) -> None:
        self.closed += 1


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def in_turn(*values: Mapping[str, Any]) -> Callable[[], Mapping[str, Any]]:
    left = iter(values)
    return lambda: next(left)


def kinds(monitor: PerformanceMonitor) -> set[tuple[str, str]]:
    return {(trouble.kind, trouble.who) for trouble in monitor.troubles}


# --- time ---------------------------------------------------------------------------------------------------------------


def test_ticks_do_not_drift():
    """However long each sample takes, the next is due at a whole interval after the start."""
    ticks = Ticks(1.0, 10.0)
    assert [ticks.wait_s(now) for now in (10.3, 11.9, 12.0)] == pytest.approx([0.7, 0.1, 1.0])
    assert ticks.missed == 0


def test_ticks_that_were_slept_through_are_counted_and_not_made_up_for():
    """M06: after a pause of several intervals the next tick is at once, and then they stand where they stood."""
    ticks = Ticks(1.0, 0.0)
    assert ticks.wait_s(0.1) == pytest.approx(0.9)
    assert ticks.wait_s(5.25) == 0.0
    assert ticks.missed == 3
    assert ticks.wait_s(5.3) == pytest.approx(0.7)


def test_a_jump_of_the_wall_clock_changes_a_label_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    """M04: an hour forth and two back: times, rates and counts are what they were, and nothing is negative."""
    clock, wall = Clock(), [1_700_000_000.0]
    monkeypatch.setattr(time, "time", lambda: wall[0])
    total = [0.0]
    monitor = PerformanceMonitor(
        1.0, [Told(say=lambda: {"n": total[0]}, n=Metric("things", counter=True))], clock=clock
    )
    for jump in (0, 3600, -7200, 0):
        clock.now += 1.0
        wall[0] += 1.0 + jump
        total[0] += 5
        monitor.sample()
    monitor.stop()
    frame = monitor.frame()
    assert frame["time_s"].tolist() == [1, 2, 3, 4]
    assert frame["value"].tolist()[1:] == [5, 5, 5]
    assert [at.timestamp() for at in frame["at"]] == [1_700_000_001, 1_700_003_602, 1_699_996_403, 1_699_996_404]


# --- rates and history --------------------------------------------------------------------------------------------------


def test_counters_become_rates_and_gauges_stay():
    """A rate is for the time that really passed, and its unit says so."""
    clock = Clock()
    say = in_turn({"read": 0, "left": 5}, {"read": 300, "left": 4}, {"read": 300, "left": 3})
    metrics = {"read": Metric("bytes", counter=True), "left": Metric("slots")}
    monitor = PerformanceMonitor(1.0, [Told(say=say, **metrics)], clock=clock)
    for pause in (0.0, 2.0, 1.0):
        clock.now += pause
        sample = monitor.sample()
    monitor.stop()
    assert sample == Sample(3.0, {"told": {"read": 0.0, "left": 3.0}})
    frame = monitor.frame()
    assert tuple(frame.columns) == COLUMNS
    rows = {metric: rows["value"].tolist() for metric, rows in frame.groupby("metric")}
    assert math.isnan(rows["read"][0])
    assert (rows["read"][1:], rows["left"]) == ([150.0, 0.0], [5.0, 4.0, 3.0])
    assert set(frame["unit"]) == {"bytes/s", "slots"}


def test_a_counter_that_goes_backwards_gives_nan_once():
    """M05: a cgroup was made anew; that interval is NaN, no other is, and none is negative."""
    clock = Clock()
    say = in_turn(*({"n": value} for value in (10, 20, 3, 8)), {}, {"n": 50}, {"n": 60}, {"n": math.nan}, {"n": 70})
    monitor = PerformanceMonitor(1.0, [Told(say=say, n=Metric("s", counter=True))], clock=clock)
    found = []
    for _ in range(9):
        clock.now += 1.0
        found.append(monitor.sample().values["told"].get("n", math.nan))
    monitor.stop()
    nan = math.nan
    assert found == pytest.approx([nan, 10, nan, 5, nan, nan, 10, nan, nan], nan_ok=True)


def test_history_is_bounded_and_in_order():
    """The oldest go; what none of those kept has is forgotten with them."""
    history = History(3)
    for number in range(5):
        history.add(number, 100 + number, {"a": number * 10} if number else {"a": 0, "once": 1})
        if number == 2:
            assert history.recorded().columns["once"].tolist()[0] == 1
    found = history.recorded()
    assert (found.times_s.tolist(), found.at_s.tolist()) == ([2, 3, 4], [102, 103, 104])
    assert {name: column.tolist() for name, column in found.columns.items()} == {"a": [20, 30, 40]}
    history.add(5, 105, {"b": 1})
    found = history.recorded()
    assert found.columns["b"].tolist() == pytest.approx([math.nan, math.nan, 1], nan_ok=True)
    assert found.columns["a"].tolist() == pytest.approx([30, 40, math.nan], nan_ok=True)


def test_a_summary_leaves_nan_out():
    """Percentiles are values that there were; without any all is NaN."""
    from array import array

    found = summary_of(array("d", [math.nan, *range(1, 101)]))
    assert found == (100, 50.5, 50, 95, 100, 100)
    assert summary_of(array("d", [math.nan])).values == 0


def test_a_summary_has_a_row_for_each_metric():
    clock = Clock()
    monitor = PerformanceMonitor(1.0, [Told(say=in_turn({"x": 1}, {"x": 3}), x=Metric("share"))], clock=clock)
    monitor.sample()
    monitor.sample()
    monitor.stop()
    (row,) = monitor.summary().to_dict("records")
    assert row == {"collector": "told", "metric": "x", "unit": "share", "values": 2} | {
        "mean": 2.0, "p50": 1.0, "p95": 3.0, "max": 3.0, "last": 3.0
    }  # fmt: skip


def test_memory_does_not_grow_over_ten_thousand_samples():
    """Once the history is full, samples of every default collector, and names that come and go, take no more room."""
    clock = Clock()
    number = [0]

    def churn() -> Mapping[str, float]:
        number[0] += 1
        return {f"x[{number[0]}]": 1.0, "y": number[0]}

    monitor = PerformanceMonitor(1.0, [Told(say=churn, x=Metric("a"), y=Metric("b", counter=True))], 50, clock=clock)

    def samples(count: int) -> None:
        for _ in range(count):
            clock.now += 1.0
            monitor.sample()

    samples(500)
    tracemalloc.start()
    try:
        samples(100)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        samples(10_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    monitor.stop()
    assert grown < 50_000
    assert len(monitor.frame()) == 50 * 51


def test_default_collectors_take_no_more_room_either():
    """A thousand looks at this machine: the history is bounded, and no descriptor is added."""
    clock = Clock()
    monitor = PerformanceMonitor(1.0, history=20, clock=clock)
    for _ in range(300):
        clock.now += 1.0
        monitor.sample()
    fds = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(300):
        clock.now += 1.0
        monitor.sample()
    assert len(list(Path("/proc/self/fd").iterdir())) == fds
    monitor.stop()
    assert set(monitor.frame().groupby("metric").size()) <= {20, 40, 60}
    assert not monitor.troubles


# --- running ------------------------------------------------------------------------------------------------------------


def test_it_samples_by_itself_and_takes_a_last_one():
    """The first is taken at once, others follow, and the end is in the frame too."""
    collector = Told(say=lambda: {"x": 1.0}, x=Metric("things"))
    with PerformanceMonitor(0.05, [collector]) as monitor:
        wait_until(lambda: collector.asked >= 4)
    assert collector.closed == 1
    frame = monitor.frame()
    assert frame["time_s"].is_monotonic_increasing
    assert frame["time_s"].iloc[0] < 5.0
    assert len(frame) == collector.asked
    monitor.stop()
    assert collector.closed == 1


def test_it_says_what_sampling_costs_its_threads():
    """CPU time of the threads that keep time and ask, an asker left alone with a slow collector among them; it never falls."""

    def spin() -> dict[str, float]:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return {"x": 1.0}

    monitor = PerformanceMonitor(0.005, [Told("spins", spin, x=Metric("things")), Told("other")])
    assert monitor.cpu_s == 0.0
    with monitor:
        wait_until(lambda: len(monitor.watched[0].history) >= 4)
        seen = monitor.cpu_s
    assert seen >= 0.06  # the fourth round may not be over yet
    assert monitor.cpu_s >= seen


def test_a_default_monitor_sees_this_machine():
    """Every default collector is in the frame, and what is NaN throughout has a reason."""
    with PerformanceMonitor(0.1) as monitor:
        wait_until(lambda: all(len(watched.history) >= 3 for watched in monitor.watched))
    assert {"cpu", "memory", "disk", "network", "processes", "tree", "pressure", "throttling"} <= set(
        monitor.frame()["collector"]
    )
    assert monitor.troubles == ()
    reasons = monitor.reasons()
    for row in monitor.summary().itertuples():
        assert row.values or row.metric in reasons.get(row.collector, {}), row


def test_a_collector_that_raises_is_reported_and_stops_nobody():
    """M06: it is asked again each time, whatever it raises; what says nothing sensible is reported too."""

    def leave() -> Mapping[str, float]:
        raise SystemExit("bye")

    bad = [Told("leaves", leave), Told("odd", lambda: {"x": "much"}), Told("none", lambda: None)]  # type: ignore[arg-type, return-value]
    good = Told("good", lambda: {"x": 1.0})
    with PerformanceMonitor(0.02, [*bad, good]) as monitor:
        wait_until(lambda: good.asked >= 3)
    assert kinds(monitor) == {("raised", "leaves"), ("bad value", "odd"), ("raised", "none")}
    assert "SystemExit: bye" in monitor.troubles[0].said
    assert monitor.troubles[0].count >= 3
    assert "good" in set(monitor.frame()["collector"])


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a collector hangs on, until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_a_collector_that_hangs_holds_nobody_up(gate: threading.Event):
    """M06: the others are asked at every tick, its ticks are counted, and stop() does not wait for it."""

    def hang() -> Mapping[str, float]:
        gate.wait(PATIENCE_S)
        return {"late": 1.0}

    hanging, good = Told("hanging", hang), Told("good", lambda: {"x": 1.0})
    monitor = PerformanceMonitor(0.2, [hanging, good])
    monitor.start()
    wait_until(lambda: good.asked >= 4)
    began_s = time.monotonic()
    monitor.stop()
    assert time.monotonic() - began_s < 2.0  # an interval, and room for a busy machine; the gate opens after 20 s
    assert monitor.skipped["hanging"] >= 3
    assert hanging.asked == 1
    assert {("busy", "hanging"), ("left behind", "hanging")} <= kinds(monitor)
    gate.set()
    wait_until(lambda: hanging.closed == 1)
    assert "hanging" not in set(monitor.frame()["collector"])  # what came after the end is not in it


def test_a_collector_that_dawdles_gets_a_thread_of_its_own(gate: threading.Event):
    """M06: after it overran one interval, nobody else misses a tick because of it, and it is still asked."""
    slow_turns, released = [0], threading.Semaphore(0)

    def dawdle() -> Mapping[str, float]:
        slow_turns[0] += 1
        released.acquire(timeout=PATIENCE_S)
        return {"x": 1.0}

    good = Told("good", lambda: {"x": 1.0})
    with PerformanceMonitor(0.05, [Told("slow", dawdle), good]) as monitor:
        wait_until(lambda: good.asked >= 3)
        for turn in range(2, 5):
            released.release()
            wait_until(lambda: slow_turns[0] >= turn)  # noqa: B023 - asked at once
            asked = good.asked
            wait_until(lambda: good.asked >= asked + 3)  # noqa: B023 - as above
        for _ in range(3):
            released.release()
    assert monitor.skipped["slow"] > monitor.skipped["good"]
    assert ("busy", "slow") in kinds(monitor)


def test_callbacks_are_told_and_may_raise_or_hang(gate: threading.Event):
    """What one of them does is its own matter: the others get every sample, and it is reported."""
    got: list[Sample] = []
    collector = Told(say=lambda: {"x": 1.0})

    def fail(_sample: Sample) -> None:
        raise ValueError("no room")

    def hang(_sample: Sample) -> None:
        gate.wait(PATIENCE_S)

    with PerformanceMonitor(0.05, [collector]) as monitor:
        monitor.subscribe(fail)
        monitor.subscribe(hang)
        leave = monitor.subscribe(got.append)
        wait_until(lambda: len(got) >= 3)
        assert got[0].values == {"told": {"x": 1.0}}
        leave()
        leave()
        seen, asked = len(got), collector.asked
        wait_until(lambda: collector.asked >= asked + 3)
        assert len(got) <= seen + 1
        wait_until(lambda: any(kind == "busy" for kind, _ in kinds(monitor)))
    found = {kind for kind, _ in kinds(monitor)}
    assert found == {"callback", "busy", "left behind"}


def test_the_last_sample_is_told_too(monkeypatch: pytest.MonkeyPatch):
    """Who shows samples sees the end before stop() returns."""
    monkeypatch.setattr("procbench.monitoring.monitor._LAST_AFTER_S", 0.0)  # as if some time had passed since the first
    got: list[Sample] = []
    monitor = PerformanceMonitor(60.0, [Told(say=lambda: {"x": 1.0})])
    monitor.subscribe(got.append)
    monitor.start()
    wait_until(lambda: len(got) == 1)
    monitor.stop()
    assert len(got) == 2


def test_a_monitor_is_used_once():
    """stop() may be called as often as one likes; nothing else works after it."""
    collector = Told()
    monitor = PerformanceMonitor(1.0, [collector])
    monitor.subscribe(print)
    monitor.stop()
    monitor.stop()
    assert collector.closed == 1
    for call in (monitor.start, monitor.sample, lambda: monitor.subscribe(print)):
        with pytest.raises(ClosedError):
            call()
    with PerformanceMonitor(1.0, [Told()]) as monitor:
        monitor.start()
        with pytest.raises(ClosedError, match="running"):
            monitor.sample()


@pytest.mark.parametrize(
    "arguments",
    [
        *({"interval_s": bad} for bad in (0, math.nan, True)),
        *({"history": bad} for bad in (0, 1.5)),
        {"collectors": [Told("a"), Told("a")]},
        {"collectors": [5]},
        {"collectors": [Told("a")], "parts": {"a": Told()}},
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any]):
    with pytest.raises(InvalidInputError):
        PerformanceMonitor(**arguments)


def test_plug_ins_are_asked_too_and_broken_ones_are_troubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One installed package has a collector, one that cannot be made, and one whose name is taken."""
    (tmp_path / "warm.py").write_text(
        "class Warm:\n    name = 'warm'\n    metrics = {}\n    def collect(self):\n        return {'x': 1.0}\n"
        "class Cpu(Warm):\n    name = 'cpu'\n"
    )
    info = tmp_path / "warm-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: warm\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[procbench.collectors]\na = warm:Warm\nb = warm:Nothing\nc = warm:Cpu\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monitor = PerformanceMonitor()
    assert monitor.sample().values["warm"] == {"x": 1.0}
    monitor.stop()
    assert kinds(monitor) == {("plug-in", "b"), ("plug-in", "cpu")}


def test_a_fork_samples_nothing_and_a_forgotten_monitor_ends_with_its_process():
    """A forked child has what was sampled and may stop; a process that never stops its monitor ends all the same."""
    code = """
        import os, time
        from procbench.monitoring.monitor import PerformanceMonitor
        monitor = PerformanceMonitor(0.01)
        monitor.start()
        while len(monitor.watched[0].history) < 3: time.sleep(0.01)
        import warnings; warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from 3.12 on
        pid = os.fork()
        if pid == 0:
            count = len(monitor.watched[0].history)
            monitor.stop()
            monitor.stop()
            time.sleep(0.05)
            os._exit(0 if count >= 3 and len(monitor.watched[0].history) == count and monitor.latest() else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert run_python(textwrap.dedent(code)) == "0"


# --- for Prometheus -----------------------------------------------------------------------------------------------------


def scrape(server: MetricsServer, accept: str) -> tuple[str, str]:
    from urllib.request import Request, urlopen

    with urlopen(Request(server.url, headers={"Accept": accept})) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_prometheus_reads_counters_gauges_labels_and_units():
    """In both formats names carry the unit, totals are totals, NaN is left out, and names are made fit."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
    from prometheus_client.parser import text_string_to_metric_families as plain

    clock = Clock()
    metrics = {
        "read": Metric("bytes", counter=True, help="Read\nhere"),
        "busy": Metric("share", label="a disk"),
        "took": Metric("ms"),
        "none": Metric(""),
        "count_total": Metric("things"),
        "odd name!": Metric("things"),
    }
    values = {"read": 300, 'busy[s"d\\a\n]': 0.5, "took": 1500, "none": math.nan, "count_total": 4, "odd name!": 5}
    monitor = PerformanceMonitor(1.0, [Told("my-disk", lambda: values, **metrics)], clock=clock)
    with MetricsServer(monitor) as server:
        monitor.sample()
        for accept, parse in (("application/openmetrics-text; version=1.0.0", openmetrics), ("text/plain", plain)):
            kind, text = scrape(server, accept)
            assert kind.startswith(accept.partition(";")[0])
            families = {family.name: family for family in parse(text)}
            samples = {sample.name: sample for family in families.values() for sample in family.samples}
            assert samples["procbench_my_disk_read_bytes_total"].value == 300
            assert samples["procbench_my_disk_busy_ratio"].labels == {"a_disk": 's"d\\a\n'}
            assert samples["procbench_my_disk_took_seconds"].value == 1.5
            assert samples["procbench_my_disk"].value == 4  # _total is for counters, _count for histograms
            assert samples["procbench_my_disk_odd_name"].value == 5
            assert samples["procbench_monitor_skipped_ticks_total"].labels == {"collector": "my-disk"}
            assert "procbench_my_disk_none" not in samples
            assert families["procbench_my_disk_busy_ratio"].type == "gauge"
    server.close()
    monitor.stop()


def test_this_machine_can_be_scraped_while_it_is_watched():
    """Every default collector has families; the server answers on this machine's own address only."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    with PerformanceMonitor(0.1, parts={"queue": _Queue()}) as monitor, MetricsServer(monitor) as server:
        wait_until(lambda: len(monitor.latest().values) == 9)
        _, text = scrape(server, "application/openmetrics-text")
        names = {family.name for family in text_string_to_metric_families(text)}
        assert {"procbench_memory_available_bytes", "procbench_processes", "procbench_queue_submitted"} <= names
        assert not [name for name in names if name.endswith(("_count", "_sum", "_bucket"))]  # as promtool has it
        assert server.url.startswith("http://127.0.0.1:")
        with pytest.raises(OSError, match="in use"):
            MetricsServer(monitor, server.port)


class _Queue:
    def statistics(self) -> Any:
        from dataclasses import make_dataclass

        from procbench.monitoring.pressure import LoadAverage

        return make_dataclass("Q", ["submitted", "load"])(7, LoadAverage(1.0, 2.0, 3.0, 4))


@pytest.mark.parametrize("port", [-1, 65_536, True, "80"])
def test_what_can_be_no_port_is_refused(port: Any):
    with pytest.raises(InvalidInputError, match="a port is"):
        MetricsServer(PerformanceMonitor(1.0, []), port)


def test_an_empty_monitor_has_an_empty_frame():
    monitor = PerformanceMonitor(1.0, [])
    assert tuple(monitor.frame().columns) == COLUMNS
    assert len(monitor.frame()) == len(monitor.summary()) == 0
    monitor.stop()
