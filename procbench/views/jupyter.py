"""How JupyterLab is opened on the notebooks: for this machine only, with Jupyter's token in place."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from procbench.errors import InvalidInputError
from procbench.views.notebooks import find_notebooks
from procbench.views.workspace import NOTEBOOKS, TOUR


def lab_command(folder: Path | None, *, no_browser: bool) -> list[str]:
    """Return the command; its last argument names the folder. The tour is what opens, where the folder has it.

    The notebooks' own folder is all that the browser is shown, so that no ``.ssh`` lies beside it.

    Args:
        folder: The folder to show; that of procbench's notebooks by default.
        no_browser: Only print the address.

    Raises:
        InvalidInputError: The folder is none, or there are no notebooks to find.
    """
    if folder is None:
        found = find_notebooks()
        if not found:
            raise InvalidInputError("this installation has no notebooks; name a folder: procbench lab DIR")
        folder = found[0].parent
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is no folder; name the one that holds the notebooks")
    argv = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1"]
    tour = next((path for path in (Path(TOUR), Path(NOTEBOOKS, TOUR)) if (folder / path).is_file()), None)
    if tour is not None:
        argv.append(f"--LabApp.default_url=/lab/tree/{tour.as_posix()}")
    if no_browser:
        argv.append("--no-browser")
    if os.geteuid() == 0:
        argv.append(
            "--allow-root"
        )  # usual in a container; without it Jupyter refuses, and token and address stand anyway
    return [*argv, f"--ServerApp.root_dir={folder.resolve()}"]
