"""Photographs that come with scikit-image, as JPEG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import skimage.data
from PIL import Image


def write_photographs(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Write those of scikit-image's pictures to `folder`; their paths by name."""
    found = {}
    for name in names:
        found[name] = folder / f"{name}.jpg"
        Image.fromarray(getattr(skimage.data, name)()).convert("RGB").save(found[name], quality=90)
    return found
