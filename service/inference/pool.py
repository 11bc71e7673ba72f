"""The cores of this process as a pool of threads, with a bounded, first-come queue in front of it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from service.errors import ClientGone, DeadlineExceeded, QueueFull

T = TypeVar("T")

_BRIEF_S = 0.1
"""Jobs that end sooner are not worth watching for whether their client hangs up."""


@dataclass(frozen=True)
class Patience:
    """How long a caller waits for its turn.

    `deadline` is a time of the event loop's clock, in seconds; `deadline_s` the span it was set from, for the
    message; `gone` returns when the client hung up (it is only awaited while the job waits).
    """

    deadline: float
    deadline_s: float
    gone: Callable[[], Awaitable[None]] | None = None

    def check(self) -> None:
        """Raise DeadlineExceeded when the deadline has passed."""
        if asyncio.get_running_loop().time() >= self.deadline:
            raise DeadlineExceeded(f"no result within {self.deadline_s:g} s of the request's arrival")


class _Job:
    """A function on its way to a thread.

    Whoever takes the claim decides, once: a thread that it runs, the event loop that it does not.
    """

    __slots__ = ("alone", "at_door", "claim", "function", "loop", "result")

    def __init__(self, function: Callable[[], Any], alone: bool) -> None:
        self.function = function
        self.alone = alone
        self.at_door = False
        self.claim = threading.Lock()
        self.loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Any] = self.loop.create_future()


class CorePool:
    """Runs jobs on `threads` threads; at most `max_waiting` jobs wait, in the order in which they came.

    A job is one whole request (decode to postprocess), so that nothing hops between threads. The first of
    those that wait lie at the threads' door, one for each, so that a thread that ends a job takes the next
    one at once instead of idling until the event loop has its turn. A job that runs `alone` waits until no
    other is left and keeps others from starting meanwhile; jobs that came before it go first. All methods
    belong to the event loop's thread.
    """

    def __init__(self, threads: int, max_waiting: int) -> None:
        self.threads = threads
        self.max_waiting = max_waiting
        self._queue: deque[_Job] = deque()
        self._door: SimpleQueue[_Job | None] = SimpleQueue()
        self._begun = 0
        self._out = 0  # jobs at the door or on a thread
        self._alone = False  # and that the one there is runs alone
        # They start with the first job, when the models are loaded: then they take over the heaps of the
        # threads that loaded them, which saves some 40 MB of six models' resident memory.
        self._workers: list[threading.Thread] = []

    @property
    def waiting(self) -> int:
        """Jobs that have no thread yet."""
        return len(self._queue) + max(0, self._out - self.threads)

    @property
    def running(self) -> int:
        """Threads that are taken."""
        return self.threads if self._alone else min(self.threads, self._out)

    @property
    def begun(self) -> int:
        """Jobs that have come so far, those included that still wait or run, or gave up waiting."""
        return self._begun

    def check_room(self) -> None:
        """Raise QueueFull when a job that came now would be refused: before its body is even read."""
        waiting = self.waiting
        if waiting >= self.max_waiting and (self._queue or self.running == self.threads):
            raise QueueFull(f"{waiting} requests are waiting already, {self.max_waiting} may")

    async def run(self, function: Callable[[], T], patience: Patience, *, alone: bool = False) -> T:
        """Run `function` on a thread of the pool and return its result.

        Raises QueueFull when no more may wait, DeadlineExceeded and ClientGone while it waits, and what it
        raises itself. A job that has started is never interrupted: its thread counts as taken until it ends,
        even if the caller is cancelled.
        """
        patience.check()
        self._begun += 1
        self.check_room()
        if not self._workers:
            self._start_workers()
        job = _Job(function, alone)
        self._queue.append(job)
        self._start_next()
        try:
            await self._until_over_or_hopeless(job, patience)
            return cast(T, await job.result)
        except asyncio.CancelledError:
            self._take_back(job)
            job.result.cancel()
            raise

    def close(self) -> None:
        """Let the jobs that are there end, and the threads with them."""
        for _ in self._workers:
            self._door.put(None)
        for worker in self._workers:
            worker.join()

    def _start_workers(self) -> None:
        self._workers = [
            threading.Thread(target=self._work, name=f"core-{i}", daemon=True) for i in range(self.threads)
        ]
        for worker in self._workers:
            worker.start()

    async def _until_over_or_hopeless(self, job: _Job, patience: Patience) -> None:
        """Wait with the job while it waits; return once it is over or nothing can stop it any more."""
        remaining = patience.deadline - job.loop.time()
        done, _ = await asyncio.wait({job.result}, timeout=min(_BRIEF_S, remaining))
        if done or job.claim.locked():
            return
        gone = asyncio.ensure_future(patience.gone()) if patience.gone is not None else None
        try:
            await asyncio.wait(
                {job.result} if gone is None else {job.result, gone},
                timeout=max(0.0, patience.deadline - job.loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if job.result.done() or not self._take_back(job):
                return
            if gone is not None and gone.done():
                raise ClientGone("the client hung up while its request waited")
            raise DeadlineExceeded(f"waited for a free core until the deadline of {patience.deadline_s:g} s")
        finally:
            if gone is not None:
                gone.cancel()

    def _take_back(self, job: _Job) -> bool:
        """Keep a job that waits from ever running; False when a thread has it already."""
        if not job.claim.acquire(blocking=False):
            return False
        if job.at_door:
            self._leave(job)
        else:
            self._queue.remove(job)
            self._start_next()
        return True

    def _start_next(self) -> None:
        while self._queue:
            job = self._queue[0]
            if self._alone or self._out >= (1 if job.alone else 2 * self.threads):
                return
            self._queue.popleft()
            self._out += 1
            self._alone = job.alone
            job.at_door = True
            self._door.put(job)

    def _leave(self, job: _Job) -> None:
        self._out -= 1
        if job.alone:
            self._alone = False
        self._start_next()

    def _ended(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._leave(job)
        if job.result.done():
            return  # its caller was cancelled
        if error is None:
            job.result.set_result(result)
        else:
            job.result.set_exception(error)

    def _work(self) -> None:
        """What each thread does: one job after the other, until there is a None at the door."""
        while (job := self._door.get()) is not None:
            if not job.claim.acquire(blocking=False):
                continue
            result: Any = None
            error: BaseException | None = None
            try:
                result = job.function()
            except BaseException as raised:  # the caller's to see, whatever it is
                error = raised
            job.loop.call_soon_threadsafe(self._ended, job, result, error)
            del job, result, error  # an idle thread must not keep an image alive
