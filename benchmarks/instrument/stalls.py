"""Coordinated omission: measure a service that stalls for 200 ms every 2 s, by an open and a closed loop."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.results import Results
from models.zoo.statistics import percentile_bound
from service.bench.measure.inputs import as_jpeg, natural_picture
from service.bench.measure.scenarios import at_rate, one_after_another
from service.bench.measure.subjects import ThroughService

STALL_S = 0.2
EVERY_S = 2.0
SECONDS = 16.0
RATE_PER_S = 100.0
_CLIENTS = 2


def record(results: Results, folder: Path) -> None:
    """Measure a real service with both loops, first undisturbed, then while it is paused periodically."""
    with _service(folder) as (pid, url):
        for stalling in (False, True):
            with _stalls(pid) if stalling else _nothing():
                subject = ThroughService(url, folder.name, [as_jpeg(natural_picture())])
                closed = one_after_another(subject, 700, SECONDS)["round_trip"]
                with ThreadPoolExecutor(_CLIENTS) as executor:
                    opened = at_rate(
                        subject,
                        executor,
                        _CLIENTS,
                        RATE_PER_S,
                        int(RATE_PER_S * SECONDS),
                        budget_ms=10_000,
                        draw=random.Random(1),
                    )
            for loop, samples in (("closed", closed), ("open", list(opened.latencies_ns))):
                p99 = percentile_bound(samples, 0.99)
                assert p99 is not None
                results.append(
                    "stall-run",
                    stalling=stalling,
                    loop=loop,
                    n=len(samples),
                    p50_ns=float(np.median(samples)),
                    p99_ns=p99.estimate_ns,
                    p99_bound_ns=p99.bound_ns,
                    max_ns=max(samples),
                    interval_ns=_interval(samples),
                )


def _interval(samples: list[int]) -> tuple[float, float]:
    """Return the 95 % interval of the p99 by a block bootstrap (2 000 resamples, blocks of EVERY_S)."""
    random_state = np.random.default_rng(0)
    values = np.array(samples)
    length = max(1, round(len(values) * EVERY_S / SECONDS))
    starts = random_state.integers(0, max(1, len(values) - length), (2000, -(-len(values) // length)))
    drawn = values[(starts[:, :, None] + np.arange(length)).reshape(2000, -1)[:, : len(values)]]
    low, high = np.quantile(np.quantile(drawn, 0.99, axis=1), [0.025, 0.975])
    return float(low), float(high)


@contextmanager
def _service(folder: Path) -> Iterator[tuple[int, str]]:
    with tempfile.TemporaryDirectory() as data, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = {
            "WEIGHIN_MODEL_DIRS": str(folder.parent),
            "WEIGHIN_DEFAULT_MODEL": folder.name,
            "WEIGHIN_DATA_DIR": data,
            "WEIGHIN_PORT": str(port),
            "WEIGHIN_LOG_FORMAT": "text",
        }
        service = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            env=os.environ | settings,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert service.stderr is not None
            for line in service.stderr:
                if re.search(r"\bready\b", line):
                    break
            else:
                raise RuntimeError("service: did not start")
            yield service.pid, f"http://127.0.0.1:{port}"
        finally:
            service.send_signal(signal.SIGCONT)
            service.terminate()
            service.wait()


@contextmanager
def _stalls(pid: int) -> Iterator[None]:
    stopped = threading.Event()

    def stall() -> None:
        while not stopped.wait(EVERY_S - STALL_S):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(STALL_S)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stall)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def _nothing() -> Iterator[None]:
    yield
