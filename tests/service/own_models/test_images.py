"""`--images`: labelled pictures settle what nothing states, and leave what they cannot tell apart marked."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from service.errors import RefusedModel
from service.own_models.add import Added, Options, add
from tests.helpers.disguise import disguise
from tests.helpers.networks import save_network

LEVELS = (30, 100, 160, 230)
COLOURS = {"-".join(map(str, colour)): colour for colour in itertools.product(LEVELS, repeat=3)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A network that names colours, for BGR from -1 to 1 in NHWC."""
    centres = (np.array(list(COLOURS.values())) - 127) / 127
    plain = save_network(
        tmp_path / "plain",
        "colours",
        classes=len(COLOURS),
        weights={"head.weight": (40 * centres.T).astype(np.float32)},
        bias=(-20 * (centres**2).sum(axis=1)).astype(np.float32),
    )
    model = disguise(onnx.load(plain / "model.onnx"), 127, 127, layout="nhwc", order="bgr", range_="-1 to 1")
    (tmp_path / "labels.txt").write_text("".join(f"{name}\n" for name in COLOURS))
    path = tmp_path / "disguised.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def pictures(folder: Path, names: list[str], count: int = 5) -> Path:
    random = np.random.default_rng(0)
    for name in names:
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.normal(COLOURS[name], 12, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.png")
    return folder / "pictures"


def added(file: Path, images: Path, **facts: object) -> Added:
    return add(file, Options(name="m", images=images, facts=facts), to=file.parent / "zoo")


def test_pictures_settle_the_range_and_the_colour_order(file: Path, tmp_path: Path) -> None:
    result = added(file, pictures(tmp_path, list(COLOURS), count=1))
    spec, provenance = result.card.input, result.card.provenance
    assert (spec.colour_order, spec.mean, spec.std) == ("bgr", (127.5,) * 3, (127.5,) * 3)
    assert [provenance[f"input.{name}"].origin for name in ("mean", "std", "colour_order")] == [
        "pictures"
    ] * 3
    assert "log-probability of the true class higher by" in str(provenance["input.mean"].detail)
    assert not {"input.mean", "input.std", "input.colour_order"} & set(result.card.assumed)
    assert "with this preprocessing 64 of 64 pictures are named right" in result.warnings


def test_what_pictures_cannot_tell_apart_stays_assumed(file: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path, [f"{level}-{level}-{level}" for level in LEVELS])
    fact = added(file, images).card.provenance["input.colour_order"]
    assert (fact.origin, fact.undecided) == ("assumed", ("rgb", "bgr"))


def test_a_flag_is_not_judged(file: Path, tmp_path: Path) -> None:
    card = added(file, pictures(tmp_path, list(COLOURS), count=1), **{"input.colour_order": "rgb"}).card
    assert card.input.colour_order == "rgb"
    assert card.provenance["input.colour_order"].origin == "flag"


@pytest.mark.parametrize("source", ["preset", "metadata"])
def test_pictures_that_contradict_what_is_stated_are_reported(
    source: str, file: Path, tmp_path: Path
) -> None:
    images = pictures(tmp_path, list(COLOURS), count=1)
    options: dict[str, Any] = {"preset": "keras-torch"}
    if source == "metadata":
        processor = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": 16}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
        options = {}
    result = add(file, Options(name="m", images=images, **options), to=tmp_path / "zoo")
    spec = result.card.input
    assert (spec.colour_order, spec.mean[0]) == ("rgb", pytest.approx(123.675))
    (warning,) = [line for line in result.warnings if line.startswith("PICTURES CONTRADICT")]
    stated = "--preset keras-torch" if source == "preset" else "preprocessor_config.json"
    assert f"input.mean ({stated})" in warning
    assert f"input.colour_order ({stated})" in warning
    assert "-1 to 1, bgr names 64 of 64 right" in warning
    assert "log-probability of the true class higher by" in warning
    assert "--range=-1..1 --colour-order bgr" in warning


def test_pictures_that_agree_with_what_is_stated_are_silent(file: Path, tmp_path: Path) -> None:
    facts = {"input.mean": (127.5,) * 3, "input.std": (127.5,) * 3, "input.colour_order": "bgr"}
    result = added(file, pictures(tmp_path, list(COLOURS), count=1), **facts)
    assert not [line for line in result.warnings if "CONTRADICT" in line]


def test_folders_that_match_no_label_are_refused(file: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path, ["30-30-30"])
    (images / "purple").mkdir()
    with pytest.raises(RefusedModel, match=r"match no single label: purple \(0 labels\)"):
        added(file, images)
    assert not list((tmp_path / "zoo").iterdir())
