"""Where do recorded runs go, and at which of them did something get slower or faster?

Nothing is measured here: recorded runs are read, each host's for itself, and :mod:`procbench.analysis.history` says what
they show together.
"""

from __future__ import annotations

from pathlib import Path

from procbench.analysis.history import history
from procbench.errors import InvalidInputError
from procbench.experiments.history_outcome import HistoryResult
from procbench.lab.shipped import shipped_history
from procbench.lab.store import Store


def run(*, folder: str | Path | None = None, experiment: str | None = None) -> HistoryResult:
    """Read a folder of recorded runs, and find trends and jumps over them.

    Nothing in the folder is changed: a damaged file is named and stays where it is.

    Cost: some 20 ms for each condition of an experiment, and a few for each run.

    Args:
        folder: Where runs were recorded; empty or None is the history that procbench brings along.
        experiment: Only this one, as it was called when recorded; empty or None is all.

    Raises:
        InvalidInputError: The folder is not there, or is none.
        RecordError: It cannot be read, or none is named and this installation has no history of its own.
    """
    place = Path(folder).absolute() if folder else shipped_history()
    if not place.is_dir():
        raise InvalidInputError(f"{place} is no folder of recorded runs; `procbench run --record` makes one")
    loaded = Store(place).load(experiment or None, move_damaged=False)
    return HistoryResult(folder=place, runs=loaded.runs, passed_over=loaded.quarantined, lines=history(loaded.runs))
