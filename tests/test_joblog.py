"""A job log reads back what was written, a torn end is repaired, and what makes no sense is named with its line."""

from __future__ import annotations

import math
import os
import shlex
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procbench.errors import InvalidInputError, RecordError
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.shown import shell_line
from procbench.scheduling.stealing import WorkStealingScheduler
from procbench.scheduling.task import ProcessTask, TaskResult
from procbench.views.joblog import HEADER, Job, JobLog, job_of, left_to_run, read_log
from tests.waiting import wait_until

COMMANDS = [["echo", "a b"], ["echo", "tab\there", "line\nhere", os.fsdecode(b"caf\xe9")], ["false"]]
words = st.binary(max_size=12).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
numbers = st.integers(0, 10**17)


def job(seq: int, exitval: int = 0, signal: int = 0) -> Job:
    return Job(seq, b":", 1795652878.384, 0.25, 0, 7, exitval, signal, shell_line(COMMANDS[seq - 1]))


def results_of(*argvs: list[str], **settings: object) -> list[TaskResult]:
    with WorkStealingScheduler(RunSettings(workers=2, capture=True, **settings)) as scheduler:
        return list(scheduler.map([ProcessTask(argv, id=number) for number, argv in enumerate(argvs)]))


@given(
    argv=st.lists(words, min_size=1, max_size=4),
    seq=st.integers(1, 10**17),
    milliseconds=st.integers(0, 10**12),
    sent=numbers,
    exitval=st.integers(-1, 255),
)
def test_what_was_written_comes_back(argv: list[str], seq: int, milliseconds: int, sent: int, exitval: int):
    """Tabs, line ends and bytes that are no text in a command survive; its line is one line of nine columns."""
    command = shell_line(argv)
    written = Job(seq, b":", milliseconds / 1000, milliseconds / 7000, sent, 3, exitval, 9, command)
    line = written.line()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    read = Job.parse(line[:-1])
    assert read is not None
    assert (read.seq, read.sent_bytes, read.exitval, read.signal) == (seq, sent, exitval, 9)
    assert read.command == command
    assert shlex.split(os.fsdecode(read.command)) == argv
    assert math.isclose(read.start_s, milliseconds / 1000, abs_tol=1e-3)


def test_the_columns_are_gnu_parallels():
    """A line in the layout of GNU parallel's manual is read, and ours looks like it."""
    theirs = b"3\t:\t1706096154.315\t     0.012\t0\t6\t2\t0\tsh -c 'exit 2'"
    read = Job.parse(theirs)
    assert read == Job(3, b":", 1706096154.315, 0.012, 0, 6, 2, 0, b"sh -c 'exit 2'")
    assert read.line() == theirs + b"\n"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        HEADER[:-1],
        b"0\t:\t1.0\t1.0\t0\t0\t0\t0\tx",
        b"1\t:\tnan\t1.0\t0\t0\t0\t0\tx",
        b"1\t:\t1.0\t1.0\t0\t0\t0\tx",
        b"1\t:\t1.0\t1.0\t0\t0\t0\tSIGTERM\tx",
        b"1\t\t1.0\t1.0\t0\t0\t0\t0\tx",
        b"1" * 5000 + b"\t:\t1.0\t1.0\t0\t0\t0\t0\tx",
    ],
)
def test_a_line_that_is_none_is_named(line: bytes):
    """Whoever edited the log is told the file and the line."""
    assert Job.parse(line) is None
    with pytest.raises(InvalidInputError, match=r"^jobs, line 3: .* is no line of a job log"):
        read_log(HEADER + job(1).line() + line + b"\n" + job(2).line(), "jobs", COMMANDS)


def test_how_a_command_ended_stands_in_two_columns():
    """A status, a signal, a missing program, one that may not be run, and a time-out even if it then ended well."""
    results = results_of(
        ["true"], ["sh", "-c", "exit 7"], ["sh", "-c", "kill -9 $$"], ["no-such-program"], ["/etc/passwd"]
    )
    jobs = [job_of(result, 1, 0.0) for result in results]
    assert [(one.exitval, one.signal) for one in jobs] == [(0, 0), (7, 0), (0, 9), (127, 0), (126, 0)]
    assert [one.has_failed for one in jobs] == [False, True, True, True, True]
    (late,) = results_of(["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.01; done"], timeout=0.3)
    assert job_of(late, 1, 0.0).has_failed
    assert job_of(late, 1, 0.0).exitval == -1


def test_the_start_is_the_clock_on_the_wall():
    """Starttime counts from 1970, whatever clock the scheduler measures by."""
    before = time.time()
    (result,) = results_of(["echo", "hello"])
    told = job_of(result, 1, time.time() - time.monotonic())
    assert before - 1 <= told.start_s <= time.time() + 1
    assert told.received_bytes == 6


@pytest.mark.parametrize("cut", range(len(job(2).line())))
def test_a_last_line_torn_anywhere_is_run_again(tmp_path: Path, cut: int):
    """Cut off at any byte, the last line is dropped, the ones before stand, and the log goes on behind them."""
    path = tmp_path / "jobs"
    whole = HEADER + job(1).line()
    path.write_bytes(whole + job(2).line()[:cut])
    with JobLog(path, COMMANDS, resume=True) as log:
        assert log.logged.done(again_if_failed=False) == {1}
        assert path.read_bytes() == whole
        log._append(job(2).line())
    assert path.read_bytes() == whole + job(2).line()


@pytest.mark.parametrize("cut", range(len(HEADER)))
def test_a_torn_header_is_written_again(tmp_path: Path, cut: int):
    """Killed while the header was written, the log begins anew."""
    path = tmp_path / "jobs"
    path.write_bytes(HEADER[:cut])
    with JobLog(path, COMMANDS, resume=True) as log:
        assert log.logged.jobs == {}
    assert path.read_bytes() == HEADER


def test_what_is_no_log_is_never_overwritten(tmp_path: Path):
    """A name that was mistyped costs nobody a file, with --resume or without."""
    path = tmp_path / "thesis.txt"
    path.write_bytes(b"Seq of my life\n" * 20)
    for resume in (False, True):
        with pytest.raises(InvalidInputError, match=r"thesis.txt, line 1: it is no job log"):
            JobLog(path, COMMANDS, resume=resume)
    assert path.read_bytes() == b"Seq of my life\n" * 20


def test_changed_commands_are_refused(tmp_path: Path):
    """Another command at a place, or fewer commands, name the line; more of them at the end are welcome."""
    content = HEADER + job(1).line() + job(2).line()
    with pytest.raises(InvalidInputError, match=r"^jobs, line 3: command 2 was .* and is 'touch x' now"):
        read_log(content, "jobs", [COMMANDS[0], ["touch", "x"]])
    with pytest.raises(InvalidInputError, match=r"^jobs, line 3: it tells of command 2, and there are 1 now"):
        read_log(content, "jobs", COMMANDS[:1])
    assert read_log(content, "jobs", [*COMMANDS, ["new"]]).done(again_if_failed=False) == {1, 2}


def test_the_last_word_on_a_command_counts():
    """One that failed and then succeeded is done; the other way round it is not."""
    content = HEADER + job(1, exitval=3).line() + job(2).line() + job(1).line() + job(2, signal=9).line()
    logged = read_log(content, "jobs", COMMANDS)
    assert logged.done(again_if_failed=True) == {1}
    assert logged.done(again_if_failed=False) == {1, 2}
    assert left_to_run(3, {1}) == [1, 2]


def test_one_batch_at_a_time_writes_a_log(tmp_path: Path):
    """Two batches in one file would make neither readable; the first one's lines stand."""
    path = tmp_path / "jobs"
    with JobLog(path, COMMANDS, resume=False) as log:
        log._append(job(1).line())
        for resume in (False, True):
            with pytest.raises(InvalidInputError, match="another batch writes the job log"):
                JobLog(path, COMMANDS, resume=resume)
    assert path.read_bytes() == HEADER + job(1).line()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_pipe_or_device_is_no_job_log(tmp_path: Path):
    """What cannot be read back cannot be resumed; nothing waits for a reader of a pipe."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InvalidInputError, match="needs a regular file"):
            JobLog(path, COMMANDS, resume=False)


@pytest.mark.parametrize("written", [0, 10])
def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int):
    """R02: of a line for which there is no room nothing stays, and the error names the file."""
    path = tmp_path / "jobs"
    with JobLog(path, COMMANDS, resume=False) as log:
        log._append(job(1).line())
        real = os.write

        def write(fd: int, line: bytes) -> int:
            if not written:
                raise OSError(28, "No space left on device")
            return real(fd, line[:written])

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(RecordError, match=r"cannot write the job log .*jobs: No space left on device"):
            log._append(job(2).line())
        monkeypatch.undo()
    assert path.read_bytes() == HEADER + job(1).line()


def test_a_cancelled_command_is_not_logged(tmp_path: Path):
    """It has not done its work, so it is run again."""
    scheduler = WorkStealingScheduler(RunSettings(workers=1))
    with scheduler:
        future = scheduler.submit(["sleep", "60"])
        wait_until(future.running)
        scheduler.cancel_running()
    with JobLog(tmp_path / "jobs", COMMANDS, resume=False) as log:
        log.add(future.result(), 1)
    assert (tmp_path / "jobs").read_bytes() == HEADER
