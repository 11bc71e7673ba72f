"""Parts of the detection benchmark with known answers, and the included detectors on two photographs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from benchmarks.detection.__main__ import replaced
from benchmarks.detection.pictures import COUNTED, MissingPicturesError, Picture, faces, labelled
from benchmarks.detection.quality import Pairs, finder, match_points, photographs
from models.zoo.files import NETWORKS
from service.inference.detect import Found
from service.inference.loading import load_model


def found(score: float, left: float, top: float, right: float, bottom: float, class_id: int = 0) -> Found:
    return Found(class_id, f"class {class_id}", score, (left, top, right, bottom))


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def test_each_mark_is_found_once() -> None:
    wide = found(0.9, 0, 0, 100, 100)
    second = found(0.8, 0, 0, 90, 100)
    beside = found(0.7, 200, 0, 300, 100)
    matched = match_points([wide, second, beside], [(10, 50), (45, 50), (150, 50)])
    assert matched.hits == [wide, second]
    assert matched.missed == [(150, 50)]
    assert matched.others == [beside]


def test_a_third_detection_of_two_marks_is_false() -> None:
    boxes = [found(score, 0, 0, 100, 100) for score in (0.9, 0.8, 0.7)]
    matched = match_points(boxes, [(45, 50), (10, 50)])
    assert matched.others == boxes[2:]
    assert matched.missed == []


def test_pairs_need_the_class_and_the_place() -> None:
    pairs = Pairs()
    first = [found(0.9, 0, 0, 10, 10), found(0.8, 50, 0, 60, 10), found(0.7, 80, 0, 90, 10)]
    second = [found(0.7, 0, 0, 10, 8), found(0.9, 50, 0, 60, 10, class_id=1), found(0.6, 86, 0, 96, 10)]
    pairs.add(first, second)
    assert [(one.score, other.score, round(iou, 3)) for one, other, iou in pairs.both] == [(0.9, 0.7, 0.8)]
    assert (pairs.only_first, pairs.only_second) == (2, 2)


def test_marks_lie_in_the_frames() -> None:
    people = json.loads(COUNTED.read_text())["people"]
    assert len(people) == 20
    points = np.concatenate([np.array(marks) for marks in people.values()])
    assert points.min() >= 0
    assert (points < (768, 576)).all()


def test_missing_pictures(tmp_path: Path) -> None:
    for pictures in (labelled, faces):
        with pytest.raises(MissingPicturesError, match="make people photos"):
            list(pictures(tmp_path / "none"))


def test_tables_are_replaced_between_their_markers() -> None:
    begin = "<!-- figures: python -m benchmarks.detection {} -->\n"
    page = f"a\n{begin.format('quality')}old\n<!-- end of figures -->\nb\n"
    page += f"{begin.format('speed')}kept\n<!-- end of figures -->\n"
    text = replaced(page, "quality", "new\n")
    assert text == page.replace("old", "\nnew\n")
    with pytest.raises(ValueError, match="no markers of speed"):
        replaced("a page", "speed", "new")


@pytest.mark.slow
def test_missed_objects_are_listed() -> None:
    picture = Picture(
        "astronaut",
        png(skimage.data.astronaut()),
        boxes=(("person", (20, 15, 365, 512)), ("bus", (400, 0, 510, 60))),
    )
    table = photographs(load_model(NETWORKS / "ssd-mobilenet-v2"), [picture])
    assert "1 of 2 objects found" in table
    assert "| astronaut | person | Person 0.5" in table
    assert "| astronaut | bus | **missed**: nothing near it |" in table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "label", "box"),
    [("ssd-mobilenet-v2", "Person", (21, 17, 363, 507)), ("centerface", "face", (178, 55, 271, 179))],
)
def test_int8_finds_what_fp32_finds(name: str, label: str, box: tuple[int, int, int, int]) -> None:
    content = png(skimage.data.astronaut())
    one, other = (finder(load_model(NETWORKS / variant))(content) for variant in (name, f"{name}-int8"))
    assert [first.label for first in one] == [second.label for second in other] == [label]
    pairs = Pairs()
    pairs.add(one, other)
    assert pairs.both[0][2] >= 0.85
    assert one[0].box == pytest.approx(box, abs=3)
    assert other[0].score == pytest.approx(one[0].score, abs=0.05)
