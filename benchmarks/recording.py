"""Cost of recording one run with all its stages, in microseconds.

- `alone`: on one thread, with the aggregation of full queues
- `queued`: without aggregation, which is the cost for a request
- `flushing`: while the flush thread aggregates, and writes to a real database once a second
- `crowded`: on four threads at once, as wall-clock time divided by runs

The target is 30 us.

    python -m benchmarks.recording [--runs 200000]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

from service.latency.prometheus import Metrics
from service.latency.recorder import QUEUE_LIMIT, Recorder
from service.latency.stages import STAGES
from service.state import open_state


def microseconds_per_run(recorder: Recorder, runs: int) -> float:
    """Record `runs` runs of different durations; return the mean microseconds per run."""
    pool = [
        {stage: 100_000 * (index + 1) + 977 * n for index, stage in enumerate(STAGES)} for n in range(1000)
    ]
    started = time.perf_counter()
    for n in range(runs):
        recorder.record("efficientnet-lite0", "live", pool[n % 1000])
    return (time.perf_counter() - started) / runs * 1e6


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200_000, help="runs to record (default: 200000)")
    runs = parser.parse_args().runs
    print(f"alone     {microseconds_per_run(Recorder(None, Metrics({})), runs):6.2f}")
    print(f"queued    {microseconds_per_run(Recorder(None, Metrics({})), QUEUE_LIMIT - 1):6.2f}")
    with tempfile.TemporaryDirectory() as folder, open_state(Path(folder), None) as state:
        recorder = Recorder(state.latencies, Metrics({}))
        recorder.start()
        print(f"flushing  {microseconds_per_run(recorder, runs):6.2f}")
        threads = [
            threading.Thread(target=microseconds_per_run, args=(recorder, runs // 4)) for _ in range(4)
        ]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"crowded   {(time.perf_counter() - started) / (runs // 4 * 4) * 1e6:6.2f}")
        started = time.perf_counter()
        recorder.close()
        print(f"last flush {(time.perf_counter() - started) * 1000:.1f} ms")


if __name__ == "__main__":
    main()
