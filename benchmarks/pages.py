"""Cost of the dashboard: time until it is drawn, and throughput lost to a hundred open dashboards.

`drawn` starts a service with 30 days of 20 models and opens /dashboard in a browser for each time window. It
measures the time from the start of the navigation until the table is painted, and until every chart is drawn.
`first` is the first visit after the start of the service, with nothing cached. `again` is a later visit with
an empty browser cache. `details` is a visit to the view of one model, which has six charts, also with an
empty browser cache.

`crowd` lets 8 clients classify as fast as possible, in three situations that take turns in random order:

- alone
- beside 100 dashboards of one view, each of which fetches /dashboard/figures every 5 seconds over its own
  connection
- beside a control: 100 dashboards that fetch the same bytes from another process, which has them in memory

The simulated dashboards run on the cores of the service, so the control shows what the simulation costs.
Before that, `crowd` measures the CPU time that service and simulation use for the dashboards alone.

    python -m benchmarks.pages [--rounds 6] [--only drawn|crowd]          # after make .venv/installed-web
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from benchmarks.latency_queries import fill, size_of
from benchmarks.photos import Photos
from benchmarks.report import Figure, figure, machine, table
from benchmarks.served import load, per_s
from benchmarks.servers import ROOT, Server, free_port
from service.inference.cpu import core_budget
from service.latency.buckets import MINUTE_S
from service.latency.store import LatencyStore
from service.storage.database import open_database

MODELS = [f"model-{number:02}" for number in range(20)]
WINDOWS = ("24h", "7d", "30d")
DASHBOARDS = 100
EVERY_S = 5.0
LOAD_S = 6.0
IDLE_ROUNDS = 3
IDLE_S = 10.0
PAINTED_WITHIN_S = 0.5
DRAWN_WITHIN_S = 2.0
MOST_OF_THROUGHPUT = 0.05


def main() -> None:
    """Fill a database, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", choices=("drawn", "crowd"))
    arguments = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        started = time.perf_counter()
        store = LatencyStore(open_database(None, data))
        store.ensure_open()
        now = time.time() // MINUTE_S * MINUTE_S
        fill(store, now, MODELS, runs_per_minute=300)
        store.close()
        print(f"30 days of {len(MODELS)} models: {size_of(data):.0f} MB", file=sys.stderr)
        if arguments.only != "crowd":
            figures += drawn(data, arguments.rounds)
        if arguments.only != "drawn":
            figures += crowd(data, Photos(Path(folder)), arguments.rounds)
    for key, value in machine().items():
        print(f"{key}: {value}")
    print(f"\n{table(figures)}\n\nin {time.perf_counter() - started:.0f} s")


@contextlib.contextmanager
def served(data: Path) -> Iterator[Server]:
    """Run the service with the models of the zoo on this data directory."""
    port = free_port()
    environment = {"WEIGHIN_DATA_DIR": str(data), "WEIGHIN_PORT": str(port)}
    server = Server("weighin", ["-m", "service", "serve"], port, environment)
    try:
        server.wait_until("/readyz")
        yield server
    finally:
        server.stop()


def drawn(data: Path, rounds: int) -> list[Figure]:
    """Measure the seconds until the page is drawn, for each time window."""
    from playwright.sync_api import sync_playwright

    figures = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))

        def visit(url: str) -> tuple[float, float]:
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.add_init_script(
                """new MutationObserver((_, self) => {
                  if (!document.body?.dataset.drawn) return;
                  self.disconnect();
                  window.drawnAt = performance.now();
                }).observe(document, { subtree: true, childList: true, attributes: true });"""
            )
            page.goto(url)
            page.wait_for_selector("body[data-drawn]")
            painted, charts = page.evaluate(
                "[performance.getEntriesByName('first-contentful-paint')[0].startTime, window.drawnAt]"
            )
            context.close()
            return painted / 1000, charts / 1000

        visit("data:text/html,<body data-drawn=yes>warm")
        for since in WINDOWS:
            with served(data) as server:
                url = f"http://127.0.0.1:{server.port}/dashboard?since={since}"
                first = visit(url)
                again = [visit(url) for _ in range(rounds)]
                details = [visit(f"{url}&model={MODELS[0]}") for _ in range(rounds)]
            for name, visits in (("first after start", [first]), ("again", again), ("details", details)):
                painted, charts = zip(*visits, strict=True)
                figures += [
                    figure(f"{since}, {name}: table painted", "s", painted, PAINTED_WITHIN_S),
                    figure("  every chart drawn", "s", charts, DRAWN_WITHIN_S),
                ]
        browser.close()
    return figures


def crowd(data: Path, photos: Photos, rounds: int) -> list[Figure]:
    """Measure what a hundred open dashboards cost the service, in CPU time and in throughput.

    The throughput is measured in the three situations that the module's description explains.
    """
    path = "/dashboard/figures?since=24h"
    simulated: list[float] = []
    used: list[float] = []
    rate: list[float] = []
    images: dict[str, list[float]] = {"alone": [], "dashboards": [], "control": []}
    with served(data) as server:
        answer = httpx.get(f"http://127.0.0.1:{server.port}{path}", timeout=30, trust_env=False)
        answer.raise_for_status()
        with control(answer) as control_port:
            ports = {"dashboards": server.port, "control": control_port}
            for _ in range(IDLE_ROUNDS):
                with dashboards(server.port, path, rate) as process:
                    before, started = (server.cpu_s(), cpu_s(process)), time.perf_counter()
                    time.sleep(IDLE_S)
                    available_s = (time.perf_counter() - started) * core_budget()
                    used.append((server.cpu_s() - before[0]) / available_s)
                    simulated.append((cpu_s(process) - before[1]) / available_s)
            for turn in range(rounds):
                for kind in random.Random(turn).sample(sorted(images), len(images)):
                    with contextlib.ExitStack() as stack:
                        if kind != "alone":
                            stack.enter_context(dashboards(ports[kind], path, rate))
                        outcome = load(server, [photos.raw()], clients=8, seconds=LOAD_S, warm_up_s=1)
                    images[kind].append(per_s(outcome))

    def lost(kind: str, reference: str) -> list[float]:
        return [1 - a / b for a, b in zip(images[kind], images[reference], strict=True)]

    return [
        figure(f"{DASHBOARDS} dashboards alone: share of the cores' time", "×", used, MOST_OF_THROUGHPUT),
        figure("  and that of the process that simulates them", "×", simulated),
        figure("  figures fetched", "per s", rate),
        figure("8 clients, alone", "images/s", images["alone"]),
        figure("8 clients beside the dashboards", "images/s", images["dashboards"]),
        figure("8 clients beside those of the control", "images/s", images["control"]),
        figure("throughput lost to the dashboards", "×", lost("dashboards", "alone"), MOST_OF_THROUGHPUT),
        figure("  to those of the control", "×", lost("control", "alone")),
        figure("  to the service's part", "×", lost("dashboards", "control"), MOST_OF_THROUGHPUT),
    ]


@contextlib.contextmanager
def dashboards(port: int, path: str, rate: list[float]) -> Iterator[psutil.Process]:
    """Run dashboards in a separate process. At the end, append their responses per second to `rate`."""
    command = [sys.executable, "-m", "benchmarks.crowd", str(port), path, str(DASHBOARDS), str(EVERY_S)]
    process = psutil.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()  # wait until every dashboard is connected
    try:
        yield process
    finally:
        output, _ = process.communicate()  # closes the standard input of the process, which then ends
        rate.append(float(output))


@contextlib.contextmanager
def control(answer: httpx.Response) -> Iterator[int]:
    """Run, in a separate process, a server that sends this response from memory; yield its port."""
    head = b"".join(b"%b: %b\r\n" % field for field in answer.headers.raw)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + answer.content)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.crowd", "control", file.name]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield int(process.stdout.readline())
            finally:
                process.terminate()


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU time of a process so far, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
