"""Arithmetic of benchmarks.path: ratios within a round, goals, and the bars of the picture."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from benchmarks.path import KINDS, Rounds, figures, picture
from service.inference.cpu import core_budget

STAGES = ("queue", "decode", "preprocess", "inference", "postprocess", "total")


@pytest.fixture
def values() -> Rounds:
    """Return three rounds: the machine is half as fast in the second."""
    found: Rounds = {f"floor {core_budget()} cpu_ms": [5.0, 10.0, 5.0], "floor 1 p50_ms": [5.0, 10.0, 4.0]}
    for kind in KINDS:
        for name, loop, per_s in (("asgi", 0.25, 200.0), ("weighin", 0.5, 190.0)):
            found[f"{name} {kind} loop_ms"] = [loop, 2 * loop, loop]
            found[f"{name} {kind} jobs_ms"] = [5.0, 10.0, 5.0]
            found[f"{name} {kind} per_s"] = [per_s, per_s / 2, per_s]
        found[f"alone {kind} client"] = [6.0, 12.0, 6.0]
        for stage in STAGES:
            found[f"alone {kind} {stage}"] = [1.0, 2.0, 1.0]
    return found


def test_ratios_are_taken_within_a_round(values: Rounds) -> None:
    rows = figures(values)
    cpu = [row for row in rows if row.name == "  CPU of both / bare loop"]
    found = [(row.value, row.low, row.high) for row in cpu]
    assert found == [pytest.approx((ratio,) * 3) for ratio in (1.05, 1.1, 1.05, 1.1)]
    throughput = [row for row in rows if row.name == "  images/s / bare ASGI function"]
    assert [row.value for row in throughput] == pytest.approx([0.95, 0.95])


def test_goals(values: Rounds) -> None:
    met = [row.met for row in figures(values) if row.met is not None]
    # raw: CPU / loop 1.1, images/s 0.95, p50 / loop 1.2; multipart: images/s 0.95
    assert met == [False, False, False, False]
    values["weighin raw loop_ms"] = [0.4, 0.8, 0.4]
    assert next(row.met for row in figures(values) if row.target == 1.09) is True


def test_the_picture_has_a_bar_per_server_and_kind(values: Rounds) -> None:
    drawn = picture(values)
    root = ElementTree.fromstring(drawn)
    labels = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [label for label in labels if label and label.endswith(" ms")] == [
        "5.00 ms", "5.25 ms", "5.50 ms", "5.25 ms", "5.50 ms"
    ]  # fmt: skip
    pattern = r'class="loop" x="[\d.]+" y="(\d+)" width="([\d.]+)"'
    widths = [float(width) for y, width in re.findall(pattern, drawn) if int(y) > 8]
    assert widths[0] == 0
    assert widths[2] == pytest.approx(2 * widths[1], abs=0.11)
