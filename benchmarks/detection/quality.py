"""Tables of what the detectors find and miss, and of int8 compared with fp32."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.detection.pictures import PEOPLE, PHOTOS, Picture, Point, faces, labelled, pedestrians
from models.zoo.files import NETWORKS
from service.inference.detect import Found, detect_plan, find_objects
from service.inference.detection.matching import MIN_IOU, intersection_over_union
from service.inference.loading import ServedModel, load_model
from service.inference.pipeline import load_image
from service.latency.stages import Stopwatch

SSD, FACES = "ssd-mobilenet-v2", "centerface"
LOWER = 0.2
"""A second score threshold, which is below the thresholds in the detectors' cards."""
CLASSES = {"person": ("Person",), "car": ("Car", "Vehicle"), "bus": ("Vehicle", "Car")}
"""By label of the photographs, the classes of the SSD that count as correct.

The SSD has no class for buses.
"""
MAX_PIXELS = 100_000_000

Find = Callable[[bytes], Sequence[Found]]


def finder(model: ServedModel, min_score: float | None = None) -> Find:
    """Return a function that returns the objects that `model` finds in an encoded image, best first."""
    plan = detect_plan(model, min_score)

    def find(content: bytes) -> Sequence[Found]:
        stopwatch = Stopwatch()
        image = load_image(content, model.card.input, max_pixels=MAX_PIXELS, stopwatch=stopwatch)
        return find_objects(plan, image, stopwatch)

    return find


@dataclass
class Marked:
    """Detections in one picture, after they were matched with the marks in the picture.

    `hits`: detections that match a mark. `others`: detections that match no mark. `missed`: marks that no
    detection matches.
    """

    hits: list[Found] = field(default_factory=list)
    missed: list[Point] = field(default_factory=list)
    others: list[Found] = field(default_factory=list)


def match_points(found: Iterable[Found], points: Sequence[Point]) -> Marked:
    """Match detections with marks. A mark matches at most one detection.

    Detections are matched in the given order, best first. From the marks in its box that no earlier detection
    has taken, each detection takes the mark that is nearest to the middle of the box.
    """
    result = Marked(missed=list(points))
    for one in found:
        left, top, right, bottom = one.box
        inside = [(x, y) for x, y in result.missed if left <= x <= right and top <= y <= bottom]
        if not inside:
            result.others.append(one)
            continue
        middle = ((left + right) / 2, (top + bottom) / 2)
        nearest = min(inside, key=lambda point: (point[0] - middle[0]) ** 2 + (point[1] - middle[1]) ** 2)
        result.missed.remove(nearest)
        result.hits.append(one)
    return result


@dataclass
class Pairs:
    """Detections of two models on the same pictures, matched by class and IoU.

    `both`: pairs of a detection of the first and one of the second model, with their IoU, which is at least
    MIN_IOU. `only_first`, `only_second`: numbers of detections of one model that match no detection of the
    other model.
    """

    both: list[tuple[Found, Found, float]] = field(default_factory=list)
    only_first: int = 0
    only_second: int = 0

    def add(self, first: Sequence[Found], second: Sequence[Found]) -> None:
        """Match the detections of both models in one picture, and add them.

        The detections of the first model, `first`, are matched in the given order, best first.
        """
        left = list(second)
        for one in first:
            overlaps = [
                (intersection_over_union(one.box, other.box), number)
                for number, other in enumerate(left)
                if other.class_id == one.class_id
            ]
            iou, number = max(overlaps, default=(0.0, 0))
            if iou >= MIN_IOU:
                self.both.append((one, left.pop(number), iou))
            else:
                self.only_first += 1
        self.only_second += len(left)


def quality(zoo: Path = NETWORKS, people: Path = PEOPLE, photos: Path = PHOTOS) -> str:
    """Return all tables as Markdown. Raises MissingPicturesError."""
    models = {
        path.name: load_model(path) for path in sorted(zoo.glob("*")) if path.name.startswith((SSD, FACES))
    }
    frames, portraits = list(pedestrians(people)), list(faces(people, photos))
    parts = [
        photographs(models[SSD], labelled(people)),
        counted("People in 20 frames of vtest.avi", models, SSD, frames, "Person"),
        counted("Faces", models, FACES, portraits, "face"),
    ]
    for name, pictures in ((SSD, [*labelled(people), *frames, *portraits]), (FACES, [*frames, *portraits])):
        if f"{name}-int8" in models:
            distinct = list({picture.name: picture for picture in pictures}.values())
            parts.append(int8_beside_fp32(models[name], models[f"{name}-int8"], distinct))
    return "\n".join(parts)


def photographs(model: ServedModel, pictures: Sequence[Picture]) -> str:
    """Return a table of every labelled object, and of objects that were found but are not labelled."""
    find, find_all = finder(model), finder(model, 0.05)
    rows, others = [], []
    for picture in pictures:
        left = list(find(picture.content))
        unsure = find_all(picture.content)
        for label, box in picture.boxes:
            fitting = [one for one in left if one.label in CLASSES[label]]
            best = max(fitting, key=lambda one: intersection_over_union(one.box, box), default=None)
            iou = 0.0 if best is None else intersection_over_union(best.box, box)
            if best is not None and iou >= MIN_IOU:
                left.remove(best)
                rows.append((picture.name, label, f"{best.label} {best.score:.2f}", f"{iou:.2f}"))
                continue
            close = [one for one in unsure if intersection_over_union(one.box, box) >= MIN_IOU]
            fitting = [one for one in close if one.label in CLASSES[label]]
            best = max(fitting, key=lambda one: one.score, default=None)
            below = (
                "nothing near it" if best is None else f"{best.label} {best.score:.2f}, below the threshold"
            )
            rows.append((picture.name, label, f"**missed**: {below}", ""))
        others += [f"{one.label} {one.score:.2f} in {picture.name}" for one in left]
    found = sum(1 for row in rows if row[3])
    lines = [
        f"**Labelled photographs**, `{model.name}` at its threshold: {found} of {len(rows)} objects found "
        f"(IoU at least {MIN_IOU}). Also detected, but not labelled: {'; '.join(others) or 'nothing'}.",
        "",
        markdown(("photograph", "object", "detection", "IoU"), rows),
    ]
    return "\n".join(lines)


def counted(
    title: str, models: dict[str, ServedModel], name: str, pictures: Sequence[Picture], label: str
) -> str:
    """Return a table of the marked objects that the fp32 and int8 variants of `name` find."""
    marks = sum(len(picture.points) for picture in pictures)
    summary, results = [], {}
    for variant in (name, f"{name}-int8"):
        if variant not in models:
            continue
        detection = models[variant].card.detection
        assert detection is not None
        for least in (detection.min_score, LOWER):
            find = finder(models[variant], least)
            matched = [
                match_points([one for one in find(picture.content) if one.label == label], picture.points)
                for picture in pictures
            ]
            results[variant, least] = matched
            hits = [one for result in matched for one in result.hits]
            summary.append(
                (
                    f"`{variant}`",
                    f"{least}",
                    f"{len(hits)} of {marks}",
                    str(marks - len(hits)),
                    str(sum(len(result.others) for result in matched)),
                    f"{statistics.median(one.score for one in hits):.2f}" if hits else "",
                )
            )
    columns = [key for key in results if key[0] == name]
    rows = [
        (
            picture.name,
            str(len(picture.points)),
            *(f"{len(results[key][at].hits)}, {len(results[key][at].others)}" for key in columns),
        )
        for at, picture in enumerate(pictures)
        if picture.points or any(results[key][at].others for key in columns)
    ]
    head = ("picture", "marked", *(f"found, false at {least}" for _, least in columns))
    return "\n".join(
        [
            f"**{title}**, {marks} marked in {len(pictures)} pictures:",
            "",
            markdown(("model", "threshold", "found", "missed", "false", "median score of found"), summary),
            f"Per picture, for `{name}` (pictures with no marks and no detections are left out):",
            "",
            markdown(head, rows),
        ]
    )


def int8_beside_fp32(fp32: ServedModel, int8: ServedModel, pictures: Sequence[Picture]) -> str:
    """Return a table that compares the detections of both models on the same pictures."""
    detection = fp32.card.detection
    assert detection is not None
    rows = []
    for least in (detection.min_score, LOWER):
        pairs, first, second = Pairs(), finder(fp32, least), finder(int8, least)
        for picture in pictures:
            pairs.add(first(picture.content), second(picture.content))
        ious = [iou for _, _, iou in pairs.both]
        changes = [abs(other.score - one.score) for one, other, _ in pairs.both]
        rows.append(
            (
                f"{least}",
                str(len(pairs.both)),
                str(pairs.only_first),
                str(pairs.only_second),
                f"{statistics.median(ious):.3f} ({min(ious):.2f})" if ious else "",
                f"{statistics.mean(changes):.3f} ({max(changes):.3f})" if changes else "",
            )
        )
    head = (
        "threshold",
        "in both",
        "only fp32",
        "only int8",
        "IoU: median (least)",
        "score: mean change (largest)",
    )
    return "\n".join([f"**`{int8.name}` beside fp32**, {len(pictures)} pictures:", "", markdown(head, rows)])


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with the column names `head`."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
