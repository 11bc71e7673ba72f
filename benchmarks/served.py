"""Measurements over HTTP: throughput, overhead, start, memory, overload."""

from __future__ import annotations

import http.client
import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

from benchmarks import MODEL
from benchmarks.photos import Photos
from benchmarks.report import Figure, figure
from benchmarks.servers import ROOT, Server, weighin
from models.zoo.card import Task, read_cards
from models.zoo.files import NETWORKS
from service.inference.cpu import core_budget

SIX = [f"efficientnet-lite{size}{suffix}" for size in range(3) for suffix in ("", "-int8")]
DEADLINE_MS = 10_000
ONE_COMMAND_S = 90
REQUESTS = 10_000
MOST_AT_ONCE = 4_000
"""Maximum number of requests in one load. Even a slow machine completes them within a load's maximum duration
of 60 s."""
IN_TURN = 150
"""Number of requests of each kind in a round that compares two kinds."""
SECONDS = 3.0
"""Duration, in seconds, of each measurement in a round."""


def run_json(module: str, *arguments: object, stdin: str | None = None) -> Any:
    """Run `python -m benchmarks.MODULE ARGUMENTS`; return its output, decoded from JSON.

    Raises RuntimeError if the command fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=ONE_COMMAND_S,
    )
    if done.returncode:
        raise RuntimeError(f"benchmarks.{module}: failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def load(server: Server, requests: list[list[str]], **plan: object) -> dict[str, Any]:
    """Run a Plan (benchmarks/load.py) against `server`; return its Outcome."""
    outcome: dict[str, Any] = run_json(
        "load", stdin=json.dumps({"port": server.port, "requests": requests} | plan)
    )
    return outcome


def completed(outcome: dict[str, Any]) -> list[float]:
    """Return the latencies in ms of the requests with status 200. Raises RuntimeError if there are none."""
    latencies: list[float] = outcome["latencies_ms"].get("200", [])
    if not latencies:
        counts = {status: len(times) for status, times in outcome["latencies_ms"].items()}
        raise RuntimeError(f"load: no response with status 200: {counts}")
    return latencies


def per_s(outcome: dict[str, Any]) -> float:
    """Return the number of requests with status 200 per second."""
    return len(completed(outcome)) / float(outcome["seconds"])


def throughput(photos: Photos, rounds: int) -> list[Figure]:
    """Measure the service with one client and with eight clients, and compare it with the bare loop.

    (`make bench-rivals` measures other servers.)
    """
    model, cores = NETWORKS / MODEL, core_budget()
    with weighin() as service:
        service.wait_until("/readyz")
        service.pause()

        def loaded(request: list[str], clients: int) -> dict[str, float]:
            service.resume()
            try:
                outcome = load(service, [request], clients=clients, seconds=SECONDS, warm_up_s=0.7)
            finally:
                service.pause()
            return {"per_s": per_s(outcome), "p50_ms": median(completed(outcome))}

        work: dict[str, Callable[[], dict[str, float]]] = {
            "floor 1": lambda: run_json("floor", photos.small, model, SECONDS, 1),
            "floor": lambda: run_json("floor", photos.small, model, SECONDS, cores),
            "raw 1": lambda: loaded(photos.raw(), 1),
            "form 1": lambda: loaded(photos.multipart(), 1),
            "raw 8": lambda: loaded(photos.raw(), 8),
            "form 8": lambda: loaded(photos.multipart(), 8),
        }
        rounds_of: dict[str, list[dict[str, float]]] = {name: [] for name in work}
        order = list(work)
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                rounds_of[name].append(work[name]())

    def values(name: str, key: str) -> list[float]:
        return [result[key] for result in rounds_of[name]]

    def ratio(name: str, reference: str, key: str) -> list[float]:
        return [a / b for a, b in zip(values(name, key), values(reference, key), strict=True)]

    return [
        figure("floor: bare loop, 1 thread, p50", "ms", values("floor 1", "p50_ms")),
        figure("1 client, raw body, p50", "ms", values("raw 1", "p50_ms")),
        figure("1 client, raw body, p50 / floor", "×", ratio("raw 1", "floor 1", "p50_ms"), 1.15),
        figure("1 client, multipart, p50 / floor", "×", ratio("form 1", "floor 1", "p50_ms"), 1.35),
        figure(f"floor: bare loop, {cores} threads", "images/s", values("floor", "per_s")),
        figure("8 clients, raw body", "images/s", values("raw 8", "per_s")),
        figure("8 clients, raw body / floor", "×", ratio("raw 8", "floor", "per_s"), 0.82, at_least=True),
        figure("8 clients, multipart", "images/s", values("form 8", "per_s")),
    ]


def protocol(photos: Photos, rounds: int) -> list[Figure]:
    """Measure the latencies of /v2 and /classify for one client that sends requests to both in turn.

    All requests have the same encoded image, which /v2 gets as binary data. Both routes return the five most
    probable classes.
    """
    image = photos.small.read_bytes()
    entry = {"name": "image", "shape": [1], "datatype": "BYTES"}
    entry["parameters"] = {"binary_data_size": len(image) + 4}
    wanted = {"name": "probabilities", "parameters": {"binary_data": True, "classification": 5}}
    header = json.dumps({"inputs": [entry], "outputs": [wanted]}).encode()
    requests: dict[str, tuple[str, bytes, dict[str, str]]] = {
        "classify": (f"/classify?model={MODEL}", image, {"Content-Type": "image/jpeg"}),
        "v2": (
            f"/v2/models/{MODEL}/infer",
            header + struct.pack("<I", len(image)) + image,
            {"Inference-Header-Content-Length": str(len(header))},
        ),
    }
    p50: dict[str, list[float]] = {name: [] for name in requests}
    with weighin() as service:
        service.wait_until("/readyz")
        client = http.client.HTTPConnection("127.0.0.1", service.port)
        for _ in range(rounds + 1):  # the first round is a warm-up
            seen: dict[str, list[float]] = {name: [] for name in requests}
            for _ in range(IN_TURN):
                for name, (path, body, headers) in random.sample(list(requests.items()), len(requests)):
                    start = time.perf_counter()
                    client.request("POST", path, body, headers)
                    response = client.getresponse()
                    content = response.read()
                    seen[name].append((time.perf_counter() - start) * 1e3)
                    if response.status != 200:
                        raise RuntimeError(f"{path}: {response.status}: {content[:200]!r}")
            for name, times in seen.items():
                p50[name].append(median(times))
        client.close()
    pairs = zip(*(values[1:] for values in p50.values()), strict=True)
    return [
        figure("1 client, image to /classify, p50", "ms", p50["classify"][1:]),
        figure("1 client, image to /v2, p50", "ms", p50["v2"][1:]),
        figure("  / /classify", "×", [v2 / classify for classify, v2 in pairs], 1.1),
    ]


def startup() -> list[Figure]:
    """Measure wall-clock time and CPU time from the start of the process until all models are ready."""
    ready, cpu = [], []
    for _ in range(5):
        with weighin() as server:
            ready.append(server.wait_until("/readyz"))
            cpu.append(server.cpu_s())
    count = len(_included(None))
    return [
        figure(f"process start to ready, {count} models", "s", ready, 1.5),
        figure("  CPU time until then", "s", cpu),
    ]


def memory(photos: Photos, requests: int = REQUESTS) -> list[Figure]:
    """Measure resident memory during `requests` requests to the included classifiers in turn.

    All included models are loaded. After the classifiers, each detector gets requests, as many at a time as
    there are cores.
    """
    classifiers = [photos.raw(name) for name in _included("image-classification")]
    detectors = [photos.raw(name, "/detect") for name in _included("object-detection")]
    resident = {}
    with weighin() as server:
        server.wait_until("/readyz")
        resident[0] = server.resident_mb()
        done = 0
        for until in (requests // 5, requests * 3 // 5, requests):
            while done < until:
                count = min(until - done, MOST_AT_ONCE)
                done += _send(server, classifiers, clients=8, count=count)
            resident[until] = server.resident_mb()
        _send(server, detectors, clients=core_budget(), count=10 * len(detectors))
        with_detectors = server.resident_mb()
    steps = ", ".join(f"{count}: {value:.0f}" for count, value in resident.items())
    models = f"{requests} requests to {len(classifiers)} models"
    growth = resident[requests] - resident[requests * 3 // 5]
    return [
        figure(f"resident after {models}", "MB", [resident[requests]], 400, note=f"(after {steps})"),
        figure(f"  growth since {requests * 3 // 5}", "MB", [growth], 5),
        figure(f"  after requests to {len(detectors)} detectors, too", "MB", [with_detectors]),
    ]


def _included(task: Task | None) -> list[str]:
    """Return the names of the included models of `task`. If `task` is None, return those of all tasks."""
    names = sorted(folder.name for folder in NETWORKS.iterdir())
    return [name for name, card in read_cards(NETWORKS, names).items() if task in (None, card.task)]


def _send(server: Server, requests: list[list[str]], *, clients: int, count: int) -> int:
    """Send `count` requests in a closed loop, and return `count`.

    Raises RuntimeError if a request fails.
    """
    outcome = load(server, requests, clients=clients, seconds=60, warm_up_s=0, count=count)
    if len(completed(outcome)) < count:
        raise RuntimeError(f"load: only {len(completed(outcome))} of {count} requests completed in time")
    return count


def overload(photos: Photos, rounds: int) -> list[Figure]:
    """Measure Poisson arrivals at three times the throughput that eight clients reach."""
    peak, carried, accepted, refused, without_retry_after, unexpected = [], [], [], [], [], []
    with weighin() as server:
        server.wait_until("/readyz")
        for seed in range(rounds):
            peak.append(per_s(load(server, [photos.raw()], clients=8, seconds=SECONDS, warm_up_s=0.7)))
            outcome = load(server, [photos.raw()], rate=3 * peak[-1], seconds=6, seed=seed)
            refusals = outcome["latencies_ms"].get("503", [])
            carried.append(per_s(outcome) / peak[-1])
            accepted.append(max(completed(outcome)))
            refused.append(quantiles(refusals, n=100)[98] if len(refusals) > 1 else 0.0)
            without_retry_after.append(len(refusals) - outcome["retry_after"])
            others = {k: len(v) for k, v in outcome["latencies_ms"].items() if k not in ("200", "503")}
            unexpected.append(sum(others.values()) + outcome["unanswered"])
    return [
        figure("peak, 8 clients", "images/s", peak),
        figure("3 × that, open loop: completed / peak", "×", carried, 0.97, at_least=True),
        figure("  slowest accepted request", "ms", accepted, DEADLINE_MS),
        figure("  p99 of refusals", "ms", refused, 20),
        figure("  503 without Retry-After", "", without_retry_after, 0),
        figure("  neither 200 nor 503", "", unexpected, 0),
    ]
