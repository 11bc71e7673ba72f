"""Embeddings of many images, cached in .cache/embeddings."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.retrieval.corpus import CACHE, Pixels
from models.zoo.card import read_card
from models.zoo.preprocess import preprocess
from service.inference.session import OnnxSession

EMBEDDINGS = CACHE / "embeddings"
WRITE_EVERY = 256

Vectors = NDArray[np.float32]


class Pictures(Protocol):
    """A series of images that can be read from any position."""

    def __len__(self) -> int: ...

    def since(self, first: int) -> Iterator[Pixels]:
        """Yield the images from number `first` on, uint8 RGB (H, W, 3)."""


class Embedder:
    """Embeds images with a network of the zoo, as the service does."""

    def __init__(self, folder: Path) -> None:
        self.card = read_card(folder)
        self._session = OnnxSession((folder / self.card.file.name).read_bytes(), self.card)
        self.dimensions = self.card.outputs["embedding"][0]

    def __call__(self, pixels: Pixels) -> Vectors:
        """Return the L2-normalised embedding of an image, uint8 RGB (H, W, 3): float32 (D,)."""
        out = self._session.run(preprocess(pixels, self.card.input), ("embedding",))["embedding"][0]
        return out / np.float32(max(float(np.linalg.norm(out)), 1e-12))


def embeddings(embedder: Embedder, name: str, pictures: Pictures, seconds: float = float("inf")) -> Vectors:
    """Return the embeddings of `pictures`, float32 (N, D), memory-mapped from their cache file.

    Rows are only ever appended to the file, so that a later run can continue. Raises TimeoutError if the
    embeddings are not complete after `seconds`.
    """
    card = embedder.card
    path = EMBEDDINGS / f"{card.name}-{card.file.sha256[:12]}" / f"{name}.f32"
    path.parent.mkdir(parents=True, exist_ok=True)
    row = 4 * embedder.dimensions
    with path.open("ab") as file:
        done = file.tell() // row
        file.truncate(done * row)
        deadline = time.monotonic() + seconds
        block: list[Vectors] = []
        while done < len(pictures):
            for number, pixels in enumerate(pictures.since(done), done + 1):
                block.append(embedder(pixels))
                if len(block) == WRITE_EVERY or number == len(pictures):
                    file.write(np.stack(block).tobytes())
                    file.flush()
                    block.clear()
                    done = number
                    if time.monotonic() >= deadline and done < len(pictures):
                        raise TimeoutError(f"{name}: {done} of {len(pictures)} embedded by {card.name}")
            print(f"{name}: {done} of {len(pictures)} embedded by {card.name}", file=sys.stderr)
    return np.memmap(path, dtype=np.float32, mode="r", shape=(len(pictures), embedder.dimensions))
