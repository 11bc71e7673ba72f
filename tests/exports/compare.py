"""An export added, served and compared with what its framework answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from service.inference.pipeline import load_image, run_model
from service.inference.registry import ServedModel
from tests.exports.networks import Export

MAX_PIXELS = 1_000_000


@dataclass(frozen=True)
class Comparison:
    """How far the answers are from the framework's, in standard deviations of its logits over the pictures.

    `same_tensor`: of the served file on the framework's own tensors. `pictures`: of the served file on the
    PNG files. `expected`, `named`: the most probable class of each file, by the framework and by the service.
    """

    same_tensor: float
    pictures: float
    expected: tuple[int, ...]
    named: tuple[int, ...]


def compare(
    export: Export, model: ServedModel, client: httpx.Client, photographs: Sequence[Path]
) -> Comparison:
    """Compare a served model with its framework on each photograph, as a tensor and as a file."""
    theirs, ours, pictured, named = [], [], [], []
    offset, softmax = model.card.class_offset, model.card.outputs.get("activation") == "softmax"
    for path in photographs:
        tensor = export.prepare(path)
        theirs.append(export.scores(tensor)[0, offset:])
        image = tensor.transpose(0, 3, 1, 2) if model.card.input.layout == "nhwc" else tensor
        image = np.ascontiguousarray(image, np.float32)
        ours.append(model.session.run(image)["logits"][0])
        content = path.read_bytes()
        picture = load_image(content, model.card.input, max_pixels=MAX_PIXELS)
        pictured.append(run_model(model, picture)["logits"])
        named.append(_top_1(client, model.name, content))
    logits = _logits(theirs, softmax=softmax)
    return Comparison(
        same_tensor=_deviation(logits, _logits(ours, softmax=softmax)),
        pictures=_deviation(logits, _logits(pictured, softmax=softmax)),
        expected=tuple(map(int, logits.argmax(1))),
        named=tuple(named),
    )


def _top_1(client: httpx.Client, model: str, content: bytes) -> int:
    """Return the class that the service names first for a file."""
    answer = client.post("/classify", params={"model": model, "top_k": 1}, content=content)
    answer.raise_for_status()
    class_id: int = answer.json()["predictions"][0]["class_id"]
    return class_id


def _logits(scores: Sequence[NDArray[Any]], *, softmax: bool) -> NDArray[Any]:
    """Return logits from scores; of probabilities, those with a mean of 0."""
    if not softmax:
        return np.array(scores)
    logits = np.log(scores)
    centred: NDArray[Any] = logits - logits.mean(1, keepdims=True)
    return centred


def _deviation(logits: NDArray[Any], others: NDArray[Any]) -> float:
    return float(np.abs(logits - others).max() / logits.std())
