"""Ten photographs of different sizes and shapes, as PNG files: crops of scikit-image's."""

from __future__ import annotations

from pathlib import Path

import skimage.data
from PIL import Image

_CROPS = {
    "astronaut": ((0, 0, 512, 512), (150, 0, 330, 240)),
    "chelsea": ((0, 0, 451, 300), (90, 40, 400, 250)),
    "coffee": ((0, 0, 600, 400), (200, 30, 480, 390)),
    "rocket": ((0, 0, 640, 427), (250, 100, 400, 400)),
    "hubble_deep_field": ((300, 200, 900, 700),),
    "immunohistochemistry": ((0, 100, 511, 401),),
}
"""Left, top, right and bottom of each crop, in pixels."""


def photographs(folder: Path) -> list[Path]:
    """Write the photographs to `folder` and return their paths, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, crops in _CROPS.items():
        image = Image.fromarray(getattr(skimage.data, name)())
        for number, box in enumerate(crops):
            paths.append(folder / f"{name}-{number}.png")
            image.crop(box).save(paths[-1])
    return paths
