"""LitServe: forms, and base64 in JSON as in LitServe's guide to image classifiers. `python -m ... PORT`

There is one worker process per core. LitServe's ZeroMQ queue connects the HTTP process and the workers.
"""

import base64
import sys
from typing import Any

import litserve
from fastapi import Request

from benchmarks.rivals.classifier import Classifier
from service.inference.cpu import core_budget


class Classify(litserve.LitAPI):
    """Returns the most probable classes of an image."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        self.classifier = Classifier()

    def decode_request(self, request: Request) -> bytes:
        image = request["image"]
        data: bytes = base64.b64decode(image) if isinstance(image, str) else image.file.read()
        return data

    def predict(self, data: bytes) -> list[dict[str, Any]]:
        return self.classifier.classify(data)

    def encode_response(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output


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
