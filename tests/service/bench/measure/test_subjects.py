"""Going through a service: what answers must be one, and its own words reach whoever measures."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from service.bench.measure.subjects import ThroughService
from service.errors import MeasurementFailed


class _Greeter(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"hello": "world"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def greeter() -> Iterator[str]:
    """A server of something else."""
    with HTTPServer(("127.0.0.1", 0), _Greeter) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_every_stage_of_a_request_is_told(client: httpx.Client, cat_jpeg: bytes) -> None:
    with closing(ThroughService(str(client.base_url), "tiny", [cat_jpeg])) as subject:
        times = subject.run(0)
        assert subject.run(1) != times
    assert set(times) == {"queue", "decode", "preprocess", "inference", "postprocess", "total", "round_trip"}
    assert times["round_trip"] > times["total"] > times["inference"] > 0


def failure(url: str, model: str, image: bytes) -> str:
    with closing(ThroughService(url, model, [image])) as subject:
        with pytest.raises(MeasurementFailed) as caught:
            subject.run(0)
        return str(caught.value)


def test_response_of_another_server(greeter: str) -> None:
    words = failure(greeter, "tiny", b"x")
    assert re.fullmatch(r"service at 127\.0\.0\.1:\d+: status 200, not a response of Weigh-in", words)


def test_error_detail_of_the_service(client: httpx.Client, cat_jpeg: bytes) -> None:
    url = str(client.base_url)
    unknown = failure(url, "resnet", cat_jpeg)
    assert unknown.endswith("status 404: model 'resnet': unknown (allowed: tiny, tiny-b)")
    assert "status 415" in failure(url, "tiny", b"no picture")
