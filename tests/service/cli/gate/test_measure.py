"""Accuracy of a gate ends at its share of the time limit; which classes have to be labels."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import pytest

from service.cli.gate.measure import Evaluated, Unfinished, Unmatched, measure_accuracy
from service.inference.registry import Registry
from tests.helpers.detectors import save_detector
from tests.service.evaluation.colours import save_colours, save_pictures


def measured(
    zoo: Path, data: Path, until: float, mapping: Path | None = None
) -> Evaluated | Unfinished | Unmatched:
    return measure_accuracy(
        Registry([zoo], "base"),
        data,
        mapping,
        None,
        0.005,
        scratch=zoo.parent / "scratch",
        threads=1,
        max_pixels=10**7,
        until=until,
        stop=threading.Event(),
        show=lambda *_: None,
    )


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Return a folder of two equal models, base and new."""
    for name in ("base", "new"):
        save_colours(tmp_path / "zoo", name)
    return tmp_path / "zoo"


def test_accuracy_leaves_time_for_latency(tmp_path: Path, zoo: Path) -> None:
    """It ends at its own time, though nothing has stopped the gate."""
    save_pictures(tmp_path / "pictures", 100)
    found = measured(zoo, tmp_path / "pictures", time.monotonic())
    assert isinstance(found, Unfinished)
    assert 0 < found.done < found.total == 300
    assert found.seconds > 0


def test_classes_without_pictures_need_not_be_labels(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "pictures", 5)
    (tmp_path / "pictures/violet").mkdir()
    found = measured(zoo, tmp_path / "pictures", math.inf)
    assert isinstance(found, Evaluated)
    assert (found.judgement.n, found.pictures) == (15, 15)
    assert any("violet" in note for note in found.notes)


def test_objects_of_unknown_classes_are_not_dropped_silently(tmp_path: Path) -> None:
    for name in ("base", "new"):
        save_detector(tmp_path / "zoo", name)
    save_pictures(tmp_path / "pictures", 1, ["red", "green"])
    box = {"bbox": [1, 1, 8, 8]}
    document = {
        "images": [{"id": 1, "file_name": "red/0.png"}, {"id": 2, "file_name": "green/0.png"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, **box},
            {"id": 2, "image_id": 2, "category_id": 2, **box},
        ],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "hexagon"}],
    }
    (tmp_path / "pictures/boxes.json").write_text(json.dumps(document))
    found = measured(tmp_path / "zoo", tmp_path / "pictures/boxes.json", math.inf)
    assert isinstance(found, Unmatched)
    assert found.reason.startswith("hexagon with 1 object of 2: no label of the networks (hexagon: no label")
