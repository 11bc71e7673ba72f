"""Measure the service under Ray Serve and the plain server, each with its own PostgreSQL.

    make bench-ray                      # or, in a network namespace that has only the loopback:
    .venv-ray/bin/python -m benchmarks.ray_serve [--rounds 5] [--seconds 2]

Ray has one node and one replica with all cores; the plain server has all cores, too. `hey` simulates one and
eight clients. The servers take turns; the server that is not measured is paused with SIGSTOP.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import MODEL, report
from benchmarks.photos import Photos
from benchmarks.report import figure
from benchmarks.rivals import hey
from benchmarks.servers import Server, free_port
from models.zoo.files import NETWORKS
from service.inference.cpu import core_budget
from tests.helpers.postgres import postgres_server
from tests.ray.cluster import switches

CLIENTS = (1, 8)
WARM_UP_S = 2.0
"""After SIGCONT, Ray's processes first do what they have missed."""
PLAIN, RAY = "plain", "ray"


def serve_with_ray(port: int) -> None:
    """Serve with Ray until SIGTERM, with the environment of `switches`."""
    import ray
    from ray import serve

    from service.ray_serve import application

    ray.init(
        num_cpus=core_budget(),
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    quiet = {"log_level": "WARNING", "enable_access_log": False}  # the same as in docker/ray/serve.yaml
    serve.run(application({}), blocking=True, route_prefix="/", logging_config=quiet)


def start(name: str, folder: Path, database_url: str) -> Server:
    """Start a server with one model."""
    port = free_port()
    variables = {
        "WEIGHIN_DATABASE_URL": database_url,
        "WEIGHIN_DATA_DIR": f"{folder}/data",
        "WEIGHIN_MODEL_DIRS": f"{folder}/zoo",
        "WEIGHIN_PORT": str(port),
        "WEIGHIN_THREADS": str(core_budget()),
    }
    shutil.copytree(NETWORKS / MODEL, folder / "zoo" / MODEL)
    if name == PLAIN:
        return Server(name, ["-m", "service", "serve"], port, variables)
    arguments = ["-m", "benchmarks.ray_serve", "--serve", str(port)]
    return Server(name, arguments, port, variables | switches(folder))


def measure(rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the values of all rounds, by `NAME CLIENTS WHAT`.

    WHAT is `per_s` (requests per second), `p50_ms`, or `cpu_ms` (CPU time of all processes per request).
    """
    values: dict[str, list[float]] = {}
    with ExitStack() as stack:
        database = stack.enter_context(postgres_server())
        servers = {}
        for name in (PLAIN, RAY):
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
            )
            servers[name] = start(name, folder, database.new_schema())
            stack.callback(servers[name].stop)
            servers[name].wait_until("/readyz")
            servers[name].pause()
        photo = Photos(folder).small
        for _ in range(rounds):
            for clients in random.sample(CLIENTS, len(CLIENTS)):
                for name in random.sample((PLAIN, RAY), 2):
                    server = servers[name]
                    server.resume()
                    server.wait_until("/readyz")
                    url = f"http://127.0.0.1:{server.port}/classify"
                    cpu_s = server.tree_cpu_s()
                    load = hey.run(
                        url, "image/jpeg", photo, clients=clients, seconds=seconds, warm_up_s=WARM_UP_S
                    )
                    cpu_ms = (server.tree_cpu_s() - cpu_s) / load.completed * 1e3
                    server.pause()
                    values.setdefault(f"{name} {clients} per_s", []).append(load.per_s)
                    values.setdefault(f"{name} {clients} p50_ms", []).append(load.p50_ms)
                    values.setdefault(f"{name} {clients} cpu_ms", []).append(cpu_ms)
    return values


def main() -> None:
    """Measure, and print the figures with their goals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, choices=range(1, 21), default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per point, after the warm-up")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve_with_ray(arguments.serve)
        return
    print(json.dumps(report.machine()), file=sys.stderr)
    values = measure(arguments.rounds, arguments.seconds)

    def ratio(what: str) -> list[float]:
        return [a / b for a, b in zip(values[f"{RAY} {what}"], values[f"{PLAIN} {what}"], strict=True)]

    rows = []
    for name in (PLAIN, RAY):
        rows.append(figure(f"{name}: 8 clients", "requests/s", values[f"{name} 8 per_s"]))
        rows.append(figure(f"{name}: 8 clients, CPU per request", "ms", values[f"{name} 8 cpu_ms"]))
        rows.append(figure(f"{name}: 1 client, p50", "ms", values[f"{name} 1 p50_ms"]))
    rows.append(figure("ray / plain: 8 clients, requests/s", "×", ratio("8 per_s"), 0.85, at_least=True))
    rows.append(figure("ray / plain: 1 client, p50", "×", ratio("1 p50_ms"), 1.2))
    print(report.table(rows))


if __name__ == "__main__":
    main()
