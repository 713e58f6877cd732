"""The affinity experiment pins real commands, counts their real moves, leaves no spinning child, and says what to set."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from procbench import RunSettings
from procbench.cpu.processes import read_stat
from procbench.cpu.topology import CpuCache, CpuTopology, allowed_cpus, read_topology, usable_workers
from procbench.errors import InvalidInputError
from procbench.experiments import affinity, affinity_bench
from procbench.experiments.affinity_children import count_moves, read_figures, run_on, spinning
from procbench.experiments.affinity_groups import (
    ALONE,
    CHECKSUM,
    KINDS,
    MOVED,
    SORT,
    STATES,
    Batch,
    Group,
    Policy,
    Sensitivity,
)
from procbench.experiments.affinity_outcome import AffinityResult
from procbench.lab.host import read_host
from procbench.lab.results import AGAIN, Progress, Trial, Trials
from procbench.lab.store import Store
from procbench.views import plots_affinity, tables_affinity
from tests.waiting import ROOT, processes_with, wait_until

ALL = allowed_cpus()
ONE = frozenset({min(ALL)})
NO_PIN = Policy("none", ("node",), (frozenset({0, 1}),) * 2)
CORE = Policy("core", ("spread",), (frozenset({0}), frozenset({1})))
SHOWN = not math.isnan(read_figures(os.getpid()).migrations)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> AffinityResult:
    return affinity.run(budget_s=3, data_dir=tmp_path_factory.mktemp("data"))


# --- a real run -----------------------------------------------------------------------------------------------------


def test_what_must_hold_holds(result: AffinityResult) -> None:
    """All invariants are true, and both kinds ran idle and contended by every way of pinning that differs."""
    assert all(result.invariants().values()), result.invariants()
    pins = [policy.name for policy in result.policies]
    assert pins[0] == "none"
    assert len(result.throughput) == len(result.tails) == len(result.moves) == len(KINDS) * len(STATES) * len(pins)
    assert not result.unrecorded


def test_its_values_are_tidy(result: AffinityResult) -> None:
    """The frame has one row for each trial with its factors and what its commands did."""
    frame = result.frame
    assert {"value", "pin", "kind", "state", "block", "p50_ms", "p95_ms", "p99_ms", "involuntary_switches"} <= set(
        frame
    )
    assert (frame["value"] > 0).all()
    assert (frame["p50_ms"] <= frame["p99_ms"]).all()
    assert frame[["kind", "state", "failed"]].notna().all(axis=None)


def test_migrations_are_counted_or_unknown_and_said_to_be(result: AffinityResult) -> None:
    """Migrations are the kernel's count, or missing with a note; a command pinned to one CPU has none but its first placing."""
    moves = result.moves
    assert moves["migrations"].notna().all() == SHOWN
    assert any(note.startswith("migrations: unknown") for note in result.notes) is not SHOWN
    if SHOWN:
        assert (moves["migrations"] >= 0).all()
        assert (moves.loc[moves["pin"] == "core", "migrations"] <= 1).all()
    assert (moves["voluntary"] >= 0).all()


def test_what_it_suggests_is_a_change_of_settings(result: AffinityResult) -> None:
    """The suggestion, empty or not, is a change that RunSettings takes; headline and details say the advice."""
    for kind in (None, *KINDS):
        change = result.suggestion(kind)
        assert RunSettings().changed(**change).to_dict().items() >= change.items()
    assert result.headline()["sentence"].endswith(result.advice())
    assert result.advice()[:40] in result.details()


def test_a_recorded_run_can_be_read(result: AffinityResult, tmp_path: Path) -> None:
    """record() writes a run that the store lists under the experiment's word."""
    assert result.record(tmp_path).exists()
    assert len(Store(tmp_path).load("affinity").frame()) == len(result.frame)


def test_its_figures_show_every_way_in_both_states(result: AffinityResult) -> None:
    """Each figure has two panels, a row for each way of pinning, units on the axis, and a legend with both kinds."""
    rows = len(result.policies)
    for figure, ticks, unit in (
        (plots_affinity.throughput(result.throughput), rows, "commands per second"),
        (plots_affinity.tails(result.tails), rows, "ms"),
        (plots_affinity.moves(result.moves), rows * len(STATES), "per command"),
    ):
        first, second = figure.axes
        assert len(first.get_yticklabels()) == ticks
        assert first.get_title(loc="left") != second.get_title(loc="left")
        assert unit in figure.get_supxlabel()
        assert {SORT, CHECKSUM} <= {text.get_text() for text in figure.legends[0].get_texts()}


def test_its_tables_and_alternative_texts_name_every_way(result: AffinityResult) -> None:
    """Tables have a row for each way of pinning, texts name each."""
    for table in (tables_affinity.rates(result.throughput), tables_affinity.tails(result.tails)):
        assert len(table) == len(result.throughput)
        assert table.loc[(SORT, "idle", "none"), "verdict"] == "the baseline"
    assert list(tables_affinity.costs(result.costs).index) == list(result.costs["kind"])
    for policy in result.policies:
        assert all(policy.name in text for text in (result.throughput_alt(), result.tails_alt(), result.moves_alt()))


# --- bad input and interrupts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"budget_s": 0}, {"budget_s": math.nan}, {"workers": -1}, {"workers": 1.5}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    """Nothing runs where a number makes no sense."""
    with pytest.raises(InvalidInputError):
        affinity.run(**wrong)  # type: ignore[arg-type]


def test_a_machine_without_the_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program that is missing is named before anything runs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInputError, match="sort and sha256sum"):
        affinity.run(budget_s=1)


def test_ctrl_c_on_the_contended_machine_keeps_what_is_finished_and_ends_the_spinning_children(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ctrl-C while children spin ends them all, keeps the finished blocks, and says so where the run is recorded."""
    spun: list[int] = []

    def watched(count: int) -> object:
        spun.append(count)
        return spinning(count)

    def struck(progress: Progress) -> None:
        if spun and progress.blocks:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(affinity_bench, "spinning", watched)
    (tmp_path / "file").write_text("")
    found = affinity.run(budget_s=3, on_progress=struck, data_dir=tmp_path / "file")
    assert [(group.kind, group.state) for group in found.groups] == [(SORT, "idle"), (SORT, "contended")]
    assert found.groups[1].trials.stopped_because == "interrupted"
    assert len(found.groups[1].batches) == len(found.groups[1].trials.trials)
    assert spun == [usable_workers()]
    assert "not recorded" in found.details()
    assert not found.invariants()["both kinds ran idle and contended"]
    assert found.headline()["sentence"]  # that no child is left, the guard around every test sees


def test_ctrl_c_before_anything_is_finished_is_ctrl_c() -> None:
    """There is nothing to keep, so the interrupt goes on to the caller."""
    with pytest.raises(KeyboardInterrupt):
        affinity.run(budget_s=3, on_progress=lambda _: signal.raise_signal(signal.SIGINT))


# --- the spinning children ------------------------------------------------------------------------------------------


def test_spinning_children_use_their_cpus_and_are_gone_afterwards() -> None:
    """As many children as asked for really spin; none is left, by whatever way the block is left."""
    pids: list[int] = []

    def interrupted() -> None:
        with spinning(2) as spinners:
            pids.extend(child.pid for child in spinners.children)
            wait_until(lambda: all(read_stat(pid).cpu_ticks > 10 for pid in pids), "both spin")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def test_how_much_they_had_and_whether_all_ran_is_told() -> None:
    """A child that ended too early is told of; otherwise the CPUs that they had are above none."""
    with spinning(1) as spinners:
        wait_until(lambda: read_stat(spinners.children[0].pid).cpu_ticks > 10, "it spins")
    assert spinners.all_ran
    assert 0 < spinners.cpus_had <= 1.2
    with spinning(2) as struck:
        os.kill(struck.children[0].pid, signal.SIGKILL)
        wait_until(lambda: read_stat(struck.children[0].pid).state == "Z", "it has ended")
    assert not struck.all_ran


def test_a_killed_experiment_leaves_no_child_spinning() -> None:
    """Spinning children end by themselves when the experiment is killed and cannot end them."""
    code = (
        "import sys, time\nfrom procbench.experiments.affinity_children import spinning\n"
        "with spinning(2) as spinners:\n print(*[child.pid for child in spinners.children], flush=True)\n time.sleep(90)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) as experiment:
        assert experiment.stdout is not None
        pids = {int(pid) for pid in experiment.stdout.readline().split()}
        assert len(pids) == 2
        experiment.kill()
    wait_until(lambda: not pids & set(processes_with(f"\0{experiment.pid}\0")), "both have ended")


# --- counting and forcing moves -------------------------------------------------------------------------------------


def test_counted_commands_run_where_they_are_pinned_and_each_is_counted_once() -> None:
    """Every command runs once, on a CPU of its worker's set, and its status is told."""
    commands = [["sh", "-c", f"exit {number}"] for number in range(6)]
    found = count_moves(commands, [ONE, ONE], os.environ)
    assert sorted(figures.returncode for _, figures in found) == list(range(6))
    assert {figures.last_cpu for _, figures in found} <= ONE
    assert {worker for worker, _ in found} <= {0, 1}
    assert allowed_cpus() == ALL  # the threads pinned themselves, not this one


def test_a_command_ended_by_a_signal_has_its_number() -> None:
    """The status of a counted command is negative for a signal."""
    [(_, figures)] = count_moves([["sh", "-c", "kill -TERM $$"]], [None], os.environ)
    assert figures.returncode == -signal.SIGTERM


@pytest.mark.skipif(len(ALL) < 2 or not SHOWN, reason="needs two CPUs and a kernel that shows migrations")
def test_a_command_that_is_moved_by_force_shows_its_moves() -> None:
    """The kernel's own count sees the moves that were forced, and none more than its first placing where none was."""
    argv = ["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"]
    here, there = sorted(ALL)[:2]
    moved = run_on([here, there], argv, os.environ)
    os.sched_setaffinity(0, {there})  # the child begins there too, so that the kernel cannot move it before it is put
    try:
        alone = run_on([here], argv, os.environ)
    finally:
        os.sched_setaffinity(0, ALL)
    assert alone.migrations <= 1 < moved.migrations
    assert alone.cpu_s > 0
    assert alone.returncode == 0
    assert alone.last_cpu == here


def test_a_kernel_that_shows_no_moves(tmp_path: Path) -> None:
    """Where /proc/<pid>/sched is missing, or has other lines, what it does not say is NaN and never invented."""
    own = tmp_path / "7"
    own.mkdir()
    (own / "stat").write_bytes(Path("/proc/self/stat").read_bytes())
    assert math.isnan(read_figures(7, proc=tmp_path).migrations)
    (own / "sched").write_text("sh (7, #threads: 1)\n-----\nse.sum_exec_runtime  :  12.5\npolicy : x\n")
    found = read_figures(7, 3, tmp_path)
    assert (found.cpu_s, found.returncode) == (0.0125, 3)
    assert math.isnan(found.migrations)
    (own / "sched").write_text("se.nr_migrations      :      4\n")
    assert read_figures(7, proc=tmp_path).migrations == 4


# --- ways of pinning ------------------------------------------------------------------------------------------------


def machine(cores: int, threads: int, caches: int) -> CpuTopology:
    """Return cores with SMT siblings numbered as the kernel mostly does, and so many last-level caches of 32 MiB."""
    online = range(cores * threads)
    siblings = tuple(frozenset(range(core, cores * threads, cores)) for core in range(cores))
    per = cores // caches
    shared = [frozenset().union(*siblings[first * per : (first + 1) * per]) for first in range(caches)]
    last = tuple(CpuCache(3, "Unified", 32 << 20, cpus) for cpus in shared)
    nodes = (frozenset(online),)
    return CpuTopology("model", frozenset(online), cores, 1, siblings, nodes, 32 << 20, caches=last)


def test_ways_that_give_the_same_sets_are_measured_once() -> None:
    """On two cores with one cache there is one way besides none; all names stand in a label."""
    policies = affinity.distinct_policies(2, machine(2, 1, 1), frozenset({0, 1}))
    assert [policy.label for policy in policies] == ["none = cache = node", "core = spread = compact"]
    assert policies[0].sets == (frozenset({0, 1}),) * 2


def test_ways_that_differ_are_kept_apart() -> None:
    """With SMT, two caches and fewer workers than CPUs more ways differ; which worker has which set does not matter."""
    policies = affinity.distinct_policies(4, machine(4, 2, 2), frozenset(range(8)))
    names = {policy.name: policy for policy in policies}
    assert {"none", "core", "compact", "cache"} <= set(names)
    assert {name for policy in policies for name in (policy.name, *policy.same)} == {
        "none",
        "core",
        "spread",
        "compact",
        "cache",
        "node",
    }
    [only] = affinity.distinct_policies(1, machine(1, 1, 1), frozenset({0}))
    assert only.name == "none"
    assert len(only.same) == 5


def test_the_text_fits_a_share_of_the_cache() -> None:
    """The text is a CPU's share of the last cache at most, whole lines, and longer with more workers."""
    small = replace(machine(2, 1, 1), caches=(CpuCache(3, None, 1 << 20, frozenset({0, 1})),))
    assert affinity.text_bytes(small, 2, full=True) == 128 << 10
    assert affinity.text_bytes(machine(2, 1, 1), 2, full=False) == 256 << 10
    assert affinity.text_bytes(machine(2, 1, 1), 16, full=False) == 1 << 20
    assert affinity.text_bytes(replace(small, caches=None), 2, full=False) == 256 << 10
    assert affinity.text_bytes(machine(2, 1, 1), 2, full=True) % affinity_bench.LINE_BYTES == 0


def test_commands_are_asked_which_cpus_they_have() -> None:
    """A way of pinning that commands do not keep to is seen."""
    workers = usable_workers()
    [first, *_] = affinity.distinct_policies(workers, read_topology(), ALL)
    assert affinity.commands_have(first, workers)
    assert not affinity.commands_have(first._replace(sets=(frozenset({10_000}),) * workers), workers)


# --- what it says ---------------------------------------------------------------------------------------------------


def trials(values: dict[str, float], baseline: str, *, larger_is_better: bool = True) -> Trials:
    """Return eight blocks in which each condition has its value, a little different in every block."""
    found = [
        Trial(block, place, name, value * (1 + 0.001 * ((block * 7 + place) % 5)), block == 0, 0.0)
        for block in range(9)
        for place, (name, value) in enumerate(values.items())
    ]
    factors = {name: {"pin": name.removesuffix(AGAIN)} for name in values}
    return Trials(tuple(found), factors, baseline, larger_is_better, 0.95, 0, "budget", 1.0)


def group(kind: str, state: str, core: float, tail: float = 1.0) -> Group:
    """Return a measurement in which ``core`` runs that many times as many commands as none."""
    values = {"none": 100.0, "core": 100.0 * core, f"none{AGAIN}": 100.0}
    made = trials(values, "none")
    walls = {"none": 0.01, "core": 0.01 / tail, f"none{AGAIN}": 0.01}
    batches = tuple(Batch((walls[one.condition],) * 10, 0.05, 10, 20, 0) for one in made.trials)
    counted = {"none": (0.5,) * 8, "core": (0.0,) * 8}
    spinners = 0 if state == "idle" else 2
    return Group(kind, state, made, batches, counted, True, spinners, True, 1.0)


def outcome(*groups: Group, policies: tuple[Policy, ...] = (NO_PIN, CORE)) -> AffinityResult:
    """Return a result of these measurements."""
    in_force = {"none": True, "core": True}
    host = read_host(sample_s=0)
    return AffinityResult(groups, (), policies, in_force, 2, host=host, warnings=[], parameters={})


def test_a_way_that_is_better_and_nowhere_worse_is_suggested() -> None:
    """What helps one kind and harms none is suggested for all, and the advice says where it helped and how much."""
    found = outcome(group(SORT, "idle", 1.0), group(SORT, "contended", 1.2), group(CHECKSUM, "idle", 1.0))
    assert found.suggestion() == found.suggestion(SORT) == {"pin": "core"}
    assert found.suggestion(CHECKSUM) == {}
    assert found.advice() == "Set {'pin': 'core'} in RunSettings: 1.20 times as many per second of sort contended."
    assert "core = spread: 1 better, no difference shown in 2" in found.headline()["sentence"]


def test_a_way_that_helps_one_kind_and_harms_another_is_advised_for_the_one() -> None:
    """Nothing is suggested for all commands; the advice names the kind that is helped."""
    found = outcome(group(SORT, "idle", 1.3), group(CHECKSUM, "idle", 0.8))
    assert found.suggestion() == {}
    assert found.suggestion(SORT) == {"pin": "core"}
    assert "for commands like sort {'pin': 'core'}, 1.30 times" in found.advice()
    assert "1 worse" in found.headline()["sentence"]


def test_a_way_that_helps_a_kind_idle_and_harms_it_contended_is_not_suggested() -> None:
    """A kind that is helped in one state and harmed in the other is left as it is."""
    found = outcome(group(SORT, "idle", 1.3), group(SORT, "contended", 0.8))
    assert found.suggestion(SORT) == {}
    assert "helps in one comparison harms in another" in found.advice()


def test_where_nothing_is_shown_it_says_so() -> None:
    """No difference is said to be none shown, in the headline and in the details."""
    found = outcome(group(SORT, "idle", 1.0), group(SORT, "contended", 1.0, tail=2.0))
    assert found.suggestion() == {}
    assert "no difference shown in 2" in found.headline()["sentence"]
    assert found.advice().startswith("No way of pinning is shown to run more commands per second than none")
    assert "no difference shown" in found.details()
    assert "95th percentile 2.00 [2.00, 2.00] times as short (better)" in " ".join(found.details().split())


def test_a_machine_on_which_all_ways_are_the_same() -> None:
    """With one way left there is nothing to compare, and every text and figure says or bears it."""
    alone = group(SORT, "idle", 1.0)
    kept = tuple(zip(alone.trials.trials, alone.batches, strict=True))
    values = [(one, batch) for one, batch in kept if one.condition != "core"]
    factors = {name: own for name, own in alone.trials.factors.items() if name != "core"}
    own = replace(alone.trials, trials=tuple(one for one, _ in values), factors=factors)
    found = outcome(replace(alone, trials=own, batches=tuple(batch for _, batch in values)), policies=(NO_PIN,))
    assert found.suggestion() == {}
    assert found.advice().startswith("All ways of pinning come to the same")
    assert found.headline()["effect"] is None
    assert len(tables_affinity.rates(found.throughput)) == 1
    assert plots_affinity.throughput(found.throughput).axes


def test_unknown_migrations_are_said_to_be_unknown() -> None:
    """Where the kernel shows none the figure and its text say so, and no number stands for them."""
    found = outcome(replace(group(SORT, "idle", 1.0), migrations={"none": (math.nan,) * 8, "core": (math.nan,) * 8}))
    assert found.moves["migrations"].isna().all()
    assert "unknown" in found.moves_alt()
    panel = plots_affinity.moves(found.moves).axes[0]
    assert [text.get_text() for text in panel.texts] == ["this kernel shows none"]


def test_the_cost_of_a_move_is_what_more_moves_cost() -> None:
    """The cost is the more of CPU time for each more of moves, block by block; a block without more counts for nothing."""
    made = trials({ALONE: 0.010, MOVED: 0.012, ALONE + AGAIN: 0.010}, ALONE, larger_is_better=False)
    exact = replace(
        made, trials=tuple(replace(one, value=0.012 if one.condition == MOVED else 0.010) for one in made.trials)
    )
    counts = tuple(5.0 if one.condition == MOVED and one.block != 3 else 1.0 for one in exact.trials)
    found = Sensitivity(SORT, exact, counts)
    assert found.cost_s() == pytest.approx([0.0005] * 7)
    [row] = replace(outcome(group(SORT, "idle", 1.0)), sensitivity=(found,)).costs.to_dict("records")
    assert row["cost_us"] == pytest.approx(500)
    assert row["low"] > 0
