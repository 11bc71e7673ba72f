"""Lower bound without HTTP: decode, preprocess and run the network on the same bytes in a bare loop.

`python -m benchmarks.floor JPEG MODEL_FOLDER SECONDS THREADS` prints, as JSON, the images per second, and the
p50 and the CPU time of one image in milliseconds. It uses the service's own decoder, preprocessing and
session.
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
    """Run the loop in each thread until the time is over, and print the result."""
    data = Path(sys.argv[1]).read_bytes()
    folder = Path(sys.argv[2])
    seconds, threads = float(sys.argv[3]), int(sys.argv[4])
    card = read_card(folder)
    session = OnnxSession((folder / card.file.name).read_bytes(), card)
    start = time.perf_counter() + WARM_UP_S
    durations: list[list[int]] = [[] for _ in range(threads)]

    def loop(thread_durations: list[int]) -> None:
        while (now := time.perf_counter()) < start + seconds:
            before = time.perf_counter_ns()
            image = decode(data, shorter_side=card.input.resize, max_pixels=10**8)
            session.run(preprocess(image.pixels, card.input, box=image.box))
            if now >= start:
                thread_durations.append(time.perf_counter_ns() - before)

    workers = [threading.Thread(target=loop, args=(thread_durations,)) for thread_durations in durations]
    for worker in workers:
        worker.start()
    time.sleep(WARM_UP_S)
    cpu_s = time.process_time()
    for worker in workers:
        worker.join()
    elapsed, cpu_s = time.perf_counter() - start, time.process_time() - cpu_s
    all_ns = [duration for thread_durations in durations for duration in thread_durations]
    result = {"per_s": len(all_ns) / elapsed, "p50_ms": statistics.median(all_ns) / 1e6}
    print(json.dumps(result | {"cpu_ms": cpu_s / len(all_ns) * 1e3}))


if __name__ == "__main__":
    main()
