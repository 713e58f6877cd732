"""The recorded runs, read together: each host for itself, each jump with what changed there, nothing unreadable in the way."""

import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procbench.analysis.history import Line, changed_facts, history, pace_of
from procbench.errors import InvalidInputError
from procbench.lab import store as store_module
from procbench.lab.host import HostFacts, read_host
from procbench.lab.store import QUARANTINE, Store
from procbench.views import plots_history
from procbench.views.history import BARS, MOST_BARS, load_history, show_history, sparkline

HERE = Path(__file__).parents[1]
RUNS, STEP = 16, 9
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def host() -> HostFacts:
    return replace(read_host(sample_s=0), hostname="bench", kernel="6.1.0")


def trials(level_s: float, source: np.random.Generator, condition: str = "pool") -> pd.DataFrame:
    """Return trials as an experiment yields them: a warm-up that is far off, and eight blocks that waver by 2 %."""
    rows = [
        {"block": block, "condition": name, "value": value, "warm_up": block == 0, "quantity": "batch (s)"}
        for name, level in ((condition, level_s), ("thread pool", 2.0))
        for block, value in enumerate([99.0, *(level * (1 + 0.02 * source.standard_normal(8)))])
    ]
    return pd.DataFrame(rows)


def recorded(
    root: Path, hosts: Sequence[HostFacts], levels_s: Sequence[float], *, experiment: str = "stealing", seed: int = 1
) -> None:
    """Record one run a day on these hosts."""
    days = iter(range(10_000))
    store = Store(root, project=root, now=lambda: BEGAN + timedelta(days=next(days)))
    source = np.random.default_rng(seed)
    for host, level_s in zip(hosts, levels_s, strict=True):
        store.record(trials(level_s, source), experiment=experiment, host=host, parameters={"tasks": 100})


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory, host: HostFacts) -> Path:
    """A folder of sixteen runs; with the tenth came another kernel, and the pool takes a third longer."""
    root = tmp_path_factory.mktemp("stepped")
    newer = replace(host, kernel="6.8.0", load_one_minute=7.0)
    recorded(root, [host] * STEP + [newer] * (RUNS - STEP), [1.5] * STEP + [2.0] * (RUNS - STEP))
    return root


def said(lines: Sequence[Line], root: Path) -> str:
    stream = io.StringIO()
    show_history(lines, Store(root).load(), stream)
    return stream.getvalue()


def procbench(*arguments: str, cwd: Path, through: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    argv = [*through, sys.executable, "-W", "error", "-m", "procbench", *arguments]
    path = [str(HERE), *(one for one in sys.path if one)]
    environment = {"PYTHONPATH": ":".join(path), "PATH": "/usr/bin:/bin"}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_a_jump_is_named_with_its_run_and_with_what_changed_there(stepped: Path):
    """The pool got slower with the tenth run, which had another kernel; the load, which always differs, is not named."""
    lines, _ = load_history(stepped)
    assert [(line.experiment, line.condition, line.unit, len(line.points)) for line in lines] == [
        ("stealing", "pool, batch", "s", RUNS),
        ("stealing", "thread pool, batch", "s", RUNS),
    ]
    [change] = lines[0].changes
    assert (change.number, change.pace, change.facts) == (STEP, "slower", ("kernel: 6.1.0 -> 6.8.0",))
    assert change.point.recorded_at == BEGAN + timedelta(days=STEP)
    assert change.factor == pytest.approx(2 / 1.5, rel=0.03)
    assert lines[0].trend.direction == "stable"
    assert lines[1].changes == ()
    text = said(lines, stepped)
    assert "1.33 times slower from run 10 of 2026-01-10 00:00" in text
    assert "kernel: 6.1.0 -> 6.8.0" in text
    assert re.search("pool, batch  [▁▂▃]{9}[▆▇█]{7}  2(.0\\d)? s  stable", text)


def test_a_value_is_the_median_of_a_run_without_its_warm_up(stepped: Path):
    """Eight values a run, so that the interval is known; the ninth was for warming up."""
    lines, loaded = load_history(stepped)
    point, frame = lines[0].points[0], loaded.runs[0].trials
    own = frame[(frame["condition"] == "pool") & ~frame["warm_up"]]["value"]
    assert (point.value, point.count) == (own.median(), 8)
    assert point.low <= point.value <= point.high


def test_hosts_are_never_mixed(tmp_path: Path, host: HostFacts):
    """Two hosts record in turn: a line for each, and no jump where only the host changed."""
    other = replace(host, host_id="ffffffffffff", hostname="elsewhere")
    recorded(tmp_path, [host, other] * 8, [1.0, 3.0] * 8)
    lines, _ = load_history(tmp_path)
    pools = [line for line in lines if line.condition == "pool, batch"]
    assert {(line.hostname, len(line.points), line.changes) for line in pools} == {
        ("bench", 8, ()),
        ("elsewhere", 8, ()),
    }
    text = said(lines, tmp_path)
    assert f"stealing on bench (id {host.host_id}): 8 runs" in text
    assert "stealing on elsewhere (id ffffffffffff): 8 runs" in text
    assert "2 hosts, whose values do not compare" in text


def test_a_slow_rise_is_a_direction_and_no_jump(tmp_path: Path, host: HostFacts):
    """Three per cent a run, run by run."""
    recorded(tmp_path, [host] * 20, [1 + 0.03 * number for number in range(20)])
    lines, _ = load_history(tmp_path)
    assert (lines[0].trend.direction, lines[0].changes) == ("increasing", ())
    assert "increasing: slower by 2." in said(lines, tmp_path)


def test_one_experiment_can_be_asked_for(stepped: Path, tmp_path: Path, host: HostFacts):
    recorded(tmp_path, [host] * 2, [1.0] * 2)
    recorded(tmp_path, [host] * 3, [1.0] * 3, experiment="Another one")
    lines, _ = load_history(tmp_path, "Another one")
    assert {(line.experiment, len(line.points)) for line in lines} == {("Another one", 3)}
    assert "too few runs to tell" in said(lines, tmp_path)
    with pytest.raises(InvalidInputError, match="there are: Another one, stealing"):
        load_history(tmp_path, "no such")


def test_damaged_and_newer_files_are_named_and_passed_over(
    tmp_path: Path, host: HostFacts, monkeypatch: pytest.MonkeyPatch
):
    """R03, R07: the torn one is moved aside, the newer one stays, both are named, and the rest is shown."""
    recorded(tmp_path, [host] * 4, [1.0] * 4)
    torn = next(tmp_path.glob("*.parquet"))
    torn.write_bytes(torn.read_bytes()[:500])
    with monkeypatch.context() as future:
        future.setattr(store_module, "SCHEMA_VERSION", 99)
        newer = Store(tmp_path).record(trials(1.0, np.random.default_rng(1)), experiment="stealing", host=host)
    done = procbench("history", "--data", str(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stealing: 3 runs" in done.stdout
    assert f"passed over {torn.name}: " in done.stdout
    assert f"passed over {newer.name}: " in done.stdout
    assert "schema version 99" in done.stdout
    assert newer.exists()
    assert not torn.exists()
    assert len(list((tmp_path / QUARANTINE).iterdir())) == 1


def test_a_flipped_bit_anywhere_in_a_file_is_named_and_passed_over(tmp_path: Path, host: HostFacts):
    """R04: through the command, in the header, among the values and in the footer; not one wrong value is shown."""
    recorded(tmp_path, [host] * 12, [1.0] * 12)
    files = sorted(tmp_path.glob("*.parquet"))
    for number, path in enumerate(files[:8]):
        content = bytearray(path.read_bytes())
        content[number * (len(content) - 1) // 7] ^= 1 << number
        path.write_bytes(content)
    done = procbench("history", "--data", str(tmp_path), "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert [Path(one["file"]).name for one in told["passed_over"]] == [path.name for path in files[:8]]
    assert all("damaged" in one["reason"] for one in told["passed_over"])
    assert {len(line["runs"]) for line in told["lines"]} == {4}
    assert sorted(tmp_path.glob("*.parquet")) == files[8:]
    assert len(list((tmp_path / QUARANTINE).iterdir())) == 8


_RECORDING = """
import os
import sys
from pathlib import Path
import pandas as pd
from procbench.lab.host import read_host
from procbench.lab.store import Store

store, host = Store(Path(sys.argv[1])), read_host(sample_s=0)
frame = pd.DataFrame({"condition": ["a"] * 6, "value": [1.0] * 6, "unit": ["s"] * 6})
really = os.open

def open_and_wait(path, flags, *given, **named):
    fd = really(path, flags, *given, **named)
    if flags & os.O_CREAT:  # a file begins: nothing is in it yet
        print("begun", flush=True)
        sys.stdin.readline()
    return fd

os.open = open_and_wait
for _ in range(int(sys.argv[2])):
    store.record(frame, experiment="beside", host=host)
"""


def test_the_history_is_read_while_others_record(tmp_path: Path):
    """R05: whoever reads while three processes have a file begun each finds whole runs only, and all that were ended."""
    data, runs = tmp_path / "data", 4
    argv = [sys.executable, "-c", _RECORDING, str(data), str(runs)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    recording = [subprocess.Popen(argv, cwd=HERE, **pipes) for _ in range(3)]
    try:
        for written in range(runs):
            assert [one.stdout.readline() for one in recording] == ["begun\n"] * 3
            lines, loaded = load_history(data)
            assert (loaded.quarantined, sum(len(line.points) for line in lines)) == ((), 3 * written)
            for one in recording:
                one.stdin.write("\n")
                one.stdin.flush()
        assert [one.wait(60) for one in recording] == [0, 0, 0]
    finally:
        for one in recording:
            one.kill()
            one.communicate()
    done = procbench("history", "--data", "data", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert (done.returncode, told["passed_over"], sum(len(line["runs"]) for line in told["lines"])) == (0, [], 3 * runs)


@pytest.mark.skipif(not shutil.which("setpriv"), reason="root may write everywhere, and setpriv takes that from it")
def test_a_history_that_may_not_be_written_is_read(tmp_path: Path, host: HostFacts):
    """R06: a read-only folder with a torn file: named, left where it is, and the rest is shown."""
    data = tmp_path / "data"
    recorded(data, [host] * 4, [1.0] * 4)
    torn = min(data.glob("*.parquet"))
    torn.write_bytes(torn.read_bytes()[:100])
    before = sorted(data.iterdir())
    data.chmod(0o500)
    try:
        powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
        done = procbench("history", "--data", "data", cwd=tmp_path, through=powerless)
        assert sorted(data.iterdir()) == before
    finally:
        data.chmod(0o700)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stealing: 3 runs" in done.stdout
    assert f"passed over {torn.name}: " in done.stdout
    assert "could not be moved" in done.stdout


def test_the_command_tells_all_as_json(stepped: Path, tmp_path: Path):
    done = procbench("history", "--data", str(stepped), "--experiment", "stealing", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["passed_over"] == []
    [change] = told["lines"][0]["changes"]
    assert (change["number"], change["pace"], change["facts"]) == (STEP, "slower", ["kernel: 6.1.0 -> 6.8.0"])
    assert len(told["lines"][0]["runs"]) == RUNS


def test_no_history_is_said_and_a_file_is_no_folder(tmp_path: Path):
    done = procbench("history", "--data", "none", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "no run with values has been recorded here\n")
    assert "there is no folder none" in done.stderr
    (tmp_path / "file").write_text("")
    assert procbench("history", "--data", "file", cwd=tmp_path).returncode == 2


def test_an_experiment_that_is_not_there_is_answered_with_those_there_are(stepped: Path):
    done = procbench("history", "--data", str(stepped), "--experiment", "nosuch", cwd=stepped)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no experiment 'nosuch'" in done.stderr
    assert "there are: stealing" in done.stderr


def test_what_was_recorded_cannot_write_on_the_terminal(tmp_path: Path, host: HostFacts):
    """Names from a record are shown, and their escape sequences are not obeyed."""
    bad = "\x1b]0;owned\x07\x1b[2J\u202egnp"
    store = Store(tmp_path, project=tmp_path)
    for name in ("6.1\x1b[31m", "6.2"):
        for _ in range(6):
            store.record(
                trials(1.0 if name == "6.2" else 2.0, np.random.default_rng(1), bad),
                experiment=bad,
                host=replace(host, kernel=name, hostname=bad),
            )
    text = said(load_history(tmp_path)[0], tmp_path)
    assert "faster" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_recorded_batch_has_a_line_for_each_program(tmp_path: Path, host: HostFacts):
    """What ``procbench run --record`` keeps has no conditions; a command that never began has no time."""
    frame = pd.DataFrame({"command": ["gzip a", "gzip b", "true", "gone"], "wall_s": [0.5, 0.7, 0.1, math.nan]})
    Store(tmp_path, project=tmp_path).record(frame, experiment="batch", host=host)
    lines, _ = load_history(tmp_path)
    assert [(line.condition, line.unit, line.points[0].value) for line in lines] == [
        ("wall time of gzip", "s", pytest.approx(0.6)),
        ("wall time of true", "s", pytest.approx(0.1)),
    ]


def test_a_frame_without_values_has_no_line(tmp_path: Path, host: HostFacts):
    """M08: a run of something else neither crashes nor counts."""
    store = Store(tmp_path, project=tmp_path)
    store.record(pd.DataFrame({"x": [1]}), experiment="other", host=host)
    store.record(pd.DataFrame({"condition": ["a"], "value": [math.inf]}), experiment="other", host=host)
    assert load_history(tmp_path)[0] == []


def test_conditions_of_one_name_in_two_parts_of_an_experiment_are_two_lines(tmp_path: Path, host: HostFacts):
    """The direction parts them; the kind, which hangs on the condition, is not said."""
    frame = pd.DataFrame(
        {
            "condition": ["pipe", "pipe", "file"],
            "direction": ["in", "out", "in"],
            "kind": ["p", "p", "f"],
            "value": [1.0, 2, 3],
        }
    )
    Store(tmp_path, project=tmp_path).record(frame, experiment="transfer", host=host)
    lines, _ = load_history(tmp_path)
    assert [(line.condition, line.unit) for line in lines] == [
        ("pipe, in", "GB/s"),
        ("pipe, out", "GB/s"),
        ("file, in", "GB/s"),
    ]


def test_revision_versions_and_parameters_are_facts(stepped: Path):
    """What passes, such as load and seed, is none."""
    run = Store(stepped).load().runs[0]
    later = replace(
        run,
        git_revision="f" * 40,
        procbench_version="9",
        parameters={"tasks": 200, "seed": 7},
        host={**run.host, "load_one_minute": 99.0, "turbo": "off"},
    )
    facts = changed_facts(run, later)
    assert [fact.partition(":")[0] for fact in facts] == ["procbench", "git revision", "turbo", "tasks"]
    assert facts[-1] == "tasks: 100 -> 200"
    assert "ffffffffff" in facts[1]


@pytest.mark.parametrize(
    ("unit", "word"),
    [("s", "slower"), ("ns", "slower"), ("GB/s", "faster"), ("commands/s", "faster"), ("CPUs", "higher")],
)
def test_more_is_better_or_worse_by_the_unit(unit: str, word: str):
    assert pace_of(1.0, 2.0, unit) == word
    assert pace_of(2.0, 1.0, unit) == {"slower": "faster", "faster": "slower", "higher": "lower"}[word]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=80))
def test_a_sparkline_has_a_block_for_each_value(values: list[float]):
    """Also for the largest floats; the oldest of many are an ellipsis."""
    line = sparkline(values)
    assert len(line) == min(len(values), MOST_BARS) + (len(values) > MOST_BARS)
    assert set(line) <= {*BARS, "…"}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.floats(width=64), min_size=1, max_size=3), max_size=12))
def test_no_recorded_values_crash(stepped: Path, values: list[list[float]]):
    """M08: NaN, infinite and huge values in any run."""
    run = Store(stepped).load().runs[0]
    runs = [
        replace(run, trials=pd.DataFrame({"condition": "a", "value": each}), run_id=str(number))
        for number, each in enumerate(values)
    ]
    lines = history(runs)
    assert sum(len(line.points) for line in lines) == sum(any(map(math.isfinite, each)) for each in values)
    json.dumps([line.to_dict() for line in lines], allow_nan=False)
    said(lines, stepped)


def test_the_figure_shows_runs_intervals_levels_and_what_changed(stepped: Path):
    figure = plots_history.over_runs(load_history(stepped)[0])
    pool, threads = figure.axes
    assert (pool.get_ylabel(), threads.get_xlabel()) == ("value (s)", "run, in the order of recording")
    assert "stealing: pool, batch" in pool.get_title(loc="left")
    [dashed] = [line for line in pool.lines if line.get_linestyle() == "--"]
    assert list(dashed.get_xdata()) == [STEP + 0.5] * 2
    assert ["kernel: 6.1.0 -> 6.8.0" in text.get_text() for text in pool.texts] == [True]
    assert not threads.texts
    assert all(len(axes.containers) == 1 for axes in figure.axes)
    figure.savefig(io.BytesIO(), format="png")
    assert plots_history.over_runs([]).axes
