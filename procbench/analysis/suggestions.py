"""What might make a batch better: a change that can be applied, undone and measured, with what is known of its gain.

A suggestion is no promise. Until somebody has measured it on this machine with these commands, its status is ``unmeasured``
and it has no effect; :func:`procbench.lab.proof.prove` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from procbench.analysis.statistics import Effect
from procbench.errors import InvalidInputError
from procbench.scheduling.settings import RunSettings

Category = Literal["cpu", "memory", "disk_io", "network_io", "process_management", "concurrency"]
Level = Literal["low", "medium", "high", "critical"]
Cost = Literal["low", "medium", "high", "very_high"]
Gain = Literal["time", "memory"]
Status = Literal["unmeasured", "proved", "no gain", "harmful", "inconclusive"]

CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)


class Threshold(NamedTuple):
    """From where on something is worth a word.

    Attributes:
        default: What it is unless somebody says otherwise.
        lowest: The lowest that makes sense.
        highest: The highest that makes sense.
        meaning: What it is, with its unit.
    """

    default: float
    lowest: float
    highest: float
    meaning: str


THRESHOLDS: Final[Mapping[Category, Mapping[str, Threshold]]] = MappingProxyType(
    {
        "cpu": {
            "bound": Threshold(0.5, 0, 1, "share of their time on a CPU from which on commands are bound by it"),
            "limited": Threshold(0.9, 0, 1, "share of their own CPU limit that commands used up"),
            "held_off": Threshold(0.8, 0, 1, "share of their time on a CPU below which others may hold them off"),
            "preempted": Threshold(150, 0, 1e6, "involuntary switches a second of CPU time: commands are moved about"),
            "throttled": Threshold(0.05, 0, 1, "share of the cgroup's periods whose quota was used up"),
        },
        "memory": {
            "worth_saving": Threshold(0.05, 0, 1, "share of the machine's memory that a batch had at a time"),
            "short": Threshold(0.8, 0, 1, "share of the machine's memory from which on it may run short"),
            "pressure": Threshold(0.01, 0, 1, "share of the time in which somebody waited for memory"),
            "misses": Threshold(0.05, 0, 1, "share of the requests for a pooled buffer that found none"),
        },
        "disk_io": {
            "pressure": Threshold(0.1, 0, 1, "share of the time in which somebody waited for a disk"),
            "storage": Threshold(1e6, 0, 1e12, "bytes that commands read from and write to storage, a second"),
            "heavy_bytes": Threshold(1 << 20, 1, 1 << 40, "bytes through pipes a command"),
        },
        "network_io": {"traffic": Threshold(100_000, 0, 1e12, "bytes from and to other machines, a second")},
        "process_management": {
            "spawn": Threshold(0.3, 0, 1, "share of commands' time that their start may have taken"),
            "survivors": Threshold(0.05, 0, 1, "share of commands that left processes behind"),
            "zombies": Threshold(0.2, 0, 1, "share of all processes that are zombies"),
            "numbers": Threshold(0.8, 0, 1, "share of process numbers, or of descriptors, in use"),
        },
        "concurrency": {
            "waiting": Threshold(0.5, 0, 1, "share of their time on a CPU below which commands mostly wait"),
            "taken": Threshold(0.5, 0, 1, "involuntary share of switches from which on commands wait for a CPU"),
            "tail": Threshold(0.08, 0, 1, "share of workers' time after the first ran out of work"),
            "imbalance": Threshold(
                0.25, 0, 1e6, "by how much the busiest worker's time exceeds the mean, as a share of it"
            ),
            "idle": Threshold(0.1, 0, 1, "share of workers' time between commands"),
        },
    }
)
"""Every threshold there is. They are shares and rates, so that they mean the same on every machine; what depends on the
machine, CPUs and memory, stands in what was observed."""


@dataclass(frozen=True, slots=True)
class AnalysisConfig:
    """From where on the analyzer says something.

    Attributes:
        thresholds: For a category, other values than the defaults in :data:`THRESHOLDS`, by name.
        worth: The least gain, if what was seen were all of it, that a suggestion is made for; 0.05 is 5 %.

    Raises:
        InvalidInputError: There is no such category or threshold, or a value is out of its range; all of them are named.
    """

    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    worth: float = 0.05

    def __post_init__(self) -> None:
        problems = [f"worth is {self.worth!r}, and a share of at least 0"] if not 0 <= self.worth < math.inf else []
        for category, given in self.thresholds.items():
            known = THRESHOLDS.get(category)  # type: ignore[call-overload]
            if known is None:
                problems.append(f"there is no category {category!r}; there are: {', '.join(CATEGORIES)}")
                continue
            problems += [_problem(category, name, value, known) for name, value in given.items()]
        if found := [problem for problem in problems if problem]:
            raise InvalidInputError("; ".join(found))

    def of(self, category: Category, name: str) -> float:
        """Return a threshold."""
        return self.thresholds.get(category, {}).get(name, THRESHOLDS[category][name].default)


def _problem(category: str, name: str, value: object, known: Mapping[str, Threshold]) -> str:
    if name not in known:
        return f"{category} has no threshold {name!r}; it has: {', '.join(known)}"
    bounds = known[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and bounds.lowest <= value <= bounds.highest:  # type: ignore[operator]
        return ""
    return f"{category}.{name} is {value!r}; it is a number from {bounds.lowest:g} to {bounds.highest:g}"


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """A change of settings.

    Attributes:
        changes: Fields of :class:`procbench.scheduling.settings.RunSettings` with the values suggested.
        before: The same fields with the values that they had.

    Raises:
        InvalidInputError: The two name different fields, none, or one that settings do not have.
    """

    changes: Mapping[str, Any]
    before: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.changes or set(self.changes) != set(self.before):
            raise InvalidInputError(
                f"changes and before name the same settings, and not {[*self.changes]} and {[*self.before]}"
            )
        for name in ("changes", "before"):
            values = getattr(self, name)  # JSON knows no tuples, and settings hold nothing else that is a list
            object.__setattr__(self, name, {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
            RunSettings().changed(**getattr(self, name))

    def __str__(self) -> str:
        return ", ".join(f"{name}: {self.before[name]} → {value}" for name, value in self.changes.items())


@dataclass(frozen=True, slots=True)
class HostChange:
    """A change of the machine, or of this process, by commands. Nobody runs them unasked.

    Attributes:
        apply_argv: Makes the change.
        undo_argv: Puts back what was there.
        check_argv: Prints the state; the same before and after, once it is undone.
        description: What it changes.

    Raises:
        InvalidInputError: A command is empty.
    """

    apply_argv: tuple[str, ...]
    undo_argv: tuple[str, ...]
    check_argv: tuple[str, ...]
    description: str

    def __post_init__(self) -> None:
        if not (self.apply_argv and self.undo_argv and self.check_argv):
            raise InvalidInputError(
                "a change of the host needs a command that makes, one that undoes and one that checks it"
            )

    def __str__(self) -> str:
        return self.description


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizationSuggestion:
    """A change that might make a batch better, and what is known of that. Picklable; a row of a table.

    Attributes:
        rule: Name of the rule that made it.
        category: What it is about.
        priority: By how much there is to gain at most.
        description: What was seen, with its numbers.
        why: Why that hurts.
        change: What to change.
        cost: How hard the change is for who makes it.
        gain: What it should improve: the batch's ``time``, or its ``memory`` at no loss of time.
        at_most: How many times better it could be if what was seen were all of it; a bound, and no
            promise. Infinite where there is none.
        created: When it was made, UTC.
        status: ``unmeasured``, or what measuring it showed.
        effect: What was measured; None before.
        evidence: File of the recorded measurement; None if there is none.
        side_effects: What else was measured: ``time`` or ``memory``, ``cpu_time`` and ``latency`` (the slowest commands' time).
        note: What a reader of the status should know.

    Raises:
        InvalidInputError: There is no such category, priority, cost, gain or status, or ``at_most`` is no number.
    """

    rule: str = ""
    category: Category
    priority: Level
    description: str
    why: str
    change: SettingsChange | HostChange
    cost: Cost = "low"
    gain: Gain = "time"
    at_most: float = math.inf
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    status: Status = "unmeasured"
    effect: Effect | None = None
    evidence: str | None = None
    side_effects: Mapping[str, Effect] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            if (said := getattr(self, name)) not in words:
                raise InvalidInputError(f"there is no {name} {said!r}; there are: {', '.join(words)}")
        if not self.at_most >= 0:
            raise InvalidInputError(f"at_most is how many times better it could be, and not {self.at_most!r}")

    def apply(self, settings: RunSettings) -> RunSettings:
        """Return settings with the change; a change of the host leaves them as they are.

        Raises:
            InvalidInputError: They do not have what it found before, so that undoing it would give something else.
        """
        return self._exchanged(settings, undo=False)

    def undo(self, settings: RunSettings) -> RunSettings:
        """Return settings without the change, exactly as they were.

        Raises:
            InvalidInputError: They do not have the change.
        """
        return self._exchanged(settings, undo=True)

    def noted(self, note: str) -> Self:
        """Return it with one more note; what its note said before stays there, and an empty one adds nothing."""
        return replace(self, note="; ".join(filter(None, (self.note, note))))

    def _exchanged(self, settings: RunSettings, *, undo: bool) -> RunSettings:
        if isinstance(self.change, HostChange):
            return settings
        old, new = self.change.before, self.change.changes
        if undo:
            old, new = new, old
        expected = settings.changed(**old)
        if expected != settings:
            differ = [f"{name} is {getattr(settings, name)!r}, not {value!r}" for name, value in old.items()]
            raise InvalidInputError(
                f"this is for other settings, so it cannot be {'un' * undo}done: {'; '.join(differ)}"
            )
        return settings.changed(**new)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        change = asdict(self.change) if isinstance(self.change, HostChange) else _plain_settings(self.change)
        return {
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
            "at_most": self.at_most if math.isfinite(self.at_most) else None,
            "change": {"kind": "host" if isinstance(self.change, HostChange) else "settings", **change},
            "created": self.created.isoformat(),
            "effect": None if self.effect is None else self.effect.to_dict(),
            "side_effects": {name: effect.to_dict() for name, effect in self.side_effects.items()},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Rebuild what :meth:`to_dict` wrote.

        Raises:
            InvalidInputError: Something is missing or makes no sense.
        """
        try:
            change = dict(plain["change"])
            kind, effect, at_most = change.pop("kind"), plain["effect"], plain["at_most"]
            if kind == "host":
                argvs = {name: tuple(change[name]) for name in ("apply_argv", "undo_argv", "check_argv")}
                made: SettingsChange | HostChange = HostChange(**argvs, description=str(change["description"]))
            else:
                made = SettingsChange(*({**change[name]} for name in ("changes", "before")))
            return cls(
                **{name: plain[name] for name in _PLAIN_FIELDS},
                at_most=math.inf if at_most is None else float(at_most),
                change=made,
                created=datetime.fromisoformat(plain["created"]),
                effect=None if effect is None else Effect.from_dict(effect),
                side_effects={name: Effect.from_dict(one) for name, one in plain["side_effects"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"this is not a recorded suggestion: {error!r}") from error


_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "category": CATEGORIES,
    "priority": LEVELS,
    "cost": get_args(Cost),
    "gain": get_args(Gain),
    "status": get_args(Status),
}
_PLAIN_FIELDS: Final = (
    *("rule", "category", "priority", "description", "why", "cost", "gain", "status", "evidence", "note"),
)


def _plain_settings(change: SettingsChange) -> dict[str, Any]:
    def plain(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    return {"changes": plain(change.changes), "before": plain(change.before)}
