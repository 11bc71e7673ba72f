"""`python -m models` where torch is missing, and for people who mistype."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

from models.cli import main
from models.errors import ModelsError


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed here")
def test_without_torch_it_says_how_to_install_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "efficientnet-lite0"]) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        "python -m models: torch is not installed; install it with: make .venv-models/installed "
        "(or pip install -r models/requirements.txt)\n"
    )


def test_the_table_needs_no_torch(tiny_models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(tiny_models_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| model", "| ---", "| `tiny`", "| `tiny-b`"]


def test_the_table_of_one_label_set(tiny_models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_what_a_user_can_put_right_is_an_error_of_the_models(error: str) -> None:
    pytest.importorskip("torch")
    module, _, name = error.rpartition(".")
    assert issubclass(getattr(importlib.import_module(f"models.{module}"), name), ModelsError)


@pytest.mark.torch
def test_missing_photographs_are_one_line(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    command = ["evaluate", "efficientnet-lite0", "--corruptions", "--zoo", str(zoo)]
    assert main([*command, "--photos", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("python -m models: no photographs of ")
    assert error.endswith("fetch them: make photos\n")
    assert error.count("\n") == 1


def test_a_broken_card_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "card.json").write_text("{}")
    assert main(["table", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("python -m models: ")


def test_no_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
