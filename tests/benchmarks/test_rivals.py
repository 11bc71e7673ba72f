"""Arithmetic of benchmarks.rivals: hey's report, ratios with goals, the page, and the pinned versions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rivals import page
from benchmarks.rivals.hey import parse
from benchmarks.rivals.servers import CONTENDERS

ROOT = Path(__file__).parents[2]
HEAD = "response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset"


def reported(*rows: tuple[float, float, int]) -> str:
    """Return hey's CSV of requests: seconds that each took, when it started, its status."""
    lines = [f"{took:.4f},0.0000,0.0000,0.0001,0.0050,0.0001,{status},{at:.4f}" for took, at, status in rows]
    return "\n".join([HEAD, *lines]) + "\n"


def test_requests_of_the_warm_up_count_for_cpu_time_only() -> None:
    load = parse(
        reported((0.1, 0.3, 200), (0.2, 0.35, 200), (0.01, 1.0, 200), (0.03, 2.0, 200), (0.4, 2.4, 200)),
        seconds=2,
        warm_up_s=0.5,
    )
    assert load.completed == 5
    assert load.per_s == 1.5  # of the five, the first ended too early, and the last too late
    assert load.p50_ms == pytest.approx(30)
    assert load.p99_ms == pytest.approx(200)


def test_p99_by_nearest_rank() -> None:
    load = parse(reported(*((number / 1000, 1, 200) for number in range(1, 201))), seconds=2, warm_up_s=0.5)
    assert load.p99_ms == pytest.approx(198)


def test_other_statuses_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"status 500, 503 \(allowed: 200\)"):
        parse(reported((0.1, 1, 200), (0.1, 1, 503), (0.1, 1, 500)), seconds=2, warm_up_s=0.5)


def test_empty_report() -> None:
    with pytest.raises(RuntimeError, match="no request ended"):
        parse(reported((0.1, 0.1, 200)), seconds=2, warm_up_s=0.5)


def measured(per_s: dict[str, list[float]], cpu_ms: float = 6, floor_cpu_ms: float = 5) -> dict[str, Any]:
    """Return results with one point per server and round, raw bodies from 8 clients."""
    load = {"p50_ms": 5.0, "p99_ms": 9.0, "completed": 100, "cpu_ms": cpu_ms}
    points = [
        {"round": at, "name": name, "kind": "raw", "clients": 8, "per_s": value} | load
        for name, values in per_s.items()
        for at, value in enumerate(values)
    ]
    floors = [
        {"round": at, "threads": threads, "per_s": 300.0, "p50_ms": 5.0, "cpu_ms": floor_cpu_ms * threads / 2}
        for at in range(3)
        for threads in (1, 2)
    ]
    return {"versions": {name: {} for name in per_s}, "points": points, "floors": floors}


def test_ratios_are_taken_within_a_round() -> None:
    rows = page.figures(measured({"weighin": [200, 100, 300], "litserve": [100, 100, 200]}))
    ratio, cpu = rows
    assert (ratio.value, ratio.low, ratio.high, ratio.target) == (1.5, 1, 2, 1.25)
    assert ratio.met is True
    assert (cpu.value, cpu.target, cpu.met) == (1.2, 1.09, False)


def test_missed_goals_and_servers_without_goal() -> None:
    rows = page.figures(measured({"weighin": [90] * 3, "asgi": [100] * 3, "ray": [50] * 3}, cpu_ms=5))
    assert [(row.value, row.met) for row in rows] == [(0.9, False), (1.8, None), (1.0, True), (1.0, None)]


def test_page_shows_the_committed_results() -> None:
    assert page.PAGE.read_text() == page.text(json.loads(page.RESULTS.read_text()))


def test_results_have_a_record_per_line() -> None:
    results = json.loads(page.RESULTS.read_text())
    assert page.dumps(results) == page.RESULTS.read_text()


@pytest.mark.parametrize("name", sorted({row.venv for row in CONTENDERS.values() if row.venv}))
def test_rivals_are_pinned_and_run_our_libraries(name: str) -> None:
    text = (ROOT / f"benchmarks/rivals/requirements-{name}.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    lock = (ROOT / "requirements.lock").read_text()
    for package in ("onnxruntime", "numpy", "pillow", "simplejpeg", "orjson"):
        (ours,) = re.findall(rf"^({package}==\S+)", lock, re.MULTILINE)
        assert ours in lines
