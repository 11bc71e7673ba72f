"""One image, loaded once and run, each stage timed."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from models.zoo.card import InputSpec
from service.inference.pipeline import load_image, run_network
from service.latency.stages import Stopwatch


def spec(side: int) -> InputSpec:
    return InputSpec(
        height=side, width=side, resize=side, mean=(0,) * 3, std=(1,) * 3, interpolation="bilinear"
    )


def jpeg(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 200, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_decoding_scale_of_several_networks() -> None:
    data = jpeg(800)
    assert load_image(data, spec(32), max_pixels=10**6).scale == 8
    assert load_image(data, spec(32), spec(400), max_pixels=10**6).scale == 2
    assert load_image(data, spec(32), max_pixels=10**6, min_side=801).scale == 1


def test_stages_of_a_run() -> None:
    stopwatch = Stopwatch()
    image = load_image(jpeg(64), spec(32), max_pixels=10**6, stopwatch=stopwatch)
    shape = run_network(lambda tensor: tensor.shape, spec(32), image, stopwatch)
    assert shape == (1, 3, 32, 32)
    assert list(stopwatch.durations) == ["decode", "preprocess", "inference"]
