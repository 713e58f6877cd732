"""Widgets for a notebook: live, fed from any thread, with a button's work in the background, so that every cell returns at once.

>>> from procbench.views.widgets import MonitorDashboard, RunPanel, ExperimentExplorer, SuggestionBoard

Leave one as a cell's last value, or ``display`` it. ``close()`` ends it; what it showed last stays, as a picture or a table.
Where a report is to show the end of something that runs in the background, wait for it first: ``panel.wait()``, ``board.wait()``,
``dashboard.close()``.
"""

from __future__ import annotations

from procbench.views.widgets_explore import ExperimentExplorer
from procbench.views.widgets_monitor import MonitorDashboard
from procbench.views.widgets_run import RunPanel
from procbench.views.widgets_suggest import SuggestionBoard

__all__ = ["ExperimentExplorer", "MonitorDashboard", "RunPanel", "SuggestionBoard"]
