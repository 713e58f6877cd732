"""The suggestions experiment, small: a real batch, what is found wrong with it, and what its tables and figures say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from procbench.analysis.statistics import Effect
from procbench.errors import InvalidInputError, UnsupportedError
from procbench.experiments import suggestions
from procbench.experiments.suggestions_outcome import SuggestionsResult
from procbench.lab.proof_records import StoredProof
from procbench.lab.store import Store, run_name
from procbench.views import plots_suggestions, tables_suggestions
from procbench.views.headline import Headline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(folder: Path) -> SuggestionsResult:
    return suggestions.run(budget_s=40, files=24, data_dir=folder)


def test_what_is_wrong_is_found_and_the_invariants_hold(result: SuggestionsResult):
    assert all(result.invariants().values()), result.invariants()
    assert "batch_tiny_commands" in [one.rule for one in result.suggestions[:2]]
    assert len(result.frame) == sum(len(one.trials.trials) for one in result.proofs if one.trials) + (
        len(result.together.trials.trials)
        if result.together and result.together.trials and result.together not in result.proofs
        else 0
    )


def test_each_measured_suggestion_leads_to_the_run_that_repeats_it(result: SuggestionsResult, folder: Path):
    """The run's file is there, holds the proof, and its batch can be rebuilt, wherever it is repeated from."""
    store = Store(folder)
    page = tables_suggestions.suggestions(result.suggestions)._repr_html_()
    measured = [one for one in result.suggestions if one.effect is not None]
    assert measured
    for one in measured:
        name = run_name(str(one.evidence))
        stored = StoredProof.of(store.find(name))
        assert stored.suggestion.status == one.status
        assert [task.cwd for task in stored.batch.tasks_for()][:1] == ["/"]
        assert f'href="#run-{name}"' in page
        assert f"procbench prove {name}" in page
    (run,) = store.load("suggestions").runs
    assert len(run.effects) == len(measured)


def test_the_headline_figures_and_tables_say_what_was_found(result: SuggestionsResult):
    headline = Headline(**result.headline())
    assert "suggested" in headline.sentence
    axes = plots_suggestions.effects(result.effects())
    assert len(axes.get_yticklabels()) == len(result.effects())
    table = result.before_and_after()
    shown = plots_suggestions.before_and_after(result.times(), table)
    assert [one.get_text().split("\n")[0] for one in shown.get_yticklabels()] == (
        ["after", "before"] if len(table) else []
    )
    assert len(tables_suggestions.before_and_after(table)) == len(table)
    assert "24 files" in result.details()


def test_where_nothing_is_proved_it_says_so():
    """A budget too small for a single proof: the suggestions are there, unproved, and nothing is promised."""
    tiny = suggestions.run(budget_s=0.01, files=8)
    assert all(tiny.invariants().values()), tiny.invariants()
    assert tiny.together is None
    assert "0 of them proved" in tiny.headline()["sentence"]
    assert any("nothing was proved" in note for note in tiny.notes)
    assert "procbench prove" not in tables_suggestions.suggestions(tiny.suggestions)._repr_html_()
    plots_suggestions.effects(tiny.effects())
    plots_suggestions.before_and_after(tiny.times(), tiny.before_and_after())
    assert "Nothing was measured" in tiny.effects_alt()


def test_invariants_see_a_promise_that_was_not_measured(result: SuggestionsResult):
    first = result.proofs[0]
    promised = replace(first.suggestion, status="proved", effect=None)
    assert not all(replace(result, proofs=(first._replace(suggestion=promised),)).invariants().values())
    empty = replace(first.suggestion, status="proved", effect=Effect(1.2, 0.9, 1.4, 0.99, 9))
    assert not all(replace(result, proofs=(first._replace(suggestion=empty),)).invariants().values())


@pytest.mark.parametrize(
    "wrong", [{"budget_s": 0}, {"budget_s": math.nan}, {"files": 7}, {"files": 8.0}, {"budget_s": True}]
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, float]):
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        suggestions.run(**wrong)  # type: ignore[arg-type]


def test_without_the_program_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsupportedError, match="sha256sum"):
        suggestions.badly_set_batch(8)
