"""Commands wait while there is too little memory or too much load, and no longer."""

from __future__ import annotations

import threading

import pytest

from procbench.memory.meminfo import available_memory_bytes
from procbench.scheduling import starting
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.starting import Starting
from procbench.scheduling.stealing import WorkStealingScheduler
from tests.waiting import wait_until


class Machine:
    """A machine whose memory, load and clock the test decides, and which counts who looks."""

    def __init__(self) -> None:
        self.free_bytes: int | None = 1000
        self.load = 1.0
        self.now_s = 100.0
        self.looks = 0
        self.pauses: list[float] = []

    def memory(self) -> int | None:
        self.looks += 1
        return self.free_bytes

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(starting, "_last", None)
    monkeypatch.setattr(starting, "available_memory_bytes", made.memory)
    monkeypatch.setattr(starting, "_load_of_a_minute", lambda: made.load)
    monkeypatch.setattr(starting.time, "monotonic", lambda: made.now_s)
    return made


def test_without_a_limit_nobody_looks(machine: Machine):
    """Who sets nothing pays nothing."""
    free = Starting(RunSettings())
    assert (free.is_wanted, free.wait(machine.pause, lambda: False), machine.looks) == (False, True, 0)


@pytest.mark.parametrize(
    ("settings", "free", "load", "may"),
    [
        (RunSettings(start_above_free_bytes=1000), 1000, 99.0, True),
        (RunSettings(start_above_free_bytes=1000), 999, 0.0, False),
        (RunSettings(start_above_free_bytes=1000), None, 0.0, True),
        (RunSettings(start_below_load=2.0), 0, 1.99, True),
        (RunSettings(start_below_load=2.0), 0, 2.0, False),
        (RunSettings(start_below_load=2.0, start_above_free_bytes=5), 4, 0.0, False),
        (RunSettings(start_below_load=2.0, start_above_free_bytes=5), 5, 3.0, False),
        (RunSettings(start_below_load=2.0, start_above_free_bytes=5), 5, 1.0, True),
    ],
)
def test_both_limits_must_be_kept(machine: Machine, settings: RunSettings, free: int | None, load: float, may: bool):
    """Enough memory and little enough load; what the system does not say holds nothing up."""
    machine.free_bytes, machine.load = free, load
    assert Starting(settings).may_start() is may


def test_pauses_grow_to_a_second_and_end_with_the_shortage(machine: Machine):
    """Nobody polls busily, and nobody sleeps long once there is room."""
    machine.free_bytes = 1

    def pause(seconds: float) -> None:
        machine.pause(seconds)
        if len(machine.pauses) == 7:
            machine.free_bytes = 1000

    assert Starting(RunSettings(start_above_free_bytes=1000)).wait(pause, lambda: False)
    assert machine.pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_who_is_stopped_waits_no_longer(machine: Machine):
    """A cancelled wait says that no command may start."""
    machine.load = 50.0
    assert not Starting(RunSettings(start_below_load=1)).wait(machine.pause, lambda: len(machine.pauses) == 3)
    assert len(machine.pauses) == 3


def test_all_workers_share_a_reading_of_a_tenth_of_a_second(machine: Machine):
    """A thousand questions within 0.1 s are one look, and the next tenth brings the next."""
    settings = RunSettings(start_above_free_bytes=1)
    askers = [Starting(settings) for _ in range(10)]
    for number in range(1000):
        askers[number % 10].may_start()
        machine.now_s += 0.0001
    assert machine.looks <= 2
    machine.now_s += 0.1
    askers[0].may_start()
    assert machine.looks <= 3


def test_the_real_machine_says_what_it_has():
    """The figure is the kernel's, in bytes; with that much asked for, a command runs, and with all memory there is none."""
    free = available_memory_bytes()
    assert free is not None
    assert free > 1 << 20
    settings = RunSettings(workers=1, start_above_free_bytes=1 << 20, start_below_load=1e9)
    with WorkStealingScheduler(settings) as scheduler:
        assert scheduler.submit(["true"]).result().outcome == "succeeded"


def test_what_waits_for_memory_can_be_ended(machine_without_memory: threading.Event):
    """Ending a batch ends the wait too, and the command was never begun."""
    scheduler = WorkStealingScheduler(RunSettings(workers=1, start_above_free_bytes=1 << 60))
    with scheduler:
        future = scheduler.submit(["true"])
        assert machine_without_memory.wait(20)
        wait_until(future.running)
        scheduler.cancel_running()
    result = future.result()
    assert (result.outcome, result.pid, result.returncode, result.error) == ("cancelled", 0, None, None)


@pytest.fixture
def machine_without_memory(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    looked = threading.Event()
    real = available_memory_bytes

    def look() -> int | None:
        looked.set()
        return real()

    monkeypatch.setattr(starting, "_last", None)
    monkeypatch.setattr(starting, "available_memory_bytes", look)
    return looked
