"""What the results of all experiments have in common: where they came about, what to know of them, and how they are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from procbench.analysis.statistics import Effect
from procbench.errors import RecordError
from procbench.lab.host import HostFacts
from procbench.lab.noise import NoiseWarning
from procbench.scheduling.shown import line_without_secrets

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Outcome(ABC):
    """What an experiment found. A subclass adds what it measured, ``frame``, its tables and its words.

    Attributes:
        experiment: The experiment's word, under which its runs are recorded.
        host: Where.
        warnings: What made it noisy.
        notes: What a reader should know.
        parameters: What it was run with.
        unrecorded: Why it could not be recorded, which the notes say too; empty if it was, or was not to be.
    """

    experiment: ClassVar[str]

    host: HostFacts
    warnings: list[NoiseWarning]
    notes: tuple[str, ...] = ()
    parameters: Mapping[str, Any]
    unrecorded: str = ""

    if TYPE_CHECKING:  # a field or a property of each outcome; a property here would become the field's default

        @property
        def frame(self) -> pd.DataFrame:
            """Every value, tidy."""

    @abstractmethod
    def compared(self) -> list[Effect]:
        """Return the effects that are kept with the values."""

    def record(self, data_dir: str | Path) -> Path:
        """Keep the values and the effects in a folder of recorded runs, and return the file.

        Raises:
            RecordError: It cannot be written.
        """
        from procbench.lab.store import Store

        return Store(Path(data_dir)).record(
            _without_secrets(self.frame),
            experiment=self.experiment,
            host=self.host,
            parameters=self.parameters,
            effects=self.compared(),
        )

    def kept_in(self, data_dir: str | Path | None) -> Self:
        """Record the run, and return its result; where that fails the notes say so. Empty or None records nothing."""
        if data_dir:
            try:
                self.record(data_dir)
            except RecordError as error:  # what was measured is worth more than its copy
                return replace(self, unrecorded=str(error), notes=(*self.notes, f"not recorded: {error}"))
        return self


def _without_secrets(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose commands may be kept."""
    return frame.assign(command=frame["command"].map(line_without_secrets)) if "command" in frame.columns else frame
