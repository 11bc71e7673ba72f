"""/benchmarks and /recommend over real sockets, measuring in real processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from service.bench.bundle_file import from_json
from service.inference.runtimes.opening import is_installed
from service.settings import Settings
from tests.helpers.problems import assert_problem
from tests.service.conftest import running

pytestmark = pytest.mark.fault  # whole measurements, seconds each

Serve = Callable[..., httpx.Client]


def start(client: httpx.Client, **wanted: object) -> dict[str, Any]:
    response = client.post("/benchmarks", json=wanted)
    assert response.status_code == 202, response.text
    body: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/benchmarks/{body['id']}"
    return body


def events(client: httpx.Client, identifier: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the events of a benchmark until the stream ends."""
    with client.stream("GET", f"/benchmarks/{identifier}/events", timeout=120) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def ended(client: httpx.Client, identifier: str) -> dict[str, Any]:
    """Wait until a benchmark has ended; return its final state."""
    assert list(events(client, identifier))[-1][0] == "end"
    body: dict[str, Any] = client.get(f"/benchmarks/{identifier}").json()
    return body


@pytest.fixture(scope="module")
def measured(
    tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, str, list[tuple[str, dict[str, Any]]]]]:
    """Run a quick benchmark of `tiny`; return the client, its id, and its events."""
    data_dir = tmp_path_factory.mktemp("data")
    settings = Settings(model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=data_dir)
    with running(settings) as client:
        identifier = start(client, models=["tiny"])["id"]
        yield client, identifier, list(events(client, identifier))


Measured = tuple[httpx.Client, str, list[tuple[str, dict[str, Any]]]]


@pytest.mark.openvino
def test_both_runtimes(serve: Serve) -> None:
    client = serve()
    benchmark = start(client, models=["tiny"], runtime=["onnxruntime", "openvino"])
    assert benchmark["request"]["runtimes"] == ["onnxruntime", "openvino"]
    assert client.delete(f"/benchmarks/{benchmark['id']}").is_success
    assert ended(client, benchmark["id"])["state"] == "cancelled"


@pytest.mark.skipif(is_installed("openvino"), reason="OpenVINO is installed")
def test_runtime_that_is_not_installed(measured: Measured) -> None:
    client, _, _ = measured
    answer = client.post("/benchmarks", json={"runtime": ["openvino"]})
    assert_problem(answer, 422, "invalid-parameter", "runtime 'openvino': not installed")


def test_progress_of_a_separate_process(measured: Measured) -> None:
    client, identifier, told = measured
    assert [kind for kind, _ in told[:-1]] == ["progress"] * (len(told) - 1)
    assert told[-1][0] == "end"
    assert told[-1][1]["state"] == "done", told[-1][1]
    shares = [body["progress"]["done"] for _, body in told if body["progress"] is not None]
    assert len(shares) > 5
    assert shares[0] < 0.5 < shares[-1] <= 1
    launches = {body["progress"]["launch"] for _, body in told if body["progress"] is not None}
    assert {1, 2, 3} <= launches
    body = client.get(f"/benchmarks/{identifier}").json()
    assert (body["state"], body["measured"], body["detail"]) == ("done", True, None)
    assert body["request"]["models"] == ["tiny"]
    assert body["finished_at"] > body["created_at"]


def test_results_of_a_benchmark(measured: Measured) -> None:
    client, identifier, _ = measured
    body = client.get(f"/benchmarks/{identifier}").json()
    results = {each["entry"]: each for each in body["results"]}
    assert set(results) == {"tiny", "tiny#again"}
    latency = results["tiny"]["latency_ms"]
    assert latency["count"] == 3 * 6 * 32
    assert 0 < latency["p50"] <= latency["p90"]["estimate"] <= latency["p90"]["bound"]
    assert latency["p99"] is None, "a quick run gave a p99"
    assert results["tiny#again"]["control"]
    assert results["tiny"]["speedup"] is None


def test_downloaded_bundle(measured: Measured) -> None:
    client, identifier, _ = measured
    response = client.get(f"/benchmarks/{identifier}/bundle")
    assert response.headers["content-disposition"] == f'attachment; filename="weighin-{identifier}.json"'
    bundle = from_json(response.content)
    assert bundle.regime == "isolated"
    assert len(bundle.samples("tiny")) == 3 * 6 * 32
    assert not bundle.flags_of("contaminated")


def test_samples_are_recorded_as_isolated(measured: Measured) -> None:
    client, identifier, _ = measured
    void = any(flag["kind"] == "void" for flag in client.get(f"/benchmarks/{identifier}").json()["flags"])
    for regime in ("isolated", "live", "load", "compare"):
        rows = client.get("/latency", params={"regime": regime}).json()["latencies"]
        counts = {(row["model"], row["stage"]): row["count"] for row in rows}
        assert counts == ({("tiny", "inference"): 576} if regime == "isolated" and not void else {})


def test_list_and_recommend_after_a_benchmark(measured: Measured) -> None:
    client, identifier, _ = measured
    listed = client.get("/benchmarks").json()["benchmarks"]
    assert [(each["id"], each["state"]) for each in listed] == [(identifier, "done")]
    body = client.get("/recommend", params={"p90_ms": 1000, "p99_ms": 1000}).json()
    assert body["recommended"] is None
    reasons = {each["model"]: each["reason"] for each in body["rejected"]}
    assert reasons["tiny-b"] == "not measured here: run `weighin bench --profile standard --models tiny-b`"
    flags = {flag["kind"] for flag in client.get(f"/benchmarks/{identifier}").json()["flags"]}
    voided = flags & {"dirty", "void"}
    if voided:  # a noisy machine: then it says so
        assert reasons["tiny"].startswith("no usable benchmark: quick run of ")
        assert body["evidence"]["unused"][0]["benchmark"] == identifier
    else:
        assert reasons["tiny"].startswith("576 runs are too few for a p99 (needed: 662): run ")
        assert body["evidence"]["benchmarks"] == [identifier]
        fits = client.get("/recommend", params={"p90_ms": 1000}).json()
        assert fits["recommended"] == "tiny"
        assert fits["fits"][0]["benchmark"] == identifier
        assert fits["fits"][0]["confidence"] >= 0.99
        assert [each["model"] for each in fits["pareto"]] == ["tiny"]
        (weighed,) = fits["measured"]
        assert (weighed["model"], weighed["benchmark"]) == ("tiny", identifier)
        assert weighed["p50_low_ms"] <= weighed["p50_ms"] <= weighed["p50_high_ms"]


def test_cancel_a_finished_benchmark(measured: Measured) -> None:
    client, identifier, _ = measured
    assert_problem(client.delete(f"/benchmarks/{identifier}"), 409, "benchmark-ended", "ended", "done")
    assert client.get(f"/benchmarks/{identifier}").json()["measured"]


def test_unknown_ids_are_404(measured: Measured) -> None:
    client, _, _ = measured
    for path in ("", "/bundle", "/events"):
        assert_problem(client.get(f"/benchmarks/nothing{path}"), 404, "unknown-benchmark", "'nothing'")
    assert_problem(client.delete("/benchmarks/nothing"), 404, "unknown-benchmark")


@pytest.mark.parametrize(
    ("wanted", "status", "slug", "words"),
    [
        ({"models": ["resnet"]}, 404, "unknown-model", "model 'resnet': unknown (allowed: tiny, tiny-b)"),
        ({"models": []}, 422, "invalid-parameter", "models: empty"),
        ({"models": ["tiny", "tiny"]}, 422, "invalid-parameter", "more than once"),
        ({"scenario": "sprint"}, 422, "invalid-parameter", "scenario"),
        ({"profile": "slow"}, 422, "invalid-parameter", "profile"),
        ({"scenario": "server"}, 422, "invalid-parameter", "budget_ms: missing"),
        ({"scenario": "server", "budget_ms": 0}, 422, "invalid-parameter", "budget_ms 0: out of range"),
        ({"models": ["tiny"], "baseline": "tiny-b"}, 422, "invalid-parameter", "baseline 'tiny-b'"),
        ({"threads": [0]}, 422, "invalid-parameter", "threads 0: out of range"),
        ({"threads": []}, 422, "invalid-parameter", "threads: empty (allowed: one or more)"),
        ({"runtime": []}, 422, "invalid-parameter", "runtime: empty (allowed: one or more)"),
        ({"runtime": ["openvino"] * 2}, 422, "invalid-parameter", "runtime: openvino more than once"),
        ({"runtime": ["tflite"]}, 422, "invalid-parameter", "'onnxruntime' or 'openvino'"),
        ({"flavour": "sour"}, 422, "invalid-parameter", "flavour"),
    ],
)
def test_invalid_request(
    wanted: dict[str, object], status: int, slug: str, words: str, measured: Measured
) -> None:
    client, identifier, _ = measured
    assert_problem(client.post("/benchmarks", json=wanted), status, slug, words)
    assert [each["id"] for each in client.get("/benchmarks").json()["benchmarks"]] == [identifier]


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"models": "tiny"}'])
def test_invalid_request_body(content: bytes, measured: Measured) -> None:
    client, _, _ = measured
    response = client.post("/benchmarks", content=content, headers={"content-type": "application/json"})
    assert_problem(response, 422, "invalid-parameter")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"p99_ms": 0}, "p99_ms 0.0: out of range (allowed: above 0"),
        ({"p99_ms": "nan"}, "p99_ms nan"),
        ({"p90_ms": "inf"}, "p90_ms inf"),
        ({"p50_ms": "fast"}, "p50_ms"),
        ({"max_bytes": -1}, "max_bytes -1"),
        ({"min_accuracy": 70}, "min_accuracy 70.0: out of range (allowed: 0 to 1"),
        ({"labels": "pets"}, "labels 'pets': unknown (allowed: tiny-10)"),
        ({"p99": 10}, "unknown query parameter 'p99'"),
    ],
)
def test_recommend_with_invalid_bounds(query: dict[str, Any], words: str, measured: Measured) -> None:
    client, _, _ = measured
    assert_problem(client.get("/recommend", params=query), 422, "invalid-parameter", words)


def test_recommend_without_bounds(serve: Serve) -> None:
    body = serve().get("/recommend").json()
    assert {fit["model"] for fit in body["fits"]} == {"tiny", "tiny-b"}
    assert all(fit["confidence"] is None and fit["latency_ms"] is None for fit in body["fits"])
    assert all("not measured here" in note for fit in body["fits"] for note in fit["notes"][-1:])
    assert set(body) == {
        "machine", "machines", "recommended", "why", "accuracy_of", "data", "task", "labels", "fits",
        "measured", "pareto", "dominated", "rejected", "evidence",
    }  # fmt: skip


def test_busy_cancel_and_contamination(serve: Serve, png: bytes) -> None:
    client = serve()
    identifier = start(client, models=["tiny"])["id"]
    busy = client.post("/benchmarks", json={"models": ["tiny"]})
    assert_problem(busy, 503, "busy", "is running", "limit: 1")
    not_yet = client.get(f"/benchmarks/{identifier}/bundle")
    assert_problem(not_yet, 503, "not-ready", "still running")
    assert client.post("/classify", content=png).status_code == 200
    for kind, body in events(client, identifier):
        progress = body["progress"]
        if progress is not None and progress["launch"] >= 2:
            break
        assert kind == "progress"
    first = client.delete(f"/benchmarks/{identifier}")
    again = client.delete(f"/benchmarks/{identifier}")
    assert first.status_code == 202
    assert again.status_code in (200, 202)
    body = ended(client, identifier)
    assert (body["state"], body["detail"]) == ("cancelled", "it was cancelled")
    kinds = {flag["kind"] for flag in body["flags"]}
    assert {"partial", "contaminated"} <= kinds
    [contaminated] = [flag for flag in body["flags"] if flag["kind"] == "contaminated"]
    assert contaminated["reason"] == "the service ran 1 jobs of its own meanwhile"
    assert client.delete(f"/benchmarks/{identifier}").status_code == 200
    rows = client.get("/latency", params={"regime": "isolated"}).json()["latencies"]
    assert rows == [], "what live traffic disturbed was recorded as isolated"
    told = client.get("/recommend", params={"p90_ms": 1000}).json()
    assert told["evidence"]["unused"][0]["benchmark"] == identifier
    # and the next may begin
    second = start(client, models=["tiny"])["id"]
    client.delete(f"/benchmarks/{second}")
    assert ended(client, second)["state"] == "cancelled"


def test_server_scenario_is_recorded_as_load(serve: Serve) -> None:
    client = serve()
    wanted = {"models": ["tiny"], "scenario": "server", "budget_ms": 200}
    body = ended(client, start(client, **wanted)["id"])
    assert body["state"] == "done", body
    [result] = [each for each in body["results"] if each["entry"] == "tiny"]
    assert result["rate_per_s"] > 0
    for regime in ("load", "isolated", "live"):
        rows = client.get("/latency", params={"regime": regime}).json()["latencies"]
        stages = {row["stage"]: row["count"] for row in rows if row["model"] == "tiny"}
        assert set(stages) == ({"inference", "total"} if regime == "load" else set())
    told = client.get("/recommend", params={"p90_ms": 1000}).json()
    assert told["recommended"] is None
    unused = told["evidence"]["unused"][0]["reason"]
    assert "scenario server has no latency of single images" in unused or "dirty" in unused


def test_api_key_of_benchmarks(serve: Serve) -> None:
    client = serve(api_key=SecretStr("open sesame"))
    for header in (None, "Bearer wrong", "Basic b3BlbiBzZXNhbWU="):
        headers = {} if header is None else {"Authorization": header}
        for method, path in (("POST", "/benchmarks"), ("DELETE", "/benchmarks/some")):
            response = client.request(method, path, headers=headers)
            assert_problem(response, 401, "unauthorized", "key")
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert "open sesame" not in response.text
    assert client.get("/benchmarks").json() == {"benchmarks": []}
    assert client.get("/recommend").status_code == 200
    key = {"Authorization": "Bearer open sesame"}
    assert_problem(client.delete("/benchmarks/some", headers=key), 404, "unknown-benchmark")
    assert_problem(client.post("/benchmarks", json={"models": []}, headers=key), 422, "invalid-parameter")


def test_cross_site_requests_to_benchmarks(serve: Serve) -> None:
    client = serve()
    headers = {"Origin": "https://elsewhere.example"}
    assert_problem(client.post("/benchmarks", json={}, headers=headers), 403, "cross-site-request")
    assert_problem(client.delete("/benchmarks/some", headers=headers), 403, "cross-site-request")


def test_no_benchmark_without_storage(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    client = serve(data_dir=tmp_path / "file" / "data")
    response = client.post("/benchmarks", json={"models": ["tiny"]})
    assert_problem(response, 507, "storage-unavailable")
    # that attempt did not leave the place taken
    assert_problem(client.post("/benchmarks", json={"models": ["tiny"]}), 507, "storage-unavailable")


def test_an_empty_key_is_no_key(tmp_path: Path) -> None:
    assert Settings(api_key="", data_dir=tmp_path).api_key is None  # type: ignore[arg-type]


def test_the_documentation_names_every_route_field_and_state(openapi: dict[str, Any]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "recommend.md").read_text()
    for path, operations in openapi["paths"].items():
        if path.startswith(("/benchmarks", "/recommend")):
            for method in operations:
                assert f"{method.upper()} {path}" in text
    for name in ("RecommendResponse", "FitOut", "ParetoOut", "DominatedOut", "RejectedOut", "EvidenceOut"):
        for field in openapi["components"]["schemas"][name]["properties"]:
            assert f"`{field}" in text or f"{{{field}" in text or f",{field}" in text, (name, field)
    for state in openapi["components"]["schemas"]["BenchmarkOut"]["properties"]["state"]["enum"]:
        assert f"`{state}`" in text
    for field in openapi["components"]["schemas"]["BenchmarkRequest"]["properties"]:
        assert f"`{field}`" in text
