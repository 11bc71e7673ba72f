"""Commands that publish trained networks to the zoo and evaluate them: publish, evaluate, gain."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer

from models.cli.options import PHOTOS, RUNS, DataDir, Json, Name, Output, Photos, Runs, Seed, Zoo
from models.zoo.files import NETWORKS


def publish(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="e.g. fashion-ghost")],
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="folder of the training; default: RUNS/NAME-seedSEED")
    ] = None,
    seed: Seed = 0,
    published_as: Annotated[
        str | None, typer.Option("--as", help="name in the zoo, for a single NAME; default: NAME")
    ] = None,
    derived_from: Annotated[str | None, typer.Option(help="parent model in the zoo")] = None,
    note: Annotated[list[str] | None, typer.Option(help="note for the card; repeatable")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="publish the int8 variant of the zoo's NAME instead")
    ] = False,
    calibrate: Annotated[int, typer.Option(help="training images that calibrate int8")] = 512,
    runs: Runs = RUNS,
    data_dir: DataDir = None,
    output: Output = NETWORKS,
) -> None:
    """Export a trained network, evaluate it, put it into the zoo."""
    from models.compress.int8_check import Int8Check
    from models.data.fashion_mnist import default_folder, load_test, load_train
    from models.onnx_tools.quantize import QuantizationPlan
    from models.publish.publish import Origin, evenly_spaced, publish, publish_int8
    from models.train import family

    if len(names) > 1 and (run_folder or published_as):
        raise ValueError(f"--run and --as: {len(names)} names were given (allowed: one NAME)")
    data = data_dir or default_folder()
    train, test = load_train(data), load_test(data)
    notes = tuple(note or ())
    for name in names:
        folder = run_folder or family.run_folder(runs, name, seed)
        if int8:
            check = Int8Check.load(folder)
            all_notes = (*notes, *([] if check is None else [f"check-int8: {check}"]))
            calibration = evenly_spaced(train, calibrate)
            card = publish_int8(name, output, QuantizationPlan(), calibration, test, all_notes)
        else:
            network, identity = family.load_trained(folder)
            origin = Origin(f"run {folder.name} of docs/training.md", derived_from, notes)
            card = publish(published_as or name, network, identity, origin, output, train, test)
        print(_summary(card), flush=True)


def _summary(card: Any) -> str:
    accuracy = card.accuracy
    interval = accuracy.interval
    return (
        f"{card.name}: {accuracy.value:.2%} ({interval.low:.2%} to {interval.high:.2%}), "
        f"{accuracy.correct} of {accuracy.n}; "
        f"{card.macs / 1e6:.2f} M MACs, {card.parameters} parameters, {card.file.bytes} bytes"
    )


def evaluate(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="models of the zoo")],
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="also measure robustness to corruptions")
    ] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="also average the models without a parent")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help="file to write the comparisons to, for `report`")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="write the results into the cards")] = False,
    data_dir: DataDir = None,
    photos: Photos = PHOTOS,
    zoo: Zoo = NETWORKS,
) -> None:
    """Reproduce the accuracies on cards; compare models in pairs."""
    from models.zoo.card import read_cards

    labels = {name: card.labels for name, card in read_cards(zoo, names).items()}
    unsupported = sorted(set(labels.values()) - {"fashion-mnist", "imagenet-1k"})
    if unsupported:
        raise ValueError(
            f"label set {', '.join(unsupported)}: no images to evaluate on "
            "(allowed: fashion-mnist, imagenet-1k)"
        )
    fashion = [name for name in labels if labels[name] == "fashion-mnist"]
    imagenet = [name for name in labels if labels[name] == "imagenet-1k"]
    differences = _evaluate_fashion(fashion, zoo, data_dir, corruptions, write, ensemble, json)
    differences += _evaluate_photos(imagenet, zoo, photos, corruptions, write)
    if differences:
        raise RuntimeError(f"cards differ from the results: {'; '.join(differences)}")


def _evaluate_fashion(
    names: list[str],
    zoo: Path,
    data_dir: Path | None,
    corruptions: bool,
    write: bool,
    ensemble: bool,
    json: Path | None,
) -> list[str]:
    from models.data.fashion_mnist import default_folder, load_test
    from models.evaluate.accuracy import ZooClassifier, accuracy_of, corrupted_accuracy, disagreement
    from models.zoo.card import write_card

    if not names:
        return []
    test = load_test(data_dir or default_folder())
    differences, logits = [], {}
    for name in names:
        classifier = ZooClassifier(zoo / name)
        logits[name] = classifier.logits(test.pixels)
        correct = logits[name].argmax(1) == test.classes
        card = classifier.card.model_copy(update={"accuracy": accuracy_of(correct)})
        print(_summary(card), flush=True)
        if corruptions:
            card = card.model_copy(update={"robustness": corrupted_accuracy(classifier, test)})
            print(_corruptions(card.robustness), flush=True)
        if write:
            write_card(zoo / name, card)
        else:
            differences += disagreement(classifier.card, card)
    if len(names) > 1:
        averaged = _average(logits, test.classes, zoo) if ensemble else None
        _compare_pairs(logits, test.classes, averaged, zoo, json)
    return differences


def _compare_pairs(logits: dict[str, Any], classes: Any, averaged: Any, zoo: Path, json: Path | None) -> None:
    from models.evaluate.significance import pairs_of
    from models.zoo.card import read_card
    from models.zoo.files import write_whole
    from models.zoo.paired import compare
    from models.zoo.statistics import holm

    pairs = [
        (first, second, compare(*(logits[name].argmax(1) == classes for name in (first, second))))
        for first, second in combinations(logits, 2)
    ]
    adjusted = holm([pair.p for _, _, pair in pairs])
    print("\n| first | second | difference | 95 % interval | only first right | only second | p (Holm) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (first, second, pair), p in zip(pairs, adjusted, strict=True):
        print(
            f"| {first} | {second} | {pair.difference:+.2%} | {pair.low:+.2%} to {pair.high:+.2%} "
            f"| {pair.only_first} | {pair.only_second} | {p:.2g} |"
        )
    if json:
        sha256 = {name: read_card(zoo / name).file.sha256 for name in logits}
        judged = pairs_of(len(classes), sha256, pairs, adjusted, averaged)
        write_whole(json, (judged.model_dump_json(indent=1) + "\n").encode())


def _average(logits: dict[str, Any], classes: Any, zoo: Path) -> Any:
    from models.evaluate.accuracy import accuracy_of, mean_probabilities
    from models.evaluate.significance import JudgedMean
    from models.zoo.card import read_card

    names = tuple(name for name in logits if read_card(zoo / name).derived_from is None)
    if not names:
        raise ValueError("--ensemble: all models are derived from others (allowed: models without a parent)")
    accuracy = accuracy_of(mean_probabilities([logits[name] for name in names]).argmax(1) == classes)
    print(f"\nmean of {', '.join(names)}: {accuracy.value:.2%}, {accuracy.correct} of {accuracy.n}")
    return JudgedMean(networks=names, accuracy=accuracy.value)


def gain(
    name: Name,
    seeds: Annotated[int, typer.Option(help="number of seeds, counted from 0")] = 5,
    json: Json = None,
    zoo: Zoo = NETWORKS,
    runs: Runs = RUNS,
    data_dir: DataDir = None,
) -> None:
    """Measure how much accuracy a teacher adds to the student NAME, over images and seeds."""
    from models.data.fashion_mnist import default_folder, load_test
    from models.evaluate.teaching import judge
    from models.zoo.files import write_whole

    judged = judge(name, runs, seeds, zoo, load_test(data_dir or default_folder()))
    print(judged)
    if judged.further is not None:
        print(judged.further)
    if json:
        write_whole(json, (judged.model_dump_json(indent=1) + "\n").encode())


def _corruptions(robustness: Any) -> str:
    means = ", ".join(
        f"{corruption} {sum(severities) / len(severities):.1%}"
        for corruption, severities in robustness.corruptions.items()
    )
    return f"  {robustness.measure} under corruption {robustness.mean:.1%}: {means}"


def _evaluate_photos(names: list[str], zoo: Path, photos: Path, corruptions: bool, write: bool) -> list[str]:
    from models.evaluate.accuracy import ZooClassifier, disagreement, stability
    from models.publish.build import JUDGED_ON, JUDGING_CROPS
    from models.zoo.card import write_card

    differences = []
    for name in names:
        if not corruptions:
            print(f"{name}: no labelled images to evaluate on; --corruptions measures its stability")
            continue
        classifier = ZooClassifier(zoo / name)
        robustness = stability(classifier, photos, JUDGED_ON, JUDGING_CROPS)
        card = classifier.card.model_copy(update={"robustness": robustness})
        print(f"{name}:\n{_corruptions(robustness)}", flush=True)
        if write:
            write_card(zoo / name, card)
        else:
            differences += disagreement(classifier.card, card)
    return differences
