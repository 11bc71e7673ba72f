"""Connections: responses in order, time and size limits, error responses that clients can read."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from service.api.connection.framing import MAX_FIELDS, MAX_HEAD_BYTES
from service.api.connection.protocol import HttpProtocol, http_protocol
from tests.helpers.problems import assert_problem
from tests.helpers.until import until
from tests.helpers.wire import Address, Application, ask, converse, responses, serving

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"


class Impatient(HttpProtocol):
    """The protocol with timeouts short enough for a test."""

    head_s = 0.3
    drain_s = 0.6
    drain_idle_s = 0.2
    drain_bytes = 30_000_000
    unread_s = 0.3
    unread_stopping_s = 0.1


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    """Start the application below; return its address."""
    with serving(refusing, http=Impatient) as address:
        yield address


async def refusing(scope: Any, _receive: Any, send: Any) -> None:
    """Respond before reading the body: /refuse closes, /keep keeps it open, /stream sends five pieces."""
    fields = [(b"content-length", b"2")]
    if scope["path"] == "/refuse":
        fields.append((b"connection", b"close"))
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(5):
            await send({"type": "http.response.body", "body": b"tick", "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 413, "headers": fields})
    await send({"type": "http.response.body", "body": b"no"})


# One write of head and body


@pytest.mark.parametrize("size", [0, 2, 65_536, 65_537, 3_000_000])
def test_a_short_body_is_sent_with_the_head(size: int) -> None:
    body = os.urandom(size)

    async def answer(_scope: Any, _receive: Any, send: Any) -> None:
        fields = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    made: list[bytes] = []

    class Noting(HttpProtocol):
        def write(self, data: bytes) -> None:
            made.append(bytes(data))
            super().write(data)

    with serving(answer, http=Noting) as address:
        got = responses(ask(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    assert [(status, received) for status, _, received in got] == [(200, body)]
    assert len(made) == (1 if size <= 65_536 else 2)


def test_the_head_of_a_stream_does_not_wait_for_its_first_bytes() -> None:
    read = threading.Event()

    async def stream(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.to_thread(read.wait, 20)
        await send({"type": "http.response.body", "body": b"late"})

    with serving(stream) as address, socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = connection.recv(10_000)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"late" not in received
        read.set()
        while piece := connection.recv(10_000):
            received += piece
    assert [body for _, _, body in responses(received)] == [b"late"]


def test_the_head_of_a_head_response_is_not_held() -> None:
    async def answer(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    with serving(answer) as address:
        received = ask(address, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\nHTTP/1.1 400 " in received


@pytest.mark.parametrize("size", [0, 1, 200_000, 262_145, 5_000_000])
def test_a_body_arrives_whole(size: int) -> None:
    body = os.urandom(size)
    arrived = b""

    async def read(_scope: Any, receive: Any, send: Any) -> None:
        nonlocal arrived
        more = True
        while more:
            await asyncio.sleep(0)
            message = await receive()
            arrived += message["body"]
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    with serving(read) as address:
        assert ask(address, head + body).startswith(b"HTTP/1.1 204")
    assert arrived == body


# Response order


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Close\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    ],
)
@pytest.mark.parametrize("behind", [HIDDEN, b"\r\n", b"\x00\xff"])
def test_bytes_after_the_last_request_are_ignored(start: bytes, behind: bytes) -> None:
    for packets in ([start + behind], [start, behind], [start + behind[:1], behind[1:]]):
        outcome = converse(packets)
        assert ([seen.path for seen in outcome.seen], outcome.statuses, outcome.closed) == (
            ["/"],
            [200],
            True,
        )


def test_malformed_request_after_pipelined_ones() -> None:
    asked = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(5)]
    outcome = converse([b"".join([*asked, b"nonsense\r\n\r\n", HIDDEN])])
    assert [seen.path for seen in outcome.seen] == [f"/{i}" for i in range(5)]
    assert (outcome.statuses, outcome.closed) == ([200] * 5 + [400], True)


def test_garbage_after_a_streamed_response(address: Address) -> None:
    got = responses(ask(address, b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n" + b"nonsense\r\n\r\n" + HIDDEN))
    assert [status for status, _, _ in got] == [200, 400]
    assert got[0][2] == b"tick" * 5


def test_malformed_body_during_a_streamed_response(address: Address) -> None:
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        received = connection.recv(10_000)
        connection.sendall(b"zzz\r\n" + HIDDEN)
        while piece := connection.recv(65536):
            received += piece
    assert [(status, body) for status, _, body in responses(received)] == [(200, b"tick" * 5)]


@pytest.mark.parametrize("path", [b"/refuse", b"/keep"])
@pytest.mark.parametrize("rest", [b"zzz\r\n" + HIDDEN, b"5\r\nhelloXX" + HIDDEN])
def test_malformed_body_after_its_response(address: Address, path: bytes, rest: bytes) -> None:
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        received = connection.recv(65536)
        connection.sendall(rest)
        while piece := connection.recv(65536):
            received += piece
    assert [status for status, _, _ in responses(received)] == [413]


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 33\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n21\r\n"]
)
def test_rest_of_a_refused_body_is_not_a_request(framing: bytes) -> None:
    assert len(HIDDEN) == 33
    head = b"POST /early HTTP/1.1\r\nHost: a\r\n" + framing
    end = b"\r\n0\r\n\r\n" if b"chunked" in framing else b""
    raw = head + HIDDEN + end + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    for packets in ([raw], [head, raw[len(head) :]], [raw[i : i + 1] for i in range(len(raw))]):
        outcome = converse(packets)
        assert [seen.path for seen in outcome.seen] == ["/early", "/next"]


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 1000\r\n", HIDDEN),
        (b"Transfer-Encoding: chunked\r\n", b"1000\r\n" + HIDDEN),
    ],
)
def test_refusal_instead_of_100_continue_closes(framing: bytes, body: bytes) -> None:
    head = b"POST /early HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + framing + b"\r\n"
    for packets in ([head], [head + body], [head, body]):
        outcome = converse(packets)
        assert ([seen.path for seen in outcome.seen], outcome.statuses) == (["/early"], [200])
        assert b"connection: close" in outcome.received


def test_100_continue_is_sent_when_the_body_is_read() -> None:
    head = b"POST / HTTP/1.%d\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
    outcome = converse([head % 1, b"hello"])
    assert outcome.received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert [seen.body for seen in outcome.seen] == [b"hello"]
    assert converse([head % 0, b"hello"]).received.startswith(b"HTTP/1.1 200 OK\r\n")


# Limits


def test_slow_head_gets_408(address: Address) -> None:
    assert [status for status, _, _ in responses(ask(address, b"GET / HTTP/1.1\r\nHost:"))] == [408]


def test_head_byte_by_byte_gets_408(address: Address) -> None:
    with socket.create_connection(address, timeout=20) as connection:
        connection.settimeout(0.02)
        received = b""
        for byte in b"GET / HTTP/1.1\r\n" + b"X: yyyyyyyy\r\n" * 50:
            with contextlib.suppress(OSError):
                connection.send(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                received = connection.recv(65536)
                break
    assert received.startswith(b"HTTP/1.1 408")


@pytest.mark.slow
def test_connection_without_a_request_is_closed() -> None:
    with serving(Application(), timeout_keep_alive=1, http=Impatient) as address:
        assert ask(address, b"") == b""
        assert ask(address, b"\r\n\r\n") == b""


@pytest.mark.slow
def test_idle_timeout_is_not_the_head_timeout(address: Address) -> None:
    """Idle connections stay open longer than a head may take."""
    with socket.create_connection(address, timeout=20) as connection:
        for _ in range(2):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 413")
            connection.settimeout(2 * Impatient.head_s)
            with pytest.raises(TimeoutError):  # nothing comes, not even the end
                connection.recv(1)


# Refused bodies


def plain(url: str, data: bytes, chunked: bool) -> int:
    connection = http.client.HTTPConnection(httpx.URL(url).host, httpx.URL(url).port, timeout=30)
    with contextlib.closing(connection):
        body: Any = iter([data[i : i + 65536] for i in range(0, len(data), 65536)]) if chunked else data
        connection.request("POST", "/classify", body, {}, encode_chunked=chunked)
        return connection.getresponse().status


def by_urllib(url: str, data: bytes, chunked: bool) -> int:
    body: Any = iter([data[i : i + 65536] for i in range(0, len(data), 65536)]) if chunked else data
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def by_httpx(url: str, data: bytes, chunked: bool) -> int:
    content: Any = (data[i : i + 65536] for i in range(0, len(data), 65536)) if chunked else data
    return httpx.post(url, content=content, timeout=30, trust_env=False).status_code


def by_httpx_form(url: str, data: bytes, chunked: bool) -> int:  # noqa: ARG001
    return httpx.post(url, files={"image": ("x.jpg", data)}, timeout=30, trust_env=False).status_code


def by_curl(url: str, data: bytes, chunked: bool) -> int:
    assert shutil.which("curl"), "this test needs curl"
    command = ["curl", "-s", "-o", os.devnull, "-w", "%{http_code}", "-H", "Expect:", "--data-binary", "@-"]
    command += ["-H", "Transfer-Encoding: chunked"] if chunked else []
    return int(subprocess.run([*command, url], input=data, capture_output=True, check=True).stdout)


@pytest.fixture(scope="module")
def small(serve_for_module: Callable[..., httpx.Client]) -> httpx.Client:
    """A service with a body limit of 1 MB and an API key."""
    return serve_for_module(max_body_bytes=1_000_000, api_key=SecretStr("secret"))


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("send", [plain, by_urllib, by_httpx, by_httpx_form, by_curl])
def test_clients_read_the_refusal_of_a_large_body(
    small: httpx.Client, send: Callable[[str, bytes, bool], int], chunked: bool
) -> None:
    url = str(small.base_url.join("/classify"))
    assert [send(url, bytes(20_000_000), chunked) for _ in range(3)] == [413] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/nowhere", {}, 404),
        ("/recommend", {}, 405),
        ("/models", {}, 401),
        ("/classify", {"Origin": "http://other.example"}, 403),
        ("/classify?model=none", {}, 404),
        ("/classify?top_k=0", {}, 422),
        ("/gallery/images", {}, 401),
    ],
)
def test_clients_read_every_early_refusal(
    small: httpx.Client, path: str, headers: dict[str, str], status: int
) -> None:
    for _ in range(3):
        assert small.post(path, content=bytes(30_000_000), headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/refuse", "/keep"])
def test_endless_refused_body_is_disconnected(address: Address, path: str) -> None:
    sent = 0
    with socket.create_connection(address, timeout=20) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000000\r\n\r\n".encode())
        while sent < 1_000_000_000:
            sent += connection.send(bytes(1_000_000))
    assert sent < Impatient.drain_bytes + 20_000_000  # what the kernel holds is not counted


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/refuse", "/keep"])
def test_slow_refused_body_is_disconnected(address: Address, path: str) -> None:
    started = time.monotonic()
    with socket.create_connection(address, timeout=20) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000000\r\n\r\n".encode())
        while time.monotonic() < started + 20:
            connection.send(b".")
            time.sleep(0.05)  # slow, but never as slow as `drain_idle_s`
    assert Impatient.drain_s / 2 < time.monotonic() - started < 10


def test_stalled_refused_body_is_disconnected(address: Address) -> None:
    started = time.monotonic()
    raw = b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000000\r\n\r\nabc"
    assert [status for status, _, _ in responses(ask(address, raw))] == [413]
    assert time.monotonic() - started < 10


def test_discard_limit_follows_the_body_limit() -> None:
    assert http_protocol(1000).drain_bytes == 100_000_000
    assert http_protocol(50_000_000).drain_bytes == 500_000_000


# Unread responses

LARGE = 40_000_000


async def large(scope: Any, _receive: Any, send: Any) -> None:
    """Send LARGE bytes: in one message, or in pieces at /pieces."""
    fields = [(b"content-length", b"%d" % LARGE)]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    for _ in range(100 if scope["path"] == "/pieces" else 0):
        await send({"type": "http.response.body", "body": bytes(LARGE // 100), "more_body": True})
    await send({"type": "http.response.body", "body": b"" if scope["path"] == "/pieces" else bytes(LARGE)})


REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET /pieces HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
]


def test_client_that_does_not_read_is_disconnected() -> None:
    with contextlib.ExitStack() as stack, serving(large, http=Impatient) as address:
        for request in REQUESTS:
            connection = stack.enter_context(socket.create_connection(address))
            connection.sendall(request)
            assert connection.recv(1) == b"H"
        # `serving` ends once the server has no connection left


@pytest.mark.slow
@pytest.mark.parametrize("request_bytes", REQUESTS[1:4])
def test_client_that_reads_slowly_gets_everything(request_bytes: bytes) -> None:
    with serving(large, http=Impatient) as address, socket.create_connection(address) as connection:
        connection.sendall(request_bytes)
        received = bytearray()
        while len(received) < LARGE:
            started = time.monotonic()
            until(lambda started=started: time.monotonic() > started + Impatient.unread_s / 4, "some time")
            goal = min(len(received) + LARGE // 12, LARGE)
            while len(received) < goal and (piece := connection.recv(1_000_000)):
                received += piece
            assert len(received) >= goal
        received += connection.recv(1000) if len(received.partition(b"\r\n\r\n")[2]) < LARGE else b""
    assert len(received.partition(b"\r\n\r\n")[2]) == LARGE


def test_unread_response_does_not_delay_shutdown() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    protocol = type("Patient", (Impatient,), {"unread_s": 60.0})
    config = uvicorn.Config(large, http=protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    connect = socket.create_connection
    with listener, connect(listener.getsockname()) as one, connect(listener.getsockname()) as other:
        one.sendall(REQUESTS[0])
        other.sendall(REQUESTS[1])
        assert one.recv(1) == other.recv(1) == b"H"
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


# The real application


def test_malformed_request_gets_a_problem_document(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port or 80)
    for raw, status, slug, word in (
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed-request", "header host: missing"),
        (
            b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
            431,
            "headers-too-large",
            f"limit: {MAX_FIELDS}",
        ),
        (b"GET /" + b"x" * 70_000, 431, "headers-too-large", f"{MAX_HEAD_BYTES} bytes"),
    ):
        [(seen, headers, body)] = responses(ask(address, raw))
        assert headers["connection"] == "close"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["date"]
        assert_problem(httpx.Response(seen, headers=headers.items(), content=body), status, slug, word)


@pytest.mark.slow
def test_json_body_limit(serve: Callable[..., httpx.Client]) -> None:
    client = serve(deadline_s=0.3)
    for content in (bytes(30_000_000), iter([bytes(1_000_000)] * 30)):
        headers = {"Content-Type": "application/json"}
        response = client.post("/benchmarks", content=content, headers=headers)
        assert_problem(response, 413, "body-too-large", "100000")
    assert_problem(client.post("/benchmarks", json={"models": ["none"]}), 404, "unknown-model")
    raw = b"POST /benchmarks HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
    [(status, _, _)] = responses(ask((client.base_url.host, client.base_url.port or 80), raw))
    assert status == 504


def test_upload_with_an_upgrade_field_is_classified(client: httpx.Client, png: bytes) -> None:
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    assert client.post("/classify", content=png, headers=offer).status_code == 200
    assert client.post("/classify", content=iter([png]), headers=offer).status_code == 200


@pytest.mark.slow
def test_api_key_in_a_trailer_is_ignored(small: httpx.Client, png: bytes) -> None:
    head = b"PUT /gallery/images/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    raw = head + b"%x\r\n" % len(png) + png + b"\r\n0\r\nAuthorization: Bearer secret\r\n\r\n"
    [(status, _, _)] = responses(ask((small.base_url.host, small.base_url.port or 80), raw))
    assert status == 401
