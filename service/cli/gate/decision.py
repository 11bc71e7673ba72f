"""Decide whether a network keeps its limits, from interleaved launches and from answers on the same pictures.

Latency: each launch is a new process. It gives one value: the interquartile mean of its rounds' log-ratios
(new network over base). Launches are independent, but rounds of one launch are not. So the interval is
Student's interval over the values of the launches. The gate looks at this interval after each launch from the
third on, and stops when the interval lies on one side of the limit. Several looks make an error more likely,
so each look has the stricter level LOOK_LEVEL. With this level, every one of the intervals of all looks
contains the true slowdown with a probability of 95 %. They are repeated confidence intervals (Jennison and
Turnbull, JRSS B 51, 1989) of Pocock's design (Biometrika 64, 1977). Pocock's levels are for the normal
distribution; LOOK_LEVEL is for Student's distribution.

Accuracy: there is one interval of the loss on the same pictures, which further measurements cannot narrow. It
is the smallest interval that contains two others (`loss_interval`). A network whose true loss equals the
limit passes at most about 2.5 % of gates and fails at most 2.5 %. This holds even if the networks answer only
very few pictures differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.zoo import paired
from models.zoo.statistics import student_quantile, wilson
from models.zoo.verdicts import MIN_DIFFERENCE, LogRatios, interquartile_mean

MIN_LAUNCHES = 3
MAX_LAUNCHES = 16
LOOK_LEVEL = 0.0087
"""Two-sided level of one look at the interval, after each of MIN_LAUNCHES to MAX_LAUNCHES launches.

With this level, the probability that any of these looks errs is 5 %. The level was found by simulating normal
values, because the distribution of their Student's t has no unknown parameter. A test repeats the simulation.
"""
_MOST_PICTURES = 1_000_000
"""If a decision needs more pictures than this, no number of pictures is given."""
_MOST_TIMES = 100
"""If a decision needs more launches than this multiple of MAX_LAUNCHES, no number of launches is given."""

Outcome = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Limits:
    """How much worse the new network may be.

    `max_slower` is the additional time that is allowed, as a share of the base's time. `max_loss` is the loss
    of accuracy that is allowed; 0.01 is one percentage point.
    """

    max_slower: float = 0.03
    max_loss: float = 0.005


@dataclass(frozen=True)
class Interval:
    """An estimated log-ratio with its sequential 95 % interval.

    `low` and `high` are None for fewer than MIN_LAUNCHES launches. `deviation` is the standard deviation of
    the launches' values.
    """

    mean: float
    low: float | None
    high: float | None
    deviation: float


@dataclass(frozen=True)
class LatencyJudgement:
    """What the launches so far say about the latency.

    `ratio` is the time of the new network divided by the time of the base. `control_ratio` is the time of the
    base's second measurement divided by the time of its first. `low`, `high`, `control_low` and
    `control_high` are the bounds of sequential 95 % intervals. `void` says that the control ratio differs
    from 1, so the latencies are not valid and `outcome` is `undecided`. `needs` says in words what a decision
    needs. `further_launches` estimates how many more launches a decision needs. It is None if the latency is
    decided or if no number is sensible.
    """

    outcome: Outcome
    ratio: float
    low: float | None
    high: float | None
    launches: int
    rounds: int
    control_ratio: float
    control_low: float | None
    control_high: float | None
    void: bool
    further_launches: int | None
    needs: str | None


@dataclass(frozen=True)
class AccuracyJudgement:
    """What the answers on `n` pictures say about the accuracy.

    `loss` is the accuracy of the base minus the accuracy of the new network, as a share; `low` and `high` are
    the ends of its 95 % interval. `only_base` and `only_new` are the numbers of pictures that only the base,
    or only the new network, answers correctly. They are None for detectors, whose loss is a loss of average
    precision. `needs` says in words what a decision needs. `pictures_needed` estimates how many pictures a
    decision needs. It is None if the accuracy is decided or if no number is sensible.
    """

    outcome: Outcome
    n: int
    only_base: int | None
    only_new: int | None
    loss: float
    low: float
    high: float
    pictures_needed: int | None
    needs: str | None


def side(low: float | None, high: float | None, limit: float) -> Outcome:
    """Return on which side of the limit an interval lies.

    Return `fail` if the whole interval is above the limit, and `pass` if the whole interval is below it.
    Return `undecided` in all other cases, and if the interval is unknown.
    """
    if low is None or high is None:
        return "undecided"
    if low > limit:
        return "fail"
    return "pass" if high < limit else "undecided"


def overall(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome that several outcomes give together.

    Return `fail` if any outcome is `fail`, and `pass` if all are `pass`. Return `undecided` in all other
    cases, and if there are no outcomes.
    """
    if "fail" in outcomes:
        return "fail"
    return "pass" if outcomes and all(outcome == "pass" for outcome in outcomes) else "undecided"


def log_ratios(
    base: Sequence[float], again: Sequence[float], new: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return the log-ratios of the rounds of a launch: first of the new network, then of the control.

    `base`, `again`, `new`: medians of the base, of the base measured again, and of the new network, in the
    same rounds. The new network is compared with the geometric mean of `base` and `again`. The control
    compares `again` with `base`.
    """
    logs = np.log(np.array([base, again, new], dtype=np.float64))
    return (logs[2] - logs[:2].mean(axis=0)).tolist(), (logs[1] - logs[0]).tolist()


def judge_latency(new: LogRatios, control: LogRatios, max_slower: float) -> LatencyJudgement:
    """Judge the slowdown from all launches so far. Call this after each launch from MIN_LAUNCHES on.

    For each launch, `new` contains the first list that `log_ratios` returns, and `control` the second one.
    `max_slower` is the allowed slowdown, 0.03 for 3 %. Raises ValueError in each of these cases: there are no
    launches; there are more than MAX_LAUNCHES launches, for which LOOK_LEVEL is not valid; a launch has no
    rounds; `new` and `control` have different launches; a ratio is not finite.
    """
    values, controls = _launch_values(new), _launch_values(control)
    if new.keys() != control.keys() or not 0 < len(values) <= MAX_LAUNCHES:
        raise ValueError(
            f"launches: {sorted(new)} and {sorted(control)} "
            f"(allowed: 1 to {MAX_LAUNCHES} launches, the same in both)"
        )
    limit = math.log1p(max_slower)
    slower, same = _interval(values), _interval(controls)
    tolerated = min(MIN_DIFFERENCE, max_slower / 3)
    void = side(same.low, same.high, 0.0) != "undecided" and abs(math.expm1(same.mean)) > tolerated
    outcome: Outcome = "undecided" if void else side(slower.low, slower.high, limit)
    further: int | None = None
    needs: str | None = None
    if void:
        needs = "a decision would take a machine on which the base measured twice equals itself"
    elif outcome == "undecided":
        further, needs = _more_launches(slower, len(values), limit)
    return LatencyJudgement(
        outcome=outcome,
        ratio=math.exp(slower.mean),
        low=_exp(slower.low),
        high=_exp(slower.high),
        launches=len(values),
        rounds=sum(map(len, new.values())),
        control_ratio=math.exp(same.mean),
        control_low=_exp(same.low),
        control_high=_exp(same.high),
        void=void,
        further_launches=further,
        needs=needs,
    )


def judge_accuracy(base: NDArray[np.bool_], new: NDArray[np.bool_], max_loss: float) -> AccuracyJudgement:
    """Judge the loss of accuracy.

    `base` and `new` say for each picture whether the network answers correctly, bool (n,), in the same order
    of pictures. The interval contains the interval of Agresti and Min and the interval of Tango
    (`models.zoo.paired`). If the networks answer few pictures differently, the first interval alone passes
    too often, and the second interval alone fails too often. `max_loss` is the allowed loss, 0.005 for half a
    point. Raises ValueError if the shapes differ or there are no pictures.
    """
    found = paired.compare(base, new)
    low, high = loss_interval(found.only_first, found.only_second, found.n)
    outcome = side(low, high, max_loss)
    pictures, needs = None, None
    if outcome == "undecided":

        def decided(count: int) -> bool:
            per_picture = count / found.n
            expected = found.only_first * per_picture, found.only_second * per_picture
            return side(*loss_interval(*expected, count), max_loss) != "undecided"

        pictures, needs = _more_pictures(found.n, found.difference, max_loss, decided)
    return AccuracyJudgement(
        outcome=outcome,
        n=found.n,
        only_base=found.only_first,
        only_new=found.only_second,
        loss=found.difference,
        low=low,
        high=high,
        pictures_needed=pictures,
        needs=needs,
    )


def judge_average_precision(
    n: int, objects: int, loss: float, low: float, high: float, max_loss: float
) -> AccuracyJudgement:
    """Judge the loss of average precision on `n` pictures.

    `low` and `high` are the ends of the 95 % interval of the loss. If the networks answer few pictures
    differently, `low` and `high` are too close to the loss. So another interval is judged. It extends from
    the loss equally far to both sides, by half of `high - low` or by a minimum, whichever is larger. The
    minimum is the upper bound of Wilson's interval for 0 of `n`, or for 0 of `objects` (the number of objects
    in the pictures) if there are fewer objects than pictures. The estimate of the pictures needed assumes
    that `high - low` is inversely proportional to the square root of the number of pictures.
    """
    half = (high - low) / 2

    def half_width(count: int) -> float:
        return max(half * math.sqrt(n / count), wilson(0, count * min(1.0, objects / n))[1])

    low, high = loss - half_width(n), loss + half_width(n)
    outcome = side(low, high, max_loss)
    pictures, needs = None, None
    if outcome == "undecided":
        pictures, needs = _more_pictures(
            n, loss, max_loss, lambda count: half_width(count) < abs(loss - max_loss)
        )
    return AccuracyJudgement(outcome, n, None, None, loss, low, high, pictures, needs)


def loss_interval(only_base: float, only_new: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of the loss, which contains both intervals of `models.zoo.paired`.

    The counts may be expected values, which need not be whole numbers.
    """
    both = paired.interval(only_base, only_new, n), paired.score_interval(only_base, only_new, n)
    return min(low for low, _ in both), max(high for _, high in both)


def _launch_values(ratios: LogRatios) -> NDArray[np.float64]:
    launches = list(ratios.values())
    lengths = set(map(len, launches))
    if 0 in lengths or not all(map(math.isfinite, chain.from_iterable(launches))):
        raise ValueError("log-ratios: a launch without rounds, or a ratio that is not finite")
    if len(lengths) == 1:  # all launches at once take a tenth of the time
        return interquartile_mean(np.array(launches, np.float64))
    return np.array([float(interquartile_mean(np.array(rounds, np.float64))) for rounds in launches])


def _interval(values: NDArray[np.float64]) -> Interval:
    count = len(values)
    mean = float(values.mean())
    if count < MIN_LAUNCHES:
        return Interval(mean, None, None, 0.0)
    deviation = float(values.std(ddof=1))
    half = _half_width(deviation, count)
    return Interval(mean, mean - half, mean + half, deviation)


def _half_width(deviation: float, launches: int) -> float:
    return student_quantile(launches - 1, LOOK_LEVEL) * deviation / math.sqrt(launches)


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)


def _more_launches(slower: Interval, launches: int, limit: float) -> tuple[int | None, str]:
    if launches < MIN_LAUNCHES:
        further = MIN_LAUNCHES - launches
        return further, f"a decision would take {MIN_LAUNCHES} launches at least (measured: {launches})"
    distance = abs(slower.mean - limit)
    enough = _first(
        lambda count: _half_width(slower.deviation, count) < distance,
        launches + 1,
        _MOST_TIMES * MAX_LAUNCHES,
    )
    near = f"the slowdown is within {abs(math.expm1(distance)):.1%} of the limit"
    if enough is None:
        return None, f"{near}: no sensible number of launches decides it"
    if enough > MAX_LAUNCHES:
        return (
            None,
            f"{near}: a decision would take about {enough} launches (at most {MAX_LAUNCHES} are made)",
        )
    return enough - launches, f"a decision would take about {enough - launches} further launches"


def _more_pictures(
    n: int, loss: float, max_loss: float, decided: Callable[[int], bool]
) -> tuple[int | None, str]:
    """Return the smallest number of pictures for which `decided` holds, and a sentence that states it.

    The number is None if it would be larger than _MOST_PICTURES.
    """
    enough = _first(decided, n + 1, _MOST_PICTURES)
    if enough is None:
        return None, (
            f"the loss is within {100 * abs(loss - max_loss):.2f} points of the limit: "
            f"{_MOST_PICTURES} pictures would not decide it"
        )
    return enough, f"a decision would take about {enough} pictures of this kind (given: {n})"


def _first(holds: Callable[[int], bool], low: int, most: int) -> int | None:
    """Return the smallest number from `low` to `most` for which `holds` is true.

    Return None if `holds` is true for none of them. If `holds` is true for a number, it must be true for all
    larger numbers.
    """
    if low > most or not holds(most):
        return None
    high = most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
