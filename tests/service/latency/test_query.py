"""Windows and histories are what was recorded: in memory or in the database, by minute, hour or day."""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from service.errors import InvalidParameter
from service.latency.buckets import DAY_S, HOUR_S, MINUTE_S
from service.latency.histogram import Distribution, Summary
from service.latency.prometheus import Metrics
from service.latency.query import MAX_STEPS, Latencies
from service.latency.recorder import Recorder
from service.latency.store import LatencyStore
from service.latency.tables import latency_histograms
from service.storage.database import open_database

pytestmark = pytest.mark.databases("sqlite", "postgresql")

START = 20_000 * DAY_S + 5 * HOUR_S
MODELS = ("one", "two")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = float(START)

    def __call__(self) -> float:
        return self.now


@functools.cache
def summary_of(durations: tuple[int, ...]) -> Summary:
    """Summarise durations; the same ones are expected again and again."""
    return Distribution.of(durations).summary()


class World:
    """A service that is restarted now and then, and a plain list of all that it ever recorded."""

    def __init__(self, folder: Path, migrated_url: str | None, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.store = LatencyStore(open_database(migrated_url, folder))
        self.samples: list[tuple[float, str, int]] = []
        self.errors: list[tuple[float, str]] = []
        self.restart()

    def restart(self) -> None:
        self.recorder = Recorder(self.store, Metrics({}), clock=self.clock)
        self.recorder.flush()
        self.latencies = Latencies(self.recorder)

    def record(self) -> None:
        for _ in range(self.random.randrange(4)):
            model, duration = self.random.choice(MODELS), self.random.randrange(1_000_000, 90_000_000)
            self.samples.append((self.clock(), model, duration))
            self.recorder.record(model, "live", {"total": duration})
        if self.random.random() < 0.2:
            self.errors.append((self.clock(), "one"))
            self.recorder.record_error("one", "live", "queue-full")
        if self.random.random() < 0.2:
            self.recorder.record("one", "compare", {"total": 1})

    def expected(self, start: float, end: float = float("inf")) -> dict[str, Summary]:
        durations: dict[str, list[int]] = defaultdict(list)
        for at, model, duration in self.samples:
            if start <= at < end:
                durations[model].append(duration)
        return {model: summary_of(tuple(each)) for model, each in durations.items()}

    def check(self) -> None:
        now = self.clock()
        for length_s in (MINUTE_S, HOUR_S, DAY_S, 3 * DAY_S, 20 * DAY_S):
            window, figures = self.latencies.window("live", now - length_s)
            assert window.degraded is None
            assert window.end == now
            assert now - length_s - window.resolution_s < window.start <= now - length_s
            assert {model: s for (model, _), s in figures.summaries.items()} == self.expected(window.start)
            _, of_one = self.latencies.window("live", now - length_s, model="one", stage="total")
            assert of_one.summaries == {k: s for k, s in figures.summaries.items() if k[0] == "one"}
            assert of_one.errors == {model: e for model, e in figures.errors.items() if model == "one"}
            _, totals = self.latencies.window("live", now - length_s, totals_only=True)
            unknown = dict.fromkeys(("p50_ms", "p90_ms", "p95_ms", "p99_ms"))
            assert totals.summaries == {k: replace(s, **unknown) for k, s in figures.summaries.items()}
            assert totals.errors == figures.errors
            told = sum(n for counts in figures.errors.values() for n in counts.values())
            assert told == sum(1 for at, _ in self.errors if at >= window.start)
        for length_s, step_s in (
            (HOUR_S, None),
            (HOUR_S, 300),
            (DAY_S, 900),
            (3 * DAY_S, HOUR_S),
            (3 * DAY_S, 7200),
            (DAY_S, 5400),  # no whole number of hours
            (6 * DAY_S, 36 * HOUR_S),
            (20 * DAY_S, 3 * DAY_S),
            (20 * DAY_S, None),
        ):
            window, points = self.latencies.history("live", now - length_s, step_s)
            step_s = window.resolution_s
            _, of_two = self.latencies.history("live", now - length_s, step_s, model="two")
            assert [(at, figures.summaries) for at, figures in of_two] == [
                (at, {k: s}) for at, figures in points for k, s in figures.summaries.items() if k[0] == "two"
            ]
            for at, figures in points:
                found = {model: s for (model, _), s in figures.summaries.items()}
                assert found == self.expected(at, at + step_s)
            assert [at for at, _ in points] == sorted(
                {
                    int(at // step_s) * step_s
                    for at in [*(at for at, *_ in self.samples), *(at for at, _ in self.errors)]
                    if at >= window.start
                }
            )


@pytest.fixture
def store(tmp_path: Path, migrated_url: str | None) -> Iterator[LatencyStore]:
    store = LatencyStore(open_database(migrated_url, tmp_path))
    yield store
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.databases("sqlite")
def test_search_equals_a_plain_list(tmp_path: Path, migrated_url: str | None, seed: int) -> None:
    world = World(tmp_path, migrated_url, seed)
    for step in range(130):
        world.record()
        world.clock.now += world.random.choice((1, 20, 60, 600, HOUR_S, 4 * HOUR_S, 6 * HOUR_S))
        if world.random.random() < 0.7:
            world.recorder.flush()
        if world.random.random() < 0.05:
            world.recorder.flush()
            world.restart()
        if step % 12 == 0:
            world.check()
    world.recorder.flush()
    world.check()
    assert world.clock.now - START > 7 * DAY_S
    world.store.close()


@pytest.mark.slow
@pytest.mark.databases("postgresql")
def test_postgresql_search_equals_a_plain_list(tmp_path: Path, migrated_url: str | None) -> None:
    test_search_equals_a_plain_list(tmp_path, migrated_url, 3)


@pytest.mark.slow
def test_query_after_the_clock_is_set_back(tmp_path: Path, migrated_url: str | None) -> None:
    world = World(tmp_path, migrated_url, 0)
    for _ in range(60):
        world.record()
        world.clock.now += 20 * MINUTE_S
        world.recorder.flush()
    world.check()
    world.clock.now -= 5 * HOUR_S  # what was recorded by the wrong clock is yet to come
    future = world.clock.now + MINUTE_S
    world.samples = [sample for sample in world.samples if sample[0] < future]
    world.errors = [error for error in world.errors if error[0] < future]
    for _ in range(5):
        world.record()
        world.check()
        world.recorder.flush()
        world.check()
        world.clock.now += 5
    world.store.close()


@pytest.mark.parametrize("flushed_ahead", [True, False])
def test_cache_after_the_clock_was_ahead(store: LatencyStore, *, flushed_ahead: bool) -> None:
    clock = Clock()
    recorder = Recorder(store, Metrics({}), clock=clock)
    recorder.flush()
    latencies = Latencies(recorder)
    clock.now += 4 * HOUR_S
    assert latencies.window("live", START - HOUR_S)[1].summaries == {}
    assert latencies.history("live", START - HOUR_S, HOUR_S)[1] == []
    if flushed_ahead:
        recorder.flush()
    clock.now = START + 5
    for _ in range(20):
        recorder.record("one", "live", {"total": 1_000_000})
        recorder.flush()
        clock.now += MINUTE_S
    for hours in (0, 1, 5):
        clock.now += hours * HOUR_S
        recorder.flush()
        _, figures = latencies.window("live", START - HOUR_S)
        assert figures.summaries["one", "total"].count == 20
        _, points = latencies.history("live", START - HOUR_S, HOUR_S)
        assert [figures.summaries["one", "total"].count for _, figures in points] == [20]


@pytest.mark.parametrize("back", [600, 3 * DAY_S, 400 * DAY_S])
def test_a_clock_that_is_set_back_during_a_question(back: int, store: LatencyStore) -> None:
    clock = Clock()
    recorder = Recorder(store, Metrics({}), clock=clock)
    recorder.record("one", "live", {"total": 1_000_000})
    recorder.flush()
    latencies = Latencies(recorder)
    since = clock.now - MINUTE_S
    clock.now -= back
    for step_s in (None, MINUTE_S, DAY_S):
        window, _ = latencies.history("live", since, step_s)
        assert window.start <= window.end
    window, _ = latencies.window("live", since)
    assert window.start <= window.end


def test_closed_buckets_are_read_once(store: LatencyStore) -> None:
    clock = Clock()
    recorder = Recorder(store, Metrics({}), clock=clock)
    for _ in range(5):
        recorder.record("one", "live", {"total": 1_000_000})
        recorder.flush()
        clock.now += HOUR_S
    recorder.flush()
    latencies = Latencies(recorder)
    before = latencies.window("live", START)[1], latencies.history("live", START)[1]
    with store._engine.begin() as connection:
        connection.execute(latency_histograms.delete())
    assert (latencies.window("live", START)[1], latencies.history("live", START)[1]) == before
    assert latencies.window("live", START)[1].summaries[("one", "total")].count == 5


@pytest.mark.slow
def test_history_with_and_without_stored_percentiles(store: LatencyStore) -> None:
    clock = Clock()
    recorder = Recorder(store, Metrics({}), clock=clock)
    for hour in range(60):
        for run in range(70):
            recorder.record("one", "live", {"total": (1 + run) * 100_000 * (1 + hour % 7)})
        recorder.record_error("one", "live", "queue-full")
        recorder.record("two", "live", {"total": 5_000_000, "decode": 3_000_000})
        recorder.flush()
        clock.now += HOUR_S
    recorder.flush()

    def histories() -> list[object]:
        latencies = Latencies(recorder)
        return [latencies.history("live", START, step_s) for step_s in (HOUR_S, 2 * HOUR_S, DAY_S)]

    told = histories()
    every = update(latency_histograms).where(latency_histograms.c.p50_ns.is_not(None))
    one = every.where(latency_histograms.c.model == "two", latency_histograms.c.stage == "decode")
    for forgotten in (one, every):
        with store._engine.begin() as connection:
            assert connection.execute(forgotten.values(p50_ns=None)).rowcount >= 59
        assert histories() == told
    hourly = told[0]
    assert isinstance(hourly, tuple)
    assert hourly[1][0][1].errors == {"one": {"queue-full": 1}}


def test_history_of_hours_without_percentiles(store: LatencyStore) -> None:
    clock = Clock()
    recorder = Recorder(store, Metrics({}), clock=clock)
    recorder.record("one", "live", {"total": 1_000_000})
    recorder.flush()
    clock.now += 5 * HOUR_S
    recorder.flush()
    told = Latencies(recorder).history("live", START, HOUR_S)
    with store._engine.begin() as connection:
        connection.execute(update(latency_histograms).values(p50_ns=None))
    assert Latencies(recorder).history("live", START, HOUR_S) == told
    assert [(at, figures.summaries["one", "total"].count) for at, figures in told[1]] == [(START, 1)]


def test_rows_of_other_instances_are_merged(store: LatencyStore) -> None:
    clock = Clock()
    one, other = (Recorder(store, Metrics({}), clock=clock) for _ in range(2))
    for recorder, milliseconds in ((one, 2), (other, 4)):
        recorder.record("one", "live", {"total": milliseconds * 1_000_000})
        recorder.flush()
    for recorder in (one, other):
        summary = Latencies(recorder).window("live", START)[1].summaries[("one", "total")]
        assert (summary.count, summary.mean_ms, summary.max_ms) == (2, 3.0, 4.0)


def test_late_writes_of_another_instance(store: LatencyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    late, other = (Recorder(store, Metrics({}), clock=clock) for _ in range(2))
    latencies = Latencies(other)
    clock.now += 55 * MINUTE_S
    other.flush()
    late.record("one", "live", {"total": 1_000_000})
    clock.now += 10 * MINUTE_S

    def counts() -> list[int]:
        _, figures = latencies.window("live", START)
        _, points = latencies.history("live", START, HOUR_S)
        _, by_minute = latencies.history("live", START, MINUTE_S)
        each = [figures, *(figures for _, figures in points), *(figures for _, figures in by_minute)]
        return [s.count for figures in each for (model, _), s in figures.summaries.items() if model == "one"]

    assert counts() == []
    late.flush()
    assert counts() == [1, 1, 1]
    reads: list[object] = []
    monkeypatch.setattr("service.latency.store.read_figures", lambda *_: reads.append(1) or {})
    other.record("two", "live", {"total": 1_000_000})
    other.flush()
    assert counts() == [1, 1, 1]
    assert reads == [], "a write in time makes nobody read closed buckets anew"


@pytest.mark.slow
@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("outage_s", [3 * HOUR_S, 6 * DAY_S])
def test_unsaved_minutes_and_hours(tmp_path: Path, outage_s: int) -> None:
    world = World(tmp_path / "data", None, 0)

    def check() -> None:
        for length_s in (HOUR_S / 2, 2.5 * HOUR_S, DAY_S, 5.5 * DAY_S):
            window, figures = world.latencies.window("live", world.clock.now - length_s)
            found = {model: s for (model, _), s in figures.summaries.items()}
            assert found == world.expected(window.start)
            window, points = world.latencies.history("live", world.clock.now - length_s, HOUR_S / 4)
            total = sum(s.count for _, figures in points for s in figures.summaries.values())
            assert total == sum(s.count for s in world.expected(window.start).values())

    step_s = 7 * MINUTE_S if outage_s < DAY_S else 50 * MINUTE_S
    for _ in range(outage_s // step_s):
        world.record()
        world.clock.now += step_s
        world.recorder.flush()
    assert world.recorder.problem is not None
    check()
    (tmp_path / "data").mkdir()
    world.recorder.flush()
    assert world.recorder.problem is None
    check()
    world.restart()
    check()
    world.clock.now += 80 * MINUTE_S
    world.recorder.flush()
    check()
    assert world.latencies.window("live", world.clock.now - HOUR_S)[0].resolution_s == MINUTE_S
    world.store.close()


def test_query_without_a_readable_store(tmp_path: Path) -> None:
    clock = Clock()
    recorder = Recorder(LatencyStore(open_database(None, tmp_path / "nowhere")), Metrics({}), clock=clock)
    latencies = Latencies(recorder)
    for _ in range(90):
        recorder.record("one", "live", {"total": 1_000_000})
        clock.now += 2 * MINUTE_S
        recorder.flush()
    window, figures = latencies.window("live", START - MINUTE_S)
    assert window.degraded is not None
    assert "missing" in window.degraded
    assert figures.summaries[("one", "total")].count == 90
    _, points = latencies.history("live", START - MINUTE_S, HOUR_S)
    assert sum(figures.summaries[("one", "total")].count for _, figures in points) == 90
    assert latencies.knows("one")
    assert not latencies.knows("two")
    assert not latencies.has_history()
    # What was answered meanwhile is not taken for the truth once the store is back.
    (tmp_path / "nowhere").mkdir()
    recorder.flush()
    assert recorder.problem is None
    assert latencies.has_history()
    window, points = latencies.history("live", START - MINUTE_S, HOUR_S)
    assert window.degraded is None
    assert sum(figures.summaries[("one", "total")].count for _, figures in points) == 90


def test_resolution_limit_a_moment_later(store: LatencyStore) -> None:
    clock = Clock()
    recorder = Recorder(store, Metrics({}), clock=clock)
    recorder.flush()
    latencies = Latencies(recorder)
    for since_s, window_s, step_s in (
        (HOUR_S, MINUTE_S, MINUTE_S),
        (48 * HOUR_S, MINUTE_S, HOUR_S),
        (7 * DAY_S, HOUR_S, HOUR_S),
    ):
        since = clock.now - since_s
        clock.now += 0.2
        assert latencies.window("live", since)[0].resolution_s == window_s
        assert latencies.history("live", since)[0].resolution_s == step_s
    assert latencies.history("live", clock.now - HOUR_S - MINUTE_S)[0].resolution_s == HOUR_S


@pytest.mark.slow
def test_first_step_is_whole(tmp_path: Path, database_url: str | None) -> None:
    world = World(tmp_path, database_url, 0)
    for step in range(8 * 48):
        world.samples.append((world.clock(), "one", 1_000_000))
        world.recorder.record("one", "live", {"total": 1_000_000})
        if step % 4 == 0:
            world.recorder.flush()
        world.clock.now += HOUR_S / 2
    world.recorder.flush()
    for since_s, step_s in ((47.5 * HOUR_S, 5400), (48 * HOUR_S, 7 * MINUTE_S), (7 * DAY_S, 36 * HOUR_S)):
        window, points = world.latencies.history("live", world.clock.now - since_s, step_s)
        for at, figures in points:
            found = {model: s for (model, _), s in figures.summaries.items()}
            assert found == world.expected(at, at + window.resolution_s)
    world.store.close()


def test_too_many_steps_are_refused(store: LatencyStore) -> None:
    recorder = Recorder(store, Metrics({}), clock=Clock())
    recorder.flush()
    latencies = Latencies(recorder)
    latencies.history("live", START - (MAX_STEPS - 1) * MINUTE_S, MINUTE_S)
    with pytest.raises(InvalidParameter, match=f"limit: {MAX_STEPS}"):
        latencies.history("live", START - (MAX_STEPS + 1) * MINUTE_S, MINUTE_S)


def test_steps_are_as_long_as_what_is_kept(store: LatencyStore) -> None:
    recorder = Recorder(store, Metrics({}), clock=Clock())
    recorder.flush()
    latencies = Latencies(recorder)
    for since_s, step_s, given_s in (
        (HOUR_S, None, MINUTE_S),
        (DAY_S, None, HOUR_S),
        (30 * DAY_S, None, DAY_S),
        (3 * DAY_S, 300, HOUR_S),
        (3 * DAY_S, 5000, 2 * HOUR_S),
        (30 * DAY_S, HOUR_S, DAY_S),
        (9999 * DAY_S, None, DAY_S),
    ):
        window, points = latencies.history("live", START - since_s, step_s)
        assert (window.resolution_s, points) == (given_s, [])
        assert window.start % given_s == 0
        assert window.start >= START - 367 * DAY_S


@pytest.mark.parametrize("saved", [False, True])
def test_runtimes_are_selected(store: LatencyStore, saved: bool) -> None:
    """Also runs of earlier releases, which have none; errors have none and belong to each."""
    clock = Clock()
    recorder = Recorder(store, Metrics({}), clock=clock)
    for runtime in ("", "onnxruntime", "openvino-int8-bf16", "onnxruntime", ""):
        recorder.record("one", "live", {"total": 1_000_000}, runtime=runtime)
        clock.now += 1
    recorder.record("one", "live", {"total": 1_000_000})
    recorder.record_error("one", "live", "queue-full")
    recorder.flush()
    if saved:
        clock.now += DAY_S
        recorder = Recorder(store, Metrics({}), clock=clock)
        recorder.flush()
        assert recorder.memory() == []
    latencies = Latencies(recorder)
    counts = {"unknown": 3, "onnxruntime": 2, "openvino-int8-bf16": 1}
    assert {name for _, name in latencies.runtimes("live", START)} == counts.keys()
    for runtime, count in (*counts.items(), (None, 6), ("openvino", 0)):
        _, figures = latencies.window("live", START, runtime=runtime)
        assert sum(each.count for each in figures.summaries.values()) == count
        assert figures.errors == {"one": {"queue-full": 1}}
        _, steps = latencies.history("live", START, HOUR_S, runtime=runtime)
        assert [each.errors for _, each in steps] == [{"one": {"queue-full": 1}}]
