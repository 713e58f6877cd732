"""The pools experiment, tiny: real pools, real output, figures and tables of what came out."""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import replace

import pytest

from procbench import RunSettings
from procbench.errors import InvalidInputError
from procbench.experiments import pools
from procbench.experiments.pools_outcome import PoolsResult
from procbench.lab.results import Trial
from procbench.lab.store import Store
from procbench.memory.buffers import DEFAULT_SIZE_BYTES
from procbench.views import plots_pools, tables_pools
from procbench.views.headline import Headline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def result(folder) -> PoolsResult:
    return pools.run(sizes=[4096, 1 << 20], threads=[2], budget_s=1, data_dir=folder)


def test_the_invariants_hold(result):
    assert all(result.invariants().values()), result.invariants()


def test_every_way_size_and_number_of_threads_is_there(result):
    table = result.summary()
    assert len(table) == 4 * 2 * 2
    assert (table["median_ns"] > 0).all()
    assert (table["p99_ns"] > 0).all()
    assert set(result.frame["quantity"]) == {"acquire (ns)", "read (s)"}


def test_fresh_memory_faults_its_pages_in_and_pooled_memory_does_not(result):
    pages = result.faults.set_index(["way", "size_bytes"])["faults"]
    assert pages["pool", 1 << 20] == 0
    assert pages["fresh mmap", 1 << 20] >= 1


def test_the_suggestion_is_a_change_of_settings(result):
    change = result.suggestion()
    assert RunSettings().changed(**change).buffer_size_bytes == change.get("buffer_size_bytes", DEFAULT_SIZE_BYTES)
    assert "buffer_size_bytes" in result.suggestion_words()


def test_the_words_say_numbers(result):
    headline = Headline(**result.headline())
    for words in (headline.sentence, result.latency_alt(), result.reads_alt(), result.idle_alt(), result.details()):
        assert words
        assert "nan" not in words


def test_the_headline_compares_with_both_kinds_of_fresh_memory(result):
    """The first page names numpy.empty beside bytearray, at the largest size, with each one's own time."""
    sentence = result.headline()["sentence"]
    assert sentence.startswith("A pooled buffer of 1 MiB is there in ")
    assert "a new bytearray in " in sentence
    assert "numpy.empty in " in sentence
    assert sentence.endswith(result.suggestion_words())


@pytest.mark.parametrize(("theirs_ns", "cheaper"), [(100.0, True), (1000.0, False)])
def test_the_words_say_where_numpy_is_cheaper(result, theirs_ns, cheaper):
    """The sentence follows from the data: a size is named where numpy.empty is shown to be cheaper, and nowhere else."""
    trials = []
    for block in range(8):
        for name in result.acquiring.factors:
            small = name.startswith("numpy.empty, 4 KiB")
            value = (theirs_ns if small else 1000.0) + block
            trials.append(Trial(block, 0, name, value, False, 0.0))
    words = replace(result, acquiring=replace(result.acquiring, trials=tuple(trials))).unzeroed_words()
    assert ("4 KiB: the pool is 0.1" in words) is cheaper
    assert "1 MiB" not in words
    assert ("not shown to be cheaper" in words) is not cheaper


def test_figures_and_tables_have_units(result):
    times = plots_pools.acquire_times(result.summary())
    reads = plots_pools.read_times(result.reads(), DEFAULT_SIZE_BYTES)
    idle = plots_pools.pools_over_time(result.idle)
    assert "(ns)" in times.get_ylabel()
    assert "(ms)" in reads.get_ylabel()
    assert "(s)" in idle.get_xlabel()
    for axes in (times, reads, idle):
        axes.figure.savefig(io.BytesIO(), format="png")
    for table in (
        tables_pools.pool_times(result.summary(), result.faults),
        tables_pools.hit_rates(result.hits),
        tables_pools.backings(result.backings),
    ):
        assert len(table)


def test_a_run_is_recorded_and_pickles(result, folder):
    [recorded] = Store(folder).load("pools").runs
    assert len(recorded.trials) == len(result.frame)
    assert pickle.loads(pickle.dumps(result)).suggestion() == result.suggestion()


@pytest.mark.parametrize("wrong", [{"sizes": []}, {"sizes": [0]}, {"threads": [0]}, {"budget_s": math.nan}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        pools.run(**wrong)
