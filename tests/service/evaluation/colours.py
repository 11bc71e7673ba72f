"""Networks that name the strongest colour of a picture, and folders of pictures for them."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.networks import LIGHT, SIDE, save_network

COLOURS = ("red", "green", "blue")
FAILS_ON_DARK = (("Log", (LIGHT,), {}),)
"""Tail of a network whose output is NaN for a dark picture."""


def save_colours(zoo: Path, name: str, **card: Any) -> Path:
    """Write a network whose logits are the means of red, green and blue."""
    weights = {"head.weight": np.eye(3, dtype=np.float32) * 4}
    facts = {"labels": "colours", "weights": weights} | card
    return save_network(zoo, name, classes=3, names=COLOURS, **facts)


def save_reds(zoo: Path, name: str = "reds", **card: Any) -> Path:
    """Write a network that nearly always says red."""
    weights = {"head.weight": np.diag(np.array([4, 1, 1], np.float32))}
    return save_colours(zoo, name, weights=weights, bias=np.array([2, 0, 0], np.float32), **card)


@functools.cache
def picture(colour: str, seed: int, side: int = SIDE) -> bytes:
    """Return a noisy PNG in which `colour` is the strongest, mostly."""
    random = np.random.default_rng([COLOURS.index(colour), seed])
    pixels = random.integers(90, 200, (side, side + 4, 3))
    pixels[..., COLOURS.index(colour)] += random.integers(-4, 50)
    return png(pixels)


def png(pixels: Any) -> bytes:
    """Encode RGB pixels (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def save_pictures(folder: Path, each: int, classes: Sequence[str] = COLOURS) -> Mapping[str, bytes]:
    """Write `each` pictures of each class into a folder of its name; return their content by key."""
    contents = {}
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for seed in range(each):
            contents[f"{name}/{seed}.png"] = picture(name, seed)
            (folder / name / f"{seed}.png").write_bytes(contents[f"{name}/{seed}.png"])
    return contents
