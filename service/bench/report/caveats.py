"""Caveats of a report: every reason to read one of its figures with care."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from models.zoo.card import Card
from models.zoo.display import counted, shown
from models.zoo.statistics import MIN_SAMPLES
from models.zoo.verdicts import MIN_ROUNDS
from service.bench.bundle import Bundle, FlagKind, ModelFacts
from service.bench.judge.summary import EntrySummary
from service.bench.report.document import AccuracyFigure, Caveat, CaveatKind, Front
from service.evaluation.result import Evaluation, ModelResult

_SERIOUS: tuple[FlagKind, ...] = ("void", "partial", "dirty", "contaminated")
_FEW_PICTURES = 100
"""A label set with fewer pictures gets a caveat. With 100, an accuracy of 80 % is known to about 8 points."""


def find_caveats(
    bundle: Bundle,
    summaries: Sequence[EntrySummary],
    accuracies: Mapping[str, AccuracyFigure | None],
    cards: Mapping[str, Card],
    evaluation: Evaluation | None,
    fronts: Sequence[Front],
) -> tuple[Caveat, ...]:
    """Return all caveats, serious ones first. `cards`: cards of the zoo by model name."""
    found = [
        *_flags(bundle),
        *_latency(bundle, summaries, fronts),
        *_accuracy(bundle, accuracies, evaluation),
        *_cards(bundle, cards),
    ]
    if evaluation is not None:
        found += _data(bundle, evaluation)
    return tuple(sorted(found, key=lambda caveat: not caveat.serious))


def _flags(bundle: Bundle) -> Iterator[Caveat]:
    for kind in (*_SERIOUS, "unstable", "drift"):
        for flag in bundle.flags:
            if flag.kind == kind:
                yield Caveat(
                    kind=flag.kind,
                    serious=flag.kind in _SERIOUS,
                    subjects=(flag.entry,) if flag.entry else (),
                    text=shown(flag.reason),
                )


def _latency(bundle: Bundle, summaries: Sequence[EntrySummary], fronts: Sequence[Front]) -> Iterator[Caveat]:
    scenario = bundle.configuration.scenario
    few = tuple(each.entry.name for each in summaries if each.count and each.p99 is None)
    if few:
        fewest = min(each.count for each in summaries if each.count and each.p99 is None)
        yield _caveat(
            "few-runs",
            few,
            f"too few runs for a p99: {fewest} (needed: {MIN_SAMPLES[0.99]}; --profile standard)",
        )
    rounds = {each.entry.name: len(bundle.blocks_of(each.entry.name)) for each in summaries}
    few = tuple(name for name, number in rounds.items() if 0 < number < MIN_ROUNDS)
    if few:
        fewest = min(rounds[name] for name in few)
        yield _caveat(
            "few-rounds", few, f"too few rounds for a verdict and intervals: {fewest} (needed: {MIN_ROUNDS})"
        )
    if bundle.configuration.inputs.kind == "synthetic":
        yield _caveat(
            "synthetic-input",
            (),
            "latency is that of inference on one fixed picture; decoding and resizing take additional time",
        )
    if not fronts:
        why = "nothing ran as the service runs its models: ONNX Runtime, one thread"
        if scenario != "single-stream":
            why = f"scenario {scenario} has no latency of single images"
        elif not bundle.blocks:
            why = "nothing was measured"
        yield _caveat("no-front", (), f"no front: {why}")
    untrained = tuple(facts.name for facts in bundle.models if not facts.trained)
    if untrained:
        yield _caveat("untrained", untrained, "random weights: the latency may mislead")


def _accuracy(
    bundle: Bundle, accuracies: Mapping[str, AccuracyFigure | None], evaluation: Evaluation | None
) -> Iterator[Caveat]:
    def of_kind(kind: str) -> tuple[str, ...]:
        return tuple(
            name for name, figure in accuracies.items() if figure is not None and figure.kind == kind
        )

    for name in of_kind("inherited"):
        figure = accuracies[name]
        assert figure is not None
        yield _caveat(
            "inherited-accuracy", (name,), f"the accuracy was not measured, it is {shown(figure.how)}"
        )
    if reported := of_kind("reported"):
        yield _caveat(
            "reported-accuracy", reported, "the accuracy is the publisher's, and was not measured here"
        )
    covered = set() if evaluation is None else evaluated_labels(evaluation)
    unknown = tuple(
        facts.name
        for facts in bundle.models
        if accuracies[facts.name] is None and facts.trained and facts.labels not in covered
    )
    if unknown:
        yield _caveat("unknown-accuracy", unknown, "the accuracy is unknown")


def _cards(bundle: Bundle, cards: Mapping[str, Card]) -> Iterator[Caveat]:
    """Yield caveats on the measured models that follow from the cards in the zoo."""
    missing = tuple(facts.name for facts in bundle.models if facts.name not in cards)
    if missing:
        yield _caveat(
            "no-card",
            missing,
            "not among the models here, so it is unknown whether facts on the card were assumed",
        )
    for facts in bundle.models:
        card = cards.get(facts.name)
        if card is None:
            continue
        if card.file.sha256 != facts.sha256:
            yield _caveat(
                "other-file", (facts.name,), "the model here has another file than the measured one"
            )
        elif card.doubtful:
            yield _caveat(
                "assumed",
                (facts.name,),
                f"assumed, predictions may be wrong: {', '.join(map(shown, card.doubtful))}",
            )


def _data(bundle: Bundle, evaluation: Evaluation) -> Iterator[Caveat]:
    """Yield caveats on the evaluation's pictures, and on differences between evaluation and benchmark."""
    data = evaluation.data
    covered = evaluated_labels(evaluation)
    others = tuple(facts.name for facts in bundle.models if facts.labels not in covered)
    if others:
        yield _caveat(
            "not-evaluated",
            others,
            f"no model of their label set was evaluated on '{shown(data.name)}': accuracies from the cards",
        )
    used = {facts.name: facts.labels for facts in bundle.models if same_model(evaluation, facts) is not None}
    unused = [facts.name for facts in bundle.models if facts.labels in covered and facts.name not in used]
    absent = tuple(name for name in unused if evaluation.model(name) is None)
    if absent:
        yield _caveat("not-evaluated", absent, f"not evaluated on '{shown(data.name)}': no accuracy shown")
    other = tuple(name for name in unused if name not in absent)
    if other:
        yield _caveat(
            "not-evaluated",
            other,
            f"evaluated on '{shown(data.name)}' with another file or other labels than the measured ones: "
            "no accuracy shown",
        )
    for labels in evaluation.label_sets:
        if labels.labels not in used.values():
            continue
        if labels.classes < labels.of:
            yield _caveat(
                "few-classes",
                (),
                f"the pictures are of {labels.classes} of the {labels.of} classes of {labels.labels}: "
                f"this is no accuracy on {labels.labels}",
            )
        if labels.n < _FEW_PICTURES:
            pictures = counted(labels.n, "picture", "pictures")
            yield _caveat("data", (), f"only {pictures} for {labels.labels}: compare intervals, not values")
        unmatched = [shown(each.name) for each in labels.unmatched]
        if unmatched:
            yield _caveat(
                "data",
                (),
                f"classes without a label in {labels.labels} are not counted: {_some(unmatched)}",
            )
    for left_out, one, several, why in (
        (data.duplicates, "exact duplicate", "exact duplicates", ", not counted again"),
        (data.conflicts, "picture", "pictures", " with more than one label, not counted"),
        (data.unreadable, "picture", "pictures", " not usable"),
    ):
        if left_out:
            yield _caveat("data", (), f"{counted(len(left_out), one, several)}{why}")
    said = tuple(
        f"{each.classes} of the {each.of} classes of {each.labels}" for each in evaluation.label_sets
    )
    for note in data.notes:
        if not note.startswith(said):  # the caveat few-classes says this already
            yield _caveat("data", (), shown(note))
    isa, runtime = bundle.fingerprint.machine.isa, bundle.fingerprint.software.runtimes.get("onnxruntime")
    elsewhere = tuple(
        facts.name
        for facts in bundle.models
        if (result := same_model(evaluation, facts)) is not None
        and (tuple(sorted(result.software.instruction_set)), result.software.onnxruntime) != (isa, runtime)
    )
    if elsewhere:
        yield _caveat(
            "other-machine",
            elsewhere,
            "evaluated with other instruction sets or another ONNX Runtime, which may round differently",
        )


def evaluated_labels(evaluation: Evaluation) -> set[str]:
    """Return the label sets of which the evaluation has models."""
    return {model.labels for model in evaluation.models}


def same_model(evaluation: Evaluation, facts: ModelFacts) -> ModelResult | None:
    """Return the evaluation's result for a measured model.

    Return None if the evaluation does not have the model, or has it with another file or with other labels.
    """
    result = evaluation.model(facts.name)
    same = result is not None and (result.sha256, result.labels) == (facts.sha256, facts.labels)
    return result if same else None


def _some(names: Sequence[str]) -> str:
    """Return the first five names as a text. If there are more names, the text also says how many."""
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")


def _caveat(kind: CaveatKind, subjects: tuple[str, ...], text: str) -> Caveat:
    return Caveat(kind=kind, subjects=subjects, text=text)
