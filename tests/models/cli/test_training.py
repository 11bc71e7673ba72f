"""`python -m models train` and its kin: what goes wrong is one line, and what is trained is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from models.architectures.fashion import design_of
from models.cli import main
from models.train.checkpoint import CheckpointError
from models.train.family import run_folder, trained

pytestmark = pytest.mark.torch

NAME = "fashion-standard-equal-macs"


def quick(fashion: Path, runs: Path, *arguments: str) -> int:
    few = ["--limit", "256", "--epochs", "1", "--threads", "1"]
    return main([*arguments, *few, "--data-dir", str(fashion), "--runs", str(runs)])


def test_a_network_is_trained_and_found_again(
    fashion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quick(fashion, tmp_path, "train", NAME) == 0
    assert capsys.readouterr().out.startswith(f"{NAME}: ")
    network, identity = trained(run_folder(tmp_path, NAME, 0), design_of(NAME))
    assert not network.training
    assert identity["seed"] == 0
    with pytest.raises(CheckpointError, match=r"another training: design\.stages is "):
        trained(run_folder(tmp_path, NAME, 0), design_of("fashion-standard-equal-width"))
    with pytest.raises(FileNotFoundError, match="nothing is trained in"):
        trained(run_folder(tmp_path, NAME, 1))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["train", "fashion-transformer"],
            "no network named 'fashion-transformer'; known: fashion-depthwise",
        ),
        (["train", NAME, "--data-dir", "nowhere"], "no folder nowhere with Fashion-MNIST; fetch"),
        (["train", NAME, "--epochs", "0"], "--epochs is 0; at least 1 is needed"),
        (["train", NAME, "--recipe", "missing.toml"], "missing.toml"),
    ],
)
def test_what_goes_wrong_is_one_line(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--runs", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
