"""Commands that put trained networks into the zoo and judge what is there: publish, evaluate, gain."""

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
        Path | None, typer.Option("--run", help="the training's folder; default: RUNS/NAME-seedSEED")
    ] = None,
    seed: Seed = 0,
    published_as: Annotated[
        str | None, typer.Option("--as", help="another name in the zoo (for a single NAME)")
    ] = None,
    derived_from: Annotated[str | None, typer.Option(help="the zoo's model that it was made from")] = None,
    note: Annotated[list[str] | None, typer.Option(help="a note for the card; may be repeated")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="its int8 variant, from the zoo's NAME, instead")
    ] = False,
    calibrate: Annotated[int, typer.Option(help="training images for that")] = 512,
    runs: Runs = RUNS,
    data_dir: DataDir = None,
    output: Output = NETWORKS,
) -> None:
    """Export a trained network, judge it, put it into the zoo."""
    from models.compress.int8_check import Int8Check
    from models.data.fashion_mnist import default_folder, load_test, load_train
    from models.onnx_tools.quantize import QuantizationPlan
    from models.publish.publish import Origin, first, publish, publish_int8
    from models.train import family

    if len(names) > 1 and (run_folder or published_as):
        raise ValueError("--run and --as are for a single NAME")
    data = data_dir or default_folder()
    learned, test = load_train(data), load_test(data)
    notes = tuple(note or ())
    for name in names:
        folder = run_folder or family.run_folder(runs, name, seed)
        if int8:
            decided = Int8Check.kept(folder)
            all_notes = (*notes, *([] if decided is None else [f"check-int8: {decided}"]))
            card = publish_int8(name, output, QuantizationPlan(), first(learned, calibrate), test, all_notes)
        else:
            network, identity = family.trained(folder)
            origin = Origin(f"run {folder.name} of docs/training.md", derived_from, notes)
            card = publish(published_as or name, network, identity, origin, output, learned, test)
        print(_line(card), flush=True)


def _line(card: Any) -> str:
    accuracy = card.accuracy
    interval = accuracy.interval
    return (
        f"{card.name}: {accuracy.value:.2%} ({interval.low:.2%} to {interval.high:.2%}), "
        f"{accuracy.correct} of {accuracy.n}; "
        f"{card.macs / 1e6:.2f} M MACs, {card.parameters} parameters, {card.file.bytes} bytes"
    )


def evaluate(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="models of the zoo")],
    corruptions: Annotated[bool, typer.Option("--corruptions", help="under corruptions too")] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="the mean of those that were made from no other too")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="where the pairs go, for the report")] = None,
    write: Annotated[bool, typer.Option("--write", help="write what is found into the cards")] = False,
    data_dir: DataDir = None,
    photos: Photos = PHOTOS,
    zoo: Zoo = NETWORKS,
) -> None:
    """Reproduce what cards say of accuracy; compare in pairs."""
    from models.zoo.card import read_cards

    sets = {name: card.labels for name, card in read_cards(zoo, names).items()}
    others = sorted(set(sets.values()) - {"fashion-mnist", "imagenet-1k"})
    if others:
        known = "fashion-mnist, imagenet-1k"
        raise ValueError(f"there are no labelled images for {', '.join(others)}; known: {known}")
    fashion = [name for name in sets if sets[name] == "fashion-mnist"]
    imagenet = [name for name in sets if sets[name] == "imagenet-1k"]
    wrong = _evaluate_fashion(fashion, zoo, data_dir, corruptions, write, ensemble, json)
    wrong += _evaluate_photos(imagenet, zoo, photos, corruptions, write)
    if wrong:
        raise RuntimeError(f"the cards say otherwise: {'; '.join(wrong)}")


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
    from models.evaluate.accuracy import Classes, accuracy_of, corrupted_accuracy, disagreement
    from models.zoo.card import write_card

    if not names:
        return []
    test = load_test(data_dir or default_folder())
    wrong, answers = [], {}
    for name in names:
        classes = Classes(zoo / name)
        logits = classes.logits(test.pixels)
        answers[name] = logits
        card = classes.card.model_copy(update={"accuracy": accuracy_of(logits.argmax(1) == test.classes)})
        print(_line(card), flush=True)
        if corruptions:
            card = card.model_copy(update={"robustness": corrupted_accuracy(classes, test)})
            print(_corruptions(card.robustness), flush=True)
        if write:
            write_card(zoo / name, card)
        else:
            wrong += disagreement(classes.card, card)
    if len(names) > 1:
        averaged = _averaged(answers, test.classes, zoo) if ensemble else None
        _judge_pairs(answers, test.classes, averaged, zoo, json)
    return wrong


def _judge_pairs(answers: dict[str, Any], classes: Any, averaged: Any, zoo: Path, json: Path | None) -> None:
    from models.evaluate.significance import pairs_of
    from models.zoo.card import read_card
    from models.zoo.files import write_whole
    from models.zoo.paired import compare
    from models.zoo.statistics import holm

    pairs = [
        (first, second, compare(*(answers[name].argmax(1) == classes for name in (first, second))))
        for first, second in combinations(answers, 2)
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
        sha256 = {name: read_card(zoo / name).file.sha256 for name in answers}
        judged = pairs_of(len(classes), sha256, pairs, adjusted, averaged)
        write_whole(json, (judged.model_dump_json(indent=1) + "\n").encode())


def _averaged(answers: dict[str, Any], classes: Any, zoo: Path) -> Any:
    from models.evaluate.accuracy import accuracy_of, mean_probabilities
    from models.evaluate.significance import JudgedMean
    from models.zoo.card import read_card

    names = tuple(name for name in answers if read_card(zoo / name).derived_from is None)
    if not names:
        raise ValueError("--ensemble needs networks that were made from no other")
    accuracy = accuracy_of(mean_probabilities([answers[name] for name in names]).argmax(1) == classes)
    print(f"\nthe mean of {', '.join(names)}: {accuracy.value:.2%}, {accuracy.correct} of {accuracy.n}")
    return JudgedMean(networks=names, accuracy=accuracy.value)


def gain(
    name: Name,
    seeds: Annotated[int, typer.Option(help="how many, from 0")] = 5,
    json: Json = None,
    zoo: Zoo = NETWORKS,
    runs: Runs = RUNS,
    data_dir: DataDir = None,
) -> None:
    """Say what the teacher brought the student NAME, over images and seeds."""
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
    each = ", ".join(
        f"{corruption} {sum(severities) / len(severities):.1%}"
        for corruption, severities in robustness.corruptions.items()
    )
    return f"  {robustness.measure} under corruption {robustness.mean:.1%}: {each}"


def _evaluate_photos(names: list[str], zoo: Path, photos: Path, corruptions: bool, write: bool) -> list[str]:
    from models.evaluate.accuracy import Classes, disagreement, stability
    from models.publish.build import JUDGED_ON, JUDGING_CROPS
    from models.zoo.card import write_card

    wrong = []
    for name in names:
        if not corruptions:
            print(f"{name}: nothing labelled to judge on; --corruptions tells how stable its answers are")
            continue
        classes = Classes(zoo / name)
        robustness = stability(classes, photos, JUDGED_ON, JUDGING_CROPS)
        card = classes.card.model_copy(update={"robustness": robustness})
        print(f"{name}:\n{_corruptions(robustness)}", flush=True)
        if write:
            write_card(zoo / name, card)
        else:
            wrong += disagreement(classes.card, card)
    return wrong
