"""Recommendations by the accuracy on the user's own pictures: ranked by one half, quoted from the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from service.bench.bundle import ModelFacts
from service.bench.recommend.evaluated import task_of
from service.bench.recommend.evidence import Evidence
from service.bench.recommend.recommend import Constraints, Recommendation, recommend
from service.errors import InvalidParameter
from service.evaluation.figures import ApHalf, ClassAp, DetectorResult, Mean
from service.evaluation.result import Evaluation, Pair, Verdict
from tests.service.bench.recommend.test_recommend import facts, measured, reasons, weigh
from tests.service.evaluation.evaluations import evaluation, halves

N = 400
HALVES = halves(N)


def outcomes(ranked: float, quoted: float) -> list[bool]:
    """Return outcomes on N pictures with these accuracies on the two halves, as nearly as counts allow."""
    seen = [0, 0]
    bits = []
    for half in HALVES:
        share = (ranked, quoted)[half]
        bits.append(int((seen[half] + 1) * share) > int(seen[half] * share))
        seen[half] += 1
    return bits


def pair(first: str, second: str, verdict: Verdict) -> Pair:
    return Pair(first=first, second=second, difference=0.01, low=-0.02, high=0.04, p=0.5, verdict=verdict)


def ask(
    models: Sequence[ModelFacts], made: Evaluation, evidence: Evidence | None = None, **given: object
) -> Recommendation:
    constraints = Constraints(**given)  # type: ignore[arg-type]
    return recommend(constraints, models, evidence or Evidence(), "imagenet-1k", evaluation=made)


A, B = facts("a", accuracy=0.6), facts("b", accuracy=0.9)


def test_one_half_ranks_and_the_other_is_quoted() -> None:
    """The card's accuracies do not count, and neither does luck on the half that is quoted."""
    made = evaluation({"a": outcomes(0.9, 0.7), "b": outcomes(0.8, 0.75)})
    found = ask([A, B], made)
    assert [fit.facts.name for fit in found.fits] == ["a", "b"]
    accuracy = found.fits[0].accuracy
    assert accuracy is not None
    assert accuracy.value == pytest.approx(0.7, abs=0.01)
    assert accuracy.ranked == pytest.approx(0.9, abs=0.01)
    assert accuracy.low < accuracy.value < accuracy.high
    assert accuracy.kind == "evaluated"
    assert f"accuracy {accuracy.value:.1%} (on {sum(HALVES)} pictures of 'pets' that the ranking" in found.why


def test_models_without_a_usable_result() -> None:
    """The reasons have the command; a model that is too large anyway need not be evaluated."""
    made = evaluation({"a": outcomes(0.9, 0.9), "b": outcomes(0.9, 0.9)})
    changed = B.model_copy(update={"sha256": "1" * 64})
    found = ask([A, changed, facts("c"), facts("huge", megabytes=90)], made, max_bytes=10_000_000)
    assert [fit.facts.name for fit in found.fits] == ["a"]
    told = reasons(found)
    assert told["b"] == (
        "evaluated on 'pets' with another file: run `weighin evaluate --data pets --models b`"
    )
    assert told["c"] == "not evaluated on 'pets': run `weighin evaluate --data pets --models c`"
    assert told["huge"].startswith("90 MB > 10 MB; not evaluated on 'pets'")
    assert found.evaluate == "weighin evaluate --data pets --models b,c"


def test_nothing_is_missing() -> None:
    assert ask([A], evaluation({"a": outcomes(0.9, 0.9)})).evaluate is None


def test_minimum_is_compared_with_what_models_are_chosen_by() -> None:
    """A limit on the quoted half would choose by it."""
    made = evaluation({"a": outcomes(0.9, 0.7), "b": outcomes(0.75, 0.99)})
    found = ask([A, B], made, min_accuracy=0.8)
    assert [fit.facts.name for fit in found.fits] == ["a"]
    assert (
        reasons(found)["b"] == "accuracy 75.0% < 80.0% on the half of the pictures that models are chosen by"
    )
    notes = found.fits[0].notes
    assert "accuracy 69.9% < 80.0% on pictures that the ranking did not use" in notes
    assert [note for note in notes if note.startswith("accuracy may be as low as")]
    sure = ask([A, B], made, min_accuracy=0.5).fits[0]
    assert not [note for note in sure.notes if note.startswith("accuracy")]


@pytest.mark.slow
def test_quoted_accuracy_is_not_the_luck_of_being_chosen() -> None:
    """Twenty models that are right on 80 % of all pictures, of which some reach 82 % on some pictures."""
    random = np.random.default_rng(7)
    quoted, models = [], [facts(f"m{i}") for i in range(20)]
    for _ in range(30):
        made = evaluation({each.name: (random.random(N) < 0.8).tolist() for each in models})
        fits = ask(models, made, min_accuracy=0.82).fits
        quoted += [fit.accuracy.value for fit in fits if fit.accuracy is not None]
    assert len(quoted) > 60
    assert np.mean(quoted) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("verdict", ["not distinguishable", "first better"])
def test_faster_or_smaller_model_that_is_as_accurate(verdict: Verdict) -> None:
    """A note says that the best is not surely the best; not of a model that is slower and larger."""
    small, slow = facts("small", megabytes=2), facts("slow", megabytes=9)
    made = evaluation(
        {"a": outcomes(0.9, 0.9), "small": outcomes(0.89, 0.89), "slow": outcomes(0.89, 0.89)},
        pairs=[pair("a", "small", verdict), pair("slow", "a", verdict)],
    )
    evidence = weigh(measured([(A, 6.0), (small, 2.0), (slow, 9.0)]))
    found = ask([A, small, slow], made, evidence)
    notes = [note for note in found.fits[0].notes if "not distinguishable" in note]
    if verdict == "first better":
        assert notes == []
        return
    [note] = notes
    assert note.startswith("'small' is ")
    assert "times as fast" in note
    assert "smaller (2 MB against 4 MB)" in note
    assert note.endswith("its accuracy is not distinguishable on 'pets' (difference 1.0%, p = 0.5)")
    assert not [note for fit in found.fits[1:] for note in fit.notes if "distinguishable" in note]


def test_many_models_that_are_as_accurate() -> None:
    """The smallest and the fastest are named, the others are counted."""
    sizes = {"tiny": 1.0, "quick": 3.0, "c": 2.0, "d": 2.5}
    others = [facts(name, megabytes=size) for name, size in sizes.items()]
    made = evaluation(
        {name: outcomes(0.95 if name == "a" else 0.9, 0.9) for name in ("a", *sizes)},
        pairs=[pair("a", name, "not distinguishable") for name in sizes],
    )
    evidence = weigh(measured([(A, 6.0), *zip(others, (5.0, 1.0, 4.0, 4.0), strict=True)]))
    found = ask([A, *others], made, evidence)
    assert found.recommended == "a"
    fastest, smallest, more = found.fits[0].notes[-3:]
    assert fastest.startswith("'quick' is ")
    assert smallest.startswith("'tiny' is ")
    assert more == "2 more of those that fit are smaller or faster, and not distinguishable in accuracy"


def test_front_is_of_the_accuracies_on_the_pictures() -> None:
    """By its card, `b` is the more accurate; on the pictures it is worse, slower and not smaller."""
    made = evaluation({"a": outcomes(0.95, 0.95), "b": outcomes(0.5, 0.5)})
    found = ask([A, B], made, weigh(measured([(A, 2.0), (B, 6.0)])))
    assert [each.measured.name for each in found.pareto] == ["a"]
    [dominated] = found.dominated
    assert (dominated.model, dominated.by) == ("b", "a")


def test_label_set_and_task_follow_from_the_data() -> None:
    made = evaluation({"a": outcomes(0.9, 0.9)}, labels="fashion-mnist", of=10)
    own = facts("a", labels="fashion-mnist")
    found = ask([own, B], made)
    assert (found.labels, found.recommended) == ("fashion-mnist", "a")
    assert reasons(found)["b"] == "labels imagenet-1k, not fashion-mnist"
    assert "2 of the 10 classes of fashion-mnist" in found.accuracy_of
    with pytest.raises(InvalidParameter, match=r"labels 'imagenet-1k'.* \(allowed: fashion-mnist\)"):
        ask([own, B], made, labels="imagenet-1k")
    assert task_of(made, None) == "image-classification"
    assert task_of(None, "object-detection") == "object-detection"
    with pytest.raises(InvalidParameter, match=r"\(allowed: image-classification\)"):
        task_of(made, "object-detection")


def test_too_few_pictures_for_two_halves() -> None:
    seed = next(seed for seed in "abcdefgh" if halves(2, seed) == [0, 0])
    made = evaluation({"a": [True, True]}, seed=seed)
    found = ask([A], made)
    assert found.recommended is None
    assert reasons(found)["a"] == (
        "evaluated on too few pictures of 'pets' for a figure on each half of them (2)"
    )


def test_without_data_the_answer_names_the_pictures_of_the_cards() -> None:
    found = recommend(Constraints(), [A, B], Evidence(), "imagenet-1k")
    assert found.accuracy_of.startswith("accuracy on imagenet-1k, which may differ on your pictures: run ")
    assert found.evaluate is None


def detections(scores: Mapping[str, tuple[float, float]]) -> Evaluation:
    """Return an evaluation of detectors, with their average precision on the two halves."""
    made = evaluation({name: [True] * N for name in scores}, labels="things", of=10)
    sizes = [HALVES.count(0), HALVES.count(1)]
    models = tuple(
        model.model_copy(
            update={
                "task": "object-detection",
                "classification": None,
                "detection": DetectorResult.model_construct(
                    n=N,
                    objects=N,
                    ap=Mean(value=sum(both) / 2, low=0, high=1),
                    ap50=sum(both) / 2,
                    ap75=0.1,
                    per_class=(ClassAp(name="cat", n=N, ap=sum(both) / 2, ap50=sum(both) / 2),),
                    halves=tuple(
                        ApHalf(n=n, ap=Mean(value=ap, low=ap - 0.1, high=ap + 0.1))
                        for n, ap in zip(sizes, both, strict=True)
                    ),
                    worst=(),
                ),
            }
        )
        for model, both in zip(made.models, scores.values(), strict=True)
    )
    data = made.data.model_copy(update={"task": "object-detection"})
    return made.model_copy(update={"models": models, "data": data})


def test_detectors_are_ranked_by_average_precision() -> None:
    """Without data they have no accuracy, and the fastest comes first."""
    fast, good = (
        facts(name, accuracy=None, task="object-detection", labels="things") for name in ("fast", "good")
    )
    evidence = weigh(measured([(fast, 2.0), (good, 6.0)]))
    made = detections({"fast": (0.3, 0.35), "good": (0.5, 0.45)})
    task = task_of(made, None)
    found = ask([fast, good], made, evidence, task=task)
    assert (found.task, found.labels, found.recommended) == ("object-detection", "things", "good")
    accuracy = found.fits[0].accuracy
    assert accuracy is not None
    assert (accuracy.value, accuracy.low, accuracy.high, accuracy.ranked) == (0.45, 0.35, 0.55, 0.5)
    assert found.accuracy_of.startswith("average precision on 'pets'")
    assert recommend(Constraints(task=task), [fast, good], evidence, "things").recommended == "fast"
