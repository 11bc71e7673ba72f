"""Machines of recorded latencies: answers name every machine whose runs they pool."""

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

    def record(self, model: str = "tiny") -> None:
        self.recorder.record(model, "live", {"total": 2_000_000})

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
