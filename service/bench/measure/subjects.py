"""What a benchmark can run: a network, the inference pipeline, or a service. Each run is timed per stage."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Card, Task
from service.bench.bundle import BenchStage
from service.errors import MeasurementFailed
from service.inference.detect import objects_in
from service.inference.detection.decoders import decoder_of
from service.inference.pipeline import load_image, run_network
from service.inference.runtimes.base import RUNTIMES, RuntimeName
from service.latency.stages import Stopwatch

Run = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]
"""Function that runs a network, like `Session.run`.

It gets a preprocessed image, float32 (1, C, H, W), and returns the card's main outputs by name.
"""
StageTimes = dict[BenchStage, int]
_SERVICE_STAGES: tuple[BenchStage, ...] = (
    "queue",
    "decode",
    "preprocess",
    "inference",
    "postprocess",
    "total",
)
_OWN_STAGES: tuple[Literal["decode", "preprocess", "inference", "postprocess", "nms", "total"], ...] = (
    "decode",
    "preprocess",
    "inference",
    "postprocess",
    "nms",
    "total",
)


class Subject(Protocol):
    """A subject is what a benchmark runs and times. Several threads may call `run` at the same time."""

    def run(self, number: int) -> StageTimes:
        """Run once on one of the inputs, and return the nanoseconds of each stage.

        `number` chooses the input; numbers beyond the last input start again at the first.
        """


class BareSession:
    """The network alone, which gets preprocessed tensors. The only stage is `inference`."""

    def __init__(self, run: Run, tensors: Sequence[NDArray[np.float32]], extra_work: int = 0) -> None:
        self._run = run
        self._tensors = tensors
        self._extra_work = extra_work
        self._vector = np.ones(8192, np.float32)

    def run(self, number: int) -> StageTimes:
        """Run the network."""
        tensor = self._tensors[number % len(self._tensors)]
        start = time.perf_counter_ns()
        self._run(tensor)
        for _ in range(self._extra_work):
            np.dot(self._vector, self._vector)
        return {"inference": time.perf_counter_ns() - start}


class FromBytes:
    """The service's pipeline from the bytes of an image to the outputs of the network, run in this process.

    For a detector, the pipeline also finds the objects, with the card's threshold, and has the additional
    stages `postprocess` and `nms`.
    """

    def __init__(self, run: Run, card: Card, images: Sequence[bytes], max_pixels: int) -> None:
        self._run = run
        self._card = card
        self._decoder = None if card.detection is None else decoder_of(card)
        self._labels = [f"class {number}" for number in range(card.classes)]
        self._images = images
        self._max_pixels = max_pixels

    def run(self, number: int) -> StageTimes:
        """Decode, preprocess, run the network, and find the objects if it is a detector."""
        data = self._images[number % len(self._images)]
        stopwatch = Stopwatch()
        spec = self._card.input
        image = load_image(data, spec, max_pixels=self._max_pixels, stopwatch=stopwatch)
        values = run_network(self._run, spec, image, stopwatch)
        if self._decoder is not None:
            outputs = {name: value[0] for name, value in values.items()}
            objects_in(outputs, image, self._card, self._decoder, self._labels, stopwatch)
        laps = stopwatch.stop()
        return {stage: laps[stage] for stage in _OWN_STAGES if stage in laps}


def runtime_in_service(url: str, model: str) -> RuntimeName:
    """Return the runtime in which the service at `url` runs a model.

    Services of earlier releases do not state the runtime, and have only ONNX Runtime. Raises
    MeasurementFailed if the service does not answer, or has not loaded the model.
    """
    parts = urlsplit(url)
    connection = _connect(parts.scheme == "https", parts.netloc)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/models/{quote(model)}")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise MeasurementFailed(f"service at {parts.netloc}: no response: {error}") from None
    finally:
        connection.close()
    try:
        answer = json.loads(body)
        if response.status != http.client.OK:
            raise MeasurementFailed(_refused(parts.netloc, response.status, answer))
        if "runtime" not in answer:
            return "onnxruntime"
        if answer["runtime"] is None:
            raise MeasurementFailed(f"service at {parts.netloc}: model '{model}' is not loaded")
        return next(name for name in RUNTIMES if name == answer["runtime"]["name"])
    except (ValueError, KeyError, TypeError, StopIteration):
        raise MeasurementFailed(_foreign(parts.netloc, response.status)) from None


class ThroughService:
    """A model of a running service. Each thread keeps one connection to the service.

    The stage `round_trip` is measured here. The times of all other stages are stated in the service's
    response.
    """

    def __init__(
        self, url: str, model: str, images: Sequence[bytes], task: Task = "image-classification"
    ) -> None:
        parts = urlsplit(url)
        route = "classify?top_k=1&" if task == "image-classification" else "detect?"
        self._https = parts.scheme == "https"
        self._address = parts.netloc
        self._path = f"{parts.path.rstrip('/')}/{route}model={quote(model)}"
        self._images = images
        self._own = threading.local()
        self._opened: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """Close all connections. Call this only when nothing runs."""
        for connection in self._opened:
            connection.close()

    def run(self, number: int) -> StageTimes:
        """Post one image and return the nanoseconds of each stage.

        Raises MeasurementFailed if there is no response, or if the response does not fit the model's task.
        """
        data = self._images[number % len(self._images)]
        connection = self._connection()
        start = time.perf_counter_ns()
        try:
            connection.request("POST", self._path, data, {"Content-Type": "application/octet-stream"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise MeasurementFailed(f"service at {self._address}: no response: {error}") from None
        round_trip = time.perf_counter_ns() - start
        try:
            answer = json.loads(body)
            if response.status != http.client.OK:
                raise MeasurementFailed(_refused(self._address, response.status, answer))
            timings = answer["timings_ms"]
            times: StageTimes = {stage: int(timings[stage] * 1e6) for stage in _SERVICE_STAGES}
            if "nms" in timings:
                times["nms"] = int(timings["nms"] * 1e6)
        except (ValueError, KeyError, TypeError):
            raise MeasurementFailed(_foreign(self._address, response.status)) from None
        return times | {"round_trip": round_trip}

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = _connect(self._https, self._address)
            self._opened.append(connection)
        return connection


def _connect(https: bool, address: str) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
    return kind(address, timeout=30)


def _refused(address: str, status: int, problem: Mapping[str, Any]) -> str:
    return f"service at {address}: status {status}: {str(problem['detail'])[:300]}"


def _foreign(address: str, status: int) -> str:
    return f"service at {address}: status {status}, not a response of Weigh-in"
