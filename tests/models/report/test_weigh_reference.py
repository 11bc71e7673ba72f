"""Measuring the reference networks: table, published figures, resuming after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from models.architectures import ARCHITECTURES
from models.cli import main
from models.cost.latency import Effort
from models.report.reference_table import PUBLISHED, read_bundles
from models.report.weigh_reference import Plan, measure_reference

pytestmark = pytest.mark.torch

NETWORK, OTHER = "squeezenet", "mobilenet-v3-small"
EFFORT = Effort(rounds=2, runs=2)


def test_killed_measurement_resumes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "models", "weigh-reference", "--networks", f"{NETWORK},{OTHER}"]
    command += ["--rounds", "2", "--runs", "2", "--work", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        seen = []
        for line in running.stderr:
            seen.append(line)
            if line == f"measuring {OTHER}, 2 of 2\n":
                break
        running.kill()
    assert seen[-2:] == [f"measuring {NETWORK}, 1 of 2\n", f"measuring {OTHER}, 2 of 2\n"]
    log = tmp_path / "bundles.jsonl"
    (first,) = log.read_bytes().splitlines()[1:]
    models = {path: path.stat().st_mtime_ns for path in tmp_path.glob("models/*/*")}
    with log.open("ab") as file:
        file.write(b'{"entries": ["half a bundle')

    lines: list[str] = []
    table = measure_reference(
        Plan((NETWORK, OTHER), EFFORT), tmp_path, tmp_path / "figures.json", lines.append
    )
    assert lines == [f"measuring {OTHER}, 2 of 2"]
    stored = log.read_bytes().splitlines()
    assert len(stored) == 3
    assert stored[1] == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("models/*/*")} == models

    bundles = json.loads((tmp_path / "figures.json").read_text())
    assert bundles == [json.loads(line) for line in stored[1:]]
    assert not any(model["trained"] for bundle in bundles for model in bundle["models"])
    measurement = read_bundles(tmp_path / "figures.json")[0]
    floating, integer = measurement.models[f"{NETWORK}-fp32"], measurement.models[f"{NETWORK}-int8"]
    assert (floating["height"], floating["width"]) == (224, 224)
    assert (floating["parameters"], floating["macs"]) == (1235496, 349151936)
    assert integer["bytes"] < 0.4 * floating["bytes"]
    assert (measurement.rounds, measurement.runs) == (2, 2)
    assert measurement.control_ratio > 0
    assert measurement.machine
    latency = measurement.latency[f"{NETWORK}-fp32"]
    assert latency.low_ms <= latency.p50_ms <= latency.high_ms
    assert "untrained" in table
    assert f"| {NETWORK} | 224 | 1.24 M | 349 M | {latency.p50_ms:.2f} (" in table
    assert "| 58.2 % |" in table
    names = {f"{NETWORK}-fp32", f"{NETWORK}-int8", f"{NETWORK}-fp32#again"}
    assert {block["entry"] for block in bundles[0]["blocks"]} == names
    assert all(len(block["durations_ns"]["inference"]) == 2 for block in bundles[0]["blocks"])

    with pytest.raises(ValueError, match=r"measured under other conditions \(runs differ\); remove it"):
        measure_reference(
            Plan((NETWORK, OTHER), Effort(2, 3)), tmp_path, tmp_path / "figures.json", lines.append
        )


def test_unknown_networks_and_empty_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weigh-reference", "--networks", "vgg,squeezenet", "--work", str(tmp_path)]) == 1
    assert "reference network 'vgg': unknown (allowed: mobilenet-v1, " in capsys.readouterr().err
    for rounds, runs in ((0, 32), (20, 0)):
        with pytest.raises(ValueError, match="allowed: 1 or more of each"):
            Effort.in_launches(rounds, runs)
    with pytest.raises(ValueError, match="allowed: mobilenet-v1"):
        Plan((), EFFORT)


def test_published_figures_of_all_networks() -> None:
    assert list(PUBLISHED) == list(ARCHITECTURES)
