"""What widgets do, without a page: what they send, what their buttons do, and what is left when they are closed."""

from __future__ import annotations

import math
import os
import sys
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from procbench.analysis.suggestions import HostChange, OptimizationSuggestion, SettingsChange
from procbench.errors import ClosedError, InvalidInputError
from procbench.monitoring.collect_processes import ProcessTable
from procbench.monitoring.collectors import Metric
from procbench.monitoring.monitor import PerformanceMonitor
from procbench.scheduling.settings import RunSettings
from procbench.views import in_notebook
from procbench.views.widgets import ExperimentExplorer, MonitorDashboard, RunPanel, SuggestionBoard
from procbench.views.widgets_chart import bars, dots, lines
from procbench.views.widgets_explore import Choice, compare, factors_of, metrics_of
from procbench.views.widgets_feed import Feed
from procbench.views.widgets_settings import SettingsForm
from procbench.views.widgets_tree import DescendantTree
from tests.waiting import Gate, long_sleep, processes_with, run_python, wait_until


def numbers(frame: dict) -> np.ndarray:
    return np.frombuffer(frame["data"], dtype=np.float32)


# --- the feed ----------------------------------------------------------------------------------------------------------------


def test_the_latest_value_wins_and_those_before_it_are_never_painted():
    held, begun, painted = threading.Event(), threading.Event(), []

    def paint(value: int) -> None:
        begun.set()
        assert held.wait(20)
        painted.append(value)

    feed: Feed[int] = Feed(paint, interval_s=0)
    feed.offer(0)
    assert begun.wait(20)
    for value in range(1, 100):
        feed.offer(value)
    held.set()
    assert feed.settle()
    feed.close()
    assert painted == [0, 99]


def test_values_that_come_within_an_interval_wait_for_its_end():
    """An interval that does not end in a test's time: the second painting waits for it, and the end of the feed brings it."""
    painted: list[int] = []
    feed: Feed[int] = Feed(painted.append, interval_s=3600)
    feed.offer(1)
    assert feed.settle()
    feed.offer(2)
    feed.offer(3)
    assert not feed.settle(timeout=0.05)
    assert painted == [1]
    feed.close()
    assert painted == [1, 3]


def test_a_painting_that_raises_is_kept_and_the_next_is_painted():
    painted = []

    def paint(value: int) -> None:
        painted.append(1 / value)

    feed: Feed[int] = Feed(paint, interval_s=0)
    feed.offer(0)
    assert feed.settle()
    assert isinstance(feed.error, ZeroDivisionError)
    feed.offer(4)
    assert feed.settle()
    feed.close()
    assert painted == [0.25]


def test_closing_paints_what_waits_ends_the_thread_and_refuses_more():
    painted: list[int] = []
    feed: Feed[int] = Feed(painted.append, interval_s=60)
    feed.offer(1)
    assert feed.settle()
    feed.offer(2)
    feed.close()
    feed.offer(3)
    feed.close()
    assert painted == [1, 2]


# --- what the page gets ------------------------------------------------------------------------------------------------------


def test_lines_are_sent_as_numbers_that_count_back_from_the_end():
    at = 1e7  # four months: float32 alone would round it to whole seconds
    frame = lines([at - 1.5, at], {"a": [1, math.nan]}, "share", (at - 60, at), marks=[(at - 0.25, "now")])
    assert frame["x"] == [-60, 0]
    assert numbers(frame)[:3].tolist() == [-1.5, 0, 1]
    assert math.isnan(numbers(frame)[3])
    assert frame["marks"] == [[-0.25, "now"]]


def test_bars_and_dots_hold_what_they_were_given():
    assert numbers(bars(["w"], [(0, 2, 0, 3)], (0, 5))).tolist() == [0, 2, 0, 3]
    frame = dots(["a", "b"], [(1, 2, 3), (-math.inf, 5, math.inf)], "s", limit=2)
    assert frame["x"][0] < 1
    assert frame["x"][1] > 5
    assert numbers(dots([], [], "")).size == 0


# --- the dashboard -----------------------------------------------------------------------------------------------------------


class Cpus:
    """Two CPUs, one of them as busy as it is told."""

    name = "cpu"
    metrics: ClassVar = {"busy": Metric("share"), "each_busy": Metric("share", label="cpu")}

    def __init__(self) -> None:
        self.share = 0.25

    def collect(self) -> dict[str, float]:
        return {"busy": self.share / 2, "each_busy[cpu0]": self.share, "each_busy[cpu1]": 0.0}


@pytest.fixture
def watched():
    clock = iter(range(10_000))
    cpus = Cpus()
    monitor = PerformanceMonitor(1.0, [cpus], clock=lambda: float(next(clock)))
    yield monitor, cpus
    monitor.stop()


def shown(dashboard: MonitorDashboard) -> list[float]:
    assert dashboard._feed.settle()
    assert dashboard._feed.error is None
    frame = dashboard._cpu.frame
    return numbers(frame)[2 * frame["count"] : 3 * frame["count"]].tolist()  # CPU 0's: after the times and that of all


def test_a_dashboard_shows_each_sample_and_what_came_before_it(watched):
    monitor, cpus = watched
    monitor.sample()
    dashboard = MonitorDashboard(monitor)
    assert shown(dashboard) == [0.25]
    assert dashboard._cpu.frame["names"] == ["all CPUs", "CPU 0", "CPU 1"]
    cpus.share = 1.0
    monitor.sample()
    wait_until(lambda: shown(dashboard) == [0.25, 1.0])
    dashboard.close()


def test_a_paused_dashboard_stands_still_while_the_monitor_goes_on(watched):
    monitor, _ = watched
    monitor.sample()
    dashboard = MonitorDashboard(monitor)
    dashboard.pause()
    monitor.sample()
    dashboard._repaint()
    assert shown(dashboard) == [0.25]
    dashboard.resume()
    assert shown(dashboard) == [0.25, 0.25]
    assert dashboard._pause.description == "Pause"
    dashboard.close()


def test_a_note_stands_on_the_chart_and_in_the_twin_as_text(watched):
    monitor, _ = watched
    monitor.sample()
    monitor.sample()
    dashboard = MonitorDashboard(monitor)
    dashboard._note.value = "<script>x</script>"
    dashboard._mark.click()
    assert shown(dashboard)
    assert dashboard._cpu.frame["marks"][0][1] == "<script>x</script>"
    assert "&lt;script&gt;" in dashboard.twin_html()
    assert "<script" not in dashboard.twin_html()
    assert 'alt="How busy' in dashboard.twin_html()
    dashboard._mark.click()
    assert "a note needs words" in dashboard._status.value
    dashboard.close()
    assert dashboard.closed


def test_the_twin_of_a_dashboard_that_nobody_closes_is_brought_up_to_date_with_the_first_sample(watched):
    class Twin:
        html = ""

        def update(self, data: dict[str, str], *, raw: bool) -> None:
            assert raw
            self.html = data["text/html"]

    monitor, _ = watched
    dashboard, twin = MonitorDashboard(monitor), Twin()
    dashboard._twins.append(twin)
    assert dashboard._feed.settle()
    assert twin.html == ""
    monitor.sample()
    wait_until(lambda: "What was sampled" in twin.html)
    dashboard.close()


def test_more_cpus_than_lines_can_be_told_apart_are_rows_of_a_heat_map():
    class Many:
        name = "cpu"
        metrics: ClassVar = {"busy": Metric("share"), "each_busy": Metric("share")}

        def collect(self) -> dict[str, float]:
            return {"busy": 0.5, **{f"each_busy[cpu{number}]": number / 64 for number in range(64)}}

    monitor = PerformanceMonitor(1.0, [Many()])
    monitor.sample()
    dashboard = MonitorDashboard(monitor)
    assert dashboard._feed.settle()
    assert dashboard._cpu.frame["kind"] == "heat"
    assert dashboard._cpu.frame["rows"][:3] == ["all CPUs", "CPU 0", "CPU 1"]
    dashboard.close()
    monitor.stop()


def test_a_dashboard_of_a_stopped_monitor_shows_what_it_kept_and_a_senseless_window_is_refused():
    with PerformanceMonitor(0.01) as monitor:
        wait_until(lambda: "cpu" in monitor.latest().values)
    dashboard = MonitorDashboard(monitor)
    assert dashboard._feed.settle()
    assert dashboard._cpu.frame["count"] > 0
    dashboard.close()
    with pytest.raises(InvalidInputError, match="window_s is 7"):
        MonitorDashboard(monitor, window_s=7)


def test_the_tree_names_children_and_their_children(tmp_path: Path):
    marker = long_sleep()
    panel = RunPanel([["sh", "-c", f"sleep {marker}; true"]])
    panel.start()
    wait_until(lambda: len(processes_with(marker)) == 2, "the shell and its sleep")
    rows, count = DescendantTree(os.getpid(), ProcessTable()).rows(50)
    mine = [(row.depth, row.command) for row in rows if marker in row.command]
    assert mine == [(0, f"sh -c sleep {marker}; true"), (1, f"sleep {marker}")]
    assert count == len(rows)
    panel.close()
    assert processes_with(marker) == []


# --- settings as controls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        RunSettings(),
        RunSettings(workers=3, timeout=2.5, capture=True, order="longest_first", io_class="idle", policy="batch"),
        RunSettings(pin=("0", "0"), nice=5, cpu_limit=0.5, halt="soon,fail=3", retries=2, memory_limit_bytes=1 << 30),
    ],
)
def test_controls_show_settings_and_give_the_same_back(settings: RunSettings):
    assert SettingsForm(settings).read() == settings
    form = SettingsForm(RunSettings(pin="core"))
    if isinstance(settings.pin, str):
        form.show(settings)
        assert form.read() == settings


def test_every_setting_has_a_control_with_a_name_and_a_bad_value_is_named():
    form = SettingsForm(RunSettings())
    assert list(form._controls) == list(RunSettings.describe())
    assert all(control.description for control in form._controls.values())
    form._controls["workers"].value = "-3"
    with pytest.raises(InvalidInputError, match="workers is -3"):
        form.read()
    form._controls["workers"].value = " "
    assert form.read() == RunSettings()


# --- the panel ---------------------------------------------------------------------------------------------------------------


def test_a_batch_runs_beside_the_cell_and_its_failures_are_shown_with_their_stderr_as_text():
    bad = ["sh", "-c", "printf '\\033[31m<b>why</b>' >&2; exit 3"]
    panel = RunPanel([["true"]] * 20 + [bad], RunSettings(workers=2, capture=True))
    panel._start.click()
    assert panel.wait(60)
    assert panel._feed.error is None
    assert len(panel.results) == len(panel.frame()) == 21
    assert numbers(panel._timeline.frame).size == 4 * 21
    for html in (panel._failures.value, panel.twin_html()):
        assert "<pre>&lt;b&gt;why&lt;/b&gt;</pre>" in html
        assert "<b>" not in html
        assert "status 3" in html
        assert "\x1b" not in html
    assert "21 of 21" in repr(panel)
    assert not panel._start.disabled
    panel._start.click()  # once more, with the same tasks
    assert panel.wait(60)
    assert len(panel.results) == 21
    panel.close()


def test_cancelling_ends_what_runs_with_all_that_it_started(tmp_path: Path):
    gate = Gate(tmp_path)
    panel = RunPanel([["sh", "-c", f"cat {gate.path}; true"]] * 10, RunSettings(workers=2))
    panel.start()
    gate.wait_for(2)
    with pytest.raises(InvalidInputError, match="the batch runs"):
        panel.start()
    panel._cancel.click()
    assert panel.wait(60)
    assert processes_with(str(gate.path)) == []
    assert "cancelled" in repr(panel)
    assert panel._cancel.disabled
    gate.open()
    panel.close()


def test_what_the_kernel_refuses_is_said_on_the_panel():
    panel = RunPanel([["true"]], RunSettings(pin=("4095",)))
    panel.start()
    assert panel.wait(60)
    assert "4095" in panel._status.value
    assert 'role="alert"' in panel._status.value
    panel._form._controls["workers"].value = "many"
    panel._start.click()
    assert "workers is &#x27;many&#x27;" in panel._status.value
    panel.close()


def test_closing_a_panel_whose_batch_runs_ends_it():
    marker = long_sleep()
    panel = RunPanel([["sleep", marker]])
    panel.start()
    wait_until(lambda: processes_with(marker))
    panel.close()
    panel.close()
    assert processes_with(marker) == []


# --- the explorer ------------------------------------------------------------------------------------------------------------


def ways(blocks: int = 8) -> pd.DataFrame:
    rows = [
        (block, way, size, (1.0 if way == "a" else 2.0) * size)
        for block in range(blocks)
        for way in "ab"
        for size in (1, 2)
    ]
    return pd.DataFrame(rows, columns=["block", "way", "size", "value"]).assign(warm_up=False)


def test_levels_are_compared_within_blocks_once_each_block_has_one_value_of_each():
    several = compare(ways(), Choice("way", "value", "a", {}, larger_is_better=False))
    assert [level.effect for level in several] == [None, None]
    a, b = compare(ways(), Choice("way", "value", "a", {"size": "2"}, larger_is_better=False))
    assert (a.median, b.median, a.values) == (2, 4, 8)
    assert b.effect is not None
    assert b.effect.ratio == pytest.approx(0.5)
    assert compare(ways(), Choice("way", "value", "a", {"size": "2"}, larger_is_better=True))[1].effect.ratio == 2


def test_warm_ups_and_what_is_no_number_are_left_out():
    frame = ways()
    frame.loc[0, "warm_up"] = True
    frame.loc[4, "value"] = math.nan
    a, _ = compare(frame, Choice("way", "value", "a", {"size": "1"}, larger_is_better=False))
    assert a.values == 6


def test_what_differs_in_every_row_tells_no_conditions_apart():
    frame = pd.DataFrame({"task": ["a", "b", "c"], "program": ["x", "x", "y"], "wall_s": [0.1, 0.2, 0.3]})
    assert factors_of(frame) == {"program": ["x", "y"]}
    assert metrics_of(frame) == ["wall_s"]


def test_an_explorer_finds_factors_and_metrics_and_shows_what_is_chosen():
    frame = ways()
    assert factors_of(frame) == {"way": ["a", "b"], "size": ["1", "2"]}
    assert metrics_of(frame) == ["value", "size"]
    explorer = ExperimentExplorer(frame)
    explorer.select(size="2", baseline="b")
    assert [level.median for level in explorer.levels] == [2, 4]
    assert explorer._chart.frame["limit"] == 4
    assert "value by way where size = 2" in explorer.twin_html()
    assert "<img alt=" in explorer.twin_html()
    explorer.select(factor="size")
    assert [level.level for level in explorer.levels] == ["1", "2"]
    with pytest.raises(InvalidInputError, match="baseline has no 'c'"):
        explorer.select(baseline="c")
    explorer.close()


def test_a_frame_that_is_not_tidy_is_refused():
    with pytest.raises(InvalidInputError, match="no column that can be a factor"):
        ExperimentExplorer(pd.DataFrame({"x": np.linspace(0, 1, 100)}))
    with pytest.raises(InvalidInputError, match="there is no metric 'speed'; there are: value, size"):
        ExperimentExplorer(ways(), metric="speed")


# --- the board ---------------------------------------------------------------------------------------------------------------


def more_workers(**changed: object) -> OptimizationSuggestion:
    change = SettingsChange({"workers": 4}, {"workers": 1})
    words = {"description": "1 worker & <8> commands.", "why": "They wait."}
    return OptimizationSuggestion(category="concurrency", priority="high", change=change, **words, **changed)


def test_prove_apply_undo():
    board = SuggestionBoard([more_workers()], [["sleep", "0.02"]] * 4, RunSettings(workers=1), budget_s=60)
    card = board._cards[0]
    card._prove.click()
    assert board.wait(120)
    assert board.suggestions[0].status == "proved", board
    assert board.suggestions[0].effect is not None
    card._apply.click()
    assert board.settings == RunSettings(workers=4)
    assert "workers: 1 → 4" in board._now.value
    card._apply.click()
    assert "applied already" in board._status.value
    card._undo.click()
    assert board.settings == RunSettings(workers=1)
    assert "&lt;8&gt;" in board.twin_html()
    assert "proved" in board.twin_html()
    board.close()


def test_a_proof_that_cannot_be_made_is_said_and_the_suggestion_stays_unmeasured():
    board = SuggestionBoard([more_workers()], [["false"]], RunSettings(workers=1))
    board.prove(0)
    assert board.wait(60)
    assert "do not succeed" in board._status.value
    assert board.suggestions[0].status == "unmeasured"
    board.close()
    nothing = SuggestionBoard([more_workers()], settings=RunSettings(workers=1))
    nothing._cards[0]._prove.click()
    assert "nothing to prove with" in nothing._status.value
    nothing.close()


def test_a_proof_that_was_stopped_ends_after_the_runs_that_are_under_way():
    work = [["sleep", "0.01"]]
    board = SuggestionBoard([more_workers()], work, RunSettings(workers=1), budget_s=3600)
    board.prove(0)
    board.stop(0)
    assert board.wait(120)
    assert board.suggestions[0].status in ("unmeasured", "inconclusive")
    board.close()


def test_a_change_of_the_machine_needs_its_box_ticked_and_is_put_back_at_the_end(tmp_path: Path):
    flag = tmp_path / "flag"
    look = [sys.executable, "-c", f"import os; print(os.path.exists({str(flag)!r}))"]
    change = HostChange(("touch", str(flag)), ("rm", str(flag)), tuple(look), "a file")
    one = OptimizationSuggestion(category="cpu", priority="low", description="", why="", change=change)
    board = SuggestionBoard([one], [["true"]])
    card = board._cards[0]
    card._apply.click()
    assert not flag.exists()
    assert "tick the box" in board._status.value
    board._host.value = True
    card._apply.click()
    assert flag.exists()
    card._undo.click()
    assert not flag.exists()
    card._apply.click()
    assert flag.exists()
    board.close()
    assert not flag.exists()


def test_settings_that_somebody_else_changed_are_not_undone_into_something_new():
    board = SuggestionBoard([more_workers()], settings=RunSettings(workers=1))
    board.apply(0)
    board.settings = RunSettings(workers=9)
    board._cards[0]._undo.click()
    assert "cannot be undone" in board._status.value
    assert board.settings == RunSettings(workers=9)
    board.close()


def test_a_monitor_that_is_shown_again_shows_the_same_dashboard(monkeypatch: pytest.MonkeyPatch):
    """Each has a thread, and nobody but the page has it to be closed."""
    shown: list[MonitorDashboard] = []

    def show(dashboard: MonitorDashboard) -> None:
        shown.append(dashboard)

    monkeypatch.setattr(MonitorDashboard, "_ipython_display_", show)
    with PerformanceMonitor(interval_s=60) as monitor:
        for _ in range(3):
            in_notebook._widget("MonitorDashboard")(monitor)
    assert shown[0] is shown[1] is shown[2]
    shown[0].close()


def test_what_keeps_a_widget_from_being_painted_is_said_below_it(monkeypatch: pytest.MonkeyPatch):
    """Otherwise the page shows old values, and nobody knows."""
    board = SuggestionBoard([more_workers()], settings=RunSettings(workers=1))

    def fails(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(board._cards[0], "paint", fails)
    board.apply(0)
    assert board._feed.settle()
    assert "could not be brought up to date: OSError" in board._status.value
    board.close()


BOARD_LEFT = """
import os, signal, sys
from procbench import RunSettings
from procbench.analysis.suggestions import HostChange, OptimizationSuggestion
from procbench.errors import InvalidInputError
from procbench.views.widgets import SuggestionBoard

def one(path):
    change = HostChange(("touch", path), ("rm", path), ("sh", "-c", 'ls "$0" 2>&1; true', path), path)
    return OptimizationSuggestion(
        rule="r", category="cpu", priority="low", description="d", why="w", change=change
    )

had = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
board = SuggestionBoard([one(sys.argv[1]), one(sys.argv[2])], [["true"]])
board._host.value = True
board.apply(0)
board.apply(1)
assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == had    # nobody's handler was taken
try:
    board.prove(1)
except InvalidInputError as error:
    assert "undo that first" in str(error)
else:
    raise AssertionError("an applied change was to be proved")
board.undo(0)                                                               # in the order of applying
assert not os.path.exists(sys.argv[1]) and os.path.exists(sys.argv[2])
assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == had
print("ends with one applied")
"""


def test_what_a_board_changed_of_the_machine_takes_no_signals_and_ends_with_the_process(tmp_path):
    """Changes may be undone in any order, and a script that ends without closing the board leaves none behind."""
    assert run_python(BOARD_LEFT, tmp_path / "a", tmp_path / "b") == "ends with one applied"
    assert list(tmp_path.iterdir()) == []


def test_a_closed_board_begins_no_proof():
    """Nobody would take it, and whoever waited for it would wait for ever."""
    board = SuggestionBoard([more_workers()], [["true"]], RunSettings(workers=1))
    board.close()
    with pytest.raises(ClosedError, match="the board was closed"):
        board.prove(0)
    assert not board._running
