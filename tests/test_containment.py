"""What a command starts ends with it: real trees of processes, at each level, by each door, however the end comes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import procbench
from procbench import ProcessTask, RunSettings, WorkStealingScheduler, open_process, run
from procbench.errors import CommandTimeoutError, SpawnError
from procbench.io import blocking, containment, orphans, starter
from procbench.io.contained import LEVELS, ContainmentLevel
from procbench.io.containment import Containment, available_levels
from procbench.io.groups import living_members, signal_group, signal_process, state_of
from procbench.io.results import RunResult
from procbench.linux import is_child_subreaper
from tests.waiting import ROOT, SYSTEM_PYTHON, long_sleep, processes_with, run_python, wait_until

PIPE = subprocess.PIPE
SOON_S = 3.0
"""The promise is a second; a machine that runs other tests meanwhile gets three."""
SLEEPERS = 5
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")

WAYS = ("group", "subreaper", "cgroup", "cgroup v2")
"""The levels, the last in both ways."""

as_nobody = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None or not SYSTEM_PYTHON.exists(),
    reason="becomes an ordinary user by setpriv",
)


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ContainmentLevel:
    """Take one of ``WAYS``; a cgroup of version 2 is had by looking for no other."""
    if request.param == "cgroup v2":
        monkeypatch.setattr(containment, "_CONTROLLERS", ("",))
    level: ContainmentLevel = request.param.partition(" ")[0]
    if (reason := available_levels()[level]) is not None:
        pytest.skip(reason)
    return level


every_way = pytest.mark.parametrize("way", WAYS, indirect=True)
any_cgroup = pytest.mark.parametrize("way", WAYS[2:], indirect=True)


@pytest.fixture
def marker() -> Iterator[str]:
    """Give a sleep's duration that marks the tree; whatever carries it is killed after the test."""
    marker = long_sleep()
    yield marker
    for pid in processes_with(marker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_with(marker))


def tree(marker: str) -> list[str]:
    """Return a command that sleeps, in its group, outside of it, and twice as a daemon that nobody is the parent of."""
    daemon = f'(setsid sh -c "sleep {marker} & exec sleep {marker}" &)'
    return ["sh", "-c", f"exec >/dev/null 2>&1; sleep {marker} & setsid sleep {marker} & {daemon}; sleep {marker}; :"]


def sleepers(marker: str) -> list[int]:
    return processes_with(f"sleep\0{marker}")


def is_there(marker: str) -> bool:
    return len(sleepers(marker)) == SLEEPERS


def nothing_is_left(marker: str) -> None:
    wait_until(lambda: not processes_with(marker), "nothing is left", SOON_S)


def check_promise(level: str, marker: str, result: RunResult | Any) -> None:
    """Everything is gone; of what left its group, ``group`` names what it could see."""
    assert result.containment == level
    if level != "group":
        nothing_is_left(marker)
        assert result.survivors == ()
        return
    wait_until(lambda: len(processes_with(marker)) == 3, "only what left the group is left", SOON_S)
    assert living_members(result.pid) == []
    assert len(result.survivors) == 1
    assert set(result.survivors) < set(sleepers(marker))


# --- each door, each end ------------------------------------------------------------------------------------------


@every_way
def test_a_timeout_ends_what_run_started(way: ContainmentLevel, marker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """L04, L05: after the time-out what the level holds is gone within a second; a group names what it saw leave."""
    results: list[RunResult] = []

    def kept(*fields: Any) -> RunResult:
        results.append(RunResult(*fields))
        return results[-1]

    monkeypatch.setattr(blocking, "RunResult", kept)  # the error carries no result
    with pytest.raises(CommandTimeoutError):
        run(tree(marker), timeout=2, containment=way)
    check_promise(way, marker, results[0])


@every_way
@pytest.mark.parametrize("how", ["timeout", "cancel", "kill"])
def test_a_scheduler_ends_what_its_commands_started(way: ContainmentLevel, marker: str, how: str) -> None:
    """L04, L05: a time-out, cancel_running and its kill leave nothing that the level holds."""
    with WorkStealingScheduler(RunSettings(workers=2, containment=way)) as scheduler:
        future = scheduler.submit(ProcessTask(tree(marker), timeout=2 if how == "timeout" else None))
        if how != "timeout":
            wait_until(lambda: is_there(marker))
            scheduler.cancel_running(kill=how == "kill")
        result = future.result(20)
    assert result.outcome == ("timed_out" if how == "timeout" else "cancelled")
    check_promise(way, marker, result)


@every_way
@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_an_event_loop_ends_what_its_commands_started(way: ContainmentLevel, marker: str, how: str) -> None:
    """L04, L05: a time-out, or the cancellation of the task, leaves nothing that the level holds."""
    seen: list[Any] = []

    async def see() -> None:
        async with open_process(tree(marker), timeout=2 if how == "timeout" else None, containment=way) as process:
            seen.append(process)
            await process.wait()

    async def main() -> None:
        task = asyncio.create_task(see())
        if how == "cancel":
            while not is_there(marker):
                await asyncio.sleep(0.01)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        check_promise(way, marker, await seen[0].result())

    asyncio.run(main())


def test_what_a_command_leaves_at_its_own_end_is_named(marker: str) -> None:
    """L05: nobody asked for an end, so a daemon lives on, is named as a survivor, and is reaped after its end."""
    result = run(["sh", "-c", f"setsid sleep {marker} & "], containment="subreaper")
    assert (result.returncode, list(result.survivors)) == (0, processes_with(f"{marker}"))
    os.kill(result.survivors[0], signal.SIGKILL)
    wait_until(lambda: (state := state_of(result.survivors[0])) is None or state.ended)
    run(["true"], containment="subreaper")
    assert state_of(result.survivors[0]) is None


@every_way
def test_a_stopped_tree_ends_too(way: ContainmentLevel, marker: str) -> None:
    """L06: what stands still is woken to get its SIGTERM, and needs no SIGKILL."""
    with WorkStealingScheduler(RunSettings(workers=1, timeout=1, kill_grace_s=60, containment=way)) as scheduler:
        result = scheduler.submit(["sh", "-c", f"sleep {marker} & kill -STOP $! $$; :"]).result(50)
    assert (result.timed_out, result.stop_phase) == (True, "terminate")
    nothing_is_left(marker)


def test_a_second_wish_hurries_what_a_child_left_behind(marker: str, tmp_path: Path) -> None:
    """L10: once the child is gone, what ignores SIGTERM has its grace only until somebody asks for the kill."""
    code = (
        f"(trap '' TERM; touch ready; while :; do sleep {marker}; done) & while [ ! -e ready ]; do sleep 0.01; done; :"
    )
    argv = ["sh", "-c", f"{code}; exec sleep {marker}"]
    with WorkStealingScheduler(RunSettings(workers=1, kill_grace_s=600)) as scheduler:
        future = scheduler.submit(ProcessTask(argv, cwd=str(tmp_path)))
        wait_until(lambda: (tmp_path / "ready").exists() and len(sleepers(marker)) == 2)
        scheduler.cancel_running()
        wait_until(lambda: not any((state := state_of(pid)) and state.group == pid for pid in sleepers(marker)))
        scheduler.cancel_running(kill=True)
        result = future.result(20)
    assert (result.signal, result.stop_phase) == ("SIGTERM", "kill")
    nothing_is_left(marker)


# --- signals to this process --------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
import procbench

door, level, grace_s, *argv = sys.argv[1:]
how = {"containment": level, "kill_grace_s": float(grace_s)}


async def speak():
    async with procbench.open_process(argv, **how) as process:
        await process.wait()


def main():
    if door == "run":
        procbench.run(argv, **how)
    elif door == "scheduler":
        with procbench.WorkStealingScheduler(procbench.RunSettings(workers=2, **how)) as scheduler:
            scheduler.submit(argv).result()
    else:
        asyncio.run(speak())


try:
    with procbench.ending_by_exception():
        main()
except KeyboardInterrupt:
    sys.exit(130)
finally:
    print("cleaned up")
"""

DOORS = ("run", "scheduler", "open_process")


@contextlib.contextmanager
def program(*arguments: object, code: str = PROGRAM) -> Iterator[subprocess.Popen[str]]:
    """Run Python code beside the test."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(argv, stdout=PIPE, stderr=PIPE, text=True, env=env) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_this_process_ends_what_it_started(
    level: ContainmentLevel, door: str, number: signal.Signals, status: int, marker: str
) -> None:
    """L07, L10: children end, ``finally`` runs, and the status says which signal it was."""
    if (reason := available_levels()[level]) is not None:
        pytest.skip(reason)
    with program(door, level, 30, *tree(marker)) as child:
        wait_until(lambda: is_there(marker))
        child.send_signal(number)
        said, complaint = child.communicate(timeout=20)
    assert (child.returncode, said, complaint) == (status, "cleaned up\n", "")
    if level == "group":
        wait_until(lambda: len(processes_with(marker)) == 3, deadline_s=SOON_S)
    else:
        nothing_is_left(marker)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills_at_once(door: str, number: signal.Signals, marker: str, tmp_path: Path) -> None:
    """L07, L10: what ignores SIGTERM does not have the rest of its ten minutes after the second signal."""
    asked = tmp_path / "asked"
    deaf = f"(trap '' TERM; exec sleep {marker})"
    code = f"exec >/dev/null 2>&1; trap 'echo >{asked}' TERM; {deaf} & while :; do wait; sleep 0.02; done"
    with program(door, "subreaper", 600, "sh", "-c", code) as child:
        wait_until(lambda: len(sleepers(marker)) == 1)
        child.send_signal(number)
        wait_until(asked.exists)
        child.send_signal(number)
        said, complaint = child.communicate(timeout=60)
    assert (child.returncode, said, complaint) == (128 + number, "cleaned up\n", "")
    nothing_is_left(marker)


def test_what_was_ignored_stays_ignored_and_handlers_come_back() -> None:
    """L07: nohup goes on meaning what it means, and the block leaves every handler as it found it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with procbench.ending_by_exception():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert {number: signal.getsignal(number) for number in before} == before
    with pytest.raises(SystemExit) as caught, procbench.ending_by_exception():
        os.kill(os.getpid(), signal.SIGQUIT)
    assert caught.value.code == 131


# --- what is not ours ---------------------------------------------------------------------------------------------


@every_way
def test_others_are_neither_signalled_nor_reaped(way: ContainmentLevel, marker: str) -> None:
    """L12: a foreign child, another's ended child, and the tree of a command beside it live on."""
    other = long_sleep()
    foreign = [subprocess.Popen(["sleep", other], start_new_session=new) for new in (False, True)]
    ended = subprocess.Popen(["sh", "-c", "exit 7"])
    with WorkStealingScheduler(RunSettings(workers=2, containment=way)) as scheduler:
        beside = scheduler.submit(tree(other))
        wait_until(lambda: len(sleepers(other)) == SLEEPERS + len(foreign))
        untouched = set(sleepers(other))
        timed_out = scheduler.submit(ProcessTask(tree(marker), timeout=2)).result(20)
        with pytest.raises(CommandTimeoutError):
            run(tree(marker), timeout=0.5, containment=way)
        assert timed_out.timed_out
        assert set(sleepers(other)) == untouched
        scheduler.cancel_running(kill=True)
        beside.result(20)
    assert {one.pid for one in foreign} <= set(sleepers(other))
    assert ended.wait(10) == 7
    for one in foreign:
        one.kill()
        assert one.wait(10) == -signal.SIGKILL
    for pid in processes_with(other):
        os.kill(pid, signal.SIGKILL)


def test_a_pid_that_has_passed_to_another_is_left_alone() -> None:
    """L04: a signal goes to the process that was looked at, not to whoever has its number now."""
    with subprocess.Popen(["sleep", "60"]) as child:
        state = state_of(child.pid)
        assert state is not None
        signal_process(state._replace(started_ticks=state.started_ticks + 1), signal.SIGKILL)
        assert child.poll() is None
        signal_process(state, signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
    signal_process(state, signal.SIGKILL)


def test_what_may_not_be_signalled_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """L06: a set-user-id program's group answers EPERM; the time-out goes its way, and the call ends."""

    def refuse(group: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", refuse)
    signal_group(1, signal.SIGTERM)
    with pytest.raises(CommandTimeoutError):
        run(["sleep", "1"], timeout=0.05, kill_grace_s=0.05)


# --- marks --------------------------------------------------------------------------------------------------------


def test_marks_of_both_levels_are_kept() -> None:
    """L05: procbench inside procbench: a grandchild carries both marks, also where the inner one gives its own environment."""
    code = """
import subprocess, procbench
for env in (None, {"A": "b"}):
    said = procbench.run(["/usr/bin/env"], env=env, containment="subreaper", stdout=subprocess.PIPE).stdout.decode()
    print(next(line for line in said.splitlines() if line.startswith("PROCBENCH_CHILD=")))
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = run([sys.executable, "-c", code], env=env, stdout=PIPE, containment="subreaper")
    marks = [line.partition("=")[2].split("/") for line in (done.stdout or b"").decode().splitlines()]
    assert [len(mark) for mark in marks] == [2, 2]
    assert marks[0][0] == marks[1][0]
    assert marks[0][1] != marks[1][1]


@every_way
def test_an_environment_is_kept_exactly(way: ContainmentLevel) -> None:
    """L05: a child has the variables that it was given, and at most the mark besides."""
    done = run(["/usr/bin/env"], env={"A": "b", "PATH": "/bin"}, stdout=PIPE, containment=way)
    names = [line.partition("=")[0] for line in (done.stdout or b"").decode().splitlines()]
    assert set(names) - {"PROCBENCH_CHILD"} == {"A", "PATH"}
    assert len(names) == len(set(names))


# --- many ---------------------------------------------------------------------------------------------------------

MANY = """
import os, sys, threading
from pathlib import Path
import procbench
from procbench.io import containment
from tests.waiting import wait_until

way = sys.argv[1]
if way == "cgroup v2":
    containment._CONTROLLERS = ("",)
level = way.partition(" ")[0]
sys.setswitchinterval(1e-6)
failures = []


def work():
    for number in range(25):
        done = procbench.run(["sh", "-c", "(true &) ; (setsid sleep 3 &) ; exit 3"], containment=level)
        if (done.returncode, done.containment) != (3, level):
            failures.append(done)


threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()


def children():
    procbench.run(["true"], containment=level)  # which reaps what was let go of alive
    return [one.read_text().split() for one in Path("/proc/self/task").glob("*/children")]


wait_until(lambda: children() == [[]])
left = list(Path("/sys/fs/cgroup").glob(f"**/procbench-{os.getpid()}-*"))
print(len(failures), left, procbench.linux.is_child_subreaper())
"""


@every_way
def test_many_threads_leave_neither_zombie_nor_cgroup(way: ContainmentLevel, request: pytest.FixtureRequest) -> None:
    """L05: 100 children in four threads, switched as often as can be: no zombie, no group, and no subreaper at the end."""
    assert run_python(MANY, request.node.callspec.params["way"]) == "0 [] False"


def test_who_is_a_subreaper_stays_one_until_the_last_has_closed() -> None:
    """L05: several hold the attribute at a time; one forgotten gives its share back, and a fork begins anew."""
    first, second = Containment("subreaper"), Containment("subreaper")
    first.close()
    first.close()
    assert is_child_subreaper()
    pid = os.fork()
    if not pid:
        second.close()  # a copy's
        with contextlib.closing(Containment("subreaper")):
            os._exit(0 if is_child_subreaper() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert is_child_subreaper()
    del second
    gc.collect()
    assert not is_child_subreaper()


def test_a_process_that_was_a_subreaper_before_stays_one() -> None:
    """L05: the attribute that a program gave itself is not taken from it."""
    code = """
import procbench
from procbench import linux
linux.set_child_subreaper(True)
procbench.run(["true"], containment="subreaper")
print(linux.is_child_subreaper())
"""
    assert run_python(code) == "True"


# --- cgroups ------------------------------------------------------------------------------------------------------


@any_cgroup
def test_what_forks_and_goes_all_the_time_is_ended(way: ContainmentLevel, marker: str, tmp_path: Path) -> None:
    """L05: a chain of processes that each live for some milliseconds, in sessions of their own, does not get away."""
    (tmp_path / "hop").write_text("sleep 0.05\nsetsid sh hop $0 &\n")
    script = f"for i in 1 2 3 4 5 6; do setsid sh hop {marker} & done; sleep {marker}; :"
    with pytest.raises(CommandTimeoutError):
        run(["sh", "-c", script], cwd=tmp_path, timeout=1, kill_grace_s=0.1, containment=way)
    nothing_is_left("hop\0")


@any_cgroup
def test_a_fork_twice_in_the_first_moment_does_not_get_away(way: ContainmentLevel, marker: str) -> None:
    """L05: what the child starts before it stands in its group, and leaves at once, is in the group too."""
    for _ in range(10):
        with contextlib.suppress(CommandTimeoutError):
            run(["sh", "-c", f"(setsid sleep {marker} &); exec sleep {marker}"], timeout=0.1, containment=way)
        nothing_is_left(marker)


@any_cgroup
def test_a_forgotten_containment_leaves_no_cgroup(way: ContainmentLevel) -> None:
    """L05: who forgets to close it finds nothing there afterwards either; a fork's copy removes nothing."""
    held = Containment(way)
    groups = held._groups
    assert groups is not None
    folder = groups.take()
    groups.release(folder)
    pid = os.fork()
    if not pid:
        held.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert folder.exists()
    del held
    gc.collect()
    assert not folder.exists()


def _folder_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = containment.Subgroups.take

    def take(groups: Any) -> Path:
        folder = taken(groups)
        folder.rmdir()
        return folder

    monkeypatch.setattr(containment.Subgroups, "take", take)


def _way_back_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    moved, moves = containment._Entered._move, iter([False, True])

    def move(folder: Path) -> None:
        if next(moves, False):
            raise OSError(errno.EROFS, "Read-only file system")
        moved(folder)

    monkeypatch.setattr(containment._Entered, "_move", staticmethod(move))


@pytest.mark.parametrize(
    ("way", "breaks"),
    [("cgroup", _folder_taken_away), ("cgroup v2", _folder_taken_away), ("cgroup", _way_back_closed)],
    indirect=["way"],
)
def test_a_cgroup_that_cannot_be_written_is_an_error_and_leaves_no_child(
    way: ContainmentLevel,
    breaks: Callable[[pytest.MonkeyPatch], None],
    marker: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """L05: never is less taken than was asked for: the child is ended, with what it started, and the error says why."""
    breaks(monkeypatch)
    with pytest.raises(SpawnError, match="cgroup") as caught:
        run(["sh", "-c", f"setsid sleep {marker} & sleep {marker}"], containment=way)
    assert caught.value.stage == "limits"
    nothing_is_left(marker)
    monkeypatch.undo()
    own = Path("/proc/thread-self/cgroup").read_text()
    assert f"procbench-{os.getpid()}" not in own


def test_a_machine_without_cgroups_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """L05: the error names what is missing and what to do, at every door."""
    monkeypatch.setattr(containment, "_CONTROLLERS", ("no-such-controller",))
    with pytest.raises(procbench.ProcbenchError, match=r"no cgroup can be made here.*systemd-run.*subreaper"):
        run(["true"], containment="cgroup")
    with pytest.raises(procbench.ProcbenchError, match="systemd-run"):
        WorkStealingScheduler(RunSettings(workers=2, containment="cgroup"))

    async def main() -> None:
        with pytest.raises(procbench.ProcbenchError, match="systemd-run"):
            await open_process(["true"], containment="cgroup")

    asyncio.run(main())
    assert available_levels()["cgroup"] is not None


@as_nobody
def test_an_ordinary_user_has_two_levels_and_is_told_about_the_third() -> None:
    """L05: without rights to any cgroup, group and subreaper work, and cgroup is refused by a typed error."""
    code = """
import time
import procbench
from procbench.errors import CommandTimeoutError, UnsupportedError
for level in ("group", "subreaper"):
    try:
        procbench.run(["sh", "-c", "sleep 60 & sleep 60"], timeout=0.2, containment=level)
    except CommandTimeoutError:
        print(level)
try:
    procbench.run(["true"], containment="cgroup")
except UnsupportedError as error:
    print("systemd-run" in str(error) and "subreaper" in str(error))
"""
    assert run_python(code, before=NOBODY, python=SYSTEM_PYTHON).split() == ["group", "subreaper", "True"]


# --- faults in between --------------------------------------------------------------------------------------------


def test_without_proc_children_are_ended_all_the_same(marker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """L04: where /proc cannot be listed, a time-out still ends the group and the child is reaped."""
    listed = os.listdir

    def listdir(path: Any = ".") -> list[str]:
        if str(path) == "/proc":
            raise OSError(errno.ENOENT, "No such file or directory")
        return listed(path)

    monkeypatch.setattr(os, "listdir", listdir)
    for level in ("group", "subreaper"):
        with pytest.raises(CommandTimeoutError):
            run(["sh", "-c", f"sleep {marker} & sleep {marker}"], timeout=0.3, containment=level)
    monkeypatch.undo()
    nothing_is_left(marker)
    run(["true"], containment="subreaper")  # which reaps what was let go of alive


def test_an_orphan_between_two_parents_is_seen(marker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """L05: one whose parent ended while processes were looked at has a parent that is not there, and is known by its mark."""
    real = orphans.all_processes
    mark = orphans.new_mark(None)
    name, _, value = mark.decode().partition("=")
    with subprocess.Popen(["sleep", marker], env={**os.environ, name: value}) as child:
        try:

            def between(*_: object) -> Iterator[Any]:
                return (one._replace(parent=2**22 + 1) if one.pid == child.pid else one for one in real())

            monkeypatch.setattr(orphans, "all_processes", between)
            wait_until(lambda: [one.pid for one in orphans.Family(2**22 + 2, mark).members()] == [child.pid])
        finally:
            child.kill()


def test_an_orphan_that_is_kept_in_the_midst_of_an_exec_is_seen(marker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """L05: on a busy machine an environment is empty for long; its owner waits for it, and the orphan is no stranger."""
    mark = orphans.new_mark(None)
    name, _, value = mark.decode().partition("=")
    with subprocess.Popen(["sleep", marker], env={**os.environ, name: value}) as child:
        try:
            wait_until(lambda: sleepers(marker))
            read, looks = Path.read_bytes, iter(range(20))

            def late(path: Path) -> bytes:
                return b"" if path.name == "environ" and next(looks, None) is not None else read(path)

            monkeypatch.setattr(Path, "read_bytes", late)
            monkeypatch.setattr(orphans, "_in_exec", lambda _: True, raising=False)
            assert orphans.Family(2**22 + 2, mark)._carries_mark(child.pid)
        finally:
            monkeypatch.undo()
            child.kill()


def test_a_failing_start_gives_the_thread_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """L05: whatever is raised between getting ready and the start leaves no thread in the child's cgroup."""
    if available_levels()["cgroup"] is not None:
        pytest.skip("no cgroup can be made here")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(starter, "spawn", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(["true"], containment="cgroup")
    assert f"procbench-{os.getpid()}" not in Path("/proc/thread-self/cgroup").read_text()
