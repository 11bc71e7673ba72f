"""/benchmarks at two services with one PostgreSQL: progress, cancellation, one benchmark per machine."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, pairwise
from pathlib import Path

import httpx
import pytest

from models.zoo.machine import running_system
from service.bench.bundle_file import from_json
from service.bench.fingerprint import this_host
from service.bench.store import BenchmarkStore
from service.settings import Settings
from tests.faults.test_benchmark_jobs import descendants
from tests.helpers.postgres import connected
from tests.helpers.problems import assert_problem
from tests.helpers.until import until
from tests.service.bench.test_benchmarks_api import ended, events, start

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.fault]  # measurements, seconds each

Serve = Callable[..., httpx.Client]


def launch(client: httpx.Client, identifier: str) -> int:
    progress = client.get(f"/benchmarks/{identifier}").json()["progress"]
    return 0 if progress is None else progress["launch"]


def elapsed_s(client: httpx.Client, identifier: str) -> float:
    body = client.get(f"/benchmarks/{identifier}").json()
    assert body["state"] == "running", "it ended before it was seen"
    return body["progress"]["elapsed_s"]


def test_progress_at_another_replica(serve: Serve) -> None:
    here, there = serve(), serve()
    started = start(here, models=["tiny"])
    identifier = started["id"]
    assert started["machine"] == this_host().model_dump()
    with ThreadPoolExecutor(2) as threads:
        watching = [threads.submit(lambda: list(events(there, identifier))) for _ in range(2)]
        until(lambda: launch(there, identifier) >= 1, "the other replica shows progress")
        seen = there.get(f"/benchmarks/{identifier}").json()
        now = here.get(f"/benchmarks/{identifier}").json()
        until(
            lambda: elapsed_s(there, identifier) >= now["progress"]["elapsed_s"],
            "the other replica shows what the running one has shown",
        )
        [listed] = there.get("/benchmarks").json()["benchmarks"]
        page = there.get("/dashboard/benchmarks").text
        streams = [each.result() for each in watching]
    assert {**seen, "progress": None} == {**now, "progress": None}
    assert 0 < seen["progress"]["done"] < 1
    assert seen["progress"]["elapsed_s"] <= now["progress"]["elapsed_s"] <= listed["progress"]["elapsed_s"]
    assert f'data-running="{identifier}"' in page
    assert platform.node() in page
    for stream in streams:
        assert [kind for kind, _ in stream[:-1]] == ["progress"] * (len(stream) - 1)
        assert stream[-1][0] == "end"
        assert (stream[-1][1]["state"], stream[-1][1]["progress"]) == ("done", None)
        moments = [body["progress"]["elapsed_s"] for _, body in stream if body["progress"] is not None]
        assert len(moments) > 3
        assert all(one <= other for one, other in pairwise(moments))
    assert there.get(f"/benchmarks/{identifier}").json() == here.get(f"/benchmarks/{identifier}").json()
    assert from_json(there.get(f"/benchmarks/{identifier}/bundle").content).blocks


def test_cancellation_at_another_replica(serve: Serve) -> None:
    here, there = serve(), serve()
    identifier = start(here, models=["tiny"])["id"]
    for _, body in events(here, identifier):
        if body["progress"] is not None and body["progress"]["launch"] >= 2:
            break
    first = there.delete(f"/benchmarks/{identifier}")
    assert (first.status_code, first.json()["state"], first.json()["cancelling"]) == (202, "running", True)
    again = there.delete(f"/benchmarks/{identifier}")
    assert again.status_code in (200, 202)
    body = ended(there, identifier)
    assert (body["state"], body["detail"], body["cancelling"]) == ("cancelled", "it was cancelled", False)
    assert "partial" in {flag["kind"] for flag in body["flags"]}
    for client in (there, here):
        assert client.delete(f"/benchmarks/{identifier}").status_code == 200
        assert_problem(client.delete("/benchmarks/nothing"), 404, "unknown-benchmark")


def test_cancellation_before_the_first_heartbeat(
    serve: Serve, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.bench.jobs.HEARTBEAT_S", 3.0)
    here, there = serve(), serve()
    identifier = start(here, models=["tiny"], profile="standard")["id"]
    assert there.delete(f"/benchmarks/{identifier}").status_code == 202
    heard_after_ms = "SELECT alive_ms - created_ms FROM benchmarks WHERE id = %s"
    with connected(str(tiny_settings.database_url)) as connection:
        [after_ms] = connection.execute(heard_after_ms, (identifier,)).fetchone() or [None]
    assert after_ms is not None
    assert after_ms < 3000, "the first heartbeat came before the cancellation"
    body = ended(here, identifier)
    assert (body["state"], body["cancelling"]) == ("cancelled", False)
    partial = body["measured"] and "partial" in {flag["kind"] for flag in body["flags"]}
    without = "it was cancelled, before the first results"
    assert body["detail"] == ("it was cancelled" if partial else without)


def test_cancellation_while_the_end_is_stored(serve: Serve, tiny_settings: Settings) -> None:
    client = serve()
    identifier = start(client, models=["tiny"])["id"]
    url = str(tiny_settings.database_url)
    waiting = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with connected(url) as other, connected(url) as observer, other.transaction():
        other.execute("SELECT 1 FROM benchmarks WHERE id = %s FOR UPDATE", (identifier,))
        below = descendants(os.getpid())
        [job] = [pid for pid, command in below.items() if "service.bench.job" in command]
        os.kill(job, signal.SIGKILL)
        until(
            lambda: any("bundle=" in query for (query,) in observer.execute(waiting)),
            "the end is being stored",
        )
        first = client.delete(f"/benchmarks/{identifier}")
        assert (first.status_code, first.json()["cancelling"]) == (202, True)
    body = ended(client, identifier)
    assert (body["state"], body["detail"]) == ("cancelled", "it was cancelled, before the first results")
    assert client.delete(f"/benchmarks/{identifier}").status_code == 200


def test_heartbeats_go_on_after_an_unexpected_error(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = serve(), serve()
    heard, calls = BenchmarkStore.heard, count(1)

    def fail_once(*arguments: object, **named: object) -> bool:
        if next(calls) == 1:
            raise RuntimeError("can't start new thread")
        return heard(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(BenchmarkStore, "heard", fail_once)
    identifier = start(here, models=["tiny"], profile="standard")["id"]
    until(lambda: launch(there, identifier) >= 1, "the other replica shows progress")
    assert there.delete(f"/benchmarks/{identifier}").status_code == 202
    assert ended(there, identifier)["state"] == "cancelled"


def test_one_benchmark_per_machine(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = serve(), serve()
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("of another machine")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("service.bench.fingerprint.running_system", partial(running_system, boot_id))
        far = serve()
    identifier = start(here, models=["tiny"])["id"]
    busy = there.post("/benchmarks", json={"models": ["tiny"]})
    assert_problem(busy, 503, "busy", f"'{identifier}' is running on this machine", "limit: 1 per machine")
    other = start(far, models=["tiny"])
    assert other["machine"]["id"] == running_system(boot_id) != running_system()
    running = [
        each["id"] for each in there.get("/benchmarks").json()["benchmarks"] if each["state"] == "running"
    ]
    assert set(running) == {identifier, other["id"]}
    for each in running:
        assert there.delete(f"/benchmarks/{each}").status_code == 202
        assert ended(there, each)["state"] == "cancelled"
    third = start(there, models=["tiny"])["id"]
    assert here.delete(f"/benchmarks/{third}").status_code == 202
    assert ended(here, third)["state"] == "cancelled"
