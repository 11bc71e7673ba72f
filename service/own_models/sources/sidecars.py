"""Read preprocessing and labels from an ONNX file's metadata and from other tools' files beside it."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from models.zoo.card import MAX_SIDE
from service.errors import RefusedModel
from service.own_models.facts import Rank, words
from service.own_models.sources.beside import OWN_METADATA, Beside, side_of
from service.own_models.sources.labels import GivenLabels, names_of, parse_json, read_bounded, read_label_file
from service.own_models.sources.processors import read_processor, read_timm

PROCESSOR, CONFIG = "preprocessor_config.json", "config.json"
LABEL_FILES = (
    "labels.txt", "labels.json", "classes.txt", "classes.json", "class_names.txt", "synset.txt",
    "synset_words.txt", "imagenet_classes.txt", "imagenet-classes.txt", "imagenet_class_index.json",
)  # fmt: skip
"""Names of files of labels that may lie beside the ONNX file, in the order in which they are looked for."""

_CONFIG_KEYS = ("id2label", "architectures", "model_type", "pretrained_cfg", "transformers_version")
"""Keys of which a `config.json` of Hugging Face or timm has at least one."""
_UNNAMED = re.compile(r"LABEL_\d+")
"""Pattern for the class names that Hugging Face writes if the classes have no names."""
_PIXEL_FORMATS = {"rgb8": "rgb", "srgb": "rgb", "rgba8": "rgb", "bgr8": "bgr", "bgra8": "bgr"}
_PIXEL_RANGES = {
    "nominalrange_0_255": (0.0, 1.0), "normalized_0_1": (0.0, 255.0), "normalized_1_1": (127.5, 127.5)
}  # fmt: skip


def read_beside(file: Path, metadata: Mapping[str, str], *, scores: Collection[int] = ()) -> Beside:
    """Return the facts in the ONNX file's own `metadata` and in the files beside it.

    If the ONNX file is in a folder `onnx`, files one folder above count too, as in Hugging Face repositories.
    `scores`: possible numbers of scores per image, empty if the graph does not show them. A `config.json` of
    another network or program, and label files that cannot be read, are ignored with a warning. Raises
    RefusedModel if other files or the metadata cannot be understood, or if Ultralytics wrote the file for
    another task than classification or detection.
    """
    beside = Beside()
    _ultralytics(metadata, beside)
    _pixel_metadata(metadata, beside)
    config, where = _config_file(file, scores, beside)
    cfg = config.get("pretrained_cfg", config)
    if isinstance(cfg, Mapping) and "input_size" in cfg and ("mean" in cfg or "architecture" in config):
        read_timm(config, cfg, where, beside)
    processor, processor_where = _json_file(file, PROCESSOR)
    if processor:
        read_processor(processor, processor_where, beside)
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
    """Return the content and the name of `config.json`.

    The content is {} unless Hugging Face or timm wrote the file for this network. A file that cannot be used
    is named in a warning of `beside`.
    """
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
    """Return whether this number of class names fits this number of scores.

    It also fits if there is one score more than names (for a background class), or one score and two names.
    """
    return names in (scores, scores - 1) or (names, scores) == (2, 1)


def _place(file: Path, path: Path) -> str:
    """Return the name of a file beside `file`, with `../` if it is one folder above."""
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
    """Return the object in the JSON file `name` beside `file`, and the JSON file's name.

    The object is empty if there is no such file. Raises RefusedModel if the file is not a JSON object.
    """
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
    """Add the labels, architecture and input size of a Hugging Face `config.json` to `beside`."""
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


def _ultralytics(metadata: Mapping[str, str], beside: Beside) -> None:
    """Add to `beside` what Ultralytics has written into the ONNX file's metadata.

    Its `names` and `imgsz` are Python literals. Raises RefusedModel if its `task` is neither classification
    nor detection.
    """
    task = metadata.get("task", "classify")
    if "names" not in metadata or "imgsz" not in metadata:
        return
    where = f"{OWN_METADATA} (Ultralytics)"
    if task not in ("classify", "detect"):
        raise RefusedModel(f"{where}: task '{words(task)}' (allowed: classify, detect)")
    names = names_of(_literal(metadata["names"], f"{where} names"), f"{where} names")
    beside.found_labels.append(GivenLabels(names, Rank.METADATA, f"{where} names"))
    size = _literal(metadata["imgsz"], f"{where} imgsz")
    sides = size if isinstance(size, (list, tuple)) else [size, size]
    if len(sides) != 2:
        raise RefusedModel(f"{where}: imgsz {words(size)} is not valid (allowed: height and width)")
    height, width = (side_of(side, f"{where} imgsz") for side in sides)
    values: dict[str, Any] = {
        "input.height": height,
        "input.width": width,
        "input.interpolation": "bilinear",
        "input.mean": (0.0,) * 3,
        "input.std": (255.0,) * 3,
        "input.colour_order": "rgb",
    }
    if task == "detect" and "detr" in metadata.get("description", "").lower():
        values |= {"input.fitting": "stretch"}
    elif task == "detect":
        values |= {"input.fitting": "letterbox", "input.pad_value": 114, "detection.decoder.unit": "pixels"}
        doubt = "Ultralytics resizes with OpenCV, which does not smooth when it makes a picture smaller"
        beside.doubts["input.interpolation"] = doubt
    else:
        values |= {"input.fitting": "center-crop", "input.resize": max(height, width)}
    for key, path in (("license", "source.licence"), ("description", "architecture")):
        if metadata.get(key, "").strip():
            values[path] = metadata[key][:200]
    beside.take(values, where)


def _pixel_metadata(metadata: Mapping[str, str], beside: Beside) -> None:
    """Add to `beside` the image metadata that the ONNX specification defines.

    Windows ML and Custom Vision write such metadata.
    """
    where = OWN_METADATA
    order = _PIXEL_FORMATS.get(metadata.get("Image.BitmapPixelFormat", "").lower())
    if order is not None:
        beside.take({"input.colour_order": order}, where)
    pixel_range = _PIXEL_RANGES.get(metadata.get("Image.NominalPixelRange", "").lower())
    if pixel_range is not None:
        beside.take({"input.mean": (pixel_range[0],) * 3, "input.std": (pixel_range[1],) * 3}, where)


def _literal(text: str, where: str) -> Any:
    """Return the value of a Python literal, without running any code in it."""
    if len(text) > 4 << 20:
        raise RefusedModel(f"{where}: {len(text)} characters (allowed: {4 << 20})")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise RefusedModel(f"{where}: not a Python literal") from None
