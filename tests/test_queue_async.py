"""Coroutines and threads share a queue: whoever is cancelled takes nothing along, and what is meant for it goes to the next."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import queue
import signal
import threading
import warnings
from collections import Counter, deque
from typing import Any

import pytest

from procbench.errors import InvalidInputError, QueueEmptyError, QueueFullError, QueueShutDownError
from procbench.scheduling.queues import TaskQueue
from procbench.scheduling.sharded import ShardedTaskQueue
from tests.loops import in_loop, until
from tests.waiting import wait_until


@pytest.fixture(params=["one line", "sharded"])
def q(request: pytest.FixtureRequest) -> TaskQueue[Any]:
    return TaskQueue(2) if request.param == "one line" else ShardedTaskQueue(2, 2)


def waiting(q: TaskQueue[Any]) -> int:
    return len(q._getters) + len(q._putters)


def test_a_coroutine_gets_what_a_thread_puts_and_the_other_way_round(q: TaskQueue[Any]) -> None:
    """Either side may wait for the other, in both directions."""

    async def scenario() -> None:
        getting = asyncio.create_task(q.aget())
        await until(lambda: waiting(q) == 1)
        await asyncio.to_thread(q.put, 1)
        assert await getting == 1
        q.put_many([2, 3])
        putting = asyncio.create_task(q.aput(4))
        await until(lambda: waiting(q) == 1)
        taken = [await asyncio.to_thread(q.get)]
        await putting
        taken += [await q.aget(), await q.aget()]
        assert sorted(taken) == [2, 3, 4]

    in_loop(scenario)
    assert waiting(q) == 0


def test_waiting_with_a_time_limit() -> None:
    """Q02: the standard errors after the time, one clear error for what is no time, and nobody is left in the line."""

    async def scenario() -> None:
        q: TaskQueue[int] = TaskQueue(1)
        for timeout in (0, 0.01):
            with pytest.raises(queue.Empty):
                await q.aget(timeout)
        await q.aput(1)
        for timeout in (0, 0.01):
            with pytest.raises(queue.Full):
                await q.aput(2, timeout)
        for wrong in (-1, math.nan, math.inf, True, "1"):
            with pytest.raises(InvalidInputError, match="timeout is"):
                await q.aget(wrong)  # type: ignore[arg-type]
            with pytest.raises(InvalidInputError, match="timeout is"):
                await q.aput(2, wrong)  # type: ignore[arg-type]
        assert (waiting(q), q.qsize(), q.statistics().failed) == (0, 1, 4)

    in_loop(scenario)


@pytest.mark.parametrize("moment", ["before it began", "while it waits", "when it is woken", "when it has it"])
def test_a_cancelled_aget_loses_nothing(q: TaskQueue[Any], moment: str) -> None:
    """Q01: wherever an aget is cancelled, the item is still there, or was got; who waits next is woken for it."""

    async def scenario() -> None:
        first = asyncio.create_task(q.aget())
        if moment != "before it began":
            await until(lambda: waiting(q) == 1)
        second = asyncio.create_task(q.aget())
        if moment == "while it waits":
            await until(lambda: waiting(q) == 2)
            first.cancel()
            q.put("item")
        elif moment == "before it began":
            first.cancel()
            q.put("item")
        else:
            await until(lambda: waiting(q) == 2)
            q.put("item")  # wakes the first, whose turn in the loop comes later
            if moment == "when it has it":
                await until(first.done)
            first.cancel()
        done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        await until(lambda: any(not task.cancelled() and task.done() for task in (first, second)))
        got = [task.result() for task in (first, second) if task.done() and not task.cancelled()]
        assert got == ["item"]
        second.cancel()
        await asyncio.wait([first, second])
        assert (waiting(q), q.qsize()) == (0, 0)
        assert done

    in_loop(scenario)


@pytest.mark.parametrize("moment", ["before it began", "while it waits", "when it is woken"])
def test_a_cancelled_aput_puts_nothing(q: TaskQueue[Any], moment: str) -> None:
    """Q01: a cancelled aput's item is not in, and the room that it was woken for goes to who waits next."""

    async def scenario() -> None:
        q.put_many([1, 2])
        first = asyncio.create_task(q.aput("first"))
        if moment != "before it began":
            await until(lambda: waiting(q) == 1)
        second = asyncio.create_task(q.aput("second"))
        if moment == "when it is woken":
            await until(lambda: waiting(q) == 2)
            q.get()
            first.cancel()
        else:
            first.cancel()
            await until(lambda: waiting(q) == 1)
            q.get()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first
        left = {await q.aget(), await q.aget()}
        assert "second" in left
        assert "first" not in left
        assert (waiting(q), q.qsize(), q.statistics().enqueued) == (0, 0, 3)

    in_loop(scenario)


def test_cancelled_at_every_step(q: TaskQueue[Any]) -> None:
    """Q01: agets and aputs that are cancelled after any number of turns of the loop, with threads about: nothing is lost."""

    async def scenario() -> None:
        put: list[int] = []
        got: list[int] = []

        async def put_one(item: int) -> None:
            await q.aput(item)
            put.append(item)

        async def get_one() -> None:
            got.append(await q.aget())

        for round_ in range(120):
            tasks = [asyncio.create_task(put_one(10 * round_ + n)) for n in range(4)]
            tasks += [asyncio.create_task(get_one()) for _ in range(4)]
            for turn in range(round_ % 8):
                await asyncio.sleep(0)
                tasks[(round_ + 3 * turn) % 8].cancel()
            for task in tasks[round_ % 3 :: 2]:
                task.cancel()
            await asyncio.sleep(0)
            while not all(task.done() for task in tasks):  # what one side still lacks
                with contextlib.suppress(queue.Empty):
                    got.append(q.get_nowait())
                if not q.empty() or q._putters:
                    await asyncio.sleep(0)
                    continue
                if not all(task.done() for task in tasks):
                    for task in tasks:
                        task.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(*tasks, return_exceptions=True)
        while not q.empty():
            got.append(q.get_nowait())
        assert Counter(got) == Counter(put)
        assert waiting(q) == 0
        assert q.statistics().enqueued == len(put)

    in_loop(scenario)


def test_a_loop_that_is_closed_with_someone_waiting_keeps_nothing() -> None:
    """Q01: an item is not given to a coroutine whose loop is closed, and a wake-up meant for it reaches the next."""
    q: TaskQueue[int] = TaskQueue(1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(q.aget())
    loop.run_until_complete(asyncio.sleep(0))
    assert waiting(q) == 1
    loop.close()
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(q.get(timeout=60)))
    thread.start()
    wait_until(lambda: waiting(q) == 2)
    q.put(7)
    thread.join(60)
    assert (got, waiting(q)) == ([7], 0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del task
        gc.collect()
    assert waiting(q) == 0


def test_a_loop_that_stopped_passes_its_wake_up_on() -> None:
    """Q01: who was woken in a loop that never ran again hands the wake-up on when it is collected."""
    q: TaskQueue[int] = TaskQueue(1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(q.aget())
    loop.run_until_complete(asyncio.sleep(0))
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(q.get(timeout=60)))
    thread.start()
    wait_until(lambda: waiting(q) == 2)
    q._items.append(7)  # an item whose wake-up went to the loop alone
    q._getters.popleft().release()
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del task
        gc.collect()
    thread.join(60)
    assert (got, waiting(q)) == ([7], 0)


def test_shutdown_wakes_coroutines() -> None:
    """Q01: coroutines that wait on either side are told of the end, as threads are."""

    async def scenario() -> None:
        q: TaskQueue[int] = TaskQueue(1)
        gets = [asyncio.create_task(q.aget()) for _ in range(3)]
        await until(lambda: waiting(q) == 3)
        q.shutdown()
        results = await asyncio.gather(*gets, return_exceptions=True)
        assert [type(result) for result in results] == [QueueShutDownError] * 3
        full: TaskQueue[int] = TaskQueue(1)
        full.put(1)
        puts = [asyncio.create_task(full.aput(n)) for n in range(3)]
        await until(lambda: waiting(full) == 3)
        assert full.shutdown(immediate=True) == [1]
        results = await asyncio.gather(*puts, return_exceptions=True)  # type: ignore[assignment]
        assert [type(result) for result in results] == [QueueShutDownError] * 3
        with pytest.raises(QueueShutDownError):
            await full.aget()
        with pytest.raises(QueueShutDownError):
            await full.aput(1)

    in_loop(scenario)


def test_many_loops_and_threads_share_a_queue(q: TaskQueue[Any]) -> None:
    """Q01, Q04: three event loops and three threads on either side: each item once."""
    got: deque[int] = deque()
    raised: list[BaseException] = []
    each = 300

    async def put_all(number: int) -> None:
        for index in range(each):
            await q.aput(number * each + index, timeout=60)

    async def get_all() -> None:
        with contextlib.suppress(QueueShutDownError):
            while True:
                got.append(await q.aget(timeout=60))

    def put(number: int) -> None:
        for index in range(each):
            q.put(number * each + index, timeout=60)

    def get() -> None:
        with contextlib.suppress(QueueShutDownError):
            while True:
                got.append(q.get(timeout=60))

    def guarded(work: Any, *args: Any) -> None:
        try:
            work(*args)
        except BaseException as error:
            raised.append(error)

    puts = [threading.Thread(target=guarded, args=(lambda n: asyncio.run(put_all(n)), n)) for n in range(3)]
    puts += [threading.Thread(target=guarded, args=(put, n)) for n in range(3, 6)]
    gets = [threading.Thread(target=guarded, args=(lambda: asyncio.run(get_all()),)) for _ in range(3)]
    gets += [threading.Thread(target=guarded, args=(get,)) for _ in range(3)]
    for thread in puts + gets:
        thread.start()
    for thread in puts:
        thread.join(120)
    q.shutdown()
    for thread in gets:
        thread.join(120)
    assert raised == []
    assert sorted(got) == list(range(6 * each))


def test_a_signal_handler_puts_for_a_coroutine() -> None:
    """Q07: a put in a signal handler wakes a loop that waits for nothing else."""

    async def scenario() -> None:
        q: TaskQueue[int] = TaskQueue(1)
        before = signal.signal(signal.SIGUSR1, lambda *_: q.put_nowait(5))
        try:
            main = threading.main_thread().ident
            assert main is not None
            timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1))
            timer.start()
            assert await q.aget(timeout=30) == 5
            timer.join()
        finally:
            signal.signal(signal.SIGUSR1, before)

    in_loop(scenario)


def test_a_full_and_an_empty_queue_say_so_in_a_loop() -> None:
    """The errors are procbench's own too."""

    async def scenario() -> None:
        q: TaskQueue[int] = TaskQueue(1)
        with pytest.raises(QueueEmptyError, match="the queue is empty"):
            await q.aget(0)
        await q.aput(1)
        with pytest.raises(QueueFullError, match="holds its 1 items"):
            await q.aput(1, 0)

    in_loop(scenario)
