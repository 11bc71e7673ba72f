"""Prove `weighin gate` on networks for which the right verdict is known.

    .venv/bin/python -m benchmarks.gate record --launches 40          # run again to resume
    .venv/bin/python -m benchmarks.gate record --model separable-81m --launches 40 [--load loop]
    .venv/bin/python -m benchmarks.gate answers                       # after make fashion
    .venv/bin/python -m benchmarks.gate live                          # run again to resume
    .venv/bin/python -m benchmarks.gate replay [--part choose]        # prints the counts of verdicts
    .venv/bin/python -m benchmarks.gate page                          # writes its section of docs/ci-gate.md

Each step appends its result to benchmarks/gate/results.jsonl and is not repeated. Commit this file with the
page. The machine must be otherwise idle, except for `answers`, `replay` and `page`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.gate import accuracy, live, page, record
from benchmarks.instrument import network
from benchmarks.instrument.network import make_network
from benchmarks.results import Results
from models.zoo.files import NETWORKS

ZOO = Path(__file__).parents[2] / ".cache" / "instrument-zoo"
STEPS = ("record", "answers", "live", "replay", "page")


def main() -> None:
    """Run one command until it is complete or the time is over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--model", default="efficientnet-lite0-int8", help="record: which model")
    parser.add_argument(
        "--load",
        choices=record.LOADS,
        default="none",
        help="record: what keeps one core busy; for recorder, run a second record with its own --results",
    )
    parser.add_argument(
        "--part", choices=record.PARTS, default="proof", help="record, replay: traces for which purpose"
    )
    parser.add_argument("--equal", action="store_true", help="record: equal sessions only")
    parser.add_argument("--launches", type=int, default=40, help="record: number of launches that count")
    parser.add_argument("--rounds", type=int, default=72, help="record: rounds per launch")
    parser.add_argument("--seconds", type=float, default=280, help="start nothing that would end later")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="file of results")
    arguments = parser.parse_args()
    results = Results(arguments.results)
    if arguments.step == "page":
        page.write(results)
        return
    if arguments.step == "replay":
        print("\n".join(page.latency(results, arguments.part)))
        return
    results.record_machine()
    if arguments.step == "answers":
        if results.last("answers") is None:
            accuracy.record(results)
        return
    folder = NETWORKS / arguments.model
    if arguments.model == network.NAME:
        folder = make_network(ZOO)

    def step() -> bool:
        """Do the next step and return True. If all steps are done already, return False."""
        if arguments.step == "live":
            return live.record_gate(results)
        busy = arguments.load != "none"
        done = record.launches(results, folder.name, busy=busy, part=arguments.part)
        if len(done) >= arguments.launches:
            return False
        record.record_launch(
            results,
            folder,
            load=arguments.load,
            part=arguments.part,
            rounds=arguments.rounds,
            slower=not arguments.equal,
        )
        return True

    start = time.monotonic()
    slowest = 0.0
    while time.monotonic() - start + slowest <= arguments.seconds:
        step_started = time.monotonic()
        if not step():
            break
        slowest = max(slowest, time.monotonic() - step_started)
        print(f"{arguments.step}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
