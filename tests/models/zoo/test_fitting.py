"""Fittings other than the centre crop, and the colour order, against steps on the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from models.zoo.card import InputSpec
from models.zoo.preprocess import crop_box, preprocess, shorter_side
from tests.helpers.photographs import astronaut


def spec_of(**changes: object) -> InputSpec:
    """An InputSpec of 96 x 160 (height, width) that keeps pixel values, with changes."""
    fields: dict[str, object] = {
        "height": 96,
        "width": 160,
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
        "interpolation": "bilinear",
    }
    return InputSpec.model_validate(fields | changes)


def planes(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image, np.float32).transpose(2, 0, 1)[None]


@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_stretch_equals_a_resize_of_the_whole_image(interpolation: str) -> None:
    pixels = astronaut()[:300, :211]
    spec = spec_of(fitting="stretch", interpolation=interpolation)
    expected = Image.fromarray(pixels).resize((160, 96), Image.Resampling[interpolation.upper()])
    np.testing.assert_array_equal(preprocess(pixels, spec), planes(expected))
    assert crop_box(spec, (0, 0, 211, 300)) == (0, 0, 211, 300)


@pytest.mark.parametrize(("height", "width"), [(300, 211), (90, 480), (96, 160), (500, 3)])
@pytest.mark.parametrize("fitting", ["letterbox", "pad"])
def test_borders_surround_the_resized_whole_image(height: int, width: int, fitting: str) -> None:
    pixels = np.resize(astronaut(), (height, width, 3))
    spec = spec_of(fitting=fitting, pad_value=7)
    image = Image.fromarray(pixels)
    scale = min(160 / width, 96 / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    expected = Image.new("RGB", (160, 96), (7, 7, 7))
    offset = ((160 - size[0]) // 2, (96 - size[1]) // 2) if fitting == "letterbox" else (0, 0)
    expected.paste(image.resize(size, Image.Resampling.BILINEAR), offset)
    np.testing.assert_array_equal(preprocess(pixels, spec), planes(expected))


@pytest.mark.parametrize("fitting", ["letterbox", "pad"])
def test_crop_box_maps_the_border_outside_the_image(fitting: str) -> None:
    left, top, right, bottom = crop_box(spec_of(fitting=fitting), (0, 0, 200, 240))
    assert (right - left) / (bottom - top) == pytest.approx(160 / 96)
    assert (top, bottom) == (0, 240)
    assert (left, right) == ((-100, 300) if fitting == "letterbox" else (0, 400))


def test_bgr_swaps_channels_and_keeps_the_order_of_mean_and_std() -> None:
    pixels = astronaut()[:256, :256]
    spec = InputSpec(
        height=224, width=224, resize=256, mean=(1, 2, 3), std=(4, 5, 6), interpolation="bilinear"
    )
    rgb = preprocess(pixels[..., ::-1], spec)
    np.testing.assert_array_equal(preprocess(pixels, spec.model_copy(update={"colour_order": "bgr"})), rgb)


def test_shorter_side_keeps_what_each_fitting_needs() -> None:
    assert shorter_side(spec_of(fitting="stretch")) == 160


def test_a_centre_crop_needs_resize() -> None:
    with pytest.raises(ValidationError, match="resize"):
        spec_of()


def test_uint8_takes_no_normalisation() -> None:
    with pytest.raises(ValidationError, match="dtype uint8"):
        spec_of(fitting="stretch", dtype="uint8", mean=(127.0,) * 3)
