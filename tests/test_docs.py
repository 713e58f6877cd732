"""What the documentation promises is true: examples in docstrings run, and every notebook has its page."""

import doctest
import importlib
import json
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = sorted(
    path for path in (ROOT / "procbench").rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")
)


def test_there_are_examples():
    assert len(WITH_EXAMPLES) >= 5


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_a_module_are_true(path: Path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    said = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert said.attempted
    assert said.failed == 0


def test_a_notebook_links_only_to_what_is_there():
    """Pages are made from the notebooks, so that their links between each other become links between pages."""
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for part in "".join(cell["source"]).split("](")[1:]:
                link = part.partition(")")[0]
                assert link.startswith(("http", "#")) or (path.parent / link).exists(), (path.name, link)


def test_what_builds_the_documentation_is_pinned():
    docs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {name.partition(">")[0].lower() for name in docs} <= pinned
