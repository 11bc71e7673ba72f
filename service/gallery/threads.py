"""The threads on which the gallery waits for its database, beside the event loop and the cores' pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.errors import DatabaseUnreachable

T = TypeVar("T")

_READERS = 4


class GalleryThreads:
    """Threads start when there is something to do. Readers do not wait for the one that writes.

    What has begun ends, whoever still waits for it: the database has time limits of its own. What could not
    begin for `deadline_s`, because the database keeps all threads waiting, is not begun any more.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="gallery-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="gallery-write")

    async def read(self, work: Callable[..., T], *arguments: object) -> T:
        """What `work` returns, called on one of the readers' threads.

        Raises DatabaseUnreachable when it could not begin in time, and what `work` raises.
        """
        return await self._call(self._readers, work, *arguments)

    async def write(self, work: Callable[..., T], *arguments: object) -> T:
        """What `work` returns, called on the writer's thread. Raises as `read` does: nothing is done then."""
        return await self._call(self._writer, work, *arguments)

    def close(self) -> None:
        """Let what has begun end; what has not is dropped."""
        self._readers.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)

    async def _call(self, threads: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T:
        called = threads.submit(work, *arguments)
        result = asyncio.wrap_future(called)
        try:
            done, _ = await asyncio.wait({result}, timeout=self._deadline_s)
        except asyncio.CancelledError:
            called.cancel()
            raise
        if not done and called.cancel():
            raise DatabaseUnreachable(f"the database kept all others waiting for {self._deadline_s:g} s")
        return await result
