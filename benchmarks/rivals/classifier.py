"""The job that every server does: run the service's decoder, preprocessing and session on one image.

This module imports only packages that the environment of every server has.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import MODEL
from models.zoo.card import read_card
from models.zoo.files import NETWORKS
from models.zoo.labels import read_labels
from models.zoo.preprocess import preprocess
from service.inference.decoding.decode import decode
from service.inference.session import OnnxSession

TOP = 5
MAX_PIXELS = 10**8


class Classifier:
    """Classifies images with MODEL, in a session with one thread."""

    def __init__(self) -> None:
        folder = NETWORKS / MODEL
        self.card = read_card(folder)
        self.labels = read_labels(self.card, folder)
        self.session = OnnxSession((folder / self.card.file.name).read_bytes(), self.card)

    def classify(self, data: bytes) -> list[dict[str, Any]]:
        """Return the TOP most probable classes of the image file `data`, most probable first."""
        image = decode(data, shorter_side=self.card.input.resize, max_pixels=MAX_PIXELS)
        tensor = preprocess(image.pixels, self.card.input, box=image.box)
        logits = self.session.run(tensor, ("logits",))["logits"][0]
        best = np.argpartition(logits, -TOP)[-TOP:]
        best = best[np.argsort(-logits[best])]
        scores = np.exp(logits - logits.max())
        probabilities = (scores[best] / scores.sum()).tolist()
        return [
            {"label": self.labels[index], "probability": probability}
            for index, probability in zip(best.tolist(), probabilities, strict=True)
        ]
