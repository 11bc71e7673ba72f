"""What is recorded gets into the store, whatever happens to store, clock and process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import StorageUnavailable
from service.latency.buckets import DAY_S, HOUR_S, MINUTE_S
from service.latency.prometheus import Metrics
from service.latency.query import Latencies
from service.latency.recorder import ADD_UP_FROM, LATE_S, QUEUE_LIMIT, Recorder
from service.latency.series import ErrorSeries, Part, Series
from service.latency.stages import STAGES
from service.latency.store import LatencyStore
from service.storage.database import FILE_NAME, open_database
from tests.helpers.until import until
from tests.service.latency.test_store import stored_parts

NOON = 20_000 * DAY_S + 12 * HOUR_S
RUN = dict.fromkeys(STAGES, 1_500_000)
TOTAL = Series("live", "tiny", "", "", "total")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LatencyStore]:
    store = LatencyStore(open_database(None, tmp_path / "data"))
    yield store
    store.close()


@pytest.fixture
def recorder(store: LatencyStore, clock: Clock, tmp_path: Path) -> Recorder:
    (tmp_path / "data").mkdir()
    return Recorder(store, Metrics({}), clock=clock)


def kept(store: LatencyStore, resolution_s: int = MINUTE_S) -> list[Part]:
    """The rows of regime `live`, by bucket and instance."""
    return [part for part in stored_parts(store, resolution_s) if part.models()]


def minutes(parts: list[Part]) -> list[Part]:
    return [part for part in parts if part.bucket.resolution_s == MINUTE_S]


def count(parts: list[Part]) -> int:
    return sum(part.distributions[TOTAL].count for part in parts if TOTAL in part.distributions)


def test_runs_and_errors_are_saved_once(recorder: Recorder, store: LatencyStore) -> None:
    recorder.record("tiny", "live", RUN)
    recorder.record("tiny", "compare", RUN)
    recorder.record_error("tiny", "live", "queue-full")
    recorder.record_error(None, "live", "unknown-model")
    recorder.flush()
    recorder.flush()
    recorder.record("tiny", "live", RUN)
    recorder.flush()
    assert recorder.problem is None
    (part,) = kept(store)
    assert {series.stage for series in part.distributions} == set(STAGES)
    assert count([part]) == 2
    assert {(series.model, series.slug): n for series, n in part.errors.items()} == {
        ("tiny", "queue-full"): 1,
        ("", "unknown-model"): 1,
    }


def test_rows_name_the_version_of_the_model(recorder: Recorder, store: LatencyStore) -> None:
    for version in ("a" * 64, "b" * 64, ""):
        recorder.record("tiny", "live", RUN, version)
    recorder.record_error("tiny", "live", "queue-full")
    recorder.flush()
    (minute,) = kept(store)
    assert {series.version: part.count for series, part in minute.distributions.items()} == {
        "a" * 64: 1,
        "b" * 64: 1,
        "": 1,
    }
    assert minute.errors == {ErrorSeries("live", "tiny", "", "", "queue-full"): 1}


def test_memory_without_flushes(clock: Clock) -> None:
    recorder = Recorder(None, Metrics({}), clock=clock)
    for _ in range(QUEUE_LIMIT + 5):
        recorder.record("tiny", "live", {"total": 1_500_000})
    assert len(recorder._queue) == 5
    assert count(minutes(recorder.memory())) == QUEUE_LIMIT + 5


def test_sum_up_between_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.latency.recorder.FLUSH_EVERY_S", 3600)
    recorder = Recorder(None, Metrics({}))
    recorder.start()
    for _ in range(ADD_UP_FROM):
        recorder.record("tiny", "live", {"total": 1_500_000})
    until(lambda: not recorder._queue, "the thread adds up what is queued")
    recorder.close()
    assert count(minutes(recorder.memory())) == ADD_UP_FROM


def test_metrics_show_what_was_just_recorded(clock: Clock) -> None:
    metrics = Metrics({})
    recorder = Recorder(None, metrics, clock=clock)
    recorder.record("tiny", "live", RUN)
    recorder.record_error("tiny", "live", "queue-full")
    shown = metrics.render().decode()
    assert 'weighin_stage_duration_seconds_count{model="tiny",regime="live",stage="total"} 1.0' in shown
    assert 'weighin_errors_total{kind="queue-full",model="tiny"} 1.0' in shown


def test_memory_after_a_flush(recorder: Recorder, store: LatencyStore, clock: Clock) -> None:
    clock.now += LATE_S
    for _ in range(5):
        recorder.record("tiny", "live", RUN)
        clock.now += MINUTE_S
        recorder.record("tiny", "live", RUN)
        recorder.flush()
        assert len(recorder.memory()) == 1
    clock.now += MINUTE_S
    recorder.flush()
    assert recorder.memory() == []
    assert count(kept(store)) == count(kept(store, HOUR_S)) == count(kept(store, DAY_S)) == 10
    clock.now += DAY_S
    recorder.flush()
    assert recorder.memory() == []
    assert recorder._held == {}


def test_concurrent_recording_and_flushing(recorder: Recorder, store: LatencyStore, clock: Clock) -> None:
    running = threading.Event()

    def work() -> None:
        running.wait()
        for _ in range(1500):
            recorder.record("tiny", "live", RUN)
            clock.now += 0.1  # not atomic, so time may stand still, but minutes do pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    running.set()
    while any(thread.is_alive() for thread in threads):
        recorder.flush()
    recorder.flush()
    assert recorder.problem is None
    assert len({part.bucket for part in kept(store)}) > 1
    assert count(kept(store)) == count(kept(store, HOUR_S)) == count(kept(store, DAY_S)) == 6000


def test_clock_set_back_overwrites_nothing(recorder: Recorder, store: LatencyStore, clock: Clock) -> None:
    recorder.record("tiny", "live", RUN)
    clock.now += 10 * MINUTE_S
    recorder.record("tiny", "live", RUN)
    recorder.flush()
    for back in (10 * MINUTE_S, 3 * HOUR_S, 40 * DAY_S):
        clock.now -= back
        recorder.record("tiny", "live", RUN)
        recorder.flush()
    assert recorder.problem is None
    assert count(kept(store)) == count(kept(store, HOUR_S)) == count(kept(store, DAY_S)) == 5
    assert len({part.instance for part in kept(store)}) == 2  # one for all that was not in memory any more


@pytest.mark.parametrize("flush_s", [0.07, 12.0])
def test_run_queued_while_its_minute_is_saved(
    recorder: Recorder,
    store: LatencyStore,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    flush_s: float,
) -> None:
    write = store.write

    def slow(*args: Any, **options: Any) -> None:
        write(*args, **options)
        recorder.record("tiny", "live", RUN)
        clock.now += flush_s

    clock.now = NOON + 59.95
    recorder.record("tiny", "live", RUN)
    before = recorder.history_revision()[0]
    with monkeypatch.context() as patched:
        patched.setattr(store, "write", slow)
        recorder.flush()
    clock.now += LATE_S
    recorder.flush()
    assert recorder.history_revision()[0] == before
    (part,) = kept(store)
    assert count([part]) == 2


def test_missing_directory_comes_back(
    recorder: Recorder, store: LatencyStore, clock: Clock, tmp_path: Path
) -> None:
    recorder.record("tiny", "live", RUN)
    recorder.flush()
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    (tmp_path / "data").rmdir()
    for _ in range(3):
        clock.now += MINUTE_S
        recorder.record("tiny", "live", RUN)
        recorder.record_error("tiny", "live", "busy")
        recorder.flush()
        assert recorder.problem is not None
        assert "missing" in recorder.problem
        assert str(tmp_path) not in recorder.problem
    (tmp_path / "data").mkdir()
    recorder.flush()
    assert recorder.problem is None
    assert count(kept(store)) == 4  # the first minute too: it was still in memory
    assert sum(n for part in kept(store) for n in part.errors.values()) == 3


def test_deleted_database_is_recreated_from_memory(
    recorder: Recorder, store: LatencyStore, tmp_path: Path
) -> None:
    recorder.record("tiny", "live", RUN)
    recorder.flush()
    for file in (tmp_path / "data").glob(f"{FILE_NAME}*"):
        file.unlink()
    recorder.flush()
    assert recorder.problem is None
    assert count(kept(store)) == 1


@pytest.mark.slow
def test_memory_during_a_long_outage(store: LatencyStore, clock: Clock, tmp_path: Path) -> None:
    recorder = Recorder(store, Metrics({}), clock=clock)
    recorded = 0
    for _ in range(8 * 24 * 2):  # eight days without the directory
        recorder.record("tiny", "live", RUN)
        recorder.record_error("tiny", "live", "busy")
        recorded += 1
        clock.now += 30 * MINUTE_S
        recorder.flush()
    assert len(recorder.memory()) < 2 + 24 * 6 + 8
    _, figures = Latencies(recorder).window("live", NOON)
    assert figures.summaries["tiny", "total"].count == recorded
    assert figures.errors["tiny"]["busy"] == recorded
    (tmp_path / "data").mkdir()
    recorder.flush()
    assert recorder.problem is None
    clock.now += 2 * DAY_S
    recorder.flush()
    assert count(kept(store, DAY_S)) == recorded
    assert sum(n for part in kept(store, DAY_S) for n in part.errors.values()) == recorded


@pytest.mark.slow
def test_wait_after_an_expensive_failed_flush(
    recorder: Recorder, store: LatencyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes: list[float] = []
    fails = threading.Event()
    spent = itertools.count(0, 0.01)  # CPU seconds: each flush takes 0.01

    def write(*_: Any, **__: Any) -> None:
        flushes.append(time.monotonic())
        if fails.is_set():
            raise StorageUnavailable("the disk is full")

    monkeypatch.setattr("service.latency.recorder.FLUSH_EVERY_S", 0.01)
    monkeypatch.setattr("service.latency.recorder.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("time.thread_time", lambda: next(spent))
    monkeypatch.setattr(store, "write", write)
    fails.set()
    recorder.start()
    until(lambda: len(flushes) >= 4, "it tries again")
    assert min(late - early for early, late in itertools.pairwise(flushes[1:4])) >= 0.2
    fails.clear()
    until(lambda: recorder.problem is None, "it saves")
    recorder.close()


def test_recorder_without_a_store(clock: Clock) -> None:
    recorder = Recorder(None, Metrics({}), clock=clock)
    recorder.start()
    recorder.record("tiny", "live", RUN)
    recorder.record("other", "compare", RUN)
    recorder.close()
    assert recorder.problem is None
    assert count(minutes(recorder.memory())) == 1
    (minute,) = minutes(recorder.memory())
    assert {series.model for series in minute.distributions if series.regime == "compare"} == {"other"}


def test_closing_saves_the_last_second(store: LatencyStore, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    recorder = Recorder(store, Metrics({}))
    recorder.start()
    assert recorder.problem is None
    recorder.record("tiny", "live", RUN)
    recorder.close()
    assert count(kept(store)) == 1


def test_revision(recorder: Recorder, clock: Clock) -> None:
    recorder.flush()
    before = recorder.revision()
    assert recorder.revision() == before
    recorder.record("tiny", "live", RUN)
    recorded = recorder.revision()
    assert recorded != before
    clock.now += MINUTE_S + LATE_S
    recorder.flush()  # drops the minute from memory
    assert recorder.revision() != recorded
