"""The report's first page beside its notebooks, and two reports side by side."""

from __future__ import annotations

import itertools
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

from procbench import cli
from procbench.analysis.history import history
from procbench.analysis.suggestions import OptimizationSuggestion, SettingsChange
from procbench.errors import InvalidInputError
from procbench.lab.host import read_host
from procbench.lab.proof import prove
from procbench.scheduling.settings import RunSettings
from procbench.views import pages
from procbench.views.compared import differences, two_reports
from procbench.views.front import SYSTEMS, groups, in_short, recorded_suggestions, sparks
from procbench.views.headline import Headline
from procbench.views.pages import ReportRow
from procbench.views.report import build_report
from procbench.views.report_data import ReportData, previous_report, read_report, report_json

WHEN = datetime(2026, 1, 2, tzinfo=UTC)


def row(word: str, *, ratio: float = 1.5, width: float = 0.1, status: str = "ok", **effect: object) -> ReportRow:
    """A notebook whose interval reaches that share to both sides."""
    found = {"ratio": ratio, "low": ratio * (1 - width), "high": ratio * (1 + width), "noise_floor": 0.01} | effect
    if "verdict" not in found:
        found["verdict"] = "better" if found["low"] and found["low"] > 1 else "no difference shown"
    headline = Headline.from_json({"title": word, "sentence": f"{word} says so", "effect": found})
    return ReportRow(word, f"About {word}", status, "", None, 1.0, f"{word}.html", "", headline, None)


def write_report(root: Path, name: str, rows: list[ReportRow], *, when: datetime = WHEN, host_id: str = "abc") -> Path:
    (root / name).mkdir(parents=True)
    (root / name / "report.json").write_text(report_json(rows, host="h", host_id=host_id, when=when))
    return root / name


def compared(root: Path, old: ReportRow, new: ReportRow):
    before = read_report(write_report(root, "a", [old]))
    now = read_report(write_report(root, "b", [new]))
    (one,) = differences(before, now)
    return one


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ({"ratio": 1.5}, {"ratio": 2.5}, "more"),
        ({"ratio": 2.5}, {"ratio": 1.5}, "less"),
        ({"ratio": 1.5}, {"ratio": 1.6}, "the same"),
        ({"ratio": 1.5}, {"ratio": 2.5, "noise_floor": 0.9}, "the same"),
        ({"ratio": 1.5, "low": None, "high": None}, {"ratio": 9.0}, "not comparable"),
        ({"condition": "a", "baseline": "b"}, {"ratio": 9.0, "condition": "c", "baseline": "b"}, "not comparable"),
        ({"status": "failed"}, {"ratio": 9.0}, "not comparable"),
    ],
)
def test_a_gain_is_more_or_less_only_where_intervals_lie_apart(tmp_path: Path, old: dict, new: dict, verdict: str):
    assert compared(tmp_path, row("pools", **old), row("pools", **new)).verdict == verdict


def test_what_only_one_report_has_is_named(tmp_path: Path):
    before = read_report(write_report(tmp_path, "a", [row("pools"), row("queues", status="timed_out")]))
    now = read_report(write_report(tmp_path, "b", [row("transfer"), row("queues")]))
    assert [(one.title, one.before, one.now) for one in differences(before, now)] == [
        ("About transfer", "not measured", "1.50 [1.35, 1.65]"),
        ("About queues", "ran out of time", "1.50 [1.35, 1.65]"),
        ("About pools", "1.50 [1.35, 1.65]", "not measured"),
    ]


def test_the_report_before_is_the_newest_of_this_machine(tmp_path: Path):
    """Those of other machines, without data, damaged ones and ones under construction are passed over."""
    write_report(tmp_path, "old", [])
    newest = write_report(tmp_path, "new", [], when=WHEN + timedelta(days=1))
    write_report(tmp_path, "other", [], when=WHEN + timedelta(days=2), host_id="xyz")
    write_report(tmp_path, ".building-1", [], when=WHEN + timedelta(days=3))
    (write_report(tmp_path, "torn", []) / "report.json").write_text('{"version": 1, "wh')
    (tmp_path / "latest").symlink_to("old")
    assert previous_report(tmp_path, "abc").folder == newest
    assert previous_report(tmp_path, "nobody") is None
    assert previous_report(tmp_path, "") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"version": 1}', "is damaged"),
        ('{"version": 99}', "newer procbench"),
        ('{"version": 1, "host": "h", "host_id": "", "when": "2026-01-02", "notebooks": []}', "without zone"),
        (None, "is no report"),
    ],
)
def test_a_report_that_cannot_be_read_is_one_clear_error(tmp_path: Path, text: str | None, says: str):
    """R03: a torn or foreign file is named."""
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(InvalidInputError, match=says) as caught:
        read_report(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_two_reports_are_set_side_by_side_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Named by folder or by name, in any order; the earlier one stands first; the page stands alone."""
    write_report(tmp_path, "a", [row("pools", ratio=1.5)])
    write_report(tmp_path, "b", [row("pools", ratio=3.0)], when=WHEN + timedelta(days=1))
    assert cli.run_command(["report", "--out", str(tmp_path), "--compare", "b", str(tmp_path / "a")]) == 0
    line, path = capsys.readouterr().out.splitlines()
    assert "1.50 [1.35, 1.65] -> 3.00 [2.70, 3.30]; gains more than before: 2.00 times" in line
    page = BeautifulSoup(Path(path).read_text(), "html.parser")
    assert "About pools" in page.get_text()
    assert page.find("td", class_="good")
    assert not page.find_all(["script", "link"])


def test_reports_of_other_commands_do_not_compare(tmp_path: Path):
    """What was asked for decides; how long it might take does not. A report without any result is not the one before."""

    def write(name: str, day: int, ratio: float, status: str = "ok", **parameters: object) -> ReportData:
        (tmp_path / name).mkdir()
        when = WHEN + timedelta(days=day)
        rows = [row("your_commands", ratio=ratio, status=status)]
        text = report_json(rows, host="h", host_id="abc", when=when, parameters={"your_commands": parameters})
        (tmp_path / name / "report.json").write_text(text)
        return read_report(tmp_path / name)

    first = write("a", 0, 1.5, workload="a.txt", budget_s=3)
    [same] = differences(first, write("b", 1, 9.0, workload="a.txt", budget_s=30))
    assert same.verdict == "more"
    [other] = differences(first, write("c", 2, 9.0, workload="b.txt"))
    assert (other.verdict, other.words) == ("not comparable", "other parameters were asked for: workload")
    write("d", 3, 9.0, status="failed")
    assert previous_report(tmp_path, "abc").folder.name == "c"


@pytest.mark.parametrize(
    ("second", "says"), [("a", "the same report"), ("c", "two machines"), ("none", "is no report")]
)
def test_reports_that_do_not_compare_are_refused(tmp_path: Path, second: str, says: str):
    write_report(tmp_path, "a", [])
    write_report(tmp_path, "c", [], host_id="xyz")
    with pytest.raises(InvalidInputError, match=says):
        two_reports(Path("a"), Path(second), out_root=tmp_path)
    assert cli.run_command(["report", "--out", str(tmp_path), "--compare", "a", second]) == 2


def test_the_next_report_says_what_differs_from_this_one(tmp_path: Path):
    """build_report keeps the data of each report, and compares where it knows the machine."""
    first = build_report([], out_root=tmp_path, host="h", host_id="abc")
    assert json.loads((first.path / "report.json").read_text())["host_id"] == "abc"
    (first.path / "report.json").write_text(
        report_json([row("pools")], host="h", host_id="abc", when=first.when - timedelta(days=1))
    )
    page = build_report([], out_root=tmp_path, host="h", host_id="abc").index.read_text()
    assert "Since the report before" in page
    assert "About pools" in page
    other = build_report([], out_root=tmp_path, host="h", host_id="xyz").index.read_text()
    assert "Since the report before" not in other


def test_the_ten_systems_stand_in_their_order_whatever_ran_first():
    names = ["stealing", "tour", "pools", "history"]
    found = groups([row(name) for name in names])
    assert [(group.title, [names[place] for place in group.places]) for group in found] == [
        ("Your commands", ["tour", "history"]),
        ("Memory", ["pools"]),
        ("Concurrency", ["stealing"]),
    ]
    assert found[1].missing == ("zero-copy transfer",)
    assert sum(len(systems) for systems in SYSTEMS.values()) == 10


def test_in_short_names_the_largest_difference_and_counts_the_rest():
    rows = [
        row("your_commands"),
        row("pools", ratio=4.0, condition="pool", baseline="bytearray", confidence=0.95),
        row("queues", ratio=9.0, low=None, high=None),
        row("stealing", ratio=0.5, verdict="worse"),
        row("transfer", status="failed"),
    ]
    first, largest, count, trust = in_short(rows, [SimpleNamespace(seen="", why="", what_to_do="")])
    assert (first.text, first.page) == ("your_commands says so", "your_commands.html")
    assert "pool against bytearray is 4 times as good, 95 % interval 3.6 to 4.4" in largest.text
    assert largest.page == "pools.html"
    assert count.text.startswith("Of the notebooks' 4 comparisons 2 show a gain, 1 a loss, and 1 no difference")
    assert trust.page == "#noise"
    assert in_short([], []) == ()


def runs_of(values: list[float], **changes: object) -> list[SimpleNamespace]:
    import pandas as pd

    return [
        SimpleNamespace(
            **{
                "run_id": f"{number}", "experiment": "pools", "recorded_at": WHEN + timedelta(hours=number),
                "host_id": "abc", "host": {"hostname": "h"}, "parameters": {}, "git_revision": None,
                "procbench_version": "1", "trials": pd.DataFrame({"condition": ["x"] * 3, "value": [value] * 3, "unit": "s"}),
            } | changes
        )
        for number, value in enumerate(values)
    ]  # fmt: skip


def test_a_spark_line_shows_every_run_inside_its_frame():
    (spark,) = sparks(history(runs_of([1.0, 3.0, 2.0])), "abc")
    places = [tuple(map(float, pair.split(","))) for pair in spark.path.split()]
    assert len(places) == spark.runs == 3
    assert all(0 < x < 160 and 0 < y < 32 for x, y in places)
    assert places[0][1] > places[2][1] > places[1][1]  # up is more
    assert spark.last == places[-1]
    assert spark.value == "2 s"
    assert sparks(history(runs_of([1.0])), "abc") == ()
    assert sparks(history(runs_of([1.0, 2.0])), "another machine") == ()


def test_runs_that_do_not_change_are_a_level_line():
    (spark,) = sparks(history(runs_of([2.0] * 4)), "abc")
    assert len({pair.split(",")[1] for pair in spark.path.split()}) == 1
    assert not any(math.isnan(x) for x in spark.last)


def test_the_first_page_shows_history_and_suggestions_and_escapes_names():
    """R14: what a recorded run calls itself stays text."""
    lines = history(runs_of([1.0, 2.0], experiment="<script>x</script>"))
    page = pages.index_page(
        [row("pools")],
        {},
        [],
        when=WHEN,
        host="h",
        seconds=1,
        suggestions="<p id='mine'>x</p>",
        sparks=sparks(lines, "abc"),
    )
    soup = BeautifulSoup(page, "html.parser")
    assert not soup.find_all("script")
    assert "<script>x</script>: x" in soup.find("section", attrs={"aria-labelledby": "history"}).get_text()
    assert soup.find(id="mine").find_parent("section")["aria-labelledby"] == "suggestions"
    assert soup.find("svg", class_="spark")["aria-label"].startswith("2 runs")
    levels = [int(heading.name[1]) for heading in soup.find_all(["h1", "h2", "h3", "h4"])]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_first_page_shows_what_was_proved_on_this_machine_and_how_to_repeat_it(tmp_path: Path):
    """Each row leads to the run that proves it; the newest proof of a change counts."""
    waiting = [["sleep", "0.05"]] * 4
    change = SettingsChange({"workers": 4}, {"workers": 1})
    asked = OptimizationSuggestion(
        rule="more", category="concurrency", priority="high", description="<b>seen</b>", why="x", change=change
    )
    for _ in range(2):
        found = prove(asked, waiting, RunSettings(workers=1), budget_s=30, data_dir=tmp_path / "data")
    assert found.status == "proved"
    host_id = read_host().host_id
    report = build_report([], out_root=tmp_path / "reports", host="h", host_id=host_id, data_folder=tmp_path / "data")
    section = BeautifulSoup(report.index.read_text(), "html.parser").find(attrs={"aria-labelledby": "suggestions"})
    (body,) = section("tbody")
    (shown,) = body("tr")
    assert "workers: 1 → 4" in shown.get_text()
    assert "<b>seen</b>" in section.get_text()
    assert section.find(id=shown.a["href"].removeprefix("#")) is not None
    assert "procbench prove " in shown.get_text()
    other = build_report([], out_root=tmp_path / "reports", host="h", host_id="xyz", data_folder=tmp_path / "data")
    assert "suggestions" not in other.index.read_text()


def test_what_was_proved_stands_in_a_table_with_its_commands_and_what_repeats_it(tmp_path: Path):
    """The same change of two batches has two rows, and each says of which commands it speaks, as text."""
    change = SettingsChange({"workers": 4}, {"workers": 1})
    words = {"rule": "r", "category": "concurrency", "priority": "high", "description": "seen", "why": "hurts"}
    for number, argv in ((4, ["sleep", "0.02"]), (5, ["sh", "-c", "sleep 0.02; : '<b>'"])):
        one = OptimizationSuggestion(**words, change=change)
        prove(one, [argv] * number, RunSettings(workers=1), budget_s=30, data_dir=tmp_path)
    page = BeautifulSoup(recorded_suggestions(tmp_path, read_host(sample_s=0).host_id), "html.parser")
    heads = [cell.get_text(" ") for cell in page.find_all("th", scope="row")]
    assert sorted(heads) == [
        "workers: 1 → 4 4 commands, the first: sleep 0.02",
        "workers: 1 → 4 5 commands, the first: sh -c 'sleep 0.02; : '\"'\"'<b>'\"'\"''",
    ]
    repeats = [code.get_text() for code in page.find_all("code") if code.get_text().startswith("procbench prove ")]
    assert len(set(repeats)) == 2
    assert page.find("a", href=True)["href"].startswith("#run-")
    assert recorded_suggestions(tmp_path, "another host") == ""
