"""Weighing reference networks: figures beside what is published, and rounds that survive a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from models.__main__ import main
from models.architectures import ARCHITECTURES
from models.report.published import PUBLISHED
from models.report.weigh_reference import CONTROL, Plan, weigh

pytestmark = pytest.mark.torch

NETWORK = "squeezenet"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one network measured for a single round."""
    folder = tmp_path_factory.mktemp("weigh")
    weigh(Plan((NETWORK,), rounds=1, runs=2), folder, folder / "figures.json", [].append)
    return folder


def test_a_killed_measurement_goes_on_where_it_was(work: Path) -> None:
    first = (work / "rounds.jsonl").read_bytes().splitlines()[1]
    models = {path.name: path.stat().st_mtime_ns for path in work.glob("*.onnx")}
    command = [sys.executable, "-m", "models", "weigh-reference", "--networks", NETWORK, "--runs", "2"]
    command += ["--work", str(work), "--rounds"]
    with subprocess.Popen([*command, "1000"], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        seen = [running.stderr.readline() for _ in range(3)]
        running.kill()
    assert seen == [f"round {number} of 1000\n" for number in (2, 3, 4)]
    with (work / "rounds.jsonl").open("ab") as file:
        file.write(b'{"ns": {"half a round')

    lines: list[str] = []
    table = weigh(Plan((NETWORK,), rounds=4, runs=2), work, work / "figures.json", lines.append)
    assert lines == ["round 4 of 4"]
    kept = (work / "rounds.jsonl").read_bytes().splitlines()
    assert len(kept) == 5
    assert kept[1] == first
    assert {path.name: path.stat().st_mtime_ns for path in work.glob("*.onnx")} == models

    figures = json.loads((work / "figures.json").read_text())
    (one,) = figures["networks"]
    assert (one["network"], one["weights"], one["input_size"]) == (NETWORK, "untrained", 224)
    assert (one["parameters"], one["macs"]) == (1235496, 349151936)
    assert one["published"]["top_1"] == 58.2
    assert one["fp32"]["rounds"] == one["int8"]["rounds"] == figures["rounds"] == 4
    assert one["fp32"]["low_ms"] <= one["fp32"]["p50_ms"] <= one["fp32"]["high_ms"]
    assert one["int8"]["file_bytes"] < 0.4 * one["fp32"]["file_bytes"]
    assert figures["control_ratio"] > 0
    assert figures["machine"]["cpu"]
    assert "untrained" in table
    assert f"| {NETWORK} | 224 | 1.24 M | 349 M | {one['fp32']['p50_ms']:.2f} (" in table
    for name in (f"{NETWORK} fp32", f"{NETWORK} int8", f"{NETWORK} fp32{CONTROL}"):
        assert all(len(json.loads(line)["ns"][name]) == 2 for line in kept[1:])


def test_other_conditions_are_refused(work: Path) -> None:
    with pytest.raises(ValueError, match=r"measured under other conditions \(runs differ\); remove it"):
        weigh(Plan((NETWORK,), rounds=1, runs=3), work, work / "figures.json", [].append)


def test_unknown_networks_and_empty_plans_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weigh-reference", "--networks", "vgg,squeezenet", "--work", str(tmp_path)]) == 1
    assert "no reference network named 'vgg'; known: mobilenet-v1, " in capsys.readouterr().err
    for arguments in ({"rounds": 0}, {"runs": 0}):
        with pytest.raises(ValueError, match="at least 1 is needed"):
            Plan((NETWORK,), **arguments)
    with pytest.raises(ValueError, match="known: mobilenet-v1"):
        Plan(())


def test_all_that_is_published_is_there() -> None:
    assert list(PUBLISHED) == list(ARCHITECTURES)
