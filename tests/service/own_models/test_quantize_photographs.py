"""`weighin quantize` on real photographs: as close to the parent as the project's own int8 network."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from models.data.photos import crops
from models.publish.recipes import RECIPES
from models.zoo.card import read_card
from models.zoo.files import NETWORKS
from service.inference.registry import Registry
from service.own_models.quantize import Options, quantize_model

pytestmark = pytest.mark.photos

PHOTOS = Path(__file__).resolve().parents[3] / ".cache" / "photos"
CALIBRATED_ON = ("mate-backgrounds", "plasma-workspace-wallpapers")
JUDGED_ON = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04")


def save_crops(folder: Path, packages: tuple[str, ...], per_photograph: int) -> Path:
    folder.mkdir()
    for number, pixels in enumerate(crops(PHOTOS, packages, per_photograph)):
        image = Image.fromarray(pixels)
        image.thumbnail((320, 320), Image.Resampling.LANCZOS)
        image.save(folder / f"{number:03}.bmp")
    return folder


def test_efficientnet_lite_agrees_as_well_as_the_included_int8_model(tmp_path: Path) -> None:
    name = "efficientnet-lite0"
    included = read_card(NETWORKS / f"{name}-int8").agreement
    assert included is not None
    made = quantize_model(
        Registry([NETWORKS], name),
        name,
        Options(
            calibrate=save_crops(tmp_path / "calibrate", CALIBRATED_ON, 8),
            judge=save_crops(tmp_path / "judge", JUDGED_ON, 16),
            name="mine",
        ),
        to=tmp_path / "models",
    )
    assert made.judgement.n == included.n
    assert made.judgement.same / made.judgement.n >= included.interval.low
    # The layers that the project's own plan keeps are found by measuring.
    plan = RECIPES[name].plan
    assert {"stem.conv", "blocks.0.conv_dw", "blocks.0.conv_pwl"} <= set(made.choice.kept)
    assert {layer for layer in made.choice.kept if plan.keeps_float(layer)} == {
        "stem.conv", "blocks.0.conv_dw", "blocks.0.conv_pwl"
    }  # fmt: skip
    assert len(made.choice.kept) <= 6
    assert len(made.content) < 0.55 * len(made.parent_content)
