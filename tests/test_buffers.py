"""Buffers are lent to one borrower at a time, to who waits in order, and every misuse has a name."""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pickle import PickleBuffer
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from procbench import RunSettings, WorkStealingScheduler, run
from procbench.errors import (
    BufferInUseError,
    BufferReleasedError,
    BufferSizeError,
    ClosedError,
    DoubleReleaseError,
    ForeignBufferError,
    InvalidInputError,
    MappingError,
    PoolExhaustedError,
)
from procbench.io import runner as runner_module
from procbench.io.order import Limits, Order
from procbench.io.runner import ChildRunner
from procbench.memory.async_buffers import AsyncBufferPool
from procbench.memory.buffers import BufferPool
from procbench.memory.lease import PooledBuffer
from tests.waiting import run_python, wait_until


@pytest.fixture
def pool() -> Iterator[BufferPool]:
    made = BufferPool(4096, 2)
    yield made
    made.close()


def together(*bodies: object) -> None:
    """Run each in a thread and raise what one of them raised."""
    errors: list[BaseException] = []

    def guarded(body: object) -> None:
        try:
            body()  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# --- one borrower --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 63, 64, 4095, 4096, 4097, 65536, (1 << 20) + 1])
def test_every_size_is_lent_whole_and_borrowers_do_not_meet(size: int) -> None:
    """B08: buffers of any size, page and cache line plus or minus one, are disjoint and writable to their last byte."""
    pool = BufferPool(size, 3)
    held = [pool.acquire_nowait() for _ in range(3)]
    for number, buffer in enumerate(held):
        assert buffer.size_bytes == buffer.view.nbytes == size
        buffer.view[:] = bytes([number + 1]) * size
    for number, buffer in enumerate(held):
        assert bytes(buffer.view) == bytes([number + 1]) * size
        buffer.release()
    pool.close()


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_a_view_is_as_long_as_was_asked_for(pool: BufferPool, size: int) -> None:
    """A borrower that needs less gets a shorter view, of nothing too, and no more than the buffer."""
    with pool.lend(size) as view:
        assert len(view) == size
    with pool.acquire(size_bytes=size) as view:
        assert view.nbytes == size
    for call in (pool.acquire, pool.acquire_nowait):
        with pytest.raises(BufferSizeError, match="4097"):
            call(size_bytes=4097)
    with pytest.raises(InvalidInputError):
        pool.acquire(size_bytes=-1)
    assert pool.statistics().available == 2


def test_a_returned_buffer_has_its_full_length_again(pool: BufferPool) -> None:
    """The next borrower of a buffer that was lent in part gets all of it."""
    for size in (1, None, 7, None):
        with pool.acquire(size_bytes=size) as view:
            assert len(view) == (size or 4096)


def test_double_release_is_refused(pool: BufferPool) -> None:
    """B04: a second release raises and changes nothing; free + in use == capacity."""
    buffer = pool.acquire()
    pool.release(buffer)
    for release in (buffer.release, lambda: pool.release(buffer)):
        with pytest.raises(DoubleReleaseError):
            release()
    now = pool.statistics()
    assert (now.available, now.in_use) == (2, 0)


def test_a_stale_handle_never_becomes_valid_again(pool: BufferPool) -> None:
    """B04: a released buffer stays released when its memory is lent to somebody else."""
    stale = pool.acquire()
    stale.release()
    with pool.lend(), pool.lend(), pytest.raises(DoubleReleaseError):
        stale.release()


def test_release_by_two_threads_at_a_time_succeeds_once(shaken: None) -> None:
    """B04: of threads that release the same buffer at the same moment, exactly one does."""
    pool = BufferPool(64, 1)
    for _ in range(300):
        buffer, won = pool.acquire_nowait(), []

        def release(buffer: PooledBuffer = buffer, won: list[int] = won) -> None:
            try:
                buffer.release()
                won.append(1)
            except DoubleReleaseError:
                pass

        together(release, release)
        assert won == [1]
        assert pool.statistics().available == 1
    pool.close()


def test_foreign_buffers_are_refused(pool: BufferPool) -> None:
    """Another pool's buffer, and what is no buffer, are not taken."""
    other = BufferPool(4096, 1, name="other")
    with other.acquire_nowait() as view:
        pass
    buffer = other.acquire_nowait()
    with pytest.raises(ForeignBufferError, match="other"):
        pool.release(buffer)
    for thing in (view, bytearray(3)):
        with pytest.raises(ForeignBufferError):
            pool.release(thing)  # type: ignore[arg-type]
    buffer.release()
    other.close()


def test_release_is_refused_while_a_slice_lives(pool: BufferPool) -> None:
    """B05: memoryview.release succeeds while a slice lives; ours refuses, and the memory goes to nobody else."""
    buffer = pool.acquire()
    part = buffer.view[10:20]
    part_of_part = part[2:]
    del part
    with pytest.raises(BufferInUseError):
        buffer.release()
    assert pool.statistics().in_use == 1
    part_of_part[:] = b"x" * 8
    del part_of_part
    buffer.release()
    assert pool.statistics().in_use == 0


def test_release_is_refused_while_an_export_lives(pool: BufferPool) -> None:
    """B05: what was made from the view by the buffer protocol keeps it out too, and the view goes on working."""
    buffer = pool.acquire()
    export = PickleBuffer(buffer.view)
    with pytest.raises(BufferInUseError):
        buffer.release()
    buffer.view[0] = 65
    assert export.raw()[0] == 65
    export.release()
    buffer.release()


def test_use_after_release_is_refused(pool: BufferPool) -> None:
    """B05: neither the buffer nor a view kept since before gives access to memory that may be somebody else's."""
    buffer = pool.acquire()
    view = buffer.view
    buffer.release()
    for look in (lambda: buffer.view, lambda: buffer.address, lambda: buffer.size_bytes):
        with pytest.raises(BufferReleasedError):
            look()
    with pytest.raises(ValueError, match="released"):
        view[0] = 1


# --- forgotten --------------------------------------------------------------------------------------------------------


def test_a_forgotten_buffer_comes_back_with_a_warning(pool: BufferPool) -> None:
    """B07: a buffer that its holder lost is returned once, with a ResourceWarning."""
    with pytest.warns(ResourceWarning, match="forgotten"):
        pool.acquire_nowait()
    now = pool.statistics()
    assert (now.available, now.in_use, now.forgotten) == (2, 0, 1)


def test_a_forgotten_buffer_goes_to_who_waits() -> None:
    """B07: somebody who waits is served by what another lost, even in a cycle that only the collector finds."""
    pool = BufferPool(64, 1)
    cycle: list[object] = [pool.acquire()]
    cycle.append(cycle)

    def wait() -> None:
        pool.acquire().release()

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: len(pool._waiters) == 1)  # a look at the statistics would itself find what was forgotten
    del cycle
    with pytest.warns(ResourceWarning, match="forgotten"):
        gc.collect()
    waiting.join()
    assert pool.statistics().available == 1
    pool.close()


def test_a_forgotten_buffer_of_which_a_slice_lives_stays_out(pool: BufferPool) -> None:
    """B05, B07: its memory goes to nobody until the slice is gone."""
    with pytest.warns(ResourceWarning):
        part = pool.acquire().view[:5]
    assert pool.statistics().in_use == 1
    with pool.acquire_nowait(), pytest.raises(PoolExhaustedError):
        pool.acquire_nowait()
    del part
    with pool.acquire_nowait(), pool.acquire_nowait():
        assert pool.statistics().in_use == 2


def test_a_pool_in_a_cycle_is_collected_without_harm() -> None:
    """B07: CPython 3.11 crashes when it collects a memoryview that exports memory; ours are out of the collector's reach."""
    code = """
import gc, warnings
from procbench.memory import buffers
warnings.simplefilter("ignore")
for _ in range(50):
    cycle = [buffers.BufferPool(4096, 3)]
    cycle += [cycle, cycle[0].acquire()]
    cycle += [cycle[2].view, cycle[2].view[:3]]
    del cycle
    gc.collect()
print("alive")
cycle = [buffers.BufferPool(4096, 3)]
cycle.append(cycle)
"""
    assert run_python(code) == "alive"


# --- waiting ------------------------------------------------------------------------------------------------------------


def test_an_exhausted_pool_says_so(pool: BufferPool) -> None:
    """B06: without waiting at once, with a time-out when it is over; the pool is as it was."""
    with pool.lend(), pool.lend():
        for call in (pool.acquire_nowait, lambda: pool.acquire(0), lambda: pool.acquire(0.01)):
            with pytest.raises(PoolExhaustedError):
                call()
        assert pool.statistics().waiting == 0
    assert pool.statistics().available == 2


def test_who_waits_is_served_in_order_and_nobody_overtakes() -> None:
    """B06: eight threads that wait get the buffer in the order in which they came."""
    pool = BufferPool(64, 1)
    served: list[int] = []

    def wait(number: int) -> None:
        with pool.lend():
            served.append(number)

    held = pool.acquire()
    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        wait_until(lambda waiting=number + 1: pool.statistics().waiting == waiting)
    with pytest.raises(PoolExhaustedError):
        pool.acquire_nowait()
    held.release()
    for thread in threads:
        thread.join()
    assert served == list(range(8))
    pool.close()


def test_an_interrupted_wait_leaves_the_line(pool: BufferPool) -> None:
    """B06: Ctrl-C during a wait raises, and the buffer that comes back is free for others."""
    held = [pool.acquire(), pool.acquire()]
    main = threading.main_thread().ident

    def interrupt() -> None:
        wait_until(lambda: pool.statistics().waiting == 1)
        signal.pthread_kill(main, signal.SIGINT)  # type: ignore[arg-type]

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        pool.acquire()
    thread.join()
    assert pool.statistics().waiting == 0
    for buffer in held:
        buffer.release()
    assert pool.statistics().available == 2


def test_a_million_acquisitions_by_eight_threads(shaken: None) -> None:
    """B04, B06: 1,000,000 acquisitions, threads changing places each microsecond: none lost, none lent twice."""
    pool = BufferPool(8, 4)
    each, doubles = 125_000, []

    def work(number: int) -> None:
        mark = bytes([number]) * 8
        acquire, release = pool.acquire, pool.release
        for turn in range(each):
            buffer = acquire()
            view = buffer.view
            view[:] = mark
            if turn % 16 == 0 and bytes(view) != mark:
                doubles.append(number)
            if view[0] != number or view[7] != number:
                doubles.append(number)
            release(buffer)

    together(*(lambda number=number: work(number) for number in range(1, 9)))
    now = pool.statistics()
    assert doubles == []
    assert (now.available, now.in_use, now.waiting, now.forgotten) == (4, 0, 0, 0)
    pool.close()


def test_no_wake_up_is_lost_when_one_in_ten_gives_up(shaken: None) -> None:
    """B06: 10^5 acquisitions by 8 threads, a tenth with time-outs that pass: everybody ends, every buffer is back."""
    pool = BufferPool(8, 2)
    got, gave_up = deque(), deque()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12_500):
            try:
                buffer = pool.acquire(timeout=chance.choice([0, 1e-6, 1e-5]) if chance.random() < 0.1 else None)
            except PoolExhaustedError:
                gave_up.append(1)
            else:
                got.append(1)
                buffer.release()

    together(*(lambda seed=seed: work(seed) for seed in range(8)))
    assert len(got) + len(gave_up) == 100_000
    now = pool.statistics()
    assert (now.available, now.in_use, now.waiting) == (2, 0, 0)
    pool.close()


def test_coroutines_and_threads_share_a_pool_and_cancelling_loses_nothing(shaken: None) -> None:
    """B06: coroutines that are cancelled or time out while threads use the same pool: every buffer is back."""
    pool = BufferPool(8, 2)
    face = AsyncBufferPool(pool)
    ended = threading.Event()

    def thread() -> None:
        while not ended.is_set():
            pool.acquire().release()

    async def one(chance: random.Random) -> None:
        for _ in range(100):
            try:
                buffer = await face.acquire(timeout=chance.choice([None, None, 0.0, 1e-5]))
            except PoolExhaustedError:
                continue
            face.release(buffer)
            await asyncio.sleep(0)

    async def main() -> None:
        chance = random.Random(1)
        tasks = [asyncio.ensure_future(one(chance)) for _ in range(20)]
        for _ in range(10):
            await asyncio.sleep(0.002)
            if victims := [task for task in tasks if not task.done()]:
                chance.choice(victims).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        ended.set()

    together(lambda: asyncio.run(main()), thread, thread)
    now = pool.statistics()
    assert (now.available, now.in_use, now.waiting) == (2, 0, 0)
    pool.close()


def test_a_coroutine_is_served_by_a_thread_in_order(pool: BufferPool) -> None:
    """B06: coroutines wait in the same line as threads; lend gives the view and takes it back."""
    face = AsyncBufferPool(pool)

    async def main() -> list[int]:
        held = [await face.acquire(), face.acquire_nowait()]
        served: list[int] = []

        async def wait(number: int) -> None:
            async with face.lend(8) as view:
                assert len(view) == 8
                served.append(number)

        tasks = []
        for number in range(4):
            tasks.append(asyncio.ensure_future(wait(number)))
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.to_thread(held[0].release)
        await asyncio.gather(*tasks, return_exceptions=True)
        held[1].release()
        assert face.statistics().in_use == 0
        return served

    assert asyncio.run(main()) == [0, 2, 3]


def test_a_loop_that_ends_while_a_coroutine_waits_loses_no_buffer() -> None:
    """B06: a closed event loop cannot be woken; what its coroutine was given goes on to the next."""
    pool = BufferPool(8, 1)
    held = pool.acquire()
    waits = AsyncBufferPool(pool).acquire()
    loop = asyncio.new_event_loop()
    task = loop.create_task(waits)
    loop.run_until_complete(asyncio.sleep(0))
    assert pool.statistics().waiting == 1
    task._log_destroy_pending = False  # that the task is lost is what this is about
    loop.close()
    held.release()
    waits.close()
    assert pool.statistics().available == 1
    pool.close()


# --- closing --------------------------------------------------------------------------------------------------------------


def test_a_closed_pool_lends_nothing_and_one_in_use_is_not_closed() -> None:
    """Closing is refused while a buffer is out and changes nothing then; afterwards it is final, and harmless twice."""
    pool = BufferPool(4096, 2)
    buffer = pool.acquire()
    with pytest.raises(BufferInUseError):
        pool.close()
    pool.acquire().release()
    buffer.release()
    pool.close()
    pool.close()
    assert pool.statistics().in_use == 0
    for call in (pool.acquire, pool.acquire_nowait, lambda: pool.acquire(0)):
        with pytest.raises(ClosedError):
            call()


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0), (-1, 1), (1.5, 1), (True, 1), (1, "2")])
def test_numbers_that_make_no_sense_are_refused(wrong: tuple[int, int]) -> None:
    """A pool of nothing, or of half a buffer, is a mistake of the program."""
    with pytest.raises(InvalidInputError):
        BufferPool(*wrong)


def test_a_wait_that_makes_no_sense_is_refused(pool: BufferPool) -> None:
    """A time-out is a finite number of at least 0, also where a buffer is free; an asynchronous pool needs a pool."""
    bad: Any
    for bad in ("1", -1, float("nan"), float("inf"), True, [1]):
        with pytest.raises(InvalidInputError, match=r"; "):
            pool.acquire(bad)
        with pytest.raises(InvalidInputError, match=r"; "), pool.lend(timeout=bad):
            pass
        with pytest.raises(InvalidInputError, match=r"; "):
            asyncio.run(AsyncBufferPool(pool).acquire(bad))
    bad = "pool"
    with pytest.raises(InvalidInputError, match=r"; "):
        AsyncBufferPool(bad)
    assert pool.in_use == 0


# --- what the kernel refuses --------------------------------------------------------------------------------------------


def test_memory_that_there_is_not_is_a_typed_error() -> None:
    """B10: a pool that does not fit is MappingError with ENOMEM, in words, and nothing else breaks."""
    code = """
import resource
from procbench.errors import MappingError
from procbench.memory.buffers import BufferPool
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    BufferPool(1 << 30, 4)
except MappingError as error:
    print(error.errno, "4 buffers of 1073741824 bytes" in str(error))
BufferPool(4096, 4).acquire().release()
"""
    assert run_python(code) == "12 True"
    with pytest.raises(MappingError):
        BufferPool(1 << 62, 4)


def test_no_huge_pages_falls_back_and_says_so() -> None:
    """B10: a kernel that takes no advice gives ordinary pages, all of them there, and statistics names what failed."""
    code = """
import resource
from procbench.memory.buffers import BufferPool
pool = BufferPool(1 << 20, 4, huge_pages=True)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for buffer in [pool.acquire() for _ in range(4)]:
    buffer.view[:] = bytes(1) * (1 << 20)
    buffer.release()
now = pool.statistics()
print(now.huge_bytes, *now.fallbacks, sep="|")
"""
    strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=madvise", "-e", "inject=madvise:error=EINVAL")
    said = run_python(code, before=strace)
    assert said == ("0|MADV_HUGEPAGE: EINVAL|ordinary pages|MADV_POPULATE_WRITE: EINVAL|each page touched instead")


def test_prefaulted_memory_costs_no_page_fault_later() -> None:
    """Pre-faulted pages are there: writing to all of them faults none in; without it every page is a fault."""
    faults = {}
    for prefault in (False, True):
        pool = BufferPool(1 << 20, 4, prefault=prefault)
        with pool.lend() as view:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
            for offset in range(0, 1 << 20, 4096):
                view[offset] = 1
            faults[prefault] = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
        pool.close()
    assert faults[True] < 8 < 200 < faults[False]


def test_huge_pages_are_reported_as_the_kernel_gave_them() -> None:
    """What statistics says is what the kernel's own page tables say, between none and all of the slab."""
    pool = BufferPool(2 << 20, 2, huge_pages=True)
    now = pool.statistics()
    assert 0 <= now.huge_bytes <= 4 << 20
    assert now.huge_bytes % (2 << 20) == 0
    pool.close()
    ordinary = BufferPool(4096, 1)
    assert ordinary.statistics().huge_bytes == 0
    ordinary.close()


# --- where children's output goes ----------------------------------------------------------------------------------------


def test_a_killed_childs_buffer_goes_back_and_its_bytes_are_flagged() -> None:
    """L02: SIGKILL mid-transfer: rc -9, the partial bytes, truncated, and the buffer is in the pool again."""
    pool = BufferPool(4096, 1)
    child = ChildRunner(buffers=pool)
    fields = child.run(Order(["sh", "-c", "head -c 100000 /dev/zero; kill -9 $$"], Limits(), stdout=-1))
    result = runner_module_result(fields)
    assert result.returncode == -9
    assert result.truncated
    assert result.stdout == bytes(100000)
    assert pool.statistics().in_use == 1
    child.close()
    child.close()
    assert pool.statistics().in_use == 0
    pool.close()


def runner_module_result(fields: tuple[object, ...]):
    from procbench.io.results import RunResult

    return RunResult(*fields)


def test_a_reader_that_is_cancelled_gives_its_buffer_back() -> None:
    """L02: cancelling what reads a child that writes for ever: truncated bytes, no buffer out, no descriptor left."""
    scheduler = WorkStealingScheduler(RunSettings(workers=2, capture=True, buffer_size_bytes=8192))
    pool = scheduler._buffers
    assert pool is not None
    futures = [scheduler.submit(["cat", "/dev/zero"]) for _ in range(2)]
    wait_until(lambda: pool.in_use == 2)
    scheduler.cancel_running(kill=True)
    scheduler.shutdown()
    for future in futures:
        assert future.result().truncated
    assert pool.in_use == 0
    with pytest.raises(ClosedError):
        pool.acquire()


def test_a_reader_that_is_interrupted_gives_its_buffer_back() -> None:
    """L02: Ctrl-C in the thread that reads: the child is gone, and the buffer is back in the shared pool."""
    shared = runner_module._shared_buffers()
    main = threading.main_thread().ident

    def interrupt() -> None:
        wait_until(lambda: shared.in_use == 1)
        signal.pthread_kill(main, signal.SIGINT)  # type: ignore[arg-type]

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(["cat", "/dev/zero"], capture_output=True, max_output_bytes=100)
    thread.join()
    assert shared.in_use == 0


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_output_is_the_same_whatever_the_buffers_size(size: int) -> None:
    """The size of a buffer decides how many reads it takes, never what is read."""
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 40); sys.stderr.write('e' * 5000)"
    with WorkStealingScheduler(RunSettings(workers=1, capture=True, buffer_size_bytes=size)) as scheduler:
        result = scheduler.submit([sys.executable, "-c", code]).result()
    assert result.stdout == bytes(range(256)) * 40
    assert result.stderr == b"e" * 5000


def test_a_child_without_pipes_takes_no_buffer() -> None:
    """The memory for reading is taken when there is something to read."""
    pool = BufferPool(4096, 1)
    child = ChildRunner(buffers=pool)
    child.run(Order(["true"], Limits()))
    assert pool.in_use == 0
    child.close()
    pool.close()


def test_more_children_than_shared_buffers_wait_for_nobody() -> None:
    """A blocking run never waits for another's buffer: where all are out it has one of its own."""
    shared = runner_module._shared_buffers()
    held = [shared.acquire_nowait() for _ in range(shared.capacity)]
    assert run(["echo", "said"], capture_output=True).stdout == b"said\n"
    for buffer in held:
        buffer.release()


# --- a model, and what it must catch ------------------------------------------------------------------------------------


class PoolMachine(RuleBasedStateMachine):
    """Drives a pool of three beside a model: who holds what, what stands in it, which slices live."""

    make = BufferPool

    def __init__(self) -> None:
        super().__init__()
        self.pool = self.make(32, 3)
        self.held: dict[int, PooledBuffer] = {}
        self.slices: dict[int, memoryview] = {}
        self.returned: list[PooledBuffer] = []
        self.number = 0

    @rule(size=st.none() | st.integers(0, 33))
    def acquire(self, size: int | None) -> None:
        if size == 33:
            with pytest.raises(BufferSizeError):
                self.pool.acquire_nowait(size_bytes=size)
        elif len(self.held) == 3:
            with pytest.raises(PoolExhaustedError):
                self.pool.acquire_nowait(size_bytes=size)
        else:
            buffer = self.pool.acquire(0, size_bytes=size)
            self.number = self.number % 255 + 1
            while self.number in self.held:
                self.number = self.number % 255 + 1
            buffer.view[:] = bytes([self.number]) * len(buffer.view)
            self.held[self.number] = buffer

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def slice(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        if number not in self.slices:
            self.slices[number] = self.held[number].view[:2]

    @precondition(lambda self: self.slices)
    @rule(data=st.data())
    def drop_slice(self, data: st.DataObject) -> None:
        del self.slices[data.draw(st.sampled_from(sorted(self.slices)))]

    @precondition(lambda self: set(self.held) - set(self.slices))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        buffer = self.held.pop(data.draw(st.sampled_from(sorted(set(self.held) - set(self.slices)))))
        self.pool.release(buffer)
        self.returned.append(buffer)

    @precondition(lambda self: self.slices)
    @rule(data=st.data())
    def release_too_early(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.slices)))
        buffer = self.held[number]
        with pytest.raises(BufferInUseError):
            buffer.release()
        del self.slices[number]
        buffer.release()
        self.returned.append(self.held.pop(number))

    @precondition(lambda self: self.returned)
    @rule(data=st.data())
    def release_again(self, data: st.DataObject) -> None:
        with pytest.raises(DoubleReleaseError):
            self.pool.release(data.draw(st.sampled_from(self.returned)))

    @invariant()
    def nobody_wrote_into_anothers(self) -> None:
        for number, buffer in self.held.items():
            assert set(buffer.view) <= {number}

    @invariant()
    def free_and_in_use_make_the_capacity(self) -> None:
        now = self.pool.statistics()
        assert now.in_use == len(self.held)
        assert now.available == 3 - len(self.held)

    def teardown(self) -> None:
        self.slices.clear()
        for buffer in self.held.values():
            buffer.release()
        self.pool.close()


QUICK = hypothesis_settings(max_examples=60, stateful_step_count=25, deadline=None)
TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = QUICK


class _AcceptsDoubleRelease(BufferPool):
    def release(self, buffer: PooledBuffer) -> None:
        slot = getattr(buffer, "_slot", None)
        try:
            super().release(buffer)
        except DoubleReleaseError:
            self._free.append(self._free[0] if self._free else slot)  # type: ignore[arg-type]
        else:
            self.last = slot


class _IgnoresSlices(BufferPool):
    def release(self, buffer: PooledBuffer) -> None:
        try:
            super().release(buffer)
        except BufferInUseError:
            slot = buffer._slot
            del buffer._slot
            slot.reference = None
            self._free.append(slot)


class _ForgetsToWake(BufferPool):
    def release(self, buffer: PooledBuffer) -> None:
        waiters, self._waiters = self._waiters, deque()
        try:
            super().release(buffer)
        finally:
            self._waiters = waiters


@pytest.mark.parametrize("broken", [_AcceptsDoubleRelease, _IgnoresSlices])
def test_the_machine_catches_a_seeded_defect(broken: type[BufferPool]) -> None:
    """B04, B05: a pool that accepts a double release, or lends memory of which a slice lives, fails the machine."""

    class Machine(PoolMachine):
        make = broken

        def teardown(self) -> None:
            pass

    with pytest.raises(BaseException, match=r"DID NOT RAISE|assert|flaky|Flaky|distinct"):
        run_state_machine_as_test(Machine, settings=QUICK)


@pytest.mark.parametrize(("kind", "served"), [(BufferPool, True), (_ForgetsToWake, False)])
def test_a_lost_wake_up_is_seen(kind: type[BufferPool], served: bool) -> None:
    """B06: who waits gets what another releases; a pool that forgets to wake leaves the waiter with its time-out."""
    pool = kind(8, 1)
    held = pool.acquire()
    got: list[bool] = []

    def wait() -> None:
        try:
            pool.acquire(timeout=20 if served else 0.3).release()
            got.append(True)
        except PoolExhaustedError:
            got.append(False)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: pool.statistics().waiting == 1)
    held.release()
    thread.join()
    assert got == [served]
