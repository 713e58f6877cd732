"""How many commands per second procbench runs, by number of workers, and the law that is fitted to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from procbench.analysis.scaling import FEWEST_COUNTS, Fitted, ScalingFit, fit_scaling
from procbench.analysis.statistics import paired_effect
from procbench.experiments.columns import ends, estimated, rows
from procbench.experiments.ways import PROCBENCH
from procbench.lab.results import Trials

if TYPE_CHECKING:
    import pandas as pd

BEYOND: Final = 2
"""Times the most workers that were measured is how far the law is asked."""

_STEPS: Final = 60


@dataclass(frozen=True)
class Curve:
    """Commands per second by number of workers.

    Attributes:
        trials: The measurement; its conditions have the factors ``way`` and ``workers``.
        limits_s: By number of workers, seconds below which no scheduler gets with a batch.
        tasks: Commands in a batch.
    """

    trials: Trials
    limits_s: Mapping[int, float]
    tasks: int

    @cached_property
    def fit(self) -> ScalingFit | None:
        """The law of :mod:`procbench.analysis.scaling`; None where too few numbers of workers were measured for it."""
        names = self._conditions()
        if len(names) < FEWEST_COUNTS:
            return None
        rates = {count: [self.tasks / value for value in self.trials.values(name)] for count, name in names.items()}
        return fit_scaling(rates, seed=self.trials.seed)

    def table(self) -> pd.DataFrame:
        """Return one row per number of workers.

        Returns:
            ``workers``; ``median_s``, ``low_s``, ``high_s`` and ``limit_s``, seconds; ``limit_share``, the limit as a share of
            the median; ``per_s``, ``per_s_low``, ``per_s_high`` and ``limit_per_s``, commands per second; ``speedup``, how many
            times as fast as with one worker, with ``speedup_low`` and ``speedup_high``. Ends are missing where there were too
            few blocks.
        """
        import pandas as pd

        found, names = [], self._conditions()
        for count, name in names.items():
            times, limit_s = estimated(self.trials.values(name), "_s"), self.limits_s[count]
            speedup = paired_effect(self.trials.values(names[1]), self.trials.values(name), larger_is_better=False)
            found.append(
                {
                    "workers": count,
                    **times,
                    "limit_s": limit_s,
                    "limit_share": limit_s / times["median_s"],
                    "per_s": self.tasks / times["median_s"],
                    "per_s_low": self.tasks / times["high_s"],
                    "per_s_high": self.tasks / times["low_s"],
                    "limit_per_s": self.tasks / limit_s,
                    "speedup": speedup.ratio,
                    **ends("speedup", speedup),
                }
            )
        return pd.DataFrame(found)

    def predicted(self) -> pd.DataFrame:
        """Return what the law expects, up to twice the workers that were measured; no row where nothing was fitted.

        Returns:
            ``workers``, in steps that draw a smooth line; ``per_s`` with ``per_s_low`` and ``per_s_high``, commands per second;
            ends are missing where there were too few blocks.
        """
        import pandas as pd

        found = []
        if self.fit is not None:
            last = BEYOND * self.fit.most
            for workers in (1 + (last - 1) * step / _STEPS for step in range(_STEPS + 1)):
                rate = self.fit.predict(workers)
                found.append((workers, rate.value, *_known(rate)))
        return pd.DataFrame(found, columns=["workers", "per_s", "per_s_low", "per_s_high"], dtype=float)

    def law(self) -> pd.DataFrame:
        """Return the law's numbers; no row where nothing was fitted.

        Returns:
            ``name``; ``value`` with ``low`` and ``high``, missing where there were too few blocks. Of the number of workers at
            the peak, whatever lies beyond what was measured is infinite: nothing else is known of it.
        """
        import pandas as pd

        found: list[tuple[str, float, float, float]] = []
        if self.fit is not None:
            fit, far = self.fit, BEYOND * self.fit.most
            named = {
                "λ, commands per s of one worker": fit.rate,
                "σ, contention": fit.contention,
                "κ, coherence": fit.coherence,
                f"commands per s foreseen for {far} workers": fit.predict(far),
            }
            found = [(name, one.value, *_known(one)) for name, one in named.items()]
            peak = (fit.peak.value, fit.peak.low, fit.peak.high)
            value, low, high = (math.inf if end > fit.most else end for end in peak)
            if not fit.has_intervals:
                low = high = math.nan
            found.insert(3, ("N*, workers at the peak", value, low, high))
        return pd.DataFrame(found, columns=["name", "value", "low", "high"])

    def alt(self) -> str:
        """Return the figure in words."""
        rates = ", ".join(
            f"{row['workers']}: {row['per_s']:.3g} (limit {row['limit_per_s']:.3g})" for row in rows(self.table())
        )
        law = "" if self.fit is None else f" The law fitted to them {self.peak_words()}."
        return f"Commands per second with procbench, by number of workers: {rates}.{law}"

    def peak_words(self) -> str:
        """Return what the law says of its peak; empty where nothing was fitted."""
        if self.fit is None:
            return ""
        fit, peak = self.fit, self.fit.peak
        place = f"{peak.value:.2g} workers" if fit.peak_is_measured else f"more workers than the {fit.most} measured"
        reach = ""
        if fit.has_intervals and peak.low <= fit.most:
            end = f"to {peak.high:.2g}" if peak.high <= fit.most else "to beyond what was measured"
            reach = f", {100 * fit.confidence:g} % interval {peak.low:.2g} {end}"
        return f"has its peak at {place}{reach}"

    def _conditions(self) -> dict[int, str]:
        """Return the conditions in which procbench ran, by number of workers, ascending."""
        named = {f["workers"]: name for name, f in self.trials.factors.items() if f["way"] == PROCBENCH}
        return dict(sorted(named.items()))


def _known(one: Fitted) -> tuple[float, float]:
    return (one.low, one.high) if math.isfinite(one.high) else (math.nan, math.nan)
