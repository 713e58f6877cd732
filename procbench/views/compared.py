"""Two reports of one machine, side by side: what each notebook's comparison showed then and now, and whether that differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from procbench.errors import InvalidInputError
from procbench.views.folders import write_text
from procbench.views.pages import STATUS_WORDS, compared_page
from procbench.views.report_data import Found, ReportData, by_word, read_report
from procbench.views.terminal import one_line

_NO_MATTER: Final = frozenset({"budget_s", "full", "data_dir", "seed"})

Verdict = Literal["more", "less", "the same", "not comparable"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One notebook in two reports.

    Attributes:
        title: What it is about.
        before: What it showed in the earlier report, in a few words.
        now: What it showed in the later one.
        verdict: Whether the gain is ``more`` or ``less`` than before; ``the same`` where that is not shown.
        words: The verdict as a person says it, with a reason where nothing can be compared.
    """

    title: str
    before: str
    now: str
    verdict: Verdict
    words: str


def compare_reports(first: Path, second: Path, *, out_root: Path) -> Iterator[str]:
    """Yield a line for each notebook of two reports, and last the name of the page that was written.

    Args:
        first: A report's folder, or the name of one in ``out_root``.
        second: The other.
        out_root: Folder of the reports, where the page is written.

    Raises:
        InvalidInputError: As :func:`procbench.views.compared.two_reports`; nothing is written then.
        OSError: The page cannot be written.
    """
    before, now = two_reports(first, second, out_root=out_root)
    found = differences(before, now)
    for one in found:
        yield one_line(f"{one.title}: {one.before} -> {one.now}; {one.words or one.verdict}", longest=300)
    out_root.mkdir(parents=True, exist_ok=True)
    page = out_root / f"compared-{before.folder.name}-{now.folder.name}.html"
    write_text(page, compared_page(before, now, found))
    yield f"{page.resolve()}"


def two_reports(first: Path, second: Path, *, out_root: Path) -> tuple[ReportData, ReportData]:
    """Read two reports, the earlier one first.

    Args:
        first: A folder, or the name of one in ``out_root``.
        second: The other.
        out_root: Folder of the reports.

    Raises:
        InvalidInputError: One is no report, they are the same, or they are of different machines.
    """
    one, other = (read_report(path if path.is_dir() else out_root / path) for path in (first, second))
    if one.folder == other.folder:
        raise InvalidInputError(f"{first} and {second} are the same report; name two")
    if not one.host_id or one.host_id != other.host_id:
        raise InvalidInputError(
            f"the reports are of two machines, {one.host} and {other.host}, whose numbers do not compare; "
            "name two of one machine"
        )
    return (one, other) if one.when <= other.when else (other, one)


def differences(before: ReportData, now: ReportData) -> tuple[Difference, ...]:
    """Compare two reports notebook by notebook, in the order of the later one; what only the earlier one has comes last."""
    old, new = by_word(before.found), by_word(now.found)
    words = [*new, *(word for word in old if word not in new)]
    return tuple(_difference(old.get(word), new.get(word)) for word in words)


def _difference(old: Found | None, new: Found | None) -> Difference:
    one = new or old
    title = one.title if one is not None else ""
    before, now = _shown(old), _shown(new)
    effects = [None if found is None or found.headline is None else found.headline.effect for found in (old, new)]
    if effects[0] is None or effects[1] is None:
        return Difference(title, before, now, "not comparable", "only one of them says" if before != now else "")
    if old is not None and new is not None and (asked := _asked_otherwise(old, new)):
        return Difference(title, before, now, "not comparable", asked)
    verdict, words = _compared(effects[0], effects[1])
    return Difference(title, before, now, verdict, words)


def _asked_otherwise(old: Found, new: Found) -> str:
    """Return what was asked for otherwise, where that makes it another measurement; how long it may take does not."""
    if old.parameters is None or new.parameters is None:
        return ""
    names = [
        name
        for name in {**old.parameters, **new.parameters}
        if name not in _NO_MATTER and old.parameters.get(name) != new.parameters.get(name)
    ]
    return f"other parameters were asked for: {', '.join(names)}" if names else ""


def _compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Verdict, str]:
    """Say that a gain is more or less only where the intervals are apart by more than what noise alone shows."""
    sides = [(effect.get("condition"), effect.get("baseline")) for effect in (old, new)]
    if sides[0] != sides[1]:
        return "not comparable", "other conditions were compared"
    if not ("low" in old and "low" in new):
        return "not comparable", "too few blocks for an interval"
    noise = 1 + max(float(effect.get("noise_floor") or 0.0) for effect in (old, new))
    if new["low"] > old["high"] * noise:
        return "more", f"gains more than before: {new['ratio'] / old['ratio']:.2f} times"
    if new["high"] * noise < old["low"]:
        return "less", f"gains less than before: {new['ratio'] / old['ratio']:.2f} times"
    return "the same", "no difference shown"


def _shown(found: Found | None) -> str:
    if found is None:
        return "not measured"
    if found.status != "ok":
        return STATUS_WORDS[found.status]
    effect = found.headline.effect if found.headline is not None else None
    if effect is None or not isinstance(ratio := effect.get("ratio"), int | float):
        return "no comparison"
    low, high = effect.get("low"), effect.get("high")
    ends = f" [{low:.2f}, {high:.2f}]" if isinstance(low, int | float) and isinstance(high, int | float) else ""
    return f"{ratio:.2f}{ends}"
