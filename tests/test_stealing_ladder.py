"""The ladder that crossbeam-deque climbs, for workers that find, steal and sleep, and copies with the classical faults.

Real workers, injector and sleepers; only the commands are left out, so that what is found is all that happens.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from procbench import ProcessTask, RunSettings
from procbench.scheduling.finding import Finder
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.ready import PriorityScheduler
from procbench.scheduling.sleeping import Sleepers
from procbench.scheduling.worker import Worker
from tests.waiting import wait_until

FULL = bool(os.environ.get("PROCBENCH_LADDER"))
SEEDS = range(20)
MANY = 100_000
PATIENCE_S = 300.0 if FULL else 60.0
TASK = ProcessTask(["true"])

pytestmark = pytest.mark.usefixtures("shaken")


class Crew:
    """Workers that only find tasks, each in a thread of its own.

    Attributes:
        taken: What each of them has found, in its order.
        then: What a worker does with a task that it has found.
    """

    def __init__(self, count: int, finder: type[Finder] = Finder, sleepers: type[Sleepers] = Sleepers) -> None:
        self.injector: PriorityScheduler[TaskFuture] = PriorityScheduler(10 * MANY)
        self.sleepers = sleepers()
        self.workers = [Worker(number, RunSettings(workers=count)) for number in range(count)]
        self.finder = finder(self.injector, self.workers, self.sleepers)
        self.taken: list[list[TaskFuture]] = [[] for _ in range(count)]
        self.then: Callable[[Worker, TaskFuture], object] = lambda worker, future: None
        self.threads: list[threading.Thread] = []

    def submit(self, count: int) -> list[TaskFuture]:
        """Hand tasks in from outside, as the scheduler does."""
        futures = [new() for _ in range(count)]
        for future in futures:
            self.injector.put(future)
            if self.sleepers.line:
                self.sleepers.wake_one()
        return futures

    def leave(self, worker: Worker, count: int) -> list[TaskFuture]:
        """Put tasks into a worker's own queue, as its own thread does."""
        futures = [new() for _ in range(count)]
        for future in futures:
            worker.local.append(future)
            if self.sleepers.line:
                self.sleepers.wake_one()
        return futures

    def start(self, *numbers: int) -> None:
        """Have these workers look for tasks; all of them where none is named."""
        for number in numbers or range(len(self.workers)):
            self.threads.append(threading.Thread(target=self._work, args=(self.workers[number],), daemon=True))
            self.threads[-1].start()

    def _work(self, worker: Worker) -> None:
        try:
            while (future := self.finder.next_for(worker)) is not None:
                self.taken[worker.number].append(future)
                self.then(worker, future)
        finally:
            self.sleepers.wake_one()

    def end(self, patience_s: float = PATIENCE_S) -> bool:
        """Take nothing more in and wait for all to end; return whether they did."""
        self.injector.shutdown()
        self.sleepers.wake_one()
        end_s = time.monotonic() + patience_s
        for thread in self.threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self.threads)

    def free_all(self, patience_s: float = 10.0) -> None:
        """End the threads of a crew that lost a wake-up, or a task."""
        for worker in self.workers:
            worker.local.clear()
        end_s = time.monotonic() + patience_s
        while any(thread.is_alive() for thread in self.threads) and time.monotonic() < end_s:
            for worker in self.workers:
                if worker.asleep.locked():
                    worker.asleep.release()
            time.sleep(0.001)


def new() -> TaskFuture:
    return TaskFuture(TASK, time.monotonic_ns())


@contextmanager
def crew_of(count: int, finder: type[Finder] = Finder, sleepers: type[Sleepers] = Sleepers) -> Iterator[Crew]:
    made = Crew(count, finder, sleepers)
    try:
        yield made
    finally:
        made.injector.shutdown()
        made.free_all()
        for worker in made.workers:
            worker.close()


def each_once(crew: Crew, handed_in: list[TaskFuture]) -> bool:
    found = sorted(map(id, itertools.chain(*crew.taken)))
    return found == sorted(map(id, handed_in))


def test_smoke() -> None:
    """What is handed in comes out in its order, and after the end there is nothing."""
    with crew_of(1) as crew:
        tasks = crew.submit(100)
        crew.injector.shutdown()
        (worker,) = crew.workers
        assert [crew.finder.next_for(worker) for _ in range(101)] == [*tasks, None]


def test_is_empty() -> None:
    """All is drained only when nothing waits anywhere, and nothing can come."""
    with crew_of(2) as crew:
        assert not crew.finder.drained()
        crew.submit(1)
        crew.injector.shutdown()
        assert not crew.finder.drained()
        first, second = crew.workers
        second.local.append(crew.injector.get_nowait())
        assert not crew.finder.drained()
        assert crew.finder.next_for(first) is not None
        assert crew.finder.drained()


def test_spsc() -> None:
    """An owner takes from its own end, a thief from the far one: together everything once, each in one direction."""
    with crew_of(2) as crew:
        tasks = crew.leave(crew.workers[0], 3000)
        places = {id(task): place for place, task in enumerate(tasks)}
        crew.start()
        assert crew.end()
        assert each_once(crew, tasks)
        owned = [places[id(task)] for task in crew.taken[0] if task.stolen_from is None]
        assert owned == sorted(owned)


@pytest.mark.parametrize("seed", SEEDS)
def test_mpmc(seed: int) -> None:
    """Q04: 8 threads hand in, 8 workers find: each task exactly once."""
    with crew_of(8) as crew:
        for worker in crew.workers:
            worker.random.seed(f"{seed} {worker.number}")
        handed_in: list[list[TaskFuture]] = []
        each = (1_000_000 if FULL else 800) // 8
        crew.start()
        threads = [threading.Thread(target=lambda: handed_in.append(crew.submit(each))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert crew.end()
        assert each_once(crew, list(itertools.chain(*handed_in)))


def test_stampede() -> None:
    """Q04: 8 thieves fall upon one worker's 100,000 tasks, which takes from its own end meanwhile: each exactly once."""
    with crew_of(9) as crew:
        tasks = crew.leave(crew.workers[0], MANY)
        crew.start(*reversed(range(9)))  # the owner last: it may be through before a thief has begun
        assert crew.end()
        assert each_once(crew, tasks)
        assert sum(worker.stolen_tasks for worker in crew.workers[1:]) > 0


def test_the_last_task_goes_to_one() -> None:
    """Q04: an owner and 8 thieves reach for a single task, 200 times; one gets it, and nobody waits for more."""
    with crew_of(9) as crew:
        barrier = threading.Barrier(10)
        got: deque[TaskFuture] = deque()

        def reach(worker: Worker) -> None:
            for _ in range(200):
                barrier.wait(PATIENCE_S)
                found = crew.finder._find(worker)
                if found is not None:
                    got.append(found)
                barrier.wait(PATIENCE_S)

        threads = [threading.Thread(target=reach, args=(worker,), daemon=True) for worker in crew.workers]
        for thread in threads:
            thread.start()
        for count in range(1, 201):
            (task,) = crew.leave(crew.workers[0], 1)
            barrier.wait(PATIENCE_S)
            barrier.wait(PATIENCE_S)
            assert (len(got), got[-1]) == (count, task)
        for thread in threads:
            thread.join(PATIENCE_S)


@pytest.mark.parametrize("seed", SEEDS)
def test_stress(seed: int) -> None:
    """Tasks leave tasks in their worker's own queue, others come from outside, and the end comes in the midst of it."""
    chance = random.Random(seed)
    with crew_of(1 + seed % 8) as crew:
        handed_in: deque[TaskFuture] = deque()
        left = [chance.randrange(4) for _ in range(2000)]
        numbers = itertools.count()

        def then(worker: Worker, future: TaskFuture) -> None:
            number = next(numbers)
            if number < len(left):
                handed_in.extend(crew.leave(worker, left[number]))

        crew.then = then
        crew.start()
        for _ in range(20):
            handed_in.extend(crew.submit(chance.randrange(60)))
        assert crew.end()
        assert each_once(crew, list(handed_in))


def test_no_starvation() -> None:
    """Q05: while one worker is held up with all the tasks, each of the 8 others steals some, and none waits for it."""
    with crew_of(9) as crew:
        tasks: list[TaskFuture] = []
        crew.start(*range(1, 9))
        for _ in range(200):
            tasks += crew.leave(crew.workers[0], 200)
            wait_until(lambda: not crew.workers[0].local, "the held-up worker's tasks", PATIENCE_S)
            if all(worker.steals for worker in crew.workers[1:]):
                break
        assert all(worker.steals for worker in crew.workers[1:])
        assert crew.end()
        assert each_once(crew, tasks)


def test_destructors() -> None:
    """A task that was found and dealt with is gone; one that was never looked for goes with the crew."""
    with crew_of(2) as crew:
        tasks = [*crew.submit(60), *crew.leave(crew.workers[0], 40)]
        watched = [weakref.ref(task) for task in tasks]
        del tasks
        for _ in range(50):
            assert crew.finder.next_for(crew.workers[1]) is not None
        gc.collect()
        assert sum(ref() is None for ref in watched) == 50
    del crew
    gc.collect()
    assert all(ref() is None for ref in watched)


@pytest.mark.parametrize("waiting", [1, 8])
def test_close_wakes_waiters(waiting: int) -> None:
    """Everybody who sleeps is told of the end, each by the one before, and nobody sleeps on."""
    with crew_of(waiting) as crew:
        crew.start()
        wait_until(lambda: len(crew.sleepers.line) == waiting)
        assert crew.end()
        assert not crew.sleepers.line


# --- what is broken must be seen --------------------------------------------------------------------------------------


class AsksOneVictim(Finder):
    """Tries one random victim, perhaps itself, and may so miss the only one that has anything."""

    def _steal(self, worker: Worker) -> TaskFuture | None:
        victim = worker.random.choice(self._workers)
        return victim.local.pop() if victim is not worker and victim.local else None


class LosesTheRest(Finder):
    """Takes half of a queue and keeps one of them."""

    def _steal(self, worker: Worker) -> TaskFuture | None:
        found = super()._steal(worker)
        if found is not None and found.stolen_from is not None:
            worker.local.clear()
        return found


class LooksThenTakes(Finder):
    """Looks at the far end first, and takes it off only then."""

    def _steal(self, worker: Worker) -> TaskFuture | None:
        for victim in self._workers:
            if victim is not worker and victim.local:
                try:
                    last = victim.local[-1]
                    time.sleep(0)  # lets another thread come in between, as it may
                    victim.local.pop()
                except IndexError:
                    continue
                return last
        return None


class SleepsAtOnce(Finder):
    """Does not look once more after it has lain down."""

    def next_for(self, worker: Worker) -> TaskFuture | None:
        while True:
            future = self._find(worker)
            if future is not None or self.drained():
                return future
            self._sleepers.lie_down(worker)
            self._sleepers.sleep(worker)


@pytest.mark.parametrize("finder", [Finder, AsksOneVictim])
def test_the_only_full_queue_is_found(finder: type[Finder]) -> None:
    """Whoever looks, and however the dice fall, finds the one worker that has anything; asking one victim does not."""
    with crew_of(8, finder) as crew:
        missed = 0
        for looking, full in itertools.permutations(crew.workers, 2):
            crew.leave(full, 1)
            missed += crew.finder._find(looking) is None
            full.local.clear()
        assert (missed == 0) == (finder is Finder)


@pytest.mark.parametrize("finder", [LosesTheRest, LooksThenTakes])
def test_the_ladder_sees_a_broken_thief(finder: type[Finder]) -> None:
    """Tasks that a thief loses, or that two get, are seen by the same look as above."""

    def climbs() -> bool:
        with crew_of(9, finder) as crew:
            tasks = crew.leave(crew.workers[0], 3000)
            crew.start(*reversed(range(9)))
            return crew.end() and each_once(crew, tasks)

    assert not all(climbs() for _ in range(500))  # it ends with the first that fell


@pytest.mark.parametrize("finder", [Finder, SleepsAtOnce])
def test_the_ladder_sees_a_lost_wake_up(finder: type[Finder]) -> None:
    """A task that comes between the last look and the lying down is found by the second look, and slept through without."""

    class Late(Sleepers):
        def lie_down(self, worker: Worker) -> None:
            if late:
                crew.injector.put(late.pop())  # nobody lies there yet, so nobody is woken
            super().lie_down(worker)

    late = [new()]
    with crew_of(1, finder, Late) as crew:
        crew.start()
        if finder is Finder:
            wait_until(lambda: crew.taken[0])
            return
        wait_until(lambda: crew.workers[0].parks == 1)
        assert (len(crew.taken[0]), crew.injector.qsize()) == (0, 1)
