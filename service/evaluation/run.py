"""Run models on a data set, on all cores. Each picture is read and decoded only once for all models."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from queue import Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import InputSpec
from models.zoo.files import read_regular
from models.zoo.preprocess import preprocess, shorter_side
from service.errors import ModelUnavailable, WeighinError, error_words
from service.evaluation.average_precision import Detections
from service.evaluation.classification import Prediction
from service.evaluation.corruption import corrupted_views, view_of
from service.evaluation.dataset import Dataset, Picture
from service.evaluation.outcomes import (
    detections_in,
    found_by,
    is_complete,
    predicted_by,
    prediction_in,
    set_versions_right,
    versions_right,
)
from service.evaluation.progress import Progress
from service.inference.decoding.decode import DecodedImage
from service.inference.loading import ServedModel
from service.inference.pipeline import load_image, to_tensor

_GRAPH = {"name", "layout", "dtype", "batch"}
"""Fields of an input that only the session reads. Models whose inputs differ only in these fields share a
tensor."""
_IN_FLIGHT = 4
"""Maximum number of pictures per core whose results wait in the queue."""

Show = Callable[[int], None]
"""Function that shows the progress. It is called with the number of pictures that are done."""


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    `ids`: the model's class id for each of the data set's classes that it knows.
    """

    model: ServedModel
    ids: Mapping[str, int]

    @property
    def detects(self) -> bool:
        """Whether the model is a detector."""
        return self.model.decoder is not None

    def counts(self, picture: Picture) -> bool:
        """Return whether the picture counts for this model. For a detector, every picture does."""
        return self.detects or picture.class_name in self.ids


@dataclass(frozen=True)
class Seen:
    """A listed picture after it was read.

    `problem`: why the picture cannot be used. It is None if the picture can be used. `changed`: whether the
    file has changed since it was listed. `outcomes`: what the models have computed for the content that was
    read, in the form that `Progress` saves. They are found by the hash that `_key` returns for a model.
    """

    picture: Picture
    sha256: str = ""
    problem: str | None = None
    changed: bool = False
    outcomes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a run of the models on a data set has done.

    `seen`: the pictures that are done, in the order of the data set. `failed`: models whose run failed, with
    the reason. `interrupted`: whether pictures were left out because the run was stopped. `computed`: number
    of pictures for which at least one model ran. `seconds`: time of the whole run. `inference_s`: time that
    all threads spent in sessions, in seconds.
    """

    seen: tuple[Seen, ...]
    failed: Mapping[str, str]
    interrupted: bool
    computed: int
    seconds: float
    inference_s: float


class Runner:
    """Runs the models of `subjects` on the pictures of a data set."""

    def __init__(
        self,
        dataset: Dataset,
        subjects: Sequence[Subject],
        progress: Progress,
        *,
        threads: int,
        max_pixels: int,
        corruptions: bool = False,
    ) -> None:
        """Prepare a run.

        `corruptions`: whether to classify each picture also with every corruption at every severity.
        """
        self._dataset = dataset
        self._progress = progress
        self._threads = threads
        self._max_pixels = max_pixels
        self._corruptions = corruptions
        self._specs = tuple(subject.model.card.input for subject in subjects)
        side = shorter_side(*self._specs)
        self._keys = {subject.model.name: _key(subject.model, side) for subject in subjects}
        self._subjects = tuple(subjects)
        self._tensors = {subject.model.name: _tensor_key(subject.model.card.input) for subject in subjects}
        self._lock = threading.Lock()
        self._claimed: set[str] = set()
        self._failed: dict[str, str] = {}
        self._inference_ns = 0

    def run(self, show: Show, stop: threading.Event) -> Run:
        """Run the models on all pictures. Once `stop` is set, finish the pictures in progress and end."""
        start = time.perf_counter()
        results: Queue[tuple[int, Seen | BaseException] | None] = Queue(_IN_FLIGHT * self._threads)
        remaining = iter(enumerate(self._dataset.pictures))
        halt = threading.Event()
        threads = [
            threading.Thread(target=self._work, args=(remaining, results, stop, halt), name=f"evaluate-{i}")
            for i in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        seen: dict[int, Seen] = {}
        computed, running, error = 0, len(threads), None
        try:
            while running:
                result = results.get()
                if result is None:
                    running -= 1
                    continue
                number, value = result
                if isinstance(value, BaseException):
                    halt.set()
                    error = value
                    continue
                self._progress.add(value.sha256, value.outcomes)
                computed += bool(value.outcomes)
                seen[number] = replace(value, outcomes={})
                show(len(seen))
        finally:
            halt.set()
            while running:  # empty the queue, because a thread may wait for room in it
                running -= results.get() is None
        self._progress.flush()
        if error is not None:
            raise error
        return Run(
            tuple(seen[number] for number in sorted(seen)),
            dict(self._failed),
            len(seen) < len(self._dataset.pictures),
            computed,
            time.perf_counter() - start,
            self._inference_ns / 1e9,
        )

    def prediction(self, subject: Subject, sha256: str) -> Prediction | None:
        """Return a classifier's prediction for the picture with this SHA-256.

        Return None if the classifier has not run on the picture.
        """
        kept = self._kept(subject, sha256)
        return None if kept is None else prediction_in(kept)

    def detections(self, subject: Subject, sha256: str) -> Detections | None:
        """Return a detector's detections in the picture with this SHA-256.

        Return None if the detector has not run on the picture.
        """
        kept = self._kept(subject, sha256)
        return None if kept is None else detections_in(kept)

    def corrupted(self, subject: Subject, sha256: str) -> NDArray[np.bool_] | None:
        """Return whether a classifier is right on each corrupted version of the picture with this SHA-256.

        The result is bool (corruptions, severities). It is None if the classifier has not run on these
        versions.
        """
        kept = self._kept(subject, sha256)
        return None if kept is None else versions_right(kept)

    def _kept(self, subject: Subject, sha256: str) -> Any:
        return self._progress.of(sha256).get(self._keys[subject.model.name])

    def _work(
        self,
        remaining: Iterator[tuple[int, Picture]],
        results: Queue[tuple[int, Seen | BaseException] | None],
        stop: threading.Event,
        halt: threading.Event,
    ) -> None:
        """Main loop of a thread. It puts None into `results` when it ends."""
        try:
            while not (stop.is_set() or halt.is_set()):
                with self._lock:
                    number, picture = next(remaining, (-1, None))
                if picture is None:
                    break
                try:
                    results.put((number, self._see(picture)))
                except BaseException as error:  # raised again by `run`
                    results.put((number, error))
        finally:
            results.put(None)

    def _see(self, picture: Picture) -> Seen:
        try:
            data = read_regular(picture.path)
            status = picture.path.stat()
        except FileNotFoundError:
            return Seen(picture, problem="is gone, though it was listed")
        except OSError as error:
            return Seen(picture, problem=error_words(error))
        sha256 = hashlib.sha256(data).hexdigest()
        changed = (status.st_size, status.st_mtime_ns) != (picture.size, picture.mtime_ns)
        seen = Seen(picture, sha256, changed=changed)
        known = self._progress.of(sha256)
        pending = [
            subject
            for subject in self._subjects
            if subject.counts(picture)
            and subject.model.name not in self._failed
            and not self._is_known(known, subject, picture)
        ]
        with self._lock:
            first = sha256 not in self._claimed
            self._claimed.add(sha256)
        if known and not (first and pending) and picture.declared is None:
            return seen
        try:
            image = load_image(data, *self._specs, max_pixels=self._max_pixels)
        except WeighinError as error:
            return replace(seen, problem=error.detail)
        size = (image.width, image.height)
        if picture.declared not in (None, size):
            annotated = " x ".join(map(str, picture.declared or ()))
            return replace(seen, problem=f"annotated as {annotated}, is {size[0]} x {size[1]} pixels")
        if not first:
            return seen
        return replace(seen, outcomes=self._outcomes(image, picture, sha256, pending))

    def _is_known(self, known: Mapping[str, Any], subject: Subject, picture: Picture) -> bool:
        """Return whether the model's outcome for this picture is known.

        A classifier's outcome must be for the same true class, and include corruptions if they are needed.
        """
        kept = known.get(self._keys[subject.model.name])
        if kept is None or subject.detects:
            return kept is not None
        return is_complete(kept, _true_class(subject, picture), self._corruptions)

    def _outcomes(
        self, image: DecodedImage, picture: Picture, sha256: str, subjects: Sequence[Subject]
    ) -> dict[str, Any]:
        tensors: dict[str, NDArray[np.float32]] = {}
        outcomes: dict[str, Any] = {}
        for subject in subjects:
            card = subject.model.card
            key = self._tensors[card.name]
            if key not in tensors:
                tensors[key] = to_tensor(image, card.input)
            outputs = self._outputs(subject, tensors[key], picture)
            if outputs is None:
                continue
            if subject.detects:
                outcome: Any = found_by(subject.model, outputs, image)
            else:
                outcome = predicted_by(subject.model, outputs["logits"], _true_class(subject, picture))
            outcomes[self._keys[card.name]] = outcome
        if self._corruptions:
            self._corrupt(image, picture, sha256, subjects, outcomes)
        return outcomes

    def _outputs(
        self, subject: Subject, tensor: NDArray[np.float32], picture: Picture
    ) -> dict[str, NDArray[Any]] | None:
        """Run a model on one tensor, and return the outputs without the batch dimension.

        Return None if the run fails.
        """
        model = subject.model
        start = time.perf_counter_ns()
        try:
            outputs = model.session.run(tensor, model.card.main_outputs)
        except ModelUnavailable:
            self._failed.setdefault(model.name, f"failed on {picture.key}: {model.session.failure}")
            return None
        finally:
            spent = time.perf_counter_ns() - start
            with self._lock:
                self._inference_ns += spent
        return {name: value[0] for name, value in outputs.items()}

    def _corrupt(
        self,
        image: DecodedImage,
        picture: Picture,
        sha256: str,
        subjects: Sequence[Subject],
        outcomes: dict[str, Any],
    ) -> None:
        """Classify the corrupted versions of a picture with each model.

        The outcome of a model then also tells for each version whether the model classified it correctly.
        """
        views: dict[Any, list[Subject]] = {}
        for subject in subjects:
            if self._keys[subject.model.name] in outcomes:
                views.setdefault(view_of(subject.model.card.input), []).append(subject)
        for view, same_view in views.items():
            masks = dict.fromkeys((subject.model.name for subject in same_view), 0)
            for bit, pixels in enumerate(corrupted_views(image, view, seed=int(sha256[:8], 16))):
                tensors: dict[str, NDArray[np.float32]] = {}
                for subject in same_view:
                    name, spec = subject.model.name, subject.model.card.input
                    key = self._tensors[name]
                    if key not in tensors:
                        tensors[key] = preprocess(pixels, spec)
                    outputs = self._outputs(subject, tensors[key], picture)
                    if outputs is not None:
                        right = int(outputs["logits"].argmax()) == _true_class(subject, picture)
                        masks[name] |= right << bit
            for name, mask in masks.items():
                set_versions_right(outcomes[self._keys[name]], mask)


def _true_class(subject: Subject, picture: Picture) -> int:
    assert picture.class_name is not None
    return subject.ids[picture.class_name]


def _key(model: ServedModel, side: int) -> str:
    """Return a hash of everything that affects a model's outcome, except for the picture.

    This is the model file, some fields of the card, and `side`, which is the length in pixels that the
    shorter side of a decoded picture must have at least.
    """
    card = model.card
    read = card.model_dump_json(include={"input", "outputs", "detection", "classes"})
    return hashlib.sha256(json.dumps([model.version, read, side]).encode()).hexdigest()[:16]


def _tensor_key(spec: InputSpec) -> str:
    return spec.model_dump_json(exclude=_GRAPH)


def listing_changes(before: Dataset, after: Dataset) -> tuple[list[str], list[str]]:
    """Compare two listings of a data set.

    Return the keys of the pictures that only `after` has, and of the pictures whose truth has changed.
    """
    known = {picture.key: picture for picture in before.pictures}
    appeared = [picture.key for picture in after.pictures if picture.key not in known]
    relabelled = [
        picture.key
        for picture in after.pictures
        if picture.key in known and _truth(picture) != _truth(known[picture.key])
    ]
    return appeared, relabelled


def _truth(picture: Picture) -> tuple[Any, ...]:
    return picture.class_name, picture.boxes
