"""The tables of the affinity experiment: one row for each kind of command, state of the machine and way of pinning."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from procbench.analysis.samples import estimate, fewest_blocks
from procbench.analysis.statistics import Effect, noise_floor, paired_effect
from procbench.experiments.affinity_groups import ALONE, MOVED, NONE, Group, Policy, Sensitivity
from procbench.experiments.columns import estimated, ratio
from procbench.lab.results import AGAIN

if TYPE_CHECKING:
    import pandas as pd

_QUANTILES: Final = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
_Values = Callable[[Group, str], Mapping[str, float]]


def trials(groups: Sequence[Group]) -> pd.DataFrame:
    """Return every trial.

    Returns:
        The columns of :meth:`Trials.frame` (``value`` in commands/s), ``pin``, ``kind``, ``state``, and of the trial's
        commands ``p50_ms``, ``p95_ms``, ``p99_ms``, ``voluntary_switches``, ``involuntary_switches`` and ``failed``.
    """
    import pandas as pd

    frames = []
    for group in groups:
        own = pd.DataFrame(
            {
                **{name: _quantile(batch.walls_s, share) * 1000 for name, share in _QUANTILES.items()},
                "voluntary_switches": batch.voluntary_switches,
                "involuntary_switches": batch.involuntary_switches,
                "failed": batch.failed,
            }
            for batch in group.batches
        )
        frames.append(pd.concat([group.trials.frame().assign(kind=group.kind, state=group.state), own], axis=1))
    return pd.concat(frames, ignore_index=True)


def throughput(groups: Sequence[Group], policies: Sequence[Policy]) -> pd.DataFrame:
    """Return how many commands ran per second.

    Returns:
        ``kind``, ``state``, ``pin`` and ``label``, all its names; ``median``, ``low``, ``high``, commands/s with the interval,
        whose ends are missing where there were too few blocks; ``ratio`` to none, with ``ratio_low``, ``ratio_high``,
        ``noise_floor`` and ``verdict``; none itself has no ratio.
    """
    return _table(
        groups,
        policies,
        lambda group, name: _estimated(group.trials.values(name)),
        lambda group, name: group.effects[name],
    )


def tails(groups: Sequence[Group], policies: Sequence[Policy]) -> pd.DataFrame:
    """Return how long single commands took.

    Returns:
        ``kind``, ``state``, ``pin``, ``label``; ``commands``, how many there are; ``p50_ms``, ``p95_ms``, ``p99_ms`` of all
        their wall times together; and how many times as short the 95th percentile of a block is as with none: ``ratio`` and
        what belongs to it, as in :func:`throughput`.
    """

    def quantiles(group: Group, name: str) -> dict[str, float]:
        walls = [wall for batch in group.of(name) for wall in batch.walls_s]
        found = {column: _quantile(walls, share) * 1000 for column, share in _QUANTILES.items()}
        return {"commands": len(walls), **found}

    return _table(groups, policies, quantiles, _tail_effect)


def moves(groups: Sequence[Group], policies: Sequence[Policy]) -> pd.DataFrame:
    """Return how often a command was moved and interrupted.

    Returns:
        ``kind``, ``state``, ``pin``, ``label``; per command ``migrations``, with ``migrations_low`` and ``migrations_high``, from
        batches that were counted apart from the timing, missing where the kernel does not show them; ``involuntary`` and
        ``voluntary`` switches with their ends, from the timed blocks. Means, as most commands are not moved at all, with
        Student's interval over the batches.
    """

    def counted(group: Group, name: str) -> dict[str, float]:
        batches = group.of(name)
        return {
            **_mean(group.migrations.get(name, ()), "migrations"),
            **_mean([one.involuntary_switches / len(one.walls_s) for one in batches], "involuntary"),
            **_mean([one.voluntary_switches / len(one.walls_s) for one in batches], "voluntary"),
        }

    return _table(groups, policies, counted)


def costs(sensitivity: Sequence[Sensitivity]) -> pd.DataFrame:
    """Return what a move to another CPU costs, one row for each kind of command.

    Returns:
        ``kind``; ``alone_ms`` and ``moved_ms``, CPU time of a command; ``migrations`` of a moved one; ``cost_us``, CPU time
        that one more move cost, with ``low`` and ``high``. Empty where it was not measured.
    """
    import pandas as pd

    found = []
    for one in sensitivity:
        alone, moved = (estimate(one.trials.values(name), resamples=9).median for name in (ALONE, MOVED))
        counts = [
            count
            for trial, count in zip(one.trials.trials, one.migrations, strict=True)
            if trial.condition == MOVED and not trial.warm_up
        ]
        cost = _estimated([1e6 * value for value in one.cost_s()])
        row = {"alone_ms": 1000 * alone, "moved_ms": 1000 * moved, "migrations": statistics.fmean(counts)}
        found.append({"kind": one.kind, **row, "cost_us": cost["median"], "low": cost["low"], "high": cost["high"]})
    return pd.DataFrame(found, columns=["kind", "alone_ms", "moved_ms", "migrations", "cost_us", "low", "high"])


def _table(
    groups: Sequence[Group],
    policies: Sequence[Policy],
    values: _Values,
    effect: Callable[[Group, str], Effect] | None = None,
) -> pd.DataFrame:
    """Return one row for each kind, state and way of pinning, with its values and its effect."""
    import pandas as pd

    found = []
    for group in groups:
        for policy in policies:
            name = policy.name
            gain = {} if effect is None else ratio(None if name == NONE else effect(group, name))
            row = {"kind": group.kind, "state": group.state, "pin": name, "label": policy.label}
            found.append({**row, **values(group, name), **gain})
    return pd.DataFrame(found)


def _tail_effect(group: Group, name: str) -> Effect:
    values = {
        condition: [_quantile(batch.walls_s, _QUANTILES["p95_ms"]) for batch in group.of(condition)]
        for condition in (NONE, NONE + AGAIN, name)
    }
    return paired_effect(
        values[NONE],
        values[name],
        larger_is_better=False,
        noise_floor=noise_floor(values[NONE], values[NONE + AGAIN]),
        condition_name=name,
        baseline_name=NONE,
    )


def _estimated(values: Sequence[float]) -> dict[str, float]:
    """Return median and interval, as columns; unknown is missing."""
    if not values:
        return dict.fromkeys(("median", "low", "high"), math.nan)
    return estimated(values)


def _mean(counts: Sequence[float], name: str) -> dict[str, float]:
    """Return mean and 95 % interval of counts, as columns; unknown is missing."""
    columns = (name, f"{name}_low", f"{name}_high")
    if not counts or not all(map(math.isfinite, counts)):
        return dict.fromkeys(columns, math.nan)
    mean, number, reach = statistics.fmean(counts), len(counts), math.nan
    if number >= fewest_blocks():
        from scipy.special import stdtrit

        reach = float(stdtrit(number - 1, 0.975)) * statistics.stdev(counts) / math.sqrt(number)
    return dict(zip(columns, (mean, max(0.0, mean - reach) if reach >= 0 else reach, mean + reach), strict=True))


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
