"""The benchmarks' ways do what their names say, and what they read is counted; how fast is not asked."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import arguments, streams

ROOT = Path(__file__).parents[1]
# None of them a multiple of a buffer or a write, so that every way meets a short read before the end.
SMALL = streams.Sizes(children=3, each_bytes=300_001, one_bytes=3_000_001, lines=1_001, short=5)


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="the child that writes is a C program")
def test_every_way_of_reading_output_takes_every_byte_of_it():
    """A way that lost a byte would end the run."""
    code = f"from benchmarks.streams import Sizes, report; report(1, {SMALL!r})"
    argv = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    measured = {line.split("  ")[-1] for line in done.stdout.splitlines() if "CPU" in line}
    ours = {"pooled", "communicate", "read", "read_into", "lines"}
    peers = {f"asyncio {word}" for word in ("communicate", "read", "readline")}
    others = {"C, read and poll", "for line in Popen.stdout", "thread pool + subprocess.run"}
    installed = {way for way in ("anyio receive", "trio receive_some") if find_spec(way.split()[0])}
    assert measured == peers | others | installed | ours
    assert ("skipped" in done.stdout) is not (len(installed) == 2)


@pytest.mark.parametrize("got", [[(5, None)], [(6, None), (0, None)], []])
def test_a_way_that_lost_bytes_or_a_child_is_not_measured(got: list[tuple[int, object]]):
    way = streams._timed(lambda *_: got, ["true"], 1, 1, 6)
    with pytest.raises(AssertionError, match="children came"):
        way()


def test_what_watching_costs_is_measured_in_three_tables():
    """Both ways of sampling find something, and every ratio has its verdict."""
    code = "from benchmarks import monitoring as m; m.SAMPLES, m.INTERVAL_S = 1, 0.1; m.report(1, 5, 20)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [done.stdout.count(f"{word}; wanted") for word in ("of psutil", "of one CPU", "slower")] == [1, 1, 1]


@pytest.mark.skipif(not shutil.which("xargs"), reason="xargs is what it is compared with")
def test_every_way_runs_all_arguments(capsys: pytest.CaptureFixture[str]):
    """In a scheduler, from the command line and by xargs; a command that failed would end the run."""
    arguments.report(1, [2], count=200)
    said = capsys.readouterr().out
    assert (said.count(" of xargs -P -n 64 true"), said.count(" of xargs -P -n 64 sha256sum")) == (2, 2)
    assert said.count("wanted 0.9") == 1
    with pytest.raises(subprocess.CalledProcessError):
        arguments.command_line("false", ["x"], 1)
