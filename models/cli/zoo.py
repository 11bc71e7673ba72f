"""Commands about the models of a zoo: build, choices, pull, table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.cli.options import PHOTOS, PUBLISHED, Output, Photos, Published, Zoo
from models.zoo.card import Card, read_card
from models.zoo.files import NETWORKS, networks_in


def build(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="e.g. efficientnet-lite0, efficientnet-lite0-int8, or all")
    ],
    photos: Photos = PHOTOS,
    output: Output = NETWORKS,
    published: Published = PUBLISHED,
) -> None:
    """Build one model of the zoo, or all of them."""
    from models.publish.build import build, names

    for model in names() if name == "all" else [name]:
        card = build(model, photos, output, published)
        print(f"{output / model}: {card.file.bytes / 1e6:.1f} MB{_agreement(card)}", flush=True)


def choices(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="floating-point model, e.g. efficientnet-lite0")
    ],
    photos: Photos = PHOTOS,
    zoo: Zoo = NETWORKS,
) -> None:
    """Measure the effect of each quantization choice."""
    from models.compress.choices import measure

    print("| quantization | divergence (nats) | top-1 agreement |\n| --- | --- | --- |")
    for choice, compared in measure(zoo / name, photos):
        print(f"| {choice} | {compared.divergence:.4f} | {compared.top_1_agreement:.1%} |", flush=True)


def _agreement(card: Card) -> str:
    if card.agreement is None:
        return ""
    interval = card.agreement.interval
    return (
        f", top-1 agreement with {card.agreement.parent} {card.agreement.value:.1%} "
        f"({interval.low:.1%} to {interval.high:.1%}, n = {card.agreement.n})"
    )


def pull(
    network: Annotated[str, typer.Argument(metavar="timm/NAME", help="e.g. timm/mobilenetv3_small_100")],
    output: Output = NETWORKS,
    name: Annotated[str | None, typer.Option(help="name in the zoo; default: NAME")] = None,
    block: Annotated[
        str, typer.Option(help="block family for the card, e.g. inverted-residual")
    ] = "unstated",
    from_folder: Annotated[
        Path | None,
        typer.Option(help="folder with the hub's config.json and model.safetensors; default: download"),
    ] = None,
) -> None:
    """Put a pretrained network from a hub into the zoo, e.g. timm/NAME."""
    from models.publish.pull import pull

    card = pull(network, output, name=name, block=block, folder=from_folder)
    print(f"{output / card.name}: {card.file.bytes / 1e6:.1f} MB, labels {card.labels}")


def table(
    zoo: Annotated[Path, typer.Argument(parser=networks_in, metavar="[ZOO]")] = NETWORKS,
    labels: Annotated[
        str | None, typer.Option(help="only models with this label set, e.g. imagenet-1k")
    ] = None,
) -> None:
    """Print the cards as a Markdown table; needs no torch."""
    print(card_table(zoo, labels), end="")


def card_table(zoo: Path, labels: str | None = None) -> str:
    """Return a Markdown table of a zoo's cards, sorted by name.

    If `labels` is given, the table has only the models with this label set.
    """
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
