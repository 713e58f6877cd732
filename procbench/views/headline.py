"""What a notebook found: the words, the effect with its interval, and a figure that keeps its alt text.

A notebook's last-but-one cell, tagged ``headline``, displays a `Headline` and one `show_figure`; the report reads both
back from the executed notebook's outputs. Whatever comes back is data of unknown origin, so it is checked again.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from procbench.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADLINE_MIME = "application/vnd.procbench.headline+json"
"""The media type under which a headline travels inside an executed notebook."""

HEADLINE_TAG = "headline"
"""The tag of the cell that shows the headline and the small picture."""

_EFFECT_NUMBERS = ("ratio", "low", "high", "confidence", "blocks", "noise_floor")
_EFFECT_WORDS = ("condition", "baseline", "verdict")
_LARGEST_NUMBER = 1e12
_LONGEST_WORD = 200
_LONGEST_TEXT = 2_000  # a headline is a sentence; anything longer is a mistake or an attack on the page


@dataclass(frozen=True)
class Headline:
    """Say what a notebook found.

    Attributes:
        title: The question's short name, a few words.
        sentence: The answer in plain words.
        effect: ``None`` where nothing was compared, else plain JSON values as `Effect.to_dict` returns them: ``ratio``
            (above 1 is better), ``low`` and ``high`` (0 and ``None`` where too few blocks allow no interval),
            ``confidence`` (0 to 1), ``blocks`` (a count), ``noise_floor`` (a share, 0.02 is 2 %), and the words
            ``condition``, ``baseline`` and ``verdict``.
        picture_alt: What the small picture shows, for a reader who does not see it.
    """

    title: str
    sentence: str
    effect: Mapping[str, float | str | None] | None = None
    picture_alt: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the headline as plain JSON values; a number that is not finite becomes ``None``."""
        effect = None if self.effect is None else {str(key): _plain(value) for key, value in self.effect.items()}
        return {
            "title": str(self.title),
            "sentence": str(self.sentence),
            "effect": effect,
            "picture_alt": str(self.picture_alt),
        }

    @classmethod
    def from_json(cls, data: object) -> Headline:
        """Read a headline back, as it stands in a notebook that anyone may have written.

        Args:
            data: What the notebook holds under `HEADLINE_MIME`: a mapping, or its JSON text.

        Returns:
            A headline of bounded texts and plain numbers. An effect without a ratio above 0 is dropped; an interval
            that is none stays out of it.

        Raises:
            InvalidInputError: It is no mapping, or title and sentence are no texts.
        """
        if isinstance(data, str):
            try:
                data = json.loads(data)
            except ValueError as error:
                raise InvalidInputError(f"a headline must be JSON: {error}") from error
        if not isinstance(data, Mapping):
            raise InvalidInputError(f"a headline must be a JSON object, not {type(data).__name__}")
        title, sentence = data.get("title"), data.get("sentence")
        if not isinstance(title, str) or not isinstance(sentence, str):
            raise InvalidInputError("a headline needs the texts 'title' and 'sentence'")
        alt = data.get("picture_alt")
        return cls(
            title[:_LONGEST_TEXT],
            sentence[:_LONGEST_TEXT],
            _checked_effect(data.get("effect")),
            alt[:_LONGEST_TEXT] if isinstance(alt, str) else "",
        )

    def effect_text(self) -> str:
        """Return the effect with its interval as one line, or ``""`` where nothing was compared.

        Figures are rounded here, at the edge, and nowhere else.
        """
        effect = _checked_effect(self.effect)
        if effect is None:
            return ""
        confidence, blocks, floor = effect.get("confidence"), effect.get("blocks"), effect.get("noise_floor")
        interval = f"interval {effect['low']:.3g} to {effect['high']:.3g}" if "low" in effect else "interval unknown"
        compared = (
            f"{effect['condition']} against {effect['baseline']}: " if {"condition", "baseline"} <= set(effect) else ""
        )
        parts = [
            f"{compared}ratio {effect['ratio']:.3g}",
            interval if confidence is None else f"{confidence * 100:.4g} % {interval}",
            "" if blocks is None else f"{blocks:.0f} blocks",
            "" if floor is None else f"noise floor {floor * 100:.2g} %",
            str(effect.get("verdict") or ""),
        ]
        return ", ".join(filter(None, parts))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Return what Jupyter shows and stores: the words, safe HTML, and the data for the report."""
        effect = self.effect_text()
        return {
            "text/plain": "\n".join(filter(None, [self.title, self.sentence, effect])),
            "text/html": (
                f"<div><p><strong>{html.escape(self.title)}</strong></p><p>{html.escape(self.sentence)}</p>"
                + (f"<p>{html.escape(effect)}</p>" if effect else "")
                + "</div>"
            ),
            HEADLINE_MIME: self.to_json(),
        }


class _ShownFigure:
    """A figure drawn once, as PNG bytes with the words that stand for it."""

    def __init__(self, png: bytes, alt: str, width_px: int) -> None:
        self.png = png
        self.alt = alt
        self.width_px = width_px

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, dict[str, str | int]]]:
        """Return the PNG for the notebook format and a ``<figure>`` for every page that prefers HTML.

        nbconvert and JupyterLab show the richest type only, which is the HTML, so the picture stands once on the page.
        """
        encoded = base64.b64encode(self.png).decode()
        alt = html.escape(self.alt, quote=True)
        return (
            {
                "text/plain": self.alt,
                "image/png": encoded,
                "text/html": (
                    f'<figure><img alt="{alt}" width="{self.width_px}" src="data:image/png;base64,{encoded}"></figure>'
                ),
            },
            {"image/png": {"alt": self.alt, "width": self.width_px}},
        )


def show_figure(figure: Figure, alt: str, *, scale: float = 2.0) -> _ShownFigure:
    """Draw a matplotlib figure so that its alt text survives the export to HTML.

    The figure is drawn at once and closed, because the inline backend would show an open one a second time at the end
    of the cell. Put the call last in its cell, or hand the result to ``display``.

    Args:
        figure: Any matplotlib figure, of pyplot or not.
        alt: What the figure shows, in words; never empty.
        scale: Picture pixels per CSS pixel; 2 is sharp on today's screens.

    Returns:
        An object that Jupyter shows as ``<figure><img alt=...>`` and stores as ``image/png`` too.

    Raises:
        InvalidInputError: ``alt`` says nothing.
    """
    if not alt.strip():
        raise InvalidInputError("a figure needs an alt text that says what it shows; it was empty")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=96 * scale, bbox_inches="tight")
    png = buffer.getvalue()
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(figure)
    width = int.from_bytes(png[16:20], "big")  # the IHDR chunk comes first and starts with the width (PNG, 11.2.2)
    return _ShownFigure(png, alt, round(width / scale))


def _plain(value: object) -> float | int | bool | str | None:
    """Return a plain JSON value; numpy scalars become Python numbers, what is not finite becomes ``None``."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever has __float__, numpy scalars above all
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else None


def _checked_effect(effect: object) -> dict[str, Any] | None:
    """Return the effect's known fields: a ratio, both ends of an interval or none, and bounded words; or ``None``."""
    if not isinstance(effect, Mapping):
        return None
    fields: dict[str, Any] = {}
    for name in _EFFECT_NUMBERS:
        value = _plain(effect.get(name))
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LARGEST_NUMBER:
            fields[name] = value
    if not fields.get("ratio"):
        return None
    if not 0 < fields.get("low", 0) <= fields.get("high", 0):
        fields.pop("low", None)
        fields.pop("high", None)
    for name in _EFFECT_WORDS:
        word = effect.get(name)
        if isinstance(word, str) and word:
            fields[name] = word[:_LONGEST_WORD]
    return fields
