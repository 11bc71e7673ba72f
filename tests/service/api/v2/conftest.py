"""A service with small classifiers and detectors, for the tests of /v2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from onnx import TensorProto

from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.detectors import save_detector
from tests.service.conftest import NewTables, running
from tests.service.inference.test_graph_variants import write


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, new_tables: NewTables) -> Iterator[httpx.Client]:
    """Return a client of a service with `tiny`, `variant` (uint8, NHWC), `colours`, `boxes-first`, `broken`.

    A batch has at most four images, and a body at most 200 000 bytes.
    """
    folder = tmp_path_factory.mktemp("v2")
    make_tiny_model(folder / "zoo", "tiny")
    make_tiny_model(folder / "zoo", "broken")
    (folder / "zoo/broken/model.onnx").write_bytes(b"no model")
    write(folder / "zoo", layout="nhwc", dtype=TensorProto.UINT8, name="pixels:0")
    save_detector(folder / "zoo", "colours")
    save_detector(folder / "zoo", "boxes-first", "boxes-first")
    settings = Settings(
        model_dirs=(folder / "zoo",),
        default_model="tiny",
        data_dir=folder / "data",
        database_url=new_tables(Path(folder, "data")),
        max_batch=4,
        max_body_bytes=200_000,
    )
    with running(settings) as client:
        yield client
