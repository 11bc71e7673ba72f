"""The cores of this process as a pool of threads, with a bounded, first-come queue in front of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from service.errors import ClientGone, DeadlineExceeded, QueueFull

T = TypeVar("T")


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


class CorePool:
    """Runs jobs on `threads` threads; at most `max_waiting` jobs wait, in the order in which they came.

    A job is one whole request (decode to postprocess), so that nothing hops between threads. A job that runs
    `alone` waits until no other runs and keeps others from starting meanwhile; jobs that came before it go
    first. All methods belong to the event loop's thread.
    """

    def __init__(self, threads: int, max_waiting: int) -> None:
        self.threads = threads
        self.max_waiting = max_waiting
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="core")
        self._free = threads
        self._begun = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """Jobs that have no thread yet."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Threads that are taken."""
        return self.threads - self._free

    @property
    def begun(self) -> int:
        """Jobs that have come so far, those included that still wait or run, or gave up waiting."""
        return self._begun

    def check_room(self) -> None:
        """Raise QueueFull when a job that came now would be refused: before its body is even read."""
        if len(self._queue) >= self.max_waiting and not (self._free and not self._queue):
            raise QueueFull(f"{len(self._queue)} requests are waiting already, {self.max_waiting} may")

    async def run(self, job: Callable[[], T], patience: Patience, *, alone: bool = False) -> T:
        """Run `job` on a thread of the pool and return its result.

        Raises QueueFull when no more may wait, DeadlineExceeded and ClientGone while (or after) the job
        waits, and what the job raises. A job that has started is never interrupted: its thread counts as
        taken until it ends, even if the caller is cancelled.
        """
        patience.check()
        self._begun += 1
        width = self.threads if alone else 1
        if not await self._wait_for_turn(width, patience):
            raise DeadlineExceeded(f"waited for a free core until the deadline of {patience.deadline_s:g} s")
        future = asyncio.get_running_loop().run_in_executor(self._executor, job)
        future.add_done_callback(lambda done: self._ended(done, width))
        return await asyncio.shield(future)

    def close(self) -> None:
        """Let running jobs end and give the threads back."""
        self._executor.shutdown(wait=True)

    async def _wait_for_turn(self, width: int, patience: Patience) -> bool:
        """Take `width` threads, or return False when the deadline passed first."""
        if not self._queue and self._free >= width:
            self._free -= width
            return True
        self.check_room()
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.append((width, turn))
        gone = asyncio.ensure_future(patience.gone()) if patience.gone is not None else None
        waited_for = {turn} if gone is None else {turn, gone}
        try:
            await asyncio.wait(
                waited_for, timeout=patience.deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED
            )
            if gone is not None and gone.done() and not gone.cancelled() and gone.exception() is None:
                raise ClientGone("the client hung up while its request waited")
            taken = turn.done() and loop.time() < patience.deadline
        except BaseException:
            self._give_up(width, turn)
            raise
        finally:
            if gone is not None:
                gone.cancel()
        if not taken:
            self._give_up(width, turn)
        return taken

    def _give_up(self, width: int, turn: asyncio.Future[None]) -> None:
        if turn.done():
            self._release(width)
        else:
            self._queue.remove((width, turn))
            self._start_next()

    def _ended(self, done: asyncio.Future[T], width: int) -> None:
        if not done.cancelled():
            done.exception()  # seen here, in case the caller that would have seen it was cancelled
        self._release(width)

    def _release(self, width: int) -> None:
        self._free += width
        self._start_next()

    def _start_next(self) -> None:
        while self._queue and self._free >= self._queue[0][0]:
            width, turn = self._queue.popleft()
            self._free -= width
            turn.set_result(None)
