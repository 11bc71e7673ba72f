"""The front of the dashboard: who is dominated, by recorded latency or by benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from models.zoo.card import Accuracy, read_card, write_card
from service.bench.archive import BenchmarkArchive
from service.bench.bundle import Bundle, ModelFacts
from service.bench.fingerprint import Fingerprint
from service.bench.recommend.accuracy import AccuracyEstimate
from service.bench.recommend.advice import this_machine
from service.bench.recommend.evidence import Measured
from service.bench.store import BenchmarkStore
from service.evaluation.store import EvaluationStore
from service.inference.registry import Registry
from service.latency.histogram import Distribution
from service.storage.database import open_database
from service.web.catalogue import Accuracies, Catalogue
from service.web.fronts import front_of, short_names
from tests.conftest import make_tiny_model
from tests.helpers.until import until
from tests.service.bench import bundles
from tests.service.evaluation.evaluations import MOMENT, evaluation

LABELS = ("image-classification", "tiny-10")


def around(ms: float, count: int = 200) -> Distribution:
    """Return a distribution of `count` runs within a few percent of `ms`."""
    random = np.random.default_rng(int(ms * 1000))
    return Distribution.of((random.normal(ms, 0.02 * ms, count) * 1e6).astype(int).tolist())


def accuracies(values: Mapping[str, float], n: int = 10_000) -> Accuracies:
    """Return accuracies with intervals of a point or so."""
    known = {
        name: AccuracyEstimate(value, value - 0.005, value + 0.005, "measured", f"n = {n}")
        for name, value in values.items()
    }
    return Accuracies("test", known, frozenset(known))


def steady_benchmark(
    facts: Mapping[str, ModelFacts], medians_ms: Mapping[str, float], on: Fingerprint | None = None
) -> Bundle:
    """Return a benchmark of this machine, or `on` another, with steady latencies around these medians."""
    random = np.random.default_rng(0)
    samples = {
        name: [
            [(random.normal(ms, 0.01 * ms, 40) * 1e6).astype(int).tolist() for _ in range(5)]
            for _ in range(5)
        ]
        for name, ms in medians_ms.items()
    }
    made = bundles.bundle(samples, on=on or this_machine())
    return made.model_copy(update={"models": tuple(facts[name] for name in samples)})


class Zoo:
    """Three tiny models with stores for benchmarks and evaluations, and the catalogue of them."""

    def __init__(self, folder: Path) -> None:
        zoo = folder / "zoo"
        for seed, (name, accuracy) in enumerate((("a", 0.9), ("b", 0.8), ("c", 0.7))):
            made = make_tiny_model(zoo, name, seed=seed)
            known = Accuracy(value=accuracy, kind="reported", dataset="things", n=5000, how="test")
            write_card(made, read_card(made).model_copy(update={"accuracy": known}))
        self.cards = {name: read_card(zoo / name) for name in "abc"}
        self.engine = open_database(None, folder)
        self.archive = BenchmarkArchive(BenchmarkStore(self.engine))
        self.evaluations = EvaluationStore(self.engine)
        self.catalogue = Catalogue(Registry([zoo], "a"), self.archive, self.evaluations, retry_s=0.0)

    def benchmark(self, medians_ms: Mapping[str, float], *, days_ago: int = 0) -> None:
        """Save a benchmark of this machine with steady latencies around these medians."""
        made = steady_benchmark({name: ModelFacts.of(self.cards[name]) for name in medians_ms}, medians_ms)
        earlier = {
            each: getattr(made, each) - timedelta(days=days_ago) for each in ("started_at", "finished_at")
        }
        self.archive.save(made.model_copy(update=earlier))

    def measured(self) -> Mapping[str, Measured]:
        """Return the benchmarks, once they are judged."""
        until(lambda: bool(self.catalogue.measured(self.catalogue.facts())), "benchmarks to be judged")
        measured = self.catalogue.measured(self.catalogue.facts())
        assert measured is not None
        return measured


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[Zoo]:
    one = Zoo(tmp_path)
    yield one
    one.catalogue.close()
    one.engine.dispose()


@pytest.fixture
def facts(zoo: Zoo) -> list[ModelFacts]:
    return list(zoo.catalogue.facts().values())


def test_recorded_latency_dominates_only_surely(facts: list[ModelFacts]) -> None:
    recorded = {"a": around(2.0), "b": around(3.0), "c": around(2.01)}
    front = front_of(LABELS, facts, accuracies({"a": 0.9, "b": 0.8, "c": 0.8}), recorded, {})
    assert front.source == "recorded"
    assert front.on_front == {"a", "c"}, "the intervals of the medians of a and c overlap"
    assert {name: each.by for name, each in front.dominated.items()} == {"b": "a"}
    assert "faster (median at most 2.0" in front.dominated["b"].reason
    assert front.chart is not None
    assert {point.model.entry: point.model.on_front for point in front.chart.points} == {
        "a": True,
        "b": False,
        "c": True,
    }


def test_worse_by_every_estimate_is_behind(facts: list[ModelFacts]) -> None:
    recorded = {"a": around(2.0), "b": around(3.0), "c": around(4.0)}
    front = front_of(LABELS, facts, accuracies({"a": 0.9, "b": 0.895, "c": 0.8}), recorded, {})
    assert {name: each.by for name, each in front.behind.items()} == {"b": "a"}, "c is surely worse"
    assert (front.on_front, set(front.dominated)) == ({"a", "b"}, {"c"})
    assert "more accurate (90.0% against 89.5%), faster (median 2" in front.behind["b"].reason
    better = front_of(LABELS, facts, accuracies({"a": 0.9, "b": 0.9, "c": 0.905}), recorded, {})
    assert better.behind == {}, "b is not less accurate, and c is more accurate"


def test_larger_models_leave_none_behind(facts: list[ModelFacts]) -> None:
    a, b, _ = facts
    larger = [a.model_copy(update={"bytes": b.bytes + 1}), b]
    recorded = {"a": around(2.0), "b": around(3.0)}
    assert front_of(LABELS, larger, accuracies({"a": 0.9, "b": 0.895}), recorded, {}).behind == {}


def test_short_names_are_unique_ends() -> None:
    names = ["net-long-residual-pruned-30", "net-long-residual-pruned-50", "net-long-residual-fine-pruned-50"]
    assert short_names([*names, "net-tiny"]) == {
        names[0]: "…pruned-30",
        names[1]: "…residual-pruned-50",
        names[2]: "…fine-pruned-50",
        "net-tiny": "tiny",
    }
    assert short_names(["one"]) == {"one": "one"}


def test_few_runs_dominate_nothing(facts: list[ModelFacts]) -> None:
    recorded = {"a": around(2.0, 5), "b": around(9.0, 5)}
    front = front_of(LABELS, facts, accuracies({"a": 0.9, "b": 0.5}), recorded, {})
    assert front.dominated == {}
    assert front.on_front == {"a", "b"}
    assert set(front.behind) == {"b"}


def test_overlapping_accuracies_dominate_nothing(facts: list[ModelFacts]) -> None:
    front = front_of(
        LABELS, facts, accuracies({"a": 0.9, "b": 0.895}), {"a": around(2.0), "b": around(9.0)}, {}
    )
    assert front.dominated == {}


def test_accuracies_on_other_pictures_are_not_compared(facts: list[ModelFacts]) -> None:
    known = accuracies({"a": 0.9, "b": 0.5})
    mixed = Accuracies("test", known.by_model, frozenset({"a"}))
    front = front_of(LABELS, facts, mixed, {"a": around(2.0), "b": around(9.0)}, {})
    assert front.dominated == {}
    assert front.on_front == {"a"}
    assert front.chart is None


def test_benchmarks_replace_recorded_latency(zoo: Zoo, facts: list[ModelFacts]) -> None:
    assert zoo.catalogue.measured(zoo.catalogue.facts()) == {}
    zoo.benchmark({"a": 3.0, "b": 1.0})
    measured = zoo.measured()
    assert set(measured) == {"a", "b"}
    recorded = {"a": around(1.0), "b": around(3.0), "c": around(2.0)}
    front = front_of(LABELS, facts, accuracies({"a": 0.9, "b": 0.8, "c": 0.7}), recorded, measured)
    assert front.source == "benchmarks"
    assert front.on_front == {"a", "b"}, "by the benchmark, b is faster; c has none"
    assert front.absent == {"c": "no benchmark on this machine yet"}
    assert front.dominated == {}


def test_own_pictures_come_first(zoo: Zoo) -> None:
    facts = zoo.catalogue.facts()
    before = zoo.catalogue.accuracies(facts)[LABELS]
    assert (before.of, before.by_model["b"].value) == ("the models' cards (things)", 0.8)
    right = {"a": [True] * 30 + [False] * 10, "b": [True] * 40}
    zoo.evaluations.save(evaluation(right, cards={name: zoo.cards[name] for name in right}))
    after = zoo.catalogue.accuracies(facts)[LABELS]
    assert after.of == "your pictures 'pets', otherwise the model's card"
    assert {name: (each.value, each.kind) for name, each in after.by_model.items()} == {
        "a": (0.75, "evaluated"),
        "b": (1.0, "evaluated"),
        "c": (0.7, "reported"),
    }
    assert after.compared == {"a", "b"}


def test_evaluation_of_another_file_does_not_count(zoo: Zoo) -> None:
    zoo.evaluations.save(evaluation({"a": [True] * 40}, labels="tiny-10", of=10))
    assert zoo.catalogue.accuracies(zoo.catalogue.facts())[LABELS].by_model["a"].kind == "reported"


def test_evaluation_of_most_models_counts(zoo: Zoo) -> None:
    facts = zoo.catalogue.facts()
    zoo.evaluations.save(evaluation({name: [True] * 30 + [False] * 10 for name in "abc"}, cards=zoo.cards))
    card = {"a": zoo.cards["a"]}
    newer = evaluation({"a": [True] * 3 + [False]}, cards=card, seed="few", moment=MOMENT + timedelta(days=1))
    zoo.evaluations.save(newer)
    known = zoo.catalogue.accuracies(facts)[LABELS]
    assert known.compared == {"a", "b", "c"}
    assert {each.kind for each in known.by_model.values()} == {"evaluated"}
    only_a = zoo.catalogue.accuracies({"a": facts["a"]})[LABELS]
    assert only_a.by_model["a"].how == "on 4 pictures of 'pets'", "of several with as many models, the newest"


def test_cards_count_if_one_model_was_evaluated(zoo: Zoo) -> None:
    zoo.evaluations.save(evaluation({"a": [True] * 30 + [False] * 10}, cards={"a": zoo.cards["a"]}))
    known = zoo.catalogue.accuracies(zoo.catalogue.facts())[LABELS]
    assert known.of == "the models' cards (things), as only a is evaluated on your pictures 'pets'"
    assert known.compared == {"a", "b", "c"}
    assert {each.kind for each in known.by_model.values()} == {"reported"}


def test_damaged_evaluation_is_left_out(zoo: Zoo) -> None:
    facts = zoo.catalogue.facts()
    right = {name: [True] * 30 + [False] * 10 for name in "abc"}
    zoo.evaluations.save(evaluation(right, cards=zoo.cards))
    damaged = evaluation(right, cards=zoo.cards, seed="other", moment=MOMENT + timedelta(days=1))
    zoo.evaluations.save(damaged)
    with zoo.engine.begin() as connection:
        connection.execute(
            text("UPDATE evaluations SET document = :d WHERE id = :id"), {"d": b"x", "id": damaged.id}
        )
    assert {each.kind for each in zoo.catalogue.accuracies(facts)[LABELS].by_model.values()} == {"evaluated"}


def test_merged_evaluation_is_read_again(zoo: Zoo) -> None:
    facts = zoo.catalogue.facts()
    for name in "abc":  # all end at the same moment
        zoo.evaluations.save(evaluation({name: [True] * 30 + [False] * 10}, cards={name: zoo.cards[name]}))
        zoo.catalogue.accuracies(facts)
    assert {each.kind for each in zoo.catalogue.accuracies(facts)[LABELS].by_model.values()} == {"evaluated"}


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [b"x", "not bytes"])
def test_benchmarks_are_judged_again_after_a_failure(zoo: Zoo, damaged: bytes | str) -> None:
    facts = zoo.catalogue.facts()
    zoo.benchmark({"a": 3.0, "b": 1.0})
    with zoo.engine.begin() as connection:
        packed = connection.execute(text("SELECT bundle FROM benchmarks")).scalar()
        connection.execute(text("UPDATE benchmarks SET bundle = :damaged"), {"damaged": damaged})
    zoo.catalogue.measured(facts)
    zoo.catalogue.close()
    with zoo.engine.begin() as connection:
        connection.execute(text("UPDATE benchmarks SET bundle = :bundle"), {"bundle": packed})
    assert set(zoo.measured()) == {"a", "b"}


def test_benchmarks_are_judged_per_machine(zoo: Zoo) -> None:
    """Each machine has its own, so that dashboards of several do not judge again and again."""
    here = this_machine()
    cpu = here.machine.model_copy(update={"cpu_model": "Other CPU", "cores": 3})
    other = here.model_copy(update={"machine": cpu})
    facts = zoo.catalogue.facts()
    zoo.archive.save(steady_benchmark(facts, {"a": 3.0, "b": 1.0}))
    zoo.archive.save(steady_benchmark(facts, {"a": 5.0, "c": 7.0}, other))
    for machine in ("", "Other CPU, 3 cores", "Unknown CPU, 1 core", here.machine.name):
        zoo.catalogue.measured(facts, machine)
    zoo.catalogue.close()

    def medians(machine: str) -> dict[str, float]:
        measured = zoo.catalogue.measured(facts, machine)
        assert measured is not None, "judged again"
        return {name: round(each.p50_ms) for name, each in measured.items()}

    assert medians("") == medians(here.machine.name) == {"a": 3, "b": 1}
    assert medians("Other CPU, 3 cores") == {"a": 5, "c": 7}
    assert medians("Unknown CPU, 1 core") == {}


def test_every_new_benchmark_is_judged(zoo: Zoo) -> None:
    zoo.benchmark({"a": 3.0, "b": 1.0})
    assert set(zoo.measured()) == {"a", "b"}
    zoo.benchmark({"c": 2.0}, days_ago=1)
    zoo.catalogue.measured(zoo.catalogue.facts())
    zoo.catalogue.close()
    assert set(zoo.measured()) == {"a", "b", "c"}, "though it is not the newest"
