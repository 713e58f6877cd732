"""The queue counts exactly and times fairly; tasks are done once each; the end, a fork and a signal lose nothing."""

from __future__ import annotations

import math
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from procbench.errors import (
    InvalidInputError,
    QueueEmptyError,
    QueueFullError,
    QueueShutDownError,
    TaskDoneError,
)
from procbench.scheduling.queue_counts import TIMED_EACH, Tally, WaitTimes
from procbench.scheduling.queues import TaskQueue
from procbench.scheduling.sharded import ShardedTaskQueue
from tests.waiting import wait_until

KINDS: list[Callable[[int], TaskQueue[Any]]] = [TaskQueue, lambda maxsize: ShardedTaskQueue(maxsize, 1)]


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=400))
@settings(max_examples=50)
def test_mean_and_percentile_are_right(waits: list[int]) -> None:
    """The mean is exact, the 99th percentile at most an eighth too high."""
    times = WaitTimes()
    for wait in waits:
        times.note(wait)
    summary = times.times()
    count, mean_s, p99_s = summary.count, summary.mean_s, summary.p99_s
    exact = sorted(waits)[len(waits) - 1 - len(waits) // 100]
    assert count == len(waits)
    assert mean_s == pytest.approx(sum(waits) / len(waits) / 1e9)
    assert exact <= p99_s * 1e9 + 0.5
    assert p99_s * 1e9 <= exact * 9 / 8 + 1.5


def test_a_time_noted_in_the_midst_of_entering_is_not_lost() -> None:
    """A signal handler that notes a time while its thread enters others neither waits nor loses it."""
    times = WaitTimes()
    with times._entering:
        for _ in range(200):
            times.note(5)
    assert times.times().count == 200


def test_tallies_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 threads that change places as often as they can count every time, one by one and several at once."""
    before = sys.getswitchinterval()
    tally = Tally()
    seen: list[int] = []

    def count() -> None:
        for _ in range(2000):
            seen.append(next(tally.ticks))
            tally.add(3)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert tally.count == 8 * 2000 * 4
    assert len(set(seen)) == 8 * 2000


@pytest.mark.parametrize("ways", ["one by one", "batches"])
def test_one_item_in_31_is_timed(ways: str) -> None:
    """Whatever the size of batch, every 31st item is timed, and the wait is real."""
    q: TaskQueue[int] = TaskQueue(1000)
    count = 20 * TIMED_EACH
    for first in range(0, count, 10):
        if ways == "batches":
            assert q.put_many(range(first, first + 10)) == 10
        else:
            for item in range(first, first + 10):
                q.put(item)
    before_s = time.monotonic()
    time.sleep(0.02)
    least_s = time.monotonic() - before_s
    assert q.get_many(1000) == list(range(count)) if ways == "batches" else [q.get() for _ in range(count)]
    s = q.statistics()
    assert s.timed == 20
    assert least_s <= s.mean_wait_s <= s.p99_wait_s * 1.001
    assert (s.enqueued, s.dequeued, s.current, s.peak, s.failed) == (count, count, 0, count, 0)


def test_the_peak_is_the_most_there_ever_were() -> None:
    """However items come and go, the peak is the largest size; and a fresh queue's waits are NaN."""
    q: TaskQueue[int] = TaskQueue(10_000)
    assert q.statistics().peak == 0
    assert math.isnan(q.statistics().mean_wait_s)
    assert math.isnan(q.statistics().p99_wait_s)
    for size in (3, 1, 7, 2, 5000, 4):
        q.put_many(range(size))
        q.get_many(size)
    for _ in range(20):
        q.put(1)
        q.get()
    assert q.statistics().peak == 5000


def test_a_large_bound_costs_nothing_until_it_is_used() -> None:
    """Permits are made when they are needed, and all maxsize of them can be had."""
    q: TaskQueue[int] = TaskQueue(sys.maxsize)
    q.put(1)
    assert len(q._permits) < 10_000
    assert not q.full()
    small: TaskQueue[int] = TaskQueue(10_001)
    assert small.put_many(range(20_000), block=False) == 10_001
    assert small.full()


def test_batches_say_how_many_went_in() -> None:
    """Q02: put_many fills what room there is and says so; only who puts nothing gets an error; get_many takes what is there."""
    q: TaskQueue[int] = TaskQueue(5)
    assert q.put_many([]) == 0
    assert q.put_many([0, 1, 2]) == 3
    assert q.put_many(range(3, 9), block=False) == 2
    with pytest.raises(queue.Full):
        q.put_many([9], timeout=0.01)
    assert q.get_many(2) == [0, 1]
    assert q.put_many([5, 6, 7], timeout=0.01) == 2
    assert q.get_many(100) == [2, 3, 4, 5, 6]
    with pytest.raises(queue.Empty):
        q.get_many(5, timeout=0)
    with pytest.raises(InvalidInputError, match="max_items"):
        q.get_many(0)
    assert q.statistics().failed_puts == 3
    assert q.statistics().failed_gets == 1
    q.put(1)
    q.shutdown()
    with pytest.raises(QueueShutDownError):
        q.put_many([1, 2])
    assert q.get_many(5) == [1]
    with pytest.raises(QueueShutDownError):
        q.get_many(5)


@pytest.mark.parametrize("wrong", [-1, -0.1, math.nan, math.inf, True, "1"])
def test_what_is_no_time_out_is_refused(wrong: Any) -> None:
    """Q02: one clear error for each call, before anything is done."""
    q: TaskQueue[int] = TaskQueue(5)
    q.put(1)
    for call in (
        lambda: q.put(2, timeout=wrong),
        lambda: q.get(timeout=wrong),
        lambda: q.put_many([2], timeout=wrong),
        lambda: q.get_many(1, timeout=wrong),
    ):
        with pytest.raises(InvalidInputError, match="timeout is"):
            call()
    assert (q.qsize(), q.statistics().failed) == (1, 0)


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, None, "3"])
def test_what_is_no_bound_is_refused(wrong: Any) -> None:
    """Q02: maxsize and shards are whole numbers of at least 1, and each shard has a place."""
    for make in (lambda: TaskQueue(wrong), lambda: ShardedTaskQueue(wrong, 1), lambda: ShardedTaskQueue(5, wrong)):
        with pytest.raises(InvalidInputError, match="must be a whole number"):
            make()
    with pytest.raises(InvalidInputError, match="cannot share"):
        ShardedTaskQueue(2, 3)


@pytest.mark.parametrize("kind", [QueueFullError, QueueEmptyError, QueueShutDownError, TaskDoneError])
def test_the_errors_pickle_and_are_the_standard_librarys(kind: type[Exception]) -> None:
    """Also queue.ShutDown, where there is one."""
    again = pickle.loads(pickle.dumps(kind("words")))
    assert (type(again), str(again)) == (kind, "words")
    if kind is QueueShutDownError and sys.version_info >= (3, 13):
        assert issubclass(kind, queue.ShutDown)


@pytest.mark.parametrize("make", KINDS)
def test_join_waits_for_the_last_task(make: Callable[[int], TaskQueue[int]]) -> None:
    """Q02, Q03: join returns when each item that was put is done; one task_done too many is refused and counts nothing."""
    q = make(5)
    q.join()
    with pytest.raises(TaskDoneError):
        q.task_done()
    q.put_many([1, 2])
    joined = threading.Event()
    thread = threading.Thread(target=lambda: (q.join(), joined.set()))
    thread.start()
    wait_until(lambda: q._joiners)
    q.get()
    q.task_done()
    q.get()
    assert not joined.wait(0.05)
    q.task_done()
    thread.join(60)
    assert joined.is_set()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


def test_a_task_that_comes_and_goes_ends_no_join() -> None:
    """Q03: while one task is never done, others that begin and end in the midst of a look do not make it seem so."""
    q: TaskQueue[int] = TaskQueue(5)
    q.put(1)

    class Slow(Tally):
        @property
        def count(self) -> int:
            count = super().count
            if not meddled:
                meddled.append(True)
                q.put(2)
                q.get()
                q.task_done()
            return count

    meddled: list[bool] = []
    slow = Slow()
    slow.ticks = q._entered.ticks
    q._entered = slow
    assert q._unfinished() >= 1


def test_a_consumer_that_raises_leaves_the_books_right() -> None:
    """Q03: an item that was got and never done keeps join waiting, until somebody says that it is done."""
    q: TaskQueue[int] = TaskQueue(5)
    q.put(1)

    def consume() -> None:
        q.get()
        raise KeyError

    with pytest.raises(KeyError):
        consume()
    assert q._unfinished() == 1
    q.shutdown()
    thread = threading.Thread(target=q.join)
    thread.start()
    wait_until(lambda: q._joiners)
    q.task_done()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("make", KINDS)
def test_a_fork_goes_on_with_what_was_there(make: Callable[[int], TaskQueue[int]]) -> None:
    """The child has the items and every place, though a thread waits, one holds the gate and one a permit at the fork."""
    q = make(3)
    q.put(1)
    lost = q._permit_now()
    q.get()
    thread = threading.Thread(target=lambda: q.get(timeout=60))
    thread.start()
    wait_until(lambda: q._getters)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with q._gate, q._waits._entering:
            held.set()
            go.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    pid = os.fork()
    if pid == 0:
        try:
            assert not q._getters
            assert q.put_many([1, 2, 3, 4], block=False) == 3
            assert sorted(q.get_many(9)) == [1, 2, 3]
            assert q.statistics().timed
            q.shutdown()
            assert q.finished()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    go.set()
    holder.join(60)
    q.put(5)
    thread.join(60)
    assert lost is not None


def test_a_signal_handler_puts_in_the_midst_of_everything() -> None:
    """Q07: a handler that puts, gets and ends the queue in the midst of the same calls: nothing hangs, nothing is lost."""
    q: TaskQueue[int] = TaskQueue(1000)
    handled: list[int] = []

    def handle(*_: Any) -> None:
        q.put(-1)
        handled.append(q.get())
        q.put(-2)
        q.task_done()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    got: list[int] = []
    put = 0
    try:
        end = time.monotonic() + 20
        while len(handled) < 100 and time.monotonic() < end:
            q.put(put)
            put += 1
            got.append(q.get())
            q.task_done()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    got += handled + q.shutdown(immediate=True)
    s = q.statistics()
    assert len(got) == s.enqueued == s.dequeued == put + 2 * len(handled)
    assert len(handled) >= 100
    assert sorted(item for item in got if item >= 0) == list(range(put))


class StandardMachine(RuleBasedStateMachine):
    """The queue and the standard library's, told the same things, say the same; its shutdown, of 3.13, by a model."""

    @initialize(maxsize=st.integers(1, 4), sharded=st.booleans())
    def start(self, maxsize: int, sharded: bool) -> None:
        self.ours: TaskQueue[int] = ShardedTaskQueue(maxsize, 1) if sharded else TaskQueue(maxsize)
        self.theirs: queue.Queue[int] = queue.Queue(maxsize)
        self.closed = False

    def both(self, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
        def outcome(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except (queue.Full, queue.Empty, ValueError) as error:
                return next(kind for kind in (queue.Full, queue.Empty, ValueError) if isinstance(error, kind))

        assert outcome(ours) == outcome(theirs)

    @rule(item=st.integers())
    def put(self, item: int) -> None:
        if self.closed:
            with pytest.raises(QueueShutDownError):
                self.ours.put(item)
        else:
            self.both(lambda: self.ours.put(item, timeout=0), lambda: self.theirs.put(item, block=False))

    @rule(items=st.lists(st.integers(), min_size=1, max_size=6))
    def put_many(self, items: list[int]) -> None:
        if self.closed or self.ours.full():
            with pytest.raises(QueueShutDownError if self.closed else QueueFullError):
                self.ours.put_many(items, block=False)
            return
        count = self.ours.put_many(items, block=False)
        assert count == min(len(items), self.theirs.maxsize - self.theirs.qsize())
        for item in items[:count]:
            self.theirs.put_nowait(item)

    @rule()
    def get(self) -> None:
        if self.closed and self.theirs.empty():
            with pytest.raises(QueueShutDownError):
                self.ours.get()
        else:
            self.both(lambda: self.ours.get(timeout=0), self.theirs.get_nowait)

    @rule(most=st.integers(1, 5))
    def get_many(self, most: int) -> None:
        if not self.theirs.empty():
            assert self.ours.get_many(most) == [self.theirs.get_nowait() for _ in range(min(most, self.theirs.qsize()))]

    @rule()
    def task_done(self) -> None:
        self.both(self.ours.task_done, self.theirs.task_done)

    @rule(immediate=st.booleans(), sure=st.integers(0, 5))
    def shutdown(self, immediate: bool, sure: int) -> None:
        if sure:
            return
        left = list(self.theirs.queue)
        assert self.ours.shutdown(immediate) == (left if immediate else [])
        self.closed = True
        if immediate:
            while not self.theirs.empty():
                self.theirs.get_nowait()
                if self.theirs.unfinished_tasks:
                    self.theirs.task_done()

    @invariant()
    def agrees(self) -> None:
        s = self.ours.statistics()
        assert (self.ours.qsize(), self.ours.empty(), self.ours.full()) == (
            self.theirs.qsize(),
            self.theirs.empty(),
            self.theirs.full(),
        )
        assert self.ours._unfinished() == self.theirs.unfinished_tasks
        assert s.enqueued - s.dequeued == s.current == self.theirs.qsize()
        assert self.ours.finished() == (self.closed and self.theirs.empty())


TestQueueAgainstTheStandardOne = StandardMachine.TestCase
TestQueueAgainstTheStandardOne.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_shards_go_round() -> None:
    """Puts go to the shards in turn, each of which holds its share; gets begin at the next one each time."""
    q: ShardedTaskQueue[int] = ShardedTaskQueue(7, 3)
    for item in range(7):
        q.put(item)
    assert q.shard_sizes() == (3, 2, 2)
    with pytest.raises(QueueFullError):
        q.put_nowait(7)
    assert [q.get() for _ in range(7)] == list(range(7))
    q.put_many(range(7))
    assert q.shard_sizes() == (3, 2, 2)
    assert len(q.shutdown(immediate=True)) == 7
    assert q.finished()
    assert not q.full()
    assert len(q._permits) == 7
