"""Cost of the dashboard: time until it is drawn, and throughput lost to a hundred open dashboards.

`drawn`: starts a service with 30 days of 20 models and opens /dashboard in a browser for each window;
measures from the start of the navigation until the table is painted, and until every chart is drawn. `first`
is the first visit after the start, with nothing cached; `again` are later visits with an empty browser cache.
`crowd`: 8 clients classify as fast as possible, in turn with and without 100 dashboards of one view, each of
which fetches /dashboard/figures every 5 seconds over its own connection. The cost of simulating dashboards is
included, because they run on the same cores. Before that, `crowd` measures the CPU time that the service uses
for the dashboards alone, which is also valid on a busy machine.

    python -m benchmarks.pages [--rounds 6] [--only drawn|crowd]          # after make .venv/installed-web
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import httpx

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
LOAD_S = 15.0
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
    """Measure the seconds until the page is drawn, by window."""
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
            figures += [
                figure(f"{since}: table painted, first after start", "s", [first[0]], PAINTED_WITHIN_S),
                figure("  every chart drawn, first after start", "s", [first[1]], DRAWN_WITHIN_S),
                figure("  table painted, again", "s", [painted for painted, _ in again], PAINTED_WITHIN_S),
                figure("  every chart drawn, again", "s", [charts for _, charts in again], DRAWN_WITHIN_S),
            ]
        browser.close()
    return figures


def crowd(data: Path, photos: Photos, rounds: int) -> list[Figure]:
    """Measure classifications per second without and with a hundred dashboards."""
    alone, together, fetched, used = [], [], [], []
    with served(data) as server:
        path = "/dashboard/figures?since=24h"
        httpx.get(f"http://127.0.0.1:{server.port}{path}", timeout=30, trust_env=False).raise_for_status()
        for _ in range(rounds):
            with dashboards(server.port, path):
                cpu_s, started = server.cpu_s(), time.perf_counter()
                time.sleep(LOAD_S)
                used.append((server.cpu_s() - cpu_s) / (time.perf_counter() - started) / core_budget())
        for turn in range(rounds):
            order = (False, True) if turn % 2 else (True, False)
            for crowded in order:
                with contextlib.ExitStack() as stack:
                    if crowded:
                        fetched.append(stack.enter_context(dashboards(server.port, path)))
                    outcome = load(server, [photos.raw()], clients=8, seconds=LOAD_S, warm_up_s=1)
                    (together if crowded else alone).append(per_s(outcome))
    lost = [1 - crowded / undisturbed for crowded, undisturbed in zip(together, alone, strict=True)]
    return [
        figure(f"{DASHBOARDS} dashboards alone: share of the cores' time", "×", used, MOST_OF_THROUGHPUT),
        figure("8 clients, alone", "images/s", alone),
        figure(f"8 clients beside {DASHBOARDS} dashboards", "images/s", together),
        figure("  share of the throughput that they cost", "×", lost, MOST_OF_THROUGHPUT),
        figure("  figures fetched meanwhile", "per s", [median(rate) for rate in fetched]),
    ]


@contextlib.contextmanager
def dashboards(port: int, path: str) -> Iterator[list[float]]:
    """Run dashboards in a separate process; yields a list that gets the responses per second at the end."""
    rate: list[float] = []
    command = [sys.executable, "-m", "benchmarks.crowd", str(port), path, str(DASHBOARDS), str(EVERY_S)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # every dashboard has fetched once
    try:
        yield rate
    finally:
        output, _ = process.communicate()  # closes its input, which ends it
        rate.append(float(output))


if __name__ == "__main__":
    main()
