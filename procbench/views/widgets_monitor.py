"""A monitor, live: CPUs, memory, pressure and disks as lines, and the tree of what this kernel started."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from procbench.errors import ClosedError, InvalidInputError
from procbench.monitoring.collect_processes import ProcessTable
from procbench.monitoring.monitor import PerformanceMonitor, Sample
from procbench.views.live import for_people
from procbench.views.terminal import one_line
from procbench.views.widgets_chart import heat, lines, new_chart
from procbench.views.widgets_feed import INTERVAL_S, Feed
from procbench.views.widgets_shown import Shown, choice, heading, picture_html, row, table_html, text_field
from procbench.views.widgets_tree import Descendant, DescendantTree

WINDOWS_S: Final = {"30 s": 30.0, "1 min": 60.0, "5 min": 300.0, "15 min": 900.0, "1 h": 3600.0}
_MOST_LINES: Final = 6
_MOST_ROWS: Final = 15
_TREE_EVERY_S: Final = 1.0
_TWIN_EVERY_S: Final = 15.0  # a picture costs a tenth of a second, and a forgotten close() should not cost all of it
_MOST_POINTS: Final = 1200  # a page is not wider


class _Lane(NamedTuple):
    """One chart.

    Attributes:
        words: Its heading.
        collector: Whose numbers it shows.
        series: Metric by the name on the chart.
        unit: Of all of them.
    """

    words: str
    collector: str
    series: Mapping[str, str]
    unit: str


_LANES: Final = (
    _Lane("Memory", "memory", {"available": "available", "swap in use": "swap_used"}, "bytes"),
    _Lane(
        "Pressure: share of time in which something waited for",
        "pressure",
        {"a CPU": "cpu_some", "memory": "memory_some", "a disk": "io_some"},
        "share",
    ),
    _Lane("Disks", "disk", {"read": "read", "written": "written"}, "bytes/s"),
    _Lane("What this kernel's children use: CPUs", "tree", {"CPUs": "cpu"}, "CPUs"),
    _Lane("What this kernel's children use: memory", "tree", {"memory": "memory"}, "bytes"),
)


class MonitorDashboard(Shown):
    """Shows what a monitor finds while it samples, at most four times a second; what was sampled before is there, too.

    The cell that shows it returns at once. Pausing stops the charts, and not the monitor.

    Args:
        monitor: What is shown. It is neither started nor stopped here.
        window_s: Seconds that the charts reach back, one of :data:`WINDOWS_S`.
        pid: The process whose descendants are listed; this one by default.
        interval_s: Least seconds between two paintings.

    Attributes:
        annotations: Times, seconds since the monitor's start, and words of the notes made.

    Raises:
        InvalidInputError: ``window_s`` is none of those.
    """

    name = "monitor"

    def __init__(
        self,
        monitor: PerformanceMonitor,
        *,
        window_s: float = 60.0,
        pid: int | None = None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        if window_s not in WINDOWS_S.values():
            raise InvalidInputError(
                f"window_s is {window_s!r}; it is one of {', '.join(f'{s:g}' for s in WINDOWS_S.values())}"
            )
        super().__init__()
        import ipywidgets

        self.annotations: list[tuple[float, str]] = []
        self._monitor = monitor
        self._tree = DescendantTree(os.getpid() if pid is None else pid, ProcessTable())
        self._tree_s = self._twin_s = -math.inf
        self._rows: list[Descendant] = []
        self._count = 0
        self._frozen_s: float | None = None
        self._feed: Feed[Sample] = Feed(self._paint, interval_s, "dashboard", self.not_painted)
        self._cpu = new_chart("CPUs: share of time in which each was busy, over time")
        known = {watched.name for watched in monitor.watched}
        self._charts = [(lane, new_chart(f"{lane.words}, over time")) for lane in _LANES if lane.collector in known]
        self._table = ipywidgets.HTML()
        self._head = ipywidgets.HTML()
        self._window = choice("Window", list(WINDOWS_S.items()), window_s, "how far back the charts reach")
        self._window.observe(lambda _: self._guarded(self._repaint), "value")
        self._pause = self._button("Pause", self._turn, hint="stop the charts; the monitor goes on")
        self._note = text_field("Note", hint="what begins here, such as: batch started", room=260)
        self._mark = self._button("Mark", self._mark_now, hint="put the note on the charts, at this moment")
        boxes = [("CPUs: busy", self._cpu)] if "cpu" in known else []
        boxes += [(lane.words, chart) for lane, chart in self._charts]
        grid = ipywidgets.Box([ipywidgets.VBox([heading(words), chart]) for words, chart in boxes])
        grid.add_class("procbench-grid")
        controls = row(self._window, self._pause, self._note, self._mark, self._head)
        self._arrange(controls, grid, heading("What this kernel started"), self._table)
        self._unsubscribe: Callable[[], None] | None = None
        with contextlib.suppress(ClosedError):  # it has stopped: what it kept is shown
            self._unsubscribe = monitor.subscribe(self._feed.offer)
        self._repaint()

    def annotate(self, words: str) -> None:
        """Put words on the charts, at the time of the last sample.

        Raises:
            InvalidInputError: There are no words.
        """
        said = one_line(words.strip(), longest=80)
        if not said:
            raise InvalidInputError("a note needs words; write some into the field beside the button")
        self.annotations.append((self._monitor.latest().time_s, said))
        self._repaint()
        self._settled()

    def pause(self) -> None:
        """Stop the charts where they are."""
        self._frozen_s = self._monitor.latest().time_s
        self._pause.description = "Go on"
        self._settled()

    def resume(self) -> None:
        """Let the charts go on."""
        self._frozen_s = None
        self._pause.description = "Pause"
        self._repaint()

    @property
    def paused(self) -> bool:
        """Whether the charts stand still."""
        return self._frozen_s is not None

    def close(self) -> None:
        """Paint the last sample, and end; the monitor goes on."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if not self.closed:
            self._repaint()
        self._feed.close()
        super().close()

    # --- handlers ----------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        (self.resume if self.paused else self.pause)()

    def _mark_now(self) -> None:
        self.annotate(self._note.value)
        self._note.value = ""

    def _repaint(self) -> None:
        self._feed.offer(self._monitor.latest())

    # --- painting, in the feed's thread ------------------------------------------------------------------------------------

    def _paint(self, sample: Sample) -> None:
        end = sample.time_s if self._frozen_s is None else self._frozen_s
        window = (end - float(self._window.value), end)
        self._head.value = f"<span>{for_people(sample.time_s, 's')} watched{' · paused' * self.paused}</span>"
        times, columns = self._recorded("cpu", window)
        cpus = _busy(columns)
        many = len(cpus) > _MOST_LINES
        note = f"darker is busier; all of them now {for_people(_last(columns.get('busy', ())), 'share')}"
        self._cpu.frame = (
            heat(times, cpus, window, marks=self.annotations, note=note)
            if many
            else lines(times, cpus, "share", window, top=1.0, marks=self.annotations)
        )
        for lane, chart in self._charts:
            times, columns = self._recorded(lane.collector, window)
            series = {words: columns.get(metric, [math.nan] * len(times)) for words, metric in lane.series.items()}
            top = _last(columns.get("total", ())) if lane.collector == "memory" else math.nan
            chart.frame = lines(times, series, lane.unit, window, top=top if top > 0 else None, marks=self.annotations)
        if not self.paused and time.monotonic() - self._tree_s >= _TREE_EVERY_S:
            self._tree_s = time.monotonic()
            self._rows, self._count = self._tree.rows(_MOST_ROWS)
            self._table.value = self._tree_html()
        self._say_troubles()
        if sample.values and time.monotonic() - self._twin_s >= _TWIN_EVERY_S:
            self._twin_s = time.monotonic()
            self._settled()

    def _recorded(
        self, collector: str, window: tuple[float, float]
    ) -> tuple[Sequence[float], dict[str, Sequence[float]]]:
        """Return the times within a window, not too many, and the values at them."""
        for watched in self._monitor.watched:
            if watched.name == collector:
                kept = watched.history.recorded()
                first = max(0, bisect.bisect_left(kept.times_s, window[0]) - 1)
                end = bisect.bisect_right(kept.times_s, window[1])
                every = max(1, math.ceil((end - first) / _MOST_POINTS))
                cut = slice(first, end, every)
                return kept.times_s[cut], {name: values[cut] for name, values in kept.columns.items()}
        return (), {}

    def _say_troubles(self) -> None:
        troubles = self._monitor.troubles
        if troubles:
            said = "; ".join(f"{one.who}: {one.said}" for one in troubles[:3])
            self.say(one_line(f"Trouble: {said}"), error=True)

    def _tree_html(self) -> str:
        rows = [
            (
                f"{'· ' * one.depth}{one.pid}",
                one_line(one.command, longest=90),
                one.state,
                for_people(one.cpu_share, "share"),
                for_people(one.memory_bytes, "bytes"),
            )
            for one in self._rows
        ]
        more = f"; {self._count - len(rows)} more are not shown" if self._count > len(rows) else ""
        said = f"{self._count} descendants of process {self._tree.pid}{more}"
        return table_html(("pid", "command", "state", "of a CPU", "memory"), rows, said)

    # --- its twin ----------------------------------------------------------------------------------------------------------

    def twin_html(self) -> str:
        """Return a picture of the window, a table of what the metrics were like, and the notes."""
        rows = [_summary_row(*one) for one in self._monitor.summaries() if one[1].values and "[" not in one[0][1]]
        if not rows:
            return "<p>A monitor that has not sampled anything yet.</p>"
        heads = ("metric", "mean", "median", "95 %", "largest", "last")
        notes = table_html(("at", "note"), [(for_people(at, "s"), said) for at, said in self.annotations], "Notes")
        return self._picture() + (notes if self.annotations else "") + table_html(heads, rows, "What was sampled")

    def twin_text(self) -> str:
        """Return a line."""
        sample = self._monitor.latest()
        busy = sample.values.get("cpu", {}).get("busy", math.nan)
        return f"MonitorDashboard: {for_people(sample.time_s, 's')} watched, CPUs busy {for_people(busy, 'share')}"

    def _picture(self) -> str:
        from procbench.views.figures import COLOURS, VERMILION, legend_above, new_axes

        end = self._monitor.latest().time_s if self._frozen_s is None else self._frozen_s
        times, columns = self._recorded("cpu", (end - float(self._window.value), end))
        cpus = list(_busy(columns).items())[: len(COLOURS)]
        if not cpus:
            return ""
        axes = new_axes(2.4)
        for (name, values), colour, dashes in zip(cpus, COLOURS, itertools.cycle(("-", "--", ":", "-.")), strict=False):
            shares = [100 * value for value in values]
            axes.plot(times, shares, color=colour, linestyle=dashes, label=name, linewidth=1.5)
        for at, said in self.annotations:
            axes.axvline(at, color=VERMILION, linestyle="--", linewidth=1.2)
            axes.annotate(
                said, (at, 0.97), (3, 0), xycoords=("data", "axes fraction"), textcoords="offset points", va="top"
            )
        axes.set_ylim(0, 105)
        axes.set_xlabel("time since the monitor's start (s)")
        axes.set_ylabel("busy (%)")
        legend_above(axes)
        busy = for_people(_last(columns.get("busy", ())), "share")
        return picture_html(
            axes.figure, f"How busy each CPU was over the last {self._window.value:g} s; at the end {busy}"
        )


def _busy(columns: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    each = {name: values for name, values in columns.items() if name.startswith("each_busy[")}
    in_order = sorted(each, key=lambda name: int("".join(filter(str.isdigit, name)) or 0))
    alone = {"all CPUs": columns["busy"]} if "busy" in columns else {}
    return {**alone, **{f"CPU {name[10:-1].removeprefix('cpu')}": each[name] for name in in_order}}


def _last(values: Iterable[float]) -> float:
    return next((value for value in reversed(list(values)) if not math.isnan(value)), math.nan)


def _summary_row(which: tuple[str, str, str], found: Any) -> tuple[str, ...]:
    collector, metric, unit = which
    numbers = (found.mean, found.p50, found.p95, found.max, found.last)
    return (f"{collector} {metric}".replace("_", " "), *(for_people(number, unit) for number in numbers))
