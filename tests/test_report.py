"""Notebooks become a report that appears as a whole, shows what failed, loads nothing and runs nothing."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from bs4 import BeautifulSoup

from procbench.errors import InvalidInputError, NotebookError, RecordError
from procbench.views import folders, pages
from procbench.views.fragments import sanitise, to_fragment
from procbench.views.headline import Headline
from procbench.views.notebooks import read_notebook
from procbench.views.progress import ProgressEvent, for_people, progress_bar, time_left
from procbench.views.report import build_report
from procbench.views.terminal import without_colours
from tests.waiting import processes_with, wait_until

PATIENCE_S = 60.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

VECTORS = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "'\"><svg onload=document.title='owned'>",
    "<a href=\"javascript:document.title='owned'\">x</a>",
    "</style></pre></title><iframe srcdoc=\"<script>parent.document.title='owned'</script>\">",
)

SHOW = """import pandas as pd
from IPython.display import HTML, Javascript, display
from matplotlib.figure import Figure
from procbench.views.headline import Headline, show_figure
display(pd.DataFrame({v: [v, 1] for v in vectors}, index=pd.Index([vectors[0], "b"], name=vectors[1])))
display(pd.DataFrame({v: [v] for v in vectors}, index=[vectors[2]]).style.set_caption(vectors[3]))
[display(HTML(v)) for v in vectors]
display(Javascript("document.title='owned'"))
print(*vectors)"""

HEAD = """drawn = Figure(figsize=(2, 1))
drawn.subplots().plot([1, 2])
effect = dict(ratio=0.71, low=0.66, high=0.78, confidence=0.95, blocks=24, noise_floor=0.03, verdict=vectors[0])
display(Headline(vectors[0], "It helps " + "".join(vectors), effect, vectors[1]))
display(show_figure(drawn, "A line " + vectors[1]))"""

SLEEPER = """import subprocess, sys
subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()', '{}'])"""

COLOURED = """esc, csi, hidden = chr(27), chr(155), "tit" + "ular"
raise ValueError(f"{esc}[31mred{esc}[0m {esc}]0;{hidden}{chr(7)} {csi}31m <script>document.title=1</script>")"""


def write(path: Path, *sources: str, tags: dict[int, str] | None = None) -> Path:
    """Write a notebook; a source that begins with # and a space is markdown."""
    cells = []
    for number, source in enumerate(sources):
        new = nbformat.v4.new_markdown_cell if source.startswith("# ") else nbformat.v4.new_code_cell
        cells.append(new(source, metadata={"tags": [tags[number]] if tags and number in tags else []}))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), str(path))
    return path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build one report with every kind of notebook; all of the module's reading tests share it."""
    root = tmp_path_factory.mktemp("report")
    notebooks = [
        write(root / "10_raises.ipynb", "# Will it raise?", "print('so far')", COLOURED, "print('never')"),
        write(root / "20_dies.ipynb", "# Will it die?", "print('so far')", "import os\nos.kill(os.getpid(), 9)"),
        write(
            root / "30_shows.ipynb",
            f"# {VECTORS[0]} helps\n\n{VECTORS[1]}\n\n[x](javascript:alert(1)) ![y](http://e.org/y.png)\n\n{VECTORS[4]}",
            "vectors: list[str] = ['']  # names of commands",
            SHOW,
            HEAD,
            tags={1: "parameters", 3: "headline"},
        ),
    ]
    events: list[ProgressEvent] = []
    report = build_report(
        notebooks,
        out_root=root / "reports",
        parameters={"shows": {"vectors": list(VECTORS)}},
        host_card={f"Label {VECTORS[0]}": VECTORS[1], "Environment": " ".join(VECTORS)},
        warnings=[SimpleNamespace(seen=VECTORS[0], why=VECTORS[2], what_to_do=VECTORS[4])],
        notebook_timeout_s=PATIENCE_S,
        on_progress=events.append,
        host=VECTORS[0],
    )
    return SimpleNamespace(report=report, events=events, root=root, rows={row.notebook: row for row in report.rows})


def pages_of(built) -> list[Path]:
    return sorted(built.report.path.glob("*.html"))


def test_a_report_holds_a_page_for_each_notebook_and_an_index(built):
    assert [path.name for path in pages_of(built)] == ["dies.html", "index.html", "raises.html", "shows.html"]
    assert built.report.index == built.report.path / "index.html"
    assert (built.root / "reports" / "latest").resolve() == built.report.path
    assert not (built.root / "reports" / "latest").readlink().is_absolute()
    assert stat.S_IMODE(built.report.path.stat().st_mode) == 0o700


def test_a_notebook_that_raises_is_shown_with_its_error_and_the_others_still_run(built):
    row = built.rows["raises"]
    assert (row.status, row.cell) == ("failed", 3)
    page = BeautifulSoup((built.report.path / row.page).read_text(), "html.parser").get_text()
    assert "so far" in page
    assert "ValueError: red" in page
    assert "failed in cell 3" in page
    assert built.rows["shows"].status == "ok"
    assert built.report.exit_status == 1


def test_a_kernel_that_is_killed_is_a_row_of_its_own_kind(built):
    """R08: the row says kernel_died, the partial page is there, the exit status is not 0."""
    row = built.rows["dies"]
    assert (row.status, row.cell) == ("kernel_died", 3)
    page = (built.report.path / row.page).read_text()
    assert "so far" in page
    assert "its kernel died" in page
    assert read_notebook(built.report.path / row.executed).cells
    assert "its kernel died" in built.report.index.read_text()
    assert built.report.exit_status != 0


def test_escape_sequences_of_an_error_do_not_reach_a_page(built):
    """R14: neither colours nor window titles nor 8-bit controls of a traceback survive."""
    for path in pages_of(built):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", path.read_text()), path
    assert built.rows["raises"].error.startswith("ValueError: red")
    assert "\x1b" not in built.rows["raises"].error
    assert "titular" not in (built.report.path / "raises.html").read_text()


def test_no_name_becomes_markup_on_any_page(built):
    """R14: XSS vectors as command, environment, host, column, index, title, warning and headline stay text."""
    harmless = {"a", "img", "svg", "style", "meta"}
    for path in pages_of(built):
        soup = BeautifulSoup(path.read_text(), "html.parser")
        assert soup("script") == soup("iframe") == soup("object") == []
        for element in soup.find_all(True):
            assert not [name for name in element.attrs if name.startswith("on")], element
            if element.name not in harmless:
                assert not {"src", "srcdoc", "href", "style", "action", "data"} & set(element.attrs), element
        for link in soup("a"):
            assert re.fullmatch(r"[\w.-]+\.(html|ipynb)|#[\w-]+|https?://.*", link.get("href", "#content")), link
        assert len(soup("style")) == 1
        assert {element["class"][0] for element in soup("svg")} <= {"interval"}
    shows = BeautifulSoup((built.report.path / "shows.html").read_text(), "html.parser")
    assert VECTORS[0] in [cell.get_text() for cell in shows("th")]
    assert f"{VECTORS[0]} helps" == shows.h1.get_text()
    index = BeautifulSoup(built.report.index.read_text(), "html.parser")
    assert VECTORS[1] in [cell.get_text() for cell in index("td")]
    assert VECTORS[0] in index.h1.get_text()


def test_no_page_loads_anything(built):
    """R14: self-contained, with a policy that forbids the rest."""
    for path in pages_of(built):
        text = path.read_text()
        soup = BeautifulSoup(text, "html.parser")
        for element in soup.find_all(src=True):
            assert element["src"].startswith("data:image/")
        assert soup("link") == soup("base") == []
        assert "url(" not in soup.style.get_text()
        assert "@import" not in soup.style.get_text()
        policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


def test_a_page_can_be_read_without_seeing_it(built):
    for path in pages_of(built):
        soup = BeautifulSoup(path.read_text(), "html.parser")
        assert soup.html["lang"] == "en"
        assert len(soup("h1")) == len(soup("main")) == 1
        assert soup.find("a", class_="skip")["href"] == f"#{soup.main['id']}"
        assert all(image.get("alt", "").strip() for image in soup("img"))
        assert all(drawing["aria-label"] for drawing in soup("svg"))
        levels = [int(heading.name[1]) for heading in soup(re.compile("^h[1-6]$"))]
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels


def test_code_stays_out_of_the_page_and_the_figure_stands_there_once(built):
    soup = BeautifulSoup((built.report.path / "shows.html").read_text(), "html.parser")
    assert "import pandas" not in soup.get_text()
    shown = [image for image in soup("img") if image["src"].startswith("data:image/png")]
    assert [image["alt"] for image in shown] == ["A line " + VECTORS[1]]
    assert soup.find("table", class_="dataframe").find_parent("div", class_="scroll")["tabindex"] == "0"


def test_the_index_says_what_was_found_with_its_interval_and_its_picture(built):
    soup = BeautifulSoup(built.report.index.read_text(), "html.parser")
    (card,) = (card for card in soup("article") if "is-bad" not in card["class"])
    assert "It helps" in card.get_text()
    assert "95 % interval 0.66 to 0.78" in card.get_text()
    assert card.svg.circle is not None
    assert card.img["alt"] == VECTORS[1]
    assert card.a["href"] == "shows.html"
    assert len(soup("article", class_="is-bad")) == 2
    assert "2 of 3 notebooks did not finish" in soup.get_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_opens_every_page_without_a_complaint_and_runs_nothing(built, tmp_path):
    """R14: the title is what the page says it is, and the console stays empty."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]
    for path in pages_of(built):
        ended = subprocess.run(
            [CHROMIUM, *options, f"--user-data-dir={tmp_path / path.stem}", "--dump-dom", path.as_uri()],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert "CONSOLE" not in ended.stderr, ended.stderr
        title = BeautifulSoup(ended.stdout, "html.parser").title.get_text()
        assert "procbench" in title
        assert title != "owned"


def test_progress_names_the_notebook_its_place_and_the_time_left(built):
    events = [event for event in built.events if event.kind != "waiting"]
    assert [(e.kind, e.notebook, e.position, e.status) for e in events] == [
        ("started", "raises", 1, None),
        ("finished", "raises", 1, "failed"),
        ("started", "dies", 2, None),
        ("finished", "dies", 2, "kernel_died"),
        ("started", "shows", 3, None),
        ("finished", "shows", 3, "ok"),
    ]
    assert events[0].left_s is None
    assert events[1].left_s > 0
    assert events[-1].left_s == 0
    assert {event.total for event in events} == {3}


def test_durations_are_kept_for_the_next_estimate(built):
    kept = json.loads((built.report.path / "durations.json").read_text())
    assert kept == {"shows": built.rows["shows"].seconds}


def test_a_hanging_notebook_is_ended_by_its_limit_and_shown_and_is_no_result(tmp_path):
    marker = f"procbench-test-{uuid.uuid4().hex}"
    ready = tmp_path / "ready"
    child = (
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()', '{marker}'])"
    )
    hang = f"open({str(ready)!r}, 'w').close()\nimport threading; threading.Event().wait()"
    notebook = write(tmp_path / "hangs.ipynb", "# Will it end?", f"print('so far')\n{child}", hang)
    report = build_report([notebook], out_root=tmp_path / "reports", notebook_timeout_s=8)
    (row,) = report.rows
    assert row.status == "timed_out"
    assert report.exit_status == 1
    assert processes_with(marker) == []
    page = (report.path / row.page).read_text()
    assert "ran out of time" in page
    assert "limit of 8 s" in page
    if ready.exists():  # the machine was quick enough to reach the cell that hangs
        assert row.cell == 3
        assert "so far" in page


def test_a_report_killed_midway_leaves_the_previous_one_and_the_next_removes_its_remains(tmp_path):
    """R09: latest stays whole when the reporter is killed, and no process survives it."""
    marker = f"procbench-test-{uuid.uuid4().hex}"
    root, ready = tmp_path / "reports", tmp_path / "ready"
    first = build_report([], out_root=root, host="h")
    before = snapshot(root / "latest")
    child = (
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()', '{marker}'])"
    )
    hang = f"{child}\nopen({str(ready)!r}, 'w').close()\nimport threading\nthreading.Event().wait()"
    notebook = write(tmp_path / "hangs.ipynb", hang)
    source = f"""import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
from pathlib import Path
from procbench.views.report import build_report
build_report([Path({str(notebook)!r})], out_root=Path({str(root)!r}))"""
    reporter = subprocess.Popen([sys.executable, "-c", source], start_new_session=True)
    try:
        wait_until(ready.exists, "the notebook's cell", PATIENCE_S)
        (remains,) = root.glob(".building-*")
        during = build_report([], out_root=root, host="during")
        assert remains.is_dir(), "a living reporter's folder was removed"
    finally:
        reporter.send_signal(signal.SIGKILL)
        reporter.wait()
    wait_until(
        lambda: not processes_with(marker) and not processes_with("procbench.views.render"),
        "the end of the orphans",
        PATIENCE_S,
    )
    assert snapshot(first.path) == before
    assert (root / "latest").resolve() == during.path
    assert remains.is_dir()
    assert not list(remains.glob("procbench-*")), "the remains hold sockets"
    after = build_report([], out_root=root, host="h")
    assert not remains.exists()
    assert (root / "latest").resolve() == after.path
    assert sorted(path.name for path in root.iterdir()) == sorted(
        {".lock", "latest", first.path.name, during.path.name, after.path.name}
    )


def test_what_interrupts_a_report_leaves_no_folder_and_no_link(tmp_path):
    """L10: Ctrl-C removes the folder under construction."""

    def interrupt(_event: ProgressEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_report([write(tmp_path / "a.ipynb", "1")], out_root=tmp_path / "reports", on_progress=interrupt)
    assert [path.name for path in (tmp_path / "reports").iterdir()] == [".lock"]


def test_all_that_can_be_refused_is_refused_before_anything_runs(tmp_path):
    """R10, R11: a name, a type, a notebook that is not there, two of one word, a limit of nothing."""
    notebook = write(tmp_path / "10_a.ipynb", "x: int = 1", tags={0: "parameters"})
    for parameters in ({"a": {"y": 1}}, {"a": {"x": "one"}}, {"b": {"x": 1}}, {"a": {"x = 1\nimport os\ny": 1}}):
        with pytest.raises(InvalidInputError):
            build_report([notebook], out_root=tmp_path / "reports", parameters=parameters)
    for limit in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidInputError):
            build_report([notebook], out_root=tmp_path / "reports", notebook_timeout_s=limit)
    for notebooks in ([notebook, write(tmp_path / "20_a.ipynb", "1")], [tmp_path / "none.ipynb"], [tmp_path]):
        with pytest.raises(NotebookError):
            build_report(notebooks, out_root=tmp_path / "reports")
    paths = write(tmp_path / "b.ipynb", "workload: str = ''\ndata_dir: str = ''", tags={0: "parameters"})
    for wrong in ({"workload": str(tmp_path / "none")}, {"workload": str(notebook)}, {"data_dir": "/dev/null/data"}):
        with pytest.raises(InvalidInputError):
            build_report([paths], out_root=tmp_path / "reports", parameters={"b": wrong})
    assert not (tmp_path / "reports").exists()


HOSTILE = (
    "../../x",
    "/etc/passwd",
    "a\0b",
    "x" * 300,
    "CON",
    "-rf",
    ".",
    "..",
    "",
    "a/b",
    "\ud800",
    "latest",
    "é",
    " ",
)


def test_no_file_of_a_report_holds_a_secret_of_its_parameters(tmp_path):
    cells = [
        nbformat.v4.new_code_cell('command: str = ""  # what runs', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("len(command)"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    asked = {"own": {"command": "curl --password='hunter2 \"x' http://x"}}
    report = build_report([tmp_path / "own.ipynb"], out_root=tmp_path / "out", parameters=asked)
    assert report.rows[0].status == "ok"
    texts = {path.name: path.read_text() for path in report.path.iterdir()}
    assert [name for name, text in texts.items() if "hunter2" in text] == []
    assert "--password=***" in texts["own.html"]
    assert "--password=***" in texts["own.ipynb"]


@pytest.mark.parametrize("host", HOSTILE)
def test_a_hostile_host_name_stays_inside_the_root(tmp_path, host):
    """R13: the report's folder is a direct child of the root whatever the host is called."""
    shown = host.encode("utf-8", "replace").decode()
    report = build_report([], out_root=tmp_path / "reports", host=shown)
    assert report.path.parent == tmp_path / "reports"
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]


def test_two_reports_of_one_second_stand_side_by_side(tmp_path):
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    names = []
    for _ in range(3):
        with folders.building_folder(tmp_path) as folder:
            (folder / "index.html").touch()
            names.append(folders.publish(folder, tmp_path, when, "h").name)
    assert names == ["20260102T030405Z-h", "20260102T030405Z-h-2", "20260102T030405Z-h-3"]
    assert (tmp_path / "latest").resolve().name == names[-1]
    assert not (tmp_path / "latest" / ".lock").exists()


def test_a_link_that_cannot_be_swapped_still_leads_to_the_previous_report(tmp_path, monkeypatch):
    """R09: latest is replaced, never removed first."""
    first = build_report([], out_root=tmp_path, host="h")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with folders.building_folder(tmp_path) as folder, pytest.raises(OSError, match="Input/output"):
        folders._point(tmp_path / "latest", folder.name)
    assert (tmp_path / "latest").resolve() == first.path
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".lock", "latest", first.path.name])


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "a"
    folders.write_text(target, "old")
    monkeypatch.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RecordError, match="No space"):
        folders.write_text(target, "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_notebook_called_index_does_not_take_the_first_page(tmp_path):
    from procbench.views.report import _page_stem

    assert _page_stem(tmp_path / "10_index.ipynb") == "index-notebook"


@pytest.mark.parametrize(
    "html",
    [
        *VECTORS,
        "<b onclick=x>a</b>",
        "<img src='data:image/svg+xml;base64,AAAA'>",
        "<img src='http://e.org/a.png'>",
        "<a href='data:text/html,x'>a</a>",
        "<a href='java&#115;cript:x'>a</a>",
        "<math><mtext></p><style><img src=x onerror=y>",
        "<form action=http://e.org><input></form>",
        "<noscript><p title='</noscript><img src=x onerror=y>'>",
        "<meta http-equiv=refresh content='0;url=http://e.org'>",
        "<p style='background:url(http://e.org)'>a</p>",
    ],
)
def test_sanitised_html_holds_nothing_that_loads_or_runs(html):
    """R14: checked by parsing the result as a browser would."""
    soup = BeautifulSoup(sanitise(html), "html.parser")
    assert not soup.find_all(["script", "style", "iframe", "svg", "math", "form", "input", "meta", "noscript"])
    assert not soup.find_all(src=True)
    assert not soup.find_all(href=True)
    assert not [
        element for element in soup.find_all(True) for name in element.attrs if name.startswith(("on", "style"))
    ]


def test_tables_headings_links_and_embedded_pictures_survive_sanitising():
    text = '<h1>a</h1><p>b <a href="https://e.org">c</a></p><img alt="e" src="data:image/png;base64,AAAA">'
    table = '<table><thead><tr><th scope="col" colspan="2">d</th></tr></thead></table>'
    soup = BeautifulSoup(sanitise(text + table), "html.parser")
    assert soup.h2.get_text() == "a"
    assert soup.a["href"] == "https://e.org"
    assert (soup.th["scope"], soup.th["colspan"]) == ("col", "2")
    assert soup.img["alt"] == "e"


def test_a_flood_of_output_is_cut_in_the_middle_and_progress_lines_show_their_end():
    flood = nbformat.v4.new_output("stream", text="first\n" + "x" * 1_000_000 + "\nlast")
    bar = nbformat.v4.new_output("stream", text="10 %\r20 %\rdone\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[flood, bar])])
    page = to_fragment(notebook)
    assert len(page) < 110_000
    assert "first" in page
    assert "last" in page
    assert "characters left out" in page
    assert "10 %" not in page
    assert "done" in page


def test_terminal_text_loses_every_escape():
    """R14: CSI, OSC, DCS, two-byte and 8-bit forms."""
    assert (
        without_colours("a\x1b[1;31mb\x1b]0;t\x07c\x1b]8;;http://e\x1b\\d\x1bPq\x1b\\e\x1b[2Jf\x1bcg\x9bh\x00\x1b")
        == "abcdefgh"
    )


def row_of(status: str, floor: float) -> pages.ReportRow:
    effect = {"ratio": 1.3, "low": 1.2, "high": 1.4, "noise_floor": floor}
    found = Headline.from_json({"title": "t", "sentence": "s", "effect": effect})
    return pages.ReportRow("a", "A", status, "", None, 1.0, "a.html", "", found, None)


def test_a_large_noise_floor_is_a_warning_beside_the_headline_and_a_small_one_is_not():
    when = datetime(2026, 1, 2, tzinfo=UTC)
    for floor, warned in ((0.64, True), (0.02, False)):
        row = row_of("ok", floor)
        for page in (
            pages.notebook_page(row, "", {}, when=when, host="h"),
            pages.index_page([row], {}, [], when=when, host="h", seconds=1),
        ):
            assert ("differed by 64 %" in page) is warned
            assert ("Too noisy to trust" in page) is warned


def test_others_are_named_only_where_there_are_others():
    when = datetime(2026, 1, 2, tzinfo=UTC)
    for statuses, said in ((["failed"], False), (["failed", "ok"], True)):
        rows = [row_of(status, 0.0) for status in statuses]
        page = pages.index_page(rows, {}, [], when=when, host="h", seconds=1)
        assert ("The others are whole" in page) is said


def test_the_interval_is_drawn_inside_its_frame_in_the_right_order():
    for low, ratio, high in ((0.66, 0.71, 0.78), (1, 1, 1), (1e-9, 1, 1e9), (3, 4, 5), (0.99, 1.0, 1.01)):
        effect = {"ratio": ratio, "low": low, "high": high, "noise_floor": 0.03}
        drawn = pages.interval_of(Headline.from_json({"title": "t", "sentence": "s", "effect": effect}))
        assert 14 <= drawn.low <= drawn.ratio <= drawn.high <= 306
        assert 1 <= len(drawn.ticks) <= 6
        assert "1" in [label for _, label in drawn.ticks]
        assert drawn.noise[0] < drawn.one < drawn.noise[0] + drawn.noise[1]
    assert pages.interval_of(Headline("t", "s")) is None


def test_time_left_comes_from_the_previous_report_and_else_from_what_is_known():
    assert time_left(["a", "b"], 0, {}, {}) is None
    assert time_left([], 0, {}, {}) == 0
    assert time_left(["a", "b"], 1, {"a": 3, "b": 5}, {}) == 7
    assert time_left(["a", "b"], 10, {"a": 3, "b": 5}, {}) == 5
    assert time_left(["b", "c"], 1, {}, {"a": 4}) == 7


def test_damaged_durations_of_the_previous_report_are_no_durations(tmp_path):
    for text in ("", "[]", '{"a": "x"}', '{"a": null}'):
        report = build_report([], out_root=tmp_path, host="h")
        (report.path / "durations.json").write_text(text)
        build_report([], out_root=tmp_path, host="h")


def test_seconds_are_said_as_people_say_them():
    assert [for_people(s) for s in (None, 0.4, 59.6, 125)] == ["unknown", "0 s", "1 min 00 s", "2 min 05 s"]
    assert for_people(4200) == "1 h 10 min"


def test_without_a_terminal_progress_is_one_plain_line_for_each_notebook():
    stream = io.StringIO()
    with progress_bar(stream) as show:
        for kind, status in (("started", None), ("waiting", None), ("finished", "ok")):
            show(ProgressEvent(kind, "stealing", 1, 2, 3.0, 62.0, status))
    assert stream.getvalue() == "[1/2] stealing: ok, time left: 1 min 02 s\n"


def test_on_a_terminal_progress_names_the_notebook_and_the_time_left():
    stream = io.StringIO()
    stream.isatty = lambda: True
    with progress_bar(stream) as show:
        show(ProgressEvent("started", "stealing", 1, 2, 0.0, None))
        show(ProgressEvent("finished", "stealing", 1, 2, 3.0, 62.0, "ok"))
    assert "stealing" in stream.getvalue()
    assert "time left: 1 min 02 s" in stream.getvalue()
