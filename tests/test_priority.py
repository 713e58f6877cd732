"""What processes and threads are given: against util-linux's own tools, as a whole or not at all, and back again."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import pickle
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from procbench import linux
from procbench.cpu import change, priority, processes, scheduling_class
from procbench.cpu.priority import ProcessPriorityManager, apply_to_current_thread, read
from procbench.cpu.processes import ProcessId, identify, thread_ids
from procbench.errors import ClosedError, InvalidInputError, PermissionDeniedError, ProcessGoneError, UnsupportedError
from tests.waiting import ROOT, SYSTEM_PYTHON, long_sleep, run_python

ROOT_USER = os.geteuid() == 0
_EFFECTIVE = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
PRIVILEGED = bool(_EFFECTIVE >> 23 & 1)  # CAP_SYS_NICE, which a container's root lacks as a rule
AS_NOBODY = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
)
only_privileged = pytest.mark.skipif(not PRIVILEGED, reason="this needs CAP_SYS_NICE")
only_with_nobody = pytest.mark.skipif(
    not ROOT_USER or not SYSTEM_PYTHON.exists() or shutil.which("setpriv") is None, reason="only root may become nobody"
)


def io_priorities_known() -> bool:
    try:
        linux.get_io_priority(0)
    except UnsupportedError:
        return False
    return True


pytestmark = pytest.mark.skipif(not io_priorities_known(), reason="this machine's I/O priority calls are not known")


@contextlib.contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a group of its own, ended afterwards."""
    child = subprocess.Popen(argv or ("sleep", long_sleep()), start_new_session=True, stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def on_one_cpu(pid: int) -> None:
    """Leave the others a CPU, as a real-time process must."""
    cpus = os.sched_getaffinity(0)
    if os.cpu_count() == 1:
        pytest.skip("one CPU: nothing real-time is allowed")
    os.sched_setaffinity(pid, {min(cpus)})


def may_be_real_time() -> bool:
    with running() as child:
        try:
            os.sched_setscheduler(child.pid, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError:
            return False
    return os.cpu_count() != 1


def said(*argv: object) -> str:
    return subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}
    ).stdout.strip()


def seen_by_tools(pid: int) -> dict[str, object]:
    """What /proc, chrt, ionice and prlimit say; ps shows no nice value beside some policies."""
    policy, rt_priority = (line.split(": ")[1] for line in said("chrt", "-p", pid).splitlines())
    name, _, level = said("ionice", "-p", pid).partition(": prio ")
    limits = said("prlimit", "-p", pid, "--cpu", "--fsize", "--noheadings", "--raw", "-o", "SOFT").split()
    return {
        "nice": int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[16]),
        "policy": policy,
        "rt_priority": int(rt_priority),
        "io": (name, int(level or 0)),
        "limits": [None if limit == "unlimited" else int(limit) for limit in limits],
    }


def seen_by_us(in_force: priority.InForce) -> dict[str, object]:
    has = in_force.scheduling
    return {
        "nice": has.nice,
        "policy": f"SCHED_{has.policy.upper()}" + ("|SCHED_RESET_ON_FORK" if has.reset_on_fork else ""),
        "rt_priority": has.rt_priority,
        "io": (has.io_class, has.io_level),
        "limits": [in_force.cpu_time_limit_s, in_force.file_size_limit_bytes],
    }


def random_values(rng: random.Random, nice_now: int, real_time: bool) -> dict[str, object]:
    """Something that this user may set."""
    values: dict[str, object] = {}
    if rng.random() < 0.5:
        values["nice"] = rng.randint(-20 if PRIVILEGED else nice_now, 19)
    if rng.random() < 0.6:
        policies = ["other", "batch"] + (["idle"] if PRIVILEGED else []) + (["fifo", "rr"] if real_time else [])
        values["policy"] = rng.choice(policies)
        if values["policy"] in ("fifo", "rr"):
            values["rt_priority"] = rng.randint(1, 99)
    if rng.random() < 0.6:
        values["io_class"] = rng.choice(["none", "best-effort", "idle"] + (["realtime"] if PRIVILEGED else []))
        if values["io_class"] in ("realtime", "best-effort") and rng.random() < 0.8:
            values["io_level"] = rng.randint(0, 7)
    if rng.random() < 0.4 or not values:
        values["cpu_time_limit_s"] = rng.randint(1, 10**6)
    if rng.random() < 0.4:
        values["file_size_limit_bytes"] = rng.randint(1, 2**40)
    return values


@pytest.mark.parametrize("seed", range(4))
def test_what_is_set_is_what_the_tools_see(seed: int) -> None:
    """In 1,000 random changes, five values each, /proc, chrt, ionice and prlimit agree; undoing gives back what was before."""
    for tool in ("chrt", "ionice", "prlimit"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    rng = random.Random(seed)
    real_time = PRIVILEGED and may_be_real_time()
    with running() as child, contextlib.ExitStack() as stack:
        if real_time:
            on_one_cpu(child.pid)
        before = seen_by_tools(child.pid)
        manager = stack.enter_context(ProcessPriorityManager()) if PRIVILEGED else ProcessPriorityManager()
        for _ in range(250):
            values = random_values(rng, os.getpriority(os.PRIO_PROCESS, child.pid), real_time)
            done = manager.set(child.pid, **values)  # type: ignore[arg-type]
            assert done.asked == values
            assert seen_by_us(done.in_force) == seen_by_tools(child.pid), values
        if PRIVILEGED:
            manager.undo(child.pid)
            assert seen_by_tools(child.pid) == before
        else:
            with contextlib.suppress(PermissionDeniedError):
                manager.close()


THREADS = """
import threading
threads = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(5)]
for thread in threads: thread.start()
print("ready", flush=True)
threading.Event().wait()
"""


def test_every_thread_is_set_and_put_back() -> None:
    """A process is set with all its threads, not just its main one, and all of them are put back."""
    with running(sys.executable, "-c", THREADS) as child:
        assert child.stdout is not None
        child.stdout.readline()
        tids = thread_ids(child.pid)
        assert len(tids) == 6
        before = {tid: read(tid) for tid in tids}
        with ProcessPriorityManager() as manager:
            manager.set(child.pid, policy="batch", io_class="best-effort", io_level=7)
            assert {(read(tid).policy, read(tid).io_class, read(tid).io_level) for tid in tids} == {
                ("batch", "best-effort", 7)
            }
        assert {tid: read(tid) for tid in tids} == before


@only_privileged
def test_real_time_ends_at_a_fork_and_has_a_time_limit() -> None:
    """C05: a real-time process is reset on fork and gets RLIMIT_RTTIME, and both are taken back."""
    if not may_be_real_time():
        pytest.skip("real-time is refused here")
    with running() as child, ProcessPriorityManager() as manager:
        on_one_cpu(child.pid)
        limits = resource.prlimit(child.pid, resource.RLIMIT_RTTIME)
        done = manager.set(child.pid, policy="rr")
        assert (done.in_force.scheduling.rt_priority, done.in_force.scheduling.reset_on_fork) == (1, True)
        assert resource.prlimit(child.pid, resource.RLIMIT_RTTIME)[0] == change.RT_TIME_LIMIT_US
        manager.undo(child.pid)
        assert read(child.pid).policy == "other"
        assert resource.prlimit(child.pid, resource.RLIMIT_RTTIME) == limits


def test_a_real_time_process_may_not_have_every_cpu() -> None:
    """C05: real-time is refused where the process may run on every CPU that is online."""
    with running() as child, ProcessPriorityManager() as manager:
        every = change.parse_cpu_list(Path("/sys/devices/system/cpu/online").read_text())
        if not os.sched_getaffinity(child.pid) >= every:
            pytest.skip("this process may not use every CPU itself")
        with pytest.raises(InvalidInputError, match=r"one CPU online|pin it to fewer"):
            manager.set(child.pid, policy="fifo")
        assert read(child.pid).policy == "other"


def test_a_machine_with_one_cpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """C05: with one CPU online a real-time policy is refused, and the reason is named."""
    monkeypatch.setattr(change, "parse_cpu_list", lambda text: frozenset({0}))
    one_cpu = pytest.raises(InvalidInputError, match="has one CPU online")
    with running() as child, ProcessPriorityManager() as manager, one_cpu:
        manager.set(child.pid, policy="fifo")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"nice": 20},
        {"nice": -21},
        {"nice": True},
        {"nice": 1.5},
        {"policy": "realtime"},
        {"policy": "other", "rt_priority": 1},
        {"rt_priority": 1},
        {"policy": "fifo", "rt_priority": 0},
        {"policy": "fifo", "rt_priority": 100},
        {"io_class": "best"},
        {"io_class": "idle", "io_level": 1},
        {"io_class": "best-effort", "io_level": 8},
        {"io_level": -1, "io_class": "realtime"},
        {"cpu_limit": 0},
        {"cpu_limit": -1.0},
        {"cpu_limit": float("nan")},
        {"cpu_limit": float("inf")},
        {"cpu_limit": "half"},
        {"memory_limit_bytes": 0},
        {"memory_limit_bytes": 1.5e9},
        {"memory_limit_bytes": 2**63},
        {"cpu_time_limit_s": 0},
        {"cpu_time_limit_s": 0.5},
        {"file_size_limit_bytes": 0},
    ],
)
def test_a_value_that_makes_no_sense_changes_nothing(values: dict[str, object]) -> None:
    """A value outside its range, a limit of zero among them, is refused before anything is set, also beside good ones."""
    with running() as child, ProcessPriorityManager() as manager:
        before = read(child.pid), [resource.prlimit(child.pid, one) for one in range(resource.RLIMIT_RTTIME + 1)]
        good = {"policy": "batch", "file_size_limit_bytes": 10} if values else {}
        with pytest.raises(InvalidInputError):
            manager.set(child.pid, **{**good, **values})  # type: ignore[arg-type]
        assert before == (
            read(child.pid),
            [resource.prlimit(child.pid, one) for one in range(resource.RLIMIT_RTTIME + 1)],
        )
        assert (manager.statistics().refused, manager.statistics().processes) == (1, 0)


def test_unknown_and_ended_processes_are_named() -> None:
    """A pid that nobody has, one that can be nobody's, and a zombie's are errors of their own kind."""
    with ProcessPriorityManager() as manager:
        with pytest.raises(ProcessGoneError):
            manager.set(2**22 + 1, nice=5)
        for pid in (0, -1, True, "1"):
            with pytest.raises(InvalidInputError):
                manager.set(pid, nice=5)  # type: ignore[arg-type]
        child = subprocess.Popen(["true"])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessGoneError):
            manager.set(child.pid, nice=5)
        child.wait()


def test_a_later_process_with_the_same_pid_is_left_alone() -> None:
    """C06: a process that got the pid of one that ended is not put back, and not touched."""
    with running() as child, ProcessPriorityManager() as manager:
        manager.set(child.pid, policy="batch")
        managed = manager._managed[child.pid]
        started = managed.mark.process.started_ticks - 1
        managed.mark = managed.mark._replace(process=ProcessId(child.pid, started))  # as if it had started earlier
        with pytest.raises(ProcessGoneError):
            manager.undo(child.pid)
        assert read(child.pid).policy == "batch"
        assert (manager.statistics().gone, manager.statistics().undone) == (1, 0)


def test_a_thread_is_no_process() -> None:
    """C06: the number of a thread within a process is refused, and the thread keeps what it has."""
    code = "import threading, time; threading.Thread(target=time.sleep, args=(90,), daemon=True).start(); print(1, flush=True)"
    with running(sys.executable, "-c", f"{code}; time.sleep(90)") as child, ProcessPriorityManager() as manager:
        assert child.stdout is not None
        child.stdout.readline()
        tid = max(thread_ids(child.pid))
        with pytest.raises(InvalidInputError, match="name the process"):
            manager.set(tid, policy="batch")
        assert read(tid).policy == read(child.pid).policy


@pytest.mark.parametrize("fails", [False, True])
def test_whoever_gets_the_pid_in_the_middle_of_a_change_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """C06: when the process ends while it is changed, its number's next owner is neither changed nor "put back"."""

    def state() -> object:
        return read(child.pid), resource.prlimit(child.pid, resource.RLIMIT_FSIZE)

    def end(*_: object) -> str:
        """From here on the number is another process's: it started later."""
        real = processes.identify
        patch.setattr(processes, "identify", lambda pid: real(pid)._replace(started_ticks=2**40))
        found.append(state())
        if fails:
            raise PermissionDeniedError(errno.EPERM, "refused for the test")
        return "duty cycle"

    def no_pidfd(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    found: list[object] = []
    with running() as child, ProcessPriorityManager() as manager, monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", no_pidfd)
        patch.setattr(manager._cpu, "add", end)
        with pytest.raises(PermissionDeniedError if fails else ProcessGoneError):
            manager.set(child.pid, nice=19, policy="batch", file_size_limit_bytes=10, cpu_limit=0.5)
        assert found == [state()]


def test_what_could_not_be_given_back_is_not_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """C04: a policy or I/O class that cannot be set here stays, said so; other values can be set, and all is put back."""
    with running() as child, ProcessPriorityManager() as manager:
        os.sched_setscheduler(child.pid, os.SCHED_BATCH, os.sched_param(0))
        known = {name: number for name, number in scheduling_class.POLICIES.items() if name != "batch"}
        monkeypatch.setattr(scheduling_class, "POLICIES", known)
        monkeypatch.setitem(scheduling_class._POLICY_NAMES, os.SCHED_BATCH, "deadline")
        with pytest.raises(UnsupportedError, match="'deadline', which could not be given back"):
            manager.set(child.pid, policy="other")
        monkeypatch.setattr(linux, "get_io_priority", lambda _: (5, 0))
        with pytest.raises(UnsupportedError, match="I/O class '5', which could not be given back"):
            manager.set(child.pid, io_class="idle")
        manager.set(child.pid, file_size_limit_bytes=10)
        manager.undo(child.pid)
        assert os.sched_getscheduler(child.pid) == os.SCHED_BATCH
        assert resource.prlimit(child.pid, resource.RLIMIT_FSIZE)[0] != 10


def test_closing_goes_on_after_any_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """C04: one process that cannot be put back, for whatever reason, keeps no other from it, and no limiter open."""
    with running() as first, running() as second:
        manager = ProcessPriorityManager()
        before = read(second.pid).policy
        for child in (first, second):
            manager.set(child.pid, policy="batch")
        real = scheduling_class.set_policy

        def refuse_first(tid: int, target: scheduling_class.SchedulingClass) -> None:
            if tid == first.pid:
                raise KeyError("for the test")
            real(tid, target)

        monkeypatch.setattr(scheduling_class, "set_policy", refuse_first)
        with pytest.raises(KeyError, match="for the test"):
            manager.close()
        assert (read(first.pid).policy, read(second.pid).policy) == ("batch", before)
        with pytest.raises(ClosedError):
            manager._cpu.add(second.pid, 0.5)
        manager.close()


def test_one_refusal_does_not_end_the_taking_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """C04: a limiter that fails while a change is taken back keeps nothing else from it, nor the first error from the caller."""
    with running() as child, ProcessPriorityManager() as manager:
        before = seen_by_tools(child.pid)

        def refuse(*_: object) -> None:
            patch.setattr(manager._cpu, "remove", fail)
            raise PermissionDeniedError(errno.EPERM, "refused for the test")

        def fail(*_: object) -> None:
            raise OSError(errno.EIO, "no way back for the test")

        with monkeypatch.context() as patch:
            patch.setattr(change.Change, "_read_back", refuse)
            with pytest.raises(PermissionDeniedError, match="refused for the test") as caught:
                manager.set(child.pid, policy="batch", file_size_limit_bytes=9, cpu_limit=0.5)
        assert any("no way back" in note for note in caught.value.__notes__)
        assert seen_by_tools(child.pid) == before
        manager._cpu.remove(child.pid)


def test_processes_that_end_drop_out() -> None:
    """C06: a process that has ended is no longer counted, and closing finds nothing to do for it."""
    with ProcessPriorityManager() as manager:
        with running() as child:
            manager.set(child.pid, policy="batch")
            assert manager.statistics().processes == 1
        now = manager.statistics()
        assert (now.processes, now.gone, now.changes) == (0, 1, 1)
        with pytest.raises(InvalidInputError, match="nothing was set"):
            manager.undo(child.pid)


def test_a_closed_manager_sets_nothing() -> None:
    """After closing, which may be done twice, the manager refuses."""
    manager = ProcessPriorityManager()
    manager.close()
    manager.close()
    with pytest.raises(ClosedError):
        manager.set(os.getpid(), nice=5)


@only_privileged
def test_what_fails_last_takes_back_what_was_done_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """C04: when the last step fails, limits, I/O class, policy, nice value and CPU limit are as they were before."""
    with running() as child, ProcessPriorityManager() as manager:
        manager.set(child.pid, nice=3, cpu_time_limit_s=50)
        before = seen_by_tools(child.pid)

        def refuse(*_: object) -> None:
            raise PermissionDeniedError(1, "refused for the test")

        with monkeypatch.context() as patch:
            patch.setattr(change.Change, "_read_back", refuse)
            with pytest.raises(PermissionDeniedError):
                manager.set(
                    child.pid,
                    nice=7,
                    policy="idle",
                    io_class="idle",
                    cpu_time_limit_s=9,
                    file_size_limit_bytes=9,
                    cpu_limit=0.5,
                )
        assert seen_by_tools(child.pid) == before
        assert manager.share_had(child.pid) is None


NOBODY = """
import os, subprocess, sys
from procbench.cpu.priority import ProcessPriorityManager, apply_to_current_thread, read
from procbench.errors import PermissionDeniedError
child = subprocess.Popen(["sleep", "90"])
manager = ProcessPriorityManager()
def refused(what, *needles):
    try:
        what()
    except PermissionDeniedError as error:
        assert all(needle in str(error) for needle in needles), error
        return getattr(error, "__notes__", [])
    raise AssertionError("it was not refused")
def limits():
    import resource
    return [resource.prlimit(child.pid, one) for one in range(16)]
try:
    before = read(child.pid), limits()
    everything = dict(policy="batch", io_class="idle", file_size_limit_bytes=9)
    needles = "CAP_SYS_NICE", "RLIMIT_NICE of at least 25 (it is 0)"
    assert refused(lambda: manager.set(child.pid, nice=-5, **everything), *needles) == []
    assert (read(child.pid), limits()) == before
    assert refused(lambda: manager.set(child.pid, io_class="realtime", nice=5), "CAP_SYS_NICE") == []
    assert (read(child.pid), limits()) == before
    if os.cpu_count() > 1:
        os.sched_setaffinity(child.pid, {min(os.sched_getaffinity(0))})
        refused(lambda: manager.set(child.pid, policy="fifo", nice=5), "CAP_SYS_NICE", "RLIMIT_RTPRIO", "(it is 0)")
        assert (read(child.pid), limits()) == before
    refused(lambda: manager.set(int(sys.argv[1]), nice=5), "belongs to user 0", "CAP_SYS_NICE")
    now = read(0)
    refused(lambda: apply_to_current_thread(nice=-1, policy="batch", io_class="idle"), "RLIMIT_NICE")
    assert read(0) == now
    manager.set(child.pid, nice=5, policy="batch")
    assert read(child.pid).nice == 5
    refused(lambda: manager.undo(child.pid), "RLIMIT_NICE of at least 20", "could not be given back")
    assert (read(child.pid).nice, read(child.pid).policy) == (5, "other")  # all but the one thing
    print("clean")
finally:
    child.kill(); child.wait()
"""


@only_with_nobody
def test_an_ordinary_user_is_told_what_is_missing() -> None:
    """C04: without the right, the error names capability and limit, nothing is half set, and no way back is said."""
    with running() as foreign:
        assert run_python(NOBODY, foreign.pid, before=AS_NOBODY, python=SYSTEM_PYTHON) == "clean"
        assert read(foreign.pid).nice == os.getpriority(os.PRIO_PROCESS, 0)


# --- a thread's own ---------------------------------------------------------------------------------------------------


def in_a_thread(work: object) -> object:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()  # type: ignore[arg-type, call-overload]


def test_a_thread_sets_itself_and_its_children_inherit() -> None:
    """What a worker thread sets is its own and its children's; the other threads of this process keep what they had."""
    mine = read(0)
    here = threading.get_native_id()

    def work() -> None:
        before = read(0)
        done = apply_to_current_thread(
            nice=min(19, before.nice + 4), policy="batch", io_class="best-effort", io_level=6
        )
        assert done.asked == {
            "nice": min(19, before.nice + 4),
            "policy": "batch",
            "io_class": "best-effort",
            "io_level": 6,
        }
        assert (
            done.in_force
            == read(0)
            == replace(before, nice=min(19, before.nice + 4), policy="batch", io_class="best-effort", io_level=6)
        )
        with running() as child:
            assert read(child.pid) == done.in_force
        assert read(here) == mine

    in_a_thread(work)
    assert read(0) == mine


@pytest.mark.parametrize(
    "values", [{"policy": "fifo"}, {"policy": "x"}, {"nice": 20}, {"nice": 0, "io_class": "quick"}]
)
def test_a_thread_refuses_what_makes_no_sense(values: dict[str, object]) -> None:
    """A value that no child could have, or nobody, changes nothing in the thread."""
    before = read(0)
    with pytest.raises(InvalidInputError):
        apply_to_current_thread(**values)  # type: ignore[arg-type]
    assert read(0) == before


def test_reading_a_process_that_is_not_there_says_so() -> None:
    """An unknown pid is a ProcessGoneError, which pickles."""
    with pytest.raises(ProcessGoneError) as caught:
        read(2**22 + 1)
    assert pickle.loads(pickle.dumps(caught.value)).errno == caught.value.errno


def test_another_machine_is_told_that_io_priorities_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the number of the system call is not known, nothing is guessed."""
    monkeypatch.setattr(linux, "_IOPRIO_NUMBERS", (0, 0))
    with pytest.raises(UnsupportedError, match="x86-64 and aarch64"):
        linux.get_io_priority(0)


def test_the_module_says_which_child_it_means() -> None:
    """What was set comes back with the process's pid and start, the values asked, and pickles."""
    with running() as child, ProcessPriorityManager() as manager:
        done = manager.set(child.pid, policy="batch")
        assert done.process == identify(child.pid)
        assert pickle.loads(pickle.dumps(done)) == done


# --- forgotten ----------------------------------------------------------------------------------------------------

FORGOTTEN = """
import gc, os, sys, warnings
import procbench
warnings.simplefilter("always")
warnings.showwarning = lambda message, *_: print(message, flush=True)
pid, how = int(sys.argv[1]), sys.argv[2]
manager = procbench.ProcessPriorityManager()
manager.set(pid, policy="batch", io_class="idle", file_size_limit_bytes=9999)
if how == "in a fork":
    child = os.fork()
    if not child:
        del manager
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    print(os.sched_getscheduler(pid) == os.SCHED_BATCH)
    manager.close()
elif how == "closed":
    manager.close()
elif how == "killed":
    os.kill(os.getpid(), 9)
"""


def test_a_forgotten_manager_puts_back_what_it_changed() -> None:
    """Every process has its own again as soon as the last reference goes, limits too, and a warning says what to do."""
    with running() as one, running("yes") as two, running() as ended:
        before = [seen_by_tools(child.pid) for child in (one, two)]
        manager = ProcessPriorityManager()
        manager.set(one.pid, policy="batch", io_class="idle", file_size_limit_bytes=9999)
        manager.set(one.pid, cpu_time_limit_s=99)
        manager.set(two.pid, policy="batch", cpu_limit=0.02, memory_limit_bytes=2**30)
        manager.set(ended.pid, policy="batch")
        assert [seen_by_tools(child.pid) for child in (one, two)] != before
        ended.kill()
        ended.wait()
        with pytest.warns(ResourceWarning, match="forgotten, and 2 of its .* with block$") as said:
            del manager
        assert said[0].filename == __file__
        assert [seen_by_tools(child.pid) for child in (one, two)] == before
        assert resource.prlimit(two.pid, resource.RLIMIT_AS) == resource.getrlimit(resource.RLIMIT_AS)
        assert two.stdout is not None
        used = processes.read_stat(two.pid).cpu_ticks
        while processes.read_stat(two.pid).cpu_ticks < used + 5:  # nothing stops it for good
            two.stdout.read(2**16)


def test_a_manager_in_a_cycle_puts_back_when_it_is_collected() -> None:
    """Also where only the garbage collector finds that nobody has it."""
    with running() as child:
        before = read(child.pid)
        cycle: list[object] = [ProcessPriorityManager()]
        cycle.append(cycle)
        assert isinstance(cycle[0], ProcessPriorityManager)
        cycle[0].set(child.pid, policy="batch", cpu_limit=0.5)
        del cycle
        with pytest.warns(ResourceWarning, match="forgotten"):
            gc.collect()
        assert read(child.pid) == before


def test_a_forgotten_manager_that_changed_nothing_says_nothing() -> None:
    """One that never set a thing, whose process has ended, or that was closed, is no loss; warnings are errors here."""
    with running() as child:
        manager = ProcessPriorityManager()
        del manager
        manager = ProcessPriorityManager()
        manager.set(child.pid, policy="batch")
        manager.close()
        del manager
        manager = ProcessPriorityManager()
        manager.set(child.pid, policy="batch")
        manager.undo(child.pid)
        manager.set(child.pid, policy="batch")
        child.kill()
        child.wait()
        del manager
        gc.collect()


def test_a_forgotten_manager_leaves_a_later_process_alone() -> None:
    """C06: what has the number of a changed process by then, and is another, keeps what it has."""
    with running() as child:
        manager = ProcessPriorityManager()
        manager.set(child.pid, policy="batch")
        managed = manager._managed[child.pid]
        started = managed.mark.process.started_ticks - 1
        managed.mark = managed.mark._replace(process=ProcessId(child.pid, started))
        del managed, manager
        assert read(child.pid).policy == "batch"


def test_what_cannot_be_put_back_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning says what was refused; the processes beside it get back what they had, and so does the rest of it."""
    real, real_restore = os.sched_setscheduler, priority.restore
    with running() as one, running() as two, running() as three:
        limits = resource.prlimit(one.pid, resource.RLIMIT_FSIZE)

        def refuse(tid: int, policy: int, param: os.sched_param) -> None:
            if tid == one.pid:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            real(tid, policy, param)

        def fail(guard: processes.ProcessGuard, *rest: Any) -> None:
            if guard.pid == three.pid:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            real_restore(guard, *rest)

        manager = ProcessPriorityManager()
        for child in (two, one, three):
            manager.set(child.pid, policy="batch", file_size_limit_bytes=9999)
        monkeypatch.setattr(os, "sched_setscheduler", refuse)
        monkeypatch.setattr(priority, "restore", fail)
        with pytest.warns(
            ResourceWarning,
            match=f"and 1 of its .* Too many open files; .* process {one.pid} could not be given back .* close it",
        ):
            del manager
        assert (read(one.pid).policy, read(two.pid).policy) == ("batch", "other")
        assert resource.prlimit(one.pid, resource.RLIMIT_FSIZE) == limits


@pytest.mark.parametrize(
    ("how", "said", "left"),
    [
        ("at the end", "a priority manager was forgotten, and 1 of its .*", "other"),
        ("closed", "", "other"),
        ("in a fork", "True", "other"),
        ("killed", "", "batch"),
    ],
)
def test_a_script_that_ends_leaves_nothing_changed(how: str, said: str, left: str) -> None:
    """At the interpreter's end what is open is put back with a warning; not by a fork, and not by one that is killed."""
    with running() as child:
        before = seen_by_tools(child.pid)
        argv = [sys.executable, "-c", FORGOTTEN, str(child.pid), how]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == (-9 if how == "killed" else 0), done.stderr
        assert re.fullmatch(said, done.stdout.strip())
        assert done.stderr == ""
        assert read(child.pid).policy == left
        assert (seen_by_tools(child.pid) == before) == (left == "other")
