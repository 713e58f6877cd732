"""Batches of known shape: what they are made of, who hands them out, and what came of them, tiny but real."""

import math
import pickle
import random
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import makespan as benchmark
from procbench.errors import UnsupportedError
from procbench.experiments import makespan, workload
from procbench.experiments.makespan_outcome import ALL, ALONE, LONGEST_LAST, SHAPES, SKEWED, UNIFORM, Makespan, Ran
from procbench.experiments.makespan_ways import LONGEST_FIRST, SHARED, STATIC, STEALING, WAYS, TimedBatch
from procbench.experiments.workload import CalibratedWork, calibrate
from procbench.lab.results import AGAIN, Trial, Trials
from procbench.scheduling.task import ProcessTask

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tiny():
    """The smallest that is measured: a block or more."""
    return makespan.measure_makespan(2, 0.1)


# --- the work -----------------------------------------------------------------------------------------------------------


def test_calibrated_work_is_more_commands_for_more_seconds():
    work = CalibratedWork(start_s=0.001, piece_s=0.000_002)
    assert work.command(0.021)[-1] == "count=10000"
    assert work.command(0.0)[-1] == "count=1"


def test_a_calibrated_command_works_for_as_long_as_was_asked():
    """CPU time, because a busy machine lets commands wait: of twenty times the work, at least five times as much."""
    work = calibrate()
    short, long = (workload.run(work.command(seconds), stderr=subprocess.DEVNULL) for seconds in (0.01, 0.2))
    assert long.returncode == 0
    assert long.user_s + long.system_s > 5 * (short.user_s + short.system_s)


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 1\n", "#!/bin/sh\nexit 0\n"])
def test_work_that_cannot_be_done_is_refused(script, tmp_path, monkeypatch):
    """No dd, one that fails, and one whose time does not grow with its work."""
    if script is not None:
        (tmp_path / "dd").write_text(script)
        (tmp_path / "dd").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(workload, "_MOST_PIECES", 4_000)
    monkeypatch.setattr(workload, "_CALIBRATED_S", 30.0)
    with pytest.raises(UnsupportedError, match="dd"):
        calibrate()


# --- shapes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3, 16, 64])
def test_every_shape_is_the_same_work(workers):
    count = makespan.TASKS_PER_WORKER * max(workers, 2)
    for lengths in (
        makespan.uniform(count, 3.0),
        makespan.skewed(count, 3.0, workers),
        makespan.longest_last(count, 3.0, workers),
    ):
        assert len(lengths) == count
        assert sum(lengths) == pytest.approx(3.0)
        assert min(lengths) > 0


@pytest.mark.parametrize(("count", "workers"), [(24, 2), (400, 2), (400, 4), (768, 64)])
def test_the_longest_of_a_skewed_batch_takes_its_share(count, workers):
    lengths = makespan.skewed(count, 1.0, workers)
    assert lengths == sorted(lengths)
    assert lengths[-1] * workers == pytest.approx(makespan.LONGEST_SHARE, rel=1e-3)
    # Pareto: the logarithm of a length falls in a straight line with that of its rank.
    logs = [(math.log((count - place - 0.5) / count), math.log(length)) for place, length in enumerate(lengths)]
    assert statistics.correlation(*zip(*logs, strict=True)) == pytest.approx(-1)


def test_the_longest_is_handed_in_last_and_takes_the_bound_alone():
    lengths = makespan.longest_last(24, 2.0, 4)
    assert lengths[-1] == max(lengths) == 0.5
    assert len(set(lengths)) == 2


# --- ways ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("workers", [1, 3])
def test_every_way_runs_every_command_once_and_says_how_each_ended(name, workers, tmp_path):
    lines = [["sh", "-c", f"echo {place} >> {tmp_path}/{place}; exit {place % 2}"] for place in range(7)]
    tasks = [ProcessTask(argv, id=place) for place, argv in enumerate([*lines, ["/nowhere/program"]])]
    with WAYS[name](workers) as run:
        batches = [run(tasks), run(tasks)]
    for batch in batches:
        assert batch.statuses == (0, 1, 0, 1, 0, 1, 0, None)
        assert all(wall_s > 0 for wall_s in batch.walls_s[:-1])
        assert batch.walls_s[-1] == 0
        assert batch.seconds >= max(batch.walls_s[:-1])
    assert [(tmp_path / str(place)).read_text() for place in range(7)] == [f"{place}\n" * 2 for place in range(7)]


@pytest.mark.parametrize("name", WAYS)
def test_no_way_lets_output_through(name, capfd):
    with WAYS[name](1) as run:
        run([ProcessTask(["sh", "-c", "echo loud; echo loud >&2"])])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "order"), [(STEALING, "abcd"), (STATIC, "abcd"), (SHARED, "abcd"), (LONGEST_FIRST, "cbda")]
)
def test_one_worker_begins_them_in_the_order_of_the_way(name, order, tmp_path):
    expected = dict(zip("abcd", (0.1, 0.3, 0.4, 0.2), strict=True))
    tasks = [
        ProcessTask(["sh", "-c", f"printf {word} >> {tmp_path}/log"], id=word, expected_s=seconds)
        for word, seconds in expected.items()
    ]
    with WAYS[name](1) as run:
        run(tasks)
    assert (tmp_path / "log").read_text() == order


def test_a_static_split_deals_like_cards_and_nobody_helps(tmp_path):
    """The first command waits for the last of the other's share; the rest of its own share waits with it."""
    made = f"{tmp_path}/made"
    waits, after = ["sh", "-c", f"until [ -e {made} ]; do :; done"], ["test", "-e", made]
    with WAYS[STATIC](2) as run:
        batch = run([ProcessTask(argv) for argv in (waits, ["true"], after, ["true"], after, ["touch", made])])
    assert batch.statuses == (0,) * 6


def test_a_shared_queue_lets_the_others_go_on_while_one_is_busy(tmp_path):
    """The first command waits for the last: whoever does not have it runs all the others."""
    argvs = [["sh", "-c", f"until [ -e {tmp_path}/made ]; do :; done"], *[["true"]] * 5, ["touch", f"{tmp_path}/made"]]
    with WAYS[SHARED](2) as run:
        assert run([ProcessTask(argv) for argv in argvs]).statuses == (0,) * 7


# --- measuring ----------------------------------------------------------------------------------------------------------


def test_a_tiny_measurement_holds_what_must_hold(tiny):
    assert all(tiny.invariants().values()), tiny.invariants()
    assert tiny.trials.blocks >= 1
    assert len(tiny.ran) == len(tiny.trials.trials)
    table = tiny.summary()
    assert list(table["shape"].unique()) == list(SHAPES)
    assert len(table) == len(SHAPES) * len(WAYS)
    assert (table["of_bound"] > 0).all()
    assert (table.loc[table["way"] == STEALING, "verdict"] == "the baseline").all()
    assert pickle.loads(pickle.dumps(tiny)).trials == tiny.trials


def test_all_of_a_block_have_the_commands_in_one_order_and_the_next_block_in_another():
    work = CalibratedWork(0.0, 1.0)
    lengths = {SKEWED: list(range(1, 25)), UNIFORM: [1] * 24, LONGEST_LAST: [1] * 23 + [12]}
    bench = makespan._Bench(
        lengths, work, lambda tasks: TimedBatch(1.0, (0,) * len(tasks), (0.1,) * len(tasks)), seed=0
    )
    bench.per_block = 3
    orders = []

    def keep(tasks):
        orders.append([task.id for task in tasks])
        return TimedBatch(1.0, (0,) * len(tasks), (0.1,) * len(tasks))

    trial, last = bench.trial(SKEWED, STEALING, keep), bench.trial(LONGEST_LAST, STEALING, keep)
    for _ in range(6):
        trial()
    assert orders[0] == orders[1] == orders[2] != orders[3] == orders[4] == orders[5]
    last()
    assert orders[-1] == list(range(24))


def test_commands_are_expected_to_take_what_they_took_alone():
    lengths = {SKEWED: list(range(1, 25)), UNIFORM: [2] * 24, LONGEST_LAST: [1] * 23 + [12]}

    def alone(tasks):
        pieces = [float(task.argv[-1].removeprefix("count=")) for task in tasks]
        return TimedBatch(sum(pieces), (0,) * len(tasks), tuple(pieces))

    bench = makespan._Bench(lengths, CalibratedWork(0.0, 1.0), alone, seed=0)
    bench.expect()
    assert bench.ran == []
    assert [[task.expected_s for task in bench._batches[shape]] for shape in lengths] == list(lengths.values())


def made(values, walls, *, workers=2, blocks=6, statuses=(0,) * 4):
    """Return an outcome in which each condition took so long, and each command alone so long, in every block."""
    names = {f"{shape}, {way}": {"shape": shape, "way": way, "workers": workers} for shape in SHAPES for way in WAYS}
    names |= {f"{SKEWED}, {STEALING}{AGAIN}": names[f"{SKEWED}, {STEALING}"]}
    names |= {f"{ALL}, {ALONE}": {"shape": ALL, "way": ALONE, "workers": 1}}
    trials, ran = [], []
    for block in range(blocks + 1):
        for position, name in enumerate(names):
            value = values.get(name.removesuffix(AGAIN), 1.0) * (1 + 0.001 * ((block + position) % 3))
            trials.append(Trial(block, position, name, value, block == 0, 0.0))
            ran.append(Ran(statuses, walls if name == f"{ALL}, {ALONE}" else {}))
    measured = Trials(tuple(trials), names, f"{SKEWED}, {STEALING}", False, 0.95, 0, "blocks", 1.0)
    return Makespan(trials=measured, ran=tuple(ran), workers=workers, tasks=4)


WALLS = {UNIFORM: [0.5] * 4, SKEWED: [0.1, 0.2, 0.7, 1.0], LONGEST_LAST: [0.1, 0.1, 0.1, 1.7]}


def test_the_bound_is_the_share_of_the_sum_or_the_longest():
    outcome = made({}, WALLS)
    assert outcome.bounds_s == {UNIFORM: [1.0] * 6, SKEWED: [1.0] * 6, LONGEST_LAST: [1.7] * 6}
    table = outcome.summary().set_index(["shape", "way"])
    assert table.loc[(LONGEST_LAST, STATIC), "of_bound"] == pytest.approx(1 / 1.7, rel=0.01)
    assert table.loc[(UNIFORM, STATIC), "of_bound"] == pytest.approx(1, rel=0.01)


def test_the_gain_of_the_longest_first_is_said_or_that_none_is_shown():
    outcome = made({f"{LONGEST_LAST}, {LONGEST_FIRST}": 0.5}, WALLS)
    assert outcome.gains() == (
        "With the longest commands first a skewed batch shows no difference and one whose longest was handed in last "
        "is done 2.00 times as fast."
    )
    assert outcome.effect(LONGEST_LAST, LONGEST_FIRST).verdict == "better"
    assert f"{LONGEST_FIRST} 0.29" in outcome.alt()
    assert len(outcome.effects()) == len(SHAPES) * (len(WAYS) - 1)


def test_a_batch_that_is_not_whole_or_a_command_that_fails_is_seen():
    whole = "every batch of known shape ended whole, each command with status 0"
    assert made({}, WALLS).invariants()[whole]
    assert not made({}, WALLS, statuses=(0, 0, 1, 0)).invariants()[whole]
    assert not made({}, WALLS, statuses=(0, 0, None, 0)).invariants()[whole]
    assert not made({}, WALLS, statuses=(0, 0, 0)).invariants()[whole]


def test_a_block_that_lacks_a_way_is_seen():
    outcome = made({}, WALLS)
    lacking = replace(outcome, trials=replace(outcome.trials, trials=outcome.trials.trials[1:]), ran=outcome.ran[1:])
    assert not lacking.invariants()["every shape was run every way in every block"]


def test_too_few_blocks_are_said():
    few = made({}, WALLS, blocks=3)
    assert "only 3 blocks of them fitted in; an interval needs 6" in few.details()[1]
    assert few.summary()["of_bound_low"].isna().all()
    assert len(made({}, WALLS).details()) == 1


# --- the benchmark ------------------------------------------------------------------------------------------------------


def test_the_benchmark_runs_every_way_and_prints_every_ratio(capsys):
    random.seed(0)
    benchmark.report(1, tasks=12, mean_s=0.002)
    lines = capsys.readouterr().out.strip().splitlines()
    assert "12 commands" in lines[0]
    assert [line.split("; ")[0].split("]  ")[-1].strip() for line in lines[1:]] == [
        *(f"times the bound: {way}" for way in benchmark.ORDER),
        *(f"times as fast: {LONGEST_FIRST} against {way}" for way in benchmark.ORDER[1:]),
        "what the order allows",
        "times the bound: list scheduling in each round's order",
        f"lengths among others: {STEALING}'s order",
        f"times that: {STEALING}",
        f"lengths among others: {LONGEST_FIRST}'s order",
        f"times that: {LONGEST_FIRST}",
        "times the bound: list scheduling in 2,000 orders",
    ]
    assert sum("wanted" in line for line in lines) == 3


def test_the_benchmark_says_whether_what_is_wanted_is_met(capsys):
    benchmark._show([1.0, 1.1, 1.3], "a", at_most=1.1)
    benchmark._show([1.0, 1.1, 1.3], "c", at_most=1.05)
    benchmark._show([1.0, 1.1, 1.3], "b", at_least=1.2)
    assert capsys.readouterr().out == (
        "    1.10 [1.00, 1.30]  a; wanted <= 1.1: met\n"
        "    1.10 [1.00, 1.30]  c; wanted <= 1.05: MISSED\n"
        "    1.10 [1.00, 1.30]  b; wanted >= 1.2: MISSED\n"
    )


def test_list_scheduling_is_who_is_free_first():
    """The bound of who keeps the order: long ones last are waited for; no order takes less than the least, nor twice as much."""
    assert benchmark.list_scheduled_s([1, 1, 1, 1, 4], 2) == 6
    assert benchmark.list_scheduled_s([4, 1, 1, 1, 1], 2) == 4
    assert benchmark.list_scheduled_s([3, 1, 2, 2], 1) == 8
    drawn = benchmark.drawn_orders([4, 1, 1, 1, 1], 2, orders=200)
    assert min(drawn) == 1
    assert max(drawn) == 1.5


def test_the_longest_command_stands_once_in_each_part_of_the_batch():
    """The orders are random and whole, and luck with the longest command's place has little room."""
    batch = [ProcessTask(["true"], id=number, expected_s=number) for number in range(40)]
    for part in range(4):
        tasks = benchmark.in_new_order(batch, part, 4)
        assert sorted(int(task.id) for task in tasks) == list(range(40))
        assert part * 10 <= [task.id for task in tasks].index(39) < (part + 1) * 10


def test_a_benchmark_that_lost_a_command_is_not_measured():
    with pytest.raises(AssertionError, match="of 2 commands 1 succeeded"):
        benchmark.whole(TimedBatch(1.0, (0, None), (0.1, 0.0)), 2)


@pytest.mark.skipif(not shutil.which("dd"), reason="dd is what it runs")
def test_the_benchmark_is_a_section():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "no-such"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "makespan" in done.stderr
