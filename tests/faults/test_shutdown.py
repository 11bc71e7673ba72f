"""SIGTERM with the default grace period: during a slow upload, and as process 1 of a PID namespace."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.helpers.http_client import http_client
from tests.helpers.process import service_process

pytestmark = pytest.mark.fault


def test_slow_upload_gets_the_grace_period(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address, timeout=30) as slow, socket.create_connection(address) as kept:
            head = b"POST /classify HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n"
            slow.sendall(head % 1000 + b"abc")
            kept.sendall(head % len(png) + png[:-1])
            with http_client(client.base_url) as another:  # is accepted after these two
                assert another.get("/healthz").status_code == 200
            process.popen.send_signal(signal.SIGTERM)
            while True:  # until it no longer accepts
                try:
                    socket.create_connection(address, timeout=1).close()
                except OSError:
                    break
            kept.sendall(png[-1:])
            answer = kept.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200"), "a request in flight was not given its time"
            assert process.wait(10) == 0
    assert "Traceback" not in process.log
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        rows = client.get("/latency?model=tiny&stage=total").json()["latencies"]
        assert [row["count"] for row in rows] == [1]


def test_sigterm_as_process_1(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    unshare = shutil.which("unshare")
    assert unshare is not None, "this test needs `unshare` (util-linux)"
    assert os.geteuid() == 0, "this test needs root, to make a namespace of processes"
    prefix = (unshare, "--pid", "--fork", "--mount-proc", "--kill-child")
    with service_process(tiny_models_dir, tmp_path, prefix=prefix) as process, process.client() as client:
        assert client.post("/classify", content=png).status_code == 200
        [inner] = Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children").read_text().split()
        namespaced = Path(f"/proc/{inner}/status").read_text()
        assert "NSpid:\t" + inner + "\t1\n" in namespaced
        os.kill(int(inner), signal.SIGTERM)
        assert process.wait(10) == 0
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        rows = client.get("/latency?model=tiny&stage=total").json()["latencies"]
        assert [row["count"] for row in rows] == [1]
