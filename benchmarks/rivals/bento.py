"""BentoML: the image in a form, or as raw body (the root input). `bentoml serve` loads this module.

There is one worker process per core. A worker runs one call at a time (`threads`). The image parameter is a
`PIL.Image` that is not decoded yet; its bytes are decoded by the service's decoder. A parameter of type
`Path` would be slower, because BentoML would write the image to disk first.
"""

from __future__ import annotations

from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from PIL.Image import Image

from benchmarks.rivals.classifier import Classifier
from service.inference.cpu import core_budget


@bentoml.service(workers=core_budget(), threads=1, logging={"access": {"enabled": False}})
class Classify:
    """Returns the most probable classes of an image."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api(route="/classify")
    def classify(self, image: Image) -> list[dict[str, Any]]:
        return self._classify(image)

    @bentoml.api(route="/classify/raw")
    def classify_raw(self, image: Annotated[Image, ContentType("image/jpeg")], /) -> list[dict[str, Any]]:
        return self._classify(image)

    def _classify(self, image: Any) -> list[dict[str, Any]]:
        image.fp.seek(0)
        return self.classifier.classify(image.fp.read())
