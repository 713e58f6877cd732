"""Recorded runs are whole or not there, every flipped bit is seen, and nobody's run is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from procbench.analysis.statistics import Effect
from procbench.errors import DamagedRunError, InvalidInputError, NewerSchemaError, RecordError
from procbench.lab import store as store_module
from procbench.lab.files import write_atomically
from procbench.lab.host import HostFacts, read_host
from procbench.lab.runs import git_revision
from procbench.lab.store import QUARANTINE, Store, read_run
from procbench.lab.trials import Condition, measure

HERE = Path(__file__).parents[1]
EFFECT = Effect(1.18, 1.12, 1.25, 0.95, 12, "four", "one", 0.02)

RECORD_ONE = """
import sys, types
from pathlib import Path
import pandas as pd
from procbench.lab import files, runs, store
from procbench.lab.host import read_host
runs.git_revision = store.git_revision = lambda project: None  # no child of its own between the system calls
files.secrets = types.SimpleNamespace(token_hex=lambda n: "0" * 2 * n)  # a name that strace can be told
store.safe_name = lambda text: text
store.hashlib = types.SimpleNamespace(sha256=lambda content: types.SimpleNamespace(hexdigest=lambda: "0" * 64))
now = lambda: store.datetime(2026, 1, 2, tzinfo=store.UTC)
host = read_host(sample_s=0)
print("ready", flush=True)
store.Store(Path(sys.argv[1]), now=now).record(pd.DataFrame({"value": [1.0]}), experiment="x", host=host)
"""
RECORDED_BY_CHILD = "20260102T000000Z-x-0000000000000000.parquet"


@pytest.fixture(scope="module")
def host() -> HostFacts:
    """This host, read once."""
    return read_host(sample_s=0)


def frame(rows: int = 6, seed: int = 1) -> pd.DataFrame:
    """Trials as an experiment yields them."""
    random_source = random.Random(seed)
    return pd.DataFrame(
        {
            "block": range(rows),
            "condition": ["one", "four"] * (rows // 2),
            "value": [random_source.uniform(1, 2) for _ in range(rows)],
            "warm_up": [row < 2 for row in range(rows)],
        }
    )


def names(root: Path) -> list[str]:
    """Return everything in a folder, hidden or not."""
    return sorted(path.name for path in root.iterdir())


def child(code: str, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python code in a child, without asking for its success."""
    argv = [*prefix, sys.executable, "-c", code, *arguments]
    return subprocess.run(argv, cwd=HERE, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_a_run_comes_back_as_it_was_recorded(tmp_path: Path, host: HostFacts):
    """Trials, types, parameters, effects and host survive; the index does not."""
    path = Store(tmp_path / "data").record(
        frame().set_index("block", drop=False), experiment="spawn", host=host, parameters={"n": 3}, effects=[EFFECT]
    )
    loaded = Store(tmp_path / "data").load()
    (run,) = loaded.runs
    pd.testing.assert_frame_equal(run.trials, frame())
    assert (run.path, run.experiment, run.parameters, run.effects) == (path, "spawn", {"n": 3}, (EFFECT,))
    assert HostFacts.from_dict(run.host) == host
    assert run.recorded_at.tzinfo is not None
    assert loaded.quarantined == ()
    assert list(loaded.frame())[:5] == ["experiment", "recorded_at", "host_id", "run_id", "block"]


def test_what_was_measured_can_be_recorded(tmp_path: Path, host: HostFacts):
    """Trials of a measurement too short for intervals, factors and all, come back with their unknown effects."""
    conditions = [Condition("one", lambda: 2.0, {"workers": 1}), Condition("two", lambda: 1.0, {"pinned": True})]
    trials = measure(conditions, baseline="one", larger_is_better=False, min_blocks=1, max_blocks=1)
    store = Store(tmp_path)
    for _ in range(2):
        store.record(trials.frame(), experiment="x", host=host, effects=trials.effects())
    loaded = store.load()
    assert loaded.runs[0].effects == tuple(trials.effects())
    assert math.isinf(loaded.runs[0].effects[0].high)
    assert len(loaded.frame()) == 2 * len(trials.frame())
    assert str(loaded.frame()["recorded_at"].dtype).endswith("UTC]")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_regular_file_is_left_alone(tmp_path: Path, host: HostFacts, kind: str):
    """A folder or named pipe called like a run neither stops nor blocks the reading."""
    good = Store(tmp_path).record(frame(), experiment="x", host=host)
    other = tmp_path / "20260101T000000Z-x-0123456789abcdef.parquet"
    other.mkdir() if kind == "folder" else os.mkfifo(other)
    assert [run.path for run in Store(tmp_path).load().runs] == [good]


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_an_empty_history(tmp_path: Path):
    """R06: a history that cannot be seen is not the same as none."""
    (tmp_path / "data").write_bytes(b"a file where the folder should be")
    with pytest.raises(RecordError, match="cannot read the folder"):
        Store(tmp_path / "data").load()


def test_files_and_folders_are_their_owners_alone(tmp_path: Path, host: HostFacts):
    """Hosts and command lines are nobody else's business: 0700 and 0600, and one file per run."""
    path = Store(tmp_path / "data").record(frame(), experiment="spawn", host=host)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert names(path.parent) == [path.name]


def test_the_git_revision_is_kept_and_its_absence_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The commit of the working project, and None outside git, without git, and in a folder that is gone."""
    expected = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    assert git_revision(HERE) == (expected or None)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision(tmp_path) is None
    assert git_revision(tmp_path / "gone") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision(HERE) is None


def test_an_empty_or_missing_folder_has_no_runs(tmp_path: Path):
    """A first look before the first run is no error."""
    loaded = Store(tmp_path / "none").load()
    assert (loaded.runs, loaded.quarantined, len(loaded.frame())) == ((), (), 0)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "bad",
    [
        frame().iloc[:0],
        pd.DataFrame(),
        pd.DataFrame({"run_id": [1]}),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame({"a": [object()]}),
    ],
)
def test_a_frame_that_cannot_be_kept_is_refused_before_a_file_exists(
    tmp_path: Path, host: HostFacts, bad: pd.DataFrame
):
    """Empty, with a taken or double name, or with values that are no data."""
    with pytest.raises(InvalidInputError):
        Store(tmp_path).record(bad, experiment="x", host=host)
    assert names(tmp_path) == []


@pytest.mark.parametrize("parameters", [{"a": object()}, {"a": float("nan")}, {"a": {1, 2}}])
def test_parameters_that_are_not_json_are_refused(tmp_path: Path, host: HostFacts, parameters: dict[str, object]):
    """What cannot be read back is not written."""
    with pytest.raises(InvalidInputError, match="JSON"):
        Store(tmp_path).record(frame(), experiment="x", host=host, parameters=parameters)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a\0b", "x" * 300, "CON", "-rf", ""])
def test_any_experiment_name_is_recorded_inside_the_folder(tmp_path: Path, host: HostFacts, name: str):
    """R13: the file lies in the root, and the run is found again under the name that was given."""
    store = Store(tmp_path / "data")
    path = store.record(frame(), experiment=name, host=host)
    store.record(frame(), experiment="another", host=host)
    assert path.resolve().parent == (tmp_path / "data").resolve()
    assert names(tmp_path) == ["data"]
    assert [run.path for run in store.load(experiment=name).runs] == [path]


def test_hosts_are_never_mixed_silently(tmp_path: Path, host: HostFacts):
    """With two hosts present, one must be named; the error lists them."""
    store = Store(tmp_path)
    for host_id in ("aaa", "bbb"):
        store.record(frame(), experiment="x", host=replace(host, host_id=host_id))
    loaded = store.load()
    with pytest.raises(InvalidInputError, match="aaa, bbb"):
        loaded.frame()
    with pytest.raises(InvalidInputError, match="no run comes from host 'ccc'"):
        loaded.frame("ccc")
    assert set(loaded.frame("bbb")["host_id"]) == {"bbb"}
    assert len(store.load(host_id="aaa").frame()) == len(frame())


def test_columns_that_only_some_runs_have_are_kept(tmp_path: Path, host: HostFacts):
    """Nothing is dropped because the oldest file lacks it, and two types of one column do not stop the reading."""
    times = iter([datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)])
    store = Store(tmp_path, now=lambda: next(times))
    store.record(pd.DataFrame({"value": [1.0]}), experiment="x", host=host)
    store.record(pd.DataFrame({"value": [2.0], "workers": [4]}), experiment="x", host=host)
    store.record(pd.DataFrame({"value": [3.0], "workers": ["all"]}), experiment="x", host=host)
    whole = store.load().frame()
    assert whole["value"].tolist() == [1.0, 2.0, 3.0]
    assert pd.isna(whole["workers"][0])
    assert whole["workers"][1:].tolist() == [4, "all"]


def test_a_kill_at_any_system_call_leaves_the_run_absent_or_whole(tmp_path: Path, host: HostFacts):
    """R01: SIGKILL at each system call that touches the file or its folder: absent or whole, older runs intact."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    root, log = tmp_path / "data", tmp_path / "calls"
    old = Store(root).record(frame(), experiment="old", host=host)
    final = root / RECORDED_BY_CHILD
    temporary = root / f".{final.name}.{'0' * 16}.tmp"
    # Without --seccomp-bpf, whose calls strace 6.1 does not count; each kind of call is counted on its own.
    strace = ("strace", "-f", "-qq", "-P", str(temporary), "-P", str(root))
    assert child(RECORD_ONE, str(root), prefix=(*strace, "-o", str(log))).returncode == 0
    calls = [line.split()[1].partition("(")[0] for line in log.read_text().splitlines() if "(" in line]
    final.unlink()
    outcomes: list[str] = []
    for place, call in enumerate(calls):
        kill = f"inject={call}:signal=KILL:when={calls[: place + 1].count(call)}"
        done = child(RECORD_ONE, str(root), prefix=(*strace, "-o", "/dev/null", "-e", f"trace={call}", "-e", kill))
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, "ready\n"), (kill, done.stderr)
        if final.exists():
            # The child was told a hash of zeros, so that strace could be told the name: the content is judged here.
            assert pq.read_table(final, page_checksum_verification=True).num_rows == 1
            final.unlink()
            outcomes.append("whole")
        else:
            outcomes.append("absent")
        temporary.unlink(missing_ok=True)
        loaded = Store(root).load()
        assert ([run.path for run in loaded.runs], loaded.quarantined) == ([old], ())
    assert {"openat", "write", "fsync", "close"} <= set(calls)
    assert set(outcomes) == {"absent", "whole"}
    assert outcomes == sorted(outcomes), "once whole, the run stays whole"


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path: Path):
    """R02: ENOSPC in the middle of a run: RecordError with its cause, no file, and the older run as it was."""
    code = """
import sys, errno, random
from pathlib import Path
import pandas as pd
from procbench.errors import RecordError
from procbench.lab.host import read_host
from procbench.lab.store import Store
store, host = Store(Path(sys.argv[1])), read_host(sample_s=0)
store.record(pd.DataFrame({"value": [1.0]}), experiment="x", host=host)
try:
    store.record(pd.DataFrame({"value": [random.random() for _ in range(100_000)]}), experiment="x", host=host)
except RecordError as error:
    assert error.__cause__.errno == errno.ENOSPC, error.__cause__
    loaded = store.load()
    assert len(loaded.runs) == 1 and not loaded.quarantined
    assert len(list(Path(sys.argv[1]).iterdir())) == 1
    print("refused whole")
"""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("unshare -m is not permitted here, so no small disk can be made")
    mount = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"', str(tmp_path))
    done = child(code, str(tmp_path), prefix=mount)
    assert done.stdout == "refused whole\n", done.stderr


def test_a_file_size_limit_is_an_error_and_leaves_nothing_behind(tmp_path: Path, host: HostFacts):
    """R02: EFBIG through RLIMIT_FSIZE: RecordError, non-zero exit, no file, the older run as it was."""
    old = Store(tmp_path).record(frame(), experiment="old", host=host)
    limited = RECORD_ONE.replace(
        'print("ready"', 'import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (99, 99)); print("ready"'
    )
    done = child(limited, str(tmp_path))
    assert done.returncode == 1
    assert "RecordError: cannot write" in done.stderr
    assert names(tmp_path) == [old.name]
    read_run(old)


@pytest.mark.parametrize(("when", "left"), [(1, []), (2, [RECORDED_BY_CHILD])])
def test_a_failed_flush_is_an_error_and_is_never_retried(tmp_path: Path, when: int, left: list[str]):
    """R02: EIO from the file's fsync leaves nothing; from the folder's it leaves the whole file and says so."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    strace = (
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync",
        "-e",
        f"inject=fsync:error=EIO:when={when}",
    )
    done = child(RECORD_ONE, str(tmp_path), prefix=strace)
    assert done.returncode == 1
    assert ("may not survive a power cut" if left else "nothing was changed") in done.stderr
    assert names(tmp_path) == left


def test_a_failed_write_keeps_the_old_file_and_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """R02: whatever fails, the old content stays, the temporary name is gone and the system's error is chained."""
    path = tmp_path / "report.html"
    write_atomically(path, lambda file: file.write(b"old"))
    failure = OSError(errno.EIO, "I/O error")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as broken:

            def fail(*_arguments: object) -> None:
                raise failure

            broken.setattr(os, name, fail)
            with pytest.raises(RecordError) as caught:
                write_atomically(path, lambda file: file.write(b"new"))
        assert caught.value.__cause__ is failure
    for reason in (KeyboardInterrupt, ZeroDivisionError):

        def give_up(_file: object, reason: type[BaseException] = reason) -> None:
            raise reason

        with pytest.raises(reason):
            write_atomically(path, give_up)
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["report.html"])


def test_a_temporary_name_that_is_taken_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """R05: should two writers ever draw the same temporary name, the second fails and the first one's file stays."""
    monkeypatch.setattr(secrets, "token_hex", lambda count: "0" * 2 * count)
    taken = tmp_path / f".x.{'0' * 16}.tmp"
    taken.write_bytes(b"somebody is writing this")
    with pytest.raises(RecordError, match="File exists"):
        write_atomically(tmp_path / "x", lambda file: file.write(b"mine"))
    assert taken.read_bytes() == b"somebody is writing this"


def test_a_symbolic_link_is_replaced_and_never_followed(tmp_path: Path):
    """R06: what a link in the folder points at stays as it was."""
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_bytes(b"precious")
    link.symlink_to(victim)
    write_atomically(link, lambda file: file.write(b"new"))
    assert (victim.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"precious", b"new", False)


def test_a_torn_file_is_named_moved_aside_and_the_rest_is_read(tmp_path: Path, host: HostFacts):
    """R03: cut at any of 40 lengths, the file is quarantined and named, never deleted, and the other run is read."""
    store = Store(tmp_path)
    good, torn = (store.record(frame(seed=seed), experiment="x", host=host) for seed in (1, 2))
    whole = torn.read_bytes()
    for length in [0, 1, 3, 4, 7, 8, len(whole) - 8, len(whole) - 1, *range(9, len(whole) - 8, len(whole) // 32)]:
        torn.write_bytes(whole[:length])
        loaded = store.load()
        assert [run.path for run in loaded.runs] == [good]
        ((path, reason),) = loaded.quarantined
        assert path == torn
        (moved,) = (tmp_path / QUARANTINE).iterdir()
        assert str(moved) in reason
        assert moved.read_bytes() == whole[:length]
        assert store.load().quarantined == ()
        moved.unlink()


def test_none_of_600_flipped_bits_goes_unseen(tmp_path: Path, host: HostFacts):
    """R04: whichever bit flips, in a page, a header, the footer or the metadata, the file is refused."""
    path = Store(tmp_path).record(frame(40), experiment="x", host=host)
    whole = path.read_bytes()
    places = random.Random(4).sample(range(len(whole) * 8), 600)
    for place in places:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedRunError, match="damaged"):
            read_run(path)
    path.write_bytes(whole)
    assert len(read_run(path).trials) == 40


def test_page_checksums_are_written_too(tmp_path: Path, host: HostFacts):
    """R04: other readers, which know nothing of our names, can still verify the pages."""
    path = Store(tmp_path).record(frame(40), experiment="x", host=host)
    content = bytearray(path.read_bytes())
    content[pq.read_metadata(path).row_group(0).column(2).dictionary_page_offset + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


@pytest.mark.parametrize(
    ("name", "stays"), [("notes.parquet", True), ("20260101T000000Z-x-0123456789abcdef.parquet", False)]
)
def test_a_file_that_is_no_run_is_named_and_moved_only_if_it_is_named_like_one(
    tmp_path: Path, host: HostFacts, name: str, stays: bool
):
    """R03: a foreign file neither crashes the reading nor counts as a run; somebody's own Parquet file stays where it lies."""
    good = Store(tmp_path).record(frame(), experiment="x", host=host)
    (tmp_path / name).write_bytes(b"no parquet at all")
    loaded = Store(tmp_path).load()
    assert [run.path for run in loaded.runs] == [good]
    assert [path.name for path, _ in loaded.quarantined] == [name]
    assert (tmp_path / name).exists() is stays


@pytest.mark.parametrize(
    "metadata", [None, b"", b"[]", b"{}", b'{"schema_version": "one"}', b'{"schema_version": 1, "effects": [7]}']
)
def test_a_foreign_file_under_a_runs_name_is_moved_aside(tmp_path: Path, metadata: bytes | None):
    """R03: a whole Parquet file with the right hash, but without a run's metadata, is no run."""
    table = pa.table({"value": [1.0]}).replace_schema_metadata({} if metadata is None else {b"procbench": metadata})
    pq.write_table(table, tmp_path / "foreign")
    digest = hashlib.sha256((tmp_path / "foreign").read_bytes()).hexdigest()[:16]
    (tmp_path / "foreign").rename(tmp_path / f"20260101T000000Z-x-{digest}.parquet")
    loaded = Store(tmp_path).load()
    assert loaded.runs == ()
    assert "is no recorded run" in loaded.quarantined[0][1]


def test_a_folder_that_cannot_be_written_is_still_read(
    tmp_path: Path, host: HostFacts, monkeypatch: pytest.MonkeyPatch
):
    """R06: where a damaged file cannot be moved, it is named where it lies and the rest is read."""
    good = Store(tmp_path).record(frame(), experiment="x", host=host)
    damaged = tmp_path / "20260101T000000Z-x-0123456789abcdef.parquet"
    damaged.write_bytes(b"")

    def read_only(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    loaded = Store(tmp_path).load()
    assert [run.path for run in loaded.runs] == [good]
    assert "Read-only file system" in loaded.quarantined[0][1]
    assert damaged.exists()


def test_leftovers_of_killed_writers_are_not_read(tmp_path: Path, host: HostFacts):
    """R01: a temporary file begins with a dot, and is neither a run nor damaged."""
    good = Store(tmp_path).record(frame(), experiment="x", host=host)
    (tmp_path / f".{good.name}.0123.tmp").write_bytes(b"half a run")
    loaded = Store(tmp_path).load()
    assert ([run.path for run in loaded.runs], loaded.quarantined) == ([good], ())


def test_eight_processes_lose_none_of_their_runs(tmp_path: Path, host: HostFacts):
    """R05: 8 processes record the same frame under the same name in the same second, 5 times each: 40 runs."""
    code = """
import sys
from datetime import datetime, UTC
from pathlib import Path
import pandas as pd
from procbench.lab.host import read_host
from procbench.lab.store import Store
store, host = Store(Path(sys.argv[1]), now=lambda: datetime(2026, 1, 1, tzinfo=UTC)), read_host(sample_s=0)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    store.record(pd.DataFrame({"value": [1.0]}), experiment="x", host=host)
"""
    argv = [sys.executable, "-c", code, str(tmp_path / "data")]
    writers = [
        subprocess.Popen(argv, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.communicate("go\n")
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * 8
    loaded = Store(tmp_path / "data").load()
    assert len({run.run_id for run in loaded.runs}) == 40
    assert len(names(tmp_path / "data")) == 40


def test_a_newer_file_is_named_and_stays_where_it_is(tmp_path: Path, host: HostFacts, monkeypatch: pytest.MonkeyPatch):
    """R07: a run of a newer procbench is no damage: it waits for the update, and the rest is read."""
    good = Store(tmp_path).record(frame(), experiment="x", host=host)
    with monkeypatch.context() as future:
        future.setattr(store_module, "SCHEMA_VERSION", 99)
        newer = Store(tmp_path).record(frame(), experiment="x", host=host)
    loaded = Store(tmp_path).load()
    assert [run.path for run in loaded.runs] == [good]
    ((path, reason),) = loaded.quarantined
    assert (path, path.exists()) == (newer, True)
    assert "schema version 99" in reason
    with pytest.raises(NewerSchemaError):
        read_run(newer)


def test_an_older_file_is_still_read(tmp_path: Path, host: HostFacts, monkeypatch: pytest.MonkeyPatch):
    """R07: a reader of a later schema reads what this one wrote."""
    path = Store(tmp_path).record(frame(), experiment="x", host=host)
    monkeypatch.setattr(store_module, "SCHEMA_VERSION", 2)
    assert [run.path for run in Store(tmp_path).load().runs] == [path]


def test_the_metadata_are_plain_json_in_the_schema(tmp_path: Path, host: HostFacts):
    """Any Parquet reader can tell what a file is, without procbench."""
    path = Store(tmp_path).record(frame(), experiment="x", host=host, parameters={"workers": [1, 2]})
    metadata = json.loads(pq.read_schema(path).metadata[b"procbench"])
    assert metadata["parameters"] == {"workers": [1, 2]}
    assert metadata["schema_version"] == 1
    assert metadata["host"]["kernel"] == os.uname().release
