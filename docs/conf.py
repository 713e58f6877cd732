"""How the documentation is built: `make docs`. Pages from docstrings by sphinx, from notebooks by nbconvert."""

from pathlib import Path

import nbconvert

from procbench import __version__

HERE = Path(__file__).parent
NOTEBOOKS = HERE / "_notebooks"

project = "procbench"
author = "The procbench developers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_api/modules.rst"]
html_theme = "furo"
html_title = f"procbench {version}"
html_static_path: list[str] = []

default_role = "code"  # a name in single backticks is code, whether or not it can be found
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a field described by its class's docstring needs no page entry of its own beside that
nitpicky = False
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
suppress_warnings = [
    "myst.xref_missing",  # the README's links into the repository
    "ref.python",  # a name that several modules export
    "autodoc.mocked_object",
]
apidoc_modules = [
    {
        "path": "../procbench",
        "destination": "_api",
        "max_depth": 1,
        "separate_modules": False,  # a page for each room of the house: hundreds of pages take minutes
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
]


def _pages_of_notebooks() -> None:
    """Write each notebook as a page: its words and its code; what is measured differs on every machine."""
    NOTEBOOKS.mkdir(exist_ok=True)
    for old in NOTEBOOKS.glob("*.md"):
        old.unlink()
    for path in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        page, _ = nbconvert.MarkdownExporter(exclude_output=True).from_filename(str(path))
        (NOTEBOOKS / f"{path.stem}.md").write_text(page.replace(".ipynb)", ".md)"), encoding="utf-8")


_pages_of_notebooks()
