"""Measure the service's figures against their targets in one run, in about five minutes.

    make bench                                    # or, with .venv-bench in place:
    .venv-bench/bin/python -m benchmarks.http [--rounds 3] [--requests 10000] [--json FILE]

Within each round, the alternatives that are compared run in turn. Every figure is the median of the rounds,
with their range. Ratios are computed within a round, so that both values were measured under the same
conditions. See docs/measurement.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

if not __package__:  # this file is run as a script: it would hide Python's package `http`
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import MODEL
from benchmarks.photos import Photos
from benchmarks.report import Figure, figure, guarded, has_vnni, machine, table
from benchmarks.served import REQUESTS, SIX, memory, overload, protocol, run_json, startup, throughput
from models.cost.latency import Effort, measure, measurement
from models.zoo.files import NETWORKS

PARTS = ("throughput", "protocol", "preparation", "precision", "recording", "startup", "memory", "overload")
PRECISION = Effort(rounds=12, runs=24)
STARTS_NO_PART_AFTER_S = 6.5 * 60


def preparation(photos: Photos) -> list[Figure]:
    """Measure decode and preprocess; compare with OpenCV (small image) and Pillow (large image)."""
    times = run_json("inprocess", "preparation", photos.small, photos.large, NETWORKS / MODEL)
    best = [min(pair) for pair in zip(times["small opencv linear"], times["small opencv area"], strict=True)]
    times["small opencv"] = best

    def ratio(name: str, reference: str) -> list[float]:
        return [a / b for a, b in zip(times[name], times[reference], strict=True)]

    return [
        figure("decode + preprocess, 512×512 JPEG", "ms", times["small"]),
        figure("  / simplejpeg with OpenCV", "×", ratio("small", "small opencv"), 1.0),
        figure("decode + preprocess, 4000×3000 JPEG", "ms", times["large"]),
        figure("  / full Pillow decode", "×", ratio("large", "large pillow"), 0.15),
        figure("  / full Pillow decode + preprocess", "×", ratio("large", "large pillow and all")),
    ]


def precision(effort: Effort = PRECISION) -> list[Figure]:
    """Measure int8 and fp32 on one thread with `weighin bench`."""
    medians = measurement(measure(NETWORKS, SIX, effort)).medians
    target, note = (0.55, "") if has_vnni() else (None, "no VNNI here")
    figures = []
    for name in SIX[::2]:
        fp32, int8 = medians[name], medians[f"{name}-int8"]
        figures.append(figure(f"{name}, fp32", "ms", [nanoseconds / 1e6 for nanoseconds in fp32.values()]))
        ratios = [int8[at] / fp32[at] for at in fp32]
        figures.append(figure("  int8 / fp32", "×", ratios, target, note=note))
    return figures


def recording() -> list[Figure]:
    """Measure the cost of recording per request, and of the flush every second."""
    times = run_json("inprocess", "recording")
    return [
        figure("recording, per request", "µs", times["request_us"], 30),
        figure("  flush, once per second in the background", "ms", times["flush_ms"]),
    ]


def main() -> int:
    """Measure every part and print the table; return 1 if a part could not be measured, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, choices=range(1, 6), default=3, help="rounds of HTTP parts")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure only this part (repeatable)")
    parser.add_argument(
        "--requests", type=int, default=REQUESTS, help="requests of the part memory (default: %(default)s)"
    )
    arguments = parser.parse_args()

    started = time.monotonic()
    environment = machine()
    figures: list[Figure] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        photos = Photos(Path(folder))
        measures: tuple[Callable[[], list[Figure]], ...] = (
            lambda: throughput(photos, arguments.rounds),
            lambda: protocol(photos, arguments.rounds),
            lambda: preparation(photos),
            precision,
            recording,
            startup,
            lambda: memory(photos, arguments.requests),
            lambda: overload(photos, arguments.rounds),
        )
        for name, measure in zip(PARTS, measures, strict=True):
            if arguments.only and name not in arguments.only:
                continue
            if time.monotonic() - started > STARTS_NO_PART_AFTER_S:
                failures.append(f"{name}: skipped, the run exceeds {STARTS_NO_PART_AFTER_S:.0f} s")
                continue
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            measured, failure = guarded(name, measure)
            figures += measured
            failures += [failure] if failure else []

    for key, value in environment.items():
        print(f"{key}: {value}")
    print(f"\n{table(figures)}")
    for failure in failures:
        print(f"NOT MEASURED  {failure}")
    missed = sum(row.met is False for row in figures)
    targets = sum(row.met is not None for row in figures)
    print(f"\n{targets - missed} of {targets} targets met, in {time.monotonic() - started:.0f} s")
    if arguments.json:
        report = {"machine": environment, "figures": [asdict(row) | {"met": row.met} for row in figures]}
        arguments.json.write_text(json.dumps(report | {"not_measured": failures}, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
