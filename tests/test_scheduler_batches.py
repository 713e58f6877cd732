"""What makes a batch of tasks: those that come after others, further attempts, halting, cancelling, and results as they end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procbench import ProcessTask, RunSettings, TaskResult, WorkStealingScheduler
from procbench.errors import ClosedError, DependencyError, InvalidInputError
from procbench.scheduling.dependents import in_order
from procbench.scheduling.halting import HaltPolicy
from procbench.scheduling.later import Later
from procbench.scheduling.times import Histogram, bucket_of, top_of
from tests.waiting import Gate, long_sleep, processes_with, wait_until


@contextlib.contextmanager
def scheduler(**knobs: Any) -> Iterator[WorkStealingScheduler]:
    with WorkStealingScheduler(RunSettings(**({"workers": 2} | knobs))) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.open()


def writes(log: Path, word: str) -> list[str]:
    return ["sh", "-c", f"echo {word} >> {log}"]


def fails_until(count: int, log: Path) -> list[str]:
    """Return a command that leaves a line each time, and succeeds from the ``count``-th time on."""
    return ["sh", "-c", f"echo x >> {log}; [ $(wc -l < {log}) -ge {count} ]"]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def accounted(sched: WorkStealingScheduler) -> bool:
    s = sched.statistics()
    ended = s.succeeded + s.failed + s.timed_out + s.cancelled
    return s.submitted == ended + s.queued + s.held + s.running + s.stopped


# --- after others ---------------------------------------------------------------------------------------------------


def test_a_graph_runs_in_its_order(tmp_path: Path) -> None:
    """A diamond, handed in the wrong way round: each begins after those it names have ended; results in the order given."""
    log = tmp_path / "log"
    tasks = [
        ProcessTask(writes(log, "d"), id="d", after=["b", "c"]),
        ProcessTask(writes(log, "c"), id="c", after=["a"]),
        ProcessTask(writes(log, "b"), id="b", after=["a"]),
        ProcessTask(writes(log, "a"), id="a"),
    ]
    with scheduler() as sched:
        results = list(sched.map(tasks))
        assert accounted(sched)
        assert sched.statistics().submitted == 4
    assert [result.task.id for result in results] == ["d", "c", "b", "a"]
    order = log.read_text().split()
    assert order[0] == "a"
    assert order[3] == "d"
    assert {result.outcome for result in results} == {"succeeded"}


def test_a_dependent_is_not_begun_before(gate: Gate) -> None:
    """While the first one runs, the second waits, though a worker is free, and counts as held."""
    with scheduler() as sched:
        first = sched.submit(gate.argv)
        gate.wait_for(1)
        second = sched.submit(["true"], after=[first])
        assert not second.running()
        assert sched.statistics().held == 1
        assert accounted(sched)
        gate.open()
        assert second.result(timeout=60).started_ns >= first.result().ended_ns
        assert sched.statistics().held == 0


@pytest.mark.parametrize("how", ["fails", "is cancelled", "times out", "cannot be started"])
def test_what_comes_after_one_that_did_not_succeed_is_not_begun(how: str, gate: Gate, tmp_path: Path) -> None:
    """A dependency that failed: all after it, however far, end as cancelled, each naming the one before; others run."""
    argv = {"fails": ["false"], "cannot be started": [str(tmp_path / "none")]}.get(how, gate.argv)
    left = tmp_path / "left"
    with scheduler(timeout=0.05 if how == "times out" else None, workers=1) as sched:
        busy = sched.submit(gate.argv) if how == "is cancelled" else None
        first = sched.submit(ProcessTask(argv, id="first"))
        second = sched.submit(ProcessTask(["touch", str(left)], id="second"), after=[first])
        third = sched.submit(ProcessTask(["touch", str(left)], id="third"), after=[second])
        if busy is not None:
            gate.wait_for(1)
            assert first.cancel()
        other = sched.submit(["true"])
        gate.open()
        results = second.result(timeout=60), third.result(timeout=60)
        assert other.result(timeout=60).outcome == "succeeded"
        assert accounted(sched)
    assert not left.exists()
    for result, before in zip(results, ("first", "second"), strict=True):
        assert (result.outcome, result.returncode, result.worker) == ("cancelled", None, -1)
        assert isinstance(result.error, DependencyError)
        assert repr(before) in str(result.error)
        with pytest.raises(DependencyError):
            result.check_returncode()


def test_a_long_chain_that_falls_falls_to_its_end() -> None:
    """5,000 tasks after each other, of which the first fails: each ends, and none of it is as deep as a stack."""
    with scheduler() as sched:
        futures = [sched.submit(["false"])]
        for _ in range(5_000):
            futures.append(sched.submit(["true"], after=[futures[-1]]))
        last = futures[-1].result(timeout=60)
        assert last.outcome == "cancelled"
        assert all(future.done() for future in futures)
        assert sched.statistics().cancelled == 5_000


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([("a", ["b"]), ("b", ["c"]), ("c", ["a"])], "wait for each other"),
        ([("a", ["a"])], "wait for each other"),
        ([("a", []), ("b", ["x"])], "'x'"),
        ([("a", []), ("a", ["a"])], "two tasks"),
    ],
)
def test_a_graph_that_cannot_run_is_refused(tasks: list[tuple[str, list[str]]], said: str) -> None:
    """A dependency cycle, a dependency that there is not, ids that mean two tasks: refused before anything runs."""
    made = [ProcessTask(["true"], id=id, after=after) for id, after in tasks]
    with scheduler() as sched:
        for door in (sched.map, sched.as_completed):
            with pytest.raises(InvalidInputError, match=said):
                door(made)
        assert sched.statistics().submitted == 0


def test_the_circle_that_is_named_is_one() -> None:
    """Of tasks that wait for each other the message names each, in the direction of "after"."""
    after = {"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}
    with pytest.raises(InvalidInputError) as caught:
        in_order(ProcessTask(["true"], id=id, after=others) for id, others in after.items())
    circle = str(caught.value).partition(": ")[2].partition(";")[0].replace("'", "").split(" after ")
    assert circle[0] == circle[-1]
    assert len(circle) == 4
    assert all(later in after[id] for id, later in itertools.pairwise(circle))


def test_ids_belong_to_a_batch() -> None:
    """submit does not know other tasks by their ids, and takes nothing but futures: it says so."""
    with scheduler() as sched:
        with pytest.raises(InvalidInputError, match="map or as_completed"):
            sched.submit(ProcessTask(["true"], after=["other"]))
        with pytest.raises(InvalidInputError, match="takes futures"):
            sched.submit(["true"], after=["other"])  # type: ignore[list-item]
    for after in ("ab", 3, [1.5], {"a": 1}):
        with pytest.raises(InvalidInputError, match="list of tasks' ids"):
            ProcessTask(["true"], after=after)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_a_task_may_come_after_any_future(error: Exception | None) -> None:
    """Another executor's future is waited for too; one that raises is one that did not succeed."""
    foreign: Future[int] = Future()
    with scheduler() as sched:
        future = sched.submit(["true"], after=[foreign])
        assert foreign.set_running_or_notify_cancel()
        foreign.set_result(1) if error is None else foreign.set_exception(error)
        assert future.result(timeout=60).outcome == ("succeeded" if error is None else "cancelled")


def test_leaving_the_block_waits_for_what_is_held(tmp_path: Path) -> None:
    """All of a graph has run when the with block is left, also by workers that had nothing to do for a while."""
    log = tmp_path / "log"
    with scheduler(workers=4) as sched:
        first = sched.submit(["sh", "-c", "sleep 0.05"])
        for number in range(20):
            sched.submit(writes(log, str(number)), after=[first])
    assert len(log.read_text().split()) == 20


def test_shutdown_cancels_what_is_held(gate: Gate) -> None:
    """What comes after a future that never ends is cancelled at once; afterwards nothing is taken."""
    never: Future[None] = Future()
    sched = WorkStealingScheduler(RunSettings(workers=2))
    held = sched.submit(["true"], after=[never])
    after_held = sched.submit(["true"], after=[held])
    sched.shutdown(cancel_futures=True)
    assert held.cancelled()
    assert after_held.cancelled()
    with pytest.raises(ClosedError):
        sched.submit(["true"], after=[held])
    assert accounted(sched)
    assert sched.statistics().cancelled == 2
    never.set_result(None)


@pytest.mark.parametrize("by", ["scheduler", "future"])
def test_what_is_cancelled_while_it_is_held_is_not_waited_for(by: str) -> None:
    """Q07: a task that comes after a future that never ends, and was cancelled, keeps nobody from leaving the block."""
    never: Future[None] = Future()
    sched = WorkStealingScheduler(RunSettings(workers=1))
    held = sched.submit(["true"], after=[never])
    last = sched.submit(["true"], after=[held])
    assert sched.cancel(held) if by == "scheduler" else held.cancel()
    try:
        assert sched.statistics().held == 0
        assert isinstance(last.result(timeout=60).error, DependencyError)
        never.set_result(None)
    finally:
        sched.shutdown(cancel_futures=True)
    assert accounted(sched)
    assert sched.statistics().cancelled == 2


def test_graphs_from_many_threads(shaken: None) -> None:
    """60 diamonds from 6 threads with the workers' own threads in between: every task ends once, and in order."""
    diamonds = []

    def hand_in(sched: WorkStealingScheduler) -> None:
        for _ in range(10):
            top = sched.submit(["true"])
            sides = [sched.submit(["true"], after=[top]) for _ in range(3)]
            diamonds.append((top, sides, sched.submit(["true"], after=sides)))

    with scheduler(workers=3) as sched:
        threads = [threading.Thread(target=hand_in, args=(sched,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sched.statistics().succeeded == 300
    assert accounted(sched)
    for top, sides, bottom in diamonds:
        for side in sides:
            assert top.result().ended_ns <= side.result().started_ns
            assert side.result().ended_ns <= bottom.result().started_ns


# --- further attempts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay_s", [0.0, 0.01])
def test_what_fails_is_tried_again(delay_s: float, tmp_path: Path) -> None:
    """Until it succeeds: one result, of the last attempt, that says how many there were."""
    with scheduler(retries=5, retry_delay_s=delay_s) as sched:
        result = sched.submit(fails_until(3, tmp_path / "log")).result(timeout=60)
        once = sched.submit(["true"]).result(timeout=60)
        statistics = sched.statistics()
    assert (result.outcome, result.attempts, once.attempts) == ("succeeded", 3, 1)
    assert (statistics.succeeded, statistics.failed, statistics.retried) == (2, 0, 2)
    assert statistics.runs.count == 4
    assert statistics.waits.count == 2
    assert accounted(sched)


def test_no_more_often_than_asked(tmp_path: Path) -> None:
    """A task says itself how often, over the settings; then its last failure is its result."""
    logs = [tmp_path / name for name in ("a", "b", "c")]
    tasks = [
        ProcessTask(fails_until(99, log), retries=retries) for log, retries in zip(logs, (None, 0, 3), strict=True)
    ]
    with scheduler(retries=1) as sched:
        results = list(sched.map(tasks))
    assert [(result.outcome, result.attempts) for result in results] == [("failed", 2), ("failed", 1), ("failed", 4)]
    assert [len(log.read_text().split()) for log in logs] == [2, 1, 4]


def test_pauses_double(tmp_path: Path) -> None:
    """Between the starts of the attempts there is at least the delay, then twice as long, then four times."""
    log = tmp_path / "log"
    with scheduler(retries=3, retry_delay_s=0.05) as sched:
        argv = ["sh", "-c", f"date +%s.%N >> {log}; false"]
        assert sched.submit(argv).result(timeout=60).attempts == 4
    times = [float(line) for line in log.read_text().split()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(gap >= 0.05 * 2**n for n, gap in enumerate(gaps))


def test_a_worker_does_other_work_until_the_next_attempt(tmp_path: Path) -> None:
    """One worker: while a failed task waits for its time, the next one runs; the first one is held, not lost."""
    with scheduler(workers=1, retries=1, retry_delay_s=60) as sched:
        waits = sched.submit(["false"])
        assert sched.submit(["true"]).result(timeout=20).outcome == "succeeded"
        wait_until(lambda: sched.statistics().held == 1)
        assert accounted(sched)
        assert sched.cancel(waits)
        result = waits.result(timeout=20)
        assert (result.outcome, result.attempts) == ("failed", 1)
        assert accounted(sched)


def test_what_times_out_is_tried_again_and_what_is_cancelled_is_not(tmp_path: Path) -> None:
    """A time-out is a failure; somebody's wish is none."""
    marker = long_sleep()
    with scheduler(retries=1, timeout=0.05) as sched:
        assert sched.submit(["sleep", marker]).result(timeout=60).attempts == 2
        unlimited = sched.submit(ProcessTask(["sleep", marker], timeout=1000))
        wait_until(lambda: processes_with(marker))
        assert sched.cancel(unlimited)
        result = unlimited.result(timeout=60)
    assert (result.outcome, result.attempts) == ("cancelled", 1)


def test_shutdown_while_attempts_are_due() -> None:
    """What waits for its next attempt ends as it last ended; draining instead waits for it."""
    sched = WorkStealingScheduler(RunSettings(workers=1, retries=1, retry_delay_s=1000))
    future = sched.submit(["false"])
    wait_until(lambda: sched.statistics().held == 1)
    sched.shutdown(cancel_futures=True)
    assert future.result().outcome == "failed"
    assert accounted(sched)
    with scheduler(workers=2, retries=1, retry_delay_s=0.1) as draining:
        future = draining.submit(["false"])
    assert future.result().attempts == 2


def test_without_a_thread_to_wait_in_the_worker_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread for waiting, the attempt comes all the same."""

    def refuse(self: Later, future: object, delay_s: float) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Later, "put", refuse)
    with scheduler(retries=2, retry_delay_s=0.01) as sched:
        assert sched.submit(["false"]).result(timeout=60).attempts == 3


def test_later_gives_back_in_the_order_of_time() -> None:
    """Whatever the order in which they came; what is removed does not come; its thread ends when nothing waits."""
    came: list[Any] = []
    seen: list[int] = []

    def take(future: Any) -> None:
        seen.append(len(later))  # on its way it is still to be seen here, or a draining scheduler would end without it
        came.append(future)

    later = Later(take)
    futures: list[Any] = [Future() for _ in range(5)]
    for future, delay_s in zip(futures, (0.08, 0.02, 0.05, 0.03, 60), strict=True):
        later.put(future, delay_s)
    assert len(later) >= 1
    assert later.remove(futures[2])
    assert not later.remove(futures[2])
    wait_until(lambda: len(came) == 3)
    assert came == [futures[1], futures[3], futures[0]]
    assert seen == [4, 3, 2]
    assert later.take_all() == [futures[4]]
    wait_until(lambda: later._thread is None)
    assert len(later) == 0


# --- halting ------------------------------------------------------------------------------------------------------------


def test_soon_lets_what_runs_end_and_cancels_the_rest(gate: Gate) -> None:
    """The second failure halts: what runs ends by itself, what waits is cancelled, nothing more is taken."""
    with scheduler(workers=2, halt="soon,fail=2") as sched:
        runs = sched.submit(gate.argv)
        gate.wait_for(1)
        ended = [sched.submit(argv) for argv in (["false"], ["true"], ["false"])]
        waiting = [sched.submit(gate.argv) for _ in range(3)]
        assert [future.result(timeout=60).outcome for future in ended] == ["failed", "succeeded", "failed"]
        assert sched.halted
        with pytest.raises(ClosedError):
            sched.submit(["true"])
        wait_until(lambda: all(future.cancelled() for future in waiting))
        assert not runs.done()
        gate.open()
    assert runs.result().outcome == "succeeded"
    assert accounted(sched)


def test_now_ends_what_runs() -> None:
    """The first failure ends the commands that run; their results say that they were cancelled."""
    marker = long_sleep()
    with scheduler(workers=2, halt="now,fail=1") as sched:
        runs = sched.submit(["sleep", marker])
        wait_until(lambda: processes_with(marker))
        sched.submit(["false"])
        assert runs.result(timeout=60).outcome == "cancelled"
    assert sched.halted
    assert not processes_with(marker)


def test_success_halts_too() -> None:
    """The first of several ways that finds something ends the others."""
    marker = long_sleep()
    with scheduler(workers=2, halt="now,success=1") as sched:
        runs = sched.submit(["sleep", marker])
        wait_until(lambda: processes_with(marker))
        sched.submit(["false"]).result(timeout=60)
        assert not sched.halted
        sched.submit(["true"]).result(timeout=60)
        assert runs.result(timeout=60).outcome == "cancelled"


def test_a_share_counts_from_the_third_task_on() -> None:
    """10 % with the first task failing is no halt before three have ended."""
    with scheduler(workers=1, halt="soon,fail=10%") as sched:
        for argv, halted in ((["false"], False), (["true"], False), (["true"], True)):
            sched.submit(argv).result(timeout=60)
            assert sched.halted is halted


def test_attempts_before_the_last_do_not_count(tmp_path: Path) -> None:
    """What succeeds in the end has not failed."""
    with scheduler(workers=1, halt="soon,fail=1", retries=2) as sched:
        assert sched.submit(fails_until(3, tmp_path / "log")).result(timeout=60).outcome == "succeeded"
        assert not sched.halted


@given(words=st.text(max_size=20) | st.from_regex(r"(soon|now),(fail|success)=[0-9]{1,3}%?", fullmatch=True))
def test_a_policy_is_understood_or_refused(words: str) -> None:
    """Whatever is written: a policy whose numbers are those written, or one clear error."""
    try:
        policy = HaltPolicy.parse(words)
    except InvalidInputError:
        return
    if policy is None:
        assert words == "never"
        return
    number = f"{policy.count}" if policy.share is None else f"{round(policy.share * 100)}%"
    when, _, rest = words.partition(",")
    of, _, written = rest.partition("=")
    assert (policy.when, policy.of, number) == (when, of, written.lstrip("0"))


def test_what_waits_for_memory_does_not_begin_after_the_end() -> None:
    """A command held back for want of memory is cancelled by a shutdown that cancels what waits."""
    sched = WorkStealingScheduler(RunSettings(workers=1, start_above_free_bytes=1 << 60))
    future = sched.submit(["true"])
    wait_until(future.running)
    sched.shutdown(cancel_futures=True)
    assert future.result().outcome == "cancelled"
    assert accounted(sched)


@pytest.mark.parametrize("door", ["shutdown", "halt"])
def test_a_callback_that_raises_breaks_no_end(door: str, gate: Gate) -> None:
    """SystemExit in the callback of a task that is cancelled: the others are cancelled all the same."""
    sched = WorkStealingScheduler(RunSettings(workers=1, halt="soon,fail=1"))
    sched.submit(gate.argv)
    gate.wait_for(1)
    fails = sched.submit(["false"])
    waiting = [sched.submit(["true"]) for _ in range(5)]

    def leave(_: object) -> None:
        raise SystemExit(3)

    for future in waiting:
        future.add_done_callback(leave)
    if door == "shutdown":
        sched.shutdown(wait=False, cancel_futures=True)
    gate.open()
    sched.shutdown()
    assert fails.done()
    assert all(future.cancelled() for future in waiting)
    assert accounted(sched)


# --- cancelling one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True])
def test_one_that_runs_is_ended_and_its_worker_goes_on(kill: bool) -> None:
    """The command is gone, by SIGTERM or SIGKILL, the others run on, and the worker takes the next task."""
    marker = long_sleep()
    with scheduler(workers=2) as sched:
        one, other = sched.submit(["sleep", marker]), sched.submit(["sleep", marker])
        wait_until(lambda: len(processes_with(marker)) == 2)
        assert sched.cancel(one, kill=kill)
        result = one.result(timeout=60)
        assert (result.outcome, result.returncode) == ("cancelled", -(signal.SIGKILL if kill else signal.SIGTERM))
        assert not other.done()
        assert sched.submit(["true"]).result(timeout=60).outcome == "succeeded"
        assert not sched.cancel(one)
        assert sched.cancel(other)
    assert accounted(sched)


@pytest.mark.parametrize("door", ["cancel", "cancel_running", "shutdown by an exception"])
def test_a_stopped_command_is_cancelled_too(door: str) -> None:
    """L06: SIGTERM does not reach a command that stands still; SIGCONT goes with it, and its whole group ends."""
    marker, sched = long_sleep(), WorkStealingScheduler(RunSettings(workers=1))
    future = sched.submit(["sh", "-c", f"sleep {marker} & sleep {marker}"])
    wait_until(lambda: len(processes_with(f"sleep\0{marker}")) == 2)
    group = os.getpgid(processes_with(marker)[0])
    os.killpg(group, signal.SIGSTOP)
    wait_until(lambda: all(is_stopped(pid) for pid in processes_with(marker)))
    if door == "cancel":
        assert sched.cancel(future)
    elif door == "cancel_running":
        sched.cancel_running()
    else:
        with pytest.raises(ZeroDivisionError), sched:
            raise ZeroDivisionError
    sched.shutdown()
    result = future.result(timeout=60)
    assert (result.outcome, result.stop_phase, result.returncode) == ("cancelled", "terminate", -signal.SIGTERM)
    assert (result.survivors, processes_with(marker)) == ((), [])
    assert accounted(sched)


def test_one_that_waits_is_cancelled_as_by_its_future(gate: Gate) -> None:
    """It never begins."""
    with scheduler(workers=1) as sched:
        sched.submit(gate.argv)
        gate.wait_for(1)
        waits = sched.submit(["true"])
        assert sched.cancel(waits)
        assert waits.cancelled()
        gate.open()
    assert sched.statistics().cancelled == 1


def test_one_that_waits_for_a_worker_to_try_again_is_cancelled(gate: Gate, tmp_path: Path) -> None:
    """It is in a queue, not in a worker's hands: cancel says that it had not ended, and it ends as its last attempt did."""
    with scheduler(workers=1, retries=1, retry_delay_s=0.001) as sched:
        first = sched.submit(gate.argv)
        gate.wait_for(1)
        waits = sched.submit(["sh", "-c", f"echo x >> {tmp_path / 'tries'}; exit 1"])
        (tmp_path / "other").mkdir()
        other = Gate(tmp_path / "other")
        sched.submit(other.argv)
        gate.open()
        assert first.result(timeout=60).outcome == "succeeded"
        other.wait_for(1)
        wait_until(lambda: sched.statistics().held == 0)
        assert sched.statistics().queued == 1
        assert sched.cancel(waits)
        other.open()
        assert (waits.result(timeout=60).outcome, waits.result().attempts) == ("failed", 1)
        assert not sched.cancel(waits)
    assert (tmp_path / "tries").read_text() == "x\n"
    assert accounted(sched)


def test_cancelling_hits_nobody_else(shaken: None) -> None:
    """400 short commands, each cancelled by another thread at some moment: each ends as done or cancelled, none twice."""
    with scheduler(workers=3) as sched:
        futures = [sched.submit(["true"]) for _ in range(400)]
        victims = futures[::2]
        threads = [
            threading.Thread(target=lambda part=victims[n::2]: [sched.cancel(one) for one in part]) for n in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {one.result(timeout=60).outcome for one in futures[1::2]} == {"succeeded"}
        for one in victims:
            with contextlib.suppress(CancelledError):
                assert one.result(timeout=60).outcome in ("succeeded", "cancelled", "failed")
    assert accounted(sched)


# --- results as they end -------------------------------------------------------------------------------------------------


def test_results_come_as_tasks_end(gate: Gate) -> None:
    """The first of the list ends last, and comes last."""
    with scheduler(workers=2) as sched:
        came = []
        for result in sched.as_completed([ProcessTask(gate.argv, id="slow"), *([["true"]] * 5)]):
            came.append(result.task.id)
            if len(came) == 5:
                gate.open()
        assert len(came) == 6
        assert came[-1] == "slow"


def test_an_endless_batch_is_handed_in_as_it_is_taken() -> None:
    """No more is taken from the iterator than may wait; leaving early cancels the rest."""
    taken = itertools.count()
    endless = (["true"] for _ in taken)
    with scheduler(workers=2, queue_size=8) as sched:
        for number, _ in enumerate(sched.as_completed(endless)):
            if number == 20:
                break
        assert next(taken) <= 21 + 8 + 2 + 2
    assert accounted(sched)


async def _the_first(results: AsyncIterable[TaskResult]) -> AsyncIterator[TaskResult]:
    async for result in results:
        yield result
        break


def test_a_coroutine_takes_results_and_awaits_a_task() -> None:
    """async for, await, and leaving early, while the loop goes on turning."""

    async def scenario(sched: WorkStealingScheduler) -> tuple[set[str], str, int, list[str]]:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.001)

        turning = asyncio.ensure_future(turn())
        slow = ["sh", "-c", "sleep 0.02"]
        outcomes = {result.outcome async for result in sched.as_completed([slow] * 10)}
        awaited = await sched.submit(["false"])
        left = [result.outcome async for result in _the_first(sched.as_completed([slow] * 50))]
        turning.cancel()
        return outcomes, awaited.outcome, turns, left

    with scheduler(workers=2) as sched:
        outcomes, awaited, turns, left = asyncio.run(scenario(sched))
    assert (outcomes, awaited, left) == ({"succeeded"}, "failed", ["succeeded"])
    assert sched.statistics().cancelled >= 40
    assert turns > 5


def test_a_full_queue_of_others_holds_nobody_up_for_ever(gate: Gate) -> None:
    """While others fill the queue a batch waits for room, in a coroutine without stopping the loop."""

    async def scenario(sched: WorkStealingScheduler) -> int:
        async def soon() -> None:
            await asyncio.sleep(0.05)
            gate.open()

        opening = asyncio.ensure_future(soon())
        count = 0
        async for _ in sched.as_completed([["true"]] * 3):
            count += 1
        await opening
        return count

    with scheduler(workers=1, queue_size=1) as sched:
        sched.submit(gate.argv)
        gate.wait_for(1)
        sched.submit(["true"])
        assert asyncio.run(scenario(sched)) == 3


def test_halting_ends_the_loop() -> None:
    """What never began has no result; the loop ends by itself, with for and with map."""
    with scheduler(workers=1, halt="soon,fail=1", queue_size=4) as sched:
        results = list(sched.as_completed([["true"], ["false"], *([["true"]] * 50)]))
    outcomes = [result.outcome for result in results]
    assert outcomes[:2] == ["succeeded", "failed"]
    assert len(outcomes) < 10


# --- the order ------------------------------------------------------------------------------------------------------------


def begun(order: str, log: Path) -> list[str]:
    """Return the ids of eight tasks in the order in which one worker began them."""
    kinds = [("a", 1.0, "low"), ("b", None, "normal"), ("c", 3.0, "critical"), ("d", 2.0, "normal")]
    tasks = [
        ProcessTask(writes(log, id), id=id, expected_s=expected, priority=priority)  # type: ignore[arg-type]
        for id, expected, priority in kinds
    ]
    with scheduler(workers=1, order=order) as sched:
        holds = sched.submit(["sleep", "0.1"])
        wait_until(holds.running)
        assert [result.task.id for result in sched.map(tasks)] == list("abcd")
    return log.read_text().split()


@pytest.mark.parametrize(("order", "expected"), [("fifo", "abcd"), ("priority", "cbda"), ("longest_first", "cbda")])
def test_the_order_is_the_one_that_was_set(order: str, expected: str, tmp_path: Path) -> None:
    """As they came; the more urgent first; the longest first."""
    if order != "longest_first":
        assert begun(order, tmp_path / "log") == list(expected)
        return
    log = tmp_path / "log"
    tasks = [
        ProcessTask(writes(log, id), id=id, expected_s=s)
        for id, s in (("a", 1.0), ("b", None), ("c", 3.0), ("d", 2.0), ("e", 0.0))
    ]
    with scheduler(workers=1, order=order) as sched:
        assert [result.task.id for result in sched.map(tasks)] == list("abcde")
    assert log.read_text().split() == list("bcdae")


# --- how long things took -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=200))
def test_percentiles_are_at_most_an_eighth_too_long(durations: list[int]) -> None:
    """Against the sorted list itself; the mean and the number are exact, in one part or in two."""
    parts = Histogram(), Histogram()
    for number, duration in enumerate(durations):
        parts[number % 2].add(duration)
    times = Histogram.sum_of(parts).times()
    ordered = sorted(durations)
    assert times.count == len(durations)
    assert math.isclose(times.mean_s, sum(durations) / len(durations) / 1e9)
    for share, given_s in ((0.5, times.p50_s), (0.99, times.p99_s)):
        exact = ordered[math.ceil(len(ordered) * share) - 1]
        assert exact <= round(given_s * 1e9) <= exact * 1.125 + 1


def test_every_duration_has_a_bucket() -> None:
    """Buckets follow each other without a gap; negative and endless ones are in the first and the last."""
    assert all(bucket_of(top_of(bucket) + 1) == bucket + 1 for bucket in range(400))
    assert all(bucket_of(top_of(bucket)) == bucket for bucket in range(400))
    histogram = Histogram()
    histogram.add(-5)
    histogram.add(1 << 80)
    assert histogram.times().count == 2
    assert math.isnan(Histogram().times().p99_s)


def test_the_statistics_say_how_long_tasks_waited_and_ran(gate: Gate) -> None:
    """By worker and all together: the time at the gate is in what ran, and in what waited behind it."""
    with scheduler(workers=1) as sched:
        sched.submit(gate.argv)
        gate.wait_for(1)
        sched.submit(["true"])
        before_s = time.monotonic()
        wait_until(lambda: time.monotonic() > before_s + 0.1)
        gate.open()
    statistics = sched.statistics()
    assert statistics.runs.count == statistics.waits.count == 2
    assert statistics.waits.p99_s >= 0.1
    assert statistics.runs.p99_s >= 0.1
    assert statistics.workers[0].runs == statistics.runs
