"""What `weighin bench` measures of models, and what is read back from its bundles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.cost.latency import Effort, Latency, measure, measurement, read_bundle
from models.errors import ModelsError
from service.bench.bundle import Flag
from service.bench.bundle_file import from_json, to_json, write_bundle
from tests.helpers.networks import save_network
from tests.service.bench import bundles

SLOW = [
    ("MatMul", ["wide"], {}),
    ("MatMul", ["square"], {}),
    ("MatMul", ["narrow"], {}),
]
ROUNDS = [[1_000_000, 1_100_000, 90_000_000], [2_000_000] * 3, [3_000_000] * 3]


@pytest.mark.fault
def test_larger_model_takes_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHIN_DATABASE_URL", "postgresql://user@127.0.0.1:1/none")
    sizes = {"wide": (10, 1024), "square": (1024, 1024), "narrow": (1024, 10)}
    weights = {name: np.full(size, 1e-3, np.float32) for name, size in sizes.items()}
    save_network(tmp_path, "small")
    save_network(tmp_path, "large", SLOW, weights=weights)
    bundle = measure(tmp_path, ["small", "large"], Effort(rounds=4, runs=7, launches=2))
    assert from_json(json.dumps(bundle)).configuration.baseline == "small"
    measured = measurement(bundle)
    assert (measured.rounds, measured.runs) == (4, 7)
    assert measured.latency["large"].p50_ms > 3 * measured.latency["small"].p50_ms > 0
    for latency in measured.latency.values():
        assert latency.low_ms <= latency.p50_ms <= latency.high_ms
    durations = [block["durations_ns"]["inference"] for block in bundle["blocks"]]
    assert len(durations) == 4 * 3
    assert all(len(runs) == 7 and min(runs) > 0 for runs in durations)
    assert measured.control_ratio > 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["large", "small"]


@pytest.mark.slow
def test_failed_benchmark(tiny_models_dir: Path) -> None:
    with pytest.raises(ModelsError, match=r"weighin bench failed: .*absent.*tiny"):
        measure(tiny_models_dir, ["tiny", "absent"], Effort(rounds=1, runs=1))


def test_medians_ignore_outliers(tmp_path: Path) -> None:
    samples = {"tiny": [ROUNDS], "tiny#again": [[[2_200_000] * 3] * 3]}
    flags = [Flag(kind="dirty", reason="steal"), Flag(kind="drift", entry="tiny", reason="slower")]
    write_bundle(tmp_path / "b.json", bundles.bundle(samples, control="tiny#again", flags=flags))
    measured = read_bundle(tmp_path / "b.json")
    assert measured.latency["tiny"] == Latency(p50_ms=2.0, low_ms=1.1, high_ms=3.0)
    assert (measured.rounds, measured.runs) == (3, 3)
    assert measured.control_ratio == pytest.approx(1.1)
    assert measured.machine == "Test CPU (avx2), 2 cores"
    assert measured.runtime == "ONNX Runtime 1.32.0"
    assert measured.models["tiny"]["sha256"] == "0" * 64
    assert measured.doubts == ("dirty: steal",)


def test_damaged_bundle(tmp_path: Path) -> None:
    bundle = bundles.bundle({"tiny": [ROUNDS], "tiny#again": [ROUNDS]}, control="tiny#again")
    empty = bundle.model_copy(update={"blocks": ()})
    changed = to_json(bundle).replace("90000000", "91000000")
    for text in ("", "{}", "[]", changed, to_json(empty)):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ValueError, match=r"b\.json: not a measurement of a zoo: "):
            read_bundle(tmp_path / "b.json")


def test_effort_without_runs() -> None:
    with pytest.raises(ValueError, match="measurement: 0 rounds of 5 runs"):
        Effort(rounds=0, runs=5)
    with pytest.raises(ValueError, match="measurement: 5 rounds of 0 runs"):
        Effort.in_launches(5, 0)
    efforts = [Effort.in_launches(rounds, 1) for rounds in (1, 5, 7, 20)]
    assert [effort.launches for effort in efforts] == [1, 5, 1, 5]
