"""The ladder that crossbeam's queues climb, and structures with the classical faults, which fall off it."""

from __future__ import annotations

import gc
import itertools
import os
import queue
import sys
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable
from operator import length_hint
from typing import Any

import pytest

from procbench.errors import QueueEmptyError, QueueFullError, QueueShutDownError
from procbench.scheduling import queues
from procbench.scheduling.queue_places import remove_last
from procbench.scheduling.queues import TaskQueue
from procbench.scheduling.sharded import ShardedTaskQueue, Shards
from tests.waiting import wait_until

Make = Callable[[int], TaskQueue[Any]]

# ``make ladder`` sets it: every seed at full size.
FULL = bool(os.environ.get("PROCBENCH_LADDER"))
SEEDS = range(20)
KINDS: dict[str, Make] = {"one line": TaskQueue, "sharded": lambda maxsize: ShardedTaskQueue(maxsize, min(maxsize, 3))}
PATIENCE_S = 300.0 if FULL else 60.0

pytestmark = pytest.mark.usefixtures("shaken")


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Make:
    return KINDS[request.param]


def run_all(*works: Callable[[], None], patience_s: float = PATIENCE_S) -> list[BaseException]:
    """Run each in a thread of its own; return what they raised, with a TimeoutError for each that still runs."""
    raised: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience_s)
    return raised + [TimeoutError(thread.name) for thread in threads if thread.is_alive()]


def crowd_through(
    q: TaskQueue[Any], total: int, producers: int, consumers: int, *, batch: int = 1, ordered: bool = True
) -> None:
    """Send items through; check that each comes out once, in its producer's order, and that the bound always holds."""
    per_producer = total // producers
    taken: list[list[tuple[int, int]]] = [[] for _ in range(consumers)]
    most: list[int] = [0] * producers

    def produce(number: int) -> None:
        for index in range(0, per_producer, batch):
            items = [(number, each) for each in range(index, min(index + batch, per_producer))]
            if batch == 1:
                q.put(items[0], timeout=PATIENCE_S)
            else:
                assert q.put_many(items, timeout=PATIENCE_S) == len(items)
            most[number] = max(most[number], q.qsize())

    def consume(number: int) -> None:
        mine = taken[number]
        try:
            while len(mine) <= total:  # who gets more has seen the fault, and must not fill the memory
                if batch == 1:
                    mine.append(q.get(timeout=PATIENCE_S))
                else:
                    mine.extend(q.get_many(batch, timeout=PATIENCE_S))
        except QueueShutDownError:
            return

    consuming = threading.Thread(
        target=lambda: left.extend(run_all(*[lambda n=n: consume(n) for n in range(consumers)])), daemon=True
    )
    left: list[BaseException] = []
    consuming.start()
    raised = run_all(*[lambda n=n: produce(n) for n in range(producers)])
    q.shutdown()
    consuming.join(PATIENCE_S)
    assert raised == left == []
    assert max(most) <= q.maxsize, "the bound was overshot"
    counts = Counter(itertools.chain.from_iterable(taken))
    assert len(counts) == sum(counts.values()) == per_producer * producers, "an item was lost or doubled"
    if ordered:
        for mine in taken:
            last = [-1] * producers
            for producer, index in mine:
                assert last[producer] < index, "an item was overtaken"
                last[producer] = index
    s = q.statistics()
    assert (s.enqueued, s.dequeued, s.current) == (len(counts), len(counts), 0)
    assert 1 <= s.peak <= q.maxsize
    assert len(q._permits) + length_hint(q._unmade_permits) == q.maxsize, "a permit was lost"


def is_ordered(q: TaskQueue[Any]) -> bool:
    return not isinstance(q, ShardedTaskQueue)


def test_smoke(make: Make) -> None:
    """One goes in and comes out; then another."""
    q = make(3)
    for item in (1, None):
        q.put(item)
        assert q.get() is item
    with pytest.raises(queue.Empty):
        q.get_nowait()


def test_is_empty(make: Make) -> None:
    """Empty, full and size follow each put and get."""
    q = make(3)
    for size in (0, 1, 2, 3):
        assert (q.qsize(), q.empty(), q.full()) == (size, size == 0, size == 3)
        if size < 3:
            q.put(size)
    with pytest.raises(queue.Full):
        q.put_nowait(3)
    for size in (2, 1, 0):
        q.get()
        assert (q.qsize(), q.empty(), q.full()) == (size, size == 0, False)


def test_spsc(make: Make) -> None:
    """One producer and one consumer: everything once, in order."""
    q = make(3)
    crowd_through(q, 3000, 1, 1, ordered=is_ordered(q))


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("seed", SEEDS)
def test_mpmc(make: Make, seed: int, batch: int) -> None:
    """Q01, Q04: 8 producers, 8 consumers: each item exactly once, in its producer's order, the bound never overshot."""
    q = make((1, 2, 5, 17, 64)[seed % 5])
    crowd_through(q, 1_000_000 if FULL else 1600, 8, 8, batch=batch, ordered=is_ordered(q))


def test_a_million_items_by_eight_producers_and_consumers() -> None:
    """Q04: 1,000,000 items, 8 producers, 8 consumers: each exactly once, in its producer's order, the bound exact."""
    crowd_through(TaskQueue(1000), 1_000_000, 8, 8)


def test_stampede(make: Make) -> None:
    """Q04: 8 threads fall upon a queue that was filled before; each item comes out once, whoever takes it."""
    q = make(10_000)
    assert q.put_many(range(10_000)) == 10_000
    taken: deque[int] = deque()

    def take() -> None:
        while True:
            try:
                taken.append(q.get_nowait())
            except QueueEmptyError:
                return

    assert run_all(*[take] * 8) == []
    assert sorted(taken) == list(range(10_000))


@pytest.mark.parametrize("seed", SEEDS)
def test_stress(make: Make, seed: int) -> None:
    """Q01: all ways to put and get at once, with little patience, and an end at any moment: nothing is lost or doubled."""
    q = make(1 + seed % 4)
    went_in: list[deque[int]] = [deque() for _ in range(6)]
    came_out: list[deque[int]] = [deque() for _ in range(6)]
    numbers = itertools.count()

    def put(number: int) -> None:
        try:
            while True:
                mine = [next(numbers) for _ in range(3)]
                try:
                    if number % 2:
                        went_in[number].extend(mine[: q.put_many(mine, timeout=0.001)])
                    else:
                        q.put(mine[0], timeout=0.001 if number else PATIENCE_S)
                        went_in[number].append(mine[0])
                except QueueFullError:
                    continue
        except QueueShutDownError:
            return

    def get(number: int) -> None:
        try:
            while True:
                try:
                    if number % 2:
                        came_out[number].extend(q.get_many(3, timeout=0.001))
                    else:
                        came_out[number].append(q.get(timeout=0.001 if number else PATIENCE_S))
                except QueueEmptyError:
                    continue
        except QueueShutDownError:
            return

    returned: list[int] = []

    def end() -> None:
        wait_until(lambda: sum(map(len, came_out)) > 20 * seed)
        returned.extend(q.shutdown(immediate=bool(seed % 2)))

    puts, gets = [lambda n=n: put(n) for n in range(6)], [lambda n=n: get(n) for n in range(6)]
    assert run_all(*puts, *gets, end) == []
    assert sorted(itertools.chain(*went_in)) == sorted(itertools.chain(returned, *came_out))
    s = q.statistics()
    assert (s.enqueued, s.current) == (sum(map(len, went_in)), 0)
    assert q.finished()


def test_no_starvation(make: Make) -> None:
    """Q05: with 8 consumers that wait, each gets something before it is over."""
    q = make(4)
    got = [0] * 8

    def consume(number: int) -> None:
        try:
            while True:
                q.get(timeout=PATIENCE_S)
                got[number] += 1
        except QueueShutDownError:
            return

    def produce() -> None:
        for number in itertools.count():
            q.put(number, timeout=PATIENCE_S)
            if all(got):
                break
        q.shutdown()

    assert run_all(produce, *[lambda n=n: consume(n) for n in range(8)]) == []


class Token:
    """Something whose end can be seen."""


def test_destructors(make: Make) -> None:
    """What is taken is let go of by the queue at once; what is left goes with the queue, once each."""
    q = make(100)
    tokens = [Token() for _ in range(100)]
    watched = [weakref.ref(token) for token in tokens]
    q.put_many(tokens)
    del tokens
    for _ in range(30):
        q.get()
    assert len(q.get_many(20)) == 20
    assert sum(ref() is None for ref in watched) == 50
    del q
    gc.collect()
    assert all(ref() is None for ref in watched)


@pytest.mark.parametrize("call", ["get", "get_many", "put", "put_many", "join"])
def test_close_wakes_waiters(make: Make, call: str) -> None:
    """Q01: everybody who waits is told of the end, whatever the call; a join ends with what an immediate end takes out."""
    q = make(1)
    if call in ("put", "put_many", "join"):
        q.put(0)
    calls = {
        "get": q.get,
        "get_many": lambda: q.get_many(5),
        "put": lambda: q.put(1),
        "put_many": lambda: q.put_many([1, 2]),
        "join": q.join,
    }
    lines = q._getters, q._putters, q._joiners

    def end() -> None:
        wait_until(lambda: sum(map(len, lines)) == 8)
        q.shutdown(immediate=True)

    raised = run_all(end, *[calls[call]] * 8)  # type: ignore[list-item]
    assert [type(error) for error in raised] == ([] if call == "join" else [QueueShutDownError] * 8)
    assert not any(lines)


# --- what is broken must be seen --------------------------------------------------------------------------------------


class BoundCheckedFirst(TaskQueue[Any]):
    """Looks whether there is room, and then puts."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        while self.qsize() >= self.maxsize:
            if self._is_shut_down:
                raise QueueShutDownError
            threading.Event().wait(0.0001)
        next(self._entered.ticks)
        self._append(item)
        queues.wake_one(self._getters)


class LosesPermits(TaskQueue[Any]):
    """Now and then a get does not give its permit back."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        item = super().get(block, timeout)
        if item[1] == 150:
            self._permits.pop()
        return item


class Doubles(TaskQueue[Any]):
    """A get that looks first and takes then, once."""

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self._doubling = iter([True])

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        item = super().get(block, timeout)
        if item[1] == 150 and next(self._doubling, False):
            self._append(item)
        return item


class Overtakes(TaskQueue[Any]):
    """Takes the youngest."""

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self._popleft = self._items.pop  # type: ignore[attr-defined]


@pytest.mark.parametrize("broken", [BoundCheckedFirst, LosesPermits, Doubles, Overtakes])
def test_the_ladder_sees_a_broken_queue(broken: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that is checked first, a lost permit, a doubled item and a wrong order are each seen."""
    monkeypatch.setattr(sys.modules[__name__], "PATIENCE_S", 1.5)

    def climb() -> None:
        for _ in range(20):
            crowd_through(broken(2), 1600, 8, 8)

    with pytest.raises((AssertionError, ValueError)):
        climb()


def test_the_ladder_sees_a_lost_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """B06: who sleeps without a second look sleeps through what came in between, and the checker says so."""

    def sleep(waiters: Any, lacking: Any, deadline: Any) -> bool:
        lock = threading.Lock()
        lock.acquire()
        waiters.append(lock)
        return lock.acquire(timeout=1.0) and False  # no look at ``lacking``

    q: TaskQueue[int] = TaskQueue(1)
    original = queues.sleep_until_woken
    for second_look in (True, False):
        q = TaskQueue(1)

        def late_sleep(waiters: Any, lacking: Any, deadline: Any, q: Any = q, look: bool = second_look) -> bool:
            if not q._entered.count:
                q.put(1)  # what comes between the failed try and the sleep
            return (original if look else sleep)(waiters, lacking, deadline)

        monkeypatch.setattr(queues, "sleep_until_woken", late_sleep)
        if second_look:
            assert q.get() == 1
        else:
            with pytest.raises(QueueEmptyError):
                q.get()


class ForgetsLatePuts(TaskQueue[Any]):
    """A put does not look whether it was shut down meanwhile."""

    def _take_back(self, entries: list[Any]) -> int:
        return 0


@pytest.mark.parametrize("kind", [TaskQueue, ForgetsLatePuts])
@pytest.mark.parametrize("batch", [False, True])
def test_a_put_that_meets_the_end_is_refused_or_got(kind: type[TaskQueue[Any]], batch: bool) -> None:
    """Q01: an item appended after the last consumer has gone is taken out again, and its put says so."""
    q = kind(5)
    append, extend = q._append, q._items.extend

    class Late:
        """The line, with an end just before the append."""

        def __getattr__(self, name: str) -> Any:
            return getattr(items, name)

        def __len__(self) -> int:
            return len(items)

        def extend(self, entries: list[Any]) -> None:
            self.end()
            extend(entries)

        def append(self, entry: Any) -> None:
            self.end()
            append(entry)

        def end(self) -> None:
            q.shutdown()
            with pytest.raises(QueueShutDownError):
                q.get()  # the last consumer goes

    items: Any = q._items
    late = Late()
    q._append = late.append
    if batch:
        q._items = late
        q._remove = lambda entry: remove_last(items, entry)  # type: ignore[method-assign]
    try:
        accepted = q.put_many([1, 2]) if batch else q.put(1) is None
    except QueueShutDownError:
        accepted = 0
    left = len(items)
    assert (accepted, left) == ((0, 0) if kind is TaskQueue else ((2, 2) if batch else (1, 1)))
    if kind is TaskQueue:
        assert q.finished()
        assert q.statistics().enqueued == 0
        q.join()


def test_what_is_taken_back_is_told_by_identity() -> None:
    """An item that equals everything takes nobody's place."""

    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    first, last = Equal(), Equal()
    line: deque[Any] = deque([first, last, 3])
    assert remove_last(line, first)
    assert not remove_last(line, first)
    assert line[0] is last
    assert list(itertools.islice(line, 1, None)) == [3]


def fairness_of(q: ShardedTaskQueue[int]) -> tuple[int, ...]:
    """Fill the queue, take half of it, and return what is left in each shard."""
    q.put_many(range(q.maxsize))
    for _ in range(q.maxsize // 2):
        q.get()
    return q.shard_sizes()


class FirstShardFirst(Shards):
    """Drains shard 0 before it looks at the next."""

    def popleft(self) -> Any:
        for shard, line in enumerate(self.lines):
            if line:
                self._free.append(shard)
                return line.popleft()
        raise IndexError


class OneFullShardFails(Shards):
    """Goes round strictly, and fails where that shard is full."""

    def append(self, entry: Any) -> None:
        shard = next(self._turns.ticks) % len(self.lines)
        if len(self.lines[shard]) >= self._bound // len(self.lines):
            raise QueueFullError("shard full")
        self.lines[shard].append(entry)


def sharded_of(line: type[Shards], maxsize: int, shards: int) -> ShardedTaskQueue[int]:
    class Made(ShardedTaskQueue[int]):
        def _new_line(self) -> Any:
            return line(self._bound, self.shards)

    return Made(maxsize, shards)


@pytest.mark.parametrize(("line", "fair"), [(Shards, True), (FirstShardFirst, False)])
def test_all_shards_are_drained_alike(line: type[Shards], fair: bool) -> None:
    """Q05: gets begin at another shard each time; one that always begins at shard 0 is seen."""
    assert (fairness_of(sharded_of(line, 40, 4)) == (5, 5, 5, 5)) == fair


@pytest.mark.parametrize(("line", "passes"), [(Shards, True), (OneFullShardFails, False)])
def test_a_full_shard_is_passed_over(line: type[Shards], passes: bool) -> None:
    """One full shard fails no put while another has room; exactly maxsize go in."""
    q = sharded_of(line, 6, 3)
    q.put_many(range(6)) if passes else [q.put(n) for n in range(6)]
    # shards 1 and 2 are drained, shard 0 stays full
    for shard in (1, 2, 1, 2):
        q._items._turns = type(q._items._turns)()
        for _ in range(shard):
            next(q._items._turns.ticks)
        assert q.get() % 3 == shard
    q._items._turns = type(q._items._turns)()
    if not passes:
        with pytest.raises(QueueFullError):
            q.put(9)
        return
    for item in range(4):
        q.put_nowait(item)
    assert q.shard_sizes() == (2, 2, 2)
    with pytest.raises(QueueFullError):
        q.put_nowait(9)
