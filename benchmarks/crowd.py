"""So many dashboards, as the service sees them: each fetches one path now and then over a kept connection.

    python -m benchmarks.crowd PORT PATH COUNT EVERY_S

Prints a line once every one of them has had an answer, and when standard input ends the answers per second
since. A process of its own, that does with the answers no more than to find where they end.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import uvloop

from benchmarks.load import HOST, connect


async def run(port: int, path: str, count: int, every_s: float) -> None:
    """Fetch until standard input ends."""
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()
    answers = 0

    async def dashboard() -> None:
        nonlocal answers
        connection = await connect(port)
        while True:
            if not connection.open:
                connection = await connect(port)
            status, _ = await connection.send(request)
            if status != "200":
                raise RuntimeError(f"{path} is answered with {status}")
            answers += 1
            # as the page's module does it
            await asyncio.sleep(every_s + random.random() * 0.5)

    async def at_random() -> None:
        await asyncio.sleep(random.random() * every_s)
        await dashboard()

    crowd = [asyncio.create_task(at_random()) for _ in range(count)]
    await asyncio.sleep(every_s + 0.5)
    begun, before = time.perf_counter(), answers
    print("all there", flush=True)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([ended, *crowd], return_when=asyncio.FIRST_COMPLETED)
    for task in crowd:
        if task.done():
            task.result()
        task.cancel()
    print((answers - before) / (time.perf_counter() - begun))


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
