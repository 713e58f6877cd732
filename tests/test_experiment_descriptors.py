"""The descriptors experiment, tiny: real managers, real batches at a real limit, a real leak, figures and tables of them."""

from __future__ import annotations

import io
import math
import os
import pickle
import resource
import signal
import subprocess
from dataclasses import replace

import pytest
from matplotlib.container import BarContainer, ErrorbarContainer

from procbench.errors import InvalidInputError, ProcessGoneError
from procbench.experiments import descriptors, descriptors_limit
from procbench.experiments.descriptors_leaks import hunt
from procbench.experiments.descriptors_limit import FAIL, OFF, PATIENT, SETTINGS, WAIT, LimitedInterpreter, least_limit
from procbench.experiments.descriptors_outcome import DescriptorsResult
from procbench.experiments.descriptors_ways import ANEW, BARE, KEPT
from procbench.io.descriptors import FileDescriptorManager
from procbench.io.fd_held import KINDS
from procbench.lab.results import Trial
from procbench.lab.store import Store
from procbench.views import plots_descriptors, tables_descriptors
from procbench.views.headline import Headline
from tests.waiting import run_python

SMALL = {"budget_s": 0.1, "tasks": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def result(folder) -> DescriptorsResult:
    return descriptors.run(budget_s=1, tasks=100, data_dir=folder)


def with_times(result: DescriptorsResult, times: dict[str, float]) -> DescriptorsResult:
    """Return the result as if keeping had been so many times as quick as opening anew, by kind."""
    openings = []
    for kind, trials in result.openings:
        values = {name: 1000.0 / (times[kind] if name == KEPT else 1) for name in trials.factors}
        made = [Trial(block, 0, name, value, False, 0.0) for block in range(8) for name, value in values.items()]
        openings.append(result.openings[0]._replace(kind=kind, trials=replace(trials, trials=tuple(made))))
    return replace(result, openings=tuple(openings))


def broken(result: DescriptorsResult) -> list[str]:
    return [words for words, holds in result.invariants().items() if not holds]


# --- what is measured ---------------------------------------------------------------------------------------------


def test_the_invariants_hold(result):
    assert broken(result) == []


def test_every_kind_way_and_setting_is_there(result):
    """Every kind is had in three ways, every setting ran the same batch, and a manager that keeps did keep."""
    costs, limits = result.costs(), result.limits()
    assert set(zip(costs["kind"], costs["way"], strict=True)) == {(k, w) for k in KINDS for w in (ANEW, KEPT, BARE)}
    assert (costs["median_us"] > 0).all()
    assert (costs[costs["way"] == KEPT]["reused_share"] > 0).all()
    assert (costs[costs["way"] == ANEW]["reused_share"] == 0).all()
    assert list(limits["way"]) == list(SETTINGS)
    assert (limits["tasks"] == 100 * limits["batches"]).all()


def test_the_limit_is_really_met_and_waiting_loses_nothing(result):
    """L19: of the same batch at the same limit a budget loses no command; without one, EMFILE takes some."""
    table = result.limits().set_index("way")
    assert table.loc[WAIT, "done"] == table.loc[WAIT, "tasks"]
    assert table.loc[WAIT, "waits"] > 0
    assert table.loc[OFF, "refused"] > 0
    assert table.loc[FAIL, "refused"] > 0
    assert (table["peak"].dropna() <= 64).all()


def test_this_process_keeps_its_limit_and_its_descriptors():
    """The limit is lowered in another interpreter, which is gone afterwards; the autouse guard looks for what is left."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors.run(**SMALL)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_a_leak_is_found_by_kind_and_by_who_took_it(result):
    """Every kind is forgotten, a pipe at both ends, and the innermost call of each trace is the job's own."""
    table = result.forgotten()
    assert set(table["kind"]) == set(KINDS)
    assert len(table) == len(result.leaks.forgotten) == 10
    jobs = {"pipe": "talk_to_child", "memfd": "collect_output", "null": "silence_child", "file": "read_settings"}
    for row in table.to_dict("records"):
        assert row["where"].split(" < ")[0].endswith(f" in {jobs[row['kind']]}")
    assert list(table["age_s"]) == sorted(table["age_s"], reverse=True)


def test_jobs_that_succeed_forget_nothing(tmp_path):
    (tmp_path / "settings").write_text("")
    hunted = hunt(tmp_path / "settings", jobs=2)
    assert hunted.jobs == 8
    assert (hunted.forgotten, hunted.found, hunted.counted) == ((), (), 0)


# --- what would be seen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"done": 99, "refused": 1}, ["with descriptors='wait' every command was done"]),
        ({"peak": 65}, ["no batch had more descriptors than the limit"]),
        ({"left": 1}, ["no batch left a descriptor open"]),
    ],
)
def test_a_batch_that_went_wrong_is_seen(result, change, words):
    [place] = [i for i, batch in enumerate(result.batches) if batch.way == WAIT][:1]
    batches = list(result.batches)
    batches[place] = batches[place]._replace(**change)
    assert broken(replace(result, batches=tuple(batches))) == words


def test_a_command_that_failed_otherwise_is_seen(result):
    [place] = [i for i, batch in enumerate(result.batches) if batch.way == PATIENT][:1]
    batches = list(result.batches)
    batches[place] = batches[place]._replace(done=batches[place].done - 1)
    assert broken(replace(result, batches=tuple(batches))) == [
        "every command was done, or refused for want of a descriptor"
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda leaks: {"found": leaks.found[:-1]}, "each forgotten descriptor was found, and no other"),
        (lambda leaks: {"found": (*leaks.found, leaks.found[0])}, "each forgotten descriptor was found, and no other"),
        (
            lambda leaks: {"found": tuple(replace(one, where="a.py:1 in b") for one in leaks.found)},
            "each leak names who",
        ),
        (
            lambda leaks: {"found": tuple(replace(one, where=None) for one in leaks.found)},
            "each leak names who took it",
        ),
        (lambda leaks: {"warned": leaks.warned - 1}, "what was let go was counted, warned of and closed"),
        (lambda leaks: {"still_out": 1}, "what was let go was counted, warned of and closed"),
    ],
)
def test_a_leak_that_is_not_found_is_seen(result, change, words):
    [failed] = broken(replace(result, leaks=result.leaks._replace(**change(result.leaks))))
    assert failed.startswith(words)


def test_a_manager_that_closes_too_little_is_seen(result):
    first = result.accounts[0]
    short = replace(first, counted=replace(first.counted, closed=first.counted.closed - 1))
    failed = broken(replace(result, accounts=(short, *result.accounts[1:])))
    assert failed == ["managers closed all that they had opened"]


# --- what follows -------------------------------------------------------------------------------------------------


def test_what_pays_is_suggested_and_nothing_else(result):
    """The suggestion is what the manager takes as ``reuse``: the kinds whose whole interval says better."""
    found = with_times(result, {"pipe": 0.25, "memfd": 1.0, "null": 2.0, "file": 3.0})
    assert found.suggestion() == {"reuse": ["null", "file"]}
    FileDescriptorManager(**found.suggestion()).close()
    words = found.advice()
    assert "quicker for /dev/null 2.00x [2.00, 2.00], a file 3.00x [3.00, 3.00]" in words
    assert "slower for a pipe 0.25x" in words
    assert "not shown to differ for a memory file 1.00x" in words
    assert words.endswith("reuse=('null', 'file').")
    assert found.headline()["effect"]["condition"] == f"file, {KEPT}"


def test_where_nothing_pays_nothing_is_suggested(result):
    found = with_times(result, dict.fromkeys(KINDS, 0.5))
    assert found.suggestion() == {"reuse": []}
    assert "quicker for" not in found.advice()
    assert found.advice().endswith("reuse=().")


def test_the_words_say_numbers(result):
    headline = Headline(**result.headline())
    for words in (headline.sentence, result.costs_alt(), result.limits_alt(), result.leaks_words(), result.details()):
        assert words
        assert "nan" not in words
        assert "None" not in words
    assert headline.sentence == f"{result.advice()} {result.limit_words()}"
    assert "10 descriptors; the manager named 10" in result.leaks_words()


def test_figures_and_tables_have_units(result):
    """Axes say of what and in what; intervals are drawn, the limit is a dashed line, and every row is there."""
    found = with_times(result, {"pipe": 0.25, "memfd": 1.0, "null": 2.0, "file": 3.0})
    costs, limits = plots_descriptors.costs(found.costs()), plots_descriptors.limits(result.limits())
    assert "(µs)" in costs.get_xlabel()
    assert "95 % interval" in costs.get_xlabel()
    assert [one.get_text() for one in costs.get_yticklabels()] == [
        "pipe (both ends)",
        "memory file",
        "/dev/null",
        "file",
    ]
    assert [one.get_text() for one in costs.get_legend().get_texts()] == [ANEW, KEPT, BARE]
    assert sum(isinstance(one, ErrorbarContainer) and one.has_xerr for one in costs.containers) == 2 * len(KINDS)
    assert [axes.get_xlabel() for axes in limits.figure.axes] == [
        "descriptors open at most",
        "share of the commands (%)",
    ]
    [line] = [line for line in limits.lines if line.get_label() == "limit 64"]
    assert (line.get_linestyle(), list(line.get_xdata())) == ("--", [64, 64])
    bars = [bar for one in limits.containers if isinstance(one, BarContainer) for bar in one]
    assert [bar.get_width() for bar in bars] == list(result.limits()["peak"])
    for axes in (costs, limits):
        axes.figure.savefig(io.BytesIO(), format="png")
    table = tables_descriptors.limits(result.limits())
    assert table.loc[WAIT, "peak of limit"].endswith(" of 64")
    assert len(tables_descriptors.costs(result.costs())) == 12
    leaks = tables_descriptors.leaks(result.forgotten())
    assert list(leaks.columns) == ["fd", "age (ms)", "where", "called at"]
    assert leaks["where"].str.fullmatch(r"descriptors_leaks\.py:\d+ in \w+").all()
    assert leaks["called at"].str.fullmatch(r"descriptors_leaks\.py:\d+ in hunt").all()
    assert leaks.map(lambda cell: len(str(cell)) < 50).all(axis=None)  # what pandas cuts off in a notebook
    assert len(leaks) == 10


def test_a_peak_that_nobody_saw_is_unknown(result):
    """Where /proc does not say, figure, table and words say so, and no invariant fails for it."""
    blind = replace(result, batches=tuple(batch._replace(peak=None) for batch in result.batches))
    assert broken(blind) == []
    axes = plots_descriptors.limits(blind.limits())
    assert [text.get_text() for text in axes.texts] == ["unknown"] * len(SETTINGS)
    assert set(tables_descriptors.limits(blind.limits())["peak of limit"]) == {"unknown of 64"}
    assert "an unknown number open at most" in blind.limits_alt()


def test_a_run_is_recorded_and_pickles(result, folder):
    [recorded] = Store(folder).load("descriptors").runs
    assert len(recorded.trials) == len(result.frame)
    assert set(recorded.trials["quantity"]) == {"open and close (ns)", "batch (s)"}
    assert recorded.trials["done"].dropna().sum() == sum(batch.done for batch in result.batches)
    assert {effect.condition for effect in recorded.effects} >= {f"{kind}, {KEPT}" for kind in KINDS}
    assert pickle.loads(pickle.dumps(result)).suggestion() == result.suggestion()


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"budget_s": 0}, "budget_s is above 0"),
        ({"budget_s": math.nan}, "budget_s is above 0"),
        ({"budget_s": True}, "budget_s is above 0"),
        ({"tasks": 0}, "tasks is 0"),
        ({"tasks": 1.5}, "tasks is 1.5"),
        ({"workers": 0}, "workers is 0"),
        ({"limit": 47}, "limit is 47; it must be a whole number of at least 48"),
        ({"workers": 200}, "at least 416"),
        ({"limit": "64"}, "limit is '64'"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(InvalidInputError, match=said):
        descriptors.run(**wrong)


def test_a_limit_that_the_kernel_does_not_allow_is_refused():
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from procbench.errors import InvalidInputError
from procbench.experiments import descriptors
try: descriptors.run(limit=257)
except InvalidInputError as error: print(error)
"""
    assert run_python(code) == "limit is 257, and the kernel allows 256 descriptors at most; name fewer"


def test_the_least_limit_is_enough_for_every_worker():
    """As few descriptors as are accepted still get every command done."""
    with LimitedInterpreter(least_limit(4), 4, 40) as interpreter:
        assert interpreter.run(WAIT).done == 40


def test_an_interpreter_that_ends_is_an_error_and_leaves_nothing():
    """Killed between two batches it is a typed error, not a wait for ever."""
    with LimitedInterpreter(64, 16, 10) as interpreter:
        assert interpreter.run(WAIT).done == 10
        os.kill(interpreter.pid, signal.SIGKILL)
        with pytest.raises(ProcessGoneError, match="64 descriptors"):
            interpreter.run(WAIT)


def test_an_interpreter_that_ends_in_a_batch_is_an_error(monkeypatch):
    def kill(interpreter: LimitedInterpreter) -> int:
        os.kill(interpreter.pid, signal.SIGKILL)
        return 0

    monkeypatch.setattr(LimitedInterpreter, "_count_open", kill)
    with LimitedInterpreter(64, 16, 5000) as interpreter, pytest.raises(ProcessGoneError, match="64 descriptors"):
        interpreter.run(WAIT)


def test_an_interpreter_that_says_nothing_is_an_error_and_is_ended(monkeypatch):
    """One that stands still is not waited for for ever, and does not keep this process from its end."""
    monkeypatch.setattr(descriptors_limit, "_PATIENCE_S", 0.05)

    def ask_one_that_stands_still() -> None:
        with LimitedInterpreter(64, 16, 10) as interpreter:
            os.kill(interpreter.pid, signal.SIGSTOP)
            interpreter.run(WAIT)

    with pytest.raises(ProcessGoneError):
        ask_one_that_stands_still()


def test_an_interrupt_ends_the_interpreter(monkeypatch):
    """Ctrl-C in the middle of a batch comes out, and the interpreter with its pipes is gone: the guard looks."""
    started = []

    class Seen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    def struck(_: LimitedInterpreter) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Seen)
    monkeypatch.setattr(LimitedInterpreter, "_count_open", struck)
    with pytest.raises(KeyboardInterrupt):
        descriptors.run(budget_s=0.1, tasks=5000)
    assert [one.returncode is not None for one in started] == [True]
