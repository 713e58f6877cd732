"""What the transfer experiment found: rates, effects, where each way begins to win, and what to set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from procbench.analysis.statistics import Effect
from procbench.experiments.columns import estimated, ratio, rows
from procbench.experiments.outcome import Outcome
from procbench.experiments.words import details_text, size_text
from procbench.lab.results import AGAIN, Trials

if TYPE_CHECKING:
    import pandas as pd

TO_CHILD: Final = "to child"
FROM_CHILD: Final = "from child"

WRITE: Final = "write"
CAPTURED: Final = "captured"
"""What the other ways of a direction are compared with."""

_KERNELS_PIPE: Final = 64 * 1024


@dataclass(frozen=True)
class Group:
    """One measurement: everything in it moved the same number of bytes in the same direction.

    Attributes:
        direction: ``TO_CHILD`` or ``FROM_CHILD``.
        varied: ``size``, one of a row of sizes, with all ways; or ``pipe``, with pipes of many sizes.
        size_bytes: How much was moved.
        trials: The values, in GB/s.
    """

    direction: str
    varied: str
    size_bytes: int
    trials: Trials


@dataclass(frozen=True)
class TransferResult(Outcome):
    """How fast bytes moved to a child and back.

    Attributes:
        groups: The measurements.
        memcpy_gb_per_s: How fast this machine copies memory, GB/s: a way that copies cannot be faster.
        right: By transport, whether a child got the right bytes (SHA-256, outside the timing).
    """

    experiment = "transfer"

    groups: tuple[Group, ...]
    memcpy_gb_per_s: float
    right: Mapping[str, bool]

    @property
    def frame(self) -> pd.DataFrame:
        """Every value, GB/s: the columns of :meth:`Trials.frame`, ``way``, ``pipe_size_bytes``, and what the group says."""
        import pandas as pd

        frames = [
            group.trials.frame().assign(direction=group.direction, varied=group.varied, size_bytes=group.size_bytes)
            for group in self.groups
        ]
        return pd.concat(frames, ignore_index=True)

    def rates(self, direction: str, varied: str = "size") -> pd.DataFrame:
        """Return one row for each way and size.

        Returns:
            ``way``; ``size_bytes``; ``pipe_size_bytes``; ``median``, ``low``, ``high``, GB/s with the interval, whose ends
            are missing where there were too few blocks; ``ratio`` to the group's baseline, with ``ratio_low``,
            ``ratio_high``, ``noise_floor`` and ``verdict``; the baseline has no ratio.
        """
        import pandas as pd

        found = []
        for group in self._chosen(direction, varied):
            effects = {effect.condition: effect for effect in group.trials.effects()}
            for name, factors in group.trials.factors.items():
                if not name.endswith(AGAIN):
                    values = estimated(group.trials.values(name))
                    row = {"size_bytes": group.size_bytes, **values, **ratio(effects.get(name))}
                    found.append({**factors, **row})
        return pd.DataFrame(found)

    def wins(self) -> dict[str, int | None]:
        """Return for every transport the size, bytes, from which on it is shown to beat ``write``; ``None`` if never."""
        table = self.rates(TO_CHILD)
        found: dict[str, int | None] = {}
        ways = [way for way in table["way"].unique() if way != "write" and not way.startswith("C,")]
        for way in ways:
            found[way] = None
            for row in rows(table[table["way"] == way].sort_values("size_bytes", ascending=False)):
                if row["verdict"] != "better":
                    break
                found[way] = int(row["size_bytes"])
        return found

    def suggestion(self) -> dict[str, Any]:
        """Return the change of ``RunSettings`` that is shown to help here; empty where none is.

        Only the size of pipes is a matter of the machine: ``auto`` takes the best transport that a source allows.
        """
        table = self.rates(FROM_CHILD, "pipe")
        better = table[table["verdict"] == "better"] if len(table) else table
        larger = better[better["pipe_size_bytes"] > _KERNELS_PIPE] if len(better) else better
        if not len(larger):
            return {}
        best = max(rows(larger), key=lambda row: row["median"])
        return {"pipe_size_bytes": int(best["pipe_size_bytes"])}

    def invariants(self) -> dict[str, bool]:
        """Return what must hold on every machine, however noisy: about what moved, never about how fast."""
        effects = self.compared()
        frame = self.frame
        per_block = frame.groupby(["direction", "varied", "size_bytes", "block"])["condition"]
        in_group = frame.groupby(["direction", "varied", "size_bytes"])["condition"].nunique()
        as_many = per_block.nunique().groupby(["direction", "varied", "size_bytes"]).min() == in_group
        return {
            "every transport brought the right bytes": all(self.right.values()) and bool(self.right),
            "every way ran once in every block": bool(as_many.all())
            and int(per_block.size().max()) == int(in_group.max()),
            "both directions were measured": {group.direction for group in self.groups} == {TO_CHILD, FROM_CHILD},
            "every interval holds its estimate": all(one.low <= one.ratio <= one.high for one in effects),
        }

    def headline(self) -> dict[str, Any]:
        """Return title, sentence, effect and picture_alt: what ``procbench.views.headline.Headline`` takes."""
        group = self._chosen(TO_CHILD, "size")[-1]
        table = self.rates(TO_CHILD)
        own = table[(table["size_bytes"] == group.size_bytes) & ~table["way"].str.startswith("C,")]
        medians = {str(row["way"]): row["median"] for row in rows(own)}
        best = max(medians, key=lambda way: medians[way])
        effects = [effect for effect in group.trials.effects() if effect.condition == best]
        sentence = (
            f"{size_text(group.size_bytes)} to a child: {best} moves {medians[best]:.3g} GB/s, write "
            f"{medians['write']:.3g} GB/s, memory is copied at {self.memcpy_gb_per_s:.3g} GB/s. {self.advice()}"
        )
        effect = effects[0].to_dict() if effects else None
        return {"title": "Bytes to a child", "sentence": sentence, "effect": effect, "picture_alt": self.alt(TO_CHILD)}

    def advice(self) -> str:
        """Return in words what to set on this machine, as a change of ``RunSettings``."""
        change = self.suggestion()
        if not change:
            return "No larger pipe is shown to help captured output here: leave RunSettings as it is."
        return f"Captured output is read faster with pipe_size_bytes={change['pipe_size_bytes']} in RunSettings."

    def alt(self, direction: str, varied: str = "size") -> str:
        """Return a figure in words, for a reader who does not see it."""
        table = self.rates(direction, varied)
        if varied == "pipe":
            size = size_text(int(table["size_bytes"].iloc[0]))
            parts = [
                f"{row['way']} with {size_text(row['pipe_size_bytes'])} {row['median']:.3g}" for row in rows(table)
            ]
            return f"GB/s for {size} {direction}, by size of the pipe: {', '.join(parts)}."
        largest = table[table["size_bytes"] == table["size_bytes"].max()]
        parts = [f"{row['way']} {row['median']:.3g}" for row in rows(largest)]
        return (
            f"GB/s {direction} by size; at {size_text(int(largest['size_bytes'].iloc[0]))}: {', '.join(parts)}; "
            f"copying memory {self.memcpy_gb_per_s:.3g}."
        )

    def details(self) -> str:
        """Return where each way begins to win, what to set, and what made it noisy, as text of 88 columns."""
        wins = [
            f"{way}: beats write from {size_text(size)} on"
            if size
            else f"{way}: not shown to beat write up to the largest"
            for way, size in self.wins().items()
        ]
        blocks = sum(group.trials.blocks for group in self.groups)
        shown = [f"{len(self.groups)} comparisons, {blocks} blocks", *wins, self.advice(), *self.notes]
        return details_text(shown, self.warnings)

    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values: those of all groups."""
        return [effect for group in self.groups for effect in group.trials.effects()]

    def _chosen(self, direction: str, varied: str) -> list[Group]:
        return [group for group in self.groups if (group.direction, group.varied) == (direction, varied)]
