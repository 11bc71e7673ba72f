"""What `/metrics` shows: counters, gauges and histograms for Prometheus, in a registry of their own."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from service.latency.stages import Durations, Regime, Stage

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Media type of `Metrics.render`."""

BUCKETS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds in seconds. The client library's own start at 5 ms, where most of these networks are done."""

_BOUNDS_NS = tuple(round(bound * 1e9) for bound in BUCKETS_S)
_BOUND_LABELS = (*(str(bound) for bound in BUCKETS_S), "+Inf")


class Metrics(Collector):
    """Collects what happened and shows it in Prometheus' text format.

    Values live here and not in the client library's objects: those take two locks and a loop over the buckets
    per observation, and add a `_created` series to each that only a process-wide switch can take away.
    Callers pass only names of models that exist: each one makes some hundred series.
    """

    def __init__(self, build: Mapping[str, str], registry: CollectorRegistry | None = None) -> None:
        """`build`: labels of `weighin_build_info`. `registry`: a fresh one when left out."""
        self._build = dict(build)
        self._lock = threading.Lock()
        self._durations: dict[tuple[str, Regime], dict[Stage, _Observed]] = {}
        self._errors: dict[tuple[str, str], int] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._expected_errors: Callable[[], Iterable[tuple[str, str]]] | None = None
        self._registry = CollectorRegistry(auto_describe=False) if registry is None else registry
        ProcessCollector(namespace="weighin", registry=self._registry)
        self._registry.register(self)

    def observe(self, model: str, regime: Regime, durations: Durations) -> None:
        """Count one recorded run."""
        with self._lock:
            series = self._durations.setdefault((model, regime), {})
            for stage, duration_ns in durations.items():
                observed = series.get(stage)
                if observed is None:
                    observed = series[stage] = _Observed()
                observed.counts[bisect_left(_BOUNDS_NS, duration_ns)] += 1
                observed.sum_ns += duration_ns

    def count_error(self, model: str | None, slug: str) -> None:
        """Count one failed request; `model` is None when it failed before a model was known."""
        key = (model or "", slug)
        with self._lock:
            self._errors[key] = self._errors.get(key, 0) + 1

    def watch(
        self,
        *,
        waiting: Callable[[], int],
        running: Callable[[], int],
        models_loaded: Callable[[], int] | None = None,
        degraded: Callable[[], bool] | None = None,
        errors: Callable[[], Iterable[tuple[str, str]]] | None = None,
    ) -> None:
        """Give the gauges that are read whenever metrics are shown.

        `errors`: model and kind of each error that is shown before it happens, as 0.
        """
        self._expected_errors = errors
        self._gauges["weighin_requests_waiting"] = ("Requests in the queue in front of the pool", waiting)
        self._gauges["weighin_requests_running"] = ("Requests being worked on", running)
        if models_loaded is not None:
            self._gauges["weighin_models_loaded"] = ("Models that are loaded", models_loaded)
        if degraded is not None:
            self._gauges["weighin_state_degraded"] = ("1 while state cannot be written, else 0", degraded)

    def render(self) -> bytes:
        """All metrics in the exposition format that `CONTENT_TYPE` names."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The current values; called by the registry."""
        # Copied under the lock, formatted outside of it: formatting takes milliseconds.
        with self._lock:
            durations = [
                (model, regime, stage, list(observed.counts), observed.sum_ns)
                for (model, regime), series in self._durations.items()
                for stage, observed in series.items()
            ]
            errors = dict(self._errors)

        expected = () if self._expected_errors is None else self._expected_errors()
        errors = dict.fromkeys(expected, 0) | errors

        yield InfoMetricFamily("weighin_build", "Versions in use", value=self._build)
        for name, (explanation, read) in self._gauges.items():
            yield GaugeMetricFamily(name, explanation, value=float(read()))

        histogram = HistogramMetricFamily(
            "weighin_stage_duration_seconds", "Time spent in a stage", labels=("model", "regime", "stage")
        )
        for model, regime, stage, counts, sum_ns in durations:
            buckets = list(zip(_BOUND_LABELS, accumulate(counts), strict=True))
            histogram.add_metric((model, regime, stage), buckets, sum_ns / 1e9)
        yield histogram

        counter = CounterMetricFamily(
            "weighin_errors",
            "Failed requests, each counted once, by kind (the problem's type); model is empty if none was "
            "known or the route runs none; paths without a route are not counted",
            labels=("model", "kind"),
        )
        for (name, slug), count in errors.items():
            counter.add_metric((name, slug), count)
        yield counter


class _Observed:
    """Durations of one series: how many within each bound but not the one below, and their sum."""

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_ns = 0
