"""Limits of CPU time and memory: by what they are kept, that nothing stays stopped, and which of them ended a child."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from procbench.cpu import subgroups
from procbench.cpu.cpu_limit import ChildLimits, CpuLimiter, cause_of_end
from procbench.cpu.duty import DutyCycler, LimitedGroup, descendants
from procbench.cpu.memory_limit import MemoryLimiter, set_soft_limit
from procbench.cpu.processes import ProcessId, identify, read_stat
from procbench.cpu.subgroups import Subgroups, members
from procbench.errors import ClosedError, InvalidInputError, PermissionDeniedError, ProcessGoneError
from tests.waiting import SYSTEM_PYTHON, long_sleep, run_python, wait_until

SPIN = ("sh", "-c", "while :; do :; done")
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
import subprocess, time, sys, os
from procbench.cpu.cpu_limit import CpuLimiter
child = subprocess.Popen(["sh", "-c", "trap 'echo $$ >&2' CONT; while :; do :; done"], process_group=0)
limiter = CpuLimiter(0.02, by_cgroup=False)
limiter.add(child.pid)
print(child.pid, flush=True)
time.sleep(90)
"""


def test_a_killed_owner_leaves_nothing_stopped() -> None:
    """A killed owner whose child is adopted outside its session leaves nothing stopped: the kernel sends SIGHUP and SIGCONT."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    owner = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=env,
        start_new_session=True,
    )
    try:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        child = identify(pid)
        wait_until(lambda: state_of(pid) == "T")
    finally:
        owner.kill()
        owner.communicate()

    def is_stopped() -> bool:
        with contextlib.suppress(ProcessGoneError):
            return read_stat(pid).id == child and state_of(pid) == "T"
        return False

    try:
        wait_until(lambda: not is_stopped(), "that it is not stopped")
    finally:
        with contextlib.suppress(ProcessGoneError):
            if read_stat(pid).id == child:
                os.killpg(pid, signal.SIGKILL)


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


NOBODY = """
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


@pytest.mark.skipif(os.geteuid() != 0 or not SYSTEM_PYTHON.exists(), reason="only root may become nobody")
def test_an_ordinary_user_has_both_limits() -> None:
    """C10: an ordinary user gets the duty cycle and RLIMIT_AS, and is told."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    assert run_python(NOBODY, before=nobody, python=SYSTEM_PYTHON) == f"duty cycle,RLIMIT_AS,{1 << 30}"


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
    """C09: the kernel kills a child over its cgroup's limit, not its parent, and the cause is ``limit:memory``."""
    with contextlib.closing(MemoryLimiter()) as limiter:
        child = eater()
        mechanism = limiter.add(child.pid, 64 << 20)
        assert mechanism in ("cgroup v1", "cgroup v2")
        assert limiter.limit_bytes(child.pid) == 64 << 20
        child.communicate(b"\n")
        limits = ChildLimits(oom_kills=limiter.oom_kills(child.pid))
        assert cause_of_end(child.returncode, 0.1, limits) == "limit:memory"
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
        assert cause_of_end(child.returncode, 0.1, ChildLimits()) is None


@pytest.mark.parametrize("hard", [False, True])
def test_too_much_cpu_time_is_told_from_other_kills(hard: bool) -> None:
    """C08: SIGXCPU, and SIGKILL at the hard limit, are ``limit:CPU`` when that much CPU time was used."""
    with running(*SPIN) as child:
        if hard:
            resource.prlimit(child.pid, resource.RLIMIT_CPU, (1, 1))
        else:
            set_soft_limit(child.pid, resource.RLIMIT_CPU, "RLIMIT_CPU", 1)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == (-signal.SIGKILL if hard else -signal.SIGXCPU)
        cpu_time_s = usage.ru_utime + usage.ru_stime
        assert cause_of_end(child.returncode, cpu_time_s, ChildLimits(cpu_time_limit_s=1)) == "limit:CPU"
        assert cause_of_end(child.returncode, 0.1, ChildLimits(cpu_time_limit_s=1)) is None
        assert cause_of_end(child.returncode, cpu_time_s, ChildLimits()) is None


def test_too_large_a_file_is_told(tmp_path: Path) -> None:
    """C08: SIGXFSZ under a file size limit is ``limit:FSIZE``, and without one nothing is claimed."""
    with (tmp_path / "file").open("wb") as file:
        child = subprocess.Popen(["sh", "-c", "read line; exec cat /dev/zero"], stdin=subprocess.PIPE, stdout=file)
        set_soft_limit(child.pid, resource.RLIMIT_FSIZE, "RLIMIT_FSIZE", 4096)
        child.communicate(b"\n")
    assert (tmp_path / "file").stat().st_size == 4096
    assert cause_of_end(child.returncode, 0.0, ChildLimits(file_size_limit_bytes=4096)) == "limit:FSIZE"
    assert cause_of_end(child.returncode, 0.0, ChildLimits()) is None


@pytest.mark.parametrize("returncode", [0, 1, None, -signal.SIGTERM])
def test_an_end_of_its_own_has_no_limit_as_its_cause(returncode: int | None) -> None:
    """C08: exit statuses and other signals are no limit's doing."""
    assert cause_of_end(returncode, 9.0, ChildLimits(cpu_time_limit_s=1, file_size_limit_bytes=1, oom_kills=1)) is None


def test_a_limit_above_the_hard_one_names_what_is_missing() -> None:
    """C08: a limit that only CAP_SYS_RESOURCE may set is refused with the value that is there."""
    with running() as child:
        resource.prlimit(child.pid, resource.RLIMIT_CPU, (5, 5))
        with pytest.raises(PermissionDeniedError, match="CAP_SYS_RESOURCE: its hard limit is 5"):
            set_soft_limit(child.pid, resource.RLIMIT_CPU, "RLIMIT_CPU", 6)
