"""Preprocessing against a plain float64 reference that resizes the whole image and crops afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from models.zoo.card import InputSpec
from models.zoo.preprocess import preprocess, shorter_side
from tests.helpers.photographs import astronaut


def spec_of(**changes: object) -> InputSpec:
    """An InputSpec of 224 out of 256, bicubic, as EfficientNet-Lite0 wants it, with changes."""
    fields: dict[str, object] = {
        "height": 224,
        "width": 224,
        "resize": 256,
        "mean": (127.0,) * 3,
        "std": (128.0,) * 3,
        "interpolation": "bicubic",
    }
    return InputSpec.model_validate(fields | changes)


def bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(1 - np.abs(x), 0, None)


def bicubic(x: NDArray[np.float64], a: float = -0.5) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


KERNELS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "bilinear": bilinear,
    "bicubic": bicubic,
}


def resampling(source: int, scale: float, targets: NDArray[np.float64], kernel: str) -> NDArray[np.float64]:
    """Weights (targets, source) that sample a row of `source` pixels, shrunk by `scale`, at `targets`."""
    stretch = max(scale, 1.0)
    centres = (targets + 0.5) * scale
    weights = KERNELS[kernel]((np.arange(source) + 0.5 - centres[:, None]) / stretch)
    return weights / weights.sum(axis=1, keepdims=True)


def weighted(weights: NDArray[np.float64], image: NDArray[np.float64]) -> NDArray[np.float64]:
    """`weights` (n, m) times `image` (m, ...), without the columns that have no weight, which are most."""
    rows = []
    for row in weights:
        used = row.nonzero()[0]
        part = slice(used[0], used[-1] + 1)
        rows.append(np.tensordot(row[part], image[part], axes=1))
    return np.stack(rows)


def reference(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float64]:
    """(C, height, width): every step in float64, on the whole image, nothing left out."""
    height, width = pixels.shape[:2]
    scale = min(height, width) / spec.resize
    rows = (height / scale - spec.height) / 2 + np.arange(spec.height)
    columns = (width / scale - spec.width) / 2 + np.arange(spec.width)
    if scale == 1:
        rows, columns = np.floor(rows), np.floor(columns)
    across = resampling(width, scale, columns, spec.interpolation)
    down = resampling(height, scale, rows, spec.interpolation)
    rows_first = weighted(down, pixels.astype(np.float64))
    image = weighted(across, rows_first.swapaxes(0, 1)).transpose(2, 1, 0).clip(0, 255)
    if spec.channels == 1:
        image = np.tensordot([0.299, 0.587, 0.114], image, axes=1)[None]
    return (image - np.array(spec.mean)[:, None, None]) / np.array(spec.std)[:, None, None]


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """A window of a photograph, tiled where it must be larger than the photograph."""
    source = astronaut()
    tiles = np.tile(source, (-(-height // 512), -(-width // 512), 1))
    return np.ascontiguousarray(tiles[:height, :width])


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (256, 256),  # nothing to resize
        (256, 301),  # nothing to resize, an odd border
        (512, 512),
        (513, 700),
        (1023, 401),
        (100, 131),  # enlarged
        (257, 3001),  # a panorama
        (2000, 1500),
        (3, 2),
    ],
)
def test_equals_the_reference(height: int, width: int, interpolation: str) -> None:
    spec = spec_of(interpolation=interpolation)
    pixels = photo(height, width)
    result = preprocess(pixels, spec)
    assert result.shape == (1, 3, 224, 224)
    assert result.dtype == np.float32
    difference = np.abs(result[0] - reference(pixels, spec)) * 128
    # Pillow rounds to whole pixel values after each of its two passes: half a value each, more where a
    # cubic's negative weights overshoot and the first pass cuts at 0 or 255.
    assert difference.mean() < 0.4
    assert np.quantile(difference, 0.999) < 3


@pytest.mark.parametrize(
    ("height", "width"), [(512, 512), (240, 180), (300, 451), (210, 310), (427, 640), (1001, 1501)]
)
@pytest.mark.parametrize("side", [64, 224])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_of_whole_pixels_equals_resize_then_crop(
    height: int, width: int, side: int, interpolation: str
) -> None:
    """As torchvision and timm compute it: a crop half a pixel beside theirs changes the scores."""
    pixels = photo(height, width)
    resize = side * 256 // 224
    wide, high = (int(resize * length / min(height, width)) for length in (width, height))
    whole = Image.fromarray(pixels).resize((wide, high), Image.Resampling[interpolation.upper()])
    left, top = round((wide - side) / 2), round((high - side) / 2)
    expected = np.asarray(whole)[top : top + side, left : left + side].astype(np.float64)
    spec = spec_of(
        height=side,
        width=side,
        resize=resize,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        interpolation=interpolation,
        crop_rounding="pixels",
    )
    difference = np.abs(preprocess(pixels, spec)[0].transpose(1, 2, 0) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize(("below", "right"), [(1, 1), (-1, 1), (0, -1)])
def test_a_box_that_ends_within_a_pixel(below: int, right: int, scale: int) -> None:
    spec = spec_of()
    height, width = 264 * scale + below, 300 * scale + right
    picture = photo(height, width)
    # As a JPEG decoder scales: each pixel is the mean of a square, those on the edge repeat it.
    padded = np.pad(picture, ((0, -height % scale), (0, -width % scale), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // scale, scale, padded.shape[1] // scale, scale, 3)
    sums = blocks.sum(axis=1, dtype=np.uint16).sum(axis=2, dtype=np.uint32)
    small = np.rint(sums / scale**2).astype(np.uint8)
    exact = reference(picture, spec)
    with_box = preprocess(small, spec, box=(0, 0, width / scale, height / scale))[0]
    without = preprocess(small, spec)[0]
    assert np.abs(with_box - exact).mean() * 128 < 4
    if min(width, height) % scale:
        assert np.abs(with_box - exact).mean() < np.abs(without - exact).mean()
    # Turned upside down, the picture ends at the other side of the pixels.
    left, top = small.shape[1] - width / scale, small.shape[0] - height / scale
    turned = preprocess(small[::-1, ::-1], spec, box=(left, top, small.shape[1], small.shape[0]))[0]
    assert np.abs(turned[:, ::-1, ::-1] - with_box).mean() * 128 < 0.1


@pytest.mark.parametrize(
    "box", [(-0.1, 0, 5, 5), (0, 0, 10.1, 5), (3, 0, 3, 5), (0, 4, 5, 3), (0, 0, 5, 5.5)]
)
def test_refuses_a_box_that_is_not_within(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="does not lie within 10 x 5 pixels"):
        preprocess(photo(5, 10), spec_of(), box=box)


def test_preprocessing_without_resizing() -> None:
    pixels = photo(256, 300)
    spec = spec_of(mean=(120.0, 110.0, 100.0), std=(60.0, 59.0, 58.0))
    cropped = pixels[16:240, 38:262].transpose(2, 0, 1).astype(np.float64)
    expected = (cropped - np.array(spec.mean)[:, None, None]) / np.array(spec.std)[:, None, None]
    np.testing.assert_allclose(preprocess(pixels, spec)[0], expected, atol=1e-6)


def test_height_and_width_are_not_swapped() -> None:
    spec = spec_of(height=96, width=160, resize=160)
    pixels = photo(480, 400)
    result = preprocess(pixels, spec)
    assert result.shape == (1, 3, 96, 160)
    assert np.abs(result[0] - reference(pixels, spec)).mean() * 128 < 0.4


def test_one_channel_is_luma() -> None:
    spec = spec_of(height=28, width=28, resize=28, channels=1, mean=(0.0,), std=(1.0,))
    pixels = np.zeros((28, 28, 3), dtype=np.uint8)
    pixels[:9, :, 0], pixels[9:18, :, 1], pixels[18:, :, 2] = 255, 255, 255
    rows = preprocess(pixels, spec)[0, 0, :, 5]
    np.testing.assert_allclose(rows[[0, 9, 18]], [76.245, 149.685, 29.07], atol=1e-3)
    assert np.abs(preprocess(photo(90, 70), spec)[0] - reference(photo(90, 70), spec)).max() < 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (2, 30000)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_extreme_shapes_keep_their_colour(height: int, width: int, interpolation: str) -> None:
    pixels = np.full((height, width, 3), (200, 100, 50), dtype=np.uint8)
    result = preprocess(pixels, spec_of(interpolation=interpolation))
    expected = np.broadcast_to(((np.array([200, 100, 50]) - 127) / 128)[:, None, None], (3, 224, 224))
    np.testing.assert_allclose(result[0], expected, atol=1e-6)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    crop_height=st.integers(1, 64),
    crop_width=st.integers(1, 64),
    border=st.integers(0, 40),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_any_size_equals_the_reference(
    height: int, width: int, crop_height: int, crop_width: int, border: int, interpolation: str
) -> None:
    spec = spec_of(
        height=crop_height,
        width=crop_width,
        resize=max(crop_height, crop_width) + border,
        interpolation=interpolation,
    )
    pixels = photo(height, width)
    difference = np.abs(preprocess(pixels, spec)[0] - reference(pixels, spec)) * 128
    assert difference.mean() < 1


def test_writes_into_the_given_memory() -> None:
    spec = spec_of()
    out = np.full((1, 3, 224, 224), np.nan, dtype=np.float32)
    pixels = photo(300, 300)
    assert preprocess(pixels, spec, out) is out
    np.testing.assert_array_equal(out, preprocess(pixels, spec))


def test_reads_pixels_that_are_not_contiguous() -> None:
    pixels = photo(300, 400)
    np.testing.assert_array_equal(
        preprocess(pixels[:, ::-1], spec_of()), preprocess(np.ascontiguousarray(pixels[:, ::-1]), spec_of())
    )


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
)
def test_refuses_other_pixels(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\) is needed"):
        preprocess(pixels, spec_of())


@pytest.mark.parametrize(
    "out",
    [np.zeros((1, 3, 224, 224)), np.zeros((3, 224, 224), dtype=np.float32)],
    ids=["float64", "no batch"],
)
def test_refuses_another_out(out: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="is needed"):
        preprocess(photo(300, 300), spec_of(), out)


def test_shorter_side_serves_the_most_demanding() -> None:
    assert shorter_side(spec_of()) == 256
    assert shorter_side(spec_of(), spec_of(resize=292), spec_of(resize=272)) == 292


def grey_spec(polarity: str, side: int = 28) -> InputSpec:
    fields = {"channels": 1, "height": side, "width": side, "resize": side, "mean": (0.0,), "std": (1.0,)}
    return spec_of(polarity=polarity, interpolation="bilinear", **fields)


def shirt(ground: int, cloth: int, height: int = 300, width: int = 240) -> NDArray[np.uint8]:
    """A thing as wide as the picture but not in its corners, RGB."""
    pixels = np.full((height, width, 3), ground, dtype=np.uint8)
    pixels[height // 4 : height * 3 // 4] = cloth
    pixels[:, width // 3 : width * 2 // 3] = cloth
    return pixels


@pytest.mark.parametrize(("ground", "cloth"), [(0, 180), (10, 255), (60, 20), (127, 255)])
def test_polarity_of_dark_and_light_background(ground: int, cloth: int) -> None:
    pixels = shirt(ground, cloth)
    expected = preprocess(pixels, grey_spec("as-is"))
    np.testing.assert_array_equal(preprocess(pixels, grey_spec("light-on-dark")), expected)
    turned = preprocess(255 - pixels, grey_spec("light-on-dark"))
    # Resizing rounds to whole values, a half now up and now down.
    np.testing.assert_allclose(turned, expected, atol=1.001)
    assert expected.std() > 10


@pytest.mark.parametrize("side", [1, 5, 28, 64])
def test_polarity_by_corners_of_any_size(side: int) -> None:
    spec = grey_spec("light-on-dark", side)
    assert preprocess(np.full((90, 70, 3), 250, dtype=np.uint8), spec).max() == pytest.approx(5, abs=1e-3)
    assert preprocess(np.full((90, 70, 3), 5, dtype=np.uint8), spec).max() == pytest.approx(5, abs=1e-3)


def test_polarity_of_two_light_corners() -> None:
    pixels = np.zeros((28, 28, 3), dtype=np.uint8)
    pixels[:, :10] = 255
    found = preprocess(pixels, grey_spec("light-on-dark"))
    assert (found[0, 0, 0, 0], found[0, 0, 0, 27]) == (pytest.approx(255), 0)
    pixels[25:, 25:] = 255
    found = preprocess(pixels, grey_spec("light-on-dark"))
    assert (found[0, 0, 0, 0], found[0, 0, 0, 27]) == (pytest.approx(0, abs=1e-3), 255)


def test_polarity_needs_one_grey_channel() -> None:
    with pytest.raises(ValueError, match="polarity light-on-dark is for one grey channel"):
        spec_of(polarity="light-on-dark")
    assert spec_of().polarity == "as-is"
