"""`create_app(settings)`: the one place where the parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import version

import structlog
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from service.api import problems
from service.api.benchmarks import benchmarks_router
from service.api.body.image import document_form_fields
from service.api.body.parameters import refuse_unknown_parameters
from service.api.body.stream import Bounds
from service.api.explain import explain_router
from service.api.gallery import gallery_router
from service.api.gallery_images import gallery_images_router
from service.api.health import health_router
from service.api.inference import inference_router
from service.api.latency import latency_router
from service.api.latency_distribution import distribution_router
from service.api.middleware.admission import JsonBodies, LoadShedding
from service.api.middleware.context import ErrorCounting, HeadRequests, RequestContext, series_to_show
from service.api.middleware.cors import Cors
from service.api.middleware.proxies import ReverseProxy
from service.api.models import models_router
from service.api.recommend import recommend_router
from service.api.retrieve import retrieve_router
from service.bench.archive import BenchmarkArchive
from service.bench.jobs import BenchmarkJobs
from service.errors import HeadersTooLarge, InvalidParameter, MalformedRequest, RequestTimeout
from service.gallery.gallery import Gallery
from service.gallery.records import Quota
from service.inference.classify import Classifier
from service.inference.compare import Comparer
from service.inference.cpu import core_budget
from service.inference.explain import Explainer
from service.inference.pool import CorePool
from service.inference.registry import Registry
from service.inference.session import RUNTIME_VERSION
from service.latency.prometheus import Metrics
from service.latency.query import Latencies
from service.latency.recorder import Recorder
from service.settings import Settings
from service.state import open_state
from service.web.benchmarks import benchmark_page_router
from service.web.dashboard import dashboard_router
from service.web.docs import docs_router
from service.web.figures import DashboardCache
from service.web.playground import playground_router
from service.web.site import Site

log = structlog.get_logger(__name__)

OWN_PATHS = frozenset(
    {"benchmarks", "classify", "compare", "dashboard", "docs", "explain", "gallery", "healthz", "latency",
     "metrics", "models", "openapi.json", "readyz", "recommend", "retrieve-similar", "static",
     "static-offline-docs"}
)  # fmt: skip
"""First segments of the service's paths."""

DESCRIPTION = """
Classifies images with lightweight networks, finds their likes in a gallery, runs one image through all
networks side by side, and records what each costs on this machine. Every error is an RFC 9457 problem
document whose `type` is a stable name.
"""


def create_app(settings: Settings, *, address: str | None = None) -> FastAPI:
    """The service as an ASGI application; its state is open from here to the end of its lifespan.

    `address` is where it will serve, for the message that a second one on the same data directory gets.

    Raises DataDirectoryInUse when another process has the data directory, FileNotFoundError for a folder of
    models that does not exist, UnreadableFolder for one that cannot be listed, and InvalidParameter for a
    prefix that is a path of the service.
    """
    _check_root_path(settings.root_path)
    registry = Registry(settings.model_dirs, settings.default_model)
    pool = CorePool(settings.threads or core_budget(), settings.max_waiting)
    metrics = Metrics({"version": version("weighin"), "onnxruntime": RUNTIME_VERSION})
    state = open_state(settings.data_dir, settings.database_url, address=address)
    problem = None if state.directory is None else state.directory.claim()
    if problem is not None:  # inference goes on without state
        log.warning(f"WEIGHIN_DATA_DIR '{settings.data_dir}': {problem}")
    recorder = Recorder(state.latencies, metrics)
    latencies = Latencies(recorder)
    classifier = Classifier(pool, recorder, max_pixels=settings.max_pixels)
    comparer = Comparer(
        registry, pool, recorder, max_pixels=settings.max_pixels, budget_s=settings.compare_budget_s
    )

    site = Site()
    archive = BenchmarkArchive(state.benchmarks)
    jobs = BenchmarkJobs(registry, pool, recorder, state.benchmarks, settings.model_dirs)
    gallery = Gallery(
        registry,
        pool,
        recorder,
        state.gallery,
        model=settings.gallery_model or settings.default_model,
        quota=Quota(settings.gallery_max_images, settings.gallery_max_bytes),
        data_dir=settings.data_dir,
        exact_up_to=settings.gallery_exact_up_to,
        max_pixels=settings.max_pixels,
        deadline_s=settings.deadline_s,
    )

    def state_problem() -> str | None:
        return state.problem or recorder.problem

    dashboard_cache = DashboardCache(
        site, latencies, registry.names, settings.default_model, state_problem, archive.newest
    )
    metrics.watch(
        waiting=lambda: pool.waiting,
        running=lambda: pool.running,
        models_loaded=lambda: len(registry.loaded),
        degraded=lambda: state_problem() is not None,
        errors=lambda: series_to_show(registry.names()),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        recorder.start()
        await jobs.open()
        loading = asyncio.create_task(asyncio.to_thread(registry.load))
        loading.add_done_callback(_loaded)
        gallery.open(loading)
        dashboard_cache.warm_up()
        try:
            yield
        finally:
            await asyncio.gather(loading, return_exceptions=True)
            await jobs.close()
            await gallery.close()
            await asyncio.to_thread(dashboard_cache.close)
            await asyncio.to_thread(pool.close)
            await asyncio.to_thread(recorder.close)
            state.close()

    def _loaded(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("loading the models failed", exc_info=task.exception())
        else:
            if settings.gallery_model not in (None, *registry.names()):
                log.warning("WEIGHIN_GALLERY_MODEL: no such model", gallery_model=settings.gallery_model)
            log.info("ready", models=len(registry.loaded), threads=pool.threads)

    app = FastAPIOffline(
        docs_url=None,
        title="Weigh-in",
        version=version("weighin"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown_parameters)],
        responses=problems.documented(MalformedRequest, RequestTimeout, InvalidParameter, HeadersTooLarge),
    )
    app.state.stopping = jobs.stop  # what would outlast the server's grace: see service/server.py
    app.state.refused = partial(metrics.count_error, None)  # what never reaches the application
    problems.install(app)
    document_form_fields(app)
    bounds = Bounds(settings.max_body_bytes, settings.deadline_s)
    app.include_router(inference_router(registry, classifier, comparer, bounds))
    app.include_router(retrieve_router(gallery.retriever, bounds))
    app.include_router(gallery_router(gallery, settings.api_key, bounds, width=pool.threads))
    app.include_router(gallery_images_router(gallery, settings.api_key, bounds))
    app.include_router(
        explain_router(registry, Explainer(registry, pool, max_pixels=settings.max_pixels), bounds)
    )
    app.include_router(models_router(registry))
    app.include_router(latency_router(latencies, registry.names))
    app.include_router(distribution_router(latencies, registry.names))
    app.include_router(benchmarks_router(jobs, settings.api_key))
    app.include_router(recommend_router(registry, archive))
    app.include_router(health_router(registry, metrics, state_problem))
    app.include_router(site.router())
    app.include_router(docs_router(app))
    app.include_router(playground_router(site, registry))
    app.include_router(dashboard_router(site, dashboard_cache, latencies, registry.names))
    app.include_router(benchmark_page_router(site, jobs, registry.names, settings.api_key is not None))
    app.add_middleware(HeadRequests)
    app.add_middleware(JsonBodies, deadline_s=settings.deadline_s)
    app.add_middleware(LoadShedding, pool=pool, registry=registry)
    app.add_middleware(
        RequestContext, allowed_origins=settings.allowed_origins, log_requests=settings.log_requests
    )
    if settings.allowed_origins:
        app.add_middleware(Cors, allowed_origins=settings.allowed_origins)
    app.add_middleware(ErrorCounting, registry=registry, recorder=recorder, metrics=metrics)
    if settings.root_path or settings.trusted_proxies:
        app.add_middleware(ReverseProxy, root_path=settings.root_path, trusted=settings.trusted_proxies)
    return app


def _check_root_path(root_path: str) -> None:
    """Refuse a prefix that is a path of the service itself: what `/models/models` means would be a guess."""
    if root_path[1:].partition("/")[0] in OWN_PATHS:
        raise InvalidParameter(
            f"WEIGHIN_ROOT_PATH: {root_path!r} begins like a path of the service itself (example: /weighin)"
        )
