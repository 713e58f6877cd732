"""Every transport brings the same bytes to a child, survives the same faults, and says which way it took."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import signal
import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import procbench
from procbench import ProcessTask, RunSettings, WorkStealingScheduler, linux
from procbench.errors import InvalidInputError, MappingLentError, MappingSealedError
from procbench.memory import feed as feed_module
from procbench.memory.drain import FileDrain, MappingDrain
from procbench.memory.feed import Feed
from procbench.memory.mapping import MemoryMapping
from procbench.memory.region import settle
from procbench.memory.transfer import areceive, asend, receive, send
from procbench.memory.transports import TRANSPORTS, choose
from tests.waiting import SYSTEM_PYTHON, run_python, wait_until

THROUGH_A_PIPE = ["write", "vmsplice", "splice", "sendfile"]
SIZES = [0, 1, 4095, 4096, 4097, 65_536, 65_537, 3_000_001]
BLOCK = hashlib.sha256(b"procbench").digest() * 40_000  # 1.28 MB without a period of a page


def source_for(transport: str, data: bytes, folder: Path | None = None) -> MemoryMapping:
    """Return a mapping with these bytes that can go that way."""
    if transport == "file_stdin":
        assert folder is not None
        (folder / "source").write_bytes(data)
        return MemoryMapping.file(folder / "source")
    if transport in ("splice", "sendfile", "memfd_stdin"):
        return MemoryMapping.wrap(data).snapshot()
    mapping = MemoryMapping.anonymous(len(data))
    with mapping.writing() as view:
        view[:] = data
    return mapping


def reader(*argv: str) -> Callable[[int], Any]:
    """Return a starter of a child that reads; it is given the pipe."""
    return lambda fd: subprocess.Popen(argv or ["sha256sum"], stdin=fd, stdout=subprocess.PIPE)


def writer(*argv: str) -> Callable[[int], Any]:
    return lambda fd: subprocess.Popen(argv, stdout=fd)


def digest(child: Any) -> str:
    output, _ = child.communicate()
    return output.split()[0].decode()


def some(size: int) -> bytes:
    return (BLOCK * (size // len(BLOCK) + 1))[:size]


# --- to a child -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_transport_brings_the_same_bytes(transport: str, size: int, tmp_path: Path) -> None:
    """B08: at every size the child's own checksum is the source's, and the result names way, bytes and pipe."""
    data = some(size)
    with source_for(transport, data, tmp_path) as source:
        sent = send(source, reader(), transport=transport)
        assert digest(sent.child) == hashlib.sha256(data).hexdigest()
        assert (sent.sent_bytes, sent.error, sent.fallback) == (size, None, None)
        if transport != "auto":
            assert sent.transport == transport
        wait_until(lambda: not source.lent)
    assert settle() == 0


@pytest.mark.parametrize("transport", ["auto", *THROUGH_A_PIPE])
def test_the_awaitable_brings_the_same_bytes_while_the_loop_goes_on(transport: str) -> None:
    """asend and areceive move megabytes both ways at once in one event loop."""
    data = some(3_000_001)

    async def main(source: MemoryMapping) -> None:
        to_read, to_write = os.pipe()
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=to_write)
        os.close(to_write)
        sent, received = await asyncio.gather(asend(source, child.stdin, transport=transport), areceive(to_read))
        child.wait()
        assert sent.sent_bytes == received.kept_bytes == len(data)
        with received.mapping as mapping:
            assert mapping.tobytes() == data

    with source_for(transport, data) as source:
        asyncio.run(main(source))
        assert not source.lent


def test_cancelling_closes_the_childs_input() -> None:
    """A cancelled asend leaves no descriptor; the child sees the end of its input, and the loan ends with it."""

    async def main(source: MemoryMapping) -> None:
        child = subprocess.Popen(["sh", "-c", "read line; cat > /dev/null"], stdin=subprocess.PIPE)
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asend(source, child.stdin), 0.05)
        os.kill(child.pid, signal.SIGCONT)
        assert child.wait() == 0

    with source_for("vmsplice", b"x\n" * 2_000_000) as source:
        asyncio.run(main(source))
        wait_until(lambda: not source.lent)


def test_a_child_that_does_not_read_in_time() -> None:
    """The time-out closes its input and is a TimeoutError; what stands in the pipe stays lent until the child is gone."""
    children = []

    def start(fd: int) -> None:
        children.append(subprocess.Popen(["sleep", "60"], stdin=fd))

    with source_for("vmsplice", some(4_000_000)) as source:
        with pytest.raises(TimeoutError):
            send(source, start, timeout=0.05)
        assert source.lent
        children[0].kill()
        children[0].wait()
        assert not source.lent


@pytest.mark.parametrize("default", [False, True], ids=["SIGPIPE ignored", "SIGPIPE default"])
@pytest.mark.parametrize("transport", THROUGH_A_PIPE)
def test_a_child_that_closes_its_input_is_one_outcome(transport: str, default: bool) -> None:
    """L01: EPIPE by every transport, with the bytes sent, under either SIGPIPE; the child's status stays, no signal waits."""
    code = f"""
import signal, subprocess, sys
from tests.test_transfer import source_for, some
from procbench.memory.transfer import send
if {default}:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
for _ in range(5):
    with source_for({transport!r}, some(4_000_000)) as source:
        start = lambda fd: subprocess.Popen(["sh", "-c", "head -c 4096 > /dev/null; exec <&-; exit 5"], stdin=fd)
        sent = send(source, start, transport={transport!r})
        assert sent.child.wait() == 5
        assert sent.error == "EPIPE" and 4096 <= sent.sent_bytes < 4_000_000, sent
        assert sent.transport == {transport!r}
        assert not source.lent
assert not signal.sigpending() and signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
print("alive")
"""
    assert run_python(code) == "alive"


@pytest.mark.parametrize("transport", THROUGH_A_PIPE)
def test_a_child_killed_while_it_is_sent_to(transport: str) -> None:
    """L02: SIGKILL in mid-transfer: rc is -9, the part that went is counted, what was said is kept and flagged, no loan left."""
    argv = ["sh", "-c", "head -c 100000; kill -9 $$"]
    with source_for(transport, some(4_000_000)) as source:
        result = procbench.run(argv, input=source, capture_output=True, transport=transport)
        assert (result.returncode, result.signal, result.stdin_error) in [
            (-9, "SIGKILL", "EPIPE"),
            (-9, "SIGKILL", None),
        ]
        assert result.stdout == some(100_000)
        assert result.truncated
        assert 100_000 <= result.stdin_bytes < 4_000_000
        assert (result.transport, result.transport_fallback) == (transport, None)
        assert not source.lent


def test_a_child_killed_while_it_writes() -> None:
    """L02: what came before SIGKILL is received; the child's returncode says that it was not all."""
    received = receive(writer("sh", "-c", "head -c 300000 /dev/zero; kill -9 $$"))
    assert received.child.wait() == -9
    assert (received.kept_bytes, received.cut) == (300_000, False)
    received.mapping.close()


# --- loans ------------------------------------------------------------------------------------------------------------


def held_back(folder: Path) -> tuple[Callable[[int], Any], Callable[[], None]]:
    """Return a starter of a child that does not read its input before it is told to, and what tells it."""
    fifo = folder / "go"
    os.mkfifo(fifo)
    return reader("sh", "-c", 'read go < "$0"; exec sha256sum', str(fifo)), lambda: fifo.write_text("go\n") and None


def lendable(transport: str, data: bytes) -> MemoryMapping:
    source = MemoryMapping.anonymous(len(data)) if transport == "vmsplice" else MemoryMapping.memfd(len(data))
    with source.writing() as view:
        view[:] = data
    return source


def overwrite(source: MemoryMapping) -> None:
    with source.writing() as view:
        view[:] = bytes(len(view))


@pytest.mark.parametrize("transport", ["vmsplice", "splice", "sendfile"])
def test_pages_in_a_pipe_are_lent_until_the_reader_is_gone(transport: str, tmp_path: Path) -> None:
    """B01: with all in the pipe and nothing read, writing, resizing and closing are refused; the child gets what was sent."""
    start, tell = held_back(tmp_path)
    data = some(60_000)
    source = lendable(transport, data)
    sent = send(source, start, transport=transport)
    for attempt in (lambda: overwrite(source), lambda: overwrite(source[5:6]), source.close, lambda: source.resize(0)):
        with pytest.raises(MappingLentError):
            attempt()
    assert source.lent
    tell()
    assert digest(sent.child) == hashlib.sha256(data).hexdigest()
    assert not source.lent
    overwrite(source)
    source.close()


@pytest.mark.parametrize("transport", ["vmsplice", "splice", "sendfile"])
def test_a_loan_that_ends_too_early_would_be_seen(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B01: with the loan broken, so that it ends with the sending, the child really gets the new bytes."""
    monkeypatch.setattr(feed_module._Readers, "stop_writing", lambda self: setattr(self, "_gone", True))
    start, tell = held_back(tmp_path)
    data = some(60_000)
    with lendable(transport, data) as source:
        sent = send(source, start, transport=transport)
        overwrite(source)
        tell()
        assert digest(sent.child) == hashlib.sha256(bytes(60_000)).hexdigest()


def test_what_was_written_needs_no_loan(tmp_path: Path) -> None:
    """A copied source is free as soon as it is sent, whoever has not read yet."""
    start, tell = held_back(tmp_path)
    data = some(60_000)
    with lendable("vmsplice", data) as source:
        sent = send(source, start, transport="write")
        overwrite(source)
        tell()
        assert digest(sent.child) == hashlib.sha256(data).hexdigest()


def test_lent_bytes_outlive_their_last_name(tmp_path: Path) -> None:
    """B01: bytes by vmsplice, forgotten at once and their memory asked for anew, arrive as they were sent."""
    start, tell = held_back(tmp_path)
    want = hashlib.sha256(some(500_000)).hexdigest()
    sent = send(some(500_000), start, transport="vmsplice")
    again = [bytes([n]) * 500_000 for n in range(20)]
    assert settle() == 1
    tell()
    assert digest(sent.child) == want
    assert len(again) == 20
    assert settle() == 0


def test_a_mapping_that_is_viewed_is_not_sent(tmp_path: Path) -> None:
    """B05: a slice that outlived its view could change what stands in the pipe: sending is refused, from every door."""
    with lendable("vmsplice", some(5000)) as source:
        with source.writing() as view:
            escaped = view[:5]
        with pytest.raises(MappingLentError):
            send(source, reader("cat"), transport="vmsplice")
        with pytest.raises(MappingLentError):
            procbench.run(["cat"], input=source)
        escaped.release()
        assert procbench.run(["cat"], input=source, capture_output=True).stdout == some(5000)


def test_a_file_that_becomes_shorter_on_its_way(tmp_path: Path) -> None:
    """B03: whatever way, sending a file that another process cut ends with ENODATA and the part that was there."""
    for transport in ("write", "splice", "sendfile"):
        (tmp_path / "source").write_bytes(some(300_000))
        with MemoryMapping.file(tmp_path / "source") as source:
            os.truncate(tmp_path / "source", 100_000)
            sent = send(source, reader(), transport=transport)
            assert digest(sent.child) == hashlib.sha256(some(100_000)).hexdigest()
            assert (sent.error, sent.sent_bytes, sent.transport) == ("ENODATA", 100_000, transport)


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_auto_goes_by_kind_and_size(tmp_path: Path) -> None:
    """auto: sealed memfds and files are handed over or spliced, large memory is lent, small and foreign memory copied."""
    large, small = 1 << 20, 1000
    memfd, file = source_for("memfd_stdin", b"x" * 10), source_for("file_stdin", b"x" * 10, tmp_path)
    unsealed = MemoryMapping.memfd(10)
    ways = {
        (memfd, True): "memfd_stdin",
        (memfd[:5], True): "splice",
        (memfd[5:], True): "memfd_stdin",
        (memfd, False): "splice",
        (unsealed, True): "splice",
        (file, True): "file_stdin",
        (file[:5], True): "splice",
    }
    for (source, starting), way in ways.items():
        assert choose(source, can_hand_over=starting) == way
    assert choose(MemoryMapping.anonymous(large), can_hand_over=True) == "vmsplice"
    assert choose(MemoryMapping.anonymous(small), can_hand_over=True) == "write"
    assert choose(MemoryMapping.wrap(bytearray(large)), can_hand_over=True) == "write"
    assert choose(bytes(large), can_hand_over=True) == "vmsplice"
    assert choose(bytearray(large), can_hand_over=True) == "write"
    for source, transport in [
        (bytearray(9), "vmsplice"),
        (b"x", "splice"),
        (unsealed, "memfd_stdin"),
        (memfd, "teleport"),
    ]:
        with pytest.raises(InvalidInputError, match="transport"):
            choose(source, transport, can_hand_over=True)  # type: ignore[arg-type]


def test_a_slice_that_is_handed_over_begins_where_it_begins() -> None:
    """The child that gets a memfd's rest reads the rest, from an offset of its own."""
    with source_for("memfd_stdin", some(10_000)) as source, source[4000:] as rest:
        for _ in range(2):
            sent = send(rest, reader("cat"))
            assert sent.transport == "memfd_stdin"
            assert sent.child.communicate()[0] == some(10_000)[4000:]


# --- from a child -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("into", ["mapping", "growing", "file"])
def test_everything_is_received(into: str, size: int, tmp_path: Path) -> None:
    """B08: to the end of file, however many reads it takes, into each kind of place, with what was kept and what came."""
    (tmp_path / "from").write_bytes(some(size))
    place: Any = {"mapping": MemoryMapping.anonymous(size), "growing": None, "file": tmp_path / "to"}[into]
    received = receive(writer("cat", str(tmp_path / "from")), place)
    assert received.child.wait() == 0
    assert (received.kept_bytes, received.total_bytes, received.cut) == (size, size, False)
    if into == "file":
        assert (tmp_path / "to").read_bytes() == some(size)
        assert (received.transport, received.mapping) == ("splice", None)
    else:
        assert received.transport == "readv"
        assert received.mapping.tobytes() == some(size)


@pytest.mark.parametrize("cap", [0, 1, 100_000, 300_000, 300_001])
@pytest.mark.parametrize("into", ["mapping", "growing", "file"])
def test_what_does_not_fit_is_counted_and_dropped(into: str, cap: int, tmp_path: Path) -> None:
    """L02: a cap, or a mapping that is too small, keeps the beginning, lets the child go on to its end, and says so."""
    place: Any = {"mapping": MemoryMapping.anonymous(cap), "growing": None, "file": tmp_path / "to"}[into]
    (tmp_path / "from").write_bytes(some(300_000))
    limit = None if into == "mapping" else cap
    received = receive(writer("cat", str(tmp_path / "from")), place, max_bytes=limit)
    assert received.child.wait() == 0
    assert (received.total_bytes, received.kept_bytes) == (300_000, min(cap, 300_000))
    assert received.cut is (cap < 300_000)
    got = (tmp_path / "to").read_bytes() if into == "file" else received.mapping.tobytes()
    assert got == some(300_000)[:cap]


def test_a_growing_mapping_grows_past_its_first_size() -> None:
    """The mapping doubles as often as it takes; what is returned holds what came and nothing else."""
    received = receive(writer("head", "-c", "9000001", "/dev/zero"))
    received.child.wait()
    assert len(received.mapping) == received.kept_bytes == 9_000_001


def test_a_file_that_cannot_be_spliced_to_is_written(tmp_path: Path) -> None:
    """L28: a file opened for appending takes no splice: the same bytes come by read and write, and the result says so."""
    target = os.open(tmp_path / "to", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    try:
        received = receive(writer("head", "-c", "3000000", "/dev/zero"), target)
        received.child.wait()
    finally:
        os.close(target)
    assert (received.transport, received.kept_bytes) == ("read", 3_000_000)
    assert (tmp_path / "to").read_bytes() == bytes(3_000_000)


def test_receiving_refuses_what_makes_no_sense() -> None:
    """A negative cap, and a mapping that is lent or sealed, are refused before a child runs; the time-out holds."""
    with pytest.raises(InvalidInputError):
        receive(writer("true"), max_bytes=-1)
    with MemoryMapping.anonymous(10) as lent:
        lease = lent.lend(lambda: True)
        children: list[Any] = []
        with pytest.raises(MappingLentError):
            receive(lambda fd: children.append(subprocess.Popen(["true"], stdout=fd)), lent)
        assert children == []
        lease.end()
    with pytest.raises(MappingSealedError):
        receive(writer("true"), MemoryMapping.wrap(bytearray(9)))
    with pytest.raises(TimeoutError):
        receive(lambda fd: children.append(subprocess.Popen(["sleep", "60"], stdout=fd)), timeout=0.05)
    children[-1].kill()
    children[-1].wait()


def test_a_child_that_cannot_be_started_leaves_nothing() -> None:
    """The starter's own error comes through, with every descriptor closed."""
    for move in (
        lambda start: send(some(10), start),
        receive,
        lambda start: send(source_for("memfd_stdin", b"x"), start),
    ):
        with pytest.raises(FileNotFoundError):
            move(lambda fd: subprocess.Popen(["/nonexistent"], stdin=fd))


# --- kernels and calls that fail --------------------------------------------------------------------------------------

_STRACED = """
import os, subprocess, sys
from tests.test_transfer import source_for, some, reader, digest
from procbench.memory.transfer import send
transport = sys.argv[1]
with source_for(transport, some(3_000_000)) as source:
    sent = send(source, reader(), transport=transport, timeout=60)  # so that it takes many calls
    said = f"{sent.transport} {sent.fallback} {sent.sent_bytes} {sent.error} {digest(sent.child)}"
    os.writev(1, [said.encode()])  # not by write(2), which may be what fails
"""


def strace(call: str, error: str, when: str = "") -> tuple[str, ...]:
    """Return what makes a system call fail in a process, but not in its children."""
    if subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode != 0:
        pytest.skip("strace may not trace here")
    inject = f"inject={call}:error={error}" + (f":when={when}" if when else "")
    return ("strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)


@pytest.mark.parametrize(
    ("transport", "error"),
    [(way, error) for way in THROUGH_A_PIPE for error in ("EAGAIN", "EINTR", "EINVAL") if way + error != "writeEINVAL"],
)
def test_calls_that_fail_now_and_then(transport: str, error: str) -> None:
    """L28: EAGAIN and EINTR are tried again, EINVAL leaves the way for write once, recorded; the child's checksum is right."""
    call = {"sendfile": "/sendfile.*"}.get(transport, transport)
    said = run_python(_STRACED, transport, before=strace(call, error, "1+3")).split()
    fell = error == "EINVAL"
    way = ["write", "EINVAL"] if fell else [transport, "None"]
    assert said == [*way, "3000000", "None", hashlib.sha256(some(3_000_000)).hexdigest()]


@pytest.mark.parametrize("error", ["EIO", "EINVAL"])
def test_a_write_that_fails_for_good_is_said(error: str) -> None:
    """L28: the last way has none to fall back to: its error is the result's, and is not taken for an end."""
    said = run_python(_STRACED, "write", before=strace("write", error, "2")).split()
    assert said[:2] == ["write", "None"]
    assert said[3] == error
    assert int(said[2]) < 3_000_000


@pytest.mark.parametrize("transport", ["vmsplice", "splice", "sendfile"])
def test_a_kernel_without_the_call(transport: str) -> None:
    """B10 L28: ENOSYS leaves the way for write, and the result names both."""
    call = {"sendfile": "/sendfile.*"}.get(transport, transport)
    said = run_python(_STRACED, transport, before=strace(call, "ENOSYS")).split()
    assert said == ["write", "ENOSYS", "3000000", "None", hashlib.sha256(some(3_000_000)).hexdigest()]


@pytest.mark.parametrize("error", ["EAGAIN", "EINTR", "EINVAL"])
@pytest.mark.parametrize(("call", "place"), [("readv", "None"), ("splice", "'to'")])
def test_receiving_calls_that_fail_now_and_then(call: str, place: str, error: str, tmp_path: Path) -> None:
    """L28: the same for what is received: tried again, or read instead, and all of it comes."""
    code = f"""
import hashlib, os, subprocess, sys
os.chdir(sys.argv[1])
from procbench.memory.transfer import receive
received = receive(lambda fd: subprocess.Popen(["cat", "from"], stdout=fd), {place})
received.child.wait()
got = received.mapping.tobytes() if received.mapping is not None else open("to", "rb").read()
print(received.transport, received.kept_bytes, hashlib.sha256(got).hexdigest())
"""
    (tmp_path / "from").write_bytes(some(3_000_000))
    said = run_python(code, tmp_path, before=strace(call, error, "1+3")).split()
    way = "read" if error == "EINVAL" else call
    assert said == [way, "3000000", hashlib.sha256(some(3_000_000)).hexdigest()]


def test_a_larger_pipe_is_best_effort(tmp_path: Path) -> None:
    """L22: a user who has used up the pages for pipes gets a smaller one: the same bytes, and the result says what it held."""
    code = """
import hashlib, os
from procbench import run
from procbench.memory.mapping import MemoryMapping
hoard = [os.pipe() for _ in range(80)]
import fcntl
for end, _ in hoard:
    try:
        fcntl.fcntl(end, 1031, 1 << 20)
    except PermissionError:
        break
else:
    print("no limit"); raise SystemExit
data = bytes(range(256)) * 12000
result = run(["sha256sum"], input=data, capture_output=True, pipe_size_bytes=4 << 20)
assert result.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
assert 4096 <= result.pipe_size_bytes < 1 << 20, result
print("same bytes")
"""
    drop = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    probe = subprocess.run([*drop, str(SYSTEM_PYTHON), "-c", "import sys; sys.exit(sys.version_info < (3, 11))"])
    if probe.returncode != 0:
        pytest.skip("this user cannot become nobody, or the system's Python is older than 3.11")
    said = run_python(code, before=drop, python=SYSTEM_PYTHON)
    if said == "no limit":
        pytest.skip("nobody has no limit of pages for pipes here")
    assert said == "same bytes"


# --- in the runner and the scheduler ----------------------------------------------------------------------------------


def test_run_takes_a_mapping_and_says_how_it_went(tmp_path: Path) -> None:
    """procbench.run: a sealed memfd or a file becomes the child's standard input; memory goes through a pipe."""
    data = some(200_000)
    want = hashlib.sha256(data).hexdigest().encode()
    for transport in TRANSPORTS[1:]:
        with source_for(transport, data, tmp_path) as source:
            result = procbench.run(["sha256sum"], input=source, capture_output=True, transport=transport)
            assert result.stdout.split()[0] == want
            handed_over = transport.endswith("_stdin")
            assert result.transport == transport
            assert result.stdin_bytes == (0 if handed_over else len(data))
            assert result.pipe_size_bytes == (None if handed_over else 1 << 20)
            chosen = procbench.run(["sha256sum"], input=source, capture_output=True).transport
            assert handed_over is (chosen in ("memfd_stdin", "file_stdin")) or transport in ("splice", "sendfile")
    plain = procbench.run(["true"])
    assert (plain.transport, plain.transport_fallback, plain.pipe_size_bytes) == (None, None, None)
    assert procbench.run(["cat"], input=b"x" * 100).transport == "write"


def test_pipe_size_is_obeyed_for_every_pipe() -> None:
    """pipe_size_bytes: the pipe that the child sees has the size, and the result the smallest of them."""
    code = "import fcntl, sys; print(*(fcntl.fcntl(fd, 1032) for fd in (0, 1)), file=sys.stdout)"
    result = procbench.run(["python3", "-c", code], input=b"x", capture_output=True, pipe_size_bytes=256 << 10)
    assert result.stdout.split() == [b"262144", b"262144"]
    assert result.pipe_size_bytes == 256 << 10
    with pytest.raises(InvalidInputError):
        procbench.run(["true"], pipe_size_bytes=-1)


def test_the_scheduler_obeys_transport_and_pipe_size() -> None:
    """Settings: each task's input goes the way that they say if its kind allows it, otherwise by write; many share a mapping."""
    data = some(300_000)
    want = hashlib.sha256(data).hexdigest().encode()
    settings = RunSettings(workers=3, capture=True, transport="splice", pipe_size_bytes=128 << 10)
    with source_for("memfd_stdin", data) as source, WorkStealingScheduler(settings) as scheduler:
        inputs = [source, data] * 6
        futures = [scheduler.submit(ProcessTask(["sha256sum"], stdin=one)) for one in inputs]
        for one, future in zip(inputs, futures, strict=True):
            result = future.result()
            assert result.stdout.split()[0] == want
            assert result.transport == ("splice" if one is source else "write")
            assert result.pipe_size_bytes == 128 << 10


@pytest.mark.parametrize("transport", ["splice", "sendfile", "memfd_stdin", "vmsplice"])
def test_three_gibibytes(transport: str) -> None:
    """B08: more than one call can move: 3 GiB of holes with a mark at the end arrive, byte for byte."""
    size = 3 << 30
    source = MemoryMapping.anonymous(size) if transport == "vmsplice" else MemoryMapping.memfd(size)
    with source[size - 4 :] as end, end.writing() as view:
        view[:] = b"end!"
    if transport == "memfd_stdin":
        source.seal()
    with source:
        sent = send(source, reader("sh", "-c", "tail -c +3221225469 | head -c 9"), transport=transport)
        assert sent.child.communicate()[0] == b"end!"
        assert sent.sent_bytes == size


def test_vmsplice_without_libcs_own_is_enosys(monkeypatch: pytest.MonkeyPatch) -> None:
    """L28: a libc without vmsplice(3) is a kernel without it."""
    monkeypatch.setattr(linux, "_vmsplice", None)
    with source_for("vmsplice", some(200_000)) as source:
        sent = send(source, reader(), transport="vmsplice")
        assert (sent.transport, sent.fallback) == ("write", "ENOSYS")
        assert digest(sent.child) == hashlib.sha256(some(200_000)).hexdigest()


@pytest.mark.parametrize("what", ["feed", "mapping drain", "file drain"])
def test_an_end_of_a_pipe_is_closed_once(what: str) -> None:
    """B09: closing a feed or a drain twice leaves the file alone that has its number by now."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    end: Any
    if what == "feed":
        number, rest, end = write_end, read_end, Feed(write_end, memoryview(b"x"))
    elif what == "mapping drain":
        number, rest, end = read_end, write_end, MappingDrain(read_end, None)
    else:
        number, rest, end = read_end, write_end, FileDrain(read_end, 2)
    end.close()
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        assert other == number
        end.close()
        os.fstat(other)
    finally:
        os.close(other)
        os.close(rest)


# --- what others do meanwhile -----------------------------------------------------------------------------------------


def test_threads_that_settle_one_anothers_loans_leave_nothing() -> None:
    """B01: many children at a time are lent memory; each gets its own bytes, and no descriptor and no loan is left."""
    code = """
import os, sys
from procbench import ProcessTask, RunSettings, WorkStealingScheduler
from procbench.memory.region import _lent, settle
sys.setswitchinterval(1e-6)
with WorkStealingScheduler(RunSettings(workers=6, capture=True)) as sched:
    sched.submit(["true"]).result()
    before = len(os.listdir("/proc/self/fd"))
    tasks = [ProcessTask(["wc", "-c"], stdin=bytes(600_000 + number)) for number in range(500)]
    got = [future.result().stdout for future in [sched.submit(task) for task in tasks]]
    assert got == [b"%d\\n" % (600_000 + number) for number in range(500)]
    assert settle() == 0, settle()
    assert len(os.listdir("/proc/self/fd")) <= before + 6, os.listdir("/proc/self/fd")
print("nothing")
"""
    assert run_python(code) == "nothing"


def test_what_was_sent_is_freed_without_the_garbage_collector() -> None:
    """A mapping and its region go with the last name for them: nothing of a transfer holds them in a cycle."""
    gc.collect()
    gc.disable()
    try:
        mapping = MemoryMapping.anonymous(1 << 20)
        assert procbench.run(["wc", "-c"], input=mapping, capture_output=True).stdout == b"1048576\n"
        region = weakref.ref(mapping._open)
        settle()
        mapping.close()
        del mapping
        assert region() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("wrong", ["way", "cap", "place"])
def test_an_end_that_was_given_away_is_closed_also_when_it_is_refused(wrong: str, tmp_path: Path) -> None:
    """The end of a pipe is closed in any case, as the docstrings say."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    given, kept = (write_end, read_end) if wrong == "way" else (read_end, write_end)
    transfers: dict[str, Callable[[], object]] = {
        "way": lambda: send(b"x", write_end, transport="nonsense"),  # type: ignore[arg-type]
        "cap": lambda: receive(read_end, max_bytes=-1),
        "place": lambda: receive(read_end, tmp_path / "absent" / "file"),
    }
    with pytest.raises((InvalidInputError, FileNotFoundError)):
        transfers[wrong]()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given)
    os.close(kept)


def test_what_the_childs_owner_had_buffered_for_nobody_is_no_error() -> None:
    """L01: a Popen whose child is gone and whose stdin still buffers something is sent to as any dead child is."""
    child = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(b"buffered")
    child.wait()
    sent = send(b"x" * 100_000, child.stdin)
    assert (sent.error, sent.sent_bytes) == ("EPIPE", 0)


def test_an_absurd_pipe_size_is_as_large_as_the_kernel_allows() -> None:
    """L22: a size that no int holds is not cut down to its low bits."""
    result = procbench.run(["cat"], input=b"x", capture_output=True, pipe_size_bytes=2**40 + 4096)
    assert result.pipe_size_bytes is not None
    assert result.pipe_size_bytes >= linux.PIPE_DEFAULT_BYTES
    for size in (0, -1, 1.5, True):
        with pytest.raises(InvalidInputError, match="pipe_size_bytes"):
            procbench.run(["true"], pipe_size_bytes=size)  # type: ignore[arg-type]


def test_an_input_that_cannot_be_given_away_fails_its_task_alone() -> None:
    """Q08: a closed mapping, and one with a view, are failed results that say so; the other tasks run."""
    closed, viewed = MemoryMapping.anonymous(10), MemoryMapping.anonymous(1 << 20)
    closed.close()
    with viewed.writing(), WorkStealingScheduler(RunSettings(workers=1)) as sched:
        tasks = [ProcessTask(["cat"], stdin=closed), ProcessTask(["cat"], stdin=viewed), ProcessTask(["true"])]
        first, second, third = list(sched.map(tasks))
    assert first.error is not None
    assert second.error is not None
    assert (first.error.stage, second.error.stage, third.outcome) == ("input", "input", "succeeded")
    viewed.close()


# --- what makes no sense ----------------------------------------------------------------------------------------------

NO_TIMES: list[Any] = [-1, -0.1, float("nan"), float("inf"), "1", True, [1]]
NO_SIZES: list[Any] = [-1, 1.5, float("nan"), float("inf"), "1", True, [1]]
_started: list[int] = []


def started(fd: int) -> None:
    _started.append(fd)


REFUSED: dict[str, Callable[[Any], object]] = {
    "send timeout": lambda bad: send(b"x", started, timeout=bad),
    "receive timeout": lambda bad: receive(started, timeout=bad),
    "send pipe": lambda bad: send(b"x", started, pipe_size_bytes=bad),
    "receive pipe": lambda bad: receive(started, pipe_size_bytes=bad),
    "asend pipe": lambda bad: asyncio.run(asend(b"x", started, pipe_size_bytes=bad)),
    "areceive pipe": lambda bad: asyncio.run(areceive(started, pipe_size_bytes=bad)),
    "receive cap": lambda bad: receive(started, max_bytes=bad),
    "areceive cap": lambda bad: asyncio.run(areceive(started, max_bytes=bad)),
    "send source": lambda bad: send(bad, started),
    "asend source": lambda bad: asyncio.run(asend(bad, started)),
    "send transport": lambda bad: send(b"x", started, transport=bad),
    "send child": lambda bad: send(b"x", bad),
    "receive child": receive,
    "receive into": lambda bad: receive(started, into=bad),
    "areceive into": lambda bad: asyncio.run(areceive(started, into=bad)),
}
BAD: dict[str, list[Any]] = {
    "timeout": NO_TIMES,
    "pipe": [0, *NO_SIZES],
    "cap": NO_SIZES,
    "source": ["abc", 5, None, [b"x"], memoryview(b"abcd")[::2]],
    "transport": ["nonsense", None, 3, ["write"]],
    "child": ["abc", None, -1, True, 1.5, 1 << 40, object()],
    "into": [bytearray(9), b"path", 1.5, True, -1, 1 << 40, 999_999, [1], "a\0b", object()],
}


@pytest.mark.parametrize("call", REFUSED)
def test_what_makes_no_sense_is_refused_before_a_child_runs(call: str) -> None:
    """Every argument of the wrong kind or size is an InvalidInputError that names what was given, and starts nothing."""
    _started.clear()
    for bad in BAD[call.split()[1]]:
        with pytest.raises(InvalidInputError, match=r"; "):
            REFUSED[call](bad)
    assert _started == []


@pytest.mark.parametrize("call", ["source", "time", "into"])
def test_an_end_given_by_number_is_closed_when_the_rest_makes_no_sense(call: str) -> None:
    """What was handed over by number is closed, however wrong the other arguments are."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    given, kept = (read_end, write_end) if call == "into" else (write_end, read_end)
    transfers: dict[str, Callable[[], object]] = {
        "source": lambda: send("abc", write_end),  # type: ignore[arg-type]
        "time": lambda: send(b"x", write_end, timeout=float("nan")),
        "into": lambda: receive(read_end, bytearray(9)),  # type: ignore[arg-type]
    }
    with pytest.raises(InvalidInputError):
        transfers[call]()
    assert not linux.is_open(given)
    os.close(kept)
