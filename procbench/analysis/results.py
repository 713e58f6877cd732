"""Task results as a tidy frame."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from procbench.errors import InvalidInputError
from procbench.scheduling.task import TaskResult

if TYPE_CHECKING:
    import pandas as pd

_AS_THEY_ARE = (
    "outcome",
    "returncode",
    "signal",
    "worker",
    "stolen_from",
    "attempts",
    "queue_wait_s",
    "wall_s",
    "user_s",
    "system_s",
    "peak_memory_bytes",
    "peak_memory_is_bound",
    "minor_faults",
    "major_faults",
    "voluntary_switches",
    "involuntary_switches",
    "stdout_bytes",
    "stderr_bytes",
    "truncated",
    "stdin_error",
    "transport",
    "pipe_size_bytes",
    "stop_phase",
    "pipe_held_by_descendant",
    "limit_hit",
)
_WHOLE_OR_MISSING = ("returncode", "stolen_from", "pipe_size_bytes")
_SECOND_NS = 1_000_000_000


def frame(results: Iterable[TaskResult]) -> pd.DataFrame:
    """Return one row for each result, in their order.

    Returns:
        A frame with these columns. ``task_id``; ``command``, as a shell would read it,
        bytes that are no text with backslashes; ``outcome`` (``succeeded``,
        ``failed``, ``timed_out``, ``cancelled``); ``returncode`` (Int64, missing if never started); ``signal``; ``error``,
        why it could not be started; ``worker`` and ``stolen_from``, worker numbers (the latter Int64, missing if not
        stolen); ``attempts``; ``start_s`` and ``end_s``, seconds since the first of them was submitted; ``queue_wait_s``,
        ``wall_s``, ``user_s``, ``system_s``, seconds; ``peak_memory_bytes`` and ``peak_memory_is_bound``; ``minor_faults``,
        ``major_faults``, ``voluntary_switches``, ``involuntary_switches``, counts; ``stdout_bytes``, ``stderr_bytes``,
        ``truncated``; ``stdin_error``; ``transport``, the way its input went; ``pipe_size_bytes`` (Int64), where a size was
        asked for; ``stop_phase``, ``pipe_held_by_descendant``; ``limit_hit``.
    """
    import pandas as pd

    rows = list(results)
    for row in rows:
        if not isinstance(row, TaskResult):
            raise InvalidInputError(
                f"frame() takes task results, such as a future's result(), not {type(row).__name__}"
            )
    origin_ns = min((result.submitted_ns for result in rows), default=0)
    columns: dict[str, list[Any]] = {
        "task_id": [result.task.id for result in rows],
        "command": [_plain(shlex.join(os.fsdecode(a) for a in result.args)) for result in rows],
        "error": [None if result.error is None else _plain(str(result.error)) for result in rows],
        "start_s": [(result.started_ns - origin_ns) / _SECOND_NS for result in rows],
        "end_s": [(result.ended_ns - origin_ns) / _SECOND_NS for result in rows],
    }
    columns |= {name: [getattr(result, name) for result in rows] for name in _AS_THEY_ARE}
    tidy = pd.DataFrame(columns)
    return tidy.astype(dict.fromkeys(_WHOLE_OR_MISSING, "Int64"))


def _plain(text: str) -> str:
    """Return text that UTF-8 can write, as pandas and Parquet need it: a file name may hold bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()
