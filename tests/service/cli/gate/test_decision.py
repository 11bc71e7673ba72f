"""Decisions: the level of all looks together by simulation, every outcome, and what it would take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from models.zoo.statistics import student_quantile, wilson
from models.zoo.verdicts import LogRatios
from service.cli.gate.decision import (
    LOOK_LEVEL,
    MAX_LAUNCHES,
    MIN_LAUNCHES,
    LatencyJudgement,
    Outcome,
    judge_accuracy,
    judge_average_precision,
    judge_latency,
    log_ratios,
    loss_interval,
    overall,
    side,
)
from tests.service.cli.gate.answers import answers

LIMIT = 0.03
LOOKS = range(MIN_LAUNCHES, MAX_LAUNCHES + 1)


def ratios(values: NDArray[np.float64], rounds: int = 1) -> dict[int, list[float]]:
    """Launches of equal rounds with these log-ratios."""
    return {launch: [value] * rounds for launch, value in enumerate(values.tolist())}


def judged(new: LogRatios, control: LogRatios | None = None) -> LatencyJudgement:
    """Judge against 3 %; the control of the base is spread evenly around none unless given."""
    if control is None:
        control = {launch: [0.001 * (-1) ** launch] for launch in new}
    return judge_latency(new, control, LIMIT)


def looks_of(slowdown: float, spread: float, random: np.random.Generator) -> Iterator[LatencyJudgement]:
    """Look at a gate after each launch; log-ratios of launches are normal."""
    new = random.normal(math.log1p(slowdown), spread, MAX_LAUNCHES)
    control = random.normal(0, spread, MAX_LAUNCHES)
    for count in LOOKS:
        yield judged(ratios(new[:count]), ratios(control[:count]))


def decided(looks: Iterable[LatencyJudgement]) -> Outcome:
    """Return the outcome of the first look that decides."""
    return next((look.outcome for look in looks if look.outcome != "undecided"), "undecided")


@pytest.mark.slow
def test_all_looks_together_hold_the_truth_with_95_percent() -> None:
    """Of looks at Student's t of normal values, each at LOOK_LEVEL, any leaves the truth out in 5 %."""
    values = np.random.default_rng(1).standard_normal((200_000, MAX_LAUNCHES))
    left_out = np.zeros(len(values), bool)
    for count in LOOKS:
        of_look = values[:, :count]
        half = student_quantile(count - 1, LOOK_LEVEL) * of_look.std(axis=1, ddof=1) / math.sqrt(count)
        left_out |= np.abs(of_look.mean(axis=1)) > half
    low, high = wilson(int(left_out.sum()), len(values))
    assert low > 0.046
    assert high < 0.0515


@pytest.mark.parametrize(("slowdown", "right"), [(0.0, "pass"), (0.08, "fail")])
def test_clear_differences_are_decided(slowdown: float, right: Outcome) -> None:
    random = np.random.default_rng(3)
    outcomes = [decided(looks_of(slowdown, 0.01, random)) for _ in range(150)]
    wrong = sum(outcome not in (right, "undecided") for outcome in outcomes)
    assert wrong <= 2
    assert outcomes.count(right) >= 140


@pytest.mark.fault
def test_differences_at_the_limit_are_called_wrong_in_at_most_5_percent() -> None:
    """2.5 % on either side, within three standard errors of 1000 gates.

    In 5 %, any look has an interval that leaves the truth out.
    """
    random = np.random.default_rng(5)
    outcomes: list[Outcome] = []
    left_out = 0
    for _ in range(1000):
        looks = list(looks_of(LIMIT, 0.01, random))
        outcomes.append(decided(looks))
        left_out += any(not (look.low or 0) <= 1 + LIMIT <= (look.high or math.inf) for look in looks)
    for side_of_limit in ("pass", "fail"):
        assert 0.01 < outcomes.count(side_of_limit) / len(outcomes) < 0.04
    assert 0.035 < left_out / len(outcomes) < 0.065


def test_rounds_of_a_launch_are_not_counted_as_independent() -> None:
    """A hundred equal rounds per launch narrow nothing."""
    values = np.array([0.01, -0.01, 0.0])
    one, many = judged(ratios(values)), judged(ratios(values, rounds=100))
    assert (one.low, one.high) == pytest.approx((many.low, many.high))
    assert (one.rounds, many.rounds) == (3, 300)


def test_launches_of_unlike_numbers_of_rounds_give_one_value_each() -> None:
    unlike = judged({0: [0.02, 0.5, 0.0, 0.01], 1: [0.01], 2: [0.02, 0.0]})
    alike = judged({0: [0.015], 1: [0.01], 2: [0.01]})
    assert (unlike.ratio, unlike.low, unlike.high) == pytest.approx((alike.ratio, alike.low, alike.high))
    assert unlike.rounds == 7


def test_a_disturbed_round_does_not_count() -> None:
    new = {launch: [0.0] * 7 + [2.0] for launch in range(4)}
    assert judged(new).ratio == 1
    assert judged(new).outcome == "pass"


def test_interval_is_students() -> None:
    judgement = judged({0: [0.00], 1: [0.01], 2: [0.02]})
    half = student_quantile(2, LOOK_LEVEL) * 0.01 / math.sqrt(3)
    assert judgement.ratio == pytest.approx(math.exp(0.01))
    assert judgement.low == pytest.approx(math.exp(0.01 - half))
    assert judgement.high == pytest.approx(math.exp(0.01 + half))


@pytest.mark.parametrize(
    ("slowdown", "outcome"), [(-0.5, "pass"), (0.029, "pass"), (0.031, "fail"), (3.0, "fail")]
)
def test_outcome_of_precise_launches(slowdown: float, outcome: Outcome) -> None:
    values = math.log1p(slowdown) + np.array([1e-6, -1e-6, 0.0])
    judgement = judged(ratios(values))
    assert judgement.outcome == outcome
    assert judgement.needs is None
    assert judgement.further_launches is None


def test_fewer_than_three_launches_decide_nothing() -> None:
    judgement = judged({0: [1.0], 1: [1.0]})
    assert judgement.outcome == "undecided"
    assert (judgement.low, judgement.high) == (None, None)
    assert judgement.further_launches == 1
    assert judgement.needs == "a decision would take 3 launches at least (measured: 2)"


def test_base_that_differs_from_itself_voids_even_a_clear_failure() -> None:
    new = ratios(np.array([0.2, 0.2001, 0.2002]))
    judgement = judged(new, ratios(np.array([0.05, 0.0501, 0.0502])))
    assert judgement.void
    assert judgement.outcome == "undecided"
    assert judgement.control_low is not None
    assert judgement.control_low > 1.04
    assert judgement.needs is not None
    assert "equals itself" in judgement.needs


def test_certain_but_tiny_difference_of_the_base_from_itself_voids_nothing() -> None:
    judgement = judged(ratios(np.array([0.0, 1e-5, 2e-5])), ratios(np.array([0.005, 0.00501, 0.00502])))
    assert not judgement.void
    assert judgement.outcome == "pass"


@pytest.mark.parametrize(("max_slower", "void"), [(0.003, True), (0.02, False), (0.03, False), (0.5, False)])
def test_a_small_limit_tolerates_less_of_the_base_from_itself(max_slower: float, void: bool) -> None:
    """A third of the limit, 1 % at most: the base measured again differs by half a percent."""
    new, control = ratios(np.array([0.0, 1e-5, 2e-5])), ratios(np.array([0.005, 0.00501, 0.00502]))
    assert judge_latency(new, control, max_slower).void == void


def test_needs_an_estimated_number_of_launches() -> None:
    judgement = judged({0: [-0.02], 1: [0.0], 2: [0.02]})
    further = judgement.further_launches
    assert judgement.outcome == "undecided"
    assert further is not None
    assert judgement.needs == f"a decision would take about {further} further launches"
    enough = 3 + further
    for launches, decided in ((enough, True), (enough - 1, False)):
        half = student_quantile(launches - 1, LOOK_LEVEL) * 0.02 / math.sqrt(launches)
        assert (half < math.log1p(LIMIT)) == decided


def test_needs_more_launches_than_are_made_or_none_sensible() -> None:
    near = judged({0: [0.0125], 1: [0.0225], 2: [0.0325]})
    assert near.further_launches is None
    assert near.needs is not None
    assert f"(at most {MAX_LAUNCHES} are made)" in near.needs
    at_limit = judged(ratios(math.log1p(LIMIT) + np.array([-0.02, 0.0, 0.02])))
    assert at_limit.further_launches is None
    assert at_limit.needs is not None
    assert "no sensible number" in at_limit.needs


@pytest.mark.parametrize(
    ("new", "control"),
    [
        ({}, {}),
        ({0: [0.1], 1: []}, {0: [0.1], 1: [0.1]}),
        ({0: [math.nan]}, {0: [0.0]}),
        ({0: [0.0]}, {0: [math.inf]}),
        ({0: [0.0]}, {1: [0.0]}),
        ({0: [0.0]}, {0: [0.0], 1: [0.0]}),
        (ratios(np.zeros(MAX_LAUNCHES + 1)), ratios(np.zeros(MAX_LAUNCHES + 1))),
    ],
)
def test_refuses_ratios_that_are_no_evidence(new: LogRatios, control: LogRatios) -> None:
    with pytest.raises(ValueError, match=r"launches: |log-ratios: "):
        judge_latency(new, control, LIMIT)


@pytest.mark.parametrize(
    ("n", "only_base", "only_new", "outcome"),
    [
        (10_000, 0, 0, "pass"),
        (10_000, 100, 100, "pass"),
        (10_000, 0, 500, "pass"),
        (10_000, 250, 100, "fail"),
        (100, 50, 0, "fail"),
        (100, 0, 0, "undecided"),
        (10_000, 150, 100, "undecided"),
    ],
)
def test_outcome_of_answers(n: int, only_base: int, only_new: int, outcome: Outcome) -> None:
    judgement = judge_accuracy(*answers(n, only_base, only_new), 0.005)
    assert judgement.outcome == outcome
    assert (judgement.only_base, judgement.only_new) == (only_base, only_new)
    assert judgement.loss == pytest.approx((only_base - only_new) / n)
    assert (judgement.low, judgement.high) == pytest.approx(loss_interval(only_base, only_new, n))
    assert judgement.low < judgement.loss < judgement.high
    assert (judgement.needs is None) == (outcome != "undecided")


def test_pictures_needed_would_decide() -> None:
    judgement = judge_accuracy(*answers(1000, 10, 10), 0.005)
    needed = judgement.pictures_needed
    assert judgement.outcome == "undecided"
    assert needed is not None
    assert judgement.needs == f"a decision would take about {needed} pictures of this kind (given: 1000)"
    more = needed + 100  # for the rounding of the counts to whole pictures
    assert judge_accuracy(*answers(more, more // 100, more // 100), 0.005).outcome == "pass"
    fewer = needed - 200
    assert judge_accuracy(*answers(fewer, fewer // 100, fewer // 100), 0.005).outcome == "undecided"


def test_no_number_of_pictures_decides_a_loss_at_the_limit() -> None:
    judgement = judge_accuracy(*answers(1000, 10, 5), 0.005)
    assert judgement.outcome == "undecided"
    assert judgement.pictures_needed is None
    assert judgement.needs is not None
    assert "would not decide" in judgement.needs


def exact(n: int, max_loss: float, discordances: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Yield the probabilities that a network worse by exactly `max_loss` passes and that it fails.

    For each of the shares of pictures that differ beyond the least possible, half of them in each direction.
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])

    def binomial(trials: int, share: float, most: int) -> NDArray[np.float64]:
        counts = np.arange(min(trials, most) + 1)
        ways = logs[trials] - logs[counts] - logs[trials - counts]
        none = np.where(counts == 0, 0.0, -np.inf)
        successes = counts * math.log(share) if share > 0 else none
        terms: NDArray[np.float64] = np.exp(ways + successes + (trials - counts) * math.log1p(-share))
        return terms

    def most(share: float) -> int:
        return math.ceil(n * share + 9 * math.sqrt(n * share) + 15)

    # by the pictures that only the new network gets right: the fewest of the base that end a pass, that fail
    passes, fails = [], []
    at_pass = at_fail = 0
    for only_new in range(most(max(discordances) / 2) + 1):
        while side(*loss_interval(at_pass, only_new, n), max_loss) == "pass":
            at_pass += 1
        at_fail = max(at_fail, at_pass)
        while side(*loss_interval(at_fail, only_new, n), max_loss) != "fail":
            at_fail += 1
        passes.append(at_pass)
        fails.append(at_fail)
    for discordance in discordances:
        share_base, share_new = max_loss + discordance / 2, discordance / 2
        passed = failed = 0.0
        of_new = binomial(n, share_new, most(share_new))
        for only_new, probability in enumerate(of_new):
            of_base = binomial(n - only_new, share_base / (1 - share_new), most(share_base))
            passed += probability * of_base[: passes[only_new]].sum()
            failed += probability * of_base[fails[only_new] :].sum()
        yield passed, failed


@pytest.mark.parametrize("n", [200, 233, 391, 500, 765, 1000, 2000, 5000, 20_000])
@pytest.mark.parametrize("max_loss", [0.002, 0.005, 0.02])
def test_accuracy_at_the_limit_is_called_wrong_in_2_point_5_percent_on_either_side(
    n: int, max_loss: float
) -> None:
    """Exact sums over what two networks may answer; without pictures right only in the new one, strictly."""
    (passes, fails), *others = exact(n, max_loss, [0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03])
    assert max(passes, fails) < 0.0252
    assert max(passed for passed, _ in others) < 0.0275
    assert max(failed for _, failed in others) < 0.025


@pytest.mark.parametrize(("n", "outcome"), [(391, "undecided"), (736, "undecided"), (765, "pass")])
def test_equal_answers_pass_only_if_an_exact_bound_does(n: int, outcome: Outcome) -> None:
    """With half a point of loss, 736 pictures have no difference in 2.5 % (Clopper and Pearson's bound)."""
    assert judge_accuracy(*answers(n, 0, 0), 0.005).outcome == outcome


@pytest.mark.parametrize(
    ("loss", "half", "outcome", "needed"),
    [(0.0, 0.004, "pass", None), (0.03, 0.02, "fail", None), (0.0, 0.02, "undecided", 16_001)],
)
def test_outcome_of_average_precision(loss: float, half: float, outcome: Outcome, needed: int | None) -> None:
    """Four times the precision takes sixteen times the pictures."""
    judgement = judge_average_precision(1000, 3000, loss, loss - half, loss + half, 0.005)
    assert judgement.outcome == outcome
    assert judgement.pictures_needed == needed
    assert (judgement.only_base, judgement.only_new) == (None, None)
    assert (judgement.low, judgement.high) == pytest.approx((loss - half, loss + half))


@pytest.mark.parametrize(("n", "objects", "fewer"), [(10, 40, 10), (40, 10, 10), (10, 10, 10)])
@pytest.mark.parametrize("half", [0.0, 1e-5])
def test_a_tiny_spread_of_average_precision_is_no_proof(
    n: int, objects: int, fewer: int, half: float
) -> None:
    """Ten pictures or objects bound no loss below Wilson's bound for none of ten, 28 points."""
    judgement = judge_average_precision(n, objects, 0.0, -half, half, 0.005)
    assert judgement.outcome == "undecided"
    assert (judgement.low, judgement.high) == pytest.approx((-wilson(0, fewer)[1], wilson(0, fewer)[1]))
    needed = judgement.pictures_needed
    assert needed is not None
    more = math.ceil(needed * objects / n)
    assert judge_average_precision(needed, more, 0.0, 0.0, 0.0, 0.005).outcome == "pass"


def test_log_ratios_of_a_launch() -> None:
    """The reference of the new network is the geometric mean of both measurements of the base."""
    new, control = log_ratios([100.0, 200.0], [400.0, 200.0], [200.0, 220.0])
    assert new == pytest.approx([0.0, math.log(1.1)])
    assert control == pytest.approx([math.log(4), 0.0])


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        (["pass", "pass"], "pass"),
        (["pass"], "pass"),
        (["pass", "undecided"], "undecided"),
        (["undecided", "fail"], "fail"),
        (["pass", "fail"], "fail"),
        ([], "undecided"),
    ],
)
def test_overall_outcome(outcomes: list[Outcome], whole: Outcome) -> None:
    assert overall(outcomes) == whole
