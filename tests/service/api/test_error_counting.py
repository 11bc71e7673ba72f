"""Each failed request is counted once, with its model if one was known."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.middleware.context import ErrorCounting, RequestContext
from service.inference.registry import Registry
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.until import until
from tests.service.conftest import running

Series = tuple[str, str]


def counted(client: httpx.Client) -> Counter[Series]:
    """Return `weighin_errors_total` by model and kind."""
    return Counter(
        {
            (sample.labels["model"], sample.labels["kind"]): int(sample.value)
            for family in text_string_to_metric_families(client.get("/metrics").text)
            for sample in family.samples
            if sample.name == "weighin_errors_total"
        }
    )


def recorded(client: httpx.Client, regime: str) -> Counter[Series]:
    """Return the errors of `/latency` by model and kind."""
    body = client.get(f"/latency?regime={regime}").json()
    found = Counter({("", kind): count for kind, count in body["errors_without_model"].items()})
    for row in body["latencies"]:
        found.update({(row["model"], kind): count for kind, count in row["errors"].items()})
    return found


TEXT: dict[str, Any] = {"content": b"no picture"}
FORM: dict[str, Any] = {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}
GZIP: dict[str, Any] = {"content": b"x", "headers": {"Content-Encoding": "gzip"}}
OTHER_SITE: dict[str, Any] = {"content": b"x", "headers": {"Origin": "https://evil.example"}}


def fields(*names_and_values: tuple[str, str], image: bytes | None = b"no picture") -> dict[str, Any]:
    """Return a form with these fields, followed by an image."""
    parts = [(name, (None, value)) for name, value in names_and_values]
    return {"files": parts if image is None else [*parts, ("image", ("x.png", image))]}


B = ("model", "tiny-b")
CUT_OFF: dict[str, Any] = {
    "content": b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny-b\r\n--x\r\n:',
    "headers": FORM["headers"],
}

FAILURES: list[tuple[str, str, dict[str, Any], int, Series]] = [
    ("POST", "/classify", TEXT, 415, ("tiny", "unknown-image-type")),
    ("POST", "/classify?model=tiny-b", TEXT, 415, ("tiny-b", "unknown-image-type")),
    ("POST", "/classify?model=none", TEXT, 404, ("", "unknown-model")),
    ("POST", "/classify?model=", TEXT, 404, ("", "unknown-model")),
    ("POST", "/classify", {}, 422, ("tiny", "empty-body")),
    ("POST", "/classify", FORM, 400, ("tiny", "malformed-request")),
    ("POST", "/classify", {"content": bytes(20_001)}, 413, ("tiny", "body-too-large")),
    ("POST", "/classify?top_k=0", TEXT, 422, ("tiny", "invalid-parameter")),
    ("POST", "/classify?model=tiny-b&top_k=many", TEXT, 422, ("tiny-b", "invalid-parameter")),
    ("POST", "/classify?model=tiny-b&topk=1", TEXT, 422, ("tiny-b", "invalid-parameter")),
    ("POST", "/classify?top_k=many", TEXT, 422, ("", "invalid-parameter")),
    ("POST", "/classify?model=tiny-b", OTHER_SITE, 403, ("tiny-b", "cross-site-request")),
    ("POST", "/classify", fields(B), 415, ("tiny-b", "unknown-image-type")),
    ("POST", "/classify", fields(("model", "")), 415, ("tiny", "unknown-image-type")),
    ("POST", "/classify", fields(("model", "none")), 404, ("", "unknown-model")),
    ("POST", "/classify", fields(B, ("top_k", "many")), 422, ("tiny-b", "invalid-parameter")),
    ("POST", "/classify", fields(("top_k", "many")), 422, ("", "invalid-parameter")),
    ("POST", "/classify", fields(("colour", "x"), B), 422, ("tiny-b", "invalid-parameter")),
    ("POST", "/classify", fields(B, ("model", "tiny")), 422, ("tiny-b", "invalid-parameter")),
    ("POST", "/classify?model=tiny", fields(B), 422, ("tiny", "invalid-parameter")),
    ("POST", "/classify", fields(B, image=None), 400, ("tiny-b", "malformed-request")),
    ("POST", "/classify", fields(B, image=b""), 422, ("tiny-b", "empty-body")),
    ("POST", "/classify", fields(("model", "broken")), 503, ("broken", "model-unavailable")),
    ("POST", "/classify", CUT_OFF, 400, ("tiny-b", "malformed-request")),
    ("POST", "/classify", fields(B, image=bytes(20_001)), 413, ("", "body-too-large")),
    ("POST", "/explain", fields(B, ("class_id", "x")), 422, ("tiny-b", "invalid-parameter")),
    ("POST", "/explain", fields(B), 409, ("tiny-b", "no-exact-map")),
    ("GET", "/classify", {}, 405, ("", "method-not-allowed")),
    ("POST", "/classify?model=broken", TEXT, 503, ("broken", "model-unavailable")),
    ("POST", "/compare", TEXT, 415, ("", "unknown-image-type")),
    ("POST", "/compare?models=none", TEXT, 404, ("", "unknown-model")),
    ("POST", "/compare?repeat=many", TEXT, 422, ("", "invalid-parameter")),
    ("POST", "/explain", TEXT, 409, ("tiny", "no-exact-map")),
    ("POST", "/explain?model=tiny-b&class_id=x", TEXT, 422, ("tiny-b", "invalid-parameter")),
    ("POST", "/explain?model=none", TEXT, 404, ("", "unknown-model")),
    ("POST", "/retrieve-similar", TEXT, 415, ("tiny", "unknown-image-type")),
    ("POST", "/retrieve-similar?model=tiny-b", TEXT, 409, ("tiny-b", "other-model")),
    ("POST", "/retrieve-similar?where=x", TEXT, 422, ("", "invalid-parameter")),
    ("PUT", "/gallery/images/a", TEXT, 415, ("", "unknown-image-type")),
    ("GET", "/gallery/images/a", {}, 404, ("", "unknown-image")),
    ("POST", "/gallery/images", FORM, 400, ("", "malformed-request")),
    ("GET", "/benchmarks/none", {}, 404, ("", "unknown-benchmark")),
    ("GET", "/evaluations/none", {}, 404, ("", "unknown-evaluation")),
    ("POST", "/evaluations", TEXT, 422, ("", "invalid-evaluation")),
    ("GET", "/latency?since=never&model=tiny", {}, 422, ("", "invalid-parameter")),
    ("GET", "/models/none", {}, 404, ("", "unknown-model")),
    ("POST", "/v2/models/tiny-b/infer", TEXT, 400, ("tiny-b", "invalid-inference-request")),
    ("POST", "/v2/models/tiny-b/infer?x=1", TEXT, 422, ("tiny-b", "invalid-parameter")),
    ("POST", "/v2/models/tiny-b/infer", {"content": bytes(20_001)}, 413, ("tiny-b", "body-too-large")),
    ("POST", "/v2/models/tiny-b/infer", GZIP, 415, ("tiny-b", "unsupported-encoding")),
    ("POST", "/v2/models/tiny-b/infer", OTHER_SITE, 403, ("tiny-b", "cross-site-request")),
    ("POST", "/v2/models/tiny-b/versions/1/infer", TEXT, 404, ("tiny-b", "unknown-model")),
    ("POST", "/v2/models/none/infer", TEXT, 404, ("", "unknown-model")),
    ("POST", "/v2/models/broken/infer", TEXT, 503, ("broken", "model-unavailable")),
    ("GET", "/v2/models/tiny-b/infer", {}, 405, ("tiny-b", "method-not-allowed")),
    ("GET", "/v2/models/none", {}, 404, ("", "unknown-model")),
    ("GET", "/v2/models/tiny-b/versions/none", {}, 404, ("", "unknown-model")),
    ("GET", "/v2/models/infer", {}, 404, ("", "unknown-model")),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a client of a service with two tiny models and a broken one."""
    folder = tmp_path_factory.mktemp("counting")
    for number, name in enumerate(("tiny", "tiny-b", "broken")):
        make_tiny_model(folder / "zoo", name, seed=number)
    (folder / "zoo/broken/model.onnx").write_bytes(b"no model")
    settings = Settings(
        model_dirs=(folder / "zoo",), default_model="tiny", data_dir=folder / "data", max_body_bytes=20_000
    )
    with running(settings) as client:
        yield client


def test_counters_start_at_zero(client: httpx.Client) -> None:
    before = counted(client)
    assert {model for model, _ in before} == {"", "tiny", "tiny-b", "broken"}
    assert {series for *_, series in FAILURES} <= before.keys()
    assert {("tiny", "internal-error"), ("", "internal-error"), ("tiny", "queue-full")} <= before.keys()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "series"),
    FAILURES,
    ids=[f"{method} {path} {status} {series[0]}" for method, path, _, status, series in FAILURES],
)
def test_failed_request(
    client: httpx.Client, method: str, path: str, body: dict[str, Any], status: int, series: Series
) -> None:
    regime = "compare" if path.startswith("/compare") else "live"
    before, recorded_before = counted(client), recorded(client, regime)
    assert client.request(method, path, **body).status_code == status
    assert counted(client) - before == {series: 1}
    runs_networks = not path.startswith(("/benchmarks", "/evaluations", "/latency", "/models"))
    if path.startswith("/v2/"):
        runs_networks = "/infer" in path.removeprefix("/v2/models/")
    assert recorded(client, regime) - recorded_before == ({series: 1} if runs_networks else {})


@pytest.mark.parametrize("path", ["/nowhere", "/classify/x", "/static/none.css", "/gallery/none", "/v2/x"])
def test_path_without_a_route(client: httpx.Client, path: str) -> None:
    before = counted(client)
    assert client.get(path).status_code == 404
    assert counted(client) == before


def test_successful_request(client: httpx.Client, png: bytes) -> None:
    before = counted(client)
    for path in ("/classify", "/compare", "/retrieve-similar"):
        assert client.post(path, content=png).status_code == 200
    assert client.get("/healthz").status_code == client.get("/dashboard").status_code == 200
    assert counted(client) == before


def test_disconnected_client(client: httpx.Client) -> None:
    before = counted(client)
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 0), timeout=30
    ) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nabc")
    until(lambda: counted(client) != before, "the request is counted")
    assert counted(client) - before == {("tiny", "client-gone"): 1}


@pytest.mark.parametrize(
    ("request_bytes", "status", "series"),
    [
        (b"no HTTP\r\n\r\n", 400, ("", "malformed-request")),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000, 431, ("", "headers-too-large")),
        (
            b"POST /classify?model=tiny-b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
            ("tiny-b", "malformed-request"),
        ),
    ],
)
def test_refusal_by_the_connection(
    client: httpx.Client, request_bytes: bytes, status: int, series: Series
) -> None:
    before = counted(client)
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 0), timeout=30
    ) as connection:
        connection.sendall(request_bytes)
        assert connection.recv(100).startswith(b"HTTP/1.1 %d " % status)
    until(lambda: counted(client) != before, "the request is counted")
    assert counted(client) - before == {series: 1}


PREFLIGHT = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}


def test_refused_preflight(serve_for_module: Callable[..., httpx.Client]) -> None:
    client = serve_for_module(allowed_origins=frozenset({"https://app.example.org"}))
    before = counted(client)
    assert client.options("/classify", headers=PREFLIGHT).status_code == 403
    assert client.options("/models", headers=PREFLIGHT).status_code == 403
    assert client.options("/models", headers=PREFLIGHT | {"Origin": "https://app.example.org"}).is_success
    assert counted(client) - before == {("", "cross-site-request"): 2}


@pytest.mark.parametrize("root_path", ["", "/weighin"])
def test_refusal_by_the_connection_behind_a_proxy(
    serve_for_module: Callable[..., httpx.Client], root_path: str
) -> None:
    client = serve_for_module(trusted_proxies=frozenset({"127.0.0.0/8"}), root_path=root_path)
    before = counted(client)
    with socket.create_connection(
        (client.base_url.host, client.base_url.port or 0), timeout=30
    ) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    until(lambda: counted(client) != before, "the request is counted")
    assert counted(client) - before == {("tiny", "malformed-request"): 1}


@pytest.mark.slow
@pytest.mark.parametrize("begun", [False, True])
def test_unexpected_error(tiny_models_dir: Path, begun: bool) -> None:
    async def fails(_: Scope, __: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("unforeseen")

    metrics = Metrics({})
    context = RequestContext(fails, allowed_origins=(), log_requests=False)
    registry = Registry((tiny_models_dir,), "tiny")
    app = ErrorCounting(context, registry=registry, recorder=Recorder(None, metrics), metrics=metrics)

    async def ask() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.post("/classify?model=tiny")

    asyncio.run(ask())
    assert 'weighin_errors_total{kind="internal-error",model="tiny"} 1.0' in metrics.render().decode()


@pytest.mark.parametrize(
    ("path", "series"),
    [
        ("/dashboard", {}),
        ("/dashboard/figures", {}),
        ("/benchmarks", {'kind="client-gone",model=""': 1}),
    ],
)
def test_leaving_the_dashboard_is_no_error(tmp_path: Path, path: str, series: dict[str, int]) -> None:
    async def leaves(scope: Scope, _: Receive, send: Send) -> None:
        scope["state"]["problem"] = "client-gone"
        await Response(status_code=499)(scope, _, send)

    metrics = Metrics({})
    registry = Registry((tmp_path,), "tiny")
    app = ErrorCounting(leaves, registry=registry, recorder=Recorder(None, metrics), metrics=metrics)

    async def ask() -> None:
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.get(path)

    asyncio.run(ask())
    found = re.findall(r"^weighin_errors_total\{(.*)\} (.*)$", metrics.render().decode(), re.MULTILINE)
    assert {labels: int(float(count)) for labels, count in found} == series
