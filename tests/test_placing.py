"""Workers give themselves CPUs, nice value, policy and I/O class, and every command inherits them."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
import threading
from pathlib import Path

import pytest

from procbench import RunSettings, WorkStealingScheduler, linux
from procbench.cpu.cpu_limit import CpuLimiter
from procbench.cpu.topology import allowed_cpus, parse_cpu_list
from procbench.errors import InvalidInputError, PermissionDeniedError, UnsupportedError
from procbench.scheduling.placing import Placing
from procbench.views import batch
from tests.waiting import SYSTEM_PYTHON, run_python

STATUS = ["cat", "/proc/self/status"]
STAT = ["cat", "/proc/self/stat"]
SCHED_BATCH, SCHED_IDLE = 3, 5


def outputs(settings: RunSettings, command: list[str], count: int = 12) -> tuple[list[str], tuple[Placing | None, ...]]:
    """Run a command a few times; return what each printed, and what was in force in each worker."""
    with WorkStealingScheduler(settings.changed(capture=True)) as scheduler:
        results = list(scheduler.map([command] * count))
        placings = tuple(worker.placing for worker in scheduler.statistics().workers)
    assert {result.returncode for result in results} == {0}
    return [(result.stdout or b"").decode() for result in results], placings


def cpus_of(status: str) -> frozenset[int]:
    return parse_cpu_list(status.split("Cpus_allowed_list:")[1].split("\n", maxsplit=1)[0].strip())


def stat_field(text: str, number: int) -> int:
    """Return a field of proc_pid_stat(5), counted from 1 as there."""
    return int(text[text.rindex(")") + 2 :].split()[number - 3])


def test_each_workers_commands_run_on_its_own_core():
    """pin='core' gives every worker one logical CPU, its commands inherit it, and this process keeps all of its own."""
    before = allowed_cpus()
    shown, placings = outputs(RunSettings(pin="core", workers=len(before)), STATUS)
    assert {cpus_of(status) for status in shown} <= {frozenset({cpu}) for cpu in before}
    assert {next(iter(placing.cpus)) for placing in placings if placing} == before
    assert all(os.sched_getaffinity(thread.native_id or 0) == before for thread in threading.enumerate())


def test_cpus_are_pinned_where_io_priorities_are_unknown(monkeypatch: pytest.MonkeyPatch):
    """pin='core' works on a machine whose I/O priorities are not known, and a worker then claims to have none."""
    monkeypatch.setattr(linux, "_IOPRIO_NUMBERS", (0, 0))
    _, placings = outputs(RunSettings(pin="core", workers=1), ["true"])
    assert [placing and placing.io_class for placing in placings] == [None]
    assert [placing and placing.nice for placing in placings] == [os.getpriority(os.PRIO_PROCESS, 0)]


def test_explicit_sets_go_round():
    """Two workers share the one set that was given."""
    cpu = min(allowed_cpus())
    shown, placings = outputs(RunSettings(pin=(str(cpu),), workers=2), STATUS)
    assert {cpus_of(status) for status in shown} == {frozenset({cpu})}
    assert [placing and placing.cpus for placing in placings] == [{cpu}, {cpu}]


def test_a_cpu_that_is_not_allowed_is_named_and_nothing_is_left():
    """C01: the kernel would drop the unknown CPU without a word; the scheduler refuses, and no thread is left."""
    allowed = min(allowed_cpus())
    with pytest.raises(InvalidInputError, match="9999"):
        WorkStealingScheduler(RunSettings(pin=(f"{allowed},9999",)))


def test_commands_inherit_nice_value_and_policy():
    """What the worker gave itself is what the kernel says of the command; this process keeps its own."""
    mine = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
    nice = min(19, mine[0] + 5)
    shown, placings = outputs(RunSettings(nice=nice, policy="batch", workers=2), STAT)
    assert {stat_field(text, 19) for text in shown} == {nice}
    assert {stat_field(text, 41) for text in shown} == {SCHED_BATCH}
    assert {(placing.nice, placing.policy) for placing in placings if placing} == {(nice, "batch")}
    assert (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)) == mine


def test_the_idle_policy_is_inherited():
    """policy='idle' is SCHED_IDLE in the command."""
    shown, _ = outputs(RunSettings(policy="idle", workers=1), STAT, count=2)
    assert {stat_field(text, 41) for text in shown} == {SCHED_IDLE}


@pytest.mark.skipif(shutil.which("ionice") is None, reason="ionice is not on this machine")
def test_commands_inherit_the_io_class():
    """io_class='idle' is what ionice(1) sees in the command."""
    shown, placings = outputs(RunSettings(io_class="idle", workers=1), ["ionice"], count=2)
    assert {text.strip() for text in shown} == {"idle"}
    assert [placing and placing.io_class for placing in placings] == ["idle"]


def test_without_placing_nothing_is_asked_of_the_kernel():
    """Settings that leave placing alone say so in the statistics."""
    _, placings = outputs(RunSettings(workers=2), ["true"])
    assert placings == (None, None)


@pytest.mark.parametrize("refusal", [PermissionDeniedError(1, "needs CAP_SYS_NICE"), UnsupportedError(38, "no ioprio")])
def test_a_batch_says_what_was_refused(monkeypatch: pytest.MonkeyPatch, refusal: OSError):
    """C04: a setting that this user may not have is said as it is, and not taken for a want of descriptors."""

    def refuse(settings: RunSettings) -> None:
        raise refusal

    monkeypatch.setattr(batch, "WorkStealingScheduler", refuse)
    with pytest.raises(type(refusal)) as caught:
        batch._scheduler(RunSettings(nice=-5, workers=1))
    assert caught.value is refusal


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="becomes an ordinary user by setpriv")
def test_an_ordinary_user_is_told_what_a_lower_nice_value_takes():
    """C04: the refusal is a typed error that names the capability, raised where the scheduler is made; no thread is left."""
    code = """
import threading
from procbench import RunSettings, WorkStealingScheduler, linux
from procbench.errors import PermissionDeniedError
try:
    WorkStealingScheduler(RunSettings(nice=-5, workers=2))
except PermissionDeniedError as error:
    print("CAP_SYS_NICE" in str(error), threading.active_count())
"""
    user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    assert run_python(code, before=("setpriv", *user), python=SYSTEM_PYTHON) == "True 1"


def test_a_command_that_spins_gets_no_more_than_its_share():
    """cpu_limit holds: what the command used, by the kernel's count, stays near its share of the time that it took."""
    spin = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"
    with WorkStealingScheduler(RunSettings(workers=1, cpu_limit=0.25)) as scheduler:
        result = scheduler.submit([sys.executable, "-S", "-c", spin]).result()
        by = scheduler.statistics().limited_by
    assert by["cpu"] in ("cgroup v1", "cgroup v2", "duty cycle")
    assert result.returncode == 0
    assert result.cpu_s < 0.6 * result.wall_s  # unlimited it is all of it; how exact the limit is, an experiment shows


def test_a_command_that_wants_too_much_memory_does_not_get_it():
    """C08: it is refused or killed, the result says so where the kernel does, and its neighbour runs."""
    greedy = [sys.executable, "-S", "-c", "b = bytearray(512 << 20); print(len(b))"]
    settings = RunSettings(workers=1, memory_limit_bytes=128 << 20, capture=True)
    with WorkStealingScheduler(settings) as scheduler:
        refused, neighbour = scheduler.map([greedy, ["true"]])
        by = scheduler.statistics().limited_by["memory"]
    assert neighbour.outcome == "succeeded"
    assert refused.outcome == "failed"
    if by.startswith("cgroup"):
        assert (refused.signal, refused.limit_hit) == ("SIGKILL", "memory")
    else:
        assert b"MemoryError" in (refused.stderr or b"")


def test_a_command_does_not_pay_for_the_memory_of_the_one_before(tmp_path: Path):
    """What a command left in a memory file system is not counted against the next one's limit."""
    shelf = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    left = shelf / f"procbench-test-{os.getpid()}"
    fill = ["head", "-c", "45M", "/dev/zero"]
    try:
        with WorkStealingScheduler(RunSettings(workers=1, memory_limit_bytes=64 << 20)) as scheduler:
            leaves, wants = scheduler.map(
                [["sh", "-c", f"exec {shlex.join(fill)} > {left}"], [sys.executable, "-S", "-c", "bytearray(30 << 20)"]]
            )
    finally:
        left.unlink(missing_ok=True)
    assert (leaves.outcome, wants.outcome, wants.limit_hit) == ("succeeded", "succeeded", None)


def test_want_of_descriptors_while_limiting_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    """A limit that cannot be set for want of a descriptor is a spawn that is tried again, and its child is ended."""
    real, refusals = CpuLimiter.add, iter([OSError(errno.EMFILE, "no descriptor")])

    def add(self: CpuLimiter, pid: int, share: float | None = None) -> str:
        for refusal in refusals:
            raise refusal
        return real(self, pid, share)

    monkeypatch.setattr(CpuLimiter, "add", add)
    with WorkStealingScheduler(RunSettings(workers=1, cpu_limit=0.5)) as scheduler:
        assert scheduler.submit(["true"]).result().outcome == "succeeded"


def test_limited_commands_can_be_stopped_and_leave_nothing_stopped():
    """A time-out ends a command that its CPU limit may have stopped just then."""
    settings = RunSettings(workers=2, cpu_limit=0.05, timeout=0.3, kill_grace_s=2)
    with WorkStealingScheduler(settings) as scheduler:
        results = list(scheduler.map([["sh", "-c", "while :; do :; done"]] * 4))
    assert {result.outcome for result in results} == {"timed_out"}


def test_a_machine_without_known_io_priorities_pins_all_the_same(monkeypatch):
    """Where I/O priorities are not known, all the rest can be given; only asking for an I/O class fails, and says why."""
    monkeypatch.setattr(linux, "_IOPRIO_NUMBERS", (0, 0))
    _, placings = outputs(RunSettings(pin="core", policy="batch", workers=1), ["true"], count=1)
    assert [(placing.policy, placing.io_class) for placing in placings] == [("batch", None)]
    with pytest.raises(UnsupportedError, match="x86-64 and aarch64"):
        WorkStealingScheduler(RunSettings(io_class="idle", workers=1))
