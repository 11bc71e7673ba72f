"""Time non-maximum suppression: by ONNX Runtime's operator, which the service uses, and by NumPy.

    .venv/bin/python -m benchmarks.suppression

Prints the table of docs/detection.md. Checks that both methods keep the same boxes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.inference.detection.suppression import suppress

CASES = {"30 boxes, 5 classes": (30, 600, 5), "400 boxes, 1 class, crowded": (400, 50, 1)} | {
    "400 boxes, 23 classes": (400, 4000, 23)
}
RUNS = 200
_BLOCK = 64


def main() -> None:
    """Measure both methods and print the table."""
    print("| boxes | kept | ONNX Runtime | NumPy |")
    print("| --- | --- | --- | --- |")
    for name, (count, spread, classes) in CASES.items():
        boxes, ids = scattered(count, spread, classes)
        ways = [
            lambda b=boxes, i=ids: suppress(b, i, 0.5, "by-class", len(b)).tolist(),
            lambda b=boxes, i=ids: by_matrices(b, i, 0.5),
        ]
        assert ways[0]() == ways[1]()
        times: list[list[float]] = [[], []]
        for _ in range(RUNS):
            for way, own in zip(ways, times, strict=True):
                own.append(timed(way))
        figures = " | ".join(
            f"{statistics.median(own):.2f} ms ({np.percentile(own, 25):.2f} to {np.percentile(own, 75):.2f})"
            for own in times
        )
        print(f"| {name} | {len(ways[0]())} | {figures} |")


def timed(way: Callable[[], Any]) -> float:
    """Return the milliseconds of one call."""
    start = time.perf_counter_ns()
    way()
    return (time.perf_counter_ns() - start) / 1e6


def scattered(count: int, spread: int, classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return boxes of 20 to 60 pixels a side, best first, and their classes."""
    random = np.random.default_rng(0)
    centres, sizes = random.uniform(0, spread, (count, 2)), random.uniform(20, 60, (count, 2))
    boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1).round(2)
    return boxes, random.integers(0, classes, count)


def by_matrices(boxes: NDArray[np.float64], ids: NDArray[np.int64], iou: float) -> list[int]:
    """Suppress with NumPy: compare blocks of boxes with all later boxes, in float32.

    Keeps one bit per pair of boxes.
    """
    left, top, right, bottom = np.ascontiguousarray(boxes.T, np.float32)
    area = (right - left) * (bottom - top)
    dropped, kept = 0, []
    for start in range(0, len(ids), _BLOCK):
        own, later = slice(start, start + _BLOCK), slice(start, None)
        both = np.minimum(right[own, None], right[later])
        both -= np.maximum(left[own, None], left[later])
        np.maximum(both, 0, out=both)
        high = np.minimum(bottom[own, None], bottom[later])
        high -= np.maximum(top[own, None], top[later])
        both *= np.maximum(high, 0, out=high)
        union = area[own, None] + area[later]
        union -= both
        over = (both > iou * union) & (ids[own, None] == ids[later])
        for row, bits in enumerate(np.packbits(over, axis=1, bitorder="little")):
            if not dropped >> (start + row) & 1:
                kept.append(start + row)
                dropped |= int.from_bytes(bits.tobytes(), "little") << start
    return kept


if __name__ == "__main__":
    main()
