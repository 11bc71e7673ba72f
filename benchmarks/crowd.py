"""Simulate open dashboards: each fetches one path periodically over a persistent connection.

    python -m benchmarks.crowd PORT PATH COUNT EVERY_S
    python -m benchmarks.crowd control FILE

The first form prints a line when every dashboard is connected. Then each dashboard waits for a random part of
a period before its first request, so that the rate of requests is constant from the start. When standard
input ends, it prints the number of responses per second since that line. It parses only the status and the
length of a response.

The second form, `control`, is the server of the control measurement. It prints its port, and answers every
request with the content of the file, which is a complete HTTP response. It runs until it is terminated. The
two forms run in separate processes.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.load import HOST, connect

HEAD = (
    "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: keep-alive\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 "
    "Safari/537.36\r\nAccept: */*\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n"
    "Sec-Fetch-Dest: empty\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-US,en;q=0.9\r\n\r\n"
)
"""A request as a browser sends it."""


async def run(port: int, path: str, count: int, every_s: float) -> None:
    """Fetch until standard input ends."""
    request = HEAD.format(path=path, host=HOST, port=port).encode()
    connections = [await connect(port) for _ in range(count)]
    answers = 0
    started = time.perf_counter()
    print("all connected", flush=True)

    async def dashboard(number: int) -> None:
        nonlocal answers
        await asyncio.sleep(random.random() * every_s)
        while True:
            if not connections[number].open:
                connections[number] = await connect(port)
            status, _ = await connections[number].send(request)
            if status != "200":
                raise RuntimeError(f"{path}: status {status} (allowed: 200)")
            answers += 1
            # the dashboard's script waits as long
            await asyncio.sleep(every_s + random.random() * 0.5)

    crowd = [asyncio.create_task(dashboard(number)) for number in range(count)]
    end_of_input = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([end_of_input, *crowd], return_when=asyncio.FIRST_COMPLETED)
    for task in crowd:
        if task.done():
            task.result()
        task.cancel()
    print(answers / (time.perf_counter() - started))


class Control(asyncio.Protocol):
    """Answers every request with the same bytes. Requests must have no body."""

    answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(self.answer)


async def control(file: Path) -> None:
    """Serve the content of `file` on a free port until the process is terminated."""
    Control.answer = file.read_bytes()
    server = await asyncio.get_running_loop().create_server(Control, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "control":
        uvloop.run(control(Path(sys.argv[2])))
    else:
        uvloop.run(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
