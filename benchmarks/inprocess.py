"""Measurements without HTTP: decoding and preprocessing, cost of recording.

`python -m benchmarks.inprocess PART ...` runs one part in this process and prints its rounds as JSON.
The alternatives that are compared are interleaved, in a new random order in each round.
"""

from __future__ import annotations

import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from models.zoo.card import read_card
from models.zoo.preprocess import preprocess
from service.inference.decoding.decode import decode
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder
from service.latency.stages import Stopwatch
from service.state import open_state

Rounds = dict[str, list[float]]


def interleaved(
    work: Mapping[str, Callable[[], object]], rounds: int, repeats: Mapping[str, int], seed: int = 0
) -> Rounds:
    """Return, for each function, its median time in each round in milliseconds.

    In a round, a function runs as many times in a row as `repeats` gives for its name.
    """
    order = list(work)
    shuffle = random.Random(seed).shuffle
    for name in order:  # a warm-up, which is not measured
        for _ in range(repeats[name]):
            work[name]()
    results: Rounds = {name: [] for name in order}
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            durations = []
            for _ in range(repeats[name]):
                start = time.perf_counter_ns()
                work[name]()
                durations.append(time.perf_counter_ns() - start)
            results[name].append(statistics.median(durations) / 1e6)
    return results


def preparation(small: Path, large: Path, model: Path) -> Rounds:
    """Measure decode and preprocess, in milliseconds.

    The service's code runs on a small and a large JPEG. For comparison, simplejpeg with OpenCV's resize and
    fused normalisation runs on the small JPEG. Pillow decodes the large JPEG in full, once without and once
    with preprocessing.
    """
    import cv2

    cv2.setNumThreads(1)
    spec = read_card(model).input
    small_data, large_data = small.read_bytes(), large.read_bytes()

    def service_code(data: bytes) -> object:
        image = decode(data, shorter_side=spec.resize, max_pixels=10**8)
        return preprocess(image.pixels, spec, box=image.box)

    def opencv(interpolation: int) -> object:
        pixels = simplejpeg.decode_jpeg(small_data, "RGB", min_height=spec.resize, min_width=spec.resize)
        height, width = pixels.shape[:2]
        scale = spec.resize / min(height, width)
        if scale != 1:
            pixels = cv2.resize(
                pixels, (round(width * scale), round(height * scale)), interpolation=interpolation
            )
        top, left = (pixels.shape[0] - spec.height) // 2, (pixels.shape[1] - spec.width) // 2
        crop = pixels[top : top + spec.height, left : left + spec.width]
        return cv2.dnn.blobFromImage(crop, 1 / spec.std[0], mean=spec.mean)

    def pillow_full() -> object:
        return Image.open(io.BytesIO(large_data)).load()

    def pillow_and_all() -> object:
        return preprocess(np.asarray(Image.open(io.BytesIO(large_data)).convert("RGB")), spec)

    return interleaved(
        {
            "small": lambda: service_code(small_data),
            "small opencv linear": lambda: opencv(cv2.INTER_LINEAR),
            "small opencv area": lambda: opencv(cv2.INTER_AREA),
            "large": lambda: service_code(large_data),
            "large pillow": pillow_full,
            "large pillow and all": pillow_and_all,
        },
        rounds=9,
        repeats={
            "small": 60,
            "small opencv linear": 60,
            "small opencv area": 60,
            "large": 8,
            "large pillow": 3,
            "large pillow and all": 3,
        },
    )


def recording() -> Rounds:
    """Measure how long it takes to time and record a request, and to flush the recorder.

    In the result, `request_us` has the microseconds per request, and `flush_ms` the milliseconds of each
    flush.
    """
    per_request, flushes = [], []
    with tempfile.TemporaryDirectory() as folder:
        state = open_state(Path(folder), None)
        recorder = Recorder(state.latencies, Metrics({"version": "benchmark"}))
        recorder.flush()
        for _ in range(9):
            start = time.perf_counter_ns()
            for _ in range(1000):
                stopwatch = Stopwatch()
                stopwatch.lap("queue")
                stopwatch.lap("decode")
                stopwatch.lap("preprocess")
                stopwatch.lap("inference")
                stopwatch.lap("postprocess")
                recorder.record("efficientnet-lite0-int8", "live", stopwatch.stop())
            per_request.append((time.perf_counter_ns() - start) / 1e6)
            start = time.perf_counter_ns()
            recorder.flush()
            flushes.append((time.perf_counter_ns() - start) / 1e6)
        recorder.close()
        state.close()
    return {"request_us": per_request[1:], "flush_ms": flushes[1:]}


if __name__ == "__main__":
    part, *arguments = sys.argv[1:]
    if part == "preparation":
        result = preparation(*(Path(argument) for argument in arguments))
    else:
        result = recording()
    print(json.dumps(result))
