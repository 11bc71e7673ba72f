"""Chart of a front as SVG.

It shows accuracy over median latency. A circle stands for a model; its area shows the size of the file. The
labels are placed so that they do not overlap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from service.bench.report.document import AccuracyFigure, Front, FrontModel

WIDTH, HEIGHT = 960, 500
LEFT, RIGHT, TOP, BOTTOM = 64.0, WIDTH - 16.0, 44.0, HEIGHT - 52.0
"""Edges of the plot in SVG units."""
_FONT = 12.0
_CHARACTER = 0.61 * _FONT
"""Width of a character in SVG units: an upper estimate of the mean width in common sans-serif fonts."""
_LINE = 1.25 * _FONT
_LARGEST, _SMALLEST = 14.0, 4.0
"""Radius of the circle of the largest file, and smallest radius of any circle."""
_MOST_LETTERS = 44
_LEADER_FROM = 14.0
"""If a label is at least this far from its circle, a line connects the two."""
_DISTANCES = (4.0, 9.0, 16.0, 25.0, 36.0, 49.0, 64.0, 81.0, 100.0, 121.0, 144.0)
_ANGLES = (
    0,
    180,
    -30,
    30,
    210,
    150,
    -60,
    60,
    240,
    120,
    -90,
    90,
    -15,
    15,
    -45,
    45,
    195,
    165,
    225,
    135,
    -75,
    75,
)
"""Directions from a circle to its label, in degrees clockwise from the right; preferred ones come first."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A place where a label can be: its distance and direction from the circle, and the cost of the place."""

    cost: float
    distance: float
    cosine: float
    sine: float
    anchor: str


def _places() -> Iterator[_Place]:
    """Yield the possible places. Near places and preferred directions have low costs."""
    for distance, (rank, degrees) in itertools.product(_DISTANCES, enumerate(_ANGLES)):
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        anchor = "start" if cosine > 0.1 else "end" if cosine < -0.1 else "middle"
        yield _Place(2 * distance + rank, distance, cosine, sine, anchor)


_PLACES = sorted(_places(), key=lambda place: place.cost)


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle in SVG units."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Rect) -> bool:
        """Return whether the two rectangles share an area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def crosses(self, line: Line) -> bool:
        """Return whether a line passes through the rectangle (Liang and Barsky's clipping)."""
        begin, end = 0.0, 1.0
        for start, step, low, high in (
            (line.x1, line.x2 - line.x1, self.left, self.right),
            (line.y1, line.y2 - line.y1, self.top, self.bottom),
        ):
            if step == 0:
                if not low < start < high:
                    return False
                continue
            near, far = sorted(((low - start) / step, (high - start) / step))
            begin, end = max(begin, near), min(end, far)
        return begin < end


@dataclass(frozen=True, slots=True)
class Line:
    """A line in SVG units."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Label:
    """A text whose baseline is at (x, y).

    `anchor` is the value of SVG's attribute `text-anchor`. `rect` is the area that the text covers. `leader`
    is the line from the text to the circle of the model that it names, or None if the circle is near.
    """

    text: str
    x: float
    y: float
    anchor: str
    rect: Rect
    leader: Line | None


@dataclass(frozen=True, slots=True)
class Point:
    """A model in the chart: centre and radius of its circle, the lines of its two intervals, and its label.

    `tip` is the text of the tooltip. `label` is None if there is no room for it.
    """

    model: FrontModel
    tip: str
    x: float
    y: float
    radius: float
    intervals: tuple[Line, Line]
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis. `at` is its position in SVG units, and `text` its number."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart holds what the template draws.

    `across` and `up` are the marks of the two axes. `prefix` is the common beginning of all names, which
    labels leave out. `missing` has the models without a known accuracy, which are not drawn. `sizes` has the
    circles of the legend as (x, radius, text).
    """

    points: tuple[Point, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    sizes: tuple[tuple[float, float, str], ...]
    prefix: str
    missing: tuple[str, ...]

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """The models that have no label, because there is no room for it."""
        return tuple(point.model.entry for point in self.points if point.label is None)


def draw(front: Front) -> Chart | None:
    """Lay out the chart of a front. Return None if the accuracy of every model is unknown."""
    drawn = [(each, each.accuracy) for each in front.models if each.accuracy is not None]
    if not drawn:
        return None
    left, right = _log_range([each for each, _ in drawn])
    low, high = _range([accuracy for _, accuracy in drawn])

    def across(ms: float) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(ms / left) / math.log(right / left)

    def up(share: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (share - low) / (high - low)

    largest = max(each.bytes for each, _ in drawn)
    prefix = shared_prefix([each.entry for each, _ in drawn])
    points = []
    for each, accuracy in drawn:
        x, y = across(max(each.p50_ms, left)), up(accuracy.value)
        interval = [ms for ms in (each.p50_low_ms, each.p50_high_ms) if ms is not None] or [each.p50_ms]
        horizontal = Line(across(max(interval[0], left)), y, across(max(interval[-1], left)), y)
        vertical = Line(x, up(accuracy.low), x, up(accuracy.high))
        tip = (
            f"{each.entry}: {accuracy.value:.1%} [{accuracy.low:.1%}, {accuracy.high:.1%}], "
            f"{each.p50_ms:.3g} ms, {each.bytes / 1e6:.3g} MB"
        )
        points.append(Point(each, tip, x, y, _radius(each.bytes, largest), (horizontal, vertical)))
    return Chart(
        points=_labelled(points, prefix),
        across=tuple(Tick(across(value), f"{value:g}") for value in _log_ticks(left, right)),
        up=tuple(Tick(up(value), f"{value:.{digits}%}") for value, digits in _ticks(low, high)),
        sizes=tuple(_sizes([each.bytes for each, _ in drawn], largest)),
        prefix=prefix,
        missing=tuple(each.entry for each in front.models if each.accuracy is None),
    )


def shared_prefix(names: Sequence[str]) -> str:
    """Return the longest common beginning of all names that ends in a hyphen.

    Return an empty text if there is none, or if there is only one name.
    """
    if len(names) < 2:
        return ""
    parts = [name.split("-")[:-1] for name in names]
    same = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    return "".join(f"{column[0]}-" for column in same)


def _radius(size: int, largest: int) -> float:
    """Return the radius of the circle of a file of `size` bytes.

    The area is proportional to the size. The radius is _LARGEST for the largest file, and at least _SMALLEST.
    """
    return max(_SMALLEST, _LARGEST * math.sqrt(size / largest))


def _sizes(sizes: Sequence[int], largest: int) -> Iterator[tuple[float, float, str]]:
    """Yield the legend's circles for the largest and the smallest file, as (x, radius, text).

    The circle of the largest file is at the right edge, and that of the smallest file to the left of it.
    """
    x = RIGHT
    for size in sorted({min(sizes), largest}, reverse=True):
        text = f"{size / 1e6:.3g} MB"
        x -= len(text) * _CHARACTER + _LARGEST
        yield x, _radius(size, largest), text
        x -= 2 * _LARGEST


def _log_range(models: Sequence[FrontModel]) -> tuple[float, float]:
    """Return the ends of the latency axis in ms.

    The axis has room for all intervals and a margin. Its ends are at least a factor of 2 apart.
    """
    values = [value for each in models for value in (each.p50_ms, each.p50_low_ms, each.p50_high_ms)]
    positive = [value for value in values if value]
    low, high = (min(positive), max(positive)) if positive else (1e-3, 1.0)
    stretch = max(1.0, math.sqrt(2 * low / high)) * (high / low) ** 0.06
    return low / stretch, high * stretch


def _range(accuracies: Sequence[AccuracyFigure]) -> tuple[float, float]:
    """Return the ends of the accuracy axis.

    The axis has room for all intervals and a margin. Its ends are at least two percentage points apart.
    """
    low, high = min(each.low for each in accuracies), max(each.high for each in accuracies)
    margin = max(0.08 * (high - low), (0.02 - (high - low)) / 2)
    return low - margin, high + margin


def _log_ticks(left: float, right: float) -> list[float]:
    """Return round values between the ends of the latency axis.

    These are 1, 2 and 5 times powers of ten. If fewer than three such values fit, there are further ones.
    """
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(each / 10 for each in range(10, 100))):
        powers = range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [float(f"{tick:.3g}") for tick in ticks if left <= tick <= right]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 10)]


def _ticks(low: float, high: float) -> list[tuple[float, int]]:
    """Return round shares between the ends of the accuracy axis.

    With each comes the number of decimals with which it is written in percent.
    """
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (5, 2, 1) if digit * power <= rough * (1 + 1e-9))
    digits = max(0, -math.floor(math.log10(step * 100) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [
        (share, digits) for share in ((first + i) * step for i in range(count)) if -1e-9 <= share <= 1 + 1e-9
    ]


def _labelled(points: Sequence[Point], prefix: str) -> tuple[Point, ...]:
    """Return the points, with labels that overlap neither each other nor a circle.

    Labels are placed one after the other, each where it costs least. Of several orders, the one with the
    lowest total cost is used. A point whose label has no room gets no label.
    """
    circles = [
        Rect(each.x - each.radius, each.y - each.radius, each.x + each.radius, each.y + each.radius)
        for each in points
    ]
    intervals = [
        Rect(min(line.x1, line.x2), min(line.y1, line.y2), max(line.x1, line.x2), max(line.y1, line.y2))
        for each in points
        for line in each.intervals
    ]

    @cache
    def spot(index: int, at: int) -> tuple[Label, float] | None:
        label = _label(points[index], prefix, _PLACES[at])
        if not _is_clear(label, index, circles):
            return None
        return label, _PLACES[at].cost + 12 * sum(map(label.rect.overlaps, intervals))

    orders = [
        sorted(range(len(points)), key=lambda i: (not points[i].model.on_front, points[i].x)),
        sorted(range(len(points)), key=lambda i: (not points[i].model.on_front, points[i].y)),
        sorted(range(len(points)), key=lambda i: -len(points[i].model.entry)),
        sorted(range(len(points)), key=lambda i: points[i].x),
    ]
    best, _ = min((_place(order, spot) for order in orders), key=lambda item: item[1])
    return tuple(replace(each, label=best.get(i)) for i, each in enumerate(points))


def _place(
    order: Sequence[int], spot: Callable[[int, int], tuple[Label, float] | None]
) -> tuple[dict[int, Label], float]:
    """Place the labels in this order. Return the labels by index of their point, and their total cost.

    A label for which there is no room adds the highest cost. `spot` returns the label of a point at one of
    `_PLACES` with its cost, or None if the label has no room there.
    """
    placed: dict[int, Label] = {}
    total = 0.0
    for index in order:
        best: Label | None = None
        least = 10_000.0
        for at, place in enumerate(_PLACES):
            if place.cost >= least:
                break
            found = spot(index, at)
            if found is not None and found[1] < least and _is_apart(found[0], placed.values()):
                best, least = found
        if best is not None:
            placed[index] = best
        total += least
    return placed, total


def _is_clear(label: Label, index: int, circles: Sequence[Rect]) -> bool:
    """Return whether there is room for a label. Labels that are already placed are not considered.

    The label must be inside the plot and cover no circle. Its line must cross no circle of another point.
    """
    rect, leader = label.rect, label.leader
    if rect.left < LEFT + 2 or rect.right > RIGHT or rect.top < TOP or rect.bottom > BOTTOM - 2:
        return False
    if any(map(rect.overlaps, circles)):
        return False
    return leader is None or not any(circle.crosses(leader) for i, circle in enumerate(circles) if i != index)


def _is_apart(label: Label, others: Iterable[Label]) -> bool:
    """Return whether a label is apart from `others`.

    It must cover none of these labels and none of their lines, and its own line must cross none of these
    labels.
    """
    rect, leader = label.rect, label.leader
    for other in others:
        if rect.overlaps(other.rect) or (leader is not None and other.rect.crosses(leader)):
            return False
        if other.leader is not None and rect.crosses(other.leader):
            return False
    return True


def _label(point: Point, prefix: str, place: _Place) -> Label:
    """Return the label of a point at the given place."""
    name = point.model.entry.removeprefix(prefix)
    text = name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"
    width = len(text) * _CHARACTER
    cosine, sine, anchor = place.cosine, place.sine, place.anchor
    reach = point.radius + place.distance
    x, y = point.x + reach * cosine, point.y + reach * sine
    left = x - (0 if anchor == "start" else width if anchor == "end" else width / 2)
    middle = y + (0 if anchor != "middle" else math.copysign(_LINE / 2, sine))
    rect = Rect(left - 2, middle - _LINE / 2, left + width + 2, middle + _LINE / 2)
    leader = None
    if place.distance >= _LEADER_FROM:
        leader = Line(
            point.x + point.radius * cosine, point.y + point.radius * sine, x - 2 * cosine, y - 2 * sine
        )
    return Label(text, x, middle + 0.35 * _FONT, anchor, rect, leader)
