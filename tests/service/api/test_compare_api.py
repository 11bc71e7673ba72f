"""POST /compare: results, rules and limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.api.inference.compare import CompareResponse
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.problems import assert_problem
from tests.service.conftest import running


def test_results_equal_those_of_classify(client: httpx.Client, cat_jpeg: bytes) -> None:
    response = client.post("/compare?top_k=3&repeat=7", files={"image": cat_jpeg})
    assert response.status_code == 200
    body = CompareResponse.model_validate_json(response.content, strict=True)
    assert [result.model for result in body.results] == ["tiny", "tiny-b"]
    for result in body.results:
        alone = client.post(f"/classify?top_k=3&model={result.model}", content=cat_jpeg).json()
        assert [p.model_dump() for p in result.predictions] == alone["predictions"]
        card = client.get(f"/models/{result.model}").json()["card"]
        assert (result.parameters, result.macs) == (card["parameters"], card["macs"])
        assert result.file_bytes == card["file"]["bytes"]
        assert result.latency_ms.count == 7
        assert 0 < result.latency_ms.min <= result.latency_ms.p50
        assert result.timings_ms.inference == result.latency_ms.p50
        assert result.latency_ms.p90 is None
        assert result.latency_ms.p95 is None
    assert body.baseline == "tiny"
    p50 = {result.model: result.latency_ms.p50 for result in body.results}
    assert body.results[0].speedup == 1.0
    assert body.results[1].speedup == pytest.approx(p50["tiny"] / p50["tiny-b"], rel=0.05)
    assert body.fastest is not None
    assert p50[body.fastest] == min(
        p50.values()
    )  # which of two equal ones, the answer decides by nanoseconds
    assert body.image.bytes == len(cat_jpeg)


def test_order_of_models_rotates(client: httpx.Client, png: bytes) -> None:
    body = client.post("/compare?repeat=3", content=png).json()
    assert body["order"] == [["tiny", "tiny-b"], ["tiny-b", "tiny"], ["tiny", "tiny-b"]]
    assert body["fastest"] is None


def test_agreement_on_labels(client: httpx.Client, png: bytes) -> None:
    body = client.post("/compare", content=png).json()
    tops = {result["model"]: result["predictions"][0]["label"] for result in body["results"]}
    named = {model: label for label, models in body["agreement"]["labels"].items() for model in models}
    assert named == tops
    assert body["agreement"]["top1"] == (1.0 if len(set(tops.values())) == 1 else 0.5)


def test_chosen_models_and_baseline(client: httpx.Client, png: bytes) -> None:
    body = client.post("/compare?models=tiny-b,tiny&baseline=tiny-b", content=png).json()
    assert [result["model"] for result in body["results"]] == ["tiny-b", "tiny"]
    assert body["baseline"] == "tiny-b"
    assert client.post("/compare?models=tiny-b", content=png).json()["baseline"] == "tiny-b"


@pytest.mark.slow
def test_runs_are_recorded_as_compare(serve: Callable[..., httpx.Client], png: bytes) -> None:
    client = serve()
    client.post("/compare?repeat=4", content=png)
    client.post("/classify?model=tiny-b", content=png)

    def counts(regime: str) -> dict[tuple[str, str], int]:
        rows = client.get("/latency", params={"regime": regime}).json()["latencies"]
        return {(row["model"], row["stage"]): row["count"] for row in rows if row["count"]}

    stages = ("preprocess", "inference", "postprocess")
    assert counts("compare") == {(model, stage): 4 for model in ("tiny", "tiny-b") for stage in stages}
    live = counts("live")
    assert {model for model, _ in live} == {"tiny-b"}
    assert set(live.values()) == {1}


@pytest.mark.parametrize(
    ("query", "status", "slug", "word"),
    [
        ("models=tiny,nope", 404, "unknown-model", "'nope'"),
        ("models=tiny,tiny", 422, "invalid-parameter", "more than once"),
        ("models=", 422, "invalid-parameter", "empty"),
        ("baseline=nope", 404, "unknown-model", "'nope'"),
        ("models=tiny&baseline=tiny-b", 422, "invalid-parameter", "not compared"),
        ("repeat=0", 422, "invalid-parameter", "1 to 50"),
        ("repeat=1000000", 422, "invalid-parameter", "1 to 50"),
        ("top_k=0", 422, "invalid-parameter", "1 to 10"),
        ("top_k=11", 422, "invalid-parameter", "1 to 10"),
        ("repeats=3", 422, "invalid-parameter", "'repeats'"),
    ],
)
def test_bad_parameters(
    client: httpx.Client, png: bytes, query: str, status: int, slug: str, word: str
) -> None:
    assert_problem(client.post(f"/compare?{query}", content=png), status, slug, word)


def test_invalid_images(client: httpx.Client, png: bytes) -> None:
    assert_problem(client.post("/compare", content=b""), 422, "empty-body")
    assert_problem(client.post("/compare", content=b"text"), 415, "unknown-image-type")
    assert_problem(client.post("/compare", content=png[:40]), 422, "undecodable-image")
    assert client.post("/compare", content=png).status_code == 200


def test_mixed_label_sets(tmp_path: Path, png: bytes) -> None:
    make_tiny_model(tmp_path / "zoo", "a", labels="first-10")
    make_tiny_model(tmp_path / "zoo", "b", labels="second-10")
    settings = Settings(model_dirs=(tmp_path / "zoo",), default_model="b", data_dir=tmp_path / "data")
    with running(settings) as client:
        default = client.post("/compare", content=png).json()
        assert [result["model"] for result in default["results"]] == ["b"]
        refused = client.post("/compare?models=a,b", content=png)
        assert_problem(refused, 422, "invalid-parameter", "first-10, second-10", "mix_labels")
        mixed = client.post("/compare?models=a,b&mix_labels=true", content=png)
        assert [result["model"] for result in mixed.json()["results"]] == ["a", "b"]


def test_comparison_over_the_time_budget(serve: Callable[..., httpx.Client], png: bytes) -> None:
    client = serve(compare_budget_s=1e-6)
    assert_problem(client.post("/compare", content=png), 422, "invalid-parameter", "limit: 1e-06 s")
    assert client.get("/latency?regime=compare").json()["latencies"] == []


def test_concurrent_comparisons(client: httpx.Client, cat_jpeg: bytes) -> None:
    async def storm() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=30, trust_env=False) as many:
            requests = [many.post("/compare?repeat=50", content=cat_jpeg) for _ in range(6)]
            return await asyncio.gather(*requests)

    responses = asyncio.run(storm())
    statuses = sorted(response.status_code for response in responses)
    assert statuses[0] == 200
    assert statuses[-1] == 503
    for response in responses:
        if response.status_code == 503:
            assert_problem(response, 503, "busy", "limit: 1")
    assert client.post("/compare", content=cat_jpeg).status_code == 200


@pytest.mark.slow
def test_requests_run_between_rounds(client: httpx.Client, cat_jpeg: bytes) -> None:
    async def both() -> tuple[httpx.Response, list[httpx.Response]]:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=30, trust_env=False) as many:
            comparison = asyncio.create_task(many.post("/compare?repeat=50", content=cat_jpeg))
            others = [asyncio.create_task(many.post("/classify", content=cat_jpeg)) for _ in range(20)]
            return await comparison, await asyncio.gather(*others)

    comparison, others = asyncio.run(both())
    assert comparison.json()["results"][0]["latency_ms"]["count"] == 50
    assert {response.status_code for response in others} == {200}
