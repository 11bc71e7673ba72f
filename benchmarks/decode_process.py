"""Cost of decoding in a separate process: `python -m benchmarks.decode_process`.

Compares the decoder in this process with the same decoder in a child process. The child receives the file
through a pipe and writes the pixels into shared memory without a further copy. So the difference is the
minimum cost of a process boundary.
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
    """Return a JPEG photograph of this size."""
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize((width, height)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def serve(connection: Connection, shared: SharedMemory) -> None:
    """Decode received files into `shared` and send the shapes, until an empty file arrives."""
    while data := connection.recv_bytes():
        pixels = decode(data, shorter_side=SHORTER_SIDE, max_pixels=MAX_PIXELS).pixels
        np.ndarray(pixels.shape, np.uint8, shared.buf)[:] = pixels
        connection.send(pixels.shape)


def median_us(run: Callable[[], object]) -> float:
    """Return the median duration of `run` in microseconds."""
    durations = []
    for _ in range(RUNS):
        start = time.perf_counter_ns()
        run()
        durations.append(time.perf_counter_ns() - start)
    return statistics.median(durations) / 1000


def main() -> None:
    """Print the medians of interleaved rounds and their range."""
    shared = SharedMemory(create=True, size=MAX_PIXELS)
    parent_end, child_end = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=serve, args=(child_end, shared), daemon=True)
    child.start()
    try:
        for width, height in ((512, 512), (1024, 768)):
            data = jpeg(width, height)

            def in_process(data: bytes = data) -> object:
                return decode(data, shorter_side=SHORTER_SIDE, max_pixels=MAX_PIXELS).pixels

            def in_child(data: bytes = data) -> object:
                parent_end.send_bytes(data)
                return np.ndarray(parent_end.recv(), np.uint8, shared.buf)

            assert np.array_equal(in_process(), in_child())
            rounds = [(median_us(in_process), median_us(in_child)) for _ in range(ROUNDS)]
            inside, outside = (sorted(column) for column in zip(*rounds, strict=True))
            print(
                f"{width} x {height}: in this process {statistics.median(inside):.0f} us "
                f"({inside[0]:.0f} to {inside[-1]:.0f}), in another {statistics.median(outside):.0f} us "
                f"({outside[0]:.0f} to {outside[-1]:.0f})"
            )
    finally:
        parent_end.send_bytes(b"")
        child.join()
        shared.close()
        shared.unlink()


if __name__ == "__main__":
    main()
