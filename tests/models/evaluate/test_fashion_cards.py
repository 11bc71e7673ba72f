"""Fashion-MNIST: statistics, split and polarity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.data.fashion_mnist import SPEC, load_train, split, tensors
from models.zoo.labels import BUILT_IN

pytestmark = pytest.mark.torch  # needs no torch, but the data set that `make test-models` fetches


def test_dataset_statistics_and_polarity(fashion: Path) -> None:
    images = load_train(fashion)
    assert np.bincount(images.classes).tolist() == [6000] * 10
    assert len((BUILT_IN / "fashion-mnist.txt").read_text().splitlines()) == 10
    assert images.pixels.mean() == pytest.approx(SPEC.mean[0], abs=0.005)
    assert images.pixels.std() == pytest.approx(SPEC.std[0], abs=0.005)
    train, validation = split(images, 5000, seed=0)
    assert (len(train), np.bincount(validation.classes).tolist()) == (55_000, [500] * 10)
    plain = (validation.pixels.astype(np.float32) - SPEC.mean[0]) / SPEC.std[0]
    np.testing.assert_allclose(tensors(validation.pixels)[:, 0], plain, atol=1e-5)
    np.testing.assert_allclose(tensors(255 - validation.pixels)[:, 0], plain, atol=1e-5)
