"""`python -m models train`: trained networks are loaded again, errors are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from models.architectures.fashion import design_of
from models.cli import main
from models.train.checkpoint import CheckpointError
from models.train.family import load_trained, run_folder

pytestmark = pytest.mark.torch

NAME = "fashion-standard-equal-macs"


def quick(fashion: Path, runs: Path, *arguments: str) -> int:
    few = ["--limit", "256", "--epochs", "1", "--threads", "1"]
    return main([*arguments, *few, "--data-dir", str(fashion), "--runs", str(runs)])


def test_trained_network_is_loaded(fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quick(fashion, tmp_path, "train", NAME) == 0
    assert capsys.readouterr().out.startswith(f"{NAME}: ")
    network, identity = load_trained(run_folder(tmp_path, NAME, 0), design_of(NAME))
    assert not network.training
    assert identity["seed"] == 0
    with pytest.raises(CheckpointError, match=r"another training: design\.stages is "):
        load_trained(run_folder(tmp_path, NAME, 0), design_of("fashion-standard-equal-width"))
    with pytest.raises(FileNotFoundError, match="no trained network"):
        load_trained(run_folder(tmp_path, NAME, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "fashion-transformer"],
            "network 'fashion-transformer': unknown (allowed: fashion-depthwise",
        ),
        (["train", NAME, "--data-dir", "nowhere"], "Fashion-MNIST: no folder nowhere; fetch"),
        (["train", NAME, "--epochs", "0"], "--epochs: 0 (allowed: 1 or more)"),
        (["train", NAME, "--recipe", "missing.toml"], "missing.toml"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--runs", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
