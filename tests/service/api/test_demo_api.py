"""POST /demo: every model runs on bundled photographs, apart from live latency."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from PIL import Image
from pydantic import SecretStr

from models.zoo.statistics import MIN_SAMPLES
from service.inference.demo import PHOTOGRAPHS, RUNS_PER_MODEL
from tests.helpers.problems import assert_problem
from tests.helpers.until import until

Serve = Callable[..., httpx.Client]


def test_demo_runs_every_model(serve: Serve) -> None:
    client = serve()
    assert client.get("/demo").json() == {"running": False, "models": 0, "runs": 0, "planned": 0}
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
    assert MIN_SAMPLES[0.90] <= RUNS_PER_MODEL
