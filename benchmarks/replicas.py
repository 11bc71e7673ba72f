"""Measure what PostgreSQL, a load balancer and replicas cost on one machine.

    python -m benchmarks.replicas [--rounds 3]

Measures four setups on the same cores: one process with SQLite; one process with PostgreSQL; one process with
PostgreSQL behind haproxy; and one replica per core, each with one thread, behind haproxy. Replicas only pay
with a second machine, so no gain is to be expected here. Needs haproxy. Prints the table of docs/scaling.md
in two minutes. Ratios are computed within a round.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import MODEL
from benchmarks.photos import Photos
from benchmarks.report import Figure, figure, machine, table
from benchmarks.served import SECONDS, completed, per_s, run_json
from benchmarks.servers import Server, free_port
from service.inference.cpu import core_budget
from tests.faults.proxies import haproxy
from tests.helpers.postgres import PostgresServer, postgres_server

CLIENTS = (1, 8)


@dataclass(frozen=True)
class Setup:
    """One way to run the service: its processes, and the port to which clients send requests."""

    name: str
    servers: Sequence[Server]
    port: int

    def measure(self, request: list[str], clients: int) -> dict[str, float]:
        """Measure p50 in ms and images per second in a closed loop, while the other setups are paused."""
        plan = {"port": self.port, "requests": [request], "clients": clients, "seconds": SECONDS}
        for server in self.servers:
            server.resume()
        try:
            outcome = run_json("load", stdin=json.dumps(plan | {"warm_up_s": 0.7}))
        finally:
            for server in self.servers:
                server.pause()
        failed = {status: len(times) for status, times in outcome["latencies_ms"].items() if status != "200"}
        if failed:
            raise RuntimeError(f"{self.name}: requests failed: {failed}")
        return {"per_s": per_s(outcome), "p50_ms": median(completed(outcome))}

    def memory_mb(self) -> float:
        """Return the proportional set size of all processes in MB (10^6 bytes)."""
        return sum(server.tree_pss_mb() for server in self.servers)


def started(stack: ExitStack, folder: Path, name: str, **settings: object) -> Server:
    """Start a service with these settings, wait until it is ready, and pause it."""
    port = free_port()
    values = {"PORT": port, "DATA_DIR": folder / name} | {
        key.upper(): value for key, value in settings.items()
    }
    environment = {f"WEIGHIN_{key}": str(value) for key, value in values.items()}
    server = Server(name, ["-m", "service", "serve"], port, environment)
    stack.callback(server.stop)
    server.wait_until("/readyz")
    server.pause()
    return server


def setups(stack: ExitStack, folder: Path, database: PostgresServer) -> list[Setup]:
    """Start all setups. They stop when `stack` is closed."""
    cores = core_budget()
    plain = started(stack, folder, "plain")
    shared = started(stack, folder, "shared", database_url=database.new_schema())
    schema = database.new_schema()
    replicas = [
        started(stack, folder, f"replica-{number}", database_url=schema, threads=1) for number in range(cores)
    ]

    def behind_haproxy(name: str, servers: Sequence[Server]) -> Setup:
        upstreams = [("127.0.0.1", server.port) for server in servers]
        _, port = stack.enter_context(haproxy(folder / f"haproxy-{len(servers)}", *upstreams))
        return Setup(name, servers, port)

    return [
        Setup("one process, SQLite", [plain], plain.port),
        Setup("one process, PostgreSQL", [shared], shared.port),
        behind_haproxy("one process, PostgreSQL, haproxy", [shared]),
        behind_haproxy(f"{cores} replicas of one thread, PostgreSQL, haproxy", replicas),
    ]


def measure(rounds: int) -> list[Figure]:
    """Measure, in each round, every setup with every number of clients, in random order."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        request = Photos(folder).raw(MODEL)
        measured = setups(stack, folder, stack.enter_context(postgres_server()))
        work = [(setup, clients) for setup in measured for clients in CLIENTS]
        results: dict[tuple[str, int], list[dict[str, float]]] = {
            (setup.name, clients): [] for setup, clients in work
        }
        for _ in range(rounds):
            random.shuffle(work)
            for setup, clients in work:
                results[setup.name, clients].append(setup.measure(request, clients))
        memory = {setup.name: setup.memory_mb() for setup in measured}

    def values(name: str, clients: int, key: str) -> list[float]:
        return [result[key] for result in results[name, clients]]

    figures = []
    baseline = measured[0].name
    one, many = CLIENTS
    for setup in measured:
        p50, images = values(setup.name, one, "p50_ms"), values(setup.name, many, "per_s")
        figures += [
            figure(f"{setup.name}: {one} client, p50", "ms", p50),
            figure(f"  {many} clients", "images/s", images),
            figure("  memory", "MB", [memory[setup.name]]),
        ]
        if setup.name != baseline:
            ratios = {
                f"p50 / {baseline}": (p50, values(baseline, one, "p50_ms")),
                f"images/s / {baseline}": (images, values(baseline, many, "per_s")),
            }
            figures += [
                figure(f"  {label}", "×", [above / below for above, below in zip(*pair, strict=True)])
                for label, pair in ratios.items()
            ]
    return figures


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all measurements")
    figures = measure(parser.parse_args().rounds)
    for name, value in machine().items():
        print(f"{name}: {value}")
    print(f"\n{table(figures)}")


if __name__ == "__main__":
    main()
