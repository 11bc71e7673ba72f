"""Validate `weighin bench` by experiments with known answers.

    .venv/bin/python -m benchmarks.instrument traces --seconds 280   # run again to resume
    .venv/bin/python -m benchmarks.instrument traces --model separable-81m  # a small generated network
    .venv/bin/python -m benchmarks.instrument order | noise | stalls | simulation
    .venv/bin/python -m benchmarks.instrument choose                 # later traces are unseen by the rule
    .venv/bin/python -m benchmarks.instrument page                   # writes docs/instrument.md
    .venv/bin/python -m benchmarks.loadgen                           # needs mlcommons-loadgen

Each step appends its result to benchmarks/instrument/results.jsonl and is not repeated. Commit this file with
the page. The machine must be otherwise idle. Launches during other load are recorded, but are marked and not
used.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.instrument import network, noise, order, page, simulation, stalls, traces
from benchmarks.instrument.network import make_network
from benchmarks.results import Results
from models.zoo.files import NETWORKS
from service.inference.registry import Registry

PAGE = Path(__file__).parents[2] / "docs" / "instrument.md"
ZOO = Path(__file__).parents[2] / ".cache" / "instrument-zoo"
EXPERIMENTS = ("traces", "order", "noise", "stalls", "simulation", "choose", "page")
NOISE_RUNS = 8
ORDER_RUNS = 2


def main() -> None:
    """Run one experiment until it is complete or the time is over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--models", type=Path, default=NETWORKS, help="folder of models")
    parser.add_argument("--model", default="efficientnet-lite0-int8", help="model of all but `order`")
    parser.add_argument("--seconds", type=float, default=280, help="start no further step after this time")
    parser.add_argument("--launches", type=int, default=24, help="traces: number of quiet launches")
    parser.add_argument("--rounds", type=int, default=84, help="traces: rounds per launch")
    arguments = parser.parse_args()
    results = Results()
    if arguments.experiment == "page":
        if results.last("machine") is None:
            sys.exit("results.jsonl: no measurements; run the experiments first")
        PAGE.write_text(page.page(results))
        return
    if arguments.experiment == "choose":
        results.append("rule-chosen", at=time.time())
        return
    results.record_machine()
    folder: Path = arguments.models / arguments.model
    if arguments.model == network.NAME:
        folder = make_network(ZOO)
    registry = Registry([folder.parent, arguments.models], arguments.model)
    start = time.monotonic()
    slowest = 0.0

    def time_for_more() -> bool:
        return time.monotonic() - start + slowest <= arguments.seconds

    def missing() -> bool:
        if arguments.experiment == "traces":
            launches = [launch for launch in results.of("trace-launch") if launch["model"] == folder.name]
            return sum(launch["quiet"] for launch in launches) < arguments.launches
        if arguments.experiment == "order":
            return len(results.of("standard-run")) < ORDER_RUNS
        if arguments.experiment == "noise":
            return len(results.of("noise-run")) < NOISE_RUNS
        kind = "stall-run" if arguments.experiment == "stalls" else "percentile-simulation"
        return results.last(kind) is None

    while missing() and time_for_more():
        step_started = time.monotonic()
        if arguments.experiment == "traces":
            traces.record_launch(results, folder, arguments.rounds)
        elif arguments.experiment == "order":
            order.record_run(results, registry, None)
        elif arguments.experiment == "noise":
            done = len(results.of("noise-run"))
            noise.record_run(results, registry, arguments.model, noise=done % 4 != 3)
        elif arguments.experiment == "stalls":
            stalls.record(results, folder)
        else:
            simulation.record(results)
        slowest = max(slowest, time.monotonic() - step_started)
        print(f"{arguments.experiment}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
