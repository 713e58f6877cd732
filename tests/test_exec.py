"""``procbench exec`` as a container or a person meets it: signals, statuses, orphans, a terminal, a pid namespace."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import ROOT, long_sleep, processes_with, run_python, wait_until

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PS1": "$ ", "HISTFILE": "/dev/null"}
EXEC = (sys.executable, "-m", "procbench", "exec")
EXEC_WORDS = " ".join(EXEC)
PATIENCE_S = 30.0
NOT_FORWARDED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU} | {
    getattr(signal, f"SIG{name}") for name in ("ABRT", "BUS", "FPE", "ILL", "SEGV", "SYS", "TRAP")
}
SAYS_EVERY_SIGNAL = """
import signal
every = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
signal.pthread_sigmask(signal.SIG_BLOCK, every)
print("ready", flush=True)
while True:
    print(int(signal.sigwait(every)), flush=True)
"""


def ended(*arguments: str, prefix: tuple[str, ...] = (), **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    argv = [*prefix, *EXEC, *arguments]
    return subprocess.run(argv, env=ENVIRONMENT, capture_output=True, timeout=PATIENCE_S, **options)


@contextlib.contextmanager
def started(*arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Run it beside the test."""
    pipe = subprocess.PIPE
    child = subprocess.Popen([*prefix, *EXEC, *arguments], env=ENVIRONMENT, stdin=pipe, stdout=pipe, bufsize=0)
    with child:
        try:
            yield child
        finally:
            child.kill()


def lines(child: subprocess.Popen[bytes], count: int) -> list[str]:
    """Read so many lines of its output."""
    return [child.stdout.readline().decode().strip() for _ in range(count)]


def children_of(pid: int) -> list[tuple[int, str]]:
    """Return the pids and states of a process's children."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            found.append((int(child), Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]))
    return found


@pytest.fixture
def marker() -> Iterator[str]:
    """Seconds to sleep that mark the sleeper in /proc; nobody who sleeps them is left after the test."""
    seconds = long_sleep()
    yield seconds
    left = processes_with(seconds)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


# --- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 3, 255])
def test_the_status_is_the_commands(status: int):
    assert ended("--", "sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("name", ["KILL", "TERM", "HUP", "SEGV", "USR1"])
def test_a_command_that_a_signal_ended_is_128_and_the_signal(name: str):
    done = ended("sh", "-c", f"kill -{name} $$")
    assert (done.returncode, done.stderr) == (128 + getattr(signal, f"SIG{name}"), b"")


def test_what_is_not_found_is_127_and_what_cannot_be_executed_126(tmp_path: Path):
    (tmp_path / "plain").write_text("no script")
    (tmp_path / "headless").write_text("#!/nowhere/at/all\n")
    (tmp_path / "headless").chmod(0o755)
    for program, status in (("no-such-program", 127), ("./headless", 127), ("./plain", 126), ("/", 126)):
        done = ended("--", program, cwd=tmp_path)
        assert done.returncode == status, program
        assert done.stderr.startswith(b"procbench: cannot start")
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--",),
        ("--grace", "-1", "true"),
        ("--grace", "nan", "true"),
        ("--timeout", "0", "true"),
        ("--timeout", "x", "true"),
        ("--nonsense", "true"),
    ],
)
def test_bad_usage_is_2_and_one_line(arguments: tuple[str, ...]):
    done = ended(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


def test_options_after_the_command_are_the_commands():
    assert ended("echo", "-g", "--", "--timeout").stdout == b"-g -- --timeout\n"


@pytest.mark.parametrize("stopped", [False, True])
def test_when_time_is_up_it_is_ended_with_all_it_started(marker: str, stopped: bool):
    """L04, L06: time is up for the group, for what left it and for what is stopped: SIGTERM is heard, nothing is left."""
    itself = "kill -STOP $$" if stopped else "wait"
    script = f"trap 'echo bye; exit 0' TERM; setsid sleep {marker} & sleep {marker} & {itself}; sleep {marker}"
    done = ended("--timeout", "0.5", "--grace", "1000", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (124, b"bye\n")
    assert processes_with(marker) == []


# --- signals -------------------------------------------------------------------------------------------------------


def test_every_signal_is_passed_on():
    """All that can be held back, real-time ones too; not what tells of a child, a terminal's need, or a fault."""
    forwarded = sorted(signal.valid_signals() - NOT_FORWARDED)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT} < set(forwarded)
    assert {signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT} < set(forwarded)
    with started("--", sys.executable, "-c", SAYS_EVERY_SIGNAL) as child:
        assert lines(child, 1) == ["ready"]
        for number in forwarded:
            child.send_signal(number)
            assert lines(child, 1) == [str(int(number))]
        for number in (signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU, signal.SIGRTMAX):  # the last is read last
            child.send_signal(number)
        assert lines(child, 1) == [str(int(signal.SIGRTMAX))]
        ((command, _),) = children_of(child.pid)
        os.kill(command, signal.SIGKILL)
        assert child.wait() == 128 + signal.SIGKILL


@pytest.mark.parametrize("whole_group", [False, True])
def test_signals_go_to_the_command_or_to_its_whole_group(whole_group: bool):
    code = """
import os, signal
heard = {signal.SIGUSR1, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, heard)
name = "member" if os.fork() == 0 else "leader"
os.write(1, f"{name} ready\\n".encode())
os.write(1, f"{name} {signal.sigwait(heard).name}\\n".encode())
"""
    with started(*["-g"] * whole_group, "--", sys.executable, "-W", "ignore", "-c", code) as child:
        assert sorted(lines(child, 2)) == ["leader ready", "member ready"]
        child.send_signal(signal.SIGUSR1)
        member = "SIGUSR1" if whole_group else "SIGTERM"  # it outlived the leader
        assert sorted(lines(child, 2)) == ["leader SIGUSR1", f"member {member}"]
        assert child.wait() == 0


def test_a_stopped_command_is_waited_for_and_gets_its_signal_when_it_goes_on(marker: str):
    with started("--", "sh", "-c", f"kill -STOP $$; sleep {marker}") as child:
        wait_until(lambda: [state for _, state in children_of(child.pid)] == ["T"])
        child.send_signal(signal.SIGTERM)
        assert [state for _, state in children_of(child.pid)] == ["T"]
        child.send_signal(signal.SIGCONT)
        assert child.wait() == 128 + signal.SIGTERM


def test_a_signal_that_came_before_the_command_was_there_is_the_commands():
    code = """
import os, signal
from procbench.io.init import run_as_init
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
print(run_as_init(["sleep", "90"]))
"""
    assert run_python(code) == str(128 + signal.SIGTERM)


def test_a_signal_at_any_moment_of_the_start_leaves_nothing(marker: str):
    for step in range(12):
        with started("--", "sleep", marker) as child:
            time.sleep(step * 0.015)  # no luck: every moment must do
            child.send_signal(signal.SIGTERM)
            assert child.wait() in (-signal.SIGTERM, 128 + signal.SIGTERM)
        assert processes_with(marker) == []


def test_a_signal_that_comes_late_does_not_change_the_status():
    """From the command's end to the process's own, interpreter included."""
    for _ in range(3):
        with started("--", "sh", "-c", "trap '' TERM INT; echo ready; read line; exit 7") as child:
            assert lines(child, 1) == ["ready"]
            child.stdin.write(b"\n")
            while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(child.pid, signal.SIGTERM)
                os.kill(child.pid, signal.SIGINT)
            assert child.wait() == 7


def test_what_was_ignored_stays_ignored_and_nothing_is_blocked():
    """As nohup(1) wants it; only SIGPIPE, which Python ignores, and SIGCHLD are at their default."""
    shell = ("sh", "-c", 'trap "" USR1 HUP CHLD; exec "$@"', "sh")
    said = ended("--", "cat", "/proc/self/status", prefix=shell).stdout.decode()
    fields = dict(line.split(":", 1) for line in said.splitlines())
    assert int(fields["SigBlk"], 16) == 0
    ignored = {number for number in signal.valid_signals() if int(fields["SigIgn"], 16) >> number - 1 & 1}
    assert ignored == {signal.SIGUSR1, signal.SIGHUP}


def test_the_status_is_known_though_sigchld_was_ignored():
    """L11: ignored SIGCHLD has the kernel throw the status away."""
    assert ended("--", "sh", "-c", "exit 3", prefix=("sh", "-c", 'trap "" CHLD; exec "$@"', "sh")).returncode == 3


def test_a_refusal_leaves_this_process_as_it_was():
    code = """
import ctypes, os, signal
from procbench.errors import InvalidInputError, SpawnError
from procbench.io.init import run_as_init
handler = lambda *_: None
signal.signal(signal.SIGCHLD, handler)
subreaper = ctypes.c_int(-1)
for argv, options in ((["no-such-program"], {}), ([], {}), (["/"], {}), (["true"], {"grace_s": -1.0})):
    try:
        run_as_init(argv, **options)
    except (SpawnError, InvalidInputError) as error:
        print(type(error).__name__)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    assert signal.getsignal(signal.SIGCHLD) is handler
    ctypes.CDLL(None).prctl(37, ctypes.byref(subreaper), 0, 0, 0)
    assert subreaper.value == 0
    assert set(os.listdir("/proc/self/fd")) == {"0", "1", "2", "3"}
"""
    assert run_python(code).split() == [
        "ProgramNotFoundError",
        "CommandArgumentError",
        "ProgramPermissionError",
        "InvalidInputError",
    ]


# --- streams and descriptors ---------------------------------------------------------------------------------------


def test_ten_mebibytes_pass_through_as_they_are():
    data = os.urandom(1 << 20) * 10
    done = ended("--", "sh", "-c", "cat; echo other >&2", input=data)
    assert (done.returncode, done.stderr) == (0, b"other\n")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_the_command_gets_the_descriptors_that_this_process_was_given_and_no_other():
    """Nothing of its own; but what a caller leaves open on purpose, as for a socket or a make jobserver, is the command's."""
    show = ("--", sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))")
    with Path("/dev/null").open() as file:
        given = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 50)
    try:
        for fds in ((), (given,)):
            done = ended(*show, pass_fds=fds, stdin=subprocess.DEVNULL)
            assert {*map(int, eval(done.stdout))} == {0, 1, 2, 3, *fds}  # 3 is the listing's own
    finally:
        os.close(given)


def test_nothing_heavy_is_loaded():
    heavy = ("pandas", "numpy", "asyncio", "procbench.io.spawn", "procbench.io.order", "procbench.memory", "tqdm")
    code = f"import sys, procbench.cli, procbench.io.init; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code) == "[]"


# --- orphans -------------------------------------------------------------------------------------------------------


def test_a_daemon_that_forked_twice_is_ended_and_may_clean_up(marker: str):
    """L05: it left its group and its session; SIGTERM comes first, and the command's status stays."""
    daemon = f"trap 'echo bye; exit 0' TERM; echo ready; sleep {marker} & wait"
    script = f"""setsid sh -c '(setsid sh -c "$0" &)' "{daemon}"; read line; exit 5"""
    with started("--grace", "1000", "--", "sh", "-c", script) as child:
        assert lines(child, 1) == ["ready"]
        wait_until(lambda: len(children_of(child.pid)) == 2)  # adopted
        child.stdin.write(b"\n")
        assert lines(child, 1) == ["bye"]
        assert child.wait() == 5
    assert processes_with(marker) == []


def test_one_that_does_not_end_is_killed_after_the_grace(marker: str):
    began_s = time.monotonic()
    daemon = f"trap '' TERM; sleep {marker} & wait; sleep {marker}"
    done = ended("--grace", "0.3", "--", "sh", "-c", f'setsid sh -c "{daemon}" & sleep 0.2; exit 6')
    assert (done.returncode, processes_with(marker)) == (6, [])
    assert time.monotonic() - began_s >= 0.3


def test_a_stopped_daemon_hears_sigterm(marker: str):
    script = f"(kill -STOP $(exec sh -c 'echo $PPID'); sleep {marker}) & sleep 0.2; exit 6"
    assert ended("--grace", "1000", "--", "sh", "-c", script).returncode == 6
    assert processes_with(marker) == []


def test_a_signal_while_orphans_are_ended_kills_them_at_once(marker: str):
    """Before that each was asked just once, whoever else ended meanwhile."""
    daemon = f"trap 'echo heard' TERM; echo ready; while :; do sleep {marker} & wait; done"
    others = f"i=0; while [ $i -lt 30 ]; do sleep {marker} & i=$((i+1)); done"
    with started(
        "--grace", "1000", "--", "sh", "-c", f'setsid sh -c "{daemon}" & {others}; read line; exit 8'
    ) as child:
        assert lines(child, 1) == ["ready"]
        child.stdin.write(b"\n")
        assert lines(child, 1) == ["heard"]
        wait_until(lambda: len(children_of(child.pid)) == 1, "the others are gone")
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 8
        assert child.stdout.read() == b""
    assert processes_with(marker) == []


def test_a_thousand_orphans_leave_no_zombie_while_the_command_runs():
    script = "i=0; while [ $i -lt 1000 ]; do (true &); i=$((i+1)); done; echo made; read line"
    with started("--", "sh", "-c", script) as child:
        assert lines(child, 1) == ["made"]
        wait_until(lambda: len(children_of(child.pid)) == 1, "no zombie")
        child.stdin.write(b"\n")
        assert child.wait() == 0


def test_hundreds_that_live_on_are_all_ended(marker: str):
    script = f"i=0; while [ $i -lt 300 ]; do (sleep {marker} &); i=$((i+1)); done"
    assert ended("--grace", "1000", "--", "sh", "-c", script).returncode == 0
    assert processes_with(marker) == []


def test_children_that_this_process_had_before_are_ended_too(marker: str):
    """An entry script that starts helpers and then gives its place to procbench."""
    shell = ("sh", "-c", f'sleep {marker} & exec "$@"', "sh")
    assert ended("--", "true", prefix=shell).returncode == 0
    assert processes_with(marker) == []


# --- as the first process of a pid namespace -----------------------------------------------------------------------

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.fixture
def namespace() -> tuple[str, ...]:
    """What starts a program as pid 1."""
    try:
        allowed = subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this user may make no pid namespace here (unshare --pid)")
    return NAMESPACE


@pytest.mark.parametrize("own_proc", [True, False])
def test_as_pid_1_it_reaps_and_ends_what_is_left(namespace: tuple[str, ...], own_proc: bool, marker: str):
    """Also where /proc is still the outer namespace's."""
    daemon = f"trap 'echo bye; exit 0' TERM; echo ready; sleep {marker} & wait"
    script = """(setsid sh -c "$0" &); (true &); read line; echo $PPID; exit 9"""
    with started(
        "--grace", "1000", "--", "sh", "-c", script, daemon, prefix=namespace if own_proc else namespace[:3]
    ) as child:
        assert lines(child, 1) == ["ready"]
        ((init, _),) = children_of(child.pid)
        wait_until(lambda: len(children_of(init)) == 2, "only the command and the daemon")
        child.stdin.write(b"\n")
        assert lines(child, 2) == ["1", "bye"]
        assert child.wait() == 9
    assert processes_with(marker) == []


def test_as_pid_1_it_passes_signals_on(namespace: tuple[str, ...]):
    """The kernel keeps from pid 1 what it has no handler for."""
    script = "trap 'exit 4' TERM; trap 'kill -TERM 1' USR1; kill -USR1 1; while :; do sleep 0.01; done"
    assert ended("--", "sh", "-c", script, prefix=namespace).returncode == 4


# --- on a terminal -------------------------------------------------------------------------------------------------

# Makes its standard input the session's terminal, and goes on as the program named.
ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A shell on a terminal of its own, as its session's first process."""

    def __init__(self, *shell: str) -> None:
        self.ours, theirs = pty.openpty()
        self.seen = ""
        self._shell = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *shell],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=ENVIRONMENT,
        )
        os.close(theirs)
        self.pid = self._shell.pid

    def wait(self) -> int:
        """Return the shell's status when it has ended."""
        return self._shell.wait(PATIENCE_S)

    def types(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def reads(self) -> str:
        """Read what there is, and return what was not waited for yet."""
        self.seen += os.read(self.ours, 4096).decode(errors="replace")
        return self.seen

    def shows(self, text: str) -> str:
        """Wait until it shows the text, after what was waited for before, and return what stands in between."""
        end_s = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            ready, _, _ = select.select([self.ours], [], [], max(end_s - time.monotonic(), 0))
            assert ready, f"{text!r} did not come, but {self.seen!r}"
            try:
                self.reads()
            except OSError:  # EIO: everybody has gone
                raise AssertionError(f"{text!r} did not come before the end, but {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before

    def close(self) -> None:
        os.close(self.ours)
        with self._shell:
            self._shell.kill()


@contextlib.contextmanager
def terminal(*shell: str) -> Iterator[Terminal]:
    with contextlib.closing(Terminal(*shell)) as one:
        yield one


def test_the_command_reads_from_the_terminal_and_the_caller_does_after_it():
    script = (
        f'{EXEC_WORDS} -- sh -c \'read a; echo "<$a>"; ls /proc/self/fd; exit 3\'; echo status $?; read b; echo "[$b]"'
    )
    with terminal("sh", "-c", script) as screen:
        screen.types("one\n")
        screen.shows("<one>")
        screen.shows("0  1  2  3\r\n")  # the last is the listing's own: the terminal's descriptor is not handed on
        screen.shows("status 3")
        screen.types("two\n")
        screen.shows("[two]")


def test_the_command_has_the_foreground_from_its_start():
    """What looks whether it has, as wget and pv do, looks once."""
    with terminal("sh", "-c", f"{EXEC_WORDS} -- cut -d' ' -f5,8 /proc/self/stat; echo over") as screen:
        own, foreground = screen.shows("over").split()
        assert own == foreground


def test_ctrl_c_ends_the_wait_for_what_the_command_left_behind(marker: str):
    daemon = f"trap : TERM; echo ready; while :; do sleep {marker} & wait; done"
    command = f"sh -c \"setsid sh -c '{daemon}' & sleep 0.1\""
    with terminal("sh", "-c", f"trap : INT; {EXEC_WORDS} --grace 1000 -- {command}; echo over") as screen:
        screen.shows("ready")

        def interrupted() -> bool:
            screen.types("\x03")
            return bool(select.select([screen.ours], [], [], 0.1)[0]) and "over" in screen.reads()

        wait_until(interrupted)  # the first may come while the command is still there
    assert processes_with(marker) == []


def test_a_program_that_is_not_found_leaves_the_terminal_with_the_caller():
    with terminal("sh", "-c", f'{EXEC_WORDS} -- ./nowhere; echo status $?; read b; echo "[$b]"') as screen:
        screen.shows("status 127")
        screen.types("two\n")
        screen.shows("[two]")


def test_ctrl_c_ends_the_command_and_is_130():
    script = f'{EXEC_WORDS} -- cat; echo status $?; read b; echo "[$b]"'
    with terminal("sh", "-c", script) as screen:
        screen.types("one\n")
        screen.shows("one\r\none\r\n")
        screen.types("\x03")
        screen.shows("status 130")
        screen.types("two\n")
        screen.shows("[two]")


def test_in_a_pipeline_the_terminal_is_lent_when_it_is_read(tmp_path: Path):
    """At first it stays with the others of the job, which may read from it as well."""
    group_and_foreground = "cut -d' ' -f5,8 /proc/$$/stat"
    command = tmp_path / "command"
    command.write_text(f'{group_and_foreground}\nread a\n{group_and_foreground}\necho "<$a>"\n')
    with terminal("sh", "-c", f'{EXEC_WORDS} -- sh {command} | cat; read b; echo "[$b]"') as screen:
        own, foreground = screen.shows("\r\n").split()
        assert own != foreground
        screen.types("one\n")
        screen.shows("one\r\n")
        own, foreground = screen.shows("\r\n<one>").split()
        assert own == foreground
        screen.types("two\n")
        screen.shows("[two]")


def test_ctrl_c_reaches_the_commands_whole_group_though_it_has_not_the_terminal(marker: str):
    """A shell that waits for a program would not see to its own signal before that ends."""
    command = f"sh -c \"trap 'exit 9' INT; echo ready; sleep {marker}; exit 1\""
    script = f"trap : INT; {EXEC_WORDS} -- {command} | cat; echo status ${{PIPESTATUS[0]}}"
    with terminal("bash", "-c", script) as screen:
        screen.shows("ready")
        wait_until(lambda: len(processes_with(marker)) >= 4)
        screen.types("\x03")
        screen.shows("status 9")


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_gives_it_back():
    with terminal("bash", "--norc", "--noediting", "-i") as screen:
        screen.types(f"{EXEC_WORDS} -- sed -u s/^/got-/\n")
        screen.types("one\n")
        screen.shows("got-one")
        for word in ("two", "three"):
            screen.types("\x1a")
            screen.shows("Stopped")
            screen.types(f"echo shell-$((1 + 1))-{word}\n")
            screen.shows(f"shell-2-{word}\r\n")
            screen.types("fg\n")
            screen.shows("sed -u")
            screen.types(f"{word}\n")
            screen.shows(f"got-{word}")
        screen.types("\x04")
        screen.shows("$ ")
        screen.types("echo status $((40 + $?))\n")
        screen.shows("status 40")


def test_fg_gives_the_foreground_back_at_once_and_bg_does_not(tmp_path: Path):
    """One that ends in the background takes the terminal from nobody."""
    command, go = tmp_path / "command", tmp_path / "go"
    command.write_text(
        f"""trap 'echo $(cut -d" " -f5,8 /proc/$$/stat) continued' CONT
echo begun
until [ -e {go} ]; do sleep 0.02; done
"""
    )
    with terminal("bash", "--norc", "--noediting", "-i") as screen:
        # not dash, which waits for a child of vfork(2) that was stopped before its exec, and so is not stopped itself
        screen.types(f"{EXEC_WORDS} -- bash {command}\n")
        screen.shows("begun\r\n")
        for how in ("fg", "bg"):
            screen.types("\x1a")
            screen.shows("Stopped")
            screen.types(f"{how}\n")
            own, foreground = screen.shows(" continued").split()[-2:]
            assert (own == foreground) == (how == "fg")
        go.touch()
        wait_until(lambda: children_of(screen.pid) == [])
        screen.types("echo shell-$((1 + 1))\n")
        screen.shows("shell-2\r\n")


def test_who_stops_the_command_by_sigstop_on_a_terminal_continues_it():
    """Neither is it continued, nor this process stopped, where no shell watches."""
    with terminal(*EXEC, "--", "sh", "-c", "echo ready; kill -STOP $$; echo on") as screen:
        screen.shows("ready")
        wait_until(lambda: [state for _, state in children_of(screen.pid)] == ["T"])
        os.kill(screen.pid, signal.SIGRTMAX)  # passed on after what came of the stop, and pending until it is continued
        ((command, _),) = children_of(screen.pid)
        wait_until(lambda: f"ShdPnd:\t{1 << signal.SIGRTMAX - 1:016x}" in Path(f"/proc/{command}/status").read_text())
        os.kill(command, signal.SIGCONT)
        assert screen.wait() == 128 + signal.SIGRTMAX
        with contextlib.suppress(OSError):
            screen.reads()
        assert "on" not in screen.seen


def test_in_the_background_it_stops_when_it_wants_to_read_and_fg_lets_it():
    with terminal("bash", "--norc", "--noediting", "-i") as screen:
        screen.types(f"{EXEC_WORDS} -- sh -c 'read a; echo \"<$a>\"' &\n")
        screen.shows("$ ")
        wait_until(lambda: "T" in {state for _, state in children_of(screen.pid)})
        screen.types("\n")
        screen.shows("Stopped")
        screen.types("fg\n")
        screen.shows("exec")
        screen.types("one\n")
        screen.shows("<one>")


def test_ctrl_z_is_passed_over_where_no_shell_could_continue_it():
    """In a group that nobody watches the kernel would not stop the command either, were it alone."""
    with terminal(*EXEC, "--", "cat") as screen:
        screen.types("one\n")
        screen.shows("one\r\none\r\n")
        screen.types("\x1a")
        screen.shows("^Z")
        screen.types("two\n")
        screen.shows("two\r\ntwo\r\n")


def test_a_reader_in_the_background_that_nobody_watches_is_hung_up_on(tmp_path: Path):
    """It would be stopped for ever, or stopped and continued without end."""
    script = tmp_path / "script"
    os.mkfifo(tmp_path / "said")
    script.write_text(
        f"{{ {EXEC_WORDS} -- sh -c 'read a </dev/tty; echo never'; echo status $?; }} >{tmp_path}/said &\n"
    )
    with terminal("bash", "--norc", "--noediting", "-i") as screen:
        screen.types(f"sh {script}\n")
        assert (tmp_path / "said").read_text() == "status 129\n"
