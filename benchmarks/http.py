"""The service's figures against their targets, all in one run on one machine; about five minutes.

    make bench                                    # or, with .venv-bench in place:
    .venv-bench/bin/python -m benchmarks.http [--rounds 3] [--json FILE]

What is compared runs by turns within each round, and every figure is the median of the rounds with their
range; a ratio is taken within a round, where both sides met the same machine. See docs/measurement.md.
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

if not __package__:  # run as a script: this folder must not be searched, its http.py hides Python's own
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.photos import MODEL, Photos
from benchmarks.report import Figure, figure, guarded, has_vnni, machine, table
from benchmarks.served import SIX, memory, overload, run_json, startup, throughput
from models.cost.latency import Effort, measure, measurement
from models.zoo.files import NETWORKS

PARTS = ("throughput", "preparation", "precision", "recording", "startup", "memory", "overload")
PRECISION = Effort(rounds=12, runs=24)
STARTS_NO_PART_AFTER_S = 6.5 * 60


def preparation(photos: Photos) -> list[Figure]:
    """Decode and preprocess, ours against OpenCV's (small) and Pillow's full decoding (large)."""
    found = run_json("inprocess", "preparation", photos.small, photos.large, NETWORKS / MODEL)
    best = [min(pair) for pair in zip(found["small opencv linear"], found["small opencv area"], strict=True)]
    found["small opencv"] = best

    def ratio(one: str, other: str) -> list[float]:
        return [a / b for a, b in zip(found[one], found[other], strict=True)]

    return [
        figure("decode + preprocess, 512×512 JPEG", "ms", found["small"]),
        figure("  / simplejpeg with OpenCV", "×", ratio("small", "small opencv"), 1.0),
        figure("decode + preprocess, 4000×3000 JPEG", "ms", found["large"]),
        figure("  / full Pillow decode", "×", ratio("large", "large pillow"), 0.15),
        figure("  / full Pillow decode + preprocess", "×", ratio("large", "large pillow and all")),
    ]


def precision(effort: Effort = PRECISION) -> list[Figure]:
    """int8 against fp32, one thread, by `weighin bench`."""
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
    """What being recorded costs a request, and the flush that follows every second."""
    found = run_json("inprocess", "recording")
    return [
        figure("recording, per request", "µs", found["request_us"], 30),
        figure("  and once a second, in the background", "ms", found["flush_ms"]),
    ]


def main() -> int:
    """Measure every part and print the table; 1 when a part could not be measured, whatever the targets."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, choices=range(1, 6), default=3, help="of what goes over HTTP")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure only this part (repeatable)")
    arguments = parser.parse_args()

    began = time.monotonic()
    environment = machine()
    figures: list[Figure] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        photos = Photos(Path(folder))
        measures: tuple[Callable[[], list[Figure]], ...] = (
            lambda: throughput(photos, arguments.rounds),
            lambda: preparation(photos),
            precision,
            recording,
            startup,
            lambda: memory(photos),
            lambda: overload(photos, arguments.rounds),
        )
        for name, measure in zip(PARTS, measures, strict=True):
            if arguments.only and name not in arguments.only:
                continue
            if time.monotonic() - began > STARTS_NO_PART_AFTER_S:
                failures.append(f"{name}: left out, the run has lasted too long")
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
    missed = [each.name.strip() for each in figures if each.met is False]
    targets = sum(each.met is not None for each in figures)
    print(f"\n{targets - len(missed)} of {targets} targets met, in {time.monotonic() - began:.0f} s")
    if arguments.json:
        report = {"machine": environment, "figures": [asdict(each) | {"met": each.met} for each in figures]}
        arguments.json.write_text(json.dumps(report | {"not_measured": failures}, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
