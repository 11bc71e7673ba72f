"""Duration of /latency and /latency/history queries over 30 days of 20 models.

Fills a new database as if 20 models had run in every minute of 30 days (by default 300 runs per minute each,
in `--instances` processes). Then queries the HTTP router in this process, without sockets. Prints medians of
wall-clock time over several rounds, in milliseconds, and the CPU time of `first`. The columns are:

- `first`: first response of a process; nothing is cached
- `again`: closed buckets are cached, and every model has recorded a run since the last query
- `idle`: nothing was recorded since the last query
- `minute`: a minute has closed since the last query
- `flush`: not a query, but the saving of one run of each model

    python -m benchmarks.latency_queries [--models 20] [--runs-per-minute 300] [--instances 1]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import httpx
import numpy as np
from fastapi import FastAPI

from service.api import latency
from service.api.body.request import add_parts
from service.api.latency import LatencyAnswers
from service.api.routers import add_routes
from service.inference.registry import Registry
from service.latency.buckets import (
    DAY_S,
    HOUR_S,
    KEEP_HOURS_S,
    KEEP_MINUTES_S,
    MINUTE_S,
    Bucket,
    bucket_of,
)
from service.latency.histogram import Distribution, merge
from service.latency.prometheus import Metrics
from service.latency.query import Latencies
from service.latency.recorder import Recorder
from service.latency.series import Part, Series
from service.latency.stages import STAGES
from service.latency.store import LatencyStore
from service.storage.database import open_database

QUERIES = (
    "/latency?since=15m",
    "/latency?since=24h",
    "/latency?since=7d",
    "/latency?since=30d",
    "/latency/history?since=1h",
    "/latency/history?since=24h",
    "/latency/history?since=7d",
    "/latency/history?since=30d",
    "/latency/history?since=24h&step=15m&model=model-00&stage=total",
)
ROUNDS = 15


class Clock:
    """A clock whose time is set by the caller."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def sample(runs: int, seed: int) -> Distribution:
    """Return a plausible distribution of `runs` runs: log-normal around 1 to 8 ms."""
    random = np.random.default_rng(seed)
    return Distribution.of(random.lognormal(np.log(random.uniform(1e6, 8e6)), 0.3, runs).astype(int).tolist())


def fill(
    store: LatencyStore, now: float, models: list[str], runs_per_minute: int, instances: int = 1
) -> None:
    """Write the buckets that the store would have after 30 days of traffic.

    Day buckets are written for all 30 days. Hours and minutes are written only for the most recent time,
    because the store deletes older ones.
    """
    minutes = [sample(runs_per_minute, seed) for seed in range(40)]
    hours = [merge([minutes[(first + n) % 40] for n in range(60)]) for first in range(7)]
    days = [merge(hours * 3) for _ in range(2)]
    random = np.random.default_rng(0)
    for resolution_s, since, pool in (
        (DAY_S, now - 30 * DAY_S, days),
        (HOUR_S, bucket_of(DAY_S, now - KEEP_HOURS_S).start, hours),
        (MINUTE_S, bucket_of(HOUR_S, now - KEEP_MINUTES_S).start, minutes),
    ):
        first = bucket_of(resolution_s, since).start
        buckets = [
            Bucket(resolution_s, at) for at in range(first, int(now) // MINUTE_S * MINUTE_S, resolution_s)
        ]
        for at in range(0, len(buckets), 60):
            store.write(
                [
                    Part(
                        bucket,
                        f"earlier {instance}",
                        {
                            Series("live", model, version_of(model), "", stage): pool[
                                random.integers(len(pool))
                            ]
                            for model in models
                            for stage in STAGES
                        },
                        {},
                    )
                    for bucket in buckets[at : at + 60]
                    for instance in range(instances)
                ]
            )


async def measure(models: list[str], runs_per_minute: int, instances: int, folder: Path) -> None:
    """Fill the database, run the queries and print the table."""
    clock = Clock(time.time() // MINUTE_S * MINUTE_S + 30)
    engine = open_database(None, folder)
    store = LatencyStore(engine)
    store.ensure_open()
    started = time.perf_counter()
    fill(store, clock(), models, runs_per_minute, instances)
    print(f"filled in {time.perf_counter() - started:.0f} s, {size_of(folder):.0f} MB")
    run = dict.fromkeys(STAGES, 2_000_000)
    columns = ("first", "(cpu)", "again", "idle", "minute", "flush")
    print(f"\n{'milliseconds':64} {' '.join(f'{column:>7}' for column in columns)} {'kB':>6}")
    for query in QUERIES:
        first, cpu, again, idle, minute, flush = [], [], [], [], [], []
        for _ in range(3):
            # The query runs in a new process, because a newly started service must first grow its heap.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
                wall_ms, cpu_ms = executor.submit(after_a_start, query, models, folder, clock()).result()
            first.append(wall_ms)
            cpu.append(cpu_ms)
        recorder = Recorder(store, Metrics({}), clock=clock)
        client = client_of(recorder, models, folder)
        await timed(client, query)
        for _ in range(5):
            clock.now += MINUTE_S
            for model in models:
                recorder.record(model, "live", run, version_of(model))
            flush_started = time.perf_counter()
            recorder.flush()
            flush.append((time.perf_counter() - flush_started) * 1000)
            minute.append(await timed(client, query))
        for _ in range(ROUNDS):
            for model in models:
                recorder.record(model, "live", run, version_of(model))
            again.append(await timed(client, query))
            idle.append(await timed(client, query))
        size = len((await client.get(query)).content) / 1000
        figures = " ".join(
            f"{statistics.median(times):7.1f}" for times in (first, cpu, again, idle, minute, flush)
        )
        print(f"{query:64} {figures} {size:6.0f}")
        await client.aclose()


def after_a_start(query: str, models: list[str], folder: Path, now: float) -> tuple[float, float]:
    """Return wall-clock and CPU milliseconds of the first query in a process."""
    store = LatencyStore(open_database(None, folder))
    store.ensure_open()
    client = client_of(Recorder(store, Metrics({}), clock=Clock(now)), models, folder)
    started = time.process_time()
    wall_ms = asyncio.run(timed(client, query))
    return wall_ms, (time.process_time() - started) * 1000


def client_of(recorder: Recorder, models: list[str], folder: Path) -> httpx.AsyncClient:
    """Return a client of an application with only the latency routes.

    Writes an empty card of each model to `folder`.
    """
    for model in models:
        (folder / "models" / model).mkdir(parents=True, exist_ok=True)
        (folder / "models" / model / "card.json").touch()
    app = FastAPI()
    latencies = Latencies(recorder, lambda: {model: version_of(model) for model in models})
    registry = Registry([folder / "models"], models[0])
    add_parts(app, [latencies, LatencyAnswers(latencies.revision), registry])
    add_routes(app, [latency.router])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@cache
def version_of(model: str) -> str:
    """Return a version of the model in the form that the service records, a SHA-256."""
    return hashlib.sha256(model.encode()).hexdigest()


async def timed(client: httpx.AsyncClient, query: str) -> float:
    """Return the duration of a query in milliseconds."""
    started = time.perf_counter()
    (await client.get(query)).raise_for_status()
    return (time.perf_counter() - started) * 1000


def size_of(folder: Path) -> float:
    """Return the size of the files in a folder in megabytes."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=20, help="number of models (default: 20)")
    parser.add_argument("--runs-per-minute", type=int, default=300, help="of each model (default: 300)")
    parser.add_argument("--instances", type=int, default=1, help="number of replicas (default: 1)")
    arguments = parser.parse_args()
    models = [f"model-{number:02}" for number in range(arguments.models)]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(models, arguments.runs_per_minute, arguments.instances, Path(folder)))


if __name__ == "__main__":
    main()
