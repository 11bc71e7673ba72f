"""Measure and draw where the time of a request goes: event loop, job threads, and latency of one client.

    PATH=$PWD/.cache/hey/usr/bin:$PATH .venv/bin/python -m benchmarks.path [--rounds 6] [--seconds 2]

Compares Weigh-in with a bare ASGI function under uvicorn and with a bare loop. The ASGI function does the
same job. The bare loop decodes and preprocesses the same bytes and runs the network on them, but chooses no
classes and writes no JSON. Prints the figures, writes them to benchmarks/path.json, and draws
docs/performance.svg. `hey` simulates eight clients. CPU time per request is steadier than throughput on a
shared machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks import MODEL, report
from benchmarks.photos import BOUNDARY, Photos
from benchmarks.report import Figure, figure
from benchmarks.rivals import hey
from benchmarks.rivals.servers import CONTENDERS
from benchmarks.served import run_json
from benchmarks.servers import ROOT, Server
from models.zoo.files import NETWORKS
from service.inference.cpu import core_budget

CLIENTS = 8
WARM_UP_S = 0.3
REQUESTS = 300
SERVERS = ("asgi", "weighin")
KINDS = ("raw", "multipart")
RESULTS = ROOT / "benchmarks" / "path.json"
PICTURE = ROOT / "docs" / "performance.svg"
Rounds = dict[str, list[float]]


def thread_times(server: Server) -> tuple[float, float]:
    """Return the CPU seconds used so far by the event loop's thread, and by all other threads together."""
    first = server.tree()[0]
    times = {thread.id: thread.user_time + thread.system_time for thread in first.threads()}
    loop = times.pop(first.pid)
    return loop, sum(times.values())


def busy(server: Server, url: str, content_type: str, body: Path, seconds: float) -> dict[str, float]:
    """Load a server with CLIENTS clients.

    Returns images per second, and per request the CPU time of the event loop and of the other threads in ms.
    """
    hey.run(url, content_type, body, clients=CLIENTS, seconds=WARM_UP_S, warm_up_s=0)
    loop_s, others_s = thread_times(server)
    load = hey.run(url, content_type, body, clients=CLIENTS, seconds=seconds, warm_up_s=0)
    loop_after, others_after = thread_times(server)
    return {
        "loop_ms": (loop_after - loop_s) / load.completed * 1e3,
        "jobs_ms": (others_after - others_s) / load.completed * 1e3,
        "per_s": load.per_s,
    }


def alone(server: Server, path: str, content_type: str, body: Path) -> dict[str, float]:
    """Post REQUESTS images, one at a time; return the median latencies of client and stages in ms."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    content = body.read_bytes()
    seen: dict[str, list[float]] = {}
    for _ in range(REQUESTS):
        start = time.perf_counter()
        connection.request("POST", path, content, {"Content-Type": content_type})
        response = connection.getresponse()
        response.read()
        seen.setdefault("client", []).append((time.perf_counter() - start) * 1e3)
        for stage in (response.headers["Server-Timing"] or "").split(", "):
            name, _, duration = stage.partition(";dur=")
            seen.setdefault(name, []).append(float(duration))
    connection.close()
    return {name: statistics.median(durations) for name, durations in seen.items()}


def measure(rounds: int, seconds: float) -> Rounds:
    """Return the values of each figure, one per round."""
    values: Rounds = {}

    def note(prefix: str, found: dict[str, float]) -> None:
        for name, value in found.items():
            values.setdefault(f"{prefix} {name}", []).append(value)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        photos = Photos(Path(folder))
        bodies = {
            "raw": ("image/jpeg", photos.small),
            "multipart": (f"multipart/form-data; boundary={BOUNDARY}", photos.form),
        }
        servers: dict[str, Server] = {}
        for name in SERVERS:
            home = Path(folder, name)
            home.mkdir()
            servers[name] = CONTENDERS[name].start(home)
            stack.callback(servers[name].stop)
            servers[name].wait_until(CONTENDERS[name].ready)
            servers[name].pause()
        work: list[tuple[str, str]] = [(name, kind) for name in SERVERS for kind in KINDS]
        for _ in range(rounds):
            random.shuffle(work)
            for threads in sorted({1, core_budget()}):
                note(f"floor {threads}", run_json("floor", photos.small, NETWORKS / MODEL, seconds, threads))
            for name, kind in work:
                server, path = servers[name], CONTENDERS[name].endpoints[kind].path
                server.resume()
                url = f"http://127.0.0.1:{server.port}{path}"
                note(f"{name} {kind}", busy(server, url, *bodies[kind], seconds))
                if name == "weighin":
                    note(f"alone {kind}", alone(server, path, *bodies[kind]))
                server.pause()
    return values


def figures(values: Rounds) -> list[Figure]:
    """Return the figures. CPU time and the median latency of one client have goals."""
    floor, floor_1 = values[f"floor {core_budget()} cpu_ms"], values["floor 1 p50_ms"]
    rows = [
        figure(f"bare loop, {core_budget()} threads: CPU per image", "ms", floor),
        figure("bare loop, 1 thread: p50", "ms", floor_1),
    ]

    def ratio(above: list[float], below: list[float]) -> list[float]:
        return [a / b for a, b in zip(above, below, strict=True)]

    for kind in KINDS:
        cpu: dict[str, list[float]] = {}
        for name in SERVERS:
            loop, jobs = values[f"{name} {kind} loop_ms"], values[f"{name} {kind} jobs_ms"]
            cpu[name] = [a + b for a, b in zip(loop, jobs, strict=True)]
            label = f"{CONTENDERS[name].label}, {kind}"
            goal = 1.09 if (name, kind) == ("weighin", "raw") else None
            rows += [
                figure(f"{label}: CPU of the event loop", "ms", loop),
                figure("  CPU of the other threads", "ms", jobs),
                figure("  CPU of both / bare loop", "×", ratio(cpu[name], floor), goal),
            ]
        rows.append(figure("  CPU of both / bare ASGI function", "×", ratio(cpu["weighin"], cpu["asgi"])))
        per_s = ratio(values[f"weighin {kind} per_s"], values[f"asgi {kind} per_s"])
        rows.append(figure("  images/s / bare ASGI function", "×", per_s, 0.97, at_least=True))
        client = values[f"alone {kind} client"]
        goal = 1.15 if kind == "raw" else None
        rows.append(figure(f"1 client, {kind}: p50", "ms", client))
        rows.append(figure("  / bare loop", "×", ratio(client, floor_1), goal))
        for stage in ("queue", "decode", "preprocess", "inference", "postprocess", "total"):
            rows.append(figure(f"  stage {stage}", "ms", values[f"alone {kind} {stage}"]))
    return rows


def picture(values: Rounds) -> str:
    """Return an SVG with a bar per server and kind of request: CPU time of job threads and event loop."""
    median = {name: statistics.median(found) for name, found in values.items()}
    bars = [("bare loop", median[f"floor {core_budget()} cpu_ms"], 0.0)]
    for kind in KINDS:
        for name in SERVERS:
            jobs, loop = (median[f"{name} {kind} {part}"] for part in ("jobs_ms", "loop_ms"))
            bars.append((f"{CONTENDERS[name].label}, {kind}", jobs, loop))
    scale = 420 / max(jobs + loop for _, jobs, loop in bars)
    rows = []
    for number, (label, jobs, loop) in enumerate(bars):
        y, middle = 34 + 30 * number, 34 + 30 * number + 14
        left, right = 210 + jobs * scale, 210 + (jobs + loop) * scale
        rows += [
            f'<text class="ink" x="200" y="{middle}" text-anchor="end">{label}</text>',
            f'<rect class="jobs" x="210" y="{y}" width="{jobs * scale:.1f}" height="20"/>',
            f'<rect class="loop" x="{left:.1f}" y="{y}" width="{loop * scale:.1f}" height="20"/>',
            f'<text class="ink" x="{right + 6:.1f}" y="{middle}">{jobs + loop:.2f} ms</text>',
        ]
    height = 44 + 30 * len(bars)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" role="img"'
        ' font-family="sans-serif" font-size="13">\n'
        "<title>CPU time per request, with eight clients</title>\n"
        "<style>.ink{fill:#1f2328}.jobs{fill:#0969da}.loop{fill:#d1691e}"
        "@media (prefers-color-scheme:dark)"
        "{.ink{fill:#e6edf3}.jobs{fill:#58a6ff}.loop{fill:#f0883e}}</style>\n"
        '<rect class="jobs" x="210" y="8" width="12" height="12"/>'
        '<text class="ink" x="228" y="18">all other threads</text>'
        '<rect class="loop" x="410" y="8" width="12" height="12"/>'
        '<text class="ink" x="428" y="18">event loop</text>\n' + "\n".join(rows) + "\n</svg>\n"
    )


def main() -> None:
    """Measure, print the figures, and write the results and the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.path", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, choices=range(1, 21), default=6)
    parser.add_argument("--seconds", type=float, default=2.0, help="per point")
    arguments = parser.parse_args()
    environment: dict[str, Any] = report.machine() | {"hey": hey.version(), "psutil": psutil.__version__}
    values = measure(arguments.rounds, arguments.seconds)
    results = {"machine": environment, "seconds": arguments.seconds, "rounds": values}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PICTURE.write_text(picture(values))
    print(report.table(figures(values)))


if __name__ == "__main__":
    main()
