"""Preprocessing by evidence: the convention that labelled pictures support, and those they cannot tell apart.

Every convention is run on the same pictures and scored by the log-probability of each picture's true class,
at the temperature that suits the convention best: what only makes logits larger gains nothing. Two
conventions differ where the paired differences do: a sign-flip permutation test, adjusted by Holm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.zoo.card import Activation, Card, InputSpec
from models.zoo.files import read_regular
from models.zoo.statistics import holm
from service.errors import WeighinError
from service.inference.pipeline import load_image, to_tensor
from service.inference.session import OnnxSession

SIGNIFICANCE = 0.01
"""Two conventions differ below this adjusted p value."""
FLIPS = 20_000
"""Random sign flips of one test: p values down to 1/20 001."""
FIRST_PICTURES = 20
"""All conventions run on these; those far behind, with a p value below HOPELESS, run no further."""
HOPELESS = 0.001
MOST_PICTURES = 200
_MAX_PIXELS = 64_000_000
_LEAST_LOG_PROBABILITY = -20.0
"""Scores are cut here, so that one picture cannot decide alone."""
_SHARPNESSES = np.geomspace(0.1, 30, 25)
"""Inverse temperatures that are tried, of logits whose standard deviation over the classes is 1."""
_DIGITS = 3
"""Decimals of a score: differences below are those of rounding."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

NORMALISATIONS: Mapping[str, Normalisation] = {
    "0 to 255": ((0.0,) * 3, (1.0,) * 3),
    "0 to 1": ((0.0,) * 3, (255.0,) * 3),
    "-1 to 1": ((127.5,) * 3, (127.5,) * 3),
    "ImageNet mean and deviation": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "ImageNet mean, 0 to 255": ((123.68, 116.779, 103.939), (1.0,) * 3),
}
"""Mean and deviation in pixel values, RGB, by name; the least assuming first."""


@dataclass(frozen=True)
class Labelled:
    """A picture and the class that it shows."""

    path: Path
    class_id: int


@dataclass(frozen=True)
class Evidence:
    """Result of comparing conventions on labelled pictures.

    `input` is the convention to use. `decided` has, for each fact that the pictures settle, by how much its
    value is ahead, in words; `undecided` the values of each fact that they cannot tell apart, of which
    `input` has the least assuming. Facts are paths in the card; `input.mean` stands for mean and std.
    `correct`: the pictures that the network names right with `input`.

    `contradiction`: where another value of a fixed fact does better; None where none does.

    `fitting`: in words, that another fitting does better on these pictures; None if none does. It is advice
    and no evidence of how the network was trained: pictures framed tightly favour a larger crop, whatever
    the network.
    """

    input: InputSpec
    pictures: int
    correct: int
    unreadable: Mapping[str, str]
    decided: Mapping[str, str]
    undecided: Mapping[str, tuple[str, ...]]
    fitting: str | None
    contradiction: Contradiction | None = None


@dataclass(frozen=True)
class Contradiction:
    """Pictures that speak against what is stated.

    `input`: the convention that does best; `facts`: the fixed facts in which it differs, by path; `words`: by
    how much it is ahead.
    """

    input: InputSpec
    facts: tuple[str, ...]
    words: str


@dataclass(frozen=True)
class _Convention:
    """One way to prepare a picture; `values` has what it chooses for each fact, in words."""

    input: InputSpec
    values: Mapping[str, str]


def judge(content: bytes, card: Card, pictures: Sequence[Labelled], *, fixed: Collection[str]) -> Evidence:
    """Find the preprocessing that labelled pictures support, for the ONNX file `content` of `card`.

    Normalisation and colour order are tried in all combinations, unless their paths are in `fixed`
    (`input.mean`, `input.colour_order`); then other fittings, unless `input.fitting` is. Fixed facts are
    tried too, but only to report where the pictures contradict them. The graph's own
    shape, layout and dtype are facts of the file, and its class offset of the labels' number. At most
    MOST_PICTURES are used.

    Raises ValueError where no picture can be read, SessionError for a file that cannot be loaded, and
    ModelUnavailable for one that cannot be run.
    """
    session = OnnxSession(content, card)
    session.activation = card.outputs.get("activation", "none")
    pictures = _spread(pictures)
    undecided: dict[str, tuple[str, ...]] = {}
    conventions = list(_values_of_pixels(card.input, fixed))
    scores, right, unreadable = _scores(session, pictures, conventions)
    if not scores.size:
        named = "; ".join(f"{name}: {problem}" for name, problem in list(unreadable.items())[:3])
        raise ValueError(f"pictures: none of {len(pictures)} can be read ({named or 'there are none'})")
    best = _best(scores)
    values = conventions[best].values
    p_values = _p_values(scores, best)
    decided: dict[str, str] = {}
    for fact in values:
        rivals = _rivals(fact, conventions, scores, p_values, best)
        if rivals.open:
            undecided[fact] = tuple(rivals.open)
        elif rivals.behind is not None:
            decided[fact] = _words(fact, conventions, scores, best, rivals.behind)
    # Conventions come in the order of how much they assume: the first that cannot be told from the best.
    chosen = next(
        index
        for index, convention in enumerate(conventions)
        if p_values[index] >= SIGNIFICANCE
        and all(convention.values[fact] == value for fact, value in values.items() if fact not in undecided)
    )
    spec = conventions[chosen].input
    fitting = None if "input.fitting" in fixed else _compare_fittings(session, pictures, spec)
    against = _contradiction(session, pictures, spec, fixed)
    return Evidence(
        spec, scores.shape[1], int(right[chosen]), unreadable, decided, undecided, fitting, against
    )


def _contradiction(
    session: OnnxSession, pictures: Sequence[Labelled], spec: InputSpec, fixed: Collection[str]
) -> Contradiction | None:
    """Return the convention that does better on the pictures than `spec`, with nothing fixed."""
    others = [other for other in _values_of_pixels(spec, ()) if _differences(other.input, spec) & set(fixed)]
    if not others:
        return None
    stated = {"input.mean": _named((spec.mean, spec.std)), "input.colour_order": spec.colour_order}
    conventions = [_Convention(spec, stated), *others]
    scores, right, _ = _scores(session, pictures, conventions)
    best = _best(scores)
    if best == 0 or _p_values(scores, best)[0] >= SIGNIFICANCE:
        return None
    winner = conventions[best]
    difference = (
        _words("input.mean", conventions, scores, best, 0).partition(": ")[2].partition(" than with ")
    )
    words = (
        f"{', '.join(winner.values.values())} names {right[best]} of {scores.shape[1]} right, "
        f"{difference[0]} than with {', '.join(stated.values())}, {difference[2].rpartition(', ')[2]}"
    )
    facts = tuple(path for path in stated if path in _differences(winner.input, spec) & set(fixed))
    return Contradiction(winner.input, facts, words)


def _differences(one: InputSpec, other: InputSpec) -> set[str]:
    """Return the facts of pixels that differ, means and deviations by more than rounding."""
    alike = np.allclose(one.mean, other.mean, atol=2) and np.allclose(one.std, other.std, rtol=0.02)
    differing = set() if alike else {"input.mean"}
    return differing | ({"input.colour_order"} if one.colour_order != other.colour_order else set())


def _compare_fittings(session: OnnxSession, pictures: Sequence[Labelled], spec: InputSpec) -> str | None:
    """Say that another fitting does better on the pictures than the one of `spec`; None if none does."""
    conventions = list(_fittings(spec))
    scores, _, _ = _scores(session, pictures, conventions)
    best = _best(scores)
    if best == 0 or _p_values(scores, best)[0] >= SIGNIFICANCE:
        return None
    return _words("input.fitting", conventions, scores, best, 0)


@dataclass(frozen=True)
class _Rivals:
    """The values of one fact: those that cannot be told from the best, and the nearest one that can."""

    open: Sequence[str]
    behind: int | None


def _rivals(
    fact: str,
    conventions: Sequence[_Convention],
    scores: NDArray[np.float64],
    p_values: Sequence[float],
    best: int,
) -> _Rivals:
    """Compare the best convention with the best one of each other value of `fact`."""
    means = np.nanmean(scores, axis=1)
    mine = conventions[best].values[fact]
    alike = [mine]
    nearest: dict[str, int] = {}
    for index, convention in enumerate(conventions):
        value = convention.values[fact]
        if value == mine:
            continue
        if p_values[index] >= SIGNIFICANCE and value not in alike:
            alike.append(value)
        if value not in nearest or means[index] > means[nearest[value]]:
            nearest[value] = index
    order = list(dict.fromkeys(convention.values[fact] for convention in conventions))
    behind = max(nearest.values(), key=means.__getitem__, default=None)
    return _Rivals([value for value in order if value in alike] if len(alike) > 1 else (), behind)


def _words(
    fact: str, conventions: Sequence[_Convention], scores: NDArray[np.float64], best: int, rival: int
) -> str:
    """Say by how much the best convention is ahead of a rival, with two standard errors."""
    value = conventions[best].values[fact]
    difference = scores[best] - scores[rival]
    difference = difference[~np.isnan(difference)]
    spread = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return (
        f"{value}: log-probability of the true class higher by {difference.mean():.2f} ± {2 * spread:.2f} "
        f"than with {conventions[rival].values[fact]}, {len(difference)} pictures"
    )


def _values_of_pixels(spec: InputSpec, fixed: Collection[str]) -> Iterator[_Convention]:
    """Yield every normalisation with every colour order; the least assuming first."""
    own = (spec.mean, spec.std)
    ranges: dict[str, Normalisation] = {}
    if "input.mean" in fixed or spec.dtype == "uint8" or spec.channels != 3:
        ranges[_named(own)] = own
    else:
        ranges.update(NORMALISATIONS)
    orders = (spec.colour_order,) if "input.colour_order" in fixed or spec.channels != 3 else ("rgb", "bgr")
    for name, (mean, std) in ranges.items():
        for order in orders:
            backwards = order == "bgr" and len(ranges) > 1
            changes = {
                "mean": mean[::-1] if backwards else mean,
                "std": std[::-1] if backwards else std,
                "colour_order": order,
            }
            values = {"input.mean": name, "input.colour_order": order}
            yield _Convention(spec.model_copy(update=changes), values)


def _fittings(spec: InputSpec) -> Iterator[_Convention]:
    """Yield the fittings that classifiers are evaluated with; that of `spec` first."""
    yield _Convention(spec, {"input.fitting": _fitting_words(spec)})
    side = max(spec.height, spec.width)
    for resize in (round(side / 0.875), side):
        for interpolation in ("bilinear", "bicubic"):
            yield from _other(spec, fitting="center-crop", resize=resize, interpolation=interpolation)
    yield from _other(spec, fitting="stretch", resize=side, interpolation="bilinear")


def _other(spec: InputSpec, **changes: object) -> Iterator[_Convention]:
    changed = spec.model_copy(update=changes)
    if changed != spec:
        yield _Convention(changed, {"input.fitting": _fitting_words(changed)})


def _fitting_words(spec: InputSpec) -> str:
    resize = f" of {spec.resize}" if spec.fitting == "center-crop" else ""
    return f"{spec.fitting}{resize}, {spec.interpolation}"


def _named(normalisation: Normalisation) -> str:
    for name, known in NORMALISATIONS.items():
        if known == normalisation:
            return name
    return f"mean {list(normalisation[0])}, std {list(normalisation[1])}"


def _spread(pictures: Sequence[Labelled]) -> list[Labelled]:
    """Return at most MOST_PICTURES, evenly spread, in an order in which every beginning is spread too."""
    step = max(1, len(pictures) // FIRST_PICTURES)
    ordered = [picture for start in range(step) for picture in pictures[start::step]]
    return ordered[:MOST_PICTURES]


def _scores(
    session: OnnxSession, pictures: Sequence[Labelled], conventions: Sequence[_Convention]
) -> tuple[NDArray[np.float64], NDArray[np.int64], dict[str, str]]:
    """Return the log-probability of each picture's class, float64 (conventions, pictures), the number of
    pictures that each convention names right, and what is wrong with pictures that cannot be read.

    Conventions that are far behind after FIRST_PICTURES run no further: NaN.
    """
    logits: list[list[NDArray[np.float32]]] = [[] for _ in conventions]
    classes: list[int] = []
    right = np.zeros(len(conventions), np.int64)
    unreadable: dict[str, str] = {}
    running = np.ones(len(conventions), bool)
    for picture in pictures:
        try:
            image = load_image(
                read_regular(picture.path), *(one.input for one in conventions), max_pixels=_MAX_PIXELS
            )
        except (OSError, WeighinError) as error:
            unreadable[picture.path.name] = str(error)
            continue
        classes.append(picture.class_id)
        for row in np.flatnonzero(running).tolist():
            logits[row].append(session.run(to_tensor(image, conventions[row].input))["logits"][0])
            right[row] += logits[row][-1].argmax() == picture.class_id
        if len(classes) == FIRST_PICTURES:
            scores = _all_scores(logits, classes, session.activation)
            running = np.array(_p_values(scores, _best(scores))) >= HOPELESS
    return _all_scores(logits, classes, session.activation), right, unreadable


def _all_scores(
    logits: Sequence[Sequence[NDArray[np.float32]]], classes: Sequence[int], activation: Activation
) -> NDArray[np.float64]:
    """Return the scores, float64 (conventions, pictures); NaN where a convention ran no further."""
    scores = np.full((len(logits), len(classes)), np.nan)
    for row, rows in enumerate(logits):
        if rows:
            values = np.stack(rows).astype(np.float64)
            scores[row, : len(rows)] = _log_probabilities(values, classes[: len(rows)], activation)
    return scores


def _best(scores: NDArray[np.float64]) -> int:
    """Return the convention with the highest mean of those that ran on all pictures."""
    means = scores.mean(axis=1)
    return int(np.nanargmax(means))


def _p_values(scores: NDArray[np.float64], best: int) -> list[float]:
    """Return how likely it is that each convention is as good as the best, adjusted by Holm.

    Those that ran no further keep to HOPELESS, whatever temperature more pictures gave the best one.
    """
    adjusted = holm([_p_value(scores[best] - other) for other in scores])
    return [min(p, HOPELESS) if np.isnan(row).any() else p for p, row in zip(adjusted, scores, strict=True)]


def _log_probabilities(
    logits: NDArray[np.float64], classes: Sequence[int], activation: Activation
) -> NDArray[np.float64]:
    """Return the log-probability of each picture's class, float64 (pictures,), cut below.

    `logits` is (pictures, classes). One temperature is fitted to all pictures, except for sigmoids.
    """
    values = logits if activation == "none" else np.log(np.maximum(logits, 1e-30))
    pictures = np.arange(len(values))
    if activation == "sigmoid":
        return np.maximum(values[pictures, classes], _LEAST_LOG_PROBABILITY)
    values = values - values.max(axis=1, keepdims=True)
    values /= values.std(axis=1).mean() or 1
    best = np.full(len(values), -np.inf)
    for sharpness in _SHARPNESSES:
        scaled = values * sharpness
        found = scaled[pictures, classes] - np.log(np.exp(scaled).sum(axis=1))
        found = np.maximum(found, _LEAST_LOG_PROBABILITY)
        if found.mean() > best.mean():
            best = found
    return best.round(_DIGITS)


def _p_value(differences: NDArray[np.float64]) -> float:
    """Return the one-sided p value of a positive mean, by sign flips of the paired `differences`.

    All 2^n flips where they are fewer than FLIPS, else FLIPS random ones (a fixed seed).
    """
    differences = differences[~np.isnan(differences)]
    n = len(differences)
    if not differences.any():
        return 1.0
    if 2**n <= FLIPS:
        signs = np.where((np.arange(2**n)[:, None] >> np.arange(n)) & 1, -1.0, 1.0)
        return float((signs @ differences >= differences.sum() - 1e-12).mean())
    signs = np.random.default_rng(0).integers(0, 2, (FLIPS, n), np.int8) * 2.0 - 1
    as_large = int((signs @ differences >= differences.sum() - 1e-12).sum())
    return (as_large + 1) / (FLIPS + 1)
