"""Who waits for a database that does not answer gives up in time, and nothing is done behind their back."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.errors import DatabaseUnreachable
from service.gallery.threads import GalleryThreads


def test_call_that_cannot_start_in_time() -> None:
    async def scenario() -> None:
        threads = GalleryThreads(deadline_s=0.05)
        free, begun = threading.Event(), threading.Event()
        done: list[str] = []

        def slow() -> str:
            begun.set()
            free.wait(30)
            return "slow"

        first = asyncio.create_task(threads.write(slow))
        await asyncio.to_thread(begun.wait, 30)
        with pytest.raises(DatabaseUnreachable, match=r"0\.05 s"):
            await threads.write(done.append, "late")
        assert await threads.read(lambda: "readers do not wait for the writer")
        assert not first.done()  # it has begun, so it is waited for, however long it takes
        free.set()
        assert await first == "slow"
        await threads.write(done.append, "next")
        assert done == ["next"]
        threads.close()

    asyncio.run(scenario())


def test_cancelled_calls() -> None:
    async def scenario() -> None:
        threads = GalleryThreads(deadline_s=30)
        free, begun = threading.Event(), threading.Event()
        done: list[str] = []

        def slow() -> None:
            begun.set()
            free.wait(30)
            done.append("slow")

        running = asyncio.create_task(threads.write(slow))
        await asyncio.to_thread(begun.wait, 30)
        waiting = asyncio.create_task(threads.write(done.append, "waiting"))
        await asyncio.sleep(0)
        for task in (running, waiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        free.set()
        await threads.write(done.append, "next")
        assert done == ["slow", "next"]
        threads.close()

    asyncio.run(scenario())


def test_errors_are_raised() -> None:
    async def scenario() -> None:
        threads = GalleryThreads(deadline_s=30)
        with pytest.raises(ZeroDivisionError):
            await threads.read(lambda: 1 / 0)
        threads.close()

    asyncio.run(scenario())
