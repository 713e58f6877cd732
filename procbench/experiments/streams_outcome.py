"""What the streams experiment found: rates, CPU time, effects, and the sizes to set on this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procbench.analysis.samples import estimate
from procbench.analysis.statistics import Effect
from procbench.experiments.columns import known
from procbench.experiments.streams_ways import KERNELS_PIPE, Job, Reading
from procbench.experiments.words import details_text, size_text
from procbench.io.io_pools import BufferSizes
from procbench.lab.host import HostFacts
from procbench.lab.noise import NoiseWarning
from procbench.lab.results import AGAIN, Trials
from procbench.memory.buffers import DEFAULT_SIZE_BYTES

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "streams"

LOOP: Final = "sizes in a loop"
SCHEDULER: Final = "sizes in a scheduler"
BATCHES: Final = "batch"
CHILDREN: Final = "children"
LINES: Final = "lines"

READ: Final = "read"
ASYNCIO: Final = "asyncio, read"
C: Final = "C, poll"
"""How the ways are called on which sentences and figures dwell."""

_GIB: Final = 1 << 30


class Sizes(NamedTuple):
    """A pair of sizes that output is read with, bytes."""

    buffer: int
    pipe: int

    def __str__(self) -> str:
        return f"buffer {size_text(self.buffer)}, pipe {size_text(self.pipe)}"

    def settings(self) -> dict[str, Any]:
        """Return it as a change of ``RunSettings``: what is not as it is anyhow."""
        buffer = {"buffer_size_bytes": self.buffer} if self.buffer != DEFAULT_SIZE_BYTES else {}
        return buffer | ({"pipe_size_bytes": self.pipe} if self.pipe != KERNELS_PIPE else {})

    def buffer_sizes(self) -> BufferSizes:
        """Return it for ``open_process``."""
        return BufferSizes(
            stdout=self.buffer, stderr=self.buffer, pipe=self.pipe if self.pipe != KERNELS_PIPE else None
        )


DEFAULTS: Final = Sizes(DEFAULT_SIZE_BYTES, KERNELS_PIPE)


@dataclass(frozen=True)
class Group:
    """One measurement: everything in it read the same output.

    Attributes:
        varied: What differs in it: ``LOOP``, ``SCHEDULER`` or ``BATCHES``; ``CHILDREN`` and ``LINES`` are rows of groups.
        job: What was read.
        trials: The values: GB/s, or lines/s where lines were read.
        readings: What each trial took and brought, in the order of the trials.
        line_bytes: Bytes of each line; 0 where no lines were read.
        proves: The sizes that were measured a second time, against the defaults alone; ``None`` where nothing was.
    """

    varied: str
    job: Job
    trials: Trials
    readings: tuple[Reading, ...]
    line_bytes: int = 0
    proves: Sizes | None = None

    def frame(self) -> pd.DataFrame:
        """Return one row per trial."""
        told = {
            "varied": self.varied,
            "unit": "lines/s" if self.line_bytes else "GB/s",
            "children": self.job.children,
            "line_bytes": self.line_bytes,
            "again": self.proves is not None,
            "cpu_s_per_gib": [one.cpu_s / one.size_bytes * _GIB for one in self.readings],
            "size_bytes": [one.size_bytes for one in self.readings],
            "written_bytes": self.job.children * self.job.each_bytes,
            "ended": [one.ended for one in self.readings],
        }
        return self.trials.frame().assign(**told)

    @cached_property
    def effects(self) -> list[Effect]:
        """Every condition against the baseline; a bootstrap each, made once."""
        return self.trials.effects()

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """What ``StreamsResult.rates`` says of each condition."""
        effects = {effect.condition: effect for effect in self.effects}
        told = {"children": self.job.children, "line_bytes": self.line_bytes}
        frame, found = self.frame(), []
        for name, factors in self.trials.factors.items():
            if not name.endswith(AGAIN):
                own = frame[(frame["condition"] == name) & ~frame["warm_up"]]
                rates, cpu = _estimated(own["value"]), _estimated(own["cpu_s_per_gib"], "cpu")
                found.append({**factors, **told, **rates, **cpu, **_ratio(effects.get(name))})
        return found

    def best(self) -> Sizes:
        """Return the sizes with the highest median, other than the defaults."""
        found = {
            Sizes(factors["buffer_size_bytes"], factors["pipe_size_bytes"]): median(self.trials.values(name))
            for name, factors in self.trials.factors.items()
            if factors["way"] != C
        }
        return max(set(found) - {DEFAULTS}, key=lambda sizes: found[sizes])


@dataclass(frozen=True)
class StreamsResult:
    """How children's output was read, how fast, and for how much CPU time.

    Attributes:
        groups: The measurements.
        host: Where.
        warnings: What made it noisy.
        notes: What a reader should know.
        parameters: What it was run with.
        unrecorded: Why it could not be recorded; empty if it was, or was not to be.
    """

    groups: tuple[Group, ...]
    host: HostFacts
    warnings: list[NoiseWarning]
    notes: tuple[str, ...]
    parameters: Mapping[str, Any]
    unrecorded: str = ""

    @property
    def frame(self) -> pd.DataFrame:
        """Every trial: the columns of :meth:`Trials.frame`, the factors, and what the group and its readings say."""
        import pandas as pd

        return pd.concat([group.frame() for group in self.groups], ignore_index=True)

    def rates(self, varied: str) -> pd.DataFrame:
        """Return one row for each condition of the groups in which this varied.

        Returns:
            The factors; ``children``, ``line_bytes``; ``median``, ``low``, ``high``, GB/s or lines/s; ``cpu``, ``cpu_low``,
            ``cpu_high``, CPU seconds per GiB of the process that reads; ``ratio`` to the group's baseline with
            ``ratio_low``, ``ratio_high`` and ``verdict``. Ends are missing where there were too few blocks for an interval.
        """
        import pandas as pd

        return pd.DataFrame([row for group in self._chosen(varied) for row in group.rows])

    def ways(self) -> pd.DataFrame:
        """Return the rows of ``rates`` for the number of children that all ways read from."""
        table = self.rates(CHILDREN)
        return table[table["children"] == _most_ways(table)]

    def proof(self, varied: str) -> Effect | None:
        """Return what the best sizes did against the defaults when both were measured again; ``None`` if they were not."""
        for group in self.groups:
            if group.varied == varied and group.proves is not None:
                return group.effects[0]
        return None

    def suggestion(self) -> dict[str, Any]:
        """Return the change of ``RunSettings`` that is shown to help here; empty where none is."""
        return self._proven(SCHEDULER).settings()

    def buffer_sizes(self) -> BufferSizes:
        """Return the sizes for ``open_process``: other than the defaults only where these are shown to be better."""
        return self._proven(LOOP).buffer_sizes()

    def advice(self) -> str:
        """Return in words what to set on this machine, with what it does."""
        loop, scheduler = self.proof(LOOP), self.proof(SCHEDULER)
        if loop is None or scheduler is None:
            return "The sizes were not measured to the end: leave them as they are."
        if self._proven(LOOP) == DEFAULTS:
            words = (
                f"For open_process no sizes are shown to be better than the defaults (the best of the others: {loop})."
            )
        else:
            shown = ", ".join(f"{name}={value}" for name, value in _named(self._proven(LOOP).buffer_sizes()).items())
            words = f"For open_process set sizes=BufferSizes({shown}): {loop} as fast as with the defaults."
        change = self.suggestion()
        if not change:
            return f"{words} Leave RunSettings as it is: no size is shown to help captured output ({scheduler})."
        shown = ", ".join(f"{name}={value}" for name, value in change.items())
        return f"{words} For captured output set RunSettings({shown}): {scheduler} as fast as with the defaults."

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what was read, never about how fast."""
        effects, frame = self.compared(), self.frame
        keys = ["varied", "again", "children", "line_bytes"]
        per_block = frame.groupby([*keys, "block"])["condition"]
        in_group = frame.groupby(keys)["condition"].nunique()
        as_many = per_block.nunique().groupby(keys).min() == in_group
        return {
            "every byte that was written was read, and no other": bool(
                (frame["size_bytes"] == frame["written_bytes"]).all()
            ),
            "every child ended with status 0": bool((frame["ended"] == frame["children"]).all()),
            "every way ran once in every block": bool(as_many.all()),
            "sizes, batches, children and lines were measured": (
                {group.varied for group in self.groups} == {LOOP, SCHEDULER, BATCHES, CHILDREN, LINES}
            ),
            "the best sizes were measured again": None not in {self.proof(LOOP), self.proof(SCHEDULER)},
            "every interval holds its estimate": all(one.low <= one.ratio <= one.high for one in effects),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        table = self.ways()
        children = int(table["children"].iloc[0])
        medians = {row["way"]: row["median"] for row in _rows(table)}
        [group] = [group for group in self._chosen(CHILDREN) if group.job.children == children]
        [effect] = [effect for effect in group.effects if effect.condition == READ]
        parts = [f"{way} {medians[way]:.3g}" for way in (READ, "batch_read", ASYNCIO, C) if way in medians]
        sentence = f"The output of {children} children at once, in GB/s: {', '.join(parts)}. {self.advice()}"
        alt = self.alt(CHILDREN)
        return {"title": "Children's output", "sentence": sentence, "effect": effect.to_dict(), "picture_alt": alt}

    def alt(self, varied: str) -> str:
        """Return a figure in words, for a reader who does not see it; that of ``CHILDREN`` is of all ways."""
        if varied == CHILDREN:
            parts = [f"{row['way']} {row['median']:.3g} GB/s and {row['cpu']:.3g} s" for row in _rows(self.ways())]
            return f"Speed and CPU time per GiB of each way: {'; '.join(parts)}."
        table = self.rates(varied)
        if varied == LINES:
            parts = [f"{row['way']} at {row['line_bytes']} bytes {row['median'] / 1e6:.3g}" for row in _rows(table)]
            return f"Million lines a second by the length of the line: {'; '.join(parts)}."
        best = max(_rows(table), key=lambda row: row["median"] if row["way"] != C else 0)
        what = (
            f"{best['batch']} buffers" if varied == BATCHES else f"a buffer of {size_text(best['buffer_size_bytes'])}"
        )
        return (
            f"GB/s by {'number of buffers' if varied == BATCHES else 'size of the buffer'} and size of the pipe; the most, "
            f"{best['median']:.3g}, with {what} and a pipe of {size_text(best['pipe_size_bytes'])}."
        )

    def children_alt(self) -> str:
        """Return the figure of many children in words."""
        parts = [f"{row['way']} from {row['children']} {row['median']:.3g}" for row in _rows(self.rates(CHILDREN))]
        return f"GB/s by number of children at once, the same bytes in all: {'; '.join(parts)}."

    def details(self) -> str:
        """Return what to set, what was run, and what made it noisy, as text of 88 columns."""
        blocks = sum(group.trials.blocks for group in self.groups)
        lines = [f"{len(self.groups)} comparisons, {blocks} blocks", self.advice(), *self.notes]
        if self.unrecorded:
            lines.append(f"not recorded: {self.unrecorded}")
        return details_text(lines, self.warnings)

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values: those of all groups."""
        return [effect for group in self.groups for effect in group.effects]

    def record(self, data_dir: str | Path) -> Path:
        """Keep the values and the effects in a folder of recorded runs, and return the file.

        Raises:
            RecordError: It cannot be written.
        """
        from procbench.lab.store import Store

        return Store(Path(data_dir)).record(
            self.frame, experiment=EXPERIMENT, host=self.host, parameters=self.parameters, effects=self.compared()
        )

    def _chosen(self, varied: str) -> list[Group]:
        return [group for group in self.groups if group.varied == varied and group.proves is None]

    def _proven(self, varied: str) -> Sizes:
        for group in self.groups:
            if group.varied == varied and group.proves is not None and group.effects[0].verdict == "better":
                return group.proves
        return DEFAULTS


def _named(sizes: BufferSizes) -> dict[str, int]:
    """Return the sizes that are not as they are anyhow, by name."""
    usual = BufferSizes()
    return {
        name: getattr(sizes, name)
        for name in ("stdout", "stderr", "pipe")
        if getattr(sizes, name) != getattr(usual, name)
    }


def _most_ways(table: pd.DataFrame) -> int:
    return int(table["children"].mode().iloc[0])


def _estimated(values: pd.Series, name: str = "") -> dict[str, float]:
    found = estimate(values.tolist())
    before = f"{name}_" if name else ""
    return {name or "median": found.median, f"{before}low": known(found.low), f"{before}high": known(found.high)}


def _ratio(effect: Effect | None) -> dict[str, Any]:
    if effect is None:
        return {"ratio": math.nan, "ratio_low": math.nan, "ratio_high": math.nan, "verdict": "the baseline"}
    ends = {"ratio_low": math.nan, "ratio_high": math.nan}
    if math.isfinite(effect.half_width):
        ends = {"ratio_low": effect.low, "ratio_high": effect.high}
    return {"ratio": effect.ratio, **ends, "verdict": effect.verdict}


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")
