"""What the network sees at a place is at the mapped place of the upright original."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.zoo.card import InputSpec
from models.zoo.preprocess import preprocess
from service.inference.decoding.decode import decode
from service.inference.detection.geometry import Transformation

_ORIENTATION = 0x0112
_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright image is turned for a file of each EXIF orientation."""

FITTINGS: dict[str, dict[str, Any]] = {
    "center-crop": {"resize": 56},
    "center-crop, whole pixels": {"resize": 56, "crop_rounding": "pixels"},
    "stretch": {"fitting": "stretch"},
    "letterbox": {"fitting": "letterbox"},
    "pad": {"fitting": "pad"},
}
SIZES = {"wide": (1609, 1203), "high": (603, 1007), "small": (45, 61)}


def spec_of(fitting: str, height: int = 48, width: int = 56) -> InputSpec:
    values = {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear", "pad_value": 0}
    return InputSpec.model_validate({"height": height, "width": width, **values, **FITTINGS[fitting]})


@functools.cache
def stored(
    size: tuple[int, int], place: tuple[float, float], radius: float, orientation: int, format: str
) -> bytes:
    """The file of an upright image with a marker; cached, because fittings share it."""
    image = marked(size, place, radius)
    turn = _STORED[orientation]
    turned = image if turn is None else image.transpose(turn)
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    buffer = io.BytesIO()
    turned.save(buffer, format, exif=exif, **({"quality": 95} if format == "JPEG" else {}))
    return buffer.getvalue()


@functools.cache
def marked(size: tuple[int, int], place: tuple[float, float], radius: float) -> Image.Image:
    """A black image with a white disk, whose edge is grey."""
    rows, columns = np.indices((size[1], size[0])) + 0.5
    within = radius + 0.5 - np.hypot(columns - place[0], rows - place[1])
    grey = np.round(255 * np.clip(within, 0, 1)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def seen_at(tensor: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The centre of what is light, x and y in pixels of the network's input."""
    light = np.where(tensor[0, 0] > 25, tensor[0, 0], 0).astype(np.float64)
    rows, columns = np.indices(light.shape) + 0.5
    return float((light * columns).sum() / light.sum()), float((light * rows).sum() / light.sum())


@pytest.mark.slow
@pytest.mark.parametrize("fitting", FITTINGS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("format", "orientation"), [*(("JPEG", number) for number in _STORED), ("PNG", 1), ("PNG", 6)]
)
def test_marker_is_found_where_it_was_drawn(fitting: str, size: str, format: str, orientation: int) -> None:
    wide, high = SIZES[size]
    spec = spec_of(fitting)
    place = (wide * 0.43, high * 0.57) if "crop" in fitting else (wide * 0.81, high * 0.83)
    radius = min(wide, high) / 9
    data = stored((wide, high), place, radius, orientation, format)
    image = decode(data, shorter_side=spec.resize, max_pixels=10**8)
    assert (image.width, image.height) == (wide, high)
    assert (image.scale > 1) == (format == "JPEG" and size != "small")
    tensor = preprocess(image.pixels, spec, box=image.box)
    transformation = Transformation.of(spec, image.box, (image.width, image.height))
    found = transformation.points(np.array(seen_at(tensor)))
    pixel = max(transformation.region[2] - transformation.region[0], wide) / spec.width
    assert found == pytest.approx(place, abs=0.06 * pixel + 0.03)


@pytest.mark.parametrize("fitting", ["center-crop", "center-crop, whole pixels"])
@pytest.mark.parametrize("size", [(56, 56), (57, 56), (56, 91)])
def test_crop_of_whole_pixels_is_exact(fitting: str, size: tuple[int, int]) -> None:
    """Of an image that is not resized, each pixel of the input is one of the image."""
    spec = spec_of(fitting, height=47, width=53)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    tensor = preprocess(pixels, spec)
    transformation = Transformation.of(spec, (0, 0, *size), size)
    x, y = transformation.points(np.array([10.5, 20.5])) - 0.5
    assert (x, y) == (int(x), int(y))
    np.testing.assert_array_equal(tensor[0, :, 20, 10], pixels[int(y), int(x)])


def test_boxes_are_clipped_to_the_image() -> None:
    transformation = Transformation.of(spec_of("letterbox"), (0, 0, 560, 240), (560, 240))
    boxes = np.array(
        [
            [0.0, 0.0, 56.0, 48.0],  # all of the input: the image without the borders
            [-5.0, 20.0, 28.0, 30.0],
            [10.0, 0.0, 20.0, 11.0],  # in the upper border
            [-np.inf, -np.inf, np.inf, np.inf],
        ]
    )
    clipped = transformation.boxes(boxes)
    assert clipped[0].tolist() == clipped[3].tolist() == [0, 0, 560, 240]
    assert clipped[1].tolist() == [0, 80, 280, 180]
    assert clipped[2].tolist() == [100, 0, 200, 0]  # no area
    outside = transformation.points(np.array([[10.0, 0.0]]))
    assert outside.tolist() == [[100, -120]]


def test_scaled_decoding_does_not_move_boxes() -> None:
    """The same box, whether the image was decoded in full or at an eighth of its size."""
    for fitting in FITTINGS:
        spec = spec_of(fitting)
        boxes = np.array([[10.0, 12.0, 30.0, 40.0]])
        full = Transformation.of(spec, (0, 0, 1600, 1200), (1600, 1200)).boxes(boxes)
        eighth = Transformation.of(spec, (0, 0, 200, 150), (1600, 1200)).boxes(boxes)
        # Sizes that are rounded to whole pixels of the input differ by one of them at most.
        rounded = fitting not in ("stretch", "center-crop")
        pixel = max(full[0, 2] - full[0, 0], full[0, 3] - full[0, 1]) / 20
        np.testing.assert_allclose(full, eighth, atol=pixel if rounded else 0.011)
