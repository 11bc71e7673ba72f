"""`python -m models report`: measures the zoo and writes `docs/zoo.md` with its pictures, or checks it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from models.zoo.files import NETWORKS, networks_in

PAGE = Path("docs/zoo.md")


def add(commands: Any) -> None:
    """Add the command to those of `python -m models`."""
    report = commands.add_parser("report", help="measure the zoo and write docs/zoo.md with its pictures")
    report.add_argument("--zoo", type=networks_in, default=NETWORKS)
    report.add_argument("--output", type=Path, default=PAGE, help="default: %(default)s")
    report.add_argument("--rounds", type=int, default=20, help="of the measurement; default 20")
    report.add_argument("--runs", type=int, default=50, help="of each model in a round; default 50")
    report.add_argument(
        "--check", action="store_true", help="only say whether the page is the cards'; no torch"
    )
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from models.report.page import page_beside

    if options.check:
        if options.output.read_text(encoding="utf-8") != page_beside(options.output, options.zoo):
            raise ValueError(f"{options.output} is not what the cards say; run: python -m models report")
        print(f"{options.output} says what the cards say")
        return
    _write(options)


def _write(options: argparse.Namespace) -> None:
    from models.cost.latency import Effort, measure, measurement
    from models.report.page import Beside, page
    from models.report.pictures import draw
    from models.report.weighed import FIGURES, rows
    from models.zoo.files import write_whole

    names = [path.parent.name for path in sorted(options.zoo.glob("*/card.json"))]
    if not names:
        raise ValueError(f"there are no models in {options.zoo}")
    bundle = measure(options.zoo, names, Effort.in_launches(options.rounds, options.runs))
    measured = measurement(bundle)
    text = page(options.zoo, measured, Beside.of(options.output))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    found = rows(options.zoo, measured)
    for labels in dict.fromkeys(row.card.labels for row in found):
        judged = [row for row in found if row.card.labels == labels and row.card.accuracy is not None]
        for cost in ("p50_ms", "macs") if judged else ():
            draw(judged, cost, options.output.with_name(f"zoo-{labels}-{cost.removesuffix('_ms')}.svg"))
    content = json.dumps(bundle, separators=(",", ":")) + "\n"
    write_whole(options.output.with_name(FIGURES), content.encode())
    write_whole(options.output, text.encode())
    print(f"{options.output}: {len(found)} models")
