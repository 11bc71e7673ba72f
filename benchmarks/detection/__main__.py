"""Write the tables of docs/detection.md: what the detectors find and miss, and what they cost.

    .venv-bench/bin/python -m benchmarks.detection quality     # needs make photos people
    .venv-bench/bin/python -m benchmarks.detection speed       # on an otherwise idle machine, in some minutes

Each command replaces its tables in the page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.detection import quality, speed
from benchmarks.detection.pictures import MissingPicturesError

PAGE = Path(__file__).parents[2] / "docs" / "detection.md"
COMMANDS = {"quality": quality.quality, "speed": speed.speed}


def replaced(text: str, command: str, tables: str) -> str:
    """Return the page `text` with `tables` between the markers of `command`.

    Raises ValueError if the page does not have the markers.
    """
    begin, end = f"<!-- figures: python -m benchmarks.detection {command} -->\n", "<!-- end of figures -->\n"
    before, marker, rest = text.partition(begin)
    _, closing, after = rest.partition(end)
    if not (marker and closing):
        raise ValueError(f"no markers of {command} (needed: {begin.strip()})")
    return f"{before}{begin}\n{tables}\n{end}{after}"


def main() -> int:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=sorted(COMMANDS))
    command = parser.parse_args().command
    try:
        tables = COMMANDS[command]()
    except MissingPicturesError as error:
        print(f"python -m benchmarks.detection: {error}", file=sys.stderr)
        return 1
    PAGE.write_text(replaced(PAGE.read_text(), command, tables))
    print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
