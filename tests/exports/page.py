"""The section of docs/own-models.md that says what was tried: each fact of each export with its origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from models.zoo.card import Card
from service.own_models.draft import flat
from service.own_models.facts import words
from tests.exports.run import Tried

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-models.md"
HEADING = "## What was tried"
_FACTS = (
    "labels", "classes", "input.layout", "input.dtype", "input.batch", "input.height", "input.width",
    "input.channels", "input.colour_order", "input.mean", "input.std", "input.fitting", "input.resize",
    "input.interpolation", "outputs.activation", "outputs.class_offset", "outputs.embedding",
    "outputs.features", "precision", "parameters", "macs", "architecture", "source.licence",
)  # fmt: skip


def facts(results: Mapping[str, Tried]) -> str:
    """Return what was exported, and the table of facts: the part that is the same at every run."""
    exports = "\n".join(f"{number}. {_said(each)}" for number, each in enumerate(results.values(), 1))
    cards = [each.added.card for each in results.values()]
    head = "| fact | " + " | ".join(str(number) for number in range(1, len(cards) + 1)) + " |"
    rule = "| --- |" + " --- |" * len(cards)
    rows = [f"| {path} | " + " | ".join(_cell(card, path) for card in cards) + " |" for path in _FACTS]
    return f"{exports}\n\n" + "\n".join([head, rule, *rows]) + "\n"


def section(results: Mapping[str, Tried]) -> str:
    """Return the whole section."""
    rows = [
        f"| {number} | {each.export.prepared_by} | {each.comparison.same_tensor:.2g} | "
        f"{each.comparison.pictures:.2g} | {_same(each)} of {len(each.comparison.named)} |"
        for number, each in enumerate(results.values(), 1)
    ]
    table = "\n".join(rows)
    return f"""{HEADING}

Each of these exports was added with `weighin add`, and the answers of the added model were compared with those of the framework. The weights of the networks are random, except for those of the last layer, which were fitted so that the network tells ten photographs apart. `make test-models` repeats the comparisons; `.venv-models/bin/python -m tests.exports` writes this section.

{facts(results)}
The value of each fact is followed by its origin. A dash means that the network has no such fact.

Two comparisons follow, on ten photographs (PNG). *Same tensor*: the framework prepares the photograph, and its network and the added model run on the result. *Own preprocessing*: the framework reads and resizes the photograph and runs its network; the service does the same with the added model. Both columns give the largest deviation of a logit, in standard deviations of the framework's logits. If a network returns probabilities, their logarithms are compared. *Same class*: the number of photographs for which the service and the framework predict the same top-1 class.

| | the framework's preprocessing | same tensor | own preprocessing | same class |
| --- | --- | --- | --- | --- |
{table}

If the deviation is larger with own preprocessing than with the same tensor, the reason is that the pixels differ:

- torchvision and timm resize the whole photograph and then crop it. The service resizes only the part that is kept. Single pixels therefore differ by 1 of 255. An int8 network quantizes its input, so such a difference can become a whole quantization step.
- transformers resizes tensors, the service resizes with Pillow, as torchvision does. So here too, single pixels differ by 1 of 255. If an odd number of pixels is cut off, the part that is kept begins at half a pixel (at 1.5, for example): transformers rounds this down (to 1), torchvision and the service round it to the nearest even number (to 2). The crop can then be shifted by one pixel, as it is in 2 of the 10 photographs of export 7.

With Keras, the pixels do not differ: Keras resizes with nearest neighbours, as the service then does, too.
"""  # noqa: E501


def with_section(page: str, text: str) -> str:
    """Return the page with its section replaced, or appended where it has none."""
    before, _, after = page.partition(f"{HEADING}\n")
    _, heading, rest = after.partition("\n## ")
    return before.rstrip("\n") + f"\n\n{text}" + (f"{heading}{rest}" if heading else "")


def _said(each: Tried) -> str:
    options = each.export.options
    given = []
    if options.preset is not None:
        given.append(f"--preset {options.preset}")
    if options.labels is not None:
        named = isinstance(options.labels, str)
        given.append(f"--labels {options.labels if named else 'FILE'}")
    size = options.facts.get("input.size")
    if size is not None:
        given.append(f"--size {size[0]}")
    added = f"with `{' '.join(given)}`" if given else "without options"
    return f"{each.export.how}. Added {added}."


def _cell(card: Card, path: str) -> str:
    fact = card.provenance.get(path)
    if fact is None:
        return "–"
    value = flat(card).get(path, "none" if path == "outputs.activation" else None)
    if path in ("outputs.embedding", "outputs.features"):
        value = " x ".join(map(str, card.output_shapes[path.removeprefix("outputs.")]))
    elif path == "labels" and value is not None and str(value).startswith("labels-"):
        value = "own"
    return f"{words(value)}, {fact.origin}"


def _same(each: Tried) -> int:
    comparison = each.comparison
    return sum(map(int.__eq__, comparison.expected, comparison.named))
