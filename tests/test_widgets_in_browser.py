"""Every widget in a real JupyterLab, clicked through by a browser: no error on the page, in the server's log or in a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.browser import (
    Seen,
    chromium,
    jupyter_lab,
    looks_right_in_both_themes,
    monitor_is_live,
    nobody_complains,
    open_notebook,
    run_all,
)
from tests.waiting import Gate, processes_with, wait_until

pytestmark = pytest.mark.usefixtures("has_a_browser")

CELLS = """
import pandas as pd
from procbench import RunSettings
from procbench.analysis.suggestions import OptimizationSuggestion, SettingsChange
from procbench.monitoring.monitor import PerformanceMonitor
from procbench.views.widgets import ExperimentExplorer, RunPanel, SuggestionBoard
monitor = PerformanceMonitor(0.25)
monitor.start()
# %%
monitor
# %%
bad = ["sh", "-c", "echo '<b>broken</b>' >&2; exit 3"]
panel = RunPanel([bad, *[["cat", GATE]] * 9], RunSettings(workers=2, capture=True))
panel
# %%
rows = [(block, way, size, 1 + block / 100 + (way == "b") + size) for block in range(9) for way in "ab" for size in (1, 2)]
explorer = ExperimentExplorer(pd.DataFrame(rows, columns=["block", "way", "size", "value"]))
explorer
# %%
change = SettingsChange({"workers": 4}, {"workers": 1})
words = dict(category="concurrency", priority="high", description="1 worker for <8> commands", why="They wait.")
found = [OptimizationSuggestion(**words, change=change)]
board = SuggestionBoard(found, [["sleep", "0.02"]] * 8, RunSettings(workers=1), budget_s=30)
board
# %%
RunSettings(workers=3)
"""


def write_notebook(folder: Path, **values: object) -> None:
    code = CELLS
    for name, value in values.items():
        code = code.replace(name, repr(value))
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in code.split("# %%")]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), folder / "widgets.ipynb")


def panel_starts_and_cancels(page: Any, gate: Gate) -> None:
    panel = page.locator(".procbench-run")
    panel.get_by_label("workers").fill("nonsense")
    panel.get_by_role("button", name="Start").click()
    panel.get_by_role("alert").filter(has_text="workers is 'nonsense'").wait_for()
    panel.get_by_label("workers").fill("3")
    panel.get_by_role("button", name="Start").click()
    panel.get_by_text("1 failed", exact=False).first.wait_for()
    panel.get_by_text("<b>broken</b>").first.wait_for()
    gate.wait_for(3)
    panel.get_by_role("button", name="Cancel").click()
    panel.get_by_text("cancelled").first.wait_for()
    panel.get_by_role("button", name="Start").and_(page.locator(":enabled")).wait_for()
    wait_until(lambda: not processes_with(str(gate.path)), "the end of what was cancelled")
    panel.get_by_text("More settings").click()
    panel.get_by_label("containment").select_option("subreaper")


def explorer_compares(page: Any) -> None:
    explorer = page.locator(".procbench-explorer")
    explorer.get_by_role("cell", name="not paired: hold more columns still").wait_for()  # two sizes in each block
    explorer.get_by_label("Only size").select_option("1")
    explorer.get_by_role("cell", name="worse").wait_for()
    explorer.get_by_label("larger is better").check()
    explorer.get_by_role("cell", name="better").wait_for()
    explorer.get_by_label("Baseline").select_option("b")
    explorer.get_by_label("Compare by").select_option("size")
    explorer.get_by_role("columnheader", name="size").wait_for()


def board_proves_applies_and_undoes(page: Any) -> None:
    board = page.locator(".procbench-suggestions")
    board.get_by_text("unmeasured").first.wait_for()
    board.get_by_role("button", name="Prove").click()
    board.get_by_role("button", name="Stop").and_(page.locator(":enabled")).wait_for()
    board.get_by_text("proved", exact=True).first.wait_for(timeout=60_000)
    board.get_by_role("rowheader", name="gain in time").wait_for()
    board.get_by_role("button", name="Apply").click()
    board.get_by_text("Settings now: workers: 1 → 4").wait_for()
    board.get_by_role("button", name="Undo").click()
    board.get_by_text("Settings now: as they were given").wait_for()
    board.get_by_role("button", name="Evidence").click()
    board.get_by_role("rowheader", name="gain in time").wait_for(state="hidden")
    board.get_by_role("button", name="Evidence").click()
    board.get_by_label("allow changes of this machine").check()


def test_every_widget_works_in_jupyterlab(tmp_path: Path):
    """Clicked through: prove, apply, undo; start, cancel; and nobody has an error to tell, in light and in dark."""
    folder, gate = tmp_path / "notebooks", Gate(tmp_path)
    folder.mkdir()
    write_notebook(folder, GATE=str(gate.path))
    try:
        with jupyter_lab(folder, tmp_path / "home") as server, chromium(height=3600) as page:
            seen = Seen(page)
            open_notebook(page, server, "widgets.ipynb")
            run_all(page)
            page.locator(".procbench-suggestions").wait_for()
            monitor_is_live(page)
            explorer_compares(page)
            panel_starts_and_cancels(page, gate)
            board_proves_applies_and_undoes(page)
            controls = looks_right_in_both_themes(page, tmp_path)
            assert len(controls) > 50
            assert page.locator(".procbench-twin").count() == 4
            nobody_complains(page, seen, server)
    finally:
        gate.open()
