"""Weigh models in the background: compare answers and speed of OpenVINO and ONNX Runtime, and use the faster.

OpenVINO is used only if its answers agree with those of ONNX Runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import math
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image

from models.zoo.display import counted
from models.zoo.verdicts import MIN_DIFFERENCE, Estimate
from service.errors import (
    DeadlineExceeded,
    ModelUnavailable,
    QueueFull,
    StorageUnavailable,
    UnknownModel,
    WeighinError,
)
from service.inference.decoding.decode import DecodedImage
from service.inference.demo import PHOTOGRAPHS
from service.inference.detect import Found, objects_in
from service.inference.detection.matching import Seen, match_objects
from service.inference.loading import ServedModel
from service.inference.pipeline import load_image, to_tensor
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry
from service.inference.runtime_errors import one_line
from service.inference.runtimes.base import RuntimeName, Session, SessionError
from service.inference.runtimes.opening import is_installed, obstacle_of
from service.inference.runtimes.weighing import (
    MOST_DEVIATION,
    MOST_SCORE_DIFFERENCE,
    Answers,
    Weighing,
    is_faster,
    look,
)

PICTURES = 32
"""Number of pictures on which the answers of both runtimes are compared."""
ROUNDS, MORE_ROUNDS = 21, 42
"""Number of timed rounds, and of further rounds if OpenVINO looks faster but this is not yet significant. In
each round, both runtimes run equally often. Their order alternates from round to round."""
BLOCK_S = 0.01
"""Time for which the slower runtime runs in a round. The time is exceeded if a single run takes longer."""
COMPARE_S = 60.0
"""Total time of the comparison after which no further picture is run. So slow models are compared on fewer
pictures."""
MOST_RUN_S = 1.0
"""Longest time of a run. Models whose runs take longer are not timed, because requests wait during a round,
which has at least two runs."""
POLL_S = 1.0
"""Interval at which the weigher looks for models to weigh. If a benchmark or the demo runs, it is also the
interval at which the weigher checks whether it still runs."""
_WAIT_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
"""First and longest pause before the weigher retries a job that an overloaded pool has refused. Each pause is
twice as long as the pause before."""
_RETRY_S = 600.0
"""Time after which a weighing is retried if it failed for lack of memory, time or a readable file."""
_WARM_UP_LIMIT_S = 60.0

GalleryPictures = Callable[[int], AsyncIterator[bytes]]
"""Function that yields pictures of the gallery, one at a time. Its argument is the maximum number of
pictures. It raises StorageUnavailable."""

Source = Literal["gallery", "photograph", "noise"]

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Difference(NamedTuple):
    """How the answers of both runtimes for one picture differ.

    `same`: whether the top-1 class, or the objects, are the same. `deviation`: for a classifier, the largest
    difference of a logit, in standard deviations of the logits. For a detector, it is the largest difference
    of an object's score, or None if there is no object that both runtimes found.
    """

    same: bool
    deviation: float | None

    @property
    def empty(self) -> bool:
        """Whether neither runtime found an object."""
        return self.same and self.deviation is None


class RunFailed(Exception):
    """A run of a network failed in a runtime."""

    def __init__(self, runtime: RuntimeName, reason: str) -> None:
        self.runtime = runtime
        name = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[runtime]
        super().__init__(reason if reason.startswith(name) else f"{name}: {reason}")


class _MayPass(Exception):
    """A model cannot be weighed now, but perhaps later. The message gives the reason."""


class Weigher:
    """Compares the speed and answers of both runtimes in the background: it weighs one model at a time.

    It weighs the models for which the runtime `auto` is chosen. It also weighs the models that OpenVINO runs
    in another precision than the card's, or with other rounding than ONNX Runtime, because their answers may
    differ. Runs are jobs of the pool, so that live
    requests wait for one round at most. During a timed round, no other job runs. Call all methods from the
    event loop's thread.
    """

    def __init__(
        self,
        registry: Registry,
        pool: CorePool,
        gallery: GalleryPictures,
        *,
        max_pixels: int,
        busy: Callable[[], bool],
    ) -> None:
        """Prepare to weigh the models of `registry`.

        `busy`: whether a benchmark or the demo is running. Weighing would disturb them.
        """
        self._registry = registry
        self._pool = pool
        self._gallery = gallery
        self._max_pixels = max_pixels
        self._busy = busy
        self._failed: dict[str, tuple[ServedModel, float]] = {}
        """Models that could not be weighed, with the time of the next attempt, by name."""
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Start looking for models to weigh, if OpenVINO is installed and `stop` was not called."""
        if is_installed("openvino") and not self._stopped:
            self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Stop weighing. A job that already runs on the pool still runs to its end."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Stop weighing, and wait until this has happened."""
        self.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            model = self._next_due()
            if model is not None:
                try:
                    obstacle = await asyncio.to_thread(obstacle_of, "openvino")
                    if obstacle is not None:
                        log.warning("no model is weighed", reason=obstacle)
                        return
                    await self._weigh(model)
                    continue
                except UnknownModel:
                    pass  # removed meanwhile
                except _MayPass as error:
                    log.warning("weighing put off", model=model.name, reason=str(error))
                    self._put_off(model, _RETRY_S)
                except Exception:
                    log.exception("weighing failed", model=model.name)
                    self._put_off(model, math.inf)
            await asyncio.sleep(POLL_S)

    def _put_off(self, model: ServedModel, seconds: float) -> None:
        """Do not weigh the model for `seconds`, unless it is reloaded or a request chooses its runtime."""
        self._failed[model.name] = model, time.monotonic() + seconds

    def _next_due(self) -> ServedModel | None:
        """Return a model that is to be weighed, or None if there is none."""
        for model in self._registry.loaded:
            failed, until = self._failed.get(model.name, (None, 0.0))
            try:
                if (failed is not model or time.monotonic() >= until) and _is_due(model):
                    return model
            except Exception:
                log.exception("weighing failed", model=model.name)
                self._put_off(model, math.inf)
        return None

    async def _weigh(self, model: ServedModel) -> None:
        runner = model.runner
        try:
            if runner is None:
                await self._until_idle()
                runner = await asyncio.to_thread(self._open, model)
            # Copies, because a failed run sets `failure` of its session, and a weighing must not set it for
            # the sessions that serve requests.
            apart = replace(model, session=copy.copy(model.session))
            weighing = await self._measure(apart, copy.copy(runner))
        except (SessionError, RunFailed) as error:
            if is_passing(error):
                raise _MayPass(one_line(str(error))) from error
            refused = isinstance(error, SessionError) or error.runtime == "openvino"
            weighing = await asyncio.to_thread(
                self._result, model, problem=one_line(str(error)), refused=refused
            )
        await asyncio.to_thread(self._registry.keep_weighing, model, weighing, runner)

    async def _measure(self, model: ServedModel, runner: Session) -> Weighing:
        answers, tensor = await self._compare(model, runner)
        common = {"precision": runner.precision, "answers": answers}
        timed = await self._time(model.session, runner, tensor)
        if timed is None:
            problem = f"a run takes longer than {MOST_RUN_S:g} s"
            return await asyncio.to_thread(self._result, model, problem=problem, **common)
        estimate, times = timed
        return await asyncio.to_thread(
            self._result,
            model,
            onnxruntime_ms=round(statistics.median(times[0]) / 1e6, 4),
            openvino_ms=round(statistics.median(times[1]) / 1e6, 4),
            speedup=round(math.exp(estimate.mean), 4),
            low=round(math.exp(estimate.low), 4),
            high=round(math.exp(estimate.high), 4),
            faster=is_faster(estimate),
            **common,
        )

    def _open(self, model: ServedModel) -> Session:
        """Load the model in OpenVINO, and run it once. Raises SessionError and RunFailed."""
        try:
            runner = self._registry.open_in_openvino(model, floats=model.choice.floats)
        except ModelUnavailable as error:  # its file cannot be read, or has changed
            raise _MayPass(one_line(str(error))) from error
        runner.activation = model.session.activation
        _run(runner, _grey(model), limit_s=_WARM_UP_LIMIT_S)
        return runner

    def _result(self, model: ServedModel, **facts: object) -> Weighing:
        here = self._registry.conditions(model.card)
        named = {"model": model.name, "conditions": here, "floats": model.choice.floats}
        return Weighing.model_validate({**named, "at": datetime.now(UTC), **facts})

    async def _pictures(self) -> AsyncGenerator[tuple[Source, Callable[[], bytes]]]:
        """Yield PICTURES pictures: first pictures of the gallery, then bundled photographs, then noise.

        Each picture is a function that returns its bytes. Call it on a thread of the pool.
        """
        count = 0
        try:
            async for data in self._gallery(PICTURES):
                yield "gallery", lambda data=data: data  # type: ignore[misc]
                count += 1
        except StorageUnavailable:
            pass
        for path in sorted(PHOTOGRAPHS.glob("*.jpg"))[: PICTURES - count]:
            yield "photograph", path.read_bytes
            count += 1
        for seed in range(PICTURES - count):
            yield "noise", partial(_noise, seed)

    async def _compare(self, model: ServedModel, runner: Session) -> tuple[Answers, NDArray[np.float32]]:
        """Compare the answers of both runtimes on several pictures.

        Return how the answers differ, and the first picture in the form of the network's input.
        """
        tried: Counter[Source] = Counter()
        found: dict[Source, list[Difference]] = {"gallery": [], "photograph": [], "noise": []}
        first: NDArray[np.float32] | None = None
        spent_s = 0.0

        def job(read: Callable[[], bytes]) -> tuple[Difference, NDArray[np.float32], float]:
            start = time.perf_counter()
            image = load_image(read(), model.card.input, max_pixels=self._max_pixels)
            tensor = to_tensor(image, model.card.input)
            return _difference(model, image, tensor, runner), tensor, time.perf_counter() - start

        async with contextlib.aclosing(self._pictures()) as pictures:
            async for source, read in pictures:
                tried[source] += 1
                try:
                    difference, tensor, took_s = await self._on_pool(partial(job, read))
                except WeighinError:  # the picture cannot be decoded, perhaps because limits have changed
                    continue
                first = tensor if first is None else first
                found[source].append(difference)
                spent_s += took_s
                if spent_s >= COMPARE_S:
                    break
        answers = summary(
            [*found["gallery"], *found["photograph"]],
            found["noise"],
            _in_words(tried, left_out=tried.total() - sum(map(len, found.values()))),
            detector=model.decoder is not None,
        )
        return answers, _grey(model) if first is None else first

    async def _time(
        self, here: Session, there: Session, tensor: NDArray[np.float32]
    ) -> tuple[Estimate, tuple[list[float], list[float]]] | None:
        """Time both sessions, and estimate how many times faster `there` is than `here` (the speed-up).

        The first item of the result is the estimate of the logarithm of the speed-up. The second item has,
        for each session, the median time of a run in each round, in nanoseconds. The result is None if a run
        takes longer than MOST_RUN_S.
        """
        times: tuple[list[float], list[float]] = ([], [])
        runs = await self._on_pool(lambda: _runs_in_block((here, there), tensor))
        if runs is None:
            return None
        for rounds in (ROUNDS, MORE_ROUNDS):
            for own, found in zip(
                times, await self._time_rounds(here, there, tensor, rounds, runs), strict=True
            ):
                own += found
            ratios = [math.log(one / other) for one, other in zip(*times, strict=True)]
            estimate = await asyncio.to_thread(look, ratios)
            if is_faster(estimate) or estimate.mean < MIN_DIFFERENCE:
                break
        return estimate, times

    async def _time_rounds(
        self, here: Session, there: Session, tensor: NDArray[np.float32], rounds: int, runs: int
    ) -> tuple[list[float], list[float]]:
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds):
            order = ((0, here), (1, there)) if number % 2 else ((1, there), (0, here))

            def round_job(order: Iterable[tuple[int, Session]] = order) -> dict[int, float]:
                return {
                    index: statistics.median(_times_ns(session, tensor, runs)) for index, session in order
                }

            medians = await self._on_pool(round_job, exclusive=True)
            times[0].append(medians[0])
            times[1].append(medians[1])
        return times

    async def _until_idle(self) -> None:
        """Wait while a benchmark or the demo runs."""
        while self._busy():
            await asyncio.sleep(POLL_S)

    async def _on_pool(self, function: Callable[[], T], *, exclusive: bool = False) -> T:
        """Run a job on the pool when neither a benchmark nor the demo is running and the queue has room."""
        pause = _FIRST_PAUSE_S
        while True:
            await self._until_idle()
            try:
                return await self._pool.run(function, Deadline.after(_WAIT_S), exclusive=exclusive)
            except (QueueFull, DeadlineExceeded):  # overloaded
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)


def _is_due(model: ServedModel) -> bool:
    """Return whether the model has no weighing although its runtime or accuracy depends on one."""
    if model.weighing is not None or model.choice.runtime == "onnxruntime":
        return False
    return model.choice.runtime == "auto" or not model.serving.as_measured(model.card)


def is_passing(error: Exception) -> bool:
    """Return whether a runtime failed for lack of memory or time, so that it may succeed later."""
    cause = error.__cause__
    return isinstance(cause, MemoryError | TimeoutError) or "bad_alloc" in str(cause)


def _run(
    session: Session, tensor: NDArray[np.float32], *, limit_s: float | None = None
) -> Mapping[str, NDArray[np.float32]]:
    """Run the network. Raises RunFailed, whose message names the runtime."""
    try:
        return session.run(tensor, limit_s=limit_s)
    except ModelUnavailable as error:
        raise RunFailed(session.runtime, str(session.failure)) from error.__cause__


def _runs_in_block(sessions: Sequence[Session], tensor: NDArray[np.float32]) -> int | None:
    """Return how often the slower session can run in BLOCK_S, but at least 1.

    Return None if a run takes longer than MOST_RUN_S.
    """
    if max(_times_ns(session, tensor, 1)[0] for session in sessions) > MOST_RUN_S * 1e9:
        return None
    slowest = max(min(_times_ns(session, tensor, 3)) for session in sessions)
    return math.ceil(BLOCK_S * 1e9 / slowest)


def _times_ns(session: Session, tensor: NDArray[np.float32], runs: int) -> list[int]:
    """Return the time of each of `runs` runs, in nanoseconds. Raises RunFailed."""
    times: list[int] = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        _run(session, tensor)
        times.append(time.perf_counter_ns() - start)
    return times


def _in_words(tried: Mapping[Source, int], *, left_out: int) -> str:
    """Describe in words which pictures were tried, and how many of them were left out."""
    words = []
    if tried["gallery"]:
        words.append(f"{counted(tried['gallery'], 'picture', 'pictures')} of the gallery")
    if tried["photograph"]:
        words.append(counted(tried["photograph"], "bundled photograph", "bundled photographs"))
    if tried["noise"]:
        words.append(f"{tried['noise']} of noise")
    if left_out:
        words.append(f"{left_out} of them left out")
    return ", ".join(words)


def _noise(seed: int) -> bytes:
    """Return a picture of noise, a PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _grey(model: ServedModel) -> NDArray[np.float32]:
    """Return a constant image as the network's input, float32 (1, channels, height, width)."""
    spec = model.card.input
    return np.full((1, spec.channels, spec.height, spec.width), 0.5, np.float32)


def summary(
    others: Sequence[Difference], noise: Sequence[Difference], described: str, *, detector: bool
) -> Answers:
    """Return how far the answers of both runtimes differ over all pictures.

    Pictures on which neither runtime found an object do not count. `others`: differences for the pictures
    that are not noise. `noise`: differences for pictures of noise. `described`: the pictures, in words. For a
    classifier, one typical deviation is computed for noise, and one for the pictures that are not noise. The
    larger of these two deviations is used.
    """
    counting = [each for each in (*others, *noise) if not each.empty]
    empty = len(others) + len(noise) - len(counting)
    groups = [[*others, *noise]] if detector else [others, noise]
    deviations = [[each.deviation for each in group if each.deviation is not None] for group in groups]
    return Answers(
        pictures=described + (f"; without objects, so not counted: {empty}" if empty else ""),
        n=len(counting),
        same=sum(each.same for each in counting),
        deviation=round(max((statistics.median(group) for group in deviations if group), default=0.0), 6),
        limit=MOST_SCORE_DIFFERENCE if detector else MOST_DEVIATION,
    )


def _difference(
    model: ServedModel, image: DecodedImage, tensor: NDArray[np.float32], runner: Session
) -> Difference:
    """Return how the answers of the model's own session and of `runner` differ for one picture."""
    both = [_run(session, tensor) for session in (model.session, runner)]
    if model.decoder is None:
        here, there = (outputs["logits"][0].astype(np.float64) for outputs in both)
        deviation = float(np.abs(here - there).max() / max(float(here.std()), 1e-12))
        return Difference(bool(here.argmax() == there.argmax()), deviation)
    decoder = model.decoder
    found = [
        objects_in(
            {name: value[0] for name, value in outputs.items()}, image, model.card, decoder, model.labels
        )
        for outputs in both
    ]
    return difference_of_objects(*found)


def difference_of_objects(here: Sequence[Found], there: Sequence[Found]) -> Difference:
    """Return how two lists of objects in one picture differ.

    The lists count as the same if their objects can be paired, with none left over, and if in each pair the
    boxes match and the labels are equal.
    """
    lists = (here, there)
    matched = match_objects([[Seen(each.label, each.score, each.box) for each in found] for found in lists])
    pairs = [
        tuple(lists[index][number] for index, number in sorted(each.found_by.items()))
        for each in matched
        if len(each.found_by) == len(lists)
    ]
    same = len(pairs) == len(matched) and all(one.label == other.label for one, other in pairs)
    return Difference(same, max((abs(one.score - other.score) for one, other in pairs), default=None))
