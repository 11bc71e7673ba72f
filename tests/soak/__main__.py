"""`python -m tests.soak`: run mixed traffic with faults, write all figures, list violations; docs/soak.md."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from tests.soak.report import figures, markdown
from tests.soak.run import Plan, soak


def main() -> int:
    """Run the command line; return 0 without violations, 1 with violations, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="duration of the traffic (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the traffic (default: 1)")
    parser.add_argument("--replicas", type=int, default=2, help="services on one database (default: 2)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(".cache/soak"),
        help="folder of the results (default: .cache/soak)",
    )
    arguments = parser.parse_args()
    if arguments.minutes < 3:
        parser.error(f"argument --minutes: {arguments.minutes:g} (allowed: 3 or more, for all faults)")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    plan = Plan(arguments.minutes, arguments.seed, arguments.replicas)
    try:
        result = soak(plan, _say)
    except KeyboardInterrupt:
        print("interrupted: everything that was started has ended", file=sys.stderr)
        return 130
    data = figures(result)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "soak.json").write_text(json.dumps(data, indent=2) + "\n")
    (arguments.folder / "soak.md").write_text(markdown(data))
    print(markdown(data))
    print(f"written: {arguments.folder / 'soak.json'}, {arguments.folder / 'soak.md'}")
    return 1 if data["violations"] else 0


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _interrupt(_: int, __: FrameType | None) -> None:
    """End the run once; the clean-up is not interrupted again."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
