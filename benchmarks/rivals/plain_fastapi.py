"""Plain FastAPI: a `def` route for forms and an `async def` route for raw bodies. `python -m ... PORT`

Both routes run the job on anyio's thread pool. The pool has one thread per core, because FastAPI's default of
40 threads is slower here.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request, UploadFile
from fastapi.concurrency import run_in_threadpool

from benchmarks.rivals.classifier import Classifier
from service.inference.cpu import core_budget

CLASSIFIER = Classifier()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Limit the thread pool to one thread per core."""
    current_default_thread_limiter().total_tokens = core_budget()
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> str:
    """Return 200 once the server runs."""
    return "ok"


@app.post("/classify")
def classify(image: UploadFile) -> list[dict[str, Any]]:
    """Return the most probable classes of the image in a form."""
    return CLASSIFIER.classify(image.file.read())


@app.post("/classify/raw")
async def classify_raw(request: Request) -> list[dict[str, Any]]:
    """Return the most probable classes of the image in a raw body."""
    return await run_in_threadpool(CLASSIFIER.classify, await request.body())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
