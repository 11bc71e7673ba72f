"""`python -m models report`: measures the zoo and writes `docs/zoo.md` with its pictures, or checks it."""

from __future__ import annotations

import argparse
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
    _write(options, _measure(options))


def _measure(options: argparse.Namespace) -> Any:
    import numpy as np

    from models.cost.latency import interleaved
    from models.onnx_tools.session import RUNTIME
    from models.report.weighed import Figures
    from models.zoo.card import read_card
    from models.zoo.machine import this_machine

    folders = [path.parent for path in sorted(options.zoo.glob("*/card.json"))]
    cards = [read_card(folder) for folder in folders]
    if not cards:
        raise ValueError(f"there are no models in {options.zoo}")
    models: dict[str, tuple[bytes | Path, Any]] = {}
    for folder, card in zip(folders, cards, strict=True):
        shape = (1, card.input.channels, card.input.height, card.input.width)
        image = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
        models[card.name] = (folder / card.file.name, image)
    found = interleaved(models, options.rounds, options.runs)
    machine = this_machine()
    instructions = ", ".join(machine.instruction_set)
    return Figures(
        machine=f"{machine.cpu} ({instructions}), {machine.cores} cores, {RUNTIME}",
        rounds=options.rounds,
        runs=options.runs,
        p50_ms={name: latency.p50_ms for name, latency in found.items()},
        sha256={card.name: card.file.sha256 for card in cards},
    )


def _write(options: argparse.Namespace, figures: Any) -> None:
    from models.report.page import Beside, page
    from models.report.pictures import draw
    from models.report.weighed import FIGURES, as_json, rows
    from models.zoo.files import write_whole

    text = page(options.zoo, figures, Beside.of(options.output))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    found = rows(options.zoo, figures)
    for labels in dict.fromkeys(row.card.labels for row in found):
        judged = [row for row in found if row.card.labels == labels and row.card.accuracy is not None]
        for cost in ("p50_ms", "macs") if judged else ():
            draw(judged, cost, options.output.with_name(f"zoo-{labels}-{cost.removesuffix('_ms')}.svg"))
    write_whole(options.output.with_name(FIGURES), as_json(figures).encode())
    write_whole(options.output, text.encode())
    print(f"{options.output}: {len(found)} models")
