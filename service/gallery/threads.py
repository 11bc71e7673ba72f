"""Threads for calls of the gallery's database, so that they block neither event loop nor core pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.errors import DatabaseUnreachable

T = TypeVar("T")

_READERS = 4


class GalleryThreads:
    """Several reader threads and a single writer thread, which are started on first use.

    A call that has started runs to its end even if the caller is cancelled; the database has its own
    timeouts. A call that cannot start within `deadline_s` seconds raises DatabaseUnreachable and is not run.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="gallery-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="gallery-write")

    async def read(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` on a reader thread and return its result.

        Raises DatabaseUnreachable if `work` could not start in time, and the errors of `work`.
        """
        return await self._call(self._readers, work, *arguments)

    async def write(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` on the writer thread and return its result. Raises the errors of `read`."""
        return await self._call(self._writer, work, *arguments)

    def close(self) -> None:
        """Wait for the calls that have started, and drop the calls that have not."""
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
