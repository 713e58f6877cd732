"""What the recorded runs say together: for each experiment, condition and host its course, and what changed at its jumps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol

from procbench.analysis.change_points import SHORTEST, ChangePoint
from procbench.analysis.samples import estimate
from procbench.analysis.slopes import Trend
from procbench.analysis.trends import metric_trend

if TYPE_CHECKING:
    import pandas as pd

Pace = Literal["faster", "slower", "higher", "lower"]

_TIMES = frozenset({"ns", "µs", "us", "ms", "s"})
_UNITS = {"stealing": "s", "transfer": "GB/s", "affinity": "commands/s", "batch": "s"}
"""Of experiments whose frames do not say it."""

_APART = ("quantity", "unit", "direction", "varied", "kind", "state", "children", "line_bytes", "size_bytes")
"""Columns whose values make a condition of one name another one; of a factor that hangs on the condition nothing is said."""

_SAID = ("quantity", "unit")  # in the unit already
_PASSING = frozenset(
    {
        "recorded_at",
        "hostname",
        "memory_available_bytes",
        "load_one_minute",
        "load_five_minutes",
        "load_fifteen_minutes",
        "busy_share",
        "steal_share",
        "cpu_pressure_percent",
        "memory_pressure_percent",
        "io_pressure_percent",
    }
)
"""Facts of a host that differ from run to run."""

_RESULTS = frozenset({"seed", "succeeded", "failed", "timed_out", "cancelled", "wall_s", "ended_by", "data_dir"})
"""Parameters that set nothing."""

_EACH_ITS_OWN = frozenset({"proof", "suggestions"})
"""Experiments whose runs are of any commands and any change: one beside the other is no line."""


class Run(Protocol):
    """What is asked of a recorded run; :class:`procbench.lab.runs.RecordedRun` has it."""

    @property
    def run_id(self) -> str: ...  # noqa: D102
    @property
    def experiment(self) -> str: ...  # noqa: D102
    @property
    def recorded_at(self) -> datetime: ...  # noqa: D102
    @property
    def host_id(self) -> str: ...  # noqa: D102
    @property
    def host(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def parameters(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def git_revision(self) -> str | None: ...  # noqa: D102
    @property
    def procbench_version(self) -> str: ...  # noqa: D102
    @property
    def trials(self) -> pd.DataFrame: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Point:
    """One condition in one run.

    Attributes:
        run_id: Which run.
        recorded_at: When, UTC; a label, since the wall clock may jump.
        value: Median of the run's values, those of warm-up left out.
        low: Lower end of its 95 % interval; minus infinity with fewer than six values.
        high: Upper end; infinity with fewer than six values.
        count: Values behind it.
    """

    run_id: str
    recorded_at: datetime
    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Change:
    """A run from which on a condition was at another level.

    Attributes:
        number: The run's number in the line, from 0.
        point: The run.
        before: The level before it.
        after: The level from it on.
        pace: ``faster`` or ``slower``; ``higher`` or ``lower`` where the unit does not say which is better.
        facts: What else changed, ``kernel: 6.1 -> 6.8``, between the run before and this one; empty if nothing known did.
    """

    number: int
    point: Point
    before: float
    after: float
    pace: Pace
    facts: tuple[str, ...]

    @property
    def factor(self) -> float:
        """How many times as high the level is after it; NaN where one of them is not above 0."""
        return self.after / self.before if self.before > 0 and self.after > 0 else math.nan


@dataclass(frozen=True, slots=True)
class Line:
    """One condition of one experiment on one host, run by run.

    Attributes:
        experiment: What was measured.
        condition: How.
        host_id: Where. Values of different hosts never stand in one line.
        hostname: What that host calls itself.
        unit: Of the values; empty if it is not known.
        points: One for each run that has this condition, oldest first.
        trend: Where it goes beside its jumps, by runs.
        changes: Where it jumped.
    """

    experiment: str
    condition: str
    host_id: str
    hostname: str
    unit: str
    points: tuple[Point, ...]
    trend: Trend
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: what is unknown or infinite is None."""
        return {
            "experiment": self.experiment,
            "condition": self.condition,
            "host_id": self.host_id,
            "hostname": self.hostname,
            "unit": self.unit,
            "direction": self.trend.direction,
            "slope_per_run": [_plain(value) for value in (self.trend.slope, self.trend.low, self.trend.high)],
            "runs": [
                {
                    "run_id": one.run_id,
                    "recorded_at": one.recorded_at.isoformat(),
                    "value": one.value,
                    "low": _plain(one.low),
                    "high": _plain(one.high),
                    "count": one.count,
                }
                for one in self.points
            ],
            "changes": [
                {
                    "run_id": one.point.run_id,
                    "recorded_at": one.point.recorded_at.isoformat(),
                    "number": one.number,
                    "before": one.before,
                    "after": one.after,
                    "pace": one.pace,
                    "facts": list(one.facts),
                }
                for one in self.changes
            ],
        }


def history(runs: Iterable[Run]) -> list[Line]:
    """Return one line for each experiment, condition and host; the experiments in the order of their names.

    The runs count as evenly apart, since what matters is what lies between them and not how long that took. With fewer
    than six runs nothing can be shown, and with eight only what is far above the noise; a jump in the last two runs
    cannot be told from a hiccup yet. Proofs have no lines: each is of commands and of a change of its own.

    Args:
        runs: Recorded runs, such as ``Store(...).load().runs``, oldest first.

    Raises:
        InvalidInputError: A run's values are no numbers.
    """
    found: dict[tuple[str, str, str, str], list[tuple[Run, Point]]] = {}
    for run in runs:
        if run.experiment in _EACH_ITS_OWN:
            continue
        for (condition, unit), point in _points(run).items():
            found.setdefault((run.experiment, run.host_id, condition, unit), []).append((run, point))
    ordered = sorted(found.items(), key=lambda item: item[0][:2])  # stable: conditions stay in the order of their run
    return [_line(key, entries) for key, entries in ordered]


def changed_facts(before: Run, after: Run) -> tuple[str, ...]:
    """Return what is known to differ between two runs: host, versions, revision, parameters.

    What differs from run to run anyway, such as the load, is not said.
    """
    told = [
        ("procbench", before.procbench_version, after.procbench_version),
        ("git revision", _short(before.git_revision), _short(after.git_revision)),
    ]
    for first, second, left_out in (
        (before.host, after.host, _PASSING),
        (before.parameters, after.parameters, _RESULTS),
    ):
        names = [name for name in dict.fromkeys([*first, *second]) if name not in left_out]
        told += [(name.replace("_", " "), first.get(name), second.get(name)) for name in names]
    return tuple(f"{name}: {_word(old)} -> {_word(new)}" for name, old, new in told if old != new)


def _line(key: tuple[str, str, str, str], entries: Sequence[tuple[Run, Point]]) -> Line:
    experiment, host_id, condition, unit = key
    runs, points = [run for run, _ in entries], tuple(point for _, point in entries)
    found = metric_trend(condition, [point.value for point in points])
    return Line(
        experiment=experiment,
        condition=condition,
        host_id=host_id,
        hostname=str(runs[-1].host.get("hostname", "")),
        unit=unit,
        points=points,
        trend=found.trend,
        changes=tuple(_change(one, runs, points, unit) for one in found.changes),
    )


def _change(change: ChangePoint, runs: Sequence[Run], points: Sequence[Point], unit: str) -> Change:
    return Change(
        number=change.index,
        point=points[change.index],
        before=change.before,
        after=change.after,
        pace=pace_of(change.before, change.after, unit),
        facts=changed_facts(runs[change.index - 1], runs[change.index]) or _nearby(runs, change.index),
    )


def _nearby(runs: Sequence[Run], number: int) -> tuple[str, ...]:
    """Return what changed a run or two off, saying so: noise can move a jump that far."""
    for off in range(1, SHORTEST):
        for second in (number - off, number + off):
            if 0 < second < len(runs) and (facts := changed_facts(runs[second - 1], runs[second])):
                when = "before" if second < number else "after"
                return tuple(f"{fact} ({off} run{'s' * (off > 1)} {when})" for fact in facts)
    return ()


def pace_of(before: float, after: float, unit: str) -> Pace:
    """Return in a word what a change of a value means: times are better small, rates large."""
    if unit in _TIMES:
        return "faster" if after < before else "slower"
    if unit.endswith("/s"):
        return "faster" if after > before else "slower"
    return "higher" if after > before else "lower"


def _points(run: Run) -> dict[tuple[str, str], Point]:
    """Return a run's conditions, each with its unit; none of a frame without values."""
    trials = run.trials
    if "condition" not in trials or "value" not in trials:
        return _batch(run)
    if "warm_up" in trials:
        trials = trials[~trials["warm_up"].astype(bool)]
    apart = [name for name in _APART if name in trials and (name in _SAID or not _hangs_on_condition(trials, name))]
    found = {}
    for key, part in trials.groupby(["condition", *apart], sort=False, dropna=False):
        told = dict(zip(["condition", *apart], map(str, key), strict=True))
        quantity, unit = _quantity(told.pop("quantity", ""), told.pop("unit", ""), run.experiment)
        words = [*told.values(), quantity]
        point = _point(run, part["value"].to_numpy(dtype="float64"))
        if point is not None:
            found[", ".join(word for word in words if word), unit] = point
    return found


def _batch(run: Run) -> dict[tuple[str, str], Point]:
    """Return how long the commands of a recorded batch took, program by program."""
    if not {"command", "wall_s"} <= set(run.trials):
        return {}
    programs = run.trials["command"].astype(str).str.partition(" ")[0]
    found = {}
    for program, part in run.trials.groupby(programs, sort=False):
        if (point := _point(run, part["wall_s"].to_numpy(dtype="float64"))) is not None:
            found[f"wall time of {program}", "s"] = point
    return found


def _point(run: Run, values: Any) -> Point | None:
    import numpy as np

    values = values[np.isfinite(values)]
    if not len(values):
        return None
    # The interval's ends hardly hang on the seed from 999 resamples on, and a history has hundreds of points.
    found = estimate(values, resamples=999)
    return Point(run.run_id, run.recorded_at, found.median, found.low, found.high, found.count)


def _hangs_on_condition(trials: pd.DataFrame, name: str) -> bool:
    return bool((trials.groupby("condition", dropna=False)[name].nunique(dropna=False) <= 1).all())


def _quantity(quantity: str, unit: str, experiment: str) -> tuple[str, str]:
    """Return what a value is and its unit: ``batch (s)`` says both."""
    name, _, rest = quantity.partition(" (")
    return name, unit or rest.rstrip(")") or ("" if quantity else _UNITS.get(experiment, ""))


def levels(line: Line) -> list[tuple[int, int]]:
    """Return the first run and the one after the last of each stretch between changes."""
    return list(pairwise([0, *(one.number for one in line.changes), len(line.points)]))


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(revision: str | None) -> str | None:
    return revision[:10] if revision else revision


def _word(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:g}" if isinstance(value, float) else str(value)
