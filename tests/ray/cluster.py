"""Two simulated nodes with Ray Serve, and clients that keep a record of each request."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.servers import free_port
from tests.helpers.http_client import http_client
from tests.helpers.processes import running
from tests.helpers.until import until

CONFIG = Path(__file__).parents[2] / "docker" / "ray" / "serve.yaml"
ADDRESS = "127.0.0.1"
DRAINING_S = 1


def switches(folder: Path) -> dict[str, str]:
    """Return the environment of Ray's processes: docker/ray/ray.env, with the files of Ray in `folder`."""
    lines = (CONFIG.parent / "ray.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#")) | {
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAINING_S),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
        "RAY_TMPDIR": str(folder),
    }


class RayCluster:
    """A head with HAProxy and a second node.

    `url`: where the service answers; `dashboard_url`: where Ray takes deployments; `variables`: its settings;
    `code`: the folder with its code, in which Ray's processes are started.
    """

    def __init__(self, code: Path, variables: dict[str, str]) -> None:
        from ray.cluster_utils import Cluster

        self.code = code
        self.variables = variables
        self._ports = {"dashboard": free_port(), "http": free_port()}
        self.url = f"http://{ADDRESS}:{self._ports['http']}"
        self._common = {
            "num_cpus": 4,
            "object_store_memory": 80 * 2**20,
            "node_ip_address": ADDRESS,
        }
        with chdir(code):
            self._cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "include_dashboard": True,
                    "dashboard_host": ADDRESS,
                    "dashboard_port": self._ports["dashboard"],
                    **self._common,
                },
            )
        self._second: Any = None
        self.add_node()
        self.dashboard_url = f"http://{ADDRESS}:{self._ports['dashboard']}"
        self._dashboard = http_client(self.dashboard_url)
        self._dashboard.headers["Authorization"] = f"Bearer {os.environ['RAY_AUTH_TOKEN']}"
        until(self._answers, "the dashboard answers")

    def _answers(self) -> bool:
        try:
            return self._dashboard.get("/api/serve/applications/").status_code == 200
        except httpx.TransportError:
            return False

    def add_node(self) -> None:
        """Add the second node."""
        with chdir(self.code):
            self._second = self._cluster.add_node(**self._common)

    def kill_node(self) -> float:
        """Kill all processes of the second node; return the time when its replica was gone."""
        [victim] = [row["pid"] for row in self._rows() if row["node_id"] == self._second.node_id]
        self._cluster.remove_node(self._second, allow_graceful=False)
        return wait_until_gone(victim)

    def deploy(self, release: str = "1", *, least: int = 2, **variables: str) -> None:
        """Deploy docker/ray/serve.yaml with at most one replica per node and these settings; does not wait.

        `least`: the number of replicas without load.
        """
        config = yaml.safe_load(CONFIG.read_text())
        config["proxy_location"] = "HeadOnly"
        config["http_options"] |= {"host": ADDRESS, "port": self._ports["http"]}
        [application] = config["applications"]
        application["args"] = {"release": release}
        application["runtime_env"]["env_vars"] |= self.variables | variables
        [deployment] = application["deployments"]
        deployment["autoscaling_config"] |= {
            "min_replicas": least,
            "max_replicas": 2,
            "downscale_delay_s": 1,
        }
        deployment["max_replicas_per_node"] = 1
        response = self._dashboard.put("/api/serve/applications/", json=config)
        assert response.status_code == 200, response.text

    @property
    def application(self) -> dict[str, Any]:
        """The application's state, as Ray reports it."""
        found: dict[str, Any] = self._dashboard.get("/api/serve/applications/").json()["applications"][
            "weighin"
        ]
        return found

    def replicas(self) -> set[int]:
        """Return the process ids of the replicas that run."""
        return {row["pid"] for row in self._rows() if row["pid"]}

    def _rows(self) -> list[dict[str, Any]]:
        rows = self.application["deployments"].get("Weighin", {"replicas": []})["replicas"]
        return [row for row in rows if row["state"] == "RUNNING"]

    def wait_for(self, count: int, *, without: set[int] = frozenset()) -> set[int]:
        """Wait until `count` replicas run, none of `without` among them; return their process ids."""

        def there() -> bool:
            state = self.application
            assert state["status"] != "DEPLOY_FAILED", state["message"]
            pids = self.replicas()
            return len(pids) == count and not pids & without and state["status"] == "RUNNING"

        until(there, f"{count} new replicas run")
        return self.replicas()

    def close(self) -> None:
        """End all processes of the cluster."""
        self._dashboard.close()
        self._cluster.shutdown()


@dataclass(frozen=True)
class Answer:
    """A request: when it began and ended, on the monotonic clock, and its status; None if it broke."""

    started: float
    ended: float
    status: int | None

    @property
    def failed(self) -> bool:
        return self.status is None or self.status >= 500


class Clients:
    """Threads that each send one request after the other until the context ends. `answers`: all so far."""

    def __init__(self, url: str, *requests: Callable[[httpx.Client], httpx.Response]) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(request,)) for request in requests]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _work(self, request: Callable[[httpx.Client], httpx.Response]) -> None:
        with http_client(self._url) as client:
            while not self._ended.is_set():
                started = time.monotonic()
                try:
                    status = request(client).status_code
                except httpx.TransportError:
                    status = None
                self.answers.append(Answer(started, time.monotonic(), status))

    @property
    def failures(self) -> list[Answer]:
        """The requests that broke, or that got a status of 500 or more."""
        return [answer for answer in list(self.answers) if answer.failed]

    def go_on(self, count: int) -> None:
        """Wait until this many more requests have been answered without an error."""
        enough = len(self.answers) - len(self.failures) + count
        until(lambda: len(self.answers) - len(self.failures) >= enough, f"{count} more answers")


def classify(png: bytes) -> Callable[[httpx.Client], httpx.Response]:
    """Return a request that classifies a picture."""
    return lambda client: client.post("/classify", content=png)


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of this process, which those that it starts inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def wait_until_gone(pid: int) -> float:
    """Wait until all threads of a killed process have ended, and its sockets are closed; return the time."""

    def gone() -> bool:
        try:
            return not running(pid) and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1
        except FileNotFoundError:
            return True

    until(gone, f"process {pid} has ended")
    return time.monotonic()
