"""Replicas are replaced one after the other as docker/kubernetes does it, under load: no request fails."""

from __future__ import annotations

import csv
import itertools
import signal
import threading
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
import pytest

from tests.faults.proxies import free_port, haproxy, haproxy_command
from tests.helpers.http_client import http_client
from tests.helpers.postgres import postgres_server
from tests.helpers.process import ServiceProcess, service_process
from tests.helpers.until import until
from tests.service.gallery.pictures import blobs

pytestmark = [pytest.mark.fault, pytest.mark.alone]  # health checks every 50 ms

CLIENTS = 4
REPLICAS = 2
REQUESTS = 200
"""Answers before the update, between its steps and after it, each."""


class Load:
    """Clients that classify an image, store one and read it back, through the proxy, until stopped."""

    def __init__(self, url: str) -> None:
        self.answers = 0
        self.stored: list[str] = []
        self.failures: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        image = blobs(number)
        with http_client(self._url) as client:
            for turn in itertools.count():
                path = f"/gallery/images/{number}-{turn}"
                for method, target in (("POST", "/classify"), ("PUT", path), ("GET", path)):
                    if self._stop.is_set():
                        return
                    self._send(client, method, target, None if method == "GET" else image)

    def _send(self, client: httpx.Client, method: str, target: str, content: bytes | None) -> None:
        try:
            response = client.request(method, target, content=content)
        except httpx.HTTPError as error:
            self.failures.append(f"{method} {target}: {error!r}")
            return
        if not response.is_success:
            self.failures.append(f"{method} {target}: {response.status_code} {response.text[:200]}")
        elif method == "PUT":
            self.stored.append(target)
        self.answers += 1

    def go_on(self) -> None:
        """Wait until REQUESTS more requests are answered."""
        enough = self.answers + REQUESTS
        until(lambda: self.answers >= enough or bool(self.failures), f"{enough} answers")


def test_rolling_update(tiny_models_dir: Path, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(2 * REPLICAS)]  # of the old replicas, then of the new ones

    def statistics(number: int) -> dict[str, str]:
        table = csv.DictReader(haproxy_command(tmp_path, "show stat").lstrip("# ").splitlines())
        return next(row for row in table if row["svname"] == f"s{number}")

    with ExitStack() as stack:
        database = stack.enter_context(postgres_server())
        schema = database.new_schema()

        def replica(number: int) -> AbstractContextManager[ServiceProcess]:
            data = tmp_path / f"data-{number}"
            return service_process(tiny_models_dir, data, port=ports[number], database_url=schema)

        old = [stack.enter_context(replica(number)) for number in range(REPLICAS)]
        upstreams = [("127.0.0.1", port) for port in ports]
        options = "check inter 50ms rise 1 fall 3"  # three, as in docker/kubernetes: machines pause
        host, port = stack.enter_context(haproxy(tmp_path, *upstreams, options=options))
        for number in range(2 * REPLICAS):
            expected = "UP" if number < REPLICAS else "DOWN"
            until(
                lambda n=number, e=expected: statistics(n)["status"] == e, f"replica {number} is {expected}"
            )
        with Load(f"http://{host}:{port}") as load:
            load.go_on()
            for number, process in enumerate(old):
                new = REPLICAS + number
                stack.enter_context(replica(new))
                until(lambda n=new: statistics(n)["status"] == "UP", f"replica {new} is ready")
                # As at the end of preStop: the pod gets no new requests any more.
                haproxy_command(tmp_path, f"set server service/s{number} state drain")
                until(lambda n=number: statistics(n)["scur"] == "0", "requests to the old replica have ended")
                process.popen.send_signal(signal.SIGTERM)
                assert process.wait() == 0
                load.go_on()
        assert load.failures == [], "\n".join(load.failures)
        for number in range(2 * REPLICAS):
            assert int(statistics(number)["hrsp_2xx"]) > REQUESTS / 4, f"replica {number}"
        with http_client(f"http://127.0.0.1:{ports[-1]}") as client:
            assert load.stored
            missing = [path for path in load.stored if client.get(path).status_code != 200]
        assert missing == []
