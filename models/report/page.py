"""Generate docs/zoo.md from the cards of a zoo and the result files beside the page; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.cost.latency import Measurement, read_bundle
from models.evaluate import significance
from models.evaluate.significance import JudgedGain, Pairs, read_judgements
from models.report import techniques
from models.report.reference_table import markdown, read_bundles
from models.report.results import FIGURES, Row, front, inversions, rows, short_name
from models.report.techniques import EQUAL_MACS, EQUAL_WIDTH
from models.zoo.card import Card

REFERENCE = "zoo-reference.json"
"""Name of the file beside the page into which `weigh-reference --json` wrote bundles."""
TITLES = {"fashion-mnist": "Fashion-MNIST, 28 × 28", "imagenet-1k": "ImageNet, 224 × 224 and more"}
FASHION = "fashion-mnist"


@dataclass(frozen=True)
class Findings:
    """Results that the page reports if they are there.

    `reference` has the measurements of the reference networks, `pairs` the comparisons of the accuracies of
    networks, and `gain` what a teacher adds to a student.
    """

    reference: Sequence[Measurement] | None = None
    pairs: Pairs | None = None
    gain: JudgedGain | None = None

    @classmethod
    def beside(cls, output: Path) -> Findings:
        """Read the result files beside `output`, if they exist. Raises ValueError for a damaged file."""
        path = output.with_name(REFERENCE)
        return cls(read_bundles(path) if path.exists() else None, *read_judgements(output))


def page(zoo: Path, measured: Measurement, findings: Findings = Findings()) -> str:
    """Return the whole page as Markdown.

    Raises ValueError if a model was not measured, or has changed since it was measured or since `findings`
    were written.
    """
    return "\n".join(_page(rows(zoo, measured), measured, findings)) + "\n"


def page_from_files(output: Path, zoo: Path) -> str:
    """Return the page that belongs to the cards in `zoo` and the result files beside `output`.

    Raises FileNotFoundError if there is no measurement, and ValueError for a damaged file or if a model was
    not measured or has changed.
    """
    return page(zoo, read_bundle(output.with_name(FIGURES)), Findings.beside(output))


def _page(models: Sequence[Row], measured: Measurement, findings: Findings) -> Iterator[str]:
    groups = {
        labels: [row for row in models if row.card.labels == labels]
        for labels in dict.fromkeys(row.card.labels for row in models)
    }
    yield "# The zoo: accuracy, latency and size"
    yield ""
    yield (
        "Results: accuracy, latency and size of every classifier in `models/zoo/networks`, and what each "
        "block and each technique gains. `python -m models report` writes this page from the models' cards "
        f"and from [{FIGURES}]({FIGURES}), a bundle of `weighin bench`. Machine: {measured.machine}, "
        f"{measured.runtime}. Method: {measured.rounds} rounds of {measured.runs} runs of each model, one "
        "thread, models in a new random order in every round. p50 is the median of all runs, followed by the "
        "lowest and highest median of a round."
    )
    if measured.doubts:
        yield ""
        yield f"**Unreliable measurement**: {'; '.join(measured.doubts)}."
    yield ""
    yield (
        "Some names are shortened: `fashion-` and `efficientnet-` are left out, and `ir` stands for "
        "`inverted-residual`. A gain is a difference in top-1 accuracy (points), in p50 (milliseconds), in "
        "the size of the ONNX file (bytes) or in the multiply–accumulates (MACs) of one image. Each network "
        "of the tables was trained once. For their accuracies, `significant` therefore takes into account "
        "chance in the choice of test images, but not chance in the training (its seed)."
    )
    yield ""
    yield "## What each block and technique gains"
    for labels, group in groups.items():
        yield ""
        yield f"### {TITLES.get(labels, labels)}: gains"
        fine_tuned = findings.gain.further if findings.gain is not None and labels == FASHION else None
        yield from techniques.gains(
            group, findings.pairs if labels == FASHION else None, fine_tuned, measured
        )
    yield ""
    yield "## All models"
    yield ""
    yield from _table(models)
    for labels, group in groups.items():
        yield ""
        yield f"## {TITLES.get(labels, labels)}"
        yield ""
        if any(row.card.accuracy is not None for row in group):
            yield f"![accuracy over latency](zoo-{labels}-p50.svg)"
            yield f"![accuracy over multiply–accumulates](zoo-{labels}-macs.svg)"
            yield ""
        yield from _fronts(group)
        if labels == FASHION:
            digests = {row.card.name: row.card.file.sha256 for row in group}
            yield from significance.paragraphs(findings.pairs, findings.gain, digests)
    if findings.reference is not None:
        yield ""
        yield "## Reference networks at ImageNet's size, untrained"
        yield ""
        yield markdown(findings.reference).rstrip("\n")


def _table(models: Sequence[Row]) -> Iterator[str]:
    baselines = [row for name in (EQUAL_MACS, EQUAL_WIDTH) for row in models if row.card.name == name]
    columns = ["model", "labels", "block", "top-1", "p50", *(f"× {_name(row)}" for row in baselines)]
    columns += ["MACs", "bytes", "parameters", "under corruption"]
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in models:
        card = row.card
        cells = [
            _name(row),
            card.labels,
            card.block + (" int8" if card.precision == "int8" else ""),
            _stated_accuracy(card),
            f"{row.p50_ms:.3f} ms ({row.latency.low_ms:.3f} to {row.latency.high_ms:.3f})",
            *(_times_as_fast(row, other) for other in baselines),
            f"{card.macs / 1e6:.2f} M",
            f"{card.file.bytes:,}",
            f"{card.parameters:,}",
            _stated_robustness(card),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "If the table says neither `reported` nor `inherited` ([models.md](models.md)), top-1 was measured "
        "on all test images, and its 95 % interval (Wilson) follows. An inherited top-1 is that of the float "
        "network from which the int8 network was made. *Under corruption* is the mean top-1 accuracy over "
        "five corruptions at five severities. With `stable`, it "
        "is the share of images whose top-1 class stays the same "
        "([training.md](training.md#how-differences-are-tested))."
        + "".join(
            f" *× {_name(row)}*: how many times as fast as that model (2.00 means half the time)."
            for row in baselines
        )
    )


def _times_as_fast(row: Row, other: Row) -> str:
    """Return, as text, the speed of the model of `row` divided by the speed of the model of `other`.

    If their label sets differ, return a dash.
    """
    return f"{other.p50_ms / row.p50_ms:.2f}" if row.card.labels == other.card.labels else "–"


def _stated_accuracy(card: Card) -> str:
    accuracy = card.accuracy
    if accuracy is None:
        return "–"
    if accuracy.interval is None:
        return f"{accuracy.value:.1%} {accuracy.kind}"
    return f"{accuracy.value:.2%} ({accuracy.interval.low:.2%} to {accuracy.interval.high:.2%})"


def _stated_robustness(card: Card) -> str:
    robustness = card.robustness
    if robustness is None:
        return "–"
    return f"{robustness.mean:.1%}" + (" stable" if robustness.measure == "stability" else "")


def _fronts(models: Sequence[Row]) -> Iterator[str]:
    by_time, by_macs = front(models, "p50_ms"), front(models, "macs")
    if by_time:
        yield f"- Pareto front of accuracy and latency: {', '.join(map(_name, by_time))}."
        yield f"- Pareto front of accuracy and MACs: {', '.join(map(_name, by_macs))}."
    inverted = inversions(models)
    if inverted:
        first = "; ".join(f"{_name(a)} has fewer MACs than {_name(b)} but is slower" for a, b in inverted[:6])
        others = len(inverted) - 6
        more = f"; and {others} more pair{'s' if others > 1 else ''}" if others > 0 else ""
        only = "float networks whose MACs and p50 both differ by over 5 %"
        yield f"- MACs do not predict latency ({only}): {first}{more}."


def _name(row: Row) -> str:
    return f"`{short_name(row.card)}`"
