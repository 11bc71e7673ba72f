"""`python -m models` without torch, and with wrong arguments."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

from models.cli import main
from models.errors import ModelsError


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed here")
def test_missing_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "efficientnet-lite0"]) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        "python -m models: torch: not installed; run: make .venv-models/installed "
        "(or pip install -r models/requirements.txt)\n"
    )


def test_table_without_torch(tiny_models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(tiny_models_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| model", "| ---", "| `tiny`", "| `tiny-b`"]


def test_table_of_one_label_set(tiny_models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(tiny_models_dir), "--labels", "imagenet-1k"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.torch
@pytest.mark.parametrize(
    "error",
    [
        "data.photos.MissingPhotosError",
        "export.to_onnx.ExportMismatchError",
        "publish.pretrained.WeightsMismatchError",
    ],
)
def test_user_errors_are_models_errors(error: str) -> None:
    pytest.importorskip("torch")
    module, _, name = error.rpartition(".")
    assert issubclass(getattr(importlib.import_module(f"models.{module}"), name), ModelsError)


@pytest.mark.torch
def test_missing_photographs(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    command = ["evaluate", "efficientnet-lite0", "--corruptions", "--zoo", str(zoo)]
    assert main([*command, "--photos", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"python -m models: {tmp_path}/lomiri-wallpapers-16.04: no photographs")
    assert error.endswith("run: make photos\n")
    assert error.count("\n") == 1


def test_broken_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "card.json").write_text("{}")
    assert main(["table", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("python -m models: ")


def test_missing_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
