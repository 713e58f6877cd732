"""``procbench.run`` means what ``subprocess.run`` means, and survives what a child can do to it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from procbench import run
from procbench.errors import CommandFailedError, CommandTimeoutError, InvalidInputError, ProgramNotFoundError
from procbench.io import course
from procbench.io.contained import Contained
from procbench.io.order import Limits, Order
from procbench.io.pipes import Pipes
from procbench.io.results import RunResult
from procbench.io.runner import ChildRunner
from tests.waiting import long_sleep, processes_with, run_python, wait_until

NULL, PIPE, STDOUT = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT


@contextlib.contextmanager
def meanwhile(work: Any) -> Iterator[None]:
    """Run ``work`` on a thread beside the block; what it raised fails the test."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        if failures:
            raise failures[0]


# --- the same as subprocess.run ----------------------------------------------------------------------------------

SAME: dict[str, tuple[list[str], dict[str, Any]]] = {
    "success": (["true"], {}),
    "failure": (["false"], {}),
    "status": (["sh", "-c", "exit 7"], {}),
    "highest status": (["sh", "-c", "exit 255"], {}),
    "killed": (["sh", "-c", "kill -9 $$"], {}),
    "terminated": (["sh", "-c", "kill -15 $$"], {}),
    "output": (["echo", "hello"], {"capture_output": True}),
    "no output": (["true"], {"capture_output": True}),
    "both streams": (["sh", "-c", "echo out; echo err >&2; exit 3"], {"capture_output": True}),
    "only stdout": (["sh", "-c", "echo out; echo err >&2"], {"stdout": PIPE, "stderr": NULL}),
    "only stderr": (["sh", "-c", "echo out; echo err >&2"], {"stdout": NULL, "stderr": PIPE}),
    "stderr follows stdout": (["sh", "-c", "echo out; echo err >&2"], {"stdout": PIPE, "stderr": STDOUT}),
    "output of a killed one": (["sh", "-c", "echo out; kill -9 $$"], {"capture_output": True}),
    "more than a pipe": (["head", "-c", "1000000", "/dev/zero"], {"capture_output": True}),
    "input": (["cat"], {"input": b"some\0bytes", "capture_output": True}),
    "no input": (["cat"], {"input": b"", "capture_output": True}),
    "much input": (["cat"], {"input": bytes(range(256)) * 8192, "capture_output": True}),
    "much input, only counted": (["wc", "-c"], {"input": bytes(3 << 20), "stdout": PIPE}),
    "input nobody reads": (["true"], {"input": bytes(1 << 20), "capture_output": True}),
    "a bytearray": (["cat"], {"input": bytearray(b"abc"), "stdout": PIPE}),
    "a memoryview": (["cat"], {"input": memoryview(b"abcdef")[::1], "stdout": PIPE}),
    "closes its output": (["sh", "-c", "exec >&- 2>&-; exit 4"], {"capture_output": True}),
    "in time": (["echo", "x"], {"timeout": 60, "capture_output": True}),
    "an endless one into head": (["sh", "-c", "yes | head -n 1"], {"capture_output": True}),
    "folder": (["pwd"], {"cwd": "/proc/self", "stdout": PIPE}),
    "environment": (["/usr/bin/env"], {"env": {"A": "b"}, "stdout": PIPE}),
    "no stdin": (["cat"], {"stdin": NULL, "stdout": PIPE}),
}


@pytest.mark.parametrize("case", SAME)
def test_a_command_means_what_it_means_to_subprocess(case: str) -> None:
    """returncode, stdout and stderr are subprocess.run's."""
    argv, how = SAME[case]
    theirs = subprocess.run(argv, check=False, **how)
    ours = run(argv, **how)
    if case == "folder":  # /proc/self is another process each time
        theirs.stdout, ours_out = b"", b""
        assert (ours.stdout or b"").startswith(b"/proc/")
    else:
        ours_out = ours.stdout
    assert (ours.args, ours.returncode, ours_out, ours.stderr) == (
        theirs.args,
        theirs.returncode,
        theirs.stdout,
        theirs.stderr,
    )
    assert ours.stdout_bytes == len(ours.stdout or b"")
    assert ours.stderr_bytes == len(ours.stderr or b"")
    assert (ours.timed_out, ours.cancelled, ours.stop_phase) == (False, False, None)


@pytest.mark.parametrize("case", ["success", "status", "both streams", "killed"])
def test_check_raises_what_subprocess_raises(case: str) -> None:
    """check raises a CalledProcessError with the same status and output, or nothing."""
    argv, how = SAME[case]
    theirs = subprocess.run(argv, check=False, **how)
    if theirs.returncode == 0:
        assert run(argv, check=True, **how).returncode == 0
        return
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(argv, check=True, **how)
    ours = caught.value
    assert isinstance(ours, CommandFailedError)
    for said in (ours, pickle.loads(pickle.dumps(ours))):
        assert (said.returncode, said.cmd) == (theirs.returncode, argv)
        assert (said.output, said.stderr) == (theirs.stdout, theirs.stderr)


def test_a_timeout_raises_what_subprocess_raises() -> None:
    """A command that runs too long is a TimeoutExpired with what it wrote so far, and pickles."""
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run(["sh", "-c", f"echo before; exec sleep {long_sleep()}"], timeout=0.3, capture_output=True)
    error = caught.value
    assert isinstance(error, CommandTimeoutError)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.timeout, copy.output, copy.stderr) == (0.3, b"before\n", b"")


def test_open_files_are_taken_as_streams(tmp_path: Path) -> None:
    """stdin, stdout and stderr take open files and bare descriptors."""
    (tmp_path / "in").write_bytes(b"from a file")
    with (
        (tmp_path / "in").open("rb") as source,
        (tmp_path / "out").open("wb") as out,
        (tmp_path / "err").open("w") as err,
    ):
        result = run(["sh", "-c", "cat; echo oops >&2"], stdin=source, stdout=out.fileno(), stderr=err)
    assert (result.stdout, result.stderr, result.stdout_bytes) == (None, None, 0)
    assert (tmp_path / "out").read_bytes() == b"from a file"
    assert (tmp_path / "err").read_bytes() == b"oops\n"


def test_standard_input_is_empty_unless_given() -> None:
    """A child that reads without being given anything sees the end at once, also where a terminal would wait."""
    assert run(["cat"], stdout=PIPE).stdout == b""


@pytest.mark.parametrize(
    "contradiction",
    [
        {"capture_output": True, "stdout": PIPE},
        {"capture_output": True, "stderr": STDOUT},
        {"input": b"x", "stdin": None},
        {"input": b"", "stdin": 0},
        {"stdin": PIPE},
        {"stdin": STDOUT},
        {"stdout": STDOUT},
        {"stdout": -7},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"max_output_bytes": -1},
        {"kill_grace_s": -0.1},
        {"drain_grace_s": float("nan")},
    ],
    ids=str,
)
def test_contradictory_arguments_are_refused(contradiction: dict[str, Any]) -> None:
    """What makes no sense is refused before anything is started, as a ValueError."""
    with pytest.raises(InvalidInputError):
        run(["procbench-no-such-program"], **contradiction)


def test_results_pickle() -> None:
    """A result survives pickling unchanged."""
    result = run(["sh", "-c", "echo out; exit 3"], capture_output=True)
    assert pickle.loads(pickle.dumps(result)) == result


@pytest.mark.parametrize("timeout", [0, 3e6, 1e9, 1e300, float("inf")])
def test_any_timeout_that_is_a_number_of_seconds_works(timeout: float) -> None:
    """A time beyond what poll(2) can count in one call is simply long, and 0 is at once."""
    if timeout == 0:
        with pytest.raises(CommandTimeoutError):
            run(["sleep", long_sleep()], timeout=timeout)
    else:
        assert run(["true"], timeout=timeout).returncode == 0


@pytest.mark.parametrize("timeout", [3e6, 4294967.296 + 0.5, 1e300])
def test_a_long_timeout_neither_spins_nor_fires(timeout: float, tmp_path: Path) -> None:
    """However many milliseconds it is, poll(2) is asked to wait, not to return at once."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    seen: dict[str, float] = {}

    def end_it() -> None:
        with fifo.open("wb"):  # returns once the child has opened its end
            before = time.process_time()
            time.sleep(0.2)
            seen["cpu_s"] = time.process_time() - before

    with meanwhile(end_it):
        assert run(["cat", fifo], timeout=timeout).returncode == 0
    assert seen["cpu_s"] < 0.1


# --- faults: input and output ------------------------------------------------------------------------------------


def test_a_child_that_closes_its_input_is_a_result() -> None:
    """L01: stdin_error is EPIPE, the bytes that the pipe took are counted, and the child's own status is kept."""
    result = run(["sh", "-c", "exec <&-; sleep 0.05; exit 5"], input=bytes(1 << 22))
    assert (result.returncode, result.stdin_error) == (5, "EPIPE")
    assert 0 <= result.stdin_bytes < 1 << 22
    part = run(["head", "-c", "4096"], input=bytes(1 << 22), stdout=PIPE)
    assert (part.returncode, part.stdout) == (0, bytes(4096))
    assert 4096 <= part.stdin_bytes < 1 << 22
    whole = run(["cat"], input=bytes(1 << 22), stdout=NULL)
    assert (whole.stdin_bytes, whole.stdin_error) == (1 << 22, None)


def test_sigpipe_does_not_kill_a_program_that_put_its_default_back() -> None:
    """L01: under signal.SIG_DFL for SIGPIPE the parent lives on, and no SIGPIPE is pending afterwards."""
    code = """
import signal
from procbench import run
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
for _ in range(20):
    result = run(["sh", "-c", "exec <&-; sleep 0.01; exit 5"], input=bytes(1 << 22))
    assert (result.returncode, result.stdin_error) == (5, "EPIPE"), result
assert not signal.sigpending() and not signal.pthread_sigmask(signal.SIG_BLOCK, ())
print("alive")
"""
    assert run_python(code) == "alive"


def test_a_child_killed_in_mid_transfer_leaves_what_it_said() -> None:
    """L02: the signal is named, the partial output is there and flagged, also with input still to come."""
    result = run(["sh", "-c", "head -c 100000; kill -9 $$"], input=bytes(1 << 22), capture_output=True)
    assert (result.returncode, result.signal) == (-9, "SIGKILL")
    assert result.stdout == bytes(100_000)
    assert result.truncated
    assert 100_000 <= result.stdin_bytes < 1 << 22


def test_a_grandchild_that_keeps_the_pipe_does_not_keep_the_caller() -> None:
    """L03: the result comes drain_grace_s after the child's end, says who held the pipe, and has what was written."""
    marker = long_sleep()
    begun = time.monotonic()
    result = run(["sh", "-c", f"sleep {marker} & echo hi"], capture_output=True, drain_grace_s=0.1)
    took = time.monotonic() - begun
    grandchildren = processes_with(marker)
    for pid in grandchildren:
        os.kill(pid, signal.SIGKILL)
    assert took < 30
    assert (result.returncode, result.stdout) == (0, b"hi\n")
    assert result.pipe_held_by_descendant
    assert result.truncated
    assert len(grandchildren) == 1  # it is not ours to end: the command was done
    wait_until(lambda: not processes_with(marker))


def test_a_timeout_ends_the_whole_group() -> None:
    """L04: after a time-out nobody of the command's group is left, neither child nor grandchild."""
    marker = long_sleep()
    with pytest.raises(CommandTimeoutError):
        run(["sh", "-c", f"sleep {marker} & sleep {marker}; :"], timeout=0.3)
    assert processes_with(marker) == []


def test_a_group_that_ignores_sigterm_is_killed() -> None:
    """L04, L06: a grandchild that ignores SIGTERM outlives its parent by a moment, not more."""
    marker = long_sleep()
    code = f"(trap '' TERM; sleep {marker}; :) & wait"
    runner = ChildRunner()
    result = RunResult(*runner.run(Order(["sh", "-c", code], Limits(timeout=0.3, kill_grace_s=0.2))))
    runner.close()
    assert (result.timed_out, result.stop_phase) == (True, "kill")
    assert processes_with(marker) == []


@pytest.mark.parametrize(
    ("code", "phase", "name"),
    [
        ("exec sleep {}", "terminate", "SIGTERM"),
        ("kill -STOP $$; exec sleep {}", "terminate", "SIGTERM"),
        ("trap '' TERM; exec sleep {}", "kill", "SIGKILL"),
        ("trap '' TERM; kill -STOP $$; exec sleep {}", "kill", "SIGKILL"),
    ],
)
def test_ending_a_child_goes_as_far_as_it_must(code: str, phase: str, name: str) -> None:
    """L06: SIGTERM with SIGCONT for a stopped child, SIGKILL for one that ignores it; the result says how far it went."""
    marker = long_sleep()
    runner = ChildRunner()
    try:
        result = RunResult(*runner.run(Order(["sh", "-c", code.format(marker)], Limits(timeout=0.3, kill_grace_s=0.3))))
    finally:
        runner.close()
    assert (result.timed_out, result.cancelled, result.stop_phase, result.signal) == (True, False, phase, name)
    assert processes_with(marker) == []


def test_a_child_that_ends_politely_keeps_its_status() -> None:
    """L06: a child that handles SIGTERM and exits has its own status, and its last words are kept."""
    runner = ChildRunner()
    code = "trap 'echo bye; exit 9' TERM; while :; do sleep 0.01; done"
    try:
        result = RunResult(*runner.run(Order(["sh", "-c", code], Limits(timeout=0.3), stdout=PIPE)))
    finally:
        runner.close()
    assert (result.returncode, result.stdout, result.stop_phase) == (9, b"bye\n", "terminate")


def test_a_flood_is_counted_and_dropped() -> None:
    """L13: 200 MiB of output under a cap of 8 MiB grow this process by less than 32 MiB, and are counted exactly."""
    code = """
from procbench import run
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
run(["head", "-c", "1M", "/dev/zero"], capture_output=True, max_output_bytes=1000)
before = peak()
result = run(["head", "-c", "200M", "/dev/zero"], capture_output=True, max_output_bytes=8 << 20)
assert result.stdout == bytes(8 << 20) and result.stdout_bytes == 200 << 20 and result.truncated
assert result.returncode == 0
print(peak() - before)
"""
    assert int(run_python(code)) < 32 << 20


@pytest.mark.parametrize("cap", [0, 1, 4096, 65_536, 99_999, 100_000, 100_001])
def test_a_cap_keeps_exactly_so_much(cap: int) -> None:
    """L13: the first max_output_bytes are kept of each stream; exactly as much as there was is not truncated."""
    result = run(["sh", "-c", "yes | head -c 100000; echo e >&2"], capture_output=True, max_output_bytes=cap)
    assert result.stdout == (b"y\n" * 50_000)[:cap]
    assert result.stderr == b"e\n"[:cap]
    assert (result.stdout_bytes, result.stderr_bytes) == (100_000, 2)
    assert result.truncated == (cap < 100_000)


# --- faults: who reaps, how many descriptors ---------------------------------------------------------------------


def test_an_unknown_status_is_none_and_never_success() -> None:
    """L11: with SIGCHLD ignored the status cannot be learnt: returncode is None, check raises, and nothing hangs."""
    code = """
import signal, subprocess
from procbench import run
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(50):
    result = run(["sh", "-c", "echo hi; exit 7"], capture_output=True)
    assert result.returncode is None and result.stdout == b"hi\\n", result
    assert run(["true"]).returncode is None
try:
    run(["true"], check=True)
except subprocess.CalledProcessError as error:
    print(error.returncode)
"""
    assert run_python(code) == "-1"


def test_somebody_else_may_reap_our_child() -> None:
    """L12: a foreign waitpid(-1) costs the status of the children it takes, and only that; nothing hangs."""
    code = """
import os, threading, time
from procbench import run
taken, stop = {}, threading.Event()
def reap_all():
    while not stop.is_set():
        try:
            pid, status = os.waitpid(-1, 0)
            taken[pid] = status
        except ChildProcessError:
            time.sleep(0.0005)
thread = threading.Thread(target=reap_all)
thread.start()
results = [run(["sh", "-c", "echo hi; exit 7"], capture_output=True) for _ in range(200)]
stop.set(); thread.join()
for result in results:
    assert result.stdout == b"hi\\n"
    assert result.returncode == (None if result.pid in taken else 7), (result, taken.get(result.pid))
assert not open(f"/proc/self/task/{os.getpid()}/children").read()
print("done")
"""
    assert run_python(code) == "done"


def test_more_than_1024_descriptors_are_no_limit() -> None:
    """L21: a program with over 1,024 open descriptors runs commands, with pipes numbered beyond select's reach."""
    code = """
import os, resource
from procbench import run
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
print(run(["cat"], input=b"far out", capture_output=True, timeout=60).stdout.decode())
"""
    assert run_python(code) == "far out"


# --- Ctrl-C ------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_child() -> None:
    """L10: KeyboardInterrupt comes out of run once the child, asked by SIGTERM, is gone with its group."""
    marker = long_sleep()

    def interrupt() -> None:
        wait_until(lambda: len(processes_with(marker)) >= 3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with meanwhile(interrupt), pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", f"sleep {marker} & sleep {marker}; :"], capture_output=True)
    assert processes_with(marker) == []


def test_a_second_ctrl_c_kills(tmp_path: Path) -> None:
    """L10: while a child takes its time over SIGTERM, a second Ctrl-C ends it at once, long before the grace is over."""
    marker = long_sleep()
    ready, asked = tmp_path / "ready", tmp_path / "asked"
    code = f"trap 'echo >{asked}' TERM; (trap '' TERM; exec sleep {marker}) & echo >{ready}; while :; do wait; done"

    def interrupt_twice() -> None:
        for seen in (ready, asked):
            wait_until(seen.exists)
            if seen is ready:
                wait_until(lambda: processes_with(f"sleep\0{marker}"))
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    begun = time.monotonic()
    with meanwhile(interrupt_twice), pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", code], kill_grace_s=60)
    assert time.monotonic() - begun < 40
    assert processes_with(marker) == []


# --- stop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True])
def test_another_thread_may_stop_a_runner(kill: bool) -> None:
    """stop ends the child that runs, and every later one; pauses end as well."""
    marker = long_sleep()
    runner = ChildRunner(stoppable=True)

    def stop() -> None:
        wait_until(lambda: processes_with(marker))
        runner.stop(kill=kill)

    try:
        with meanwhile(stop):
            result = RunResult(*runner.run(Order(["sleep", marker], Limits())))
        later = RunResult(*runner.run(Order(["sleep", marker], Limits())))
        runner.pause(60)
    finally:
        runner.close()
        runner.close()
    for ended in (result, later):
        assert (ended.cancelled, ended.timed_out) == (True, False)
        assert ended.signal == ("SIGKILL" if kill else "SIGTERM")
        assert ended.stop_phase == ("kill" if kill else "terminate")


# --- what it cost ------------------------------------------------------------------------------------------------


def test_cpu_time_is_the_childs_own() -> None:
    """A child that burns a third of a second of CPU shows at least that, one that sleeps next to nothing."""
    busy = run([sys.executable, "-S", "-c", "import time\nwhile time.process_time() < 0.3: pass"])
    assert 0.25 <= busy.cpu_s <= busy.wall_s * (os.cpu_count() or 1) + 0.1
    assert busy.wall_s >= 0.25
    idle = run(["sleep", "0.3"])
    assert idle.cpu_s < 0.2
    assert idle.wall_s >= 0.3
    assert idle.voluntary_switches >= 1
    assert idle.started_ns < idle.ended_ns <= time.monotonic_ns()


def test_peak_memory_is_the_childs_or_says_that_it_may_be_ours() -> None:
    """A child larger than its parent shows its size; a smaller one is marked as a bound (getrusage(2), ru_maxrss)."""
    code = """
import sys
from procbench import run
large = run([sys.executable, "-S", "-c", "x = b'x' * (200 << 20)"])
small = run(["true"])
assert 200 << 20 <= large.peak_memory_bytes < 300 << 20, large
assert not large.peak_memory_is_bound and small.peak_memory_is_bound
assert large.minor_faults > small.minor_faults
held = b"x" * (300 << 20)
assert run([sys.executable, "-S", "-c", "x = b'x' * (200 << 20)"]).peak_memory_is_bound
print("plausible")
"""
    assert run_python(code) == "plausible"


def test_a_program_that_is_not_there_raises() -> None:
    """L17: what cannot be started raises from run, after closing its pipes."""
    with pytest.raises(ProgramNotFoundError):
        run(["procbench-no-such-program"], input=b"x", capture_output=True)


@pytest.mark.parametrize("data", ["text", 3])
def test_input_that_is_not_bytes_is_refused_before_anything_is_open(data: Any) -> None:
    """L17: nothing is left open by an input of the wrong type."""
    with pytest.raises(InvalidInputError, match="must be bytes"):
        run(["cat"], input=data)


def test_descendants_have_the_whole_grace_to_end(tmp_path: Path) -> None:
    """L06: what a leader that dies at once leaves in its group gets SIGKILL only after kill_grace_s."""
    script = "(trap 'sleep 0.6; touch done; exit' TERM; touch ready; while :; do sleep 0.05; done) & wait"
    with pytest.raises(CommandTimeoutError):
        run(["bash", "-c", script], cwd=tmp_path, timeout=1, kill_grace_s=30)
    assert (tmp_path / "ready").exists()
    assert (tmp_path / "done").exists()


def test_a_child_that_outlived_its_end_is_reaped_with_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the kernel kept from dying by SIGKILL is no zombie for ever."""
    send = Contained.signal
    monkeypatch.setattr(course, "ABANDON_AFTER_S", 0.0)
    monkeypatch.setattr(Contained, "signal", lambda held, number: number == signal.SIGKILL or send(held, number))
    with pytest.raises(CommandTimeoutError):
        run(["sh", "-c", "trap '' TERM; read forever"], stdin=(pipe := os.pipe())[0], timeout=0.2, kill_grace_s=0.1)
    assert len(course._abandoned) == 1
    pid = next(iter(course._abandoned))
    run(["true"])
    assert course._abandoned == {pid}  # it lives
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    run(["true"])
    assert not course._abandoned
    assert not Path(f"/proc/{pid}").exists()
    for end in pipe:
        os.close(end)


def test_an_interrupt_while_the_end_is_being_noted_is_no_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """L10: Ctrl-C at the moment when a captured child has ended comes through, and leaves nothing open."""
    before = set(Path("/proc/self/fd").iterdir())
    noted = Pipes.child_has_ended
    interrupts = iter([KeyboardInterrupt])

    def interrupted(pipes: Pipes, buffer: Any) -> None:
        for interrupt in interrupts:
            raise interrupt
        noted(pipes, buffer)

    monkeypatch.setattr(Pipes, "child_has_ended", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(["echo", "hi"], capture_output=True)
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_an_interrupt_just_before_the_reaping_leaves_no_zombie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a child is said to be reaped nobody looks again, so closing its course does."""

    def interrupted(_: object, pid: int) -> int | None:
        raise KeyboardInterrupt

    monkeypatch.setattr(course.Reaper, "reap", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(["true"])
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert not course._abandoned
