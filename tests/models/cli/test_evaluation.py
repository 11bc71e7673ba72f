"""`python -m models publish` and `evaluate` with wrong arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from models.cli import main

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nothing", "--zoo", "{zoo}"], "{zoo}: no model nothing (allowed: tiny, tiny-b)"),
        (
            ["evaluate", "tiny", "--zoo", "{zoo}"],
            "label set tiny-10: no images to evaluate on (allowed: fashion-mnist, imagenet-1k)",
        ),
        (["publish", "fashion-ghost", "--runs", "{zoo}"], "{zoo}/fashion-ghost-seed0: no trained network"),
        (["publish", "a", "b", "--as", "c"], "--run and --as: 2 names were given (allowed: one NAME)"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tiny_models_dir: Path,
    fashion: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [argument.format(zoo=tiny_models_dir) for argument in arguments]
    assert fashion.is_dir()
    assert main(command) == 1
    error = capsys.readouterr().err
    assert message.format(zoo=tiny_models_dir) in error
    assert error.count("\n") == 1
