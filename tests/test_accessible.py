"""The report can be used by keyboard and screen reader: axe-core finds nothing serious on any kind of page."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from procbench.analysis.history import history
from procbench.views import pages
from procbench.views.compared import differences
from procbench.views.front import sparks
from procbench.views.report import build_report
from procbench.views.report_data import read_report
from tests.axe import axe_source, violations
from tests.test_report_front import WHEN, row, runs_of, write_report

CELLS = """import pandas as pd
from IPython.display import display
from procbench.views import plots
from procbench.views.headline import Headline, show_figure
table = pd.DataFrame({"way": ["a", "b"], "s": [1.0, 2.0]})
display(table, show_figure(plots.comparison(table, name="way", value="s", label="s").figure, "a and b"))
print("x" * 300)
Headline("t", "It helps.", {"ratio": 1.5, "low": 1.4, "high": 1.6, "noise_floor": 0.5})"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A page of each kind, with all that can stand on it."""
    axe_source()
    root = tmp_path_factory.mktemp("pages")
    for name, last in (("whole", CELLS), ("broken", "1 / 0")):
        words = nbformat.v4.new_markdown_cell(f"# A {name} one\n\n**Question.** Why?\n\n## Part\n\n- `x`: [link](#a)")
        notebook = nbformat.v4.new_notebook(cells=[words, nbformat.v4.new_code_cell(last)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, root / f"{name}.ipynb")
    names = [root / "whole.ipynb", root / "broken.ipynb"]
    report = build_report(names, out_root=root / "reports", host="h")
    before = read_report(write_report(root, "a", [row("pools"), row("queues", ratio=3.0)]))
    now = read_report(write_report(root, "b", [row("pools", ratio=9.0), row("queues")], when=WHEN + timedelta(days=1)))
    front = pages.index_page(
        [row("your_commands"), row("pools", noise_floor=0.9), row("queues", status="failed")],
        {"CPU": "a fast one"},
        [SimpleNamespace(seen="Noise", why="It is loud.", what_to_do="Wait.")],
        when=WHEN,
        host="h",
        seconds=100,
        before=before,
        differences=differences(before, now),
        sparks=sparks(history(runs_of([1.0, 3.0, 2.0])), "abc"),
    )
    found = {path.stem: path.read_text() for path in report.path.glob("*.html")}
    return found | {"front": front, "compared": pages.compared_page(before, now, differences(before, now))}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["front", "index", "whole", "broken", "compared"])
def test_axe_finds_nothing_serious(kinds: dict[str, str], kind: str, dark: bool, tmp_path: Path):
    assert violations(kinds[kind], tmp_path, dark=dark) == []


def test_what_is_wrong_is_seen(tmp_path: Path):
    """Grey on grey and a picture without words: axe runs, and this test can fail."""
    page = "<html lang='en'><title>x</title><body><p style='color:#999;background:#aaa'>grey</p><img src='data:,'></body></html>"
    assert {"color-contrast", "image-alt"} <= {one["id"] for one in violations(page, tmp_path)}
