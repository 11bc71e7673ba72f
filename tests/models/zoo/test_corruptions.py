"""Corruptions against scikit-image's and their definitions; stronger with every severity; always the same."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.zoo.corruptions import CORRUPTIONS, LARGE, SEVERITIES, SMALL, Scale, corrupt
from tests.helpers.photographs import cat


@pytest.fixture(params=["grey", "rgb"])
def image(request: pytest.FixtureRequest) -> NDArray[np.uint8]:
    part = cat()[40:168, 100:228]
    return part if request.param == "rgb" else np.ascontiguousarray(part[..., 1])


@pytest.mark.parametrize("scale", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("corruption", list(CORRUPTIONS))
def test_severities_increase(image: NDArray[np.uint8], corruption: str, scale: Scale) -> None:
    found = [corrupt(image, corruption, severity, scale) for severity in SEVERITIES]
    assert all(x.shape == image.shape and x.dtype == np.uint8 for x in found)
    changes = [np.abs(x.astype(int) - image).mean() for x in found]
    assert changes == sorted(changes)
    assert 0 < changes[0] < changes[4]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_equals_scikit_image(image: NDArray[np.uint8], severity: int) -> None:
    from skimage.filters import gaussian

    axis = 2 if image.ndim == 3 else None
    sigma = SMALL.blur[severity - 1]
    expected = gaussian(image / 255, sigma=sigma, mode="nearest", channel_axis=axis) * 255
    assert np.abs(corrupt(image, "blur", severity, SMALL) - expected).max() <= 1.0001


def test_brightness_increases_the_hsv_value() -> None:
    from skimage.color import hsv2rgb, rgb2hsv

    image = cat()[40:168, 100:228].copy()
    image[0, 0] = 0
    hsv = rgb2hsv(image)
    hsv[..., 2] = np.clip(hsv[..., 2] + LARGE.brightness[2], 0, 1)
    expected = hsv2rgb(hsv) * 255
    assert np.abs(corrupt(image, "brightness", 3, LARGE) - expected).max() <= 1.0001
    assert corrupt(image, "brightness", 3, LARGE)[0, 0].tolist() == [76, 76, 76]


def test_contrast_keeps_the_mean_and_shrinks_the_deviation(image: NDArray[np.uint8]) -> None:
    found = corrupt(image, "contrast", 2, SMALL)
    assert found.mean((0, 1)) == pytest.approx(image.mean((0, 1)), abs=1)
    assert found.std((0, 1)) == pytest.approx(image.std((0, 1)) * 0.5, rel=0.05)


def test_deviation_and_seed_of_noise() -> None:
    grey = np.full((200, 200), 128, dtype=np.uint8)
    found = corrupt(grey, "noise", 1, SMALL, seed=3)
    assert (found - 128.0).std() == pytest.approx(255 * 0.04, rel=0.03)
    np.testing.assert_array_equal(found, corrupt(grey, "noise", 1, SMALL, seed=3))
    assert (found != corrupt(grey, "noise", 1, SMALL, seed=4)).any()


def test_unknown_corruption_and_severity() -> None:
    grey = np.zeros((28, 28), dtype=np.uint8)
    with pytest.raises(
        ValueError, match=r"corruption 'fog': unknown \(allowed: noise, blur, contrast, brightness, jpeg\)"
    ):
        corrupt(grey, "fog", 1, SMALL)
    with pytest.raises(ValueError, match=r"severity: 6 \(allowed: 1 to 5\)"):
        corrupt(grey, "noise", 6, SMALL)
