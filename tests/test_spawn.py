"""A child gets exactly what it was given, and one that cannot be started leaves a typed error and nothing else."""

from __future__ import annotations

import ast
import ctypes
import errno
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from procbench import linux
from procbench.errors import (
    CommandArgumentError,
    InvalidInputError,
    ProcbenchError,
    ProgramNotFoundError,
    ProgramPermissionError,
    SpawnError,
    SpawnLimitError,
)
from procbench.io import clone as clone_module
from procbench.io import spawn as spawn_module
from procbench.io.clone import FROM_NULL, Cloner, usable
from procbench.io.command import forget_resolved
from procbench.io.order import INHERIT, NULL, TO_STDOUT
from procbench.io.spawn import Child, spawn
from tests.waiting import ROOT, SYSTEM_PYTHON, run_python

OPEN_FDS = """i=0; while [ $i -lt 99 ]; do [ -e /proc/self/fd/$i ] && printf '%s ' $i; i=$((i+1)); done"""


@pytest.fixture(params=["clone", "posix_spawn", "subprocess"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to start a child: clone on kept memory, libc's posix_spawn, and the way back through the standard library."""
    if request.param == "subprocess":
        monkeypatch.setattr(linux, "HAS_POSIX_SPAWN", False)
    elif not linux.HAS_POSIX_SPAWN:
        pytest.skip("this libc lacks posix_spawn's newer file actions")
    if request.param == "clone":
        request.getfixturevalue("cloner")
    return request.param


@pytest.fixture
def cloner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloner]:
    """What every ``spawn`` of the test starts its children with."""
    if not usable():
        pytest.skip("no clone on kept memory with this processor or libc")
    kept = Cloner()
    monkeypatch.setitem(globals(), "spawn", partial(spawn, cloner=kept))
    yield kept
    kept.close()


@pytest.fixture(autouse=True)
def looked_up_anew() -> Iterator[None]:
    forget_resolved()
    yield
    forget_resolved()


def reap(child: Child) -> int:
    os.close(child.pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])


def output_of(argv: list[Any], **how: Any) -> bytes:
    """Return what the child writes to its standard output; it must end with status 0."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            child = spawn(argv, stdout=write_end, **how)
        finally:
            os.close(write_end)
        with open(read_end, "rb", closefd=False) as stream:
            data = stream.read()
        assert reap(child) == 0
    finally:
        os.close(read_end)
    return data


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


# --- what cannot be started --------------------------------------------------------------------------------------


def refused(case: str, folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """Return the argv and the arguments of ``case``."""
    match case:
        case "not on the PATH":
            return ["procbench-no-such-program"], {}
        case "no such path":
            return [folder / "absent"], {}
        case "not executable":
            return [script(folder / "plain", "#!/bin/sh\n", 0o644)], {}
        case "not executable on the PATH":
            script(folder / "plain", "#!/bin/sh\n", 0o644)
            return ["plain"], {"env": {"PATH": str(folder)}}
        case "a folder":
            return [folder], {}
        case "no program at all":
            return [script(folder / "text", "neither binary nor script\n")], {}
        case "bad interpreter":
            return [script(folder / "script", "#!/no/such/interpreter\n")], {}
        case "missing cwd":
            return ["true"], {"cwd": folder / "absent"}
        case "cwd is a file":
            return ["true"], {"cwd": script(folder / "file", "")}
        case "empty argv":
            return [], {}
        case "empty program":
            return [""], {}
        case "NUL in argv":
            return ["true", "a\0b"], {}
        case "NUL in env":
            return ["true"], {"env": {"A": "a\0b"}}
        case "equals sign in a variable's name":
            return ["true"], {"env": {"A=B": "c"}}
        case "one argument too long":
            return ["true", "x" * (1 << 18)], {}
        case "arguments too long together":
            return ["true", *["x" * 100_000] * 100], {}
    raise AssertionError(case)


REFUSED = {
    "not on the PATH": (ProgramNotFoundError, errno.ENOENT, "resolve"),
    "no such path": (ProgramNotFoundError, errno.ENOENT, "resolve"),
    "not executable": (ProgramPermissionError, errno.EACCES, "exec"),
    "not executable on the PATH": (ProgramPermissionError, errno.EACCES, "resolve"),
    "a folder": (ProgramPermissionError, errno.EACCES, "exec"),
    "no program at all": (SpawnError, errno.ENOEXEC, "exec"),
    "bad interpreter": (ProgramNotFoundError, errno.ENOENT, "exec"),
    "missing cwd": (ProgramNotFoundError, errno.ENOENT, "cwd"),
    "cwd is a file": (ProgramNotFoundError, errno.ENOTDIR, "cwd"),
    "empty argv": (CommandArgumentError, errno.EINVAL, "resolve"),
    "empty program": (CommandArgumentError, errno.EINVAL, "resolve"),
    "NUL in argv": (CommandArgumentError, errno.EINVAL, "resolve"),
    "NUL in env": (CommandArgumentError, errno.EINVAL, "resolve"),
    "equals sign in a variable's name": (CommandArgumentError, errno.EINVAL, "resolve"),
    "one argument too long": (SpawnError, errno.E2BIG, "limits"),
    "arguments too long together": (SpawnError, errno.E2BIG, "limits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_child_that_cannot_be_started_says_what_and_where(case: str, tmp_path: Path, way: str) -> None:
    """L17: each refusal has its type, errno and stage, and survives pickling; no child and no descriptor stays."""
    kind, code, stage = REFUSED[case]
    argv, how = refused(case, tmp_path)
    with pytest.raises(SpawnError) as caught:
        spawn(argv, **how)
    error = caught.value
    assert (type(error), error.errno, error.stage) == (kind, code, stage)
    assert isinstance(error, ProcbenchError)
    assert isinstance(error, OSError)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.errno, copy.stage, str(copy)) == (kind, code, stage, str(error))


def test_standard_handlers_catch_our_errors() -> None:
    """L17: FileNotFoundError, PermissionError, ValueError and BlockingIOError still name the cases."""
    assert issubclass(ProgramNotFoundError, FileNotFoundError)
    assert issubclass(ProgramPermissionError, PermissionError)
    assert issubclass(CommandArgumentError, ValueError)
    assert issubclass(SpawnLimitError, BlockingIOError)


@pytest.mark.parametrize("argv", ["true", b"true"])
def test_a_string_is_no_argv(argv: Any) -> None:
    """A command line is refused instead of being taken for a list of letters."""
    with pytest.raises(InvalidInputError, match="list"):
        spawn(argv)


def test_an_argument_that_is_no_text_is_a_type_error() -> None:
    """A number in an argv is a mistake of the program, not of the system."""
    with pytest.raises(TypeError):
        spawn(["true", 1])  # type: ignore[list-item]


FEW_DESCRIPTORS = """
import os, resource, sys
from procbench import linux
from procbench.errors import SpawnLimitError
from procbench.io.blocking import run

linux.HAS_POSIX_SPAWN = linux.HAS_POSIX_SPAWN and sys.argv[1] != "subprocess"
run(["true"], input=b"", capture_output=True)  # what is loaded at first use is loaded
before = set(os.listdir("/proc/self/fd"))
free = os.open("/dev/null", os.O_RDONLY); os.close(free)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
failed = good = 0
for room in range(30):
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, hard))
    for _ in range(1000 if room == 0 else 25):
        try:
            assert run(["echo", "hi"], input=b"x" * 10, capture_output=True).stdout == b"hi\\n"
            good += 1
        except SpawnLimitError as error:
            assert error.stage == "limits", error.stage
            failed += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert set(os.listdir("/proc/self/fd")) == before, room
    if good >= 25:
        break
assert failed >= 1000 and good
children = open(f"/proc/self/task/{os.getpid()}/children").read()
assert not children, children
print("clean")
"""


def test_too_few_descriptors_leave_none_behind(way: str) -> None:
    """L17, L19: over 1,000 spawns that fail for want of a descriptor, at whatever step, leave none and no child."""
    assert run_python(FEW_DESCRIPTORS, way) == "clean"


NO_PROCESS = """
import os, resource
from procbench.errors import SpawnLimitError
from procbench.io.blocking import run
_, hard = resource.getrlimit(resource.RLIMIT_NPROC)
resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
before = set(os.listdir("/proc/self/fd"))
try:
    run(["true"], capture_output=True)
except SpawnLimitError as error:
    print(error.errno, error.stage)
assert set(os.listdir("/proc/self/fd")) == before
resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
print(run(["true"]).returncode)
"""


@pytest.mark.skipif(os.geteuid() != 0 or not SYSTEM_PYTHON.exists(), reason="only root may become nobody")
def test_no_process_left_is_a_limit() -> None:
    """L20: EAGAIN from fork is a SpawnLimitError, and the next try may work."""
    nobody = ("setpriv", "--reuid=65534", "--clear-groups")
    assert run_python(NO_PROCESS, before=nobody, python=SYSTEM_PYTHON).split() == [str(errno.EAGAIN), "limits", "0"]


# --- what the child gets -----------------------------------------------------------------------------------------


def test_the_child_has_exactly_its_descriptors(way: str) -> None:
    """The child has 0, 1, 2 and pass_fds, while four threads open inheritable files."""
    stop = threading.Event()

    def open_and_close() -> None:
        while not stop.is_set():
            mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
            for fd in mine:
                os.set_inheritable(fd, True)
            stop.wait(0.001)
            for fd in mine:
                os.close(fd)

    first, second = (os.open("/dev/null", os.O_RDONLY) for _ in range(2))
    threads = [threading.Thread(target=open_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for passed in ((), (first,), (first, second), (second, first, first)):
            for _ in range(5):
                seen = output_of(["sh", "-c", OPEN_FDS], pass_fds=passed)
                assert {int(fd) for fd in seen.split()} == {0, 1, 2, *passed}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        os.close(first)
        os.close(second)


def masks_of_child() -> dict[str, int]:
    lines = output_of(["cat", "/proc/self/status"]).decode().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    # 32 and 33 are glibc's own; no program sees them
    return {name: int(fields[name], 16) & ~(0b11 << 31) for name in ("SigIgn", "SigBlk")}


def test_the_child_starts_with_default_signals(way: str) -> None:
    """SIGPIPE, which Python ignores, is not ignored in the child, and no signal is blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    try:
        assert masks_of_child() == {"SigIgn": 0, "SigBlk": 0}
        assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1, signal.SIGTERM})


def test_what_this_process_ignores_the_child_does_not(way: str) -> None:
    """A parent that ignores SIGTERM or SIGCHLD has children that can be ended and that can wait for their own."""
    if way == "subprocess":
        pytest.skip("subprocess puts back SIGPIPE and SIGXFSZ only")
    assert masks_of_child()["SigIgn"] == 0  # the memory that clone keeps knows nothing of the signals below yet
    ignored = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1, signal.SIGRTMIN)
    before = {number: signal.getsignal(number) for number in ignored}
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        child = spawn(["cat", "/proc/self/status"], stdout=write_end)
        os.close(write_end)
        with open(read_end, encoding="ascii", closefd=False) as stream:
            fields = dict(line.split(":", 1) for line in stream.read().splitlines())
        with pytest.raises(ChildProcessError):  # nothing is left to wait for once it has ended
            os.waitpid(child.pid, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_end)
    os.close(child.pidfd)
    assert int(fields["SigIgn"], 16) & ~(0b11 << 31) == 0


@pytest.mark.parametrize("new_group", [True, False])
def test_the_child_leads_its_own_group(way: str, new_group: bool) -> None:
    """By default a child's process group is its own; asked not to, it stays in ours."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    child = spawn(["cat"], stdin=read_end, stdout=NULL, new_group=new_group)
    os.close(read_end)
    assert os.getpgid(child.pid) == (child.pid if new_group else os.getpgrp())
    os.close(write_end)
    assert reap(child) == 0


def test_the_child_gets_its_folder_and_environment(way: str, tmp_path: Path) -> None:
    """cwd and env are the child's, also with bytes that are no text."""
    odd = tmp_path / os.fsdecode(b"odd \xff name")
    odd.mkdir()
    assert output_of(["pwd"], cwd=odd, env={"PATH": os.environ["PATH"]}) == os.fsencode(odd) + b"\n"
    assert output_of(["/usr/bin/env"], env={"A": "1", "B": "ä"}) == "A=1\nB=ä\n".encode()
    assert output_of(["/usr/bin/env"], env={}) == b""


def test_the_environment_is_read_at_every_spawn(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable set between two spawns is in the second child's environment, also in a dict changed in place."""
    for value in ("1", "2"):
        monkeypatch.setenv("PROCBENCH_TEST", value)
        assert output_of(["sh", "-c", "echo $PROCBENCH_TEST"]) == value.encode() + b"\n"
    mine = {"PATH": os.environ["PATH"], "A": "1"}
    assert output_of(["sh", "-c", "echo $A"], env=mine) == b"1\n"
    mine["A"] = "2"
    assert output_of(["sh", "-c", "echo $A"], env=mine) == b"2\n"


def test_the_childs_own_path_counts(way: str, tmp_path: Path) -> None:
    """A program is looked for in the PATH of the child's environment, relative to the child's folder."""
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "hello", "#!/bin/sh\necho hello\n")
    assert output_of(["hello"], env={"PATH": str(tmp_path / "bin")}) == b"hello\n"
    assert output_of(["hello"], env={"PATH": "bin"}, cwd=tmp_path) == b"hello\n"
    with pytest.raises(ProgramNotFoundError):
        spawn(["hello"])


@pytest.mark.parametrize("path", [":/usr/bin:/bin", "/usr/bin:/bin:", "/usr/bin::/bin", ":"])
def test_an_empty_path_entry_is_not_the_working_folder(way: str, tmp_path: Path, path: str) -> None:
    """An empty entry of PATH is passed over, so a folder full of data cannot name the program (faults.md, section 3)."""
    script(tmp_path / "hello", "#!/bin/sh\necho caught\n")
    with pytest.raises(ProgramNotFoundError):
        spawn(["hello"], env={"PATH": path}, cwd=tmp_path)


def test_a_program_that_moved_is_found_again(way: str, tmp_path: Path) -> None:
    """What was found on the PATH a moment ago and is gone now is looked for in the folders that follow."""
    if way == "subprocess":
        pytest.skip("the way back does not look twice")
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        script(folder / "hello", f"#!/bin/sh\necho {folder.name}\n")
    env = {"PATH": ":".join(map(str, folders))}
    assert output_of(["hello"], env=env) == b"one\n"
    (folders[0] / "hello").unlink()
    assert output_of(["hello"], env=env) == b"two\n"


# --- descriptors that change places ------------------------------------------------------------------------------

SWAPPED = """
import os, sys
from procbench import linux
from procbench.io.spawn import spawn
linux.HAS_POSIX_SPAWN = linux.HAS_POSIX_SPAWN and sys.argv[1] != "subprocess"
places = [None if place == "x" else int(place) for place in sys.argv[3:]]
folder = sys.argv[2]
saved = [os.dup(fd) for fd in (0, 1, 2)]
for fd in (0, 1, 2):  # each of this process's three is a file that says which one it was
    file = os.open(f"{folder}/{fd}", os.O_RDWR | os.O_CREAT)
    os.dup2(file, fd); os.close(file)
child = spawn(["sh", "-c", 'for i in 0 1 2; do all="$all $(readlink /proc/$$/fd/$i)"; done; echo $all >"$0"', f"{folder}/seen"],
              stdin=places[0], stdout=places[1], stderr=places[2])
_, status = os.waitpid(child.pid, 0)
for old, fd in zip(saved, (0, 1, 2)):
    os.dup2(old, fd)
assert status == 0, status
print(" ".join(line.rsplit("/", 1)[1] for line in open(f"{folder}/seen").read().split()))
"""


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("x x x", "0 1 2"),
        ("0 1 2", "0 1 2"),
        ("1 0 x", "1 0 2"),
        ("x 2 1", "0 2 1"),
        ("2 x 0", "2 1 0"),
        ("1 2 0", "1 2 0"),
        ("2 0 1", "2 0 1"),
        ("x 2 -2", "0 2 2"),
        ("1 0 -2", "1 0 0"),
        ("-3 2 1", "null 2 1"),
    ],
)
def test_descriptors_may_change_places(way: str, tmp_path: Path, given: str, seen: str) -> None:
    """Standard descriptors given as each other's arrive as asked, whatever the order they are duplicated in."""
    assert run_python(SWAPPED, way, tmp_path, *given.split()) == seen


def test_standard_error_follows_standard_output(way: str) -> None:
    """TO_STDOUT sends standard error where standard output goes, in the order of writing."""
    assert output_of(["sh", "-c", "echo a; echo b >&2; echo c"], stderr=TO_STDOUT) == b"a\nb\nc\n"


def test_inherit_is_none_and_null_is_subprocess_devnull() -> None:
    """The constants are those of subprocess, so either spelling works."""
    import subprocess

    assert (INHERIT, NULL, TO_STDOUT) == (None, subprocess.DEVNULL, subprocess.STDOUT)


# --- a program that is still being written -----------------------------------------------------------------------


@pytest.fixture
def busy_program(tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    path = script(tmp_path / "busy", "#!/bin/sh\nexit 0\n")
    writer = path.open("ab")
    yield path, writer
    writer.close()


def test_a_busy_program_is_tried_a_few_times(busy_program: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """L18: ETXTBSY is tried again at most five times within 100 ms, and then is a typed error."""
    path, _ = busy_program
    waits: list[float] = []
    monkeypatch.setattr(spawn_module, "time", SimpleNamespace(sleep=waits.append))
    with pytest.raises(SpawnError) as caught:
        reap(spawn([path]))
    assert (caught.value.errno, caught.value.stage) == (errno.ETXTBSY, "exec")
    assert len(waits) <= 5
    assert 0 < sum(waits) <= 0.1001


def test_a_program_that_was_just_written_starts(
    busy_program: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """L18: once the writer lets go, the child starts and nobody sees an error."""
    path, writer = busy_program
    monkeypatch.setattr(spawn_module, "time", SimpleNamespace(sleep=lambda _: writer.close()))
    assert reap(spawn([path])) == 0


# --- clone on kept memory ----------------------------------------------------------------------------------------


def test_kept_memory_serves_any_number_of_children(cloner: Cloner) -> None:
    """Children that start, that cannot be exec'ed, with and without pipes, alternate on the same memory."""
    null_fd = cloner.null_fd()
    for number in range(300):
        assert output_of(["echo", str(number)]) == b"%d\n" % number
        assert reap(spawn(["false"])) == 1
        with pytest.raises(ProgramNotFoundError):
            spawn(["/no/such/program"])
        assert reap(spawn(["sh", "-c", "exit 7"], stdout=NULL, stderr=TO_STDOUT)) == 7
    assert cloner.null_fd() == null_fd


def test_another_thread_may_go_on_with_a_cloner(cloner: Cloner) -> None:
    """errno is each thread's own: a failure is read where the thread that starts the child has it."""
    caught: list[int | None] = []

    def start() -> None:
        for path in ("/no/such/program", "/etc/passwd", "/no/such/program"):
            try:
                spawn([path])
            except SpawnError as error:
                caught.append(error.errno)

    for _ in range(3):
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    assert caught == [errno.ENOENT, errno.EACCES, errno.ENOENT] * 3


def test_a_child_that_was_cloned_has_this_processs_handlers_no_more(cloner: Cloner) -> None:
    """A signal that is caught here, and changed between two children, ends the child as the default says."""
    before = signal.getsignal(signal.SIGUSR2)
    try:
        for handler in (signal.SIG_IGN, lambda *_: None, signal.SIG_DFL):
            signal.signal(signal.SIGUSR2, handler)
            assert reap(spawn(["sh", "-c", "kill -USR2 $$; exit 3"])) == -signal.SIGUSR2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_descriptor_that_is_not_open_is_an_error_not_ours_instead(way: str) -> None:
    """A closed descriptor given as standard output is refused; the child never writes to this process's own."""
    if way == "subprocess":
        pytest.skip("subprocess looks at its descriptors in the child")
    with pytest.raises(SpawnError) as caught:
        spawn(["echo", "astray"], stdout=900)
    assert caught.value.errno == errno.EBADF


def test_a_signal_that_waits_for_this_process_goes_on_waiting(cloner: Cloner) -> None:
    """Preparing the memory for children delivers no signal that the program has blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        signal.raise_signal(signal.SIGUSR1)
        usable.__wrapped__()
        assert reap(spawn(["true"])) == 0
        assert signal.SIGUSR1 in signal.sigpending()
    finally:
        signal.sigtimedwait([signal.SIGUSR1], 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def test_an_interrupt_that_waits_for_a_clone_leaves_no_child(cloner: Cloner, monkeypatch: pytest.MonkeyPatch) -> None:
    """L10: Ctrl-C while the child execs, when all signals are blocked, comes afterwards: no child and no descriptor stays."""

    def interrupted(*arguments: Any) -> int:
        pid = real(*arguments)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        return pid

    assert reap(spawn(["true"])) == 0
    real = clone_module._clone
    monkeypatch.setattr(clone_module, "_clone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spawn(["sleep", "60"])
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_a_library_ignores_behind_pythons_back_the_child_does_not(cloner: Cloner) -> None:
    """SIGTERM that C code ignores, of which Python knows nothing, ends a child all the same."""
    code = """
import ctypes, os, signal
ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(1))
from procbench import RunSettings, WorkStealingScheduler
with WorkStealingScheduler(RunSettings(workers=1, capture=True)) as sched:
    print(sched.submit(["grep", "SigIgn", "/proc/self/status"]).result().stdout.split()[1].decode())
"""
    assert int(run_python(code), 16) & ~(0b11 << 31) == 0


@pytest.mark.parametrize("name", ["EAGAIN", "ENOMEM"])
def test_no_process_for_a_clone_is_a_limit(name: str, tmp_path: Path) -> None:
    """L20: what clone refuses for want of a process or memory leaves no descriptor, and the next child starts."""
    if not usable() or shutil.which("strace") is None:
        pytest.skip("no clone on kept memory with this processor or libc, or no strace")
    code = """
import os
from procbench.errors import SpawnLimitError
from procbench.io.clone import Cloner
from procbench.io.order import NULL
from procbench.io.spawn import spawn
cloner = Cloner()
cloner.null_fd()
before = os.listdir("/proc/self/fd")
try:
    spawn(["true"], stdout=NULL, cloner=cloner)
except SpawnLimitError as error:
    print(error.errno, error.stage)
assert os.listdir("/proc/self/fd") == before
child = spawn(["true"], stdout=NULL, cloner=cloner)
print(os.waitpid(child.pid, 0)[1])
"""
    trace = ("strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", "trace=clone")
    inject = ("-e", f"inject=clone:error={name}:when=1")
    assert run_python(code, before=(*trace, *inject)).split() == [str(getattr(errno, name)), "limits", "0"]


@pytest.mark.skipif(not usable(), reason="no clone on kept memory with this processor or libc")
def test_sources_are_connected_in_order(tmp_path: Path) -> None:
    """Standard error given as 1 is what standard output became, and FROM_NULL is /dev/null."""
    cloner = Cloner()
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    vector = (ctypes.c_char_p * 4)(b"sh", b"-c", b"echo a; echo b >&2; readlink /proc/self/fd/0", None)
    environment = (ctypes.c_char_p * 1)(None)
    arrays = ctypes.addressof(vector), ctypes.addressof(environment)
    pid, pidfd, code = cloner.start(b"/bin/sh", arrays, (FROM_NULL, out, 1))
    assert code == 0
    assert reap(Child(pid, pidfd)) == 0
    assert (tmp_path / "out").read_text() == "a\nb\n/dev/null\n"
    os.close(out)
    cloner.close()


# --- what must not stand in the code -----------------------------------------------------------------------------

MODULES = sorted((ROOT / "procbench").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_holds_no_trap(path: Path) -> None:
    """L23, L09, L21: no preexec_fn, shell=True, select() or PDEATHSIG anywhere in procbench."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword):
            assert node.arg != "preexec_fn"
            assert not (node.arg == "shell" and not (isinstance(node.value, ast.Constant) and not node.value.value))
        elif isinstance(node, ast.Attribute):
            assert node.attr not in ("PR_SET_PDEATHSIG", "preexec_fn")
            assert not (node.attr == "select" and isinstance(node.value, ast.Name) and node.value.id == "select")
        elif isinstance(node, ast.ImportFrom):
            assert node.module != "select"
        elif isinstance(node, ast.Name):
            assert "pdeathsig" not in node.id.lower()
