"""LitServe with the service's own decoder, preprocessing and session, and one worker per core.

`python -m benchmarks.rivals.lit PORT MODEL_FOLDER`
"""

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from models.zoo.card import read_card
from models.zoo.labels import read_labels
from models.zoo.preprocess import preprocess
from service.inference.cpu import core_budget
from service.inference.decoding.decode import decode
from service.inference.session import OnnxSession


class Classify(litserve.LitAPI):
    """Returns the five most probable classes of an image."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        folder = Path(sys.argv[2])
        self.card = read_card(folder)
        self.names = read_labels(self.card, folder)
        self.session = OnnxSession((folder / self.card.file.name).read_bytes(), self.card)

    def decode_request(self, request: Request) -> NDArray[np.float32]:
        image = decode(request["image"].file.read(), shorter_side=self.card.input.resize, max_pixels=10**8)
        return preprocess(image.pixels, self.card.input, box=image.box)

    def predict(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.session.run(tensor)["logits"][0]

    def encode_response(self, logits: NDArray[np.float32]) -> list[dict[str, Any]]:
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        best = np.argsort(probabilities)[::-1][:5]
        return [{"label": self.names[index], "probability": float(probabilities[index])} for index in best]


if __name__ == "__main__":
    litserve.LitServer(
        Classify(api_path="/classify"), accelerator="cpu", workers_per_device=core_budget(), fast_queue=True
    ).run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
