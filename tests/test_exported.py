"""Every notebook as a page of the report: the invariants that it has by hand, each widget's twin, nothing in anybody's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup

from procbench.views.notebooks import declared_parameters, find_notebooks, has_tag, notebook_folders, notebook_word
from procbench.views.report import build_report
from tests.axe import axe_source, violations

NOTEBOOKS = find_notebooks(notebook_folders()[1:])
BUDGET_S = 1.0
CHECKED = "nbval-check-output"
TWINS = {"tour": ("What was sampled", "Suggestions", "Settings now", "commands ended")}
"""What stands on the page for the widgets of a notebook."""


def checked_texts(notebook: Any) -> list[str]:
    """Return what the checked cells say."""
    cells = [cell for cell in notebook.cells if has_tag(cell, CHECKED)]
    return [output["data"]["text/plain"] for cell in cells for output in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=notebook_word)
def test_a_notebook_of_the_report_holds_what_it_holds_by_hand_and_can_be_used_by_everybody(path: Path, tmp_path: Path):
    axe_source()
    word = notebook_word(path)
    source = nbformat.read(path, as_version=4)
    names = {one.name for one in declared_parameters(source, word)}
    short = {word: {"budget_s": BUDGET_S}} if "budget_s" in names else {}
    report = build_report([path], out_root=tmp_path, parameters=short, host="h")
    [row] = report.rows
    assert (row.status, row.error) == ("ok", "")
    assert checked_texts(nbformat.read(report.path / row.executed, as_version=4)) == checked_texts(source)
    page = (report.path / row.page).read_text(encoding="utf-8")
    text = BeautifulSoup(page, "html.parser").get_text(" ")
    assert [twin for twin in TWINS.get(word, ()) if twin not in text] == []
    assert violations(page, tmp_path) == []
