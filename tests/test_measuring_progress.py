"""How far a measurement is, in a notebook, on a terminal and in a pipe."""

import io
from pathlib import Path

import nbformat
import pytest

from procbench.lab.results import Progress
from procbench.views.measuring import measuring_progress, share_done, words_of
from procbench.views.report import build_report


def far(blocks: int, elapsed_s: float) -> Progress:
    return Progress(blocks, 10, elapsed_s, 20.0, ())


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("blocks", "elapsed_s", "share"), [(0, 0.0, 0.0), (5, 2.0, 0.5), (1, 15.0, 0.75), (10, 1.0, 1.0), (3, 99.0, 1.0)]
)
def test_a_measurement_is_as_far_as_its_blocks_or_its_time(blocks: int, elapsed_s: float, share: float):
    assert share_done(far(blocks, elapsed_s)) == share


def test_a_pipe_gets_a_line_now_and_then_and_none_for_what_is_quick():
    stream, clock = io.StringIO(), Clock()
    show = measuring_progress(stream, clock=clock)
    for second, blocks in ((101.9, 1), (102.0, 2), (103.0, 3), (111.9, 4), (112.0, 5)):
        clock.now = second
        show(far(blocks, second - 100))
    assert stream.getvalue().splitlines() == [
        "measuring for 2 s: 2 blocks of this part measured, at most 18 s left for it",
        "measuring for 12 s: 5 blocks of this part measured, at most 8 s left for it",
    ]


def test_a_terminal_gets_a_bar():
    stream, clock = io.StringIO(), Clock()
    stream.isatty = lambda: True
    show = measuring_progress(stream, clock=clock)
    show(far(1, 0.5))
    assert stream.getvalue() == ""
    clock.now = 105.0
    show(far(5, 5.0))
    assert "measuring |" in stream.getvalue()
    assert words_of(far(5, 5.0)) in stream.getvalue()


def test_a_notebook_gets_a_bar_that_becomes_a_line_of_text(tmp_path: Path):
    """In a real kernel: the page that is exported from it shows no bar that stands still for ever."""
    lines = (
        "from procbench.lab.results import Progress\nfrom procbench.views import measuring\n"
        "measuring.SHOWN_FROM_S = 0\nmeasuring._NOTEBOOK_S = 0\nshow = measuring.measuring_progress()\n"
        "show(Progress(1, 10, 1.0, 20.0, ()))\nshow(Progress(2, 10, 2.0, 20.0, ()))"
    )
    cells = [nbformat.v4.new_markdown_cell("# Far"), nbformat.v4.new_code_cell(lines)]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = tmp_path / "far.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    report = build_report([path], out_root=tmp_path / "reports", host="h")
    assert report.exit_status == 0, report.rows[0].error
    executed = nbformat.read(report.path / "far.ipynb", as_version=4)
    (shown,) = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert shown.data["text/html"] == "<p>measured for 0 s</p>"
    assert "measured for 0 s" in (report.path / "far.html").read_text()
