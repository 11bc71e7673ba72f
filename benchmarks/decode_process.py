"""What decoding in a process of its own would cost: `python -m benchmarks.decode_process`.

The same decoder in this process and in a child that gets the file through a pipe and puts the pixels into
shared memory, from where this process copies nothing: the least that a process boundary costs.
"""

from __future__ import annotations

import io
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import skimage.data
from PIL import Image

from service.inference.decoding.decode import decode

SHORTER_SIDE = 256
MAX_PIXELS = 64_000_000
ROUNDS = 5
RUNS = 200


def jpeg(width: int, height: int) -> bytes:
    """A photograph of that size."""
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize((width, height)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def serve(connection: Connection, shared: SharedMemory) -> None:
    """Decode what arrives into `shared`, and answer with the shape, until an empty file arrives."""
    while data := connection.recv_bytes():
        pixels = decode(data, shorter_side=SHORTER_SIDE, max_pixels=MAX_PIXELS).pixels
        np.ndarray(pixels.shape, np.uint8, shared.buf)[:] = pixels
        connection.send(pixels.shape)


def median_us(run: Callable[[], object]) -> float:
    """Median duration of `run`, in microseconds."""
    durations = []
    for _ in range(RUNS):
        start = time.perf_counter_ns()
        run()
        durations.append(time.perf_counter_ns() - start)
    return statistics.median(durations) / 1000


def main() -> None:
    """Print the medians of interleaved rounds, and their range."""
    shared = SharedMemory(create=True, size=MAX_PIXELS)
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=serve, args=(there, shared), daemon=True)
    child.start()
    try:
        for width, height in ((512, 512), (1024, 768)):
            data = jpeg(width, height)

            def within(data: bytes = data) -> object:
                return decode(data, shorter_side=SHORTER_SIDE, max_pixels=MAX_PIXELS).pixels

            def across(data: bytes = data) -> object:
                here.send_bytes(data)
                return np.ndarray(here.recv(), np.uint8, shared.buf)

            assert np.array_equal(within(), across())
            rounds = [(median_us(within), median_us(across)) for _ in range(ROUNDS)]
            inside, outside = (sorted(column) for column in zip(*rounds, strict=True))
            print(
                f"{width} x {height}: in this process {statistics.median(inside):.0f} us "
                f"({inside[0]:.0f} to {inside[-1]:.0f}), in another {statistics.median(outside):.0f} us "
                f"({outside[0]:.0f} to {outside[-1]:.0f})"
            )
    finally:
        here.send_bytes(b"")
        child.join()
        shared.close()
        shared.unlink()


if __name__ == "__main__":
    main()
