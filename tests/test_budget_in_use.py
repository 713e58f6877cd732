"""The budget at work: batches, single commands and coroutines under a low RLIMIT_NOFILE, each in a Python of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.waiting import run_python

LIMIT = 64

PRELUDE = f"""
import asyncio, errno, json, os, resource, subprocess, threading, warnings
import procbench
from procbench.errors import DescriptorsSpentError, DescriptorUsageWarning, SpawnError
from procbench.io.budget import shared_budget
from procbench.io.descriptors import FileDescriptorManager
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, hard))
budget = shared_budget()
warnings.simplefilter('ignore', DescriptorUsageWarning)

class Watched:
    '''Looks again and again what is really open, until it is left.'''
    def __enter__(self):
        self.peak, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch); self.thread.start()
        return self
    def watch(self):
        while not self.over.wait(0.0005):
            self.peak = max(self.peak, budget.statistics().open_now or 0)
    def __exit__(self, *_):
        self.over.set(); self.thread.join()

def batch(tasks, argv=("echo", "x"), **knobs):
    with procbench.WorkStealingScheduler(procbench.RunSettings(capture=True, **knobs)) as scheduler:
        return [future.result() for future in [scheduler.submit(argv) for _ in range(tasks)]]

def told(results):
    errors = [one.error for one in results if one.error is not None]
    assert all(isinstance(error, SpawnError) for error in errors), errors
    return {{
        "done": sum(one.returncode == 0 and one.stdout == b"x\\n" for one in results),
        "failed": sorted({{(type(error).__name__, errno.errorcode[error.errno], error.stage) for error in errors}}),
        "errors": len(errors),
    }}

def say(**words):
    now = budget.statistics()
    print(json.dumps(words | {{"in_use": now.in_use, "waiting": now.waiting, "permits_peak": now.peak, "waits": now.waits,
                               "capacity": now.capacity}}))
"""


def tell(code: str) -> dict[str, Any]:
    """Run ``code`` under the limit and return what it said, and that every permit is back."""
    said: dict[str, Any] = json.loads(run_python(PRELUDE + code))
    assert (said["in_use"], said["waiting"]) == (0, 0)
    return said


def test_two_thousand_commands_need_no_more_than_the_limit() -> None:
    """L19: sixteen workers would need 112 descriptors and there are 64: they wait for each other, and nothing fails."""
    said = tell("""
with Watched() as watched:
    results = batch(2000, workers=16)
say(peak=watched.peak, **told(results))
""")
    assert (said["done"], said["errors"]) == (2000, 0)
    assert 0 < said["peak"] <= LIMIT
    assert said["permits_peak"] <= said["capacity"] < LIMIT
    assert said["waits"]


def test_without_a_budget_the_kernel_refuses() -> None:
    """L19: what the budget is for: the same batch that does not look before, and does not try again, meets EMFILE."""
    said = tell("""
say(**told(batch(500, ["sh", "-c", "sleep 0.01; echo x"], workers=16, descriptors="off", spawn_patience_s=0)))
""")
    assert said["failed"] == [["SpawnLimitError", "EMFILE", "limits"]]
    assert said["done"] + said["errors"] == 500


def test_who_is_not_to_wait_fails_at_once() -> None:
    """L19: descriptors="fail": a typed error for those for whom nothing is left, the others succeed, nobody tries again."""
    said = tell("""
say(**told(batch(200, ["sh", "-c", "sleep 0.05; echo x"], workers=16, descriptors="fail", spawn_patience_s=1000)))
""")
    assert said["failed"] == [["SpawnError", "EMFILE", "limits"]]
    assert said["done"] > 0
    assert said["done"] + said["errors"] == 200
    assert said["permits_peak"] <= said["capacity"]
    assert said["waits"] == 0


def test_who_is_not_to_wait_is_not_kept_by_the_kernels_refusal_either() -> None:
    """L19: the budget has permits and the kernel has no descriptor: with "fail" that is the answer, without patience."""
    said = tell("""
kept = []
with procbench.WorkStealingScheduler(
        procbench.RunSettings(capture=True, workers=1, descriptors="fail", spawn_patience_s=1000)) as scheduler:
    scheduler.submit(["true"]).result()
    try:
        while True: kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError: pass
    result = scheduler.submit(["echo", "x"]).result()
for fd in kept: os.close(fd)
say(**told([result]))
""")
    assert (said["done"], said["errors"]) == (0, 1)
    assert said["failed"][0][1:] == ["EMFILE", "limits"]


@pytest.mark.parametrize("workers", [22, 40])
def test_more_workers_than_descriptors_work_or_say_so(workers: int) -> None:
    """L19: each worker keeps two. While these fit, children take turns; otherwise the scheduler is refused as a whole."""
    said = tell(f"""
try:
    said = told(batch(100, workers={workers}))
except DescriptorsSpentError as error:
    assert error.errno == errno.EMFILE and "fewer workers" in str(error), error
    said = told(batch(100, workers=4)) | {{"refused": True}}
say(threads=sum(one.name.startswith("procbench-worker") for one in threading.enumerate()), **said)
""")
    assert (said["done"], said["errors"], said["threads"]) == (100, 0, 0)
    assert ("refused" in said) == (workers == 40)


def test_three_hundred_children_of_one_loop_wait_in_line() -> None:
    """L19: coroutines that open children at the same time get them one after the other; a cancelled one takes none along."""
    said = tell("""
async def one(number):
    async with procbench.open_process(["echo", "x"], stdout=subprocess.PIPE) as process:
        assert await process.stdout.read() == b"x\\n"
        return (await process.wait()) == 0
async def main():
    tasks = [asyncio.ensure_future(one(number)) for number in range(300)]
    while not budget.waiting: await asyncio.sleep(0)
    for task in tasks[5::10]: task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)
with Watched() as watched:
    outcomes = asyncio.run(main())
bad = [one for one in outcomes if one is not True and not isinstance(one, asyncio.CancelledError)]
assert not bad, bad[:3]
say(done=outcomes.count(True), peak=watched.peak)
""")
    assert said["done"] >= 270
    assert said["peak"] <= LIMIT
    assert said["permits_peak"] <= said["capacity"]


def test_a_scheduler_single_runs_and_a_loop_share_the_limit() -> None:
    """L19: three doors at the same time, and a user's own handles beside them: each gets its turn, and nothing fails."""
    said = tell("""
failures = []
def runs():
    for _ in range(60):
        try: assert procbench.run(["echo", "x"], capture_output=True).stdout == b"x\\n"
        except Exception as error: failures.append(repr(error))
async def one():
    async with procbench.open_process(["echo", "x"], stdout=subprocess.PIPE) as process:
        assert await process.stdout.read() == b"x\\n"
async def main():
    await asyncio.gather(*(one() for _ in range(100)))
def loop():
    try: asyncio.run(main())
    except Exception as error: failures.append(repr(error))
with FileDescriptorManager(reuse=()) as manager:
    handles = [manager.open_null() for _ in range(8)]
    threads = [threading.Thread(target=runs) for _ in range(4)] + [threading.Thread(target=loop)]
    for thread in threads: thread.start()
    with Watched() as watched:
        results = batch(300, workers=4)
    for thread in threads: thread.join()
    for handle in handles: handle.close()
say(failures=failures, peak=watched.peak, **told(results))
""")
    assert (said["done"], said["errors"], said["failures"]) == (300, 0, [])
    assert said["peak"] <= LIMIT


@pytest.mark.parametrize("left", [7, 3])
def test_handles_that_the_user_keeps_keep_no_child_waiting_for_ever(left: int) -> None:
    """L19: with nearly everything in the user's own hands a command still runs, or fails with EMFILE; it never hangs."""
    said = tell(f"""
with FileDescriptorManager(reuse=(), when_spent="fail") as manager:
    handles = []
    try:
        while True: handles += manager.open_pipe()
    except DescriptorsSpentError: pass
    extra = []
    while budget.statistics().open_now < {LIMIT} - {left}: extra.append(os.open("/dev/null", os.O_RDONLY))
    try: outcome = procbench.run(["echo", "x"], capture_output=True).returncode
    except SpawnError as error: outcome = errno.errorcode[error.errno]
    for fd in extra: os.close(fd)
    for handle in handles: handle.close()
say(outcome=outcome)
""")
    assert said["outcome"] == (0 if left == 7 else "EMFILE")
