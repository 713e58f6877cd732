"""A monitor's figures for Prometheus, while it runs: OpenMetrics over HTTP, for this machine only.

A total is exported as the counter that it is, not as a rate, which Prometheus makes itself. Names carry the unit as Prometheus
wants it: ``procbench_disk_read_bytes_total``, ``procbench_cpu_busy_ratio``.

Source: the OpenMetrics specification; "Metric and label naming" of the Prometheus documentation.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Self

from procbench.errors import InvalidInputError
from procbench.monitoring.collectors import Metric
from procbench.monitoring.monitor import PerformanceMonitor
from procbench.monitoring.watched import Watched

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    Family = CounterMetricFamily | GaugeMetricFamily

ADDRESS: Final = "127.0.0.1"
"""Who can ask: this machine. What runs on it is nobody else's business, and there is no password."""

_UNITS: Final = {"bytes": ("bytes", 1.0), "s": ("seconds", 1.0), "share": ("ratio", 1.0), "%": ("ratio", 0.01)} | {
    unit: ("seconds", factor) for unit, factor in (("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
}
_HIGHEST_PORT: Final = 65_535


class MetricsServer:
    """Answers Prometheus with what a monitor found last, until it is closed; a context manager.

    Args:
        monitor: Whose figures they are.
        port: Where; 0 lets the system choose one.

    Attributes:
        port: Where.
        url: The page to scrape.

    Raises:
        InvalidInputError: That is no port.
        OSError: It cannot be had: somebody else has it, or it is kept for root.
    """

    def __init__(self, monitor: PerformanceMonitor, port: int = 0) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= _HIGHEST_PORT:
            raise InvalidInputError(f"a port is a whole number from 0 to {_HIGHEST_PORT}, and not {port!r}")
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families(monitor))
        self._server: WSGIServer | None
        self._thread: threading.Thread
        self._server, self._thread = start_http_server(port, ADDRESS, registry)
        self.port = int(self._server.server_port)
        self.url = f"http://{ADDRESS}:{self.port}/metrics"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer no more. Harmless when called twice."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()


class _Families:
    """What the library asks at each scrape."""

    def __init__(self, monitor: PerformanceMonitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Family]:
        """Yield every metric with its values; what is NaN is left out, as is a name that another one has after being made fit."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, Family] = {}
        given: set[tuple[str, str]] = set()
        for watched in self._monitor.watched:
            for metric, word, item, value in _values(watched):
                unit, factor = _UNITS.get(metric.unit, ("", 1.0))
                name = _fit(f"procbench_{watched.name}_{word}").removesuffix("_total")  # which is for counters alone
                if not metric.counter:
                    name = name.removesuffix("_count")  # which is for histograms alone
                labels = [] if item is None else [_fit(metric.label)]
                kind = CounterMetricFamily if metric.counter else GaugeMetricFamily
                family = families.setdefault(name, kind(name, metric.help, labels=labels, unit=unit))
                if (name, item or "") in given or type(family) is not kind or list(family._labelnames) != labels:
                    continue
                given.add((name, item or ""))
                family.add_metric([] if item is None else [item], value * factor)
        yield from families.values()
        skipped = CounterMetricFamily(
            "procbench_monitor_skipped_ticks", "Ticks at which a collector was not asked", labels=["collector"]
        )
        for name, count in self._monitor.skipped.items():
            skipped.add_metric([name], count)
        yield skipped


def _values(watched: Watched) -> Iterator[tuple[Metric, str, str | None, float]]:
    """Yield each metric that has a value now, its word, what stands in brackets behind it, and the value or total."""
    latest = watched.latest
    if latest is None:
        return
    for name, rate in latest.values.items():
        metric = watched.metric(name)
        value = latest.totals.get(name, rate)
        word, bracket, item = name.partition("[")
        if not math.isnan(value):
            yield metric, word, item.removesuffix("]") if bracket else None, value


def _fit(name: str) -> str:
    """Return a name that Prometheus takes: letters, digits and underscores, and no digit first."""
    fit = re.sub(r"[^a-zA-Z0-9_]+", "_", name).strip("_") or "item"
    return f"_{fit}" if fit[0].isdigit() else fit
