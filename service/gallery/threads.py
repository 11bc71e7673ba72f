"""The threads on which the gallery waits for its database, beside the event loop and the cores' pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_READERS = 4


class GalleryThreads:
    """Threads start when there is something to do. Readers do not wait for the one that writes."""

    def __init__(self) -> None:
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="gallery-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="gallery-write")

    async def read(self, work: Callable[..., T], *arguments: object) -> T:
        """What `work` returns, called on one of the readers' threads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *arguments)

    async def write(self, work: Callable[..., T], *arguments: object) -> T:
        """What `work` returns, called on the writer's thread; once begun it ends, whoever still waits."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, *arguments)

    def close(self) -> None:
        """Let what has begun end; what has not is dropped."""
        self._readers.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)
