"""The history experiment on real records: those that come along, and folders that are damaged, foreign or missing."""

from __future__ import annotations

import io
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from procbench.errors import InvalidInputError, RecordError
from procbench.experiments import history
from procbench.experiments.history_outcome import HistoryResult
from procbench.lab import shipped
from procbench.lab.shipped import is_shipped, shipped_history
from procbench.lab.store import QUARANTINE, Store, read_run
from procbench.views import plots_history, tables_history
from procbench.views.headline import Headline
from procbench.views.history import load_history

HERE = Path(__file__).parents[1]
RECORDED = HERE / "data" / "recorded"
OF_A_MACHINE = re.compile(r"/(home|root|tmp|work|mnt|srv|opt|var|Users)\b")


@pytest.fixture(scope="module")
def result() -> HistoryResult:
    return history.run()


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return what would show that something was written."""
    found = {path: path.stat() for path in sorted(folder.rglob("*"))}
    return {str(path.relative_to(folder)): (one.st_size, one.st_mtime_ns, one.st_mode) for path, one in found.items()}


# --- what comes along --------------------------------------------------------------------------------------------


def test_what_comes_along_is_whole_and_of_one_host(result):
    assert shipped_history() == RECORDED == result.folder
    assert result.passed_over == ()
    assert len(result.runs) == len(list(RECORDED.iterdir())) >= 40
    assert {run.host_id for run in result.runs} == {"0" * 12}
    assert len({run.git_revision for run in result.runs}) >= 15


def test_what_comes_along_names_no_machine_and_no_path():
    """Neither values, nor columns, nor host facts, nor parameters."""
    for path in RECORDED.iterdir():
        run = read_run(path)
        words = [str(run.host), str(run.parameters), str([effect.to_dict() for effect in run.effects])]
        for name in run.trials.select_dtypes(exclude="number"):
            words += [name, *map(str, run.trials[name].unique())]
        assert not [word for word in words if OF_A_MACHINE.search(word)]
        assert run.host["hostname"] == "a shared machine"
        assert "-" not in run.host["kernel"]
        name = socket.gethostname()
        assert len(name) < 4 or not [word for word in words if name in word]


def test_what_comes_along_shows_when_a_profiler_watched(result):
    """Seven runs of the pool were measured under one: slower from the first of them on, faster after the last."""
    [line] = [line for line in result.lines if line.condition == "pool, 64 KiB, 1 thread, acquire"]
    slower, faster = line.changes
    assert (slower.number, slower.pace, slower.facts) == (14, "slower", ("python tracing: False -> True",))
    assert (faster.number, faster.pace, faster.facts) == (21, "faster", ("python tracing: True -> False",))
    assert line in result.jumped()
    assert line.trend.direction == "stable"


def test_the_invariants_hold_and_say_so_when_they_do_not(result):
    assert [name for name, holds in result.invariants().items() if not holds] == []
    line = result.jumped()[0]
    turned = replace(line, points=line.points[::-1])
    assert not replace(result, lines=[turned]).invariants()["runs stand in the order of recording"]
    elsewhere = replace(line, host_id="f" * 12)
    assert not replace(result, lines=[elsewhere]).invariants()["no line mixes hosts"]
    outside = replace(line, points=(replace(line.points[0], value=1e9, high=1.0), *line.points[1:]))
    assert not replace(result, lines=[outside]).invariants()["every value lies in its interval"]
    late = replace(line, changes=(replace(line.changes[0], number=0),))
    assert not replace(result, lines=[late]).invariants()["every jump is one between two runs"]


def test_the_frame_has_a_row_for_each_condition_of_each_run(result):
    table = result.frame
    assert len(table) == sum(len(line.points) for line in result.lines)
    assert set(table["experiment"]) == {"pools", "stealing"}
    assert (table["low"] <= table["value"]).all()
    assert table.groupby(["experiment", "condition", "host_id"])["number"].min().eq(1).all()


def test_words_figures_and_tables(result):
    """The largest jump comes first everywhere; words hold no nan."""
    headline = Headline(**result.headline())
    assert f"{len(result.runs)} recorded runs of 2 experiments" in headline.sentence
    assert result.jumped()[0].condition in headline.sentence
    for words in (headline.sentence, headline.picture_alt, result.details()):
        assert words
        assert "nan" not in words
    figure = plots_history.over_runs(result.shown(3))
    assert len(figure.axes) == 3
    figure.savefig(io.BytesIO(), format="png")
    jumps = tables_history.jumps(result.jumped())
    assert len(jumps) == sum(len(line.changes) for line in result.lines)
    assert jumps["what else changed"].str.contains("python tracing: False -> True").any()
    directions = tables_history.directions(result.lines)
    assert len(directions) == len(result.lines)
    assert directions["jumps"].sum() == len(jumps)


# --- other folders -----------------------------------------------------------------------------------------------


def test_one_experiment_can_be_asked_for():
    assert {line.experiment for line in history.run(experiment="stealing").lines} == {"stealing"}


def test_a_folder_without_runs_is_said(tmp_path):
    found = history.run(folder=tmp_path)
    assert (found.lines, found.jumped(), len(found.frame)) == ([], [], 0)
    assert "No run with values" in found.headline()["sentence"]
    assert tables_history.jumps([]).empty
    assert tables_history.directions([]).empty
    assert all(found.invariants().values())


@pytest.mark.parametrize("name", ["none", "file"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="no folder of recorded runs"):
        history.run(folder=tmp_path / name)


def test_a_procbench_without_its_history_asks_for_a_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "shipped_folders", lambda: (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(RecordError, match="name a folder"):
        history.run()


def test_recorded_names_cannot_move_a_cursor(result):
    line = replace(result.jumped()[0], condition="\x1b[2Jbad\u202e", experiment="\x1b]0;x\x07")
    bad = replace(result, lines=[line])
    for words in (bad.headline()["sentence"], bad.alt(1), bad.details()):
        assert "\x1b" not in words
        assert "\u202e" not in words


# --- nothing is written --------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A copy of what comes along with one flipped bit."""
    copy = tmp_path / "recorded"
    shutil.copytree(RECORDED, copy)
    first = min(copy.iterdir())
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    return copy


def test_looking_at_a_history_changes_nothing_in_it(damaged):
    """R04, R06: the flipped bit is named, the file stays, and all else is shown."""
    before = state(damaged)
    found = history.run(folder=damaged)
    assert state(damaged) == before
    [(path, reason)] = found.passed_over
    assert path == min(damaged.iterdir())
    assert "hash in its name" in reason
    assert "stays where it is" in reason
    assert path.name in found.details().replace("\n    ", "")
    assert len(found.runs) == len(list(RECORDED.iterdir())) - 1


def test_what_comes_along_is_not_even_moved_when_damaged(damaged, monkeypatch):
    """R06: the command line moves damaged files of a person's own history, and never of this one."""
    monkeypatch.setattr(shipped, "shipped_folders", lambda: (damaged,))
    monkeypatch.chdir(damaged.parent)
    assert is_shipped(Path("recorded/../recorded"))
    before = state(damaged)
    _, loaded = load_history(Path("recorded"))
    assert len(loaded.quarantined) == 1
    assert state(damaged) == before
    monkeypatch.undo()
    _, loaded = load_history(damaged)
    assert len(list((damaged / QUARANTINE).iterdir())) == 1


def test_a_folder_of_ones_own_is_read_as_before(damaged):
    """R03, R04: loading moves what is damaged, unless told not to."""
    assert "stays" in Store(damaged).load(move_damaged=False).quarantined[0][1]
    assert not (damaged / QUARANTINE).exists()
    assert "moved to" in Store(damaged).load().quarantined[0][1]
