"""A process is pinned with all its threads or not at all, gets back what it had, and nobody else's CPUs are ever changed."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from procbench.cpu.affinity import CpuAffinityManager
from procbench.cpu.balance import Move, Round
from procbench.cpu.managed import ManagedProcess
from procbench.cpu.pinning import pin_current_thread, process_cpus
from procbench.cpu.placement import optimal_cpus
from procbench.cpu.priorities import Priority
from procbench.cpu.processes import ProcessGuard, ProcessId, ProcessMark, read_stat, thread_ids
from procbench.cpu.topology import CpuTopology, read_topology
from procbench.errors import ClosedError, InvalidInputError, PermissionDeniedError, ProcessGoneError, UnsupportedError
from tests.waiting import ROOT, SYSTEM_PYTHON, run_python

OWN = frozenset(os.sched_getaffinity(0))
FIRST, LAST = frozenset({min(OWN)}), frozenset({max(OWN)})
MISSING = 4095  # a number that a kernel could have and this machine does not

needs_two = pytest.mark.skipif(len(OWN) < 2, reason="with one CPU every set is the same")
needs_taskset = pytest.mark.skipif(shutil.which("taskset") is None, reason="util-linux's taskset is not here")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not SYSTEM_PYTHON.exists() or shutil.which("setpriv") is None,
    reason="only root may become somebody else, with a Python that all may read",
)

THREADS = """
import sys, threading
gate = threading.Event()
for _ in range(int(sys.argv[1])):
    threading.Thread(target=gate.wait, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""

BREEDING = """
import sys, threading, time
def breed():
    while True:
        one = threading.Thread(target=time.sleep, args=(0.002,), daemon=True)
        one.start()
        one.join()
for _ in range(4):
    threading.Thread(target=breed, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


class Child:
    """A process that waits until its stdin ends; a context manager that sees it off."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(argv or ("cat",), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.process.pid
        if argv:
            assert self.process.stdout is not None
            assert self.process.stdout.readline() == b"ready\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()


def with_threads(count: int) -> Child:
    return Child(sys.executable, "-c", THREADS, str(count))


def cpus_of(tid: int) -> frozenset[int]:
    return frozenset(os.sched_getaffinity(tid))


def sets_of(pid: int) -> set[frozenset[int]]:
    """Return the CPU sets that there are among a process's threads."""
    found = set()
    for tid in thread_ids(pid):
        with contextlib.suppress(ProcessLookupError):
            found.add(cpus_of(tid))
    return found


def choose(
    priority: Priority, topology: CpuTopology, allowed: frozenset[int], loads: Mapping[int, float]
) -> frozenset[int]:
    """Do as the specification says, with no thought of cores."""
    order = sorted(allowed)
    half = (len(order) + 1) // 2
    if priority == "critical":
        return allowed
    if priority == "normal":
        return frozenset({min(order, key=lambda cpu: loads.get(cpu, 0.0))})
    return frozenset(order[:half] if priority == "high" else order[half:] or order)


def manager(
    loads: Mapping[int, float] | None = None, allowed: Callable[[], frozenset[int]] | None = None
) -> CpuAffinityManager:
    return CpuAffinityManager(choose=choose, loads=lambda: loads or {}, allowed=allowed)


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of the threads whose CPUs were set, in order."""
    seen: list[int] = []
    real = os.sched_setaffinity

    def recording(tid: int, cpus: Any) -> None:
        seen.append(tid)
        real(tid, cpus)

    monkeypatch.setattr(os, "sched_setaffinity", recording)
    return seen


@pytest.fixture(params=["pidfd", "start time"])
def known_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to know a process again: by its pidfd, and where the kernel has none by when it started."""

    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if request.param == "start time":
        monkeypatch.setattr(os, "pidfd_open", refuse)
    return str(request.param)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_cpu_that_is_not_there_is_named_and_nothing_changes() -> None:
    """C01: {0, 4095} is an error that names 4095; the kernel alone would have made {0} of it without a word."""
    with Child() as child, manager() as affinity:
        with pytest.raises(InvalidInputError, match=rf"\b{MISSING}\b"):
            affinity.pin(child.pid, {min(OWN), MISSING})
        assert cpus_of(child.pid) == OWN
        assert affinity.statistics().managed == 0


@pytest.mark.parametrize("cpus", [[], [-1], [True], ["0"], [0.0], [MISSING], [2**70]])
def test_a_set_that_makes_no_sense_is_refused(cpus: list[Any]) -> None:
    """C01: an empty set, a negative number and what is no number are errors that say so."""
    with Child() as child, manager() as affinity, pytest.raises(InvalidInputError):
        affinity.pin(child.pid, cpus)
    with pytest.raises(InvalidInputError):
        pin_current_thread(cpus)
    assert cpus_of(0) == OWN


@needs_two
def test_what_the_kernel_drops_is_found_when_it_is_read_back() -> None:
    """C01: a set that passed the check, of which the kernel drops a CPU, is an error, and every thread has its old set."""
    with with_threads(3) as child, manager(allowed=lambda: OWN | {MISSING}) as affinity:
        os.sched_setaffinity(child.pid, FIRST)
        before = {tid: cpus_of(tid) for tid in thread_ids(child.pid)}
        with pytest.raises(InvalidInputError, match=rf"\b{MISSING}\b"):
            affinity.pin(child.pid, LAST | {MISSING})
        with pytest.raises(InvalidInputError, match=rf"\b{MISSING}\b"):
            affinity.pin(child.pid, {MISSING})
        assert {tid: cpus_of(tid) for tid in thread_ids(child.pid)} == before
    with pytest.raises(InvalidInputError, match=rf"\b{MISSING}\b"):
        pin_current_thread(LAST | {MISSING}, allowed=OWN | {MISSING})
    assert cpus_of(0) == OWN


def test_nobody_has_the_pid(known_by: str) -> None:
    """A pid that nobody has is a ProcessGoneError; one that nobody can have is bad input."""
    child = Child()
    child.end()
    with manager() as affinity:
        with pytest.raises(ProcessGoneError, match=str(child.pid)):
            affinity.pin(child.pid, FIRST)
        with pytest.raises(ProcessGoneError):
            affinity.set_priority(child.pid, "high")
        for pid in (0, -1, True, "1"):
            with pytest.raises(InvalidInputError, match="pid"):
                affinity.pin(pid, FIRST)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="not managed"):
            affinity.release(child.pid)
        with pytest.raises(InvalidInputError, match="urgent"):
            affinity.optimal_cpus("urgent")  # type: ignore[arg-type]


def test_a_thread_is_no_process(known_by: str) -> None:
    """The id of a thread is refused, and the message names its process."""
    with with_threads(1) as child, manager() as affinity:
        (thread,) = thread_ids(child.pid) - {child.pid}
        with pytest.raises(InvalidInputError, match=f"process {child.pid}"):
            affinity.pin(thread, FIRST)


def test_a_zombie_has_ended(known_by: str) -> None:
    """A process that ended and was not reaped is gone, and drops out."""
    with Child() as child, manager() as affinity:
        affinity.pin(child.pid, FIRST)
        child.process.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessGoneError):
            affinity.pin(child.pid, FIRST)
        assert affinity.statistics().gone == 1


OTHER_USER = """
import os, sys
from procbench.cpu.affinity import CpuAffinityManager
from procbench.errors import PermissionDeniedError
try:
    CpuAffinityManager(choose=lambda p, t, a, l: a, loads=dict).pin(int(sys.argv[1]), os.sched_getaffinity(0))
except PermissionDeniedError as error:
    print(error.errno, "CAP_SYS_NICE" in str(error))
"""


@needs_root
def test_another_users_process_takes_a_capability(tmp_path: Path) -> None:
    """C04: an ordinary user may not pin root's process; the error names CAP_SYS_NICE, and nothing has changed."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    with Child() as child:
        os.sched_setaffinity(child.pid, FIRST)
        done = run_python(OTHER_USER, child.pid, before=tuple(nobody), python=SYSTEM_PYTHON)
        assert done.split() == [str(errno.EPERM), "True"]
        assert cpus_of(child.pid) == FIRST


# --- all its threads, or none -------------------------------------------------------------------------------------


@needs_two
def test_every_thread_is_pinned_and_gets_back_its_own() -> None:
    """C03: all threads of a running process are pinned, not just the main one, and each gets back what it had itself."""
    with with_threads(20) as child, manager() as affinity:
        odd = sorted(thread_ids(child.pid))[5]
        os.sched_setaffinity(odd, FIRST)
        record = affinity.pin(child.pid, LAST)
        assert (record.pid, record.asked, record.in_force, record.previous) == (child.pid, LAST, LAST, OWN)
        assert record.threads == 21
        assert sets_of(child.pid) == {LAST}
        affinity.pin(child.pid, FIRST)
        assert affinity.pin(child.pid, LAST).previous == FIRST
        assert affinity.release(child.pid)
        assert {tid for tid in thread_ids(child.pid) if cpus_of(tid) != OWN} == {odd}
        assert cpus_of(odd) == FIRST


@needs_two
def test_threads_that_are_born_meanwhile_are_pinned_too() -> None:
    """C03: while four threads start others without end, after each call every thread has the set; released, all are free."""
    with Child(sys.executable, "-c", BREEDING) as child, manager() as affinity:
        for turn in range(20):
            wanted = (FIRST, LAST)[turn % 2]
            affinity.pin(child.pid, wanted)
            for _ in range(5):
                assert sets_of(child.pid) == {wanted}
        affinity.release(child.pid)
        for _ in range(20):
            assert sets_of(child.pid) == {OWN}


@needs_two
@pytest.mark.parametrize(
    "error", [PermissionError(errno.EPERM, "no"), OSError(errno.ENOMEM, "none"), KeyboardInterrupt()]
)
def test_one_thread_that_cannot_be_set_undoes_the_others(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """When the third thread of five is refused, or Ctrl-C comes then, the first two have their former sets again."""
    with with_threads(4) as child, manager() as affinity:
        tids = sorted(thread_ids(child.pid))
        os.sched_setaffinity(tids[1], FIRST)
        real, calls = os.sched_setaffinity, []

        def failing(tid: int, cpus: Any) -> None:
            calls.append(tid)
            if len(calls) == 3:
                raise error
            real(tid, cpus)

        monkeypatch.setattr(os, "sched_setaffinity", failing)
        with pytest.raises((PermissionDeniedError, OSError, KeyboardInterrupt)):
            affinity.pin(child.pid, LAST)
        monkeypatch.undo()
        assert len(set(calls)) == 3
        assert [cpus_of(tid) for tid in tids] == [FIRST if tid == tids[1] else OWN for tid in tids]
        assert affinity.statistics().managed == 0


@needs_two
def test_somebody_who_keeps_on_changing_it_is_no_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose CPUs another program sets back each time is an UnsupportedError in the end, and not a hang."""
    with Child() as child, manager() as affinity:
        real = os.sched_setaffinity

        def set_back(tid: int, cpus: Any) -> None:
            real(tid, cpus)
            real(tid, OWN)

        monkeypatch.setattr(os, "sched_setaffinity", set_back)
        with pytest.raises(UnsupportedError, match="keeps on changing"):
            affinity.pin(child.pid, LAST)


@needs_two
def test_a_thread_pins_itself_and_its_children_inherit() -> None:
    """pin_current_thread sets one thread alone; its children have the set, other threads do not, and it can go back."""
    seen: dict[str, object] = {}

    def work() -> None:
        seen["previous"] = pin_current_thread(LAST)
        with Child() as child:
            seen["child"] = cpus_of(child.pid)
        seen["again"] = pin_current_thread(OWN)
        seen["back"] = cpus_of(0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == {"previous": OWN, "child": LAST, "again": LAST, "back": OWN}
    assert process_cpus() == cpus_of(0) == OWN


@needs_two
def test_a_process_may_pin_itself() -> None:
    """The manager's own process can be pinned, moved and given back; what may be chosen is what it had before."""
    with manager() as affinity:
        affinity.pin(os.getpid(), FIRST)
        affinity.pin(os.getpid(), LAST)
        assert sets_of(os.getpid()) == {LAST}
        assert affinity.optimal_cpus("critical") == OWN
    assert sets_of(os.getpid()) == {OWN}


# --- against the tools --------------------------------------------------------------------------------------------


def taskset(*arguments: str) -> str:
    done = subprocess.run(["taskset", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.rsplit(": ", 1)[1].strip()


def listed(text: str) -> frozenset[int]:
    """Read taskset's list by a way of its own, not by procbench's parser."""
    found: set[int] = set()
    for part in text.split(","):
        ends = [int(end) for end in part.split(":")[0].split("-")]
        found.update(range(ends[0], ends[-1] + 1))
    return frozenset(found)


def bits(text: str) -> frozenset[int]:
    mask = int(text.replace(",", ""), 16)
    return frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)


@needs_taskset
def test_a_thousand_random_cases_agree_with_taskset() -> None:
    """In 1,000 random pins and releases of five children, taskset reports what the manager says; each set is taken in turn."""
    chance = random.Random(21)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child()) for _ in range(5)]
        affinity = stack.enter_context(manager())
        for case in range(1000):
            child = chance.choice(children)
            if chance.random() < 0.2 and affinity.statistics().managed:
                with contextlib.suppress(InvalidInputError):
                    affinity.release(child.pid)
                    assert cpus_of(child.pid) == OWN
                continue_with = cpus_of(child.pid)
            else:
                chosen = chance.sample(sorted(OWN), chance.randint(1, len(OWN)))
                continue_with = affinity.pin(child.pid, chosen).in_force
            if case % 2:
                assert bits(taskset("-p", str(child.pid))) == continue_with
            else:
                assert listed(taskset("-pc", str(child.pid))) == continue_with


# --- whoever has the pid later ------------------------------------------------------------------------------------

REUSED = """
import os, subprocess, sys
from pathlib import Path
from procbench.cpu.affinity import CpuAffinityManager

allowed = os.sched_getaffinity(0)
one = {min(allowed)}
calls = []
real = os.sched_setaffinity
os.sched_setaffinity = lambda tid, cpus: (calls.append(tid), real(tid, cpus))
affinity = CpuAffinityManager(choose=lambda p, t, a, l: frozenset(a), loads=dict)
if sys.argv[1] == "start time":
    def refuse(pid, flags=0):
        raise OSError(38, "no such call")
    os.pidfd_open = refuse

def start(pid):
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert child.pid == pid, child.pid
    return child

def end(child):
    child.kill()
    child.communicate()

first = start(500)
affinity.pin(500, one)
affinity.set_priority(500, "critical")
end(first)
if sys.argv[1] == "start time":  # it counts in ticks of 10 ms: wait for the next
    import time
    time.sleep(0.05)
second = start(500)
calls.clear()
moves = affinity.rebalance(apply=True)
untouched = not calls and os.sched_getaffinity(500) == allowed
print(moves, untouched, affinity.statistics().gone, affinity.statistics().managed)

affinity.pin(500, one)
end(second)
if sys.argv[1] == "start time":
    time.sleep(0.05)
third = start(500)
calls.clear()
affinity.close()
print(not calls and os.sched_getaffinity(500) == allowed, affinity.statistics().gone, affinity.statistics().restored)
end(third)
"""


@pytest.mark.parametrize("known_by_what", ["pidfd", "start time"])
def test_whoever_gets_the_pid_later_is_left_alone(known_by_what: str) -> None:
    """C06: another process with a managed one's number is never set: not by rebalance, not by close, and the old one is gone."""
    alone = ("unshare", "-pf", "--mount-proc")
    if (
        subprocess.run([*alone, "sh", "-c", "echo 9 >/proc/sys/kernel/ns_last_pid"], capture_output=True).returncode
        != 0
    ):
        pytest.skip("no process numbers of one's own can be had here")
    lines = run_python(REUSED, known_by_what, before=alone).splitlines()
    assert lines == ["() True 1 0", "True 2 0"]


def test_a_faked_start_shows_the_same(known_by: str, touched: list[int]) -> None:
    """C06: a managed process whose start is another than remembered is left alone by every call."""
    with Child() as child, manager() as affinity:
        affinity.pin(child.pid, FIRST)
        affinity.set_priority(child.pid, "critical")
        entry = affinity._managed.by_pid[child.pid]
        real = entry.mark
        entry.mark = ProcessMark(ProcessId(child.pid, real.process.started_ticks - 1), real.serial)
        touched.clear()
        assert affinity.rebalance(apply=True) == ()
        affinity.close()
        assert touched == []
        assert cpus_of(child.pid) == FIRST
        assert affinity.statistics().gone == 1


@pytest.mark.parametrize("same_tick", [False, True])
def test_a_managed_number_may_become_a_threads(known_by: str, touched: list[int], same_tick: bool) -> None:
    """C06: when a managed process has ended and a thread has its number, every call goes on, and the thread is left alone."""
    with with_threads(2) as child, manager() as affinity:
        tid = max(thread_ids(child.pid))
        with ProcessGuard(child.pid) as guard:
            started = read_stat(child.pid, tid).id.started_ticks - (not same_tick)
            ended = ProcessMark(ProcessId(tid, started), guard.mark.serial)
        affinity.pin(child.pid, FIRST)
        for call in (
            affinity.statistics,
            lambda: affinity.rebalance(apply=True),
            lambda: affinity.release(tid),
            affinity.close,
        ):
            affinity._managed.by_pid[tid] = replace(
                affinity._managed.by_pid[child.pid], mark=ended, priority="critical"
            )
            touched.clear()
            call()
            assert tid not in affinity._managed.by_pid
            assert tid not in touched or call == affinity.close  # close restores its own process, threads and all
        assert affinity.statistics().gone == 4


def test_the_serial_tells_two_of_one_tick_apart() -> None:
    """C06: with the same number and the same start, the pidfd's inode still tells one process from the other."""
    with Child() as child, ProcessGuard(child.pid) as guard:
        with ProcessGuard(child.pid, guard.mark):
            pass
        other = ProcessMark(guard.mark.process, (guard.mark.serial or 0) + 1)
        if guard.mark.serial is None:
            pytest.skip("this kernel has no pidfd")
        with pytest.raises(ProcessGoneError, match="another"):
            ProcessGuard(child.pid, other)
        with ProcessGuard(child.pid, ProcessMark(guard.mark.process, None)):
            pass  # what was remembered without a pidfd is known by its start


def test_no_descriptor_left_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no descriptor left for a pidfd, the start time serves."""

    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with Child() as child, manager() as affinity:
        affinity.pin(child.pid, FIRST)
        monkeypatch.setattr(os, "pidfd_open", refuse)
        assert affinity.release(child.pid)
        assert cpus_of(child.pid) == OWN


def test_a_pidfds_process_that_ended_is_seen(known_by: str) -> None:
    """C06: once it was reaped, a guard's check says that the process is gone."""
    with Child() as child, ProcessGuard(child.pid) as guard:
        assert guard.has_thread(child.pid)
        assert not guard.has_thread(os.getpid())
        child.end()
        with pytest.raises(ProcessGoneError):
            guard.has_thread(child.pid)


# --- balance ------------------------------------------------------------------------------------------------------


@needs_two
def test_moves_are_proposed_and_made_only_when_asked() -> None:
    """rebalance tells what should move and why; only apply makes it so, and then nothing is left to move."""
    loads = dict.fromkeys(OWN, 0.9) | {max(OWN): 0.1}
    with Child() as one, Child() as two, Child() as three, manager(loads) as affinity:
        affinity.set_priority(one.pid, "normal")
        affinity.set_priority(two.pid, "high")
        affinity.set_priority(three.pid, "critical")
        moves = {move.pid: move for move in affinity.rebalance()}
        assert set(moves) == {one.pid, two.pid}
        assert (moves[one.pid].current, moves[one.pid].best, moves[one.pid].applied) == (OWN, LAST, False)
        assert "10%" in moves[one.pid].why
        assert cpus_of(one.pid) == OWN
        assert all(move.applied for move in affinity.rebalance(apply=True))
        assert (cpus_of(one.pid), cpus_of(two.pid)) == (LAST, choose("high", None, OWN, {}))  # type: ignore[arg-type]
        assert affinity.rebalance() == ()
        assert affinity.optimal_cpus("normal") == LAST
        told = affinity.statistics()
        assert (told.managed, told.pinned, told.moves_proposed, told.moves_applied) == (3, 2, 4, 2)
    assert affinity.statistics().restored == 2


@needs_two
def test_busy_processes_spread_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that each keep a CPU busy, on one CPU, are put on two; their own load is no reason to move again."""
    pair = sorted(OWN)[:2]
    with Child() as one, Child() as two, manager(allowed=lambda: frozenset(pair)) as affinity:
        for child in (one, two):
            affinity.set_priority(child.pid, "normal")
            affinity.pin(child.pid, {pair[0]})
        share = {one.pid: 0.5, two.pid: 0.5}
        monkeypatch.setattr(ManagedProcess, "own_load", lambda entry: share[entry.mark.process.pid])
        affinity._loads = lambda: {pair[0]: 1.0, pair[1]: 0.0}
        (move,) = affinity.rebalance(apply=True)
        assert (move.current, move.best) == ({pair[0]}, {pair[1]})
        share.update({one.pid: 1.0, two.pid: 1.0})
        affinity._loads = lambda: {pair[0]: 1.0, pair[1]: 1.0}
        assert affinity.rebalance(apply=True) == ()


def test_a_cpu_that_was_not_measured_draws_nobody() -> None:
    """A CPU without a figure is neither idle nor a reason to move; with no figure at all, all count as idle."""
    two, topology = frozenset({0, 1}), read_topology()
    assert Round(optimal_cpus, topology, two, {0: 0.9}).move(1, "normal", frozenset({0}), 0.0) is None
    away = Round(optimal_cpus, topology, two, {0: 0.9}).move(1, "normal", frozenset({1}), 0.0)
    assert away is not None
    assert away.best == {0}
    looks = Round(optimal_cpus, topology, two, {})
    assert [move.best for pid in (1, 2) if (move := looks.move(pid, "normal", two, 1.0))] == [{0}, {1}]
    assert Round(optimal_cpus, topology, frozenset(), {}).move(1, "low", two, 0.0) is None


def test_the_kernels_figures_and_placement_serve_by_default() -> None:
    """Made with no argument, it measures; every class has CPUs, also in two looks at once, and moves to what it names."""
    with Child() as child, CpuAffinityManager() as affinity:
        for _ in range(3):
            assert affinity.optimal_cpus("critical") == OWN
            assert len(affinity.optimal_cpus("normal")) == 1
            high, low = affinity.optimal_cpus("high"), affinity.optimal_cpus("low")
            assert high
            assert low
            assert high | low == OWN
        affinity.set_priority(child.pid, "high")
        affinity.rebalance(apply=True)
        assert cpus_of(child.pid) == high
        affinity.pin(child.pid, str(min(OWN)))
        assert cpus_of(child.pid) == FIRST


def test_a_hundred_processes_on_128_cpus_each_get_their_own() -> None:
    """A CPU that one process was sent to counts as loaded for the next, on more CPUs than a 64-bit mask has."""
    many = frozenset(range(128))
    looks = Round(choose, read_topology(), many, dict.fromkeys(many, 0.0) | dict.fromkeys(range(28), 0.2))
    moves = [looks.move(pid, "normal", many, own_load=1.0) for pid in range(1, 101)]
    assert [move.best for move in moves if move] == [{cpu} for cpu in range(28, 128)]
    assert looks.move(101, "normal", frozenset({5}), own_load=0.2) is None
    assert looks.move(102, "high", many, own_load=0.0) == Move(102, many, frozenset(range(64)), "high runs on CPU 0-63")


@needs_two
def test_a_cpu_that_goes_away_is_no_crash() -> None:
    """C07: with fewer allowed CPUs the moves adapt and say so; with none, or with a CPU the kernel refuses, nothing breaks."""
    now = [OWN]
    with Child() as child, Child() as other, manager(allowed=lambda: now[0]) as affinity:
        affinity.set_priority(child.pid, "normal")
        affinity.set_priority(other.pid, "low")
        affinity.pin(child.pid, LAST)
        now[0] = FIRST
        moves = {move.pid: move for move in affinity.rebalance(apply=True)}
        assert moves[child.pid].best == FIRST
        assert "is not allowed any more" in moves[child.pid].why
        assert cpus_of(child.pid) == cpus_of(other.pid) == FIRST
        with pytest.raises(InvalidInputError):
            affinity.pin(child.pid, LAST)
        now[0] = frozenset({max(OWN) + 1})  # the machine has no such CPU: read in vain, as when it goes off just now
        refused = affinity.rebalance(apply=True)
        assert {move.pid for move in refused if move.refused and not move.applied} == {child.pid, other.pid}
        assert affinity.statistics().errors == 2
        now[0] = OWN
        affinity.rebalance(apply=True)
    assert affinity.statistics().restored == 2


@needs_two
def test_what_it_had_has_gone_off_meanwhile() -> None:
    """C07: a thread whose former CPUs are all off by now gets the allowed ones, so that it is not left pinned."""
    with Child() as child, manager() as affinity:
        affinity.pin(child.pid, FIRST)
        before = affinity._managed.by_pid[child.pid].before
        before[child.pid] = before[child.pid]._replace(cpus=frozenset({max(OWN) + 1}))
        assert affinity.release(child.pid)
        assert cpus_of(child.pid) == OWN


@needs_two
def test_ten_thousand_rebalances(touched: list[int]) -> None:
    """10,000 rebalances over processes that come and go: no error, no foreign process set, no descriptor more."""
    chance = random.Random(4)
    loads = dict.fromkeys(OWN, 0.0)
    mine: set[int] = set()
    fds = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    with contextlib.ExitStack() as stack, manager(loads) as affinity:
        children: list[Child] = []
        for turn in range(10_000):
            if turn % 20 == 0:
                if len(children) == 4:
                    children.pop(chance.randrange(4)).end()
                children.append(stack.enter_context(Child()))
                mine.add(children[-1].pid)
                affinity.set_priority(children[-1].pid, chance.choice(["critical", "high", "normal", "low"]))
            loads.update({cpu: chance.random() for cpu in OWN})
            affinity.rebalance(apply=True)
        told = affinity.statistics()
        assert (told.errors, told.managed) == (0, 4)
        assert told.gone == 496
        assert told.moves_applied == told.moves_proposed > 1000
        assert set(touched) <= mine
        for child in children:
            child.end()
    assert len(os.listdir("/proc/self/fd")) == fds  # noqa: PTH208 - a count


# --- closing, and more than one thread ----------------------------------------------------------------------------


@needs_two
def test_close_restores_and_the_manager_is_closed() -> None:
    """close gives everybody back what they had, twice does no harm, and then nothing can be pinned."""
    with Child() as one, Child() as two:
        os.sched_setaffinity(two.pid, FIRST)
        affinity = manager()
        affinity.pin(one.pid, FIRST)
        affinity.pin(two.pid, LAST)
        affinity.close()
        affinity.close()
        assert (cpus_of(one.pid), cpus_of(two.pid)) == (OWN, FIRST)
        assert affinity.statistics().restored == 2
        for call in (lambda: affinity.pin(one.pid, FIRST), affinity.rebalance):
            with pytest.raises(ClosedError):
                call()
        with pytest.raises(ClosedError):
            affinity.set_priority(one.pid, "low")


@needs_two
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOMEM])
def test_one_that_the_kernel_refuses_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """When one process cannot be moved, or cannot get its CPUs back, the others are and do; it is counted and named."""
    real = os.sched_setaffinity
    with Child() as one, Child() as two:

        def failing(tid: int, cpus: Any) -> None:
            if tid == one.pid:
                raise OSError(number, os.strerror(number))
            real(tid, cpus)

        affinity = manager()
        for child in (one, two):
            affinity.pin(child.pid, LAST)
            affinity.set_priority(child.pid, "critical")
        monkeypatch.setattr(os, "sched_setaffinity", failing)
        assert [bool(move.refused) for move in affinity.rebalance(apply=True)] == [True, False]
        assert (cpus_of(one.pid), cpus_of(two.pid)) == (LAST, OWN)
        affinity.pin(two.pid, FIRST)
        affinity.close()
        assert (cpus_of(one.pid), cpus_of(two.pid)) == (LAST, OWN)
        told = affinity.statistics()
        assert (told.errors, told.restored, told.managed) == (2, 1, 0)
        again = manager()
        monkeypatch.undo()
        again.pin(one.pid, FIRST)
        monkeypatch.setattr(os, "sched_setaffinity", failing)
        with pytest.raises((OSError, InvalidInputError)):
            again.release(one.pid)


@needs_two
def test_somebody_elses_choice_for_a_new_thread_stays() -> None:
    """A thread that is born after the pin gets the main thread's former set, unless somebody gave it another."""
    with with_threads(2) as child, manager() as affinity:
        affinity.pin(child.pid, LAST)
        first, second = sorted(thread_ids(child.pid) - {child.pid})
        before = affinity._managed.by_pid[child.pid].before
        del before[first], before[second]  # as if they were born later
        os.sched_setaffinity(second, FIRST)
        affinity.release(child.pid)
        assert (cpus_of(first), cpus_of(second)) == (OWN, FIRST)


@needs_two
def test_what_it_had_before_the_first_pin_counts() -> None:
    """Pinned, set by somebody else, and pinned again: released, it has what it had before the first pin."""
    with Child() as child, manager() as affinity:
        affinity.pin(child.pid, LAST)
        os.sched_setaffinity(child.pid, FIRST)
        assert affinity.pin(child.pid, LAST).previous == FIRST
        affinity.release(child.pid)
        assert cpus_of(child.pid) == OWN


@needs_two
def test_many_threads_use_one_manager() -> None:
    """Eight threads pin, rebalance, release and read at once, the load reader calls back in: no deadlock, no error."""
    inner: list[int] = []
    holder: list[CpuAffinityManager] = []

    def loads() -> Mapping[int, float]:
        inner.append(holder[0].statistics().managed)  # the lock is its owner's
        return dict.fromkeys(OWN, 0.0)

    raised: list[BaseException] = []

    def work(child: Child) -> None:
        try:
            for _ in range(40):
                holder[0].pin(child.pid, LAST)
                holder[0].set_priority(child.pid, "high")
                holder[0].rebalance(apply=True)
                holder[0].release(child.pid)
                assert cpus_of(child.pid) == OWN
        except BaseException as error:
            raised.append(error)

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child()) for _ in range(8)]
        holder.append(stack.enter_context(CpuAffinityManager(choose=choose, loads=loads)))
        threads = [threading.Thread(target=work, args=(child,), daemon=True) for child in children]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert not raised
    assert inner


# --- a model ------------------------------------------------------------------------------------------------------


# --- forgotten ----------------------------------------------------------------------------------------------------

FORGOTTEN = """
import gc, os, sys, warnings
import procbench
warnings.simplefilter("always")
warnings.showwarning = lambda message, *_: print(message, flush=True)
pid, how = int(sys.argv[1]), sys.argv[2]
mine = os.sched_getaffinity(0)
manager = procbench.CpuAffinityManager()
manager.pin(pid, {min(mine)})
if how == "in a fork":
    child = os.fork()
    if not child:
        del manager
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    print(sorted(os.sched_getaffinity(pid)) == [min(mine)])
    manager.close()
elif how == "closed":
    manager.close()
elif how == "killed":
    os.kill(os.getpid(), 9)
"""


@needs_two
def test_a_forgotten_manager_puts_back_what_it_changed() -> None:
    """Every thread has its own CPUs again as soon as the last reference goes, and a warning says what to do."""
    with with_threads(3) as child, Child() as other, Child() as ended:
        one = min(thread_ids(child.pid) - {child.pid})
        os.sched_setaffinity(one, LAST)
        affinity = manager()
        for pinned in (child, other, ended):
            affinity.pin(pinned.pid, FIRST)
        assert sets_of(child.pid) == {FIRST}
        ended.end()
        with pytest.warns(
            ResourceWarning, match="forgotten, and 2 of its processes got back .* in a with block$"
        ) as said:
            del affinity
        assert said[0].filename == __file__
        assert {tid: cpus_of(tid) for tid in thread_ids(child.pid)} == {
            tid: LAST if tid == one else OWN for tid in thread_ids(child.pid)
        }
        assert cpus_of(other.pid) == OWN


@needs_two
def test_a_manager_in_a_cycle_puts_back_when_it_is_collected() -> None:
    """Also where only the garbage collector finds that nobody has it."""
    with Child() as child:
        cycle: list[object] = [CpuAffinityManager()]
        cycle.append(cycle)
        assert isinstance(cycle[0], CpuAffinityManager)
        cycle[0].pin(child.pid, FIRST)
        del cycle
        with pytest.warns(ResourceWarning, match="forgotten"):
            gc.collect()
        assert cpus_of(child.pid) == OWN


def test_a_forgotten_manager_that_changed_nothing_says_nothing() -> None:
    """One that never pinned, whose processes have ended, or that was closed, is no loss; warnings are errors here."""
    with Child() as child:
        affinity = manager()
        affinity.set_priority(child.pid, "low")
        del affinity
        affinity = manager()
        affinity.pin(child.pid, FIRST)
        affinity.close()
        del affinity
        affinity = manager()
        affinity.pin(child.pid, FIRST)
        child.end()
        del affinity
        gc.collect()


@needs_two
def test_a_forgotten_manager_leaves_a_later_process_alone(known_by: str, touched: list[int]) -> None:
    """C06: what has the number of a pinned process by then, and is another, keeps its CPUs."""
    with Child() as child:
        affinity = manager()
        affinity.pin(child.pid, FIRST)
        entry = affinity._managed.by_pid[child.pid]
        started = entry.mark.process.started_ticks - 1
        entry.mark = entry.mark._replace(process=ProcessId(child.pid, started))
        touched.clear()
        del affinity
        assert touched == []
        assert cpus_of(child.pid) == FIRST


@needs_two
def test_what_cannot_be_put_back_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning says what the kernel refused; the processes after it get theirs."""
    real = os.sched_setaffinity
    with Child() as one, Child() as two, Child() as three:

        def refuse(tid: int, cpus: Any) -> None:
            if tid == one.pid:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            if tid == two.pid:
                raise ZeroDivisionError("out of the blue")
            real(tid, cpus)

        affinity = manager()
        for child in (one, two, three):
            affinity.pin(child.pid, FIRST)
        monkeypatch.setattr(os, "sched_setaffinity", refuse)
        with pytest.warns(ResourceWarning, match="and 1 of its .* CAP_SYS_NICE; out of the blue; close it"):
            del affinity
        assert (cpus_of(one.pid), cpus_of(two.pid), cpus_of(three.pid)) == (FIRST, FIRST, OWN)


@needs_two
@pytest.mark.parametrize(
    ("how", "said", "left"),
    [
        ("at the end", "an affinity manager was forgotten, and 1 of its .*", OWN),
        ("closed", "", OWN),
        ("in a fork", "True", OWN),
        ("killed", "", FIRST),
    ],
)
def test_a_script_that_ends_leaves_nothing_pinned(how: str, said: str, left: frozenset[int]) -> None:
    """At the interpreter's end what is open is put back with a warning; not by a fork, and not by one that is killed."""
    with Child() as child:
        argv = [sys.executable, "-c", FORGOTTEN, str(child.pid), how]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == (-9 if how == "killed" else 0), done.stderr
        assert re.fullmatch(said, done.stdout.strip())
        assert done.stderr == ""
        assert cpus_of(child.pid) == left


class AffinityMachine(RuleBasedStateMachine):
    """Pin, release, end, start and close in any order; each child has what the model says."""

    def __init__(self) -> None:
        super().__init__()
        self.affinity = manager()
        self.children: dict[int, Child] = {}
        self.has: dict[int, frozenset[int]] = {}
        self.had: dict[int, frozenset[int]] = {}

    @rule(cpus=st.sets(st.sampled_from(sorted(OWN)), min_size=1))
    def start(self, cpus: set[int]) -> None:
        if len(self.children) < 4:
            child = Child()
            os.sched_setaffinity(child.pid, cpus)
            self.children[child.pid] = child
            self.has[child.pid] = frozenset(cpus)

    @precondition(lambda self: self.children)
    @rule(data=st.data(), cpus=st.sets(st.sampled_from(sorted(OWN)), min_size=1))
    def pin(self, data: st.DataObject, cpus: set[int]) -> None:
        pid = self.one(data)
        record = self.affinity.pin(pid, cpus)
        assert record.previous == self.has[pid]
        self.had.setdefault(pid, self.has[pid])
        self.has[pid] = frozenset(cpus)

    @precondition(lambda self: self.children)
    @rule(data=st.data(), cpus=st.sets(st.sampled_from(sorted(OWN)), min_size=1))
    def somebody_else_sets(self, data: st.DataObject, cpus: set[int]) -> None:
        pid = self.one(data)
        os.sched_setaffinity(pid, cpus)
        self.has[pid] = frozenset(cpus)

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def pin_badly(self, data: st.DataObject) -> None:
        with pytest.raises(InvalidInputError):
            self.affinity.pin(self.one(data), {min(OWN), MISSING})

    @precondition(lambda self: self.had)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        pid = data.draw(st.sampled_from(sorted(self.had)))
        assert self.affinity.release(pid)
        self.has[pid] = self.had.pop(pid)

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        pid = self.one(data)
        self.children.pop(pid).end()
        del self.has[pid]
        self.had.pop(pid, None)

    @rule()
    def close(self) -> None:
        self.affinity.close()
        self.has.update(self.had)
        self.had.clear()
        self.affinity = manager()

    @rule()
    def forget(self) -> None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.affinity = manager()
        assert [one.category for one in said] == [ResourceWarning] * bool(self.had)
        self.has.update(self.had)
        self.had.clear()

    @invariant()
    def each_has_what_it_must(self) -> None:
        assert {pid: cpus_of(pid) for pid in self.children} == self.has
        assert self.affinity.statistics().pinned == len(self.had)

    def one(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.children)))

    def teardown(self) -> None:
        self.affinity.close()
        for child in self.children.values():
            child.end()


TestAffinityMachine = AffinityMachine.TestCase
TestAffinityMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
