"""The report's pages: one for each notebook and an index, each one file that needs nothing else.

The texts come from jinja2 templates in ``templates/`` with autoescape on. The pages hold no script and load nothing; a
content security policy says so to the browser.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from procbench.views.headline import Headline
from procbench.views.progress import for_people

if TYPE_CHECKING:
    from jinja2 import Environment

    from procbench.views.compared import Difference
    from procbench.views.front import Spark
    from procbench.views.report_data import ReportData

RowStatus = Literal["ok", "failed", "timed_out", "kernel_died"]

STATUS_WORDS: Mapping[str, str] = {
    "ok": "done",
    "failed": "failed",
    "timed_out": "ran out of time",
    "kernel_died": "its kernel died",
}
"""How a status is said to people."""

_LOUD_FLOOR = 0.2  # a noise floor, as a share, above which a page warns in so many words
_DRAWING_WIDTH = 320
_DRAWING_MARGIN = 14
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100)
_MOST_TICKS = 5


class NoiseWarning(Protocol):
    """What a noise check found: what was seen, why it matters, and what to do."""

    @property
    def seen(self) -> str: ...  # noqa: D102 - the class says it

    @property
    def why(self) -> str: ...  # noqa: D102

    @property
    def what_to_do(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class ReportRow:
    """One notebook of a report.

    Attributes:
        notebook: Its word.
        title: Its first heading, or its word.
        status: ``ok``, ``failed``, ``timed_out`` or ``kernel_died``.
        error: What went wrong, ``""`` when nothing did.
        cell: The position of the cell that was running when it did, from 1; ``None`` when unknown.
        seconds: Wall time.
        page: File name of its page.
        executed: File name of the executed notebook, ``""`` when there is none.
        headline: What it found, ``None`` when it did not say.
        picture: The small picture as base64 of a PNG, ``None`` without one.
    """

    notebook: str
    title: str
    status: RowStatus
    error: str
    cell: int | None
    seconds: float
    page: str
    executed: str
    headline: Headline | None
    picture: str | None


@dataclass(frozen=True)
class Interval:
    """An effect's interval in the coordinates of its drawing, which is 320 wide on a logarithmic scale.

    Attributes:
        low: Where the interval begins.
        high: Where it ends.
        ratio: Where the ratio stands.
        one: Where "no difference" stands.
        noise: Begin and width of the band in which two equal commands lie, ``None`` when unknown.
        ticks: Positions and labels of the scale.
    """

    low: float
    high: float
    ratio: float
    one: float
    noise: tuple[float, float] | None
    ticks: tuple[tuple[float, str], ...]


def interval_of(headline: Headline | None) -> Interval | None:
    """Return where an effect's interval is drawn, or ``None`` where there is none to draw.

    Args:
        headline: As `Headline.from_json` returned it.
    """
    if headline is None or headline.effect is None or "low" not in headline.effect:
        return None
    effect = {key: float(value) for key, value in headline.effect.items() if isinstance(value, int | float)}
    floor = min(effect.get("noise_floor", 0.0), 100.0)
    marks = [effect["low"], effect["high"], effect["ratio"], 1.0, 1 + floor, 1 / (1 + floor)]
    low, high = min(*marks, 1 / 1.05), max(*marks, 1.05)

    def place(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return round(_DRAWING_MARGIN + share * (_DRAWING_WIDTH - 2 * _DRAWING_MARGIN), 1)

    inside = [tick for tick in _TICKS if low <= tick <= high]
    step = math.ceil(len(inside) / _MOST_TICKS)
    first = inside.index(1.0) % step
    band = (place(1 / (1 + floor)), round(place(1 + floor) - place(1 / (1 + floor)), 1)) if floor else None
    return Interval(
        place(effect["low"]),
        place(effect["high"]),
        place(effect["ratio"]),
        place(1.0),
        band,
        tuple((place(tick), f"{tick:g}") for tick in inside[first::step]),
    )


def notebook_page(row: ReportRow, fragment: str, parameters: Mapping[str, object], *, when: datetime, host: str) -> str:
    """Return a notebook's page.

    Args:
        row: What is known of the notebook.
        fragment: What `to_fragment` returned; ``""`` when there is nothing to show.
        parameters: The values that were asked for.
        when: When the report was begun.
        host: The machine's name.
    """
    from markupsafe import Markup

    return (
        _environment()
        .get_template("notebook.html.j2")
        .render(
            row=row,
            interval=interval_of(row.headline),
            fragment=Markup(fragment),  # noqa: S704 - made safe by to_fragment
            parameters=parameters,
            when=when.astimezone(UTC),
            host=host,
        )
    )


def index_page(
    rows: Sequence[ReportRow],
    host_card: Mapping[str, str],
    warnings: Sequence[NoiseWarning],
    *,
    when: datetime,
    host: str,
    seconds: float,
    suggestions: str = "",
    before: ReportData | None = None,
    differences: Sequence[Difference] = (),
    sparks: Sequence[Spark] = (),
) -> str:
    """Return the report's first page.

    Args:
        rows: The notebooks, in the order in which they ran.
        host_card: What the machine is, label by label.
        warnings: What made its numbers noisy.
        when: When the report was begun.
        host: The machine's name.
        seconds: Wall time of the whole report.
        suggestions: A fragment of safe HTML about what was suggested; "" leaves its section out.
        before: The report that ``differences`` compare with.
        differences: What differs from it.
        sparks: Lines of the history.
    """
    from markupsafe import Markup

    from procbench.views.front import groups, in_short

    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            rows=rows,
            groups=groups(rows),
            short=in_short(rows, warnings),
            suggestions=Markup(suggestions),  # noqa: S704 - its maker escapes what it shows
            before=before,
            differences=differences,
            sparks=sparks,
            intervals=[interval_of(row.headline) for row in rows],
            troubled=[row for row in rows if row.status != "ok"],
            host_card=host_card,
            warnings=warnings,
            when=when.astimezone(UTC),
            host=host,
            seconds=seconds,
        )
    )


def compared_page(before: ReportData, now: ReportData, differences: Sequence[Difference]) -> str:
    """Return the page that compares two reports."""
    page = _environment().get_template("compared.html.j2")
    return page.render(before=before, now=now, differences=differences)


@functools.cache
def _environment() -> Environment:
    """Return the templates, with autoescape on for every one of them and an error for every unknown name."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["for_people"] = for_people
    environment.globals["status_words"] = STATUS_WORDS
    environment.globals["loud_floor"] = _LOUD_FLOOR
    return environment
