"""Descriptors have one owner: a stale handle reaches nobody, what is lent again is nobody else's, and nothing leaks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import mmap
import os
import pickle
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from procbench.errors import (
    ClosedError,
    DescriptorsInUseError,
    DescriptorsSpentError,
    InvalidInputError,
    StaleDescriptorError,
)
from procbench.io import descriptors as descriptors_module
from procbench.io import fd_held
from procbench.io.budget import DescriptorBudget, shared_budget
from procbench.io.descriptors import DescriptorStatistics, FileDescriptorManager
from procbench.io.fd_handle import FdHandle
from procbench.io.fd_held import KINDS, Held
from procbench.io.fd_pool import FdPools
from tests.waiting import run_python, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::procbench.errors.DescriptorUsageWarning")


@pytest.fixture
def budget() -> Iterator[DescriptorBudget]:
    """A small one; whatever a test does, every permit comes back."""
    made = DescriptorBudget(20)
    yield made
    gc.collect()
    assert (made.in_use, made.waiting) == (0, 0)


@pytest.fixture
def manager(budget: DescriptorBudget) -> Iterator[FileDescriptorManager]:
    with FileDescriptorManager(budget, when_spent="fail", reuse=KINDS) as made:
        yield made


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_bytes(b"0123456789")
    return path


def counters(manager: FileDescriptorManager, kind: str) -> tuple[int, ...]:
    """Return (opened, reused, closed, in use, idle, leaked)."""
    now = getattr(manager.statistics(), kind)
    assert now.opened - now.closed == now.in_use + now.idle
    return now.opened, now.reused, now.closed, now.in_use, now.idle, now.leaked


# --- whose number it is ------------------------------------------------------------------------------------------------


def test_a_stale_handle_never_reaches_who_has_its_number_now(budget: DescriptorBudget, text: Path) -> None:
    """B09: close(a), open something that gets the same number, close(a) again: it raises, and the other file still works."""
    with FileDescriptorManager(budget, reuse=()) as manager:
        first = manager.open_file(text)
        number = first.fileno()
        first.close()
        other = os.open(text, os.O_RDONLY)
        assert other == number
        for call in (first.close, first.fileno, first.__enter__):
            with pytest.raises(StaleDescriptorError, match="generation 1 was closed"):
                call()
        assert os.read(other, 4) == b"0123"
        os.close(other)


def test_a_stale_handle_never_reaches_the_next_borrower(manager: FileDescriptorManager) -> None:
    """B09: a descriptor that is lent again has a new generation; the old handle raises and the new one works."""
    old = manager.open_memfd()
    old.close()
    new = manager.open_memfd()
    assert counters(manager, "memfd") == (1, 1, 0, 1, 0, 0)
    assert new.generation != old.generation
    with pytest.raises(StaleDescriptorError):
        old.close()
    os.write(new.fileno(), b"mine")
    new.close()


@pytest.mark.parametrize("kind", ["pipe", "memfd", "null", "file"])
def test_a_number_that_somebody_else_closed_is_left_alone(
    manager: FileDescriptorManager, text: Path, kind: str
) -> None:
    """B09: closed behind the handle's back and given to another file, the number is not closed a second time."""
    opened = {"memfd": manager.open_memfd, "null": manager.open_null, "file": lambda: manager.open_file(text)}
    ends = manager.open_pipe() if kind == "pipe" else None
    handle = ends[0] if ends else opened[kind]()
    number = handle.fileno()
    os.close(number)
    other = os.dup(2)
    assert other == number
    with pytest.raises(StaleDescriptorError, match="closed by somebody else"):
        handle.close()
    os.fstat(other)
    os.close(other)
    if ends:
        ends[1].close()  # is all that is left of the pipe, and may be proved to be
    assert counters(manager, kind)[3::2] == (0, 0)


def test_an_idle_number_that_somebody_else_closed_is_not_lent(manager: FileDescriptorManager, text: Path) -> None:
    """B09: what stands in a pool is looked at before it is lent; a number that means something else is dropped."""
    for kind in ("memfd", "null"):
        opened = getattr(manager, f"open_{kind}")
        handle = opened()
        handle.close()
        idle = manager._pools._pools[kind]._idle[0].fds[0]
        with text.open("rb") as file:
            other = os.dup2(file.fileno(), idle)
        with opened() as again:
            assert again.fileno() != other
        assert os.read(other, 3) == b"012"
        os.close(other)


def test_everybody_who_shares_null_learns_that_it_was_closed(manager: FileDescriptorManager) -> None:
    """B09: handles of a shared descriptor whose number somebody closed raise, each of them, and another is opened."""
    first, second = manager.open_null(), manager.open_null()
    os.close(first.fileno())
    third = manager.open_null()
    os.write(third.fileno(), b"x")
    assert third.fileno() == first._held.fds[0]  # the lowest free number again: only its age tells, not the kernel
    for handle in (first, second):
        handle.close()
    third.close()


def test_two_threads_that_close_at_the_same_time_close_once(budget: DescriptorBudget) -> None:
    """B09: of two closers of one handle exactly one reaches the kernel."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with FileDescriptorManager(budget) as manager:
            for _ in range(200):
                handle = manager.open_memfd()
                closed: list[bool] = []
                barrier = threading.Barrier(2)

                def close(handle: FdHandle = handle, closed: list[bool] = closed, barrier: Any = barrier) -> None:
                    barrier.wait()
                    try:
                        handle.close()
                        closed.append(True)
                    except StaleDescriptorError:
                        closed.append(False)

                threads = [threading.Thread(target=close) for _ in range(2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert sorted(closed) == [False, True]
    finally:
        sys.setswitchinterval(before)


# --- lending again ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("size", [None, 1 << 18])
def test_a_pipe_is_lent_again_as_new(manager: FileDescriptorManager, first: int, size: int | None) -> None:
    """Whichever end goes first: the pipe is kept, empty, blocking, close-on-exec and of the same size, and is no new one."""
    for turn in range(3):
        ends = manager.open_pipe(size)
        read_end, write_end = ends[0].fileno(), ends[1].fileno()
        assert os.get_blocking(read_end)
        assert os.get_blocking(write_end)
        assert not os.get_inheritable(read_end)
        assert not os.get_inheritable(write_end)
        assert fcntl.fcntl(read_end, fcntl.F_GETPIPE_SZ) == (size or 65536)
        os.write(write_end, b"x")
        assert os.read(read_end, 2) == b"x"
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        ends[first].close()
        ends[1 - first].close()
        assert counters(manager, "pipe") == (1, turn, 0, 0, 1, 0)
    other_size = manager.open_pipe(1 << 17)
    assert counters(manager, "pipe") == (2, 2, 0, 1, 1, 0)
    for end in other_size:
        end.close()


def test_a_closed_write_end_is_the_end_for_the_reader_at_once(manager: FileDescriptorManager) -> None:
    """That a pipe may be kept keeps nobody waiting: each end is really closed when its handle is."""
    read_end, write_end = manager.open_pipe()
    write_end.close()
    assert os.read(read_end.fileno(), 1) == b""
    read_end.close()
    read_end, write_end = manager.open_pipe()
    assert counters(manager, "pipe")[:2] == (1, 1)
    read_end.close()
    with pytest.raises(BrokenPipeError):
        os.write(write_end.fileno(), b"x")
    write_end.close()


def test_a_pipe_with_bytes_left_is_not_lent_again(manager: FileDescriptorManager) -> None:
    """The next borrower would read what was not written for it."""
    read_end, write_end = manager.open_pipe()
    os.write(write_end.fileno(), b"left")
    write_end.close()
    read_end.close()
    assert counters(manager, "pipe") == (1, 0, 1, 0, 0, 0)


def test_a_pipe_whose_size_was_changed_is_not_lent_again(manager: FileDescriptorManager) -> None:
    """Who asks for the default would get what another made of it."""
    read_end, write_end = manager.open_pipe()
    fcntl.fcntl(write_end.fileno(), fcntl.F_SETPIPE_SZ, 1 << 18)
    write_end.close()
    read_end.close()
    assert counters(manager, "pipe") == (1, 0, 1, 0, 0, 0)


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("how", ["duplicate", "socket", "reopen", "child"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_pipe_that_somebody_else_has_an_end_of_is_not_lent_again(
    manager: FileDescriptorManager, end: int, how: str, first: int
) -> None:
    """A duplicate, one in flight through a socket, one opened by /proc or one in a child: the kernel knows them all."""
    ends = manager.open_pipe()
    keeper = held_elsewhere(ends[end].fileno(), how, os.O_WRONLY if end else os.O_RDONLY)
    next(keeper)
    ends[first].close()
    ends[1 - first].close()
    assert counters(manager, "pipe") == (1, 0, 1, 0, 0, 0)
    keeper.close()


@pytest.mark.parametrize("how", ["duplicate", "socket", "reopen", "read only", "child", "mapping", "lock"])
def test_a_memory_file_that_somebody_else_has_is_not_lent_again(manager: FileDescriptorManager, how: str) -> None:
    """A duplicate, a child's, a mapping's, one opened by /proc: whoever could see the next borrower's bytes is noticed."""
    handle = manager.open_memfd(size_bytes=4096)
    keeper = held_elsewhere(handle.fileno(), how, os.O_RDONLY if how == "read only" else os.O_RDWR)
    next(keeper)
    handle.close()
    assert counters(manager, "memfd") == (1, 0, 1, 0, 0, 0)
    keeper.close()
    with manager.open_memfd(size_bytes=4096) as again:
        assert counters(manager, "memfd")[:2] == (2, 0)
        assert os.pread(again.fileno(), 1, 0) == b"\0"


def held_elsewhere(fd: int, how: str, flags: int) -> Iterator[None]:
    """Have somebody else hold ``fd`` until the generator is closed."""
    if how == "duplicate":
        copy = os.dup(fd)
        undo = lambda: os.close(copy)  # noqa: E731
    elif how == "socket":
        sender, receiver = socket.socketpair()
        socket.send_fds(sender, [b"x"], [fd])
        undo = lambda: (sender.close(), receiver.close())  # noqa: E731
    elif how in {"reopen", "read only", "lock"}:
        copy = os.open(f"/proc/self/fd/{fd}", flags)
        if how == "lock":
            fcntl.flock(copy, fcntl.LOCK_EX)
        undo = lambda: os.close(copy)  # noqa: E731
    elif how == "mapping":
        memory = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
        undo = memory.close
    else:
        gate_out, gate_in = os.pipe()
        child = subprocess.Popen(["cat"], stdin=gate_out, stdout=subprocess.DEVNULL, pass_fds=[fd])
        os.close(gate_out)
        undo = lambda: (os.close(gate_in), child.wait())  # noqa: E731
    try:
        yield
    finally:
        undo()


def test_a_memory_file_is_lent_again_as_new(manager: FileDescriptorManager) -> None:
    """Zeros at the start of a file of the size that was asked for, however the last borrower left it."""
    for turn in range(3):
        with manager.open_memfd(size_bytes=5) as handle:
            assert os.read(handle.fileno(), 9) == bytes(5)
            assert not os.get_inheritable(handle.fileno())
            assert not fcntl.fcntl(handle.fileno(), fcntl.F_GETFL) & os.O_APPEND
            other = os.open(f"/proc/self/fd/{handle.fileno()}", os.O_RDWR)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the proof's own lock is gone
            os.close(other)
            os.pwrite(handle.fileno(), b"secret of the last borrower", 0)
            fcntl.fcntl(handle.fileno(), fcntl.F_SETFL, os.O_APPEND)
        assert counters(manager, "memfd") == (1, turn, 0, 0, 1, 0)
    with manager.open_memfd("another name"):
        assert counters(manager, "memfd")[:2] == (2, 2)


@pytest.mark.parametrize("change", ["seal", "mode"])
def test_a_memory_file_that_was_changed_for_good_is_not_lent_again(manager: FileDescriptorManager, change: str) -> None:
    """A seal cannot be taken away, and the next would inherit another's permissions."""
    with manager.open_memfd(size_bytes=5) as handle:
        if change == "seal":
            fcntl.fcntl(handle.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        else:
            os.fchmod(handle.fileno(), 0o600)
    assert counters(manager, "memfd") == (1, 0, 1, 0, 0, 0)


def test_a_kernel_that_proves_nothing_gets_its_memory_file_closed(
    manager: FileDescriptorManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where leases are not known for memory files, none is lent again."""

    def refused(fd: int, command: int, *rest: Any) -> int:
        if command == fcntl.F_SETLEASE:
            raise OSError(errno.EINVAL, "no leases here")
        return fcntl.fcntl(fd, command, *rest)

    class WithoutLeases:
        def __getattr__(self, name: str) -> Any:
            return refused if name == "fcntl" else getattr(fcntl, name)

    monkeypatch.setattr(fd_held, "fcntl", WithoutLeases())
    manager.open_memfd().close()
    assert counters(manager, "memfd") == (1, 0, 1, 0, 0, 0)


def test_null_is_shared_and_kept(manager: FileDescriptorManager) -> None:
    """All handles have one descriptor, which stays open while one of them is and then waits for the next."""
    first, second = manager.open_null(), manager.open_null()
    assert first.fileno() == second.fileno()
    assert manager.budget.in_use == 1
    first.close()
    assert os.read(second.fileno(), 1) == b""
    os.write(second.fileno(), b"x")
    second.close()
    with manager.open_null():
        assert counters(manager, "null") == (1, 2, 0, 1, 0, 0)


def test_a_file_that_is_unchanged_is_lent_again_from_its_start(manager: FileDescriptorManager, text: Path) -> None:
    """The offset is the next borrower's own, even while a child still reads by the last one's."""
    with manager.open_file(text) as handle:
        assert os.read(handle.fileno(), 4) == b"0123"
        child = os.dup(handle.fileno())
    with manager.open_file(text) as handle:
        assert counters(manager, "file") == (1, 1, 0, 1, 0, 0)
        assert os.read(child, 3) == b"456"
        assert os.read(handle.fileno(), 99) == b"0123456789"
        assert os.read(child, 99) == b"789"
    os.close(child)


def test_a_lock_ends_with_its_handle(manager: FileDescriptorManager, text: Path) -> None:
    """That a file is kept does not keep what its borrower locked."""
    with manager.open_file(text) as handle:
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX)
    assert counters(manager, "file")[4] == 1
    with text.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("change", ["written", "replaced", "permissions", "removed"])
def test_a_file_that_changed_is_opened_anew(manager: FileDescriptorManager, text: Path, change: str) -> None:
    """Other bytes, another file of the same name, or another mode: what was kept is not what is asked for."""
    manager.open_file(text).close()
    if change == "written":
        with text.open("ab") as file:
            file.write(b"more")
    elif change == "replaced":
        text.with_name("new").write_bytes(b"9876543210")
        text.with_name("new").replace(text)
    elif change == "permissions":
        text.chmod(0o600)
    else:
        text.unlink()
        with pytest.raises(FileNotFoundError):
            manager.open_file(text)
        text.write_bytes(b"9876543210")
    with manager.open_file(text) as handle:
        assert counters(manager, "file")[:2] == (2, 0)
        assert os.read(handle.fileno(), 99) == text.read_bytes()


def test_a_file_that_may_be_written_or_is_gone_is_not_kept(manager: FileDescriptorManager, text: Path) -> None:
    """Neither are folders and FIFOs; a removed file's space would be kept with it."""
    manager.open_file(text, os.O_RDWR).close()
    manager.open_file(text.with_name("made"), os.O_WRONLY | os.O_CREAT, 0o600).close()
    assert text.with_name("made").stat().st_mode & 0o777 == 0o600
    manager.open_file(text.parent).close()
    with manager.open_file(text):
        text.write_bytes(b"changed")
    with manager.open_file(text):
        text.unlink()
    assert counters(manager, "file") == (5, 0, 5, 0, 0, 0)


def test_only_the_named_kinds_are_lent_again_and_no_more_than_were_asked_to_be_kept(budget: DescriptorBudget) -> None:
    """reuse and max_idle bound what is kept."""
    with FileDescriptorManager(budget, reuse=("memfd",), max_idle=2) as manager:
        first, second = manager.open_null(), manager.open_null()
        assert first.fileno() != second.fileno()
        for handle in (first, second, *[manager.open_memfd() for _ in range(3)]):
            handle.close()
        assert counters(manager, "null") == (2, 0, 2, 0, 0, 0)
        assert counters(manager, "memfd") == (3, 0, 1, 0, 2, 0)
        assert budget.in_use == 2


# --- the budget -------------------------------------------------------------------------------------------------------------


def test_handles_have_permits_and_give_them_back(manager: FileDescriptorManager) -> None:
    """Two for a pipe, one for each of its ends; what is idle keeps its own."""
    ends = manager.open_pipe()
    memory = manager.open_memfd()
    assert manager.budget.in_use == 3
    ends[0].close()
    assert manager.budget.in_use == 2
    ends[1].close()
    assert manager.budget.in_use == 3  # kept, with both ends
    memory.close()
    assert manager.clean_up() == 2
    assert manager.budget.in_use == 0


def test_a_spent_budget_fails_or_is_waited_for_as_was_chosen() -> None:
    """when_spent: at once an error with EMFILE, or the descriptor as soon as another is closed."""
    budget = DescriptorBudget(2)
    with FileDescriptorManager(budget, when_spent="fail") as failing, FileDescriptorManager(budget) as waiting:
        held = failing.open_memfd(), failing.open_memfd("other")
        with pytest.raises(DescriptorsSpentError) as caught:
            failing.open_null()
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(DescriptorsSpentError, match="in time"):
            waiting.open_null(timeout=0)
        got: list[FdHandle] = []
        thread = threading.Thread(target=lambda: got.extend(waiting.open_pipe()))
        thread.start()
        wait_until(lambda: budget.waiting == 1)
        for handle in held:
            handle.close()  # nothing is kept idle while somebody waits
        thread.join(20)
        assert len(got) == 2
        for handle in got:
            handle.close()
    assert budget.in_use == 0


def test_what_comes_back_while_somebody_waits_is_not_kept() -> None:
    """Shared or not: the permit goes to who waits."""
    budget = DescriptorBudget(1)
    with FileDescriptorManager(budget, reuse=KINDS) as manager:
        handle = manager.open_null()
        thread = threading.Thread(target=lambda: budget.acquire(lasting=True))
        thread.start()
        wait_until(lambda: budget.waiting == 1)
        handle.close()
        thread.join(20)
        assert counters(manager, "null") == (1, 0, 1, 0, 0, 0)
        budget.let_go()


def test_idle_descriptors_keep_nobody_waiting() -> None:
    """Whoever asks the budget, another manager or the scheduler, gets what is idle."""
    budget = DescriptorBudget(2)
    with FileDescriptorManager(budget, reuse=KINDS) as manager:
        manager.open_memfd().close()
        manager.open_null().close()
        assert budget.in_use == 2
        budget.acquire_nowait(2)
        assert counters(manager, "memfd") == (1, 0, 1, 0, 0, 0)
        budget.release(2)


def test_the_kernels_own_refusal_is_a_typed_error_and_opens_nothing(
    budget: DescriptorBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L19: ENFILE in spite of permits: idle ones are closed and it is tried once more; then it is DescriptorsSpentError."""
    with FileDescriptorManager(budget, reuse=KINDS) as manager:
        manager.open_null().close()
        calls: list[int] = []

        def refused(*_: object) -> list[int]:
            calls.append(1)
            raise OSError(errno.ENFILE, "the whole system has none")

        monkeypatch.setattr(descriptors_module, "_pipe", refused)
        with pytest.raises(DescriptorsSpentError, match="there were permits") as caught:
            manager.open_pipe()
        assert caught.value.errno == errno.ENFILE
        assert isinstance(caught.value.__cause__, OSError)
        assert len(calls) == 2
        with pytest.raises(DescriptorsSpentError):
            manager.open_pipe()
        assert len(calls) == 3  # nothing was idle any more
        assert counters(manager, "null") == (1, 0, 1, 0, 0, 0)
        assert budget.in_use == 0


def test_a_thousand_failures_leave_nothing_open() -> None:
    """L19: with a low RLIMIT_NOFILE, by budget and by kernel: each is a typed error, and not one descriptor is left."""
    said = run_python("""
import errno, os, resource, warnings
from procbench.errors import DescriptorsSpentError, DescriptorUsageWarning
from procbench.io.budget import DescriptorBudget, shared_budget
from procbench.io.descriptors import FileDescriptorManager
from procbench.io.fd_limit import count_open
warnings.simplefilter("ignore", DescriptorUsageWarning)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (32, hard))
before = count_open()
for budget, reuse in ((DescriptorBudget(10_000), ()), (DescriptorBudget(10_000), ("pipe", "memfd")), (shared_budget(), ())):
    with FileDescriptorManager(budget, when_spent="fail", reuse=reuse) as manager:
        held, failures = [], 0
        while failures < 1000:
            for opened in (manager.open_pipe, manager.open_memfd, manager.open_null, lambda: manager.open_file("/proc/stat")):
                try:
                    got = opened()
                    held += got if isinstance(got, tuple) else [got]
                except DescriptorsSpentError as error:
                    assert error.errno == errno.EMFILE
                    failures += 1
        assert len(held) == budget.in_use
        for handle in held: os.fstat(handle.fileno()); handle.close()
    assert budget.in_use == 0, budget.statistics()
    assert count_open() == before
print("ok")
""")
    assert said == "ok"


def test_descriptors_beyond_1024_are_as_good_as_others() -> None:
    """L21: with more than 1,024 open, pipes and files open, are lent again and are proved to be nobody else's."""
    said = run_python("""
import os, resource
from procbench.io.budget import DescriptorBudget
from procbench.io.descriptors import FileDescriptorManager
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
fill = [os.dup(2) for _ in range(1100)]
with FileDescriptorManager(DescriptorBudget(100), reuse=('pipe', 'memfd', 'null', 'file')) as manager:
    for _ in range(2):
        read_end, write_end = manager.open_pipe()
        assert read_end.fileno() > 1024
        os.write(write_end.fileno(), b"x")
        assert os.read(read_end.fileno(), 1) == b"x"
        write_end.close()
        read_end.close()
    assert manager.statistics().pipe.reused == 1
    assert manager.statistics().open_now > 1100
for fd in fill: os.close(fd)
print("ok")
""")
    assert said == "ok"


@pytest.mark.parametrize("size", [1 << 62, 1 << 63, 1 << 70])
def test_a_size_that_the_kernel_refuses_leaves_nothing(manager: FileDescriptorManager, size: int) -> None:
    """The memory file that could not be made so long is closed or idle, and not lost."""
    with contextlib.suppress(OSError):
        manager.open_memfd(size_bytes=size).close()
    assert counters(manager, "memfd")[3] == 0


# --- leaks, age and the end ----------------------------------------------------------------------------------------------------


def test_what_is_out_is_listed_with_its_age_and_who_took_it(budget: DescriptorBudget) -> None:
    """leaks names kind, number, age and, where traced, the calls that led there."""
    with FileDescriptorManager(budget, trace=True) as manager:
        handle = manager.open_null()
        ends = manager.open_pipe()
        first, *others = manager.leaks()
        assert (first.kind, first.fd) == ("null", handle.fileno())
        assert [other.fd for other in others] == [end.fileno() for end in ends]
        assert first.age_s >= others[0].age_s >= 0
        assert first.where is not None
        assert first.where.startswith("test_descriptors.py:")
        assert "in test_what_is_out_is_listed" in first.where.split(" < ")[0]
        assert manager.leaks(older_than_s=3600) == []
        for each in (handle, *ends):
            each.close()
        assert manager.leaks() == []


@pytest.mark.parametrize("trace", [False, True])
def test_a_forgotten_handle_is_closed_and_said_so(budget: DescriptorBudget, trace: bool) -> None:
    """Its descriptor is really closed, never lent again, and counted as leaked; the warning names kind and place."""
    with FileDescriptorManager(budget, trace=trace) as manager:
        handles = [manager.open_memfd()]
        number = handles[0].fileno()
        with pytest.warns(ResourceWarning, match=r"memfd descriptor.*was forgotten") as caught:
            handles.clear()
        assert ("test_descriptors.py" in str(caught[0].message)) == trace
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)
        assert counters(manager, "memfd") == (1, 0, 1, 0, 0, 1)
        assert manager.leaks() == []
        handles = list(manager.open_pipe())
        with pytest.warns(ResourceWarning, match="pipe's write end"):
            handles.pop()
        assert os.read(handles[0].fileno(), 1) == b""
        handles[0].close()


def test_a_handle_forgotten_inside_a_method_waits_for_nobody(budget: DescriptorBudget) -> None:
    """A garbage collection while the lock is held, by this thread or another, closes it as soon as the lock is free."""
    with FileDescriptorManager(budget) as manager:
        handles = [manager.open_memfd()]
        number = handles[0].fileno()
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with manager._pools._locked():
                entered.set()
                leave.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        entered.wait(20)
        with pytest.warns(ResourceWarning):
            handles.clear()
        os.fstat(number)
        leave.set()
        thread.join()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)
        assert counters(manager, "memfd")[5] == 1


def test_what_was_idle_for_long_is_really_closed(
    manager: FileDescriptorManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """clean_up goes by how long each was idle, not by the manager's age, and closes descriptors instead of forgetting them."""
    clock = [1000.0]
    monkeypatch.setattr("procbench.io.fd_pool.time.monotonic", lambda: clock[0])
    old, young = manager.open_memfd("old"), manager.open_memfd("young")
    number = old.fileno()
    old.close()
    clock[0] += 60
    young.close()
    clock[0] += 10
    number = manager._pools._pools["memfd"]._idle[0].fds[0]
    assert manager.clean_up(61) == 1
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
    assert counters(manager, "memfd") == (2, 0, 1, 0, 1, 0)
    assert manager.clean_up(0) == 1
    for wrong in (-1, float("nan"), "1"):
        with pytest.raises(InvalidInputError):
            manager.clean_up(wrong)  # type: ignore[arg-type]


def test_a_closed_manager_opens_nothing_and_one_in_use_is_not_closed(budget: DescriptorBudget) -> None:
    """Closing is refused while a handle is out and changes nothing then; afterwards it is final, and harmless twice."""
    manager = FileDescriptorManager(budget)
    handle = manager.open_memfd()
    idle = manager.open_null()
    idle.close()
    with pytest.raises(DescriptorsInUseError, match=f"memfd {handle.fileno()}"):
        manager.close()
    assert counters(manager, "null")[4] == 1
    handle.close()
    manager.close()
    manager.close()
    assert budget.in_use == 0
    for opened in (manager.open_pipe, manager.open_memfd, manager.open_null, lambda: manager.open_file("/")):
        with pytest.raises(ClosedError):
            opened()
    assert budget.in_use == 0


def test_closing_while_another_opens_leaves_nothing(budget: DescriptorBudget, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is being opened while the manager is closed is closed again, with its permits back."""
    manager = FileDescriptorManager(budget)

    def late(size_bytes: int | None) -> list[int]:
        manager.close()
        return list(os.pipe())

    monkeypatch.setattr(descriptors_module, "_pipe", late)
    with pytest.raises(ClosedError):
        manager.open_pipe()
    assert budget.in_use == 0


def test_a_forgotten_manager_closes_what_is_idle(budget: DescriptorBudget) -> None:
    """No descriptor and no permit stays behind with it."""
    manager = FileDescriptorManager(budget, reuse=KINDS)
    manager.open_memfd().close()
    ends = list(manager.open_pipe())
    while ends:
        ends.pop().close()
    assert budget.in_use == 3
    del manager
    gc.collect()
    assert budget.in_use == 0


def test_words_and_numbers_that_make_no_sense_are_refused(budget: DescriptorBudget) -> None:
    """Each says what would do."""
    for wrong in ({"when_spent": "later"}, {"reuse": ("socket",)}, {"reuse": "pipe"}, {"max_idle": -1}):
        with pytest.raises(InvalidInputError):
            FileDescriptorManager(budget, **wrong)  # type: ignore[arg-type]
    with FileDescriptorManager(budget) as manager:
        for call in (
            lambda: manager.open_pipe(0),
            lambda: manager.open_memfd(size_bytes=-1),
            lambda: manager.open_null(timeout=-1),
            lambda: manager.leaks(-1),
        ):
            with pytest.raises(InvalidInputError):
                call()


def test_statistics_say_how_much_of_the_limit_is_used(manager: FileDescriptorManager) -> None:
    """usage is what the process has of what the kernel lets it have; statistics and errors pickle."""
    now = manager.statistics()
    assert now.open_now is not None
    assert now.usage == pytest.approx(now.open_now / now.limit)
    assert isinstance(pickle.loads(pickle.dumps(now)), DescriptorStatistics)
    error = pickle.loads(pickle.dumps(StaleDescriptorError("closed")))
    assert isinstance(error, ValueError)
    assert FileDescriptorManager().budget is shared_budget()


def test_eight_threads_share_a_manager(budget: DescriptorBudget, text: Path) -> None:
    """Opened, lent again, closed, forgotten and cleaned up by eight threads on few permits: nothing is mixed up or left."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    errors: list[BaseException] = []
    with FileDescriptorManager(budget, reuse=KINDS, max_idle=3) as manager:

        def work(seed: int) -> None:
            chance = random.Random(seed)
            try:
                for turn in range(60):
                    kind = chance.choice(["pipe", "memfd", "null", "file", "clean"])
                    mark = f"{seed}.{turn}".encode()
                    if kind == "pipe":
                        read_end, write_end = manager.open_pipe()
                        os.write(write_end.fileno(), mark)
                        assert os.read(read_end.fileno(), 99) == mark
                        for end in chance.sample([read_end, write_end], 2):
                            end.close()
                    elif kind == "memfd":
                        with manager.open_memfd() as handle:
                            assert os.read(handle.fileno(), 1) == b""
                            os.write(handle.fileno(), mark)
                            assert os.pread(handle.fileno(), 99, 0) == mark
                    elif kind == "null":
                        with manager.open_null() as handle:
                            os.write(handle.fileno(), mark)
                    elif kind == "file":
                        with manager.open_file(text) as handle:
                            assert os.read(handle.fileno(), 99) == b"0123456789"
                    else:
                        manager.clean_up(chance.choice([0, 0.001]))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        sys.setswitchinterval(before)
        assert errors == []
        for kind in ("pipe", "memfd", "null", "file"):
            assert counters(manager, kind)[3::2] == (0, 0)


# --- a model, and what it must catch ------------------------------------------------------------------------------------------


class ManagerMachine(RuleBasedStateMachine):
    """Drives a manager with seven permits beside a model: which handles are out, which of them somebody else holds too."""

    make = FileDescriptorManager

    def __init__(self) -> None:
        super().__init__()
        self.budget = DescriptorBudget(7)
        self.manager = self.make(self.budget, when_spent="fail", reuse=KINDS, max_idle=2)
        self.out: list[FdHandle] = []
        self.stale: list[FdHandle] = []
        self.copies: dict[int, bytes] = {}
        self.mark = 0

    @rule(kind=st.sampled_from(["memfd", "null", "file"]))
    def open_one(self, kind: str) -> None:
        opened = {
            "memfd": self.manager.open_memfd,
            "null": self.manager.open_null,
            "file": lambda: self.manager.open_file(__file__),
        }
        try:
            handle = opened[kind]()
        except DescriptorsSpentError:
            assert len({other.fileno() for other in self.out}) == 7
            return
        self.out.append(handle)
        if kind == "memfd":
            assert os.fstat(handle.fileno()).st_size == 0
            assert os.lseek(handle.fileno(), 0, os.SEEK_CUR) == 0
        elif kind == "file":
            assert os.lseek(handle.fileno(), 5, os.SEEK_CUR) == 5

    @rule()
    def open_pipe(self) -> None:
        try:
            ends = self.manager.open_pipe()
        except DescriptorsSpentError:
            assert len({other.fileno() for other in self.out}) >= 6
            return
        self.out += ends
        self.mark = self.mark % 255 + 1
        os.write(ends[1].fileno(), bytes([self.mark]))
        assert os.read(ends[0].fileno(), 9) == bytes([self.mark])

    @precondition(lambda self: any(handle.kind == "memfd" for handle in self.out) and len(self.copies) < 4)
    @rule(data=st.data())
    def give_to_somebody_else(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from([handle for handle in self.out if handle.kind == "memfd"]))
        self.mark = self.mark % 255 + 1
        content = bytes([self.mark]) * 3
        os.pwrite(handle.fileno(), content, 0)
        for copy in self.copies:
            if os.path.sameopenfile(copy, handle.fileno()):
                self.copies[copy] = content
        self.copies[os.dup(handle.fileno())] = content

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        handle = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        handle.close()
        self.stale.append(handle)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def close_again(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(self.stale))
        for call in (handle.close, handle.fileno):
            with pytest.raises(StaleDescriptorError):
                call()

    @rule()
    def clean_up(self) -> None:
        self.manager.clean_up()
        assert self.budget.in_use == len({handle.fileno() for handle in self.out})

    @invariant()
    def everything_out_is_open_and_counted(self) -> None:
        for handle in self.out:
            os.fstat(handle.fileno())
        for copy, content in self.copies.items():
            assert os.pread(copy, 9, 0) == content
        now = self.manager.statistics()
        idle = 0
        for kind in ("pipe", "memfd", "null", "file"):
            each = getattr(now, kind)
            assert each.opened - each.closed == each.in_use + each.idle
            assert each.leaked == 0
            assert each.idle <= 2
            idle += each.idle * (2 if kind == "pipe" else 1)
        assert self.budget.in_use == len({handle.fileno() for handle in self.out}) + idle
        assert sorted(leak.fd for leak in self.manager.leaks()) == sorted(handle.fileno() for handle in self.out)

    def teardown(self) -> None:
        for copy in self.copies:
            os.close(copy)
        for handle in self.out:
            handle.close()
        self.manager.close()
        assert self.budget.in_use == 0


QUICK = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
# For a defect that must be found on every run; it ends at the first failure.
SEEDED = hypothesis_settings(QUICK, max_examples=2000, phases=[Phase.generate])
TestManagerMachine = ManagerMachine.TestCase
TestManagerMachine.settings = QUICK


def _always_free(held: Held) -> bool:
    if held.kind == "memfd":
        os.ftruncate(held.fds[0], 0)
        os.lseek(held.fds[0], 0, os.SEEK_SET)
        return True
    return False


def _offset_kept(held: Held) -> bool:
    return held.kind == "file"


def _permits_kept(pools: FdPools, held: Held) -> None:
    held.permits = sum(fd >= 0 for fd in held.fds)


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [(Held, "renew", _always_free), (Held, "renew", _offset_kept), (FdPools, "_pay_back", _permits_kept)],
)
def test_the_machine_catches_a_seeded_defect(
    where: type, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager that lends what a child has, a file in its middle, or forgets permits fails the machine."""
    monkeypatch.setattr(where, name, broken)

    class Machine(ManagerMachine):
        def teardown(self) -> None:
            for copy in self.copies:
                os.close(copy)
            for handle in self.out:
                handle.close()
            self.manager.clean_up()

    with pytest.raises(BaseException, match=r"assert|DID NOT RAISE|flaky|Flaky|distinct"):
        run_state_machine_as_test(Machine, settings=SEEDED)
