"""BentoML: the image in a form, or as the root input of a raw body. `bentoml serve` loads it.

One worker process per core; a worker runs one call at a time (`threads`). An image parameter is a `PIL.Image`
that is not decoded yet: its bytes go to the service's decoder. A `Path` would be written to disk first, which
is slower.
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
