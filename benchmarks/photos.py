"""Request bodies of the benchmarks, from real photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from benchmarks import MODEL
from benchmarks.servers import ROOT

BOUNDARY = "weighin-benchmark"


class Photos:
    """The files of the request bodies: two JPEGs and a multipart form.

    The JPEGs have 512 x 512 and 4000 x 3000 pixels.
    """

    def __init__(self, folder: Path) -> None:
        self.small, self.large, self.form = folder / "512.jpg", folder / "4000.jpg", folder / "512.form"
        Image.fromarray(skimage.data.astronaut()).save(self.small, quality=90)
        self._large_photo().save(self.large, quality=90)
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
        head += "Content-Type: image/jpeg\r\n\r\n"
        self.form.write_bytes(head.encode() + self.small.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode())

    def raw(self, model: str = MODEL, path: str = "/classify") -> list[str]:
        """Return a request of `load.Plan` with the small photograph as its body."""
        return [f"{path}?model={model}", "image/jpeg", str(self.small)]

    def multipart(self, path: str = f"/classify?model={MODEL}") -> list[str]:
        """Return a request of `load.Plan` with the small photograph in a form."""
        return [path, f"multipart/form-data; boundary={BOUNDARY}", str(self.form)]

    @staticmethod
    def _large_photo() -> Image.Image:
        """Return a photograph of `make photos`.

        If it is not there, return scikit-image's photographs, repeated as tiles.
        """
        camera = ROOT / ".cache/photos/lomiri-wallpapers-16.04/Dragonfly_by_Bolly.jpg"
        if camera.exists():
            return Image.open(camera).convert("RGB").resize((4000, 3000), Image.Resampling.LANCZOS)
        tile = np.hstack([skimage.data.astronaut(), skimage.data.coffee().repeat(2, 0)[:512]])
        return Image.fromarray(np.tile(tile, (6, 4, 1))[:3000, :4000])
