"""The stealing experiment, tiny: real commands, a few ways."""

import math
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from procbench.analysis.statistics import Effect
from procbench.errors import InvalidInputError
from procbench.experiments import stealing, stealing_outcome
from procbench.experiments.makespan_outcome import SHAPES
from procbench.experiments.ways import PROCBENCH, USUAL, WAYS
from procbench.lab.store import Store
from procbench.views.headline import Headline


@pytest.fixture(scope="module")
def own_commands(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "commands"
    file.write_text("true\n" * 6 + "false\n./no-interpreter\n")
    script = file.with_name("no-interpreter")
    script.write_text("#!/nonexistent/interpreter\n")
    script.chmod(0o755)
    return file


@pytest.fixture(scope="module")
def result(own_commands, tmp_path_factory):
    return stealing.run(workload=own_commands, workers=[1, 2], ways=["asyncio"], budget_s=3)


def test_the_invariants_hold_for_the_standard_library():
    tiny = stealing.run(workers=[1], ways=[], tasks=6, budget_s=0.5)
    assert tiny.tasks == 6
    assert all(tiny.invariants().values()), tiny.invariants()
    assert tiny.limit_s > 0


def test_the_frame_has_every_trial_and_its_factors(result):
    frame = result.batches
    assert set(frame["way"]) == {PROCBENCH, USUAL, "asyncio"}
    assert len(frame) == len(result.trials.trials)
    assert (frame["value"] > 0).all()
    assert str(frame["failed"].dtype) == "Int64"


def test_the_whole_frame_holds_the_batches_of_known_shape_too(result):
    frame = result.frame
    own, shaped = frame[frame["shape"] == "workload"], frame[frame["shape"] != "workload"]
    assert own["value"].tolist() == result.batches["value"].tolist()
    assert len(shaped) == len(result.makespan.trials.trials)
    assert set(shaped["shape"]) == {*SHAPES, "all"}
    assert str(frame["failed"].dtype) == "Int64"
    assert frame["workers"].notna().all()


def test_failed_commands_are_counted_and_named(result):
    assert {(one.command, one.returncode) for one in result.failures} == {
        ("false", 1),
        ("./no-interpreter", None),
    }
    invariants = result.invariants()
    assert (result.batches["failed"] == 2).all()
    assert [name for name, holds in invariants.items() if not holds] == ["every command ended with status 0"]


def test_effects_compare_ways_with_the_usual_one_on_as_many_workers(result):
    assert {one.condition for one in result.effects} == {PROCBENCH, "asyncio"}
    assert {one.baseline for one in result.effects} == {USUAL}


def test_the_summary_has_a_row_for_each_way_the_fastest_first(result):
    table = result.summary()
    assert sorted(table["way"]) == sorted([PROCBENCH, USUAL, "asyncio"])
    assert table["median_s"].is_monotonic_increasing
    usual = table.set_index("way").loc[USUAL]
    assert usual["verdict"] == "the baseline"
    assert math.isnan(usual["ratio"])


def test_a_verdict_says_where_only_noise_stands_against_a_difference():
    effect = Effect(ratio=1.3, low=1.2, high=1.4, confidence=0.95, blocks=6, noise_floor=0.64)
    assert stealing_outcome._verdict(effect) == "within noise (floor 64 %)"
    assert stealing_outcome._verdict(replace(effect, low=0.9)) == "no difference shown"
    assert stealing_outcome._verdict(replace(effect, noise_floor=math.inf)) == "no difference shown"
    assert stealing_outcome._verdict(replace(effect, noise_floor=0.1)) == "better"


def test_the_curve_has_a_row_for_each_number_of_workers(result):
    table = result.curve.table()
    assert set(table["workers"]) == {1, 2, result.workers}
    assert table["speedup"].iloc[0] == 1
    assert table["limit_s"].is_monotonic_decreasing
    assert (table["per_s"] * table["median_s"]).tolist() == pytest.approx([result.tasks] * len(table))
    assert (table["limit_per_s"] * table["limit_s"]).tolist() == pytest.approx([result.tasks] * len(table))


def test_the_trace_has_one_row_for_each_command(result):
    assert sorted(result.trace["task_id"]) == list(range(8))
    assert set(result.trace["program"]) == {"true", "false", "no-interpreter"}


def test_the_headline_is_one(result):
    headline = Headline(**result.headline())
    assert headline.sentence.startswith(
        "2 of 8 commands fail (false, no-interpreter): these numbers time failures. 8 commands on "
    )
    assert " 0.00 s" not in headline.sentence
    assert "status None" not in result.details()
    assert "could not be started: ./no-interpreter" in result.details().replace("\n    ", " ")
    assert headline.sentence.endswith(result.makespan.gains())
    assert Headline.from_json(headline.to_json()).effect["baseline"] == USUAL
    for words in (result.ways_alt(), result.curve.alt(), result.shapes_alt(), result.timeline_alt()):
        assert "nan" not in words


def test_a_result_pickles(result):
    again = pickle.loads(pickle.dumps(result))
    assert again.effects == result.effects


def test_a_run_is_recorded_where_that_is_wanted(own_commands, tmp_path):
    ran = stealing.run(workload=own_commands, workers=[1], ways=[], budget_s=0.2, data_dir=tmp_path)
    [recorded] = Store(tmp_path).load("stealing").runs
    assert recorded.trials["value"].tolist() == ran.frame["value"].tolist()
    assert recorded.parameters["workload"] == str(own_commands)


def test_a_run_that_cannot_be_recorded_is_not_lost(own_commands):
    ran = stealing.run(workload=own_commands, workers=[1], ways=[], budget_s=0.2, data_dir="/dev/null/data")
    assert "not recorded" in ran.notes[-1]
    assert ran.trials.blocks


def test_ways_that_are_not_installed_are_left_out_and_named(tmp_path, monkeypatch):
    commands = tmp_path / "commands"
    commands.write_text(f"{shutil.which('true')}\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = stealing.run(workload=commands, workers=[1], ways=["xargs -P", "GNU parallel"], budget_s=0.2)
    assert "xargs -P: left out, xargs is not installed" in ran.notes
    assert "GNU parallel: left out, parallel is not installed" in ran.notes


def test_another_program_called_parallel_is_not_taken_for_gnu_parallel(tmp_path, monkeypatch):
    other = tmp_path / "parallel"
    other.write_text("#!/bin/sh\necho moreutils\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert WAYS["GNU parallel"].missing()


@pytest.mark.parametrize("name", WAYS)
def test_every_way_runs_every_command_in_its_folder(name, tmp_path):
    way = WAYS[name]
    if way.missing():
        pytest.skip(way.missing())
    commands = [("touch", f"it's {number}\n$HOME") for number in range(5)]
    with way.opened(2, tmp_path) as run:
        assert run(commands).failed == 0
        assert len(list(tmp_path.iterdir())) == 5
        assert run([("false",), ("true",)]).failed in {1, None}


@pytest.mark.parametrize("name", WAYS)
def test_no_way_lets_output_through(name, tmp_path, capfd):
    way = WAYS[name]
    if way.missing():
        pytest.skip(way.missing())
    with way.opened(1, tmp_path) as run:
        run([("echo", "loud"), ("sh", "-c", "echo loud >&2")])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "wrong",
    [{"tasks": -1}, {"budget_s": 0}, {"budget_s": math.nan}, {"workers": [0]}, {"ways": ["make -j"]}, {"tasks": 1.5}],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(wrong):
    with pytest.raises(InvalidInputError):
        stealing.run(**wrong)


@pytest.mark.parametrize("program", ["procbench-is-no-such-program", "./none", "/etc/passwd", "/usr"])
def test_a_program_that_is_not_there_is_refused_with_its_line(program, tmp_path):
    file = tmp_path / "commands"
    file.write_text(f"# mine\n\ntrue\n{program} --please\n")
    with pytest.raises(InvalidInputError, match=f"commands, line 4: there is no program '{program}'"):
        stealing.run(workload=file)


def test_too_few_blocks_for_an_interval_are_said(own_commands):
    ran = stealing.run(workload=own_commands, workers=[1], ways=[], budget_s=0.01)
    assert any("only 1 blocks" in note for note in ran.notes)
    assert ran.summary()["low_s"].isna().all()


def test_an_interrupted_measurement_keeps_its_blocks(own_commands):
    def strike(progress):
        if progress.blocks:
            raise KeyboardInterrupt

    ran = stealing.run(workload=own_commands, workers=[1], ways=[], budget_s=30, on_progress=strike)
    assert ran.trials.stopped_because == "interrupted"
    assert ran.invariants()["every command ran exactly once"]
    assert ran.makespan is None
    assert "batches of known shape: left out, interrupted before" in ran.notes
    assert ran.shapes().empty
    assert "not measured" in ran.shapes_alt()
    assert set(ran.frame["shape"]) == {"workload"}
    assert ran.compared() == ran.effects
    assert "longest commands first" not in ran.headline()["sentence"]


@pytest.mark.parametrize("keeps", [False, True])
def test_an_interrupt_while_batches_of_known_shape_are_measured_keeps_what_was_measured(own_commands, keeps):
    def strike(progress):
        if progress.effects and len(progress.effects) > 4 and keeps:  # the second measurement has more conditions
            raise KeyboardInterrupt
        if not progress.effects and progress.elapsed_s >= 0 and strike.measured and not keeps:
            raise KeyboardInterrupt  # in its warm-up
        strike.measured |= bool(progress.blocks)

    strike.measured = False
    ran = stealing.run(workload=own_commands, workers=[1], ways=[], budget_s=0.3, on_progress=strike)
    assert ran.trials.blocks
    assert (ran.makespan is not None) is keeps
    if keeps:
        assert ran.makespan.trials.stopped_because == "interrupted"
        assert all(ran.makespan.invariants().values())
    else:
        assert "batches of known shape: left out, interrupted" in ran.notes


def test_three_numbers_of_workers_have_a_law_and_two_have_none(own_commands):
    ran = stealing.run(workload=own_commands, workers=[1, 2, 3], ways=[], budget_s=0.3)
    curve = ran.curve
    assert curve.fit.counts == tuple(sorted({1, 2, 3, ran.workers}))
    assert curve.predicted()["workers"].iloc[[0, -1]].tolist() == [1, 2 * curve.fit.most]
    assert len(curve.law()) == 5
    assert "The law fitted to them has its peak at" in curve.alt()
    two = replace(curve, trials=replace(curve.trials, factors=dict(list(curve.trials.factors.items())[:2])))
    assert two.fit is None
    assert two.predicted().empty
    assert two.law().empty
    assert two.peak_words() == ""
    assert "law" not in two.alt()
    assert len(two.table()) == 2


@pytest.mark.parametrize(("cpus", "full", "counts"), [(1, False, 3), (2, False, 4), (2, True, 4), (16, False, 5)])
def test_every_machine_has_numbers_of_workers_for_a_law(cpus, full, counts):
    found = stealing._worker_counts(cpus, None, full=full)
    assert len(found) == counts
    assert {1, cpus, 2 * cpus} <= set(found)


def test_importing_the_experiment_loads_no_pandas():
    code = "import sys, procbench.experiments.stealing; sys.exit('pandas' in sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0
