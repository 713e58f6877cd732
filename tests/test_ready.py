"""The most urgent goes first, nobody waits longer than the bound says, and every item comes out once."""

from __future__ import annotations

import itertools
import math
import queue
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from procbench.cpu.priorities import PRIORITIES, Priority
from procbench.errors import InvalidInputError, QueueEmptyError, QueueFullError, QueueShutDownError
from procbench.scheduling.ready import PriorityScheduler
from tests.waiting import wait_until

SECOND_NS = 10**9


@dataclass(eq=False)
class Item:
    """Something that waits."""

    id: int | str
    submitted_ns: int = 0


class Clock:
    """A clock that goes when it is told to."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def ready(maxsize: int = 100, ageing_s: float | None = None) -> tuple[PriorityScheduler[Item], Clock]:
    clock = Clock()
    return PriorityScheduler(maxsize, ageing_s, clock), clock


def drained(q: PriorityScheduler[Item]) -> list[int | str]:
    taken = []
    while not q.empty():
        taken.append(q.get_nowait().id)
    return taken


@pytest.mark.parametrize("order", list(itertools.permutations(PRIORITIES)))
def test_the_most_urgent_goes_first_in_whatever_order_they_came(order: tuple[Priority, ...]) -> None:
    """Critical before high before normal before low, and in each class the first that came is the first that goes."""
    q, _ = ready()
    for turn, priority in itertools.product(range(3), order):
        q.put(Item(f"{priority} {turn}"), priority=priority)
    assert drained(q) == [f"{priority} {turn}" for priority in PRIORITIES for turn in range(3)]
    assert not q.mixed


def longest_wait_of_a_low_item(ageing_s: float | None, seconds: int) -> float:
    """Put a high item in each second and take one item each second; return how long the one low item waited."""
    q, clock = ready(ageing_s=ageing_s)
    q.put(Item("low", 0), priority="low")
    for second in range(seconds):
        clock.now_ns = second * SECOND_NS
        q.put(Item(second, clock.now_ns), priority="high")
        if q.get_nowait().id == "low":
            return second
    return math.inf


def test_without_ageing_a_low_item_starves() -> None:
    """A low item under endless high ones never gets its turn when nothing ages."""
    assert longest_wait_of_a_low_item(None, 10_000) == math.inf


@pytest.mark.parametrize("ageing_s", [1.0, 2.5, 30.0, 100.0])
def test_with_ageing_the_longest_wait_is_bounded(ageing_s: float) -> None:
    """Q05: a low item under endless high ones leaves with the first get after at most 3 x ageing_s."""
    assert longest_wait_of_a_low_item(ageing_s, 10_000) <= math.ceil(3 * ageing_s)


def test_endless_critical_items_do_not_stop_an_aged_one() -> None:
    """Q05: an item that has come to count as critical goes before every younger critical item, and not a moment earlier."""
    q, clock = ready(ageing_s=10.0)
    q.put(Item("low", 0), priority="low")
    for moment_ns in (0, 30 * SECOND_NS - 1):
        clock.now_ns = moment_ns
        q.put(Item("critical", moment_ns or 1), priority="critical")
        assert q.get_nowait().id == "critical"
    clock.now_ns = 30 * SECOND_NS
    q.put(Item("critical", 1), priority="critical")
    assert q.highest() == "critical"
    assert q.get_nowait().id == "low"
    assert q.statistics()["low"].aged == 1
    assert q.statistics()["low"].max_wait_s == q.statistics()["low"].mean_wait_s == 30.0


def test_the_bound_covers_all_that_was_there_before() -> None:
    """Q05: after 3 x ageing_s nothing that came later goes first; what was there before still does."""
    q, clock = ready(maxsize=1000, ageing_s=10.0)
    for number in range(50):
        q.put(Item(number, number), priority="critical")
    q.put(Item("low", 50), priority="low")
    clock.now_ns = 30 * SECOND_NS + 50
    for number in range(100, 150):
        q.put(Item(number, clock.now_ns), priority="critical")
    assert drained(q) == [*range(50), "low", *range(100, 150)]


def test_reprioritise_moves_an_item_and_keeps_its_age() -> None:
    """In its new class an item stands behind those that have waited longer; one that does not wait is not found."""
    q, _ = ready()
    for number, priority in enumerate(("high", "normal", "high", "low")):
        q.put(Item(number, number), priority=priority)  # type: ignore[arg-type]
    assert q.reprioritise(1, "high")
    assert q.reprioritise(3, "critical")
    assert q.reprioritise(0, "low")
    assert not q.reprioritise("nobody", "low")
    with pytest.raises(InvalidInputError, match="urgent"):
        q.reprioritise(1, "urgent")  # type: ignore[arg-type]
    assert q.qsize() == 4
    assert drained(q) == [3, 1, 2, 0]


def test_remove_takes_an_item_out_and_makes_room() -> None:
    """A removed item never comes out, its place is free, and a put that waits gets it."""
    q, _ = ready(maxsize=2)
    q.put(Item(0), priority="low")
    item = Item(1)
    q.put(item)
    putter = threading.Thread(target=q.put, args=(Item(2),), kwargs={"priority": "critical"})
    putter.start()
    wait_until(lambda: q._putters)
    assert q.remove(1) is item
    putter.join(60)
    assert q.remove(1) is None
    assert drained(q) == [2, 0]
    assert q.statistics()["normal"].removed == q.statistics()["normal"].enqueued == 1
    assert q.statistics()["normal"].dequeued == 0


def test_put_over_does_not_wait_and_keeps_the_bound_exact() -> None:
    """What came in beyond the bound keeps others out until there are fewer than maxsize again."""
    q, _ = ready(maxsize=2)
    q.put(Item(0))
    q.put(Item(1))
    q.put_over(Item(2), "high")
    q.put_over(Item(3), "low")
    assert q.reprioritise(3, "normal")  # the debt stays, though all are normal when the high one is gone
    for expected in (2, 0):
        with pytest.raises(QueueFullError):
            q.put_nowait(Item(9))
        assert q.get_nowait().id == expected
    assert q.full()
    assert q.get_nowait().id == 1
    q.put_nowait(Item(4))
    with pytest.raises(QueueFullError):
        q.put_nowait(Item(9))
    assert sorted(map(str, drained(q))) == ["3", "4"]


def test_an_unknown_priority_is_refused() -> None:
    """A word that is no priority is named, whatever its type, and nothing was put."""
    q, _ = ready()
    for wrong in ("urgent", "", None, 1, []):
        for put in (q.put_nowait, q.put_over):
            with pytest.raises(InvalidInputError, match="must be one of critical"):
                put(Item(1), wrong)  # type: ignore[arg-type]
    assert q.empty()
    for ageing_s in (0, -1, math.nan):
        with pytest.raises(InvalidInputError, match="ageing_s"):
            PriorityScheduler[Item](1, ageing_s)


def test_shutdown_delivers_what_is_in_and_takes_nothing_more() -> None:
    """Q01: after shutdown every door refuses, what is in comes out in order, and then the queue says that it is finished."""
    q, _ = ready(maxsize=2)
    q.put(Item(0), priority="low")
    q.put(Item(1))
    raised: list[BaseException] = []

    def put() -> None:
        try:
            q.put(Item(2), priority="critical")
        except QueueShutDownError as error:
            raised.append(error)

    putter = threading.Thread(target=put)
    putter.start()
    wait_until(lambda: q._putters)
    q.shutdown()
    putter.join(60)
    assert len(raised) == 1
    with pytest.raises(QueueShutDownError):
        q.put_over(Item(3), "high")
    assert not q.finished()
    assert drained(q) == [1, 0]
    assert q.finished()
    with pytest.raises(QueueShutDownError):
        q.get()


def test_waiting_with_a_time_limit_is_the_standard_librarys() -> None:
    """Q02: queue.Full and queue.Empty after the time, ValueError for a negative one."""
    q, _ = ready(maxsize=1)
    with pytest.raises(queue.Empty):
        q.get(timeout=0.01)
    q.put(Item(0), priority="high")
    with pytest.raises(queue.Full):
        q.put(Item(1), timeout=0.01, priority="high")
    with pytest.raises(queue.Full):
        q.put(Item(1), block=False)
    with pytest.raises(ValueError, match="at least 0"):
        q.put(Item(1), timeout=-1)


def test_every_item_once_with_many_threads(shaken: None) -> None:
    """Q01, Q04: 8 producers of every class, 8 consumers, one who moves and removes: each item comes out exactly once."""
    q: PriorityScheduler[Item] = PriorityScheduler(16, 0.001)
    taken: list[list[int | str]] = [[] for _ in range(8)]
    removed: list[int | str] = []
    raised: list[BaseException] = []
    per_producer = 500
    done = threading.Event()

    def guarded(work: Any, number: int) -> None:
        try:
            work(number)
        except QueueShutDownError:
            pass
        except BaseException as error:
            raised.append(error)

    def produce(number: int) -> None:
        for index in range(per_producer):
            # runs of normal ones alone, so that the queue goes from the short way to the long one and back
            priority: Priority = "normal" if index % 50 < 25 else PRIORITIES[(number + index) % 4]
            item = Item(number * per_producer + index, q._clock())
            if index % 50 == 49:
                q.put_over(item, "high")
            else:
                q.put(item, timeout=60, priority=priority)

    def consume(number: int) -> None:
        while True:
            taken[number].append(q.get(timeout=60).id)
            taken[number].extend(item.id for item in q.get_alike_nowait(2))

    def meddle(_: int) -> None:
        for id in itertools.cycle(range(0, 8 * per_producer, 7)):
            if done.is_set():
                return
            if id % 3 and (item := q.remove(id)) is not None:
                removed.append(item.id)
            q.reprioritise(id, PRIORITIES[id % 4])

    def threads(work: Any, count: int) -> list[threading.Thread]:
        made = [threading.Thread(target=guarded, args=(work, n), daemon=True) for n in range(count)]
        for thread in made:
            thread.start()
        return made

    consumers, producers, meddlers = threads(consume, 8), threads(produce, 8), threads(meddle, 1)
    for thread in producers:
        thread.join(60)
    done.set()
    for thread in meddlers:
        thread.join(60)
    q.shutdown()
    for thread in consumers:
        thread.join(60)
    assert raised == []
    counts = Counter(itertools.chain(removed, *taken))
    assert len(counts) == 8 * per_producer
    assert set(counts.values()) == {1}
    assert len(q._permits) == q.maxsize
    assert not q._over
    s = q.statistics()
    assert sum(c.enqueued for c in s.values()) == sum(c.dequeued + c.removed for c in s.values()) == 8 * per_producer
    assert sum(c.removed for c in s.values()) == len(removed)


class ReadyMachine(RuleBasedStateMachine):
    """The queue against the simplest model of itself: a list that is sorted anew at each get."""

    @initialize(maxsize=st.integers(1, 6), ageing=st.none() | st.integers(1, 5))
    def start(self, maxsize: int, ageing: int | None) -> None:
        self.clock = Clock()
        self.queue: PriorityScheduler[Item] = PriorityScheduler(maxsize, ageing, self.clock)
        self.maxsize, self.ageing = maxsize, ageing
        self.model: list[tuple[int, Item]] = []  # rank and item
        self.came = self.taken = self.removed = 0
        self.closed = False

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        self.clock.now_ns += seconds * SECOND_NS

    @rule(rank=st.integers(0, 3), over=st.booleans())
    def put(self, rank: int, over: bool) -> None:
        self.clock.now_ns += 1
        item = Item(self.came, self.clock.now_ns)
        call = self.queue.put_over if over else self.queue.put_nowait
        if self.closed:
            with pytest.raises(QueueShutDownError):
                call(item, PRIORITIES[rank])
        elif not over and len(self.model) >= self.maxsize:
            with pytest.raises(QueueFullError):
                call(item, PRIORITIES[rank])
        else:
            call(item, PRIORITIES[rank])
            self.model.append((rank, item))
            self.came += 1

    def place(self, entry: tuple[int, Item]) -> tuple[int, int]:
        rank, item = entry
        classes = 0 if self.ageing is None else (self.clock.now_ns - item.submitted_ns) // (self.ageing * SECOND_NS)
        return max(0, rank - classes), item.submitted_ns

    @rule()
    def get(self) -> None:
        if not self.model:
            with pytest.raises(QueueShutDownError if self.closed else QueueEmptyError):
                self.queue.get_nowait()
            return
        first = min(self.model, key=self.place)
        self.model.remove(first)
        self.taken += 1
        assert self.queue.get_nowait() is first[1]

    @rule(which=st.integers(0, 20), rank=st.integers(0, 3))
    def reprioritise(self, which: int, rank: int) -> None:
        found = [entry for entry in self.model if entry[1].id == which]
        assert self.queue.reprioritise(which, PRIORITIES[rank]) == bool(found)
        for entry in found:
            self.model.remove(entry)
            self.model.append((rank, entry[1]))

    @rule(which=st.integers(0, 20))
    def remove(self, which: int) -> None:
        found = [entry for entry in self.model if entry[1].id == which]
        assert self.queue.remove(which) is (found[0][1] if found else None)
        for entry in found:
            self.model.remove(entry)
            self.removed += 1

    @precondition(lambda self: len(self.model) >= 3)
    @rule()
    def shutdown(self) -> None:
        self.queue.shutdown()
        self.closed = True

    @invariant()
    def agrees(self) -> None:
        assert self.queue.qsize() == len(self.model)
        assert self.queue.empty() == (not self.model)
        assert self.queue.full() == (len(self.model) >= self.maxsize)
        assert self.queue.mixed or all(rank == 2 for rank, _ in self.model)
        s = self.queue.statistics()
        assert [c.queued for c in s.values()] == [sum(rank == n for rank, _ in self.model) for n in range(4)]
        assert sum(c.enqueued for c in s.values()) == self.came
        assert sum(c.dequeued for c in s.values()) == self.taken
        assert sum(c.removed for c in s.values()) == self.removed
        assert (self.queue.highest() is None) == (not self.model)


TestReadyAgainstItsModel = ReadyMachine.TestCase
TestReadyAgainstItsModel.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    "arguments", [("3",), (None,), (1.5,), (True,), (0,), (10, "5"), (10, True), (10, 0), (10, math.nan)]
)
def test_a_bound_or_an_ageing_that_is_no_number_is_refused(arguments: tuple[Any, ...]) -> None:
    """What makes no sense is refused where it is made, by one clear error."""
    with pytest.raises(InvalidInputError):
        PriorityScheduler(*arguments)


class Numbered:
    """It can be removed, and nobody knows since when it waits."""

    id = 7


class Nameless:
    """It has its time, and could not be found again."""

    submitted_ns = 7


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("way", ["put", "put_nowait", "put_over"])
@pytest.mark.parametrize("item", ["text", 7, None, Numbered(), Nameless(), Item(1, None), Item(1, "7"), Item(1, 7.5)])  # type: ignore[arg-type]
def test_what_cannot_be_compared_is_refused_where_it_is_put(item: Any, way: str, priority: Priority) -> None:
    """One bad item must not keep the good ones in: its put says what it lacks, takes no room, and every get goes on."""
    q, clock = ready(maxsize=2)
    q.put(Item("first"))
    with pytest.raises(InvalidInputError, match="cannot wait here, as it has"):
        getattr(q, way)(item, priority=priority)
    assert (q.qsize(), q.accepted, q.mixed) == (1, 1, False)
    q.put(Item("urgent"), priority="high")
    clock.now_ns += SECOND_NS
    assert q.remove("nobody") is None
    assert drained(q) == ["urgent", "first"]
    assert {one.queued for one in q.statistics().values()} == {0}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Numbered(), "a Numbered cannot wait here, as it has no submitted_ns; give it an id"),
        (Nameless(), "a Nameless cannot wait here, as it has no id; give it an id"),
        (Item(1, None), "a Item cannot wait here, as it has None for submitted_ns; give it"),  # type: ignore[arg-type]
    ],
)
def test_what_is_refused_is_told_what_it_lacks(item: Any, words: str) -> None:
    """The message names the attribute and what to put into it."""
    with pytest.raises(InvalidInputError, match=words):
        ready()[0].put(item)
