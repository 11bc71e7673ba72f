"""The floor: the same bytes through decode, preprocess and network in a bare loop, without HTTP.

`python -m benchmarks.floor JPEG MODEL_FOLDER SECONDS THREADS` prints the images per second and the p50 in
milliseconds of one image as JSON. It runs the service's own decoder, preprocessing and session.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from pathlib import Path

from models.zoo.card import read_card
from models.zoo.preprocess import preprocess
from service.inference.decoding.decode import decode
from service.inference.session import OnnxSession

WARM_UP_S = 0.5


def main() -> None:
    """Loop in each thread until the time is over."""
    data = Path(sys.argv[1]).read_bytes()
    folder = Path(sys.argv[2])
    seconds, threads = float(sys.argv[3]), int(sys.argv[4])
    card = read_card(folder)
    session = OnnxSession((folder / card.file.name).read_bytes(), card)
    start = time.perf_counter() + WARM_UP_S
    durations: list[list[int]] = [[] for _ in range(threads)]

    def loop(own: list[int]) -> None:
        while (now := time.perf_counter()) < start + seconds:
            before = time.perf_counter_ns()
            image = decode(data, shorter_side=card.input.resize, max_pixels=10**8)
            session.run(preprocess(image.pixels, card.input, box=image.box))
            if now >= start:
                own.append(time.perf_counter_ns() - before)

    workers = [threading.Thread(target=loop, args=(own,)) for own in durations]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - start
    every = [duration for own in durations for duration in own]
    print(json.dumps({"per_s": len(every) / elapsed, "p50_ms": statistics.median(every) / 1e6}))


if __name__ == "__main__":
    main()
