"""Read preprocessing from the configuration files of timm and of Hugging Face's image processors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from service.errors import RefusedModel
from service.own_models.facts import Rank, numbers, words
from service.own_models.sources.beside import Beside, positive, side_of
from service.own_models.sources.labels import GivenLabels, names_of

_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Names of Pillow's filters. The position of a filter in this tuple is Pillow's number for it."""
_SHORTEST = re.compile(r"(MobileNetV[12]|MobileViT|CLIP|ConvNext|PoolFormer|Levit|Bit)", re.IGNORECASE)
"""Pattern for the names of image processors that take a single number as length of the shorter side."""
_CROPPING = re.compile(r"(MobileNetV[12]|MobileViT|CLIP|PoolFormer|Levit|Bit|DeiT)", re.IGNORECASE)
"""Pattern for the names of image processors that crop by default."""


def read_timm(config: Mapping[str, Any], cfg: Mapping[str, Any], where: str, beside: Beside) -> None:
    """Add the facts of timm's `pretrained_cfg`, and its class names if it has any, to `beside`.

    `config`: the content of the file. `cfg`: its `pretrained_cfg`, or the whole content if it has none.
    """
    where = f"{where} (timm)"
    size = cfg["input_size"]
    if not isinstance(size, (list, tuple)) or len(size) != 3:
        raise RefusedModel(
            f"{where}: input_size {words(size)} is not valid (allowed: channels, height, width)"
        )
    channels, height, width = (side_of(side, f"{where} input_size") for side in size)
    values: dict[str, Any] = {"input.channels": channels, "input.height": height, "input.width": width}
    pct = positive(cfg.get("crop_pct", 0.875), f"{where} crop_pct")
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


def read_processor(processor: Mapping[str, Any], where: str, beside: Beside) -> None:
    """Add the preprocessing of a Hugging Face image processor to `beside`."""
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
    """Add to `values` how a processor resizes and crops an image."""
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
            shortest = int(shortest / positive(224 / 256 if pct is None else pct, f"{where} crop_pct"))
        else:
            square, shortest = crop, None
    elif kind.lower().startswith("levit") and shortest is not None:
        shortest = int(256 / 224 * shortest)
    elif pct is not None:
        side = shortest if shortest is not None else max(square or (0,))
        square, shortest = None, int(side / positive(pct, f"{where} crop_pct"))
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
    """Return the colour order, mean and std that an image processor states, by the path of the field.

    Mean and std are for pixel values 0 to 255.
    """
    scale, offset = 1.0, 0.0
    if processor.get("do_rescale", True):
        scale = positive(processor.get("rescale_factor", 1 / 255), f"{where} rescale_factor")
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
    """Return the size that an image processor states: as (height, width), or as the shorter side.

    The result is a pair, of which at least one value is None.
    """
    if value is None:
        return None, None
    if isinstance(value, Mapping):
        if "shortest_edge" in value and value["shortest_edge"] is not None:
            return None, side_of(value["shortest_edge"], where)
        if "height" in value and "width" in value:
            return (side_of(value["height"], where), side_of(value["width"], where)), None
        return None, None
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return (side_of(value[0], where), side_of(value[1], where)), None
    side = side_of(value, where)
    return (None, side) if _SHORTEST.match(kind) else ((side, side), None)
