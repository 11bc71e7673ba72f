"""A bare ASGI function under uvicorn, without a framework: the minimum cost of HTTP. `python -m ... PORT`

It runs the job on a pool with one thread per core. It has no routing, validation, limits, queue or recording.
"""

import asyncio
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import python_multipart
import uvicorn

from benchmarks.rivals.classifier import Classifier
from service.inference.cpu import core_budget

CLASSIFIER = Classifier()
POOL = ThreadPoolExecutor(core_budget())


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer GET with 200, and POST with the most probable classes of the image in its body or form."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    answer = b"ok"
    if scope["method"] == "POST":
        chunks, more = [], True
        while more:
            message = await receive()
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(chunks)
        kind = dict(scope["headers"])[b"content-type"]
        data = image_of(kind, body) if kind.startswith(b"multipart/") else body
        result = await asyncio.get_running_loop().run_in_executor(POOL, CLASSIFIER.classify, data)
        answer = orjson.dumps(result)
    length = str(len(answer)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def image_of(content_type: bytes, form: bytes) -> bytes:
    """Return the content of the last file of a form."""
    files: list[bytes] = []

    def on_file(file: Any) -> None:
        file.file_object.seek(0)
        files.append(file.file_object.read())

    python_multipart.parse_form({"Content-Type": content_type}, io.BytesIO(form), None, on_file)
    return files[-1]


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning", lifespan="off"
    )
