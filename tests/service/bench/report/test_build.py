"""Building reports: figures, front, evaluation, caveats, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from models.zoo.card import Card, Fact, read_card
from service.bench.bundle import Bundle, Flag, ModelFacts
from service.bench.judge.summary import summarise
from service.bench.measure.plan import Request, make_plan
from service.bench.report.document import Caveat, Report, json_schema, to_json
from service.bench.report.render import to_csv, to_html, to_markdown
from service.bench.report.reproduce import bench_command
from service.bench.report.tables import result_tables
from service.evaluation.result import Conflict, Duplicate, Evaluation, Pair, Unreadable
from service.inference.registry import Registry
from tests.service.bench import bundles
from tests.service.bench.recommend.test_evaluated import detections
from tests.service.bench.report.reports import Model, benchmark, entry, report
from tests.service.evaluation.evaluations import evaluation

SCHEMA = Path(__file__).parents[4] / "docs/report.schema.json"
THREE = {
    "exact": Model(ms=8.0, accuracy=0.90, bytes=9_000_000),
    "quick": Model(ms=2.0, accuracy=0.70, bytes=3_000_000),
    "worse": Model(ms=9.0, accuracy=0.60, bytes=9_500_000),
}


def caveats(made: Report, kind: str) -> list[Caveat]:
    return [caveat for caveat in made.caveats if caveat.kind == kind]


def with_labels(bundle: Bundle, labels: Mapping[str, str]) -> Bundle:
    """Return the benchmark with other label sets, by model."""
    models = tuple(
        facts.model_copy(update={"labels": labels.get(facts.name, facts.labels)}) for facts in bundle.models
    )
    return bundle.model_copy(update={"models": models})


def test_figures_are_those_of_the_benchmark() -> None:
    bundle = benchmark(THREE)
    made = report(bundle)
    assert [each.entry for each in made.models] == ["exact", "quick", "worse", "exact#again"]
    for each, summary in zip(made.models, summarise(bundle), strict=True):
        assert each.latency is not None
        assert summary.p50_ns is not None
        assert summary.p99 is not None
        assert each.latency.p50_ms == round(summary.p50_ns / 1e6, 6)
        assert each.latency.p99 is not None
        assert each.latency.p99.bound_ms == summary.p99.bound_ns / 1e6
        assert each.peak_memory_bytes == summary.peak_memory_bytes
    exact, quick, _, again = made.models
    assert exact.baseline
    assert exact.speed_up is None
    assert again.control
    assert quick.speed_up is not None
    assert quick.speed_up.verdict == "faster"
    assert quick.speed_up.low is not None
    assert quick.speed_up.high is not None
    assert 3.8 < quick.speed_up.low <= quick.speed_up.value <= quick.speed_up.high < 4.2
    assert quick.latency is not None
    assert quick.latency.p50_low_ms is not None
    assert quick.latency.p50_high_ms is not None
    assert quick.latency.p50_low_ms <= quick.latency.p50_ms <= quick.latency.p50_high_ms
    control, comparison = made.benchmark.control, summarise(bundle)[3].comparison
    assert control is not None
    assert comparison is not None
    assert control.verdict == "indistinguishable"
    assert (control.ratio, control.low, control.high) == (comparison.ratio, comparison.low, comparison.high)


def test_few_rounds() -> None:
    made = report(benchmark(THREE, launches=1, rounds=6, runs=200))
    (few,) = caveats(made, "few-rounds")
    assert few.subjects == ("exact", "quick", "worse", "exact#again")
    assert few.text == "too few rounds for a verdict and intervals: 6 (needed: 7)"
    quick = made.models[1]
    assert quick.speed_up is not None
    assert (quick.speed_up.low, quick.speed_up.high) == (None, None)
    assert quick.speed_up.verdict == "indistinguishable"
    assert quick.latency is not None
    assert (quick.latency.p50_low_ms, quick.latency.p50_high_ms) == (None, None)
    assert quick.latency.p99 is not None
    (front,) = made.fronts
    assert {(each.p50_low_ms, each.p50_high_ms) for each in front.models} == {(None, None)}
    assert all(each.on_front for each in front.models)
    assert made.benchmark.control is not None
    assert (made.benchmark.control.low, made.benchmark.control.high) == (None, None)
    for text in (to_html(made), to_markdown(made), to_csv(made)):
        assert "None" not in text.replace("None.", "")
    assert not caveats(report(benchmark(THREE, launches=1, rounds=7)), "few-rounds")


def test_front_has_reasons_against_the_rest() -> None:
    made = report(benchmark(THREE))
    (front,) = made.fronts
    assert {each.entry: each.on_front for each in front.models} == {
        "exact": True, "quick": True, "worse": False,
    }  # fmt: skip
    worse = made.front_model("worse")
    assert worse is not None
    assert worse.dominated_by == "exact"
    assert worse.reason is not None
    assert "more accurate (90.0% against 60.0%)" in worse.reason
    assert made.answers == (
        "imagenet-1k: highest accuracy exact (90.0%), lowest median latency quick (2 ms), smallest file "
        "quick (3 MB); 2 of 3 are on the front.",
    )


def test_models_of_very_different_speed() -> None:
    """The speed-up is far below 0.0001, and keeps its digits in the document and in the table."""
    made = report(benchmark({"quick": Model(ms=0.01), "slow": Model(ms=300.0)}))
    speed = made.models[1].speed_up
    assert speed is not None
    assert speed.value == pytest.approx(0.01 / 300, rel=0.01)
    assert speed.low is not None
    assert speed.high is not None
    assert 0 < speed.low < speed.value < speed.high
    (table,) = result_tables(made).values()
    column = [heading.text for heading in table.headings].index("speed-up")
    assert re.fullmatch(r"0\.00003\d\d", table.rows[1].cells[column].text)


def test_answer_names_all_that_are_equal() -> None:
    models = {name: Model(ms=2.0, accuracy=0.9, bytes=3_000_000) for name in ("a", "b", "c")}
    made = report(benchmark(models | {"d": Model(ms=8.0, accuracy=0.8)}))
    assert made.answers[0].startswith("imagenet-1k: highest accuracy a, b and c (90.0%), lowest median ")
    assert "smallest file a, b and c (3 MB);" in made.answers[0]


def test_groups_by_label_set() -> None:
    made = report(with_labels(benchmark(THREE), {"worse": "pets"}))
    assert [(front.labels, len(front.models)) for front in made.fronts] == [("imagenet-1k", 2), ("pets", 1)]


def test_accuracy_is_that_of_the_evaluation() -> None:
    pairs = (
        Pair(
            first="exact", second="quick", difference=-0.5, low=-0.6, high=-0.4, p=0, verdict="second better"
        ),
    )
    made = report(
        benchmark(THREE), evaluation({"exact": [True, False] * 20, "quick": [True] * 40}, pairs=pairs)
    )
    accuracies = {each.entry: each.accuracy for each in made.models}
    exact, quick = accuracies["exact"], accuracies["quick"]
    assert exact is not None
    assert quick is not None
    assert (exact.value, exact.kind, exact.verdict, exact.rival) == (0.5, "evaluated", "worse", "quick")
    assert (quick.value, quick.verdict, quick.rival) == (1.0, "highest", None)
    assert quick.how == "top-1 on 40 pictures of 'pets'"
    assert accuracies["worse"] is None
    assert made.evaluation is not None
    assert [each.model for each in made.evaluation.models] == ["exact", "quick"]
    assert {each.name: (each.n, each.value) for each in made.evaluation.models[0].per_class} == {
        "cat": (20, 1.0), "dog": (20, 0.0),
    }  # fmt: skip
    (absent,) = caveats(made, "not-evaluated")
    assert absent.subjects == ("worse",)
    worse = made.front_model("worse")
    assert worse is not None
    assert worse.on_front is None
    assert made.answers[0].endswith("; 1 of 2 is on the front, 1 of unknown accuracy.")
    (few,) = caveats(made, "few-classes")
    assert "2 of the 1000 classes of imagenet-1k" in few.text
    assert "only 40 pictures" in " ".join(caveat.text for caveat in caveats(made, "data"))
    assert not caveats(made, "reported-accuracy")
    (front,) = made.fronts
    assert {each.entry: each.on_front for each in front.models}["exact"] is False


def test_models_of_equal_accuracy_are_all_highest() -> None:
    """The third is compared with the first of them by name, whatever the order of the evaluation."""
    pair = Pair(
        first="worse", second="exact", difference=-0.5, low=-0.6, high=-0.4, p=0, verdict="second better"
    )
    outcomes = {"quick": [True] * 40, "exact": [True] * 40, "worse": [True, False] * 20}
    made = report(benchmark(THREE), evaluation(outcomes, pairs=[pair]))
    verdicts = {
        each.entry: each.accuracy and (each.accuracy.verdict, each.accuracy.rival) for each in made.models
    }
    assert verdicts["exact"] == verdicts["quick"] == ("highest", None)
    assert verdicts["worse"] == ("worse", "exact")
    assert "highest accuracy exact and quick (100.0%)" in made.answers[0]
    assert "on the same pictures: exact (imagenet-1k)." in to_markdown(made)


@pytest.mark.parametrize("file", ["none", "another"])
def test_only_measured_models_are_compared_with(file: str) -> None:
    """`better` is in the evaluation alone, or with another file than the measured one."""
    bundle = benchmark(THREE if file == "none" else THREE | {"better": Model(ms=1.0)})
    models = tuple(
        facts.model_copy(update={"sha256": "1" * 64} if facts.name == "better" else {})
        for facts in bundle.models
    )
    made = report(
        bundle.model_copy(update={"models": models}),
        evaluation({"better": [True] * 40, "quick": [True, False] * 20}),
    )
    quick = made.models[1].accuracy
    assert quick is not None
    assert (quick.value, quick.verdict, quick.rival) == (0.5, "highest", None)


def test_same_file_with_other_labels_keeps_the_accuracy_of_its_card() -> None:
    """The evaluation knows it under the labels that it had before: its figures are not those of the card."""
    bundle = with_labels(benchmark(THREE), {"exact": "pets"})
    made = report(bundle, evaluation({"exact": [True, False] * 20, "quick": [True] * 40}))
    exact = made.models[0].accuracy
    assert exact is not None
    assert (exact.value, exact.kind) == (0.9, "reported")
    assert made.evaluation is not None
    assert [each.model for each in made.evaluation.models] == ["quick"]
    assert {caveat.text: caveat.subjects for caveat in caveats(made, "not-evaluated")} == {
        "no model of their label set was evaluated on 'pets': accuracies from the cards": ("exact",),
        "not evaluated on 'pets': no accuracy shown": ("worse",),
    }
    assert "--models quick" in made.reproduce[1].command


def test_model_of_other_file_and_labels_has_one_reason() -> None:
    """A retrained model of the same name has the accuracy of its card, so no caveat says that it has none."""
    bundle = with_labels(benchmark(THREE), {"exact": "pets"})
    models = tuple(
        facts.model_copy(update={"sha256": "1" * 64} if facts.name == "exact" else {})
        for facts in bundle.models
    )
    made = report(
        bundle.model_copy(update={"models": models}), evaluation({name: [True] * 40 for name in THREE})
    )
    assert made.models[0].accuracy is not None
    assert made.models[0].accuracy.kind == "reported"
    assert {caveat.text: caveat.subjects for caveat in caveats(made, "not-evaluated")} == {
        "no model of their label set was evaluated on 'pets': accuracies from the cards": ("exact",)
    }


def test_other_label_sets_keep_the_accuracy_of_their_cards() -> None:
    made = report(
        with_labels(benchmark(THREE), {"worse": "pets"}),
        evaluation({"exact": [True] * 40, "quick": [True] * 40}),
    )
    kinds = {each.entry: each.accuracy and each.accuracy.kind for each in made.models}
    assert kinds == {
        "exact": "evaluated",
        "quick": "evaluated",
        "worse": "reported",
        "exact#again": "evaluated",
    }
    (other,) = caveats(made, "not-evaluated")
    assert other.subjects == ("worse",)
    assert other.text == "no model of their label set was evaluated on 'pets': accuracies from the cards"


def test_evaluation_of_another_file_is_not_used() -> None:
    bundle = benchmark(THREE)
    models = tuple(facts.model_copy(update={"sha256": "1" * 64}) for facts in bundle.models)
    made = report(
        bundle.model_copy(update={"models": models}), evaluation({name: [True] * 40 for name in THREE})
    )
    assert [each.accuracy for each in made.models] == [None] * 4
    (other,) = caveats(made, "not-evaluated")
    assert other.subjects == tuple(THREE)
    assert "with another file or other labels than the measured ones" in other.text
    assert made.evaluation is not None
    assert made.evaluation.models == ()


def left_out(count: int) -> Evaluation:
    """Return an evaluation of `count` pictures, which leaves out as many for each reason."""
    made = evaluation({"exact": [True] * 40})
    data = made.data.model_copy(
        update={
            "duplicates": tuple(Duplicate(picture=f"{i}.png", same_as="0.png") for i in range(count)),
            "conflicts": tuple(
                Conflict(pictures=(f"cat/{i}.png", f"dog/{i}.png"), truths=("cat", "dog"))
                for i in range(count)
            ),
            "unreadable": tuple(Unreadable(picture=f"{i}.txt", reason="no picture") for i in range(count)),
        }
    )
    labels, model = made.label_sets[0].model_copy(update={"n": count}), made.models[0]
    assert model.classification is not None
    model = model.model_copy(update={"classification": model.classification.model_copy(update={"n": count})})
    return made.model_copy(update={"data": data, "label_sets": (labels,), "models": (model,)})


@pytest.mark.parametrize(
    ("count", "texts", "how"),
    [
        (
            1,
            [
                "only 1 picture for imagenet-1k: compare intervals, not values",
                "1 exact duplicate, not counted again",
                "1 picture with more than one label, not counted",
                "1 picture not usable",
            ],
            "top-1 on 1 picture of 'pets'",
        ),
        (
            2,
            [
                "only 2 pictures for imagenet-1k: compare intervals, not values",
                "2 exact duplicates, not counted again",
                "2 pictures with more than one label, not counted",
                "2 pictures not usable",
            ],
            "top-1 on 2 pictures of 'pets'",
        ),
    ],
)
def test_pictures_that_are_left_out(count: int, texts: list[str], how: str) -> None:
    """A conflict is one picture, in whatever number of files, as `weighin evaluate` counts it."""
    made = report(benchmark(THREE), left_out(count))
    assert [caveat.text for caveat in caveats(made, "data")] == texts
    assert made.models[0].accuracy is not None
    assert made.models[0].accuracy.how == how


def test_long_names_from_outside_are_shown() -> None:
    """Escapes make a name longer than the evaluation and the bundle allow it to be."""
    name = "\x1b" * 4096
    made = evaluation({"exact": [True, False] * 20})
    model = made.models[0]
    assert model.classification is not None
    classes = tuple(each.model_copy(update={"name": name}) for each in model.classification.per_class[:1])
    result = model.classification.model_copy(update={"per_class": classes})
    made = made.model_copy(
        update={
            "data": made.data.model_copy(update={"name": name}),
            "models": (model.model_copy(update={"classification": result}),),
        }
    )
    bundle = with_labels(benchmark(THREE), {"quick": "pets"})
    facts = bundle.models[1]
    assert facts.accuracy is not None
    accuracy = facts.accuracy.model_copy(update={"dataset": "x" * 4096})
    models = (bundle.models[0], facts.model_copy(update={"accuracy": accuracy}), bundle.models[2])
    written = report(bundle.model_copy(update={"models": models}), made)
    escaped = r"\x1b" * 4096
    assert written.evaluation is not None
    assert written.evaluation.name == escaped
    assert written.evaluation.models[0].per_class[0].name == escaped
    assert written.models[0].accuracy is not None
    assert written.models[0].accuracy.how == f"top-1 on 40 pictures of '{escaped}'"
    assert written.models[1].accuracy is not None
    assert written.models[1].accuracy.how == f"reported on {'x' * 4096}, n = 50000"
    assert Report.model_validate_json(to_json(written)) == written


@pytest.mark.parametrize("kind", ["dirty", "void", "partial", "contaminated"])
def test_flags_that_leave_no_evidence_are_serious_and_first(kind: str) -> None:
    bundle = benchmark(THREE).with_flag(Flag(kind="drift", entry="quick", reason="it drifted"))
    made = report(bundle.with_flag(Flag(kind=kind, reason="3.1 % steal")))  # type: ignore[arg-type]
    first, *rest = made.caveats
    assert (first.kind, first.serious, first.text) == (kind, True, "3.1 % steal")
    assert not any(caveat.serious for caveat in rest)
    (drift,) = caveats(made, "drift")
    assert drift.subjects == ("quick",)


def test_few_runs_and_a_fixed_picture() -> None:
    made = report(benchmark(THREE, runs=10))
    (few,) = caveats(made, "few-runs")
    assert "120 (needed: 662" in few.text
    assert all(each.latency is not None and each.latency.p99 is None for each in made.models)
    assert caveats(made, "synthetic-input")


def test_untrained_model_has_no_accuracy() -> None:
    bundle = benchmark(THREE)
    random = {"trained": False, "accuracy": None}
    models = (bundle.models[0].model_copy(update=random), *bundle.models[1:])
    made = report(bundle.model_copy(update={"models": models}))
    (untrained,) = caveats(made, "untrained")
    assert untrained.subjects == ("exact",)
    assert not caveats(made, "unknown-accuracy")
    assert made.models[0].accuracy is None


def tiny_benchmark(card: Card) -> Bundle:
    bundle = benchmark({"tiny": Model(ms=1.0)})
    return bundle.model_copy(update={"models": (ModelFacts.of(card),)})


def test_cards_say_what_was_assumed(tiny_models_dir: Path) -> None:
    card = read_card(tiny_models_dir / "tiny")
    bundle = tiny_benchmark(card)
    assert not caveats(report(bundle, cards={"tiny": card}), "assumed")
    (missing,) = caveats(report(bundle), "no-card")
    assert missing.subjects == ("tiny",)
    assumed = card.model_copy(update={"provenance": {"input.mean": Fact(origin="assumed")}})
    (caveat,) = caveats(report(bundle, cards={"tiny": assumed}), "assumed")
    assert caveat.text == "assumed, predictions may be wrong: input.mean"
    file = card.file.model_copy(update={"sha256": "2" * 64})
    made = report(bundle, cards={"tiny": card.model_copy(update={"file": file})})
    assert caveats(made, "other-file")
    assert not caveats(made, "assumed")


@pytest.mark.parametrize("scenario", ["offline", "server"])
def test_scenario_without_single_images_has_no_front(scenario: str) -> None:
    bundle = benchmark(THREE)
    budget = {"budget_ms": 20.0} if scenario == "server" else {}
    configuration = bundle.configuration.model_copy(update={"scenario": scenario, **budget})
    blocks = tuple(
        block.model_copy(update={"durations_ns": {"total": block.durations_ns["inference"]}, "images": 8})
        for block in bundle.blocks
    )
    made = report(
        bundle.model_copy(
            update={"configuration": configuration, "blocks": blocks if scenario == "offline" else ()}
        )
    )
    assert made.fronts == ()
    (caveat,) = caveats(made, "no-front")
    assert scenario in caveat.text
    assert [each.latency for each in made.models] == [None] * 4


def test_cancelled_before_the_first_run() -> None:
    bundle = benchmark(THREE).model_copy(update={"blocks": (), "memory": ()})
    made = report(bundle.with_flag(Flag(kind="partial", reason="cancelled")))
    (caveat,) = caveats(made, "no-front")
    assert caveat.text == "no front: nothing was measured"
    assert made.answers == ()
    for text in (to_html(made), to_markdown(made), to_csv(made)):
        assert "exact" in text


def test_other_runtimes_and_services_are_in_the_table_only() -> None:
    bundle = benchmark(THREE)
    added = {
        "exact@openvino": {"runtime": "openvino"},
        "exact@2-threads": {"threads": 2},
        "exact@http": {"via": "http"},
    }
    blocks = [
        block.model_copy(
            update={
                "entry": name,
                "durations_ns": {"round_trip": block.durations_ns["inference"]}
                if name == "exact@http"
                else block.durations_ns,
            }
        )
        for name in added
        for block in bundle.blocks_of("exact")
    ]
    entries = (*bundle.entries, *(entry(name, "exact", **fields) for name, fields in added.items()))
    made = report(bundle.model_copy(update={"entries": entries, "blocks": (*bundle.blocks, *blocks)}))
    assert [each.entry for front in made.fronts for each in front.models] == list(THREE)
    (http,) = [each for each in made.models if each.entry == "exact@http"]
    assert http.latency is not None
    assert (http.latency.stage, http.latency.p50_low_ms) == ("round_trip", None)
    assert "--runtime onnxruntime,openvino --threads 1,2" in made.reproduce[0].command


def test_detectors_have_no_front_without_an_accuracy() -> None:
    bundle = benchmark(THREE)
    models = tuple(
        facts.model_copy(update={"task": "object-detection", "labels": "coco", "accuracy": None})
        for facts in bundle.models
    )
    made = report(bundle.model_copy(update={"models": models}))
    (front,) = made.fronts
    assert [each.on_front for each in front.models] == [None] * 3
    assert made.answers[0].endswith("; no accuracy is known, so there is no front.")
    assert "<svg" not in to_html(made)
    assert caveats(made, "unknown-accuracy")


def test_detectors_have_the_precision_of_the_evaluation() -> None:
    bundle = benchmark(THREE)
    models = tuple(
        facts.model_copy(update={"task": "object-detection", "labels": "things", "accuracy": None})
        for facts in bundle.models
    )
    made = report(
        bundle.model_copy(update={"models": models}), detections({"exact": (0.6, 0.5), "quick": (0.3, 0.2)})
    )
    exact = made.models[0].accuracy
    assert exact is not None
    assert exact.kind == "evaluated"
    assert exact.how.startswith("average precision on ")
    assert made.evaluation is not None
    assert [each.model for each in made.evaluation.models] == ["exact", "quick"]
    assert made.evaluation.models[0].ap50 is not None
    assert "average precision" in to_html(made)


@pytest.mark.parametrize(
    ("request_", "command"),
    [
        (
            Request(seed=7),
            "--models tiny,tiny-b --profile quick --scenario single-stream --baseline tiny --seed 7",
        ),
        (
            Request(
                seed=1, profile="standard", models=("tiny-b",), threads=(1, 2), launches=2, rounds=3, runs=9
            ),
            "--models tiny-b --profile standard --scenario single-stream --baseline tiny-b --threads 1,2 "
            "--launches 2 --rounds 3 --runs 9 --seed 1",
        ),
        (
            Request(seed=1, scenario="server", budget_ms=20),
            "--models tiny,tiny-b --profile quick --scenario server --baseline tiny --budget-ms 20 --seed 1",
        ),
    ],
)
def test_command_plans_the_same_benchmark(tiny_models_dir: Path, request_: Request, command: str) -> None:
    plan = make_plan(Registry([tiny_models_dir], "tiny"), request_)
    bundle = bundles.bundle({"tiny": [[[1]]]}).model_copy(
        update={"configuration": plan.configuration, "models": plan.models, "entries": plan.entries}
    )
    assert bench_command(bundle) == f"weighin bench {command} --json bench.json"


def test_commands_of_a_report() -> None:
    made = report(benchmark(THREE), evaluation({"exact": [True, False] * 20, "quick": [True] * 40}))
    bench, evaluate, again = (shlex.split(step.command) for step in made.reproduce)
    assert bench[:2] == ["weighin", "bench"]
    assert evaluate == ["weighin", "evaluate", "--data", "pets", "--models", "exact,quick"]
    assert made.evaluation is not None
    assert again[:6] == ["weighin", "report", "--bench", "bench.json", "--data", made.evaluation.id]


def test_document_is_read_again() -> None:
    made = report(benchmark(THREE), evaluation({"exact": [True, False] * 20}))
    assert Report.model_validate_json(to_json(made)) == made


def test_the_schema_in_docs_is_the_code_s() -> None:
    assert SCHEMA.read_text() == json_schema(), (
        "python -m service.bench.report.document > docs/report.schema.json"
    )
