"""The real data set: read, split and turned as its cards say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.data.fashion_mnist import SPEC, load_train, split, tensors
from models.zoo.labels import BUILT_IN

pytestmark = pytest.mark.torch  # needs no torch, but the data set that `make test-models` fetches


def test_it_is_whole_and_no_image_is_turned_but_every_negative(fashion: Path) -> None:
    images = load_train(fashion)
    assert np.bincount(images.classes).tolist() == [6000] * 10
    assert len((BUILT_IN / "fashion-mnist.txt").read_text().splitlines()) == 10
    assert images.pixels.mean() == pytest.approx(SPEC.mean[0], abs=0.005)
    assert images.pixels.std() == pytest.approx(SPEC.std[0], abs=0.005)
    learn, choose = split(images, 5000, seed=0)
    assert (len(learn), np.bincount(choose.classes).tolist()) == (55_000, [500] * 10)
    plain = (choose.pixels.astype(np.float32) - SPEC.mean[0]) / SPEC.std[0]
    np.testing.assert_allclose(tensors(choose.pixels)[:, 0], plain, atol=1e-5)
    np.testing.assert_allclose(tensors(255 - choose.pixels)[:, 0], plain, atol=1e-5)
