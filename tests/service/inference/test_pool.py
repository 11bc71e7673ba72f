"""The pool: order, bounds, deadlines, and jobs that run alone."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.errors import ClientGone, DeadlineExceeded, QueueFull
from service.inference.pool import CorePool, Deadline


def patient(seconds: float = 30.0, gone: Callable[[], asyncio.Future[None]] | None = None) -> Deadline:
    return Deadline.after(seconds, gone)


class Gate:
    """Jobs that hold a thread until they are let go, and remember the order in which they started."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self._release = threading.Event()
        self._changed = threading.Condition()

    def job(self, name: str) -> Callable[[], str]:
        def run() -> str:
            with self._changed:
                self.started.append(name)
                self._changed.notify_all()
            self._release.wait(30)
            return name

        return run

    def open(self) -> None:
        self._release.set()

    async def until_started(self, count: int) -> None:
        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: len(self.started) >= count, 30)

        assert await asyncio.to_thread(wait)


async def settle() -> None:
    """Let the tasks that are ready take their steps."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_jobs_run_in_fifo_order() -> None:
    async def scenario() -> None:
        pool, gate = CorePool(1, 10), Gate()
        tasks = []
        for name in "abc":
            tasks.append(asyncio.create_task(pool.run(gate.job(name), patient())))
            await settle()
        assert (pool.running, pool.waiting) == (1, 2)
        gate.open()
        assert await asyncio.gather(*tasks) == ["a", "b", "c"]
        assert gate.started == ["a", "b", "c"]
        assert (pool.running, pool.waiting) == (0, 0)
        pool.close()

    asyncio.run(scenario())


def test_full_queue() -> None:
    async def scenario() -> None:
        pool, gate = CorePool(1, 1), Gate()
        tasks = [asyncio.create_task(pool.run(gate.job(name), patient())) for name in "ab"]
        await settle()
        with pytest.raises(QueueFull, match=r"queue full: 1 requests waiting \(limit: 1\)"):
            pool.ensure_capacity()
        with pytest.raises(QueueFull):
            await pool.run(gate.job("c"), patient())
        gate.open()
        assert await asyncio.gather(*tasks) == ["a", "b"]
        pool.ensure_capacity()
        pool.close()

    asyncio.run(scenario())


def test_deadline_before_and_while_queued() -> None:
    async def scenario() -> None:
        pool, gate = CorePool(1, 10), Gate()
        with pytest.raises(DeadlineExceeded):
            await pool.run(gate.job("late"), patient(-1))
        first = asyncio.create_task(pool.run(gate.job("first"), patient()))
        await gate.until_started(1)
        with pytest.raises(DeadlineExceeded):
            await pool.run(gate.job("second"), patient(0.01))
        assert pool.waiting == 0
        gate.open()
        assert await first == "first"
        assert gate.started == ["first"]
        pool.close()

    asyncio.run(scenario())


def test_disconnected_client_leaves_the_queue() -> None:
    async def scenario() -> None:
        pool, gate = CorePool(1, 10), Gate()
        first = asyncio.create_task(pool.run(gate.job("first"), patient()))
        await gate.until_started(1)
        hung_up = asyncio.get_running_loop().create_future()

        async def gone() -> None:
            await hung_up

        second = asyncio.create_task(pool.run(gate.job("second"), patient(gone=gone)))
        third = asyncio.create_task(pool.run(gate.job("third"), patient()))
        await settle()
        hung_up.set_result(None)
        with pytest.raises(ClientGone):
            await second
        gate.open()
        assert await asyncio.gather(first, third) == ["first", "third"]
        assert gate.started == ["first", "third"]
        pool.close()

    asyncio.run(scenario())


def test_exclusive_job() -> None:
    async def scenario() -> None:
        pool, gate = CorePool(2, 10), Gate()
        alone_gate = Gate()
        before = asyncio.create_task(pool.run(gate.job("before"), patient()))
        await gate.until_started(1)
        alone = asyncio.create_task(pool.run(alone_gate.job("alone"), patient(), exclusive=True))
        await settle()
        after = asyncio.create_task(pool.run(gate.job("after"), patient()))
        await settle()
        assert gate.started == ["before"]
        assert alone_gate.started == []
        gate.open()
        await before
        await alone_gate.until_started(1)
        assert gate.started == ["before"]
        alone_gate.open()
        assert await asyncio.gather(alone, after) == ["alone", "after"]
        pool.close()

    asyncio.run(scenario())


def test_cancelled_caller_of_a_running_job() -> None:
    async def scenario() -> None:
        pool, gate = CorePool(1, 10), Gate()
        first = asyncio.create_task(pool.run(gate.job("first"), patient()))
        await gate.until_started(1)
        first.cancel()
        second = asyncio.create_task(pool.run(gate.job("second"), patient()))
        await settle()
        assert (pool.running, pool.waiting) == (1, 1)
        gate.open()
        assert await second == "second"
        with pytest.raises(asyncio.CancelledError):
            await first
        pool.close()

    asyncio.run(scenario())


def test_failed_job_frees_its_thread() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        pool = CorePool(1, 0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await pool.run(fail, patient())
        assert await pool.run(lambda: 7, patient()) == 7
        pool.close()

    asyncio.run(scenario())


class Client:
    """A client that disconnects once the pool watches for it."""

    def __init__(self) -> None:
        self.watched = asyncio.Event()
        self.left = asyncio.Event()

    async def gone(self) -> None:
        self.watched.set()
        await self.left.wait()


class Picture:
    """Stands for an image that a job refers to."""


@pytest.mark.parametrize("ending", ["deadline", "disconnect", "failure"])
def test_an_unsuccessful_job_leaves_nothing_in_memory(ending: str) -> None:
    """Under overload many jobs end so: their images must not wait for a garbage collection."""
    gone: list[weakref.ref[Picture]] = []

    async def request(pool: CorePool, deadline: Deadline) -> None:
        picture = Picture()
        gone.append(weakref.ref(picture))

        def job() -> None:
            raise ValueError(picture)

        with pytest.raises((ClientGone, DeadlineExceeded, ValueError)):
            await pool.run(job, deadline)

    async def scenario() -> None:
        pool, gate = CorePool(1, 10), Gate()
        first = asyncio.create_task(pool.run(gate.job("first"), patient()))
        await gate.until_started(1)
        client = Client()
        deadline = patient(0.01) if ending == "deadline" else patient(gone=client.gone)
        waiting = asyncio.create_task(request(pool, deadline))
        if ending == "disconnect":
            await client.watched.wait()
            client.left.set()
        elif ending == "failure":
            gate.open()
        await waiting
        gate.open()
        await first
        await settle()
        pool.close()

    gc.collect()
    gc.disable()
    try:
        asyncio.run(scenario())
        assert [reference() for reference in gone] == [None]
    finally:
        gc.enable()


def test_caller_cancelled_as_its_client_disconnects() -> None:
    async def scenario() -> list[dict[str, object]]:
        problems: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        pool, gate = CorePool(1, 10), Gate()
        first = asyncio.create_task(pool.run(gate.job("first"), patient()))
        await gate.until_started(1)
        client = Client()
        waiting = asyncio.create_task(pool.run(gate.job("second"), patient(gone=client.gone)))
        await client.watched.wait()
        client.left.set()
        await asyncio.sleep(0)  # the watch ends, and its callback is due
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, ClientGone)):
            await waiting
        assert pool.waiting == 0
        gate.open()
        await first
        pool.close()
        return problems

    assert asyncio.run(scenario()) == []


def test_a_call_that_runs_at_the_deadline_is_waited_for() -> None:
    async def scenario() -> str:
        gate = Gate()
        with ThreadPoolExecutor(1) as threads:
            running, queued = threads.submit(gate.job("first")), threads.submit(gate.job("second"))
            await gate.until_started(1)
            with pytest.raises(DeadlineExceeded, match="no result within 0 s"):
                await patient(0).wait_for(queued)
            late = asyncio.create_task(patient(0).wait_for(running))
            await asyncio.sleep(0)
            gate.open()
            result = await late
        assert gate.started == ["first"]
        return result

    assert asyncio.run(scenario()) == "first"


def test_the_client_of_a_call_that_runs_disconnects() -> None:
    async def scenario() -> None:
        gate, client = Gate(), Client()
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(gate.job("first"))
            await gate.until_started(1)
            waiting = asyncio.create_task(patient(gone=client.gone).wait_for(running))
            await client.watched.wait()
            client.left.set()
            with pytest.raises(ClientGone):
                await waiting
            gate.open()
            assert await asyncio.wrap_future(running) == "first"

    asyncio.run(scenario())
