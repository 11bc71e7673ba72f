"""Preprocessing by evidence: find the convention that labelled pictures support, and what they leave open.

Every convention is run on the same pictures and scored by the log-probability of each picture's true class.
A sign-flip permutation test of the paired differences decides whether two conventions differ, adjusted for
the number of conventions.

With any network, tightly framed pictures favour a fitting that shows more of them. If such a fitting does
better, this is no evidence of how the network was trained. Therefore fittings are compared only by what they
do to shapes: the same part of a picture is classified twice at the same size, once undistorted and once
squeezed in the same way as by `stretch`. Filters are never decided: with any network, noisy pictures favour a
filter that blurs them, and small pictures favour another filter.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Card, InputSpec
from models.zoo.files import read_regular
from models.zoo.preprocess import Box, fit, normalise, preprocess
from service.errors import WeighinError
from service.inference.decoding.decode import DecodedImage
from service.inference.pipeline import load_image
from service.inference.session import OnnxSession
from service.own_models.sources.conventions import (
    Convention,
    differing,
    fitting_words,
    of_fittings,
    of_tensors,
)
from service.own_models.sources.likelihood import (
    SIGNIFICANCE,
    adjusted,
    ahead,
    best_row,
    log_probabilities,
    p_values,
    rivals,
)
from service.own_models.sources.pictures import Labelled

FIRST_PICTURES = 20
"""Number of pictures that all conventions run on.

A convention that then has a p value below HOPELESS does not run on further pictures."""
HOPELESS = 0.001
MOST_PICTURES = 200
MOST_FOR_FITTINGS = 100
_MAX_PIXELS = 64_000_000
_MOST_REMEMBERED = 16_000_000
"""Maximum number of scores that are kept to be used again for equal inputs. They take 64 MB."""
_NOT_SHOWN = ("input.fitting", "input.interpolation")
_NOT_SQUARE, _MOST_SQUEEZED = 1.1, 2.0
"""A picture is squeezed if its aspect ratio differs from the input's by the first factor or more.

It is squeezed by at most the second factor."""
_PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "colour_order": "rgb", "layout": "nchw"}
"""Values for the fields of an input that do not affect how an image is fitted.

Inputs that are equal once they have these values fit an image in the same way."""
_GOLDEN = (math.sqrt(5) - 1) / 2
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Evidence:
    """Result of comparing conventions on labelled pictures.

    `input` and `class_offset` are the convention to use. A fact is decided if the pictures show which of its
    values is right, and undecided otherwise. Facts are paths in the card; `input.mean` stands for mean and
    std, `input.fitting` for fitting and resize.

    `decided`: for each decided fact, text on how far its value is ahead of the others. `undecided`: for each
    undecided fact, the values that the pictures cannot tell apart. For an undecided fact, the convention has
    the card's value if it is one of these values, and otherwise the one of them that assumes least.
    `pictures`: number of pictures that count. `correct`: number of pictures that the network classifies
    correctly.

    `unreadable`: reasons why pictures cannot be read. `copies`: pictures with the same pixels as an earlier
    picture; they do not count. `contradictions`: cases in which another value of a fixed fact does better
    than the one that a source states. `fitting`: text about another fitting or filter that does better on
    these pictures, or None. Such text is no evidence of how the network was trained.
    """

    input: InputSpec
    class_offset: int
    pictures: int
    correct: int
    unreadable: Mapping[Path, str]
    copies: tuple[Path, ...]
    decided: Mapping[str, str]
    undecided: Mapping[str, tuple[str, ...]]
    fitting: str | None = None
    contradictions: tuple[Contradiction, ...] = ()

    def detail(self, path: str) -> str:
        """Return the reason why a fact is decided or undecided, in words."""
        if path in _NOT_SHOWN:
            return self.decided.get(path, "pictures do not show which one the network was trained with")
        return self.decided.get(path, f"{self.pictures} pictures do not tell them apart")


@dataclass(frozen=True)
class Contradiction:
    """A case in which labelled pictures contradict facts that a source states.

    `better`: the convention that does best. `facts`: paths of the fixed facts for which this convention has
    other values. `words`: by how much it is ahead, in words.
    """

    better: Convention
    facts: tuple[str, ...]
    words: str


@dataclass
class _Findings:
    """What the pictures say about the facts, collected fact by fact. The fields are those of `Evidence`."""

    decided: dict[str, str] = field(default_factory=dict)
    undecided: dict[str, tuple[str, ...]] = field(default_factory=dict)
    contradictions: list[Contradiction] = field(default_factory=list)


@dataclass
class _LeftOut:
    """Pictures that do not count.

    `unreadable`: reasons why pictures cannot be read. `copies`: pictures with the same pixels as an earlier
    picture.
    """

    unreadable: dict[Path, str] = field(default_factory=dict)
    copies: list[Path] = field(default_factory=list)


def judge(
    content: bytes,
    card: Card,
    pictures: Sequence[Labelled],
    *,
    fixed: Collection[str],
    layouts: Sequence[str] = (),
) -> Evidence:
    """Find the convention that labelled pictures support, for the ONNX file `content` of `card`.

    Tries all combinations of normalisation, colour order, layout and class offset, then fittings and filters.
    `layouts`: layouts in which the file runs. Class offsets are tried only if there is one score more than
    classes. Facts whose paths are in `fixed` keep their values; other values are tried only to report
    contradictions. Uses at most MOST_PICTURES pictures, and MOST_FOR_FITTINGS for fittings and filters.

    Raises ValueError if no picture can be read, SessionError if the file cannot be loaded, and
    ModelUnavailable if it cannot be run.
    """
    network = _Network(content, card)
    pictures = _spread(pictures)
    layouts = tuple(dict.fromkeys((card.input.layout, *layouts)))
    offsets = (card.class_offset, 1 - card.class_offset)[: 1 + network.scores - card.classes]
    tried = _Tried(network, pictures, list(of_tensors(card, fixed, layouts=layouts, offsets=offsets)))
    if not tried.scores.size:
        named = "; ".join(f"{path.name}: {why}" for path, why in list(tried.left_out.unreadable.items())[:3])
        raise ValueError(f"pictures: none of {len(pictures)} can be read ({named or 'there are none'})")
    findings = _Findings()
    first = tried.least_assuming(findings)
    left_out = {*tried.left_out.unreadable, *tried.left_out.copies}
    readable = [picture for picture in pictures if picture.path not in left_out]
    spec, advice = _judge_fitting(network, readable[:MOST_FOR_FITTINGS], first, fixed, findings)
    correct = int(tried.right[tried.conventions.index(first)])
    if spec != first.input:
        correct = int(_Tried(network, readable, [Convention(spec, first.offset, {})]).right[0])
    chosen = Convention(spec, first.offset, first.values)
    of_chosen = card.model_copy(update={"input": spec})
    others = of_tensors(of_chosen, (), layouts=layouts, offsets=offsets)
    _contradict(network, readable, chosen, others, fixed, findings)
    return Evidence(
        spec,
        first.offset,
        tried.scores.shape[1],
        correct,
        tried.left_out.unreadable,
        tuple(tried.left_out.copies),
        findings.decided,
        findings.undecided,
        advice,
        tuple(findings.contradictions),
    )


class _Network:
    """The network of a card, which can be run in each layout and returns all scores.

    Besides the scores of the classes, there may be the score of a background class. `scores`: the number of
    all scores of an image.
    """

    def __init__(self, content: bytes, card: Card) -> None:
        """Load the file `content` in the card's layout. Raises SessionError if it cannot be loaded."""
        self.scores = math.prod(card.outputs["logits"])
        self.classes = card.classes
        self.activation = card.outputs.get("activation", "none")
        self._content = content
        outputs = {**card.outputs, "class_offset": 0}
        self._card = card.model_copy(update={"outputs": outputs, "classes": self.scores})
        self._sessions: dict[str, OnnxSession] = {}
        self._session(card.input.layout)
        self._ran: dict[tuple[object, ...], NDArray[np.float32]] = {}

    def run(self, tensor: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
        """Return all scores of one image, float32 (scores,). Raises ModelUnavailable."""
        logits: NDArray[np.float32] = self._session(layout).run(tensor)["logits"][0]
        return logits

    def run_on(self, image: DecodedImage, specs: Iterable[InputSpec]) -> Iterator[NDArray[np.float32]]:
        """Yield all scores of an image for each of `specs`, float32 (scores,).

        The image is preprocessed as each spec says. It is fitted only once for all specs that differ only in
        what happens to pixel values. Equal inputs are run only once, even if they are from different calls.
        For example, most fittings make the same input of a square picture. Raises ModelUnavailable.
        """
        fitted: dict[InputSpec, tuple[NDArray[np.uint8], bytes]] = {}
        for spec in specs:
            plain = spec.model_copy(update=_PLAIN)
            if plain not in fitted:
                region = np.ascontiguousarray(fit(image.pixels, spec, box=image.box))
                fitted[plain] = region, hashlib.sha256(region.tobytes()).digest()
            region, digest = fitted[plain]
            key = (digest, spec.mean, spec.std, spec.colour_order, spec.layout)
            scores = self._ran.get(key)
            if scores is None:
                scores = self.run(normalise(region, spec), spec.layout)
                if len(self._ran) * self.scores < _MOST_REMEMBERED:
                    self._ran[key] = scores
            yield scores

    def log_probabilities(
        self, rows: Sequence[NDArray[np.float32]], classes: Sequence[int], offset: int
    ) -> NDArray[np.float64]:
        """Return the log-probability of the true class of each picture, float64 (pictures,).

        `rows`: all scores of each picture. `classes`: the true classes. `offset`: position of the first class
        among the scores.
        """
        values = np.stack(rows)[:, offset : offset + self.classes].astype(np.float64)
        return log_probabilities(values, classes, self.activation)

    def _session(self, layout: str) -> OnnxSession:
        if layout not in self._sessions:
            spec = self._card.input.model_copy(update={"layout": layout})
            session = OnnxSession(self._content, self._card.model_copy(update={"input": spec}))
            session.activation = self.activation
            self._sessions[layout] = session
        return self._sessions[layout]


class _Tried:
    """Conventions that were run on pictures, and how well they do.

    `scores`: for each convention, the log-probability of each picture's true class, float64 (conventions,
    pictures). A convention that was far behind after FIRST_PICTURES was run no further, and has NaN for the
    later pictures. `right`: for each convention, the number of pictures that the network classifies
    correctly.
    """

    def __init__(
        self,
        network: _Network,
        pictures: Sequence[Labelled],
        conventions: Sequence[Convention],
        *,
        stop: bool = True,
    ) -> None:
        self.conventions = conventions
        self.left_out = _LeftOut()
        self.right = np.zeros(len(conventions), np.int64)
        self._network = network
        specs = list(dict.fromkeys(convention.input for convention in conventions))
        self._row = [specs.index(convention.input) for convention in conventions]
        self._logits: list[list[NDArray[np.float32]]] = [[] for _ in specs]
        self._classes: list[int] = []
        running = np.ones(len(conventions), bool)
        self._first: tuple[int, NDArray[np.float64]] | None = None
        for picture, image in _images(pictures, specs, self.left_out):
            self._classes.append(picture.class_id)
            rows = sorted({self._row[at] for at in np.flatnonzero(running).tolist()})
            for row, logits in zip(rows, network.run_on(image, [specs[row] for row in rows]), strict=True):
                self._logits[row].append(logits)
            for at in np.flatnonzero(running).tolist():
                offset = conventions[at].offset
                scores = self._logits[self._row[at]][-1][offset : offset + network.classes]
                self.right[at] += scores.argmax() == picture.class_id
            if stop and len(self._classes) == FIRST_PICTURES:
                scores_by_now = self._all_scores(running)
                self._first = best_row(scores_by_now), scores_by_now
                running = np.array(p_values(scores_by_now, self._first[0])) >= HOPELESS
        self.scores = self._all_scores(running)
        self._stopped = [bool(np.isnan(row).any()) for row in self.scores]

    def _all_scores(self, running: NDArray[np.bool_]) -> NDArray[np.float64]:
        scores = np.full((len(self.conventions), len(self._classes)), np.nan)
        for at, convention in enumerate(self.conventions):
            rows = self._logits[self._row[at]][: None if running[at] else FIRST_PICTURES]
            if rows:
                classes = self._classes[: len(rows)]
                scores[at, : len(rows)] = self._network.log_probabilities(rows, classes, convention.offset)
        return scores

    def p_values(self, best: int) -> list[float]:
        """Return the p value of each convention in a comparison with the convention at index `best`.

        A convention that stopped after FIRST_PICTURES did so because its p value was below HOPELESS. The p
        value computed here could be larger: with the later pictures, another convention may be the best one,
        and the temperature of the best one may be different. The result for a convention that stopped is
        therefore limited to HOPELESS.
        """
        by_now = p_values(self.scores, best)
        return [min(p, HOPELESS) if gone else p for p, gone in zip(by_now, self._stopped, strict=True)]

    def least_assuming(self, findings: _Findings) -> Convention:
        """Return the first convention that is not significantly worse than the best one.

        `self.conventions` begins with the convention that would be used without pictures. That one is
        returned unless the pictures rule it out. Conventions that differ from the best one in a decided fact
        are skipped. The decided and the undecided facts are added to `findings`.
        """
        best = best_row(self.scores)
        values = self.conventions[best].values
        p_of = self.p_values(best)
        for fact in values:
            rivals = self._rivals(fact, p_of, best)
            if len(rivals.alike) > 1:
                findings.undecided[fact] = tuple(rivals.alike)
            elif rivals.behind is not None:
                findings.decided[fact] = f"{values[fact]}: {self.ahead(best, rivals.behind, fact)}"
        return next(
            convention
            for convention, p in zip(self.conventions, p_of, strict=True)
            if p >= SIGNIFICANCE
            and all(
                convention.values[fact] == values[fact] for fact in values if fact not in findings.undecided
            )
        )

    def ahead(self, best: int, rival: int, fact: str) -> str:
        """Return text on how far the convention at index `best` is ahead of the one at index `rival`.

        The text names the rival by its value of `fact`.
        """
        return self.words(best, rival).format(self.conventions[rival].values[fact])

    def words(self, best: int, rival: int) -> str:
        """Return text on how far the convention at index `best` is ahead of the one at index `rival`.

        The text has {} where the rival's name belongs. If the rival was run on FIRST_PICTURES only, it is
        compared with the convention that was best on these pictures.
        """
        scores = self.scores
        if self._first is not None and self._stopped[rival]:
            best, scores = self._first
        return ahead(scores[best] - scores[rival], rivals(scores))

    def _rivals(self, fact: str, p_of: Sequence[float], best: int) -> _Rivals:
        """Compare the best convention with those that have other values of `fact`."""
        means = self.scores.mean(axis=1)
        if self._first is not None:
            means = np.where(self._stopped, self._first[1].mean(axis=1), means)
        order = np.lexsort((means, np.logical_not(self._stopped)))  # those that stopped come first
        rank = {int(at): place for place, at in enumerate(order)}
        mine = self.conventions[best].values[fact]
        alike = {mine}
        nearest: dict[str, int] = {}
        for at, convention in enumerate(self.conventions):
            value = convention.values[fact]
            if value == mine:
                continue
            if p_of[at] >= SIGNIFICANCE:
                alike.add(value)
            if value not in nearest or rank[at] > rank[nearest[value]]:
                nearest[value] = at
        values = dict.fromkeys(convention.values[fact] for convention in self.conventions)
        behind = max(nearest.values(), key=rank.__getitem__, default=None)
        return _Rivals([value for value in values if value in alike], behind)


@dataclass(frozen=True)
class _Rivals:
    """Values of one fact that compete with the best convention's value.

    `alike`: the best convention's value, and the values that the pictures cannot tell from it. `behind`: the
    index of the convention that does best among those with another value of the fact than the best
    convention's; this value may be in `alike`. It is None if there is no such convention.
    """

    alike: Sequence[str]
    behind: int | None


def _judge_fitting(
    network: _Network,
    pictures: Sequence[Labelled],
    first: Convention,
    fixed: Collection[str],
    findings: _Findings,
) -> tuple[InputSpec, str | None]:
    """Return the input with the fitting to use, and text about a fitting or filter that does better.

    The text is None if no other fitting or filter does better, or if the pictures decide that the fitting is
    "stretch". Decided and undecided facts and contradictions are added to `findings`. The fitting is also
    fixed if only `input.resize` is in `fixed`, because a resize implies a centre crop.
    """
    tried = _Tried(network, pictures, list(of_fittings(first.input, first.offset)), stop=False)
    spec = first.input
    if "input.interpolation" not in fixed:
        filters = dict.fromkeys(convention.input.interpolation for convention in tried.conventions)
        findings.undecided["input.interpolation"] = tuple(filters)
    squeezed = _squeezed(network, pictures, first)
    stretches = adjusted(squeezed, 2) < SIGNIFICANCE
    keeps = adjusted(-squeezed, 2) < SIGNIFICANCE
    words = ""
    if stretches:
        words = ahead(squeezed, 2).format("the same undistorted")
    elif keeps:
        words = ahead(-squeezed, 2).format("the same squeezed")
    path = "input.fitting"
    is_stretch = spec.fitting == "stretch"
    if {path, "input.resize"} & set(fixed):
        if stretches and not is_stretch:
            _note(findings, spec, first.offset, path, {"fitting": "stretch"}, words)
        elif keeps and is_stretch:
            _note(findings, spec, first.offset, path, {"fitting": "center-crop"}, words)
        return spec, _advice(tried, spec, {*fixed, path})
    fittings = list(dict.fromkeys(fitting_words(convention.input) for convention in tried.conventions))
    if stretches:
        findings.decided[path] = f"stretch: {words}"
        side = max(spec.height, spec.width)
        return spec.model_copy(update={"fitting": "stretch", "resize": side}), None
    if keeps:
        fittings.remove("stretch")
        if is_stretch:
            other = next(one.input for one in tried.conventions if one.input.fitting != "stretch")
            spec = spec.model_copy(update={"fitting": other.fitting, "resize": other.resize})
    findings.undecided[path] = tuple(fittings)
    return spec, _advice(tried, spec, fixed, without="stretch" if keeps else "")


def _note(
    findings: _Findings, spec: InputSpec, offset: int, path: str, changes: dict[str, str], words: str
) -> None:
    better = spec.model_copy(update=changes)
    findings.contradictions.append(Contradiction(Convention(better, offset, {}), (path,), words))


def _advice(tried: _Tried, spec: InputSpec, fixed: Collection[str], *, without: str = "") -> str | None:
    """Return text about a fitting or filter that does better here than that of `spec`, or None.

    Only conventions that agree with `spec` in the `fixed` facts are compared. `without`: a fitting that is
    ruled out.
    """
    own = next(convention for convention in tried.conventions if convention.input == spec)
    rows = [
        at
        for at, convention in enumerate(tried.conventions)
        if convention.input.fitting != without
        and all(convention.values[path] == own.values[path] for path in own.values if path in fixed)
    ]
    scores = tried.scores[rows]
    best, mine = best_row(scores), rows.index(tried.conventions.index(own))
    if best == mine or p_values(scores, best)[mine] >= SIGNIFICANCE:
        return None
    better = tried.conventions[rows[best]]
    value, other = (
        ", ".join(one.values[path] for path in own.values if better.values[path] != own.values[path])
        for one in (better, own)
    )
    return f"{value}: {ahead(scores[best] - scores[mine], rivals(scores)).format(other)}"


def _squeezed(network: _Network, pictures: Sequence[Labelled], convention: Convention) -> NDArray[np.float64]:
    """Return how much higher the log-probability of the true class is if a picture is squeezed.

    Each picture is classified twice: once squeezed and once undistorted. Both inputs show the same part of
    the picture, on an equal area. The rest of each input has the mean colour of this part. The result is
    float64 (pictures,), without the pictures that have almost the aspect ratio of the input.
    """
    spec = convention.input
    side = max(spec.height, spec.width)
    squeezing = spec.model_copy(update={"fitting": "stretch", "resize": 2 * side})
    plain: list[NDArray[np.float32]] = []
    squeezed: list[NDArray[np.float32]] = []
    classes: list[int] = []
    for picture, image in _images(pictures, [squeezing], _LeftOut()):
        regions = _regions(image, spec)
        if regions is None:
            continue
        pixels = _common_part(image.pixels, regions)
        for logits, region in zip((plain, squeezed), regions, strict=True):
            logits.append(network.run(preprocess(pixels, squeezing, box=region), spec.layout))
        classes.append(picture.class_id)
    if not classes:
        return np.zeros(0)
    scores = [network.log_probabilities(rows, classes, convention.offset) for rows in (plain, squeezed)]
    return scores[1] - scores[0]


def _regions(image: DecodedImage, spec: InputSpec) -> tuple[Box, Box] | None:
    """Return two regions of a picture that have equal area and the same centre.

    The first region has the aspect ratio of the network's input, so it is not distorted when it fills the
    input. The second region has the aspect ratio of the picture, so it is squeezed. If that would squeeze it
    by more than the factor _MOST_SQUEEZED, its aspect ratio is chosen such that it is squeezed by this
    factor. Returns None if picture and input have almost the same aspect ratio.
    """
    left, top, right, bottom = image.box
    across, down = (right - left) / spec.width, (bottom - top) / spec.height  # in units of a square input
    if max(across / down, down / across) < _NOT_SQUARE:
        return None
    wide = math.sqrt(min(max(across / down, 1 / _MOST_SQUEEZED), _MOST_SQUEEZED))
    side = min(across, down, across / wide, down * wide)

    def around(half_width: float, half_height: float) -> Box:
        column, row = (left + right) / 2, (top + bottom) / 2
        return (
            max(left, column - half_width),
            max(top, row - half_height),
            min(right, column + half_width),
            min(bottom, row + half_height),
        )

    half_width, half_height = side * spec.width / 2, side * spec.height / 2
    return around(half_width, half_height), around(half_width * wide, half_height / wide)


def _common_part(pixels: NDArray[np.uint8], regions: tuple[Box, Box]) -> NDArray[np.uint8]:
    """Return a copy of `pixels`, uint8 (H, W, 3), in which only the common part of the regions is visible.

    All other pixels have the mean colour of this part.
    """
    left, top = (math.floor(max(box[at] for box in regions)) for at in (0, 1))
    right, bottom = (math.ceil(min(box[at] for box in regions)) for at in (2, 3))
    part = pixels[top:bottom, left:right]
    result = np.empty_like(pixels)
    result[:] = part.mean(axis=(0, 1)).round().astype(np.uint8)
    result[top:bottom, left:right] = part
    return result


def _contradict(
    network: _Network,
    pictures: Sequence[Labelled],
    chosen: Convention,
    ways: Iterable[Convention],
    fixed: Collection[str],
    findings: _Findings,
) -> None:
    """Add a contradiction to `findings` if a convention of `ways` does better than `chosen`.

    Only conventions that differ from `chosen` in a fixed fact are compared.
    """
    others = [other for other in ways if differing(other, chosen) & set(fixed)]
    if not others:
        return
    tried = _Tried(network, pictures, [chosen, *others])
    best = best_row(tried.scores)
    if best == 0 or tried.p_values(best)[0] >= SIGNIFICANCE:
        return
    winner = tried.conventions[best]
    differs = differing(winner, chosen)
    facts = tuple(path for path in chosen.values if path in differs & set(fixed))
    shown = [path for path in chosen.values if path in {*differs, "input.mean", "input.colour_order"}]
    wins, loses = (", ".join(one.values[path] for path in shown) for one in (winner, chosen))
    words = tried.words(best, 0).format(loses)
    words = f"{wins} names {tried.right[best]} of {tried.scores.shape[1]} right, {words}"
    findings.contradictions.append(Contradiction(winner, facts, words))


def _images(
    pictures: Sequence[Labelled], specs: Sequence[InputSpec], left_out: _LeftOut
) -> Iterator[tuple[Labelled, DecodedImage]]:
    """Yield the pictures that count, each decoded at a size that suffices for all `specs`.

    Copies and unreadable pictures are not yielded, but added to `left_out`.
    """
    seen: set[bytes] = set()
    for picture in pictures:
        try:
            image = load_image(read_regular(picture.path), *specs, max_pixels=_MAX_PIXELS)
        except (OSError, WeighinError) as error:
            left_out.unreadable[picture.path] = str(error)
            continue
        pixels = hashlib.sha256(repr(image.pixels.shape).encode() + image.pixels.tobytes()).digest()
        if pixels in seen:
            left_out.copies.append(picture.path)
            continue
        seen.add(pixels)
        yield picture, image


def _spread(pictures: Sequence[Labelled]) -> list[Labelled]:
    """Return at most MOST_PICTURES of the pictures, in an order that alternates between the classes.

    So the first pictures of the list, however many, are spread evenly over all classes.
    """
    by_class: dict[int, list[Labelled]] = {}
    for picture in pictures:
        by_class.setdefault(picture.class_id, []).append(picture)
    classes = [_scattered(of_class) for of_class in _scattered(list(by_class.values()))]
    turns = itertools.zip_longest(*classes)
    return [picture for turn in turns for picture in turn if picture is not None][:MOST_PICTURES]


def _scattered(items: Sequence[_Item]) -> list[_Item]:
    """Return `items` in an order in which the first items, however many, are spread over all items.

    The items are sorted by the fractional part of their index times the golden ratio.
    """
    return [items[at] for at in sorted(range(len(items)), key=lambda at: at * _GOLDEN % 1)]
