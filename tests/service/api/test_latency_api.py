"""GET /latency and /latency/history on a real socket, after real requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api.latency import HistoryResponse, LatencyResponse
from service.api.latency_distribution import DistributionResponse
from service.api.periods import format_moment, parse_since, parse_step
from service.errors import InvalidParameter
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder
from service.latency.stages import STAGES
from service.latency.store import LatencyStore
from service.settings import Settings
from service.storage.database import open_database
from tests.conftest import make_tiny_model
from tests.helpers.http_client import http_client
from tests.helpers.problems import assert_problem
from tests.service.conftest import running

pytestmark = pytest.mark.databases("sqlite", "postgresql")

NOW = 1_800_000_000.0


def latencies(client: httpx.Client, query: str = "") -> list[dict[str, Any]]:
    response = client.get(f"/latency{query}")
    assert response.status_code == 200, response.text
    LatencyResponse.model_validate(response.json())
    found: list[dict[str, Any]] = response.json()["latencies"]
    return found


def points(client: httpx.Client, query: str = "") -> list[dict[str, Any]]:
    response = client.get(f"/latency/history{query}")
    assert response.status_code == 200, response.text
    HistoryResponse.model_validate(response.json())
    found: list[dict[str, Any]] = response.json()["points"]
    return found


@pytest.mark.slow
def test_rows_without_samples(
    serve: Callable[..., httpx.Client],
) -> None:
    client = serve()
    assert latencies(client) == points(client) == points(client, "?model=tiny") == []
    rows = latencies(client, "?model=tiny")
    assert [row["stage"] for row in rows] == list(STAGES)
    assert all(row["count"] == 0 and row["errors"] == {} and row["p50_ms"] is None for row in rows)


@pytest.mark.slow
def test_latency_of_recent_requests(serve: Callable[..., httpx.Client], png: bytes) -> None:
    client = serve()
    for number in range(1, 65):
        timings = client.post("/classify", content=png).json()["timings_ms"]
        (row,) = latencies(client, "?model=tiny&stage=total")
        assert row["count"] == number
        assert row["max_ms"] >= timings["total"] - 0.001
        assert (row["p90_ms"] is None) == (number < 64)
        assert row["p50_ms"] is not None
        assert row["p95_ms"] is row["p99_ms"] is None
    rows = latencies(client)
    assert [(row["model"], row["stage"]) for row in rows] == [
        ("tiny", stage) for stage in STAGES if stage not in ("nms", "search")
    ]
    assert all(row["count"] == 64 and row["regime"] == "live" for row in rows)
    by_hour = points(client, "?stage=inference&since=1h&step=1h")
    assert sum(point["count"] for point in by_hour) == 64
    assert all(datetime.fromisoformat(point["at"]).minute == 0 for point in by_hour)
    assert sum(point["count"] for point in points(client, "?stage=inference&since=1h")) == 64


@pytest.mark.slow
def test_distribution_matches_summary(serve: Callable[..., httpx.Client], png: bytes) -> None:
    client = serve()
    for _ in range(64):
        assert client.post("/classify", content=png).status_code == 200
    (row,) = latencies(client, "?model=tiny&stage=total")
    body = client.get("/latency/distribution?model=tiny").json()
    DistributionResponse.model_validate(body)
    told = {point["fraction"]: point["ms"] for point in body["curve"]}
    assert (body["count"], body["stage"], body["regime"]) == (64, "total", "live")
    assert (told[0.5], told[0.9], told.get(0.95)) == (row["p50_ms"], row["p90_ms"], None)
    assert sum(each["count"] for each in body["histogram"]) == 64
    assert body["histogram"][-1]["to_ms"] >= row["max_ms"] - 0.001
    empty = client.get("/latency/distribution?model=tiny-b&stage=queue&regime=load&since=30d").json()
    assert (empty["count"], empty["curve"], empty["histogram"]) == (0, [], [])
    assert_problem(client.get("/latency/distribution?model=x"), 404, "unknown-model", "'x'", "tiny-b")
    assert_problem(client.get("/latency/distribution"), 422, "invalid-parameter", "model")
    assert_problem(
        client.get("/latency/distribution?model=tiny&since=now"), 422, "invalid-parameter", "'now'"
    )


def test_regimes_are_separate(serve: Callable[..., httpx.Client], png: bytes) -> None:
    client = serve()
    assert client.post("/compare?repeat=3", content=png).status_code == 200
    assert latencies(client) == []
    rows = latencies(client, "?regime=compare&stage=inference")
    assert [(row["model"], row["count"], row["regime"]) for row in rows] == [
        ("tiny", 3, "compare"),
        ("tiny-b", 3, "compare"),
    ]


def test_errors_by_kind(serve: Callable[..., httpx.Client]) -> None:
    client = serve()
    for _ in range(2):
        assert client.post("/classify?model=tiny-b", content=b"").status_code == 422
    assert client.post("/classify?model=tiny-b", content=b"text").status_code == 415
    (row,) = latencies(client)
    assert (row["model"], row["stage"], row["count"]) == ("tiny-b", "total", 0)
    assert row["errors"] == {"empty-body": 2, "unknown-image-type": 1}
    (point,) = points(client)
    assert point["errors"] == row["errors"]
    shown = {
        (sample.labels["model"], sample.labels["kind"]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "weighin_errors_total"
    }
    assert shown[("tiny-b", "empty-body")] == 2
    assert all(row["errors"] == {} for row in latencies(client, "?model=tiny-b") if row["stage"] != "total")


@pytest.mark.slow
def test_latencies_after_a_restart(tiny_settings: Settings, png: bytes) -> None:
    for count in (1, 2, 3):
        with running(tiny_settings) as client:
            client.post("/classify", content=png)
            (row,) = latencies(client, "?stage=total")
            assert row["count"] == count


def test_window_of_the_response(client: httpx.Client) -> None:
    for query, resolution_s, length in (
        ("since=15m", 60, timedelta(minutes=15)),
        ("", 60, timedelta(hours=24)),
        ("since=48h", 60, timedelta(hours=48)),
        ("since=7d", 3600, timedelta(days=7)),
        ("since=5d", 3600, timedelta(days=5)),
        ("since=30d", 86400, timedelta(days=30)),
        ("since=99999d", 86400, timedelta(days=366)),
    ):
        before = datetime.now(UTC) - length
        window = client.get(f"/latency?{query}").json()["window"]
        assert window["resolution_s"] == resolution_s
        begin, end = datetime.fromisoformat(window["from"]), datetime.fromisoformat(window["to"])
        assert before - timedelta(seconds=resolution_s) < begin <= datetime.now(UTC) - length
        assert begin.timestamp() % resolution_s == 0
        assert before + length - timedelta(seconds=1) < end <= datetime.now(UTC)


def test_since_in_iso_8601(client: httpx.Client) -> None:
    moment = datetime.now(UTC).replace(second=30, microsecond=0) - timedelta(hours=2)
    for text in (moment.isoformat(), moment.isoformat().replace("+", "%2B"), f"{moment:%Y-%m-%dT%H:%M:%SZ}"):
        window = client.get(f"/latency?since={text}").json()["window"]
        assert datetime.fromisoformat(window["from"]) == moment.replace(second=0)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("since=yesterday", ("'yesterday'", "15m")),
        ("since=0m", ("'0m'",)),
        ("since=-5m", ("'-5m'",)),
        ("since=2999-01-01T00:00:00Z", ("in the future",)),
        ("stage=thinking", ("thinking", "inference")),
        ("regime=dead", ("dead", "live", "compare")),
        ("windows=1h", ("windows", "since", "regime")),
    ],
)
@pytest.mark.parametrize("route", ["/latency", "/latency/history"])
def test_invalid_parameters(client: httpx.Client, route: str, query: str, words: tuple[str, ...]) -> None:
    assert_problem(client.get(f"{route}?{query}"), 422, "invalid-parameter", *words)


@pytest.mark.parametrize("step", ["0s", "30s", "90s", "1w", "5", "31d", "60S"])
def test_invalid_steps(client: httpx.Client, step: str) -> None:
    assert_problem(client.get(f"/latency/history?step={step}"), 422, "invalid-parameter", step, "60s")


def test_too_many_points(client: httpx.Client) -> None:
    assert client.get("/latency/history?since=24h&step=60s").status_code == 200
    response = client.get("/latency/history?since=47h&step=60s")
    assert_problem(response, 422, "invalid-parameter", "limit: 1500", "longer step")


@pytest.mark.parametrize("route", ["/latency", "/latency/history"])
def test_unknown_model(client: httpx.Client, route: str) -> None:
    assert_problem(client.get(f"{route}?model=nobody"), 404, "unknown-model", "'nobody'", "tiny, tiny-b")


@pytest.mark.slow
def test_model_that_is_no_longer_served(png: bytes, tmp_path: Path) -> None:
    for zoo in ("old", "new"):
        make_tiny_model(tmp_path / zoo, zoo)
    for zoo in ("old", "new"):
        settings = Settings(model_dirs=(tmp_path / zoo,), default_model=zoo, data_dir=tmp_path / "kept")
        with running(settings) as client:
            client.post("/classify", content=png)
            rows = latencies(client, "?model=old&stage=total")
            assert [(row["model"], row["count"]) for row in rows] == [("old", 1)]


SLOW = "Slow CPU, 2 cores"


@pytest.fixture
def slow_replica(tiny_settings: Settings) -> Iterator[Recorder]:
    """A process on another kind of machine, with the database of the service."""
    engine = open_database(tiny_settings.database_url, tiny_settings.data_dir)
    yield Recorder(LatencyStore(engine, machine=SLOW), Metrics({}))
    engine.dispose()


@pytest.mark.slow
def test_machines_are_pooled_or_chosen(
    serve: Callable[..., httpx.Client], png: bytes, slow_replica: Recorder
) -> None:
    client = serve()
    assert client.post("/classify", content=png).status_code == 200
    for _ in range(3):
        slow_replica.record("tiny", "live", {"total": 500_000_000})
    slow_replica.record_error("tiny", "live", "queue-full")
    slow_replica.flush()
    window = client.get("/latency").json()["window"]
    (own,) = set(window["machines"]) - {SLOW}
    assert (sorted(window["machines"]), window["other_machines"]) == (sorted([own, SLOW]), [])
    for machine, other, count, failures in ((SLOW, own, 3, {"queue-full": 1}), (own, SLOW, 1, {})):
        asked = {"machine": machine, "model": "tiny", "stage": "total"}
        body = client.get("/latency", params=asked).json()
        (row,) = LatencyResponse.model_validate(body).latencies
        assert (row.count, row.errors) == (count, failures)
        history = HistoryResponse.model_validate(client.get("/latency/history", params=asked).json())
        assert sum(point.count for point in history.points) == count
        told = DistributionResponse.model_validate(client.get("/latency/distribution", params=asked).json())
        assert told.count == count
        for answer in (body["window"], history.window.model_dump(), told.window.model_dump()):
            assert (answer["machines"], answer["other_machines"]) == ([machine], [other])
    assert latencies(client, "?machine=unknown") == []


@pytest.mark.parametrize("route", ["/latency", "/latency/history", "/latency/distribution", "/dashboard"])
def test_unknown_machine(client: httpx.Client, route: str) -> None:
    response = client.get(f"{route}?model=tiny&machine=Abacus")
    assert_problem(response, 422, "invalid-parameter", "machine 'Abacus': unknown (allowed: ", "; unknown)")


@pytest.mark.slow
def test_concurrent_requests(serve: Callable[..., httpx.Client], png: bytes) -> None:
    client = serve()
    seen: list[tuple[int, int]] = []

    def look() -> None:
        with http_client(client.base_url) as own:
            for _ in range(5):
                before = recorded[0]
                (row,) = latencies(own, "?model=tiny&stage=total")
                seen.append((before, row["count"]))

    recorded = [0]
    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert client.post("/classify", content=png).status_code == 200
        recorded[0] += 1
    assert len(seen) == 40
    assert all(count >= before for before, count in seen), (
        "an answer lacked what was recorded before it was asked"
    )


def test_parse_since_and_step() -> None:
    assert [parse_since(text, NOW) for text in ("90s", "15m", "24h", "30d")] == [
        NOW - 90,
        NOW - 900,
        NOW - 86400,
        NOW - 30 * 86400,
    ]
    assert parse_since("2027-01-15", NOW) == parse_since("2027-01-15T00:00:00", NOW) == 1_799_971_200
    assert parse_since("2027-01-15T02:00:00+02:00", NOW) == 1_799_971_200
    assert parse_since("2027-01-15T02:00:00 02:00", NOW) == 1_799_971_200
    assert [parse_step(text) for text in ("60s", "5m", "1h", "1d")] == [60, 300, 3600, 86400]
    for text in ("", "m", "1.5h", "１5m", "9" * 30 + "d", "2027-13-01", "24h "):
        with pytest.raises(InvalidParameter):
            parse_since(text, NOW)
    assert format_moment(NOW) == "2027-01-15T08:00:00Z"
    assert format_moment(NOW + 0.25) == "2027-01-15T08:00:00.250Z"
    assert parse_since(format_moment(NOW), time.time() + NOW) == NOW
