"""The container's health check connects to the service's address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.addresses import IPV6

CHECK = Path(__file__).resolve().parent.parent / "docker/healthcheck.py"
SPELLINGS = ["{}", " {}\r", "{}\n"]


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WEIGHIN_")}
    environment |= {f"WEIGHIN_{key.upper()}": value for key, value in variables.items()}
    command = [sys.executable, "-I", "-S", str(CHECK)]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=30)


@contextmanager
def answering(host: str, status: bytes = b"200 OK") -> Iterator[int]:
    """Run a listener that responds to each connection with `status`; yields its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    assert connection.recv(1000).startswith(b"GET /readyz ")
                    connection.sendall(b"HTTP/1.0 " + status + b"\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_the_port(spelling: str) -> None:
    with answering("127.0.0.1") as port:
        done = run(port=spelling.format(port), host="")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost", "127.0.0.1", ""])
def test_hosts_reached_over_ipv4(host: str) -> None:
    with answering("127.0.0.1") as port:
        assert run(port=str(port), host=host).returncode == 0


@pytest.mark.parametrize("host", ["::", "::1", "[::1]"] if IPV6 else ["::ffff:127.0.0.1"])
def test_hosts_reached_over_ipv6(host: str) -> None:
    with answering("::1" if IPV6 else "127.0.0.1") as port:
        assert run(port=str(port), host=host).returncode == 0


@pytest.mark.parametrize("port", ["", " ", "tcp://10.96.12.34:9999"])
def test_default_port(port: str) -> None:
    done = run(port=port, host="127.0.0.254")  # where nothing listens
    assert done.returncode == 1
    assert done.stderr.startswith("127.0.0.254 port 8000: ")


def test_not_ready_is_unhealthy() -> None:
    with answering("127.0.0.1", b"503 Service Unavailable") as port:
        assert run(port=str(port)).returncode == 1


@pytest.mark.parametrize("port", ["many", "0", "99999999999"])
def test_invalid_port_is_unhealthy(port: str) -> None:
    done = run(port=port)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("python\0/opt/venv/bin/weighin\0serve\0--port\09000\0", {"port": "9000"}),
        ("weighin\0serve\0--port=9000\0--host=::\0", {"port": "9000", "host": "::"}),
        ("docker-init\0--\0weighin\0serve\0", {}),
        ("init\0--port\09000\0", {}),
        ("weighin\0serve\0--port\0", {"port": ""}),
        ("sh\0-c\0exec weighin serve --port 9000\0", {"port": "9000"}),
        (
            "/bin/sh\0-c\0cd /data && weighin serve --host '::' --port=9000; true\0",
            {"host": "::", "port": "9000"},
        ),
        ("sh\0-c\0weighin serve --port $SERVED\0", {"port": "9001"}),
        ("sh\0-c\0weighin serve --port ${SERVED}\0", {"port": "9001"}),
        ("sh\0-c\0weighin serve --port '9000\0", {}),
        ("sh\0-c\0weighin models --port 9000\0", {}),
    ],
)
def test_options_of_the_command(command: str, options: dict[str, str]) -> None:
    program = f"import runpy; print(runpy.run_path({str(CHECK)!r})['options_of']({command.encode()!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"SERVED": "9001"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(options)
