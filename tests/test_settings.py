"""Settings are checked where they are made, change into variants, and survive the way through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procbench import ProcessTask, RunSettings
from procbench.cpu.memory_limit import LEAST_MEMORY_BYTES
from procbench.cpu.placement import PLACEMENT_POLICIES
from procbench.cpu.topology import usable_workers
from procbench.errors import InvalidInputError
from procbench.io.contained import LEVELS
from procbench.io.keep import OVERFLOWS
from procbench.memory.transports import TRANSPORTS
from procbench.scheduling.settings import INHERITED_IO_CLASSES, INHERITED_POLICIES

COUNTS = st.integers(1, 10**6)
CPU_LISTS = st.sampled_from(["0", "0-3", "1,3", "0,64-127"])
SLICES = st.floats(0.001, 1e9) | st.integers(1, 10**9)
SECONDS = st.floats(0, 1e9) | st.integers(0, 10**9)
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "workers": st.none() | COUNTS,
    "timeout": st.none() | SECONDS,
    "capture": st.booleans(),
    "discard": st.booleans(),
    "max_output_bytes": st.none() | st.integers(0, 1 << 40),
    "buffer_size_bytes": COUNTS,
    "transport": st.sampled_from(TRANSPORTS),
    "pipe_size_bytes": st.none() | COUNTS,
    "pin": st.sampled_from(PLACEMENT_POLICIES) | st.lists(CPU_LISTS, min_size=1).map(tuple),
    "nice": st.none() | st.integers(-20, 19),
    "policy": st.none() | st.sampled_from(INHERITED_POLICIES),
    "io_class": st.none() | st.sampled_from(INHERITED_IO_CLASSES),
    "cpu_limit": st.none() | st.floats(0.01, 512) | st.integers(1, 512),
    "memory_limit_bytes": st.none() | st.integers(LEAST_MEMORY_BYTES, 1 << 40),
    "overflow": st.sampled_from(OVERFLOWS),
    "containment": st.sampled_from(LEVELS),
    "descriptors": st.sampled_from(["wait", "fail", "off"]),
    "order": st.sampled_from(["priority", "fifo", "longest_first"]),
    "args_per_task": COUNTS,
    "retries": st.integers(0, 10**6),
    "retry_delay_s": SECONDS,
    "halt": st.sampled_from(["never", "soon,fail=1", "now,fail=100%", "now,success=3", "soon,success=1%"]),
    "start_below_load": st.none() | st.floats(0.01, 1e4),
    "start_above_free_bytes": st.none() | COUNTS,
    "queue_size": COUNTS,
    "kill_grace_s": SECONDS,
    "drain_grace_s": SECONDS,
    "ageing_s": st.none() | SLICES,
    "time_slice_s": st.none() | SLICES,
    "spawn_patience_s": SECONDS,
}
NO_NUMBER = st.sampled_from(["1", b"1", [], {}, (), True, False, float("nan"), 1j])
BAD: dict[str, st.SearchStrategy[Any]] = {
    "workers": NO_NUMBER | st.integers(max_value=0) | st.floats(),
    "timeout": NO_NUMBER | st.just(math.inf) | st.integers(max_value=-1) | st.floats(max_value=-1e-9),
    "capture": st.sampled_from([0, 1, None, "yes"]),
    "discard": st.sampled_from([0, 1, None, "yes"]),
    "max_output_bytes": NO_NUMBER | st.integers(max_value=-1) | st.floats(),
    "buffer_size_bytes": NO_NUMBER | st.none() | st.integers(max_value=0) | st.floats(),
    "transport": st.sampled_from(["", "teleport", None, 1, [], b"write"]),
    "pipe_size_bytes": NO_NUMBER | st.integers(max_value=0) | st.floats(),
    "pin": st.sampled_from(
        ["", "everywhere", None, 0, [], [[]], [""], ["0", []], [[-1]], ["one"], [0.5], ["2-1"], [["0"]]]
    ),
    "nice": NO_NUMBER | st.integers(max_value=-21) | st.integers(min_value=20) | st.floats(),
    "policy": st.sampled_from(["", "fifo", "rr", 0, [], True]),
    "io_class": st.sampled_from(["", "best", 0, [], True]),
    "cpu_limit": NO_NUMBER | st.just(float("inf")) | st.floats(max_value=0.0099) | st.integers(max_value=0),
    "memory_limit_bytes": NO_NUMBER | st.just(2**63) | st.integers(max_value=LEAST_MEMORY_BYTES - 1) | st.floats(),
    "overflow": st.sampled_from(["", "ignore", None, 1, [], b"drop"]),
    "containment": st.sampled_from(["", "none", None, 1, [], "session"]),
    "descriptors": st.sampled_from(["", "on", None, 1, [], True]),
    "order": st.sampled_from(["", "lifo", None, 1, [], True]),
    "args_per_task": NO_NUMBER | st.none() | st.integers(max_value=0) | st.floats(),
    "retries": NO_NUMBER | st.none() | st.integers(max_value=-1) | st.floats(),
    "retry_delay_s": NO_NUMBER | st.none() | st.floats(max_value=-1e-9),
    "halt": st.sampled_from(
        [
            "",
            "now",
            None,
            1,
            [],
            "soon,fail=0",
            "now,fail=101%",
            "soon,fail=1 ",
            "now,fail=-1",
            "later,fail=1",
            b"never",
        ]
    ),
    "start_below_load": NO_NUMBER | st.just(math.inf) | st.floats(max_value=0.0099),
    "start_above_free_bytes": NO_NUMBER | st.integers(max_value=0) | st.floats(),
    "queue_size": NO_NUMBER | st.none() | st.integers(max_value=0) | st.floats(),
    "kill_grace_s": NO_NUMBER | st.none() | st.floats(max_value=-1e-9),
    "drain_grace_s": NO_NUMBER | st.none() | st.integers(max_value=-1),
    "ageing_s": NO_NUMBER | st.integers(max_value=0) | st.floats(max_value=0.0009),
    "time_slice_s": NO_NUMBER | st.integers(max_value=0) | st.floats(max_value=0.0009),
    "spawn_patience_s": NO_NUMBER | st.none() | st.integers(max_value=-1),
}
every_setting = st.fixed_dictionaries({}, optional=GOOD)
one_bad = st.one_of([st.tuples(st.just(name), values) for name, values in BAD.items()])


def test_every_field_is_covered_here_and_described() -> None:
    """A new knob has its unit, meaning and lowest value, and good and bad values in this file."""
    names = {knob.name for knob in dataclasses.fields(RunSettings)}
    assert names == set(GOOD) == set(BAD) == set(RunSettings.describe())
    for facts in RunSettings.describe().values():
        assert set(facts) == {"unit", "meaning", "lowest", "highest", "choices"}
        assert facts["meaning"]


@given(fields=every_setting)
def test_good_values_survive_the_way_through_json(fields: dict[str, Any]) -> None:
    """to_dict and from_dict are each other's inverse, through JSON and pickle."""
    made = RunSettings(**fields)
    assert RunSettings.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert pickle.loads(pickle.dumps(made)) == made
    assert {name: getattr(made, name) for name in fields} == fields


@given(bad=one_bad)
def test_a_bad_value_is_named(bad: tuple[str, Any]) -> None:
    """A value that makes no sense is refused as a ValueError that names the field, from every door."""
    name, value = bad
    for door in (lambda: RunSettings(**{name: value}), lambda: RunSettings().changed(**{name: value})):
        with pytest.raises(InvalidInputError, match=name):
            door()
    with pytest.raises(InvalidInputError, match=name):
        RunSettings.from_dict({name: value})


@given(fields=every_setting, change=every_setting)
def test_changed_gives_a_variant(fields: dict[str, Any], change: dict[str, Any]) -> None:
    """changed leaves the original as it was, and everything that it was not told."""
    made = RunSettings(**fields)
    assert made.changed(**change) == RunSettings(**(fields | change))
    assert made == RunSettings(**fields)


@pytest.mark.parametrize("fields", [{"cpu_limit": float("inf")}, {"memory_limit_bytes": 2**63}])
def test_a_limit_that_no_limiter_takes_is_refused_at_once(fields: dict[str, Any]) -> None:
    """What would fail for every command, or where the scheduler is made, is refused where it is written."""
    with pytest.raises(InvalidInputError):
        RunSettings(**fields)


def test_an_unknown_setting_is_refused() -> None:
    """A misspelt field is named, with those that there are."""
    with pytest.raises(InvalidInputError, match=r"wrokers.*workers"):
        RunSettings().changed(wrokers=2)
    with pytest.raises(InvalidInputError, match="colour"):
        RunSettings.from_dict({"colour": "red"})


def test_settings_do_not_change() -> None:
    """Settings are frozen, so that a scheduler's cannot change under it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunSettings().workers = 3  # type: ignore[misc]


def test_no_number_of_workers_is_the_machines() -> None:
    """C02: workers=None means as many as this process may use CPUs."""
    assert RunSettings().worker_count == usable_workers() >= 1
    assert RunSettings(workers=7).worker_count == 7


@pytest.mark.parametrize(
    "fields",
    [{"argv": "true"}, {"argv": b"true"}, {"argv": ["a"], "timeout": -1}, {"argv": ["a"], "priority": "urgent"}],
)
def test_a_task_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    """A string for an argv, and a negative or undefined timeout, are mistakes of the program."""
    with pytest.raises(InvalidInputError):
        ProcessTask(**fields)
    with pytest.raises(InvalidInputError):
        ProcessTask(["true"], timeout=float("nan"))


def test_tasks_have_ids_of_their_own() -> None:
    """Ids count up unless given; command is the program; an empty argv is the scheduler's business."""
    first, second, third = ProcessTask(["a", "b"]), ProcessTask([b"c"]), ProcessTask([], id="x")
    assert first.id != second.id
    assert [task.command for task in (first, second, third)] == ["a", "c", ""]
    assert third.id == "x"
    assert pickle.loads(pickle.dumps(first)) == first


def test_sets_for_workers_may_be_given_as_numbers() -> None:
    """Explicit CPU sets become the kernel's list format, whatever way they were said, and survive JSON."""
    made = RunSettings(pin=[{3, 1, 2}, [0], "5,4", range(8, 10)])  # type: ignore[arg-type]
    assert made.pin == ("1-3", "0", "4-5", "8-9")
    assert json.loads(json.dumps(made.to_dict()))["pin"] == ["1-3", "0", "4-5", "8-9"]


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("workers=3", "workers", 3),
        ("timeout=0.5", "timeout", 0.5),
        ("timeout=null", "timeout", None),
        ("capture=true", "capture", True),
        ("transport=write", "transport", "write"),
        ("pin=core", "pin", "core"),
        ('pin=["0", "2-3"]', "pin", ("0", "2-3")),
    ],
)
def test_words_of_a_person_become_fields(word: str, field: str, value: Any) -> None:
    """A value is JSON, or a plain word."""
    assert getattr(RunSettings().changed_by_words([word]), field) == value


@pytest.mark.parametrize("word", ["", "=", "=3", "pin", "capture=yes", "workers=007", 'workers="3"', "pin=[]", "x=1"])
def test_words_that_make_no_sense_are_refused(word: str) -> None:
    """What is no pair, no field or no value of its kind is an InvalidInputError."""
    with pytest.raises(InvalidInputError):
        RunSettings().changed_by_words([word])
