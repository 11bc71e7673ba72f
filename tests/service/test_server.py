"""Start, startup errors and shutdown of the server process."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
from pathlib import Path

import pytest

from service.server import CannotListen, listen, listen_at_all
from tests.helpers.addresses import IPV6
from tests.helpers.command_line import weighin
from tests.helpers.forked import forked_service
from tests.helpers.process import service_process
from tests.helpers.until import until


def send_part_of_a_body(url_host: str, url_port: int) -> socket.socket:
    connection = socket.create_connection((url_host, url_port), timeout=30)
    connection.sendall(b"POST /classify HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nabc")
    return connection


@pytest.mark.fault
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_the_server_cleanly(
    tiny_models_dir: Path, tmp_path: Path, png: bytes, stop: signal.Signals
) -> None:
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        for _ in range(5):
            assert client.post("/classify", content=png).status_code == 200
        process.popen.send_signal(stop)
        assert process.wait() == 0
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        rows = client.get("/latency?model=tiny&stage=total").json()["latencies"]
        assert [row["count"] for row in rows] == [5]


@pytest.mark.fault
def test_shutdown_during_a_slow_upload(tiny_models_dir: Path, tmp_path: Path) -> None:
    settings = {"shutdown_grace_s": 1}
    with (
        service_process(tiny_models_dir, tmp_path, **settings) as process,
        process.client() as client,
        send_part_of_a_body(client.base_url.host, client.base_url.port or 0),
    ):
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert "Traceback" not in process.log


@pytest.mark.fault
def test_shutdown_during_a_refused_upload(tiny_models_dir: Path, tmp_path: Path) -> None:
    def memory() -> int:
        [line] = [
            line
            for line in Path(f"/proc/{process.popen.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        ]
        return int(line.split()[1]) * 1024

    with (
        service_process(tiny_models_dir, tmp_path, max_body_bytes=1_000_000) as process,
        process.client() as client,
        contextlib.ExitStack() as stack,
    ):
        address = (client.base_url.host, client.base_url.port or 0)
        connections = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(5)]
        before = memory()
        for connection in connections:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 90000000\r\n\r\n")
            connection.sendall(bytes(30_000_000))
            assert connection.recv(100).startswith(b"HTTP/1.1 413")
        assert memory() - before < 20_000_000
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    assert "Traceback" not in process.log


def test_port_in_use(tiny_models_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = weighin(tiny_models_dir, tmp_path, "serve", port=port)
    assert done.returncode == 1
    assert done.stderr.splitlines(keepends=True) == [
        f"weighin: cannot listen on 127.0.0.1 port {port}: address already in use "
        "(set another with --host and --port, or WEIGHIN_HOST and WEIGHIN_PORT)\n"
    ]


@pytest.mark.slow
def test_data_directory_in_use(tiny_models_dir: Path, tmp_path: Path) -> None:
    with forked_service(tiny_models_dir, tmp_path) as first, first.client() as client:
        with forked_service(tiny_models_dir, tmp_path) as second:
            assert second.wait() == 1
        assert f"process {first.popen.pid}, since" in second.log
        assert f"serving at {client.base_url}" in second.log
        assert len(second.lines) == 1
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("setting", "value", "word"),
    [
        ("port", "many", "WEIGHIN_PORT 'many'"),
        ("database_url", "jdbc:postgresql://u:secret@h/db", "WEIGHIN_DATABASE_URL '***': not a database URL"),
        ("deadline_s", "-1", "WEIGHIN_DEADLINE_S"),
        ("model_dirs", "nowhere", "no such folder: nowhere"),
        (
            "model_dirs",
            "nowhere:elsewhere",
            "WEIGHIN_MODEL_DIRS: no such folder: nowhere, elsewhere",
        ),
        ("host", "256.1.1.1", "256.1.1.1"),
        ("database_url", "sqlite:////no/such/folder/x.db", "folder of the file not found"),
        ("allowed_origins", "app.example.org", "WEIGHIN_ALLOWED_ORIGINS 'app.example.org': "),
        (
            "allowed_origins",
            "https://app.example.org/x",
            "is not an origin (examples: https://app.example.org",
        ),
        ("trusted_proxies", "proxy", "WEIGHIN_TRUSTED_PROXIES 'proxy': "),
        ("root_path", "https://a/b", "WEIGHIN_ROOT_PATH 'https://a/b': "),
        ("root_path", "/models", "WEIGHIN_ROOT_PATH: '/models' begins like a path of the service"),
    ],
)
def test_invalid_setting(tiny_models_dir: Path, tmp_path: Path, setting: str, value: str, word: str) -> None:
    done = weighin(tiny_models_dir, tmp_path, "serve", **{setting: value})
    assert done.returncode in (1, 2)
    assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_exit_code_with_invalid_settings(tiny_models_dir: Path, tmp_path: Path) -> None:
    with service_process(tiny_models_dir, tmp_path, port="many", deadline_s="-1") as process:
        assert process.wait() == 2
    assert "WEIGHIN_PORT 'many'" in process.log
    assert "WEIGHIN_DEADLINE_S" in process.log
    assert "Traceback" not in process.log


@pytest.mark.slow
def test_json_log_with_requests(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    with forked_service(tiny_models_dir, tmp_path, log_requests="true") as process:
        with process.client() as client:
            client.post("/classify", content=png, headers={"X-Request-ID": "find-me"})
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    records = [json.loads(line) for line in process.lines]
    [mine] = [record for record in records if record.get("request_id") == "find-me"]
    assert (mine["method"], mine["path"], mine["status"]) == ("POST", "/classify", 200)
    assert {"listening", "ready"} <= {record["event"] for record in records}


def test_kubernetes_service_link(tiny_models_dir: Path, tmp_path: Path) -> None:
    # an address that is nobody's: the default port may be taken where this test runs
    links = {"port": "tcp://10.96.12.34:8000", "service_host": "10.96.12.34", "prot": "1"}
    with forked_service(tiny_models_dir, tmp_path, host="192.0.2.1", log_format="text", **links) as process:
        assert process.wait() == 1
    warnings = [line for line in process.lines if "warning" in line]
    assert [name for line in warnings for name in re.findall("WEIGHIN_[A-Z_]+:", line)] == [
        *("WEIGHIN_PROT:", "WEIGHIN_PORT:")
    ]
    assert "enableServiceLinks: false" in process.log
    assert "cannot listen on 192.0.2.1 port 8000" in process.log


@pytest.mark.slow
def test_unusable_data_directory(tiny_models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with (
        forked_service(tiny_models_dir, file, log_format="text", gallery_model="none") as process,
        process.client(),
    ):
        until(lambda: "ready" in process.log, "the models are loaded")
        assert f"WEIGHIN_DATA_DIR '{file}': data directory: cannot be written" in process.log
        assert "WEIGHIN_GALLERY_MODEL: no such model" in process.log


def accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=10):
            return True
    except OSError:
        return False


def test_listen_on_every_address_of_a_name() -> None:
    found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
    listeners = listen("localhost", 0)
    try:
        [port] = {listener.getsockname()[1] for listener in listeners}
        for _, _, _, _, address in found:
            assert accepts(str(address[0]), port)
    finally:
        for listener in listeners:
            listener.close()


def test_one_port_for_both_address_families() -> None:
    addresses = [(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    listeners = listen_at_all(addresses, 0)
    try:
        [port] = {listener.getsockname()[1] for listener in listeners}
        assert accepts("127.0.0.1", port)
        assert accepts("::1", port) is IPV6
    finally:
        for listener in listeners:
            listener.close()


def test_missing_address_is_skipped() -> None:
    addresses = [(socket.AF_INET6, ("2001:db8::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    [listener] = listen_at_all(addresses, 0)
    with listener:
        assert accepts("127.0.0.1", listener.getsockname()[1])
    with pytest.raises(OSError, match="assign"):
        listen_at_all(addresses[:1], 0)


def test_port_in_use_in_one_address_family() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addresses = [(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            listen_at_all(addresses, port)
        assert not accepts("::1", port)


@pytest.mark.parametrize(("host", "four", "six"), [("::", True, IPV6), ("0.0.0.0", True, False)])
def test_listen_on_all_addresses(host: str, four: bool, six: bool) -> None:
    [listener] = listen(host, 0)
    with listener:
        port = listener.getsockname()[1]
        assert (accepts("127.0.0.1", port), accepts("::1", port)) == (four, six)


@pytest.mark.parametrize("host", ["256.1.1.1", "no-such-host.invalid", "a" * 300, "\udcff", "192.0.2.1"])
def test_invalid_host(host: str) -> None:
    with pytest.raises(CannotListen, match="WEIGHIN_HOST") as caught:
        listen(host, 0)
    assert caught.value.detail.startswith(f"cannot listen on {host} port 0: ")
