"""The included detectors find what photographs show, whatever form the photograph has."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from models.zoo.files import NETWORKS
from service.inference.detect import Found, detect_plan, find_objects
from service.inference.detection.matching import intersection_over_union
from service.inference.loading import ServedModel, load_model
from service.inference.pipeline import load_image
from service.latency.stages import Stopwatch
from tests.helpers.photographs import astronaut, cat

PERSON = (20.0, 15.0, 362.0, 512.0)
FACE = (178.0, 60.0, 270.0, 178.0)
"""Left, top, right and bottom in scikit-image's astronaut of 512 x 512 pixels, drawn by hand."""

TURNS = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright image is stored for some EXIF orientations."""


@pytest.fixture(scope="module")
def ssd() -> ServedModel:
    return load_model(NETWORKS / "ssd-mobilenet-v2")


@pytest.fixture(scope="module")
def centerface() -> ServedModel:
    return load_model(NETWORKS / "centerface")


def jpeg(pixels: np.ndarray, enlarged: int = 1, orientation: int = 1) -> bytes:  # type: ignore[type-arg]
    image = Image.fromarray(pixels)
    image = image.resize((image.width * enlarged, image.height * enlarged), Image.Resampling.BICUBIC)
    turn = TURNS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    (image if turn is None else image.transpose(turn)).save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()


def found_in(data: bytes, model: ServedModel, min_score: float | None = None) -> tuple[Found, ...]:
    image = load_image(data, model.card.input, max_pixels=10**8)
    return find_objects(detect_plan(model, min_score), image, Stopwatch())


@pytest.mark.slow
def test_astronaut(ssd: ServedModel, centerface: ServedModel) -> None:
    data = jpeg(astronaut())
    (person,) = found_in(data, ssd)
    assert person.label == "Person"
    assert person.score == pytest.approx(0.6, abs=0.05)
    assert intersection_over_union(person.box, PERSON) > 0.9
    (face,) = found_in(data, centerface)
    assert (face.label, len(face.landmarks)) == ("face", 5)
    assert face.score == pytest.approx(0.93, abs=0.03)
    assert intersection_over_union(face.box, FACE) > 0.8
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert all(FACE[0] < x < FACE[2] and FACE[1] < y < FACE[3] for x, y in face.landmarks)


def test_cat(ssd: ServedModel, centerface: ServedModel) -> None:
    data = jpeg(cat())
    (found,) = found_in(data, ssd)
    assert found.label == "Cat"
    assert found.score == pytest.approx(0.85, abs=0.05)
    assert found_in(data, centerface) == ()


@pytest.mark.slow
@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("enlarged", [1, 4])
def test_size_and_orientation_of_the_file(
    ssd: ServedModel, centerface: ServedModel, orientation: int, enlarged: int
) -> None:
    """A large JPEG is decoded at a fraction of its size; boxes are in pixels of the large one."""
    data = jpeg(astronaut(), enlarged, orientation)
    for model, label, expected in ((ssd, "Person", PERSON), (centerface, "face", FACE)):
        (found,) = found_in(data, model)
        assert found.label == label
        scaled = tuple(edge * enlarged for edge in expected)
        assert intersection_over_union(found.box, scaled) > 0.8  # type: ignore[arg-type]


def test_lower_thresholds_find_more(ssd: ServedModel) -> None:
    data = jpeg(astronaut())
    counts = [len(found_in(data, ssd, least)) for least in (0.9, 0.4, 0.1, 0.01)]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[3] > counts[1]
