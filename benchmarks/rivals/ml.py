"""MLServer: a custom runtime for the V2 inference protocol, with the image as base64 in JSON.

`mlserver start FOLDER` loads the class that `model-settings.json` names. MLServer runs it in one worker
process per core (`parallel_workers`). The protocol has neither forms nor raw bodies.
"""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.rivals.classifier import Classifier


class ImageClassifier(MLModel):
    """Returns the most probable classes of an image."""

    async def load(self) -> bool:
        self.classifier = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (data,) = self.decode(payload.inputs[0])
        classes = self.classifier.classify(data)
        probabilities = np.array([row["probability"] for row in classes])
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                StringCodec.encode_output("label", [row["label"] for row in classes], use_bytes=False),
                NumpyCodec.encode_output("probability", probabilities),
            ],
        )
