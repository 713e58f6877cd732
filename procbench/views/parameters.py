"""Turn what a person asked for on the command line into values for notebooks' parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from procbench.errors import InvalidInputError
from procbench.lab.files import check_writable_folder
from procbench.scheduling.shown import line_without_secrets
from procbench.views.notebooks import (
    Parameter,
    Plain,
    check_parameters,
    declared_parameters,
    find_notebook,
    find_notebooks,
    has_tag,
    notebook_word,
    read_notebook,
)

if TYPE_CHECKING:
    from nbformat import NotebookNode

DATA_FOLDER = "data_dir"
"""The parameter of a notebook that records its run."""

WORKLOAD = "workload"
"""The parameter of a notebook that takes a file of commands."""

RUNS_FOLDER = "folder"
"""The parameter of a notebook that only reads recorded runs."""

FILES = "files"
"""The parameter of a notebook that takes a pattern of files."""

INJECTED_TAG = "injected-parameters"
"""The tag of the cell that papermill adds, with the values that were asked for."""

FULL = "full"
"""The parameter of a notebook that can take more time for narrower intervals."""


def chosen_notebooks(words: Sequence[str], folder: Path | None = None) -> list[Path]:
    """Return the notebooks of these words, or all of them; in the order of their file names, each once.

    Args:
        words: Notebook words; none means all.
        folder: Where to look; procbench's own notebooks by default.

    Raises:
        NotebookError: There is no such notebook.
        InvalidInputError: There is no notebook at all.
    """
    folders = None if folder is None else [folder]
    everything = find_notebooks(folders)
    if not everything:
        raise InvalidInputError(f"there are no notebooks in {folder or 'this installation'}")
    chosen = {find_notebook(word, folders) for word in words}
    return [path for path in everything if not words or path in chosen]


def read_declared(notebooks: Sequence[Path]) -> dict[str, tuple[Parameter, ...]]:
    """Return what each notebook declares, by its word.

    Raises:
        NotebookError: One cannot be read.
    """
    return {notebook_word(path): declared_parameters(read_notebook(path), str(path)) for path in notebooks}


def asked_parameters(
    declared: Mapping[str, Sequence[Parameter]], settings: Sequence[str], *, full: bool, data_folder: Path
) -> dict[str, dict[str, Plain]]:
    """Return the checked values for each notebook.

    Args:
        declared: What `read_declared` returned.
        settings: ``name=value`` for every notebook that declares the name, ``word.name=value`` for one; the latter wins,
            and of two alike the last.
        full: Set ``full`` where it is declared.
        data_folder: Becomes ``data_dir`` where that is declared, absolute, unless ``settings`` say otherwise.

    Paths, ``data_dir``, ``workload``, ``folder`` and ``files``, become absolute: a notebook does not run in the caller's folder.

    Raises:
        InvalidInputError: A setting has no ``=``, names no notebook or no declared parameter, or its value does not fit.
    """
    values: dict[str, dict[str, object]] = {word: {} for word in declared}
    names = {word: {parameter.name for parameter in parameters} for word, parameters in declared.items()}
    for notebook, asked in values.items():
        if DATA_FOLDER in names[notebook]:
            asked[DATA_FOLDER] = str(data_folder.absolute())
        if full and FULL in names[notebook]:
            asked[FULL] = True
    for word, name, value in sorted(map(_split, settings), key=lambda setting: setting[0] is not None):
        if word is not None and word not in declared:
            raise InvalidInputError(
                f"there is no notebook {word[:80]!r} in this report; there are: {', '.join(declared)}"
            )
        meant = [word] if word is not None else [other for other in declared if name in names[other]]
        if not meant or name not in names[meant[0]]:
            raise InvalidInputError(f"no parameter is called {name[:80]!r}; {_listed(declared, word)}")
        for one in meant:
            values[one][name] = _absolute(value) if name in (DATA_FOLDER, WORKLOAD, RUNS_FOLDER, FILES) else value
    checked = {}
    for notebook, asked in values.items():
        try:
            checked[notebook] = check_parameters(declared[notebook], asked)
        except InvalidInputError as error:
            raise InvalidInputError(f"{notebook}: {error}") from error
    return checked


def check_paths(values: Mapping[str, object]) -> None:
    """Refuse a file of commands that cannot be run, a pattern that no file matches, and a folder of runs that cannot be written.

    The folder is made if it is missing: nothing else tells whether it can be.

    Raises:
        InvalidInputError: As said; the message names path and reason.
    """
    if isinstance(workload := values.get(WORKLOAD), str) and workload:
        from procbench.experiments.workload import read_workload

        read_workload(workload)
    if isinstance(files := values.get(FILES), str) and files:
        from procbench.experiments.your_commands_batch import matching_files

        matching_files(files)
    if isinstance(folder := values.get(DATA_FOLDER), str) and folder:
        check_writable_folder(Path(folder))


def _absolute(value: str) -> str:
    """Return a path as it means the same in every folder; an empty one stays empty."""
    return str(Path(value).expanduser().absolute()) if value else ""


def _split(setting: str) -> tuple[str | None, str, str]:
    """Return notebook word or ``None``, name and value."""
    left, equals, value = setting.partition("=")
    word, dot, name = left.strip().rpartition(".")
    if not equals or not name or (dot and not word):
        raise InvalidInputError(f"{setting[:80]!r} is no setting; write it as blocks=20 or stealing.blocks=20")
    return word if dot else None, name, value


def _listed(declared: Mapping[str, Sequence[Parameter]], word: str | None) -> str:
    shown = {word: declared[word]} if word is not None else declared
    parts = [f"{one}: {', '.join(p.name for p in parameters) or 'none'}" for one, parameters in shown.items()]
    return f"declared are: {'; '.join(parts)}"


def without_secrets(values: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return parameters as a page may show them: a command's passwords and tokens are hidden."""
    return {name: line_without_secrets(value) if isinstance(value, str) else value for name, value in values.items()}


def hide_secrets(notebook: NotebookNode, values: Mapping[str, Plain]) -> bool:
    """Take the secrets of parameters out of an executed notebook; return whether there were any."""
    shown = without_secrets(values)
    if shown == values:
        return False
    for cell in notebook.cells:
        if has_tag(cell, INJECTED_TAG):
            cell.source = "\n".join(["# Parameters", *(f"{name} = {value!r}" for name, value in shown.items())])
    notebook.metadata.get("papermill", {}).get("parameters", {}).update(shown)
    return True
