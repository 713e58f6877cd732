"""What holds for every notebook of the house."""

import ast
import importlib
import inspect
import re

import nbformat
import pytest

from procbench.views.notebooks import declared_parameters, find_notebooks, has_tag, notebook_folders

NOTEBOOKS = find_notebooks(notebook_folders()[1:])
CHECKED = "nbval-check-output"
FORBIDDEN = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.AsyncFor, ast.While, ast.Lambda)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    found = nbformat.read(request.param, as_version=4)
    nbformat.validate(found)
    return found


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_it_begins_with_its_question_and_ends_with_how_to_read_it(notebook):
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    assert "**Question.**" in first.source
    assert "**Expectation.**" in first.source
    assert "what it does not show" in last.source


def test_its_parameters_come_first_and_each_says_what_it_means(notebook):
    assert has_tag(code(notebook)[0], "parameters")
    for parameter in declared_parameters(notebook, "it"):
        assert parameter.annotation
        assert parameter.help


def test_it_has_at_most_ten_code_cells_of_at_most_eight_lines(notebook):
    assert len(code(notebook)) <= 10
    assert max(len(cell.source.splitlines()) for cell in code(notebook)) <= 8


def test_it_holds_no_logic_and_no_magic(notebook):
    for cell in code(notebook):
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, FORBIDDEN)]


def test_it_checks_something_and_what_it_checks_is_stored(notebook):
    """nbval passes a checked cell without output in silence, and fails one without an execution count."""
    checked = [cell for cell in code(notebook) if has_tag(cell, CHECKED)]
    assert checked
    for cell in checked:
        assert cell.outputs
        assert cell.execution_count


def test_no_measured_value_is_stored(notebook):
    for cell in code(notebook):
        if not has_tag(cell, CHECKED):
            assert cell.outputs == []
            assert cell.execution_count is None


def test_exactly_one_cell_is_the_headline(notebook):
    assert sum(has_tag(cell, "headline") for cell in code(notebook)) == 1


def test_it_runs_in_the_kernel_that_every_machine_has(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_it_says_how_far_it_is_and_its_experiment_can(notebook):
    """A measurement takes more than two seconds: what runs it is told, and takes that."""
    (run,) = (cell for cell in code(notebook) if re.search(r"^result = ", cell.source, re.M))
    if "budget_s" not in run.source:
        return  # it measures nothing
    assert "measuring_progress()" in run.source
    calls = [node for node in ast.walk(ast.parse(run.source)) if isinstance(node, ast.Call)]
    (call,) = (one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "run")
    module = importlib.import_module(f"procbench.experiments.{call.func.value.id}")
    assert "on_progress" in inspect.signature(module.run).parameters
