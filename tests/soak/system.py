"""The system under test: PostgreSQL, a small disk and replicas of `weighin serve`, each a process."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx

from models.zoo.files import NETWORKS
from tests.helpers.disks import small_disk
from tests.helpers.http_client import http_client, wait_until_loaded
from tests.helpers.postgres import PostgresServer, postgres_server
from tests.helpers.process import ServiceProcess, service_process
from tests.helpers.processes import children, resident
from tests.soak.mix import KEY

DISK = "512m"
"""Size of the disk that is filled: it holds data directories and the tables of the database."""
POOL = 10
"""Sessions in PostgreSQL that each replica keeps."""
THREADS = (os.cpu_count() or 1) + 4 + 4 + 1 + 1 + 1
"""Threads that are started when they are first needed, and kept: those of asyncio, the gallery's readers and
writer, and those that compute latencies and dashboards."""
FAKETIME = Path(".cache/faketime/usr/lib")
"""Where `make` unpacks Debian's package libfaketime."""


class Clock:
    """The clock of the services: that of the machine, and seconds that are added to it.

    libfaketime reads the seconds from a file, once a second. Only the time of day is set, as by an operator:
    nothing can set the monotonic clock. Under this library `time.sleep` fails; the service never calls it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.library = next(FAKETIME.rglob("libfaketimeMT.so.1")).resolve()
        self.step(0)

    def step(self, seconds: int) -> None:
        """Add this many seconds to the machine's clock."""
        aside = self._file.with_suffix(".new")
        aside.write_text(f"{seconds:+d}\n")
        aside.replace(self._file)

    @property
    def prefix(self) -> tuple[str, ...]:
        """The beginning of a command that runs with this clock."""
        return (
            "env",
            f"LD_PRELOAD={self.library}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            "FAKETIME_CACHE_DURATION=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "NO_FAKE_STAT=1",
        )


@dataclass
class Service:
    """A replica: its process, its port and its data directory."""

    process: ServiceProcess
    url: httpx.URL
    data: Path
    temporary: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.popen.pid

    @property
    def port(self) -> int:
        """Its port."""
        assert self.url.port is not None
        return self.url.port

    def census(self) -> Counter[str]:
        """Count what its process holds, its temporary files, and what is in its folder of own models."""
        found = census_of(self.pid, self.port)
        found["temporary files"] = sum(1 for _ in self.temporary.rglob("*"))
        found["files of own models"] = sum(1 for _ in (self.data / "models").rglob("*"))
        return found

    def degraded(self) -> str | None:
        """Return why it is degraded, or does not answer; None if it is not."""
        try:
            with http_client(self.url) as client:
                problem: str | None = client.get("/readyz").json()["degraded"]
        except httpx.TransportError as error:
            return repr(error)
        return problem


def census_of(pid: int, port: int) -> Counter[str]:
    """Count the threads, open files, child processes and TCP connections of a process that serves `port`."""
    found = Counter({"threads": len(os.listdir(f"/proc/{pid}/task")), "processes": len(children(pid))})
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            continue
        kind = "file" if target.startswith("/") else target.partition(":")[0]
        found[f"open: {kind}"] += 1
    found["TCP connections"] = tcp_connections(port)
    return found


def tcp_connections(port: int) -> int:
    """Return the number of established connections to a local port, at the server's end."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, _, state = line.split()[1:4]
        found += state in ("01", "08") and int(local.rpartition(":")[2], 16) == port
    return found


class Sampler(threading.Thread):
    """Appends to `samples` once a second: the time, and the resident bytes of all processes of services."""

    def __init__(self, services: list[Service], samples: list[tuple[float, dict[int, int]]]) -> None:
        super().__init__(name="sampler")
        self._services = services
        self._samples = samples
        self._over = threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        while not self._over.wait(1):
            pids = {pid for each in self._services for pid in (each.pid, *children(each.pid))}
            self._samples.append((time.monotonic(), {pid: resident(pid) for pid in sorted(pids)}))

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()


@dataclass
class System:
    """Everything that runs."""

    services: list[Service]
    server: PostgresServer
    disk: Path
    clock: Clock
    folder: Path
    threads: list[int]
    """Threads of each service before its first request."""

    def sessions(self) -> Counter[str]:
        """Count the services' sessions in PostgreSQL by replica and state."""
        with self.server.connect() as connection:
            rows = connection.execute(
                "SELECT application_name, state, count(*) FROM pg_stat_activity"
                " WHERE application_name LIKE 'replica %' GROUP BY 1, 2"
            ).fetchall()
        return Counter({f"{name}: sessions, {state}": count for name, state, count in rows})

    def census(self) -> Counter[str]:
        """Count what all services hold, by kind; the socket of a session is not counted a second time."""
        sessions = self.sessions()
        found = Counter(sessions)
        for number, service in enumerate(self.services):
            name = f"replica {number}"
            found.update({f"{name}: {kind}": count for kind, count in service.census().items()})
            found[f"{name}: open: socket"] -= sum(
                count for kind, count in sessions.items() if kind.startswith(name)
            )
        return found

    def allowed(self, before: Counter[str]) -> Counter[str]:
        """Return what the services may hold if they held `before`: a pool may have filled up meanwhile."""
        pools = Counter[str]()
        for number, threads in enumerate(self.threads):
            pools[f"replica {number}: sessions, idle"] = POOL
            pools[f"replica {number}: threads"] = threads + THREADS
        return before | pools

    def degraded(self) -> list[str]:
        """Return why services are degraded."""
        return [problem for each in self.services if (problem := each.degraded()) is not None]

    def ended(self) -> list[str]:
        """Name the services that have ended."""
        return [
            f"replica {number} ended with exit code {service.process.popen.poll()}"
            for number, service in enumerate(self.services)
            if service.process.popen.poll() is not None
        ]


@contextmanager
def running_system(replicas: int) -> Iterator[System]:
    """Start everything; at the end, end every process and remove every file and mount."""
    folder = Path(tempfile.mkdtemp(prefix="weighin-soak-"))
    folder.chmod(0o755)  # the server's user must reach the tables
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(postgres_server())
        disk = stack.enter_context(small_disk(folder / "disk", DISK))
        url = _schema_on(server, disk / "tables")
        stack.callback(server.start)  # stopping a server that a fault has killed needs it to run
        clock = Clock(folder / "clock")
        services = []
        for number in range(replicas):
            temporary = folder / f"temporary-{number}"
            temporary.mkdir()
            data = disk / f"data-{number}"
            process = stack.enter_context(
                service_process(
                    NETWORKS,
                    data,
                    prefix=(*clock.prefix, f"TMPDIR={temporary}"),
                    default_model="efficientnet-lite0-int8",
                    database_url=f"{url}&application_name={quote(f'replica {number}')}",
                    api_key=KEY,
                )
            )
            services.append((process, data, temporary))
        ready = []
        for process, data, temporary in services:
            with process.client() as client:
                wait_until_loaded(client)
                ready.append(Service(process, client.base_url, data, temporary))
        threads = [len(os.listdir(f"/proc/{each.pid}/task")) for each in ready]
        yield System(ready, server, disk, clock, folder, threads)


def _schema_on(server: PostgresServer, folder: Path) -> str:
    """Create a schema whose tables are in `folder`, and return its URL."""
    folder.mkdir()
    shutil.chown(folder, *owner_of(server))
    with server.connect() as connection:
        connection.execute(f"CREATE TABLESPACE soak LOCATION '{folder}'")  # type: ignore[arg-type, unused-ignore]
    return server.new_schema() + quote(" -cdefault_tablespace=soak")


def owner_of(server: PostgresServer) -> tuple[int, int]:
    """Return user and group that the server runs as."""
    with server.connect() as connection:
        (data,) = connection.execute("SHOW data_directory").fetchone()  # type: ignore[misc, unused-ignore]
    found = Path(data).stat()
    return found.st_uid, found.st_gid
