"""Commands about blocks and reference networks: explain, blocks, weigh-reference, pull."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models.zoo.files import NETWORKS, networks_in

WORK = Path(".cache/weigh-reference")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to `python -m models`."""
    explain = commands.add_parser("explain", help="what a block costs: its formula, and what it takes here")
    explain.add_argument("block", metavar="BLOCK", help="e.g. depthwise-separable, inverted-residual, ghost")
    _add_shape(explain)
    explain.add_argument("--groups", type=_groups, default=1, help='a number, or "depthwise"; default 1')
    explain.add_argument("--ratio", type=float, help="how far the block widens or narrows inside")
    explain.add_argument("--squeezed", type=int, help="channels in the middle of squeeze-and-excitation")
    explain.add_argument("--rounds", type=int, default=10, help="rounds of measurement; default 10")
    explain.add_argument("--runs", type=int, default=50, help="measured runs in each round; default 50")
    explain.set_defaults(run=_explain)

    blocks = commands.add_parser("blocks", help="what every block costs by its formula, as a Markdown table")
    _add_shape(blocks, channels=128, size=28)
    blocks.set_defaults(run=_blocks)

    weigh = commands.add_parser(
        "weigh-reference", help="measure the reference networks, untrained, in fp32 and int8; resumes"
    )
    weigh.add_argument("--work", type=Path, default=WORK, help="where models and finished rounds are kept")
    weigh.add_argument("--rounds", type=int, default=20, help="rounds in all; default 20")
    weigh.add_argument("--runs", type=int, default=32, help="measured runs of each model in a round")
    weigh.add_argument("--networks", help="names, separated by commas; default: all of them")
    weigh.add_argument("--json", type=Path, help="where the figures go; default: WORK/figures.json")
    weigh.set_defaults(run=_weigh)

    pull = commands.add_parser("pull", help="put a pretrained network of a hub into the zoo, e.g. timm/NAME")
    pull.add_argument("network", metavar="timm/NAME", help="e.g. timm/mobilenetv3_small_100")
    pull.add_argument("--output", type=networks_in, default=NETWORKS, help="the zoo to write to")
    pull.add_argument("--name", help="its name in the zoo; default: NAME")
    pull.add_argument("--block", default="unstated", help="block family for the card, e.g. inverted-residual")
    pull.add_argument(
        "--from-folder",
        type=Path,
        help="take config.json and model.safetensors from there, as the hub would hand them out",
    )
    pull.set_defaults(run=_pull)


def _add_shape(parser: argparse.ArgumentParser, channels: int | None = None, size: int | None = None) -> None:
    asked = channels is None
    parser.add_argument("--in", dest="inputs", type=int, required=asked, default=channels, help="channels in")
    parser.add_argument("--out", dest="outputs", type=int, required=asked, default=channels, help="and out")
    parser.add_argument("--kernel", type=int, default=3, help="height and width of the kernel; default 3")
    parser.add_argument("--size", type=int, required=asked, default=size, help="side of the input map")
    parser.add_argument("--stride", type=int, default=1)


def _groups(text: str) -> int | str:
    if text != "depthwise" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number nor "depthwise"')
    return text if text == "depthwise" else int(text)


def _explain(options: argparse.Namespace) -> None:
    from models.blocks.shape import Shape
    from models.cost.describe import explain
    from models.cost.latency import Effort

    shape = Shape(
        options.inputs,
        options.outputs,
        options.kernel,
        options.size,
        options.stride,
        options.groups,
        options.ratio,
        options.squeezed,
    )
    print(explain(options.block, shape, Effort(options.rounds, options.runs)), end="")


def _blocks(options: argparse.Namespace) -> None:
    from models.blocks.shape import Shape
    from models.cost.describe import table

    shape = Shape(options.inputs, options.outputs, options.kernel, options.size, options.stride)
    print(table(shape), end="")


def _weigh(options: argparse.Namespace) -> None:
    from models.architectures import ARCHITECTURES
    from models.cost.latency import Effort
    from models.report.weigh_reference import Plan, weigh

    networks = options.networks.split(",") if options.networks else list(ARCHITECTURES)
    plan = Plan(tuple(networks), Effort.in_launches(options.rounds, options.runs))
    table = weigh(plan, options.work, options.json or options.work / "figures.json", _progress)
    print(table, end="")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _pull(options: argparse.Namespace) -> None:
    from models.publish.pull import pull

    card = pull(
        options.network,
        options.output,
        name=options.name,
        block=options.block,
        folder=options.from_folder,
    )
    print(f"{options.output / card.name}: {card.file.bytes / 1e6:.1f} MB, labels {card.labels}")
