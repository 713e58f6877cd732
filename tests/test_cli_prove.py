"""``procbench prove`` as a person meets it: a file of commands, what is proved about them, and the command that repeats it."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import signal
import sys
import threading
from pathlib import Path

import pytest

from procbench.analysis.statistics import Effect
from procbench.analysis.suggestions import HostChange, OptimizationSuggestion, SettingsChange
from procbench.errors import InvalidInputError
from procbench.io.signals import ENDING
from procbench.lab.batches import TaskBatch
from procbench.lab.proof import prove
from procbench.lab.proof_records import StoredProof
from procbench.lab.store import Store, run_name
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.task import ProcessTask
from procbench.views.proving import ProveOptions, prove_asked
from procbench.views.suggestion_table import Row, SuggestionTable, effect_words, repeat_command
from tests.command_line import started
from tests.test_cli import procbench
from tests.waiting import wait_until

# Each waits so often that being preempted now and then on a busy machine does not make it look like one that wants a CPU.
WAITS = [sys.executable, "-I", "-S", "-c", "import time; [time.sleep(0.001) for _ in range(40)]"]
WAITING = f"{shlex.join(WAITS)}\n" * 4


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a folder in which a batch was proved, and what was printed."""
    folder = tmp_path_factory.mktemp("proved")
    (folder / "commands").write_text(WAITING)
    done = procbench("prove", "--commands", "commands", "--set", "workers=1", "--budget", "60", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def repeats(folder: Path, said: str, *more: str) -> list[str]:
    """Return the words of the one command that the first row shows."""
    shown = re.search(r"repeat it +procbench (.+)", said)
    assert shown
    return [*shlex.split(shown[1]), *more]


def test_each_row_has_status_effect_side_effects_run_and_the_command_that_repeats_it(proved: tuple[Path, str]):
    folder, said = proved
    assert said.startswith("1. workers: 1 → 4: proved\n")
    assert re.search(r"effect +time \d+\.\d\d times better \[\d+\.\d\d, \d+\.\d\d\]", said)
    assert "beside that CPU time" in said
    (run,) = Store(folder / "data").load("proof").runs
    assert re.search(rf"run +{run_name(run.path)}\n", said)
    assert repeats(folder, said) == ["prove", run_name(run.path)]


def test_the_command_repeats_the_same_tasks_change_and_settings(proved: tuple[Path, str]):
    """From another folder, by the beginning of the run's id; the new run says which one it repeats."""
    folder, said = proved
    first = Store(folder / "data").find(repeats(folder, said)[1])
    words = ["prove", run_name(first.path)[:8], "--data", str(folder / "data")]
    (folder / "elsewhere").mkdir()
    done = procbench(*words, cwd=folder / "elsewhere")
    assert done.returncode == 0, done.stderr
    assert "1. workers: 1 → 4: proved" in done.stdout
    assert re.search(r"before +proved, .*it is the same again", done.stdout)
    again = Store(folder / "data").load("proof").runs[-1]
    assert again.parameters["repeats"] == run_name(first.path)
    for name in ("asked", "settings", "seed", "budget_s"):
        assert again.parameters[name] == first.parameters[name], name
    tasks = [StoredProof.of(run).batch.tasks_for() for run in (first, again)]
    for one, other in zip(*tasks, strict=True):
        assert (one.argv, one.cwd, one.id) == (other.argv, other.cwd, other.id) == (WAITS, str(folder), one.id)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["0123456789"], 2, "there is no run 0123456789"),
        (["../../etc/passwd"], 2, "names no run"),
        (["--commands", "nowhere"], 2, "nowhere: No such file"),
        (["--commands", "torn"], 2, "torn, line 2: no closing quotation"),
        (["--commands", "empty"], 2, "no line with a command"),
        ([], 2, "name one recorded proof"),
        (["--commands", "fine", "--budget", "-1"], 2, "--budget must be"),
        (["--commands", "fine", "--only", "no_such_rule"], 2, "no_such_rule"),
        (["--commands", "fine", "--set", "workers=0"], 2, "workers"),
        (["--commands", "fails"], 1, "1 of 2 commands do not succeed"),
        (["--commands", "fine", "--set", "workers=1", "--budget", "0.01"], 1, "raise --budget"),
        (["--each", "fine", "--", "echo", "x{}"], 2, "stand alone"),
    ],
)
def test_what_cannot_be_proved_is_refused_with_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    status: int,
    said: str,
):
    from procbench.cli import run_command

    for name, text in {
        "torn": "true\necho 'x\n",
        "empty": "# nothing\n",
        "fine": WAITING,
        "fails": "true\nfalse\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert run_command(["prove", *words]) == status
    told = capsys.readouterr().err.splitlines()
    assert said in told[-1]
    assert all(line.startswith("procbench: ") for line in told)


def test_output_that_differs_between_runs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The batch is not repeatable, so nothing about it can be proved; on one worker there is something to prove."""
    from procbench.cli import run_command

    (tmp_path / "commands").write_text(WAITING + f"{sys.executable} -I -S -c 'import os; print(os.getpid())'\n")
    monkeypatch.chdir(tmp_path)
    assert run_command(["prove", "--commands", "commands", "--set", "workers=1"]) == 1
    assert "something else when they run again" in capsys.readouterr().err


# --- what a proof is kept with --------------------------------------------------------------------------------------


def suggestion(**fields: object) -> OptimizationSuggestion:
    change = SettingsChange({"workers": 2}, {"workers": 1})
    usual = {"category": "cpu", "priority": "low", "description": "d", "why": "w", "change": change}
    return OptimizationSuggestion(**{**usual, **fields})  # type: ignore[arg-type]


def test_a_batch_comes_back_whole(tmp_path: Path):
    """Bytes that are no text, priorities, time-outs and dependencies too; each runs where it ran then."""
    tasks = (
        ProcessTask([b"printf", b"\xff"], id="a", timeout=3, priority="high", cwd=str(tmp_path)),
        ProcessTask(["true"], id="b", after=["a"], retries=2, expected_s=0.5),
    )
    back = TaskBatch.from_dict(json.loads(json.dumps(TaskBatch(tasks).to_dict())))
    assert back.tasks[0].argv == ["printf", "\udcff"]
    assert (back.tasks[0].timeout, back.tasks[0].priority, back.tasks[0].cwd) == (3, "high", str(tmp_path))
    assert (back.tasks[1].after, back.tasks[1].retries, back.tasks[1].expected_s) == (["a"], 2, 0.5)
    assert back.tasks[1].cwd == str(Path.cwd())
    made = TaskBatch.from_template(["echo", "{}"], ["x", "y"])
    again = TaskBatch.from_dict(json.loads(json.dumps(made.to_dict())))
    assert [task.argv for task in again.tasks_for(2)] == [task.argv for task in made.tasks_for(2)]


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (ProcessTask(["curl", "--token=abc"]), "looks like a secret"),
        (ProcessTask(["true"], env={"A": "b"}), "an environment of its own"),
        (ProcessTask(["cat"], stdin=b"x"), "input of its own"),
        (ProcessTask(["echo", "x" * (5 << 20)]), "more than"),
    ],
)
def test_what_may_not_be_written_down_is_left_out_and_said(task: ProcessTask, why: str):
    plain = TaskBatch((task,)).to_dict()
    assert "commands" not in plain
    assert "abc" not in json.dumps(plain)
    with pytest.raises(InvalidInputError, match=why):
        TaskBatch.from_dict(plain)


def test_a_run_that_is_no_proof_and_one_without_its_commands_say_so(tmp_path: Path):
    """R07: a proof of an older procbench, recorded without its commands, is read, and told from one that can be repeated."""
    settings = RunSettings(workers=1)
    told = prove(suggestion(), [["sleep", "0.01"]] * 2, settings, budget_s=20, data_dir=tmp_path)
    run = Store(tmp_path).find(run_name(str(told.evidence)))
    with pytest.raises(InvalidInputError, match="no proof"):
        StoredProof.of(dataclasses.replace(run, experiment="queues"))
    old = {**run.parameters, "workload": {"tasks": 2, "arguments": 0, "first": [["sleep", "0.01"]]}}
    with pytest.raises(InvalidInputError, match=r"its commands were not recorded.*--commands FILE"):
        StoredProof.of(dataclasses.replace(run, parameters=old))
    newer = {**run.parameters, "settings": {**run.parameters["settings"], "warp": 9}}
    with pytest.raises(InvalidInputError, match="there is no setting warp"):
        StoredProof.of(dataclasses.replace(run, parameters=newer))
    with pytest.raises(InvalidInputError, match="no proof that can be read"):
        StoredProof.of(dataclasses.replace(run, parameters={}))
    gone = {**run.parameters, "workload": {**run.parameters["workload"], "folder": str(tmp_path / "gone")}}
    with pytest.raises(InvalidInputError, match="not there any more"):
        StoredProof.of(dataclasses.replace(run, parameters=gone))


def test_a_torn_or_flipped_proof_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """R03, R04: cut anywhere or with one bit flipped, a proof is not repeated, and stays for whoever wants to look."""
    from procbench.cli import run_command

    monkeypatch.chdir(tmp_path)
    told = prove(suggestion(), [["true"]], RunSettings(workers=1), budget_s=20, data_dir=tmp_path / "data")
    path = Path(str(told.evidence))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for content in (b"", whole[:100], whole[:-1], bytes(flipped)):
        path.write_bytes(content)
        for name in (run_name(path), str(path)):
            assert run_command(["prove", name]) == 1
            said = capsys.readouterr().err
            assert f"{path.name} is damaged" in said
            assert said.count("\n") == 1
        assert path.read_bytes() == content


def test_proofs_that_are_recorded_at_once_are_all_kept(tmp_path: Path):
    """R05: four threads prove the same thing in the same folder at the same time; each has a run of its own."""
    told: list[OptimizationSuggestion] = []

    def one() -> None:
        told.append(prove(suggestion(), [["true"]], RunSettings(workers=1), budget_s=60, data_dir=tmp_path))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded = Store(tmp_path).load("proof")
    assert loaded.quarantined == ()
    assert {str(run.path) for run in loaded.runs} == {str(one.evidence) for one in told}
    assert len(loaded.runs) == 4


def test_a_run_is_found_by_its_file_and_by_the_beginning_of_its_names(tmp_path: Path):
    store = Store(tmp_path)
    told = prove(suggestion(), [["true"]], RunSettings(workers=1), budget_s=20, data_dir=tmp_path)
    path = Path(str(told.evidence))
    run = store.find(str(path))
    for name in (path.name, run_name(path), run_name(path)[:6], run.run_id, run.run_id[:12]):
        assert store.find(name).run_id == run.run_id
    with pytest.raises(InvalidInputError, match="names no run"):
        store.find(run_name(path)[:3])
    with pytest.raises(InvalidInputError, match="there is no run"):
        store.find("20260101T000000Z-proof-0123456789abcdef.parquet")
    twin = path.with_name(path.name.replace(run_name(path), run_name(path)[:6] + "0" * 10))
    twin.write_bytes(path.read_bytes())
    with pytest.raises(InvalidInputError, match="2 runs begin with"):
        store.find(run_name(path)[:6])


def test_a_proof_of_a_change_of_the_host_is_not_repeated_unasked(tmp_path: Path):
    change = HostChange(("true",), ("true",), ("true",), "nothing at all")
    told = prove(
        suggestion(change=change), [["true"]], RunSettings(), budget_s=20, data_dir=tmp_path, allow_host_changes=True
    )
    assert repeat_command(told).endswith(" --allow-host-changes")
    options = ProveOptions(words=[run_name(str(told.evidence))], data=tmp_path)
    with pytest.raises(InvalidInputError, match="--allow-host-changes"):
        prove_asked(options, lambda _: None)
    assert all(signal.getsignal(number) is signal.SIG_DFL for number in ENDING)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_host_is_changed_restores_it(tmp_path: Path, number: signal.Signals, status: int):
    """A proof is repeated and its command hangs while the host is changed; the signal ends it, and the old state is back."""
    state, gate = tmp_path / "state", tmp_path / "gate"
    state.write_text("old")
    write = ("sh", "-c", 'printf "$2" > "$1"', "sh", str(state))
    change = HostChange((*write, "new"), (*write, "old"), ("cat", str(state)), "a file: old to new")
    hangs = f'if [ -e {gate} ] && [ "$(cat {state})" = new ]; then exec sleep 1000; fi'
    told = prove(
        suggestion(change=change),
        [["sh", "-c", hangs]],
        RunSettings(),
        budget_s=20,
        data_dir=tmp_path / "data",
        allow_host_changes=True,
    )
    gate.touch()
    with started("prove", run_name(str(told.evidence)), "--allow-host-changes", cwd=tmp_path) as child:
        wait_until(lambda: state.read_text() == "new")
        child.send_signal(number)
        assert child.wait() == status
        assert b"nothing is left half done" in child.stderr.read()
    assert state.read_text() == "old"


def test_what_cannot_be_asked_for_is_refused_before_anything_runs(tmp_path: Path):
    (tmp_path / "commands").write_text("touch ran\n")
    for words, says in (
        (["--commands", "commands", "--only", "nosuch"], "there is no rule 'nosuch'; there are: "),
        (["0123abcd", "--commands", "commands"], "be it a command or a recorded proof"),
    ):
        done = procbench("prove", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert says in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_proof_that_is_interrupted_says_so_and_keeps_what_there_is(tmp_path: Path):
    """Ctrl-C after some blocks: exit status 130, not that of a proof, and what was measured is said."""
    (tmp_path / "commands").write_text("sleep 0.2\n" * 4)  # so that a proof takes many seconds
    with started("prove", "--commands", "commands", "--set", "workers=1", cwd=tmp_path) as child:
        for line in child.stderr:
            if line.startswith(b"measuring for"):
                break
        child.send_signal(signal.SIGINT)
        assert child.wait() == 130
        assert b"interrupted: what is said above rests on what was measured by then" in child.stderr.read()
        assert b"workers: 1 " in child.stdout.read()


def test_a_proof_whose_commands_were_not_recorded_offers_nothing_to_repeat(tmp_path: Path):
    one = suggestion(change=SettingsChange({"workers": 4}, {"workers": 1}))
    argv = ["sh", "-c", "sleep 0.02", "x", "--password=hunter2"]
    judged = prove(one, [argv] * 4, RunSettings(workers=1), budget_s=30, data_dir=tmp_path)
    row = Row.of(judged)
    assert row.run
    assert row.command == ""
    assert "cannot be repeated from its record: " in row.note
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


# --- how it is shown ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (Effect(1.8, 1.62, 2.01, 0.99, 9), "1.80 times better [1.62, 2.01]"),
        (Effect(0.5, 0.4, 0.8, 0.99, 9), "2.00 times worse [1.25, 2.50]"),
        (Effect(1.01, 0.98, 1.04, 0.99, 9), "the same within [0.98, 1.04]"),
        (Effect(1.5, 0.0, float("inf"), 0.95, 3), "1.50 times better, interval unknown"),
        (Effect(1.5, 0.5, 4.0, 0.99, 9), "no difference shown within [0.50, 4.00]"),
    ],
)
def test_an_effect_in_words(effect: Effect, words: str):
    assert effect_words(effect) == words


def test_a_row_links_to_its_run_and_nothing_of_it_becomes_markup():
    """R14: whatever a folder, a note or a description is called, a page shows it as text."""
    from procbench.views.fragments import sanitise

    evil = "<script>alert(1)</script>"
    path = f"/{evil}/20260101T000000Z-proof-0123456789abcdef.parquet"
    one = suggestion(
        description=evil, why=evil, note=evil, evidence=path, status="proved", effect=Effect(2, 1, 3, 0.99, 9)
    )
    page = SuggestionTable([one, suggestion()])._repr_html_()
    assert "<script" not in page
    assert '<a href="#run-0123456789abcdef">' in page
    assert "procbench prove 0123456789abcdef --data &#x27;/&lt;script" in page
    clean = sanitise(page)
    assert 'href="#run-0123456789abcdef"' in clean
    assert 'id="run-0123456789abcdef"' in clean, "the link leads somewhere"
    assert "nobody has measured it" in clean
    assert Row.of(suggestion()).command == ""
    assert sanitise('<dt id="run-x"><p id="run-0123456789abcdef">') == "<dt><p></p></dt>"
