"""A task's result says in one word how it ended, and many make a tidy frame."""

from __future__ import annotations

import dataclasses
import errno
import math
import pickle
import re

import pandas as pd
import pytest

from procbench import ProcessTask, RunSettings, TaskResult, WorkStealingScheduler, frame
from procbench.errors import CommandFailedError, InvalidInputError, ProgramNotFoundError
from procbench.io.results import RunResult, signal_name
from procbench.scheduling.task import task_result
from tests.waiting import long_sleep

TASKS = [
    ProcessTask(["true"], id="good"),
    ProcessTask(["sh", "-c", "echo out; exit 3"], id="bad"),
    ProcessTask(["procbench-no-such-program", "a b"], id="absent"),
    ProcessTask(["sleep", long_sleep()], timeout=0.05, id="slow"),
    ProcessTask(["sh", "-c", "kill -9 $$"], id="killed"),
]


@pytest.fixture(scope="module")
def results() -> list[TaskResult]:
    with WorkStealingScheduler(RunSettings(workers=2, capture=True)) as sched:
        return list(sched.map(TASKS))


def test_the_outcome_is_one_word(results: list[TaskResult]) -> None:
    """succeeded, failed or timed_out; what could not be started has failed, with its error and no measures."""
    assert [r.outcome for r in results] == ["succeeded", "failed", "failed", "timed_out", "failed"]
    assert [r.returncode for r in results] == [0, 3, None, -15, -9]
    assert [r.signal for r in results] == [None, None, None, "SIGTERM", "SIGKILL"]
    absent = results[2]
    assert isinstance(absent.error, ProgramNotFoundError)
    assert absent.error.errno == errno.ENOENT
    assert math.isnan(absent.user_s)
    assert absent.wall_s == 0


def test_check_returncode_raises_the_reason(results: list[TaskResult]) -> None:
    """A good result passes, a failed one raises its status, one that never started raises why."""
    results[0].check_returncode()
    with pytest.raises(CommandFailedError):
        results[1].check_returncode()
    with pytest.raises(ProgramNotFoundError):
        results[2].check_returncode()


def test_task_results_pickle(results: list[TaskResult]) -> None:
    """Results survive pickling, with their tasks and errors."""
    for result in results:
        copy = pickle.loads(pickle.dumps(result))
        assert (copy.task, copy.returncode, copy.outcome) == (result.task, result.returncode, result.outcome)
        assert str(copy.error) == str(result.error)


def test_a_signal_without_a_name_is_a_number() -> None:
    """Real-time signals are numbered; a status that is no signal has no name."""
    assert [signal_name(code) for code in (-9, -40, 0, 3, None)] == ["SIGKILL", "signal 40", None, None, None]


def documented() -> set[str]:
    """Return the columns that frame's docstring names."""
    text = (frame.__doc__ or "").split("with these columns.")[1]
    return set(re.findall(r"``([a-z_]+)``", text)) - {"succeeded", "failed", "timed_out", "cancelled"}


def test_the_frame_has_the_documented_columns(results: list[TaskResult]) -> None:
    """What the docstring names is what there is, one row for each result, in their order."""
    tidy = frame(results)
    assert set(tidy.columns) == documented()
    assert tidy["task_id"].tolist() == ["good", "bad", "absent", "slow", "killed"]
    assert tidy["outcome"].tolist() == [r.outcome for r in results]
    assert tidy["command"][2] == "procbench-no-such-program 'a b'"
    assert "No such file" in tidy["error"][2]
    assert (tidy["end_s"] >= tidy["start_s"]).all()
    assert (tidy["start_s"] >= 0).all()
    assert tidy["stdout_bytes"].tolist() == [0, 4, 0, 0, 0]


def test_the_frames_types_are_as_documented(results: list[TaskResult]) -> None:
    """Statuses and thieves are whole numbers or missing, times are floats, flags are booleans."""
    tidy = frame(results)
    for name in ("returncode", "stolen_from"):
        assert tidy[name].dtype == "Int64"
    assert tidy["returncode"].tolist() == [0, 3, pd.NA, -15, -9]
    for name in ("start_s", "end_s", "queue_wait_s", "wall_s", "user_s", "system_s"):
        assert pd.api.types.is_float_dtype(tidy[name])
    for name in ("peak_memory_is_bound", "truncated", "pipe_held_by_descendant"):
        assert pd.api.types.is_bool_dtype(tidy[name])
    for name in ("worker", "peak_memory_bytes", "minor_faults", "voluntary_switches", "stdout_bytes"):
        assert pd.api.types.is_integer_dtype(tidy[name])


def test_no_results_are_an_empty_frame_of_the_same_columns(results: list[TaskResult]) -> None:
    """An empty frame has every column, so that what is written for a full one works on it."""
    empty = frame([])
    assert len(empty) == 0
    assert list(empty.columns) == list(frame(results).columns)
    assert empty["returncode"].dtype == "Int64"


def test_a_frame_is_made_of_results_only():
    """Anything else is named in one sentence."""
    with pytest.raises(InvalidInputError, match="not int"):
        frame([1])


def test_a_result_made_of_its_fields_is_what_its_constructor_makes() -> None:
    """The quick way to make one gives an equal, frozen, picklable one of the same class, with every field in its place."""
    task = ProcessTask(["true"])
    fields = (*range(len(dataclasses.fields(RunResult))), task, None, 1, 2, None, 3)
    quick, slow = task_result(*fields), TaskResult(*fields)  # type: ignore[arg-type]
    assert type(quick) is TaskResult
    assert (quick, repr(quick)) == (slow, repr(slow))
    assert pickle.loads(pickle.dumps(quick)) == dataclasses.replace(quick) == slow
    with pytest.raises(dataclasses.FrozenInstanceError):
        quick.returncode = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        task_result(*fields[:-1])
