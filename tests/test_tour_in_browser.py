"""The tour as a new user has it: an installed wheel, a folder made by ``procbench init``, JupyterLab, and each widget in it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest

from procbench.views.notebooks import has_tag
from procbench.views.workspace import TOUR
from tests.browser import (
    Seen,
    chromium,
    jupyter_lab,
    looks_right_in_both_themes,
    monitor_is_live,
    nobody_complains,
    run_all,
    wait_for_notebook,
)
from tests.command_line import INSTALLED_ENVIRONMENT

pytestmark = pytest.mark.usefixtures("has_a_browser")


def make_workspace(installed: Path, folder: Path) -> Path:
    """Make a folder as a user would, and have its tour's last batch take so long that it can be cancelled."""
    argv = [installed / "bin" / "procbench", "init", folder]
    done = subprocess.run(argv, env=INSTALLED_ENVIRONMENT, cwd=folder.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place = folder / "notebooks" / TOUR
    tour = nbformat.read(place, as_version=4)
    [parameters] = [cell for cell in tour.cells if has_tag(cell, "parameters")]
    assert "files: int = 600" in parameters.source
    parameters.source = parameters.source.replace("files: int = 600", "files: int = 50_000")
    nbformat.write(tour, place)
    return folder


def board_proves_applies_and_undoes(page: Any) -> None:
    board = page.locator(".procbench-suggestions")
    board.get_by_text("unmeasured").first.wait_for()
    board.get_by_role("button", name="Prove").first.click()
    board.get_by_role("rowheader", name="gain in time").first.wait_for(timeout=90_000)
    board.get_by_role("button", name="Apply").first.click()
    board.get_by_text("Settings now: args_per_task: 1 →").wait_for()
    board.get_by_role("button", name="Undo").first.click()
    board.get_by_text("Settings now: as they were given").wait_for()


def explorer_compares(page: Any) -> None:
    explorer = page.locator(".procbench-explorer")
    explorer.get_by_label("Compare by").select_option("program")
    explorer.get_by_label("Metric").select_option("user_s")
    explorer.get_by_role("columnheader", name="user_s, median").wait_for()


def panel_cancels_and_starts(page: Any) -> None:
    """The batch runs since the cell did."""
    panel = page.locator(".procbench-run")
    for _ in range(2):
        panel.get_by_role("button", name="Cancel").and_(page.locator(":enabled")).click()
        panel.get_by_text("cancelled").first.wait_for()
        panel.get_by_label("workers").fill("2")
        panel.get_by_role("button", name="Start").and_(page.locator(":enabled")).click()
    panel.get_by_role("button", name="Cancel").and_(page.locator(":enabled")).click()
    panel.get_by_role("button", name="Start").and_(page.locator(":enabled")).wait_for()


def test_the_tour_of_an_installed_procbench(installed: Path, tmp_path: Path):
    """All cells run, every widget does what its buttons say, and nobody has an error to tell, in light and in dark."""
    folder = make_workspace(installed, tmp_path / "mine")
    with (
        jupyter_lab(folder, tmp_path / "home", python=installed / "bin" / "python") as server,
        chromium(height=9000) as page,
    ):
        seen = Seen(page)
        page.goto(server.url.replace("/lab?", "/?"))
        page.wait_for_url(f"**/lab/tree/notebooks/{TOUR}**")  # what opens is the tour
        wait_for_notebook(page)
        run_all(page, timeout_s=180)
        panel_cancels_and_starts(page)
        monitor_is_live(page)
        explorer_compares(page)
        board_proves_applies_and_undoes(page)
        looks_right_in_both_themes(page, tmp_path, "tour-")
        nobody_complains(page, seen, server)
