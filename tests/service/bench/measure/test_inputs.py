"""The fixed picture looks natural to a network, and is the same everywhere."""

from __future__ import annotations

import hashlib

import numpy as np

from models.zoo.card import InputSpec
from models.zoo.preprocess import preprocess
from service.bench.measure.inputs import as_jpeg, describe_inputs, natural_picture
from service.inference.decoding.decode import decode


def test_fixed_picture() -> None:
    picture = natural_picture()
    assert (picture.shape, picture.dtype) == ((512, 512, 3), np.uint8)
    inputs = describe_inputs(())
    assert inputs.kind == "synthetic"
    assert inputs.sha256 == (hashlib.sha256(picture.tobytes()).hexdigest(),)


def test_spectrum_of_the_picture() -> None:
    grey = natural_picture().astype(float).mean(axis=2)
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    distance = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512)))
    low = power[(distance > 0.01) & (distance < 0.02)].mean()
    high = power[(distance > 0.2) & (distance < 0.4)].mean()
    assert low > 50 * high
    red, green, _ = (natural_picture()[..., at].ravel().astype(float) for at in range(3))
    assert np.corrcoef(red, green)[0, 1] > 0.7


def test_picture_survives_jpeg() -> None:
    image = decode(as_jpeg(natural_picture()), shorter_side=256, max_pixels=10**7)
    spec = InputSpec(
        height=224, width=224, resize=256, mean=(127,) * 3, std=(128,) * 3, interpolation="bilinear"
    )
    tensor = preprocess(image.pixels, spec)
    assert abs(float(tensor.mean())) < 0.3
    assert 0.2 < float(tensor.std()) < 0.8
