"""Commands about cost and latency: explain, blocks, weigh-reference, report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from models.cli.options import Zoo
from models.zoo.files import NETWORKS

WORK = Path(".cache/weigh-reference")
PAGE = Path("docs/zoo.md")

Inputs = Annotated[int, typer.Option("--in", help="input channels")]
Outputs = Annotated[int, typer.Option("--out", help="output channels")]
Kernel = Annotated[int, typer.Option(help="height and width of the kernel")]
Size = Annotated[int, typer.Option(help="height and width of the input map")]
Stride = Annotated[int, typer.Option(help="stride of the block")]


def _groups(text: str | int) -> int | str:
    if isinstance(text, str) and text != "depthwise" and not text.isdecimal():
        raise typer.BadParameter(f'{text!r} (allowed: a number, "depthwise")')
    return text if text == "depthwise" else int(text)


def explain(
    block: Annotated[
        str, typer.Argument(metavar="BLOCK", help="e.g. depthwise-separable, inverted-residual, ghost")
    ],
    inputs: Inputs,
    outputs: Outputs,
    size: Size,
    kernel: Kernel = 3,
    stride: Stride = 1,
    groups: Annotated[
        str, typer.Option(parser=_groups, metavar="GROUPS", help='a number, or "depthwise"')
    ] = "1",
    ratio: Annotated[float | None, typer.Option(help="inner width as a multiple of the outer width")] = None,
    squeezed: Annotated[int | None, typer.Option(help="squeezed channels of squeeze-and-excitation")] = None,
    rounds: Annotated[int, typer.Option(help="rounds of measurement")] = 10,
    runs: Annotated[int, typer.Option(help="measured runs in each round")] = 50,
) -> None:
    """Print a block's cost: its formula and its latency on this machine."""
    from models.blocks.shape import Shape
    from models.cost.describe import explain
    from models.cost.latency import Effort

    shape = Shape(inputs, outputs, kernel, size, stride, groups, ratio, squeezed)
    print(explain(block, shape, Effort(rounds, runs)), end="")


def blocks(
    inputs: Inputs = 128, outputs: Outputs = 128, kernel: Kernel = 3, size: Size = 28, stride: Stride = 1
) -> None:
    """Print the cost of every block by its formula, as a Markdown table."""
    from models.blocks.shape import Shape
    from models.cost.describe import table

    print(table(Shape(inputs, outputs, kernel, size, stride)), end="")


def weigh_reference(
    work: Annotated[Path, typer.Option(help="folder of models and finished measurements")] = WORK,
    rounds: Annotated[int, typer.Option(help="rounds in all")] = 20,
    runs: Annotated[int, typer.Option(help="measured runs of each model in a round")] = 32,
    networks: Annotated[str | None, typer.Option(help="names, separated by commas; default: all")] = None,
    output: Annotated[
        Path | None, typer.Option("--json", help="file to write the bundles to; default: WORK/figures.json")
    ] = None,
) -> None:
    """Measure the untrained reference networks in fp32 and int8; resumable."""
    from models.architectures import ARCHITECTURES
    from models.cost.latency import Effort
    from models.report.weigh_reference import Plan, measure_reference

    names = networks.split(",") if networks else list(ARCHITECTURES)
    plan = Plan(tuple(names), Effort.in_launches(rounds, runs))
    print(measure_reference(plan, work, output or work / "figures.json", _progress), end="")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def report(
    zoo: Zoo = NETWORKS,
    output: Annotated[Path, typer.Option(help="file of the page")] = PAGE,
    rounds: Annotated[int, typer.Option(help="rounds in all")] = 20,
    runs: Annotated[int, typer.Option(help="measured runs of each model in a round")] = 50,
    check: Annotated[
        bool, typer.Option("--check", help="only check that the page matches the cards; needs no torch")
    ] = False,
) -> None:
    """Measure the zoo and write docs/zoo.md with its plots."""
    from models.report.page import page_from_files

    if not check:
        _measure_and_write(zoo, output, rounds, runs)
        return
    if output.read_text(encoding="utf-8") != page_from_files(output, zoo):
        raise ValueError(f"{output}: differs from the cards; run: python -m models report")
    print(f"{output}: matches the cards")


def _measure_and_write(zoo: Path, output: Path, rounds: int, runs: int) -> None:
    from models.cost.latency import Effort, measure, measurement
    from models.report.page import Findings, page
    from models.report.pictures import draw
    from models.report.results import FIGURES, classifiers, rows
    from models.zoo.files import write_whole

    names = [card.name for card in classifiers(zoo)]
    if not names:
        raise ValueError(f"{zoo}: no classifiers (allowed: folders with card.json)")
    bundle = measure(zoo, names, Effort.in_launches(rounds, runs))
    measured = measurement(bundle)
    text = page(zoo, measured, Findings.beside(output))
    output.parent.mkdir(parents=True, exist_ok=True)
    models = rows(zoo, measured)
    for labels in dict.fromkeys(row.card.labels for row in models):
        drawn = [row for row in models if row.card.labels == labels and row.card.accuracy is not None]
        for cost in ("p50_ms", "macs") if drawn else ():
            draw(drawn, cost, output.with_name(f"zoo-{labels}-{cost.removesuffix('_ms')}.svg"))
    content = json.dumps(bundle, separators=(",", ":")) + "\n"
    write_whole(output.with_name(FIGURES), content.encode())
    write_whole(output, text.encode())
    print(f"{output}: {len(models)} models")
