"""Turn an executed notebook into a piece of HTML that holds no code, loads nothing and runs nothing.

nbconvert's ``basic`` template makes the HTML; its own sanitising allows no headings, paragraphs, pictures or table
heads, so it is given an allow-list of ours. Whatever a command, a host or a column is called ends as text. The page's
content security policy stands behind that as a second wall.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from procbench.errors import InvalidInputError
from procbench.views.headline import HEADLINE_MIME, HEADLINE_TAG, Headline
from procbench.views.notebooks import has_tag
from procbench.views.terminal import CONTROL, ESCAPE

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from nbformat import NotebookNode

_LONGEST_OUTPUT = 100_000  # characters of one text output on a page; the executed notebook keeps all of it
_ERROR_MARKER_TAG = "papermill-error-cell-tag"  # papermill's own notices; our page says it better

_TAG_WORDS = (
    "a abbr b blockquote br caption code dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i img ins "
    "kbd li mark ol p pre s samp small span strong sub summary sup table tbody td tfoot th thead tr ul var"
)
_TAGS = frozenset(_TAG_WORDS.split())
_DROPPED_WHOLE = [
    "script",
    "style",
    "iframe",
    "object",
    "embed",
    "noscript",
    "template",
    "svg",
    "math",
    "title",
    "link",
]
_PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]*")
_LINK = re.compile(r"(https?://|mailto:|#)", re.IGNORECASE)
_RUN_ID = re.compile(r"run-[0-9a-f]{16}")  # what a row of the suggestion table leads to

_SCROLLS = {
    (tag, *attribute)
    for tag, label in (("div", "table"), ("pre", "output"))
    for attribute in (("tabindex", "0"), ("role", "region"), ("aria-label", label))
}
"""What makes a wide table or text one that the keyboard can scroll."""

_FINE_COLOUR = re.compile(r"\x1b\[[0-9;:]*[34]8[;:][0-9;:]*m")  # of 256 or more: unreadable on one of light and dark


def read_headline(notebook: NotebookNode) -> tuple[Headline | None, str | None]:
    """Find the headline and the small picture in an executed notebook.

    Returns:
        The first headline that can be read, and the first PNG of a cell tagged ``headline`` as base64 text; ``None``
        where there is none.
    """
    headline, picture = None, None
    for cell, output in _outputs(notebook):
        data = output.get("data", {})
        if headline is None and HEADLINE_MIME in data:
            try:
                headline = Headline.from_json(data[HEADLINE_MIME])
            except InvalidInputError:
                continue
        encoded = data.get("image/png")
        if picture is None and isinstance(encoded, str) and has_tag(cell, HEADLINE_TAG):
            picture = re.sub(r"[^A-Za-z0-9+/=]", "", encoded)
    return headline, picture


def split_title(notebook: NotebookNode) -> tuple[NotebookNode, str | None]:
    """Take the first heading out of a notebook, where it stands at the top of the first cell.

    Returns:
        The rest of the notebook, and the heading's text or ``None``.
    """
    rest = copy.deepcopy(notebook)
    for cell in rest.cells:
        if has_tag(cell, _ERROR_MARKER_TAG):
            continue
        found = re.match(r"\s*#\s+(.+?)\s*#*\s*(\n|$)", cell.source) if cell.cell_type == "markdown" else None
        if found is None:
            return rest, None
        cell.source = cell.source[found.end() :]
        return rest, re.sub(r"[*_`]", "", found[1])[:300]
    return rest, None


def to_fragment(notebook: NotebookNode) -> str:
    """Return a notebook's text and outputs as an HTML fragment that is safe to stand in a page.

    Code cells and headlines are left out (the page shows the headline at its top), long texts are cut in the middle,
    every table can be scrolled, and a picture without words says that it has none.

    Args:
        notebook: An executed notebook; it is not changed.
    """
    import nbconvert

    exporter = nbconvert.HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="basic",
        sanitize_html=True,
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        exclude_raw=True,
        filters={"clean_html": sanitise},
    )
    html, _ = exporter.from_notebook_node(_prepared(notebook))
    # nbconvert's own frames of printed text come after the sanitising; a "<pre>" in the text itself is escaped.
    html = html.replace("<pre>", '<pre aria-label="output" role="region" tabindex="0">')
    return CONTROL.sub("", html).replace("\x1b", "")


def sanitise(html: object) -> str:
    """Return HTML with nothing but harmless text markup, tables and embedded pictures.

    A tag that is not on the list is shown as text, so that a command called ``<b onclick=...>`` can still be read;
    scripts, styles and frames go with all they hold.
    """
    import bleach
    from bs4 import BeautifulSoup
    from bs4.formatter import HTMLFormatter

    soup = BeautifulSoup(html.decode("utf-8", "replace") if isinstance(html, bytes) else str(html), "html.parser")
    for element in soup(_DROPPED_WHOLE):
        element.decompose()
    _fit_into_page(soup)
    # Quotes are written as entities, because bleach escapes a value in single quotes a second time. It comes last, so
    # that it judges exactly the text that ends on the page.
    markup = soup.decode(formatter=HTMLFormatter(entity_substitution=escape))
    clean: str = bleach.clean(markup, tags=_TAGS, attributes=_allowed, protocols=["http", "https", "mailto", "data"])
    return clean


def _allowed(tag: str, name: str, value: str) -> bool:
    """Return whether an attribute may stay."""
    if tag == "img" and name == "src":
        return _PICTURE.fullmatch(value) is not None
    if tag == "a" and name == "href":
        return _LINK.match(value) is not None
    if name in ("colspan", "rowspan", "width", "height", "start"):
        return value.isascii() and value.isdigit() and len(value) <= 4
    if (tag, name, value) in _SCROLLS:
        return True
    if tag == "dt" and name == "id":
        return _RUN_ID.fullmatch(value) is not None
    if tag == "th" and name == "scope":
        return value in ("col", "row")
    return name in ("class", "title", "alt")


def _fit_into_page(soup: BeautifulSoup) -> None:
    """Let headings follow the page's own one, wide tables and texts scroll, with the keyboard too, and no picture stay empty."""
    for heading in soup("h1"):
        heading.name = "h2"
    for image in soup("img"):
        if not _PICTURE.fullmatch(str(image.get("src", ""))):
            image.replace_with(f"[picture that is not part of the notebook: {image.get('alt') or 'no description'}]")
    for table in soup("table"):
        box = soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "table"})
        table.wrap(box)
    for text in soup("pre"):
        text.attrs |= {"tabindex": "0", "role": "region", "aria-label": "output"}


def _outputs(notebook: NotebookNode) -> Iterator[tuple[Any, Any]]:
    """Yield each code cell with each of its outputs."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield cell, output


def _prepared(notebook: NotebookNode) -> NotebookNode:
    """Return a copy without papermill's notices and headlines, with texts that are bounded and free of escapes."""
    prepared = copy.deepcopy(notebook)
    prepared.cells = [cell for cell in prepared.cells if not has_tag(cell, _ERROR_MARKER_TAG)]
    for cell in prepared.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if HEADLINE_MIME not in output.get("data", {})]
    for _, output in _outputs(prepared):
        output.get("metadata", {}).pop("text/html", None)  # it could ask for a frame, which our page does not allow
        if output.output_type == "stream":
            output.text = _shown_text(output.text)
        elif output.output_type == "error":
            output.traceback = [_shown_text(line) for line in output.traceback]
        elif "text/plain" in output.data:
            output.data["text/plain"] = _shown_text(str(output.data["text/plain"]))
    return prepared


def _shown_text(text: str) -> str:
    """Return a terminal's text as it would look in the end: colours stay, other escapes go, a return overwrites."""
    if len(text) > _LONGEST_OUTPUT:
        half = _LONGEST_OUTPUT // 2
        left_out = len(text) - 2 * half
        text = f"{text[:half]}\n... {left_out:,} characters left out; the notebook has them ...\n{text[-half:]}"
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return CONTROL.sub("", ESCAPE.sub("", _FINE_COLOUR.sub("", text)))
