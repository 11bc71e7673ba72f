"""Compare this project's measurement with MLPerf's load generator: single-stream p90, offline throughput.

    .venv/bin/pip install 'mlcommons-loadgen>=6.0'
    .venv/bin/python -m benchmarks.loadgen --models DIRECTORY --model NAME [--rounds 5] [--seconds 4]

Both measurements run in turn, in random order within each round, in one process and with one session. The
figure is the median over rounds of the ratio of the two, with a 95 % bootstrap interval. Results are appended
to those of benchmarks.instrument and shown in docs/instrument.md.
"""

from __future__ import annotations

import argparse
import math
import queue
import random
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import Results
from models.zoo.card import read_card
from models.zoo.files import NETWORKS
from models.zoo.preprocess import preprocess
from service.bench.measure.inputs import natural_picture
from service.bench.measure.scenarios import all_at_once, one_after_another, warm_up
from service.bench.measure.subjects import BareSession
from service.inference.cpu import core_budget
from service.inference.session import OnnxSession

try:
    import mlperf_loadgen as loadgen
except ImportError:
    sys.exit("mlcommons-loadgen: not installed; run: .venv/bin/pip install 'mlcommons-loadgen>=6.0'")

_LINES = {
    "single-stream": "90.0th percentile latency (ns)",
    "offline": "Samples per second",
}


class _System:
    """The session as MLPerf's system under test: `threads` threads answer queries in FIFO order."""

    def __init__(self, subject: BareSession, threads: int) -> None:
        self._subject = subject
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def issue(self, samples: list[Any]) -> None:
        """Receive queries from the load generator. Single-stream queries run in the generator's thread."""
        if len(samples) == 1:
            self._answer(samples[0])
            return
        for sample in samples:
            self._queue.put(sample)

    def close(self) -> None:
        """End the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (sample := self._queue.get()) is not None:
            self._answer(sample)

    def _answer(self, sample: Any) -> None:
        self._subject.run(sample.index)
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, 0, 0)])


def mlperf(subject: BareSession, scenario: str, seconds: float, expected_per_s: float) -> float:
    """Measure with MLPerf's load generator.

    Return p90 in nanoseconds, or, in the scenario `offline`, samples per second.
    """
    threads = core_budget() if scenario == "offline" else 0
    system = _System(subject, threads)
    settings = loadgen.TestSettings()
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(seconds * 1000)
    settings.min_query_count = 100
    if scenario == "offline":
        settings.scenario = loadgen.TestScenario.Offline
        settings.offline_expected_qps = expected_per_s
        settings.min_query_count = 1
    else:
        settings.scenario = loadgen.TestScenario.SingleStream
        settings.single_stream_expected_latency_ns = int(1e9 / expected_per_s)
    under_test = loadgen.ConstructSUT(system.issue, lambda: None)
    samples = loadgen.ConstructQSL(64, 64, lambda _: None, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        log = loadgen.LogSettings()
        log.log_output.outdir = folder
        log.log_output.copy_summary_to_stdout = False
        log.enable_trace = False
        loadgen.StartTestWithLogSettings(under_test, samples, settings, log, "")
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
    loadgen.DestroyQSL(samples)
    loadgen.DestroySUT(under_test)
    system.close()
    for line in summary.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == _LINES[scenario]:
            return float(value)
    raise RuntimeError(f"mlperf_log_summary.txt: no '{_LINES[scenario]}':\n{summary}")


def ours(subject: BareSession, executor: ThreadPoolExecutor, scenario: str, seconds: float) -> float:
    """Measure with this project's code. Return the figure that `mlperf` returns for the scenario."""
    if scenario == "offline":
        images, elapsed_ns = all_at_once(subject, executor, core_budget(), 1, seconds)
        return images / (elapsed_ns / 1e9)
    samples = sorted(one_after_another(subject, 100, seconds)["inference"])
    return float(samples[math.ceil(0.9 * len(samples)) - 1])


def main() -> None:
    """Measure with both methods in turn, and append the ratios to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=NETWORKS)
    parser.add_argument("--model", default="efficientnet-lite0-int8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    folder = arguments.models / arguments.model
    card = read_card(folder)
    run = OnnxSession((folder / card.file.name).read_bytes(), card).run
    subject = BareSession(run, [preprocess(natural_picture(), card.input)])
    results = Results()
    with ThreadPoolExecutor(core_budget()) as executor:
        warm = warm_up(subject, "inference", 1.0)
        expected = 1e9 / warm.windows_ns[-1]
        for scenario, cores in (("single-stream", 1), ("offline", core_budget())):
            ratios = []
            for number in range(arguments.rounds):
                values: dict[str, float] = {}
                for side in random.Random(number).sample(["ours", "mlperf"], 2):
                    time.sleep(0.05)
                    values[side] = (
                        ours(subject, executor, scenario, arguments.seconds)
                        if side == "ours"
                        else mlperf(subject, scenario, arguments.seconds, expected * cores)
                    )
                ratios.append(values["ours"] / values["mlperf"])
                print(f"{scenario} {number + 1}: {values} ratio {ratios[-1]:.4f}", flush=True)
            draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
            low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
            results.append(
                "loadgen",
                model=arguments.model,
                scenario=scenario,
                rounds=arguments.rounds,
                ratio=statistics.median(ratios),
                low=float(low),
                high=float(high),
            )


if __name__ == "__main__":
    main()
