"""Ray Serve: one replica per core, behind Ray's HAProxy. `python -m ... PORT FOLDER`"""

import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.rivals.classifier import Classifier
from service.inference.cpu import core_budget


@serve.deployment(num_replicas=core_budget(), max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
class Classify:
    """Answers POST with the most probable classes of an image, and GET with "ok"."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    async def __call__(self, request: Request) -> Any:
        if request.method == "GET":
            return "ok"
        if not request.headers["content-type"].startswith("multipart/"):
            return self.classifier.classify(await request.body())
        async with request.form() as form:
            return self.classifier.classify(await form["image"].read())


if __name__ == "__main__":
    ray.init(
        num_cpus=core_budget(),
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        _node_ip_address="127.0.0.1",
        _temp_dir=sys.argv[2],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classify.bind(), route_prefix="/", blocking=True)
