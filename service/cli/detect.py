"""`weighin detect PHOTO ...`: find objects in photos, without a server."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from models.zoo.display import comma_list, counted, shown, without_surrogates
from service.cli.output import console, print_document, say
from service.cli.settings import settings_with
from service.errors import InvalidParameter, WeighinError, error_words
from service.inference.decoding.decode import DecodedImage, decode
from service.inference.detect import DetectPlan, Found, detect_plan, find_objects
from service.inference.loading import load_model
from service.inference.pipeline import load_image
from service.inference.registry import Registry, check_task
from service.inference.runtimes.choice import runtime_choices
from service.latency.stages import Durations, Stopwatch, milliseconds

_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")


def detect_objects(
    photos: Annotated[list[Path], typer.Argument(help="Image files", metavar="PHOTO...")],
    model: Annotated[str | None, typer.Option(help="Detector [default: the default detector]")] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Lowest score to report, 0 to 1 [default: the model's]")
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(help="Maximum objects to report per photo [default: the model's]")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Labels or class ids to report, separated by commas [default: all]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON per photo")] = False,
    draw: Annotated[
        Path | None,
        typer.Option(help="Draw the boxes: a folder, or the file of a single photo (.jpg, .png, .webp)"),
    ] = None,
) -> None:
    """Find objects in photos, without a server; draw their boxes with --draw."""
    settings = settings_with()
    registry = Registry(
        settings.model_dirs,
        settings.default_model,
        default_detector=settings.default_detector,
        added=settings.added_models,
    )
    entry = registry.entry(model, "object-detection")
    if entry.card is not None:
        check_task(entry.card, "object-detection")
    plan = detect_plan(
        load_model(entry.folder, choices=runtime_choices(settings)),
        min_score,
        max_detections,
        None if classes is None else comma_list(classes),
    )
    targets = [None] * len(photos) if draw is None else _targets(draw, photos)
    failed = False
    for photo, target in zip(photos, targets, strict=True):
        try:
            data = photo.read_bytes()
            stopwatch = Stopwatch()
            image = load_image(
                data, plan.model.card.input, max_pixels=settings.max_pixels, stopwatch=stopwatch
            )
            objects = find_objects(plan, image, stopwatch)
            durations = stopwatch.stop()
            if target is not None:
                _draw(data, objects, settings.max_pixels).save(target)
        except (WeighinError, OSError) as error:
            failed = True
            say(
                f"{photo}: {error.detail if isinstance(error, WeighinError) else error_words(error)}",
                error=True,
            )
            continue
        if as_json:
            answer = _as_object(photo, plan, image, objects, durations)
            print_document(json.dumps(answer, ensure_ascii=False) + "\n")
        else:
            say(_title(photo, plan, image, objects, durations))
            if objects:
                console().print(_table(objects))
        sys.stdout.flush()
    if failed:
        raise typer.Exit(1)


def _targets(draw: Path, photos: list[Path]) -> list[Path]:
    """Return for each photo the file into which it is drawn.

    Raises InvalidParameter if two photos would be drawn into the same file, if a file is one of the photos,
    or if --draw names something else that cannot be used.
    """
    if draw.suffix and not draw.is_dir():
        if draw.suffix.lower() not in _SUFFIXES:
            raise InvalidParameter(
                f"--draw {draw}: '{draw.suffix}' is not a type that can be written "
                f"(allowed: an existing folder, a new one without a dot, or a file of {', '.join(_SUFFIXES)})"
            )
        if len(photos) > 1:
            raise InvalidParameter(f"--draw {draw}: one file for {len(photos)} photos (allowed: a folder)")
        if not draw.absolute().parent.is_dir():
            raise InvalidParameter(f"--draw {draw}: folder not found")
        targets = [draw]
    else:
        try:
            draw.mkdir(exist_ok=True)
        except OSError as error:
            raise InvalidParameter(f"--draw {draw}: {error_words(error)} (allowed: a folder)") from None
        targets = [draw / f"{photo.name}.png" for photo in photos]
        repeated = sorted(name for name, count in Counter(map(str, targets)).items() if count > 1)
        if repeated:
            raise InvalidParameter(f"--draw {draw}: two photos would be drawn into {Path(repeated[0]).name}")
    files = {_file(photo): photo for photo in photos}
    for target in targets:
        file = _file(target)
        photo = None if file is None else files.get(file)
        if photo is not None:
            raise InvalidParameter(f"--draw {draw}: {target} is the photo {photo} (allowed: another file)")
    return targets


def _file(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, or None if there is no file.

    All names of a file have the same device and inode.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _as_object(
    photo: Path, plan: DetectPlan, image: DecodedImage, objects: tuple[Found, ...], durations: Durations
) -> dict[str, Any]:
    """Return the object that `--json` prints for a photo (schema: `DetectedPhoto`)."""
    return {
        "photo": without_surrogates(str(photo)),
        "model": plan.model.name,
        "image": {"width": image.width, "height": image.height, "format": image.format, "bytes": image.bytes},
        "detections": [found.as_json() for found in objects],
        "timings_ms": {stage: milliseconds(spent) for stage, spent in durations.items()},
    }


def _title(
    photo: Path, plan: DetectPlan, image: DecodedImage, objects: tuple[Found, ...], durations: Durations
) -> str:
    count = counted(len(objects), "object", "objects")
    return (
        f"{shown(photo.name)}: {image.width} x {image.height} {image.format}, {count} with a score of "
        f"at least {plan.min_score:g}, {durations['total'] / 1e6:.1f} ms"
    )


def _table(objects: tuple[Found, ...]) -> Table:
    table = Table("label", box=None, pad_edge=False)
    for heading in ("score", "left", "top", "right", "bottom"):
        table.add_column(heading, justify="right")
    for found in objects:
        table.add_row(shown(found.label), f"{found.score:.2f}", *(f"{edge:.0f}" for edge in found.box))
    return table


def _draw(data: bytes, objects: tuple[Found, ...], max_pixels: int) -> Image.Image:
    """Return the upright image in full size with boxes, labels and landmarks, one colour per class."""
    image = Image.fromarray(decode(data, shorter_side=1 << 30, max_pixels=max_pixels).pixels)
    canvas = ImageDraw.Draw(image)
    line = max(2, round(max(image.size) / 300))
    text_height = max(10, line * 5)
    font = ImageFont.load_default(text_height)
    for found in reversed(objects):  # the best object is drawn last, on top of the others
        colour = _colour(found.class_id)
        left, top, right, bottom = found.box
        canvas.rectangle((left, top, right, bottom), outline=colour, width=line)
        for x, y in found.landmarks:
            canvas.ellipse((x - line, y - line, x + line, y + line), fill=colour)
        text = f"{found.label} {found.score:.2f}"
        corner = (left + line, max(0, top - text_height - line))
        area = canvas.textbbox(corner, text, font=font)
        canvas.rectangle((area[0] - line, area[1] - line, area[2] + line, area[3] + line), fill=colour)
        canvas.text(corner, text, fill="black", font=font)
    return image


def _colour(class_id: int) -> str:
    """Return a light colour for the class. The hues of successive classes differ by the golden angle."""
    return f"hsl({class_id * 137.508 % 360:.0f}, 90%, 65%)"
