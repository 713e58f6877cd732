"""The tables of the suggestions experiment, for people: rounded here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from procbench.analysis.suggestions import OptimizationSuggestion
from procbench.experiments.words import with_interval
from procbench.views.suggestion_table import SuggestionTable

if TYPE_CHECKING:
    import pandas as pd


def suggestions(found: Sequence[OptimizationSuggestion]) -> SuggestionTable:
    """Return what was suggested: each row with the run that proves it and the command that repeats that.

    Args:
        found: What ``SuggestionsResult.suggestions`` returns.
    """
    return SuggestionTable(found)


def before_and_after(table: pd.DataFrame) -> pd.DataFrame:
    """Return the batch before and after as texts, a row each (``SuggestionsResult.before_and_after``)."""
    import pandas as pd

    rows = {
        row["settings"]: {
            "time (ms)": with_interval(1e3 * row["median_s"], 1e3 * row["low_s"], 1e3 * row["high_s"], 0),
            "files per s": f"{row['files_per_s']:,.0f}",
        }
        for row in table.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["time (ms)", "files per s"])
