"""The monitoring experiment, tiny: real batches beside real monitors, single looks, figures and tables of what was seen."""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import replace

import pytest

from procbench.errors import InvalidInputError
from procbench.experiments import monitoring
from procbench.experiments.monitoring_outcome import ALONE, MonitoringResult, every
from procbench.experiments.monitoring_watched import short_batch
from procbench.experiments.monitoring_ways import ALL, PSUTIL, Looks, by_psutil, mean_cpu_s
from procbench.lab.results import Trial
from procbench.lab.store import Store
from procbench.views import plots_monitoring, tables_monitoring
from procbench.views.headline import Headline

COLLECTORS = ["cpu", "memory", "disk", "network", "processes", "tree", "pressure", "throttling"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def result(folder) -> MonitoringResult:
    return monitoring.run(budget_s=0.5, tasks=20, intervals_s=[0.05, 0.01], watched_tasks=9, data_dir=folder)


def broken(result: MonitoringResult) -> list[str]:
    return [words for words, holds in result.invariants().items() if not holds]


def with_ratios(result: MonitoringResult, look: float, batch: float) -> MonitoringResult:
    """Return the result as if a look had been so many times as cheap as psutil's, and watched batches so many times as fast."""

    def made(trials, baseline, times):
        values = {name: 0.01 if name.startswith(baseline) else 0.01 / times for name in trials.factors}
        found = [Trial(block, 0, name, value, False, 0.0) for block in range(8) for name, value in values.items()]
        return replace(trials, trials=tuple(found))

    return replace(result, looks=made(result.looks, PSUTIL, look), slowed=made(result.slowed, ALONE, batch))


# --- what is measured ---------------------------------------------------------------------------------------------


def test_the_invariants_hold(result):
    assert broken(result) == []


def test_every_way_is_there(result):
    """A look by all, by each collector and by psutil; a batch alone, first, and at each interval, the longest first."""
    costs, overhead = result.costs(), result.overhead()
    assert list(costs["way"]) == [ALL, *COLLECTORS, PSUTIL]
    assert (costs["median_us"] > 0).all()
    assert list(overhead["way"]) == [ALONE, "every 50 ms", "every 10 ms"]
    assert overhead["cpu_percent"].isna().tolist() == [True, False, False]
    assert (overhead["cpu_percent"].dropna() >= 0).all()
    assert (every(2), every(0.25)) == ("every 2 s", "every 250 ms")


def test_the_samples_of_the_watched_batch_are_tidy_and_tell_of_it(result):
    """The scheduler is among the watched, and its total of commands is what ran: the last sample comes after the batch."""
    samples = result.samples
    assert list(samples.columns) == ["time_s", "at", "collector", "metric", "unit", "value"]
    assert set(samples["collector"]) == {*COLLECTORS, "scheduler"}
    assert result.live.counted("scheduler", "succeeded") == pytest.approx(9)
    assert result.live.done == result.live.tasks == 9
    assert len(result.live.commands) == 9
    assert (result.live.commands["end_s"] >= result.live.commands["start_s"]).all()
    assert result.live.commands["start_s"].min() >= result.live.begun_s


def test_a_sample_looks_at_the_processes_each_time_and_only_once():
    """Otherwise the cost of a look that is remembered would be measured, or of two."""
    with Looks() as looks:
        first = looks.ways[ALL]()
        second = looks.ways[ALL]()
        looks.ways["processes"]()
        assert not math.isnan(second.values["processes"]["mean_cpu"])  # NaN where the look is the one before
        assert math.isnan(first.values["processes"]["mean_cpu"])
        assert not math.isnan(looks.ways["processes"]()["mean_cpu"])
        assert mean_cpu_s(looks.ways["processes"], 2) > 0


def test_psutil_gets_the_same_facts():
    """What does not change between two looks is the same: memory and swap of the machine, and its CPUs."""
    with Looks() as looks:
        looks.ways[ALL]()
        ours, theirs = looks.ways[ALL]().values, by_psutil()
    assert theirs["swap_used"] == pytest.approx(ours["memory"]["swap_used"], abs=1 << 30)
    assert theirs["cpus"] == sum(name.startswith("each_busy[") for name in ours["cpu"])
    assert theirs["available"] == pytest.approx(ours["memory"]["available"], rel=0.5)
    assert 0 < theirs["count"] == pytest.approx(ours["processes"]["count"], rel=0.5)


def test_a_batch_that_nobody_watches_has_no_samples_and_one_that_is_watched_costs_the_monitor_time():
    alone, watched = short_batch(ALONE, None, 5), short_batch("w", 0.001, 200)
    assert (alone.samples, alone.monitor_cpu_s, alone.done) == (0, 0.0, 5)
    assert watched.done == 200
    assert watched.samples > 0
    assert watched.monitor_cpu_s > 0
    assert watched.broken == ()


def test_a_persons_own_commands_are_watched(tmp_path):
    (tmp_path / "jobs").write_text("true\nfalse\ntrue\n")
    found = monitoring.run(budget_s=0.1, tasks=3, intervals_s=[0.1], workload=str(tmp_path / "jobs"))
    assert (found.live.tasks, found.live.done) == (3, 2)
    assert broken(found) == []
    assert any("1 of 3 watched commands did not succeed" in note for note in found.notes)


# --- what would be seen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: {"batches": (r.batches[0]._replace(done=19), *r.batches[1:])}, "every short command succeeded"),
        (lambda r: {"batches": (r.batches[0]._replace(broken=("x",)), *r.batches[1:])}, "no collector failed"),
        (lambda r: {"live": replace(r.live, tasks=10)}, "every watched command was run"),
        (lambda r: {"live": replace(r.live, ended_s=1e9)}, "there are samples from before the batch"),
        (lambda r: {"live": replace(r.live, samples=r.samples.iloc[::-1])}, "samples are in the order of time"),
        (
            lambda r: {"live": replace(r.live, told_cpu_s=9.0, samples=without_tree(r))},
            "the commands' CPU time was seen",
        ),
    ],
)
def test_what_went_wrong_is_seen(result, change, words):
    failed = broken(replace(result, **change(result)))
    assert any(one.startswith(words) for one in failed)


def without_tree(result: MonitoringResult):
    samples = result.samples.copy()
    samples.loc[samples["collector"] == "tree", "value"] = 0.0
    return samples


def test_negative_values_and_nan_without_a_reason_are_seen(result):
    samples = result.samples.copy()
    samples.loc[samples["metric"] == "available", "value"] = math.nan
    samples.loc[samples["metric"] == "busy", "value"] = 1.5
    failed = broken(replace(result, live=replace(result.live, samples=samples)))
    assert failed == [
        "no value is negative, and no CPU was busy for more than all of the time",
        "what was never known has a reason",
    ]


# --- what follows -------------------------------------------------------------------------------------------------


def test_the_words_say_numbers(result):
    found = with_ratios(result, look=5.0, batch=0.98)
    assert "5.00x [5.00, 5.00] as cheap as psutil's loop" in found.cost_words()
    assert "every 50 ms 0.980x [0.980, 0.980] (slower; the monitor used" in found.slowed_words()
    assert found.headline()["effect"]["condition"] == ALL
    for words in (
        Headline(**found.headline()).sentence,
        found.overhead_alt(),
        found.costs_alt(),
        found.live_alt(),
        found.live_words(),
        result.details(),
    ):
        assert words
        assert "nan" not in words


def test_figures_and_tables_have_units(result):
    found = with_ratios(result, look=5.0, batch=0.98)
    overhead, costs = plots_monitoring.overhead(found.overhead()), plots_monitoring.costs(found.costs())
    speed, share = overhead.figure.axes
    assert [one.get_text() for one in speed.get_yticklabels()] == ["every 50 ms", "every 10 ms"]
    assert "% of not watched" in speed.get_xlabel()
    assert "95 % interval" in speed.get_xlabel()
    assert "% of one CPU" in share.get_xlabel()
    assert "(µs)" in costs.get_xlabel()
    assert len(costs.get_yticklabels()) == 2 + len(COLLECTORS)
    figure = plots_monitoring.live(result.samples, result.live.commands)
    assert [axes.get_ylabel() for axes in figure.axes][:3] == ["CPUs busy (%)", "somebody\nwaited (%)", "memory (MiB)"]
    assert figure.axes[-1].get_xlabel() == "time since the monitor began (s)"
    bars = [bar for container in figure.axes[-1].containers for bar in container if bar.get_width()]
    assert len(bars) == 9
    for one in (overhead.figure, costs.figure, figure):
        one.savefig(io.BytesIO(), format="png")
    table = tables_monitoring.overhead(found.overhead())
    assert table.loc["every 10 ms", "of its speed"] == "0.980 [0.980, 0.980]"
    assert table.loc[ALONE, "samples a batch"] == ""
    assert len(tables_monitoring.costs(result.costs())) == 2 + len(COLLECTORS)
    seen = tables_monitoring.seen(result.seen())
    assert "iB" in seen.loc[("memory", "total"), "mean"]
    assert ("scheduler", "failed") not in seen.index  # always 0
    assert seen.loc[("tree", "memory"), "remark"] == "at least"
    assert "tree, lower bound" in result.details().replace("\n    ", " ")


def test_what_a_kernel_does_not_tell_is_unknown_in_figure_and_table(result):
    samples = result.samples.copy()
    samples.loc[samples["collector"].isin(["pressure", "tree"]), "value"] = math.nan
    blind = replace(result, live=replace(result.live, samples=samples))
    figure = plots_monitoring.live(blind.samples, blind.live.commands)
    assert [one.get_text() for one in figure.axes[1].get_legend().get_texts()] == [
        f"for {word}: unknown" for word in ("cpu", "memory", "io")
    ]
    assert tables_monitoring.seen(blind.seen()).loc[("pressure", "io_some"), "mean"] == "unknown"
    assert "up to 0 processes" in blind.live_alt()


def test_a_run_is_recorded_and_pickles(result, folder):
    [recorded] = Store(folder).load("monitoring").runs
    assert len(recorded.trials) == len(result.frame)
    assert set(recorded.trials["quantity"]) == {"batch (s)", "one look (s of CPU time)"}
    assert {effect.condition for effect in recorded.effects} >= {ALL, "every 10 ms"}
    again = pickle.loads(pickle.dumps(result))
    assert again.samples.equals(result.samples)


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"budget_s": 0}, "budget_s is above 0"),
        ({"tasks": 0}, "tasks is 0"),
        ({"watched_tasks": 1.5}, "watched_tasks is 1.5"),
        ({"intervals_s": []}, "at least one"),
        ({"intervals_s": "0.1"}, "a list of seconds"),
        ({"intervals_s": [0.1, 0]}, "from 0.001 to 60, and not 0"),
        ({"intervals_s": [math.nan]}, "and not nan"),
        ({"intervals_s": [0.1, 0.1]}, "must differ"),
        ({"watched_interval_s": True}, "watched_interval_s is seconds"),
        ({"workload": "/nonexistent/jobs"}, "jobs"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(InvalidInputError, match=said):
        monitoring.run(**wrong)
