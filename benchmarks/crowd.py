"""Simulate open dashboards: each fetches one path periodically over a persistent connection.

    python -m benchmarks.crowd PORT PATH COUNT EVERY_S

Prints a line when every dashboard has had a response. When standard input ends, prints the responses per
second since that line. Runs in a separate process. It parses only the status and the length of a response.
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
                raise RuntimeError(f"{path}: status {status} (allowed: 200)")
            answers += 1
            # as the dashboard's script does
            await asyncio.sleep(every_s + random.random() * 0.5)

    async def start_at_random() -> None:
        await asyncio.sleep(random.random() * every_s)
        await dashboard()

    crowd = [asyncio.create_task(start_at_random()) for _ in range(count)]
    await asyncio.sleep(every_s + 0.5)
    started, before = time.perf_counter(), answers
    print("all started", flush=True)
    end_of_input = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([end_of_input, *crowd], return_when=asyncio.FIRST_COMPLETED)
    for task in crowd:
        if task.done():
            task.result()
        task.cancel()
    print((answers - before) / (time.perf_counter() - started))


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
