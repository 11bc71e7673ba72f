"""Machines of recorded latencies: answers name every machine whose runs they pool, or are of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from service.latency.buckets import DAY_S, HOUR_S, KEEP_DAYS_S
from service.latency.prometheus import Metrics
from service.latency.query import UNKNOWN_MACHINE, Latencies
from service.latency.recorder import Recorder
from service.latency.store import LatencyStore
from service.storage.database import open_database

pytestmark = pytest.mark.databases("sqlite", "postgresql")

START = 20_000 * DAY_S + 5 * HOUR_S
FAST, SLOW = "Fast CPU, 8 cores", "Slow CPU, 2 cores"


class Replica:
    """A process on a machine, with a clock."""

    def __init__(self, folder: Path, url: str | None, machine: str, now: float = START) -> None:
        self.now = now
        self.store = LatencyStore(open_database(url, folder), machine=machine)
        self.recorder = Recorder(self.store, Metrics({}), clock=lambda: self.now)
        self.recorder.flush()
        self.latencies = Latencies(self.recorder)

    def record(self, model: str = "tiny", ms: float = 2, version: str = "", runtime: str = "") -> None:
        self.recorder.record(model, "live", {"total": round(ms * 1e6)}, version, runtime)

    def median(self, machine: str | None, since: float = START, step_s: int = HOUR_S) -> tuple[int, float]:
        """Runs and median of a machine, with which the history and the distribution must agree."""
        window, figures = self.latencies.window("live", since, model="tiny", machine=machine)
        summary = figures.summaries["tiny", "total"]
        assert summary.p50_ms is not None
        assert window.machines == ((machine,) if machine else self.machines(since))
        _, of_one = self.latencies.distribution("live", since, "tiny", "total", machine=machine)
        assert (of_one.count, of_one.summary().p50_ms) == (summary.count, summary.p50_ms)
        _, steps = self.latencies.history("live", since, step_s, model="tiny", machine=machine)
        assert sum(step.summaries["tiny", "total"].count for _, step in steps) == summary.count
        if len(steps) == 1:
            assert steps[0][1].summaries["tiny", "total"].p50_ms == summary.p50_ms
        of_all = self.latencies.distributions("live", since, "total", machine=machine)
        assert of_all["tiny"].count == summary.count
        return summary.count, summary.p50_ms

    def machines(self, since: float = START, **question: str) -> tuple[str, ...]:
        """Machines of the window, which the history and the distribution must agree with."""
        window, _ = self.latencies.window("live", since, **question)  # type: ignore[arg-type]
        model = question.get("model", "tiny")
        steps, _ = self.latencies.history("live", since, 3600, **question)  # type: ignore[arg-type]
        assert steps.machines == window.machines
        if "model" in question:
            of_one, _ = self.latencies.distribution("live", since, model, "total")
            assert of_one.machines == window.machines
        return window.machines


Start = Callable[..., Replica]


@pytest.fixture
def start(tmp_path: Path, migrated_url: str | None) -> Iterator[Start]:
    replicas: list[Replica] = []

    def start(machine: str, now: float = START) -> Replica:
        replicas.append(Replica(tmp_path, migrated_url, machine, now))
        return replicas[-1]

    yield start
    for replica in replicas:
        replica.store.close()


def test_one_machine(start: Start) -> None:
    one = start(FAST)
    assert one.machines() == (), "nothing is recorded"
    one.record()
    assert one.machines() == (FAST,), "from memory"
    one.recorder.flush()
    again = start(FAST)
    assert again.machines() == (FAST,), "from the store, of an instance that ended"
    again.record()
    assert again.machines() == (FAST,)


def test_pooled_machines_are_named(start: Start) -> None:
    fast, slow, old = start(FAST), start(SLOW), start("")
    fast.record()
    slow.record()
    slow.record("only-slow")
    old.record()
    for replica in (fast, slow, old):
        replica.recorder.flush()
    fresh = start(FAST)
    assert fresh.machines() == (FAST, SLOW, UNKNOWN_MACHINE)
    assert fresh.machines(model="only-slow") == (SLOW,)
    fresh.now += 2 * DAY_S
    assert fresh.machines(fresh.now - HOUR_S) == ()


def test_instances_are_forgotten_with_their_rows(start: Start) -> None:
    first = start(FAST)
    first.record()
    first.recorder.flush()

    def instances() -> int:
        with first.store.view() as view:
            count: int = view.connection.execute(text("SELECT count(*) FROM latency_instances")).scalar_one()
        return count

    assert instances() == 1
    later = start(SLOW, START + KEEP_DAYS_S + 3 * DAY_S)
    later.record()
    later.recorder.flush()
    assert instances() == 1, "the first one's rows are past their retention"
    assert later.machines(later.now - HOUR_S) == (SLOW,)


def test_selection_of_one_machine(start: Start) -> None:
    """Runs and errors of a machine alone, from memory and from the database."""
    fast, slow, old = start(FAST), start(SLOW), start("")
    for replica, runs, ms in ((fast, 3, 1.0), (slow, 5, 9.0), (old, 2, 30.0)):
        for _ in range(runs):
            replica.record(ms=ms)
        replica.recorder.record_error("tiny", "live", f"error-{runs}")
        replica.recorder.flush()
    fast.record(ms=1.0)  # not in the database yet
    for asked in (fast, start(SLOW)):
        own = 4 if asked is fast else 3
        assert asked.median(FAST) == (own, pytest.approx(1, rel=1e-3))
        assert asked.median(SLOW) == (5, pytest.approx(9, rel=1e-3))
        assert asked.median(UNKNOWN_MACHINE) == (2, pytest.approx(30, rel=1e-3))
        assert asked.median(None)[0] == own + 7
        window, figures = asked.latencies.window("live", START, machine=SLOW)
        assert (window.machines, window.other_machines) == ((SLOW,), (FAST, UNKNOWN_MACHINE))
        assert figures.errors == {"tiny": {"error-5": 1}}
        assert asked.latencies.machines() == {FAST, SLOW}
    window, figures = fast.latencies.window("live", START, machine="another")
    assert (window.machines, dict(figures.summaries), dict(figures.errors)) == ((), {}, {})


@pytest.mark.slow
def test_selection_after_hours_and_days(start: Start) -> None:
    """The same while the rows are read by minutes, hours or days, and after the process has ended."""
    for hour in range(3):
        for machine, ms in ((FAST, 1.0), (SLOW, 9.0)):
            for _ in range(2):  # replicas of one kind
                replica = start(machine, START + hour * HOUR_S)
                replica.record(ms=ms)
                replica.recorder.flush()
    for days in (0, 3, 20):
        asked = start(FAST, START + 3 * HOUR_S + days * DAY_S)
        for step_s in (HOUR_S, DAY_S):
            assert asked.median(FAST, START, step_s) == (6, pytest.approx(1, rel=1e-3))
            assert asked.median(SLOW, START, step_s) == (6, pytest.approx(9, rel=1e-3))
            assert asked.median(None, START, step_s)[0] == 12


def test_percentiles_that_pool_machines_are_not_those_of_one(start: Start) -> None:
    """Stored percentiles of an hour are of all its runs, also if a machine has as many of them."""
    hour = START + HOUR_S
    for _ in range(2):
        slow = start(SLOW)
        for _ in range(5):
            slow.record(ms=9)
        slow.recorder.flush()
    slow.store.maintain(hour + 300)
    slow.store.maintain(hour + 300)
    with slow.store.view() as view:
        pooled = "SELECT count FROM latency_pooled WHERE resolution_s = 3600"
        assert view.connection.execute(text(pooled)).scalars().all() == [10]
    for _ in range(2):  # later, as after an outage
        fast = start(FAST)
        for _ in range(5):
            fast.record(ms=1)
        fast.recorder.flush()
    asked = start(FAST, hour + 300)
    for machine, ms in ((FAST, 1), (SLOW, 9)):
        _, steps = asked.latencies.history("live", START, HOUR_S, machine=machine)
        (figures,) = (step for _, step in steps)
        assert figures.summaries["tiny", "total"].p50_ms == pytest.approx(ms, rel=1e-3)


def test_versions_and_runtimes_of_one_machine(start: Start) -> None:
    fast, slow = start(FAST), start(SLOW)
    fast.record(version="a" * 64, runtime="onnxruntime")
    slow.record(version="b" * 64, runtime="openvino")
    slow.recorder.flush()
    told = fast.latencies
    assert told.runtimes("live", START) == [("tiny", "onnxruntime"), ("tiny", "openvino")]
    assert told.runtimes("live", START, machine=SLOW) == [("tiny", "openvino")]
    assert told.versions("live", START, "tiny", FAST) == ["a" * 64]
    assert told.left_out("live", START, version="a" * 64) == [("tiny", "b" * 64)]
    assert told.left_out("live", START, version="a" * 64, machine=FAST) == []
    window, _ = told.window("live", START, version="b" * 64)
    assert (window.machines, window.other_machines) == ((SLOW,), ()), "only machines of the selected runs"
    window, _ = told.window("live", START, version="b" * 64, machine=FAST)
    assert (window.machines, window.other_machines) == ((), (SLOW,))
