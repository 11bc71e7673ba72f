"""Effect of each quantization choice, measured on other photographs than the published agreement."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from models.data.photos import crops
from models.onnx_tools.quantize import QuantizationPlan, quantize
from models.onnx_tools.session import open_session, run
from models.zoo.agreement import Compared, compare_logits
from models.zoo.card import read_card
from models.zoo.preprocess import preprocess

CALIBRATED_ON = ("plasma-workspace-wallpapers",)
COMPARED_ON = ("mate-backgrounds",)
FLOAT_MODULES = ("stem", "blocks.0")


def plans() -> Iterator[tuple[str, QuantizationPlan]]:
    """Yield a description and the quantization plan of each variant to measure."""
    yield "stem, blocks and head in int8, biases not corrected", QuantizationPlan(correct_biases=False)
    yield "stem, blocks and head in int8", QuantizationPlan()
    yield "stem in float", QuantizationPlan(("stem",))
    yield "stem and block 0 in float: the choice", QuantizationPlan(FLOAT_MODULES)
    yield "the choice, biases not corrected", QuantizationPlan(FLOAT_MODULES, correct_biases=False)
    yield "the choice, ranges by entropy", QuantizationPlan(FLOAT_MODULES, method="entropy")
    for percentile in (99.9, 99.99):
        yield (
            f"the choice, ranges holding {percentile} % of the values",
            QuantizationPlan(FLOAT_MODULES, method="percentile", percentile=percentile),
        )
    for block in (1, 2):
        yield f"the choice, block {block} in float too", QuantizationPlan((*FLOAT_MODULES, f"blocks.{block}"))


def measure(folder: Path, photos: Path) -> Iterator[tuple[str, Compared]]:
    """Yield each variant's description and its agreement with the floating-point model in `folder`.

    These agreements serve to choose a variant. The agreement in a model's card is measured on other
    photographs, so it is not biased by the choice.
    Raises MissingPhotosError if `photos` lacks the photographs.
    """
    card = read_card(folder)
    source = folder / card.file.name
    calibration = [preprocess(pixels, card.input) for pixels in crops(photos, CALIBRATED_ON, 8)]
    images = [preprocess(pixels, card.input) for pixels in crops(photos, COMPARED_ON, 10)]
    expected = run(open_session(source), images)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "model.onnx"
        for choice, plan in plans():
            quantize(source, target, calibration, plan)
            yield choice, compare_logits(expected, run(open_session(target), images))
