"""Run closed loops with the HTTP load generator `hey` (Debian's package), and parse its reports."""

from __future__ import annotations

import csv
import io
import math
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

STATUS, TOOK, STARTED = "status-code", "response-time", "offset"
"""Columns of hey's CSV: status of a request, seconds that it took, second of the run at which it started."""
ENDS_WITHIN_S = 30
TIMEOUT_S = 20


@dataclass(frozen=True)
class Load:
    """Throughput and latency that the clients measured.

    `per_s`: number per second of the requests with status 200 that ended after the warm-up. `p50_ms`,
    `p99_ms`: latency of these requests. `completed`: number of requests with status 200 in the whole run,
    warm-up included.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    completed: int


def run(url: str, content_type: str, body: Path, *, clients: int, seconds: float, warm_up_s: float) -> Load:
    """Post `body` with `clients` clients for `warm_up_s` plus `seconds`.

    Each client waits for the response before its next request. Raises RuntimeError if hey fails, or if a
    response has another status than 200.
    """
    command = ["hey", "-z", f"{warm_up_s + seconds}s", "-c", str(clients), "-t", str(TIMEOUT_S)]
    command += ["-m", "POST", "-T", content_type, "-D", str(body), "-o", "csv", url]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=warm_up_s + seconds + ENDS_WITHIN_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"hey: failed: {done.stderr.strip()}")
    return parse(done.stdout, seconds=seconds, warm_up_s=warm_up_s)


def parse(report: str, *, seconds: float, warm_up_s: float) -> Load:
    """Return the Load of hey's CSV `report`.

    Requests that ended during the warm-up, or after the end of the time, count only for `completed`. Raises
    RuntimeError if a response has another status than 200, or if no request remains.
    """
    rows = list(csv.DictReader(io.StringIO(report)))
    statuses = {row[STATUS] for row in rows} - {"200"}
    if statuses:
        raise RuntimeError(f"hey: responses with status {', '.join(sorted(statuses))} (allowed: 200)")
    took_ms = sorted(
        float(row[TOOK]) * 1e3
        for row in rows
        if warm_up_s <= float(row[STARTED]) + float(row[TOOK]) < warm_up_s + seconds
    )
    if not took_ms:
        raise RuntimeError(f"hey: no request ended between second {warm_up_s} and {warm_up_s + seconds}")
    p99 = took_ms[math.ceil(0.99 * len(took_ms)) - 1]
    return Load(len(took_ms) / seconds, statistics.median(took_ms), p99, len(rows))


def version() -> str:
    """Return the version of Debian's package hey, or "unknown" if it is not installed as a package."""
    command = ["dpkg-query", "--show", "--showformat", "${Version}", "hey"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout
