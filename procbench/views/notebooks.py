"""Find the notebooks, read the parameters that they declare, and check the values that were asked for.

papermill writes parameter *names* into the code that it runs, and formats paths as templates. So no name passes here
that the notebook does not declare, no value that is not plain JSON, and no path but that of a file on this machine.
"""

from __future__ import annotations

import ast
import functools
import io
import json
import keyword
import math
import re
import sys
import tokenize
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from procbench.errors import InvalidInputError, NotebookError

if TYPE_CHECKING:
    from nbformat import NotebookNode

PARAMETERS_TAG = "parameters"
"""The tag of the cell whose assignments are the notebook's parameters."""

Plain = None | bool | int | float | str | list[Any]
"""A parameter's value: what JSON holds, a list of such at most."""

_NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_LONGEST_TEXT = 10_000  # characters of one value; a parameter is a setting, not a data set


@dataclass(frozen=True)
class Parameter:
    """One declared parameter of a notebook.

    Attributes:
        name: The variable's name.
        default: Its value in the notebook, the quick run.
        annotation: Its annotation as written, ``""`` without one.
        help: The comment behind the assignment, ``""`` without one.
    """

    name: str
    default: Plain
    annotation: str
    help: str


def notebook_folders() -> tuple[Path, ...]:
    """Return the folders that may hold the notebooks: the installed package's first, then the checkout's.

    An editable install has no ``procbench/notebooks``, so its notebooks come from the checkout. The working folder
    plays no part.
    """
    package = Path(__file__).resolve().parent.parent
    return package / "notebooks", package.parent / "notebooks"


def find_notebooks(folders: Sequence[Path] | None = None) -> list[Path]:
    """Return the notebooks of the first folder that has any, by file name; empty where none has.

    Args:
        folders: Where to look; `notebook_folders` by default. Folders are not searched in depth, so that
            ``.ipynb_checkpoints`` stays out.
    """
    for folder in notebook_folders() if folders is None else folders:
        found = sorted(path.resolve() for path in folder.glob("*.ipynb") if not path.name.startswith("."))
        if found:
            return found
    return []


def notebook_word(path: Path) -> str:
    """Return a notebook's one word: ``stealing`` for ``42_stealing.ipynb``."""
    return re.sub(r"^\d+_", "", path.stem)


def find_notebook(word: str, folders: Sequence[Path] | None = None) -> Path:
    """Return the notebook of that word (or file stem).

    The word is compared with what is there and never becomes a part of a path.

    Raises:
        NotebookError: There is none; the message names those that there are.
    """
    found = find_notebooks(folders)
    for path in found:
        if word in (notebook_word(path), path.stem):
            return path
    known = ", ".join(notebook_word(path) for path in found) or "none at all"
    raise NotebookError(f"there is no notebook {word[:100]!r}; there are: {known}")


@functools.cache
def _nbformat() -> Any:
    """Import nbformat without the grammar of internationalised addresses.

    It brings jsonschema, which tries for that grammar's package and can do without. To build the grammar takes a second of
    CPU time in every process that reads a notebook, and no notebook's schema asks for such an address.
    """
    there = "rfc3987_syntax" in sys.modules
    if not there:
        sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    try:
        import nbformat
    finally:
        if not there:
            del sys.modules["rfc3987_syntax"]
    return nbformat


def notebook_text(notebook: NotebookNode) -> str:
    """Return a notebook as its file holds it."""
    text: str = _nbformat().writes(notebook)
    return text


def read_notebook(path: Path) -> NotebookNode:
    """Read and validate a notebook file.

    Returns:
        The notebook in format 4.

    Raises:
        NotebookError: The file is missing, unreadable, no JSON, or no notebook; the message names it.
    """
    nbformat = _nbformat()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cells without ids are fine here; the writer adds them
            text = path.read_text(encoding="utf-8")
            # not nbformat.read, which only logs that a notebook is invalid
            notebook: NotebookNode = nbformat.convert(nbformat.reader.reads(text), 4)
            nbformat.validate(notebook)
    except FileNotFoundError as error:
        raise NotebookError(f"there is no notebook at {path}") from error
    except OSError as error:
        raise NotebookError(f"the notebook {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # nbformat raises KeyError, AttributeError and more on JSON that is no notebook
        first_line = (str(error).strip().splitlines() or [""])[0][:300]
        raise NotebookError(f"{path} is no valid notebook: {type(error).__name__}: {first_line}") from error
    return notebook


def has_tag(cell: Mapping[str, Any], tag: str) -> bool:
    """Return whether a notebook cell carries a tag."""
    return tag in cell.get("metadata", {}).get("tags", ())


def declared_parameters(notebook: NotebookNode, name: str) -> tuple[Parameter, ...]:
    """Read the parameters from the first cell tagged ``parameters``; empty without such a cell.

    The cell is parsed and never run: only plain and annotated assignments of literals declare a parameter.

    Args:
        notebook: What `read_notebook` returned.
        name: How an error names it: its path.

    Raises:
        NotebookError: The cell is no Python, or a default is no plain literal.
    """
    source = next((cell.source for cell in notebook.cells if has_tag(cell, PARAMETERS_TAG)), "")
    try:
        statements = ast.parse(source).body
        comments = _comments(source)
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        raise NotebookError(f"the parameters cell of {name} is no Python: {error}") from error
    found: dict[str, Parameter] = {}
    for statement in statements:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets: list[ast.expr] = [statement.target]
            value, annotation = statement.value, ast.unparse(statement.annotation)
        elif isinstance(statement, ast.Assign):
            targets, value, annotation = list(statement.targets), statement.value, ""
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name):
                default = _literal(value, target.id, name)
                found[target.id] = Parameter(
                    target.id, default, annotation, comments.get(statement.end_lineno or 0, "")
                )
    return tuple(found.values())


def check_parameters(declared: Sequence[Parameter], requested: Mapping[str, object]) -> dict[str, Plain]:
    """Return the requested values, converted to what the notebook declares, as plain JSON values.

    A text, as it comes from ``--set name=value``, is read as the declared type says: ``3``, ``0.5``, ``true`` or
    ``false``, ``none``, ``1,2,4`` or ``[1, 2, 4]``; where the parameter takes text it stays what it is. Tuples become
    lists.

    Args:
        declared: What `declared_parameters` returned.
        requested: Values by name.

    Raises:
        InvalidInputError: A name is no plain identifier or not declared, or a value is of another type than declared; a
            budget is no time.
    """
    known = {parameter.name: parameter for parameter in declared}
    checked: dict[str, Plain] = {}
    for name, value in requested.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or keyword.iskeyword(name) or name not in known:
            raise InvalidInputError(f"the notebook has no parameter {str(name)[:80]!r}; {_listed(declared)}")
        checked[str(name)] = _converted(known[name], value, declared)
    budget = checked.get("budget_s", 1.0)
    if not (isinstance(budget, int | float) and math.isfinite(budget) and budget > 0):
        raise InvalidInputError(f"budget_s is a number of seconds above 0, and not {budget!r}")
    return checked


def _comments(source: str) -> dict[int, str]:
    """Return the comment of each line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ").rstrip() for token in tokens if token.type == tokenize.COMMENT}


def _literal(value: ast.expr, name: str, notebook: str) -> Plain:
    """Return a default, or say which one is no plain literal."""
    try:
        return _json_round_trip(ast.literal_eval(value))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise NotebookError(
            f"the parameter {name!r} of {notebook} has no plain literal as its default, but {ast.unparse(value)[:80]!r}"
        ) from error


def _json_round_trip(value: object) -> Plain:
    """Return the value as JSON holds it, so that no subclass with a ``__format__`` of its own reaches papermill."""
    plain: Plain = json.loads(json.dumps(value, allow_nan=False))
    if isinstance(plain, dict) or (isinstance(plain, list) and any(isinstance(item, list | dict) for item in plain)):
        raise ValueError("only single values and flat lists are parameters")
    return plain


def _type_names(parameter: Parameter) -> tuple[set[str], set[str]]:
    """Return the types that a parameter takes, and the types of its items where it takes a list.

    The annotation decides; without one the default does. Unknown names in an annotation are ignored.
    """
    types: set[str] = set()
    items: set[str] = set()

    def read(node: ast.expr, into: set[str]) -> None:
        if isinstance(node, ast.BinOp):
            read(node.left, into)
            read(node.right, into)
        elif isinstance(node, ast.Tuple):
            for element in node.elts:
                read(element, into)
        elif isinstance(node, ast.Subscript):
            read(node.value, into)
            read(node.slice, into if ast.unparse(node.value).endswith("Optional") else items)
        elif isinstance(node, ast.Constant) and node.value is None:
            into.add("None")
        elif isinstance(node, ast.Name | ast.Attribute):
            word = ast.unparse(node).rpartition(".")[2]
            listed = word.lower() in ("list", "tuple", "sequence")
            if listed or word in ("int", "float", "bool", "str"):
                into.add("list" if listed else word)

    if parameter.annotation:
        read(ast.parse(parameter.annotation, mode="eval").body, types)
    default = parameter.default
    if not types:
        types = {"None" if default is None else type(default).__name__}
    if "list" in types and not items:
        items = {type(item).__name__ for item in default} if isinstance(default, list) else set()
        items = items or {"int", "float"}
    return types, items


def _converted(parameter: Parameter, value: object, declared: Sequence[Parameter]) -> Plain:
    """Return one value as its declared type, plain."""
    types, items = _type_names(parameter)
    try:
        if isinstance(value, str) and "str" not in types:
            value = _from_text(value, types)
        if isinstance(value, list | tuple):
            if "list" in types:
                return _json_round_trip([_fitting(item, items) for item in value])
        elif isinstance(value, str) and value.strip().lower() == "none" and "None" in types:
            return None
        else:
            return _json_round_trip(_fitting(value, types))
        raise ValueError(f"a {type(value).__name__} is not expected")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        wanted = parameter.annotation or type(parameter.default).__name__
        raise InvalidInputError(
            f"the parameter {parameter.name!r} takes {wanted} (like {_shown(parameter.default)}), "
            f"not {_shown(value)}: {error}; {_listed(declared)}"
        ) from error


def _from_text(text: str, types: set[str]) -> object:
    """Read a text as the first of the declared types that it fits."""
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"longer than {_LONGEST_TEXT} characters")
    word = text.strip()
    if "None" in types and word.lower() == "none":
        return None
    if "bool" in types and word.lower() in ("true", "false"):
        return word.lower() == "true"
    for name, convert in (("int", int), ("float", float)):
        if name in types:
            try:
                return convert(word)
            except ValueError:
                continue
    if "list" in types:
        value = ast.literal_eval(word)
        return value if isinstance(value, list | tuple) else [value]
    raise ValueError("this text cannot be read as that type")


def _fitting(value: object, types: set[str]) -> object:
    """Return the value if it is of one of the types; a whole number fits where a float does, a bool only as a bool."""
    if isinstance(value, str) and (len(value) > _LONGEST_TEXT or "\0" in value):
        raise ValueError(f"a text must have at most {_LONGEST_TEXT} characters and no NUL")
    if isinstance(value, str):
        value.encode()  # a lone surrogate cannot be written to a notebook
    name = "None" if value is None else next((t.__name__ for t in (bool, int, float, str) if isinstance(value, t)), "")
    if name in types:
        return value
    if name == "int" and "float" in types:
        return float(value)  # type: ignore[arg-type]  # an int, as its name says
    raise ValueError(f"a {type(value).__name__} is not expected")


def _listed(declared: Sequence[Parameter]) -> str:
    """Return what a notebook declares, for an error message."""
    names = ", ".join(f"{p.name} ({p.annotation or type(p.default).__name__})" for p in declared)
    return f"it declares: {names or 'none'}"


def _shown(value: object) -> str:
    """Return a value for an error message: short, and without control characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
