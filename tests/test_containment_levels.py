"""What a command starts is held together: each level ends what it promises to, and touches nothing else."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from procbench.cpu.cgroups import cgroup_mounts
from procbench.errors import UnsupportedError
from procbench.io.contained import LEVELS, Contained, ContainmentLevel
from procbench.io.containment import Containment, available_levels
from procbench.io.ending import Ending
from procbench.io.groups import signal_process, state_of
from procbench.io.spawn import Child, spawn
from tests.waiting import SYSTEM_PYTHON, long_sleep, processes_with, run_python, wait_until

# In the group, in a session of its own with a living parent, and twice forked into one.
TREE = 'sleep $0 & setsid sleep $0 & (setsid sh -c "sleep $0 & wait" &) ; exec sleep $0'
_SLEEPS = 4

needs_cgroup = pytest.mark.skipif(available_levels()["cgroup"] is not None, reason="no cgroup can be made here")
LEVEL_PARAMETERS = ["group", "subreaper", pytest.param("cgroup", marks=needs_cgroup)]


class Held(NamedTuple):
    """A contained child and its marker."""

    child: Child
    contained: Contained
    marker: str

    def sleeps(self) -> list[int]:
        """Return those of its tree that sleep, wherever they are."""
        return [pid for pid in processes_with(self.marker) if _name(pid) == "sleep"]

    def end(self, kill_at_s: float = 0.0) -> Ending:
        """End all of it as a runner does, and return the ending."""
        self.contained.signal(signal.SIGTERM)
        ending = Ending(self.contained, kill_at_s=kill_at_s, give_up_after_s=5.0)
        while (wait_s := ending.step(time.monotonic())) is not None:
            time.sleep(wait_s)
        return ending

    def reap(self) -> tuple[int, ...]:
        """Reap the child, as its owner does, and let go of the rest."""
        os.waitpid(self.child.pid, 0)
        os.close(self.child.pidfd)
        return self.contained.release()


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip()
    except OSError:  # a shell in between has ended
        return ""


def start(containment: Containment, script: str = TREE, *, wait_for: int = _SLEEPS) -> Held:
    """Start a contained shell whose tree carries a marker that nobody else has."""
    marker = long_sleep()
    prepared = containment.prepare(None)
    child = spawn(["sh", "-c", script, marker], mark=prepared.mark)
    held = Held(child, prepared.contain(child.pid), marker)
    wait_until(lambda: len(held.sleeps()) == wait_for, "the tree")
    return held


def end_strays(marker: str) -> None:
    """Kill what a level did not promise to end, and reap what of it fell to this process."""
    for pid in processes_with(marker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    wait_until(lambda: not processes_with(marker), "the end of the strays")


@pytest.fixture
def containment(request: pytest.FixtureRequest) -> Iterator[Containment]:
    with contextlib.closing(Containment(request.param)) as containment:
        yield containment


def own_folders() -> list[Path]:
    """Return this process's cgroups, of every hierarchy."""
    return [found for mount in cgroup_mounts() for found in mount.point.rglob(f"procbench-{os.getpid()}-*")]


@pytest.mark.parametrize("containment", ["subreaper", pytest.param("cgroup", marks=needs_cgroup)], indirect=True)
def test_nothing_is_left_of_what_set_its_own_session(containment: Containment) -> None:
    """L05: all is gone within a second, three on a busy machine, also what called setsid(2) and forked twice."""
    held = start(containment)
    assert held.contained.level == containment.level
    assert set(held.sleeps()) <= set(held.contained.living())
    began_s = time.monotonic()
    held.end()
    assert processes_with(held.marker) in ([], [held.child.pid])  # a zombie's argv is empty
    assert time.monotonic() - began_s < 3.0
    assert held.reap() == ()


@pytest.mark.parametrize("containment", ["group"], indirect=True)
def test_a_group_ends_its_members_and_no_more(containment: Containment) -> None:
    """L04: the group is empty within a second; what left it lives on, which is why the level is named."""
    held = start(containment)
    try:
        held.end()
        assert held.contained.living() == []
        assert len(held.sleeps()) == 2
        held.reap()
    finally:
        end_strays(held.marker)


@pytest.mark.parametrize("containment", LEVEL_PARAMETERS, indirect=True)
def test_another_child_and_foreign_children_are_not_touched(containment: Containment) -> None:
    """Ending one leaves alone a second contained child's whole tree, and a Popen child that is nobody's business."""
    marker = long_sleep()
    with subprocess.Popen(["setsid", "sleep", marker]) as foreign:
        ended, left = start(containment), start(containment)
        try:
            before = set(left.sleeps())
            ended.end()
            ended.reap()
            assert set(left.sleeps()) == before
            assert foreign.poll() is None
        finally:
            foreign.kill()  # first: leaving the block waits for it, also where the rest fails
            left.end()
            left.reap()
            for held in (ended, left):
                end_strays(held.marker)
    assert foreign.returncode == -signal.SIGKILL


@pytest.mark.parametrize("containment", ["subreaper"], indirect=True)
def test_a_foreign_zombie_is_left_to_its_owner(containment: Containment) -> None:
    """A Popen child that ended beside a contained one keeps its status until its owner asks."""
    with subprocess.Popen(["sh", "-c", "exit 7"]) as foreign:
        os.waitid(os.P_PID, foreign.pid, os.WEXITED | os.WNOWAIT)
        held = start(containment)
        held.end()
        held.reap()
    assert foreign.returncode == 7


@pytest.mark.parametrize("containment", LEVEL_PARAMETERS, indirect=True)
def test_who_nobody_asked_to_end_lives_on_and_is_named(containment: Containment) -> None:
    """A background process of a child that ended by itself is a survivor."""
    held = start(containment, "sleep $0 & exit 0", wait_for=1)
    sleeper = held.sleeps()
    try:
        assert list(held.reap()) == sleeper
        assert held.sleeps() == sleeper
    finally:
        end_strays(held.marker)


@pytest.mark.parametrize("containment", LEVEL_PARAMETERS, indirect=True)
def test_sigterm_is_given_its_time_and_then_sigkill(containment: Containment) -> None:
    """L06: who ignores SIGTERM is killed when its grace is over, and the ending says so."""
    held = start(containment, "trap '' TERM; sleep $0 & exec sleep $0", wait_for=2)
    ending = held.end(kill_at_s=time.monotonic() + 0.05)
    assert ending.killed
    assert held.reap() == ()
    obedient = start(containment, "sleep $0 & exec sleep $0", wait_for=2)
    assert not obedient.end(kill_at_s=time.monotonic() + 60).killed
    assert obedient.reap() == ()


@needs_cgroup
def test_cgroups_are_removed() -> None:
    """No folder outlasts its containment, whether its child was ended or left a survivor."""
    with contextlib.closing(Containment("cgroup")) as containment:
        ended, left = start(containment), start(containment, "sleep $0 & exit 0", wait_for=1)
        assert own_folders()
        ended.end()
        ended.reap()
        left.reap()
    try:
        assert own_folders() == []
    finally:
        end_strays(left.marker)


def test_a_signal_does_not_reach_who_got_the_number_later() -> None:
    """A process is its pid and its start: with another start it is passed over."""
    with subprocess.Popen(["sleep", long_sleep()]) as process:
        state = state_of(process.pid)
        assert state is not None
        # Of two deadly signals the first one is what it dies of.
        signal_process(state._replace(started_ticks=state.started_ticks - 1), signal.SIGTERM)
        signal_process(state, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL


def test_the_subreaper_attribute_is_counted_and_put_back() -> None:
    """It belongs to the process, so only the last containment that wants it gives it up; closing twice counts once."""
    code = """
import ctypes
from procbench.io.containment import Containment
def on():
    value = ctypes.c_int()
    ctypes.CDLL(None).prctl(37, ctypes.byref(value), 0, 0, 0)
    return value.value
first, second = Containment("subreaper"), Containment("subreaper")
seen = [on()]
first.close(); first.close()
seen.append(on())
second.close()
print(*seen, on())
"""
    assert run_python(code) == "1 1 0"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="becomes an ordinary user by setpriv")
def test_an_ordinary_user_is_told_what_is_missing_and_never_gets_less() -> None:
    """L05: asking for a cgroup where none can be made is an error that says what would help; the others can be had."""
    code = """
from procbench.errors import UnsupportedError
from procbench.io.containment import Containment, available_levels
levels = available_levels()
try:
    Containment("cgroup")
except UnsupportedError as error:
    assert "systemd-run" in str(error), error
else:
    raise SystemExit("it was given something else")
print(*[level for level, reason in levels.items() if reason is None])
"""
    user = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    assert run_python(code, before=user, python=SYSTEM_PYTHON) == "group subreaper"


def test_the_levels_are_three_and_the_error_pickles() -> None:
    """Every level is answered for, and what says no crosses to another process."""
    assert tuple(available_levels()) == LEVELS == ("group", "subreaper", "cgroup")
    assert str(pickle.loads(pickle.dumps(UnsupportedError(95, "no cgroup")))) == "[Errno 95] no cgroup"


@pytest.mark.parametrize("level", LEVEL_PARAMETERS)
def test_two_hundred_in_four_threads_leave_nothing(level: ContainmentLevel, shaken: None) -> None:
    """L05: with threads changing at every step each child's own tree is ended, and no zombie stays."""
    markers: list[str] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with contextlib.closing(Containment(level)) as containment:
                for _ in range(50):
                    held = start(containment, "sleep $0 & exec sleep $0", wait_for=2)
                    markers.append(held.marker)
                    held.end()
                    assert held.reap() == ()
        except BaseException as error:  # told in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(markers) == 200
    assert [marker for marker in markers if processes_with(marker)] == []
    assert own_folders() == []
