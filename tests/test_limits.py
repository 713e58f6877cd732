"""Limits of CPU time and memory: by what they are kept, that nothing stays stopped, and which of them ended a child."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from procbench import linux
from procbench.cpu import cpu_limit, memory_limit, subgroups
from procbench.cpu.cpu_limit import CpuLimiter
from procbench.cpu.duty import DutyCycler, LimitedGroup, descendants
from procbench.cpu.guardian import Guardian
from procbench.cpu.memory_limit import MemoryLimiter, set_soft_limit
from procbench.cpu.processes import ProcessId, identify, read_stat
from procbench.cpu.subgroups import Subgroups, members
from procbench.errors import ClosedError, InvalidInputError, PermissionDeniedError, ProcessGoneError
from procbench.io.blocking import run
from procbench.io.limits import ChildLimiter, limit_hit
from procbench.io.order import NULL, Limits, Order
from procbench.io.orphans import adopting_orphans
from procbench.io.results import RunResult
from procbench.io.runner import ChildRunner
from tests.waiting import ROOT, SYSTEM_PYTHON, long_sleep, processes_with, run_python, wait_until

SPIN = ("sh", "-c", "while :; do :; done")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
SPIN_TWICE = ("sh", "-c", "(while :; do :; done) & while :; do :; done")


@contextlib.contextmanager
def running(*argv: str, own_group: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """A child, in a group of its own as a rule, ended afterwards with its group."""
    child = subprocess.Popen(argv or ("sleep", long_sleep()), start_new_session=own_group, stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        if own_group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.communicate()


def groups_left() -> list[Path]:
    """The cgroups below this process's own that procbench made."""
    owns = [subgroups.own_group(controller) for controller in ("cpu", "memory")]
    return [path for own in owns if own is not None for path in own.glob(f"procbench-{os.getpid()}-*")]


@pytest.fixture(autouse=True)
def no_cgroup_is_left() -> Iterator[None]:
    yield
    gc.collect()
    wait_until(lambda: not groups_left(), "that no cgroup is left")


def makes_groups(controller: str) -> bool:
    groups = Subgroups(controller)
    try:
        return groups.mechanism is not None
    finally:
        groups.close()


with_cpu_groups = pytest.mark.skipif(not makes_groups("cpu"), reason="no CPU cgroup can be made here")
with_memory_groups = pytest.mark.skipif(not makes_groups("memory"), reason="no memory cgroup can be made here")


def state_of(pid: int) -> str:
    return read_stat(pid).state


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Lower RLIMIT_NOFILE below what is open, so that every open(2) is EMFILE."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def stops_and_goes_on(pid: int) -> None:
    """Wait until a process was seen stopped, and afterwards not."""
    wait_until(lambda: state_of(pid) == "T", "that it is stopped")
    wait_until(lambda: state_of(pid) != "T", "that it goes on")


# --- duty cycle -------------------------------------------------------------------------------------------------------


def test_a_group_is_stopped_for_a_part_of_the_time() -> None:
    """A spinner is seen stopped and then running, again and again, and not stopped once its limit is lifted."""
    with running(*SPIN) as child, contextlib.closing(CpuLimiter(0.2, by_cgroup=False)) as limiter:
        assert limiter.add(child.pid) == "duty cycle"
        for _ in range(3):
            stops_and_goes_on(child.pid)
        had = limiter.share_had(child.pid)
        assert had is not None
        assert had > 0
        wait_until(lambda: state_of(child.pid) == "T")
        limiter.remove(child.pid)
        wait_until(lambda: state_of(child.pid) == "R", "that it runs")
        assert limiter.share_had(child.pid) is None


def test_all_of_a_group_is_stopped_and_let_go() -> None:
    """What a child starts in its group is stopped and let go together with it."""
    with running(*SPIN_TWICE) as child, contextlib.closing(CpuLimiter(0.2, by_cgroup=False)) as limiter:
        wait_until(lambda: len(descendants(child.pid)) == 2)
        (other,) = descendants(child.pid) - {child.pid}
        limiter.add(child.pid)
        stops_and_goes_on(other)
        stops_and_goes_on(child.pid)
        wait_until(lambda: state_of(other) == "T")
        limiter.close()
        wait_until(lambda: state_of(other) == state_of(child.pid) == "R")


def test_a_process_that_leads_no_group_is_stopped_alone() -> None:
    """A process in this process's own group is limited without stopping the group."""
    with running(*SPIN, own_group=False) as child, contextlib.closing(CpuLimiter(0.1, by_cgroup=False)) as limiter:
        assert os.getpgid(child.pid) == os.getpgrp()
        limiter.add(child.pid)
        stops_and_goes_on(child.pid)  # this process goes on looking, so it was not stopped


def test_this_process_is_never_stopped() -> None:
    """To limit this process, whose signals would stop itself, is refused."""
    refused = pytest.raises(InvalidInputError, match="would stop this one")
    with contextlib.closing(CpuLimiter(0.5, by_cgroup=False)) as limiter, refused:
        limiter.add(os.getpid())


def test_a_forgotten_limiter_leaves_nothing_stopped() -> None:
    """A limiter that nobody holds any more lets go and ends its thread."""
    with running(*SPIN) as child:
        limiter = CpuLimiter(0.02, by_cgroup=False)
        limiter.add(child.pid)
        wait_until(lambda: state_of(child.pid) == "T")
        del limiter
        gc.collect()
        assert not [thread for thread in threading.enumerate() if thread.name == "procbench-duty"]
        wait_until(lambda: state_of(child.pid) == "R")


ENDS_WITH_IT_STOPPED = """
import subprocess, sys, time
from procbench.cpu.cpu_limit import CpuLimiter
from procbench.cpu.processes import read_stat
limiter = CpuLimiter(0.02, by_cgroup=False)
limiter.add(int(sys.argv[1]))
while read_stat(int(sys.argv[1])).state != "T": time.sleep(0.001)
if sys.argv[2] == "raise": raise SystemExit(0)
print("stopped")
"""


@pytest.mark.parametrize("how", ["return", "raise"])
def test_the_end_of_the_interpreter_leaves_nothing_stopped(how: str) -> None:
    """An interpreter that ends while a group is stopped lets it go."""
    with running(*SPIN) as child:
        run_python(ENDS_WITH_IT_STOPPED, child.pid, how)
        wait_until(lambda: state_of(child.pid) == "R")


KILLED = """
import subprocess, sys, time
from procbench.cpu.cpu_limit import CpuLimiter
group = None if sys.argv[1] == "alone" else 0
child = subprocess.Popen(["sh", "-c", "while :; do :; done"], process_group=group, stdout=subprocess.DEVNULL)
limiter = CpuLimiter(0.02, by_cgroup=False)
limiter.add(child.pid)
print(child.pid, flush=True)
time.sleep(90)
"""


@pytest.mark.parametrize("how", ["in a group", "alone"])
def test_a_killed_owner_leaves_nothing_stopped(how: str) -> None:
    """What is stopped when its owner is killed goes on, where the kernel does nothing: whoever adopts it is in its session."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with adopting_orphans():  # the child and its guardian are ours then, and are ended at last
        owner = subprocess.Popen([sys.executable, "-c", KILLED, how], stdout=subprocess.PIPE, env=env, process_group=0)
        try:
            assert owner.stdout is not None
            pid = int(owner.stdout.readline())
            wait_until(lambda: descendants(owner.pid) - {owner.pid, pid}, "that the guardian is there")
            (guardian,) = descendants(owner.pid) - {owner.pid, pid}
            wait_until(lambda: state_of(pid) == "T")
        finally:
            owner.kill()
            owner.communicate()
        wait_until(lambda: state_of(pid) == "R", "that it goes on")
        wait_until(lambda: state_of(guardian) == "Z", "that the guardian has ended")


def test_a_guardian_lets_go_of_the_very_process_that_was_noted(tmp_path: Path) -> None:
    """C06: what stands in the guardian's file goes on, whatever it is called; a later process with its number does not."""
    odd = tmp_path / ") T 1 (\n7) x"
    shutil.copy("/bin/sleep", odd)
    with (
        running(str(odd), "90") as named,
        running() as group,
        running() as alone,
        running() as later,
        running() as let_go,
    ):
        guardian = Guardian()
        guardian.open()
        wait_until(lambda: b"T 1" in Path(f"/proc/{named.pid}/stat").read_bytes(), "that it has its name")
        struck_out = guardian.note(*identify(later.pid))
        last = guardian.note(*identify(let_go.pid))
        for child in (named, alone):
            guardian.note(*identify(child.pid))
        guardian.note(-group.pid, identify(group.pid).started_ticks)
        guardian.note(2**22 + 1, 1)  # nobody has that number
        guardian.strike_out(struck_out)
        assert guardian.note(later.pid, identify(later.pid).started_ticks - 1) == struck_out
        guardian.strike_out(last)
        for child in (named, group, alone, later, let_go):
            child.send_signal(signal.SIGSTOP)
            wait_until(lambda: state_of(child.pid) == "T")  # noqa: B023 - called here
        guardian.close()  # the shell reads the file at the pipe's end, or when it is told to
        assert "T" not in {state_of(child.pid) for child in (named, group, alone)}
        assert [state_of(child.pid) for child in (later, let_go)] == ["T", "T"]


def test_a_guardian_that_is_gone_or_never_came_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The duty cycle goes on without a guardian, and closing waits neither for one nor for whoever holds its pipe open."""

    def guardian_of(limiter: CpuLimiter) -> Guardian:
        guardian = limiter._duty._state.guardian
        wait_until(lambda: guardian._fds, "that the guardian is there")
        return guardian

    with running(*SPIN) as child:
        with contextlib.closing(CpuLimiter(0.1, by_cgroup=False)) as limiter:
            limiter.add(child.pid)
            pid = guardian_of(limiter)._pid
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            stops_and_goes_on(child.pid)
        with contextlib.closing(CpuLimiter(0.1, by_cgroup=False)) as limiter:
            limiter.add(child.pid)
            holder = subprocess.Popen(["sleep", long_sleep()], pass_fds=guardian_of(limiter)._fds)
        holder.kill()
        holder.wait()
        monkeypatch.setattr("procbench.cpu.guardian._SHELL", "/nowhere/sh")
        with contextlib.closing(CpuLimiter(0.1, by_cgroup=False)) as limiter:
            limiter.add(child.pid)
            stops_and_goes_on(child.pid)
            assert limiter._duty._state.guardian._fds == ()


def test_a_later_process_with_the_same_pid_is_not_stopped() -> None:
    """C06: a group whose leader is not the one that was added is dropped, and no signal is sent to it."""
    with running(*SPIN) as child, contextlib.closing(DutyCycler()) as cycler:
        now = identify(child.pid)
        cycler.add(ProcessId(now.pid, now.started_ticks - 1), 0.02)  # as if it had started earlier
        wait_until(lambda: cycler.share_had(child.pid) is None, "that it is dropped")
        assert state_of(child.pid) == "R"


@pytest.mark.parametrize("own_group", [True, False])
def test_without_a_descriptor_nothing_stays_stopped(own_group: bool) -> None:
    """L19: where no descriptor is left to look at a stopped child, it goes on, and is limited again once there is one."""
    now_s = 0.0
    with running(own_group=own_group) as child:
        group = LimitedGroup(identify(child.pid), 0.02, now_s)
        assert group.act(group.due_s)
        wait_until(lambda: state_of(child.pid) == "T")
        with no_descriptor_left():
            assert group.act(group.due_s)
        wait_until(lambda: state_of(child.pid) == "S", "that it goes on")
        with no_descriptor_left():
            assert group.act(group.due_s)
        assert group.act(group.due_s - 0.001)
        wait_until(lambda: state_of(child.pid) == "T", "that it is limited again")
        with no_descriptor_left():
            group.let_go()
        wait_until(lambda: state_of(child.pid) == "S", "that it goes on")


@pytest.mark.parametrize("own_group", [True, False])
def test_a_stranger_is_not_signalled_for_a_member(own_group: bool) -> None:
    """C06: what was not stopped here is not let go either: each member is known by its pid and its start."""
    with running(own_group=own_group) as child:
        now = identify(child.pid)
        group = LimitedGroup(now, 0.02, 0.0)
        assert group.act(group.due_s)
        wait_until(lambda: state_of(child.pid) == "T")
        earlier = ProcessId(now.pid, now.started_ticks - 1)
        group.process, group._stopped = earlier, {earlier} if group._stopped else set()
        assert not group.act(group.due_s)
        assert state_of(child.pid) == "T"
        os.kill(child.pid, signal.SIGCONT)


def test_children_of_a_process_without_a_group_do_not_stay_stopped() -> None:
    """C06: a child that the process started after the last count is let go, although the process itself is gone."""
    code = "import subprocess; p = subprocess.Popen(['sleep', '90'], stdin=-3); print(p.pid, flush=True); p.wait()"
    with running(sys.executable, "-S", "-c", code, own_group=False) as child:
        assert child.stdout is not None
        group = LimitedGroup(identify(child.pid), 0.02, 0.0)
        other = identify(int(child.stdout.readline()))
        try:
            group._members.clear()  # as when it was only just started
            assert group.act(group.due_s)
            wait_until(lambda: state_of(child.pid) == state_of(other.pid) == "T")
            child.kill()
            child.wait()
            assert not group.act(group.due_s)
            wait_until(lambda: state_of(other.pid) == "S", "that it goes on")
        finally:
            os.kill(other.pid, signal.SIGKILL)


def test_members_whose_leader_was_reaped_go_on() -> None:
    """C06: a group whose leader somebody else has reaped is let go by its members, also one that was never counted."""
    leader = subprocess.Popen(["sleep", long_sleep()], process_group=0)
    other = subprocess.Popen(["sleep", long_sleep()], process_group=leader.pid)  # not orphaned: its parent is outside
    try:
        group = LimitedGroup(identify(leader.pid), 0.02, 0.0)
        assert group.act(group.due_s)
        wait_until(lambda: state_of(leader.pid) == state_of(other.pid) == "T")
        leader.kill()
        leader.wait()
        assert state_of(other.pid) == "T"
        assert not group.act(group.due_s)
        wait_until(lambda: state_of(other.pid) == "S", "that it goes on")
    finally:
        for child in (leader, other):
            child.kill()
            child.wait()


def test_a_signal_from_outside_does_not_end_the_limit() -> None:
    """A child that somebody sends SIGCONT while it is out of time is stopped again at the next period."""
    with running() as child:
        group = LimitedGroup(identify(child.pid), 0.02, 0.0)
        assert group.act(group.due_s)
        group._bucket_s = -1.0  # it has used far more than its share
        for _ in range(2):
            wait_until(lambda: state_of(child.pid) == "T")
            os.kill(child.pid, signal.SIGCONT)
            wait_until(lambda: state_of(child.pid) == "S")
            assert group.act(group.due_s)
        wait_until(lambda: state_of(child.pid) == "T", "that it is stopped again")


def test_children_that_come_and_go_leave_nothing_behind() -> None:
    """Four threads add and remove 200 children, by both mechanisms, and none stays limited or stopped."""
    for by_cgroup in (False, True):
        with contextlib.closing(CpuLimiter(0.05, by_cgroup=by_cgroup)) as limiter:

            def one(_: int, limiter: CpuLimiter = limiter) -> int:
                child = subprocess.Popen(["true"], start_new_session=True)
                with contextlib.suppress(ProcessGoneError):  # it was that quick
                    limiter.add(child.pid)
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
                limiter.remove(child.pid)
                return child.wait()

            with ThreadPoolExecutor(4) as pool:
                assert set(pool.map(one, range(100))) == {0}
            assert limiter._placed == {}


@contextlib.contextmanager
def hurried_threads() -> Iterator[None]:
    """Have threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def race_to_close(adds: list[Callable[[], object]], closes: Callable[[], None]) -> None:
    """Call each of ``adds`` again and again in a thread of its own until ClosedError, and ``closes`` in two others."""
    start = threading.Barrier(len(adds) + 2)

    def adding(add: Callable[[], object]) -> None:
        start.wait()
        with contextlib.suppress(ClosedError):
            while True:
                add()

    def closing() -> None:
        start.wait()
        closes()

    with ThreadPoolExecutor(len(adds) + 2) as pool:
        ends = [pool.submit(adding, add) for add in adds] + [pool.submit(closing) for _ in range(2)]
        for end in ends:
            end.result()


@pytest.mark.parametrize(
    "kind", ["cpu by cgroup", "cpu by duty cycle", "memory by cgroup", "memory by rlimit", "cycler"]
)
def test_what_is_added_while_it_is_closed_does_not_stay_limited(kind: str) -> None:
    """C10: threads that add while others close get ClosedError, or a limit that is lifted: nobody stays limited or stopped."""
    by_cgroup = kind.endswith("cgroup")
    with contextlib.ExitStack() as stack:
        stack.enter_context(hurried_threads())
        children = [stack.enter_context(running()) for _ in range(3)]
        limits_of = lambda: [resource.prlimit(child.pid, resource.RLIMIT_AS) for child in children]  # noqa: E731
        before = limits_of()
        for _ in range(10):
            if kind == "cycler":
                cycler = DutyCycler()
                race_to_close([partial(cycler.add, identify(child.pid), 0.02) for child in children], cycler.close)
                assert not cycler._state.groups
            elif kind.startswith("cpu"):
                cpu = CpuLimiter(0.02, by_cgroup=by_cgroup)
                race_to_close([partial(cpu.add, child.pid) for child in children], cpu.close)
                assert not cpu._placed
            else:
                memory = MemoryLimiter(by_cgroup=by_cgroup)
                race_to_close([partial(memory.add, child.pid, 1 << 30) for child in children], memory.close)
                assert not memory._bounded
            assert groups_left() == []
        assert limits_of() == before
        wait_until(lambda: {state_of(child.pid) for child in children} == {"S"}, "that nobody is stopped")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("cpu by cgroup", marks=with_cpu_groups),
        "cpu by duty cycle",
        pytest.param("memory by cgroup", marks=with_memory_groups),
        "memory by rlimit",
    ],
)
def test_a_limiter_that_is_closed_in_the_midst_of_an_add_lifts_that_limit(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """C10: a process that was just limited when another thread closed the limiter is let go, and the add is refused."""
    by_cgroup = kind.endswith("cgroup")
    cpu, memory = CpuLimiter(0.02, by_cgroup=by_cgroup), MemoryLimiter(by_cgroup=by_cgroup)
    limiter = cpu if kind.startswith("cpu") else memory
    where, name = {
        "cpu by cgroup": (cpu_limit, "_used_s"),
        "cpu by duty cycle": (cpu_limit, "identify"),
        "memory by cgroup": (memory_limit, "protect_parent_from_oom"),
        "memory by rlimit": (memory_limit, "protect_parent_from_oom"),
    }[kind]
    real = getattr(where, name)

    def closing_first(*args: object) -> object:
        other = threading.Thread(target=limiter.close)
        other.start()
        other.join()
        return real(*args)

    with running() as child, contextlib.closing(cpu), contextlib.closing(memory):
        before = resource.prlimit(child.pid, resource.RLIMIT_AS)
        monkeypatch.setattr(where, name, closing_first)
        with pytest.raises(ClosedError):
            _ = cpu.add(child.pid) if limiter is cpu else memory.add(child.pid, 1 << 30)
        assert resource.prlimit(child.pid, resource.RLIMIT_AS) == before
        assert groups_left() == []
        assert not cpu._placed
        assert not memory._bounded


def test_a_cycler_that_is_collected_in_its_own_thread_leaves_nothing_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A garbage collection that closes the cycler just before its thread stops a group does not leave that group stopped."""
    cycler = DutyCycler()
    state, real, closed = cycler._state, os.killpg, threading.Event()

    def killpg(group: int, number: int) -> None:
        if number == signal.SIGSTOP and not closed.is_set():
            state.close()  # what the finalizer calls
            closed.set()
        real(group, number)

    with running(*SPIN) as child, monkeypatch.context() as patch:
        patch.setattr(os, "killpg", killpg)
        cycler.add(identify(child.pid), 0.02)
        wait_until(closed.is_set, "that it is closed")
        cycler.close()
        wait_until(lambda: state_of(child.pid) == "R", "that it goes on")


@pytest.mark.parametrize("by_cgroup", [pytest.param(True, marks=with_cpu_groups), False])
def test_a_cpu_limit_holds_after_a_slice(monkeypatch: pytest.MonkeyPatch, by_cgroup: bool) -> None:
    """A cgroup's limit stays while the child stands still for something urgent; a duty cycle's is lifted and put back."""
    if not by_cgroup:
        monkeypatch.setattr(subgroups, "own_group", lambda controller: None)
    limiter = ChildLimiter(0.25, None)
    runner = ChildRunner(limiter=limiter, stoppable=True)
    runner.slice_s = 0.05
    cpu = limiter._cpu
    assert cpu is not None
    running_shares: list[float | None] = []
    resting_shares: list[float | None] = []

    def urgent_work() -> None:
        (pid,) = set(cpu._placed) | limiter._resting
        wait_until(lambda: state_of(pid) == "T", "that it stands still")
        resting_shares.append(cpu.share_in_force(pid))

    def more_urgent() -> Callable[[], None] | None:
        (pid,) = cpu._placed
        running_shares.append(cpu.share_in_force(pid))
        if len(running_shares) == 1:
            return urgent_work
        if not by_cgroup:
            stops_and_goes_on(pid)  # limited again
        runner.stop(kill=True)
        return None

    runner.more_urgent = more_urgent
    try:
        result = RunResult(*runner.run(Order(SPIN, Limits())))
    finally:
        runner.close()
        limiter.close()
    assert (result.returncode, result.cancelled) == (-signal.SIGKILL, True)
    assert running_shares == [0.25, 0.25]
    assert resting_shares == [0.25 if by_cgroup else None]


# --- choice of mechanism ----------------------------------------------------------------------------------------------


@with_cpu_groups
def test_what_killed_runs_left_is_in_nobodys_way() -> None:
    """C10: a group that a killed run left is removed, and one under this process's own name is passed over."""
    own = subgroups.own_group("cpu")
    assert own is not None
    with running("true") as gone:
        gone.wait()
    number = int(repr(subgroups._numbers).removeprefix("count(").removesuffix(")"))
    dead, namesake = own / f"procbench-{gone.pid}-cpu-1", own / f"procbench-{os.getpid()}-cpu-{number}"
    try:
        for folder in (dead, namesake):
            folder.mkdir()
        with running() as child, contextlib.closing(CpuLimiter(0.3)) as limiter:
            assert limiter.add(child.pid) in ("cgroup v1", "cgroup v2")
            assert not dead.exists()
            assert namesake.exists()
    finally:
        for folder in (dead, namesake):
            if folder.exists():
                folder.rmdir()


@with_cpu_groups
def test_a_cpu_group_holds_the_process_and_what_it_starts() -> None:
    """C10: where cgroups can be made, a quota is set in one below this process's own, for all that the process has started."""
    with running(*SPIN_TWICE) as child, contextlib.closing(CpuLimiter(0.3)) as limiter:
        wait_until(lambda: len(descendants(child.pid)) == 2)
        assert limiter.add(child.pid) in ("cgroup v1", "cgroup v2")
        (folder,) = groups_left()
        assert members(folder) == descendants(child.pid)
        quota = next(folder / name for name in ("cpu.max", "cpu.cfs_quota_us") if (folder / name).exists())
        assert quota.read_text().split()[0] == "30000"
        assert limiter.share_in_force(child.pid) == 0.3
        had = limiter.share_had(child.pid)
        assert had is not None
        assert had >= 0
        limiter.remove(child.pid)
        assert limiter.share_in_force(child.pid) is None
        assert members(folder) == frozenset()
        assert limiter.add(child.pid, 1.5) in ("cgroup v1", "cgroup v2")
        assert groups_left() == [folder]  # used again
        assert quota.read_text().split()[0] == "150000"


@with_cpu_groups
@pytest.mark.parametrize("then", ["add", "close"])
def test_a_cpu_group_is_emptied_once_there_is_a_descriptor(then: str) -> None:
    """L19: a process that cannot leave its group for want of a descriptor leaves it with the next call that has one."""
    with running() as child, running() as other, contextlib.closing(CpuLimiter(0.3)) as limiter:
        limiter.add(child.pid)
        (folder,) = groups_left()
        with no_descriptor_left():
            limiter.remove(child.pid)
        assert members(folder) == {child.pid}
        if then == "add":
            limiter.add(other.pid)
            assert [child.pid in members(group) for group in groups_left()] == [False] * len(groups_left())
        else:
            limiter.close()
            assert groups_left() == []


@pytest.mark.parametrize("by_cgroup", [pytest.param(True, marks=with_memory_groups), False])
def test_a_memory_limit_is_lifted_once_there_is_a_descriptor(by_cgroup: bool) -> None:
    """L19: for want of a descriptor a memory limit stays, without an error; closing gives the process what it had before."""
    with running() as child, contextlib.closing(MemoryLimiter(by_cgroup=by_cgroup)) as limiter:
        score = Path(f"/proc/{child.pid}/oom_score_adj")
        before = resource.prlimit(child.pid, resource.RLIMIT_AS), score.read_text()
        limiter.add(child.pid, 1 << 30)
        with no_descriptor_left():
            assert limiter.oom_kills(child.pid) == 0
            limiter.remove(child.pid)
        limiter.close()
        assert (resource.prlimit(child.pid, resource.RLIMIT_AS), score.read_text()) == before
        assert groups_left() == []


@pytest.mark.parametrize("own", [None, Path("/proc"), Path("/nowhere")])
def test_without_a_cgroup_the_duty_cycle_and_rlimits_are_named(
    monkeypatch: pytest.MonkeyPatch, own: Path | None
) -> None:
    """C10: without cgroups, or the right to make one, the other mechanisms are taken and named."""
    monkeypatch.setattr(subgroups, "own_group", lambda controller: own)
    with (
        running() as child,
        contextlib.closing(CpuLimiter(0.5)) as cpu,
        contextlib.closing(MemoryLimiter()) as memory,
    ):
        assert cpu.add(child.pid) == "duty cycle"
        assert memory.add(child.pid, 1 << 30) == "RLIMIT_AS"


BOTH_LIMITS = """
import subprocess
from procbench.cpu.cpu_limit import CpuLimiter
from procbench.cpu.memory_limit import MemoryLimiter
child = subprocess.Popen(["sleep", "90"], start_new_session=True)
cpu, memory = CpuLimiter(0.5), MemoryLimiter()
try:
    print(cpu.add(child.pid), memory.add(child.pid, 1 << 30), memory.limit_bytes(child.pid), sep=",")
finally:
    cpu.close(); memory.close(); child.kill(); child.wait()
"""


by_nobody = pytest.mark.skipif(os.geteuid() != 0 or not SYSTEM_PYTHON.exists(), reason="only root may become nobody")


@by_nobody
def test_an_ordinary_user_has_both_limits() -> None:
    """C10: an ordinary user gets the duty cycle and RLIMIT_AS, and is told."""
    assert run_python(BOTH_LIMITS, before=NOBODY, python=SYSTEM_PYTHON) == f"duty cycle,RLIMIT_AS,{1 << 30}"


@contextlib.contextmanager
def set_user_id(program: str) -> Iterator[Path]:
    """A copy of a program that runs as root whoever starts it, where everybody may."""
    with tempfile.TemporaryDirectory() as folder:
        if os.statvfs(folder).f_flag & os.ST_NOSUID:
            pytest.skip("set-user-id bits do nothing here")
        Path(folder).chmod(0o755)
        copy = Path(folder) / Path(program).name
        shutil.copy(shutil.which(program) or program, copy)
        copy.chmod(0o4755)
        yield copy


REFUSED = """
import pickle, sys
from pathlib import Path
from procbench import RunSettings, WorkStealingScheduler
from procbench.errors import LimitRefusedError
from procbench.io.limits import ChildLimiter
from procbench.io.order import Limits, Order
from procbench.io.runner import ChildRunner
from procbench.io.order import NULL
limiter = ChildLimiter(None, 1 << 30)
runner = ChildRunner(limiter=limiter)
try:
    runner.run(Order(sys.argv[1:], Limits()))
except LimitRefusedError as error:
    print(error.stage, str(pickle.loads(pickle.dumps(error))) == str(error), error)
runner.close(); limiter.close()
with WorkStealingScheduler(RunSettings(workers=1, memory_limit_bytes=1 << 30)) as scheduler:
    tasks = [scheduler.submit(sys.argv[1:]), scheduler.submit(["true"])]
    print(*[task.result().outcome for task in tasks])
print(*[path.read_text() for path in Path("/proc/self/task").glob("*/children")])
"""


@by_nobody
def test_a_set_user_id_program_that_cannot_be_limited_is_ended_and_says_so() -> None:
    """C10: it had begun and is ended and reaped; the error says why and what to do, and the next command runs."""
    with set_user_id("sleep") as sleep:
        marker = long_sleep()
        refusal, outcomes, *children = run_python(
            REFUSED, sleep, marker, before=NOBODY, python=SYSTEM_PYTHON
        ).splitlines()
        assert processes_with(marker) == []
    assert refusal.startswith(f"limits True cannot limit '{sleep}': Operation not permitted; RLIMIT_AS of process ")
    assert "It had begun and was ended; run it without limits, or as root" in refusal
    assert outcomes == "failed succeeded"
    assert not "".join(children).strip()


BECOMES_ROOT = """
import os, subprocess, sys, time
from procbench.io.spawn import end_at_once
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while os.stat(f"/proc/{child.pid}").st_uid != 0 or b"sleep" not in open(f"/proc/{child.pid}/comm", "rb").read():
    time.sleep(0.001)
end_at_once(child.pid)
child.returncode = 0
print("left")
"""


@by_nobody
def test_a_child_that_became_another_user_does_not_hide_why_it_should_end() -> None:
    """A child that this user may not even kill is left, without another error in the place of the one that is told."""
    with set_user_id("setpriv") as setpriv, adopting_orphans():
        command = (setpriv, "--reuid=0", "sleep", long_sleep())
        assert run_python(BECOMES_ROOT, *command, before=NOBODY, python=SYSTEM_PYTHON) == "left"
        assert processes_with(command[-1])


def test_version_2_is_taken_only_where_it_hands_the_controller_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """C10: a version 2 group whose ``cgroup.subtree_control`` does not name the controller gets no group below it."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    monkeypatch.setattr(subgroups, "own_group", lambda controller: tmp_path)
    assert Subgroups("cpu").mechanism is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cgroup.controllers", "cgroup.subtree_control"]


@pytest.mark.parametrize("share", [0, -1, 0.001, float("nan"), float("inf"), "1", True, None])
def test_a_share_that_makes_no_sense_is_refused(share: object) -> None:
    """A share of zero, or of nothing that is a number, is refused."""
    with pytest.raises(InvalidInputError):
        CpuLimiter(share)  # type: ignore[arg-type]


def test_a_closed_limiter_and_an_unknown_process_are_refused() -> None:
    """A pid that nobody has is a ProcessGoneError; after closing, which may be done twice, every pid is refused."""
    cpu, memory = CpuLimiter(0.5), MemoryLimiter()
    with pytest.raises(ProcessGoneError):
        cpu.add(2**22 + 1)
    with pytest.raises(ProcessGoneError):
        memory.add(2**22 + 1, 1 << 30)
    for limiter in (cpu, memory):
        limiter.remove(2**22 + 1)
        limiter.close()
        limiter.close()
    with pytest.raises(ClosedError):
        cpu.add(os.getpid())
    with pytest.raises(ClosedError):
        memory.add(os.getpid(), 1 << 30)


# --- memory and causes ------------------------------------------------------------------------------------------------

EATS = "import sys; sys.stdin.readline(); eaten = b'x' * (400 << 20)"


def eater(code: str = EATS) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )


@with_memory_groups
def test_too_much_memory_is_told_from_other_kills() -> None:
    """C09: the kernel kills a child over its cgroup's limit, not its parent, and the result can say so."""
    with contextlib.closing(MemoryLimiter()) as limiter:
        child = eater()
        mechanism = limiter.add(child.pid, 64 << 20)
        assert mechanism in ("cgroup v1", "cgroup v2")
        assert limiter.limit_bytes(child.pid) == 64 << 20
        child.communicate(b"\n")
        assert limit_hit(child.returncode, linux.Usage(), limiter.oom_kills(child.pid)) == "memory"
        limiter.remove(child.pid)
        with running() as other:  # the group is used again, and its count goes on
            limiter.add(other.pid, 64 << 20)
            assert limiter.oom_kills(other.pid) == 0


def test_a_child_is_chosen_before_its_parent() -> None:
    """C09: with a memory limit, a child's ``oom_score_adj`` is above this process's; it is put back with the limit."""

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    if score(os.getpid()) == 1000:
        pytest.skip("this process is the first to be chosen already")
    with running() as child, contextlib.closing(MemoryLimiter()) as limiter:
        before = score(child.pid)
        limiter.add(child.pid, 1 << 30)
        assert score(child.pid) > score(os.getpid())
        limiter.remove(child.pid)
        assert score(child.pid) == before


def test_address_space_is_limited_without_a_cgroup() -> None:
    """C08: RLIMIT_AS refuses memory, the child ends by itself, and that is not called a kill; the limit can be lifted."""
    with contextlib.closing(MemoryLimiter(by_cgroup=False)) as limiter:
        child = eater()
        before = resource.prlimit(child.pid, resource.RLIMIT_AS)
        assert limiter.add(child.pid, 300 << 20) == "RLIMIT_AS"
        assert resource.prlimit(child.pid, resource.RLIMIT_AS)[0] == limiter.limit_bytes(child.pid) == 300 << 20
        limiter.remove(child.pid)
        assert resource.prlimit(child.pid, resource.RLIMIT_AS) == before
        limiter.add(child.pid, 300 << 20)
        child.communicate(b"\n")
        assert child.returncode == 1
        assert limit_hit(child.returncode, linux.Usage()) is None


def test_cpu_time_that_is_used_up_is_told() -> None:
    """C08: SIGXCPU at the soft limit is ``cpu``, also of a limit that the command set itself."""
    result = run(["sh", "-c", "ulimit -S -t 1; while :; do :; done"])
    assert (result.signal, result.limit_hit) == ("SIGXCPU", "cpu")


HARD_LIMIT = """
import resource
from procbench.io.blocking import run
resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
for command in ("while :; do :; done", "kill -KILL $$"):
    result = run(["sh", "-c", command])
    print(result.signal, result.limit_hit)
"""


def test_cpu_time_that_is_used_up_is_told_from_other_kills() -> None:
    """C08: SIGKILL is ``cpu`` when the time that the hard limit allows was used, and nothing when it was not."""
    assert run_python(HARD_LIMIT).splitlines() == ["SIGKILL cpu", "SIGKILL None"]


def test_too_large_a_file_is_told(tmp_path: Path) -> None:
    """C08: SIGXFSZ is ``file size``."""
    result = run(["sh", "-c", "ulimit -f 8; exec cat /dev/zero > file"], cwd=tmp_path)
    assert (result.signal, result.limit_hit) == ("SIGXFSZ", "file size")
    assert (tmp_path / "file").stat().st_size == 8 * 512


@pytest.mark.parametrize("command", ["exit 0", "exit 1", "kill -KILL $$", "kill -TERM $$"])
def test_an_end_of_its_own_has_no_limit_as_its_cause(command: str) -> None:
    """C08: exit statuses and other signals are no limit's doing."""
    assert run(["sh", "-c", command]).limit_hit is None


GREEDY = "dd if=/dev/zero of=/dev/null bs=400M count=1"


@with_memory_groups
def test_a_kill_that_may_be_ours_is_not_put_down_to_memory() -> None:
    """C09: a child that is killed after its time-out is not said to have wanted too much memory, though one of its own had."""
    limiter = ChildLimiter(None, 64 << 20)
    runner = ChildRunner(limiter=limiter)
    told = f"{GREEDY}; test $? = 137 && kill -KILL $$"
    commands = {"of itself": (told, None), "at a time-out": (f"trap '{told}' TERM; while :; do sleep 0.01; done", 1.0)}
    results = {}
    try:
        for when, (command, timeout) in commands.items():
            fields = runner.run(Order(["sh", "-c", command], Limits(timeout=timeout, kill_grace_s=60), stderr=NULL))
            results[when] = RunResult(*fields)
    finally:
        runner.close()
        limiter.close()
    seen = {when: (result.signal, result.timed_out, result.limit_hit) for when, result in results.items()}
    assert seen == {"of itself": ("SIGKILL", False, "memory"), "at a time-out": ("SIGKILL", True, None)}


def test_a_limit_above_the_hard_one_names_what_is_missing() -> None:
    """C08: a limit that only CAP_SYS_RESOURCE may set is refused with the value that is there."""
    with running() as child:
        resource.prlimit(child.pid, resource.RLIMIT_CPU, (5, 5))
        with pytest.raises(PermissionDeniedError, match="CAP_SYS_RESOURCE: its hard limit is 5"):
            set_soft_limit(child.pid, resource.RLIMIT_CPU, "RLIMIT_CPU", 6)
