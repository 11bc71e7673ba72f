"""What each choice of the quantization brings, measured on photographs that neither calibrate nor judge."""

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
KEPT = ("stem", "blocks.0")


def plans() -> Iterator[tuple[str, QuantizationPlan]]:
    """The variants to measure, each with its description."""
    yield "everything in int8, biases not corrected", QuantizationPlan(correct_biases=False)
    yield "everything in int8", QuantizationPlan()
    yield "stem in float", QuantizationPlan(("stem",))
    yield "stem and first block in float: the choice", QuantizationPlan(KEPT)
    yield "the choice, biases not corrected", QuantizationPlan(KEPT, correct_biases=False)
    yield "the choice, ranges by entropy", QuantizationPlan(KEPT, method="entropy")
    for percentile in (99.9, 99.99):
        yield (
            f"the choice, ranges holding {percentile} % of the values",
            QuantizationPlan(KEPT, method="percentile", percentile=percentile),
        )
    for block in (1, 2):
        yield f"the choice, block {block} in float too", QuantizationPlan((*KEPT, f"blocks.{block}"))


def measure(folder: Path, photos: Path) -> Iterator[tuple[str, Compared]]:
    """Compare the floating-point model in `folder` with each variant of it, one at a time.

    The photographs that an int8 model of the zoo is judged on play no part, so choosing by these figures does
    not flatter the agreement on its card.
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
