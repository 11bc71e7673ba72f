"""How to start each server, and how to send it an image."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import MODEL
from benchmarks.servers import ROOT, Server, free_port
from models.zoo.files import NETWORKS
from service.inference.cpu import core_budget

ENVIRONMENTS = ROOT / ".venv-rivals"
KINDS = ("raw", "multipart")


@dataclass(frozen=True)
class Endpoint:
    """Where to post images: the path with its query, and the name of the `body` to send (see Bodies)."""

    path: str
    body: str


@dataclass(frozen=True)
class Contender:
    """A server that is measured.

    `label`, `setup`: its name and its set-up, as text for the page. `arguments`: the arguments of its Python
    interpreter. `variables`: environment variables of its process. In both, `{port}`, `{other}` and
    `{another}` are replaced by free ports, and `{folder}` by a folder that contains only the folder `zoo`
    with MODEL. `ready`: path that returns 200 once the server is ready. `endpoints`: where to post images, by
    kind of request. `venv`: name of its virtual environment. If it is None, the server runs in the service's
    environment.
    """

    label: str
    setup: str
    arguments: tuple[str, ...]
    ready: str
    endpoints: Mapping[str, Endpoint]
    venv: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """Python interpreter that runs the server."""
        return Path(sys.executable) if self.venv is None else ENVIRONMENTS / self.venv / "bin" / "python"

    def start(self, folder: Path) -> Server:
        """Start the server. It gets the empty `folder` for its model and its data, and as home folder."""
        shutil.copytree(NETWORKS / MODEL, folder / "zoo" / MODEL)
        words = {name: str(free_port()) for name in ("port", "other", "another")} | {"folder": str(folder)}
        variables = {name: value.format(**words) for name, value in self.variables.items()}
        arguments = [argument.format(**words) for argument in self.arguments]
        variables |= {"HOME": str(folder), "PYTHONPATH": str(ROOT)}
        return Server(self.label, arguments, int(words["port"]), variables, self.python)


CONTENDERS = {
    "weighin": Contender(
        "Weigh-in",
        "As installed: every setting except the folder of models is at its default. It records latencies, "
        "queues requests, and limits the queue.",
        ("-m", "service", "serve"),
        "/readyz",
        {kind: Endpoint(f"/classify?model={MODEL}", kind) for kind in KINDS},
        variables={
            "WEIGHIN_DATA_DIR": "{folder}",
            "WEIGHIN_MODEL_DIRS": "{folder}/zoo",
            "WEIGHIN_PORT": "{port}",
        },
    ),
    "asgi": Contender(
        "bare ASGI function",
        "uvicorn, and a thread pool with one thread per core. No routing, validation, queue limit or "
        "recording. python-multipart parses the form.",
        ("-m", "benchmarks.rivals.bare_asgi", "{port}"),
        "/",
        {kind: Endpoint("/", kind) for kind in KINDS},
    ),
    "fastapi": Contender(
        "plain FastAPI route",
        "uvicorn. Multipart: `UploadFile` in a `def` route. Raw: an `async def` route that hands the job to "
        "FastAPI's thread pool. The pool has one thread per core.",
        ("-m", "benchmarks.rivals.plain_fastapi", "{port}"),
        "/health",
        {"raw": Endpoint("/classify/raw", "raw"), "multipart": Endpoint("/classify", "multipart")},
    ),
    "litserve": Contender(
        "LitServe",
        "`workers_per_device` and the number of HTTP processes = cores, `fast_queue=True`. It accepts only "
        "forms and JSON, so a raw request is base64 in JSON, as in its guide on faster serving.",
        ("-m", "benchmarks.rivals.lit", "{port}"),
        "/health",
        {"raw": Endpoint("/classify", "json"), "multipart": Endpoint("/classify", "multipart")},
        venv="litserve",
    ),
    "bentoml": Contender(
        "BentoML",
        "`workers` = cores, `threads=1`, no access log. Multipart: the route takes a `PIL.Image`. Raw: it "
        "takes a `PIL.Image` as root input.",
        ("-m", "bentoml", "serve", "benchmarks.rivals.bento:Classify", "--host", "127.0.0.1", "-p", "{port}"),
        "/readyz",
        {"raw": Endpoint("/classify/raw", "raw"), "multipart": Endpoint("/classify", "multipart")},
        venv="bentoml",
        variables={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    "mlserver": Contender(
        "MLServer",
        "A custom runtime, `parallel_workers` = cores, `debug` off. Its V2 protocol accepts neither files "
        "nor forms, so a raw request is base64 in JSON with `content_type: base64`.",
        ("-c", "from mlserver.cli import main; main()", "start", "{folder}"),
        "/v2/models/classifier/ready",
        {"raw": Endpoint("/v2/models/classifier/infer", "v2")},
        venv="mlserver",
        variables={
            "MLSERVER_DEBUG": "false",
            "MLSERVER_ENVIRONMENTS_DIR": "{folder}/environments",
            "MLSERVER_GRPC_PORT": "{other}",
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": "{port}",
            "MLSERVER_METRICS_DIR": "{folder}/metrics",
            "MLSERVER_METRICS_PORT": "{another}",
            "MLSERVER_MODEL_IMPLEMENTATION": "benchmarks.rivals.ml.ImageClassifier",
            "MLSERVER_MODEL_NAME": "classifier",
            "MLSERVER_PARALLEL_WORKERS": str(core_budget()),
        },
    ),
    "ray": Contender(
        "Ray Serve",
        "`num_replicas` = cores, `max_ongoing_requests=100` (the default is 5), "
        "`RAY_SERVE_ENABLE_HA_PROXY`, `RAY_SERVE_THROUGHPUT_OPTIMIZED`, no dashboard. Multipart: "
        "it reads `request.form()`. Raw: it reads `request.body()`.",
        ("-m", "benchmarks.rivals.ray_serve", "{port}", "{folder}"),
        "/",
        {kind: Endpoint("/", kind) for kind in KINDS},
        venv="ray",
        variables={
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "{folder}/metrics.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "{folder}",
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "{folder}/server-state",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": "{folder}/admin.sock",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    ),
}
