"""What is recorded gets into the store, whatever happens to store, clock and process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.latency.prometheus import Metrics
from service.latency.recorded import DAY_S, HOUR_S, MINUTE_S, Bucket, Recorded, Scope, Series
from service.latency.recorder import Recorder
from service.latency.stages import STAGES
from service.latency.store import LatencyStore
from service.storage.database import FILE_NAME, open_database

NOON = 20_000 * DAY_S + 12 * HOUR_S
RUN = dict.fromkeys(STAGES, 1_500_000)
TOTAL = Series("live", "tiny", "total")


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


def kept(store: LatencyStore, resolution_s: int = MINUTE_S) -> list[Recorded]:
    with store.view() as view:
        return view.read(Scope("live"), Bucket(resolution_s, 0), 1 << 40)


def count(parts: list[Recorded]) -> int:
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


def test_memory_holds_only_the_open_minute_once_all_is_saved(
    recorder: Recorder, store: LatencyStore, clock: Clock
) -> None:
    for _ in range(5):
        recorder.record("tiny", "live", RUN)
        clock.now += MINUTE_S
        recorder.record("tiny", "live", RUN)
        recorder.flush()
        assert len(recorder.memory()) == 1
    clock.now += MINUTE_S
    recorder.flush()
    assert recorder.memory() == []
    assert count(kept(store)) == 10


def test_threads_lose_nothing_while_it_is_flushed_and_minutes_pass(
    recorder: Recorder, store: LatencyStore, clock: Clock
) -> None:
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
    assert count(kept(store)) == 6000


def test_a_clock_that_is_set_back_overwrites_nothing(
    recorder: Recorder, store: LatencyStore, clock: Clock
) -> None:
    recorder.record("tiny", "live", RUN)
    clock.now += 10 * MINUTE_S
    recorder.record("tiny", "live", RUN)
    recorder.flush()
    for back in (10 * MINUTE_S, 3 * HOUR_S, 40 * DAY_S):
        clock.now -= back
        recorder.record("tiny", "live", RUN)
        recorder.flush()
    assert recorder.problem is None
    assert count(kept(store)) == 5
    assert len({part.instance for part in kept(store)}) == 4


def test_what_a_missing_directory_held_up_is_saved_when_it_is_back(
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


def test_a_deleted_database_is_made_anew_with_what_is_in_memory(
    recorder: Recorder, store: LatencyStore, tmp_path: Path
) -> None:
    recorder.record("tiny", "live", RUN)
    recorder.flush()
    for file in (tmp_path / "data").glob(f"{FILE_NAME}*"):
        file.unlink()
    recorder.flush()
    assert recorder.problem is None
    assert count(kept(store)) == 1


def test_a_long_outage_takes_little_memory_and_loses_nothing(
    store: LatencyStore, clock: Clock, tmp_path: Path
) -> None:
    recorder = Recorder(store, Metrics({}), clock=clock)
    recorded = 0
    for _ in range(8 * 24 * 4):  # eight days without the directory
        recorder.record("tiny", "live", RUN)
        recorder.record_error("tiny", "live", "busy")
        recorded += 1
        clock.now += 15 * MINUTE_S
        recorder.flush()
    assert len(recorder.memory()) < 4 + 24 * 6 + 8
    assert count(recorder.memory()) == recorded
    (tmp_path / "data").mkdir()
    recorder.flush()
    assert recorder.problem is None
    clock.now += 2 * DAY_S
    recorder.flush()
    assert count(kept(store, DAY_S)) == recorded
    assert sum(n for part in kept(store, DAY_S) for n in part.errors.values()) == recorded


def test_without_a_store_it_stays_in_memory(clock: Clock) -> None:
    recorder = Recorder(None, Metrics({}), clock=clock)
    recorder.start()
    recorder.record("tiny", "live", RUN)
    recorder.record("other", "compare", RUN)
    recorder.close()
    assert recorder.problem is None
    assert count(recorder.memory()) == 1
    assert [part.models() for part in recorder.memory("compare")] == [{"other"}]


def test_closing_saves_the_last_second(store: LatencyStore, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    recorder = Recorder(store, Metrics({}))
    recorder.start()
    assert recorder.problem is None
    recorder.record("tiny", "live", RUN)
    recorder.close()
    assert count(kept(store)) == 1


def test_the_revision_tells_when_memory_changed(recorder: Recorder, clock: Clock) -> None:
    recorder.flush()
    before = recorder.revision()
    assert recorder.revision() == before
    recorder.record("tiny", "live", RUN)
    recorded = recorder.revision()
    assert recorded != before
    clock.now += MINUTE_S
    recorder.flush()  # drops the minute from memory
    assert recorder.revision() != recorded
