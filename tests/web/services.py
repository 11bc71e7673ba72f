"""Services for the browser to visit, with limits that a busy machine does not reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from models.zoo.files import NETWORKS
from tests.helpers.process import service_process

NO_HURRY: dict[str, object] = {"compare_budget_s": 60, "deadline_s": 60}
"""Settings with which comparisons make all their runs, and requests are answered, on a busy machine."""


@contextmanager
def zoo_service(data_dir: Path, **settings: object) -> Iterator[httpx.Client]:
    """Start a service with the project's own models, settings changed as given; yields a client of it."""
    given = {"default_model": "efficientnet-lite0-int8"} | NO_HURRY | settings
    with service_process(NETWORKS, data_dir, **given) as process, process.client() as client:
        yield client
