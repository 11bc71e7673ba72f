"""Build a model of the zoo by a recipe. Its files are `model.onnx`, `classifier.npz` and `card.json`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.architectures.efficientnet_lite import EfficientNetLite
from models.cost.profiling import profile
from models.data.photos import crops
from models.export.to_onnx import export, model_file, plain_file, write_classifier
from models.onnx_tools.quantize import quantize
from models.onnx_tools.session import open_session, run
from models.publish.detector_weights import published_file
from models.publish.detectors import DETECTOR_RECIPES, DetectorRecipe, write_float, write_int8
from models.publish.pretrained import load_pretrained
from models.publish.recipes import INT8_SUFFIX, RECIPES, Recipe
from models.zoo.agreement import Compared, compare_logits
from models.zoo.card import (
    Accuracy,
    Agreement,
    Card,
    Classifier,
    InputSpec,
    ModelFile,
    read_card,
    write_card,
)
from models.zoo.preprocess import preprocess

CALIBRATED_ON = ("mate-backgrounds", "plasma-workspace-wallpapers")
CALIBRATION_CROPS = 8
"""Number of crops of each photograph on which an int8 classifier's activation ranges are calibrated."""
DETECTOR_CROPS = 4
"""Number of crops of each photograph on which an int8 detector's activation ranges are calibrated."""
JUDGED_ON = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04")
JUDGING_CROPS = 16
"""Number of crops of each photograph on which an int8 model's agreement with its parent is measured."""


def names() -> list[str]:
    """Return the names of all models that `build` can build, each parent before the models made from it."""
    classifiers = [name for recipe in RECIPES for name in (recipe, recipe + INT8_SUFFIX)]
    detectors = [
        name
        for recipe in DETECTOR_RECIPES.values()
        for name in (recipe.name, *([recipe.name + INT8_SUFFIX] if recipe.plan else []))
    ]
    return classifiers + detectors


def build(name: str, photos: Path, output: Path, published: Path) -> Card:
    """Build the model `name` in the folder `output/<name>` and return its card.

    An int8 model is built from its parent in `output`. `photos` is the folder that `make photos` filled.
    `published` is the folder that `make detectors` filled; only detectors need it. The model's folder is
    replaced atomically.
    Raises ValueError for an unknown name, FileNotFoundError for an int8 model without its parent, and the
    errors of loading, exporting, quantizing and reading photographs.
    """
    if name not in names():
        raise ValueError(f"recipe {name!r}: unknown (allowed: {', '.join(names())})")
    parent = name.removesuffix(INT8_SUFFIX)
    if parent in DETECTOR_RECIPES:
        return build_detector(name, DETECTOR_RECIPES[parent], photos, output, published)
    if name == parent:
        return build_float(RECIPES[name], photos, output)
    return build_int8(RECIPES[parent], photos, output)


def build_detector(name: str, recipe: DetectorRecipe, photos: Path, output: Path, published: Path) -> Card:
    """Build a detector or its int8 variant, as `build` does, and return its card."""
    with replace_folder(output / name) as folder:
        if name == recipe.name:
            images = tensors(crops(photos, JUDGED_ON, 1), recipe.input)
            card = write_float(recipe, published_file(name, published), folder, images)
        else:
            images = tensors(crops(photos, CALIBRATED_ON, DETECTOR_CROPS), recipe.input)
            card = write_int8(recipe, output / recipe.name, folder, images)
        write_card(folder, card)
    return card


def build_float(recipe: Recipe, photos: Path, output: Path) -> Card:
    """Export a float model with trained weights, and return its card.

    The exported file is compared with the network on one crop of each photograph.
    """
    network = load_pretrained(recipe.name)
    images = tensors(crops(photos, JUDGED_ON, 1), recipe.input)
    with replace_folder(output / recipe.name) as folder:
        export(network, folder / "model.onnx", np.concatenate(images))
        write_classifier(network, folder / "classifier.npz")
        card = _float_card(recipe, network, folder)
        write_card(folder, card)
    return card


def _float_card(recipe: Recipe, network: EfficientNetLite, folder: Path) -> Card:
    cost = profile(network, network.input_size)
    facts = model_file(folder / "model.onnx")
    size = -(-network.input_size // 32)
    return Card(
        name=recipe.name,
        labels=recipe.labels,
        classes=recipe.classes,
        architecture=recipe.architecture,
        block=recipe.block,
        precision="fp32",
        input=recipe.input,
        outputs={
            "logits": (recipe.classes,),
            "embedding": (network.classifier.in_features,),
            "features": (network.classifier.in_features, size, size),
        },
        parameters=cost.parameters,
        macs=cost.macs,
        file=facts,
        classifier=Classifier(model=recipe.name, file=plain_file(folder / "classifier.npz")),
        accuracy=recipe.accuracy,
        source=recipe.source,
    )


def build_int8(recipe: Recipe, photos: Path, output: Path) -> Card:
    """Build the int8 variant of the recipe's floating-point model, which is in `output`; return its card."""
    parent = read_card(output / recipe.name)
    source = output / recipe.name / parent.file.name
    calibration = tensors(crops(photos, CALIBRATED_ON, CALIBRATION_CROPS), recipe.input)
    with replace_folder(output / (recipe.name + INT8_SUFFIX)) as folder:
        quantize(source, folder / "model.onnx", calibration, recipe.plan)
        compared = photo_agreement(source, folder / "model.onnx", recipe.input, photos)
        card = _int8_card(recipe, parent, model_file(folder / "model.onnx"), compared, len(calibration))
        write_card(folder, card)
    return card


def photo_agreement(parent: Path, derived: Path, spec: InputSpec, photos: Path) -> Compared:
    """Return the agreement of two ONNX files on crops of photographs that calibration does not use."""
    images = tensors(crops(photos, JUDGED_ON, JUDGING_CROPS), spec)
    return compare_logits(run(open_session(parent), images), run(open_session(derived), images))


def _int8_card(
    recipe: Recipe, parent: Card, facts: ModelFile, compared: Compared, calibration_crops: int
) -> Card:
    if parent.accuracy is None:
        raise ValueError(f"{parent.name}: no accuracy on the card for {recipe.name + INT8_SUFFIX} to inherit")
    float_modules = ", ".join((*recipe.plan.keep_float, "pooling", "classifier"))
    changes = {
        "name": recipe.name + INT8_SUFFIX,
        "precision": "int8",
        "file": facts,
        "accuracy": Accuracy(
            value=parent.accuracy.value,
            kind="inherited",
            dataset=parent.accuracy.dataset,
            n=parent.accuracy.n,
            how=f"{parent.accuracy.kind} for {parent.name}; see also the agreement with it",
        ),
        "agreement": Agreement(
            parent=parent.name,
            value=round(compared.top_1_agreement, 4),
            n=compared.n,
            interval=compared.interval,
            how=(
                f"same top-1 class on {compared.n} crops, {JUDGING_CROPS} of each photograph in Debian's "
                f"{' and '.join(JUDGED_ON)}; calibrated on {calibration_crops} crops from "
                f"{' and '.join(CALIBRATED_ON)}. Crops of one photograph are alike, so the interval, which "
                f"takes them as independent, is somewhat too narrow"
            ),
        ),
        "derived_from": parent.name,
        "notes": (
            f"static QDQ, uint8 activations, int8 weights per output channel, {recipe.plan.method} ranges, "
            f"biases {'corrected' if recipe.plan.correct_biases else 'as they were'}",
            f"in floating point: {float_modules}",
        ),
    }
    return Card.model_validate(parent.model_dump() | changes)


def tensors(images: Iterable[NDArray[np.uint8]], spec: InputSpec) -> list[NDArray[np.float32]]:
    """Return RGB images, each uint8 (H, W, 3), preprocessed as `spec` says.

    Each result is float32 (1, channels, height, width).
    """
    return [preprocess(pixels, spec) for pixels in images]


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Context that gives an empty folder to fill.

    At the end of the context, this folder replaces `target`. After an error, it is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        folder = temporary / "new"
        folder.mkdir()
        yield folder
        if target.exists():
            target.rename(temporary / "old")
        folder.rename(target)
    finally:
        shutil.rmtree(temporary)
