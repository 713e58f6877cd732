"""A tidy frame, looked at from several sides: pick what to compare by, hold the rest still, see medians with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procbench.analysis.samples import estimate
from procbench.analysis.statistics import Effect, paired_effect
from procbench.errors import InvalidInputError
from procbench.experiments.words import with_interval
from procbench.views.terminal import one_line
from procbench.views.widgets_chart import dots, new_chart
from procbench.views.widgets_feed import INTERVAL_S, Feed
from procbench.views.widgets_shown import Shown, choice, heading, picture_html, row, table_html, tick

if TYPE_CHECKING:
    import pandas as pd

ALL: Final = "(all)"
_MOST_LEVELS: Final = 40
_NO_FACTORS: Final = {"value", "block", "position", "warm_up", "outlier", "started_s"}
_NO_METRICS: Final = (_NO_FACTORS | {"condition"}) - {"value"}
_BLOCK: Final = "block"


class Choice(NamedTuple):
    """What is looked at.

    Attributes:
        factor: The column whose levels are compared.
        metric: The column that is measured.
        baseline: The level that the others are compared with.
        held: For other columns, the one level that counts.
        larger_is_better: Of the metric.
    """

    factor: str
    metric: str
    baseline: str
    held: Mapping[str, str]
    larger_is_better: bool


class Level(NamedTuple):
    """What one level showed.

    Attributes:
        level: Its words.
        values: How many it has.
        median: Their median.
        low: Lower end of the median's interval; infinite or NaN where it is unknown.
        high: Upper end.
        effect: Compared with the baseline in the same blocks; None for the baseline, and where no blocks are shared.
    """

    level: str
    values: int
    median: float
    low: float
    high: float
    effect: Effect | None


def factors_of(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return the columns that tell conditions apart, each with its levels as words: few, and not another one in every row."""
    found = {}
    for name in map(str, frame.columns):
        column = frame[name]
        levels = int(column.nunique())
        tells = 0 < levels <= _MOST_LEVELS and (levels == 1 or levels < len(column))
        if name not in _NO_FACTORS and tells and not _is_measured(column):
            found[name] = [str(level) for level in column.dropna().drop_duplicates()]
    return found


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """Return the columns that hold what was measured: numbers."""
    import pandas as pd

    names = [str(name) for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])]
    names = [name for name in names if name not in _NO_METRICS and not pd.api.types.is_bool_dtype(frame[name])]
    return sorted(names, key=lambda name: (name != "value", not pd.api.types.is_float_dtype(frame[name])))


def _is_measured(column: pd.Series[Any]) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_float_dtype(column)) and column.nunique() > min(12, len(column) / 2)


def compare(frame: pd.DataFrame, chosen: Choice) -> list[Level]:
    """Return what each level showed, in the order of the frame; warm-ups are left out, as is what is no number.

    Args:
        frame: Tidy: a row for each value.
        chosen: What to look at. Where ``block`` tells which values belong together, levels are compared within blocks.
    """
    import pandas as pd

    kept = frame[~frame["warm_up"].astype(bool)] if "warm_up" in frame else frame
    for name, level in chosen.held.items():
        kept = kept[kept[name].astype(str) == level]
    kept = kept[pd.to_numeric(kept[chosen.metric], errors="coerce").notna()]
    words = kept[chosen.factor].astype(str)
    base = kept[words == chosen.baseline]
    found = []
    for level in frame[chosen.factor].dropna().astype(str).drop_duplicates():
        part = kept[words == level]
        values = [float(value) for value in part[chosen.metric] if math.isfinite(value)]
        if not values:
            continue
        seen = estimate(values)
        effect = None if level == chosen.baseline else _effect(base, part, chosen, level)
        found.append(Level(level, seen.count, seen.median, seen.low, seen.high, effect))
    return found


def _effect(base: pd.DataFrame, part: pd.DataFrame, chosen: Choice, level: str) -> Effect | None:
    """Compare within blocks, where both have exactly one value above 0 in each of some."""
    if _BLOCK not in part or base[_BLOCK].duplicated().any() or part[_BLOCK].duplicated().any():
        return None
    import pandas as pd

    columns = [one.set_index(_BLOCK)[chosen.metric] for one in (base, part)]
    both = pd.concat(columns, axis=1, join="inner")
    both = both[(both > 0).all(axis=1)]
    if both.empty:
        return None
    before, after = (both.iloc[:, place].astype(float).tolist() for place in (0, 1))
    names: dict[str, Any] = {"condition_name": level, "baseline_name": chosen.baseline}
    return paired_effect(before, after, larger_is_better=chosen.larger_is_better, **names)


class ExperimentExplorer(Shown):
    """Compares the conditions of a tidy frame: choose factor, metric, baseline and what is held still.

    Args:
        frame: A row for each value, such as an experiment's ``frame``; or the experiment's result itself.
        metric: Column to begin with.
        factor: Column to begin with.

    Raises:
        InvalidInputError: The frame has no column to compare by or to measure, or not the one named.
    """

    name = "explorer"

    def __init__(self, frame: Any, *, metric: str | None = None, factor: str | None = None) -> None:
        import ipywidgets

        super().__init__()
        self._frame: pd.DataFrame = getattr(frame, "frame", frame)
        factors, metrics = factors_of(self._frame), metrics_of(self._frame)
        _check(factor, factors, "factor")
        _check(metric, metrics, "metric")
        first = factor or max(factors, key=lambda name: len(factors[name]) > 1)
        self._factors = factors
        self._busy = False
        self._levels: list[Level] = []
        self._shown: Choice | None = None
        self._by = choice("Compare by", list(factors), first, "the column whose values are compared")
        self._metric = choice("Metric", metrics, metric or metrics[0], "the column that was measured")
        self._base = choice("Baseline", factors[first], factors[first][0], "what the others are compared with")
        self._better = tick("larger is better", value=False, hint="of the metric: of rates it is, of times it is not")
        self._held = {
            name: choice(f"Only {name.replace('_', ' ')}", [ALL, *levels], ALL, "hold this column still")
            for name, levels in factors.items()
            if len(levels) > 1
        }
        self._chart = new_chart("Medians with their intervals, a row for each condition")
        self._table = ipywidgets.HTML()
        self._feed: Feed[Choice] = Feed(self._paint, INTERVAL_S, "explorer", self.not_painted)
        for control in (self._by, self._metric, self._base, self._better, *self._held.values()):
            control.observe(self._chosen, "value")
        self._arrange(
            row(self._by, self._metric, self._base, self._better),
            row(*self._held.values()),
            heading("Medians, and their 95 % intervals"),
            self._chart,
            self._table,
        )
        self._chosen({"owner": self._metric})

    def select(self, **values: Any) -> None:
        """Choose as the controls do: ``factor``, ``metric``, ``baseline``, ``larger_is_better``, or a column's one level.

        Raises:
            InvalidInputError: There is no such control, or no such value.
        """
        controls = {
            "factor": self._by,
            "metric": self._metric,
            "baseline": self._base,
            "larger_is_better": self._better,
            **self._held,
        }
        for name, value in values.items():
            if name not in controls:
                raise InvalidInputError(f"there is nothing called {name!r} to choose; there are: {', '.join(controls)}")
            options = getattr(controls[name], "options", (True, False))
            if value not in options:
                raise InvalidInputError(f"{name} has no {value!r}; it has: {', '.join(map(str, options))}")
            controls[name].value = value

    @property
    def levels(self) -> list[Level]:
        """What is shown, once it has been worked out."""
        self._feed.settle()
        return list(self._levels)

    def close(self) -> None:
        """Finish what is being worked out, and take it off the page."""
        self._feed.close()
        super().close()

    def _chosen(self, change: Any) -> None:
        if self._busy:
            return
        if change["owner"] is self._by:
            self._busy = True  # the baseline's own change tells nothing new
            try:
                levels = self._factors[self._by.value]
                self._base.options, self._base.value = levels, levels[0]
            finally:
                self._busy = False
        held = {name: one.value for name, one in self._held.items() if one.value != ALL and name != self._by.value}
        self._feed.offer(Choice(self._by.value, self._metric.value, self._base.value, held, self._better.value))

    def _paint(self, chosen: Choice) -> None:
        try:
            self._levels = compare(self._frame, chosen)
        except InvalidInputError as error:
            self.say(str(error), error=True)
            return
        self._shown = chosen
        rows = [one_line(level.level, longest=28) for level in self._levels]
        ends = [(level.low, level.median, level.high) for level in self._levels]
        limit = next((level.median for level in self._levels if level.level == chosen.baseline), None)
        note = f"{chosen.metric}; dashed: the median of {one_line(chosen.baseline, longest=40)}"
        self._chart.frame = dots(rows, ends, "", limit=limit, note=note)
        self._table.value = self._table_html()
        self.say("" if self._levels else "Nothing is left with these choices: hold fewer columns still.")
        self._settled()

    def _table_html(self) -> str:
        chosen = self._shown
        if chosen is None:
            return "<p>Nothing has been compared yet.</p>"
        heads = (chosen.factor, "values", f"{chosen.metric}, median", "times as good", "says")
        rows = [
            (
                one_line(level.level),
                f"{level.values:,}",
                _median_words(level),
                "the baseline"
                if level.level == chosen.baseline
                else _effect_words(level.effect, blocks=_BLOCK in self._frame),
                level.effect.verdict if level.effect else "",
            )
            for level in self._levels
        ]
        held = ", ".join(f"{name} = {level}" for name, level in chosen.held.items())
        return table_html(heads, rows, f"{chosen.metric} by {chosen.factor}{' where ' * bool(held)}{held}")

    def twin_html(self) -> str:
        """Return what is compared, as a picture and a table."""
        self._feed.settle()  # an exported page has what is shown first, also from a notebook's last cell
        return self._picture() + self._table_html()

    def twin_text(self) -> str:
        """Return what is compared, in lines."""
        if self._shown is None:
            return f"ExperimentExplorer: {len(self._frame):,} rows"
        lines = [f"{level.level}: {_median_words(level)}" for level in self._levels]
        return "\n".join([f"ExperimentExplorer: {self._shown.metric} by {self._shown.factor}", *lines])

    def _picture(self) -> str:
        if self._shown is None or not self._levels:
            return ""
        from procbench.views.figures import BLUE, new_axes

        axes = new_axes(1.1 + 0.32 * len(self._levels))
        for place, level in enumerate(self._levels):
            known = math.isfinite(level.low) and math.isfinite(level.high)
            reach = [[level.median - level.low], [level.high - level.median]] if known else None
            axes.errorbar(level.median, place, xerr=reach, fmt="o", color=BLUE, capsize=4)
        axes.set_yticks(range(len(self._levels)), [one_line(level.level, longest=30) for level in self._levels])
        axes.set_ylim(len(self._levels) - 0.5, -0.5)
        axes.set_xlabel(f"{self._shown.metric}, median and 95 % interval where there are enough values")
        said = "; ".join(f"{level.level}: {_median_words(level)}" for level in self._levels)
        return picture_html(axes.figure, f"{self._shown.metric} by {self._shown.factor}. {one_line(said, longest=600)}")


def _check(name: str | None, known: Any, kind: str) -> None:
    if not known:
        raise InvalidInputError(
            f"the frame has no column that can be a {kind}; it must be tidy: a row for each value, with words or whole "
            "numbers for its conditions and a number for what was measured"
        )
    if name is not None and name not in known:
        raise InvalidInputError(f"there is no {kind} {name!r}; there are: {', '.join(known)}")


def _median_words(level: Level) -> str:
    known = math.isfinite(level.low) and math.isfinite(level.high)
    return f"{level.median:.4g}" + (f" [{level.low:.4g}, {level.high:.4g}]" if known else "")


def _effect_words(effect: Effect | None, *, blocks: bool) -> str:
    if effect is None:
        return "not paired: hold more columns still" if blocks else "not paired: no blocks"
    return with_interval(effect.ratio, effect.low, effect.high, 2)
