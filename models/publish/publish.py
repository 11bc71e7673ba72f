"""Publish a trained network of the Fashion-MNIST family to the zoo: export, evaluate, write its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.architectures.designed import DesignedNetwork
from models.architectures.fashion import name_of
from models.cost.profiling import profile
from models.data.fashion_mnist import FASHION_MNIST, SPEC, Images, tensors
from models.evaluate.accuracy import TEST, ZooClassifier, accuracy_of, corrupted_accuracy
from models.export.to_onnx import export, model_file, plain_file, write_classifier
from models.onnx_tools.quantize import QuantizationPlan, quantize
from models.publish.build import replace_folder
from models.publish.recipes import INT8_SUFFIX
from models.zoo.card import Agreement, Card, Classifier, Interval, Source, read_card, write_card

POLARITY = (
    "Trained on light clothes on a dark background. An image whose corners are mostly light is inverted "
    "first (polarity light-on-dark), so photographs on a white background work too"
)
SAMPLES = 64
"""Number of training images on which the exported file is compared with the network."""


@dataclass(frozen=True)
class Origin:
    """What a card states about the origin of a model's weights.

    `how` says how they were trained. `derived_from` is the name of the parent model, if there is one.
    """

    how: str
    derived_from: str | None = None
    notes: tuple[str, ...] = ()


def publish(
    name: str,
    network: DesignedNetwork,
    identity: Mapping[str, Any],
    origin: Origin,
    output: Path,
    train: Images,
    test: Images,
) -> Card:
    """Write `output/<name>` and return its card. The folder is replaced atomically.

    `identity` is the training's identity, as `load_trained` returns it. The exported file is compared with
    the network on images of `train`, and evaluated on `test`. Raises ExportMismatchError if the file and the
    network differ.
    """
    cost = profile(network, network.input_size, network.input_channels)
    embedding = network.classifier.in_features
    with replace_folder(output / name) as folder:
        export(network, folder / "model.onnx", tensors(train.pixels[:SAMPLES]))
        write_classifier(network, folder / "classifier.npz")
        card = Card(
            name=name,
            labels=FASHION_MNIST.labels,
            classes=FASHION_MNIST.classes,
            architecture=name_of(network.design) or name,
            block=network.design.block(),
            precision="fp32",
            input=SPEC,
            outputs={
                "logits": (FASHION_MNIST.classes,),
                "embedding": (embedding,),
                "features": (embedding, *_last_map(network)),
            },
            parameters=cost.parameters,
            macs=cost.macs,
            file=model_file(folder / "model.onnx"),
            classifier=Classifier(model=name, file=plain_file(folder / "classifier.npz")),
            derived_from=origin.derived_from,
            source=Source(weights=f"trained by this project: {origin.how}", licence="Apache-2.0"),
            notes=(*origin.notes, _training_note(identity), POLARITY),
        )
        card = evaluated(folder, card, test)
        write_card(folder, card)
    return card


def evaluated(folder: Path, card: Card, test: Images) -> Card:
    """Write `card` to `folder` and evaluate the model in this folder.

    Return the card with the measured accuracy and robustness.
    """
    write_card(folder, card)
    classifier = ZooClassifier(folder)
    accuracy = accuracy_of(classifier.classes(test.pixels) == test.classes)
    results = {"accuracy": accuracy, "robustness": corrupted_accuracy(classifier, test)}
    return card.model_copy(update=results)


def publish_int8(
    parent_name: str,
    output: Path,
    plan: QuantizationPlan,
    calibration: Images,
    test: Images,
    notes: tuple[str, ...] = (),
) -> Card:
    """Write the int8 variant of a published model beside it, and return its card.

    The activation ranges are calibrated on the images `calibration`. Accuracy and agreement with the parent
    are measured on the images `test`.
    """
    parent = read_card(output / parent_name)
    name = parent_name + INT8_SUFFIX
    images = list(tensors(calibration.pixels)[:, None])
    with replace_folder(output / name) as folder:
        quantize(output / parent_name / parent.file.name, folder / "model.onnx", images, plan)
        note = f"static QDQ, {plan.method} ranges, calibrated on {len(images)} training images"
        changes = {
            "name": name,
            "precision": "int8",
            "file": model_file(folder / "model.onnx"),
            "derived_from": parent_name,
            "accuracy": None,
            "robustness": None,
            "agreement": None,
            "notes": (note, *notes, POLARITY),
        }
        card = evaluated(folder, Card.model_validate(parent.model_dump() | changes), test)
        card = card.model_copy(update={"agreement": _agreement(output / parent_name, folder, test)})
        write_card(folder, Card.model_validate(card.model_dump()))
    return card


def _agreement(parent: Path, derived: Path, test: Images) -> Agreement:
    parent_classes, derived_classes = (
        ZooClassifier(folder).classes(test.pixels) for folder in (parent, derived)
    )
    same = int((parent_classes == derived_classes).sum())
    return Agreement(
        parent=parent.name,
        value=round(same / len(test), 4),
        n=len(test),
        interval=Interval.wilson(same, len(test)),
        how=f"same top-1 class on the images of {TEST}",
    )


def _last_map(network: DesignedNetwork) -> tuple[int, int]:
    import torch

    with torch.no_grad():
        features = network.forward_features(torch.zeros(1, 1, network.input_size, network.input_size))
    return int(features.shape[2]), int(features.shape[3])


def _training_note(identity: Mapping[str, Any]) -> str:
    recipe = identity["recipe"]
    note = (
        f"{recipe['epochs']} epochs on {identity['images'][0]} of the 60 000 training images, the other "
        f"{identity['images'][1]} for validation, seed {identity['seed']}, on {identity['made_with']}"
    )
    if "parent" in identity:
        note += f"; fine-tuned from {identity['parent']}"
    if "teacher" in identity:
        note += f"; teacher: the mean of {' and '.join(identity['teacher'])}"
    return note


def evenly_spaced(images: Images, count: int) -> Images:
    """Return `count` of the images, evenly spaced."""
    indices: NDArray[np.int64] = np.linspace(0, len(images) - 1, count).astype(np.int64)
    return images.take(indices)
