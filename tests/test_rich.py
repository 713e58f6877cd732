"""How procbench's objects look in a notebook and in a terminal, and that nobody pays for it elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

from procbench import RunSettings, WorkStealingScheduler
from procbench.analysis.statistics import Effect
from procbench.analysis.suggestions import OptimizationSuggestion, SettingsChange
from procbench.lab.host import read_host
from procbench.lab.noise import NoiseCode, NoiseWarning
from procbench.monitoring.monitor import PerformanceMonitor
from procbench.views import in_notebook
from tests.waiting import ROOT, run_python

EVIL = "<script>alert('&')</script>"


@pytest.fixture(scope="module")
def shell():
    made = InteractiveShell()
    in_notebook.register(made)
    in_notebook.register(made)
    yield made
    made.history_manager.end_session()


def looks(shell: Any, one: object) -> tuple[str, str]:
    data, _ = shell.display_formatter.format(one)
    return data.get("text/html", ""), data["text/plain"]


def result_of(*argv: str) -> object:
    with WorkStealingScheduler(RunSettings(workers=1, capture=True)) as scheduler:
        return scheduler.submit(argv).result()


def objects() -> dict[str, object]:
    change = SettingsChange({"workers": 4}, {"workers": 1})
    effect = Effect(1.2, 1.1, 1.3, 0.95, 12, EVIL, "as it is", 0.02)
    return {
        "Effect": effect,
        "OptimizationSuggestion": OptimizationSuggestion(
            category="cpu", priority="high", description=EVIL, why="it waits", change=change, effect=effect, note=EVIL
        ),
        "NoiseWarning": NoiseWarning(NoiseCode.NICED, EVIL, "why", "what"),
        "TaskResult": result_of("sh", "-c", f'echo "{EVIL}"; echo "{EVIL}" >&2; exit 3'),
    }


@pytest.mark.parametrize("name", ["Effect", "OptimizationSuggestion", "NoiseWarning", "TaskResult"])
def test_what_others_wrote_is_text(shell, name):
    html, text = looks(shell, objects()[name])
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert EVIL in text


def test_a_result_says_how_it_ended_and_what_it_cost(shell):
    html, text = looks(shell, result_of("sh", "-c", "exit 3"))
    assert "failed: status 3" in text
    assert "peak memory" in html
    assert "cannot start" in looks(shell, result_of("/no/such/program"))[1]
    long = looks(shell, result_of("sh", "-c", "seq 100000"))[1]
    assert "the end of 588,895 bytes" in long
    assert long.endswith("100000")
    assert len(long.splitlines()) < 35


def test_settings_show_what_differs_with_unit_and_meaning(shell):
    _, text = looks(shell, RunSettings(workers=3, timeout=2.0))
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["workers", "timeout"]
    assert "2.0 s: " in text
    assert "as by default" in looks(shell, RunSettings())[0]
    assert looks(shell, [RunSettings()])[1].startswith("[RunSettings(workers=None")  # one of many stays short


def test_an_interval_that_is_not_known_is_called_so(shell):
    unknown = Effect(1.2, 0.0, float("inf"), 0.95, 3, noise_floor=float("inf"))
    assert looks(shell, unknown)[1].count("unknown: too few blocks") == 2


def test_a_host_is_its_card(shell):
    html, text = looks(shell, read_host(sample_s=0))
    assert "kernel" in text
    assert "<caption>Host</caption>" in html


def test_a_monitor_in_a_terminal_stays_a_line(shell):
    monitor = PerformanceMonitor()
    assert looks(shell, monitor)[1].startswith("<procbench.monitoring.monitor.PerformanceMonitor")
    monitor.stop()


def test_outside_of_ipython_nothing_is_registered_and_nothing_loaded():
    code = "import sys, procbench; print([m for m in sys.modules if 'IPython' in m or m.startswith('procbench.views')])"
    assert run_python(code) == "[]"


def test_in_ipython_importing_procbench_is_enough_and_loads_no_library():
    code = (
        "from IPython.core.interactiveshell import InteractiveShell; shell = InteractiveShell.instance()\n"
        "import sys, procbench\n"
        "print('ipywidgets' in sys.modules, 'pandas' in sys.modules, 'procbench.views.rich' in sys.modules)\n"
        "print('text/html' in shell.display_formatter.format(procbench.RunSettings())[0])"
    )
    assert run_python(code).splitlines() == ["False False False", "True"]


CELLS = """
import pandas as pd
from procbench import RunSettings
from procbench.analysis.suggestions import OptimizationSuggestion, SettingsChange
from procbench.monitoring.monitor import PerformanceMonitor
from procbench.views.widgets import ExperimentExplorer, MonitorDashboard, RunPanel, SuggestionBoard
monitor = PerformanceMonitor(0.05)
monitor.start()
dashboard = MonitorDashboard(monitor)
dashboard
# %%
panel = RunPanel([["true"], ["false"]] * 5)
panel.start()
panel
# %%
explorer = ExperimentExplorer(pd.DataFrame([("a", 1.0), ("b", 2.0)] * 8, columns=["way", "value"]))
explorer
# %%
change = SettingsChange({"workers": 4}, {"workers": 1})
found = OptimizationSuggestion(category="cpu", priority="high", description="seen", why="why", change=change)
board = SuggestionBoard([found])
board
# %%
panel.wait(), len(explorer.levels), board.wait()
dashboard.close()
monitor.stop()
"""


def test_an_exported_notebook_shows_every_widget_without_a_network(tmp_path: Path):
    """With nbconvert's own template, whose widgets would need a network, and in our report."""
    import nbconvert

    from procbench.views.fragments import to_fragment

    path = tmp_path / "widgets.ipynb"
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS.split("# %%")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    # In a process of its own: nbclient leaves the event loop open that it makes.
    run = "from nbclient.cli import main; main()"
    argv = [sys.executable, "-c", run, "--inplace", "--kernel_name=python3", "--timeout=120", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(path, as_version=4)
    assert [out for cell in notebook.cells for out in cell.outputs if out.output_type == "error"] == []
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    for html in (page, to_fragment(notebook)):
        assert html.count("procbench-twin") >= 4
        assert html.count("data:image/png;base64,") >= 3
        for words in ("How busy each CPU was", "10 of 10 commands", "value by way", "workers: 1 → 4"):
            assert words in html
    assert "display: none" not in to_fragment(notebook)
