"""Generate docs/rivals.md from the results: figures with their goals, tables, and each server's set-up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Figure, figure, table
from benchmarks.rivals.servers import CONTENDERS, KINDS

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs" / "rivals.md"
OURS = "weighin"
BUSY = 8
"""Number of clients in the figures that have goals."""
GOALS = {"asgi": 0.97, "litserve": 1.25, "bentoml": 1.5, "mlserver": 1.5}
"""Goal for each other server: the minimum of Weigh-in's throughput divided by the server's throughput.

Both throughputs are measured with BUSY clients.
"""
CPU_GOAL = 1.09
"""Goal: maximum CPU time of Weigh-in per request, divided by the bare loop's CPU time per image."""
Results = dict[str, Any]
Measured = Callable[[dict[str, Any]], float]


def figures(results: Results) -> list[Figure]:
    """Return the ratios of Weigh-in to the other servers, with their goals. Ratios are computed per round."""
    rows = []
    for name in results["versions"]:
        for kind in KINDS:
            ours, theirs = _per_round(results, OURS, kind), _per_round(results, name, kind)
            ratios = [ours[at] / theirs[at] for at in ours if at in theirs]
            if name != OURS and ratios:
                words = f"images/s of Weigh-in / {_label(name)}, {_kind(name, kind)}"
                rows.append(figure(words, "×", ratios, GOALS.get(name), at_least=True))
    most = max(row["threads"] for row in results["floors"])
    floor = {row["round"]: row["cpu_ms"] for row in results["floors"] if row["threads"] == most}
    for name, goal in ((OURS, CPU_GOAL), ("asgi", None)):
        cpu_ms = _per_round(results, name, "raw", "cpu_ms")
        if cpu_ms:
            ratios = [cpu_ms[at] / floor[at] for at in cpu_ms]
            words = f"CPU time per request ({_label(name)}, raw) / CPU time per image of the bare loop"
            rows.append(figure(words, "×", ratios, goal))
    return rows


def figures_table(results: Results) -> str:
    """Return the figures as lines of a text table."""
    return table(figures(results))


def dumps(results: Results) -> str:
    """Return the results as JSON text with one line per record."""
    parts = []
    for key, value in results.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write(source: Path = RESULTS, page: Path = PAGE) -> None:
    """Write the page from the results in `source`."""
    page.write_text(text(json.loads(source.read_text())))


def text(results: Results) -> str:
    """Return the page as Markdown."""
    names = list(results["versions"])
    return "\n".join(
        [
            "# Weigh-in beside other servers",
            "",
            INTRODUCTION,
            "",
            _conditions(results),
            "",
            f"## Ratios, {BUSY} clients",
            "",
            *_markdown(
                ("figure", "median (range)", "goal", ""),
                [_goal_row(row) for row in figures(results)],
            ),
            "",
            _verdict(figures(results)),
            "",
            READING,
            "",
            "## Throughput, images per second",
            "",
            *_points(results, names, lambda row: row["per_s"]),
            "",
            f"The bare loop does the same work without HTTP: {_floors(results)}",
            "",
            *_failures(results),
            "## Latency, ms",
            "",
            "Each cell has p50 / p99. Both are medians of the rounds; the p99 has its range in parentheses. "
            "With one client, a round has only a few hundred requests, so its p99 is rough.",
            "",
            *_latencies(results, names),
            "",
            "## CPU time, memory and start",
            "",
            f"CPU time is that of all processes of a server, per request, with {BUSY} clients. Memory is the "
            "proportional set size (PSS) of all processes of a server, in MB of 10^6 bytes. Start is the "
            "time until the server answers. Every server has one model.",
            "",
            *_costs(results, names),
            "",
            *_setups(names),
            "",
            *METHOD,
            "",
            *_versions(results),
            "",
        ]
    )


INTRODUCTION = (
    "Results: throughput, latency, CPU time, memory and start-up time of Weigh-in, four model servers, a "
    "plain FastAPI route and a bare ASGI function. All run the same network with the same decoder. A *raw* "
    "request has the image as its body, a *multipart* request has it in a form. A bare loop does the same "
    "work without HTTP. `make bench-rivals` measures everything, and makes this page from "
    "`benchmarks/rivals/results.json`."
)

READING = (
    "The last row shows how much CPU time HTTP adds if there is no framework. A server under uvicorn can "
    "hardly use less. With base64 in JSON, a request is a third larger. Each of the four model servers has "
    "several processes. BentoML's processes accept connections from one socket, so eight connections can be "
    "distributed unevenly among them. This may explain why BentoML's throughput varies most."
)

METHOD = [
    "## Method",
    "",
    "- `hey`, a Debian package, drives closed loops: each client waits for its response before it sends "
    "again. It runs on the same cores as the server. [measurement.md](measurement.md#make-bench) says what "
    "closed loops hide; `make bench` also has an open loop.",
    "- Each round starts all servers again. For each kind of request and number of clients, the servers are "
    "measured one after the other, in random order. While one server is measured, all others are stopped "
    "(`SIGSTOP`). The first half second of each measurement is warm-up and does not count.",
    "- Cells have the median and the range of the rounds. A ratio is computed within a round.",
    "- Before anything is measured, each server must return the right five classes for each kind of request.",
    "- Everything runs in a network namespace that has only the loopback device, because Ray Serve's HAProxy "
    "listens on all addresses.",
]


def _setups(names: Iterable[str]) -> list[str]:
    """Return the section on how each server was set up."""
    return [
        "## How each server was set up",
        "",
        "Every server runs the same job (`benchmarks/rivals/classifier.py`) with efficientnet-lite0-int8. "
        "The job uses the service's JPEG decoder, preprocessing and ONNX Runtime session (one thread, no "
        "spinning), and returns the five most probable classes. The code for each server follows the image "
        "classifier in the documentation of that server. Each server has as many workers as there are cores. "
        "uvloop, httptools and orjson are installed for all, because uvicorn and the servers use them if "
        "they are installed. No server groups requests into batches, because on a CPU this network is no "
        "faster per image in a batch ([measurement.md](measurement.md#common-rules)).",
        "",
        *_markdown(("server", "set-up"), [(_label(name), CONTENDERS[name].setup) for name in names]),
        "",
        "LitServe, BentoML, MLServer and Ray Serve each have an environment of their own, pinned in the "
        "`requirements-*.txt` of `benchmarks/rivals/`. MLServer 1.7.1 does not accept Python 3.13 or later "
        "or FastAPI 0.116 or later, and its worker processes fail with uvloop 0.22 or later. The FastAPI "
        "route and the ASGI function run in the service's own environment.",
    ]


def _conditions(results: Results) -> str:
    machine = results["machine"]
    rounds = len({row["round"] for row in results["points"]})
    return (
        f"Measured on {machine['cpu']}, {machine['cores']} cores, kernel {machine['kernel']}, with a JPEG of "
        f"512 × 512 pixels: {rounds} rounds, {results['seconds']:g} s per point. The load average was "
        f"{machine['load_average'][0]:g} at the start."
    )


def _goal_row(row: Figure) -> tuple[str, ...]:
    name, measured, target, verdict = row.cells()
    return name, measured.replace("  ", " ").replace(f", {row.rounds})", ")"), target, verdict.lower()


def _verdict(rows: Sequence[Figure]) -> str:
    verdicts = [row.met for row in rows if row.met is not None]
    return f"{sum(verdicts)} of {len(verdicts)} goals met."


def _points(results: Results, names: Iterable[str], measured: Measured) -> list[str]:
    return _by_clients(results, names, lambda rows: _spread([measured(row) for row in rows]))


def _latencies(results: Results, names: Iterable[str]) -> list[str]:
    def cell(rows: Sequence[dict[str, Any]]) -> str:
        return f"{_short(median(row['p50_ms'] for row in rows))} / {_spread([row['p99_ms'] for row in rows])}"

    return _by_clients(results, names, cell)


def _by_clients(
    results: Results, names: Iterable[str], cell: Callable[[Sequence[dict[str, Any]]], str]
) -> list[str]:
    """Return a table with a row per server, and a column per kind of request and number of clients."""
    columns = [(kind, n) for kind in KINDS for n in sorted({row["clients"] for row in results["points"]})]
    body = []
    for name in names:
        cells = [_label(name)]
        for kind, clients in columns:
            rows = _rows(results, name, kind, clients)
            cells.append(cell(rows) if rows else "")
        body.append(cells)
    return _markdown(["server", *(f"{kind}, {_clients(n)}" for kind, n in columns)], body)


def _costs(results: Results, names: Iterable[str]) -> list[str]:
    body = []
    for name in names:
        starts = [row for row in results["starts"] if row["name"] == name]
        cells = [_label(name)]
        for kind in KINDS:
            cpu = [row["cpu_ms"] for row in _rows(results, name, kind, BUSY)]
            cells.append(_spread(cpu) if cpu else "")
        cells += [_spread([row[key] for row in starts]) for key in ("first_mb", "loaded_mb", "ready_s")]
        body.append(cells)
    head = (
        "server",
        "CPU ms, raw",
        "CPU ms, multipart",
        "MB after the start",
        "MB after the load",
        "start, s",
    )
    return _markdown(head, body)


def _floors(results: Results) -> str:
    parts = []
    for threads in sorted({row["threads"] for row in results["floors"]}):
        rows = [row for row in results["floors"] if row["threads"] == threads]
        parts.append(
            f"{_spread([row['per_s'] for row in rows])} images per second on {threads} "
            f"thread{'s' if threads > 1 else ''}, p50 {_spread([row['p50_ms'] for row in rows])} ms, "
            f"CPU {_spread([row['cpu_ms'] for row in rows])} ms"
        )
    return "; ".join(parts) + "."


def _failures(results: Results) -> list[str]:
    lines = [
        f"- {_label(row['name'])}, {row['kind']}, {_clients(row['clients'])}, round {row['round'] + 1}: "
        f"{row['reason']}"
        for row in results["failures"]
    ]
    return ["Not measured:", "", *lines, ""] if lines else []


def _versions(results: Results) -> list[str]:
    lines = ["## Versions", ""]
    for name, versions in results["versions"].items():
        lines.append(f"- {_label(name)}: {', '.join(f'{key} {value}' for key, value in versions.items())}")
    return [*lines, f"- hey: {results['machine']['hey']}"]


def _per_round(results: Results, name: str, kind: str, key: str = "per_s") -> dict[int, float]:
    return {row["round"]: row[key] for row in _rows(results, name, kind, BUSY)}


def _rows(results: Results, name: str, kind: str, clients: int) -> list[dict[str, Any]]:
    wanted = (name, kind, clients)
    return [row for row in results["points"] if (row["name"], row["kind"], row["clients"]) == wanted]


def _label(name: str) -> str:
    return CONTENDERS[name].label


def _kind(name: str, kind: str) -> str:
    body = CONTENDERS[name].endpoints[kind].body
    return kind if body == kind else f"{kind} (theirs: base64 in JSON)"


def _clients(count: int) -> str:
    return f"{count} client{'s' if count > 1 else ''}"


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _spread(values: Sequence[float]) -> str:
    return f"{_short(median(values))} ({_short(min(values))} to {_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
