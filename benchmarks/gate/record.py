"""Interleaved traces for the replay: equal sessions of a model, and a session whose runs do 8 % more work.

Each launch is a new process with the equal sessions `a1` to `a3`, and the slower session `slow8`. Only the
median of each block of `BLOCK_RUNS` runs is recorded.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import math
import statistics
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from benchmarks.instrument.launch import calibrate, extra_work, measure_launch
from benchmarks.instrument.noise import busy_core
from benchmarks.results import Record, Results
from models.zoo.statistics import student_95
from models.zoo.verdicts import interquartile_mean
from service.cli.gate.measure import BLOCK_RUNS

RESULTS = Path(__file__).parent / "results.jsonl"
EQUAL = ("a1", "a2", "a3")
SLOW = "slow8"
SLOWER_BY = 0.08
Load = Literal["none", "loop", "recorder"]
"""What else runs: nothing, a loop that keeps one core busy, or another recorder that keeps one core busy."""
LOADS: tuple[Load, ...] = get_args(Load)
PARTS = ("choose", "proof")
"""Purposes of launches: to choose the gate's rule, or to prove it. The choice must not use launches of the
proof."""


def record_launch(
    results: Results, folder: Path, *, load: Load, part: str, rounds: int, slower: bool = True
) -> None:
    """Record one launch of the model in `folder`.

    If `load` is `loop`, this function starts the loop. If `load` is `recorder`, it starts nothing: the other
    recorder must already be running. If `slower` is false, the launch has only the equal sessions.
    """
    work = dict.fromkeys(EQUAL, 0)
    if slower:
        work[SLOW] = _extra_work(results, folder)
    number = len(results.of("launch"))
    with busy_core() if load == "loop" else contextlib.nullcontext():
        launch = measure_launch(number, folder, work, rounds, BLOCK_RUNS)
    medians = {name: pack(medians) for name, medians in launch.pop("medians_ns").items()}
    results.append(
        "launch",
        model=folder.name,
        busy=load != "none",
        load=load,
        part=part,
        at=round(time.time()),
        work=work.get(SLOW, 0),
        **launch,
        medians=medians,
    )


def pack(medians_ns: Sequence[float]) -> str:
    """Return medians as text: tenths of a microsecond as little-endian uint32, zlib-compressed, in base64."""
    tenths = np.round(np.asarray(medians_ns) / 100).astype("<u4")
    return base64.b64encode(zlib.compress(tenths.tobytes(), 9)).decode()


def unpack(text: str) -> list[float]:
    """Return, in microseconds, the medians in a text of `pack`."""
    tenths = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u4")
    return list((tenths / 10).tolist())


def _extra_work(results: Results, folder: Path) -> int:
    """Return the number of dot products that `slow8` adds to a run.

    The number comes from the calibration. In a launch the caches hold other data than in the calibration, so
    the number is corrected by the slowdown in the launches of part `choose`, if there are any.
    """
    added = extra_work(calibrate(results, folder), SLOWER_BY)
    chosen = launches(results, folder.name, busy=False, part="choose")
    return added if not chosen else round(added * SLOWER_BY / slowdown(chosen)[0])


def slowdown(traces: Sequence[Record]) -> tuple[float, float, float]:
    """Return by how much `slow8` was slower than `a1` and `a2`, and the 95 % interval of this slowdown.

    A slowdown of 0.08 means that a run took 8 % longer. The interval uses Student's t distribution.
    """
    values = []
    for launch in traces:
        first, second, slower = (np.log(launch["medians_us"][name]) for name in ("a1", "a2", SLOW))
        values.append(float(interquartile_mean(slower - (first + second) / 2)))
    mean = statistics.fmean(values)
    half = student_95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return math.expm1(mean), math.expm1(mean - half), math.expm1(mean + half)


def launches(results: Results, model: str, *, busy: bool, part: str) -> list[Record]:
    """Return the launches of a model with this `part` and `busy`, oldest first.

    `busy`: whether another process kept a core busy. The unpacked medians of each launch are in its field
    `medians_us`.
    """
    return [
        launch | {"medians_us": {name: unpack(text) for name, text in launch["medians"].items()}}
        for launch in results.of("launch")
        if (launch["model"], launch["busy"], launch["part"]) == (model, busy, part)
    ]


def digest(traces: Sequence[Record]) -> str:
    """Return the SHA-256 of a text: for each launch, a line per session with its name and packed medians."""
    lines = [f"{name} {text}\n" for launch in traces for name, text in sorted(launch["medians"].items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
