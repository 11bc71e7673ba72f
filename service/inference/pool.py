"""Thread pool with a bounded FIFO queue. There is one thread per core, and each job is one request."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from service.errors import ClientGone, DeadlineExceeded, QueueFull, WeighinError

T = TypeVar("T")

_BRIEF_S = 0.1
"""Time that a job waits before the pool starts to watch for its client's disconnect."""


@dataclass(frozen=True)
class Deadline:
    """Time at which a caller stops waiting for a thread.

    `at`: the time by the event loop's clock, in seconds. `limit_s`: the time limit, for the error message.
    `disconnected`: a function that returns when the client disconnects. The pool awaits this function only
    while the client's job waits. The method `wait_for` awaits it until the result is there.
    """

    at: float
    limit_s: float
    disconnected: Callable[[], Awaitable[None]] | None = None

    @classmethod
    def after(cls, limit_s: float, disconnected: Callable[[], Awaitable[None]] | None = None) -> Deadline:
        """Return the deadline `limit_s` seconds from now, by the running event loop's clock."""
        return cls(asyncio.get_running_loop().time() + limit_s, limit_s, disconnected)

    def check(self) -> None:
        """Raise DeadlineExceeded if the deadline has passed."""
        if asyncio.get_running_loop().time() >= self.at:
            raise DeadlineExceeded(f"request: no result within {self.limit_s:g} s")

    async def wait_for(self, call: concurrent.futures.Future[T]) -> T:
        """Return the result of a call on another thread, or raise its error.

        A call that has not begun at the deadline is cancelled and raises DeadlineExceeded; the result of one
        that has begun is waited for. If the client disconnects, ClientGone is raised, and a call that has not
        begun is cancelled.
        """
        result = asyncio.wrap_future(call)
        gone = None if self.disconnected is None else asyncio.ensure_future(self.disconnected())
        waited: list[asyncio.Future[Any]] = [result] if gone is None else [result, gone]
        left_s = self.at - asyncio.get_running_loop().time()
        try:
            await asyncio.wait(waited, timeout=max(0.0, left_s), return_when=asyncio.FIRST_COMPLETED)
            if not result.done() and (gone is None or not gone.done()):
                if call.cancel():
                    raise DeadlineExceeded(f"request: no result within {self.limit_s:g} s")
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            assert gone is not None
            gone.result()
            raise ClientGone("client: disconnected before the response was made")
        finally:
            result.cancel()  # and with it the call
            if gone is not None:
                gone.cancel()


class _Job:
    """A function that waits in the queue or runs on a thread, with the deadline of its caller.

    `claim` is a lock that is taken only once: by the thread that runs the job, or by the event loop when it
    cancels the job.
    """

    __slots__ = (
        *("claim", "deadline", "dispatched", "exclusive", "function"),
        *("loop", "result", "timer", "watch"),
    )

    def __init__(self, function: Callable[[], Any], exclusive: bool, deadline: Deadline) -> None:
        self.function = function
        self.exclusive = exclusive
        self.deadline = deadline
        self.dispatched = False
        self.claim = threading.Lock()
        self.loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Any] = self.loop.create_future()
        self.timer: asyncio.TimerHandle
        self.watch: asyncio.Future[None] | None = None


class CorePool:
    """Runs jobs on `threads` threads in FIFO order. At most `max_waiting` jobs may wait.

    A job is one whole request (decode to postprocess), so that a request never moves between threads. One
    waiting job per thread is dispatched ahead, so that a thread can start its next job without waiting for
    the event loop. An `exclusive` job runs alone: it starts once all earlier jobs have ended, and later jobs
    wait until it has ended. Call all methods from the event loop's thread.
    """

    def __init__(self, threads: int, max_waiting: int) -> None:
        self.threads = threads
        self.max_waiting = max_waiting
        self._queue: deque[_Job] = deque()
        self._ready: SimpleQueue[_Job | None] = SimpleQueue()
        self._begun = 0
        self._in_flight = 0  # jobs dispatched or on a thread
        self._exclusive = False  # whether the job in flight is exclusive
        # Threads start with the first job, which comes after the models are loaded. So they reuse the malloc
        # arenas of the loading threads. This saves about 40 MB of resident memory with six models.
        self._workers: list[threading.Thread] = []

    @property
    def waiting(self) -> int:
        """Number of jobs that have no thread yet."""
        return len(self._queue) + max(0, self._in_flight - self.threads)

    @property
    def running(self) -> int:
        """Number of busy threads."""
        return self.threads if self._exclusive else min(self.threads, self._in_flight)

    @property
    def begun(self) -> int:
        """Number of jobs submitted so far, including waiting, running and cancelled ones."""
        return self._begun

    def ensure_capacity(self) -> None:
        """Raise QueueFull if a job submitted now would be refused."""
        waiting = self.waiting
        if waiting >= self.max_waiting and (self._queue or self.running == self.threads):
            raise QueueFull(f"queue full: {waiting} requests waiting (limit: {self.max_waiting})")

    async def run(self, function: Callable[[], T], deadline: Deadline, *, exclusive: bool = False) -> T:
        """Run `function` on a thread of the pool and return its result.

        Raises QueueFull if the queue is full. While the job waits, raises DeadlineExceeded at the deadline
        and ClientGone if the client disconnects. Raises the errors of `function`, too. A started job is never
        interrupted: it occupies its thread until it ends, even if the caller is cancelled.
        """
        deadline.check()
        self._begun += 1
        self.ensure_capacity()
        if not self._workers:
            self._start_workers()
        job = _Job(function, exclusive, deadline)
        self._queue.append(job)
        self._start_next()
        job.timer = job.loop.call_at(min(job.loop.time() + _BRIEF_S, deadline.at), self._check_waiting, job)
        try:
            return cast(T, await job.result)
        except asyncio.CancelledError:
            self._cancel(job)
            job.result.cancel()
            raise
        finally:
            job.timer.cancel()
            if job.watch is not None:
                job.watch.cancel()
            # Breaks a reference cycle: the job's error refers to this frame by its traceback, this frame to
            # the job, and the job to the error. Otherwise the image would stay in memory until the next full
            # garbage collection.
            del job

    def close(self) -> None:
        """Run the remaining jobs to their end, then stop the threads."""
        for _ in self._workers:
            self._ready.put(None)
        for worker in self._workers:
            worker.join()

    def _start_workers(self) -> None:
        self._workers = [
            threading.Thread(target=self._work, name=f"core-{i}", daemon=True) for i in range(self.threads)
        ]
        for worker in self._workers:
            worker.start()

    def _check_waiting(self, job: _Job) -> None:
        """Cancel the job if it still waits at its deadline.

        Before the deadline, watch whether the client disconnects.
        """
        if job.claim.locked():
            return
        deadline = job.deadline
        if job.loop.time() >= deadline.at:
            self._give_up(job, DeadlineExceeded(f"request: no free core within {deadline.limit_s:g} s"))
            return
        job.timer = job.loop.call_at(deadline.at, self._check_waiting, job)
        if deadline.disconnected is not None and job.watch is None:
            job.watch = asyncio.ensure_future(deadline.disconnected())
            job.watch.add_done_callback(partial(self._disconnected, job))

    def _disconnected(self, job: _Job, watch: asyncio.Future[None]) -> None:
        if not watch.cancelled():
            self._give_up(job, ClientGone("client: disconnected while its request waited"))

    def _give_up(self, job: _Job, error: WeighinError) -> None:
        if self._cancel(job) and not job.result.done():  # the result is done if the caller was just cancelled
            job.result.set_exception(error)

    def _cancel(self, job: _Job) -> bool:
        """Cancel a waiting job, and return True. If a thread already runs the job, return False."""
        if not job.claim.acquire(blocking=False):
            return False
        if job.dispatched:
            self._release(job)
        else:
            self._queue.remove(job)
            self._start_next()
        return True

    def _start_next(self) -> None:
        while self._queue:
            job = self._queue[0]
            if self._exclusive or self._in_flight >= (1 if job.exclusive else 2 * self.threads):
                return
            self._queue.popleft()
            self._in_flight += 1
            self._exclusive = job.exclusive
            job.dispatched = True
            self._ready.put(job)

    def _release(self, job: _Job) -> None:
        self._in_flight -= 1
        if job.exclusive:
            self._exclusive = False
        self._start_next()

    def _ended(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._release(job)
        if job.result.done():
            return  # the job's caller was cancelled
        if error is None:
            job.result.set_result(result)
        else:
            job.result.set_exception(error)

    def _work(self) -> None:
        """Thread main loop: run dispatched jobs until None arrives."""
        while (job := self._ready.get()) is not None:
            if not job.claim.acquire(blocking=False):
                continue
            result: Any = None
            error: BaseException | None = None
            try:
                result = job.function()
            except BaseException as raised:  # raised again in the caller
                error = raised
            job.loop.call_soon_threadsafe(self._ended, job, result, error)
            del job, result, error  # an idle thread must not hold an image in memory
