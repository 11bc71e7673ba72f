"""`python -m models publish` and `evaluate` for people who mistype, or whose card is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from models.cli import main

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["evaluate", "nothing", "--zoo", "{zoo}"], "no model named nothing in {zoo}; known: tiny, tiny-b"),
        (
            ["evaluate", "tiny", "--zoo", "{zoo}"],
            "no labelled images for tiny-10; known: fashion-mnist, imagenet-1k",
        ),
        (["publish", "fashion-ghost", "--runs", "{zoo}"], "nothing is trained in {zoo}/fashion-ghost-seed0"),
        (["publish", "a", "b", "--as", "c"], "--run and --as are for a single NAME"),
    ],
)
def test_what_goes_wrong_is_one_line(
    arguments: list[str],
    complaint: str,
    tiny_models_dir: Path,
    fashion: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.format(zoo=tiny_models_dir) for argument in arguments]
    assert fashion.is_dir()
    assert main(given) == 1
    error = capsys.readouterr().err
    assert complaint.format(zoo=tiny_models_dir) in error
    assert error.count("\n") == 1
