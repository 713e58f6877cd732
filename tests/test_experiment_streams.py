"""The streams experiment reads real children, measures every way in every block, and says what to set."""

from __future__ import annotations

import asyncio
import io
import pickle
from dataclasses import replace

import hypothesis  # noqa: F401 - trio registers with it, which fails once what is there is frozen (conftest)
import pytest

from procbench import BufferSizes, RunSettings
from procbench.errors import InvalidInputError
from procbench.experiments import measuring, streams, streams_peers, streams_ways
from procbench.experiments.streams_outcome import (
    BATCHES,
    CHILDREN,
    DEFAULTS,
    LINES,
    LOOP,
    SCHEDULER,
    C,
    Sizes,
    StreamsResult,
)
from procbench.lab.results import AGAIN, Trial
from procbench.lab.store import Store
from procbench.lab.trials import Condition
from procbench.memory.buffers import DEFAULT_SIZE_BYTES
from procbench.views import plots_streams, tables_streams
from procbench.views.headline import Headline

OURS = {"read", "read_into", "batch_read", "communicate"}
SMALL = {"budget_s": 0.1, "total_bytes": 64 << 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def result(folder) -> StreamsResult:
    return streams.run(budget_s=1, total_bytes=64 << 10, data_dir=folder)


def proven(result: StreamsResult, times: float) -> StreamsResult:
    """Return the result as if the second measurements had shown that 256 KiB and 1 MiB are so many times as fast."""
    groups = []
    for group in result.groups:
        if group.proves is None:
            groups.append(group)
            continue
        names = [name for name in group.trials.factors if not name.endswith(AGAIN)]
        values = {names[0]: 1.0, names[0] + AGAIN: 1.0, names[1]: times}
        trials = [Trial(block, 0, name, value, False, 0.0) for block in range(8) for name, value in values.items()]
        measured = replace(group.trials, trials=tuple(trials))
        groups.append(replace(group, trials=measured, proves=Sizes(256 << 10, 1 << 20)))
    return replace(result, groups=tuple(groups))


def test_what_must_hold_holds(result):
    """All invariants are true, and procbench's ways and asyncio's are there, C where there is a compiler."""
    assert all(result.invariants().values()), result.invariants()
    ways = set(result.ways()["way"])
    assert ways >= {*OURS, "asyncio, read", "asyncio, communicate", "threads, Popen", "threads, subprocess.run"}
    assert set(result.rates(CHILDREN)["children"]) == {1, 8, 64}
    assert set(result.rates(LINES)["line_bytes"]) == {20, 80, 1000}
    assert set(result.rates(BATCHES).query("way != @C")["batch"]) == {1, 4, 16, 64}
    assert len(result.rates(LOOP).query("way != @C")) == 15
    assert not result.unrecorded


@pytest.mark.parametrize(("spoilt", "by"), [("size_bytes", "read"), ("ended", "status 0")])
def test_a_byte_or_an_end_that_is_missing_is_seen(result, spoilt, by):
    """One trial that lost a byte, or a child's end, is enough for an invariant to say False."""
    group = result.groups[0]
    wrong = group.readings[3]._replace(**{spoilt: getattr(group.readings[3], spoilt) - 1})
    groups = (replace(group, readings=(*group.readings[:3], wrong, *group.readings[4:])), *result.groups[1:])
    failed = [words for words, holds in replace(result, groups=groups).invariants().items() if not holds]
    assert len(failed) == 1
    assert by in failed[0]


def test_sizes_are_suggested_where_they_are_proven(result):
    """What is better beyond the noise becomes a change of RunSettings and BufferSizes, and the words say so."""
    better = proven(result, 1.5)
    assert better.suggestion() == {"buffer_size_bytes": 256 << 10, "pipe_size_bytes": 1 << 20}
    assert RunSettings().changed(**better.suggestion()).pipe_size_bytes == 1 << 20
    assert better.buffer_sizes() == BufferSizes(stdout=256 << 10, stderr=256 << 10, pipe=1 << 20)
    assert "BufferSizes(stdout=262144, stderr=262144, pipe=1048576): 1.50x [" in better.advice()
    assert "RunSettings(buffer_size_bytes=262144, pipe_size_bytes=1048576): 1.50x [" in better.advice()


@pytest.mark.parametrize("times", [1.0, 0.5])
def test_sizes_that_are_not_proven_are_not_suggested(result, times):
    """However good a pair looked at first, the defaults stay unless it is better when it is measured again."""
    same = proven(result, times)
    assert same.suggestion() == {}
    assert same.buffer_sizes() == BufferSizes()
    assert "no sizes are shown to be better than the defaults" in same.advice()
    assert "Leave RunSettings as it is" in same.advice()


def test_the_best_sizes_are_others_than_the_defaults(result):
    for varied in (LOOP, SCHEDULER):
        [group] = [one for one in result.groups if one.varied == varied and one.proves is None]
        assert group.best() != DEFAULTS
        assert result.proof(varied) is not None


def test_figures_and_tables_have_units(result):
    """Units stand on the axes, sizes are labelled in KiB, and every way has its row."""
    compared = plots_streams.ways(result.ways())
    sizes = plots_streams.rates_by_size(result.rates(LOOP), DEFAULT_SIZE_BYTES)
    batches = plots_streams.rates_by_batch(result.rates(BATCHES))
    children = plots_streams.rates_by_children(result.rates(CHILDREN))
    lines = plots_streams.rates_by_line(result.rates(LINES))
    assert [axes.get_xlabel().split(",")[0] for axes in compared.figure.axes] == ["GB/s", "CPU s per GiB"]
    assert [label.get_text() for label in sizes.get_xticklabels()] == ["4 KiB", "16 KiB", "64 KiB", "256 KiB", "1 MiB"]
    assert all("GB/s" in axes.get_ylabel() for axes in (sizes, batches, children))
    assert "lines/s" in lines.get_ylabel()
    for axes in (compared, sizes, batches, children, lines):
        axes.figure.savefig(io.BytesIO(), format="png")
    assert len(tables_streams.ways(result.rates(CHILDREN))) == len(result.rates(CHILDREN))
    assert len(tables_streams.lines(result.rates(LINES))) == len(result.rates(LINES))
    assert len(tables_streams.sizes(result.rates(SCHEDULER))) == 9


def test_the_words_say_numbers(result):
    headline = Headline(**result.headline())
    alts = [result.alt(varied) for varied in (CHILDREN, LOOP, BATCHES, LINES)]
    for words in (headline.sentence, *alts, result.children_alt(), result.details()):
        assert words
        assert "nan" not in words
    assert headline.sentence.endswith(result.advice())


def test_a_run_is_recorded_and_pickles(result, folder):
    [recorded] = Store(folder).load("streams").runs
    assert len(recorded.trials) == len(result.frame)
    assert pickle.loads(pickle.dumps(result)).suggestion() == result.suggestion()


def test_it_runs_where_an_event_loop_runs():
    """A notebook's thread has a loop that runs already, in which asyncio.run is refused."""

    async def cell() -> StreamsResult:
        return streams.run(**SMALL)

    assert all(asyncio.run(cell()).invariants().values())


def test_without_a_compiler_and_other_libraries_they_are_left_out_by_name(monkeypatch):
    """What is not there is absent from the figures, and a note says so."""
    monkeypatch.setattr(streams_ways, "limit_program", lambda folder: None)
    monkeypatch.setattr(streams_peers, "find_spec", lambda name: None)
    found = streams.run(**SMALL)
    for way in (C, *streams_peers.FOREIGN):
        assert any(note.startswith(f"{way}: left out, ") for note in found.notes)
        assert way not in set(found.frame["way"])
    assert all(found.invariants().values())
    plots_streams.ways(found.ways())
    plots_streams.rates_by_line(found.rates(LINES))


def test_an_interrupt_keeps_what_was_measured(monkeypatch):
    """Ctrl-C in a later measurement ends the run, and what was finished before is kept."""
    original, calls = measuring.measure, []

    def struck(conditions: list[Condition], **how: object):
        calls.append(how)
        if len(calls) < 3:
            return original(conditions, **how)

        def strike() -> float:
            raise KeyboardInterrupt

        return original([*conditions, Condition("strike", strike)], **how)

    monkeypatch.setattr(measuring, "measure", struck)
    found = streams.run(**SMALL)
    assert [group.varied for group in found.groups] == [CHILDREN, LOOP]
    assert len(calls) == 3
    assert "not measured to the end" in found.advice()


def test_a_child_whose_reader_fails_is_ended():
    """A peer that is struck in the middle leaves no child behind."""

    async def main() -> None:
        async with streams_peers._started(["sleep", "60"]):
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(main())


@pytest.mark.parametrize("wrong", [{"budget_s": 0}, {"budget_s": float("nan")}, {"total_bytes": 9}])
def test_numbers_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InvalidInputError):
        streams.run(**wrong)
