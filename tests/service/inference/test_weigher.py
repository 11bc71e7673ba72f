"""The weigher itself, where OpenVINO is installed: what it does on the event loop, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType

import pytest

from models.zoo.files import NETWORKS
from service.inference.pool import CorePool
from service.inference.registry import Registry
from service.inference.runtimes.choice import RuntimeChoices
from service.inference.runtimes.weigher import Weigher

FLOAT = "fashion-inverted-residual"

pytestmark = pytest.mark.openvino


async def no_pictures(_: int) -> list[bytes]:
    """An empty gallery."""
    return []


@pytest.fixture
def choices(tmp_path: Path) -> RuntimeChoices:
    """What is to run the model."""
    return RuntimeChoices("auto", tmp_path / "data")


@pytest.fixture
def registry(tmp_path: Path, choices: RuntimeChoices) -> Registry:
    """One loaded model, which is to be weighed."""
    shutil.copytree(NETWORKS / FLOAT, tmp_path / "zoo" / FLOAT)
    registry = Registry([tmp_path / "zoo"], FLOAT, choices=choices)
    registry.load()
    return registry


@contextlib.asynccontextmanager
async def weighing(
    registry: Registry,
    choices: RuntimeChoices,
    pool: CorePool | None = None,
    busy: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Weigher]:
    """Weigh the registry's models."""
    pool = pool or CorePool(1, 4)
    weigher = Weigher(registry, pool, choices, no_pictures, max_pixels=10**7, busy=busy)
    weigher.start()
    try:
        yield weigher
    finally:
        await weigher.close()
        await asyncio.to_thread(pool.close)


async def is_weighed(registry: Registry) -> None:
    """Return once the model is weighed."""
    async with asyncio.timeout(120):
        while registry.get().weighing is None:
            await asyncio.sleep(0.02)


def test_event_loop_is_left_alone(registry: Registry, choices: RuntimeChoices) -> None:
    """Neither pictures nor statistics are made on its thread, nor is the machine or a file read there."""
    called = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.add(frame.f_code.co_name)

    async def check() -> None:
        async with weighing(registry, choices):
            sys.setprofile(watch)  # of this thread
            try:
                await is_weighed(registry)
            finally:
                sys.setprofile(None)

    asyncio.run(check())
    assert "_measure" in called, "the weigher's coroutines run on this thread"
    slow = {"_noise", "bootstrap", "read_bytes", "this_machine", "import_problem", "_difference", "_open"}
    assert not called & slow
