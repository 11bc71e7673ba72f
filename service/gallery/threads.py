"""Threads for the gallery's database calls, so that these block neither the event loop nor the core pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.errors import DatabaseUnreachable

T = TypeVar("T")

_READERS = 4


class GalleryThreads:
    """Reader threads and a single writer thread, started on first use.

    Started calls run to completion even if the caller is cancelled; the database has its own timeouts. Calls
    that cannot start within `deadline_s` seconds raise DatabaseUnreachable and are not run.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="gallery-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="gallery-write")

    async def read(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` on a reader thread and return its result.

        Raises DatabaseUnreachable if it could not start in time, and the errors of `work`.
        """
        return await self._call(self._readers, work, *arguments)

    async def write(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` on the writer thread. Raises the errors of `read`."""
        return await self._call(self._writer, work, *arguments)

    def close(self) -> None:
        """Wait for calls that have started, and drop all other calls."""
        self._readers.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)

    async def _call(self, threads: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T:
        call = threads.submit(work, *arguments)
        result = asyncio.wrap_future(call)
        try:
            done, _ = await asyncio.wait({result}, timeout=self._deadline_s)
        except asyncio.CancelledError:
            call.cancel()
            raise
        if not done and call.cancel():
            raise DatabaseUnreachable(f"database: no free thread within {self._deadline_s:g} s")
        return await result
