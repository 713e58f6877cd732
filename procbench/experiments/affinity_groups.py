"""What the affinity experiment measures: kinds of commands, ways of pinning, and the values of one measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from procbench.analysis.statistics import Effect
from procbench.lab.results import Trials

SORT: Final = "sort"
CHECKSUM: Final = "sha256sum"
KINDS: Final = {
    SORT: "should be sensitive: it goes to and fro over its lines, and wants its caches back after a move",
    CHECKSUM: "should not be: it reads the same few KiB again and again, and has hardly anything to lose",
}
"""The commands: the first is there to be sensitive to its caches, the second not to be; how much they are is measured."""

IDLE: Final = "idle"
CONTENDED: Final = "contended"
STATES: Final = (IDLE, CONTENDED)
NONE: Final = "none"
ALONE: Final = "left alone"
MOVED: Final = "moved"


class Policy(NamedTuple):
    """A way of pinning, and the other ways that come to the same CPU sets here.

    Attributes:
        name: What ``RunSettings.pin`` calls it.
        same: The other names.
        sets: The CPUs of each worker.
    """

    name: str
    same: tuple[str, ...]
    sets: tuple[frozenset[int], ...]

    @property
    def label(self) -> str:
        """All its names."""
        return " = ".join([self.name, *self.same])


class Batch(NamedTuple):
    """What one trial's commands did.

    Attributes:
        walls_s: Each one's wall time, seconds.
        cpu_s: CPU time of all together, seconds.
        voluntary_switches: Times that they gave the CPU up, together.
        involuntary_switches: Times that the CPU was taken from them, together.
        failed: How many did not end with status 0.
    """

    walls_s: tuple[float, ...]
    cpu_s: float
    voluntary_switches: int
    involuntary_switches: int
    failed: int


@dataclass(frozen=True)
class Group:
    """One measurement: the same commands on the same machine's state, by all ways of pinning.

    Attributes:
        kind: One of ``KINDS``.
        state: ``idle`` or ``contended``.
        trials: The values, commands per second.
        batches: What the commands of each trial did, in the order of ``trials.trials``.
        migrations: By condition, migrations per command of each counting batch; NaN where the kernel shows none.
        kept: Whether every counted command ended on a CPU of its worker's, with status 0.
        spinners: How many children spun meanwhile.
        spinners_ran: Whether all of them did, all the time.
        spinners_had: CPUs that they had on average; NaN where there were none.
    """

    kind: str
    state: str
    trials: Trials
    batches: tuple[Batch, ...]
    migrations: Mapping[str, tuple[float, ...]]
    kept: bool
    spinners: int
    spinners_ran: bool
    spinners_had: float

    @cached_property
    def effects(self) -> dict[str, Effect]:
        """Every other way of pinning against none, by its name."""
        return {effect.condition: effect for effect in self.trials.effects()}

    def of(self, condition: str) -> list[Batch]:
        """Return a condition's batches, one per block, without warm-up."""
        paired = zip(self.trials.trials, self.batches, strict=True)
        return [batch for trial, batch in paired if trial.condition == condition and not trial.warm_up]


@dataclass(frozen=True)
class Sensitivity:
    """What it costs a command to be moved to another CPU every millisecond.

    Attributes:
        kind: One of ``KINDS``.
        trials: CPU time of one command, seconds: ``left alone`` on one CPU, and ``moved``.
        migrations: Moves of the command of each trial, in the order of ``trials.trials``.
    """

    kind: str
    trials: Trials
    migrations: tuple[float, ...]

    def cost_s(self) -> list[float]:
        """Return for each block the CPU time that one move cost, seconds; noise may bring it below 0."""
        paired = list(zip(self.trials.trials, self.migrations, strict=True))
        alone = {one.block: (one.value, moves) for one, moves in paired if one.condition == self.trials.baseline}
        moved = [(one, moves) for one, moves in paired if one.condition == MOVED and not one.warm_up]
        return [
            (one.value - alone[one.block][0]) / more
            for one, moves in moved
            if (more := moves - alone[one.block][1]) > 0
        ]
