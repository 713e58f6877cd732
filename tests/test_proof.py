"""Proofs with real batches, kept small: what a change does is measured, recorded, and never promised without an interval."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks.suggestions import cases, nothing
from procbench.analysis.statistics import Effect
from procbench.analysis.suggestions import HostChange, OptimizationSuggestion, SettingsChange
from procbench.errors import HostChangeError, InvalidInputError, WorkloadError
from procbench.io.signals import ENDING, EndedBySignal, ending_by_exception
from procbench.lab import host_change
from procbench.lab.batches import TaskBatch
from procbench.lab.host_change import changed_host
from procbench.lab.proof import prove
from procbench.lab.store import Store
from procbench.lab.verdicts import is_shifted, status_of
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import ProcessTask

SLEEPS = [["sleep", "0.02"]] * 4
PYTHON = (sys.executable, "-I", "-S", "-c")


def suggestion(change: SettingsChange | HostChange, **fields: Any) -> OptimizationSuggestion:
    usual: dict[str, Any] = {"category": "cpu", "priority": "low", "description": "d", "why": "w"}
    return OptimizationSuggestion(**{**usual, **fields}, change=change)


def more_workers(number: int = 4) -> OptimizationSuggestion:
    return suggestion(SettingsChange({"workers": number}, {"workers": 1}))


def test_commands_that_wait_are_proved_to_be_quicker_on_more_workers(tmp_path: Path):
    """Four sleeps on four workers instead of one: the effect is there, with its side effects, and can be read back."""
    proved = prove(more_workers(), SLEEPS, RunSettings(workers=1), budget_s=30, data_dir=tmp_path)
    assert proved.status == "proved"
    assert proved.effect is not None
    assert proved.effect.low > 1
    assert "latency" in proved.side_effects
    assert proved.evidence is not None
    (run,) = Store(tmp_path).load("proof").runs
    assert str(run.path) == proved.evidence
    assert run.effects[0] == proved.effect
    assert {"cpu_s", "memory_bytes", "latency_s"} <= set(run.trials.columns)
    assert OptimizationSuggestion.from_dict(run.parameters["suggestion"]).status == "proved"


def test_what_makes_it_worse_is_harmful():
    change = SettingsChange({"workers": 1}, {"workers": 4})
    assert prove(suggestion(change), SLEEPS, RunSettings(workers=4), budget_s=30).status == "harmful"


def test_a_change_of_nothing_is_not_proved():
    settings = RunSettings(workers=2)
    proved = prove(nothing(1, settings), SLEEPS, settings, budget_s=2)
    assert proved.status in {"no gain", "inconclusive"}


def test_a_budget_too_small_says_so_and_what_would_do():
    proved = prove(more_workers(), SLEEPS, RunSettings(workers=1), budget_s=0.1)
    assert proved.status == "inconclusive"
    assert proved.effect is None
    assert "too few for 6 blocks; about" in proved.note


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["false"], "1 of 1 commands do not succeed.*status 1"),
        (["/no/such/program"], "cannot start"),
        ([*PYTHON, "import os; print(os.getpid())"], "something else when they run again"),
    ],
)
def test_a_batch_that_fails_or_does_something_else_each_time_is_refused(argv: list[str], said: str):
    with pytest.raises(WorkloadError, match=said):
        prove(more_workers(), [argv], RunSettings(workers=1), budget_s=5)


def test_a_batch_that_fails_at_a_later_run_is_refused(tmp_path: Path):
    """It succeeds as often as it is looked at first, and fails in a measured block."""
    code = "import sys; open(sys.argv[1], 'a').write('x'); sys.exit(len(open(sys.argv[1]).read()) > 5)"
    batch = [[*PYTHON, code, str(tmp_path / "n")]]
    with pytest.raises(WorkloadError, match=r"status 1.*had 0 before"):
        prove(suggestion(SettingsChange({"workers": 2}, {"workers": 1})), batch, RunSettings(workers=1), budget_s=20)


def test_a_change_with_which_commands_fail_is_harmful():
    batch = TaskBatch.from_template([*PYTHON, "import sys; sys.exit(len(sys.argv) > 2)"], ["a", "b"])
    change = SettingsChange({"args_per_task": 2}, {"args_per_task": 1})
    proved = prove(suggestion(change), batch, RunSettings(), budget_s=20)
    assert proved.status == "harmful"
    assert "with the change 1 of 1 commands do not succeed" in proved.note


def test_numbers_and_changes_that_make_no_sense_are_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="budget_s"):
        prove(more_workers(), SLEEPS, RunSettings(workers=1), budget_s=float("nan"))
    with pytest.raises(InvalidInputError, match="workers is 3"):
        prove(more_workers(), SLEEPS, RunSettings(workers=3), budget_s=1)
    with pytest.raises(InvalidInputError, match="allow_host_changes=True"):
        prove(suggestion(file_change(tmp_path / "state")), SLEEPS, RunSettings(), budget_s=1)
    with pytest.raises(InvalidInputError, match="not both"):
        TaskBatch()
    task = ProcessTask(["true"])
    with pytest.raises(InvalidInputError, match="an id each"):
        TaskBatch.of([task, task])


# --- what a proof rests on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (1.10, 1.30, "proved"),
        (1.01, 1.30, "proved"),  # the interval knows the noise
        (1.01, 1.06, "inconclusive"),  # it may be less than is worth a word
        (1.01, 1.04, "no gain"),
        (0.97, 1.04, "no gain"),
        (0.90, 1.20, "inconclusive"),
        (0.60, 0.90, "harmful"),
        (0.0, float("inf"), "inconclusive"),  # too few blocks for an interval
    ],
)
def test_what_an_interval_says_of_time(low: float, high: float, status: str):
    ratio = (low * high) ** 0.5 if low else 2.0
    effect = Effect(ratio, low, high, 0.99, 9)
    assert status_of(effect) == status
    assert status_of(effect, shifted=True) == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "status"), [(0.98, 1.05, "proved"), (0.80, 1.00, "inconclusive"), (0.60, 0.80, "harmful")]
)
def test_a_gain_of_memory_counts_at_no_loss_of_time(low: float, high: float, status: str):
    saved = Effect(8, 7.5, 8.5, 0.99, 9)
    took = Effect((low * high) ** 0.5, low, high, 0.95, 9, noise_floor=0.01)
    assert status_of(saved, took) == status
    none = dataclasses.replace(saved, ratio=1.0, low=0.99, high=1.01)
    assert status_of(none, took) == ("harmful" if status == "harmful" else "no gain")


def test_a_batch_that_differs_from_itself_is_found_out():
    same = [1.0, 1.1, 0.9, 1.0, 1.2, 0.95, 1.05, 1.0]
    assert not is_shifted(same, same[::-1])
    assert is_shifted(same, [2 * one for one in same])
    assert not is_shifted(same[:6], [2 * one for one in same[:6]]), "six blocks know no interval of 99 %"


def test_a_template_gives_each_command_its_arguments_and_expectations_go_to_who_has_none():
    batch = TaskBatch.from_template(["cp", "{}", "there"], ["a", "b", "c"])
    assert [list(task.argv) for task in batch.tasks_for(2)] == [["cp", "a", "b", "there"], ["cp", "c", "there"]]
    tasks = [ProcessTask(["true"], id="a"), ProcessTask(["true"], id="b", expected_s=7)]
    assert [one.expected_s for one in TaskBatch.of(tasks).tasks_for(1, {"a": 3.0, "b": 4.0})] == [3.0, 7]


def test_the_bad_batches_are_found_out():
    """Those of the eight that other load on the machine does not hide; the benchmark proves all of them."""
    for case in cases(0.5):
        if case.name in {"tiny tasks", "small pipes", "one CPU"}:
            assert case.rule in [one.rule for one in case.analyzed()[:2]], case.name


# --- changes of the host --------------------------------------------------------------------------------------------


def file_change(path: Path) -> HostChange:
    path.write_text("old")
    write = [*PYTHON, "import sys; open(sys.argv[1], 'w').write(sys.argv[2])", str(path)]
    return HostChange((*write, "new"), (*write, "old"), ("cat", str(path)), "a file: old → new")


def test_a_change_of_the_host_is_there_for_its_runs_alone(tmp_path: Path):
    """The batch sees the new state where it should, and the old one is back afterwards."""
    state, seen = tmp_path / "state", tmp_path / "seen"
    batch = [["sh", "-c", f"cat {state} >> {seen}; echo >> {seen}"]]
    said = prove(suggestion(file_change(state)), batch, RunSettings(), budget_s=10, allow_host_changes=True)
    assert said.status in {"no gain", "inconclusive", "harmful", "proved"}
    assert state.read_text() == "old"
    lines = seen.read_text().split()
    assert lines[:3] == ["old", "new", "old"]
    assert lines.count("new") > 3


def test_ctrl_c_while_the_host_is_changed_restores_it_first(tmp_path: Path):
    state = tmp_path / "state"
    change = file_change(state)
    with pytest.raises(KeyboardInterrupt), changed_host(change):
        signal.raise_signal(signal.SIGINT if state.read_text() == "new" else signal.SIGTERM)
    assert state.read_text() == "old"


def shell_change(path: Path, *, apply: str = ":", undo: str = ":") -> HostChange:
    """A change of a file that costs little, and does something else besides."""
    path.write_text("old")
    write = ("sh", "-c", 'printf "$2" > "$1"; eval "$3"', "sh", str(path))
    return HostChange((*write, "new", apply), (*write, "old", undo), ("cat", str(path)), "a file: old → new")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_line_leaves_the_host_as_it_was(tmp_path: Path, number: signal.Signals):
    """Ctrl-C and SIGTERM at each line of the code that changes and restores, one after the other, until it runs through."""
    state, ended = tmp_path / "state", 0
    change = shell_change(state)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, *ENDING)}
    for place in range(1, 500):
        left = place

        def at_each_line(frame: Any, event: str, _: object) -> Any:
            nonlocal left
            if frame.f_code.co_filename != host_change.__file__:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    signal.raise_signal(number)
            return at_each_line

        with ending_by_exception():
            try:
                sys.settrace(at_each_line)
                with changed_host(change):
                    assert state.read_text() == "new"
            except (KeyboardInterrupt, EndedBySignal):
                ended += 1
            finally:
                sys.settrace(None)
        assert state.read_text() == "old", place
        assert {one: signal.getsignal(one) for one in handlers} == handlers, place
        if left > 0:
            break
    else:
        pytest.fail("it never ran through")
    assert ended > 20


def test_sigterm_while_the_change_is_made_or_undone_restores_it(tmp_path: Path):
    """The commands that change and restore send the signal themselves, and go on; nobody else catches it."""
    kill = f"kill -TERM {os.getpid()}"
    for change in (shell_change(tmp_path / "a", apply=kill), shell_change(tmp_path / "b", undo=kill)):
        with pytest.raises(EndedBySignal) as ended, changed_host(change):
            pass
        assert ended.value.code == 143
        assert Path(change.check_argv[1]).read_text() == "old"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_does_not_hide_that_the_host_could_not_be_restored(tmp_path: Path):
    change = shell_change(tmp_path / "state", undo=f"kill -TERM {os.getpid()}; exit 3")
    with pytest.raises(HostChangeError, match="run it by hand"), changed_host(change):
        pass


def test_a_handler_of_ones_own_is_asked_and_an_ignored_signal_stays_so(tmp_path: Path):
    heard: list[int] = []
    change = shell_change(tmp_path / "state")
    before = [
        signal.signal(signal.SIGTERM, lambda number, _: heard.append(number)),
        signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ]
    try:
        with changed_host(change):
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
                signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])
    assert heard == [signal.SIGTERM] * 2
    assert (tmp_path / "state").read_text() == "old"


def test_ctrl_c_while_the_host_is_restored_waits_for_that(tmp_path: Path):
    """The command that undoes the change interrupts this process itself, and goes on to its end."""
    state = tmp_path / "state"
    change = file_change(state)
    code = f"import os, sys; os.kill({os.getpid()}, 2); open(sys.argv[1], 'w').write('old')"
    with (
        pytest.raises(KeyboardInterrupt),
        changed_host(dataclasses.replace(change, undo_argv=(*PYTHON, code, str(state)))),
    ):
        pass
    assert state.read_text() == "old"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_host_that_cannot_be_restored_says_what_to_run(tmp_path: Path):
    change = file_change(tmp_path / "state")
    with (
        pytest.raises(HostChangeError, match="run it by hand: false"),
        changed_host(dataclasses.replace(change, undo_argv=("false",))),
    ):
        pass
    with (
        pytest.raises(HostChangeError, match="says b'new' and not b'old'"),
        changed_host(dataclasses.replace(file_change(tmp_path / "state"), undo_argv=("true",))),
    ):
        pass
    with (
        pytest.raises(HostChangeError, match="could not be run"),
        changed_host(dataclasses.replace(change, check_argv=("/no/such/program",))),
    ):
        pytest.fail("it was changed without knowing what was there")


def test_another_thread_may_change_the_host_too(tmp_path: Path):
    change, said = file_change(tmp_path / "state"), []

    def run() -> None:
        with changed_host(change):
            said.append((tmp_path / "state").read_text())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [*said, (tmp_path / "state").read_text()] == ["new", "old"]
