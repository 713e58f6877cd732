"""Tells IPython how procbench's objects look, by their names: none of their modules is loaded for that.

``import procbench`` in a notebook calls :func:`register`; elsewhere ``%load_ext procbench`` does. A monitor shows itself as a
live dashboard, and a batch of tasks as a panel with a start button; in a terminal both are a line of text.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from typing import Any, Final

_CARDS: Final = {  # module, class: function of procbench.views.rich
    ("procbench.analysis.statistics", "Effect"): "effect",
    ("procbench.analysis.suggestions", "OptimizationSuggestion"): "suggestion",
    ("procbench.lab.host", "HostFacts"): "host",
    ("procbench.lab.noise", "NoiseWarning"): "warning",
    ("procbench.scheduling.settings", "RunSettings"): "settings",
    ("procbench.scheduling.task", "TaskResult"): "task_result",
}
_WIDGETS: Final = {  # module, class: class of procbench.views.widgets
    ("procbench.lab.batches", "TaskBatch"): "RunPanel",
    ("procbench.monitoring.monitor", "PerformanceMonitor"): "MonitorDashboard",
}

_dashboards: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def register(shell: Any) -> None:
    """Have a shell show our objects in our way. Harmless when called twice; costs well under a millisecond.

    Args:
        shell: An IPython shell.
    """
    if getattr(shell, "display_formatter", None) is None:
        return  # a shell that shows nothing
    formatters = shell.display_formatter.formatters
    for (module, name), function in _CARDS.items():
        formatters["text/html"].for_type_by_name(module, name, _html(function))
        formatters["text/plain"].for_type_by_name(module, name, _text(function))
    if hasattr(shell, "kernel"):  # a page may be there that shows widgets
        for (module, name), widget in _WIDGETS.items():
            shell.display_formatter.ipython_display_formatter.for_type_by_name(module, name, _widget(widget))


def _html(function: str) -> Callable[[Any], str]:
    def show(one: Any) -> str:
        rich = importlib.import_module("procbench.views.rich")
        said: str = rich.pairs_html(*getattr(rich, function)(one))
        return said

    return show


def _text(function: str) -> Callable[[Any, Any, bool], None]:
    def show(one: Any, printer: Any, cycle: bool) -> None:
        rich = importlib.import_module("procbench.views.rich")
        if len(printer.stack) > 1:  # within a list it is one of many
            printer.text(repr(one))
        else:
            printer.text(rich.pairs_text(*getattr(rich, function)(one)))

    return show


def _widget(name: str) -> Callable[[Any], None]:
    def show(one: Any) -> None:
        made = _dashboards.get(one) if name == "MonitorDashboard" else None
        if made is None:
            made = getattr(importlib.import_module("procbench.views.widgets"), name)(one)
        if name == "MonitorDashboard":
            _dashboards[one] = made  # shown again it is the same one: each has a thread
        made._ipython_display_()

    return show
