"""`python -m models`: build the zoo from trained weights, and print what its cards say."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from models.cli import compression, evaluation, reference, report, training
from models.errors import ModelsError
from models.zoo.card import Card, read_card
from models.zoo.files import NETWORKS, networks_in

PHOTOS = Path(".cache/photos")
INSTALL = "make .venv-models/installed (or pip install -r models/requirements.txt)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; errors that a user can act on are one line on stderr."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("models"):
            raise
        print(f"python -m models: {error.name} is not installed; install it with: {INSTALL}", file=sys.stderr)
        return 1
    except (ModelsError, ValueError, OSError, RuntimeError) as error:
        print(f"python -m models: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="build one model of the zoo, or all of them")
    build.add_argument(
        "name", metavar="NAME", help="e.g. efficientnet-lite0, efficientnet-lite0-int8, or all"
    )
    build.add_argument("--photos", type=Path, default=PHOTOS, help="where `make photos` put them")
    build.add_argument("--output", type=networks_in, default=NETWORKS, help="the zoo to write to")
    build.set_defaults(run=_build)
    choices = commands.add_parser("choices", help="measure what each choice of the quantization brings")
    choices.add_argument("name", metavar="NAME", help="a floating-point model, e.g. efficientnet-lite0")
    choices.add_argument("--photos", type=Path, default=PHOTOS, help="where `make photos` put them")
    choices.add_argument("--zoo", type=networks_in, default=NETWORKS)
    choices.set_defaults(run=_choices)
    for module in (training, compression, evaluation, report, reference):
        module.add(commands)
    table = commands.add_parser("table", help="print what the cards say as a Markdown table; needs no torch")
    table.add_argument("zoo", type=networks_in, nargs="?", default=NETWORKS)
    table.add_argument("--labels", help="only models with this label set, e.g. imagenet-1k")
    table.set_defaults(run=lambda options: print(card_table(options.zoo, options.labels), end=""))
    return parser


def _build(options: argparse.Namespace) -> None:
    from models.publish.build import build, names

    for name in names() if options.name == "all" else [options.name]:
        card = build(name, options.photos, options.output)
        print(f"{options.output / name}: {card.file.bytes / 1e6:.1f} MB{_agreement(card)}", flush=True)


def _choices(options: argparse.Namespace) -> None:
    from models.compress.choices import measure

    print("| what is quantized how | divergence (nats) | top-1 agreement |\n| --- | --- | --- |")
    for choice, compared in measure(options.zoo / options.name, options.photos):
        print(f"| {choice} | {compared.divergence:.4f} | {compared.top_1_agreement:.1%} |", flush=True)


def _agreement(card: Card) -> str:
    if card.agreement is None:
        return ""
    interval = card.agreement.interval
    return (
        f", top-1 agreement with {card.agreement.parent} {card.agreement.value:.1%} "
        f"({interval.low:.1%} to {interval.high:.1%}, n = {card.agreement.n})"
    )


def card_table(zoo: Path, labels: str | None = None) -> str:
    """The cards of a zoo, or those with this label set, as a Markdown table, one row each, sorted by name."""
    columns = ("model", "input", "parameters", "MACs", "file", "top-1 accuracy", "agreement with parent")
    rows = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for path in sorted(zoo.glob("*/card.json")):
        card = read_card(path.parent)
        if labels not in (None, card.labels):
            continue
        accuracy = "" if card.accuracy is None else f"{card.accuracy.value:.1%} {card.accuracy.kind}"
        agreement = ""
        if card.agreement is not None:
            low, high = card.agreement.interval.low, card.agreement.interval.high
            agreement = f"{card.agreement.value:.1%} ({low:.1%} to {high:.1%}), n = {card.agreement.n}"
        rows.append(
            f"| `{card.name}` | {card.input.height}×{card.input.width} | {card.parameters / 1e6:.2f} M "
            f"| {card.macs / 1e6:.0f} M | {card.file.bytes / 1e6:.1f} MB | {accuracy} | {agreement} |"
        )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
