"""Prometheus metrics of the service, in a separate registry."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Gauge, Info, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from service.latency.stages import Regime, Stage

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Media type of `Metrics.render`."""

BUCKETS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds of the histograms' buckets, in seconds.

The defaults of the client library start at 5 ms, which is longer than most networks take.
"""

_BOUNDS_NS = tuple(round(bound * 1e9) for bound in BUCKETS_S)
_BOUND_LABELS = (*(str(bound) for bound in BUCKETS_S), "+Inf")


class Metrics(Collector):
    """Histograms of durations, counters of errors, and gauges of the service.

    Durations and errors are counted here, because the client library's objects accept only one duration at a
    time. They would also export `_created` series, unless a process-wide switch disables this. Callers must
    pass only names of existing models, because each name creates about a hundred series.
    """

    def __init__(
        self,
        build: Mapping[str, str],
        registry: CollectorRegistry | None = None,
        machine: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`build`, `machine`: labels of `weighin_build_info` and `weighin_machine_info`.

        If `machine` is empty, `weighin_machine_info` is left out. If `registry` is None, a new one is
        created.
        """
        self._lock = threading.Lock()
        self._observed: dict[tuple[str, Regime, Stage], _Observed] = {}
        self._errors: dict[tuple[str, str], int] = {}
        self._expected_errors: Callable[[], Iterable[tuple[str, str]]] = lambda: ()
        self._runtimes: Callable[[], Iterable[tuple[str, str, str]]] = lambda: ()
        self._before_collecting: Callable[[], None] = lambda: None
        self._registry = CollectorRegistry(auto_describe=False) if registry is None else registry
        ProcessCollector(namespace="weighin", registry=self._registry)
        Info("weighin_build", "Versions in use", registry=self._registry).info(dict(build))
        if machine:
            Info("weighin_machine", "Machine of this process", registry=self._registry).info(dict(machine))
        self._registry.register(self)

    def before_collecting(self, callback: Callable[[], None]) -> None:
        """Set a callback that runs before metrics are collected."""
        self._before_collecting = callback

    def observe(self, model: str, regime: Regime, stage: Stage, durations_ns: Iterable[int]) -> None:
        """Count durations of one stage of one model, in nanoseconds."""
        with self._lock:
            observed = self._observed.setdefault((model, regime, stage), _Observed())
            for duration_ns in durations_ns:
                observed.counts[bisect_left(_BOUNDS_NS, duration_ns)] += 1
                observed.sum_ns += duration_ns

    def count_error(self, model: str | None, slug: str, count: int = 1) -> None:
        """Count failed requests. `model` is None if they failed before a model was known."""
        key = (model or "", slug)
        with self._lock:
            self._errors[key] = self._errors.get(key, 0) + count

    def watch(
        self,
        *,
        waiting: Callable[[], int],
        running: Callable[[], int],
        models_loaded: Callable[[], int] | None = None,
        degraded: Callable[[], bool] | None = None,
        errors: Callable[[], Iterable[tuple[str, str]]] = lambda: (),
        runtimes: Callable[[], Iterable[tuple[str, str, str]]] = lambda: (),
    ) -> None:
        """Register the functions that return the values of the gauges on every collection.

        Call this method once. `errors` returns model and slug (kind of error) of each counter to export as 0
        before its first error. `runtimes` returns model, runtime and precision of each loaded model.
        """
        self._expected_errors = errors
        self._runtimes = runtimes
        for name, explanation, read in (
            ("weighin_requests_waiting", "Requests in the queue in front of the pool", waiting),
            ("weighin_requests_running", "Requests being worked on", running),
            ("weighin_models_loaded", "Models that are loaded", models_loaded),
            ("weighin_state_degraded", "1 while state cannot be written, else 0", degraded),
        ):
            if read is not None:
                Gauge(name, explanation, registry=self._registry).set_function(read)

    def render(self) -> bytes:
        """Return all metrics in the exposition format of `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Yield the histograms and counters; called by the registry."""
        self._before_collecting()
        # Copy under the lock and format outside, because formatting takes milliseconds.
        with self._lock:
            observations = [
                (series, list(observed.counts), observed.sum_ns)
                for series, observed in self._observed.items()
            ]
            errors = dict(self._errors)

        histogram = HistogramMetricFamily(
            "weighin_stage_duration_seconds", "Time spent in a stage", labels=("model", "regime", "stage")
        )
        for series, counts, sum_ns in observations:
            buckets = list(zip(_BOUND_LABELS, accumulate(counts), strict=True))
            histogram.add_metric(series, buckets, sum_ns / 1e9)
        yield histogram

        counter = CounterMetricFamily(
            "weighin_errors",
            "Failed requests, each counted once, by kind (the problem's type); model is empty if it was not "
            "known or the route runs no model; paths without a route are not counted",
            labels=("model", "kind"),
        )
        for labels, count in (dict.fromkeys(self._expected_errors(), 0) | errors).items():
            counter.add_metric(labels, count)
        yield counter

        runs = GaugeMetricFamily(
            "weighin_model_runtime_info",
            "1 for the runtime that runs a model's predictions now; durations pool all runtimes",
            labels=("model", "runtime", "precision"),
        )
        for named in self._runtimes():
            runs.add_metric(named, 1)
        yield runs


class _Observed:
    """Durations of one model, regime and stage: their number per bucket (not cumulative), and their sum."""

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_ns = 0
