"""What all widgets share: how one is shown, its static twin, its words for errors, and its end.

A widget lives only in a page with a kernel behind it. So each is followed by its **static twin**, a picture or a table of plain
HTML: in a live page a style that belongs to the widget hides it, and wherever the widget is missing (an exported page, a notebook
opened later, a widget that was closed) the twin is what one sees. It needs no network, and is brought up to date as the widget
settles: when a batch ends, a proof is done, a choice is made, or the widget is closed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Final

from procbench.errors import ProcbenchError

_numbers = itertools.count(1)
_WIDE: Final = {"description_width": "initial"}


class Shown:
    """A widget: ``display`` it, or leave it as a cell's last value. Its methods are thread-safe.

    Attributes:
        root: The ipywidget, to be put into another.
    """

    name = "widget"

    def __init__(self) -> None:
        import ipywidgets

        self._twin_class = f"procbench-twin-{next(_numbers)}"
        self._twins: list[Any] = []
        self._closed = False
        self._status = ipywidgets.HTML()
        self.root = ipywidgets.VBox()
        self.root.add_class("procbench")
        self.root.add_class(f"procbench-{self.name}")

    def _arrange(self, *children: Any) -> None:
        """Put the widget together; the last of it are the words for errors, and the style that hides the twin."""
        import ipywidgets

        hides = ipywidgets.HTML(f"<style>.{self._twin_class} {{ display: none }} {_CSS}</style>")
        self.root.children = (*children, self._status, hides)

    def twin_html(self) -> str:
        """Return what stands for the widget where it cannot live, as HTML that loads nothing."""
        raise NotImplementedError

    def twin_text(self) -> str:
        """Return what stands for it where there is only text."""
        raise NotImplementedError

    def close(self) -> None:
        """End what it does and take it off the page, where its twin takes its place. Harmless when called twice."""
        if self._closed:
            return
        self._closed = True
        self._settled()
        _close(self.root)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def _settled(self) -> None:
        """Bring its twins up to date."""
        for twin in self._twins:
            twin.update(self._twin(), raw=True)

    def _twin(self) -> dict[str, str]:
        html = f'<div class="procbench-twin {self._twin_class}">{self.twin_html()}</div>'
        return {"text/html": html, "text/plain": self.twin_text()}

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if not self._closed:
            display(self.root)  # type: ignore[no-untyped-call]
        handle = display(self._twin(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        if handle is not None:
            self._twins.append(handle)

    def __repr__(self) -> str:
        return self.twin_text()

    def say(self, text: str, *, error: bool = False) -> None:
        """Show a line below the widget, which screen readers read out."""
        kind = "procbench-error" if error else "procbench-said"
        self._status.value = f'<div role="{"alert" if error else "status"}" class="{kind}">{escape(text)}</div>'

    def not_painted(self, error: Exception) -> None:
        """Say that what is shown is not the latest, and why."""
        self.say(f"This could not be brought up to date: {type(error).__name__}: {error}", error=True)

    def _button(self, words: str, does: Callable[[], object], *, hint: str = "", style: str = "") -> Any:
        """Return a button; what its handler refuses is said below the widget."""
        import ipywidgets

        def clicked(_: object) -> None:
            self._guarded(does)

        button = ipywidgets.Button(description=words, tooltip=hint or words, button_style=style)
        button.layout.width = "auto"
        button.on_click(clicked)
        return button

    def _guarded(self, does: Callable[[], object]) -> None:
        try:
            self.say("")
            does()
        except (ProcbenchError, OSError, RuntimeError) as error:
            self.say(f"{error}", error=True)


def _close(widget: Any) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()


def text_field(words: str, value: str = "", hint: str = "", room: int = 110) -> Any:
    """Return a field for a line of text; its words are its label, as those of a slider would not be."""
    import ipywidgets

    return ipywidgets.Text(
        value=value,
        description=words,
        placeholder=hint,
        tooltip=hint,
        style=_WIDE,
        layout={"width": f"{7 * len(words) + room}px", "flex": "0 0 auto"},
        continuous_update=False,
    )


def choice(words: str, options: Sequence[Any], value: Any, hint: str = "") -> Any:
    """Return a list to choose from."""
    import ipywidgets

    return ipywidgets.Dropdown(
        options=options,
        value=value,
        description=words,
        tooltip=hint,
        style=_WIDE,
        layout={"width": "auto", "flex": "0 0 auto"},
    )


def tick(words: str, value: bool, hint: str = "") -> Any:
    """Return a box to tick."""
    import ipywidgets

    return ipywidgets.Checkbox(value=value, description=words, tooltip=hint, indent=False, layout={"width": "auto"})


def row(*children: Any) -> Any:
    """Return widgets side by side, in several rows where there is no room."""
    import ipywidgets

    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center", "grid_gap": "4px 10px"})


def heading(words: str) -> Any:
    """Return a heading."""
    import ipywidgets

    return ipywidgets.HTML(f"<h4>{escape(words)}</h4>")


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return a table whose cells are text; the first of each row is its head. Without rows only the caption is left."""
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    if not rows:
        return f"<p>{escape(caption)}</p>"
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f'<table class="procbench-table">{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def picture_html(figure: Any, alt: str) -> str:
    """Return a matplotlib figure as a picture that is part of the page, with words for who cannot see it."""
    import base64
    import io

    held = io.BytesIO()
    figure.savefig(held, format="png", facecolor="white")
    encoded = base64.b64encode(held.getvalue()).decode()
    return f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{encoded}"></figure>'


_CSS: Final = """
.procbench h4 { margin: 6px 0 2px }
.procbench-table, .procbench-card { border-collapse: collapse; font-size: 12px; color: var(--jp-ui-font-color1) }
.procbench-table caption, .procbench-card caption { text-align: left; font-weight: bold; padding: 2px 0 }
.procbench-table th, .procbench-table td, .procbench-card th, .procbench-card td {
  padding: 2px 10px 2px 0; text-align: left; vertical-align: top; font-weight: normal;
  line-height: 1.35; max-width: 520px; overflow-wrap: anywhere; white-space: normal }
.procbench-table thead th { font-weight: bold; border-bottom: 1px solid var(--jp-border-color1) }
.procbench-card th[scope=row] { font-weight: bold; white-space: nowrap }
.procbench-table pre, .procbench-card pre { margin: 2px 0; white-space: pre-wrap; font-size: 11px }
.procbench progress { width: 260px; height: 14px; accent-color: #0072B2; vertical-align: middle }
.procbench-error { color: var(--jp-error-color0, #b00020); font-weight: bold; line-height: 1.4 }
.procbench-said { color: var(--jp-ui-font-color1) }
.procbench-monitor > .procbench-grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 4px 16px }
"""
