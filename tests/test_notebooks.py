"""Notebooks are found, their parameters read, and the values that were asked for checked."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from procbench.errors import InvalidInputError, NotebookError
from procbench.views import notebooks
from procbench.views.notebooks import (
    Parameter,
    check_parameters,
    declared_parameters,
    find_notebook,
    find_notebooks,
    notebook_word,
    read_notebook,
)

DECLARED = (
    Parameter("workers", 4, "int", "how many"),
    Parameter("share", 0.5, "float", ""),
    Parameter("fast", False, "bool", ""),
    Parameter("queue", "fifo", "str", ""),
    Parameter("limit", None, "int | None", ""),
    Parameter("batches", [1, 2], "tuple[int, ...]", ""),
    Parameter("queues", ["fifo"], "list[str]", ""),
    Parameter("sizes", [1.5], "", ""),
    Parameter("plain", 3, "", ""),
)


def write(path: Path, *sources: str) -> Path:
    """Write a notebook whose first cell is tagged ``parameters``."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    if cells:
        cells[0].metadata["tags"] = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), str(path))
    return path


def test_notebooks_are_found_by_file_name_without_checkpoints(tmp_path):
    for name in ("20_b.ipynb", "10_a.ipynb", ".ipynb_checkpoints/10_a-checkpoint.ipynb", ".hidden.ipynb"):
        write(tmp_path / name)
    assert [path.name for path in find_notebooks([tmp_path / "none", tmp_path])] == ["10_a.ipynb", "20_b.ipynb"]


def test_the_package_comes_before_the_checkout_and_the_working_folder_plays_no_part(tmp_path, monkeypatch):
    before = notebooks.notebook_folders()
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "notebooks" / "10_a.ipynb")
    assert notebooks.notebook_folders() == before
    assert all(folder.is_absolute() for folder in before)
    assert before[0] == before[1].parent / "procbench" / "notebooks"
    assert tmp_path / "notebooks" / "10_a.ipynb" not in find_notebooks()


def test_a_notebook_has_one_word():
    assert notebook_word(Path("/x/42_stealing.ipynb")) == "stealing"
    assert notebook_word(Path("stealing.ipynb")) == "stealing"


def test_a_notebook_is_found_by_its_word_and_an_unknown_one_is_answered_with_those_there_are(tmp_path):
    """R12: the word is compared, never made part of a path."""
    path = write(tmp_path / "in" / "42_stealing.ipynb")
    write(tmp_path / "outside.ipynb")
    assert find_notebook("stealing", [tmp_path / "in"]) == path
    for word in ("../outside", "http://e.org/x.ipynb", "{a.__class__}", ""):
        with pytest.raises(NotebookError, match="there are: stealing"):
            find_notebook(word, [tmp_path / "in"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"3",
        b"{}",
        b'{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        b'{"cells": [{"cell_type": "alien"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        b"\xff\xfe\x00",
        b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_mi',
    ],
)
def test_a_corrupt_notebook_is_refused_by_name(tmp_path, content):
    """R10: typed, and the message names the file."""
    path = tmp_path / "corrupt.ipynb"
    path.write_bytes(content)
    with pytest.raises(NotebookError, match=r"corrupt\.ipynb"):
        read_notebook(path)


def test_a_missing_notebook_an_address_and_a_folder_are_refused_by_name(tmp_path):
    """R10, R12: no URL scheme is ever followed."""
    for name in ("missing.ipynb", "http://e.org/x.ipynb", "s3://bucket/x.ipynb", "."):
        with pytest.raises(NotebookError):
            read_notebook(tmp_path / name)
        with pytest.raises(NotebookError):
            read_notebook(Path(name))


def test_parameters_are_read_with_type_and_help_and_never_run(tmp_path):
    source = """import os
workers: int = 4  # how many
share = -0.5
batches: tuple[int, ...] = (1, 2)
nothing: int | None = None"""
    path = write(tmp_path / "a.ipynb", source, "later = 3")
    assert declared_parameters(read_notebook(path), str(path)) == (
        Parameter("workers", 4, "int", "how many"),
        Parameter("share", -0.5, "", ""),
        Parameter("batches", [1, 2], "tuple[int, ...]", ""),
        Parameter("nothing", None, "int | None", ""),
    )


def test_a_notebook_without_a_parameters_cell_declares_none(tmp_path):
    path = write(tmp_path / "a.ipynb")
    assert declared_parameters(read_notebook(path), "a") == ()


@pytest.mark.parametrize(
    "source", ["x: int = os.getpid()", "x = [[1]]", "x = {'a': 1}", "x = = 3", "x = 1e999", "%magic"]
)
def test_a_default_that_is_no_plain_literal_is_refused_by_name(tmp_path, source):
    path = write(tmp_path / "odd.ipynb", source)
    with pytest.raises(NotebookError, match=r"odd\.ipynb"):
        declared_parameters(read_notebook(path), str(path))


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("workers", "8", 8),
        ("workers", 8, 8),
        ("workers", " -3 ", -3),
        ("share", "0.25", 0.25),
        ("share", 1, 1.0),
        ("share", "1e-3", 0.001),
        ("fast", "true", True),
        ("fast", "False", False),
        ("fast", True, True),
        ("queue", "lifo", "lifo"),
        ("queue", "3", "3"),
        ("queue", "none", "none"),
        ("limit", "none", None),
        ("limit", None, None),
        ("limit", "7", 7),
        ("batches", "1,2,4", [1, 2, 4]),
        ("batches", "[1, 2]", [1, 2]),
        ("batches", "(3,)", [3]),
        ("batches", "3", [3]),
        ("batches", (5, 6), [5, 6]),
        ("queues", "['a', 'b']", ["a", "b"]),
        ("sizes", "1.5, 2.5", [1.5, 2.5]),
        ("plain", "4", 4),
    ],
)
def test_a_value_is_converted_to_the_declared_type(name, given, expected):
    value = check_parameters(DECLARED, {name: given})[name]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("workers", "four"),
        ("workers", "4.5"),
        ("workers", 4.5),
        ("workers", True),
        ("workers", None),
        ("workers", [1]),
        ("workers", "9" * 20_000),
        ("share", "nan"),
        ("share", float("inf")),
        ("fast", "yes"),
        ("fast", 1),
        ("queue", 3),
        ("queue", "a\0b"),
        ("queue", "\ud800"),
        ("queue", "x" * 20_000),
        ("batches", "1,two"),
        ("batches", "[1, [2]]"),
        ("batches", [1, "2"]),
        ("batches", "(" * 5_000),
        ("batches", "__import__('os')"),
        ("queues", [1]),
        ("workers", {"a": 1}),
        ("workers", object()),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_why_and_what_is_declared(name, given):
    with pytest.raises(InvalidInputError) as caught:
        check_parameters(DECLARED, {name: given})
    message = str(caught.value)
    assert repr(name) in message
    assert "workers (int)" in message
    assert len(message) < 1500


@pytest.mark.parametrize(
    "name",
    [
        "x = 1\nimport os; os.system('touch /tmp/owned')\ny",
        "workers\n",
        "workers ",
        "workers; import os",
        "",
        "1workers",
        "class",
        "_" * 65,
        "unknown",
        "wörkers",
        "workers.real",
        7,
        None,
    ],
)
def test_a_parameter_name_that_is_not_declared_is_refused(name):
    """R11: papermill writes names into the code it runs, so only declared plain names pass."""
    with pytest.raises(InvalidInputError, match="declares: workers"):
        check_parameters(DECLARED, {name: 1})


def test_a_declared_name_that_is_a_keyword_or_too_long_is_refused_all_the_same():
    """R11: the shape of a name is checked whatever a notebook declares."""
    for name in ("class", "x = 1\nimport os\ny", "_" * 65):
        with pytest.raises(InvalidInputError):
            check_parameters([Parameter(name, 1, "int", "")], {name: 2})


def test_a_number_with_a_format_of_its_own_arrives_as_a_plain_one():
    """R11: papermill formats numbers, and a subclass could put code there."""

    class Sly(int):
        def __format__(self, spec):
            return "__import__('os')"

    value = check_parameters(DECLARED, {"workers": Sly(3), "batches": [Sly(4)]})
    assert type(value["workers"]) is int
    assert type(value["batches"][0]) is int
    assert json.dumps(value) == '{"workers": 3, "batches": [4]}'
