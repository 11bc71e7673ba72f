"""Run networks for /v2. Each image of a batch is a job on the pool, recorded as on the other routes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import InputSpec
from models.zoo.preprocess import value_range
from service.api.v2 import tensors
from service.api.v2.tensors import Wanted
from service.api.v2.wire import Batch, Values
from service.errors import ClientGone, InvalidInferenceRequest, ModelUnavailable, QueueFull, WeighinError
from service.inference.classify import most_probable, probabilities
from service.inference.detect import DetectPlan, Found
from service.inference.loading import ServedModel
from service.inference.pipeline import load_image, run_model
from service.inference.pool import CorePool, Deadline
from service.latency.recorder import Recorder
from service.latency.stages import Durations, Stage, Stopwatch

_RETRY_INTERVAL_S = 0.05

_OF_ALL_IMAGES: tuple[Stage, ...] = ("queue", "decode", "preprocess", "inference")
"""Stages of an image that are recorded, whichever outputs are wanted.

They take as long as on the other routes. Later stages are recorded only if they are those of another route.
"""
_OF_TENSORS: tuple[Stage, ...] = ("queue", "inference")


@dataclass(frozen=True)
class Plan:
    """What to compute for each image of a request.

    `wanted`: the outputs that the request asks for. `detection`: how to find objects, or None if no objects
    are wanted.
    """

    model: ServedModel
    wanted: Sequence[Wanted]
    detection: DetectPlan | None

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The outputs of the network that are needed, by their names in the card."""
        named = dict.fromkeys(one.output.role for one in self.wanted if one.output.role is not None)
        main = self.model.card.main_outputs
        computed = any(one.output.role is None for one in self.wanted)
        return tuple(dict.fromkeys((*(main if computed else ()), *named)))

    @cached_property
    def like_a_route(self) -> bool:
        """Whether an image goes through the same stages as on `/classify` or `/detect`."""
        card = self.model.card
        return set(self.roles) <= set(card.main_outputs) and (
            card.detection is None or self.detection is not None
        )


class BatchRunner:
    """Runs each image or tensor of a request as a job, so that jobs of other requests can run in between.

    The number of jobs that one request has queued or running is at most the number of the pool's threads. A
    whole batch in one run of the network would be no faster per image (see docs/measurement.md), and would
    give no durations per image.
    """

    def __init__(self, pool: CorePool, recorder: Recorder, *, max_pixels: int, max_batch: int) -> None:
        self.pool = pool
        self.max_batch = max_batch
        self._recorder = recorder
        self._max_pixels = max_pixels

    async def run(
        self, plan: Plan, batch: Batch, deadline: Deadline
    ) -> tuple[list[Values], Durations | None]:
        """Return the wanted outputs of each image. If there is only one image, also return its durations.

        Raises the errors of `decode`, with the number of the image, and the errors of `CorePool.run`.
        QueueFull is raised only if there is no room for the first image; the other images wait for room. For
        a batch, ClientGone is also raised while images run.
        """
        if len(batch) == 1:
            values, durations = await self._one(plan, batch, 0, deadline)
            return [values], durations
        results: list[Values] = [{}] * len(batch)
        numbers = iter(range(len(batch)))

        async def work() -> None:
            for number in numbers:
                results[number], _ = await self._one(plan, batch, number, deadline)

        try:
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(work()) for _ in range(min(self.pool.threads, len(batch)))]
                watch = group.create_task(_watch(deadline))
                await asyncio.wait(workers)
                watch.cancel()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return results, None

    async def _one(
        self, plan: Plan, batch: Batch, number: int, deadline: Deadline
    ) -> tuple[Values, Durations]:
        while True:
            stopwatch = Stopwatch()  # starts when it is this image's turn
            if isinstance(batch, list):
                job = partial(self._image, plan, batch, number, stopwatch)
            else:
                job = partial(self._tensor, plan, batch, number, stopwatch)
            try:
                return await self.pool.run(job, deadline)
            except QueueFull:
                if number == 0:
                    raise
                await asyncio.sleep(_RETRY_INTERVAL_S)  # as in gallery_bulk.py: single requests go first

    def _image(
        self, plan: Plan, batch: Sequence[bytes], number: int, stopwatch: Stopwatch
    ) -> tuple[Values, Durations]:
        stopwatch.lap("queue")
        model = plan.model
        try:
            image = load_image(
                batch[number], model.card.input, max_pixels=self._max_pixels, stopwatch=stopwatch
            )
        except WeighinError as error:
            if len(batch) == 1:
                raise
            raise type(error)(f"image {number}: {error.detail}") from None
        outputs = run_model(model, image, plan.roles, stopwatch)
        found: tuple[Found, ...] = ()
        if plan.detection is not None:
            found = plan.detection.objects(outputs, image, stopwatch)
        values = _values(plan, outputs, found)
        if plan.detection is None:
            stopwatch.lap("postprocess")
        return values, self._recorded(plan, stopwatch, None if plan.like_a_route else _OF_ALL_IMAGES)

    def _tensor(
        self, plan: Plan, batch: NDArray[Any], number: int, stopwatch: Stopwatch
    ) -> tuple[Values, Durations]:
        stopwatch.lap("queue")
        tensor = _images(batch[number : number + 1], plan.model.card.input)
        if not math.isfinite(tensor.sum(dtype=np.float64)):  # one pass, as in `output_problem`
            others = tensor.size - np.count_nonzero(np.isfinite(tensor))
            raise InvalidInferenceRequest(
                f"input '{plan.model.card.input.name}': not finite: {others} of {tensor.size} numbers"
            )
        stopwatch.lap("preprocess")
        session = plan.model.session_for(plan.roles)
        failure = session.failure
        try:
            outputs = session.run(tensor, plan.roles)
        except ModelUnavailable as error:
            low, high = value_range(plan.model.card.input)
            room = 0.01 * (high - low)
            low, high = low - room, high + room
            if ((tensor >= low) & (tensor <= high)).all():
                raise
            session.failure = failure  # the client's numbers are to blame, not the model
            raise InvalidInferenceRequest(
                f"input '{plan.model.card.input.name}': numbers that no image gives "
                f"({low:.4g} to {high:.4g}): {error.detail}"
            ) from None
        stopwatch.lap("inference")
        values = _values(plan, {role: value[0] for role, value in outputs.items()}, ())
        stopwatch.lap("postprocess")
        return values, self._recorded(plan, stopwatch, _OF_TENSORS)

    def _recorded(self, plan: Plan, stopwatch: Stopwatch, stages: Sequence[Stage] | None) -> Durations:
        """Record the durations of an image or tensor, and return all of them.

        If `stages` is None, all stages and their total are recorded. Otherwise, only `stages` are recorded.
        """
        durations = stopwatch.stop()
        model = plan.model
        kept: Durations = durations
        if stages is not None:
            kept = {stage: durations[stage] for stage in stages}
        label = model.session_for(plan.roles).label
        self._recorder.record(model.name, "live", kept, model.version, label)
        return durations


async def _watch(deadline: Deadline) -> None:
    """Raise ClientGone once the client disconnects."""
    if deadline.disconnected is not None:
        await deadline.disconnected()
        raise ClientGone("client: disconnected while its batch ran")


def _images(tensor: NDArray[Any], spec: InputSpec) -> NDArray[np.float32]:
    """Copy a tensor from the graph's layout to aligned float32 (N, channels, height, width)."""
    moved = tensor.transpose(0, 3, 1, 2) if spec.layout == "nhwc" else tensor
    return np.array(moved, np.float32, order="C")


def _values(plan: Plan, outputs: Mapping[str, NDArray[Any]], found: Sequence[Found]) -> Values:
    """Return the wanted outputs of one image, from the network's outputs and the objects that were found."""
    card = plan.model.card
    values: Values = {}
    shares: NDArray[np.float32] | None = None
    for one in plan.wanted:
        if one.output.role is None and card.detection is None and shares is None:
            shares = _probabilities(plan.model, outputs["logits"])
        if one.output.role is not None:
            value = outputs[one.output.role]
        elif card.detection is None:
            value = cast(NDArray[Any], shares)
        elif one.name == tensors.LABELS:
            values[one.name] = [each.label for each in found]
            continue
        else:
            value = _objects(one, found)
        if one.top:
            ids = most_probable(outputs["logits"], one.top).tolist()
            values[one.name] = [f"{value[number]:f}:{number}:{plan.model.labels[number]}" for number in ids]
        else:
            values[one.name] = value
    return values


def _probabilities(model: ServedModel, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    every = np.arange(len(logits))
    multi_label = model.card.outputs.get("multi_label", False)
    return probabilities(logits, every, model.session.activation, multi_label=multi_label).astype(np.float32)


def _objects(wanted: Wanted, found: Sequence[Found]) -> NDArray[Any]:
    """Return the detector's output `wanted` for one image, from the objects that were found."""
    match wanted.name:
        case tensors.COUNTS:
            return np.array(len(found), np.int64)
        case tensors.CLASS_IDS:
            return np.array([each.class_id for each in found], np.int64)
        case tensors.SCORES:
            return np.array([each.score for each in found], np.float32)
        case tensors.BOXES:
            return np.array([each.box for each in found], np.float32).reshape(-1, 4)
    points = wanted.output.shape[2]
    return np.array([each.landmarks for each in found], np.float32).reshape(-1, points, 2)
