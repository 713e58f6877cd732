"""A folder of one's own: the notebooks to change, and beside them room for recorded runs and reports."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from procbench.errors import InvalidInputError
from procbench.views.notebooks import find_notebooks

NOTEBOOKS: Final = "notebooks"
TOUR: Final = "00_tour.ipynb"
"""The notebook that is read first."""

_EMPTY_FOLDERS: Final = ("data", "reports")
_README: Final = "README.md"
_README_TEXT: Final = """\
# A procbench folder

- `notebooks/`: copies of procbench's notebooks, yours to change. Begin with `notebooks/00_tour.ipynb`.
- `data/`: recorded runs. `reports/`: one folder for each report; `latest` leads to the newest.

In this folder:

    procbench lab .                             # open JupyterLab on the tour
    procbench report --notebooks notebooks      # measure with these notebooks, and write reports/latest/index.html
    procbench history                           # where the recorded runs went
"""


def make_workspace(folder: Path) -> Path:
    """Copy the notebooks into ``folder/notebooks`` and make ``folder/data`` and ``folder/reports`` beside them.

    What is there stays as it is: the folder may hold other things, but nothing of these names. Either all of it is made
    or nothing.

    Args:
        folder: Made if it is missing, with the folders above it.

    Returns:
        The folder, absolute.

    Raises:
        InvalidInputError: One of the names is taken, the folder is a file or cannot be written, or this installation has
            no notebooks.
    """
    found = find_notebooks()
    if not found:
        raise InvalidInputError("this installation has no notebooks to copy; install procbench anew")
    folder = folder.expanduser().absolute()
    names = (NOTEBOOKS, *_EMPTY_FOLDERS, _README)
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder} is a file; name a folder that is new or has no {', '.join(names)}")
    if taken := [name for name in names if (folder / name).exists() or (folder / name).is_symlink()]:
        raise InvalidInputError(
            f"{folder} has {', '.join(taken)} already, and nothing is overwritten; name another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".procbench-init-", dir=folder) as hidden:
            _fill(Path(hidden), found)
            _move(Path(hidden), folder, names)
    except OSError as error:
        raise InvalidInputError(f"cannot write into {folder}: {error.strerror or error}") from error
    return folder


def _fill(folder: Path, notebooks: list[Path]) -> None:
    """Make everything where nobody sees it yet. A copy is writable whatever the installed file is."""
    for name in (NOTEBOOKS, *_EMPTY_FOLDERS):
        (folder / name).mkdir()
    for notebook in notebooks:
        shutil.copyfile(notebook, folder / NOTEBOOKS / notebook.name)
    (folder / _README).write_text(_README_TEXT, encoding="utf-8")


def _move(hidden: Path, folder: Path, names: tuple[str, ...]) -> None:
    """Let everything appear; where one name was taken meanwhile, take back what has appeared."""
    moved: list[str] = []
    try:
        for name in names:
            if (folder / name).exists():
                raise FileExistsError(17, f"{name} has been made meanwhile")
            (hidden / name).rename(folder / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            with suppress(OSError):
                (folder / name).rename(hidden / name)
        raise
