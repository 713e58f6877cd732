"""What is kept of a child's output: all of it, or what each policy says, and copies as it comes."""

import io
import os
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import procbench
from procbench import RunSettings, WorkStealingScheduler
from procbench.errors import CommandFailedError, CommandTimeoutError, InvalidInputError
from procbench.io.keep import OVERFLOWS, Keep, keeper
from tests.waiting import run_python

PIECES = st.lists(st.binary(max_size=40), max_size=12)


def keep(cap: int | None, overflow: str, pieces: list[bytes]) -> Keep:
    made = keeper(cap, overflow)  # type: ignore[arg-type]
    for piece in pieces:
        reused = bytearray(piece)
        made.add(memoryview(reused))
        reused[:] = b"?" * len(reused)  # as the next read does
    return made


@given(cap=st.none() | st.integers(0, 60), pieces=PIECES)
def test_the_beginning_is_kept_and_the_rest_counted(cap: int | None, pieces: list[bytes]):
    whole = b"".join(pieces)
    for overflow in ("drop", "kill"):
        kept = keep(cap, overflow, pieces)
        over = cap is not None and len(whole) > cap
        assert kept.value() == whole[:cap]
        assert (kept.total_bytes, kept.cut, kept.overflowed) == (len(whole), over, over)
        assert kept.gap_at == (cap if over else None)
        assert kept.take_file() is None


@given(cap=st.integers(0, 60), pieces=PIECES)
def test_a_ring_keeps_the_beginning_and_the_end(cap: int, pieces: list[bytes]):
    whole = b"".join(pieces)
    kept = keep(cap, "ring", pieces)
    if len(whole) <= cap:
        assert (kept.value(), kept.gap_at, kept.cut) == (whole, None, False)
    else:
        tail = cap // 2
        head = cap - tail
        assert kept.value() == whole[:head] + (whole[-tail:] if tail else b"")
        assert (kept.gap_at, kept.cut, kept.total_bytes) == (head, True, len(whole))


@given(cap=st.integers(0, 60), pieces=PIECES)
def test_a_spool_loses_nothing(cap: int, pieces: list[bytes]):
    whole = b"".join(pieces)
    kept = keep(cap, "spool", pieces)
    assert kept.value() == whole[:cap]
    assert (kept.total_bytes, kept.cut, kept.overflowed) == (len(whole), False, len(whole) > cap)
    file = kept.take_file()
    assert (file is not None) is (len(whole) > cap)
    if file is not None:
        with file:
            assert file.read() == whole
    assert kept.take_file() is file


def test_a_spool_that_nobody_takes_is_closed_without_a_warning():
    kept = keep(1, "spool", [b"abc"])
    del kept  # the guard looks for the descriptor


FULL_DISK = """
import resource, signal, sys
from procbench.io.keep import keeper
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
kept = keeper(1_000, "spool")
for _ in range(30):
    kept.add(memoryview(b"x" * 1_000))
with kept.take_file() as file:
    print(kept.error, kept.total_bytes, kept.cut, len(kept.value()), len(file.read()))
"""


def test_a_spool_on_a_full_disk_goes_on_counting_and_says_so():
    assert run_python(FULL_DISK) == "EFBIG 30000 True 1000 10000"


GIGABYTE = """
import sys
import procbench
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) // 1024
writer = "import os\\nb = bytes(range(256)) * 4096\\nfor i in range(1024): os.write(1, b)\\nos.write(1, b'end')"
argv = [sys.executable, "-c", writer]
procbench.run(["true"], capture_output=True)
before = peak()
result = procbench.run(argv, stdout=-1, max_output_bytes=8 << 20, overflow=sys.argv[1])
grown = peak() - before
over = result.stdout_over
head = bytes(range(256)) * (over.gap_at // 256)
assert result.stdout[: over.gap_at] == head, "head"
assert result.stdout_bytes == (1 << 30) + 3, result.stdout_bytes
if sys.argv[1] == "ring":
    assert result.stdout.endswith(bytes(range(256)) + b"end") and len(result.stdout) == 8 << 20, "tail"
if over.file:
    with over.file as file:
        assert file.seek(-3, 2) == 1 << 30 and file.read() == b"end"
assert result.truncated is (over.file is None)
print("grew little" if grown < 32 else f"grew by {grown} MiB")
"""


@pytest.mark.slow
@pytest.mark.parametrize("overflow", ["drop", "ring", "spool"])
def test_a_gigabyte_through_a_small_cap_takes_little_memory(overflow: str):
    """L13: 1 GiB through a cap of 8 MiB grows memory by less than 32 MiB; the count is exact, head and tail are right."""
    assert run_python(GIGABYTE, overflow) == "grew little"


def test_a_child_that_floods_is_killed_where_that_was_asked():
    """L13: with ``kill`` a child that writes more than the cap is ended, and the result says why."""
    result = procbench.run(["yes"], stdout=subprocess.PIPE, max_output_bytes=100_000, overflow="kill", timeout=60)
    assert (result.limit_hit, result.stop_phase, result.timed_out, result.cancelled) == (
        "output",
        "terminate",
        False,
        False,
    )
    assert result.stdout == b"y\n" * 50_000
    assert result.signal == "SIGTERM"


def test_a_copy_goes_to_a_function_a_file_and_a_descriptor_as_it_comes(tmp_path: Path):
    pieces: list[bytes] = []
    procbench.run(["printf", "a%.0s", *"bcd"], stdout=-1, tee_stdout=lambda piece: pieces.append(bytes(piece)))
    assert b"".join(pieces) == b"aaa"
    with (tmp_path / "copy").open("w+b") as file:
        procbench.run(["seq", "3"], stdout=-1, tee_stdout=file)
        result = procbench.run(["sh", "-c", "seq 4 >&2"], stderr=-1, tee_stderr=file.fileno())
        assert result.stderr == b"1\n2\n3\n4\n"
    assert sorted((tmp_path / "copy").read_bytes().split()) == sorted(b"1 2 3 1 2 3 4".split())


def test_a_copy_that_fails_harms_neither_child_nor_what_is_kept():
    def raising(piece: memoryview) -> None:
        raise RuntimeError("full of it")

    result = procbench.run(["printf", "one"], stdout=-1, tee_stdout=raising)
    assert (result.returncode, result.stdout, result.tee_error) == (0, b"one", "RuntimeError: full of it")
    kept = keeper(None, "drop", raising)
    kept.add(memoryview(b"one"))
    kept.add(memoryview(b"two"))
    assert (kept.value(), kept.tee_error) == (b"onetwo", "RuntimeError: full of it")
    read_end, write_end = os.pipe()
    os.close(read_end)
    kept = keeper(None, "drop", write_end)
    kept.add(memoryview(b"one"))
    os.close(write_end)
    assert kept.value() == b"one"
    assert kept.tee_error is not None
    assert kept.tee_error.startswith("BrokenPipeError")


def test_a_copy_to_a_full_pipe_that_does_not_block_waits_for_room():
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    got = bytearray()

    def read() -> None:
        os.set_blocking(read_end, True)
        while piece := os.read(read_end, 1 << 16):
            got.extend(piece)

    kept = keeper(10, "drop", write_end)
    reader = threading.Thread(target=read)
    reader.start()
    kept.add(memoryview(bytes(1 << 20)))
    os.close(write_end)
    reader.join()
    os.close(read_end)
    assert len(got) == 1 << 20


def test_a_copy_to_a_file_that_counts_nothing_goes_there_once():
    """Whose write returns None, as in much code that only looks like a file, has taken all of it."""

    class Uncounted:
        def __init__(self) -> None:
            self.got: list[bytes] = []

        def write(self, piece: memoryview) -> None:
            assert not self.got
            self.got.append(bytes(piece))

        def flush(self) -> None:
            pass

    copy = Uncounted()
    kept = keeper(None, "drop", copy)  # type: ignore[arg-type]
    kept.add(memoryview(b"once"))
    assert (copy.got, kept.tee_error) == ([b"once"], None)


def test_a_copy_to_a_full_raw_file_that_does_not_block_is_whole():
    """A raw file says None too, where it has no room: that is waited for."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    got = bytearray()

    def read() -> None:
        os.set_blocking(read_end, True)
        while piece := os.read(read_end, 1 << 16):
            got.extend(piece)

    with os.fdopen(write_end, "wb", buffering=0) as raw:
        kept = keeper(10, "drop", raw)
        reader = threading.Thread(target=read)
        reader.start()
        kept.add(memoryview(bytes(1 << 20)))
    reader.join()
    os.close(read_end)
    assert (len(got), kept.tee_error) == (1 << 20, None)


@pytest.mark.parametrize("how", [{"timeout": 0.3}, {"check": True}])
def test_a_file_that_an_error_takes_the_place_of_is_closed(how: dict[str, object]):
    """Who gets an error instead of the result has no file to close: it is closed, without a warning."""
    end = "exec sleep 60" if "timeout" in how else "exit 1"
    spooled = {"capture_output": True, "max_output_bytes": 3, "overflow": "spool"}
    with pytest.raises((CommandTimeoutError, CommandFailedError)) as caught:
        procbench.run(["sh", "-c", f"echo 12345; {end}"], **spooled, **how)  # type: ignore[arg-type]
    assert caught.value.output == b"123"


def test_files_of_attempts_that_failed_are_closed():
    """Only the last attempt's file is in the result; the others are closed, without a warning."""
    settings = RunSettings(workers=1, capture=True, max_output_bytes=3, overflow="spool", retries=2)
    with WorkStealingScheduler(settings) as scheduler:
        result = scheduler.submit(["sh", "-c", "echo 12345; exit 1"]).result(timeout=60)
    assert (result.attempts, result.outcome) == (3, "failed")
    assert result.stdout_over is not None
    assert result.stdout_over.file is not None
    with result.stdout_over.file as file:
        assert file.read() == b"12345\n"
    result.close_files()


def test_a_copy_to_a_file_that_takes_less_at_a_time_is_whole():
    class Miser(io.RawIOBase):
        def __init__(self) -> None:
            self.got = b""

        def writable(self) -> bool:
            return True

        def write(self, piece) -> int:
            self.got += bytes(piece[:2])
            return min(2, len(piece))

    miser = Miser()
    keeper(None, "drop", miser).add(memoryview(b"seven b"))
    assert miser.got == b"seven b"


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"overflow": "sink"}, "sink"),
        ({"tee_stdout": print}, "captured"),
        ({"stdout": -1, "tee_stdout": "file"}, "str"),
        ({"max_output_bytes": -1}, "max_output_bytes"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(wrong: dict[str, object], word: str):
    with pytest.raises(InvalidInputError, match=word):
        procbench.run(["true"], **wrong)  # type: ignore[arg-type]


def test_the_words_are_those_of_the_settings():
    assert procbench.RunSettings.describe()["overflow"]["choices"] == OVERFLOWS
