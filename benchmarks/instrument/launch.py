"""One launch with sessions of one model; some of them do a calibrated amount of additional work.

Studies of measurement rules use such launches, because the true difference of every two sessions is known.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from pathlib import Path

from benchmarks.results import Record, Results
from models.zoo.card import read_card
from models.zoo.preprocess import preprocess
from service.bench.bundle import Entry
from service.bench.measure.inputs import natural_picture
from service.bench.measure.machine_watch import MachineWatch, violations
from service.bench.measure.messages import BlockReport, Done, WorkerConfig, WorkerEntry
from service.bench.measure.process import run_worker
from service.bench.measure.subjects import BareSession, Run, Subject
from service.inference.session import OnnxSession

WARM_UP_S = 0.3


def calibrate(results: Results, folder: Path) -> Record:
    """Measure how long a dot product and a run take, interleaved, unless this is already recorded.

    Returns the recorded calibration.
    """
    for record in results.of("trace-calibration"):
        if record["model"] == folder.name:
            return record
    run = open_network(folder)
    tensor = preprocess(natural_picture(), read_card(folder).input)
    added = 200
    p50, longer = measure_slowdown(BareSession(run, [tensor]), BareSession(run, [tensor], added))
    results.append("trace-calibration", model=folder.name, p50_ns=p50, unit_ns=longer * p50 / added)
    recorded = results.last("trace-calibration")
    assert recorded is not None
    return recorded


def open_network(folder: Path) -> Run:
    """Open the network in `folder` in a session with one thread."""
    card = read_card(folder)
    return OnnxSession((folder / card.file.name).read_bytes(), card).run


def measure_slowdown(plain: Subject, slower: Subject) -> tuple[float, float]:
    """Return the median nanoseconds of a run of `plain`, and by which share a run of `slower` takes longer.

    The two run in turn, in short blocks. The share is the median over pairs of successive blocks, because the
    speed of a processor can change from second to second.
    """
    subjects = (plain, slower)
    for subject in subjects:
        for number in range(100):
            subject.run(number)
    rounds = [
        [statistics.median(subject.run(number)["inference"] for number in range(8)) for subject in subjects]
        for _ in range(200)
    ]
    return statistics.median(first for first, _ in rounds), statistics.median(b / a - 1 for a, b in rounds)


def extra_work(calibration: Record, share: float) -> int:
    """Return the number of dot products that take `share` of the time of a run of the calibrated model."""
    return round(share * calibration["p50_ns"] / calibration["unit_ns"])


def measure_launch(
    number: int, folder: Path, work: Mapping[str, int], rounds: int, block_runs: int
) -> Record:
    """Run one launch.

    `work`: for each session of the launch, by name, the number of dot products to add to each run. The order
    of loading, and the order in each round, are random with the seed `number`.

    Returns the medians of each session in nanoseconds, one per round. Also returns the readings of the
    machine watch (`steal`, `outside`), and `quiet`: whether a benchmark with these readings would be clean.
    """
    entries = [
        WorkerEntry(
            entry=Entry(name=name, model=folder.name, runtime="onnxruntime", threads=1),
            folder=str(folder),
            extra_work=added,
        )
        for name, added in work.items()
    ]
    shuffle = random.Random(number)
    shuffle.shuffle(entries)
    config = WorkerConfig(
        launch=number,
        scenario="single-stream",
        entries=tuple(entries),
        order=tuple(tuple(shuffle.sample(list(work), len(work))) for _ in range(rounds)),
        block_runs=block_runs,
        block_s=0.0,
        warm_up_s=WARM_UP_S,
        cores=1,
    )
    medians: dict[str, list[int]] = {name: [] for name in work}
    watch = MachineWatch("during", number)
    cpu_s = 0.0
    for report in run_worker(config, lambda: False):
        if isinstance(report, BlockReport):
            block = report.block
            medians[block.entry].append(round(statistics.median(block.durations_ns["inference"])))
        elif isinstance(report, Done):
            cpu_s = report.cpu_s
    reading = watch.read(cpu_s)
    return {
        "quiet": not violations([reading]),
        "steal": reading.steal_fraction,
        "outside": reading.outside_load,
        "medians_ns": medians,
    }
