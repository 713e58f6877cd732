"""What a report says as data: ``report.json`` in its folder, so that a later report can be compared with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from procbench.errors import InvalidInputError
from procbench.views.headline import Headline
from procbench.views.pages import STATUS_WORDS, ReportRow

FILE: Final = "report.json"

_VERSION: Final = 1
_LARGEST_BYTES: Final = 4 << 20  # a report's own is some kilobytes


@dataclass(frozen=True, slots=True)
class Found:
    """What one notebook of a report found.

    Attributes:
        notebook: Its word.
        title: Its title.
        status: As of a report's row.
        headline: What it found; None where it did not say, or did not come to its end.
        parameters: What was asked for, without secrets; None if an older procbench did not say.
    """

    notebook: str
    title: str
    status: str
    headline: Headline | None
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ReportData:
    """A report without its pages.

    Attributes:
        host: The machine's name.
        host_id: Which machine it is, whatever it is called; empty if nobody said.
        when: When it was begun, UTC.
        found: Its notebooks, in their order.
        folder: Where it stands.
    """

    host: str
    host_id: str
    when: datetime
    found: tuple[Found, ...]
    folder: Path

    @property
    def is_of_use(self) -> bool:
        """Whether any of its notebooks came to its end, or it has none."""
        return not self.found or any(one.status == "ok" for one in self.found)


def report_json(
    rows: Iterable[ReportRow],
    *,
    host: str,
    host_id: str,
    when: datetime,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return what stands in ``report.json``; ``parameters`` are those asked for, by notebook word and name, without secrets."""
    asked = parameters or {}
    found = [
        {
            "notebook": row.notebook,
            "title": row.title,
            "status": row.status,
            "headline": row.headline.to_json() if row.headline is not None and row.status == "ok" else None,
            **({"parameters": dict(asked[row.notebook])} if row.notebook in asked else {}),
        }
        for row in rows
    ]
    data = {"version": _VERSION, "host": host, "host_id": host_id, "when": when.isoformat(), "notebooks": found}
    return json.dumps(data, indent=1)


def read_report(folder: Path) -> ReportData:
    """Read a report's data back.

    Args:
        folder: The report's folder, such as ``reports/latest``.

    Raises:
        InvalidInputError: There is no such report, it is of a newer procbench, or its data is damaged; the message names it.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(
            f"{folder} is no report that can be compared: {path.name} cannot be read ({error.strerror}); "
            "name the folder of a report, such as reports/latest"
        ) from error
    try:
        data = json.loads(text) if len(text) <= _LARGEST_BYTES else {}
        if data["version"] > _VERSION:
            raise InvalidInputError(f"{path} was written by a newer procbench; use that one to read it")
        when = datetime.fromisoformat(data["when"])
        if when.tzinfo is None:
            raise ValueError("a time without zone")
        found = tuple(_found(one) for one in data["notebooks"])
        return ReportData(str(data["host"]), str(data["host_id"]), when, found, folder.resolve())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def previous_report(out_root: Path, host_id: str) -> ReportData | None:
    """Return the newest report of this machine in which a notebook came to its end; what cannot be read is passed over."""
    reports: list[ReportData] = []
    for path in out_root.glob(f"[!.]*/{FILE}"):
        if path.parent.is_symlink():
            continue  # latest: the same report a second time
        try:
            reports.append(read_report(path.parent))
        except InvalidInputError:
            continue
    own = [report for report in reports if host_id and report.host_id == host_id and report.is_of_use]
    return max(own, key=lambda report: report.when, default=None)


def _found(plain: dict[str, Any]) -> Found:
    if plain["status"] not in STATUS_WORDS:
        raise ValueError(f"there is no status {plain['status']!r}")
    headline = None if plain["headline"] is None else Headline.from_json(plain["headline"])
    parameters = plain.get("parameters")
    if not isinstance(parameters, dict | None):
        raise ValueError("parameters that are no object")
    return Found(str(plain["notebook"])[:200], str(plain["title"])[:300], str(plain["status"]), headline, parameters)


def by_word(found: Sequence[Found]) -> dict[str, Found]:
    """Return what notebooks found by their words."""
    return {one.notebook: one for one in found}
