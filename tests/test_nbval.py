"""The notebooks run to their end, and their checked cells say what they said before."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from procbench.views.notebooks import find_notebook, notebook_folders

HOUSE = Path(__file__).parent.parent
NOTEBOOKS = sorted((HOUSE / "notebooks").glob("*.ipynb"), reverse=True)  # the longest is among the last


def run_nbval(place, folder, *, timeout=400):
    """Compare checked cells only: what was measured differs each time."""
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=120", "-p", "no:cacheprovider"]
    env = os.environ | {"PYTHONPATH": str(HOUSE), "IPYTHONDIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, "-c", os.devnull, str(place)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture
def quick_notebook():
    """The stealing notebook with parameters that take a second."""
    notebook = nbformat.read(find_notebook("stealing", notebook_folders()[1:]), as_version=4)
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = parameters.source.replace("tasks: int = 0", "tasks: int = 4").replace("26.0", "0.5")
    assert "0.5" in parameters.source
    return notebook


def test_the_notebooks_are_there():
    assert len(NOTEBOOKS) >= 5


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_every_notebook_says_what_it_said_before(notebook, tmp_path):
    """Other tests run meanwhile: what must hold holds on a busy machine too."""
    done = run_nbval(notebook, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("holds", [True, False])
def test_a_checked_cell_that_says_something_else_is_seen(quick_notebook, tmp_path, holds):
    [checked] = [cell for cell in quick_notebook.cells if "nbval-check-output" in cell.metadata.get("tags", ())]
    if not holds:
        text = checked.outputs[0].data["text/plain"]
        checked.outputs[0].data["text/plain"] = text.replace("exactly once': True", "exactly once': False")
        assert checked.outputs[0].data["text/plain"] != text
    nbformat.write(quick_notebook, tmp_path / "quick.ipynb")
    done = run_nbval(tmp_path / "quick.ipynb", tmp_path)
    assert (done.returncode == 0) is holds, done.stdout + done.stderr
