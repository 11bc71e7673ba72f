"""`weighin demo`: with a running service, and without one, which it then starts."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.inference.demo import RUNS_PER_MODEL
from tests.helpers.command_line import weighin
from tests.helpers.forked import ForkedProcess
from tests.helpers.http_client import http_client
from tests.helpers.process import environment

PLANNED = 2 * RUNS_PER_MODEL


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def recorded(client: httpx.Client) -> list[tuple[str, int]]:
    """Return the models with runs of the demo, and how many."""
    rows = client.get("/latency", params={"regime": "demo", "stage": "total"}).json()["latencies"]
    return [(row["model"], row["count"]) for row in rows]


@pytest.mark.slow
def test_demo_of_a_running_service(
    serve: Callable[..., httpx.Client], tiny_models_dir: Path, tmp_path: Path
) -> None:
    client = serve()
    url = str(client.base_url).rstrip("/")
    done = weighin(tiny_models_dir, tmp_path / "none", "demo", "--url", url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"running 2 models on bundled photographs: see {url}/dashboard?regime=demo",
        f"{PLANNED} of {PLANNED} runs recorded in the regime demo",
    ]
    assert recorded(client) == [("tiny", RUNS_PER_MODEL), ("tiny-b", RUNS_PER_MODEL)]


@pytest.mark.slow
def test_demo_without_any_run(
    serve: Callable[..., httpx.Client], tiny_models_dir: Path, tmp_path: Path
) -> None:
    url = str(serve(max_pixels=100_000).base_url).rstrip("/")
    done = weighin(tiny_models_dir, tmp_path, "demo", "--url", url)
    assert done.returncode == 1
    assert "no run was made" in done.stderr
    assert "pixels" in done.stderr


def test_demo_without_a_service_at_the_url(tiny_models_dir: Path, tmp_path: Path) -> None:
    done = weighin(tiny_models_dir, tmp_path, "demo", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "no answer from http://127.0.0.1" in done.stderr


def test_demo_without_a_fixed_port(tiny_models_dir: Path, tmp_path: Path) -> None:
    done = weighin(tiny_models_dir, tmp_path, "demo", port=0)
    assert done.returncode == 1
    assert "WEIGHIN_PORT 0: the demo needs a fixed one (allowed: 1 to 65535, or --url)" in done.stderr


@pytest.mark.slow
def test_demo_starts_a_service(tiny_models_dir: Path, tmp_path: Path) -> None:
    port = free_port()
    variables = environment(tiny_models_dir, tmp_path / "data", port=port)
    terminal, end = os.openpty()  # Python writes lines to a terminal at once
    process = ForkedProcess(["demo"], variables, end, stderr=2)
    os.close(end)
    assert process.stderr is not None
    with open(terminal) as output, process.stderr:
        try:
            assert f"see http://127.0.0.1:{port}/dashboard?regime=demo" in output.readline()
            assert f"{PLANNED} of {PLANNED} runs recorded" in output.readline()
            with http_client(f"http://127.0.0.1:{port}") as client:
                assert recorded(client) == [("tiny", RUNS_PER_MODEL), ("tiny-b", RUNS_PER_MODEL)]
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
    assert code == 0
