"""The command line as a person meets it: a child process, its exit status, its one line about what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import pytest

from procbench import cli
from procbench.errors import InvalidInputError
from procbench.io.containment import available_levels
from procbench.lab.host import HostFacts
from procbench.lab.store import Store
from procbench.views.jupyter import lab_command
from procbench.views.notebooks import Parameter
from procbench.views.parameters import asked_parameters
from tests.command_line import ENVIRONMENT, PROCBENCH, started
from tests.waiting import SYSTEM_PYTHON, processes_with, run_python, wait_until

PATIENCE_S = 60.0
VECTORS = ["\x1b[31mred\x1b]0;owned\x07", "[bold red]x[/]", "a\rb\nc", "\u202etxt.exe", "<script>alert(1)</script>"]


def procbench(
    *arguments: str, cwd: Path, stdin: bytes = b"", prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the command line and return how it ended, whatever the end."""
    done = subprocess.run(
        [*prefix, *PROCBENCH, *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        input=stdin,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def read_until(child: subprocess.Popen[bytes], word: bytes) -> bytes:
    """Read a child's standard error up to the line with that word."""
    seen = b""
    for line in child.stderr:
        seen += line
        if word in line:
            return seen
    raise AssertionError(f"{word!r} was never said: {seen!r}")


@pytest.fixture
def nap() -> Iterator[str]:
    """Seconds to sleep that are so many, and so odd, that they mark the sleeper in /proc."""
    marker = f"9{secrets.randbelow(10**9):09d}"
    yield marker
    left = processes_with(marker)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "children were left behind"


# --- what goes right --------------------------------------------------------------------------------------------


def test_a_command_runs_once_for_each_line(tmp_path: Path):
    """Lines come from standard input, {} is replaced, the summary counts, and in a pipe there is no bar."""
    done = procbench("run", "--", "echo", "<{}>", cwd=tmp_path, stdin=b"a b\n\nc\n")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["<a b>", "<c>"]
    assert re.search(r"succeeded +2\b", done.stderr)
    assert re.search(r"failed +0\b", done.stderr)
    for word in ("wall time", "CPU time", "tasks/s", "echo '<a b>'"):
        assert word in done.stderr
    assert "|" not in done.stderr
    assert "\x1b" not in done.stderr


def test_commands_come_from_a_file_or_standard_input(tmp_path: Path):
    """--commands takes one command a line and -, and options after the command are the command's."""
    (tmp_path / "list").write_text("echo 'a  b'\n# no\necho $HOME\n")
    done = procbench("run", "--quiet", "--commands", "list", cwd=tmp_path)
    assert (done.returncode, sorted(done.stdout.splitlines()), done.stderr) == (0, ["$HOME", "a  b"], "")
    done = procbench("run", "--quiet", "--commands", "-", cwd=tmp_path, stdin=b"echo x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "")
    done = procbench("run", "--quiet", "--each", "list", "echo", "--workers", cwd=tmp_path)
    assert "--workers # no" in done.stdout


def test_priorities_from_a_file_decide_the_order(tmp_path: Path):
    """With one worker the commands run by priority, the most urgent first though it is the last line."""
    words = ["low", "normal", "high", "normal"] * 2 + ["critical"]
    (tmp_path / "words").write_text("\ufeff# how urgent\n" + "\n".join(words) + "\n")
    lines = "".join(f"{word}{number}\n" for number, word in enumerate(words)).encode()
    done = procbench("run", "--priority-from", "words", "--workers", "1", "--", "echo", cwd=tmp_path, stdin=lines)
    assert done.returncode == 0
    assert done.stdout.split() == [
        "critical8",
        "high2",
        "high6",
        "normal1",
        "normal3",
        "normal5",
        "normal7",
        "low0",
        "low4",
    ]


def test_a_wrong_priority_is_named_with_its_line_and_nothing_runs(tmp_path: Path):
    """A word that is none, and a count that does not match, are one line and status 2."""
    (tmp_path / "words").write_text("low\n\nurgent\n")
    done = procbench("run", "--priority-from", "words", "touch", cwd=tmp_path, stdin=b"ran\nran2\n")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "words, line 3: 'urgent' is no priority; it must be one of critical, high" in done.stderr
    (tmp_path / "words").write_text("low\nhigh\nhigh\n")
    done = procbench("run", "--priority-from", "words", "touch", cwd=tmp_path, stdin=b"ran\nran2\n")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "words holds 3 priorities for 2 commands" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_captured_output_is_not_interleaved(tmp_path: Path):
    """With --capture the lines of one task stand together, those of standard error on standard error."""
    code = "for k in 1 2 3 4 5; do echo $0; sleep 0.01; done; echo $0 >&2"
    done = procbench(
        "run", "--capture", "--quiet", "--workers", "4", "--", "sh", "-c", code, cwd=tmp_path, stdin=b"a\nb\nc\nd\n"
    )
    lines = done.stdout.split()
    assert sorted(lines[::5]) == list("abcd")
    assert all(len(set(lines[k : k + 5])) == 1 for k in range(0, 20, 5))
    assert sorted(done.stderr.split()) == list("abcd")


@pytest.mark.parametrize(("failing", "status"), [(0, 0), (1, 1), (3, 3), (100, 100), (101, 101), (130, 101)])
def test_the_exit_status_counts_failures(tmp_path: Path, failing: int, status: int):
    """Q10: up to 100 it is the number of failures, and 101 is more."""
    done = procbench("run", "--commands", "-", cwd=tmp_path, stdin=b"true\n" + b"false\n" * failing)
    assert done.returncode == status
    if failing > 10:
        assert re.search(rf"{failing} × +status 1 +false", done.stderr)  # noqa: RUF001 - a times sign


def test_each_way_to_fail_is_listed(tmp_path: Path):
    """A missing program, a status, a signal and a time-out are told apart, and the other tasks run."""
    lines = ["no-such-program x", "sh -c 'exit 7'", "sh -c 'kill -9 $$'", "sleep 99", "touch done"]
    done = procbench("run", "--timeout", "0.4", "--commands", "-", cwd=tmp_path, stdin="\n".join(lines).encode())
    assert done.returncode == 4
    for words in ("cannot start 'no-such-program'", "status 7", "SIGKILL", "timed out after"):
        assert words in done.stderr
    assert re.search(r"^failed +3\b", done.stderr, re.MULTILINE)
    assert re.search(r"^timed out +1\b", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "done").exists()


def test_a_batch_is_recorded_as_a_run(tmp_path: Path):
    """--record keeps one row a task, with the host, the settings and no secrets."""
    done = procbench(
        "run", "--record", "--data", "kept", "--workers", "2", "--", "sh", "-c", "exit $1", "--token=abc",
        cwd=tmp_path, stdin=b"0\n3\ncaf\xe9\n",
    )  # fmt: skip
    (kept,) = Store(tmp_path / "kept").load().runs
    assert done.returncode == 2
    assert str(kept.path.name) in done.stderr
    assert kept.experiment == "batch"
    assert HostFacts.from_dict(kept.host).host_id == kept.host_id
    assert kept.parameters["workers"] == 2
    assert list(kept.trials["returncode"])[:2] == [0, 3]
    assert "abc" not in " ".join(kept.trials["command"])
    assert kept.parameters["ended_by"] is None


def test_more_workers_than_commands_are_not_started(tmp_path: Path):
    """A million workers for one command are one."""
    done = procbench("run", "--workers", "1000000", "--", "echo", cwd=tmp_path, stdin=b"x\n")
    assert (done.returncode, done.stdout) == (0, "x\n")


def test_on_a_terminal_a_bar_shows_rate_failures_and_time_left(tmp_path: Path):
    """The bar moves on a terminal, and is gone when the summary comes."""
    ours, theirs = pty.openpty()
    argv = [*PROCBENCH, "run", "--workers", "2", "--", "sh", "-c", "sleep 0.05; exit $(($0 % 2))"]
    with subprocess.Popen(
        argv, cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=theirs
    ) as child:
        os.close(theirs)
        child.stdin.write("".join(f"{k}\n" for k in range(30)).encode())
        child.stdin.close()
        seen = b""
        with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:  # EIO is a terminal's end
            while chunk := terminal.read(65_536):
                seen += chunk
    text = seen.decode()
    assert child.returncode == 15
    assert re.search(r"\d+%.*\| \d+/30, .*tasks/s, [1-9]\d* failed, \d\d:\d\d left", text)
    assert "succeeded" in text.rpartition("left")[2]


# --- what goes wrong --------------------------------------------------------------------------------------------

BAD_INPUT = [
    (["run", "--bogus"], b"", "No such option"),
    (["bogus"], b"", "No such command"),
    (["run", "--workers", "two", "true"], b"x", "--workers"),
    (["run", "--workers", "1.5", "true"], b"x", "must be a whole number"),
    (["run", "--workers", "0", "true"], b"x", "lowest that makes sense is 1"),
    (["run", "--timeout", "-1", "true"], b"x", "above 0, not -1"),
    (["run", "--timeout", "0", "true"], b"x", "above 0, not 0"),
    (["run", "--timeout", "inf", "true"], b"x", "above 0, not inf"),
    (["run", "--commands", ""], b"x", "--commands needs the name of a file"),
    (["run", "-0", "--commands", "-"], b"x", "--null is for arguments"),
    (["run", "true"], b"x" * 200_000, "line 1 is longer than 128 KiB"),
    (["run", "--each", "/proc/self/mem", "true"], b"", "cannot read /proc/self/mem"),
    (["run", "--commands", "-"], b"\xff'", "is the file binary?"),
    (["run", "--record", "--data", "/proc/x", "true"], b"x", "cannot write into the folder /proc/x"),
    (["report", "--out", "stdin"], b"", "--out must be a folder"),
    (["run", "--timeout", "nan", "true"], b"x", "above 0, not nan"),
    (["run"], b"x", "give a COMMAND"),
    (["run", "true"], b"", "standard input has no line"),
    (["run", "true"], b"\n\n", "standard input has no line"),
    (["run", "true"], b"a\nb\0c\n", "line 2: it holds a NUL"),
    (["run", ""], b"a", "its program, is empty"),
    (["run", "--each", "missing", "true"], b"", "missing: No such file"),
    (["run", "--each", ".", "true"], b"", "Is a directory"),
    (["run", "--each", "x", "--commands", "y"], b"", "--commands brings whole commands"),
    (["run", "--commands", "-", "true"], b"true", "--commands brings whole commands"),
    (["run", "--commands", "-"], b"touch ran\necho 'a", "standard input, line 2: no closing quotation"),
    (["run", "--commands", "-"], b"# only\n", "has no line with a command"),
    (["run", "--record", "--data", "stdin", "true"], b"x", "--data must be a folder"),
    (["run", "--priority-from", "-", "true"], b"x", "--priority-from needs the name of a file"),
    (["run", "--priority-from", "missing", "true"], b"x", "missing: No such file"),
    (["run", "--priority-from", "stdin", "true"], b"x", "stdin holds 0 priorities for 1 commands"),
    (["host", "extra"], b"", "unexpected extra argument"),
    (["lab", "a", "b"], b"", "unexpected extra argument"),
    (["lab", "missing"], b"", "is no folder"),
    (["report", "--notebooks", "missing"], b"", "no notebooks in missing"),
    (["report", "--timeout", "soon"], b"", "--timeout"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "stdin", "said"), BAD_INPUT)
def test_bad_input_is_one_line_and_status_2(tmp_path: Path, arguments: list[str], stdin: bytes, said: str):
    """Whatever a person gets wrong: one line that says what, no traceback, and nothing was run."""
    (tmp_path / "stdin").write_bytes(b"")
    done = procbench(*arguments, cwd=tmp_path, stdin=stdin)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("procbench: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "ran").exists()


def test_a_terminal_as_input_is_told_what_to_do(tmp_path: Path):
    """Nobody is left staring at a command that waits for lines: exit 2 and a hint."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [*PROCBENCH, "run", "true"], cwd=tmp_path, env=ENVIRONMENT, stdin=theirs, capture_output=True
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2
    assert b"standard input is a terminal" in done.stderr


def test_a_closed_input_is_told_what_to_do(tmp_path: Path):
    """Standard input may be closed altogether."""
    done = procbench("run", "true", cwd=tmp_path, prefix=("sh", "-c", 'exec "$@" <&-', "sh"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_nothing_in_the_summary_reaches_the_terminal_raw(tmp_path: Path):
    """R14: escapes, markup, line breaks and turned writing in commands are shown as text."""
    argv = ["sh", "-c", "exit 1", *VECTORS]
    done = procbench("run", "--", *argv, cwd=tmp_path, stdin=b"\x1b[2Jx\n")
    assert done.returncode == 1
    assert not set(done.stderr) & set("\x1b\x07\r\u202e")
    unfolded = "".join(done.stderr.split())  # a long command goes over several lines of its column
    for word in ("[boldred]x[/]", "a\\rb\\nc", "\\u202etxt.exe", "<script>"):
        assert word in unfolded


def test_an_error_that_quotes_a_command_is_shown_as_text(tmp_path: Path):
    """R14: a program whose name is an escape sequence cannot clear the screen by not existing."""
    done = procbench("run", "--commands", "-", cwd=tmp_path, stdin=shlex.join(["\x1b[2Jno\x1b]0;t\x07"]).encode())
    assert done.returncode == 1
    assert "\x1b" not in done.stderr


def test_a_reader_that_goes_away_ends_the_batch_quietly(tmp_path: Path, nap: str):
    """`procbench run ... | head -1` ends with no word, and no child is left."""
    lines = b"echo a\n" + f"sleep {nap}\n".encode() * 3 + b"echo b\n" * 50
    with started("run", "--capture", "--workers", "8", "--commands", "-", cwd=tmp_path, stdin=lines) as child:
        child.stdout.close()
        said = child.stderr.read()
    assert (child.returncode, said) == (141, b"")


def test_output_that_cannot_be_written_is_said(tmp_path: Path):
    """A full disk behind standard output is one line and status 1."""
    for arguments in (("run", "--capture", "echo"), ("host", "--json")):
        done = procbench(*arguments, cwd=tmp_path, stdin=b"x\n", prefix=("sh", "-c", 'exec "$@" >/dev/full', "sh"))
        assert done.returncode == 1
        assert done.stderr == "procbench: No space left on device\n"


def test_more_workers_than_the_system_gives_is_said(tmp_path: Path):
    """Too few descriptors for that many workers is one line and status 1; with few workers the batch runs."""
    limited = ("sh", "-c", 'ulimit -n 40; exec "$@"', "sh")
    lines = b"x\n" * 100
    done = procbench("run", "--workers", "100", "true", cwd=tmp_path, stdin=lines, prefix=limited)
    assert done.returncode == 1
    assert re.fullmatch(r"procbench: .* 100 workers: Too many open files; ask for fewer\n", done.stderr)
    assert procbench("run", "--workers", "2", "true", cwd=tmp_path, stdin=lines, prefix=limited).returncode == 0


def test_a_full_disk_while_recording_leaves_older_runs_alone(tmp_path: Path):
    """R02: ENOSPC: the summary stands, a line says what failed, the status is not 0, the older run is as it was."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("unshare -m is not permitted here, so no small disk can be made")
    (tmp_path / "data").mkdir()
    again = shlex.join([*PROCBENCH, "run", "--record", "true"])
    script = f"""mount -t tmpfs -o size=64k none data && echo a | {again} 2>/dev/null && cp data/* . || exit 9
head -c 1M /dev/zero > data/fill 2>/dev/null
echo b | {again}; echo "status $?"; rm data/fill; cmp data/* *.parquet && ls -A data | wc -l"""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.stdout == "status 1\n1\n", done.stderr
    assert "No space left on device; nothing was changed" in done.stderr
    assert "succeeded" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_size_limit_while_recording_keeps_the_count_of_failures(tmp_path: Path):
    """R02: EFBIG: the status stays the number of failures, and nothing is left in the folder."""
    limited = ("sh", "-c", 'ulimit -f 0; exec "$@"', "sh")
    done = procbench("run", "--record", "--commands", "-", cwd=tmp_path, stdin=b"false\nfalse\n", prefix=limited)
    assert done.returncode == 2
    assert "File too large; nothing was changed" in done.stderr
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_standard_streams_change_nothing(tmp_path: Path, closed: str):
    """What would be shown goes nowhere, and the status is that of the work."""
    prefix = ("sh", "-c", f'exec "$@" {closed}', "sh")
    for arguments in (("--version",), ("host",), ("run", "echo")):
        done = procbench(*arguments, cwd=tmp_path, stdin=b"x\n", prefix=prefix)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_a_table_whose_reader_went_away_is_141(tmp_path: Path):
    """`procbench host | true` ends as every program does whose pipe is closed."""
    with started("host", cwd=tmp_path) as child:
        child.stdout.close()
        said = child.stderr.read()
    assert (child.returncode, said) == (141, b"")


def test_nul_separated_arguments_and_one_line_for_quiet_failures(tmp_path: Path):
    """-0 takes what find -print0 writes; --quiet still says why the first command failed."""
    done = procbench("run", "--quiet", "-0", "--", "sh", "-c", "exit 3", cwd=tmp_path, stdin=b"a\nb\0c\0")
    assert done.returncode == 2
    assert re.fullmatch(r"procbench: 2 of 2 failed; first: status 3: sh .*\n", done.stderr)


# --- signals ----------------------------------------------------------------------------------------------------


def test_ctrl_c_once_finishes_what_runs(tmp_path: Path):
    """L10: the two that run end by themselves, the rest is cancelled, what there is gets recorded, status 130."""
    code = 'touch "$0.began"; while [ ! -e go ]; do sleep 0.02; done'
    arguments = ("run", "--record", "--workers", "2", "--", "sh", "-c", code)
    with started(*arguments, cwd=tmp_path, stdin=b"a\nb\nc\nd\ne\n") as child:
        wait_until(lambda: len(list(tmp_path.glob("*.began"))) == 2, deadline_s=PATIENCE_S)
        child.send_signal(signal.SIGINT)
        read_until(child, b"Ctrl-C again")
        (tmp_path / "go").touch()
        _, said = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 130
    assert re.search(rb"succeeded +2\b", said)
    assert re.search(rb"cancelled +3\b", said)
    assert b"Traceback" not in said
    assert len(list(tmp_path.glob("*.began"))) == 2
    (kept,) = Store(tmp_path / "data").load().runs
    assert (kept.parameters["ended_by"], len(kept.trials)) == ("SIGINT", 2)


def test_ctrl_c_twice_kills(tmp_path: Path, nap: str):
    """L10: what ignores SIGINT and SIGTERM is gone at once after the second Ctrl-C, with its group; status 130."""
    code = f'trap "" INT TERM; sleep {nap} & touch "$0.began"; while :; do sleep {nap}; done'
    with started("run", "--workers", "2", "--", "sh", "-c", code, cwd=tmp_path, stdin=b"a\nb\nc\n") as child:
        wait_until(lambda: len(list(tmp_path.glob("*.began"))) == 2, deadline_s=PATIENCE_S)
        child.send_signal(signal.SIGINT)
        read_until(child, b"Ctrl-C again")
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 130
    assert processes_with(nap) == []
    assert re.search(rb"cancelled +3\b", said)
    assert b"Traceback" not in said


def test_sigterm_ends_the_children_and_records_what_there_is(tmp_path: Path, nap: str):
    """L07: children die, the partial record is written, status 143."""
    code = f'[ "$0" = a ] && exit; touch "$0.began"; sleep {nap}; :'
    with started(
        "run", "--record", "--workers", "1", "--", "sh", "-c", code, cwd=tmp_path, stdin=b"a\nb\nc\n"
    ) as child:
        wait_until((tmp_path / "b.began").exists, deadline_s=PATIENCE_S)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 143
    assert processes_with(nap) == []
    assert b"Traceback" not in said
    (kept,) = Store(tmp_path / "data").load().runs
    assert list(kept.trials["outcome"]) == ["succeeded", "cancelled"]
    assert (kept.parameters["ended_by"], kept.parameters["cancelled"]) == ("SIGTERM", 2)


def test_a_closed_terminal_ends_the_children_too(tmp_path: Path, nap: str):
    """L07: SIGHUP leaves nothing behind, status 129."""
    with started("run", "--", "sh", "-c", f'touch "$0.began"; sleep {nap}; :', cwd=tmp_path, stdin=b"a\n") as child:
        wait_until((tmp_path / "a.began").exists, deadline_s=PATIENCE_S)
        child.send_signal(signal.SIGHUP)
        child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 129
    assert processes_with(nap) == []


def test_what_has_left_its_group_ends_with_the_batch(tmp_path: Path, nap: str):
    """L05: a daemon that called setsid(2) is adopted, killed and reaped, even when its task succeeded."""
    code = f'setsid sh -c "touch $0.began; sleep {nap}; :" >/dev/null 2>&1 & while [ ! -e "$0.began" ]; do sleep 0.01; done'
    done = procbench("run", "--", "sh", "-c", code, cwd=tmp_path, stdin=b"a\nb\n")
    assert done.returncode == 0
    assert processes_with(nap) == []


def tree(nap: str) -> str:
    """Return a shell's line that sleeps in its group, outside of it, and as a daemon."""
    return f'sleep {nap} & setsid sleep {nap} & (setsid sh -c "sleep {nap} & exec sleep {nap}" &); sleep {nap}; :'


@pytest.mark.parametrize("level", ["subreaper", "group", "cgroup"])
def test_what_a_timed_out_command_started_is_gone_before_the_batch_ends(tmp_path: Path, nap: str, level: str):
    """L05: by default also what left the group; the summary and the record name the level."""
    if (reason := available_levels()[level]) is not None:
        pytest.skip(reason)
    watch = "touch began; while [ ! -e go ]; do sleep 0.02; done"
    (tmp_path / "jobs").write_text(f"sh -c {shlex.quote(tree(nap))}\nsh -c {shlex.quote(watch)}\n")
    chosen = () if level == "subreaper" else ("--set", f"containment={level}")
    arguments = ("run", "--record", "--workers", "1", "--timeout", "5", *chosen, "--commands", "jobs")
    with started(*arguments, cwd=tmp_path) as child:
        wait_until((tmp_path / "began").exists, deadline_s=PATIENCE_S)
        wait_until(lambda: len(processes_with(nap)) == (3 if level == "group" else 0), deadline_s=5.0)
        (tmp_path / "go").touch()
        _, said = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 1
    assert re.search(rb"containment +" + level.encode(), said)
    (kept,) = Store(tmp_path / "data").load().runs
    assert kept.parameters["containment"] == level
    assert processes_with(nap) == []  # the last net


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_what_left_its_group_too(tmp_path: Path, nap: str, number: signal.Signals, status: int):
    """L05, L07, L10: SIGTERM once, or Ctrl-C twice, and within a second nothing is left of a tree with daemons."""
    with started(
        "run", "--workers", "2", "--", "sh", "-c", f'touch "$0"; {tree(nap)}', cwd=tmp_path, stdin=b"a\n"
    ) as child:
        wait_until(lambda: len(processes_with(f"sleep\0{nap}")) == 5, deadline_s=PATIENCE_S)
        child.send_signal(number)
        if number == signal.SIGINT:
            read_until(child, b"Ctrl-C again")
            child.send_signal(number)
        wait_until(lambda: not processes_with(nap), deadline_s=5.0)
        child.communicate(timeout=PATIENCE_S)
    assert child.returncode == status


def test_a_machine_without_cgroups_is_told_in_one_line(tmp_path: Path):
    """L05: never is less taken than was asked for; the line says what to do."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if os.geteuid() != 0 or shutil.which("setpriv") is None or not SYSTEM_PYTHON.exists():
        pytest.skip("becomes an ordinary user by setpriv")
    code = (
        "import sys; from procbench.scheduling.settings import RunSettings as S; from procbench.views.batch import *\n"
    )
    code += "try: run_batch([['true']], S(containment='cgroup'), QuietShow())\nexcept UnsupportedError as e: print(e)"
    said = run_python(code, before=nobody, python=SYSTEM_PYTHON)
    assert "systemd-run" in said
    assert "\n" not in said


# --- the other doors --------------------------------------------------------------------------------------------


def test_the_host_card_is_a_table_or_json(tmp_path: Path):
    """`host` says what the machine is; --json gives the facts as the store keeps them."""
    done = procbench("host", cwd=tmp_path)
    assert done.returncode == 0
    assert "usable workers" in done.stdout
    found = json.loads(procbench("host", "--json", cwd=tmp_path).stdout)
    assert HostFacts.from_dict(found["facts"]).host_id in done.stdout
    assert all(set(warning) == {"code", "seen", "why", "what_to_do"} for warning in found["warnings"])


def test_lab_is_for_this_machine_only_and_keeps_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """JupyterLab listens on the loopback address, shows the notebooks' folder alone, and no option touches the token."""
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, argv: ran.append([program, *argv]))
    assert cli.run_command(["lab", str(tmp_path), "--no-browser"]) == 0
    ((program, *argv),) = ran
    assert [program, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1"] == argv[:4] == [sys.executable, *argv[1:4]]
    assert "--no-browser" in argv
    assert argv[-1] == f"--ServerApp.root_dir={tmp_path.resolve()}"
    assert "token" not in " ".join(argv).replace(str(tmp_path), "")
    assert "--no-browser" not in lab_command(tmp_path, no_browser=False)


DECLARED = {
    "one": (
        Parameter("blocks", 3, "int", ""),
        Parameter("full", False, "bool", ""),
        Parameter("data_dir", "", "str", ""),
    ),
    "two": (Parameter("blocks", 5, "int", ""),),
}


def test_settings_reach_the_notebooks_that_declare_them():
    """A plain name goes to every notebook that has it, word.name to one and wins; full and data_dir where declared."""
    values = asked_parameters(DECLARED, ["two.blocks=9", "blocks=7"], full=True, data_folder=Path("/d"))
    assert values == {"one": {"blocks": 7, "full": True, "data_dir": "/d"}, "two": {"blocks": 9}}
    values = asked_parameters(DECLARED, ["data_dir=/mine", "full=false"], full=False, data_folder=Path("d"))
    assert values["one"] == {"full": False, "data_dir": "/mine"}
    assert Path(str(asked_parameters(DECLARED, [], full=False, data_folder=Path("d"))["one"]["data_dir"])).is_absolute()


def test_a_path_means_what_it_means_where_the_command_is_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    declared = {"one": (Parameter("workload", "", "str", ""), Parameter("data_dir", "", "str", ""))}
    asked = asked_parameters(declared, ["workload=my.txt", "one.data_dir=kept"], full=False, data_folder=Path("d"))
    assert asked == {"one": {"workload": str(tmp_path / "my.txt"), "data_dir": str(tmp_path / "kept")}}
    assert asked_parameters(declared, ["workload="], full=False, data_folder=Path("d"))["one"]["workload"] == ""


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("nope=1", "declared are: one: blocks, full, data_dir; two: blocks"),
        ("two.full=1", "declared are: two: blocks"),
        ("three.blocks=1", "there are: one, two"),
        ("blocks", "is no setting"),
        ("=1", "is no setting"),
        (".blocks=1", "is no setting"),
        ("blocks=many", "one: the parameter 'blocks' takes int"),
        ("x\nimport os; os.system('x')\ny=1", "there is no notebook 'x\\nimport os; os'"),
    ],
)
def test_a_setting_that_no_notebook_declares_is_refused(setting: str, said: str):
    """R11: only declared names and fitting values pass, and the message lists what there is."""
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        asked_parameters(DECLARED, [setting], full=False, data_folder=Path("d"))


def write_notebook(path: Path, *sources: str) -> None:
    """Write a notebook whose first cell declares its parameters."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def test_a_report_is_built_and_an_interrupted_one_leaves_it_in_place(tmp_path: Path):
    """Settings arrive, the index is named, a failed notebook is status 1; Ctrl-C is 130, SIGTERM 143, latest stays."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    declared = "n: int = 1\nfull: bool = False\ndata_dir: str = ''"
    check = f"assert (n, full, data_dir) == (3, True, {str(tmp_path / 'kept')!r})"
    write_notebook(shelf / "1_good.ipynb", declared, check)
    write_notebook(shelf / "2_bad.ipynb", "m = 1", "1 / 0")
    write_notebook(
        shelf / "3_slow.ipynb",
        "m = 1",
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'began')!r}).touch()\ntime.sleep(99999)",
    )
    asked = ("--notebooks", "shelf", "--set", "n=3", "--full", "--data", "kept")
    done = procbench("report", *asked, "--only", "good", "--only", "good", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    index = Path(done.stdout.strip())
    assert "usable workers" in index.read_text()
    assert "[1/1] good: ok" in done.stderr
    done = procbench("report", *asked, "--only", "bad", "--only", "good", cwd=tmp_path)
    assert done.returncode == 1
    latest = (tmp_path / "reports" / "latest").resolve()
    assert Path(done.stdout.strip()).parent == latest
    done = procbench("report", *asked[:2], "--only", "bad", cwd=tmp_path)
    assert done.returncode == 1
    assert "bad failed: ZeroDivisionError: division by zero" in done.stderr
    assert "latest still leads to the report before" in done.stderr
    assert Path(done.stdout.strip()).is_file()
    assert (tmp_path / "reports" / "latest").resolve() == latest
    done = procbench("report", *asked[:2], "--data", "/dev/null/data", "--only", "good", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot write into the folder /dev/null/data" in done.stderr
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        (tmp_path / "began").unlink(missing_ok=True)
        with started("report", "--notebooks", "shelf", "--only", "slow", cwd=tmp_path) as child:
            wait_until((tmp_path / "began").exists, deadline_s=PATIENCE_S)
            child.send_signal(number)
            _, said = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == status
        assert b"Traceback" not in said
        assert (tmp_path / "reports" / "latest").resolve() == latest
        assert processes_with(str(tmp_path)) == []


def test_help_says_what_there_is(tmp_path: Path):
    """No argument shows the commands; each has its own help; the version is one word."""
    for arguments in ((), ("--help",), ("run", "--help"), ("report", "--help"), ("lab", "--help"), ("host", "--help")):
        done = procbench(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: procbench" in done.stdout
    assert re.fullmatch(r"procbench \S+\n", procbench("--version", cwd=tmp_path).stdout)


def test_starting_up_loads_no_heavy_library():
    """What a command does not need is not imported on its way."""
    code = (
        "import sys, procbench.cli; print(sorted({'pandas', 'numpy', 'rich', 'tqdm', 'nbformat'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("word", "shows"),
    [("pin=core", "Cpus_allowed_list:\t[0-9]+\n"), ('pin=["0"]', "Cpus_allowed_list:\t0\n"), ("discard=true", "")],
)
def test_any_setting_can_be_set(tmp_path: Path, word: str, shows: str) -> None:
    """--set takes a field of RunSettings, and the command obeys it."""
    done = procbench(
        "run", "--quiet", "--set", word, "--", "grep", "Cpus_allowed_list", cwd=tmp_path, stdin=b"/proc/self/status\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(shows, done.stdout)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("pin", "NAME=VALUE"),
        ("bogus=1", "bogus"),
        ("nice=20", "nice"),
        ("nice=five", "nice"),
        ('pin=["9999"]', "9999"),
        ("cpu_limit=0", "cpu_limit"),
        ("timeout=0", "timeout"),
        ("memory_limit_bytes=0", "memory_limit_bytes"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line(tmp_path: Path, word: str, names: str) -> None:
    """A bad --set is refused before anything runs, in one line that names it."""
    mark = tmp_path / "ran"
    done = procbench("run", "--set", word, "--", "touch", cwd=tmp_path, stdin=f"{mark}\n".encode())
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert names in done.stderr
    assert not mark.exists()


def test_ctrl_c_while_the_command_line_is_loaded_ends_without_a_word(tmp_path: Path):
    """No traceback out of an import; a SIGINT that whoever started it ignores stays ignored."""
    code = """
import os, signal, sys
class Strikes:
    def find_spec(self, name, *_):
        if name == "procbench.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Strikes())
sys.argv = ["procbench", "--version"]
from procbench.__main__ import main
main()
"""
    for prepare, status, said in (("", -signal.SIGINT, ""), ("trap '' INT; ", 0, "procbench ")):
        argv = ["sh", "-c", f'{prepare}exec "$0" -c "$1"', sys.executable, code]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (status, "")
        assert done.stdout.startswith(said)
