"""Where each metric goes and where it jumps: of live samples as of a recorded history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from procbench.analysis.change_points import ChangePoint, change_points
from procbench.analysis.slopes import Direction, Trend, trend
from procbench.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

    from procbench.analysis.series import Values

__all__ = ["COLUMNS", "Direction", "MetricTrend", "PerformanceTrends", "Trend", "metric_trend"]

COLUMNS = ("time_s", "metric", "value")
"""What a frame of samples must have; a monitor's frame has them."""


@dataclass(frozen=True, slots=True)
class MetricTrend:
    """How one metric went.

    Attributes:
        metric: Its name.
        trend: Its slope **beside the jumps**: a metric that jumped once and is level before and after it is stable.
        changes: Its jumps, earliest first.
    """

    metric: str
    trend: Trend
    changes: tuple[ChangePoint, ...]

    @property
    def direction(self) -> Direction:
        """Whether it rises, falls or is stable, beside the jumps."""
        return self.trend.direction

    def __str__(self) -> str:
        jumps = "; ".join(f"from {one.before:.3g} to {one.after:.3g} at sample {one.index}" for one in self.changes)
        return f"{self.metric}: {self.trend}" + (f"; jumps {jumps}" if jumps else "")


@dataclass(frozen=True, slots=True)
class PerformanceTrends(Mapping[str, MetricTrend]):
    """How every metric of a frame went, by its name.

    Attributes:
        metrics: By name, in the order in which they appear.
    """

    metrics: Mapping[str, MetricTrend]

    @classmethod
    def of(
        cls, samples: pd.DataFrame, *, confidence: float = 0.95, periods_s: Mapping[str, float] | None = None
    ) -> PerformanceTrends:
        """Look at every metric of a tidy frame.

        Cost: linear in the samples, and 50 ms a metric.

        Args:
            samples: ``time_s`` (seconds of any clock, best a monotonic one: it is only subtracted), ``metric`` (name) and
                ``value`` (NaN where there is none; left out and counted). Other columns are not looked at.
            confidence: Nominal coverage of the slopes' intervals.
            periods_s: By metric, how long its season lasts, seconds.

        Raises:
            InvalidInputError: A column is missing or holds no numbers, or a season is seen too seldom.
        """
        if missing := [column for column in COLUMNS if column not in samples]:
            raise InvalidInputError(
                f"a frame of samples has columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}"
            )
        seasons, found = periods_s or {}, {}
        for name, part in samples.groupby("metric", sort=False):
            times, values = part["time_s"].to_numpy(), part["value"].to_numpy()
            found[str(name)] = metric_trend(
                str(name), values, times, confidence=confidence, period=seasons.get(str(name))
            )
        return cls(found)

    def frame(self) -> pd.DataFrame:
        """Return one row for each metric.

        Returns:
            ``metric``; ``direction``; ``slope_per_hour`` with ``low`` and ``high``, infinite where unknown; ``count`` and
            ``dropped``, samples; ``changes``, how many jumps; ``last_change_s``, when the last one was, missing without.
        """
        import pandas as pd

        columns = [
            "metric",
            "direction",
            "slope_per_hour",
            "low",
            "high",
            "count",
            "dropped",
            "changes",
            "last_change_s",
        ]
        rows = [
            (
                one.metric,
                one.direction,
                one.trend.slope,
                one.trend.low,
                one.trend.high,
                one.trend.count,
                one.trend.dropped,
                len(one.changes),
                one.changes[-1].time_s if one.changes else None,
            )
            for one in self.values()
        ]
        return pd.DataFrame(rows, columns=columns).astype({"last_change_s": "float64"})

    def __getitem__(self, metric: str) -> MetricTrend:
        return self.metrics[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)


def metric_trend(
    metric: str,
    values: Values,
    times_s: Values | None = None,
    *,
    confidence: float = 0.95,
    period: float | None = None,
) -> MetricTrend:
    """Find a metric's jumps, and the slope beside them.

    Args:
        metric: Its name.
        values: Any unit; NaN and infinite ones are left out and counted.
        times_s: When each was taken, seconds; None counts the slope by samples.
        confidence: Nominal coverage of the slope's interval.
        period: How long a season lasts, in seconds, or in samples where there are no times.

    Raises:
        InvalidInputError: As in :func:`procbench.analysis.slopes.trend`.
    """
    changes = change_points(values, times_s, period=period)
    slope = trend(values, times_s, confidence=confidence, period=period, breaks=[one.index for one in changes])
    return MetricTrend(metric, slope, changes)
