"""Demo: run every model on bundled photographs for half a minute, recorded in a regime of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from models.zoo.statistics import MIN_SAMPLES
from service.errors import Busy, DeadlineExceeded, ModelUnavailable, NotReady, QueueFull, WeighinError
from service.inference.classify import Classifier, class_counts
from service.inference.detect import Detector, detect_plan
from service.inference.loading import ServedModel
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry
from service.latency.recorder import Recorder

PHOTOGRAPHS = Path(__file__).parent / "photographs"

DURATION_S = 30.0
"""Time after which a demo starts no further run."""

RUNS_PER_MODEL = MIN_SAMPLES[0.90]
"""Maximum runs of each model: enough for a p90."""

_PAUSE_S = 0.2
"""Wait before the next run if the queue is full."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DemoState:
    """State of the demo: whether it runs, its models, and how many of the planned runs are done.

    `models`: number of models. `runs`: number of runs that are done. `detail`: message for clients that says
    why runs failed, or why the demo ended early. It is None if nothing of this kind happened.
    """

    running: bool
    models: int
    runs: int
    planned: int
    detail: str | None


class Demo:
    """Runs at most one demo at a time. Call all methods from the event loop's thread.

    The pool never has more of the demo's runs than it has threads, because the demo submits a further run
    only when one has ended. So a live request waits for at most one run of the demo.
    """

    def __init__(
        self,
        registry: Registry,
        pool: CorePool,
        recorder: Recorder,
        *,
        max_pixels: int,
        benchmark_runs: Callable[[], bool],
    ) -> None:
        """`benchmark_runs` returns whether a benchmark runs, which a demo would disturb."""
        self._registry = registry
        self._pool = pool
        self._classifier = Classifier(pool, recorder, max_pixels=max_pixels, regime="demo")
        self._detector = Detector(pool, recorder, max_pixels=max_pixels, regime="demo")
        self._benchmark_runs = benchmark_runs
        self._task: asyncio.Task[None] | None = None
        self._models = 0
        self._runs = 0
        self._detail: str | None = None

    @property
    def state(self) -> DemoState:
        """State of the running demo. If no demo runs, it is the state of the last one."""
        planned = self._models * RUNS_PER_MODEL
        return DemoState(self.running, self._models, self._runs, planned, self._detail)

    @property
    def running(self) -> bool:
        """Whether a demo runs."""
        return self._task is not None and not self._task.done()

    def start(self) -> DemoState:
        """Start a demo of all models.

        Raises Busy while a demo or a benchmark runs. Raises NotReady while models are being loaded, and if no
        model could be loaded.
        """
        if self.running:
            raise Busy("demo: running already (allowed: one at a time)")
        if self._benchmark_runs():
            raise Busy("demo: a benchmark is running, which a demo would disturb (wait or cancel it)")
        if not self._registry.ready:
            raise NotReady("demo: the models are being loaded")
        models = self._registry.loaded
        if not models:
            raise NotReady("demo: no model is loaded")
        self._models, self._runs, self._detail = len(models), 0, None
        self._task = asyncio.create_task(self._run(models))
        return self.state

    async def close(self) -> None:
        """Stop the demo. Runs that have begun are completed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, models: tuple[ServedModel, ...]) -> None:
        photographs = [path.read_bytes() for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]
        rounds = (
            (model, photographs[number % len(photographs)])
            for number in range(RUNS_PER_MODEL)
            for model in models
        )
        deadline = Deadline.after(DURATION_S)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._pool.threads):
                    group.create_task(self._work(rounds, deadline))
        except* WeighinError as failures:
            self._detail = _first(failures).detail
            _log.warning("demo ended early", reason=self._detail)
        except* Exception:
            self._detail = "unexpected error (see the log)"
            _log.exception("demo ended early")
        if not self._runs and self._detail is None:
            self._detail = f"no run within {DURATION_S:.0f} s"

    async def _work(self, rounds: Iterator[tuple[ServedModel, bytes]], deadline: Deadline) -> None:
        for model, photograph in rounds:
            try:
                deadline.check()
                await self._once(model, photograph, deadline)
                self._runs += 1
            except QueueFull:
                await asyncio.sleep(_PAUSE_S)
            except ModelUnavailable as error:
                self._detail = f"{model.name}: {error.detail}"
                _log.warning("demo: run failed", model=model.name, reason=error.detail)
            except DeadlineExceeded:
                return

    async def _once(self, model: ServedModel, photograph: bytes, deadline: Deadline) -> None:
        if model.card.detection is not None:
            await self._detector.detect(photograph, detect_plan(model), deadline)
        else:
            (count,) = class_counts(None, model)
            await self._classifier.classify(photograph, model, count, deadline)


def _first(failures: BaseExceptionGroup[WeighinError]) -> WeighinError:
    found = failures.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
