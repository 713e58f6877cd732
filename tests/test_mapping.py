"""Mappings share memory by slices, keep it as it is while it is lent, and refuse what would break that."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import pickle
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from procbench.errors import (
    ClosedError,
    InvalidInputError,
    MappingError,
    MappingLentError,
    MappingSealedError,
    MappingTruncatedError,
)
from procbench.memory import region as region_module
from procbench.memory.mapping import MemoryMapping
from procbench.memory.region import settle
from tests.waiting import run_python

PAGE = mmap.PAGESIZE
SIZES = [0, 1, PAGE - 1, PAGE, PAGE + 1]
PATTERN = bytes(range(251)) * 40


def filled(mapping: MemoryMapping) -> MemoryMapping:
    with mapping.writing() as view:
        view[:] = (PATTERN * (len(view) // len(PATTERN) + 1))[: len(view)]
    return mapping


def make(kind: str, size: int, folder: Path) -> MemoryMapping:
    data = (PATTERN * (size // len(PATTERN) + 1))[:size]
    if kind == "wrapped":
        return MemoryMapping.wrap(data)
    if kind == "file":
        (folder / "file").write_bytes(data)
        return MemoryMapping.file(folder / "file")
    return filled(getattr(MemoryMapping, kind)(size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["anonymous", "memfd", "wrapped", "file"])
def test_every_kind_at_every_size_has_its_bytes(kind: str, size: int, tmp_path: Path) -> None:
    """B08: nothing, one byte, and a page more or less: the bytes, a slice and a sealed snapshot are right, then it is gone."""
    want = (PATTERN * 2)[:size]
    with make(kind, size, tmp_path) as mapping:
        assert (mapping.kind, mapping.offset, len(mapping), mapping.size_bytes) == (kind, 0, size, size)
        assert mapping.tobytes() == want
        with mapping[1:-1] as middle, mapping.snapshot() as copy:
            assert middle.tobytes() == want[1:-1]
            assert (middle.id, middle.offset) == (mapping.id, min(1, size))
            assert middle.to_end is (size <= 1)
            assert copy.tobytes() == want
            assert copy.sealed
            assert copy.immutable
            assert copy.id != mapping.id
        with mapping.reading() as view:
            assert view.readonly
    assert mapping.closed
    mapping.close()
    with pytest.raises(ClosedError):
        mapping.tobytes()


def test_a_slice_is_the_same_memory(tmp_path: Path) -> None:
    """What is written through a slice of a slice stands in the whole; the memory goes with the last of them."""
    whole = MemoryMapping.anonymous(100)
    inner = whole[10:50][5:10]
    with inner.writing() as view:
        view[:] = b"inner"
    assert whole.tobytes()[15:20] == b"inner"
    assert inner.offset == 15
    whole.close()
    assert inner.tobytes() == b"inner"
    inner.close()
    for bad in (1, slice(0, 10, 2)):
        with pytest.raises(InvalidInputError, match="sliced"):
            MemoryMapping.wrap(b"x" * 20)[bad]  # type: ignore[index]


def test_wrapping_copies_nothing_and_only_reads() -> None:
    """The owner's change is seen through the mapping; writing through it is refused; what holds no bytes is refused."""
    data = bytearray(b"abc")
    mapping = MemoryMapping.wrap(data)
    data[0] = 0x7A
    assert mapping.tobytes() == b"zbc"
    assert not mapping.immutable
    assert MemoryMapping.wrap(b"abc").immutable
    with pytest.raises(MappingSealedError), mapping.writing():
        pass
    with pytest.raises(InvalidInputError, match="cannot be wrapped"):
        MemoryMapping.wrap("text")
    with pytest.raises(InvalidInputError):
        MemoryMapping.wrap(memoryview(b"abcdef")[::2])


@pytest.mark.parametrize("size", [-1, 1.5, True, "1"])
def test_a_size_that_is_none_is_refused(size: object) -> None:
    """A size is a whole number of at least 0."""
    for kind in (MemoryMapping.anonymous, MemoryMapping.memfd):
        with pytest.raises(InvalidInputError):
            kind(size)  # type: ignore[operator]


@pytest.mark.parametrize("size", [1 << 50, 1 << 70])
def test_more_memory_than_there_is_is_a_typed_error(size: int) -> None:
    """B10: what the kernel refuses, or what no address reaches, is a MappingError."""
    with pytest.raises(MappingError) as refused:
        MemoryMapping.anonymous(size)
    assert refused.value.errno == errno.ENOMEM
    assert type(pickle.loads(pickle.dumps(refused.value))) is MappingError


@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
def test_resizing_keeps_the_bytes(kind: str, tmp_path: Path) -> None:
    """Longer brings zeros, shorter drops, zero and back works; a slice, or what slices share, is refused."""
    with make(kind, PAGE, tmp_path) as mapping:
        before = mapping.tobytes()
        mapping.resize(3 * PAGE + 1)
        assert mapping.tobytes() == before + bytes(2 * PAGE + 1)
        mapping.resize(7)
        assert mapping.tobytes() == before[:7]
        mapping.resize(8)
        assert mapping.tobytes() == before[:7] + b"\0"
        mapping.resize(0)
        mapping.resize(9)
        assert mapping.tobytes() == bytes(9)
        with mapping[2:4], pytest.raises(MappingLentError, match="share"):
            mapping.resize(1)
        mapping.seal()
        with pytest.raises(MappingSealedError):
            mapping.resize(1)
    part = MemoryMapping.anonymous(10)[1:3]
    gc.collect()
    with pytest.raises(InvalidInputError, match="slice"):
        part.resize(1)


def test_a_sealed_memfd_cannot_be_changed_by_anybody() -> None:
    """B02: after seal() the kernel refuses write, truncate and a writable mapping, also to who has its descriptor."""
    with filled(MemoryMapping.memfd(PAGE)).seal() as sealed:
        descriptor = os.open(f"/proc/self/fd/{sealed.fd}", os.O_RDWR)
        try:
            for attempt in (
                lambda: os.pwrite(descriptor, b"x", 0),
                lambda: os.ftruncate(descriptor, 1),
                lambda: os.ftruncate(descriptor, 2 * PAGE),
                lambda: mmap.mmap(descriptor, PAGE),
            ):
                with pytest.raises(PermissionError):
                    attempt()
        finally:
            os.close(descriptor)
        with pytest.raises(MappingSealedError), sealed.writing():
            pass
        assert sealed.seal() is sealed
        assert sealed.tobytes() == PATTERN[:PAGE]


def test_a_snapshot_is_not_changed_with_its_file(tmp_path: Path) -> None:
    """B02: a file that is overwritten afterwards is seen through its mapping, and not through the snapshot."""
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with MemoryMapping.file(path) as mapping, mapping[1:].snapshot() as copy:
        path.write_bytes(b"AFTER!")
        assert mapping.tobytes() == b"AFTER!"
        assert copy.tobytes() == b"efore"


def test_a_file_that_became_shorter_is_a_typed_error() -> None:
    """B03: another process truncates the file; reading raises MappingTruncatedError, and the interpreter lives."""
    code = """
import subprocess, tempfile
from procbench.errors import MappingTruncatedError
from procbench.memory.mapping import MemoryMapping
with tempfile.NamedTemporaryFile() as file:
    file.write(bytes(3 << 20)); file.flush()
    mapping = MemoryMapping.file(file.name)
    subprocess.run(["truncate", "-s", "5000", file.name], check=True)
    assert mapping[:5000].tobytes() == bytes(5000)
    for read in (mapping.tobytes, mapping.snapshot, mapping.reading().__enter__):
        try:
            read()
        except MappingTruncatedError:
            continue
        raise SystemExit(f"{read} did not notice")
    mapping.close()
print("alive")
"""
    assert run_python(code) == "alive"


def test_only_regular_files_are_mapped(tmp_path: Path) -> None:
    """A pipe, a folder and a missing file are refused, without waiting and without a descriptor left."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(InvalidInputError, match="regular"):
            MemoryMapping.file(path)
    with pytest.raises(FileNotFoundError):
        MemoryMapping.file(tmp_path / "missing")
    with (tmp_path / "file").open("wb+") as file:
        file.write(b"abc")
        file.flush()
        with MemoryMapping.file(file.fileno()) as mapping:
            assert mapping.tobytes() == b"abc"


# --- views and loans --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
def test_a_view_that_lives_is_counted(kind: str, tmp_path: Path) -> None:
    """B05: a slice of a view that outlived its block keeps the memory from being lent, resized, sealed and closed."""
    mapping = make(kind, 100, tmp_path)
    with mapping.writing() as view:
        escaped = view[3:9]
    assert mapping.viewed
    for attempt in (lambda: mapping.lend(lambda: False), lambda: mapping.resize(1), mapping.seal, mapping.close):
        with pytest.raises(MappingLentError, match="view"):
            attempt()
    with pytest.raises(BufferError), mapping:
        pass
    escaped[0] = 1  # still the mapping's own memory
    assert mapping.tobytes()[3] == 1
    escaped.release()
    assert not mapping.viewed
    mapping.close()


def test_what_is_lent_refuses_every_change() -> None:
    """B01: until the loan is over, writing, resizing, sealing and closing are refused; reading and slicing go on."""
    needed = [True]
    mapping = filled(MemoryMapping.anonymous(PAGE))
    part = mapping[10:20]
    mapping.lend(lambda: bool(needed))
    for attempt in (mapping.writing().__enter__, part.writing().__enter__, mapping.seal):
        with pytest.raises(MappingLentError):
            attempt()
    part.close()
    for attempt in (lambda: mapping.resize(1), mapping.close):
        with pytest.raises(MappingLentError):
            attempt()
    assert mapping.lent
    assert mapping.tobytes() == PATTERN[:PAGE]
    needed.clear()
    assert not mapping.lent
    mapping.close()


def test_what_is_lent_lives_on_when_everybody_forgot_it() -> None:
    """B07: a lent region that nobody names any more stays, without and with a block, and goes once the loan is over."""
    needed = [True]
    with MemoryMapping.anonymous(PAGE) as mapping:
        mapping.lend(lambda: bool(needed))
        kept = weakref.ref(mapping._region)
    assert mapping.closed
    other = MemoryMapping.memfd(PAGE)
    other.lend(lambda: bool(needed))
    del mapping, other
    gc.collect()
    assert kept() is not None
    assert settle() == 2
    needed.clear()
    assert settle() == 0
    gc.collect()
    assert kept() is None


def test_many_threads_lend_and_give_back() -> None:
    """Eight threads lend and end loans at a switch interval of 1 µs; afterwards nothing is lent and nothing is left."""
    mapping = MemoryMapping.anonymous(PAGE)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(60):
                lease = mapping.lend(lambda: True)
                with pytest.raises(MappingLentError), mapping.writing():
                    pass
                lease.end()
                lease.end()
        except BaseException as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert errors == []
    assert not mapping.lent
    assert settle() == 0
    mapping.close()


def test_a_thousand_loans_do_not_make_the_next_one_dear() -> None:
    """B07: a loan asks after two others at most, however many are out; none ends early, and all go as others come."""
    asked: list[int] = []
    needed = dict.fromkeys(range(2_000), True)

    def lend(number: int) -> weakref.ref[object]:
        mapping = MemoryMapping.anonymous(1)

        def remain() -> bool:
            asked.append(number)
            return needed[number]

        mapping.lend(remain)
        return weakref.ref(mapping._open)

    regions = []
    for number in range(1_000):
        asked.clear()
        regions.append(lend(number))
        assert len(asked) <= 2
    gc.collect()
    assert all(region() is not None for region in regions)
    needed.update(dict.fromkeys(range(1_000), False))
    for number in range(1_000, 2_000):
        lend(number)
    gc.collect()
    assert all(region() is None for region in regions)
    needed.update(dict.fromkeys(needed, False))
    assert settle() == 0


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """Every argument of the wrong kind is an InvalidInputError, and no file is opened for it."""
    bad: Any
    released = memoryview(b"x")
    released.release()
    for bad in ("text", 5, None, [b"x"], memoryview(b"abcd")[::2], released):
        with pytest.raises(InvalidInputError, match=r"; "):
            MemoryMapping.wrap(bad)
    for bad in (None, 1.5, True, -1, 1 << 40, [1], "a\0b", tmp_path):
        with pytest.raises(InvalidInputError, match=r"; "):
            MemoryMapping.file(bad)
    with MemoryMapping.anonymous(PAGE) as mapping:
        for bad in (-1, 1.5, True, "1", None, float("nan")):
            for call in (MemoryMapping.anonymous, MemoryMapping.memfd, mapping.populate, mapping.resize):
                with pytest.raises(InvalidInputError, match=r"; "):
                    call(bad)
        for bad in (0, slice("a"), slice(0, 9, 2), None):
            with pytest.raises(InvalidInputError):
                mapping[bad]
        for bad in (None, 1, "remain"):
            with pytest.raises(InvalidInputError, match=r"; "):
                mapping.lend(bad)
        assert not mapping.lent


class MappingMachine(RuleBasedStateMachine):
    """Drives one mapping, its slices, views and loans, beside a model that is a bytearray and a few counts."""

    def __init__(self) -> None:
        super().__init__()
        self.views: list[memoryview] = []
        self.loans: list[list[bool]] = []
        self.sealed = self.closed = False

    @initialize(kind=st.sampled_from(["anonymous", "memfd"]), size=st.integers(0, 2 * PAGE))
    def begin(self, kind: str, size: int) -> None:
        self.mapping = getattr(MemoryMapping, kind)(size)
        self.model = bytearray(size)

    def refused_when(self, condition: bool, attempt: object, error: type[BaseException] = MappingLentError) -> bool:
        if not condition:
            attempt()  # type: ignore[operator]
            return False
        with pytest.raises(error):
            attempt()  # type: ignore[operator]
        return True

    @property
    def lent(self) -> bool:
        return any(self.loans)

    @property
    def viewed(self) -> bool:
        return any(len(view) for view in self.views)

    @precondition(lambda self: not self.closed)
    @rule(start=st.integers(-9, 2 * PAGE), stop=st.integers(-9, 2 * PAGE), byte=st.integers(0, 255))
    def write(self, start: int, stop: int, byte: int) -> None:
        piece = self.mapping[start:stop]

        def attempt() -> None:
            with piece.writing() as view:
                view[:] = bytes([byte]) * len(view)

        error = MappingSealedError if self.sealed else MappingLentError
        if not self.refused_when(self.sealed or self.lent, attempt, error):
            length = len(self.model[start:stop])
            self.model[start:stop] = bytes([byte]) * length
        piece.close()

    @precondition(lambda self: not self.closed and not self.sealed and not self.lent and self.model)
    @rule(start=st.integers(0, 99))
    def let_a_view_escape(self, start: int) -> None:
        with self.mapping.writing() as view:
            self.views.append(view[start:])
            if not len(self.views[-1]):
                self.views.pop().release()

    @precondition(lambda self: self.views)
    @rule()
    def drop_a_view(self) -> None:
        self.views.pop().release()

    @precondition(lambda self: not self.closed)
    @rule()
    def lend(self) -> None:
        needed = [True]
        if not self.refused_when(self.viewed and not self.sealed, lambda: self.mapping.lend(lambda: bool(needed))):
            self.loans.append(needed)

    @precondition(lambda self: self.loans)
    @rule()
    def drain(self) -> None:
        self.loans.pop(0).clear()

    @precondition(lambda self: not self.closed)
    @rule(size=st.integers(0, 3 * PAGE))
    def resize(self, size: int) -> None:
        error = MappingSealedError if self.sealed else MappingLentError
        refused = self.sealed or self.lent or self.viewed
        if not self.refused_when(refused, lambda: self.mapping.resize(size), error):
            self.model = bytearray(bytes(self.model[:size]).ljust(size, b"\0"))

    @precondition(lambda self: not self.closed)
    @rule()
    def seal(self) -> None:
        if not self.refused_when(not self.sealed and (self.lent or self.viewed), self.mapping.seal):
            self.sealed = True

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        if not self.refused_when(self.lent or self.viewed, self.mapping.close):
            self.closed = True

    @precondition(lambda self: self.closed)
    @rule(kind=st.sampled_from(["anonymous", "memfd"]), size=st.integers(0, 2 * PAGE))
    def begin_again(self, kind: str, size: int) -> None:
        self.sealed = self.closed = False
        self.begin(kind, size)

    @invariant()
    def the_bytes_are_the_models(self) -> None:
        if not self.closed:
            assert self.mapping.tobytes() == bytes(self.model)
            assert len(self.mapping) == len(self.model)
            assert self.mapping.lent is self.lent
            assert self.mapping.viewed is self.viewed

    def teardown(self) -> None:
        for view in self.views:
            view.release()
        for needed in self.loans:
            needed.clear()
        if not getattr(self, "closed", True):
            self.mapping.close()
        assert settle() == 0


TestMappingMachine = MappingMachine.TestCase
TestMappingMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_the_machine_finds_a_mapping_that_lends_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """B01: the state machine sees early reuse when a region is broken so that a loan does not keep it from being written."""
    monkeypatch.setattr(region_module.Region, "lent", lambda self: False)
    machine = type("Broken", (MappingMachine,), {}).TestCase("runTest")
    machine.settings = settings(
        max_examples=60, stateful_step_count=25, deadline=None, database=None, report_multiple_bugs=False
    )
    with pytest.raises(BaseException, match=r"DID NOT RAISE|assert"):
        machine.runTest()
    monkeypatch.undo()
    gc.collect()
    for region in tuple(region_module._lent):
        for lease in tuple(region.leases):
            lease.end()


# --- kernels that lack something --------------------------------------------------------------------------------------


def strace(*injections: str) -> tuple[str, ...]:
    calls = ",".join({injection.partition(":")[0] for injection in injections})
    options = [option for injection in injections for option in ("-e", f"inject={injection}")]
    probe = subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("strace may not trace here")
    return ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", *options)


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_without_memfd_there_is_memory_and_it_says_so(error: str) -> None:
    """B10: where memfd_create(2) is missing, or forbidden, memfd() and snapshot() are anonymous memory, and name the errno."""
    code = """
from procbench.memory.mapping import MemoryMapping
mapping = MemoryMapping.memfd(5)
print(mapping.kind, mapping.fallback, mapping.fd)
copy = MemoryMapping.wrap(b"abc").snapshot()
print(copy.kind, copy.fallback, copy.sealed, copy.tobytes())
"""
    said = run_python(code, before=strace(f"memfd_create:error={error}"))
    assert said.splitlines() == [f"anonymous {error} None", f"anonymous {error} True b'abc'"]


def test_without_huge_pages_or_populating_there_is_memory() -> None:
    """B10: where madvise(2) knows neither, the memory is there all the same, and the mapping says what it did not get."""
    code = """
from procbench.memory.mapping import MemoryMapping
with MemoryMapping.anonymous(4 << 20, huge_pages=True, populate=True) as mapping:
    print(mapping.huge_pages, mapping.populated, len(mapping.tobytes()))
"""
    assert run_python(code, before=strace("madvise:error=EINVAL")) == f"False False {4 << 20}"


def test_a_truncated_file_is_not_forgotten_when_pickled() -> None:
    """The errors go through pickle with their errno."""
    for kind in (MappingTruncatedError, MappingLentError, MappingSealedError):
        again = pickle.loads(pickle.dumps(kind(errno.EBUSY, "because")))
        assert type(again) is kind
        assert again.errno == errno.EBUSY


def test_more_than_two_gibibytes() -> None:
    """B08: 3 GiB of holes: offsets and lengths over 2**31 and 2**32 bits are right, and cost no memory."""
    size = 3 << 30
    with MemoryMapping.memfd(size) as mapping, mapping[size - 4 :] as end:
        with end.writing() as view:
            view[:] = b"end!"
        assert len(mapping) == size
        assert mapping[size - 6 : size].tobytes() == b"\0\0end!"
    with MemoryMapping.anonymous(size) as mapping:
        assert mapping[size - 1 :].tobytes() == b"\0"


@pytest.mark.parametrize("kind", ["memfd", "file"])
def test_a_second_close_never_closes_somebody_elses_descriptor(kind: str, tmp_path: Path) -> None:
    """B09: a closed mapping, its slices and its finalizer have forgotten the number, which is another file's by now."""
    mapping = make(kind, PAGE, tmp_path)
    piece = mapping[1:]
    number = mapping.fd
    assert number is not None
    mapping.close()
    piece.close()
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        assert other == number
        mapping.close()
        piece.close()
        with pytest.raises(ClosedError):
            mapping.read_fd()
        del mapping, piece
        gc.collect()
        os.fstat(other)
    finally:
        os.close(other)


@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
def test_a_size_that_the_kernel_refuses_changes_nothing(kind: str) -> None:
    """B10: after a refused resize, also from nothing, the mapping is what it was and can be resized."""
    for size in (0, PAGE):
        with getattr(MemoryMapping, kind)(size) as mapping:
            with pytest.raises(MappingError):
                mapping.resize(2**62)
            assert len(mapping) == size
            mapping.resize(10)
            assert mapping.tobytes() == bytes(10)
    with pytest.raises(MappingError):
        getattr(MemoryMapping, kind)(2**63)
