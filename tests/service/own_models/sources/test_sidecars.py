"""What other tools write beside a network: the facts that are read from it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.zoo.labels import BUILT_IN
from service.errors import RefusedModel
from service.own_models.facts import Rank
from service.own_models.sources.beside import Beside
from service.own_models.sources.labels import GivenLabels, label_set
from service.own_models.sources.sidecars import read_beside

HALF = [0.5, 0.5, 0.5]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IMAGENET = (BUILT_IN / "imagenet-1k.txt").read_text().splitlines()


def beside(folder: Path, metadata: dict[str, str] | None = None, **files: Any) -> Beside:
    """What is read beside `folder/onnx/model.onnx`; `files` by their stems, JSON or text."""
    for stem, value in files.items():
        suffix = "txt" if isinstance(value, str) else "json"
        (folder / f"{stem}.{suffix}").write_text(value if isinstance(value, str) else json.dumps(value))
    return read_beside(folder / "model.onnx", metadata or {})


def values(found: Beside) -> dict[str, Any]:
    return {path.removeprefix("input."): value for path, (value, _) in found.values.items()}


PROCESSORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ViT": (
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}, "resample": 2,
         "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
         "image_mean": HALF, "image_std": HALF},
        {"fitting": "stretch", "height": 224, "width": 224, "interpolation": "bilinear",
         "mean": (127.5,) * 3, "std": (127.5,) * 3, "colour_order": "rgb"},
    ),
    "ViT, old": (
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2, "do_resize": True,
         "do_normalize": True, "image_mean": HALF, "image_std": HALF},
        {"fitting": "stretch", "height": 224, "mean": (127.5,) * 3},
    ),
    "MobileNetV2": (
        {"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 256},
         "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "resample": 2,
         "rescale_factor": 0.00392156862745098, "image_mean": HALF, "image_std": HALF},
        {"fitting": "center-crop", "resize": 256, "height": 224, "width": 224, "mean": (127.5,) * 3},
    ),
    "MobileNetV1, size as a number": (
        {"image_processor_type": "MobileNetV1ImageProcessor", "size": 256, "crop_size": 224,
         "image_mean": HALF, "image_std": HALF},
        {"fitting": "center-crop", "resize": 256, "height": 224},
    ),
    "ConvNeXT": (
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224},
         "crop_pct": 0.875, "resample": 3, "image_mean": MEAN, "image_std": STD},
        {"fitting": "center-crop", "resize": 256, "height": 224, "interpolation": "bicubic",
         "mean": pytest.approx((123.675, 116.28, 103.53)), "std": pytest.approx((58.395, 57.12, 57.375))},
    ),
    "ConvNeXT at 384": (
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384},
         "image_mean": MEAN, "image_std": STD},
        {"fitting": "stretch", "height": 384, "width": 384},
    ),
    "EfficientNet": (
        {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 224, "width": 224},
         "resample": 0, "do_center_crop": False, "crop_size": {"height": 289, "width": 289},
         "rescale_offset": False, "include_top": True, "image_mean": MEAN,
         "image_std": [0.47853944, 0.4732864, 0.47434163]},
        {"fitting": "stretch", "height": 224, "interpolation": "nearest",
         "mean": pytest.approx((123.675, 116.28, 103.53)),
         "std": pytest.approx(tuple(255 * s * s for s in (0.47853944, 0.4732864, 0.47434163)))},
    ),
    "EfficientNet with an offset": (
        {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 600, "width": 600},
         "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False, "include_top": False},
        {"mean": pytest.approx((127.5,) * 3), "std": pytest.approx((127.5,) * 3)},
    ),
    "MobileViT": (
        {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 288},
         "crop_size": {"height": 256, "width": 256}, "do_flip_channel_order": True, "resample": 3},
        {"fitting": "center-crop", "resize": 288, "height": 256, "colour_order": "bgr",
         "mean": (0.0,) * 3, "std": pytest.approx((255,) * 3)},
    ),
    "LeViT": (
        {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224},
         "crop_size": {"height": 224, "width": 224}, "image_mean": MEAN, "image_std": STD},
        {"fitting": "center-crop", "resize": 256, "height": 224},
    ),
    "not rescaled": (
        {"image_processor_type": "ViTImageProcessor", "size": 224, "do_rescale": False,
         "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
        {"mean": (127.5,) * 3, "std": (127.5,) * 3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_hugging_face_processor_becomes_facts(name: str, tmp_path: Path) -> None:
    processor, expected = PROCESSORS[name]
    found = beside(tmp_path, preprocessor_config=processor)
    facts = values(found)
    assert {path: facts[path] for path in expected} == expected
    assert found.warnings == []
    assert found.doubts == {}


def test_a_stretch_before_the_crop_is_in_doubt(tmp_path: Path) -> None:
    processor = {"image_processor_type": "DeiTImageProcessor", "size": {"height": 256, "width": 256},
                 "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}  # fmt: skip
    found = beside(tmp_path, preprocessor_config=processor)
    assert values(found)["resize"] == 256
    assert "the aspect ratio is kept" in found.doubts["input.fitting"]


@pytest.mark.parametrize(
    "processor",
    [
        {"image_processor_type": "PerceiverImageProcessor", "size": 224, "crop_size": 256},
        {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 224}, "crop_size": 256},
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}},
        {"image_processor_type": "ViTImageProcessor", "do_resize": False},
    ],
)
def test_a_fitting_that_is_not_understood_is_not_taken(processor: dict[str, Any], tmp_path: Path) -> None:
    found = beside(tmp_path, preprocessor_config=processor)
    assert "fitting" not in values(found)
    assert len(found.warnings) == 1


def test_timm_config_becomes_facts(tmp_path: Path) -> None:
    cfg = {"input_size": [3, 224, 224], "crop_pct": 0.95, "crop_mode": "center", "interpolation": "bicubic",
           "mean": MEAN, "std": STD, "num_classes": 3, "license": "apache-2.0"}  # fmt: skip
    config = {"architecture": "ghostnet_100", "num_classes": 3, "pretrained_cfg": cfg,
              "label_names": ["a", "b", "c"]}  # fmt: skip
    found = beside(tmp_path, config=config)
    facts = values(found)
    assert facts["resize"] == 235
    assert (facts["fitting"], facts["interpolation"]) == ("center-crop", "bicubic")
    assert facts["mean"] == pytest.approx((123.675, 116.28, 103.53))
    assert (facts["architecture"], facts["source.licence"]) == ("ghostnet_100", "apache-2.0")
    assert found.labels is not None
    assert found.labels.names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("mode", "pct", "fitting"), [("squash", 1.0, "stretch"), ("border", 1.0, "letterbox")]
)
def test_timm_crop_modes_become_fittings(mode: str, pct: float, fitting: str, tmp_path: Path) -> None:
    cfg = {"input_size": [3, 64, 64], "crop_pct": pct, "crop_mode": mode, "mean": MEAN, "std": STD}
    found = beside(tmp_path, config={"architecture": "x", "pretrained_cfg": cfg})
    assert values(found)["fitting"] == fitting
    assert found.doubts == {}


def test_ultralytics_metadata_becomes_facts(tmp_path: Path) -> None:
    metadata = {"names": "{0: 'cat', 1: \"it's a dog\"}", "imgsz": "[224, 224]", "task": "classify",
                "license": "AGPL-3.0", "description": "YOLO11n-cls"}  # fmt: skip
    found = beside(tmp_path, metadata)
    facts = values(found)
    assert (facts["height"], facts["resize"], facts["fitting"]) == (224, 224, "center-crop")
    assert (facts["mean"], facts["std"]) == ((0.0,) * 3, (255.0,) * 3)
    assert found.labels is not None
    assert found.labels.names == ("cat", "it's a dog")


def test_ultralytics_names_are_not_run(tmp_path: Path) -> None:
    names = f"__import__('pathlib').Path({str(tmp_path / 'run')!r}).touch()"
    with pytest.raises(RefusedModel, match="names: not a Python literal"):
        beside(tmp_path, {"names": names, "imgsz": "224"})
    assert not (tmp_path / "run").exists()


def test_a_detector_of_ultralytics_fits_pictures_into_a_letterbox(tmp_path: Path) -> None:
    facts = values(beside(tmp_path, {"names": "{0: 'a'}", "imgsz": "[480, 640]", "task": "detect"}))
    assert (facts["height"], facts["width"]) == (480, 640)
    assert (facts["fitting"], facts["pad_value"]) == ("letterbox", 114)
    assert "resize" not in facts
    detr = {"names": "{0: 'a'}", "imgsz": "640", "task": "detect", "description": "Ultralytics RT-DETR-l"}
    assert values(beside(tmp_path, detr))["fitting"] == "stretch"


def test_another_task_of_ultralytics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedModel, match=r"task 'segment' \(allowed: classify, detect\)"):
        beside(tmp_path, {"names": "{0: 'a'}", "imgsz": "640", "task": "segment"})


def test_image_metadata_of_the_onnx_specification_is_read(tmp_path: Path) -> None:
    metadata = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
    facts = values(beside(tmp_path, metadata))
    assert facts == {"colour_order": "bgr", "mean": (0.0,) * 3, "std": (1.0,) * 3}


def test_files_above_a_folder_named_onnx_are_read(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "b", "0": "a"}}))
    found = read_beside(tmp_path / "onnx" / "model.onnx", {})
    assert found.labels is not None
    assert found.labels.names == ("a", "b")


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"labels": "a\nb\n"}, ("a", "b")),
        ({"synset_words": "n01440764 tench, Tinca\nn01443537 fish\n"}, ("tench, Tinca", "fish")),
        ({"imagenet_class_index": {"0": ["n1", "tench"], "1": ["n2", "goldfish"]}}, ("tench", "goldfish")),
        ({"classes": {"tench": 0, "goldfish": 1}}, ("tench", "goldfish")),
        ({"labels": ["a", "b"], "classes": "x\ny\nz\n"}, ("a", "b")),
    ],
)  # fmt: skip
def test_label_files_are_read(files: dict[str, Any], names: tuple[str, ...], tmp_path: Path) -> None:
    found = beside(tmp_path, **files)
    assert found.labels is not None
    assert found.labels.names == names


def test_names_that_hugging_face_makes_up_are_no_labels(tmp_path: Path) -> None:
    assert beside(tmp_path, config={"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}).labels is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"preprocessor_config": "<html>"}, None),
        ({"preprocessor_config": [1]}, "preprocessor_config.json: not an object"),
        ({"preprocessor_config": {"size": -1}}, "size: -1 is not valid"),
        ({"preprocessor_config": {"size": True}}, "size: yes is not valid"),
        ({"preprocessor_config": {"resample": 9}}, "resample 9 is not valid"),
        ({"preprocessor_config": {"rescale_factor": 0}}, "rescale_factor: 0 is not valid"),
        ({"preprocessor_config": {"image_mean": [1, 2], "image_std": [1, 1, 1]}}, "image_mean: 1, 2"),
        ({"preprocessor_config": {"image_mean": HALF, "image_std": [1, 0, 1]}}, "image_std 1, 0, 1"),
        ({"preprocessor_config": {"image_mean": "x", "image_std": HALF}}, "image_mean: x is not valid"),
        ({"config": {"pretrained_cfg": {"input_size": [3, 224], "mean": MEAN}}}, "input_size 3, 224"),
        ({"config": {"id2label": {"0": "a", "0.5": "b"}}}, "id2label: keys are not class ids"),
    ],
)
def test_a_broken_sidecar_is_refused_with_its_name(
    files: dict[str, Any], words: str | None, tmp_path: Path
) -> None:
    if words is None:
        (tmp_path / "preprocessor_config.json").write_text("<html>")
        files, words = {}, "preprocessor_config.json: not valid JSON"
    with pytest.raises(RefusedModel, match=words):
        beside(tmp_path, **files)


def given(names: list[str]) -> GivenLabels:
    return GivenLabels(tuple(names), Rank.FLAG, "--labels x")


def test_the_number_of_labels_shows_a_background_class() -> None:
    labels = [f"kind {number}" for number in range(10)]
    assert label_set(given(labels), 10, "m", None).offset == 0
    assert label_set(given(labels), 11, "m", None).offset == 1
    background = label_set(given(["Background", *labels]), 11, "m", None)
    assert (background.offset, background.names) == (1, tuple(labels))
    kept = label_set(given(["Background", *labels]), 11, "m", 0)
    assert (kept.offset, len(kept.names)) == (0, 11)


FASHION = (BUILT_IN / "fashion-mnist.txt").read_text().splitlines()


@pytest.mark.parametrize("equal", [1, 5, 9])
def test_names_that_differ_from_a_built_in_set_are_kept(equal: int) -> None:
    names = [*FASHION[:equal], *(f"mine {number}" for number in range(10 - equal))]
    own = label_set(given(names), 10, "m", None)
    assert (own.names, own.built_in) == (tuple(names), False)
    assert own.name.startswith("labels-10-")
    assert own.warning is None


@pytest.mark.parametrize(
    "spelling",
    [str.upper, lambda name: name.replace(" ", "_"), lambda name: f"{name}, Latin name"],
    ids=["case", "underscores", "synonyms"],
)
def test_other_spellings_are_those_of_the_built_in_set(spelling: Callable[[str], str]) -> None:
    for name, known in (("fashion-mnist", FASHION), ("imagenet-1k", IMAGENET)):
        found = label_set(given([spelling(each) for each in known]), len(known), "m", None)
        assert (found.name, found.names, found.built_in) == (name, tuple(known), True)
        assert found.warning is None


@pytest.mark.parametrize("parts", [1, None], ids=["first synonym", "all synonyms"])
def test_imagenet_is_known_by_the_names_of_wordnet(parts: int | None) -> None:
    lines = (BUILT_IN / "synonyms" / "imagenet-1k.txt").read_text().splitlines()
    names = [", ".join(line.split(", ")[:parts]) for line in lines]
    assert names != IMAGENET
    found = label_set(given(names), 1000, "m", None)
    assert (found.name, found.names, found.warning) == ("imagenet-1k", tuple(IMAGENET), None)


@pytest.mark.parametrize(("differing", "built_in"), [(50, True), (51, False), (500, False)])
def test_a_few_names_of_a_thousand_may_differ_and_are_listed(differing: int, built_in: bool) -> None:
    names = [f"mine {number}" if number < differing else name for number, name in enumerate(IMAGENET)]
    found = label_set(given(names), 1000, "m", None)
    assert found.built_in == built_in
    assert found.names == tuple(IMAGENET if built_in else names)
    assert label_set(given(names), 1000, "m", None, keep=True).names == tuple(names)
    if built_in:
        assert found.warning is not None
        assert "950 of 1000 names are those of imagenet-1k" in found.warning
        assert f"0 'mine 0' is {IMAGENET[0]!r}" in found.warning
        assert f"49 'mine 49' is {IMAGENET[49]!r}" in found.warning


def test_imagenet_is_known_by_its_names_and_assumed_by_its_number() -> None:
    synonyms = [f"{name}, Latin name" if number % 25 else "?" for number, name in enumerate(IMAGENET)]
    known = label_set(given(synonyms), 1000, "m", None)
    assert (known.name, known.names, known.built_in) == ("imagenet-1k", tuple(IMAGENET), True)
    assert label_set(given(synonyms[::-1]), 1000, "m", None).name.startswith("labels-1000-")
    for count in (1000, 1001):
        assumed = label_set(None, count, "m", None)
        assert (assumed.name, assumed.offset, assumed.rank) == ("imagenet-1k", count - 1000, Rank.ASSUMED)


def test_models_with_equal_labels_share_a_label_set() -> None:
    sets = [label_set(given(["a", "b", "c"]), count, "m", None) for count in (3, 4)]
    assert sets[0].name == sets[1].name
    assert label_set(given(["a", "c", "b"]), 3, "m", None).name != sets[0].name


def test_one_probability_has_the_second_of_two_names() -> None:
    assert label_set(given(["cat", "dog"]), 1, "m", None).names == ("dog",)
