"""Latencies of a model that was replaced: those of the file that is served, and the others on request."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.latency.buckets import DAY_S, HOUR_S, MINUTE_S
from service.latency.cache import LatencyCache
from service.latency.prometheus import Metrics
from service.latency.query import ALL, Latencies
from service.latency.recorder import Recorder
from service.latency.series import Scope, Versions
from service.latency.store import LatencyStore
from service.storage.database import open_database

pytestmark = pytest.mark.databases("sqlite", "postgresql")

START = 20_000 * DAY_S + 5 * HOUR_S
OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64
MS = 1_000_000


class Replaced:
    """`one` was served from the file OLD and is from NEW; `two` from OTHER; `gone` is not served any more."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.now = float(START)
        self.current = {"one": NEW, "two": OTHER}
        self.store = LatencyStore(open_database(url, folder))
        self.restart()

    def restart(self) -> None:
        self.recorder = Recorder(self.store, Metrics({}), clock=lambda: self.now)
        self.recorder.flush()
        self.latencies = Latencies(self.recorder, lambda: self.current)

    def record(self, count: int, model: str, version: str, ms: int) -> None:
        for _ in range(count):
            self.recorder.record(model, "live", {"total": ms * MS, "inference": ms * MS}, version)

    def counts(self, since: float = START, **question: str) -> dict[str, int]:
        """Runs by model, which the history and the distribution must agree with."""
        _, figures = self.latencies.window("live", since, stage="total", **question)  # type: ignore[arg-type]
        counts = {model: summary.count for (model, _), summary in figures.summaries.items()}
        for step_s in (MINUTE_S, HOUR_S, DAY_S):
            if (self.now - since) / step_s < 1000:
                _, steps = self.latencies.history("live", since, step_s, stage="total", **question)  # type: ignore[arg-type]
                summed: dict[str, int] = {}
                for _, step in steps:
                    for (model, _), summary in step.summaries.items():
                        summed[model] = summed.get(model, 0) + summary.count
                assert summed == counts, step_s
        for model, count in counts.items():
            version = question.get("version", "current")
            assert self.latencies.distribution("live", since, model, "total", version)[1].count == count
        return counts


@pytest.fixture
def replaced(tmp_path: Path, migrated_url: str | None) -> Iterator[Replaced]:
    one = Replaced(tmp_path, migrated_url)
    yield one
    one.store.close()


def fill(replaced: Replaced) -> None:
    replaced.record(2, "one", "", 1)  # an earlier release
    replaced.record(3, "one", OLD, 2)
    replaced.record(5, "one", NEW, 3)
    replaced.record(7, "two", OTHER, 4)
    replaced.record(11, "gone", OLD, 5)
    replaced.record(13, "gone", NEW, 5)


def test_what_is_cached_for_a_replaced_version_is_dropped(replaced: Replaced) -> None:
    def cached() -> set[Versions | None]:
        cache = replaced.latencies._cache
        return {key[0].versions for each in (cache._buckets, cache._sums, cache._steps) for key in each}

    fill(replaced)
    replaced.recorder.flush()
    replaced.now += 2 * HOUR_S
    replaced.recorder.flush()
    replaced.counts()
    replaced.counts(version=ALL)
    both = ("one", "two")
    assert {None, Versions("", both, (NEW, OTHER)), Versions("", ("two",), (OTHER,))} <= cached()
    replaced.current = {"one": OLD, "two": OTHER}
    replaced.counts()
    assert {None, Versions("", both, (OLD, OTHER)), Versions("", ("two",), (OTHER,))} <= cached()
    assert not any(versions is not None and NEW in versions.current for versions in cached())


def test_a_sum_of_minutes_is_dropped_when_other_minutes_are_closed(replaced: Replaced) -> None:
    now = 0.0
    cache = LatencyCache(replaced.recorder, lambda: now)
    scope = Scope("live")

    def ask() -> tuple[int, list[int]]:
        """Return the number of kept sums with minutes, and the identities of those without."""
        with cache.ask(scope) as question:
            cache.figures(question, START, math.inf)
        sums = {key: cache._sums[key] for key in list(cache._sums)}
        kept.extend(sums.values())  # so that no identity is used twice
        whole = [
            id(value)
            for key, value in sums.items()
            if all(bucket.resolution_s != MINUTE_S for bucket in key[1])
        ]
        return len(sums) - len(whole), whole

    kept: list[object] = []

    fill(replaced)
    replaced.recorder.flush()
    replaced.now += 2 * HOUR_S + 5 * MINUTE_S
    replaced.recorder.flush()
    (count, hours) = ask()
    assert (count, len(hours)) == (1, 1)
    assert ask() == (1, hours)
    now, replaced.now = now + 60, replaced.now + MINUTE_S
    assert ask() == (2, hours)
    now, replaced.now = now + 61, replaced.now + MINUTE_S
    assert ask() == (2, hours)
    now, replaced.now = now + HOUR_S, replaced.now + HOUR_S
    (count, later) = ask()
    assert (count, len(later)) == (1, 1)
    assert later != hours


def test_distributions_of_one_model_and_stage_share_their_key(replaced: Replaced) -> None:
    cache = LatencyCache(replaced.recorder)
    fill(replaced)
    replaced.recorder.flush()
    replaced.now += MINUTE_S
    fill(replaced)
    replaced.recorder.flush()
    replaced.now += 5 * MINUTE_S
    replaced.recorder.flush()
    with cache.ask(Scope("live")) as question:
        cache.figures(question, START, math.inf)
    keys = [key for pooled in cache._buckets.values() for key in pooled.distributions]
    assert len(keys) > len(set(keys)) == len({id(key) for key in keys})


@pytest.mark.slow
def test_the_current_version_is_told_by_default(replaced: Replaced) -> None:
    fill(replaced)
    for _ in range(3):  # from memory, then from the store of this instance, then of one that ended
        assert replaced.counts() == {"one": 7, "two": 7, "gone": 24}
        assert replaced.counts(version=ALL) == {"one": 10, "two": 7, "gone": 24}
        assert replaced.counts(version="aaaa") == {"one": 3, "gone": 11}
        assert replaced.counts(version=NEW) == {"one": 5, "gone": 13}
        assert replaced.counts(version="dddd") == {}
        assert replaced.counts(model="one") == {"one": 7}
        assert replaced.counts(model="one", version="a" * 12) == {"one": 3}
        assert replaced.counts(model="gone") == {"gone": 24}
        _, figures = replaced.latencies.window("live", START, model="one", stage="total")
        assert figures.summaries["one", "total"].max_ms == pytest.approx(3)
        replaced.recorder.flush()
        replaced.restart()


def test_closed_hours_and_days_keep_versions_apart(replaced: Replaced) -> None:
    """Their percentiles are stored by version, and pooled over all of them beside."""
    for _ in range(2):  # two instances in one hour
        fill(replaced)
        replaced.recorder.flush()
        replaced.restart()
    replaced.now += 2 * DAY_S
    for _ in range(2):
        replaced.recorder.flush()  # the second pools percentiles
        replaced.now += HOUR_S
    for since in (START, START - 20 * DAY_S):
        assert replaced.counts(since) == {"one": 14, "two": 14, "gone": 48}
        assert replaced.counts(since, version=ALL) == {"one": 20, "two": 14, "gone": 48}
        assert replaced.counts(since, version=OLD) == {"one": 6, "gone": 22}


def test_a_replacement_is_told_at_once(replaced: Replaced) -> None:
    replaced.record(3, "one", NEW, 1)
    replaced.recorder.flush()
    assert replaced.counts(model="one") == {"one": 3}
    replaced.current["one"] = OTHER
    assert replaced.counts(model="one") == {}
    replaced.record(1, "one", OTHER, 1)
    assert replaced.counts(model="one") == {"one": 1}


def test_errors_are_of_all_versions_but_not_of_a_chosen_one(replaced: Replaced) -> None:
    replaced.recorder.record_error("one", "live", "queue-full")
    for _ in range(2):
        for version, errors in (("current", {"one": {"queue-full": 1}}), (ALL, {"one": {"queue-full": 1}})):
            assert replaced.latencies.window("live", START, version=version)[1].errors == errors
        assert replaced.latencies.window("live", START, version=OLD)[1].errors == {}
        replaced.recorder.flush()
        replaced.restart()


def test_versions_that_are_left_out_are_named(replaced: Replaced) -> None:
    fill(replaced)
    for _ in range(3):
        assert replaced.latencies.left_out("live", START) == [("one", OLD)]
        assert replaced.latencies.left_out("live", START, version=ALL) == []
        assert replaced.latencies.left_out("live", START, "one", OLD) == [("one", NEW)]
        assert replaced.latencies.left_out("live", START, "two") == []
        assert replaced.latencies.left_out("compare", START) == []
        assert replaced.latencies.left_out("live", START + 2 * DAY_S) == []
        replaced.recorder.flush()
        replaced.restart()
