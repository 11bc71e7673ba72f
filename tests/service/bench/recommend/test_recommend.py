"""Recommendations: bounds against intervals, reasons for every model that is out, and what is no evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from models.zoo.card import Accuracy, Agreement, Interval
from models.zoo.statistics import percentile_bound
from service.bench.bundle import Bundle, Cold, Flag, FlagKind, ModelFacts
from service.bench.recommend.accuracy import estimate_accuracy
from service.bench.recommend.evidence import Evidence, StoredBundle, binomial_cdf, weigh_evidence
from service.bench.recommend.recommend import Constraints, Recommendation, recommend
from service.errors import InvalidParameter
from service.inference.runtimes.choice import Serving
from tests.service.bench import bundles

LAUNCHES, ROUNDS, RUNS = 5, 5, 40  # 1 000 runs: enough for a p99


@pytest.mark.parametrize("rounds", [(3, 3, 3), (8,), (4, 3, 2)])
def test_interval_of_a_median_is_that_of_resamples_drawn_one_by_one(rounds: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    launches = [random.integers(1_000_000, 2_000_000, count) for count in rounds]
    made = bundles.bundle({"a": [[[duration] for duration in launch.tolist()] for launch in launches]})
    (one,) = weigh_evidence([StoredBundle("id", made)], None, {}).usable["a"]
    draw = np.random.default_rng(0)
    medians = []
    for _ in range(1000):
        picks = draw.integers(0, len(launches), len(launches))
        medians.append(np.median(np.concatenate([draw.choice(launches[i], rounds[i]) for i in picks])))
    assert one.median_interval_ns == tuple(np.quantile(medians, [0.025, 0.975]).tolist())


def facts(name: str, *, accuracy: float | None = 0.75, megabytes: float = 4, **changes: Any) -> ModelFacts:
    own = bundles.facts(name).model_copy(update={"bytes": int(megabytes * 1e6)} | changes)
    if accuracy is None:
        return own.model_copy(update={"accuracy": None})
    reported = Accuracy(value=accuracy, kind="reported", dataset="imagenet-1k", n=50_000, how="test")
    return own.model_copy(update={"accuracy": reported})


def measured(
    models: dict[ModelFacts, float] | list[tuple[ModelFacts, float]],
    *,
    profile: str = "standard",
    runs: int = RUNS,
    flags: Sequence[Flag] = (),
    later_days: int = 0,
    seed: int = 0,
    **on: str,
) -> Bundle:
    """A bundle in which each model takes that many milliseconds, give or take 2 %."""
    random = np.random.default_rng(seed)
    pairs = list(models.items()) if isinstance(models, dict) else models
    samples = {
        each.name: [
            [(random.normal(ms, 0.02 * ms, runs) * 1e6).astype(int).tolist() for _ in range(ROUNDS)]
            for _ in range(LAUNCHES)
        ]
        for each, ms in pairs
    }
    made = bundles.bundle(samples, flags=flags, on=bundles.fingerprint(**on))
    moment = bundles.MOMENT + timedelta(days=later_days)
    configuration = made.configuration.model_copy(update={"profile": profile})
    update = {
        "models": tuple(each for each, _ in pairs),
        "configuration": configuration,
        "started_at": moment,
        "finished_at": moment,
    }
    return made.model_copy(update=update)


def weigh(*made: Bundle, hashes: dict[str, str] | None = None, carried: bool = False) -> Evidence:
    kept = [StoredBundle(f"run{number}", bundle) for number, bundle in enumerate(made)]
    return weigh_evidence(kept, None if carried else bundles.fingerprint(), hashes or {})


def ask(models: Sequence[ModelFacts], evidence: Evidence, **given: Any) -> Recommendation:
    return recommend(Constraints(**given), models, evidence, "imagenet-1k")


def reasons(found: Recommendation) -> dict[str, str]:
    return {each.model: each.reason for each in found.rejected}


def on_front(found: Recommendation) -> set[str]:
    return {each.measured.name for each in found.pareto}


SMALL, GOOD, LARGE = facts("small", accuracy=0.68, megabytes=2), facts("good"), facts("large", accuracy=0.78)


def test_recommend_the_most_accurate_that_fits() -> None:
    big = facts("big", accuracy=0.80, megabytes=13.1)
    models = [(SMALL, 2.0), (GOOD, 6.0), (LARGE, 12.3), (big, 7.0)]
    evidence = weigh(measured(models))
    found = ask([each for each, _ in models], evidence, p99_ms=10, max_bytes=6_000_000, min_accuracy=0.7)
    assert found.recommended == "good"
    assert [fit.facts.name for fit in found.fits] == ["good"]
    told = reasons(found)
    assert told["small"] == "accuracy 68.0% < 70.0%"
    assert told["big"] == "13.1 MB > 6 MB"
    assert told["large"].startswith("p99 12.")
    assert told["large"].endswith(" ms > 10 ms")
    assert "the only one that fits, accuracy 75.0%, p99 at most 6." in found.why
    assert "n = 1000" in found.why
    assert found.run is None


def detector(name: str, labels: str = "things") -> ModelFacts:
    return facts(name, accuracy=None, task="object-detection", labels=labels)


def test_task_is_a_constraint() -> None:
    """Detectors and classifiers are never in one recommendation; without accuracies, the fastest is first."""
    slow, fast, faces = detector("slow"), detector("fast"), detector("a-face", "faces")
    models = [(GOOD, 6.0), (slow, 9.0), (fast, 4.0), (faces, 3.0)]
    everything, evidence = [each for each, _ in models], weigh(measured(models))
    found = recommend(
        Constraints(p99_ms=20, task="object-detection"), everything, evidence, default_labels="things"
    )
    assert (found.task, found.labels, found.recommended) == ("object-detection", "things", "fast")
    assert [fit.facts.name for fit in found.fits] == ["fast", "slow"]
    assert found.why.startswith("of unknown accuracy, the fastest of 2 that fit, p99 at most 4.")
    assert reasons(found) == {
        "good": "task image-classification, not object-detection",
        "a-face": "labels faces, not things",
    }
    assert on_front(found) == {"fast", "slow"}
    classifiers = ask(everything, evidence, p99_ms=20)
    assert (classifiers.task, classifiers.recommended) == ("image-classification", "good")
    assert reasons(classifiers)["fast"] == "task object-detection, not image-classification"


def test_no_model_of_the_task() -> None:
    found = ask([GOOD], weigh(measured([(GOOD, 6.0)])), task="object-detection")
    assert found.recommended is None
    assert reasons(found) == {"good": "task image-classification, not object-detection"}


def test_rank_of_fits() -> None:
    twin = facts("twin", accuracy=0.75)
    models = [(SMALL, 2.0), (GOOD, 6.0), (twin, 5.0), (LARGE, 8.0)]
    found = ask([each for each, _ in models], weigh(measured(models)), p99_ms=10)
    assert [fit.facts.name for fit in found.fits] == ["large", "twin", "good", "small"]
    for fit in found.fits:
        assert fit.confidence is not None
        assert fit.confidence >= 0.99


def test_bound_above_the_limit_with_estimate_below() -> None:
    bundle = measured([(GOOD, 6.0)])
    samples = np.array(bundle.samples("good"))
    bound = percentile_bound(samples.tolist(), 0.99)
    assert bound is not None
    between = (bound.estimate_ns + bound.bound_ns) / 2e6
    found = ask([GOOD], weigh(bundle), p99_ms=between)
    assert found.recommended is None
    assert (
        f"ms but may be up to {bound.bound_ns / 1e6:.2f} ms > {between:g} ms (99% confidence, n = 1000)"
        in (reasons(found)["good"])
    )


def test_confidence_matches_the_bounds() -> None:
    evidence = weigh(measured([(GOOD, 6.0)]))
    one = evidence.usable["good"][0]
    bound = one.percentile(0.99)
    assert bound is not None
    assert one.confidence(0.99, bound.bound_ns) >= 0.99
    assert one.confidence(0.99, bound.bound_ns - 1) < 0.99
    assert one.confidence(0.99, 0) == pytest.approx(0)
    assert one.confidence(0.99, one.samples_ns[-1]) == pytest.approx(1 - binomial_cdf(1, 1000, 0.01))


def test_inherited_accuracy() -> None:
    interval = Interval(low=0.95, high=0.98)
    child = facts("child").model_copy(
        update={
            "accuracy": Accuracy(value=0.75, kind="inherited", dataset="imagenet-1k", n=50_000, how="test"),
            "agreement": Agreement(parent="good", value=0.97, n=400, interval=interval, how="test"),
            "derived_from": "good",
        }
    )
    accuracy = estimate_accuracy(child)
    assert accuracy is not None
    assert accuracy.value == pytest.approx(0.72)
    assert accuracy.low == pytest.approx(0.7462 - 0.05, abs=1e-3)
    assert accuracy.high == pytest.approx(0.7538, abs=1e-3)
    models = [(GOOD, 6.0), (child, 3.0)]
    found = ask([GOOD, child], weigh(measured(models)), p99_ms=10)
    assert [fit.facts.name for fit in found.fits] == ["good", "child"]
    told = "inherited: 75.0% of its parent 'good' minus 3.0% measured disagreement (n = 400)"
    assert f"accuracy {told}" in found.fits[1].notes
    refused = ask([GOOD, child], weigh(measured(models)), p99_ms=10, min_accuracy=0.73)
    assert reasons(refused)["child"] == f"accuracy 72.0% < 73.0% ({told})"


def test_recommend_without_benchmarks() -> None:
    found = ask([SMALL, GOOD], weigh(), p99_ms=10)
    assert found.recommended is None
    assert found.why == "no usable benchmark: see the reasons per model"
    assert reasons(found)["good"] == "not measured here: run `weighin bench --profile standard --models good`"
    assert found.run == "weighin bench --profile standard --models good,small"


def test_no_benchmark_needed_for_rejected_models() -> None:
    found = ask([SMALL, GOOD], weigh(), p99_ms=10, min_accuracy=0.7)
    assert found.run == "weighin bench --profile standard --models good"


@pytest.mark.parametrize("given", [{}, {"p99_ms": 10}])
def test_nothing_fits_whatever_is_measured(given: dict[str, float]) -> None:
    found = ask([SMALL, GOOD], weigh(), min_accuracy=0.99, **given)
    assert found.why == "no model is within all bounds: see the reasons per model"
    assert found.run is None


def test_benchmarks_of_other_models_only() -> None:
    found = ask([SMALL, GOOD], weigh(measured([(detector("boxes"), 3.0)])), p99_ms=10)
    assert found.why == "no usable benchmark: see the reasons per model"


def test_too_few_runs_for_a_p99_but_enough_for_a_p90() -> None:
    evidence = weigh(measured([(GOOD, 6.0)], runs=4, profile="quick"))
    assert reasons(ask([GOOD], evidence, p99_ms=10))["good"] == (
        "100 runs are too few for a p99 (needed: 662): run `weighin bench --profile standard --models good`"
    )
    assert ask([GOOD], evidence, p90_ms=10).recommended == "good"


def test_p99_of_a_quick_benchmark_with_more_runs() -> None:
    """The number of runs decides, not the profile: `--runs` replaces that of the profile."""
    evidence = weigh(measured([(GOOD, 6.0)], profile="quick"))
    assert ask([GOOD], evidence, p99_ms=10).recommended == "good"


@pytest.mark.parametrize("kind", ["dirty", "void", "partial", "contaminated"])
def test_flagged_runs_are_not_used(kind: FlagKind) -> None:
    flagged = measured([(GOOD, 6.0)], flags=[Flag(kind=kind, reason="something happened")])
    evidence = weigh(flagged)
    found = ask([GOOD], evidence, p99_ms=10)
    assert found.recommended is None
    assert (
        f"no usable benchmark: standard run of 2026-11-24 12:00: {kind}: something happened"
        in (reasons(found)["good"])
    )
    assert found.run is not None
    assert evidence.unused == {"run0": f"{kind}: something happened"}


def test_flag_on_one_entry() -> None:
    flags = [Flag(kind="dirty", entry="good", reason="something happened")]
    evidence = weigh(measured([(GOOD, 6.0), (SMALL, 2.0)], flags=flags))
    assert set(evidence.usable) == {"small"}
    assert "dirty" in evidence.unusable["good"][0]


def test_drift_is_a_note_not_hidden() -> None:
    flags = [Flag(kind="drift", entry="good", reason="the last third took +7 %")]
    found = ask([GOOD], weigh(measured([(GOOD, 6.0)], flags=flags)), p99_ms=10)
    assert found.recommended == "good"
    assert "drift: the last third took +7 %" in found.fits[0].notes


def test_stale_benchmarks() -> None:
    evidence = weigh(
        measured([(GOOD, 6.0)], cpu="Old CPU"),
        measured([(GOOD, 6.0)], onnxruntime="1.20.0", later_days=1),
    )
    assert evidence.usable == {}
    assert "measured on another machine (cpu model: Test CPU, there Old CPU)" in evidence.unused["run0"]
    assert "onnxruntime: 1.32.0, there 1.20.0" in evidence.unused["run1"]
    told = reasons(ask([GOOD], evidence, p99_ms=10))["good"]
    assert "standard run of 2026-11-25" in told
    assert "(and 1 older)" in told
    changed = weigh(measured([(GOOD, 6.0)]), hashes={"good": "1" * 64})
    assert "stale: the model file has changed" in reasons(ask([GOOD], changed, p99_ms=10))["good"]


def test_bundle_of_another_machine() -> None:
    evidence = weigh(measured([(GOOD, 6.0)], cpu="Pi"), carried=True)
    assert ask([GOOD], evidence, p99_ms=10).recommended == "good"


def test_newest_benchmark_with_the_percentile() -> None:
    evidence = weigh(
        measured([(GOOD, 6.0)]),
        measured([(GOOD, 8.0)], later_days=1),
        measured([(GOOD, 9.0)], later_days=2, runs=4),
    )
    for fraction, run in ((0.99, "run1"), (0.5, "run2")):
        best = evidence.best("good", fraction)
        assert best is not None
        assert best.stored.id == run


def test_other_and_unknown_label_sets() -> None:
    clothes = facts("clothes", accuracy=0.9, labels="fashion-mnist")
    models = [(GOOD, 6.0), (clothes, 1.0)]
    evidence = weigh(measured(models))
    assert reasons(ask([GOOD, clothes], evidence, p99_ms=10))["clothes"] == (
        "labels fashion-mnist, not imagenet-1k"
    )
    assert ask([GOOD, clothes], evidence, p99_ms=10, labels="fashion-mnist").recommended == "clothes"
    with pytest.raises(
        InvalidParameter, match=r"labels 'pets': unknown \(allowed: fashion-mnist, imagenet-1k\)"
    ):
        ask([GOOD, clothes], evidence, labels="pets")


def test_model_of_unknown_accuracy() -> None:
    mystery = facts("mystery", accuracy=None)
    models = [(mystery, 1.0), (SMALL, 2.0)]
    evidence = weigh(measured(models))
    found = ask([mystery, SMALL], evidence, p99_ms=10)
    assert [fit.facts.name for fit in found.fits] == ["small", "mystery"]
    assert "accuracy unknown" in found.fits[1].notes
    assert reasons(ask([mystery, SMALL], evidence, min_accuracy=0.1))["mystery"] == ("accuracy unknown")


def test_broken_and_untrained_models() -> None:
    untrained = facts("untrained", trained=False)
    evidence = weigh(measured([(untrained, 1.0)]))
    found = recommend(
        Constraints(p99_ms=10), [untrained], evidence, "imagenet-1k", {"torn": "its file is missing"}
    )
    assert reasons(found) == {"torn": "cannot be served: its file is missing"}
    assert any("untrained" in note for note in found.fits[0].notes)


@pytest.mark.parametrize(
    "given",
    [
        {"p99_ms": 0},
        {"p90_ms": -1},
        {"p50_ms": math.nan},
        {"p99_ms": math.inf},
        {"max_bytes": 0},
        {"min_accuracy": 70},
        {"min_accuracy": math.nan},
    ],
)
def test_invalid_bounds(given: dict[str, float]) -> None:
    with pytest.raises(InvalidParameter, match=next(iter(given))):
        Constraints(**given)  # type: ignore[arg-type]


class TestPareto:
    def test_dominated_model(self) -> None:
        worse = facts("worse", accuracy=0.70, megabytes=5)
        found = ask([GOOD, worse], weigh(measured([(GOOD, 5.0), (worse, 6.0)])))
        assert on_front(found) == {"good"}
        [out] = found.dominated
        assert (out.model, out.by) == ("worse", "good")
        assert "more accurate (75.0% against 70.0%), 1.2" in out.reason
        assert "not larger (4 MB against 5 MB)" in out.reason

    def test_overlapping_accuracy_intervals(self) -> None:
        near = facts("near", accuracy=0.748, megabytes=5)
        found = ask([GOOD, near], weigh(measured([(GOOD, 5.0), (near, 6.0)])))
        assert on_front(found) == {"good", "near"}

    def test_indistinguishable_latencies(self) -> None:
        near = facts("near", accuracy=0.70, megabytes=5)
        found = ask([GOOD, near], weigh(measured([(GOOD, 5.0), (near, 5.001)])))
        assert on_front(found) == {"good", "near"}

    def test_a_smaller_one_is_never_out(self) -> None:
        tiny = facts("tiny", accuracy=0.5, megabytes=1)
        found = ask([GOOD, tiny], weigh(measured([(GOOD, 5.0), (tiny, 6.0)])))
        assert on_front(found) == {"good", "tiny"}

    def test_models_of_different_benchmarks(self) -> None:
        worse = facts("worse", accuracy=0.70, megabytes=5)
        apart = weigh(measured([(GOOD, 5.0)]), measured([(worse, 6.0)]))
        [out] = ask([GOOD, worse], apart).dominated
        assert "faster (median at most 5" in out.reason
        close = weigh(measured([(GOOD, 5.0)]), measured([(worse, 5.0)], seed=1))
        assert ask([GOOD, worse], close).dominated == ()

    @pytest.mark.parametrize("apart", [False, True])
    def test_too_few_rounds(self, *, apart: bool) -> None:
        """One round says nothing about the next one, whatever its runs say."""
        worse = facts("worse", accuracy=0.70, megabytes=5)
        models = [(GOOD, 5.0), (worse, 9.0)]
        made = [measured([each]) for each in models] if apart else [measured(models)]
        assert len(ask([GOOD, worse], weigh(*made)).dominated) == 1
        few = [
            each.model_copy(update={"blocks": tuple(b for b in each.blocks if b.launch == b.round == 0)})
            for each in made
        ]
        found = ask([GOOD, worse], weigh(*few))
        assert found.dominated == ()
        assert [each.measured.median_interval_ns for each in found.measured] == [(None, None)] * 2

    def test_unknown_accuracy_is_never_dominated(self) -> None:
        mystery = facts("mystery", accuracy=None, megabytes=9)
        found = ask([GOOD, mystery], weigh(measured([(GOOD, 5.0), (mystery, 9.0)])))
        assert on_front(found) == {"good", "mystery"}


def test_measured_models_with_cached_intervals() -> None:
    kept = [StoredBundle("run", measured({SMALL: 2.0, LARGE: 9.0}))]

    def found() -> dict[str, tuple[float, float] | tuple[None, None]]:
        evidence = weigh_evidence(kept, bundles.fingerprint(), {})
        weighed = ask([SMALL, GOOD, LARGE], evidence).measured
        return {each.measured.name: each.measured.median_interval_ns for each in weighed}

    first = found()
    assert list(first) == ["small", "large"], "the third was not measured"
    for name, milliseconds in (("small", 2.0), ("large", 9.0)):
        low, high = first[name]
        assert low is not None
        assert high is not None
        assert 0.98 * milliseconds < low / 1e6 < high / 1e6 < 1.02 * milliseconds
    assert kept[0].intervals == first
    assert found() == first


def in_both_runtimes(precision: str | None) -> Bundle:
    """A benchmark of one model: OpenVINO at 3 ms in a precision, ONNX Runtime at 6 ms."""
    made = measured([(SMALL, 6.0), (GOOD, 3.0)])
    entries = (
        made.entry("small"),
        made.entry("good").model_copy(update={"model": "small", "runtime": "openvino"}),
    )
    cold = Cold(launch=0, entry="good", load_ns=1, first_run_ns=1, precision=precision)
    return made.model_copy(update={"entries": entries, "cold": (cold,)})


@pytest.mark.parametrize(
    ("serving", "median", "other"),
    [
        (None, 6.0, "'good' is not run as in the service (one thread in onnxruntime)"),
        (
            Serving("openvino", "bf16"),
            3.0,
            "'small' is not run as in the service (one thread in openvino)",
        ),
    ],
)
def test_evidence_is_of_the_runtime_that_serves(serving: Serving | None, median: float, other: str) -> None:
    servings = {} if serving is None else {"small": serving}
    kept = [StoredBundle("both", in_both_runtimes("bf16"))]
    evidence = weigh_evidence(kept, bundles.fingerprint(), {}, servings)
    (usable,) = evidence.usable["small"]
    assert usable.p50_ms == pytest.approx(median, rel=0.02)
    assert other in evidence.unusable["small"][0]


@pytest.mark.parametrize(
    ("measured_in", "served_in", "reason"),
    [
        ("bf16", "fp32", "'good' is not run as in the service (in fp32, not bf16)"),
        ("fp32", "bf16", "'good' is not run as in the service (in bf16, not fp32)"),
        (None, "fp32", "'good': its precision in openvino is not recorded"),
        ("bf16", None, "'good' is run in bf16, the service may run it in another precision: not weighed"),
    ],
)
def test_evidence_is_of_the_precision_that_serves(
    measured_in: str | None, served_in: str | None, reason: str
) -> None:
    kept = [StoredBundle("both", in_both_runtimes(measured_in))]
    servings = {"small": Serving("openvino", served_in)}
    evidence = weigh_evidence(kept, bundles.fingerprint(), {}, servings)
    assert evidence.usable == {}
    assert reason in evidence.unusable["small"][1]


def test_on_another_machine_openvino_may_have_run_in_any_precision() -> None:
    """What it runs there in, here and there by default, is not known here."""
    kept, here = [StoredBundle("both", in_both_runtimes("bf16"))], bundles.fingerprint("This CPU")
    elsewhere = bundles.fingerprint().machine
    unknown = {"small": Serving("openvino", None)}
    (usable,) = weigh_evidence(kept, here, {}, unknown, elsewhere).usable["small"]
    assert usable.p50_ms == pytest.approx(3, rel=0.02)
    assert weigh_evidence(kept, here, {}, unknown, here.machine).usable == {}
    (usable,) = weigh_evidence(kept, here, {}, {}, elsewhere).usable["small"]
    assert usable.p50_ms == pytest.approx(6, rel=0.02), "in ONNX Runtime"
    assert weigh_evidence(kept, bundles.fingerprint(), {}, unknown, elsewhere).usable == {}


def test_command_measures_each_model_in_the_runtime_that_serves() -> None:
    servings = {"small": Serving("openvino", "bf16"), "good": Serving("onnxruntime", "fp32")}
    found = recommend(Constraints(p50_ms=5), [SMALL, GOOD, LARGE], Evidence(), "", servings=servings)
    bench = "weighin bench --profile standard --models"
    assert found.run == f"{bench} good,large && {bench} small --runtime openvino"
    assert reasons(found)["small"] == f"not measured here: run `{bench} small --runtime openvino`"
    (fit,) = recommend(Constraints(), [SMALL], Evidence(), "", servings=servings).fits
    assert f"not measured here: run `{bench} small --runtime openvino`" in fit.notes
