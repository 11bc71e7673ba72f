"""The one verdict rule, on samples of known difference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.zoo.verdicts import LEVEL, MIN_ROUNDS, bootstrap, interquartile_mean, smallest_p, verdict
from service.bench.bundle import Bundle
from service.bench.judge.verdicts import Comparison, compare_entries, log_ratios
from tests.service.bench.bundles import bundle


def simulated(
    seed: int,
    factors: dict[str, float],
    *,
    launches: int = 5,
    rounds: int = 10,
    control: str | None = "a#2",
) -> Bundle:
    """A run whose entries take `factors` times a millisecond: noise per launch, round and run."""
    random = np.random.default_rng(seed)
    weather = random.normal(0, 0.02, (launches, rounds))  # shared by the entries of a round
    samples = {}
    for name, factor in factors.items():
        layout = random.normal(0, 0.002, launches)  # each launch places this entry's memory otherwise
        samples[name] = [
            [
                np.rint(
                    1e6 * factor * np.exp(weather[at, r] + layout[at] + random.normal(0, 0.02, 32))
                ).astype(int)
                for r in range(rounds)
            ]
            for at in range(launches)
        ]
    return bundle(
        {n: [[list(map(int, b)) for b in launch] for launch in each] for n, each in samples.items()},
        control=control,
    )


def test_interval_of_a_known_difference() -> None:
    found = {
        each.entry: each
        for each in compare_entries(simulated(1, {"a": 1, "a#2": 1, "b": 1.05, "c": 0.5}), "a")
    }
    assert found["a#2"].verdict == "indistinguishable"
    assert found["b"].verdict == "slower"
    assert found["b"].low is not None
    assert found["b"].high is not None
    assert found["b"].low < 1.05 < found["b"].high
    assert found["c"].verdict == "faster"
    speedup, low, high = found["c"].speedup
    assert low is not None
    assert high is not None
    assert low < 2.0 < high
    assert low < speedup < high
    assert found["b"].rounds == 50


def test_no_verdict_below_one_percent() -> None:
    found = compare_entries(simulated(2, {"a": 1, "a#2": 1, "b": 1.006}, launches=20, rounds=20), "a", ["b"])
    assert found[0].p < 0.01
    assert found[0].verdict == "indistinguishable"
    assert verdict(math.log(1.02), 0.0) == "slower"
    assert verdict(math.log(0.98), 0.0) == "faster"
    assert verdict(math.log(1.02), 0.5) == "indistinguishable"


@pytest.mark.slow
def test_error_rates_of_verdicts() -> None:
    wrong = found = 0
    for seed in range(60):
        run = simulated(seed, {"a": 1, "a#2": 1, "b": 1.05}, launches=3, rounds=6)
        verdicts = {each.entry: each.verdict for each in compare_entries(run, "a")}
        wrong += verdicts["a#2"] != "indistinguishable"
        found += verdicts["b"] == "slower"
    assert wrong <= 3
    assert found >= 57


@pytest.mark.parametrize("launches", [1, 2])
def test_no_verdict_and_no_interval_of_few_rounds(launches: int) -> None:
    """Rounds that all agree: the bootstrap's p is as small as it can be, whatever their number."""

    def compared(rounds: int) -> Comparison:
        split = [rounds // launches + (number < rounds % launches) for number in range(launches)]
        samples = {name: [[[ns]] * each for each in split] for name, ns in (("a", 2000), ("b", 1000))}
        (comparison,) = compare_entries(bundle(samples), "a")
        return comparison

    for rounds in range(launches, MIN_ROUNDS):
        few = compared(rounds)
        assert (few.rounds, few.verdict) == (rounds, "indistinguishable")
        assert few.p == pytest.approx(2 / 2**rounds)
        assert few.ratio == pytest.approx(0.5)
        assert few.speedup[1:] == (few.low, few.high) == (None, None)
    enough = compared(MIN_ROUNDS)
    assert enough.verdict == "faster"
    assert enough.speedup == pytest.approx((2, 2, 2))


def test_smallest_p_of_rounds() -> None:
    assert smallest_p(0) == smallest_p(1) == 1
    assert smallest_p(MIN_ROUNDS) < LEVEL <= smallest_p(MIN_ROUNDS - 1)
    assert smallest_p(100_000) == 0
    (noisy,) = compare_entries(simulated(1, {"a": 1, "b": 1.05}, control=None), "a")
    assert noisy.p == 2 / 10_001, "50 rounds do not limit the p of the bootstrap"


def test_rounds_without_both_entries() -> None:
    run = bundle({"a": [[[100], [200]]], "b": [[[110], [440]]]})
    cut = run.model_copy(update={"blocks": run.blocks[:-1]})
    assert log_ratios(cut, "b", "a") == {0: [pytest.approx(math.log(1.1))]}
    nothing = run.model_copy(update={"blocks": run.blocks[:2]})
    assert compare_entries(nothing, "a") == []


def test_offline_blocks_are_compared_per_image() -> None:
    run = bundle({"a": [[[0]]], "b": [[[0]]]})
    blocks = [
        block.model_copy(update={"images": images, "durations_ns": {"total": (total,)}})
        for block, images, total in zip(run.blocks, (10, 20), (1000, 4000), strict=True)
    ]
    configuration = run.configuration.model_copy(update={"scenario": "offline"})
    run = run.model_copy(update={"blocks": tuple(blocks), "configuration": configuration})
    assert compare_entries(run, "a")[0].ratio == pytest.approx(2)


def test_bootstrap_resamples_launches_first() -> None:
    """Two launches that disagree make a wide interval, however many rounds each has."""
    found = bootstrap({0: [0.10] * 50, 1: [-0.10] * 50})
    assert (found.low, found.high) == pytest.approx((-0.10, 0.10))
    assert found.mean == pytest.approx(0)
    assert found.p > 0.4
    ragged = bootstrap({0: [0.1, 0.2], 1: [0.3]})
    assert ragged.mean == pytest.approx(0.2)
    assert 0.1 <= ragged.low <= ragged.high <= 0.3
    assert bootstrap({0: [0.1, 0.2], 1: [0.3]}) == ragged


def test_one_disturbed_round() -> None:
    steady = [0.02 + 0.001 * (at % 3 - 1) for at in range(20)]
    disturbed = [*steady[:17], 0.9, -0.9, 1.5]
    found = bootstrap({0: disturbed, 1: steady, 2: steady})
    assert found.mean == pytest.approx(0.02, abs=0.001)
    assert (found.low, found.high) == pytest.approx((0.02, 0.02), abs=0.002)
    assert interquartile_mean(np.array([[1.0, 2.0, 3.0, 100.0]])) == pytest.approx([2.5])


def test_reference_with_a_control() -> None:
    run = bundle({"a": [[[100]]], "a#2": [[[121]]], "b": [[[110]]]}, control="a#2")
    assert log_ratios(run, "b", "a") == {0: [pytest.approx(0.0)]}
    assert log_ratios(run, "a#2", "a") == {0: [pytest.approx(math.log(1.21))]}
    assert log_ratios(run, "a", "b") == {0: [pytest.approx(math.log(100 / 110))]}


def test_nothing_to_resample_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        bootstrap({})
