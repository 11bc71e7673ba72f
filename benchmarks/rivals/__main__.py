"""Measure Weigh-in and other servers with the same network, decoder and session settings.

    make bench-rivals                                          # measures, then writes docs/rivals.md
    .venv/bin/python -m benchmarks.rivals run [--rounds 4] [--seconds 2] [--only weighin --only asgi]
    .venv/bin/python -m benchmarks.rivals page                 # writes docs/rivals.md from the results

`run` writes benchmarks/rivals/results.json; commit this file with the page. With four rounds it takes about
ten minutes, and it gives up after LONGEST_S. It needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks import MODEL, report
from benchmarks.photos import BOUNDARY, Photos
from benchmarks.rivals import hey, page
from benchmarks.rivals.classifier import Classifier
from benchmarks.rivals.servers import CONTENDERS, KINDS, Contender
from benchmarks.served import run_json
from benchmarks.servers import Server
from models.zoo.files import NETWORKS
from service.inference.cpu import core_budget

CLIENTS = (1, 8, 64)
WARM_UP_S = 0.5
LONGEST_S = 720
PACKAGES = (
    *("litserve", "bentoml", "mlserver", "ray", "fastapi", "starlette"),
    *("uvicorn", "uvloop", "httptools", "onnxruntime"),
)
"""Packages whose versions are recorded if they are installed."""
Record = dict[str, Any]


class Bodies:
    """Request bodies with one photograph. `by_name`: content type and file of each kind of request."""

    def __init__(self, folder: Path) -> None:
        photos = Photos(folder)
        self.photo = photos.small
        text = base64.b64encode(self.photo.read_bytes()).decode()
        tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        v2 = {"inputs": [tensor | {"parameters": {"content_type": "base64"}}]}
        json_file, v2_file = folder / "base64.json", folder / "v2.json"
        json_file.write_text(json.dumps({"image": text}))
        v2_file.write_text(json.dumps(v2))
        self.by_name = {
            "raw": ("image/jpeg", self.photo),
            "multipart": (f"multipart/form-data; boundary={BOUNDARY}", photos.form),
            "json": ("application/json", json_file),
            "v2": ("application/json", v2_file),
        }


class Rounds:
    """Measures round by round, and collects the results in `records`."""

    def __init__(self, names: list[str], bodies: Bodies, seconds: float, ends_at: float) -> None:
        self.records: dict[str, list[Record]] = {"starts": [], "points": [], "floors": [], "failures": []}
        self._names = names
        self._bodies = bodies
        self._seconds = seconds
        self._ends_at = ends_at
        self._expected = [row["label"] for row in Classifier().classify(bodies.photo.read_bytes())]

    def run(self, number: int) -> None:
        """Start every server, measure all points, and stop the servers.

        A point is a server with a kind of request and a number of clients. Points that differ only in the
        server are compared, so they follow each other. Apart from this, the order is random. The bare loop
        runs among the points that it is compared with. A point that cannot be measured is recorded as a
        failure in `records`.

        Raises RuntimeError if the time is over, if a server does not start, or if its first answer has wrong
        classes.
        """
        order = random.sample(self._names, len(self._names))
        with ExitStack() as stack:
            servers = {name: self._start(number, name, stack) for name in order}
            groups = [(kind, clients) for kind in KINDS for clients in CLIENTS]
            for kind, clients in random.sample(groups, len(groups)):
                work: list[Callable[[], None]] = [
                    partial(self._point, number, name, servers[name], kind, clients)
                    for name in order
                    if kind in CONTENDERS[name].endpoints
                ]
                if (kind, clients) == ("raw", page.BUSY):
                    work += [partial(self._floor, number, threads) for threads in {1, core_budget()}]
                for measure in random.sample(work, len(work)):
                    if time.monotonic() > self._ends_at:
                        raise RuntimeError(f"benchmark: not done after {LONGEST_S} s")
                    measure()
            for start in self.records["starts"][-len(order) :]:
                start["loaded_mb"] = servers[start["name"]].tree_pss_mb()

    def _start(self, number: int, name: str, stack: ExitStack) -> Server:
        contender = CONTENDERS[name]
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rival-", ignore_cleanup_errors=True))
        server = contender.start(Path(folder))
        stack.callback(server.stop)
        ready_s = server.wait_until(contender.ready)
        for kind in contender.endpoints:
            self._require_answer(name, server, kind)
        self.records["starts"].append(
            {"round": number, "name": name, "ready_s": ready_s, "first_mb": server.tree_pss_mb()}
        )
        server.pause()
        return server

    def _require_answer(self, name: str, server: Server, kind: str) -> None:
        """Raise RuntimeError if the server does not return the right classes in the right order."""
        url, content_type, body = self._request(name, server, kind)
        request = Request(url, body.read_bytes(), {"Content-Type": content_type})
        with urlopen(request, timeout=hey.TIMEOUT_S) as response:
            answer = response.read().decode()
        places = [answer.find(json.dumps(label)) for label in self._expected]
        if -1 in places or places != sorted(places):
            raise RuntimeError(f"{name}, {kind}: {answer[:300]} (allowed: {self._expected})")

    def _request(self, name: str, server: Server, kind: str) -> tuple[str, str, Path]:
        """Return URL, content type and file of a request."""
        endpoint = CONTENDERS[name].endpoints[kind]
        return f"http://127.0.0.1:{server.port}{endpoint.path}", *self._bodies.by_name[endpoint.body]

    def _point(self, number: int, name: str, server: Server, kind: str, clients: int) -> None:
        url, content_type, body = self._request(name, server, kind)
        record = {"round": number, "name": name, "kind": kind, "clients": clients}
        server.resume()
        try:
            self._require_answer(name, server, kind)  # the server may need a moment after its pause
            cpu_s = server.tree_cpu_s()
            load = hey.run(
                url, content_type, body, clients=clients, seconds=self._seconds, warm_up_s=WARM_UP_S
            )
            cpu_ms = (server.tree_cpu_s() - cpu_s) / load.completed * 1e3
        except (OSError, RuntimeError) as error:  # the other points are measured nevertheless
            print(f"NOT MEASURED  {record}: {error}", file=sys.stderr, flush=True)
            self.records["failures"].append(record | {"reason": str(error)})
        else:
            self.records["points"].append(record | asdict(load) | {"cpu_ms": cpu_ms})
        finally:
            server.pause()

    def _floor(self, number: int, threads: int) -> None:
        result = run_json("floor", self._bodies.photo, NETWORKS / MODEL, self._seconds, threads)
        self.records["floors"].append({"round": number, "threads": threads} | result)


def versions(contender: Contender) -> dict[str, str]:
    """Return the versions of those packages in a server's environment that affect its speed."""
    script = (
        "import json, platform, sys\nfrom importlib import metadata\n"
        "found = {d.metadata['Name'].lower(): d.version for d in metadata.distributions()}\n"
        "print(json.dumps({'python': platform.python_version()} | "
        "{name: found[name] for name in sys.argv[1:] if name in found}))"
    )
    done = subprocess.run(
        [contender.python, "-c", script, *PACKAGES], capture_output=True, text=True, check=True, timeout=60
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> int:
    """Measure, or write the page. Return 1 if something is missing or could not be measured, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("run", "page"))
    parser.add_argument("--rounds", type=int, choices=range(1, 10), default=4)
    parser.add_argument("--seconds", type=float, default=2.0, help="per point, after the warm-up")
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="measure only these (repeatable)")
    parser.add_argument("--results", type=Path, default=page.RESULTS)
    arguments = parser.parse_args()
    if arguments.step == "page":
        page.write(arguments.results)
        return 0
    names = arguments.only or list(CONTENDERS)
    missing = [name for name in names if not CONTENDERS[name].python.exists()]
    if missing or not shutil.which("hey"):
        print(
            f"missing: {', '.join([*missing, 'or hey'])} (make bench-rivals installs them)", file=sys.stderr
        )
        return 1
    started = time.monotonic()
    results: Record = {
        "machine": report.machine() | {"hey": hey.version()},
        "versions": {name: versions(CONTENDERS[name]) for name in names},
        "seconds": arguments.seconds,
    }
    with tempfile.TemporaryDirectory() as folder:
        rounds = Rounds(names, Bodies(Path(folder)), arguments.seconds, started + LONGEST_S)
        for number in range(arguments.rounds):
            elapsed = time.monotonic() - started
            if elapsed * (number + 1) > LONGEST_S * max(number, 1):
                print(f"rounds: {number} of {arguments.rounds} fit into {LONGEST_S} s", file=sys.stderr)
                break
            print(f"round {number + 1} of {arguments.rounds} ...", file=sys.stderr, flush=True)
            rounds.run(number)
    results |= rounds.records
    arguments.results.write_text(page.dumps(results))
    print(page.figures_table(results))
    print(f"\nmeasured in {time.monotonic() - started:.0f} s: {arguments.results}")
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
