"""A person's own commands: what is run, what is claimed of it, and what is refused; with real commands throughout."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from procbench.errors import InvalidInputError
from procbench.experiments import your_commands
from procbench.experiments.your_commands_batch import matching_files, own_commands
from procbench.experiments.your_commands_outcome import YourCommandsResult
from procbench.lab.advice import TOGETHER
from procbench.lab.store import Store
from procbench.scheduling.settings import RunSettings
from procbench.views import plots_suggestions, plots_your_commands, tables_your_commands
from procbench.views.headline import Headline, show_figure
from procbench.views.parameters import check_paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands that wait, one after the other: no load of the machine hides that more workers help."""
    home = tmp_path_factory.mktemp("own")
    (home / "jobs.txt").write_text("# waiting\n" + "sleep 0.06\n" * 6)
    return home


@pytest.fixture(scope="module")
def result(folder: Path) -> YourCommandsResult:
    return your_commands.run(
        workload=folder / "jobs.txt", settings="workers=1", budget_s=30, data_dir=folder / "data", seed=1
    )


def broken(result: YourCommandsResult) -> list[str]:
    return [name for name, holds in result.invariants().items() if not holds]


def test_more_workers_for_commands_that_wait_are_proved_and_kept(result: YourCommandsResult):
    """The whole way: seen, suggested, proved with an interval, applied, and ready to be copied."""
    assert broken(result) == []
    assert result.before == RunSettings(workers=1)
    assert result.after.worker_count > 1
    proved = result.proved[0]
    assert proved.effect is not None
    assert proved.effect.low > 1
    assert proved.evidence is not None
    assert Path(proved.evidence).is_file()
    kept = result.after.worker_count
    assert f"workers={kept}" in result.how_to_keep()
    said = shlex.split(result.how_to_keep().splitlines()[1])
    assert RunSettings().changed_by_words([said[said.index("--set") + 1]]).workers == kept
    assert "Proved to help here: workers: 1 → " in result.headline()["sentence"]
    Headline(**result.headline())


def test_the_run_and_its_proofs_are_recorded(result: YourCommandsResult, folder: Path):
    runs = Store(folder / "data").load("your_commands").runs
    assert [len(run.trials) for run in runs] == [6]
    assert set(runs[0].trials["condition"]) == {"sleep"}
    measured = [one for one in result.suggestions if one.effect is not None]
    assert len(Store(folder / "data").load("proof").runs) == len(measured)


def test_time_is_told_apart_by_program(result: YourCommandsResult):
    """Commands that sleep wait for nearly all of their time, and nothing of it is lost."""
    (row,) = result.programs().to_dict("records")
    assert (row["program"], row["commands"]) == ("sleep", 6)
    assert row["share"] == pytest.approx(1)
    assert row["user_s"] + row["system_s"] + row["waiting_s"] == pytest.approx(row["total_s"])
    assert row["waiting_s"] > 0.5 * row["total_s"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda one: {"after": one.before}, "the settings to keep hold what was proved and nothing else"),
        (lambda one: {"first": replace(one.first, results=one.first.results[:1] * 6)}, "every command ran once"),
        (
            lambda one: {
                "suggestions": (
                    replace(one.suggestions[0], effect=replace(one.suggestions[0].effect, low=0.9)),
                    *one.suggestions[1:],
                )
            },
            "what counts as proved has an interval beyond 1",
        ),
    ],
)
def test_an_invariant_that_is_broken_says_so(result: YourCommandsResult, change, name: str):
    assert name in broken(replace(result, **change(result)))


def test_many_programs_are_put_together(result: YourCommandsResult):
    """The programs with the least time are one row, and the rows still are all of the time."""
    renamed = [
        replace(one, task=replace(one.task, argv=(f"program{number}",)))
        for number, one in enumerate(result.first.results * 2)
    ]
    many = replace(result, first=replace(result.first, results=tuple(renamed)))
    table = many.programs()
    assert len(table) == 9
    assert table["program"].iloc[-1] == "others"
    assert table["commands"].sum() == 12
    assert table["share"].sum() == pytest.approx(1)


def test_figures_and_tables_show_what_was_found(result: YourCommandsResult):
    effects = plots_suggestions.effects(result.effects())
    assert [label.get_text() for label in effects.get_yticklabels()] == list(result.effects()["change"])[::-1]
    programs = plots_your_commands.programs(result.programs())
    assert [label.get_text() for label in programs.get_yticklabels()] == ["sleep"]
    for axes in (effects, programs, plots_your_commands.timeline(result.frame)):
        assert show_figure(axes.figure.figure, "words").png
    assert list(tables_your_commands.kept(result.kept()).index) == ["workers"]
    assert "proved" in set(tables_your_commands.tried(result.suggestions)["status"])
    nothing = replace(result, after=result.before, suggestions=())
    assert broken(nothing) == []
    assert "keep them" in nothing.headline()["sentence"]
    assert nothing.how_to_keep() == "Keep the settings as they are."
    assert list(tables_your_commands.kept(nothing.kept())["keep"]) == ["as they are"]
    assert list(tables_your_commands.tried(()).index) == ["nothing was suggested"]
    assert show_figure(plots_suggestions.effects(nothing.effects()).figure, "words").png


def test_secrets_of_commands_are_not_recorded(tmp_path: Path):
    (tmp_path / "jobs.txt").write_text("sh -c 'sleep 0.01' x --password=hunter2\n" * 4)
    given = {"settings": "workers=1", "budget_s": 0.1, "data_dir": tmp_path / "data"}
    your_commands.run(workload=tmp_path / "jobs.txt", **given)
    for number in range(2):
        (tmp_path / f"f{number}").touch()
    found = your_commands.run(files=str(tmp_path / "f*"), command="true --password=hunter2 {}", **given)
    assert "hunter2" not in found.details()
    written = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert len(written) >= 2
    assert not [path for path in written if b"hunter2" in path.read_bytes()]


def test_nobody_is_told_to_keep_settings_that_were_not_measured(tmp_path: Path):
    """A budget too small for one proof: what was not measured is said, and what to do."""
    (tmp_path / "jobs.txt").write_text("sleep 0.06\n" * 6)
    found = your_commands.run(workload=tmp_path / "jobs.txt", settings="workers=1", budget_s=0.5)
    said = found.headline()["sentence"]
    assert "with workers=1. Nothing is proved yet: workers: 1 → " in said
    assert "was not measured" in said
    assert "Raise budget_s." in said
    assert "keep the settings" not in said


def test_a_long_list_is_measured_with_as_many_as_fit(tmp_path: Path):
    (tmp_path / "jobs.txt").write_text("sleep 0.02\n" * 60)
    found = your_commands.run(workload=tmp_path / "jobs.txt", settings="workers=1", budget_s=8)
    assert len(found.first.results) == 60
    assert any("of 60 commands, spread evenly" in note for note in found.notes)
    assert found.suggestions[0].effect is not None


def test_commands_that_fail_prove_nothing_and_are_named(tmp_path: Path):
    (tmp_path / "jobs.txt").write_text("true\nsh -c 'exit 3'\n")
    found = your_commands.run(workload=tmp_path / "jobs.txt", settings="workers=1", budget_s=5)
    assert broken(found) == []
    assert found.proved == []
    assert "1 of 2 commands do not succeed" in found.details()


def test_what_does_something_else_each_time_is_not_proved(tmp_path: Path):
    """Its output differs from run to run: the notes say so, and the rest of the result stands."""
    (tmp_path / "jobs.txt").write_text("sh -c 'sleep 0.05; echo $$'\n" * 4)
    found = your_commands.run(workload=tmp_path / "jobs.txt", settings="workers=1", budget_s=10)
    assert broken(found) == []
    assert found.proved == []
    assert "output differs" in " ".join(found.notes)


def test_several_proved_changes_are_measured_together(result: YourCommandsResult):
    """What stands for all of them is no change of its own: invariants hold with it."""
    whole = replace(result.proved[0], rule=TOGETHER)
    with_it = replace(result, suggestions=(*result.suggestions, whole))
    assert broken(with_it) == []
    assert whole not in with_it.proved


def test_a_pattern_and_a_command_make_a_command_for_each_file(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name in ("a b.csv", "deep/c.csv", "d.txt", ".hidden.csv"):
        (tmp_path / name).touch()
    pattern = str(tmp_path / "**" / "*.csv")
    found = matching_files(pattern)
    assert [Path(name).name for name in found] == ["a b.csv", "c.csv"]
    own = own_commands(None, pattern, "wc -l", tmp_path, seed=0)
    assert [list(task.argv) for task in own.batch.tasks_for()] == [["wc", "-l", name] for name in found]
    inside = own_commands(None, pattern, "dd if={} of=/dev/null", tmp_path, seed=0)
    assert [task.argv[1] for task in inside.batch.tasks_for()] == [f"if={name}" for name in found]


def test_some_of_many_are_spread_over_all_of_them(tmp_path: Path):
    (tmp_path / "jobs.txt").write_text("".join(f"echo {number}\n" for number in range(10)))
    own = own_commands(tmp_path / "jobs.txt", "", "", tmp_path, seed=0)
    some = own.spread(3)
    assert [task.argv[1] for task in some.batch.tasks] == ["0", "3", "6"]
    assert "3 of 10" in some.notes[-1]
    assert own.spread(0) is own.spread(10) is own


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"workload": "jobs.txt", "files": "*", "command": "cat"}, "not both"),
        ({"files": "/etc/pass*"}, "there is no command"),
        ({"command": "cat"}, "there is no files"),
        ({"files": "/nowhere/*.csv", "command": "cat"}, "no file matches '/nowhere/"),
        ({"files": "/etc/pass*", "command": "nonsense-program"}, "no program 'nonsense-program'"),
        ({"files": "/etc/pass*", "command": "cat 'open"}, "cannot be read"),
        ({"settings": "workers"}, "sets nothing"),
        ({"settings": "wrkers=1"}, "there is no setting wrkers"),
        ({"tasks": -1}, "tasks is at least 0"),
        ({"budget_s": 0.0}, "budget_s above 0"),
        ({"workload": "/nowhere/jobs.txt"}, "cannot read commands"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(asked: dict, says: str):
    with pytest.raises(InvalidInputError, match=says):
        your_commands.run(**asked)


def test_a_report_refuses_a_pattern_that_no_file_matches():
    with pytest.raises(InvalidInputError, match="no file matches"):
        check_paths({"files": "/nowhere/*.csv"})
