"""The service as an application of Ray Serve: replicas that Ray places, watches, scales and replaces.

    set -a; . docker/ray/ray.env; ray start --head
    serve deploy docker/ray/serve.yaml              # see docs/scaling.md

Ray is imported inside functions, because the service also runs without Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware.context import own_request_id
from service.api.routers import add_routes, new_router
from service.app import create_app
from service.errors import InvalidParameter, NotReady, WeighinError
from service.inference.cpu import core_budget
from service.inference.registry import Registry, open_registry
from service.logs import configure_logging
from service.own_models.folders import is_shared
from service.settings import Settings, environment_warnings, setting_problems
from service.text.urls import redacted

log = structlog.get_logger(__name__)

NAME = "Weighin"
"""Name of the deployment."""

OTHER_REQUESTS = 100
"""Number of requests that one replica handles in addition to those that run or wait for a thread.

Examples of the additional requests are pages, streams, refusals, and uploads that are still arriving. Further
requests wait in Ray. The plain server has no such limit.
"""

READY_WITHIN_S = 300.0
"""Maximum seconds from a replica's start until its models are loaded."""

_WITHOUT_FIELDS = frozenset({b"x-request-id", b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
"""Header fields that are removed from requests, because with them Ray would return an invalid id, or end the
request by rules of its own."""

router = new_router("operations")


class NotShared(WeighinError):
    """The replicas have no database that they could share."""

    slug = "not-shared"


def application(arguments: Mapping[str, str]) -> Any:
    """Return the deployment for `serve deploy` and `serve run`, with Ray's limits taken from the settings.

    `arguments`: empty, or `release` with any text; if the text changes, Ray replaces all replicas, one after
    the other. Raises RayServeException for other arguments, for an invalid setting, and if
    WEIGHIN_DATABASE_URL does not name a PostgreSQL.
    """
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        unknown = sorted(arguments.keys() - {"release"})
        if unknown:
            raise InvalidParameter(f"argument {unknown[0]!r}: unknown (allowed: release)")
        settings = read_settings()
    except WeighinError as error:  # the application's status then has only the text
        raise RayServeException(str(error)) from None
    threads = settings.threads or core_budget()
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        max_ongoing_requests=threads + settings.max_waiting + OTHER_REQUESTS,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.deadline_s + settings.shutdown_grace_s,
        ray_actor_options={"num_cpus": threads},
    )
    return deployment.bind(threads)


def read_settings(**given: object) -> Settings:
    """Return the settings of a replica; `given` overrides those of the environment.

    Raises InvalidParameter for invalid settings, and NotShared if the database is not a PostgreSQL.
    """
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InvalidParameter("; ".join(setting_problems(error, {}))) from None
    url = settings.database_url
    if url is None or url.startswith("sqlite"):
        shown = "not set" if url is None else f"'{redacted(url)}' is a file"
        raise NotShared(
            f"WEIGHIN_DATABASE_URL: {shown}, which replicas cannot share "
            "(allowed: postgresql://USER:PASSWORD@HOST:PORT/DATABASE)"
        )
    return settings


class Replica:
    """One replica: a process with all parts of the service, to which Ray's ingress passes requests."""

    def __init__(self, threads: int) -> None:
        """Read the settings of this process; `threads`: the cores that Ray has reserved for it."""
        self._settings = read_settings(threads=threads)
        self._started = time.monotonic()
        self._registry: Registry | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the service as an ASGI application; Ray calls this on the event loop of this replica."""
        configure_logging(self._settings.log_format, self._settings.log_level)
        for warning in environment_warnings():
            log.warning(warning)
        self._registry = open_registry(self._settings)
        self._registry.start_loading(unless=is_shared)
        app = create_app(self._settings, registry=self._registry)
        add_routes(app, [router])
        call_when_draining(app.state.stopping)
        return app

    async def check_health(self) -> None:
        """Wait until the models are loaded. Ray sends no request before the first call has returned.

        The waiting is done here and not in the lifespan, because Ray does not report the errors of a
        lifespan. Raises NotReady after READY_WITHIN_S, and if no model can be served.
        """
        assert self._registry is not None
        await until_loaded(self._registry, self._started + READY_WITHIN_S)


async def until_loaded(registry: Registry, ends_at: float) -> None:
    """Wait until /readyz would return 200. Raises NotReady at `ends_at`, and if no model can be served."""
    while not registry.ready:
        if time.monotonic() > ends_at:
            waiting = [entry.name for entry in registry.entries if entry.model is None]
            raise NotReady(f"models: not loaded in time: {', '.join(waiting)}")
        await asyncio.sleep(0.02)
    if not registry.loaded:
        reasons = [f"{entry.name}: {entry.problem}" for entry in registry.entries]
        raise NotReady(f"models: none can be served: {'; '.join(reasons) or 'there are none'}")


def call_when_draining(stopping: Callable[[], None]) -> None:
    """Call `stopping` on this event loop as soon as Ray begins to drain this replica.

    Ray tells the deployment about the shutdown only after all requests have ended, so an endless stream would
    delay the shutdown until Ray kills the replica. This function therefore wraps the method by which Ray
    begins the shutdown.
    """
    from ray.serve._private.replica import Replica as RayReplica

    loop = asyncio.get_running_loop()
    begin = RayReplica.perform_graceful_shutdown

    async def drain(replica: Any) -> None:
        loop.call_soon_threadsafe(stopping)
        await begin(replica)

    RayReplica.perform_graceful_shutdown = drain


def middleware() -> list[Middleware]:
    """Return the middleware for Ray's HTTP servers; docker/ray/ray.env names this function."""
    return [Middleware(OwnFields)]


class OwnFields:
    """Pure ASGI middleware that gives responses the header fields that the plain server gives them.

    It runs around Ray's own middleware. Without it, Ray would add the client's `X-Request-ID` to the
    response, in addition to the one of the service, and uvicorn would add the field `Server`. This middleware
    also removes, from all requests, the header fields by which a client could control Ray. It tells Ray not
    to watch for disconnects, because the service does so itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ids = [value for name, value in scope["headers"] if name == b"x-request-id"]
        request_id = own_request_id(ids[-1].decode("latin-1") if ids else "").encode()
        kept = [(name, value) for name, value in scope["headers"] if name not in _WITHOUT_FIELDS]
        scope["headers"] = [*kept, (b"x-request-id", request_id), (b"x-request-disconnect-disabled", b"?1")]
        response = getattr(send, "__self__", None)  # uvicorn's
        if response is not None and hasattr(response, "default_headers"):
            response.default_headers = [pair for pair in response.default_headers if pair[0] != b"server"]

        async def send_one_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = [(name, value) for name, value in message["headers"] if name != b"x-request-id"]
                message["headers"] = [*fields, (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, send_one_id)


@router.get("/metrics/replicas", include_in_schema=False)
async def replicas() -> list[dict[str, Any]]:
    """Return the address of each replica in the format of Prometheus' HTTP service discovery.

    Raises NotReady if the replicas have no ports of their own.
    """
    import ray
    from ray.serve._private.constants import RAY_SERVE_ENABLE_DIRECT_INGRESS

    if not RAY_SERVE_ENABLE_DIRECT_INGRESS:
        raise NotReady("replicas: no ports of their own (set RAY_SERVE_ENABLE_HA_PROXY=1 for `ray start`)")
    controller = await asyncio.to_thread(ray.get_actor, "SERVE_CONTROLLER_ACTOR", namespace="serve")
    groups = await controller.get_target_groups.remote(from_proxy_manager=True)
    return [
        {"targets": [f"{target.ip}:{target.port}"], "labels": {"replica": target.name}}
        for group in groups
        if group.ingress_deployment_name == NAME
        for target in group.targets
    ]
