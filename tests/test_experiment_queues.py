"""The queues experiment, tiny: real threads and processes, figures and tables of what came out."""

from __future__ import annotations

import io
import math
import os
import pickle
import signal
import threading
from dataclasses import replace

import pytest

from procbench.errors import InvalidInputError, ProcessGoneError
from procbench.experiments import queues
from procbench.experiments.queues_apart import QueueProcesses
from procbench.experiments.queues_outcome import BOUND, SHARDS, THREADS, WAY, QueuesResult
from procbench.experiments.queues_ways import (
    BATCHES,
    OURS,
    PROCESSES,
    SHARDED,
    SIMPLE,
    STANDARD,
    WAYS,
    Load,
    Passage,
    pass_through,
    passage,
)
from procbench.lab.store import Store
from procbench.views import plots_queues, tables_queues
from procbench.views.headline import Headline

LOAD = Load(OURS, 2, 2, 8, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def result(folder) -> QueuesResult:
    return queues.run(budget_s=1, items=400, maxsize=64, data_dir=folder)


def broken(result: QueuesResult) -> list[str]:
    return [name for name, holds in result.invariants().items() if not holds]


def with_passage(result: QueuesResult, **changes: object) -> QueuesResult:
    """Change the first passage through a TaskQueue."""
    first, *others = result.parts
    passages = list(first.passages)
    place = next(number for number, one in enumerate(passages) if one.load.way == OURS)
    passages[place] = replace(passages[place], **changes)
    return replace(result, parts=(first._replace(passages=tuple(passages)), *others))


def test_the_invariants_hold(result):
    assert broken(result) == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"is_exact": False}, "each item was got once"),
        ({"peak": 65}, "no queue held more items than its bound"),
        ({"dequeued": 1}, "what the queues counted adds up"),
        ({"is_in_order": False}, "each producer's items kept their order"),
    ],
)
def test_an_invariant_that_is_broken_says_so(result, changes, name):
    assert broken(with_passage(result, **changes)) == [name]


def test_every_way_and_setting_is_there(result):
    table = result.rates()
    assert (table["median"] > 0).all()
    assert list(table.loc[table["knob"] == WAY, "way"]) == [OURS, BATCHES, SHARDED, STANDARD, SIMPLE, PROCESSES]
    assert list(table.loc[table["knob"] == SHARDS, "setting"]) == ["1", "2", "4", "8"]
    assert set(table.loc[table["knob"] == THREADS, "setting"]) == {"1", "2", "4", "8"}
    assert set(table.loc[table["knob"] == BOUND, "setting"]) == {"1", "16", "64", "256", "4096"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("producers", "consumers", "maxsize"), [(1, 1, 1), (3, 2, 2), (1, 4, 64)])
def test_each_item_comes_out_once(way, producers, consumers, maxsize):
    """By every way, whatever the numbers of threads; the threads are gone, which the guard sees."""
    found = pass_through(Load(way, producers, consumers, maxsize, 1), 301)
    assert found.is_exact
    assert found.is_in_order
    assert sum(found.served) == 301
    assert found.peak is None or 1 <= found.peak <= maxsize


@pytest.mark.parametrize(("producers", "consumers", "maxsize"), [(1, 1, 1), (3, 2, 2), (1, 3, 64)])
def test_each_item_comes_out_once_between_processes(producers, consumers, maxsize):
    """Trial after trial with the same processes; nothing of one is left for the next."""
    with QueueProcesses(Load(PROCESSES, producers, consumers, maxsize, 1)) as processes:
        for items in (100, 301, 7):
            found = processes.pass_through(items)
            assert found.is_exact
            assert found.is_in_order
            assert found.seconds > 0


def test_what_was_lost_doubled_or_out_of_order_is_seen():
    """Two producers of two numbers each: 0, 1 and 2, 3."""
    assert passage(LOAD, 4, 1.0, [[0, 2], [1, 3]]).is_exact
    assert passage(LOAD, 4, 1.0, [[2, 0, 3, 1], []]).is_in_order
    assert not passage(LOAD, 4, 1.0, [[1, 0, 2, 3], []]).is_in_order
    assert not passage(LOAD, 4, 1.0, [[0, 1], [3]]).is_exact
    assert not passage(LOAD, 4, 1.0, [[0, 1, 1], [2, 3]]).is_exact


@pytest.mark.parametrize(
    ("served", "evenness", "least"), [((5, 5), 1.0, 1.0), ((10, 0), 0.5, 0.0), ((7, 3), 100 / 116, 0.6)]
)
def test_evenness_is_jains_index(served, evenness, least):
    found = Passage(LOAD, 10, 1.0, served, True, True)
    assert found.evenness == pytest.approx(evenness)
    assert found.least_share == pytest.approx(least)


def test_the_words_say_numbers(result):
    headline = Headline(**result.headline())
    alts = (result.rates_alt(), result.settings_alt(), result.served_alt())
    for words in (headline.sentence, *alts, result.details()):
        assert words
        assert "nan" not in words
        assert "None" not in words
    assert headline.sentence.endswith(result.advice())
    assert headline.effect["condition"] == OURS


def test_only_what_is_shown_is_suggested(result):
    """A queue whose interval does not lie beyond the noise is not, nor one that has no bound."""
    shown = {effect.condition for effect in result.effects[WAY] if effect.verdict == "better"}
    assert result.suggestion().get("queue", None) in {None, *shown} - {SIMPLE}
    vague = {knob: [replace(one, low=0.0, high=math.inf) for one in many] for knob, many in result.effects.items()}
    unsure = replace(result)
    unsure.__dict__["effects"] = vague
    assert unsure.suggestion() == {}
    assert unsure.advice().startswith("No bounded queue is shown")


def test_figures_and_tables_have_units(result):
    rates, served = plots_queues.rates(result.rates()), plots_queues.served(result.served())
    settings = plots_queues.settings(result.rates())
    assert "thousand items per second" in rates.get_xlabel()
    assert [one.get_text() for one in rates.get_yticklabels()] == [OURS, BATCHES, SHARDED, STANDARD, PROCESSES]
    [limit] = [line for line in rates.lines if line.get_label().startswith(SIMPLE)]
    assert limit.get_linestyle() == "--"
    assert settings.get_ylabel() == "thousand items per second"
    assert [axes.get_xlabel() for axes in settings.figure.axes] == ["producers, and consumers", "maxsize", "shards"]
    assert "(ms)" in served.get_xlabel()
    for axes in (rates, served, settings):
        axes.figure.savefig(io.BytesIO(), format="png")
    assert tables_queues.served(result.served()).loc[STANDARD, "mean wait (ms)"] == "not counted"
    assert len(tables_queues.rates(result.rates())) == len(result.rates())


def test_a_run_is_recorded_and_pickles(result, folder):
    [recorded] = Store(folder).load("queues").runs
    assert len(recorded.trials) == len(result.frame)
    assert recorded.trials["is_exact"].all()
    assert pickle.loads(pickle.dumps(result)).suggestion() == result.suggestion()


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"budget_s": 0}, "budget_s is above 0"),
        ({"budget_s": math.nan}, "budget_s is above 0"),
        ({"budget_s": True}, "budget_s is above 0"),
        ({"items": 99}, "items is 99"),
        ({"threads": 0}, "threads is 0"),
        ({"shards": 0}, "shards is 0"),
        ({"maxsize": 7}, "maxsize is 7; it must be a whole number of at least 8"),
        ({"maxsize": 15, "shards": 16}, "at least 16"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(InvalidInputError, match=said):
        queues.run(**wrong)


def test_processes_that_end_are_an_error_and_leave_nothing():
    """Killed between two trials they are a typed error, not a wait for ever."""

    def ask_after_the_end() -> None:
        with QueueProcesses(Load(PROCESSES, 2, 2, 8, 1)) as processes:
            assert processes.pass_through(100).is_exact
            os.killpg(processes.pid, signal.SIGKILL)
            processes.pass_through(100)

    with pytest.raises(ProcessGoneError, match=r"multiprocessing\.Queue"):
        ask_after_the_end()


def test_threads_that_cannot_all_be_started_leave_none(monkeypatch):
    """The third is refused: those that wait for it go home, and the error comes out."""
    start, begun = threading.Thread.start, []

    def refused(thread: threading.Thread) -> None:
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(RuntimeError, match="can't start"):
        pass_through(LOAD, 100)
    assert [thread.is_alive() for thread in begun] == [False, False]
