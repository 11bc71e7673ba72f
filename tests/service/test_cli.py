"""The command line: `weighin models` and `weighin compare`, without a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.cli.output import millions
from tests.service.process import environment


def weighin(models_dir: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = environment(models_dir, tmp_path)
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (860_200_000, "860 M"),
        (2_113_000_000, "2113 M"),
        (37_584_256, "37.6 M"),
        (4_520_536, "4.52 M"),
        (1200, "0.0012 M"),
    ],
)
def test_small_networks_are_told_apart(count: int, told: str) -> None:
    assert millions(count) == told


def test_models_lists_them_and_marks_the_default(tiny_models_dir: Path, tmp_path: Path) -> None:
    done = weighin(tiny_models_dir, tmp_path, "models")
    assert done.returncode == 0
    assert "tiny *" in done.stdout
    assert "tiny-b" in done.stdout


def test_compare_prints_a_row_per_model_for_each_photo(
    tiny_models_dir: Path, tmp_path: Path, cat_jpeg: bytes, png: bytes
) -> None:
    (tmp_path / "cat.jpg").write_bytes(cat_jpeg)
    (tmp_path / "ramp.png").write_bytes(png)
    photos = [str(tmp_path / name) for name in ("cat.jpg", "ramp.png")]
    done = weighin(tiny_models_dir, tmp_path, "compare", *photos, "--baseline", "tiny-b", "--repeat", "3")
    assert done.returncode == 0, done.stderr
    assert "cat.jpg: 451 x 300 jpeg, 3 runs each" in done.stdout
    assert "ramp.png: 64 x 48 png" in done.stdout
    assert done.stdout.count("tiny-b (baseline)") == 2
    assert done.stdout.count("1.00x") >= 2


def test_a_photo_that_cannot_be_read_is_named_and_the_others_are_compared(
    tiny_models_dir: Path, tmp_path: Path, png: bytes
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "ramp.png").write_bytes(png)
    photos = [str(tmp_path / name) for name in ("text.jpg", "gone.jpg", "ramp.png")]
    done = weighin(tiny_models_dir, tmp_path, "compare", *photos)
    assert done.returncode == 1
    assert "text.jpg: " in done.stderr
    assert "gone.jpg: " in done.stderr
    assert "ramp.png: 64 x 48" in done.stdout
    assert "Traceback" not in done.stderr


def test_an_unknown_model_is_one_line(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    (tmp_path / "ramp.png").write_bytes(png)
    done = weighin(tiny_models_dir, tmp_path, "compare", str(tmp_path / "ramp.png"), "--models", "resnet")
    assert done.returncode == 1
    assert done.stderr == "weighin: no model 'resnet'; there are: tiny, tiny-b\n"
