"""The bound is exact, every item is delivered once and in order, and nobody sleeps through a wake-up or is woken for nothing."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from procbench.errors import InvalidInputError, QueueEmptyError, QueueFullError, QueueShutDownError
from procbench.scheduling.queues import TaskQueue
from tests.waiting import wait_until


class Crowd:
    """Threads that all run one function; what they raise is kept."""

    def __init__(self, count: int, work: Callable[[int], None]) -> None:
        self.raised: list[BaseException] = []
        self._work = work
        self.threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, number: int) -> None:
        try:
            self._work(number)
        except BaseException as error:
            self.raised.append(error)

    def join(self) -> None:
        end = time.monotonic() + 60
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))
        assert not [t for t in self.threads if t.is_alive()], "somebody still waits"


def waiting(q: TaskQueue[Any]) -> int:
    """Return how many callers sleep in the queue."""
    return len(q._getters) + len(q._putters)


@pytest.mark.parametrize("maxsize", [1, 2, 7, 64])
def test_every_item_once_in_order_and_never_too_many(shaken: None, maxsize: int) -> None:
    """Q01, Q04: with 8 producers and 8 consumers the bound holds at every look, nothing is lost, doubled or overtaken."""
    q: TaskQueue[tuple[int, int]] = TaskQueue(maxsize)
    per_producer = 2000
    most: list[int] = []
    taken: list[list[tuple[int, int]]] = [[] for _ in range(8)]

    def produce(number: int) -> None:
        for index in range(per_producer):
            q.put((number, index), timeout=60)
            most.append(q.qsize())

    def consume(number: int) -> None:
        try:
            while True:
                taken[number].append(q.get(timeout=60))
        except QueueShutDownError:
            return

    consumers, producers = Crowd(8, consume), Crowd(8, produce)
    producers.join()
    q.shutdown()
    consumers.join()
    assert producers.raised == consumers.raised == []
    assert max(most) <= maxsize
    counts = Counter(itertools.chain.from_iterable(taken))
    assert len(counts) == 8 * per_producer
    assert set(counts.values()) == {1}
    for mine in taken:
        for producer in range(8):
            indices = [index for who, index in mine if who == producer]
            assert indices == sorted(indices)


def test_the_bound_is_exact(shaken: None) -> None:
    """8 threads that put without waiting get exactly maxsize items in."""
    q: TaskQueue[int] = TaskQueue(1000)
    got_in = [0] * 8

    def fill(number: int) -> None:
        try:
            while True:
                q.put_nowait(number)
                got_in[number] += 1
        except QueueFullError:
            return

    Crowd(8, fill).join()
    assert sum(got_in) == q.qsize() == q.maxsize == 1000
    assert q.full()
    assert not q.empty()


@pytest.mark.parametrize("maxsize", [0, -1])
def test_a_bound_below_one_is_refused(maxsize: int) -> None:
    """A bounded queue holds at least one item."""
    with pytest.raises(InvalidInputError):
        TaskQueue(maxsize)


def test_the_errors_are_the_standard_librarys() -> None:
    """except queue.Full and queue.Empty catch them, with and without waiting."""
    q: TaskQueue[int] = TaskQueue(1)
    for get in (q.get_nowait, lambda: q.get(block=False), lambda: q.get(timeout=0), lambda: q.get(timeout=0.01)):
        with pytest.raises(queue.Empty):
            get()
    q.put(1)
    for put in (
        lambda: q.put_nowait(2),
        lambda: q.put(2, block=False),
        lambda: q.put(2, timeout=0),
        lambda: q.put(2, timeout=0.01),
    ):
        with pytest.raises(queue.Full):
            put()
    assert (q.get(), q.qsize(), waiting(q)) == (1, 0, 0)


def test_a_negative_timeout_is_refused() -> None:
    """Q02: a negative timeout is a ValueError, also where nobody would have to wait."""
    q: TaskQueue[int] = TaskQueue(2)
    q.put(1)
    with pytest.raises(ValueError, match="at least 0"):
        q.put(2, timeout=-0.1)
    with pytest.raises(ValueError, match="at least 0"):
        q.get(timeout=-1)
    assert q.qsize() == 1


def test_a_waiting_get_takes_what_comes() -> None:
    """A get that waits returns the item that is put meanwhile; a put that waits gets the room."""
    q: TaskQueue[int] = TaskQueue(1)
    seen: list[int] = []
    getter = Crowd(1, lambda _: seen.append(q.get(timeout=60)))
    wait_until(lambda: waiting(q) == 1)
    q.put(5)
    getter.join()
    assert seen == [5]
    q.put(6)
    putter = Crowd(1, lambda _: q.put(7, timeout=60))
    wait_until(lambda: waiting(q) == 1)
    assert [q.get(), q.get(timeout=60)] == [6, 7]
    putter.join()
    assert getter.raised == putter.raised == []


@pytest.mark.parametrize("side", ["get", "put"])
@pytest.mark.parametrize("timeout", [None, 60])
def test_shutdown_wakes_everybody_who_waits(side: str, timeout: float | None) -> None:
    """Q01: 8 callers that wait on either side are told that the queue was shut down."""
    q: TaskQueue[int] = TaskQueue(1)
    if side == "put":
        q.put(0)
    crowd = Crowd(8, (lambda n: q.put(n, timeout=timeout)) if side == "put" else (lambda _: q.get(timeout=timeout)))  # type: ignore[func-returns-value]
    wait_until(lambda: waiting(q) == 8)
    q.shutdown()
    crowd.join()
    assert [type(error) for error in crowd.raised] == [QueueShutDownError] * 8
    assert waiting(q) == 0


def test_what_was_accepted_before_shutdown_is_delivered() -> None:
    """Q01: after shutdown nothing goes in, what is in comes out, and then the queue says that it is finished."""
    q: TaskQueue[int] = TaskQueue(3)
    for item in range(3):
        q.put(item)
    q.shutdown()
    q.shutdown()
    for put in (q.put, q.put_nowait):
        with pytest.raises(QueueShutDownError):
            put(9)
    assert not q.finished()
    assert [q.get(), q.get_nowait(), q.get(timeout=1)] == [0, 1, 2]
    assert q.finished()
    for get in (q.get, q.get_nowait):
        with pytest.raises(QueueShutDownError):
            get()


def test_shutdown_in_the_middle_loses_and_doubles_nothing(shaken: None) -> None:
    """Q01: whatever the moment of the shutdown, what a put accepted is got once, and the rest was refused."""
    for round_ in range(40):
        q: TaskQueue[tuple[int, int]] = TaskQueue(3)
        accepted: list[deque[tuple[int, int]]] = [deque() for _ in range(4)]
        got: list[deque[tuple[int, int]]] = [deque() for _ in range(4)]

        def produce(number: int, q: Any = q, accepted: Any = accepted) -> None:
            for index in itertools.count():
                try:
                    q.put((number, index), timeout=60)
                except QueueShutDownError:
                    return
                accepted[number].append((number, index))

        def consume(number: int, q: Any = q, got: Any = got) -> None:
            try:
                while True:
                    got[number].append(q.get(timeout=60))
            except QueueShutDownError:
                return

        producers, consumers = Crowd(4, produce), Crowd(4, consume)
        wait_until(lambda got=got, least=round_ * 5: sum(map(len, got)) >= least)
        q.shutdown()
        producers.join()
        consumers.join()
        assert producers.raised == consumers.raised == []
        assert sorted(itertools.chain(*accepted)) == sorted(itertools.chain(*got))


class Counting(TaskQueue[int]):
    """Counts how often somebody looks whether there is something."""

    looks = 0

    def _entry_now(self) -> list[Any]:
        self.looks += 1
        return super()._entry_now()

    def _permit_now(self) -> bool | None:
        self.looks += 1
        return super()._permit_now()


@pytest.mark.parametrize("side", ["get", "put"])
def test_one_item_wakes_one_waiter(side: str) -> None:
    """Of 8 who wait, one is woken for one item; the others go on sleeping instead of waking each other in turn."""
    q = Counting(1)
    if side == "put":
        q.put(-1)
    crowd = Crowd(8, (lambda n: q.put(n, timeout=60)) if side == "put" else (lambda _: (q.get(timeout=60), None)[1]))
    wait_until(lambda: waiting(q) == 8)
    before = q.looks
    if side == "put":
        assert q.get() == -1
    else:
        q.put(1)
    wait_until(lambda: sum(t.is_alive() for t in crowd.threads) == 7 and waiting(q) == 7)
    # the others' turn, if they wrongly have one: an endless round would make thousands of looks here
    time.sleep(0.1)
    assert q.looks - before <= 4
    q.shutdown()
    crowd.join()


def test_wake_ups_are_not_lost_to_those_who_give_up(shaken: None) -> None:
    """B06: with consumers that give up after a moment, every item still reaches somebody who waits."""
    q: TaskQueue[int] = TaskQueue(2)
    got: deque[int] = deque()
    total = 4000

    def consume(number: int) -> None:
        timeout = 0.0005 if number % 2 else 60
        while len(got) < total:
            try:
                got.append(q.get(timeout=timeout))
            except QueueEmptyError:
                continue
            except QueueShutDownError:
                return

    consumers = Crowd(6, consume)
    producers = Crowd(4, lambda n: [q.put(n * 1000 + i, timeout=60) for i in range(total // 4)] and None)
    producers.join()
    wait_until(lambda: len(got) == total)
    q.shutdown()
    consumers.join()
    assert producers.raised == consumers.raised == []
    assert sorted(got) == list(range(total))


class QueueMachine(RuleBasedStateMachine):
    """The queue against the simplest model of itself: a list, a bound and a flag."""

    @initialize(maxsize=st.integers(1, 5))
    def start(self, maxsize: int) -> None:
        self.queue: TaskQueue[int] = TaskQueue(maxsize)
        self.items: list[int] = []
        self.maxsize = maxsize
        self.closed = False

    @rule(item=st.integers(), how=st.sampled_from(["nowait", "no block", "timeout 0"]))
    def put(self, item: int, how: str) -> None:
        call: Callable[[], None] = {
            "nowait": lambda: self.queue.put_nowait(item),
            "no block": lambda: self.queue.put(item, block=False),
            "timeout 0": lambda: self.queue.put(item, timeout=0),
        }[how]
        if self.closed:
            with pytest.raises(QueueShutDownError):
                call()
        elif len(self.items) == self.maxsize:
            with pytest.raises(QueueFullError):
                call()
        else:
            call()
            self.items.append(item)

    @rule(how=st.sampled_from(["nowait", "no block", "timeout 0"]))
    def get(self, how: str) -> None:
        call: Callable[[], int] = {
            "nowait": self.queue.get_nowait,
            "no block": lambda: self.queue.get(block=False),
            "timeout 0": lambda: self.queue.get(timeout=0),
        }[how]
        if self.items:
            assert call() == self.items.pop(0)
        else:
            with pytest.raises(QueueShutDownError if self.closed else QueueEmptyError):
                call()

    @precondition(lambda self: len(self.items) >= 2)
    @rule()
    def shutdown(self) -> None:
        self.queue.shutdown()
        self.closed = True

    @invariant()
    def agrees(self) -> None:
        assert self.queue.qsize() == len(self.items)
        assert self.queue.empty() == (not self.items)
        assert self.queue.full() == (len(self.items) == self.maxsize)
        assert self.queue.finished() == (self.closed and not self.items)
        assert waiting(self.queue) == 0


TestQueueAgainstItsModel = QueueMachine.TestCase
TestQueueAgainstItsModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_an_interrupted_put_cannot_keep_the_queue_from_ending() -> None:
    """L10: a permit lost to Ctrl-C costs a place, not the end: a shut-down, empty queue is finished."""
    queue: TaskQueue[int] = TaskQueue(3)
    queue._permit_now()  # what an interrupt between taking the permit and appending leaves behind
    queue.put(1)
    queue.shutdown()
    assert queue.get(timeout=60) == 1
    with pytest.raises(QueueShutDownError):
        queue.get(timeout=60)
