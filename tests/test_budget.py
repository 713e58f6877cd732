"""Permits for descriptors: taken in one step, waited for in line, never lost and never given twice."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from procbench.errors import (
    DescriptorsSpentError,
    DescriptorUsageWarning,
    InvalidInputError,
    PermitReleaseError,
    ProcbenchError,
)
from procbench.io import budget as budget_module
from procbench.io import fd_limit
from procbench.io.budget import DescriptorBudget, shared_budget
from procbench.io.fd_line import PermitLine, Waiter
from tests.waiting import run_python, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::procbench.errors.DescriptorUsageWarning")


def in_thread(body: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=body)
    thread.start()
    return thread


# --- taking and giving back ------------------------------------------------------------------------------------------


def test_permits_are_counted() -> None:
    """What is out and what is left make the capacity, and the peak stays."""
    budget = DescriptorBudget(20)
    budget.acquire(7)
    budget.acquire_nowait(5)
    assert budget.try_acquire(3)
    assert not budget.try_acquire(6)
    budget.release(10)
    now = budget.statistics()
    assert (now.limit, now.capacity, now.in_use, now.available, now.peak) == (20, 20, 5, 15, 15)
    assert (now.waiting, now.waits, now.refused) == (0, 0, 0)
    assert now.open_now == len(list(Path("/proc/self/fd").iterdir())) - 1


def test_more_cannot_be_given_back_than_is_out() -> None:
    """A permit that is released twice would be given to two; it is refused and changes nothing."""
    budget = DescriptorBudget(5)
    budget.acquire(2)
    with pytest.raises(PermitReleaseError, match="3 permits were given back and 2 are out"):
        budget.release(3)
    assert budget.in_use == 2
    budget.release(2)
    with pytest.raises(PermitReleaseError):
        budget.release()


def test_a_spent_budget_says_what_to_do() -> None:
    """Who would not wait learns at once how many there are, and what would make more."""
    budget = DescriptorBudget(4)
    budget.acquire(3)
    with pytest.raises(
        DescriptorsSpentError, match=r"2 descriptors are needed.*3 of 4.*ulimit -n.*fewer workers"
    ) as caught:
        budget.acquire_nowait(2)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, OSError)
        assert isinstance(error, ProcbenchError)
        assert error.errno == errno.EMFILE
    with pytest.raises(DescriptorsSpentError, match="in time"):
        budget.acquire(2, timeout=0)
    assert (budget.statistics().refused, budget.statistics().waiting, budget.in_use) == (2, 0, 3)


def test_more_than_the_whole_budget_is_refused_at_once() -> None:
    """Nobody waits for what can never be had, not even for ever."""
    budget = DescriptorBudget(4)
    for call in (budget.acquire, budget.acquire_nowait, lambda count: asyncio.run(budget.acquire_async(count))):
        with pytest.raises(DescriptorsSpentError, match="never can be had"):
            call(5)
    assert budget.statistics().refused == 3


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, "1", None])
def test_counts_that_make_no_sense_are_refused(wrong: Any) -> None:
    """A permit is whole, and there is at least one."""
    budget = DescriptorBudget(4)
    calls = (budget.acquire, budget.acquire_nowait, budget.try_acquire, budget.release, budget.hold, budget.let_go)
    for call in (*calls, DescriptorBudget):
        if wrong is None and call is DescriptorBudget:
            continue
        with pytest.raises(InvalidInputError):
            call(wrong)
    with pytest.raises(InvalidInputError, match="timeout"):
        budget.acquire(1, timeout=float("nan"))
    with pytest.raises(InvalidInputError, match="reserve"):
        DescriptorBudget(reserve=-1)


# --- the line ---------------------------------------------------------------------------------------------------------


def test_who_waits_is_served_in_order_and_all_at_once() -> None:
    """Who needs many is not overtaken by who needs few, and holds none while it waits."""
    budget = DescriptorBudget(6)
    budget.acquire(5)
    served: list[int] = []

    def wait(number: int, count: int) -> None:
        budget.acquire(count)
        served.append(number)

    threads = []
    for number, count in enumerate((4, 1, 2)):
        threads.append(in_thread(lambda number=number, count=count: wait(number, count)))
        wait_until(lambda: budget.waiting == len(threads))
    assert budget.in_use == 5  # one is free, and the second wants no more, but stands behind
    assert not budget.try_acquire(1)
    budget.release(3)
    threads[0].join()
    assert (served, budget.in_use, budget.waiting) == ([0], 6, 2)
    budget.release(1)
    threads[1].join()
    budget.release(2)
    threads[2].join()
    assert served == [0, 1, 2]
    assert budget.statistics().waits == 3
    budget.release(6)


def test_who_stood_behind_one_that_gave_up_is_served() -> None:
    """When the first in line goes away, what it left is enough for the next."""
    budget = DescriptorBudget(4)
    budget.acquire(3)
    gave_up: list[BaseException] = []

    def impatient() -> None:
        try:
            budget.acquire(4, timeout=0.2)
        except DescriptorsSpentError as error:
            gave_up.append(error)

    first = in_thread(impatient)
    wait_until(lambda: budget.waiting == 1)
    second = in_thread(budget.acquire)
    first.join()
    second.join(20)
    assert not second.is_alive()
    assert len(gave_up) == 1
    assert (budget.in_use, budget.waiting) == (4, 0)


def test_an_interrupted_wait_leaves_the_line() -> None:
    """A signal handler that raises ends the wait; nothing is lost and nobody waits any more."""
    budget = DescriptorBudget(2)
    budget.acquire(2)

    class Interrupt(Exception):
        pass

    def handler(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        helper = in_thread(
            lambda: (wait_until(lambda: budget.waiting == 1), os.kill(os.getpid(), signal.SIGUSR1))  # type: ignore[func-returns-value]
        )
        with pytest.raises(Interrupt):
            budget.acquire(1)
        helper.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (budget.waiting, budget.in_use) == (0, 2)
    budget.release(2)


def test_permits_that_come_back_inside_the_serving_go_on_at_once() -> None:
    """A garbage collection may release at any call, even of the one that wakes; who waits gets that too."""
    budget = DescriptorBudget(3)
    budget.acquire(3)
    first, second = Waiter(1, lambda: budget.release(2), lasting=False), Waiter(2, lambda: None, lasting=False)
    budget._enter_line(first)
    budget._enter_line(second)
    budget.release(1)
    assert first.served
    assert second.served
    assert (budget.in_use, budget.waiting) == (3, 0)


def test_eight_threads_and_cancelled_coroutines_lose_nothing(shaken: None) -> None:
    """Waits that time out, are cancelled or are served, in threads and loops: at the end every permit is back."""
    budget = DescriptorBudget(9)
    over: list[int] = []

    def thread(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(400):
            count = chance.randint(1, 5)
            try:
                budget.acquire(count, timeout=chance.choice([None, None, None, 0.0, 1e-5, 1e-3]))
            except DescriptorsSpentError:
                continue
            if budget.in_use > 9:
                over.append(budget.in_use)
            budget.release(count)

    async def one(chance: random.Random) -> None:
        for _ in range(40):
            count = chance.randint(1, 5)
            try:
                await budget.acquire_async(count, timeout=chance.choice([None, None, 0.0, 1e-5]))
            except DescriptorsSpentError:
                continue
            try:
                await asyncio.sleep(0)
            finally:
                budget.release(count)

    async def main(seed: int) -> None:
        chance = random.Random(seed)
        tasks = [asyncio.ensure_future(one(chance)) for _ in range(10)]
        for _ in range(6):
            await asyncio.sleep(0.002)
            if victims := [task for task in tasks if not task.done()]:
                chance.choice(victims).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() or task.exception() is None for task in tasks)

    threads = [in_thread(lambda seed=seed: thread(seed)) for seed in range(6)]
    threads += [in_thread(lambda seed=seed: asyncio.run(main(seed))) for seed in range(2)]
    for each in threads:
        each.join(120)
    now = budget.statistics()
    assert not any(each.is_alive() for each in threads)
    assert (now.in_use, now.available, now.waiting, over) == (0, 9, 0, [])
    assert now.waits
    assert now.peak <= 9


def test_coroutines_wait_in_the_same_line_as_threads() -> None:
    """A thread, a coroutine and one that is cancelled meanwhile: the others are served in the order they came."""
    budget = DescriptorBudget(2)
    budget.acquire(2)
    served: list[str] = []

    async def coroutine(name: str) -> None:
        await budget.acquire_async(2)
        served.append(name)
        budget.release(2)

    def thread() -> None:
        budget.acquire(2)
        served.append("thread")
        budget.release(2)

    async def main() -> None:
        first = asyncio.ensure_future(coroutine("first"))
        cancelled = asyncio.ensure_future(coroutine("cancelled"))
        await asyncio.sleep(0)
        helper = in_thread(thread)
        await asyncio.to_thread(wait_until, lambda: budget.waiting == 3)
        last = asyncio.ensure_future(coroutine("last"))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.to_thread(budget.release, 2)
        await asyncio.gather(first, cancelled, last, return_exceptions=True)
        helper.join()

    asyncio.run(main())
    assert served == ["first", "thread", "last"]
    assert (budget.in_use, budget.waiting) == (0, 0)


def test_a_cancelled_coroutine_passes_on_what_it_was_given() -> None:
    """One that is served and cancelled before it runs again holds nothing."""
    budget = DescriptorBudget(1)
    budget.acquire()

    async def main() -> None:
        task = asyncio.ensure_future(budget.acquire_async())
        await asyncio.sleep(0)
        assert budget.waiting == 1
        budget.release()
        assert budget.in_use == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert budget.in_use == 0


def test_a_loop_that_ends_while_a_coroutine_waits_loses_no_permit() -> None:
    """A closed event loop cannot be woken; what its coroutine was given goes on to the next."""
    budget = DescriptorBudget(1)
    budget.acquire()
    waits = budget.acquire_async()
    loop = asyncio.new_event_loop()
    task = loop.create_task(waits)
    loop.run_until_complete(asyncio.sleep(0))
    assert budget.waiting == 1
    task._log_destroy_pending = False  # that the task is lost is what this is about
    loop.close()
    budget.release()
    waits.close()
    assert (budget.in_use, budget.waiting) == (0, 0)


# --- the warning ---------------------------------------------------------------------------------------------------------


def test_heavy_use_is_warned_of_once_and_again_after_it_fell() -> None:
    """Above four fifths it is said once; not again before less than three fifths were in use."""
    budget = DescriptorBudget(10)
    budget.acquire(8)
    with pytest.warns(DescriptorUsageWarning, match=r"more than 80 % of the 10|80%") as caught:
        budget.acquire()
    assert caught[0].filename == __file__
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        budget.acquire()
        budget.release(4)
        budget.acquire(4)  # 10 again, by way of 6: not below three fifths
    assert said == []
    budget.release(5)
    with pytest.warns(DescriptorUsageWarning):
        budget.acquire(4)
    budget.release(9)


@pytest.fixture
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_warning_that_is_an_error_keeps_no_permit(warnings_are_errors: None) -> None:
    """Where warnings are errors, the caller gets the error and not the permits; from the line too."""
    budget = DescriptorBudget(5)
    with pytest.raises(DescriptorUsageWarning):
        budget.acquire(5)
    assert budget.in_use == 0
    budget.acquire(2)
    budget.release(2)
    with pytest.raises(DescriptorUsageWarning):
        asyncio.run(budget.acquire_async(5))
    assert budget.in_use == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        budget.acquire(5)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            budget.acquire(5)
        except DescriptorUsageWarning as error:
            errors.append(error)

    thread = in_thread(wait)
    wait_until(lambda: budget.waiting == 1)
    budget.release(5)
    thread.join()
    assert len(errors) == 1
    assert (budget.in_use, budget.waiting) == (0, 0)


# --- whose limit ----------------------------------------------------------------------------------------------------------


def test_idle_descriptors_are_given_up_before_anybody_waits() -> None:
    """Who keeps idle ones is asked for them first, and is held by nobody because of it."""
    budget = DescriptorBudget(3)
    budget.acquire(3)

    class Keeper:
        idle = 3

        def clean_up(self, idle_s: float) -> int:
            given, self.idle = self.idle, 0
            if given:
                budget.release(given)
            return given

    keeper = Keeper()
    budget.add_keeper(keeper)
    budget.acquire(2, timeout=20)
    keeper.idle = 1
    budget.acquire_nowait(2)
    del keeper
    budget._ask_keepers()
    assert not budget._keepers
    with pytest.raises(DescriptorsSpentError):
        budget.acquire_nowait(2)


def test_the_shared_budget_leaves_room_for_what_is_open_and_a_reserve() -> None:
    """One for the process; a forked child, which has its own table of descriptors, has its own."""
    said = run_python("""
import os, threading, warnings
from procbench.io.budget import RESERVE, shared_budget, DescriptorBudget
from procbench.io.fd_limit import count_open, soft_limit
made = []
threads = [threading.Thread(target=lambda: made.append(shared_budget())) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
budget = shared_budget()
assert all(one is budget for one in made)
# the threads that looked at the same moment had a listing of /proc open each, which counts as a descriptor
assert 0 <= soft_limit() - count_open() - RESERVE - budget.capacity < len(threads)
assert DescriptorBudget(reserve=0).capacity == soft_limit() - count_open()
budget.acquire(5)
child = os.fork()
if not child:
    os._exit(0 if shared_budget() is not budget and shared_budget().in_use == 0 else 1)
assert os.waitpid(child, 0)[1] == 0
assert shared_budget() is budget and budget.in_use == 5
print("ok")
""")
    assert said == "ok"


def test_a_budget_is_of_use_in_a_fork_whoever_held_its_locks() -> None:
    """A thread that waits, or holds a lock at the moment of the fork, is not in the child; who asks there is served."""
    said = run_python("""
import os, signal, threading, warnings
from procbench.io.budget import DescriptorBudget
warnings.simplefilter("ignore", DeprecationWarning)         # forking with threads is what this is about
budget = DescriptorBudget(3)
budget.acquire(2)
waits = threading.Thread(target=budget.acquire, args=(2,), kwargs={"warn": False})
waits.start()
while not budget.waiting: pass
held, go = threading.Event(), threading.Event()
def hold():
    with budget._lock, budget._line._lock:
        held.set()
        go.wait()
holds = threading.Thread(target=hold)
holds.start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    budget.acquire(1, warn=False)                           # the one that waits for two is not there to be overtaken
    budget.release(3)
    os._exit(budget.statistics().in_use + budget.waiting)
go.set()
holds.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), budget.waiting)
budget.release(2)
waits.join()
""")
    assert said == "0 1"


def test_a_changed_limit_is_followed() -> None:
    """setrlimit(2) by the user: a raised limit lets those through who wait; a lowered one makes them wait, not for ever."""
    said = run_python(
        """
import resource, threading, time
from procbench.errors import DescriptorsSpentError
from procbench.io.budget import DescriptorBudget
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
def limit(soft): resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
limit(100)
budget = DescriptorBudget(reserve=10)
whole = budget.capacity
budget.acquire(whole // 2)
limit(80)
assert budget.statistics().capacity == whole - 20 and budget.statistics().limit == 80
limit(100)
budget.acquire_nowait(whole - whole // 2 - 5)       # is noticed before anybody is refused
said = []
def wait():
    try: budget.acquire(20); said.append("served")
    except DescriptorsSpentError as error: said.append(error)
def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
def line(): thread = threading.Thread(target=wait, daemon=True); thread.start(); until(lambda: budget.waiting); return thread
thread = line(); limit(130); budget.statistics(); thread.join(20); assert not thread.is_alive()
thread = line(); limit(20); budget.statistics()
assert thread.is_alive() and budget.waiting == 1    # others still have theirs to give back
budget.release(budget.in_use); thread.join(20); assert not thread.is_alive()
limit(8)
low = budget.statistics()
assert low.available == 0 and low.capacity <= 8 and low.in_use == 20
budget.release(20)
budget.acquire(20)                                  # nobody else has any: the kernel decides
budget.release(20)
print(said)
""".replace("import resource", "import warnings; warnings.simplefilter('ignore'); import resource")
    )
    assert said == "['served', 'served']"


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> DescriptorBudget:
    """A budget of ten that follows the kernel's limit, as the shared one does."""
    monkeypatch.setattr(budget_module, "count_open", lambda: 0)
    monkeypatch.setattr(budget_module, "soft_limit", lambda: 10)
    return DescriptorBudget(reserve=0)


def test_who_is_alone_is_served_whatever_is_left(follower: DescriptorBudget) -> None:
    """Nobody else has any to give back, so waiting would be for ever: the kernel decides."""
    follower.acquire(12, timeout=0)
    assert not follower.try_acquire()  # only what is free, always
    with pytest.raises(DescriptorsSpentError, match="in time"):
        follower.acquire(timeout=0)
    follower.release(12)
    follower.acquire_nowait(11)
    follower.release(11)
    asyncio.run(follower.acquire_async(11, timeout=0))
    follower.release(11)
    assert follower.in_use == 0


def test_a_child_does_not_wait_for_what_somebody_keeps(follower: DescriptorBudget) -> None:
    """Lasting permits may never come back; one child at a time is served beside them, and the others wait for it."""
    follower.acquire(9, lasting=True)
    follower.acquire(3, timeout=0)
    waiting = in_thread(lambda: follower.acquire(3))
    wait_until(lambda: follower.waiting == 1)
    now = follower.statistics()
    assert (now.in_use, now.lasting, now.available) == (12, 9, 0)
    follower.release(3)
    waiting.join(20)
    assert not waiting.is_alive()
    follower.release(3)
    follower.let_go(9)
    assert (follower.in_use, follower.statistics().lasting) == (0, 0)


def test_a_child_that_kept_permits_leave_no_room_for_is_refused_at_once() -> None:
    """L19: with a number of its own a budget goes not beyond it, so who would wait for handles, perhaps for ever, is told."""
    budget = DescriptorBudget(10)
    budget.acquire(8, lasting=True)
    budget.acquire(2)
    for ask in (budget.acquire, budget.acquire_nowait, lambda count: asyncio.run(budget.acquire_async(count))):
        with pytest.raises(DescriptorsSpentError, match="handles keep 8"):
            ask(3)
    waiting = in_thread(lambda: budget.acquire(2))  # what is left suffices for this one
    wait_until(lambda: budget.waiting == 1)
    budget.release(2)
    waiting.join(20)
    assert not waiting.is_alive()
    budget.release(2)
    budget.let_go(8)
    assert (budget.in_use, budget.lasting) == (0, 0)


def test_who_wants_to_keep_some_waits_for_others_and_keeps_no_child_waiting(follower: DescriptorBudget) -> None:
    """A handle is waited for until another is closed; a child that comes later overtakes it, or both would wait for ever."""
    follower.acquire(10, lasting=True)
    keeper = in_thread(lambda: follower.acquire(2, lasting=True))
    wait_until(lambda: follower.waiting == 1)
    follower.acquire(3, timeout=0)
    follower.let_go(2)
    assert follower.waiting == 1  # the child has them
    follower.release(3)
    keeper.join(20)
    assert not keeper.is_alive()
    follower.let_go(10)
    assert follower.in_use == 0


def test_what_is_open_in_any_case_is_counted_and_never_waits(follower: DescriptorBudget) -> None:
    """hold takes what it says, past the line and the capacity; let_go gives back that much and no more."""
    follower.acquire(8)
    waiter = in_thread(lambda: follower.acquire(3))
    wait_until(lambda: follower.waiting == 1)
    follower.hold(4)
    assert (follower.in_use, follower.statistics().peak, follower.waiting) == (12, 12, 1)
    with pytest.raises(PermitReleaseError, match="5 permits were given back and 4 are out"):
        follower.let_go(5)
    with pytest.raises(PermitReleaseError, match="9 permits were given back and 8 are out"):
        follower.release(9)
    assert follower.in_use == 12
    follower.release(8)  # what is left lasts, so the one in line is served
    waiter.join(20)
    assert not waiter.is_alive()
    follower.let_go(4)
    follower.release(3)
    assert follower.in_use == 0


def test_idle_descriptors_go_before_the_capacity_is_overdrawn(follower: DescriptorBudget) -> None:
    """What somebody keeps idle is lasting too; it is closed before a child gets more than there are."""
    follower.hold(9)

    class Keeper:
        idle = 4

        def clean_up(self, idle_s: float) -> int:
            given, self.idle = self.idle, 0
            if given:
                follower.let_go(given)
            return given

    keeper = Keeper()
    follower.add_keeper(keeper)
    follower.acquire_nowait(3)
    assert (keeper.idle, follower.in_use) == (0, 8)
    follower.release(3)
    follower.let_go(5)


def test_a_full_process_still_gets_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc cannot be read, for want of a descriptor perhaps, the open ones are counted one by one."""
    whole = DescriptorBudget(reserve=0).capacity

    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, "none left")

    monkeypatch.setattr(fd_limit.os, "scandir", refused)
    budget = DescriptorBudget(reserve=0)
    assert budget.capacity == whole
    assert budget.statistics().open_now is None
    assert shared_budget() is shared_budget()


def test_a_limit_of_infinity_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIM_INFINITY is -1 to Python, and no room at all if taken at its word."""
    monkeypatch.setattr(fd_limit.resource, "getrlimit", lambda _: (fd_limit.resource.RLIM_INFINITY,) * 2)
    assert DescriptorBudget().capacity > 1_000_000


# --- a model, and what it must catch ------------------------------------------------------------------------------------


class BudgetMachine(RuleBasedStateMachine):
    """Drives budgets of ten beside a model: who holds how many, who stands in line for how many, and which of them last."""

    line_class = PermitLine

    def __init__(self) -> None:
        super().__init__()
        self.budget = DescriptorBudget(10)
        self.follows = False
        self.held: list[tuple[int, bool]] = []
        self.line: list[tuple[int, bool, Any]] = []
        self.gone: list[Any] = []

    @initialize(follows=st.booleans())
    def begin(self, follows: bool) -> None:
        self.follows = follows
        self.budget._line = self.line_class(10, beyond=follows)

    @property
    def out(self) -> int:
        return sum(count for count, _ in self.held)

    @property
    def lasting(self) -> int:
        return sum(count for count, lasting in self.held if lasting)

    def chosen(self, line: list[tuple[int, bool]]) -> int | None:
        """Whose turn it is, by its place: the rule, said once more."""
        if not line:
            return None
        if self.out + line[0][0] <= 10 or (self.follows and not self.out):
            return 0
        if self.follows and self.out == self.lasting:
            return next((place for place, (_, lasting) in enumerate(line) if not lasting), None)
        return None

    def settle(self) -> None:
        """What must have happened: whose turn it is was served."""
        while (place := self.chosen([(count, lasting) for count, lasting, _ in self.line])) is not None:
            count, lasting, waiter = self.line.pop(place)
            assert waiter.served, "whose turn it is was not served"
            self.held.append((count, lasting))

    @rule(count=st.integers(1, 11), lasting=st.booleans())
    def take(self, count: int, lasting: bool) -> None:
        free = not self.line and self.out + count <= 10
        assert self.budget.try_acquire(count, lasting=lasting) == free
        if free:
            self.held.append((count, lasting))

    @rule(count=st.integers(1, 11), lasting=st.booleans())
    def take_now(self, count: int, lasting: bool) -> None:
        line = [(waiting, lasts) for waiting, lasts, _ in self.line]
        if self.chosen([*line, (count, lasting)]) == len(line) and (self.follows or count <= 10):
            self.budget.acquire_nowait(count, lasting=lasting)
            self.held.append((count, lasting))
        else:
            with pytest.raises(DescriptorsSpentError):
                self.budget.acquire_nowait(count, lasting=lasting)

    @rule(count=st.integers(1, 4))
    def hold(self, count: int) -> None:
        self.budget.hold(count)
        self.held.append((count, True))

    @rule(count=st.integers(1, 11), lasting=st.booleans())
    def wait(self, count: int, lasting: bool) -> None:
        if count > 10 and not self.follows:
            with pytest.raises(DescriptorsSpentError):
                self.budget.acquire(count, lasting=lasting)
            return
        waiter = Waiter(count, lambda: None, lasting=lasting)
        self.budget._line.enter(waiter)
        self.line.append((count, lasting, waiter))
        self.settle()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.held) - 1))
        whole, lasting = self.held.pop(place)
        part = data.draw(st.integers(1, whole))
        if part < whole:
            self.held.append((whole - part, lasting))
        (self.budget.let_go if lasting else self.budget.release)(part)
        self.settle()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        *_, waiter = self.line.pop(data.draw(st.integers(0, len(self.line) - 1)))
        self.budget._line.give_up(waiter)
        self.gone.append(waiter)
        self.settle()

    @rule(more=st.integers(1, 3))
    def release_too_many(self, more: int) -> None:
        with pytest.raises(PermitReleaseError):
            self.budget.release(self.out - self.lasting + more)
        with pytest.raises(PermitReleaseError):
            self.budget.let_go(self.lasting + more)

    @invariant()
    def nothing_is_lost(self) -> None:
        now = self.budget.statistics()
        assert (now.in_use, now.lasting) == (self.out, self.lasting)
        assert now.available == max(0, 10 - self.out)
        assert now.waiting == len(self.line)
        assert not any(waiter.served for *_, waiter in self.line)
        assert not any(waiter.served for waiter in self.gone)


QUICK = hypothesis_settings(max_examples=80, stateful_step_count=30, deadline=None)
TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = QUICK


class _ForgetsWhoStoodBehind(PermitLine):
    def leave(self, waiter: Any) -> bool:
        matching, self._matching = self._matching, True
        try:
            return super().leave(waiter)
        finally:
            self._matching = matching


class _LosesWhatWasGiven(PermitLine):
    def give_back(self, count: int, *, lasting: bool) -> None:
        super().give_back(count, lasting=lasting)
        if count > 3 and not self._waiters:
            self.in_use += 1


class _LetsOvertake(PermitLine):
    def take(self, count: int, *, lasting: bool) -> bool:
        waiters, self._waiters = self._waiters, type(self._waiters)()
        try:
            return super().take(count, lasting=lasting)
        finally:
            self._waiters = waiters


class _WaitsForWhatLasts(PermitLine):
    def _next(self) -> Any:
        found = super()._next()
        return None if found and self.lasting and self.in_use + found.count > 10 else found


MUTANTS = [_ForgetsWhoStoodBehind, _LosesWhatWasGiven, _LetsOvertake, _WaitsForWhatLasts]


@pytest.mark.parametrize("broken", MUTANTS)
def test_the_machine_catches_a_seeded_defect(broken: type[PermitLine]) -> None:
    """A line that forgets the next, loses a permit, lets others overtake or waits for what lasts fails the machine."""

    class Machine(BudgetMachine):
        line_class = broken

    # It ends at the first failure; the same on every run, and long enough that each defect is among it.
    thorough = hypothesis_settings(QUICK, max_examples=3000, phases=[Phase.generate], derandomize=True, database=None)
    with pytest.raises(BaseException, match=r"assert|DID NOT RAISE|not served|would not wait|flaky|Flaky|distinct"):
        run_state_machine_as_test(Machine, settings=thorough)


def test_who_is_impatient_waits_for_children_and_not_for_what_others_keep() -> None:
    """Lasting permits: transient ones of others come back and are waited for; as soon as only kept ones could help, no more."""
    budget = DescriptorBudget(10)
    budget.acquire(8)
    outcome: list[object] = []

    def ask() -> None:
        try:
            budget.acquire(4, lasting=True, patient=False)
        except DescriptorsSpentError as error:
            outcome.append(error)
        else:
            outcome.append("served")

    waits = threading.Thread(target=ask)
    waits.start()
    wait_until(lambda: budget.waiting == 1)
    budget.release(8)
    waits.join()
    assert outcome == ["served"]
    hopeless = threading.Thread(target=ask)
    budget.acquire(6)
    hopeless.start()
    wait_until(lambda: budget.waiting == 1)
    budget.hold(3)  # with the four above there will never be room for four more
    hopeless.join()
    assert isinstance(outcome[1], DescriptorsSpentError)
    budget.release(6)
    budget.let_go(7)
    assert (budget.in_use, budget.waiting) == (0, 0)
