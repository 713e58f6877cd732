"""The priority experiment, tiny: real children, real shares and waits, figures and tables of what came out."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from procbench import RunSettings
from procbench.errors import InvalidInputError, PermissionDeniedError, ProcessGoneError
from procbench.experiments import priority, priority_intervals, priority_shares, priority_waits
from procbench.experiments.priority_children import Children
from procbench.experiments.priority_outcome import PriorityResult
from procbench.lab.store import Store
from procbench.views import plots_priority, tables_priority
from procbench.views.headline import Headline
from tests.waiting import ROOT, SYSTEM_PYTHON, run_python, wait_until

CPU = min(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def told() -> list[int]:
    return []


@pytest.fixture(scope="module")
def result(folder, told) -> PriorityResult:
    return priority.run(budget_s=1, data_dir=folder, on_progress=lambda progress: told.append(progress.blocks))


def test_the_invariants_hold(result):
    assert all(result.invariants().values()), result.invariants()


def test_every_nice_value_policy_limit_and_kind_of_ageing_is_there(result, told):
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert list(result.shares()["pair"]) == [
        f"nice {own}",
        *(f"nice {nice}" for nice in (0, 5, 10, 15, 19) if nice > own),
        "policy idle",
    ]
    wanted = {"fifo", "other", "batch", "idle"}
    assert set(result.wake_ups()["policy"]) == wanted - set(result.left_out)
    assert set(result.limited()["limit"]) == {0.25, 0.5}
    assert set(result.waits()["ageing"]) == {"without ageing", "ageing_s=0.04"}
    assert told == [1, 2, 3, 4]


def test_expected_shares_are_those_of_the_kernels_table(result):
    pairs = {pair.nice: pair.expected for pair in result.pairs}
    weights = {0: 1024, 5: 335, 10: 110, 15: 36, 19: 15, None: 3}
    own = weights.get(os.getpriority(os.PRIO_PROCESS, 0))
    if own is None:
        pytest.skip("the tester is niced")
    assert pairs == {nice: weights[nice] / (weights[nice] + own) for nice in pairs}
    assert [priority_shares.weight(nice) for nice in (-20, -1, 1, 18)] == [88761, 1277, 820, 18]


def test_what_a_child_is_given_is_in_force_before_it_is_measured(monkeypatch):
    """Nice value, policy and CPU are the kernel's answers at the time of the windows."""
    seen = []
    real = priority_shares._windows

    def watched(children, window_s):
        ids = [child.pid for child in children]
        seen.append(
            [
                (
                    os.getpriority(os.PRIO_PROCESS, pid),
                    os.sched_getscheduler(pid),
                    os.sched_getaffinity(pid),
                    os.getsid(pid),
                )
                for pid in ids
            ]
        )
        return real(children, window_s)

    monkeypatch.setattr(priority_shares, "_windows", watched)
    monkeypatch.setattr(priority_shares, "_SHORTEST_S", 0.01)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    [*some] = priority_shares.measure_pairs([CPU], 0.1)
    assert len(some) == len(seen)
    seconds = [second for _, second in seen]
    assert [second[0] for second in seconds[1:]] == [*(n for n in (19, 15, 10, 5, 0) if n > own), own]
    assert seconds[0][1] == os.SCHED_IDLE
    everyone = [one for two in seen for one in two]
    assert {frozenset(one[2]) for one in everyone} == {frozenset({CPU})}
    assert {one[3] for one in everyone} == {os.getsid(0)}  # or autogroup would weigh sessions and not children


def test_a_policy_that_is_refused_is_left_out_by_name(monkeypatch):
    real = priority_waits.ProcessPriorityManager.set

    def refusing(self, pid, **values):
        if values.get("policy") == "fifo":
            raise PermissionDeniedError(1, "needs CAP_SYS_NICE or RLIMIT_RTPRIO")
        return real(self, pid, **values)

    monkeypatch.setattr(priority_waits.ProcessPriorityManager, "set", refusing)
    found, left_out = priority_waits.measure_lateness(CPU, 0.1, 0)
    assert "RLIMIT_RTPRIO" in left_out["fifo"]
    assert {one.policy for one in found} == {"other", "batch", "idle"}


ORDINARY = """
import os
from procbench.experiments import priority_shares, priority_waits
cpu = min(os.sched_getaffinity(0))
found, left_out = priority_waits.measure_lateness(cpu, 0.1, 0)
pairs = [one for some in priority_shares.measure_pairs([cpu], 0.1) for one in some]
print(*sorted({one.policy for one in found}), len(pairs), "RLIMIT_RTPRIO" in left_out["fifo"])
"""


@pytest.mark.skipif(
    os.geteuid() != 0
    or os.getpriority(os.PRIO_PROCESS, 0) != 0
    or not SYSTEM_PYTHON.exists()
    or shutil.which("setpriv") is None
    or len(os.sched_getaffinity(0)) < 2,
    reason="only root may become nobody, and with one CPU real-time is refused to everybody",
)
def test_an_ordinary_user_gets_all_but_real_time():
    """Nothing has to be put back for which there is no right: the children are gone by then."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    assert run_python(ORDINARY, before=nobody, python=SYSTEM_PYTHON) == "batch idle other 6 True"


def test_where_no_cgroup_can_be_had_the_notes_say_so(monkeypatch, result):
    real = priority_shares.CpuLimiter
    monkeypatch.setattr(priority_shares, "CpuLimiter", lambda share, **_: real(share, by_cgroup=False))
    limits = tuple(one for some in priority_shares.measure_limits([CPU], 0.1) for one in some)
    assert {one.mechanism for one in limits} == {"duty cycle"}
    assert any(note.startswith("cgroup: left out") for note in priority._notes(result.pairs, limits))


def test_every_low_task_waits_for_the_streams_end_without_ageing_and_not_with_it():
    without, with_ageing = priority_waits.measure_starvation(1)
    assert without.in_order
    assert with_ageing.in_order
    assert min(without.waits_s[0]) > 0
    assert min(without.high_commands) > 1


def test_a_queue_that_ages_nobody_is_seen(monkeypatch):
    """The check of the bound goes red when tasks do not age."""
    real = priority_waits._stream

    def never_ages(settings):
        return real(settings.changed(ageing_s=None))

    monkeypatch.setattr(priority_waits, "_stream", never_ages)
    without, with_ageing = priority_waits.measure_starvation(1)
    assert without.in_order
    assert not with_ageing.in_order


def test_children_are_gone_after_an_error_and_a_stopped_one_too():
    pids = []

    def fail():
        with Children() as children:
            pids.extend(start(CPU).pid for start in (children.spinning, children.sleeping, children.spinning))
            os.kill(pids[-1], signal.SIGSTOP)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(pids) == 3
    for pid in pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def test_a_sleeper_that_ended_is_said():
    with Children() as children:
        sleeper = children.sleeping(CPU)
        assert len(sleeper.lateness_ns(0.02)) >= 1
        os.kill(sleeper.pid, signal.SIGKILL)
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises((ProcessGoneError, BrokenPipeError)):
            sleeper.lateness_ns(0.02)


def test_cpu_time_is_the_kernels():
    with Children() as children:
        child = children.spinning(CPU)
        wait_until(lambda: child.cpu_time_ns() > 30_000_000, "the child's CPU time")
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        assert ticks <= child.cpu_time_ns() / 1e9 + 0.02


def others_in_session(leader):
    """Return the pids of a session, its leader's excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != leader:
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
    return found


RUN = """
import sys
from procbench.experiments import priority
print("ready", flush=True)
priority.run(budget_s=60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_child_spins_on_when_the_experiment_is_ended(number):
    """Ctrl-C ends the children at once; if the experiment is killed, each of them sees it and ends by itself."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        [sys.executable, "-c", RUN], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert started.stdout.readline() == b"ready\n"
        wait_until(lambda: len(others_in_session(started.pid)) >= 2, "the children")
        started.send_signal(number)
        assert started.wait(60) == -number
        wait_until(lambda: not others_in_session(started.pid), "the children's end")
    finally:
        for pid in others_in_session(started.pid):
            os.kill(pid, signal.SIGKILL)
        started.kill()
        started.wait()
        started.stdout.close()


def test_the_suggestion_is_a_change_of_settings(result):
    change = result.suggestion()
    assert RunSettings().changed(**change).policy == change.get("policy")
    assert result.advice() in result.headline()["sentence"]


def test_where_nothing_is_shown_nothing_is_suggested(result):
    alike = dataclasses.replace(result.pairs[0], name="policy idle", nice=None)
    same = dataclasses.replace(result, pairs=(*result.pairs[:-1], alike))
    assert same.suggestion() == {}
    assert "shown" in same.advice()


def test_the_words_say_numbers(result):
    headline = Headline(**result.headline())
    alts = (result.shares_alt(), result.wake_ups_alt(), result.limited_alt(), result.waits_alt())
    for words in (headline.sentence, headline.picture_alt, *alts, result.details()):
        assert words
        assert "nan" not in words
    assert headline.effect_text()


def test_the_mean_and_its_interval_are_students():
    mean, low, high = priority_intervals.mean_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert 2 - low == high - 2 == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert math.isnan(priority_intervals.mean_interval([1.0])[1])


def test_a_share_is_of_all_windows_together_and_its_interval_holds_it():
    """Also where a window held no slice of either child."""
    share, low, high = priority_intervals.share_interval((0.2, 0.0, 0.3, 0.25), (0.6, 0.0, 0.8, 0.85))
    assert share == pytest.approx(0.25)
    assert 0.2 < low < share < high < 0.3
    assert priority_intervals.share_interval((0.2, 0.3), (0.6, 0.9)) == pytest.approx((0.25, 0.25, 0.25))
    assert priority_intervals.share_interval((0.0, 0.0), (0.0, 0.0))[0] == 0


def test_the_tails_interval_lacks_the_end_that_no_value_can_be():
    value, low, high = priority_intervals.tail_interval(range(1, 1001))
    assert value == 990
    assert low < value < high <= 1000
    assert math.isnan(priority_intervals.tail_interval(range(100))[2])


def test_figures_and_tables_have_units(result):
    shares, late = plots_priority.shares(result.shares()), plots_priority.wake_ups(result.wake_ups())
    limited, waits = plots_priority.limited(result.limited()), plots_priority.waits(result.waits())
    assert "(%)" in shares.get_ylabel()
    assert "µs" in late.xaxis.get_major_formatter()(100, 0)
    assert "CPUs" in limited.get_xlabel()
    assert "(s)" in waits.get_xlabel()
    for axes in (shares, late, limited, waits):
        axes.figure.savefig(io.BytesIO(), format="png")
    for table in (
        tables_priority.shares(result.shares()),
        tables_priority.wake_ups(result.wake_ups()),
        tables_priority.limited(result.limited()),
    ):
        assert len(table)
        assert "nan" not in table.to_string()


def test_a_child_that_had_no_turn_at_all_can_be_drawn_and_compared(result):
    idle = result.pairs[-1]
    none = dataclasses.replace(idle, cpus=(0.0,) * len(idle.cpus))
    starved = dataclasses.replace(result.pairs[1], first_cpus=(0.0,) * 6)
    changed = dataclasses.replace(result, pairs=(result.pairs[0], starved, *result.pairs[2:-1], none))
    plots_priority.shares(changed.shares()).figure.savefig(io.BytesIO(), format="png")
    assert len(changed.share_effects()) == len(changed.pairs) - 1


def test_a_run_is_recorded_and_pickles(result, folder):
    [recorded] = Store(folder).load("priority").runs
    assert len(recorded.trials) == len(result.frame)
    assert pickle.loads(pickle.dumps(result)).suggestion() == result.suggestion()


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, True])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        priority.run(budget_s=wrong)
