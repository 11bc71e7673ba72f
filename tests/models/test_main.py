"""`python -m models` where torch is missing, and for people who mistype."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from models.__main__ import main


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
