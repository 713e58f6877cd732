"""`procbench run` as a person meets it who comes from xargs or GNU parallel: real processes, real files, real kills."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from procbench.scheduling.commands import each_argument, some_arguments
from procbench.scheduling.grouping import room_for_arguments
from procbench.scheduling.shown import shell_line
from procbench.views.joblog import HEADER, Job
from procbench.views.ordering import longest_first, shuffled
from procbench.views.run_options import size_bytes
from tests.command_line import ENVIRONMENT, PROCBENCH, started
from tests.waiting import processes_with, wait_until

RUN = (*PROCBENCH, "run")
PATIENCE_S = 60.0
ARGV = (sys.executable, "-c", "import sys; sys.stdout.write(repr(sys.argv[1:]) + chr(10))")


def run(*arguments: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `procbench run` and return how it ended, whatever the end."""
    argv = [*RUN, *arguments]
    return subprocess.run(argv, cwd=cwd, env=ENVIRONMENT, input=stdin, capture_output=True, timeout=PATIENCE_S)


def logged(path: Path) -> list[Job]:
    """Return the whole lines of a job log."""
    content = path.read_bytes() if path.exists() else b""
    lines = content[: content.rfind(b"\n") + 1].split(b"\n")[1:-1]
    jobs = [Job.parse(line) for line in lines]
    assert None not in jobs
    return [job for job in jobs if job is not None]


def numbered(count: int) -> bytes:
    return "".join(f"{number}\n" for number in range(count)).encode()


# --- several arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
@pytest.mark.skipif(shutil.which("xargs") is None, reason="xargs is the oracle")
def test_arguments_go_together_as_with_xargs(tmp_path: Path, most: int):
    """The commands, and their arguments one by one, are those that `xargs -0 -n` runs."""
    arguments = [b"a", b"b c", b"d\ne", b"--x", b"'q\"", b"{}", b"caf\xe9"] * 3
    (tmp_path / "arguments").write_bytes(b"\0".join(arguments) + b"\0")
    with (tmp_path / "arguments").open("rb") as file:
        theirs = subprocess.run(["xargs", "-0", "-n", str(most), *ARGV], stdin=file, stdout=subprocess.PIPE)
    ours = run("-0", "-k", "--each", "arguments", "--args-per-task", str(most), *ARGV, cwd=tmp_path)
    assert ours.returncode == 0
    assert ours.stdout == theirs.stdout
    assert ours.stdout.count(b"\n") == -(-len(arguments) // most)


def test_braces_alone_become_all_arguments(tmp_path: Path):
    """In the middle and twice too; inside a word they are refused in one line, and nothing runs."""
    done = run("-k", "--args-per-task", "2", "echo", "<", "{}", "-", "{}", ">", cwd=tmp_path, stdin=b"a\nb\nc\n")
    assert done.stdout == b"< a b - a b >\n< c - c >\n"
    done = run("--args-per-task", "2", "touch", "ran-{}", cwd=tmp_path, stdin=b"a\nb\n")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"{} stands inside the word 'ran-{}'" in done.stderr
    assert list(tmp_path.iterdir()) == []
    done = run("--set", "args_per_task=2", "-k", "echo", cwd=tmp_path, stdin=b"a\nb\n")
    assert done.stdout == b"a b\n"


def test_no_command_is_longer_than_linux_takes(tmp_path: Path):
    """Ten megabytes of arguments for one command become several, as full as may be, and all of them run."""
    (tmp_path / "arguments").write_text("".join(f"{number:0100d}\n" for number in range(100_000)))
    made = some_arguments(["true"], 10**9, str(tmp_path / "arguments"))
    assert made.arguments is not None
    sizes = [sum(len(word) + 9 for word in argv) for argv in made.argvs]
    assert all(size <= room_for_arguments() for size in sizes)
    assert all(size > room_for_arguments() - 200 for size in sizes[:-1])
    assert sum(map(len, made.arguments)) == 100_000
    done = run("--args-per-task", "1000000000", "--each", "arguments", "true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    short = some_arguments(["true"], 3, str(tmp_path / "arguments"))
    assert short.argvs[0] == ["true", *(argv[1] for argv in each_argument(["true"], str(tmp_path / "arguments"))[:3])]


# --- which begins first -----------------------------------------------------------------------------------------


def test_a_shuffle_runs_each_once_and_a_seed_repeats_it(tmp_path: Path):
    """Another order of the same commands; the same seed is the same order, another one another."""
    orders = [
        run("--shuffle", "--seed", seed, "--workers", "1", "echo", cwd=tmp_path, stdin=numbered(50)).stdout.split()
        for seed in ("1", "1", "2")
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0], key=int) == numbered(50).split() != orders[0]
    assert sorted(shuffled(range(1000), None)) == list(range(1000)) != shuffled(range(1000), 5)
    done = run("-k", "--shuffle", "echo", cwd=tmp_path, stdin=numbered(20))
    assert done.stdout == numbered(20)


def test_what_took_longest_begins_first(tmp_path: Path):
    """Times come from the recorded batches; what is new goes before; with nothing recorded the order stays, in one line."""
    arguments = ("--longest-first", "--workers", "1", "--", "sh", "-c", "echo $0; sleep $0")
    done = run(*arguments, cwd=tmp_path, stdin=b"0.01\n0.3\n0.6\n")
    assert (done.returncode, done.stdout.split()) == (0, [b"0.01", b"0.3", b"0.6"])
    assert done.stderr.count(b"nothing in data says how long these commands take") == 1
    assert run("--record", *arguments[1:], cwd=tmp_path, stdin=b"0.01\n0.3\n0.6\n").returncode == 0
    done = run(*arguments, cwd=tmp_path, stdin=b"0.01\n0.3\n0.6\n0.02\n")
    assert done.stdout.split() == [b"0.02", b"0.6", b"0.3", b"0.01"]
    assert b"nothing in data" not in done.stderr
    assert longest_first([0, 1, 2, 3], {1: 5.0, 2: 7.0}) == [0, 3, 2, 1]


# --- what is shown ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-k", "--keep-order"])
def test_output_comes_in_the_order_of_the_commands(tmp_path: Path, flag: str):
    """Though each waits for the one behind it, so that they end in reverse, the first is shown first, and once."""
    code = "n=$(($0 + 1)); while [ $n -lt 6 ] && [ ! -e $n ]; do sleep 0.01; done; echo out$0; echo err$0 >&2; touch $0"
    done = run(flag, "--quiet", "--workers", "6", "--", "sh", "-c", code, cwd=tmp_path, stdin=numbered(6))
    assert done.returncode == 0
    assert done.stdout.split() == [f"out{number}".encode() for number in range(6)]
    assert done.stderr.split() == [f"err{number}".encode() for number in range(6)]


def test_kept_output_of_what_ended_is_shown_though_a_signal_ends_the_batch(tmp_path: Path):
    """The first never ends by itself: after SIGTERM the second one's output comes, once."""
    code = 'echo "said $0"; touch "$0.ran"; [ $0 = 0 ] && sleep 60; exit 0'
    (tmp_path / "list").write_bytes(numbered(2))
    argv = [*RUN, "-k", "--quiet", "--workers", "2", "--joblog", "jobs", "--each", "list", "--", "sh", "-c", code]
    with subprocess.Popen(argv, cwd=tmp_path, env=ENVIRONMENT, stdout=-1, stderr=-1) as child:
        wait_until(lambda: len(logged(tmp_path / "jobs")) == 1 and (tmp_path / "0.ran").exists(), deadline_s=PATIENCE_S)
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 143
    assert out.splitlines() == [b"said 0", b"said 1"]


def test_kept_output_behind_what_never_began_is_shown_at_the_end(tmp_path: Path):
    """The second, which is more urgent, ends first and halts the batch, so that the first one's turn never comes."""
    (tmp_path / "words").write_text("low\nhigh\n")
    arguments = ("-k", "--quiet", "--workers", "1", "--priority-from", "words", "--halt", "soon,success=1", "echo")
    done = run(*arguments, cwd=tmp_path, stdin=b"first\nsecond\n")
    assert (done.returncode, done.stdout) == (0, b"second\n")


def test_a_tag_tells_whose_line_it_is(tmp_path: Path):
    """Before each line the argument and a tab; a partial line gets its end, and bytes stay as they are."""
    code = "printf 'x\\ny'; printf '\\0\\377\\r\\n\\nz' >&2"
    done = run("--tag", "-k", "--quiet", "--", "sh", "-c", code, cwd=tmp_path, stdin=b"a b\nc\xe9\n")
    assert done.stdout == b"a b\tx\na b\ty\nc\xe9\tx\nc\xe9\ty\n"
    assert done.stderr == b"".join(b"%b\t\0\xff\r\n%b\t\n%b\tz\n".replace(b"%b", word) for word in (b"a b", b"c\xe9"))
    done = run("--tag", "-k", "--quiet", "--commands", "-", cwd=tmp_path, stdin=b"echo 1\nprintf 2\ntrue\n")
    assert done.stdout == b"echo 1\t1\nprintf 2\t2\n"
    done = run("--tag", "-k", "--quiet", "--args-per-task", "2", "echo", cwd=tmp_path, stdin=b"a\nb\nc\n")
    assert done.stdout == b"a b\ta b\nc\tc\n"


def test_nothing_of_large_output_is_lost(tmp_path: Path):
    """Three times ten megabytes, more than is kept in memory, come whole and in order."""
    code = "head -c 10000000 /dev/zero | tr '\\0' $0"
    done = run("-k", "--quiet", "--", "sh", "-c", code, cwd=tmp_path, stdin=b"1\n2\n3\n")
    assert done.stdout == b"".join(digit * 10_000_000 for digit in (b"1", b"2", b"3"))


def test_a_dry_run_is_what_a_shell_would_run(tmp_path: Path):
    """Given to sh, the lines start the same programs with the same arguments; a dry run itself runs nothing."""
    odd = [b"a b", b"'", b"$HOME `x`", b"\\", b"*", b"caf\xe9", b"a\nb", b"\ttab", b"-n", b"~", b"# no", b"x=y"]
    template = ("printf", "%s\\0", "{}", "", "end")
    dry = run("-0", "--dry-run", *template, cwd=tmp_path, stdin=b"\0".join(odd))
    assert (dry.returncode, dry.stderr) == (0, b"")
    by_shell = subprocess.run(["sh"], input=dry.stdout, cwd=tmp_path, stdout=-1, check=True).stdout
    real = run("-0", "-k", *template, cwd=tmp_path, stdin=b"\0".join(odd))
    assert by_shell == real.stdout == b"".join(word + b"\0\0end\0" for word in odd)
    assert run("--dry-run", "touch", cwd=tmp_path, stdin=b"ran\n").stdout == b"touch ran\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["if", "a=b", "x y", "do"])
def test_a_shell_takes_no_program_for_its_own_word(tmp_path: Path, program: str):
    """Programs that are called like a keyword or an assignment are run, not obeyed."""
    (tmp_path / program).write_text("#!/bin/sh\necho ran $1\n")
    (tmp_path / program).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh"], input=shell_line([program, "it"]), env=environment, stdout=-1)
    assert done.stdout == b"ran it\n"


# --- job log and resuming ---------------------------------------------------------------------------------------


def test_a_job_log_says_how_each_command_ended(tmp_path: Path):
    """GNU parallel's columns, a line each; what failed is run again by --resume-failed alone."""
    lines = "true\nsh -c 'echo hello; exit 3'\nsh -c 'kill -9 $$'\nno-such-program\n"
    (tmp_path / "list").write_text(lines)
    arguments = ("--commands", "list", "--joblog", "jobs", "--capture")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 3
    assert (tmp_path / "jobs").read_bytes().startswith(HEADER)
    told = {job.seq: (job.received_bytes, job.exitval, job.signal) for job in logged(tmp_path / "jobs")}
    assert told == {1: (0, 0, 0), 2: (6, 3, 0), 3: (0, 0, 9), 4: (0, 127, 0)}
    assert [shlex.join(shlex.split(job.command.decode())) for job in sorted(logged(tmp_path / "jobs"), key=_seq)] == (
        lines.splitlines()
    )
    done = run(*arguments, "--resume", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")
    assert re.search(rb"skipped +4 ", done.stderr)
    done = run(*arguments, "--resume-failed", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, b"hello\n")
    assert re.search(rb"skipped +1 ", done.stderr)
    assert len(logged(tmp_path / "jobs")) == 7
    assert run(*arguments, "--resume", "--dry-run", cwd=tmp_path).stdout == b""
    assert run(*arguments, "--resume-failed", "--dry-run", cwd=tmp_path).stdout == lines.partition("\n")[2].encode()
    run(*arguments, cwd=tmp_path)
    assert len(logged(tmp_path / "jobs")) == 4  # without --resume it begins anew


def _seq(job: Job) -> int:
    return job.seq


@pytest.mark.skipif(not shutil.which("parallel"), reason="GNU parallel is what it is compared with")
@pytest.mark.parametrize("option", ["--resume", "--resume-failed"])
@pytest.mark.parametrize("torn", [0, 1, 8, 60])
def test_what_runs_again_is_what_gnu_parallel_runs_again(tmp_path: Path, option: str, torn: int):
    """Q09: the same batch, log and longer list by both; with a torn last line its command runs here at least when there."""
    code = 'echo "$0" >> "$1"; exit $(($0 % 3))'
    again: dict[str, list[int]] = {}
    for tool in ("parallel", "procbench"):
        ran = tmp_path / f"{tool}.ran"
        log = ("--joblog", f"{tool}.log")
        command = ("sh", "-c", code, "{}", str(ran))

        def of(*options: str, tool: str = tool, command: tuple[str, ...] = command, count: int) -> None:
            lines = b"".join(b"%d\n" % number for number in range(1, count + 1))
            if tool == "procbench":
                run("--quiet", "--workers", "1", *options, "--", *command, cwd=tmp_path, stdin=lines)
            else:
                argv = ["parallel", "--will-cite", "-j1", *options, "-q", *command]
                subprocess.run(argv, cwd=tmp_path, input=lines, check=False, capture_output=True, timeout=60)

        of(*log, count=5)
        assert ran.read_text().split() == ["1", "2", "3", "4", "5"]
        if torn:
            content = (tmp_path / f"{tool}.log").read_bytes()
            (tmp_path / f"{tool}.log").write_bytes(content[:-torn])
        ran.unlink()
        of(*log, option, count=7)
        again[tool] = sorted(map(int, ran.read_text().split()))
        ran.unlink()
        of(*log, "--resume", count=7)
        assert not ran.exists() or torn
    if torn:
        assert set(again["procbench"]) >= {5, 6, 7}
        assert set(again["procbench"]) >= set(again["parallel"])
    else:
        assert again["procbench"] == again["parallel"] == ([6, 7] if option == "--resume" else [1, 2, 4, 5, 6, 7])


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path):
    """L07: SIGKILL again and again: what the log says was done is never done again, and in the end all is, and logged once."""
    count, marker = 40, f"procbench-{tmp_path.name}-{os.getpid()}"
    # Each command appends a line to a file of its own when it has done its work.
    code = f': {marker}; sleep 0.0$(($0 % 5)); echo ran >> "ran.$0"'
    arguments = ("--joblog", "jobs", "--resume", "--workers", "4", "--quiet", "--", "sh", "-c", code)
    randomly, kills = random.Random(4), 0
    done_when_killed: dict[int, int] = {}

    def times(seq: int) -> int:
        path = tmp_path / f"ran.{seq - 1}"
        return path.read_bytes().count(b"ran") if path.exists() else 0

    def has_logged(enough: int) -> bool:
        return len(logged(tmp_path / "jobs")) >= enough

    for _ in range(10):
        enough = min(len(logged(tmp_path / "jobs")) + randomly.randrange(1, 4), count)
        with started("run", *arguments, stdout=subprocess.DEVNULL, cwd=tmp_path, stdin=numbered(count)) as child:
            wait_until(functools.partial(has_logged, enough), deadline_s=PATIENCE_S)
            time.sleep(randomly.random() / 100)  # anywhere in the middle of whatever comes next
            child.kill()
            kills += child.wait() == -signal.SIGKILL
        wait_until(lambda: not processes_with(marker), "the end of the killed one's commands")
        for job in logged(tmp_path / "jobs"):
            assert times(job.seq) == done_when_killed.setdefault(job.seq, times(job.seq))
    assert kills > 3
    done = run(*arguments, cwd=tmp_path, stdin=numbered(count))
    assert done.returncode == 0, done.stderr
    assert sorted(job.seq for job in logged(tmp_path / "jobs")) == list(range(1, count + 1))
    assert all(times(seq) == ran for seq, ran in done_when_killed.items())
    assert all(1 <= times(seq) <= 1 + kills for seq in range(1, count + 1))
    again = run(*arguments, cwd=tmp_path, stdin=numbered(count))
    assert again.returncode == 0
    assert all(times(seq) == ran for seq, ran in done_when_killed.items())


def test_two_hundred_killed_of_five_thousand_are_made_up_for(tmp_path: Path):
    """Q09: SIGKILL for 200 of its processes at random moments: what the log calls done never runs again, the rest does."""
    count, randomly = 5_000, random.Random(9)
    code = 'i=0; while [ $i -lt 200 ]; do i=$((i+1)); done; echo ran >> "ran.$0"'
    arguments = ("--joblog", "jobs", "--workers", "4", "--quiet", "--", "sh", "-c", code)

    def ran() -> dict[int, int]:
        files = tmp_path.glob("ran.*")
        return {int(path.suffix[1:]) + 1: path.read_bytes().count(b"ran") for path in files}

    hit: set[int] = set()
    log_path, next_at = tmp_path / "jobs", 0
    with started("run", *arguments, stdout=subprocess.DEVNULL, cwd=tmp_path, stdin=numbered(count)) as child:
        while len(hit) < 200 and child.poll() is None:
            if not log_path.exists() or log_path.stat().st_size < next_at:
                continue
            lists = [path.read_text().split() for path in Path(f"/proc/{child.pid}/task").glob("*/children")]
            if children := {int(pid) for pid in itertools.chain(*lists)} - hit:
                hit.add(pid := randomly.choice(sorted(children)))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                next_at = log_path.stat().st_size + randomly.randrange(1_500)
        assert child.wait(PATIENCE_S) in range(1, 102)
    assert len(hit) == 200
    log = {job.seq: job for job in logged(tmp_path / "jobs")}
    assert len(log) == count
    killed = {seq for seq, job in log.items() if job.signal == signal.SIGKILL}
    before = ran()
    assert len(killed) > 50
    assert set(before) | killed == set(log)
    done = run(*arguments[:-5], "--resume-failed", *arguments[-5:], cwd=tmp_path, stdin=numbered(count))
    assert done.returncode == 0, done.stderr
    after = ran()
    assert set(after) == set(range(1, count + 1))
    assert all(after[seq] == before[seq] for seq in log.keys() - killed)


def test_a_log_of_something_else_is_one_line_and_status_2(tmp_path: Path):
    """A changed list, a foreign line and a foreign file name the place, and nothing runs."""
    assert run("--joblog", "jobs", "touch", cwd=tmp_path, stdin=b"a\nb\n").returncode == 0
    before = (tmp_path / "jobs").read_bytes()
    for stdin, said in ((b"a\nc\n", rb"jobs, line \d: command 2 was 'touch b'"), (b"a\n", rb"jobs, line \d: it tells")):
        done = run("--joblog", "jobs", "--resume", "touch", cwd=tmp_path, stdin=stdin)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert re.search(said, done.stderr)
    assert not (tmp_path / "c").exists()
    assert (tmp_path / "jobs").read_bytes() == before
    (tmp_path / "jobs").write_bytes(before + b"what?\n")
    done = run("--joblog", "jobs", "--resume", "touch", cwd=tmp_path, stdin=b"a\nb\n")
    assert (done.returncode, b"jobs, line 4: 'what?' is no line of a job log" in done.stderr) == (2, True)


def test_a_job_log_on_a_full_disk_ends_the_batch(tmp_path: Path):
    """R02: a batch whose log cannot be kept says so and stops, and the log holds whole lines."""
    argv = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *RUN, "--joblog", "jobs", "true"]
    done = subprocess.run(argv, cwd=tmp_path, env=ENVIRONMENT, input=numbered(2000), capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"cannot write the job log jobs: " in done.stderr
    assert (tmp_path / "jobs").read_bytes().endswith(b"\n")
    assert logged(tmp_path / "jobs")


# --- trying again, halting, waiting -----------------------------------------------------------------------------


def test_a_command_that_fails_is_tried_again(tmp_path: Path):
    """--retries says how often; one that succeeds in the end is no failure, and is logged once, by its last attempt."""
    code = 'echo try >> "$0"; [ $(wc -l < "$0") -ge 3 ]'
    arguments = ("--retry-delay", "0.01", "--joblog", "jobs", "--", "sh", "-c", code)
    done = run("--retries", "1", *arguments, cwd=tmp_path, stdin=b"a\n")
    assert done.returncode == 1
    (tmp_path / "a").unlink()
    done = run("--retries", "2", *arguments, cwd=tmp_path, stdin=b"a\n")
    assert done.returncode == 0
    assert re.search(rb"further attempts +2\b", done.stderr)
    assert [(job.seq, job.exitval) for job in logged(tmp_path / "jobs")] == [(1, 0)]


def test_a_halt_is_said_and_what_was_not_begun_is_no_failure(tmp_path: Path):
    """The status counts the failures, the summary says that it was halted, and --resume goes on behind it."""
    arguments = ("--workers", "1", "--joblog", "jobs", "--", "sh", "-c", "exit $(($0 % 2))")
    done = run("--halt", "soon,fail=2", *arguments, cwd=tmp_path, stdin=numbered(3000))
    assert done.returncode == 2
    assert re.search(rb"halted by +soon,fail=2", done.stderr)
    assert re.search(rb"succeeded +2\b", done.stderr)
    assert re.search(rb"cancelled +2,996\b", done.stderr)
    assert [job.seq for job in logged(tmp_path / "jobs")] == [1, 2, 3, 4]
    done = run("--quiet", "--halt", "soon,fail=1", "--resume", *arguments, cwd=tmp_path, stdin=numbered(3000))
    assert (done.returncode, [job.seq for job in logged(tmp_path / "jobs")][4:]) == (1, [5, 6])
    assert b"1 of 2,996 failed, halted by soon,fail=1" in done.stderr


def test_the_first_success_may_be_enough(tmp_path: Path):
    """now,success=1 ends what runs; that is no failure, and not logged."""
    code = "[ $0 = 0 ] && sleep 60; exit 0"
    done = run(
        "--halt", "now,success=1", "--workers", "2", "--joblog", "jobs", "--", "sh", "-c", code,
        cwd=tmp_path, stdin=numbered(2),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [job.seq for job in logged(tmp_path / "jobs")] == [2]


def test_commands_wait_for_memory_and_load(tmp_path: Path):
    """With more memory asked for than there is nothing begins, until it is ended; with little asked for, all runs."""
    done = run("--memfree", "1M", "--load", "100000", "touch", cwd=tmp_path, stdin=b"a\n")
    assert (done.returncode, (tmp_path / "a").exists()) == (0, True)
    with started("run", "--memfree", "900T", "touch", stdout=subprocess.DEVNULL, cwd=tmp_path, stdin=b"b\n") as child:
        threads = Path(f"/proc/{child.pid}/task")
        wait_until(lambda: len(list(threads.iterdir())) > 1, "the worker", PATIENCE_S)
        child.send_signal(signal.SIGTERM)
        said = child.communicate(timeout=PATIENCE_S)[1]
    assert child.returncode == 143, said
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("words", "size"), [("1", 1), ("2K", 2048), ("2k", 2000), ("1.5M", 3 << 19), ("2G", 2 << 30), ("1t", 10**12)]
)
def test_sizes_are_written_as_for_gnu_parallel(words: str, size: int):
    """A capital letter counts in 1,024s, a small one in 1,000s."""
    assert size_bytes(words, "--memfree") == size


# --- what does not go together ----------------------------------------------------------------------------------

CONTRADICTIONS: list[tuple[Sequence[str], str]] = [
    (["--resume"], "--resume needs --joblog"),
    (["--resume-failed"], "--resume-failed needs --joblog"),
    (["--seed", "3"], "--seed is for --shuffle"),
    (["--shuffle", "--longest-first"], "contradict each other"),
    (["--shuffle", "--set", "order=longest_first"], "contradict each other"),
    (["--priority-from", "stdin", "--set", "order=fifo"], "contradict each other"),
    (["--retry-delay", "1"], "--retry-delay is for --retries"),
    (["--tag", "--set", "capture=false"], "--tag captures output"),
    (["-k", "--set", "capture=false"], "--keep-order captures output"),
    (["--dry-run", "--record"], "nothing to --record"),
    (["--args-per-task", "2", "--commands", "-"], "leave"),
    (["--args-per-task", "0"], "args_per_task is 0"),
    (["--args-per-task", "x"], "must be a whole number"),
    (["--retries", "-1"], "retries is -1"),
    (["--retries", "1", "--retry-delay", "-1"], "retry_delay_s is -1"),
    (["--halt", "later"], "halt is 'later'; it must be never"),
    (["--memfree", "much"], "--memfree is 'much'"),
    (["--memfree", "0"], "--memfree is '0'"),
    (["--load", "0"], "start_below_load is 0"),
    (["--load", "nan"], "start_below_load is nan"),
    (["--joblog", "missing/jobs"], "missing/jobs: No such file"),
    (["--joblog", "."], "Is a directory"),
    (["--joblog", "/dev/null"], "needs a regular file"),
]


@pytest.mark.parametrize(("arguments", "said"), CONTRADICTIONS)
def test_what_makes_no_sense_is_one_line_and_status_2(tmp_path: Path, arguments: Sequence[str], said: str):
    """One line says what contradicts what, and nothing was run."""
    command = [] if "--commands" in arguments else ["touch"]
    done = run(*arguments, *command, cwd=tmp_path, stdin=b"ran\n")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    assert said in done.stderr.decode()
    assert not (tmp_path / "ran").exists()
