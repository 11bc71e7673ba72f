"""Fixtures: a PostgreSQL server, and two simulated nodes with two replicas."""

from __future__ import annotations

import io
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.postgres import PostgresServer, postgres_server
from tests.ray.cluster import RayCluster, environment, switches

ROOT = Path(__file__).parents[2]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests have noted."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, text in report.user_properties if report.when == "call" else ():
            terminalreporter.write_line(f"{name}: {text}")


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Return a function that notes a figure, for the summary."""
    return record_property


@pytest.fixture(scope="session", autouse=True)
def ray_serve() -> None:
    """Import Ray Serve, which warns about its own use of pydantic."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray.serve  # noqa: F401


@pytest.fixture(scope="session")
def slow_png() -> bytes:
    """Return an image of 36 M pixels, which keeps a core busy while it is decoded."""
    buffer = io.BytesIO()
    Image.new("P", (6000, 6000)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return a PostgreSQL server that tests may kill."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def cluster(postgres: PostgresServer, tiny_models_dir: Path) -> Iterator[RayCluster]:
    """Return two nodes with a replica each; the tests follow each other on them."""
    interfaces = [name for _, name in socket.if_nameindex()]
    assert interfaces == ["lo"], f"network interfaces: {interfaces} (allowed: lo only; use `make test-ray`)"
    # the path is short, because those of sockets are limited
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        code = folder / "code"
        shutil.copytree(ROOT / "service", code / "service", ignore=shutil.ignore_patterns("__pycache__"))
        (code / "models").symlink_to(ROOT / "models")
        settings = {
            "WEIGHIN_DATABASE_URL": postgres.new_schema(),
            "WEIGHIN_DATA_DIR": f"{folder}/data",
            "WEIGHIN_DEFAULT_MODEL": "tiny",
            "WEIGHIN_MODEL_DIRS": str(tiny_models_dir),
            "WEIGHIN_MAX_WAITING": "8",
            "WEIGHIN_THREADS": "1",
        }
        with environment(switches(folder)):
            cluster = RayCluster(code, settings)
            try:
                cluster.deploy()
                cluster.wait_for(2)
                yield cluster
            finally:
                cluster.close()
