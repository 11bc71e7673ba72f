"""`weighin doctor`, run as a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import make_tiny_model
from tests.helpers.command_line import CommandResult
from tests.helpers.forked import run_forked
from tests.helpers.process import environment
from tests.service.bench.doctor.networks import Network, small


def doctor(models: Path, *arguments: str, **settings: object) -> CommandResult:
    variables = environment(models, models / "no-data", **settings) | {"COLUMNS": "300"}
    done = run_forked(["doctor", *arguments], variables)
    return CommandResult(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.slow
def test_findings_and_operators_are_printed(tmp_path: Path) -> None:
    Network().conv("stem", 30, kernel=3, stride=2).conv("pw", 32).save(tmp_path, "odd")
    small().save(tmp_path, "clean")
    done = doctor(tmp_path, "odd", threads=256)
    assert done.returncode == 0, done.stderr
    assert "odd: 2 problems" in done.stdout
    assert "Channels off the alignment (channels-off-alignment)" in done.stdout
    assert "More threads than cores (threads-beyond-the-cores)" in done.stdout
    assert done.stdout.count("evidence: ") == done.stdout.count("remedy: ") == 2
    assert "GMAC/s of a large 1x1 convolution): fp32 " in done.stdout
    assert "clean" not in done.stdout
    assert not (tmp_path / "no-data").exists()


@pytest.mark.slow
def test_all_models_with_one_broken(tmp_path: Path) -> None:
    small().save(tmp_path, "clean")
    (make_tiny_model(tmp_path, "broken") / "model.onnx").write_bytes(b"no model")
    done = doctor(tmp_path)
    assert done.returncode == 1
    assert "clean: no problems" in done.stdout
    assert "broken: cannot be diagnosed: model 'broken' cannot be used: its file model.onnx" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_unknown_model_prints_one_line(tmp_path: Path) -> None:
    small().save(tmp_path, "clean")
    done = doctor(tmp_path, "resnet")
    assert done.returncode == 1
    assert done.stderr == "weighin: model 'resnet': unknown (allowed: clean)\n"
