"""What all experiments' results have in common, and how estimates and effects become columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from procbench.analysis.statistics import Effect, paired_effect
from procbench.experiments import columns
from procbench.experiments.outcome import Outcome
from procbench.lab.host import read_host
from procbench.lab.store import Store

EFFECT = paired_effect([2.0] * 8, [1.0] * 8, larger_is_better=False, condition_name="quick", baseline_name="slow")


@dataclass(frozen=True)
class Found(Outcome):
    """A result of three values."""

    experiment = "three"

    frame: pd.DataFrame

    def compared(self) -> list[Effect]:
        return [EFFECT]


@pytest.fixture
def found() -> Found:
    host = read_host(sample_s=0)
    return Found(
        pd.DataFrame({"value": [1.0, 2.0, 3.0]}), host=host, warnings=[], notes=("a note",), parameters={"budget_s": 1}
    )


def test_a_result_is_kept_with_its_effects(found: Found, tmp_path: Path) -> None:
    """The frame, the parameters and what was compared stand in the store under the experiment's word."""
    assert found.kept_in(tmp_path) is found
    [recorded] = Store(tmp_path).load("three").runs
    assert recorded.trials["value"].tolist() == [1.0, 2.0, 3.0]
    assert recorded.parameters == {"budget_s": 1}
    assert [effect.condition for effect in recorded.effects] == ["quick"]


def test_a_result_that_cannot_be_kept_says_so_and_is_not_lost(found: Found, tmp_path: Path) -> None:
    """Its notes and ``unrecorded`` give the reason; the values are there."""
    (tmp_path / "file").write_text("")
    told = found.kept_in(tmp_path / "file")
    assert told.unrecorded
    assert told.notes == ("a note", f"not recorded: {told.unrecorded}")
    assert told.frame is found.frame


@pytest.mark.parametrize("nowhere", [None, ""])
def test_a_result_is_not_kept_where_that_is_not_wanted(
    found: Found, nowhere: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder nothing is recorded, not in the working folder either, and nothing said about it."""
    monkeypatch.chdir(tmp_path)
    assert found.kept_in(nowhere) is found
    assert not list(tmp_path.iterdir())
    assert not found.unrecorded


def test_too_few_values_have_no_interval() -> None:
    """An interval that is unknown is missing; the columns carry their unit."""
    assert columns.estimated([1.0, 2.0, 3.0], "_s")["median_s"] == 2.0
    assert all(map(math.isnan, (columns.estimated([1.0], "_s")[name] for name in ("low_s", "high_s"))))
    few = paired_effect([2.0, 2.0], [1.0, 1.0], larger_is_better=False)
    assert all(map(math.isnan, columns.ends("ratio", few).values()))


def test_an_effect_becomes_columns() -> None:
    """A ratio with its ends and verdict; the baseline has none."""
    row = columns.ratio(EFFECT)
    assert (row["ratio"], row["ratio_low"], row["verdict"]) == (EFFECT.ratio, EFFECT.low, EFFECT.verdict)
    assert columns.ratio(None)["verdict"] == "the baseline"
    assert row.keys() == columns.ratio(None).keys()
