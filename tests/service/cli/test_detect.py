"""`weighin detect`: the objects of photos as a table, as JSON and drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import make_tiny_model
from tests.helpers.command_line import weighin
from tests.helpers.detectors import save_detector


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    save_detector(folder)
    make_tiny_model(folder, "tiny")
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A blue square of 20 pixels on black, 320 x 320, in the middle of a box of 60 pixels."""
    image = Image.new("RGB", (320, 320))
    image.paste((0, 0, 255), (120, 220, 140, 240))
    path = tmp_path / "square.png"
    image.save(path)
    return path


def test_table(zoo: Path, photo: Path, tmp_path: Path) -> None:
    result = weighin(zoo, tmp_path / "data", "detect", str(photo), "--model", "colours")
    assert (result.returncode, result.stderr) == (0, "")
    title, heading, row = result.stdout.splitlines()
    assert title.startswith("square.png: 320 x 320 png, 1 object with a score of at least 0.5, ")
    assert heading.split() == ["label", "score", "left", "top", "right", "bottom"]
    assert re.fullmatch(r"blue +0\.\d\d +100 +200 +160 +260 *", row)


def test_json_and_picture(zoo: Path, photo: Path, tmp_path: Path) -> None:
    picture = tmp_path / "drawn.png"
    result = weighin(
        zoo,
        tmp_path / "data",
        "detect",
        str(photo),
        "--json",
        "--draw",
        str(picture),
        default_detector="colours",
    )
    assert (result.returncode, result.stderr) == (0, "")
    answer = json.loads(result.stdout)
    assert answer["detections"][0]["label"] == "blue"
    assert answer["detections"][0]["box"] == {"left": 100, "top": 200, "right": 160, "bottom": 260}
    assert set(answer["timings_ms"]) == {"decode", "preprocess", "inference", "postprocess", "nms", "total"}
    before, after = np.asarray(Image.open(photo)), np.asarray(Image.open(picture))
    assert after.shape == before.shape
    assert (after[200, 100:160] != before[200, 100:160]).any(axis=1).all()  # the upper edge
    assert (after[280:] == before[280:]).all()  # nothing below


def test_several_photos_into_a_folder(zoo: Path, photo: Path, tmp_path: Path) -> None:
    missing, text = tmp_path / "missing.png", tmp_path / "text.png"
    text.write_text("no picture")
    folder = tmp_path / "drawn"
    result = weighin(
        zoo, tmp_path / "data", "detect", *map(str, (missing, text, photo)),
        "--model", "colours", "--draw", str(folder),
    )  # fmt: skip
    assert result.returncode == 1
    assert "missing.png: no such file or directory" in result.stderr
    assert "text.png: image: unknown type" in result.stderr
    assert "blue" in result.stdout
    assert [path.name for path in folder.iterdir()] == ["square.png.png"]


def test_options(zoo: Path, tmp_path: Path) -> None:
    photo = tmp_path / "squares.png"
    image = Image.new("RGB", (320, 320))
    for corner, colour in zip(
        ((0, 0), (100, 0), (200, 0), (0, 100)), ("blue", "red", "blue", "blue"), strict=True
    ):
        image.paste(colour, (*corner, corner[0] + 40, corner[1] + 40))
    image.save(photo)
    options = ["--model", "colours", "--min-score", "0.01", "--classes", "BLUE", "--json"]
    result = weighin(zoo, tmp_path / "data", "detect", str(photo), "--max-detections", "2", *options)
    assert [found["label"] for found in json.loads(result.stdout)["detections"]] == ["blue"] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "tiny"], "model 'tiny': classifies images, it does not detect objects"),
        (["--model", "colour"], "model 'colour': unknown (allowed: colours, tiny)"),
        ([], "WEIGHIN_DEFAULT_DETECTOR: no such model (detectors: colours)"),
        (["--model", "colours", "--min-score", "2"], "min_score 2: out of range (allowed: 0 to 1)"),
        (["--model", "colours", "--classes", "pink"], "classes: 'pink' unknown to model 'colours'"),
        (["again.png", "--model", "colours", "--draw", "out.png"], "one file for 2 photos"),
        (["--model", "colours", "--draw", "nowhere/out.png"], "folder not found"),
        (["--model", "colours", "--draw", "out.gif"], "'.gif' is not a type that can be written (allowed: "),
        (["--model", "colours", "--draw", "out.BMP"], "'.BMP' is not a type that can be written (allowed: "),
    ],
)
def test_bad_options(zoo: Path, photo: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    result = weighin(zoo, tmp_path / "data", "detect", str(photo), *arguments)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("out.gif").exists()


@pytest.mark.parametrize("how", ["the file", "another spelling", "a symbolic link", "a hard link"])
def test_photos_are_not_drawn_over(zoo: Path, photo: Path, tmp_path: Path, how: str) -> None:
    target = {"the file": photo, "another spelling": tmp_path / ".." / tmp_path.name / photo.name}.get(how)
    if target is None:
        target = tmp_path / "link.png"
        (target.symlink_to if how == "a symbolic link" else target.hardlink_to)(photo)
    before = photo.read_bytes()
    result = weighin(
        zoo, tmp_path / "data", "detect", str(photo), "--model", "colours", "--draw", str(target)
    )
    assert result.returncode == 1
    assert f"{target} is the photo {photo} (allowed: another file)" in result.stderr
    assert photo.read_bytes() == before


def test_photos_are_not_drawn_over_in_a_folder(zoo: Path, photo: Path, tmp_path: Path) -> None:
    """Refused before the first run: the drawing of one photo would have the name of another."""
    other = photo.rename(tmp_path / "square.png.png")
    photo.write_bytes(other.read_bytes())
    result = weighin(
        zoo, tmp_path / "data", "detect", str(photo), str(other), "--model", "colours",
        "--draw", str(tmp_path),
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (1, "")
    assert f"{other} is the photo {other}" in result.stderr
    assert other.read_bytes() == photo.read_bytes()
    assert not (tmp_path / "square.png.png.png").exists()


def test_folder_with_a_dot(zoo: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "drawn.v2").mkdir()
    result = weighin(
        zoo,
        tmp_path / "data",
        "detect",
        str(photo),
        "--model",
        "colours",
        "--draw",
        str(tmp_path / "drawn.v2"),
    )
    assert result.returncode == 0
    assert (tmp_path / "drawn.v2" / "square.png.png").exists()
