"""The commands of `python -m models` that put trained networks into the zoo and judge what is there."""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from typing import Any

from models.zoo.files import NETWORKS, networks_in

RUNS = Path(".cache/runs")
PHOTOS = Path(".cache/photos")


def add(commands: Any) -> None:
    """Add the commands to those of `python -m models`."""
    publish = commands.add_parser("publish", help="export a trained network, judge it, put it into the zoo")
    publish.add_argument("names", metavar="NAME", nargs="+", help="e.g. fashion-ghost")
    publish.add_argument(
        "--run", dest="run_folder", type=Path, help="the training's folder; default: RUNS/NAME-seedSEED"
    )
    publish.add_argument("--seed", type=int, default=0)
    publish.add_argument("--as", dest="published_as", help="another name in the zoo (for a single NAME)")
    publish.add_argument("--derived-from", help="the zoo's model that it was made from")
    publish.add_argument("--note", action="append", default=[], help="a note for the card; may be repeated")
    publish.add_argument("--int8", action="store_true", help="its int8 variant, from the zoo's NAME, instead")
    publish.add_argument("--calibrate", type=int, default=512, help="training images for that; default 512")
    publish.add_argument("--runs", type=Path, default=RUNS)
    publish.add_argument("--data-dir", type=Path, help="the folder with Fashion-MNIST's four .gz files")
    publish.add_argument(
        "--output", type=networks_in, default=NETWORKS, help="the zoo to write to; default: the project's"
    )
    publish.set_defaults(run=_publish)

    evaluate = commands.add_parser("evaluate", help="reproduce what cards say of accuracy; compare in pairs")
    evaluate.add_argument("names", metavar="NAME", nargs="+", help="models of the zoo")
    evaluate.add_argument("--corruptions", action="store_true", help="under corruptions too")
    evaluate.add_argument(
        "--ensemble", action="store_true", help="the mean of those that were made from no other too"
    )
    evaluate.add_argument("--json", type=Path, help="where the pairs go, for the report")
    evaluate.add_argument("--write", action="store_true", help="write what is found into the cards")
    evaluate.add_argument("--data-dir", type=Path, help="the folder with Fashion-MNIST's four .gz files")
    evaluate.add_argument("--photos", type=Path, default=PHOTOS, help="where `make photos` put them")
    evaluate.add_argument("--zoo", type=networks_in, default=NETWORKS)
    evaluate.set_defaults(run=_evaluate)

    gain = commands.add_parser("gain", help="what the teacher brought its students, over images and seeds")
    gain.add_argument("name", metavar="NAME", help="the student that `distill` trained with and without")
    gain.add_argument("--seeds", type=int, default=5, help="how many, from 0; default 5")
    gain.add_argument("--json", type=Path, help="where the judgement goes, for the report")
    gain.add_argument("--zoo", type=networks_in, default=NETWORKS, help="where the teachers are")
    gain.add_argument("--runs", type=Path, default=RUNS)
    gain.add_argument("--data-dir", type=Path, help="the folder with Fashion-MNIST's four .gz files")
    gain.set_defaults(run=_gain)


def _publish(options: argparse.Namespace) -> None:
    from models.compress.int8_check import Int8Check
    from models.data.fashion_mnist import default_folder, load_test, load_train
    from models.onnx_tools.quantize import QuantizationPlan
    from models.publish.publish import Origin, first, publish, publish_int8
    from models.train.family import run_folder, trained

    if len(options.names) > 1 and (options.run_folder or options.published_as):
        raise ValueError("--run and --as are for a single NAME")
    data = options.data_dir or default_folder()
    learned, test = load_train(data), load_test(data)
    for name in options.names:
        folder = options.run_folder or run_folder(options.runs, name, options.seed)
        if options.int8:
            decided = Int8Check.kept(folder)
            notes = (*options.note, *([] if decided is None else [f"check-int8: {decided}"]))
            card = publish_int8(
                name, options.output, QuantizationPlan(), first(learned, options.calibrate), test, notes
            )
        else:
            network, identity = trained(folder)
            how = f"run {folder.name} of docs/training.md"
            origin = Origin(how, options.derived_from, tuple(options.note))
            target = options.published_as or name
            card = publish(target, network, identity, origin, options.output, learned, test)
        print(_line(card), flush=True)


def _line(card: Any) -> str:
    accuracy = card.accuracy
    interval = accuracy.interval
    return (
        f"{card.name}: {accuracy.value:.2%} ({interval.low:.2%} to {interval.high:.2%}), "
        f"{accuracy.correct} of {accuracy.n}; "
        f"{card.macs / 1e6:.2f} M MACs, {card.parameters} parameters, {card.file.bytes} bytes"
    )


def _evaluate(options: argparse.Namespace) -> None:
    from models.zoo.card import read_cards

    sets = {name: card.labels for name, card in read_cards(options.zoo, options.names).items()}
    others = sorted(set(sets.values()) - {"fashion-mnist", "imagenet-1k"})
    if others:
        known = "fashion-mnist, imagenet-1k"
        raise ValueError(f"there are no labelled images for {', '.join(others)}; known: {known}")
    wrong = _evaluate_fashion([name for name in sets if sets[name] == "fashion-mnist"], options)
    wrong += _evaluate_photos([name for name in sets if sets[name] == "imagenet-1k"], options)
    if wrong:
        raise RuntimeError(f"the cards say otherwise: {'; '.join(wrong)}")


def _evaluate_fashion(names: list[str], options: argparse.Namespace) -> list[str]:
    from models.data.fashion_mnist import default_folder, load_test
    from models.evaluate.accuracy import Classes, accuracy_of, corrupted_accuracy, disagreement
    from models.zoo.card import write_card

    if not names:
        return []
    test = load_test(options.data_dir or default_folder())
    wrong, answers = [], {}
    for name in names:
        classes = Classes(options.zoo / name)
        logits = classes.logits(test.pixels)
        answers[name] = logits
        found = accuracy_of(logits.argmax(1) == test.classes)
        card = classes.card.model_copy(update={"accuracy": found})
        print(_line(card), flush=True)
        if options.corruptions:
            card = card.model_copy(update={"robustness": corrupted_accuracy(classes, test)})
            print(_corruptions(card.robustness), flush=True)
        if options.write:
            write_card(options.zoo / name, card)
        else:
            wrong += disagreement(classes.card, card)
    if len(names) > 1:
        averaged = _averaged(answers, test.classes, options.zoo) if options.ensemble else None
        _judge_pairs(answers, test.classes, averaged, options)
    return wrong


def _judge_pairs(answers: dict[str, Any], classes: Any, averaged: Any, options: argparse.Namespace) -> None:
    from models.evaluate.judgements import pairs_of
    from models.evaluate.paired import compare
    from models.zoo.card import read_card
    from models.zoo.files import write_whole
    from models.zoo.statistics import holm

    found = [
        (first, second, compare(*(answers[name].argmax(1) == classes for name in (first, second))))
        for first, second in combinations(answers, 2)
    ]
    adjusted = holm([pair.p for _, _, pair in found])
    print("\n| first | second | difference | 95 % interval | only first right | only second | p (Holm) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (first, second, pair), p in zip(found, adjusted, strict=True):
        print(
            f"| {first} | {second} | {pair.difference:+.2%} | {pair.low:+.2%} to {pair.high:+.2%} "
            f"| {pair.only_first} | {pair.only_second} | {p:.2g} |"
        )
    if options.json:
        sha256 = {name: read_card(options.zoo / name).file.sha256 for name in answers}
        judged = pairs_of(len(classes), sha256, found, adjusted, averaged)
        write_whole(options.json, (judged.model_dump_json(indent=1) + "\n").encode())


def _averaged(answers: dict[str, Any], classes: Any, zoo: Path) -> Any:
    from models.evaluate.accuracy import accuracy_of, mean_probabilities
    from models.evaluate.judgements import JudgedMean
    from models.zoo.card import read_card

    names = tuple(name for name in answers if read_card(zoo / name).derived_from is None)
    if not names:
        raise ValueError("--ensemble needs networks that were made from no other")
    found = accuracy_of(mean_probabilities([answers[name] for name in names]).argmax(1) == classes)
    print(f"\nthe mean of {', '.join(names)}: {found.value:.2%}, {found.correct} of {found.n}")
    return JudgedMean(networks=names, accuracy=found.value)


def _gain(options: argparse.Namespace) -> None:
    from models.data.fashion_mnist import default_folder, load_test
    from models.evaluate.teaching import judge
    from models.zoo.files import write_whole

    test = load_test(options.data_dir or default_folder())
    judged = judge(options.name, options.runs, options.seeds, options.zoo, test)
    print(judged)
    if judged.further is not None:
        print(judged.further)
    if options.json:
        write_whole(options.json, (judged.model_dump_json(indent=1) + "\n").encode())


def _corruptions(robustness: Any) -> str:
    each = ", ".join(
        f"{corruption} {sum(severities) / len(severities):.1%}"
        for corruption, severities in robustness.corruptions.items()
    )
    return f"  {robustness.measure} under corruption {robustness.mean:.1%}: {each}"


def _evaluate_photos(names: list[str], options: argparse.Namespace) -> list[str]:
    from models.evaluate.accuracy import Classes, disagreement, stability
    from models.publish.build import JUDGED_ON, JUDGING_CROPS
    from models.zoo.card import write_card

    wrong = []
    for name in names:
        if not options.corruptions:
            print(f"{name}: nothing labelled to judge on; --corruptions tells how stable its answers are")
            continue
        classes = Classes(options.zoo / name)
        found = stability(classes, options.photos, JUDGED_ON, JUDGING_CROPS)
        card = classes.card.model_copy(update={"robustness": found})
        print(f"{name}:\n{_corruptions(found)}", flush=True)
        if options.write:
            write_card(options.zoo / name, card)
        else:
            wrong += disagreement(classes.card, card)
    return wrong
