"""Build the service from its settings: parts, routes and middleware."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import structlog
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from models.zoo.machine import this_machine
from service.api import (
    benchmarks,
    demo,
    evaluations,
    gallery,
    gallery_images,
    health,
    latency,
    latency_distribution,
    models,
    problems,
    recommend,
    retrieve,
)
from service.api.body.image import document_form_fields
from service.api.body.model import UploadLimits
from service.api.body.request import Bounds, add_parts
from service.api.gallery_bulk import Bulk
from service.api.inference import classify, compare, detect, explain
from service.api.latency import LatencyAnswers
from service.api.middleware.admission import JsonBodies, LoadShedding
from service.api.middleware.context import ErrorCounting, HeadRequests, RequestContext, possible_errors
from service.api.middleware.cors import Cors
from service.api.middleware.proxies import ReverseProxy
from service.api.model_changer import ModelChanger
from service.api.routers import ApiKey, add_routes
from service.api.v2 import health as protocol_health
from service.api.v2 import infer, metadata
from service.api.v2.runs import BatchRunner
from service.bench.archive import BenchmarkArchive
from service.bench.jobs import BenchmarkJobs
from service.errors import InvalidParameter
from service.gallery.gallery import Gallery
from service.gallery.records import Quota
from service.inference.classify import Classifier
from service.inference.compare import Comparer
from service.inference.cpu import core_budget, machine_name
from service.inference.demo import Demo
from service.inference.detect import Detector
from service.inference.explain import Explainer
from service.inference.malloc import release_free_memory
from service.inference.pool import CorePool
from service.inference.registry import Registry, open_registry
from service.inference.runtimes.base import RUNTIMES
from service.inference.runtimes.opening import is_installed, runtime_version
from service.inference.runtimes.weigher import Weigher
from service.latency.prometheus import Metrics
from service.latency.query import Latencies
from service.latency.recorder import Recorder
from service.own_models.replicas import SharedModels
from service.own_models.watch import ModelWatcher
from service.settings import Settings
from service.state import State, open_state, storage_problem
from service.web import benchmarks as benchmark_pages
from service.web import dashboard, docs, playground
from service.web.cache import DashboardCache
from service.web.catalogue import Catalogue
from service.web.site import Site

log = structlog.get_logger(__name__)

OWN_PATHS = frozenset(
    {"benchmarks", "classify", "compare", "dashboard", "demo", "detect", "docs", "evaluations", "explain",
     "gallery", "healthz", "latency", "metrics", "models", "openapi.json", "readyz", "recommend",
     "retrieve-similar", "static", "static-offline-docs", "v2"}
)  # fmt: skip
"""First segments of the service's paths."""

RELEASE_MEMORY_EVERY_S = 60.0
"""Interval at which free memory is given back to the system. Without this, resident memory grew by a tenth in
an hour of mixed requests (docs/soak.md)."""

DESCRIPTION = """
Classifies images and detects objects with lightweight ONNX networks, finds similar images in a gallery,
compares models on one image, and records the latency of each model on this machine. Every error is an
RFC 9457 problem document with a stable `type`.
"""


@dataclass(frozen=True)
class Services:
    """The parts of the service, built once per process and opened in its event loop."""

    settings: Settings
    registry: Registry
    watcher: ModelWatcher
    shared_models: SharedModels
    pool: CorePool
    metrics: Metrics
    state: State
    recorder: Recorder
    latencies: Latencies
    archive: BenchmarkArchive
    jobs: BenchmarkJobs
    gallery: Gallery
    demo: Demo
    weigher: Weigher
    site: Site
    dashboard_cache: DashboardCache

    def stop(self) -> None:
        """Begin to stop: cancel the running benchmark, end the weighing of models, and end event streams.

        Event streams would not end by themselves.
        """
        self.jobs.stop()
        self.weigher.stop()

    @contextlib.asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Start all components, load the models in the background, and close everything at shutdown."""
        self.recorder.start()
        await self.jobs.open()
        shared = self.shared_models
        loading = asyncio.create_task(
            asyncio.to_thread(self.registry.load, shared.look_at_start, shared.correct)
        )
        loading.add_done_callback(self._report_loading)
        self.gallery.open(loading)
        if await asyncio.to_thread(self.latencies.has_history):
            self.dashboard_cache.warm_up()
        releasing = asyncio.create_task(_release_memory_regularly())
        try:
            yield
        finally:
            releasing.cancel()
            self.shared_models.stop()
            await asyncio.gather(loading, return_exceptions=True)
            await asyncio.to_thread(self.watcher.close)
            await asyncio.to_thread(self.shared_models.close)
            await self.jobs.close()
            await self.demo.close()
            await self.weigher.close()
            await self.gallery.close()
            await asyncio.to_thread(self.dashboard_cache.close)
            await asyncio.to_thread(self.pool.close)
            await asyncio.to_thread(self.recorder.close)
            self.state.close()

    def _report_loading(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("loading the models failed", exc_info=task.exception())
            return
        self.watcher.start()
        self.shared_models.start()
        self.weigher.start()
        gallery_model = self.settings.gallery_model
        if gallery_model not in (None, *self.registry.names()):
            log.warning("WEIGHIN_GALLERY_MODEL: no such model", gallery_model=gallery_model)
        log.info("ready", models=len(self.registry.loaded), threads=self.pool.threads)


async def _release_memory_regularly() -> None:
    while True:
        await asyncio.sleep(RELEASE_MEMORY_EVERY_S)
        try:
            await asyncio.to_thread(release_free_memory)
        except RuntimeError:  # no thread can be started
            log.exception("free memory cannot be released")


def build(settings: Settings, *, registry: Registry | None = None, address: str | None = None) -> Services:
    """Build the parts of the service from its settings, and lock the data directory.

    `registry`: the models. If it is None, `open_registry` finds them.

    Raises the errors of `create_app`.
    """
    threads = settings.threads or core_budget()
    registry = open_registry(settings) if registry is None else registry
    pool = CorePool(threads, settings.max_waiting)
    versions: dict[str, str] = {name: runtime_version(name) for name in RUNTIMES if is_installed(name)}
    cpu, cores = this_machine().cpu, core_budget()
    machine = machine_name(cpu, cores)
    metrics = Metrics(
        {"version": version("weighin"), **versions},
        machine={"machine": machine, "cpu": cpu, "cores": str(cores)},
    )
    state = open_state(settings.data_dir, settings.database_url, address=address, machine=machine)
    problem = None if state.directory is None else state.directory.claim()
    if problem is not None:  # inference works without state
        log.warning(f"WEIGHIN_DATA_DIR '{settings.data_dir}': {problem}")
    recorder = Recorder(state.latencies, metrics)
    latencies = Latencies(recorder, registry.versions)
    shared_models = SharedModels(registry, state.models)
    site = Site()
    archive = BenchmarkArchive(state.benchmarks)
    services = Services(
        settings,
        registry,
        ModelWatcher(registry),
        shared_models,
        pool,
        metrics,
        state,
        recorder,
        latencies,
        archive,
        BenchmarkJobs(
            registry,
            pool,
            recorder,
            state.benchmarks,
            settings.model_dirs,
            demo_runs=lambda: services.demo.running,
        ),
        Gallery(
            registry,
            pool,
            recorder,
            state.gallery,
            model=settings.gallery_model or settings.default_model,
            quota=Quota(settings.gallery_max_images, settings.gallery_max_bytes),
            data_dir=settings.data_dir,
            copies=state.models,
            exact_up_to=settings.gallery_exact_up_to,
            max_pixels=settings.max_pixels,
            deadline_s=settings.deadline_s,
        ),
        Demo(
            registry,
            pool,
            recorder,
            max_pixels=settings.max_pixels,
            benchmark_runs=lambda: services.jobs.running,
        ),
        Weigher(
            registry,
            pool,
            lambda count: services.gallery.pictures(count),
            max_pixels=settings.max_pixels,
            busy=lambda: services.jobs.running or services.demo.running,
        ),
        site,
        DashboardCache(
            site,
            latencies,
            Catalogue(registry, archive, state.evaluations),
            lambda: storage_problem(state, recorder, shared_models),
        ),
    )
    metrics.watch(
        waiting=lambda: pool.waiting,
        running=lambda: pool.running,
        models_loaded=lambda: len(registry.loaded),
        degraded=lambda: storage_problem(state, recorder, shared_models) is not None,
        errors=lambda: possible_errors(registry.names()),
        runtimes=lambda: (
            (model.name, model.predictor.runtime, model.predictor.precision) for model in registry.loaded
        ),
    )
    return services


def parts_for_routes(services: Services) -> Iterator[object]:
    """Yield the parts of the service that a route can get with `app_part`."""
    settings, registry, pool, recorder = (
        services.settings,
        services.registry,
        services.pool,
        services.recorder,
    )
    bounds, max_pixels = Bounds(settings.max_body_bytes, settings.deadline_s), settings.max_pixels
    yield ApiKey(settings.api_key)
    yield bounds
    yield registry
    yield Classifier(pool, recorder, max_pixels=max_pixels)
    yield Detector(pool, recorder, max_pixels=max_pixels)
    yield Comparer(registry, pool, recorder, max_pixels=max_pixels, budget_s=settings.compare_budget_s)
    yield BatchRunner(pool, recorder, max_pixels=max_pixels, max_batch=settings.max_batch)
    yield Explainer(registry, pool, max_pixels=max_pixels)
    yield services.gallery
    yield Bulk(services.gallery.writer, pool.threads, bounds)
    yield ModelChanger(registry, services.gallery.models_in_use, services.shared_models)
    yield services.shared_models
    yield UploadLimits(settings.max_model_bytes, settings.deadline_s)
    yield services.latencies
    yield LatencyAnswers(services.latencies.revision)
    yield services.demo
    yield services.jobs
    yield services.archive
    yield services.state.evaluations
    yield services.metrics
    yield services.state
    yield recorder
    yield services.site
    yield services.dashboard_cache


API_ROUTERS = (
    classify.router,
    detect.router,
    infer.router,
    compare.router,
    retrieve.router,
    gallery.router,
    gallery_images.router,
    explain.router,
    models.router,
    latency.router,
    latency_distribution.router,
    demo.router,
    benchmarks.router,
    evaluations.router,
    recommend.router,
    health.router,
    metadata.router,
    protocol_health.router,
)
"""Routers of the HTTP API, in the order in which a request is matched."""


PAGE_ROUTERS = (docs.router, playground.router, dashboard.router, benchmark_pages.router)
"""Routers of the pages."""


def add_middleware(app: FastAPI, services: Services) -> None:
    """Wrap the application in its middleware. The middleware that is added last is the outermost."""
    settings = services.settings
    app.add_middleware(HeadRequests)
    app.add_middleware(JsonBodies, deadline_s=settings.deadline_s)
    app.add_middleware(LoadShedding, pool=services.pool, registry=services.registry)
    app.add_middleware(
        RequestContext, allowed_origins=settings.allowed_origins, log_requests=settings.log_requests
    )
    if settings.allowed_origins:
        app.add_middleware(Cors, allowed_origins=settings.allowed_origins)
    app.add_middleware(
        ErrorCounting, registry=services.registry, recorder=services.recorder, metrics=services.metrics
    )
    if settings.root_path or settings.trusted_proxies:
        app.add_middleware(ReverseProxy, root_path=settings.root_path, trusted=settings.trusted_proxies)


def create_app(
    settings: Settings, *, registry: Registry | None = None, address: str | None = None
) -> FastAPI:
    """Return the service as an ASGI application, which closes its state at the end of its lifespan.

    `registry`: the models, which may be loading already. If it is None, `open_registry` finds them.
    `address`: URL of this service, for the error message of a second service on the same data directory.

    Raises DataDirectoryInUse if another process has locked the data directory, FileNotFoundError for a
    missing model directory, and UnreadableFolder for a model directory that cannot be listed. Raises
    InvalidParameter for a `root_path` that begins like a path of the service, and for a runtime that is not
    installed.
    """
    _check_root_path(settings.root_path)
    services = build(settings, registry=registry, address=address)
    app = FastAPIOffline(
        docs_url=None,
        title="Weigh-in",
        version=version("weighin"),
        description=DESCRIPTION,
        lifespan=services.running,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.stopping = services.stop  # see service/server.py
    app.state.refused = partial(services.metrics.count_error, None)  # requests that the connection refuses
    problems.install(app)
    document_form_fields(app)
    add_parts(app, parts_for_routes(services))
    add_routes(app, API_ROUTERS)
    app.router.routes.extend(services.site.mounts)
    add_routes(app, PAGE_ROUTERS)
    add_middleware(app, services)
    return app


def _check_root_path(root_path: str) -> None:
    """Raise InvalidParameter for a prefix that begins like a path of the service.

    With the prefix `/models`, for example, `/models/models` would be ambiguous.
    """
    if root_path[1:].partition("/")[0] in OWN_PATHS:
        raise InvalidParameter(
            f"WEIGHIN_ROOT_PATH: {root_path!r} begins like a path of the service itself (example: /weighin)"
        )
