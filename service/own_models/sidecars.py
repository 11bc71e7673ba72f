"""What lies beside an ONNX file, and its own metadata: preprocessing and labels as other tools write them."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.zoo.card import MAX_SIDE
from service.errors import RefusedModel
from service.own_models.facts import Rank, numbers, words
from service.own_models.labels import GivenLabels, names_of, parse_json, read_bounded, read_label_file

PROCESSOR, CONFIG = "preprocessor_config.json", "config.json"
OWN_METADATA = "metadata of the file"
"""Beginning of the words for the ONNX file's own metadata."""
LABEL_FILES = (
    "labels.txt", "labels.json", "classes.txt", "classes.json", "class_names.txt", "synset.txt",
    "synset_words.txt", "imagenet_classes.txt", "imagenet-classes.txt", "imagenet_class_index.json",
)  # fmt: skip
"""Files of labels that are looked for, in this order."""

_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by their numbers."""
_SHORTEST = re.compile(r"(MobileNetV[12]|MobileViT|CLIP|ConvNext|PoolFormer|Levit|Bit)", re.IGNORECASE)
"""Processors that take a size given as one number for the shorter side."""
_CROPPING = re.compile(r"(MobileNetV[12]|MobileViT|CLIP|PoolFormer|Levit|Bit|DeiT)", re.IGNORECASE)
"""Processors that crop unless told not to."""
_CONFIG_KEYS = ("id2label", "architectures", "model_type", "pretrained_cfg", "transformers_version")
"""Keys that a `config.json` of Hugging Face or timm has."""
_UNNAMED = re.compile(r"LABEL_\d+")
"""Names that Hugging Face writes where there are none."""
_PIXEL_FORMATS = {"rgb8": "rgb", "srgb": "rgb", "rgba8": "rgb", "bgr8": "bgr", "bgra8": "bgr"}
_PIXEL_RANGES = {
    "nominalrange_0_255": (0.0, 1.0), "normalized_0_1": (0.0, 255.0), "normalized_1_1": (127.5, 127.5)
}  # fmt: skip


@dataclass
class Beside:
    """What metadata says of a network.

    `values`: facts by path in the card, each with where it was read. `found_labels`: the names of the classes
    by each source that has them, the nearest first.
    `doubts`: facts that metadata states but a card cannot hold exactly, by path, in words. `warnings`: what
    was not understood.
    """

    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    found_labels: list[GivenLabels] = field(default_factory=list)
    doubts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def labels(self) -> GivenLabels | None:
        """The labels of the nearest source."""
        return self.found_labels[0] if self.found_labels else None

    def take(self, values: Mapping[str, Any], where: str) -> None:
        """Add facts; those of an earlier source stay."""
        for path, value in values.items():
            self.values.setdefault(path, (value, where))


def read_beside(file: Path, metadata: Mapping[str, str], *, scores: Collection[int] = ()) -> Beside:
    """Return what the ONNX file's own `metadata` and the files beside it say.

    A file in a folder `onnx` may have them one folder above, as repositories of Hugging Face do. `scores`:
    how many the network may have, if its graph tells; a `config.json` of another network, or of another
    program, is left out with a warning, and so are files of labels that cannot be read. Raises RefusedModel
    for other files that cannot be understood, and for networks that are no classifiers.
    """
    beside = Beside()
    _ultralytics(metadata, beside)
    _pixel_metadata(metadata, beside)
    config, where = _config_file(file, scores, beside)
    cfg = config.get("pretrained_cfg", config)
    if isinstance(cfg, Mapping) and "input_size" in cfg and ("mean" in cfg or "architecture" in config):
        _timm(config, cfg, where, beside)
    processor, processor_where = _json_file(file, PROCESSOR)
    if processor:
        _hugging_face(processor, processor_where, beside)
    if config:
        _config(config, where, beside)
    for path in _candidates(file, LABEL_FILES):
        where = _place(file, path)
        try:
            beside.found_labels.append(GivenLabels(read_label_file(path), Rank.METADATA, where))
        except RefusedModel as error:
            beside.warnings.append(f"{where}: {error.detail.removeprefix(f'{path.name}: ')}; not used")
    return beside


def _config_file(file: Path, scores: Collection[int], beside: Beside) -> tuple[Mapping[str, Any], str]:
    """Return the `config.json` of Hugging Face or timm for this network; empty, and why, for any other."""
    try:
        config, where = _json_file(file, CONFIG)
    except RefusedModel as error:
        beside.warnings.append(f"{error.detail}; not used")
        return {}, CONFIG
    if not config:
        return {}, where
    cfg = config.get("pretrained_cfg", config)
    if not any(key in config for key in _CONFIG_KEYS) and not (
        isinstance(cfg, Mapping) and "input_size" in cfg
    ):
        beside.warnings.append(f"{where}: neither Hugging Face's nor timm's; not used")
        return {}, where
    names = config.get("id2label")
    count = len(names) if isinstance(names, Mapping) and names else config.get("num_classes")
    if scores and isinstance(count, int) and not any(_fits(count, number) for number in scores):
        listed = " or ".join(map(str, sorted(scores)))
        beside.warnings.append(f"{where}: of a network with {count} classes, this one has {listed}; not used")
        return {}, where
    return config, where


def _fits(names: int, scores: int) -> bool:
    """Return whether the numbers of scores and names fit each other, e.g. with a background class."""
    return names in (scores, scores - 1) or (names, scores) == (2, 1)


def _place(file: Path, path: Path) -> str:
    """Return the name of a file beside `file`, with `../` where it is one folder above."""
    return path.name if path.parent == file.parent else f"../{path.name}"


def _candidates(file: Path, names: tuple[str, ...]) -> Iterator[Path]:
    folders = [file.parent]
    if file.parent.absolute().name == "onnx":
        folders.append(file.parent.absolute().parent)
    for name in names:
        for folder in folders:
            if folder / name != file and (folder / name).is_file():
                yield folder / name


def _json_file(file: Path, name: str) -> tuple[Mapping[str, Any], str]:
    """Return the object in a JSON file beside `file`, empty where there is none, and its name."""
    for path in _candidates(file, (name,)):
        try:
            value = parse_json(read_bounded(path), name)
        except UnicodeDecodeError:
            raise RefusedModel(f"{name}: not text (allowed: JSON in UTF-8)") from None
        if not isinstance(value, Mapping):
            raise RefusedModel(f"{name}: not an object")
        return value, _place(file, path)
    return {}, name


def _config(config: Mapping[str, Any], where: str, beside: Beside) -> None:
    """Take the labels and the task from a Hugging Face `config.json`."""
    if isinstance(config.get("id2label"), Mapping) and config["id2label"]:
        names = names_of(config["id2label"], f"{where} id2label")
        if not all(_UNNAMED.fullmatch(name) for name in names):
            beside.found_labels.append(GivenLabels(names, Rank.METADATA, f"{where} id2label"))
    kinds = config.get("architectures")
    if isinstance(kinds, list) and kinds and isinstance(kinds[0], str):
        beside.take({"architecture": kinds[0][:100]}, where)
    elif isinstance(config.get("model_type"), str):
        beside.take({"architecture": config["model_type"][:100]}, where)
    if config.get("problem_type") == "multi_label_classification":
        beside.take({"outputs.multi_label": True}, f"{where} problem_type")
    size, channels = config.get("image_size"), config.get("num_channels")
    if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= MAX_SIDE:
        beside.take({"input.height": size, "input.width": size}, f"{where} image_size")
    if channels in (1, 3):
        beside.take({"input.channels": channels}, f"{where} num_channels")


def _timm(config: Mapping[str, Any], cfg: Mapping[str, Any], where: str, beside: Beside) -> None:
    """Take timm's `pretrained_cfg`, and the names of the classes where it has them."""
    where = f"{where} (timm)"
    size = cfg["input_size"]
    if not isinstance(size, (list, tuple)) or len(size) != 3:
        raise RefusedModel(
            f"{where}: input_size {words(size)} is not valid (allowed: channels, height, width)"
        )
    channels, height, width = (_side(side, f"{where} input_size") for side in size)
    values: dict[str, Any] = {"input.channels": channels, "input.height": height, "input.width": width}
    pct = _positive(cfg.get("crop_pct", 0.875), f"{where} crop_pct")
    mode = cfg.get("crop_mode", "center")
    scaled = math.floor(max(height, width) / pct)
    if mode == "center" and pct <= 1:
        values |= {"input.fitting": "center-crop", "input.resize": scaled}
    elif mode in ("squash", "border"):
        values["input.fitting"] = "stretch" if mode == "squash" else "letterbox"
        if pct != 1:
            beside.doubts["input.fitting"] = (
                f"{where} crops the {mode}ed image (crop_pct {pct:g}), which a card cannot say"
            )
    else:
        beside.warnings.append(f"{where}: crop_mode {words(mode)} with crop_pct {pct:g} is not understood")
    filters = cfg.get("interpolation")
    if filters in _RESAMPLE:
        values["input.interpolation"] = filters
    for name in ("mean", "std"):
        if name in cfg:
            scale = numbers(cfg[name], (1, channels), f"{where} {name}")
            values[f"input.{name}"] = tuple(255 * item for item in scale) * (channels // len(scale))
    if channels == 3:
        values["input.colour_order"] = "rgb"
    architecture = config.get("architecture", cfg.get("architecture"))
    if isinstance(architecture, str):
        values["architecture"] = architecture[:100]
    for name, path in (("license", "source.licence"), ("hf_hub_id", "source.weights")):
        if isinstance(cfg.get(name), str) and cfg[name].strip():
            values[path] = cfg[name][:200]
    beside.take(values, where)
    names = config.get("label_names", cfg.get("label_names"))
    if isinstance(names, list) and names:
        beside.found_labels.append(GivenLabels(names_of(names, f"{where} label_names"), Rank.METADATA, where))


def _hugging_face(processor: Mapping[str, Any], where: str, beside: Beside) -> None:
    """Take what a Hugging Face image processor does to an image."""
    kind = processor.get("image_processor_type", processor.get("feature_extractor_type"))
    kind = kind if isinstance(kind, str) else ""
    values = _pixels(processor, kind, where)
    filters = processor.get("resample")
    if filters is not None:
        if isinstance(filters, bool) or not isinstance(filters, int) or not 0 <= filters < len(_RESAMPLE):
            raise RefusedModel(f"{where}: resample {words(filters)} is not valid (allowed: 0 to 5)")
        values["input.interpolation"] = _RESAMPLE[filters]
    if kind.lower().startswith("perceiver"):
        beside.warnings.append(f"{where}: {kind} crops before it resizes, which is not understood")
    else:
        _fitting(processor, kind, where, values, beside)
    beside.take(values, where)


def _fitting(
    processor: Mapping[str, Any], kind: str, where: str, values: dict[str, Any], beside: Beside
) -> None:
    """Take how a processor brings an image to its size."""
    square, shortest = _size(processor.get("size"), kind, f"{where} size")
    crop, crop_shortest = _size(processor.get("crop_size"), "", f"{where} crop_size")
    crop = crop or (None if crop_shortest is None else (crop_shortest, crop_shortest))
    crops = bool(processor.get("do_center_crop", bool(_CROPPING.search(kind)) and crop is not None))
    pct = processor.get("crop_pct")
    if processor.get("do_resize") is False or (square is None and shortest is None):
        beside.warnings.append(
            f"{where}: no size to resize to is stated, so the fitting is not taken from it"
        )
        return
    if kind.lower().startswith("convnext") and shortest is not None:
        crop = (shortest, shortest)
        crops = shortest < 384
        if crops:
            shortest = int(shortest / _positive(224 / 256 if pct is None else pct, f"{where} crop_pct"))
        else:
            square, shortest = crop, None
    elif kind.lower().startswith("levit") and shortest is not None:
        shortest = int(256 / 224 * shortest)
    elif pct is not None:
        side = shortest if shortest is not None else max(square or (0,))
        square, shortest = None, int(side / _positive(pct, f"{where} crop_pct"))
    if not crops:
        crop = None
    if square is not None and (crop is None or crop == square):
        values |= {"input.fitting": "stretch", "input.height": square[0], "input.width": square[1]}
        return
    if crop is None:
        beside.warnings.append(
            f"{where}: resizes the shorter side and does not crop, which is not understood"
        )
        return
    resize = shortest if shortest is not None else max(square or (0,))
    values |= {"input.height": crop[0], "input.width": crop[1]}
    if resize < max(crop):
        beside.warnings.append(
            f"{where}: resizes to {resize} and crops {words(crop)}, which is not understood"
        )
        return
    values |= {"input.fitting": "center-crop", "input.resize": resize}
    if shortest is None:
        beside.doubts["input.fitting"] = (
            f"{where} stretches to {words(square)} before it crops, here the aspect ratio is kept"
        )


def _pixels(processor: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    """Return colour order, mean and std of a processor, in pixel values 0 to 255."""
    scale, offset = 1.0, 0.0
    if processor.get("do_rescale", True):
        scale = _positive(processor.get("rescale_factor", 1 / 255), f"{where} rescale_factor")
        offset = 1.0 if processor.get("rescale_offset") else 0.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    given = "image_mean" in processor and "image_std" in processor
    top = kind.lower().startswith("efficientnet") and bool(processor.get("include_top", True))
    if given and (processor.get("do_normalize", True) or top):
        mean = numbers(processor["image_mean"], (1, 3), f"{where} image_mean")
        std = numbers(processor["image_std"], (1, 3), f"{where} image_std")
        if any(value <= 0 for value in std):
            raise RefusedModel(f"{where}: image_std {words(std)} is not valid (allowed: more than 0)")
        mean, std = mean * (3 // len(mean)), std * (3 // len(std))
        if top:  # this processor divides by the deviation once more
            std = tuple(value * value for value in std) if processor.get("do_normalize", True) else std
            mean = mean if processor.get("do_normalize", True) else (0.0,) * 3
    flips = bool(processor.get("do_flip_channel_order", kind.lower().startswith("mobilevit")))
    values: dict[str, Any] = {
        "input.colour_order": "bgr" if flips else "rgb",
        "input.mean": tuple((value + offset) / scale for value in mean),
        "input.std": tuple(value / scale for value in std),
    }
    if not given and processor.get("do_normalize", False):
        del values["input.mean"], values["input.std"]
    return values


def _size(value: object, kind: str, where: str) -> tuple[tuple[int, int] | None, int | None]:
    """Return a processor's size as (height, width), or as the shorter side."""
    if value is None:
        return None, None
    if isinstance(value, Mapping):
        if "shortest_edge" in value and value["shortest_edge"] is not None:
            return None, _side(value["shortest_edge"], where)
        if "height" in value and "width" in value:
            return (_side(value["height"], where), _side(value["width"], where)), None
        return None, None
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return (_side(value[0], where), _side(value[1], where)), None
    side = _side(value, where)
    return (None, side) if _SHORTEST.match(kind) else ((side, side), None)


def _ultralytics(metadata: Mapping[str, str], beside: Beside) -> None:
    """Take what Ultralytics writes into the ONNX file: names, imgsz and task, as Python literals."""
    task = metadata.get("task")
    if "names" not in metadata or "imgsz" not in metadata:
        return
    where = f"{OWN_METADATA} (Ultralytics)"
    if task not in (None, "classify"):
        raise RefusedModel(f"{where}: task '{words(task)}' (allowed: classify)")
    names = names_of(_literal(metadata["names"], f"{where} names"), f"{where} names")
    beside.found_labels.append(GivenLabels(names, Rank.METADATA, f"{where} names"))
    size = _literal(metadata["imgsz"], f"{where} imgsz")
    sides = size if isinstance(size, (list, tuple)) else [size, size]
    if len(sides) != 2:
        raise RefusedModel(f"{where}: imgsz {words(size)} is not valid (allowed: height and width)")
    height, width = (_side(side, f"{where} imgsz") for side in sides)
    values: dict[str, Any] = {
        "input.height": height,
        "input.width": width,
        "input.fitting": "center-crop",
        "input.resize": max(height, width),
        "input.interpolation": "bilinear",
        "input.mean": (0.0,) * 3,
        "input.std": (255.0,) * 3,
        "input.colour_order": "rgb",
    }
    for key, path in (("license", "source.licence"), ("description", "architecture")):
        if metadata.get(key, "").strip():
            values[path] = metadata[key][:200]
    beside.take(values, where)


def _pixel_metadata(metadata: Mapping[str, str], beside: Beside) -> None:
    """Take the image metadata that the ONNX specification defines, as Windows ML and Custom Vision write."""
    where = OWN_METADATA
    order = _PIXEL_FORMATS.get(metadata.get("Image.BitmapPixelFormat", "").lower())
    if order is not None:
        beside.take({"input.colour_order": order}, where)
    pixel_range = _PIXEL_RANGES.get(metadata.get("Image.NominalPixelRange", "").lower())
    if pixel_range is not None:
        beside.take({"input.mean": (pixel_range[0],) * 3, "input.std": (pixel_range[1],) * 3}, where)


def _literal(text: str, where: str) -> Any:
    """Return the value of a Python literal; nothing in it is run."""
    if len(text) > 4 << 20:
        raise RefusedModel(f"{where}: {len(text)} characters (allowed: {4 << 20})")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise RefusedModel(f"{where}: not a Python literal") from None


def _side(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_SIDE:
        raise RefusedModel(f"{where}: {words(value)} is not valid (allowed: 1 to {MAX_SIDE})")
    return value


def _positive(value: object, where: str) -> float:
    (number,) = numbers(value, (1,), where)
    if number <= 0:
        raise RefusedModel(f"{where}: {words(value)} is not valid (allowed: more than 0)")
    return number
