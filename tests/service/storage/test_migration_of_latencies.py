"""A database of schema 0004, as that version wrote it, is migrated and shows the same figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from service.latency.buckets import DAY_S, HOUR_S, MINUTE_S
from service.latency.histogram import Distribution, HistogramCodec
from service.latency.prometheus import Metrics
from service.latency.query import Latencies
from service.latency.recorder import Recorder
from service.latency.store import LatencyStore
from service.storage.database import open_database, prepare

pytestmark = pytest.mark.databases("sqlite", "postgresql")

TODAY = 20_000 * DAY_S
NOW = TODAY + 5 * HOUR_S + 20 * MINUTE_S + 7
Key = tuple[str, str, str]
"""Regime, model and stage."""


_INSERT_RUNS = text(
    "INSERT INTO latency_histograms (resolution_s, regime, start, model, stage, instance, count, sum_ns, "
    "max_ns, histogram, p50_ns, p90_ns, p95_ns, p99_ns) VALUES (:resolution_s, :regime, :start, :model, "
    ":stage, :instance, :count, :sum_ns, :max_ns, :histogram, :p50, :p90, :p95, :p99)"
)
_INSERT_ERRORS = text(
    "INSERT INTO latency_errors (resolution_s, regime, start, model, slug, instance, count) "
    "VALUES (:resolution_s, 'live', :start, :model, 'busy', :instance, :count)"
)


class Before:
    """Rows as the version with schema 0004 had them at NOW: minutes of two processes, summed up to the hour
    that ended two minutes ago and to the end of yesterday; and a plain list of what was recorded."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, Key, int]] = []
        self.errors: list[tuple[int, str]] = []
        first = TODAY - 10 * DAY_S
        for number in range(10 * 24 * 4 + 21):
            moment = first + number * 15 * MINUTE_S
            for key in (("live", "one", "total"), ("live", "two", "decode"), ("compare", "one", "total")):
                for run in range(1 + number % 3):
                    self.samples.append((moment, key, (5 + number % 7 + run) * 311_111))
            if number % 2:
                self.errors.append((moment, "one" if number % 4 == 1 else ""))
        # An instance without the database for an hour wrote that hour in one row, of yesterday.
        self.late = (TODAY - 20 * HOUR_S, ("live", "one", "total"), 77_000_000)

    def write(self, connection: Connection) -> None:
        hours_until, days_until = TODAY + 5 * HOUR_S, TODAY
        minutes_from, hours_from = TODAY - 2 * DAY_S + 5 * HOUR_S, TODAY - 7 * DAY_S
        for name, until in (
            ("hours_until", hours_until),
            ("days_until", days_until),
            ("minutes_from", minutes_from),
            ("hours_from", hours_from),
        ):
            connection.execute(
                text("INSERT INTO latency_progress VALUES (:name, :until)"), {"name": name, "until": until}
            )
        at, key, duration = self.late
        for resolution_s, begin, end in (
            (MINUTE_S, minutes_from, NOW),
            (HOUR_S, hours_from, hours_until),
            (DAY_S, 0, days_until),
        ):
            runs: defaultdict[tuple[int, str, Key], list[int]] = defaultdict(list)
            failures: Counter[tuple[int, str, str]] = Counter()
            for place, (moment, series, spent) in enumerate(self.samples):
                if begin <= moment < end:
                    instance = f"process {place % 2}" if resolution_s == MINUTE_S else ""
                    runs[moment // resolution_s * resolution_s, instance, series].append(spent)
            for place, (moment, model) in enumerate(self.errors):
                if begin <= moment < end:
                    instance = f"process {place % 2}" if resolution_s == MINUTE_S else ""
                    failures[moment // resolution_s * resolution_s, instance, model] += 1
            if resolution_s == HOUR_S:
                runs[at, "late", key].append(duration)
            elif resolution_s == DAY_S:
                runs[at // DAY_S * DAY_S, "", key].append(duration)
            for (start, instance, series), spent in runs.items():
                _insert_runs(connection, resolution_s, start, instance, series, spent)
            for (start, instance, model), count in failures.items():
                figures = {"start": start, "model": model, "instance": instance, "count": count}
                connection.execute(_INSERT_ERRORS, {"resolution_s": resolution_s, **figures})
        self.samples.append(self.late)


def _insert_runs(
    connection: Connection, resolution_s: int, start: int, instance: str, key: Key, spent: list[int]
) -> None:
    distribution = Distribution.of(spent)
    percentiles = (None,) * 4 if instance else distribution.percentiles_ns()
    connection.execute(
        _INSERT_RUNS,
        {
            "resolution_s": resolution_s,
            "start": start,
            "instance": instance,
            **dict(zip(("regime", "model", "stage"), key, strict=True)),
            "count": distribution.count,
            "sum_ns": distribution.sum_ns,
            "max_ns": distribution.max_ns,
            "histogram": HistogramCodec().encode(distribution),
            **dict(zip(("p50", "p90", "p95", "p99"), percentiles, strict=True)),
        },
    )


@pytest.fixture
def engine(tmp_path: Path, database_url: str | None) -> Iterator[Engine]:
    engine = open_database(database_url, tmp_path)
    yield engine
    engine.dispose()


@pytest.mark.slow
def test_figures_of_before_are_shown(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Before()
    with monkeypatch.context() as at_schema_4:
        at_schema_4.setattr("service.storage.database.SCHEMA", "0004")
        prepare(engine)
    with engine.begin() as connection:
        before.write(connection)

    store = LatencyStore(engine)
    recorder = Recorder(store, Metrics({}), clock=lambda: NOW)
    recorder.flush()
    assert recorder.problem is None
    latencies = Latencies(recorder)
    _check(latencies, before)
    # What is recorded from here on adds to the same hour and day.
    recorder.record("one", "live", {"total": 1_000_000}, "a" * 64)
    before.samples.append((int(NOW), ("live", "one", "total"), 1_000_000))
    _check(latencies, before)
    recorder.flush()
    _check(Latencies(Recorder(store, Metrics({}), clock=lambda: NOW)), before)
    # A day later the sums that the migration made are of hours and of a day that are over.
    later = Recorder(store, Metrics({}), clock=lambda: NOW + DAY_S)
    later.flush()
    assert later.problem is None
    _check(Latencies(later), before, NOW + DAY_S)


def _check(latencies: Latencies, before: Before, now: float = NOW) -> None:
    for since_s, kept_s in (
        (15 * MINUTE_S, MINUTE_S),
        (4 * HOUR_S, MINUTE_S),
        (24 * HOUR_S, MINUTE_S),
        (47 * HOUR_S, MINUTE_S),
        (3 * DAY_S, HOUR_S),
        (9 * DAY_S, DAY_S),
    ):
        for regime in ("live", "compare"):
            window, figures = latencies.window(regime, now - since_s)
            assert window.resolution_s == kept_s
            assert figures.summaries == _expected(before, regime, window.start)
        window, figures = latencies.window("live", now - since_s)
        assert {model: kinds["busy"] for model, kinds in figures.errors.items()} == Counter(
            model for moment, model in before.errors if moment >= window.start
        )
    for since_s, step_s in (
        (4 * HOUR_S, 900),
        (40 * HOUR_S, HOUR_S),
        (6 * DAY_S, HOUR_S),
        (9 * DAY_S, DAY_S),
    ):
        window, points = latencies.history("live", now - since_s, step_s)
        assert window.resolution_s == step_s
        for start, figures in points:
            assert figures.summaries == _expected(before, "live", start, start + step_s)
        assert sum(len(figures.summaries) > 0 for _, figures in points) == len(
            {moment // step_s for moment, *_ in before.samples if moment >= window.start}
        )


def _expected(before: Before, regime: str, start: float, end: float = float("inf")) -> dict[object, object]:
    durations: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for moment, (its_regime, model, stage), duration in before.samples:
        if its_regime == regime and start <= moment < end:
            durations[model, stage].append(duration)
    return {key: Distribution.of(each).summary() for key, each in durations.items()}
