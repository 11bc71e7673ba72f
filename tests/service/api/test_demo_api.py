"""POST /demo: every model runs on bundled photographs, apart from live latency."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image
from pydantic import SecretStr

from service.errors import NotReady
from service.inference.demo import PHOTOGRAPHS, RUNS_PER_MODEL, Demo, DemoState
from service.inference.pool import CorePool
from service.inference.registry import Registry
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder
from tests.helpers.problems import assert_problem
from tests.helpers.until import until

Serve = Callable[..., httpx.Client]


@pytest.mark.slow
def test_demo_runs_every_model(serve: Serve) -> None:
    client = serve()
    before = {"running": False, "models": 0, "runs": 0, "planned": 0, "detail": None}
    assert client.get("/demo").json() == before
    started = client.post("/demo")
    assert started.status_code == 202
    assert started.json()["planned"] == 2 * RUNS_PER_MODEL
    assert_problem(client.post("/demo"), 503, "busy", "one at a time")
    until(lambda: not client.get("/demo").json()["running"], "the demo to end")
    assert client.get("/demo").json()["runs"] == 2 * RUNS_PER_MODEL
    rows = client.get("/latency", params={"regime": "demo", "stage": "total"}).json()["latencies"]
    assert [(row["model"], row["count"]) for row in rows] == [
        ("tiny", RUNS_PER_MODEL),
        ("tiny-b", RUNS_PER_MODEL),
    ]
    assert all(row["p90_ms"] is not None for row in rows), "half a minute is enough for a p90"
    assert client.get("/latency").json()["latencies"] == [], "no live figure changes"
    assert client.post("/demo").status_code == 202, "another one may follow"


def test_demo_says_why_it_made_no_run(serve: Serve) -> None:
    client = serve(max_pixels=100_000)
    assert client.post("/demo").status_code == 202
    until(lambda: not client.get("/demo").json()["running"], "the demo to end")
    state = client.get("/demo").json()
    assert state["runs"] == 0
    assert "pixels" in state["detail"]


@pytest.mark.slow
def test_demo_and_benchmark_exclude_each_other(serve: Serve) -> None:
    client = serve()
    started = client.post("/benchmarks", json={"models": ["tiny"]})
    assert started.status_code == 202
    assert_problem(client.post("/demo"), 503, "busy", "a benchmark is running")
    benchmark = f"/benchmarks/{started.json()['id']}"
    client.delete(benchmark)
    until(lambda: client.get(benchmark).json()["state"] != "running", "the benchmark to stop")
    assert client.post("/demo").status_code == 202
    assert_problem(client.post("/benchmarks", json={"models": ["tiny"]}), 503, "busy", "the demo is running")


def test_demo_waits_for_the_models(tiny_models_dir: Path) -> None:
    registry = Registry([tiny_models_dir], "tiny")
    with contextlib.closing(CorePool(1, 4)) as pool:
        recorder = Recorder(None, Metrics({}))
        demo = Demo(registry, pool, recorder, max_pixels=10**6, benchmark_runs=lambda: False)
        with pytest.raises(NotReady, match="being loaded"):
            demo.start()


def test_demo_that_fails_stops_all_its_workers(tiny_models_dir: Path) -> None:
    registry = Registry([tiny_models_dir], "tiny")
    registry.load()

    async def run() -> tuple[DemoState, DemoState, int]:
        with contextlib.closing(CorePool(4, 8)) as pool:
            recorder = Recorder(None, Metrics({}))
            demo = Demo(registry, pool, recorder, max_pixels=270_000, benchmark_runs=lambda: False)
            demo.start()
            while demo.running:
                await asyncio.sleep(0)
            workers = len(asyncio.all_tasks()) - 1
            ended = demo.state
            await asyncio.sleep(0)
            await demo.close()
            return ended, demo.state, workers

    ended, later, workers = asyncio.run(run())
    assert workers == 0
    assert ended == later
    assert ended.detail is not None


def test_demo_needs_the_key(serve: Serve) -> None:
    client = serve(api_key=SecretStr("secret"))
    assert_problem(client.post("/demo"), 401, "unauthorized")
    assert client.post("/demo", headers={"Authorization": "Bearer secret"}).status_code == 202


def test_photographs_are_small() -> None:
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))
    assert [path.stem for path in files] == ["astronaut", "cat", "coffee", "rocket"]
    readme = (PHOTOGRAPHS / "README.md").read_text()
    for path in files:
        assert path.stat().st_size < 50_000
        assert f"`{path.name}`" in readme, "its rights are stated"
        with Image.open(path) as image:
            image.load()
            assert max(image.size) <= 640
