"""Detect objects: run one detector on an image and return the boxes it finds."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Card
from models.zoo.display import comma_list
from service.errors import InvalidParameter
from service.inference.decoding.decode import DecodedImage
from service.inference.detection.decoders import BoxDecoder
from service.inference.detection.geometry import Transformation
from service.inference.detection.suppression import suppress
from service.inference.loading import ServedModel
from service.inference.pipeline import load_image, run_model
from service.inference.pool import CorePool, Deadline
from service.inference.runtimes.base import RuntimeName
from service.latency.recorder import Recorder
from service.latency.stages import Durations, Regime, Stopwatch

_MOST_LABELS = 10
"""Maximum number of labels in a message."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object in an image. `box`: left, top, right, bottom. `landmarks`: x and y of each landmark.

    The coordinates are in pixels of the upright image before scaling. The box lies within this image.
    Landmarks may lie outside of it.
    """

    class_id: int
    label: str
    score: float
    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that `POST /detect` and `weighin detect --json` give for this object."""
        return {
            "class_id": self.class_id,
            "label": self.label,
            "score": round(self.score, 6),
            "box": box_json(self.box),
            "landmarks": [{"x": x, "y": y} for x, y in self.landmarks],
        }


def box_json(box: tuple[float, float, float, float]) -> dict[str, float]:
    """Return the JSON object of a box."""
    return dict(zip(("left", "top", "right", "bottom"), box, strict=True))


@dataclass(frozen=True)
class DetectPlan:
    """A validated request for a detection, as `detect_plan` returns it.

    `classes`: ids of the classes whose objects are returned. None stands for all classes.
    """

    model: ServedModel
    min_score: float
    max_detections: int
    classes: frozenset[int] | None = None

    def objects(
        self, outputs: Mapping[str, NDArray[Any]], image: DecodedImage, stopwatch: Stopwatch
    ) -> tuple[Found, ...]:
        """Decode the model's `outputs` for one image, and return the objects (see `objects_in`)."""
        model = self.model
        assert model.decoder is not None
        return objects_in(
            outputs,
            image,
            model.card,
            model.decoder,
            model.labels,
            stopwatch,
            min_score=self.min_score,
            max_detections=self.max_detections,
            classes=self.classes,
        )


@dataclass(frozen=True)
class Detected:
    """Objects that one model finds in one image, best first, with durations per stage in nanoseconds."""

    model: str
    runtime: RuntimeName
    precision: str
    image: DecodedImage
    objects: tuple[Found, ...]
    durations: Durations


def detect_plan(
    model: ServedModel,
    min_score: float | None = None,
    max_detections: int | None = None,
    classes: Sequence[str] | None = None,
) -> DetectPlan:
    """Check the parameters of a detection and return them as a plan.

    If `min_score` or `max_detections` is None, the value in the card is used. `classes`: labels or class ids.
    None stands for all classes. Raises InvalidParameter if `min_score` is not within 0 to 1, if
    `max_detections` is not within 1 to the card's number of candidates, and for an unknown class.
    """
    detection = model.card.detection
    assert detection is not None
    if min_score is not None and not 0 <= min_score <= 1:
        raise InvalidParameter(f"min_score {min_score:g}: out of range (allowed: 0 to 1)")
    if max_detections is not None and not 1 <= max_detections <= detection.candidates:
        raise InvalidParameter(
            f"max_detections {max_detections}: out of range (allowed: 1 to {detection.candidates})"
        )
    return DetectPlan(
        model,
        detection.min_score if min_score is None else min_score,
        detection.max_detections if max_detections is None else max_detections,
        None if classes is None else _class_ids(model, classes),
    )


def _class_ids(model: ServedModel, classes: Sequence[str]) -> frozenset[int]:
    """Return the ids of the given classes. A class is given by its label, in any case, or by its id.

    A label that several classes share stands for all of these classes. A request's list of classes has been
    split at commas. This has also split every label that contains commas. So consecutive items count as one
    label if they give a label of the model when they are joined with commas. If several such labels begin
    with the same item, the longest one counts. Raises InvalidParameter for a class that the model does not
    have, and if `classes` is empty.
    """
    if not classes:
        raise InvalidParameter("classes: empty (leave it out for all)")
    ids: dict[str, list[int]] = {}
    for number, label in enumerate(model.labels):
        ids.setdefault(_key(label), []).append(number)
    longest = max(name.count(",") for name in ids) + 1
    for number in range(len(model.labels)):
        ids.setdefault(str(number), [number])
    chosen: set[int] = set()
    start = 0
    while start < len(classes):
        for end in range(min(start + longest, len(classes)), start, -1):
            numbers = ids.get(_key(",".join(classes[start:end])))
            if numbers is not None:
                chosen.update(numbers)
                start = end
                break
        else:
            raise InvalidParameter(_unknown_class(model, classes[start]))
    return frozenset(chosen)


def _key(label: str) -> str:
    """Return the form of a label in which labels are compared: in lower case, with uniform commas."""
    return ",".join(comma_list(label)).casefold() or label.casefold()


def _unknown_class(model: ServedModel, given: str) -> str:
    """Return the message for a class that the model does not have."""
    given = given[:100]
    labels = {label.casefold(): label for label in reversed(model.labels)}
    matches = difflib.get_close_matches(given.casefold(), labels, _MOST_LABELS)
    close = [labels[match] for match in matches] or model.labels[:_MOST_LABELS]
    more = len(model.labels) - len(close)
    return (
        f"classes: '{given}' unknown to model '{model.name}' (allowed: {', '.join(close)}"
        f"{f', {more} others' if more else ''}, or ids 0 to {len(model.labels) - 1})"
    )


def find_objects(plan: DetectPlan, image: DecodedImage, stopwatch: Stopwatch) -> tuple[Found, ...]:
    """Run the detector of a plan on one image, and return the objects, highest score first.

    Objects with equal scores are in the order of the network's outputs.

    Times the stages `preprocess`, `inference`, `postprocess` (from outputs to boxes in the image) and `nms`.
    Raises ModelUnavailable if the run fails.
    """
    outputs = run_model(plan.model, image, plan.model.card.main_outputs, stopwatch)
    return plan.objects(outputs, image, stopwatch)


def objects_in(
    outputs: Mapping[str, NDArray[Any]],
    image: DecodedImage,
    card: Card,
    decoder: BoxDecoder,
    labels: Sequence[str],
    stopwatch: Stopwatch | None = None,
    *,
    min_score: float | None = None,
    max_detections: int | None = None,
    classes: frozenset[int] | None = None,
) -> tuple[Found, ...]:
    """Decode a detector's `outputs` for one image, without batch dimension, and return the objects.

    If `min_score` or `max_detections` is None, the value in the card is used. If `classes` is None, the
    objects of all classes are returned. Times the stages `postprocess` and `nms`.
    """
    stopwatch = stopwatch or Stopwatch()
    detection = card.detection
    assert detection is not None
    least = detection.min_score if min_score is None else min_score
    candidates = decoder.decode(outputs, least, detection.candidates, classes)
    transformation = Transformation.of(card.input, image.box, (image.width, image.height))
    boxes = transformation.boxes(candidates.boxes)
    valid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # boxes with an area
    points = np.zeros((len(boxes), 0, 2))
    if candidates.landmarks is not None:
        points = transformation.points(candidates.landmarks)
        # Landmarks of an enormous box may be infinite, which JSON cannot hold.
        valid = valid & np.isfinite(points).all(axis=(1, 2))
    rows = np.flatnonzero(valid)
    stopwatch.lap("postprocess")
    limit = max_detections or detection.max_detections
    kept = suppress(boxes[rows], candidates.class_ids[rows], detection.iou, detection.suppression, limit)
    rows = rows[kept]
    found = tuple(
        Found(class_id, labels[class_id], score, tuple(box), tuple((x, y) for x, y in landmarks))
        for class_id, score, box, landmarks in zip(
            candidates.class_ids[rows].tolist(),
            candidates.scores[rows].tolist(),
            boxes[rows].tolist(),
            points[rows].tolist(),
            strict=True,
        )
    )
    stopwatch.lap("nms")
    return found


class Detector:
    """Detects objects on the pool and records the latency of each stage."""

    def __init__(
        self, pool: CorePool, recorder: Recorder, *, max_pixels: int, regime: Regime = "live"
    ) -> None:
        """Use `regime` for all recorded latencies."""
        self._pool = pool
        self._recorder = recorder
        self._max_pixels = max_pixels
        self._regime = regime

    async def detect(self, data: bytes, plan: DetectPlan, deadline: Deadline) -> Detected:
        """Return the objects in the image in `data`.

        Raises the errors of `decode` and of `CorePool.run`.
        """
        stopwatch = Stopwatch()
        model = plan.model

        def job() -> Detected:
            stopwatch.lap("queue")
            image = load_image(data, model.card.input, max_pixels=self._max_pixels, stopwatch=stopwatch)
            objects = find_objects(plan, image, stopwatch)
            durations = stopwatch.stop()
            ran = model.predictor
            self._recorder.record(model.name, self._regime, durations, model.version, ran.label)
            return Detected(model.name, ran.runtime, ran.precision, image, objects, durations)

        return await self._pool.run(job, deadline)
