"""``procbench monitor`` as a person meets it: lines in a pipe, a table on a terminal, a command and its exit status."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

from procbench.monitoring.monitor import PerformanceMonitor, Sample
from procbench.views.live import Lines, Table, for_people, show_summary
from tests.test_cli import ENVIRONMENT, PROCBENCH, procbench, started
from tests.waiting import Gate, long_sleep, processes_with, wait_until


def facts_of(line: str) -> dict[str, float]:
    return {name: float(value) for name, _, value in (word.partition("=") for word in line.split())}


def test_a_line_for_each_sample_and_a_summary(tmp_path: Path):
    """In a pipe the lines are plain, one for each sample, and the summary is on standard error."""
    done = procbench("monitor", "--interval", "0.1", "--duration", "0.5", cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) >= 2
    found = facts_of(lines[-1])
    assert found["memory.total"] > 1e6
    assert "=nan" not in done.stdout
    assert found["processes.count"] >= 1
    assert found["time_s"] > facts_of(lines[0])["time_s"]
    assert "\x1b" not in done.stdout + done.stderr
    assert "memory available" in done.stderr
    assert "p95" in done.stderr


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_it_ends_with_the_status_of_its_command(tmp_path: Path, script: str, status: int):
    """Also when a signal ended it; its output is its own, and the samples are on standard error."""
    done = procbench("monitor", "--", "sh", "-c", f"echo said; {script}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "said\n")
    assert "time_s=" in done.stderr


def test_a_command_that_cannot_be_started(tmp_path: Path):
    """127 where there is none and 126 where it cannot be run, each with one line that says why."""
    done = procbench("monitor", "no-such-program-here", cwd=tmp_path)
    assert done.returncode == 127
    assert "cannot start 'no-such-program-here'" in done.stderr
    assert done.stderr.count("\n") == 1
    (tmp_path / "plain").write_text("x")
    done = procbench("monitor", "./plain", cwd=tmp_path)
    assert done.returncode == 126


def test_what_a_command_uses_is_in_the_file(tmp_path: Path):
    """The tree has the CPU time of the command's grandchild, and the frame is tidy when it is read back."""
    busy = "import time\nwhile time.process_time() < 0.4: pass"
    script = f"({sys.executable} -c '{busy}'; true) ; true"
    done = procbench("monitor", "--interval", "0.1", "--out", "m.parquet", "--", "sh", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    frame = pd.read_parquet(tmp_path / "m.parquet")
    assert list(frame.columns) == ["time_s", "at", "collector", "metric", "unit", "value"]
    cpu = frame[(frame["collector"] == "tree") & (frame["metric"] == "cpu")].sort_values("time_s")
    assert set(cpu["unit"]) == {"CPUs"}
    # nearly all of it: what was used before the first sample is in no rate
    used_s = (cpu["value"] * cpu["time_s"].diff()).sum()
    assert used_s > 0.25


def test_samples_go_to_a_csv_file_too(tmp_path: Path):
    done = procbench("monitor", "--interval", "0.1", "--duration", "0.2", "--out", "new/m.csv", cwd=tmp_path)
    assert done.returncode == 0
    assert {"cpu", "memory"} <= set(pd.read_csv(tmp_path / "new/m.csv")["collector"])


def test_a_command_whose_time_is_up_is_ended(tmp_path: Path):
    """124, as of timeout(1), and nothing of it is left."""
    nap = long_sleep()
    done = procbench("monitor", "--duration", "0.3", "--", "sleep", nap, cwd=tmp_path)
    assert done.returncode == 124
    assert not processes_with(nap)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_and_what_there_is_is_kept(tmp_path: Path, number: signal.Signals, status: int):
    """The command is gone, and the file is there."""
    nap = long_sleep()
    with started("monitor", "--interval", "0.1", "--out", "m.csv", "--", "sleep", nap, cwd=tmp_path) as child:
        wait_until(lambda: len(processes_with(nap)) == 2)  # the command, and the one that watches it
        child.send_signal(number)
        child.communicate(timeout=30)
    assert child.returncode == status
    assert not processes_with(nap)
    assert (tmp_path / "m.csv").stat().st_size > 100


def test_ctrl_c_is_the_way_to_end_it_without_a_command(tmp_path: Path):
    """The status is 0, the file is written and the summary shown."""
    with started("monitor", "--interval", "0.1", "--out", "m.csv", cwd=tmp_path) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 0
    assert b"memory total" in said
    assert (tmp_path / "m.csv").exists()


def test_a_reader_that_goes_away_ends_it(tmp_path: Path):
    """As of head(1): 141 and not a word more."""
    with started("monitor", "--interval", "0.05", cwd=tmp_path) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(timeout=30) == 141
        assert child.stderr is not None
        assert child.stderr.read() == b""


def test_prometheus_can_ask_while_a_command_runs(tmp_path: Path):
    """The address is on standard error, and the tree's counters are there."""
    gate = Gate(tmp_path)
    with started("monitor", "--openmetrics", "0", "--", *gate.argv, cwd=tmp_path) as child:
        assert child.stderr is not None
        url = child.stderr.readline().decode().split()[-1]
        gate.wait_for(1)
        child.stderr.readline()  # the first sample
        with urllib.request.urlopen(url) as answer:
            assert b"procbench_tree_cpu_seconds_total" in answer.read()
        gate.open()
        child.communicate(timeout=30)
    assert child.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--interval", "0"), "--interval"),
        (("--duration", "-1"), "--duration"),
        (("--out", "m.txt"), ".parquet or .csv"),
        (("--out", "folder.csv"), "is a folder"),
        (("--openmetrics", "70000"), "a port is"),
        (("--nonsense",), "--help"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path: Path, arguments: tuple[str, ...], said: str):
    """The command is not begun."""
    (tmp_path / "folder.csv").mkdir()
    done = procbench("monitor", *arguments, "--", "touch", "begun", cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "begun").exists()


def test_on_a_terminal_a_table_is_painted_over_itself_below_what_the_command_writes(tmp_path: Path):
    """The command's words stand above the table, each table goes before the next one comes, and the summary is last."""
    gate = Gate(tmp_path)
    script = f"echo first; cat {gate.path}; printf torn; printf ' line\\n'"
    leader, follower = pty.openpty()
    argv = [*PROCBENCH, "monitor", "--interval", "0.1", "--", "sh", "-c", script]
    with subprocess.Popen(
        argv, cwd=tmp_path, env=ENVIRONMENT, stdin=follower, stdout=follower, stderr=follower
    ) as child:
        os.close(follower)
        seen = b""
        while b"\x1b[" not in seen:
            seen += os.read(leader, 65_536)
        gate.wait_for(1)
        gate.open()
        while True:
            try:
                piece = os.read(leader, 65_536)
            except OSError:  # the other end is closed
                break
            seen += piece
        assert child.wait(timeout=30) == 0
    os.close(leader)
    text = seen.decode()
    assert "first\r\n" in text
    assert "torn line\r\n" in text
    assert "memory     total" in text
    last = text.rpartition("\x1b[J")[2]
    assert "p95" in last
    assert "throttling" not in text.partition("p95")[0].rpartition("\x1b[J")[2]


# --- what is shown ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.431, "share", "43.1 %"),
        (3.5 * 2**30, "bytes", "3.5 GiB"),
        (1536, "bytes/s", "1.5 KiB/s"),
        (12, "bytes", "12 B"),
        (12.0, "packets/s", "12/s"),
        (1_234_567.0, "things", "1,234,567"),
        (0.00083, "s", "830 µs"),
        (0.0, "s", "0"),
        (1.5, "CPUs", "1.5 CPUs"),
        (float("nan"), "share", "-"),
    ],
)
def test_values_are_shown_as_people_say_them(value: float, unit: str, said: str):
    assert for_people(value, unit) == said


class Terminal(io.TextIOWrapper):
    """A terminal of no size that remembers what was written to it."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined]


def test_nothing_from_outside_reaches_the_terminal_raw():
    """A collector's name and metric may hold escapes; they are shown as text, in lines and tables."""
    sample = Sample(1.0, {"\x1b]0;x\x07bad\n": {"\x1bPq\x1b\\name": 1.0}})
    for live in (Lines(terminal := Terminal()), Table(other := Terminal(), lambda *_: "")):
        live.show(sample)
        live.clear()
    assert "\x1b" not in terminal.text()
    assert terminal.text().count("\n") == 1
    assert other.text().count("\x1b") == 2  # those that take the table away
    assert "\x07" not in terminal.text() + other.text()


def test_a_table_waits_for_the_end_of_a_line():
    """A command that stopped in the midst of a line goes on there; the table comes back after it."""
    screen = Terminal()
    table = Table(screen, lambda *_: "")
    sample = Sample(1.0, {"cpu": {"busy": 1.0}})
    table.show(sample)
    table.say(screen, b"half ")
    table.show(sample)
    before = screen.text()
    assert before.endswith("half ")
    table.say(screen, b"done\n")
    assert screen.text().removeprefix(before).startswith("done\n1 s\ncpu")


def test_troubles_and_skipped_ticks_end_the_summary():
    """Who raised, and how often, is said below the figures."""

    class Bad:
        name = "bad"
        metrics: dict[str, object] = {}  # noqa: RUF012 - a collector's, read alone

        def collect(self) -> dict[str, float]:
            raise RuntimeError("no\x1b[2J sensor")

    monitor = PerformanceMonitor(1.0, [Bad()])  # type: ignore[list-item]
    monitor.sample()
    monitor.sample()
    monitor.stop()
    show_summary(monitor, screen := Terminal())
    assert screen.text() == "bad: raised (2 times): RuntimeError: no sensor\n"
